from __future__ import annotations

import asyncio
import contextlib
import random
from itertools import pairwise

import pytest

from aioapiqueue import Adaptive, ApiQueue, HostSchedule, Rate, Stats, Window, WouldWait
from aioapiqueue.spi import QueueReader
from tests.helpers.instants import free, line_up, now, released


class Releases:
    """An observer that notes the instant of each release: a stall may delay the body after it."""

    def __init__(self):
        self.at = []

    def on_event(self, event):
        """Keep releases."""
        if event.kind == "released":
            self.at.append(event.at)


def most_in(starts, per):
    """Return how many of the sorted `starts` lie in the fullest stretch of `per` seconds."""
    most = first = 0
    for last, start in enumerate(starts):
        while starts[first] < start - per:
            first += 1
        most = max(most, last - first + 1)
    return most


# Pacing.


@pytest.mark.contract
async def test_calls_start_one_interval_apart(limiter):
    """Calls start one interval apart the first at once.

    Five callers at 10/s start at 0.0, 0.1, ...
    """
    assert await released(limiter.queue("10/s"), 5) == limiter.exactly([0.0, 0.1, 0.2, 0.3, 0.4])


@pytest.mark.contract
async def test_release_is_in_arrival_order(limiter):
    """Waiters are released in order of arrival.

    FIFO, also when a task that has had its turn comes again.
    """
    queue, arrived, order = limiter.queue("10/s"), [], []

    async def worker(name):
        for turn in range(4):
            arrived.append((name, turn))
            async with queue.slot():
                order.append((name, turn))
                await asyncio.sleep(0.07 * turn)

    await asyncio.gather(*map(worker, "abc"))
    assert len(order) == 12
    assert order == arrived


@pytest.mark.contract
async def test_newcomer_never_overtakes_a_waiter(limiter):
    """A newcomer never overtakes who waits though a slot is due.

    A slot is due after a stall, but a caller that waits goes first.
    """
    queue, order = limiter.queue("10/s"), []

    async def call(name):
        async with queue.slot():
            order.append(name)

    await call("first")
    waiting = asyncio.create_task(call("waiter"))
    await asyncio.sleep(0)
    asyncio.get_running_loop().stall(0.1)
    await call("newcomer")
    await waiting
    assert order == ["first", "waiter", "newcomer"]


@pytest.mark.contract
@pytest.mark.parametrize("calls", [2000, pytest.param(10_000, marks=pytest.mark.slow)])
async def test_nth_release_has_no_drift(limiter, calls):
    """The nth release is at n intervals without drift.

    Thousands at 7 per 3 s, each to the nanosecond where it belongs.
    """
    calls = limiter.fewer(calls)
    await asyncio.sleep(1)
    starts = await released(limiter.queue(Rate(7, 3)), calls)
    assert starts == limiter.exactly([1 + n * 3 / 7 for n in range(calls)])


@pytest.mark.contract
async def test_worker_keeps_the_pace(limiter):
    """A worker that takes its time keeps the pace.

    Bodies shorter than the interval do not add to it.
    """
    queue, starts = limiter.queue("10/s"), []
    for _ in range(100):
        async with queue.slot():
            starts.append(now())
            await asyncio.sleep(0.07)
    assert starts == limiter.exactly([n / 10 for n in range(100)])


@pytest.mark.parametrize("grain", [0.001, 0.004])
def test_late_timers_do_not_add_up(limiter, run_virtual, grain):
    """On a loop whose timers are late by up to `grain`, each start is late by no more.

    On a host, calls due within a few milliseconds start together.
    """
    late = grain + limiter.late(1 / 333)

    async def scenario():
        starts = await released(limiter.queue("333/s"), 333)
        assert all(
            -limiter.rounding <= start - n / 333 <= late + limiter.rounding
            for n, start in enumerate(starts)
        )
        assert any(start - n / 333 > grain / 2 for n, start in enumerate(starts))

    run_virtual(scenario, grain=grain)


@pytest.mark.contract
async def test_a_burst_after_a_rest(limiter):
    """`burst` calls at once, the rest at the interval; after a rest, a burst again."""
    queue = limiter.queue(Rate(10, burst=3))
    assert await released(queue, 5) == limiter.exactly([0, 0, 0, 0.1, 0.2])
    await asyncio.sleep(9.8)
    assert await released(queue, 4) == limiter.exactly([10, 10, 10, 10.1])


