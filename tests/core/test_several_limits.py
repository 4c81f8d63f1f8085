"""Calls under several limits at one instant: exact instants, and the pitfalls of finding them."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from itertools import pairwise

import pytest

from aioapiqueue import ApiQueue, Rate, Window, WouldWait
from tests.helpers import introspect
from tests.helpers.instants import exactly, line_up, now, released, use
from tests.helpers.work import Ticks, work


async def endless(queue, starts, name, seconds=0.0, after=0.0, **options):
    """Call again and again, noting [instant, seconds waited] by name."""
    await asyncio.sleep(after)
    while True:
        since = now()
        async with queue.slot(**options):
            starts.setdefault(name, []).append((now(), now() - since))
            await asyncio.sleep(seconds)


async def crowds(queue, seconds, *crowds_of):
    """Let crowds call for so long: each (name, tasks, options). Return their starts."""
    starts, tasks = {}, []
    for name, number, options in crowds_of:
        new = [asyncio.create_task(endless(queue, starts, name, **options)) for _ in range(number)]
        tasks += new
    await asyncio.sleep(seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return starts


def waits(starts):
    """Return how long each of these waited."""
    return [waited for _, waited in starts]


# The proof: two limits that others use up whenever the other one is free.


OPPOSITE = (
    ("A", 5, {"keys": ("A",)}),
    ("B", 5, {"keys": ("B",), "after": 1 / 16}),
    ("both", 1, {"keys": ("A", "B"), "after": 1 / 16}),
)
"""Half an interval of 8 per second apart, which has no rounding."""


async def test_opposite_phases_let_both_start():
    """Calls under two lanes half an interval apart start, each once it is the first.

    That is after the five of each crowd that were there before: their rates cost nothing but that.
    """
    queue = ApiQueue(lanes={"A": "8/s", "B": "8/s"}, catch_up=0)
    starts = await crowds(queue, 60, *OPPOSITE)
    assert len(starts["both"]) >= 60 / 0.75 - 1
    assert set(waits(starts["both"])[1:]) == {0.75}
    for lane in "AB":
        times = sorted(at for name in (lane, "both") for at, _ in starts[name])
        assert min(b - a for a, b in pairwise(times)) == 0.125
        assert len(times) >= 0.93 * 60 * 8


async def test_without_reservations_none_would():
    """It is the reservation that lets them start: without, none does."""
    queue = ApiQueue(lanes={"A": "8/s", "B": "8/s"}, catch_up=0)
    introspect.reserve_nothing(queue)
    starts = await crowds(queue, 60, *OPPOSITE)
    assert "both" not in starts


async def test_own_limits_of_some_are_reserved():
    """Limits of the queue that only some calls use are kept for a call that uses both."""
    queue = ApiQueue("8 reads/s", "8 writes/s", catch_up=0)
    reads, writes = ({"reads": 1, "writes": 0}, {"reads": 0, "writes": 1})
    starts = await crowds(
        queue,
        60,
        ("reads", 5, {"cost": reads}),
        ("writes", 5, {"cost": writes, "after": 1 / 16}),
        ("both", 1, {"cost": {"reads": 1, "writes": 1}, "after": 1 / 16}),
    )
    assert len(starts["both"]) >= 60 / 0.75 - 1
    assert set(waits(starts["both"])[1:]) == {0.75}


async def test_reserved_limits_are_not_idle():
    """Until all limits of the one who has reserved a limit have room, others may use it."""
    queue = ApiQueue(lanes={"A": "8/s", "B": "1/s"}, catch_up=0)
    queue.try_slot(key="A")
    both = queue.enqueue(keys=("A", "B"))
    starts = []
    tasks = line_up(queue, starts, 10, key="A")
    await asyncio.sleep(1 / 16)
    queue.try_slot(key="B")  # had its turn come, `both` would have needed it
    await asyncio.gather(*tasks)
    assert (await both).waited == 17 / 16
    at_once = [n / 8 for n in range(1, 8)]  # one at 1.0 would leave no room at 17/16
    assert starts == [*at_once, *(17 / 16 + n / 8 for n in range(1, 4))]


async def test_stale_timers_delay_no_other():
    """Of hundreds of lanes that open in any order, most have no call left when the first opens."""
    rng = random.Random(1)
    queue = ApiQueue(lanes={"*": "1/h"}, catch_up=0)
    keys = rng.sample(range(400), 400)
    for key in sorted(keys):  # opens at 3600 + key
        queue.try_slot(key=key)
        await asyncio.sleep(1)
    waiting = {key: queue.enqueue(key=key) for key in keys}
    await asyncio.sleep(1)
    left = set(rng.sample(range(1, 400), 100))
    for key in set(keys) - left:
        waiting[key].cancel()
    waited = {key: (await waiting[key]).waited for key in sorted(left)}
    assert waited == {key: 3600 + key - 400 for key in left}


async def test_idle_lane_catches_up_nothing():
    """A lane in which no call waits has been idle, although calls wait in another one."""
    queue = ApiQueue(lanes={"a": "1/h", "b": "10/s"}, catch_up=0.5)
    for key in "ab":
        queue.try_slot(key=key)
    last = queue.enqueue(key="b")
    await asyncio.sleep(0.05)
    waiting = queue.enqueue(key="a")  # finds "b" in use, so that it stays in memory for 1 s
    await last
    await asyncio.sleep(0.9)
    assert await released(queue, 3, key="b") == exactly([1, 1.1, 1.2])
    waiting.cancel()


async def test_urgent_call_ends_later_reservations():
    """A call that has to let a more urgent one go first keeps no other limit for itself."""
    queue = ApiQueue(lanes={"*": "1/min", "B": "1/s"}, catch_up=0)
    queue.try_slot(key="A")
    later = queue.enqueue(keys=("A", "B"))  # at 60, it finds B closed, and reserves both
    await asyncio.sleep(0.25)
    queue.try_slot(key="C")
    await asyncio.sleep(0.25)
    starts = []
    tasks = line_up(queue, starts, 100, key="B")
    await asyncio.sleep(0.25)
    urgent = queue.enqueue(keys=("A", "C", "D"), priority=-1)
    await asyncio.sleep(59.375)
    queue.try_slot(key="D")  # so that at 60.25, `urgent` finds D closed, and reserves A
    await asyncio.gather(*tasks)
    assert starts == [0.5 + n for n in range(100)]
    assert (await urgent).waited == 119.375
    assert (await later).waited == 180.125


@pytest.mark.parametrize("free_calls", [0, 1])
async def test_own_limits_are_not_reserved(free_calls):
    """A lane's call keeps none of the queue's rate free, even after calls that used none of it."""
    queue = ApiQueue("1/s", lanes={"A": Rate(2, per=3)}, catch_up=0)
    queue.pause(1)
    for _ in range(free_calls):
        queue.enqueue(cost=0)
    await asyncio.sleep(1)
    queue.try_slot()
    starts, others = [], []
    tasks = [*line_up(queue, starts, 2, key="A"), *line_up(queue, others, 3)]
    await asyncio.gather(*tasks)
    assert starts == exactly([2, 4])  # at 3, its lane is closed for half a second more
    assert others == exactly([3, 5, 6])


@pytest.mark.parametrize("reserves", [True, False])
async def test_concurrency_lanes_let_both_start(reserves):
    """So with permits: of each lane it takes the next that comes free, and keeps it.

    Those who were there before it are four for two permits of 1.1 s.
    """
    queue = ApiQueue(lanes={"A": "3 at once", "B": "2 at once"})
    if not reserves:
        introspect.reserve_nothing(queue)
    starts = await crowds(
        queue,
        120,
        ("A", 6, {"keys": ("A",), "seconds": 0.9}),
        ("B", 6, {"keys": ("B",), "seconds": 1.1, "after": 0.05}),
        ("both", 1, {"keys": ("A", "B"), "seconds": 0.1, "after": 0.1}),
    )
    if reserves:
        longest = 2 * 1.1 + 0.9 + 1.1
        assert max(waits(starts["both"])) <= longest
        assert len(starts["both"]) >= 120 / (longest + 0.1)
    else:
        assert "both" not in starts


async def test_reservations_outlive_those_who_leave():
    """A call that leaves ends its own reservation only, even after others of its lanes started."""
    queue = ApiQueue(lanes={"A": "1/s", "B": "1/s", "C": "2/s"}, catch_up=0)
    queue.try_slot(keys=("A", "B"))
    await asyncio.sleep(0.5)
    first = queue.enqueue(keys=("A", "B", "C"))
    await asyncio.sleep(0.25)
    queue.try_slot(key="C")
    second, third = queue.enqueue(keys=("B", "C")), queue.enqueue(keys=("A", "B", "C"))
    await asyncio.sleep(1.25)  # the second has found C open, and waits for B
    third.cancel()
    await asyncio.sleep(0)
    with pytest.raises(WouldWait):
        queue.try_slot(key="C")
    assert (await first).waited == exactly(0.75)
    assert (await second).waited == exactly(1.5)


# What users have several limits for.


async def test_requests_and_tokens_are_one_budget():
    """37 calls of 800 tokens fit a burst of 30,000; each later one waits for its tokens only."""
    queue = ApiQueue("500/min burst 500", "30000 tokens/min burst 30000")
    starts = await released(queue, 100, cost={"tokens": 800})
    assert starts == exactly([max(0, (800 * n - 30_000) / 500) for n in range(1, 101)])
    assert starts.count(0) == 37


async def test_settled_tokens_are_there_for_others():
    """What calls turn out not to need is there at once, and not more."""
    queue = ApiQueue("500/min burst 500", "30000 tokens/min burst 30000")
    slots = [queue.try_slot(cost={"tokens": 800}) for _ in range(37)]
    for slot in slots:
        slot.settle({"tokens": 200})
    starts = await released(queue, 40, cost={"tokens": 800})
    assert starts == exactly([max(0, (37 * 200 + 800 * n - 30_000) / 500) for n in range(1, 41)])


async def test_give_back_wakes_those_in_lanes():
    """What comes back lets those start at once who wait in other lanes for it."""
    queue = ApiQueue("10 tokens/min burst 10", lanes={"a": "10/s", "b": "10/s"}, catch_up=0)
    slot = queue.try_slot(key="a", cost={"tokens": 10})
    starts = []
    tasks = line_up(queue, starts, 1, keys=("a",), cost={"tokens": 4})
    tasks += line_up(queue, starts, 1, keys=("b",), cost={"tokens": 4})
    await asyncio.sleep(1)
    slot.settle({"tokens": 2})
    await asyncio.gather(*tasks)
    assert starts == [1, 1]


async def test_tenant_and_endpoint_hold_nothing():
    """Those who wait for an endpoint use nothing of their tenant's limit meanwhile."""
    queue = ApiQueue(lanes={"tenant:*": "8/s", "search": "2/s"}, catch_up=0)
    starts = {"a": [], "b": []}

    async def call(tenant, endpoint):
        async with queue.slot(keys=(f"tenant:{tenant}", endpoint)):
            starts[tenant].append((now(), endpoint))

    tasks = [asyncio.create_task(call(tenant, "search")) for tenant in "aaaaaabb"]
    await asyncio.sleep(0.25)
    tasks += [asyncio.create_task(call(tenant, "list")) for tenant in "ab" * 40]
    await asyncio.gather(*tasks)
    for tenant, began in (("a", 0.25), ("b", 0.25)):
        busy = [at for at, _ in starts[tenant] if at >= began]
        assert busy[:40] == [began + n / 8 for n in range(40)]  # not one is left out
    searches = sorted(at for own in starts.values() for at, what in own if what == "search")
    assert searches == [n / 2 for n in range(8)]


