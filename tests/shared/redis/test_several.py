"""Calls that come under several lanes and units of one shared quota, in several processes."""

from __future__ import annotations

import asyncio
import itertools
import random

import pytest

from aioapiqueue import ApiQueue, Concurrency, Rate, Window
from aioapiqueue.integrations.redis import SharedSchedule
from tests.helpers import introspect
from tests.helpers.instants import now
from tests.helpers.lane_calls import check_limits, run_calls
from tests.helpers.virtual_client import VirtualClient

CLOSE = 3e-6  # seconds: an instant has been rounded up to three times


def make(valkey, name, *limits, ahead=0.2, **options):
    """Make the queue of one process."""
    client = VirtualClient(valkey, latency=options.pop("latency", (0.0, 0.0)))
    return ApiQueue(*limits, schedule=SharedSchedule(client, name, ahead=ahead), **options)


async def take(queue, **options):
    """Wait for a slot; return when it came."""
    async with queue.slot(**options):
        return now()


# What is charged.


async def test_all_lanes_are_charged_at_once(valkey, name):
    """A call of two lanes uses both, in every process, at the instant at which it starts."""
    lanes = {"a": "10/s", "b": "4/s"}
    async with make(valkey, name, lanes=lanes) as one, make(valkey, name, lanes=lanes) as other:
        assert await take(one, keys=("a", "b")) == 0
        assert await take(other, key="a") == pytest.approx(0.1, abs=CLOSE)
        assert await take(other, key="b") == pytest.approx(0.25, abs=CLOSE)


@pytest.mark.parametrize("keys", [("a", "a"), ("a", "x"), ("x", "a"), ("a", "x", "a", "y")])
async def test_a_lane_is_charged_once(valkey, name, keys):
    """Keys that occur twice, or have no limits, change nothing."""
    async with make(valkey, name, lanes={"a": "10/s"}) as queue:
        starts = [await take(queue, keys=keys) for _ in range(3)]
    assert starts == pytest.approx([0, 0.1, 0.2], abs=CLOSE)


async def test_each_limit_charges_its_unit(valkey, name):
    """Calls and tokens, of the queue and of a lane; what uses none of a unit does not wait for it.

    The processes count the units in different places, as they name them in another order.
    """
    calls, tokens = Rate(10, 1, 10), Rate(100, 1, 100, "tokens")
    one = make(valkey, name, calls, tokens, lanes={"a": [Window(2, 10)]})
    other = make(
        valkey, name, tokens, calls, Rate(1e9, unit="images"), lanes={"a": [Window(2, 10)]}
    )
    async with one, other:
        assert await take(one, cost={"tokens": 100}) == 0
        assert await take(other, cost={"tokens": 0, "images": 0}) == 0
        waiting = asyncio.create_task(take(other, key="a", cost={"tokens": 50, "images": 0}))
        await asyncio.sleep(0)
        assert await take(other, key="a", cost={"tokens": 0, "images": 0}) == 0
        assert await waiting == pytest.approx(0.5, abs=CLOSE)
        assert await take(one, key="a", cost={"tokens": 0}) == pytest.approx(10, abs=0.02)


async def test_an_unstated_unit_is_refused(valkey, name):
    """As on a queue by itself: with the remedy, by a limit of the queue or of a lane."""
    limits = Rate(100, 1, 100, "tokens")
    async with make(valkey, name, limits) as queue:
        for call in ({}, {"cost": 5}):
            with pytest.raises(ValueError, match=r'does not name tokens.* write cost=\{"tokens"'):
                await take(queue, **call)
    async with make(valkey, name, lanes={"a*": [limits]}) as queue:
        with pytest.raises(ValueError, match=r"a limit of the lane 'a\*' counts"):
            await take(queue, keys=("b", "a1"))
        assert await take(queue, key="b") == 0


# What is given back.


