"""Several queues on one hub, in virtual time: whose limits hold, and whose turn it is."""

from __future__ import annotations

import asyncio
import math
from itertools import pairwise

import pytest

from aioapiqueue import Adaptive, ApiQueue, Window
from tests.helpers.virtual_hub import VirtualHub


async def use(queue, starts, number, **call):
    """Make so many calls at once; note when they start."""

    async def one():
        async with queue.slot(**call):
            starts.append(asyncio.get_running_loop().time())

    await asyncio.gather(*(one() for _ in range(number)))


def most_in(starts, per):
    """The most of these that lie within so many seconds."""
    return max(sum(0 <= other - at < per for other in starts) for at in starts)


async def settled():
    """Let all queues and the hub talk; no time passes."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_equal_limits_hold_once():
    """Two queues of the same limit have it together, in turns."""
    hub, starts = VirtualHub(), ([], [])
    queues = [ApiQueue("10/s", schedule=hub.schedule("crm")) for _ in range(2)]
    await asyncio.gather(
        *(use(queue, each, 10) for queue, each in zip(queues, starts, strict=True))
    )
    everything = sorted(starts[0] + starts[1])
    assert everything == pytest.approx([n / 10 for n in range(20)])
    assert abs(len([at for at in starts[0] if at < 1]) - 5) <= 1


async def test_strictest_limit_decides():
    """A call comes under the limits of all clients, in whatever process it is made."""
    hub, starts = VirtualHub(), []
    fast = ApiQueue("100/s", schedule=hub.schedule("crm"))
    slow = ApiQueue("10/s", "12 in any 2s", schedule=hub.schedule("crm"))
    await use(slow, starts, 1)
    await use(fast, starts, 29)
    assert most_in(starts, 2.0 - 1e-9) <= 12
    assert min(b - a for a, b in pairwise(starts)) >= 0.1 - 1e-9


@pytest.mark.parametrize(("other", "third"), [(2, 2.0), (0, 2.5)])
async def test_smallest_catch_up_applies(other, third):
    """How late calls may be made up for changes while the quota is in use."""
    hub, starts = VirtualHub(), []
    queue = ApiQueue("1/s", catch_up=2, schedule=hub.schedule("crm"))
    await use(queue, starts, 1)
    late = ApiQueue("1/s", catch_up=other, schedule=hub.schedule("crm"))
    late.pause()
    late.resume()  # so it joins the quota, without a call of its own
    await settled()
    await asyncio.sleep(1.5)
    await use(queue, starts, 2)
    assert starts == pytest.approx([0, 1.5, third])


@pytest.mark.parametrize(
    ("one", "other"), [("10/h burst 10", "10 in any 1h"), ("10 in any 1h", "10/h burst 10")]
)
async def test_other_kinds_count_what_was_there(one, other):
    """A program is replaced by one with another limit, which begins before the old one ends."""
    hub, starts = VirtualHub(), []
    old = ApiQueue(one, schedule=hub.schedule("crm"))
    await use(old, starts, 10)
    new = ApiQueue(other, schedule=hub.schedule("crm"))
    waiting = asyncio.create_task(use(new, starts, 1))
    await settled()
    await old.aclose()
    await waiting
    assert starts[9] == 0
    assert starts[10] >= 360  # a tenth of an hour


async def test_limits_leave_with_their_client():
    """What a client has brought along holds no more once it is gone."""
    hub, starts = VirtualHub(), []
    fast = ApiQueue("100/s", schedule=hub.schedule("crm"))
    slow = ApiQueue("1/s", schedule=hub.schedule("crm"))
    await use(slow, [], 1)
    waiting = asyncio.create_task(use(fast, starts, 20))
    await asyncio.sleep(0.5)
    assert len(starts) == 0
    await slow.aclose()
    await waiting
    assert starts[-1] == pytest.approx(0.5 + 0.19, abs=0.02)


async def test_other_names_are_other_quotas():
    """What is called otherwise shares nothing."""
    hub, starts = VirtualHub(), ([], [])
    queues = [ApiQueue("10/s", schedule=hub.schedule(name)) for name in ("crm", "erp")]
    await asyncio.gather(*(use(*one, 5) for one in zip(queues, starts, strict=True)))
    assert starts[0] == starts[1] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize("name", ["search", "sea*", "*"])
async def test_lanes_of_others_hold(name):
    """A call with a key comes under the lane that another client gives that key."""
    hub, own, starts = VirtualHub(), [], {"search": [], "other": []}
    plain = ApiQueue("100/s", schedule=hub.schedule("crm"))
    laned = ApiQueue(lanes={name: "5/s"}, schedule=hub.schedule("crm"))
    await use(laned, own, 1, key="search")
    await asyncio.gather(*(use(plain, each, 6, key=key) for key, each in starts.items()))
    assert starts["search"] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.2])
    # Nobody waits behind a lane that is not its own.
    assert max(starts["other"]) < (1.3 if name == "*" else 0.2)


async def test_lanes_add_up_over_patterns():
    """The lane of a key, and another client's pattern that fits it: both hold."""
    hub, starts = VirtualHub(), []
    one = ApiQueue(lanes={"tenant:acme": "10/s"}, schedule=hub.schedule("crm"))
    other = ApiQueue(lanes={"tenant:*": "3 in any 1s"}, schedule=hub.schedule("crm"))
    await use(other, [], 1, key="tenant:b")
    await use(one, starts, 7, key="tenant:acme")
    assert starts == pytest.approx([0, 0.1, 0.2, 1, 1.1, 1.2, 2])
    lanes = hub.quotas.by_name["name", "crm"].as_json()["lanes"]
    assert lanes == {"tenant:*": ["3 in any 1s"], "tenant:acme": ["3 in any 1s", "10/s"]}