async def test_permits_wait_for_no_pace():
    """A tenant's permits are not held by those that wait for its pace."""
    queue = ApiQueue(lanes={"tenant:*": "10/s, 2 at once"}, catch_up=0)
    starts = []

    async def call():
        async with queue.slot(key="tenant:a"):
            starts.append(now())
            await asyncio.sleep(0.5)

    await asyncio.gather(*(call() for _ in range(6)))
    assert starts == exactly([0, 0.1, 0.5, 0.6, 1.0, 1.1])


@pytest.mark.parametrize(("limit", "unit"), [("20 in each hour", 20), ("1 tokens/h burst 20", 20)])
async def test_give_back_is_not_for_successors(limit, unit):
    """A limit that has replaced another one gets nothing back that it was not charged."""
    queue = ApiQueue("6 at once", lanes={"other": "1 tokens/s burst 50"})
    early = queue.try_slot(cost={"calls": 6, "tokens": 6})
    await asyncio.sleep(1)
    queue.set_rate(limit)
    costs = {"calls": 1, "tokens": 1}
    for _ in range(unit):
        queue.try_slot(cost=costs)
    await asyncio.sleep(1)
    early.settle({"calls": 0, "tokens": 0})
    with pytest.raises(WouldWait):
        queue.try_slot(cost=costs)