@pytest.mark.parametrize("how", ["cancelled", "settled"])
async def test_all_is_given_back(valkey, name, how):
    """To all lanes, and in all units: another process may use it at once."""
    both = [Window(1, 100), Window(100, 100, "tokens")]
    lanes = {"a": both, "b": both}
    async with make(valkey, name, lanes=lanes) as one, make(valkey, name, lanes=lanes) as other:
        if how == "cancelled":
            future = one.enqueue(keys=("a", "b"), cost={"tokens": 100})
            introspect.after_next_grant(one, future.cancel)
            await asyncio.wait([future])
        else:
            async with one.slot(keys=("a", "b"), cost={"tokens": 100}) as slot:
                slot.settle({"calls": 0, "tokens": 0})
        await asyncio.sleep(0.01)
        assert await take(other, key="a", cost={"tokens": 100}) < 1
        assert await take(other, key="b", cost={"tokens": 100}) < 1


async def test_a_settlement_names_its_units(valkey, name):
    """What is not named stays; what is more is charged."""
    limits = Window(2, 10), Window(100, 10, "tokens")
    async with make(valkey, name, *limits) as queue:
        async with queue.slot(cost={"tokens": 10}) as slot:
            slot.settle({"tokens": 90})
        await asyncio.sleep(0.01)
        assert await take(queue, cost={"tokens": 10}) < 1
        assert await take(queue, cost={"tokens": 0}) == pytest.approx(10, abs=0.02)


# Bodies at once.


async def test_own_concurrency_is_a_limit(valkey, name):
    """`"2 at once"` among the limits is `concurrency=2`; of both, the smaller one holds."""
    running = most = 0

    async def call(queue):
        nonlocal running, most
        async with queue.slot():
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.05)
            running -= 1

    for limits, options in (["2 at once", {}], ["5 at once", {"concurrency": 2}]):
        async with (
            make(valkey, f"{name} {limits}", limits, **options) as one,
            make(valkey, f"{name} {limits}", limits, **options) as other,
        ):
            await asyncio.gather(*(call(queue) for queue in (one, other) for _ in range(6)))
        assert most == 2


async def test_concurrency_is_set_for_all(valkey, name):
    """`set_rate` may bring one, in every process."""
    async with make(valkey, name, "1000/s") as one, make(valkey, name, "1000/s") as other:
        one.set_rate("1000/s", Concurrency(1))
        await asyncio.sleep(0.01)
        slot = await one.enqueue()
        waiting = other.enqueue()
        await asyncio.sleep(2)
        assert not waiting.done()
        assert other.limits == (Rate(1000), Concurrency(1))
        slot.release()
        async with asyncio.timeout(2):
            (await waiting).release()


@pytest.mark.parametrize(
    ("limits", "lanes", "words"),
    [
        (["5 in each day"], {}, r"no time zone data.*\"5 in any 1d\""),
        (["5 tokens in each day of Europe/Paris"], {}, r"\"5 tokens in any 25h\""),
        ([], {"a": "5 in each month"}, r"\"5 in any 31d\""),
        ([], {"a": "5 at once"}, "concurrency only for a whole quota.*another name"),
    ],
)
async def test_what_is_not_shared_is_refused(  # noqa: PLR0917 - drawn
    valkey, name, blockbuster, limits, lanes, words
):
    """When the queue is made, and by `set_rate`; with what to do instead."""
    blockbuster.deactivate()  # the database of time zones is read
    with pytest.raises(ValueError, match=words):
        make(valkey, name, *limits, lanes=lanes)
    async with make(valkey, name, "10/s") as queue:
        with pytest.raises(ValueError, match=words):
            queue.set_rate(*(limits or [lanes["a"]]), key=None if limits else "a")
        assert await take(queue) == 0