@pytest.mark.contract
async def test_several_limits_hold_at_once(limiter):
    """0.1 s apart, at most three a second and five in ten seconds."""
    queue = limiter.queue("10/s", Window(3, 1), Window(5, 10))
    assert await released(queue, 7) == limiter.exactly([0, 0.1, 0.2, 1.0, 1.1, 10.0, 10.1])


@pytest.mark.contract
@pytest.mark.ahead
async def test_a_window_is_exact(limiter):
    """Random arrivals: never more than 5 in a second, and nobody waits while there is room."""
    queue, rng, calls = limiter.queue(Window(5, 1)), random.Random(7), []

    async def call():
        arrived = now()
        async with queue.slot():
            calls.append((arrived, now()))

    async with asyncio.TaskGroup() as group:
        for _ in range(250):
            group.create_task(call())
            await asyncio.sleep(rng.expovariate(4.8))
    starts = [start for _, start in calls]
    assert most_in(starts, 1 - limiter.rounding) == 5
    waits = [
        (n, start) for n, (arrived, start) in enumerate(calls) if start > arrived + limiter.rounding
    ]
    assert len(waits) > 50
    assert all(start == limiter.exactly(starts[n - 5] + 1) for n, start in waits)


@pytest.mark.contract
async def test_no_limit_is_no_wait(limiter):
    """A queue without limits counts its calls and holds nobody."""
    queue = limiter.queue()
    assert await released(queue, 1000) == [0.0] * 1000
    assert queue.stats.released == 1000


@pytest.mark.contract
async def test_short_stall_is_made_up_for(limiter):
    """A stall within `catch_up` is made up for.

    8 ms late: the next is on its own instant again.
    """
    queue = limiter.queue("100/s", catch_up=0.01)
    asyncio.get_running_loop().call_at(0.0100001, asyncio.get_running_loop().stall, 0.017)
    starts = await released(queue, 6)
    assert starts[2:] == limiter.exactly([0.0270001, 0.03, 0.04, 0.05])


@pytest.mark.contract
async def test_long_stall_is_dropped(limiter):
    """A stall longer than `catch_up` is dropped.

    75 ms late at 100/s with 10 ms of catch-up: one call extra, not seven, then the pace.
    """
    queue, loop = limiter.queue("100/s", catch_up=0.01), asyncio.get_running_loop()
    loop.call_at(0.015, loop.stall, 0.075)
    starts = await released(queue, 6)
    assert starts == limiter.exactly([0.0, 0.01, 0.09, 0.09, 0.10, 0.11])


async def test_catch_up_of_calls_that_need_not_wait():
    """Lateness beyond `catch_up` is dropped, too, where calls come late and none waits."""
    step = 1 / 1024
    queue = ApiQueue("1024/s", catch_up=10 * step)
    for pause in (0, 5 * step, 9 * step):
        await asyncio.sleep(pause)
        queue.try_slot()
    # The third, at step 14, took the place of step 4; those of 5 to 14 are left.
    assert free(queue) == 10


@pytest.mark.contract
async def test_no_catch_up_is_strict_gap(limiter):
    """`catch_up` 0 is a strict gap.

    However late a call was, the next starts no sooner than an interval after it.
    """
    loop, rng, releases = asyncio.get_running_loop(), random.Random(3), Releases()
    queue = limiter.queue("100/s", catch_up=0, observers=[releases])
    for n in range(40):
        loop.call_at(n * 0.031, loop.stall, rng.random() * 0.03)
    await released(queue, 200)
    gaps = [b - a for a, b in pairwise(releases.at)]
    assert min(gaps) == limiter.exactly(0.01)
    assert max(gaps) > 0.011