# The pitfalls of multilimit.md, in its order.


async def hot_lanes(tenants, **options):
    """Let as many callers wait under two hot lanes each, and others under none but the queue's.

    Returns:
        How many times waiters were looked at for each call that has started.
    """
    lanes = {"tenant:*": "10/s", "hot:*": "20/s"}
    queue = ApiQueue(Rate(60), lanes=lanes, **options)
    calls = [queue.enqueue()]
    looks = introspect.count_looks(queue)
    for tenant in range(tenants):
        calls.append(queue.enqueue(keys=(f"tenant:{tenant}", "hot:1", "hot:2")))
        calls.append(queue.enqueue(keys=(f"tenant:{tenant}",)))
    await asyncio.gather(*calls)
    return looks() / len(calls)


async def test_pitfall_1_hot_lanes_are_linear():
    """Lines under two limits that are busy at once go to and fro together, not one by one."""
    few, many = await hot_lanes(100), await hot_lanes(800)
    assert many < 1.5 * few
    assert many <= 6


async def test_pitfall_2_small_costs_overtake_nobody():
    """A call that waits for much closes its limit to those that need less, under other lanes too.

    And to newcomers: both have all of its limits among theirs.
    """
    queue = ApiQueue(lanes={"A": "1/s burst 3", "B": "1/s", "C": "1/s"}, catch_up=0)
    order = []

    async def call(name, **options):
        async with queue.slot(**options):
            order.append((name, now()))

    queue.try_slot(keys=("A",), cost=2)
    queue.try_slot(keys=("B",))
    tasks = [asyncio.create_task(call("small, early", keys=("A", "B")))]
    await asyncio.sleep(0)
    tasks.append(asyncio.create_task(call("large", keys=("A",), cost=3)))
    await asyncio.sleep(0)
    tasks.append(asyncio.create_task(call("small, late", keys=("A", "C"))))
    await asyncio.gather(*tasks)
    assert [name for name, _ in order] == ["small, early", "large", "small, late"]
    assert [at for _, at in order] == exactly([1, 3, 4])