# Turns.


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("latency", [(0.0, 0.0), (0.001, 0.003)])
async def test_two_lanes_beside_two_crowds(valkey, name, together, latency):
    """Calls of two lanes start although others use up each lane whenever the other has room.

    The crowds are in other processes, or in the same. No lane is left unused for it.
    """
    lanes, ends_at = {"a": "10/s", "b": "10/s"}, 30
    queues = [make(valkey, name, lanes=lanes, latency=latency) for _ in range(3)]
    if together:
        queues = [queues[0]] * 3
    counts = {("a",): 0, ("b",): 0, ("a", "b"): 0}

    async def caller(queue, keys):
        while now() < ends_at:
            async with queue.slot(keys=keys):
                counts[keys] += 1

    async with queues[0], queues[-1] if not together else make(valkey, f"{name} none"):
        callers = [asyncio.create_task(caller(queues[0], ("a",))) for _ in range(5)]
        await asyncio.sleep(0.05)  # half an interval out of phase
        callers += [asyncio.create_task(caller(queues[1], ("b",))) for _ in range(5)]
        await asyncio.sleep(0.3)
        callers += [asyncio.create_task(caller(queues[2], ("a", "b"))) for _ in range(2)]
        await asyncio.sleep(ends_at - now())
        for one in callers:
            one.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
        await queues[1].aclose()
    assert counts["a", "b"] >= 60  # 2 per second
    for lane in "ab":
        assert sum(n for keys, n in counts.items() if lane in keys) >= 0.85 * 10 * ends_at


@pytest.mark.parametrize("seed", range(4))
async def test_limits_hold_over_processes(valkey, name, seed):
    """Every limit of every lane, for three processes together, with latency and cancellation."""
    chance = random.Random(seed)
    limits = chance.choice([(), (Rate(50, 1, 3),), (Rate(20), Rate(1000, 1, 200, "tokens"))])
    lanes = {
        "a": [Rate(10, 1, 2), Window(700, 1, "tokens")],
        "b": [Window(5, 0.5)],
        "c": [Rate(500, 1, 300, "tokens")],
    }
    queues = [make(valkey, name, *limits, lanes=lanes, latency=(0.001, 0.005)) for _ in range(3)]
    calls = [
        (
            chance.choice([0, 0, 0.01]),
            chance.choice([("a",), ("b",), ("a", "b"), ("c", "a"), ("a", "b", "c"), ()]),
            chance.choice([0, 0, 1]),
            chance.choice([0, 10, 100, 250]),
        )
        for _ in range(120)
    ]
    starts = await run_calls(queues, calls)
    assert len(starts) == len(calls)
    check_limits(limits, lanes, starts, catch_up=0.022)  # a clock that is known to 10 ms
    await asyncio.gather(*(queue.aclose() for queue in queues))


# What waits for one unit holds up no other.


@pytest.mark.parametrize("costs", [{"calls": 0, "tokens": 10}, {"calls": 0, "tokens": 0}])
@pytest.mark.parametrize("in_lane", [True, False])
async def test_who_waits_blocks_one_unit(valkey, name, costs, in_lane):
    """A call that uses none of what an earlier one waits for starts at once."""
    limits = Rate(1), Rate(100, 1, 100, "tokens")
    lanes = {"a": limits} if in_lane else {}
    async with make(valkey, name, *([] if in_lane else limits), lanes=lanes) as queue:
        await take(queue, key="a", cost={"tokens": 10})
        waiting = [queue.enqueue(key="a", cost={"tokens": 10}) for _ in range(3)]
        await asyncio.sleep(0.05)
        assert await take(queue, key="a", cost=costs) == pytest.approx(0.05, abs=CLOSE)
        for one in waiting:
            one.cancel()


async def test_a_lane_passes_the_queues_turn(valkey, name):
    """Who waits for a lane asks when that has room, though others wait for the queue's tokens."""
    limits = [Rate(1, unit="tokens")]
    async with make(valkey, name, *limits, lanes={"a": "8/s"}, ahead=0) as queue:
        none = {"tokens": 0}
        await take(queue, cost={"tokens": 1})
        await take(queue, key="a", cost=none)
        lane = asyncio.create_task(take(queue, key="a", cost=none))
        await asyncio.sleep(0.01)
        waiting = queue.enqueue(cost={"tokens": 1})
        assert await lane == pytest.approx(0.125, abs=CLOSE)
        waiting.cancel()