async def test_unit_of_others_concerns_nobody_else():
    """A client that knows nothing of tokens uses none, whatever limits others have."""
    hub, starts = VirtualHub(), []
    tokens = ApiQueue("100 tokens/s", schedule=hub.schedule("llm"))
    calls = ApiQueue("10/s", schedule=hub.schedule("llm"))
    waiting = asyncio.create_task(use(calls, starts, 5))
    await asyncio.sleep(0.05)
    await use(tokens, [], 1, cost={"tokens": 50})
    await waiting
    assert starts == pytest.approx([0, 0.1, 0.2, 0.3, 0.4], abs=0.11)


async def test_too_large_for_others_is_refused():
    """A call that could never start under another's window is refused, with the reason."""
    hub = VirtualHub()
    wide = ApiQueue("100 in any 1s", schedule=hub.schedule("crm"))
    narrow = ApiQueue(Window(5, 1), schedule=hub.schedule("crm"))
    waiting = wide.enqueue(cost=90)
    await settled()
    assert waiting.done()
    late = asyncio.ensure_future(wide.enqueue(cost=90))
    await settled()
    await use(narrow, [], 1)
    with pytest.raises(ValueError, match='never fits the limit "5 in any 1s"'):
        await late


async def test_permits_are_shared_and_come_back():
    """Bodies at once are counted over all clients; those of one that is gone are free."""
    hub, starts = VirtualHub(), []
    one, other = (ApiQueue("3 at once", schedule=hub.schedule("crm")) for _ in range(2))
    held = [await one.enqueue() for _ in range(3)]
    waiting = asyncio.create_task(use(other, starts, 2))
    await asyncio.sleep(1)
    held[0].release()
    await settled()
    assert starts == [1, 1]
    await waiting
    waiting = [await other.enqueue(), other.enqueue()]
    await asyncio.sleep(1)
    assert not waiting[1].done()
    hub.links[0].drop()  # that process has died
    assert (await waiting[1]).waited == 1


async def test_each_process_has_its_turn():
    """One with a thousand calls does not keep another one waiting."""
    hub, flood, few = VirtualHub(), [], []
    busy, calm = (ApiQueue("100/s", schedule=hub.schedule("crm")) for _ in range(2))
    task = asyncio.create_task(use(busy, flood, 1000))
    await asyncio.sleep(1)
    for _ in range(20):
        await use(calm, few, 1)
    assert few[-1] - 1 <= 20 * 0.03
    task.cancel()
    await asyncio.wait([task])