async def test_cancelled_call_opens_no_limit():
    """Where one has left, the next of another lane is not looked at in its place."""
    queue, order = ApiQueue(lanes={"p": "10/s burst 5", "a": "1/s"}, catch_up=0), []

    async def call(name, **options):
        async with queue.slot(**options):
            order.append((name, now()))

    queue.pause(1)
    tasks = []
    for name, keys, priority in [
        ("first", ("p", "a"), 0),
        ("last", ("p", "a"), 2),
        ("second", ("a",), 1),
        ("cancelled", ("a",), 1),
    ]:
        tasks.append(asyncio.create_task(call(name, keys=keys, priority=priority)))
        await asyncio.sleep(0)
    tasks.pop().cancel()
    await asyncio.gather(*tasks)
    assert [name for name, _ in order] == ["first", "second", "last"]
    assert [at for _, at in order] == exactly([1, 2, 3])


async def test_pitfall_3_others_wait_for_nobody():
    """But those who are due in other lanes do not keep it from one that nobody waits for."""
    queue = ApiQueue(lanes={"*": "1/s"})
    calls = [queue.enqueue(key=key) for key in "aabb"]
    asyncio.get_running_loop().stall(2)
    assert not all(call.done() for call in calls)
    queue.try_slot(key="c")
    with pytest.raises(WouldWait):
        queue.try_slot(key="a")


@pytest.mark.parametrize(("slower", "faster"), [("A", "B"), ("B", "A")])
async def test_pitfall_3_those_due_go_first(slower, faster):
    """A newcomer does not get what has become free for others that a late loop has not served."""
    queue = ApiQueue(lanes={"A": "1/s", "B": "1/s"}, catch_up=0)
    queue.try_slot(key=faster)
    await asyncio.sleep(0.25)
    queue.try_slot(key=slower)
    early = queue.enqueue(keys=("A", "B"))
    await asyncio.sleep(0.25)
    asyncio.get_running_loop().stall(1)  # both lanes are due by now, and nobody was told
    for key in "AB":
        with pytest.raises(WouldWait):
            queue.try_slot(key=key)
    late = queue.enqueue(key=faster)
    assert (await early).waited == 1.25
    assert (await late).waited == 1


