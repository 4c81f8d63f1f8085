"""Under a rate of hundreds of calls per second, calls start in groups."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from aioapiqueue import Rate, SlotTimeout, WouldWait
from aioapiqueue.spi import algorithms
from tests.helpers import introspect
from tests.helpers.limiters import Limiter

pytestmark = pytest.mark.no_server  # where one does, see tests/shared/redis/test_groups.py


def call_of(queue, starts):
    """Return a function that makes a call, and notes when it starts."""

    async def call(*, lasts=0.0, **options):
        async with queue.slot(**options):
            starts.append(round(asyncio.get_running_loop().time(), 6))
            await asyncio.sleep(lasts)

    return call


def noting(looks):
    """Return a wrapper of a queue's looks that notes when they happen."""
    return lambda look: lambda now, **how: looks.append(now) or look(now, **how)


async def starts_of(queue, number, **options):
    """Return when each of so many calls starts, which are made at once."""
    starts = []
    call = call_of(queue, starts)
    await asyncio.gather(*(call(**options) for _ in range(number)))
    return starts


async def test_fast_calls_start_in_groups(limiter):
    """A group starts 5 ms after the one before, with all calls that are due by then."""
    starts = await starts_of(limiter.queue("1000/s"), 15)
    assert starts == pytest.approx([0, 0.001, *[0.006] * 5, *[0.011] * 5, *[0.016] * 3])


async def test_slow_calls_start_when_due(limiter):
    """Up to 200 calls per second, each one starts at its own instant."""
    starts = await starts_of(limiter.queue("200/s"), 5)
    assert starts == pytest.approx([0, 0.005, 0.010, 0.015, 0.020])


@pytest.mark.parametrize(
    ("catch_up", "expected"),
    [
        (0, [0, 0.001, 0.002, 0.003]),
        (0.004, [0, 0.001, 0.003, 0.003]),
        (3, [0, 0.001, 0.006, 0.006]),
    ],
)
async def test_groups_are_within_catch_up(limiter, catch_up, expected):
    """Groups are closer together if `catch_up` is small; with 0, no call starts late."""
    queue = limiter.queue("1000/s", catch_up=catch_up)
    assert await starts_of(queue, 4) == pytest.approx(expected)


@pytest.mark.parametrize("rate", [1000, 20_000])
async def test_ticker_wakes_once_for_a_group(rate):
    """At 200 groups per second, there are hardly more looks."""
    queue, looks = Limiter().queue(f"{rate}/s"), []
    introspect.wrap_looks(queue, noting(looks))
    await starts_of(queue, rate + 1)
    assert asyncio.get_running_loop().time() == pytest.approx(1, abs=0.005)
    assert len(looks) <= 205


async def test_burst_leaves_before_groups(limiter):
    """A burst starts at once; what comes after it starts in groups."""
    starts = await starts_of(limiter.queue("1000/s burst 3"), 8)
    assert starts == pytest.approx([0, 0, 0, 0.001, *[0.006] * 4])


async def test_cheap_calls_start_in_groups(limiter):
    """What counts is how often calls are due, not how large the rate is."""
    queue = limiter.queue("10000 tokens/s burst 50")
    cheap = await starts_of(queue, 8, cost={"tokens": 10})
    assert cheap == pytest.approx([*[0] * 5, 0.001, 0.006, 0.006])
    await asyncio.sleep(1)
    dear = await starts_of(queue, 3, cost={"tokens": 50})
    assert [at - dear[0] for at in dear] == pytest.approx([0, 0.005, 0.010])


async def test_permit_is_used_at_once(limiter):
    """A permit that comes free between two groups is used at once."""
    starts = []
    queue = limiter.queue("1000/s, 2 at once")
    call = call_of(queue, starts)
    await asyncio.gather(call(lasts=1), *(call(lasts=0.002) for _ in range(3)))
    assert starts == pytest.approx([0, 0.001, 0.003, 0.005])


async def test_urgent_call_waits_for_no_group(limiter):
    """A call that goes before those that wait starts when it is due itself."""
    starts, urgent = [], []
    queue = limiter.queue("1000/s")
    call = call_of(queue, starts)
    tasks = [asyncio.create_task(call()) for _ in range(10)]
    await asyncio.sleep(0.0015)
    await call_of(queue, urgent)(priority=-1)
    assert urgent == pytest.approx([0.002])
    await asyncio.gather(*tasks)


async def test_call_in_idle_queue_waits_for_no_group(limiter):
    """A call that joins when no other waits starts when it is due."""
    queue = limiter.queue("1000/s")
    assert await starts_of(queue, 4) == pytest.approx([0, 0.001, 0.006, 0.006])
    assert await starts_of(queue, 1) == pytest.approx([0.006])  # one was due meanwhile
    assert await starts_of(queue, 3) == pytest.approx([0.006, 0.006, 0.007])