@pytest.mark.parametrize("in_lane", [True, False])
async def test_a_crowd_leaves_costly_calls_room(valkey, name, in_lane):
    """A call that needs many calls and a token is not overtaken by those that need no token."""
    limits = Rate(10, 1, 8), Rate(100, 1, 100, "tokens")
    lanes = {"a": limits} if in_lane else {}
    async with make(valkey, name, *([] if in_lane else limits), lanes=lanes) as queue:

        async def caller():
            while True:
                await take(queue, key="a", cost={"tokens": 0})

        callers = [asyncio.create_task(caller()) for _ in range(20)]
        await asyncio.sleep(2)
        begun = now()
        async with asyncio.timeout(20):
            started = await take(queue, key="a", cost={"calls": 6, "tokens": 1}, priority=-1)
        assert started < begun + 1
        for one in callers:
            one.cancel()
        await asyncio.gather(*callers, return_exceptions=True)


async def test_free_calls_overtake_nobody_left_out(valkey, name):
    """A call that costs no calls goes behind those that need the tokens that it needs."""
    limits = Rate(8, 1, 3), Window(2, 0.5, "tokens")
    async with make(valkey, name, *limits, ahead=0) as queue:
        both, tokens = {"calls": 1, "tokens": 1}, {"calls": 0, "tokens": 1}
        for _ in range(2):  # the second of which leaves a share of none
            await take(queue, cost=both)
            await asyncio.sleep(0.1)
        await asyncio.sleep(0.5)
        callers = [asyncio.create_task(take(queue, cost=both)) for _ in range(3)]
        callers.append(asyncio.create_task(take(queue, cost=tokens)))
        starts = await asyncio.gather(*callers)
    assert starts == pytest.approx([0.7, 0.7, 1.2, 1.2], abs=CLOSE)


async def test_windows_give_back_only_their_own(valkey, name):
    """What was charged to another limit is not given back to a window that came after it."""
    async with make(valkey, name, "100/s burst 100") as queue:
        before = await queue.enqueue(cost=5)
        queue.set_rate(Window(9, 10))
        after = await queue.enqueue()
        before.settle(0)
        await asyncio.sleep(0.01)
        await take(queue, cost=8)
        assert await take(queue) == pytest.approx(10, abs=0.02)
        before.release(), after.release()


async def test_windows_elsewhere_make_no_rate_late(valkey, name):
    """A process that has stalled uses no slot of a rate later than `catch_up`.

    Also if it asks together for a lane with a window, which lasts as much longer as it is late.
    """
    lanes = {"rate": "10/s", "window": [Window(5, 1)], "both": ["10/s", Window(20, 1)]}
    async with make(valkey, name, lanes=lanes) as queue:
        starts = {key: [] for key in lanes}

        async def caller(key):
            while True:
                starts[key].append(await take(queue, key=key))

        callers = [asyncio.create_task(caller(key)) for key in lanes for _ in range(3)]
        for _ in range(8):
            await asyncio.sleep(0.513)
            asyncio.get_running_loop().stall(0.15)
        for one in callers:
            one.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
    for key in ("rate", "both"):
        gaps = [later - one for one, later in itertools.pairwise(starts[key])]
        assert min(gaps) > 0.1 - 0.010 - CLOSE
    assert len(starts["window"]) > 12


async def test_an_urgent_call_is_asked_for(valkey, name):
    """An urgent call starts at once where there is room for it, and none for the first of others.

    Although it costs no less than all of them.
    """
    async with make(valkey, name, Rate(1, 1, 10), lanes={"a": "100/s"}, ahead=0) as queue:
        await take(queue, cost=7)
        waiting = [queue.enqueue(cost=5), queue.enqueue(key="a")]
        await asyncio.sleep(0.1)
        assert await take(queue, priority=-1) == pytest.approx(0.1, abs=CLOSE)
        for one in waiting:
            one.cancel()