async def test_pitfall_4_a_step_is_bounded():
    """Thousands that become due, leave or change at one instant are worked off in many steps."""
    queue = ApiQueue(lanes={"*": "0.1/s"})
    for number in range(4000):
        queue.try_slot(key=number)
    calls = [queue.enqueue(key=number) for number in range(4000)]
    steps = introspect.work_of_steps(queue, work)
    await asyncio.sleep(10)
    for _ in range(100):
        await asyncio.sleep(0)
    assert sum(call.done() for call in calls) == 4000
    assert max(steps) < 40_000  # some 500 looks; all at once are 150,000


async def test_pitfall_4_one_limit_opens_for_thousands():
    """Thousands of lines that all wait for one limit, and are due at once, start in many steps."""
    queue = ApiQueue("4000 in any 10s", lanes={"t*": "1/s"})
    queue.try_slot(cost=4000)
    calls = [queue.enqueue(key=f"t{number}") for number in range(4000)]
    steps = introspect.work_of_steps(queue, work)
    await asyncio.sleep(10)
    for _ in range(100):
        await asyncio.sleep(0)
    assert sum(call.done() for call in calls) == 4000
    assert max(steps) < 40_000


async def test_pitfall_4_leaving_is_not_paid_later():
    """After nearly all have left, no single step pays for them."""
    queue = ApiQueue("1/s", lanes={"*": "1/s"})
    calls = [queue.enqueue(key=number) for number in range(5000)]
    steps = introspect.work_of_steps(queue, work)
    costs = [work(call.cancel) for call in random.Random(0).sample(calls[10:], 4900)]
    await asyncio.sleep(5)
    assert sum(costs) / len(costs) < 150
    assert max(steps) < 40_000


async def test_pitfall_4_set_rate_is_bounded():
    """Limits of a pattern with thousands of waiting lanes are brought up to date step by step."""
    queue = ApiQueue(lanes={"*": "0.001/s"})
    for number in range(3000):
        queue.try_slot(key=number)
    calls = [queue.enqueue(key=number) for number in range(3000)]
    steps = introspect.work_of_steps(queue, work)
    queue.set_rate("10/s", key="*")
    await asyncio.sleep(0.2)
    assert all(call.done() for call in calls)
    assert max(steps) < 60_000


@pytest.mark.parametrize(
    ("limits", "key"),
    [(("10/h", "5 in any 1h"), None), (("5 in any 1h",), "t*"), (("2/h",), "t7"), (("2/h",), "u")],
    ids=["own limits", "a pattern", "a new lane", "a lane of nobody"],
)
async def test_sorting_again_is_bounded(limits, key):
    """Thousands who wait and come under other kinds of limits are sorted step by step."""
    queue = ApiQueue("1/h", lanes={"t*": "1/h"})
    for number in range(2000):
        queue.enqueue(key=f"t{number}")
    steps = introspect.work_of_steps(queue, work)
    assert work(lambda: queue.set_rate(*limits, key=key)) < 60_000
    for _ in range(100):
        await asyncio.sleep(0)
    assert max(steps) < 60_000
    assert not introspect.is_sorting(queue)


async def test_few_are_sorted_at_once():
    """Where few wait, others need not wait until they are sorted."""
    queue = ApiQueue(lanes={"a": "1/h", "c": "1/h"})
    queue.try_slot(key="a")
    queue.enqueue(keys=("a", "b"))
    queue.set_rate("1/h", key="b")
    assert not introspect.is_sorting(queue)
    queue.try_slot(key="c").release()


async def test_sorting_is_no_step_per_call():
    """4000 of one line take ten steps at most: to take one out of it is an eighth of a look."""
    queue = ApiQueue("1/h", lanes={"b": "1/h"})
    for _ in range(4000):
        queue.enqueue(key="a")
    await asyncio.sleep(1)
    steps = introspect.work_of_steps(queue, work)
    queue.set_rate("2/h", key="a")
    await asyncio.sleep(1)
    assert not introspect.is_sorting(queue)
    assert 5 < len(steps) <= 10


async def test_cancelled_while_its_line_is_sorted():
    """It leaves once, not again with the line that it was in: who waits beside it is not lost."""
    queue = ApiQueue(lanes={"A": "1/s", "B": "4/s", "C": "9/s burst 9"}, catch_up=0)
    queue.try_slot(key="A")
    await asyncio.sleep(0.5)
    queue.hold(1, key="B")
    queue.enqueue(key="A")

    async def call(*keys):
        async with queue.slot(keys=keys):
            return asyncio.get_running_loop().time()

    leaves = asyncio.create_task(call("A", "B", "C"))
    stays = asyncio.create_task(call("A", "B"))
    await asyncio.sleep(1.2)  # at 1.5, both found B open and A closed
    leaves.cancel()
    queue.set_rate("9/s burst 9", "99/min", key="C")
    assert await asyncio.wait_for(stays, 5) == 2