async def test_resumed_calls_wait_for_no_group(limiter):
    """Resumed calls start at once."""
    starts = []
    queue = limiter.queue("1000/s")
    call = call_of(queue, starts)
    tasks = [asyncio.create_task(call()) for _ in range(3)]
    await asyncio.sleep(0.0015)
    queue.pause()
    await asyncio.sleep(0.002)
    queue.resume()
    await asyncio.gather(*tasks)
    assert starts == pytest.approx([0, 0.001, 0.0035])


async def test_lane_leaves_hold_between_groups(limiter):
    """The end of a lane's hold is not delayed by groups of other lanes."""
    held, others = [], []
    queue = limiter.queue(lanes={"held": "1000/s", "other": "1000/s"})
    queue.hold(0.0085, key="held")
    await limiter.settled()
    await asyncio.gather(
        call_of(queue, held)(key="held"),
        *(call_of(queue, others)(key="other") for _ in range(20)),
    )
    assert held == pytest.approx([0.0085])
    assert Counter(others) == {0: 1, 0.001: 1, 0.006: 5, 0.0085: 2, 0.0135: 5, 0.0185: 5, 0.0235: 1}


async def test_slow_lane_beside_fast_one(limiter):
    """Calls of a slow lane start when they are due, whatever other lanes do."""
    slow, fast = [], []
    queue = limiter.queue(lanes={"slow": "100/s", "fast": "1000/s"})
    await asyncio.gather(
        *(call_of(queue, slow)(key="slow") for _ in range(4)),
        *(call_of(queue, fast)(key="fast") for _ in range(40)),
    )
    assert slow == pytest.approx([0, 0.010, 0.020, 0.030])
    assert len(set(fast)) == 10


async def test_lanes_under_one_limit_start_together(limiter):
    """The calls of all lanes that wait for the queue's own limit start in its groups."""
    starts = []
    queue = limiter.queue("1000/s", lanes={"*": "500/s burst 20"})
    call = call_of(queue, starts)
    await asyncio.gather(*(call(key=key) for _ in range(5) for key in "abc"))
    assert Counter(starts) == {0: 1, 0.001: 1, 0.006: 5, 0.011: 5, 0.016: 3}


async def test_windows_lose_no_time(limiter):
    """A window makes up for nothing, so its calls start when they are due."""
    queue = limiter.queue(lanes={"a": "1 in any 2ms", "b": "1 in any 3ms", "c": "1000/s"})
    starts = {key: [] for key in "abc"}
    await asyncio.gather(
        *(call_of(queue, starts[key])(key=key) for _ in range(10) for key in "abc")
    )
    assert starts["a"] == pytest.approx([n * 0.002 for n in range(10)])
    assert starts["b"] == pytest.approx([n * 0.003 for n in range(10)])


async def test_window_beside_a_rate(limiter):
    """Where a window is what a call waits for, the rate does not delay it."""
    starts = await starts_of(limiter.queue("1000/s", "3 in any 10ms"), 6)
    assert starts == pytest.approx([0, 0.001, 0.006, 0.010, 0.011, 0.016])


async def test_late_look_delays_no_other():
    """After a stall, the next group starts when it would have started without it."""
    loop, starts = asyncio.get_running_loop(), []
    queue = Limiter().queue("1000/s")
    call = call_of(queue, starts)
    loop.call_at(0.0055, loop.stall, 0.003)
    await asyncio.gather(*(call() for _ in range(20)))
    assert Counter(starts) == {0: 1, 0.001: 1, 0.0085: 7, 0.011: 3, 0.016: 5, 0.021: 3}


@pytest.mark.parametrize("ends", [0.003, 0.0095])
async def test_timeout_ends_in_no_group(ends):
    """Of calls with a timeout, as many start as are due by then, each when it is due."""
    starts, queue = [], Limiter().queue("1000/s")
    call = call_of(queue, starts)
    others = [asyncio.create_task(call()) for _ in range(3)]
    await asyncio.sleep(0)
    calls = [call(timeout=ends) for _ in range(20)]
    ended = await asyncio.gather(*calls, return_exceptions=True)
    assert ended.count(None) == int(ends * 1000) - 2
    assert starts[-1] == pytest.approx(int(ends * 1000) / 1000)
    await asyncio.gather(*others)


@pytest.mark.parametrize("lanes", [{}, {"a": "1000/s"}])
async def test_look_that_starts_none_plans_no_group(lanes):
    """A timer that is early, as those of uvloop are, does not delay the call that is due."""
    queue = Limiter().queue("1000/s", lanes=lanes)
    calls = [queue.enqueue(key=key) for key in (None, "a", None)]
    await asyncio.sleep(0.0005)
    assert introspect.release_due(queue, planned=0.001) == pytest.approx(0.001)
    await asyncio.gather(*calls)


async def in_two_lanes(queue):
    """Have calls of two lanes wait for the next group; return all calls by key, and their starts.

    The first group starts at 2 ms, as a single call of each lane starts at 0 and 1 ms.
    """
    starts = {key: [] for key in ("a", "b", "new")}
    calls = [call_of(queue, starts[key])(key=key) for key in "ab" for _ in range(3)]
    tasks = [asyncio.create_task(call) for call in calls]
    await asyncio.sleep(0.0035)
    return starts, tasks