async def test_busy_lane_puts_nobody_back():
    """One that is served of another lane all the time takes no more of the lane that is shared."""
    hub, flood, few = VirtualHub(), [], []
    lanes = {"shared": "20/s", "fast": "250/s"}
    busy, calm = (ApiQueue(lanes=lanes, schedule=hub.schedule("crm")) for _ in range(2))
    tasks = [
        asyncio.create_task(use(busy, flood, 200, key="shared")),
        asyncio.create_task(use(busy, [], 1250, key="fast")),
    ]
    await asyncio.sleep(1)
    began = len(flood)
    await use(calm, few, 40, key="shared")
    assert len(flood) - began <= 45
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_changed_limits_keep_the_turns():
    """A client that joins with one more limit does not go before all who wait."""
    hub, flood, newcomer = VirtualHub(), [], []
    first = ApiQueue("100/s", schedule=hub.schedule("crm"))
    task = asyncio.create_task(use(first, flood, 1000))
    await asyncio.sleep(5)
    second = ApiQueue("100/s", "90 in any 1s", schedule=hub.schedule("crm"))
    began = len(flood)
    await use(second, newcomer, 60)
    assert len(flood) - began >= 40
    task.cancel()
    await asyncio.wait([task])


async def test_pause_that_another_ends():
    """Who has paused goes on, too, when somebody else resumes."""
    hub, starts = VirtualHub(), []
    one, other = (ApiQueue("10/s", schedule=hub.schedule("crm")) for _ in range(2))
    await use(other, [], 1)
    await use(one, [], 1)
    one.pause()
    await settled()
    waiting = asyncio.create_task(use(one, starts, 2))
    await asyncio.sleep(5)
    other.resume()
    await waiting
    assert starts == pytest.approx([5, 5.1], abs=0.11)
    assert len(hub.log) < 30


async def test_hold_of_a_lane_of_others():
    """What is said of a key holds its lane alone, be that given by another process."""
    hub, starts = VirtualHub(), {"search": [], "other": []}
    plain = ApiQueue("100/s", schedule=hub.schedule("crm"))
    laned = ApiQueue(lanes={"search": "50/s"}, schedule=hub.schedule("crm"))
    await use(laned, [], 1, key="search")
    await use(plain, [], 1)
    plain.hold(5, key="search")
    began = asyncio.get_running_loop().time()
    await asyncio.gather(*(use(plain, each, 3, key=key) for key, each in starts.items()))
    assert min(starts["search"]) - began >= 5
    assert max(starts["other"]) - began < 0.1


async def test_set_rate_leaves_concurrency():
    """`concurrency` holds whatever limits are set, as in a queue of its own."""
    hub = VirtualHub()
    queue = ApiQueue("100/s", concurrency=2, schedule=hub.schedule("crm"))
    held = [await queue.enqueue() for _ in range(2)]
    queue.set_rate("50/s")
    await settled()
    waiting = queue.enqueue()
    await asyncio.sleep(1)
    assert not waiting.done()
    held[0].release()
    assert (await waiting).waited == 1


async def test_limit_below_the_floor_of_others_holds():
    """A floor gives way to limits that others bring along, or set: the strictest decides."""
    hub, starts = VirtualHub(), []
    policy = Adaptive("5/s", concurrency=3)
    one = ApiQueue("10/s", concurrency=4, adaptive=policy, schedule=hub.schedule("crm"))
    other = ApiQueue("2/s", concurrency=1, schedule=hub.schedule("crm"))
    async with other.slot():
        pass
    await use(one, starts, 5)
    assert starts == pytest.approx([0.5, 1, 1.5, 2, 2.5])
    await asyncio.sleep(1)
    other.set_rate("1/s")
    await settled()
    starts.clear()
    await use(one, starts, 3)
    assert starts == pytest.approx([3.5, 4.5, 5.5])
    one.throttled()
    await settled()
    assert len(hub.quotas.by_name["name", "crm"].clients) == 2
    with pytest.raises(ValueError, match="floor"):
        one.set_rate("1/s")  # its own