@pytest.mark.contract
@pytest.mark.ahead
@pytest.mark.parametrize("burst", [1, 5])
async def test_stall_with_waiters_makes_no_burst(limiter, burst):
    """A stall with a thousand waiters makes no burst.

    In any W seconds at most `burst + (W + catch_up) / interval`, stalls of 50 ms or not.
    """
    loop, releases = asyncio.get_running_loop(), Releases()
    queue = limiter.queue(Rate(1000, burst=burst), catch_up=0.01, observers=[releases])
    for n in range(6):
        loop.call_at(0.0303 + n * 0.2, loop.stall, 0.05)
    await released(queue, 1000)
    assert len(releases.at) == 1000
    for per in (0.0, 0.001, 0.01, 0.05, 0.1, 1.0):
        assert most_in(releases.at, per) <= burst + (per + 0.01) * 1000 + 1e-6, per
    assert most_in(releases.at, 0.0) > 5  # the stalls were felt


# Cost.


@pytest.mark.contract
async def test_cost_takes_many_intervals(limiter):
    """A cost takes so many intervals from those behind.

    Cost 3 goes when due, and the next waits three intervals.
    """
    queue, starts = limiter.queue(Rate(10, burst=3)), []

    async def call(cost):
        async with queue.slot(cost=cost):
            starts.append((cost, now()))

    await asyncio.gather(*map(call, (3, 1, 2, 0.5)))
    assert [cost for cost, _ in starts] == [3, 1, 2, 0.5]
    assert [start for _, start in starts] == limiter.exactly([0, 0.1, 0.3, 0.35])


@pytest.mark.contract
async def test_cost_above_burst_waits(limiter):
    """A cost above the burst waits its due time.

    Cost 5 on an idle 10/s waits for four intervals first.
    """
    queue = limiter.queue("10/s")
    assert await released(queue, 2, cost=5) == limiter.exactly([0.4, 0.9])


@pytest.mark.contract
@pytest.mark.ahead
async def test_large_cost_is_not_overtaken(limiter):
    """A large cost is not overtaken by small ones.

    Small costs that would fit wait behind the large one that does not yet.
    """
    queue, order = limiter.queue(Window(10, 1)), []

    async def call(cost):
        async with queue.slot(cost=cost):
            order.append((cost, now()))

    await asyncio.gather(*map(call, (6, 10, 1, 1)))
    assert order == [(6, 0.0), (10, 1.0), (1, 2.0), (1, 2.0)]


@pytest.mark.contract
async def test_cost_above_window_is_refused(limiter):
    """A cost above a window is a value error.

    It could never start, and says so at once, in every way in.
    """
    queue = limiter.queue("10/s", Window(5, 1))
    for enter in (queue.enqueue, queue.try_slot, queue.estimate):
        with pytest.raises(ValueError, match="split the call"):
            enter(cost=6)
    lane = limiter.queue(lanes={"a": Window(5, 1)})
    for slot in (queue.slot(cost=6), lane.slot(key="a", cost=6)):
        with pytest.raises(ValueError, match="split the call"):
            await slot.__aenter__()
    for one in (queue, lane):
        assert (one.waiting, one.running, one.stats.released) == (0, 0, 0)


async def test_unsaid_costs_are_refused(limiter):
    """A call that says nothing of what the one limit counts is refused by every way in."""
    queue = limiter.queue("10 tokens/s")
    for enter in (queue.enqueue, queue.try_slot, queue.estimate):
        with pytest.raises(ValueError, match=r'write cost=\{"tokens": amount\}'):
            enter()
    with pytest.raises(ValueError, match=r'write cost=\{"tokens": amount\}'):
        await queue.slot().__aenter__()
    assert (queue.waiting, queue.running, queue.stats.released) == (0, 0, 0)


@pytest.mark.parametrize(
    "options",
    [{"cost": -1}, {"cost": float("nan")}, {"cost": float("inf")}, {"priority": float("nan")}],
)
async def test_senseless_arguments_are_refused(limiter, options):
    """Arguments that are invalid are refused.

    Costs and priorities are checked by every way in.
    """
    queue = limiter.queue("10/s")
    for enter in (queue.slot, queue.enqueue, queue.try_slot, queue.estimate):
        with pytest.raises(ValueError, match=next(iter(options))):
            enter(**options)
    with pytest.raises(ValueError, match="timeout"):
        queue.slot(timeout=-1)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        *(
            ({"schedule": one}, 'schedule must be a .*, not .*: write HostSchedule\\("NAME"\\)$')
            for one in ("10/s", "crm", Rate(10), HostSchedule)
        ),
        *(
            ({"adaptive": one}, "adaptive must be an Adaptive, not .*: write Adaptive\\(\\)$")
            for one in (True, Adaptive)
        ),
    ],
)
def test_parts_are_told_what_to_write(options, why):
    """A name or a class is not what slows down, nor what keeps a quota."""
    with pytest.raises(TypeError, match=why):
        ApiQueue("10/s", **options)