@pytest.mark.parametrize("order", ["fifo", "fair"])
async def test_newcomer_does_not_take_a_due_slot(limiter, order):
    """A call of another lane does not start before those that wait for their group."""
    queue = limiter.queue("6 in any 10s", lanes={"*": "1000/s"}, order=order)
    starts, tasks = await in_two_lanes(queue)
    await call_of(queue, starts["new"])(key="new")
    await asyncio.gather(*tasks)
    assert max(*starts["a"], *starts["b"]) <= 0.006
    assert starts["new"] == pytest.approx([10])


async def test_no_free_slot_while_calls_are_due():
    """`try_slot` does not take what calls of other lanes are due for."""
    queue = Limiter().queue("6 in any 10s", lanes={"*": "1000/s"})
    _, tasks = await in_two_lanes(queue)
    with pytest.raises(WouldWait):
        queue.try_slot(key="new")
    await asyncio.gather(*tasks)


@pytest.mark.parametrize("name", ["pause", "hold"])
async def test_end_of_pause_is_not_delayed(limiter, name):
    """Calls of several lanes that wait for their group start when a pause of the queue ends."""
    queue = limiter.queue(lanes={"*": "1000/s"})
    starts = {key: [] for key in "ab"}
    calls = [call_of(queue, starts[key])(key=key) for key in "ab" for _ in range(3)]
    tasks = [asyncio.create_task(call) for call in calls]
    await asyncio.sleep(0.0015)
    getattr(queue, name)(0.002)
    await asyncio.gather(*tasks)
    assert starts == {key: pytest.approx([0, 0.001, 0.0035]) for key in "ab"}


async def test_lane_leaves_hold_under_a_busy_limit(limiter):
    """The same for the hold of one lane, where the queue's own limit has room."""
    held, others = [], []
    queue = limiter.queue("1000/s", lanes={"*": "2000/s"})
    queue.hold(0.0035, key="held")
    await limiter.settled()
    await asyncio.gather(
        call_of(queue, held)(key="held"),
        *(call_of(queue, others)(key="other") for _ in range(8)),
    )
    assert held == pytest.approx([0.0035])
    assert others == pytest.approx([0, 0.001, 0.0035, *[0.0085] * 5])


async def test_late_call_of_a_slow_rate_delays_no_other():
    """Below 200 calls per second nothing waits for a group, even after another limit's delay."""
    queue = Limiter().queue("100/s burst 2", "3 in any 27ms")
    assert await starts_of(queue, 6) == pytest.approx([0, 0, 0.010, 0.027, 0.030, 0.040])


@pytest.mark.parametrize("lanes", [{}, {"*": "2000/s"}])
async def test_timeout_shorter_than_a_group(lanes):
    """A call that joins with a short timeout starts when it is due, not when the group does."""
    queue, starts = Limiter().queue("1000/s", lanes=lanes), {}

    async def call(number, **options):
        async with queue.slot(key="ab"[number % 2], **options):
            starts[number] = asyncio.get_running_loop().time()

    tasks = [asyncio.create_task(call(number)) for number in range(4)]
    await asyncio.sleep(0.0012)
    await call(4, timeout=0.0045)
    await asyncio.gather(*tasks)
    assert starts[4] == pytest.approx(0.004)


@pytest.mark.parametrize("between", [0.00037, 0.0113])
@pytest.mark.parametrize("limit", ["10/s", "3 in any 1s", "1000/s"])
async def test_timeouts_cause_few_looks(limit, between):
    """A timeout that is about to end wakes the ticker only if it waits for a group."""
    queue, looks = Limiter().queue(limit), []
    introspect.wrap_looks(queue, noting(looks))
    calls = [queue.enqueue(timeout=2 + number * between) for number in range(200)]
    ended = await asyncio.gather(*calls, return_exceptions=True)
    assert limit == "1000/s" or any(isinstance(one, SlotTimeout) for one in ended)
    assert len(looks) <= 210


@pytest.mark.parametrize(("planned", "expected"), [(0.999, 1.004), (1, 1.005), (99, 1.005)])
def test_group_is_planned_from_now(planned, expected):
    """A late look delays no group, and neither does one that came before its plan."""
    bucket = algorithms.TokenBucket(Rate(1000), catch_up=0.01)
    bucket.consume(1, (1,))
    assert algorithms.next_look((bucket,), (1,), bucket.tat, 1, planned) == pytest.approx(expected)


async def test_many_timeouts_cause_few_looks():
    """Near the end of one timeout, that of another one changes nothing."""
    queue, looks = Limiter().queue("1000/s"), []
    introspect.wrap_looks(queue, noting(looks))
    calls = [queue.enqueue(timeout=0.1 + number * 0.00037) for number in range(1000)]
    ended = await asyncio.gather(*calls, return_exceptions=True)
    assert any(isinstance(one, SlotTimeout) for one in ended)
    assert len(looks) <= 1000