@pytest.mark.parametrize("leaves", range(1, 8))
async def test_leaving_at_any_moment_of_sorting(leaves, monkeypatch):
    """A call that leaves while all are sorted leaves nothing behind, in whichever step that is."""
    introspect.take_small_steps(monkeypatch)
    moments = 0
    while True:
        queue = ApiQueue("1/h", lanes={"*": "1/h"})
        calls = [queue.enqueue(key=number) for number in range(8)]
        queue.set_rate("2/h", "1000 in any 1h")
        for _ in range(moments):
            await asyncio.sleep(0)
        was_sorting = introspect.is_sorting(queue)
        calls.pop(leaves).cancel()
        await asyncio.gather(*calls)
        assert introspect.left_over(queue) == []
        if not was_sorting:
            break
        moments += 1
    assert moments > 5


async def test_newcomers_wait_behind_unsorted():
    """Those who come while others are sorted start after them, and those who leave do not."""
    queue = ApiQueue("1/h", lanes={"a": "1000/s"})
    calls, started = [], []

    def call():
        number = len(calls)
        calls.append(queue.enqueue(key="a"))
        calls[-1].add_done_callback(lambda one: one.cancelled() or started.append(number))

    for _ in range(3000):
        call()
    queue.set_rate("1000/s", "1000000 in any 1h")
    for number in range(20):
        calls[100 * number + 1].cancel()
        call()
        await asyncio.sleep(0)
        if number < 2:
            assert introspect.is_sorting(queue)
    assert queue.waiting == 2999
    await asyncio.wait(calls)
    assert started == [number for number, one in enumerate(calls) if not one.cancelled()]
    assert introspect.left_over(queue) == []


async def test_next_call_ignores_cancelled_line():
    """A limit opens for the next call, though the limits of a call cancelled there just changed."""
    queue = ApiQueue(lanes={"a": "5/s burst 5", "b": "1/s burst 5"}, catch_up=0)
    queue.try_slot(key="b", cost=5)
    first = asyncio.create_task(use(queue, [], keys=("a", "b"), cost=5))
    await asyncio.sleep(0)
    second = queue.enqueue(key="b")
    await asyncio.sleep(0.5)
    first.cancel()
    queue.set_rate("5/s burst 5", "9 at once", key="a")
    assert (await second).waited == 1


async def test_unsorted_have_their_costs_asked(monkeypatch):
    """A limit that one who waits would never fit is refused, also while all are sorted again."""
    introspect.take_small_steps(monkeypatch)
    queue = ApiQueue("1/h", lanes={"a": "1/s"})
    queue.try_slot()
    for _ in range(10):
        queue.enqueue(cost=5)
    queue.set_rate("1/h", "1000 in any 1h")
    assert introspect.is_sorting(queue)
    with pytest.raises(ValueError, match='a cost of 5 calls never fits the limit "4 in any 1h"'):
        queue.set_rate("4 in any 1h")
    assert queue.limits == (Rate(1, 3600), Window(1000, 3600))


async def test_observer_sets_limits_between_starts():
    """Limits that an observer sets hold for those that are due at that very instant."""
    started = []

    class SlowDown:
        def on_event(self, event):
            """Replace the limit at the first start."""
            if event.kind == "released" and event.waited:
                started.append(event.key)
                if len(started) == 1:
                    queue.set_rate("0.1/s")

    queue = ApiQueue("1000 in any 1s", lanes={"t*": "1/s"}, observers=[SlowDown()])
    queue.try_slot(cost=1000)
    for number in range(900):
        queue.enqueue(key=f"t{number}")
    await asyncio.sleep(10.9)
    assert started == ["t0"]  # which the new rate counts: it came at 1 s
    await asyncio.sleep(0.2)
    assert started == ["t0", "t1"]


async def test_observers_delay_no_other_start():
    """What an observer sets for another lane costs those no time who are due at that instant."""

    class Setter:
        def on_event(self, event):
            """Replace the limit of a lane that nobody waits in."""
            if event.kind == "released":
                queue.set_rate("5/s", key="other")

    queue = ApiQueue(lanes={"t*": "1/s", "other": "1/s"}, observers=[Setter()])
    keys = ("t1", "t2", "t3")
    for key in keys:
        queue.try_slot(key=key)
    slots = await asyncio.gather(*(queue.enqueue(key=key) for key in keys))
    assert [slot.waited for slot in slots] == exactly([1, 1, 1])