@pytest.mark.parametrize("cost", [True, False, "1", None, {"calls": True}])
async def test_a_cost_is_a_number(limiter, cost):
    """What is no number is refused, be it equal to the default."""
    queue = limiter.queue("10/s")
    for enter in (queue.slot, queue.enqueue, queue.try_slot, queue.estimate):
        with pytest.raises(TypeError, match=r"^cost(\['calls'\])? must be a number"):
            enter(cost=cost)


async def test_idle_queue_makes_up_too():
    """A call that need not wait makes up for a stall as long as `catch_up`, and for no longer one.

    Nobody waits here, which is the way of most calls.
    """
    queue = ApiQueue("1000/s", catch_up=0.25)

    def at_once():
        """Count the calls that need not wait now."""
        count = 0
        with contextlib.suppress(WouldWait):
            while True:
                queue.try_slot().release()
                count += 1
        return count

    assert at_once() == 1
    await asyncio.sleep(0.25)  # exact, as a float
    assert at_once() == pytest.approx(250, abs=1)
    await asyncio.sleep(0.125)
    assert at_once() == pytest.approx(125, abs=1)
    await asyncio.sleep(0.251)
    assert at_once() == 1


async def test_idle_once_nothing_is_owed():
    """A queue is as good as new once no limit of it owes a wait; never, if limits were set."""
    queue = ApiQueue("10/s", lanes={"a": "1/s"})
    idle = QueueReader(queue).is_idle
    assert idle()
    with queue.try_slot(key="a"):
        await asyncio.sleep(2)
        assert not idle()
    assert idle()
    queue.try_slot(key="a").release()
    for pause, is_idle in ((0.05, False), (0.8, False), (0.3, True)):  # the lane's is the longer
        await asyncio.sleep(pause)
        assert idle() == is_idle
    queue.set_rate("10/s")
    assert not idle()


async def test_stats_are_printed_without_zeros():
    """In the figures of lanes, too, and by `repr` as by `str`."""
    queue = ApiQueue("10/s burst 3", lanes={"a": "5/s burst 2", "b": "1/s"})
    new = "'b': LaneStats(remaining={'calls': 1})}"
    assert str(queue.stats) == (
        f"Stats(lanes={{'a': LaneStats(remaining={{'calls': 2}}), {new}, remaining={{'calls': 3}})"
    )
    async with queue.slot(key="a"):
        left = "released=1, costs={'calls': 1}, remaining={'calls': "
        assert str(queue.stats) == (
            f"Stats(running=1, lanes={{'a': LaneStats({left}1.0}}), {new}, lanes_in_memory=1, "
            f"{left}2.0}})"
        )
    for figures in (queue.stats, queue.stats.lanes["a"]):
        assert repr(figures) == str(figures)


def test_stats_have_no_more_digits_than_mean_something():
    """A millionth is the least that is shown; what is compared stays exact."""
    figures = Stats(waited=0.1 + 0.2, remaining={"calls": 2 / 3})
    assert repr(figures) == "Stats(waited=0.3, remaining={'calls': 0.666667})"
    assert figures.waited == 0.1 + 0.2


@pytest.mark.parametrize(
    ("comes", "starts", "then"),
    [
        ([0, 0.13, 0.27], [0, 0.13, 0.27], 0.03),  # none has to wait
        ([0, 0, 0.23], [0, 0.1, 0.23], 0.07),
    ],
)
async def test_late_calls_keep_the_grid(comes, starts, then):
    """A call that comes late by less than `catch_up` moves no later one."""
    queue, started = ApiQueue("10/s", catch_up=0.2), []
    for at in comes:
        await asyncio.sleep(at - now())
        tasks = line_up(queue, started, 1)
    await asyncio.wait(tasks)
    assert started == pytest.approx(starts)
    assert queue.estimate() == pytest.approx(then)