@pytest.mark.parametrize("lane", [False, True])
async def test_who_leaves_lets_others_ask(valkey, name, lane):
    """A call that has room starts when the one before it leaves, that had none."""
    limits = Rate(1, 1, 10)
    lanes = {"a": limits if lane else "100/s burst 10", "b": "100/s"}
    async with make(valkey, name, *([] if lane else [limits]), lanes=lanes, ahead=0) as queue:
        await take(queue, cost=7, key="a")
        dear = queue.enqueue(cost=9, key="a")
        cheap = asyncio.create_task(take(queue, keys=("a", "b")))
        await asyncio.sleep(0.1)
        assert not cheap.done()
        dear.cancel()
        assert await cheap == pytest.approx(0.1, abs=CLOSE)


async def test_who_leaves_lets_those_between_ask(valkey, name):
    """So does one that leaves another behind which costs as much, and the cheap one is between."""
    async with make(valkey, name, Rate(1, 1, 10), lanes={"a": "100/s"}, ahead=0) as queue:
        await take(queue, cost=7)
        dear = queue.enqueue(cost=9)
        cheap = asyncio.create_task(take(queue, key="a"))
        await asyncio.sleep(0.05)
        last = queue.enqueue(cost=9)
        await asyncio.sleep(0.05)
        assert not cheap.done()
        dear.cancel()
        assert await cheap == pytest.approx(0.1, abs=CLOSE)
        last.cancel()


async def test_cheap_pairs_overtake_no_lane(valkey, name):
    """A call of two lanes goes behind one that waits in one of them, whatever they cost."""
    lanes = {"a": [Rate(1, 1, 10)], "b": "100/s", "c": "100/s", "held": "100/s"}
    async with make(valkey, name, lanes=lanes, ahead=0) as queue:
        await take(queue, cost=7, key="a")
        dear = asyncio.create_task(take(queue, cost=5, key="a"))
        queue.hold(10, key="held")
        cheap = queue.enqueue(key="held")  # so that none of those that come costs less than all
        await asyncio.sleep(0.1)
        keys = [("a", "b"), ("c", "a", "b"), ("b", "c")]
        pairs = [asyncio.create_task(take(queue, keys=each)) for each in keys]
        assert await pairs[2] == pytest.approx(0.1, abs=CLOSE)
        assert await dear == pytest.approx(2, abs=CLOSE)
        assert min(await pairs[0], await pairs[1]) > 2
        cheap.cancel()


async def test_cheap_calls_overtake_none_further_on(valkey, name):
    """A newcomer's lane leads by others to a pair, and that to a dear call of one of its lanes.

    The server is asked for them together: else the pair, which costs less, would go before it.
    """
    lanes = {
        "a": [Rate(1, 1, 2)],
        "b": [Rate(1, 1, 4)],
        "c": [Rate(10, 1, 10)],
        "d": [Rate(10, 1, 10)],
    }
    async with make(valkey, name, lanes=lanes, ahead=0) as queue:
        await asyncio.gather(take(queue, key="a", cost=2), take(queue, key="b", cost=4))
        calls = [
            {"key": "b", "cost": 4},
            {"keys": ("b", "c")},
            {"keys": ("a", "c", "d"), "cost": 2},
        ]
        waiting = []
        for options in calls:
            waiting.append(asyncio.create_task(take(queue, **options)))
            await asyncio.sleep(0.01)
        await asyncio.sleep(1.3)
        assert await take(queue, key="d", priority=1) == pytest.approx(1.33, abs=CLOSE)
        assert await asyncio.gather(*waiting) == pytest.approx([4, 5, 2], abs=CLOSE)