async def test_those_who_left_hold_up_nobody():
    """Calls that were given up in a pause, though their lanes had room, are not waited for."""
    queue = ApiQueue(lanes={"a": "10/s", "b": "10/s", "slow": "1/s"})
    queue.pause()
    calls = [queue.enqueue(key=key) for key in ("a", "b")]
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    queue.resume()
    queue.try_slot(key="slow")
    both = queue.enqueue(keys=("a", "slow"))
    queue.try_slot(key="a")  # has room, and nobody is due
    assert (await both).waited == exactly(1)


async def test_all_may_leave_while_sorted():
    """Nothing is left of those who all leave while they are sorted, nor waits who comes then."""
    queue = ApiQueue("1/h", lanes={"*": "1/h"})
    calls = [queue.enqueue(key=number) for number in range(2000)]
    queue.set_rate("1000/s", "1000000 in any 1h")
    await asyncio.sleep(0)
    assert introspect.is_sorting(queue)
    for call in calls:
        call.cancel()
    await asyncio.sleep(0)
    assert introspect.left_over(queue) == []
    await asyncio.sleep(3600)
    assert (await queue.enqueue(key="new")).waited == 0
    assert (await asyncio.wait_for(queue.enqueue(key="new"), 4000)).waited == exactly(3600)


async def test_pitfall_5_waiting_lanes_are_kept():
    """A lane is not forgotten while somebody waits who comes under it, wherever they stand."""
    queue = ApiQueue(lanes={"A": "10/s", "B": "0.1/s", "*": "1/s"}, catch_up=0)
    queue.try_slot(keys=("A", "B"))
    both = queue.enqueue(keys=("A", "B"))
    for number in range(95):
        await asyncio.sleep(0.1)
        queue.try_slot(key=number)  # each forgets some lanes that are idle
    await asyncio.sleep(0.5)
    assert (await both).waited == exactly(10)
    with pytest.raises(WouldWait) as refused:  # else A would have a second state by now
        queue.try_slot(key="A")
    assert refused.value.retry_in == exactly(0.1)


async def test_pitfall_5_keys_are_found_together():
    """Finding a call's second lane does not forget its first one."""
    queue = ApiQueue(lanes={"*": "10/s"}, catch_up=0)
    for number in range(40):
        queue.try_slot(keys=(f"a{number}", f"b{number}"))
        await asyncio.sleep(1)  # all are idle
        queue.try_slot(keys=("x", "y")).release()
        with pytest.raises(WouldWait):
            queue.try_slot(key="x")
        with pytest.raises(WouldWait):
            queue.try_slot(key="y")


async def test_pitfall_6_windows_forget_nothing_early():
    """Asking what a window will allow later does not change what it allows now."""
    queue = ApiQueue(lanes={"A": Window(2, 1), "B": "2/s"}, catch_up=0)
    starts = []
    tasks = line_up(queue, starts, 2, keys=("A",))
    await asyncio.sleep(0.1)
    tasks += line_up(queue, starts, 3, keys=("A", "B"))
    tasks += line_up(queue, starts, 2, keys=("B",))
    for _ in range(9):
        await asyncio.sleep(0.1)
        if now() < 0.95:
            assert queue.estimate(keys=("A", "B"), cost=2) >= 1
            with pytest.raises(WouldWait):
                queue.try_slot(keys=("A",))
    await asyncio.gather(*tasks)
    assert starts[:2] == [0, 0]
    under_both = [at for at in starts[2:] if at >= 1]
    assert under_both[:2] == exactly([1.1, 1.6]) or under_both[:2] == exactly([1.0, 1.5])


async def test_pitfall_7_fractions_free_their_own():
    """Costs that add up to a window but for a rounding error wait for no entry more."""
    queue = ApiQueue(Window(1, 1))
    queue.try_slot(cost=1).settle(0.3)
    await asyncio.sleep(0.25)
    queue.try_slot(cost=0.7)
    assert await released(queue, 1, cost=0.1 + 0.2) == [1.0]  # 0.30000000000000004