async def test_first_adaptive_leaves():
    """The floor of the next one is above a limit: that goes on holding, and newcomers come."""
    hub, starts = VirtualHub(), []
    first = ApiQueue("100/s", adaptive=Adaptive("1/s"), schedule=hub.schedule("crm"))
    second = ApiQueue("100/s", adaptive=Adaptive("50/s"), schedule=hub.schedule("crm"))
    third = ApiQueue("10/s", schedule=hub.schedule("crm"))
    for queue in (first, second, third):
        async with queue.slot():
            pass
    await first.aclose()
    await settled()
    (quota,) = hub.quotas
    assert quota.as_json()["limits"] == ["100/s", "10/s"]
    fourth = ApiQueue("100/s", schedule=hub.schedule("crm"))
    await asyncio.sleep(1)
    begun = asyncio.get_running_loop().time()
    await use(fourth, starts, 3)
    assert [at - begun for at in starts] == pytest.approx([0, 0.1, 0.2])


async def test_later_adaptive_counts():
    """The first client that asks for it has the quota slow down, be it the second to come."""
    hub = VirtualHub()
    plain = ApiQueue("40/s", schedule=hub.schedule("crm"))
    await use(plain, [], 1)
    adaptive = ApiQueue("40/s", adaptive=Adaptive("1/s"), schedule=hub.schedule("crm"))
    await use(adaptive, [], 20)
    async with adaptive.slot() as slot:
        slot.throttled()
    await settled()
    assert adaptive.stats.backed_off == 1
    assert adaptive.stats.rate < 40


async def test_lane_of_no_key_is_refused():
    """It could not be told from the queue."""
    with pytest.raises(TypeError, match="give its calls another key"):
        ApiQueue(lanes={None: "1/s"}, schedule=VirtualHub().schedule("crm"))


async def test_urgent_calls_go_first_anywhere():
    """A more urgent call goes before all others, in whatever process it waits."""
    hub, urgent = VirtualHub(), []
    busy, other = (ApiQueue("10/s", schedule=hub.schedule("crm")) for _ in range(2))
    task = asyncio.create_task(use(busy, [], 100))
    await asyncio.sleep(1.05)
    await use(other, urgent, 3, priority=-1)
    assert urgent == pytest.approx([1.1, 1.2, 1.3])
    task.cancel()
    await asyncio.wait([task])


async def test_push_back_is_heard_by_all():
    """What one process is told holds for the others."""
    hub, starts = VirtualHub(), []
    one, other = (ApiQueue("10/s", schedule=hub.schedule("crm")) for _ in range(2))
    await use(other, [], 1)
    async with one.slot() as slot:
        slot.throttled(retry_after=5)
    await settled()
    began = asyncio.get_running_loop().time()
    await use(other, starts, 2)
    assert [at - began for at in starts] == pytest.approx([5, 5.1])


async def test_adaptive_rate_is_shared():
    """A slow-down of one process lowers the rate of the quota."""
    hub = VirtualHub()
    one, other = (
        ApiQueue("40/s", adaptive=Adaptive("1/s"), schedule=hub.schedule("crm")) for _ in range(2)
    )
    await use(other, [], 20)
    async with one.slot() as slot:
        slot.throttled()
    await settled()
    assert one.stats.backed_off == 1
    assert one.stats.rate == other.stats.rate < 40


async def test_pause_and_resume_hold_for_all():
    """`pause` stops every process, `resume` lets all go on."""
    hub, starts = VirtualHub(), []
    one, other = (ApiQueue("10/s", schedule=hub.schedule("crm")) for _ in range(2))
    await use(other, [], 1)
    await use(one, [], 1)
    one.pause()
    await settled()
    waiting = asyncio.create_task(use(other, starts, 1))
    await asyncio.sleep(7)
    assert (starts, "paused" in repr(other)) == ([], True)
    one.resume()
    await waiting
    assert starts == [7.1]


async def test_set_rate_before_the_first_call_counts():
    """It is the newest, whatever others have set before; the same while there is no hub."""
    hub = VirtualHub()
    one, other = (ApiQueue("100/s", schedule=hub.schedule("crm")) for _ in range(2))
    async with one.slot():
        one.set_rate("50/s")
        one.set_rate("5/s", key="a")
        await settled()
        other.set_rate("1/s")
        await settled()
        (quota,) = hub.quotas
        assert quota.as_json()["limits"] == ["1/s"]
        assert quota.as_json()["lanes"] == {"a": ["5/s"]}
        for queue in (one, other):
            assert [str(limit) for limit in queue.limits] == ["1/s"]
        async with other.slot():
            hub.down = True
            hub.kill()
            await asyncio.sleep(0.5)
            one.set_rate("20/s")
            hub.down = False
            await asyncio.sleep(2)
        (quota,) = hub.quotas
        assert quota.as_json()["limits"] == ["20/s"]
        assert [str(limit) for limit in other.limits] == ["20/s"]