@pytest.mark.parametrize("number", [1, 2, 3, 4])
async def test_pitfall_8_running_bodies_keep_permits(number):
    """With another number of permits, bodies that run give theirs back where they are counted."""
    queue = ApiQueue(lanes={"A": "2 at once"})
    running = [queue.try_slot(key="A") for _ in range(2)]
    queue.set_rate(f"{number} at once", key="A")
    while True:
        try:
            running.append(queue.try_slot(key="A"))
        except WouldWait:
            break
    assert len(running) == max(2, number)
    for slot in running:
        slot.release()
    again = [queue.try_slot(key="A") for _ in range(number)]
    with pytest.raises(WouldWait):
        queue.try_slot(key="A")
    assert len(again) == number


@pytest.mark.parametrize("grain", [0, 0.001, 0.016])
def test_pitfall_9_coarse_clocks_get_there(run_virtual, grain):
    """A clock that is coarse, or an instant that is no exact float, is looked at once or twice."""

    async def main():
        queue = ApiQueue("7/s", lanes={"A": "3/s", "B": Rate(3, 0.7)}, catch_up=0)
        ticks = Ticks(queue)
        keys = [("A",), ("B",), ("A", "B")] * 10
        calls = [queue.enqueue(keys=one) for one in keys]
        await asyncio.gather(*calls)
        assert ticks.most <= 40  # grants wake nobody; each join does

    run_virtual(main, grain=grain)


async def test_pitfall_10_turns_are_the_tenants():
    """With fair order, a tenant with many endpoints has the turns of one."""
    queue = ApiQueue("10/s", lanes={"e*": "100/s"}, order="fair")
    order = []

    async def call(*keys):
        async with queue.slot(keys=keys):
            order.append(keys[0])

    tasks = [asyncio.create_task(call("a", f"e{number}")) for number in range(50)]
    await asyncio.sleep(0)
    tasks += [asyncio.create_task(call("b", "e0")) for _ in range(10)]
    await asyncio.gather(*tasks)
    assert Counter(order[1:21]) == {"a": 10, "b": 10}


async def test_limits_of_nobody_keep_turns():
    """With fair order, all keep their turns while a key under which nobody waits has new limits."""
    queue, order = ApiQueue("1/s", lanes={"e": "1/s"}, order="fair"), []
    queue.try_slot()
    for key in "aaabb":
        queue.enqueue(key=key).add_done_callback(lambda _, key=key: order.append(key))
    await asyncio.sleep(1.5)
    queue.set_rate("5/s", key="f")
    await asyncio.sleep(5)
    assert order == list("ababa")


async def test_pitfall_10_places_outlive_cancellations():
    """Those that leave pass their turns on to the next of their tenant."""
    queue = ApiQueue("10/s", lanes={"e*": "100/s"}, order="fair")
    order = []

    async def call(*keys):
        async with queue.slot(keys=keys):
            order.append(keys[0])

    tasks = [asyncio.create_task(call("a", f"e{number % 3}")) for number in range(30)]
    await asyncio.sleep(0)
    tasks += [asyncio.create_task(call("b", f"e{number % 3}")) for number in range(30)]
    await asyncio.sleep(0)
    for task in tasks[1:25]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert Counter(order[1:11]) == {"a": 5, "b": 5}


# One line left of several: the scheduler decides until no call waits.


@pytest.mark.parametrize("cancelled", [0, 1, 2])
async def test_one_line_left_of_several(cancelled):
    """Newcomers start at their instants, also behind calls that have just been cancelled."""
    queue, starts = ApiQueue("10/s"), []
    queue.try_slot()
    queue.pause()
    tasks = [asyncio.create_task(use(queue, starts, cost=cost)) for cost in (0, 1, 1)]
    await asyncio.sleep(0.05)
    queue.resume()  # the call that costs nothing, whose line is another one, starts now
    await tasks[0]
    for task in tasks[1 : 1 + cancelled]:
        task.cancel()
    queue.resume()  # so that a look is due: before the tasks have run, and left
    introspect.release_due(queue)
    first, urgent, last = (queue.enqueue(priority=priority) for priority in (0, -1, 0))
    _, pending = await asyncio.wait([*tasks[1:], first, urgent, last], timeout=5)
    assert not pending
    due = [0.1, 0.2, 0.3, 0.4, 0.5][: 5 - cancelled]
    assert starts == exactly([0.05, *due[1:-2]])
    ends = [0.05 + (await one).waited for one in (urgent, first, last)]
    assert ends == exactly([due[0], *due[-2:]])