async def test_process_that_never_calls_pauses_and_resumes():
    """What it wants is told at once, though it has no call that would need the hub."""
    hub, starts = VirtualHub(), []
    one, other = (ApiQueue("10/s", schedule=hub.schedule("crm")) for _ in range(2))
    async with one.slot():
        other.pause()
        await settled()
        task = asyncio.create_task(use(one, starts, 1))
        await asyncio.sleep(5)
        assert not starts
        third = ApiQueue("10/s", schedule=hub.schedule("crm"))
        third.resume()
        await task
    assert starts == [5]


async def test_pause_that_was_ended_does_not_come_back():
    """Who was away while another ended its pause hears of that from the next hub."""
    hub, starts = VirtualHub(), []
    one, other = (ApiQueue("10/s", schedule=hub.schedule("crm")) for _ in range(2))
    async with one.slot(), other.slot():
        one.pause()
        await settled()
        away, _ = hub.links
        away.open, opening = (lambda: asyncio.get_running_loop().call_later(3, opening)), away.open
        hub.kill()
        await asyncio.sleep(1)
        other.resume()
        await asyncio.sleep(5)
        await use(other, starts, 1)
        await use(one, starts, 1)
    assert starts == pytest.approx([6.1, 6.2])


async def test_set_rate_holds_for_all():
    """`set_rate` replaces the limits of all processes, and of those that come later."""
    hub, starts = VirtualHub(), []
    one, other = (ApiQueue("10/s", schedule=hub.schedule("crm")) for _ in range(2))
    await use(other, [], 1)
    await use(one, [], 1)
    one.set_rate("2/s")
    await settled()
    assert "2/s" in repr(other)
    third = ApiQueue("10/s", schedule=hub.schedule("crm"))
    await use(third, starts, 3)
    assert [b - a for a, b in pairwise(starts)] == pytest.approx([0.5, 0.5])


async def test_what_a_server_says_bounds_all():
    """`sync` of one process bounds the others."""
    hub, starts = VirtualHub(), []
    one, other = (ApiQueue("100/s burst 100", schedule=hub.schedule("crm")) for _ in range(2))
    await use(other, [], 1)
    async with one.slot() as slot:
        slot.sync(2, reset=30)
    await settled()
    await use(other, starts, 3)
    assert starts == pytest.approx([0, 0, 30])


async def test_delay_by_others_is_named():
    """Which limit of whom has made calls wait is counted where they wait."""
    hub = VirtualHub()
    schedule = hub.schedule("crm")
    fast = ApiQueue("100/s", schedule=schedule)
    slow = ApiQueue("10/s", schedule=hub.schedule("crm"))
    await use(slow, [], 1)
    await use(fast, [], 5)
    ((delay, (calls, seconds)),) = schedule.delays.items()
    assert (delay.lane, delay.limit, calls) == ("", "10/s", 5)
    assert seconds == pytest.approx(0.1 + 0.2 + 0.3 + 0.4 + 0.5)


async def test_curve_of_ones_own_is_refused():
    """The hub knows the plain curve only."""

    class Mine(Adaptive):
        def regrow(self, **_):
            return 1

    with pytest.raises(TypeError, match="has its own recovery curve"):
        ApiQueue("10/s", adaptive=Mine(), schedule=VirtualHub().schedule("crm"))


async def test_one_schedule_for_each_queue():
    """A schedule is one queue's part; a key that has no text is refused."""
    schedule = VirtualHub().schedule("crm")
    ApiQueue("10/s", schedule=schedule)
    with pytest.raises(RuntimeError, match="create one for each queue"):
        ApiQueue("10/s", schedule=schedule)
    with pytest.raises(TypeError, match="key must be text"):
        ApiQueue(lanes={object(): "1/s"}, schedule=VirtualHub().schedule("crm"))
    assert math.isinf(ApiQueue(schedule=VirtualHub().schedule("x")).stats.rate)
