"""The promises of the design, each with its number, on random histories in virtual time."""

from __future__ import annotations

import asyncio
import itertools
import math

import pytest
from hypothesis import strategies as st

from aioapiqueue import Adaptive, QueueClosed, QueueFull, Rate, SlotTimeout, Window
from aioapiqueue.testing import VirtualLoop
from tests.helpers.introspect import after_grants, allowed_rate, record_releases
from tests.helpers.limiters import holds_for

RATES = st.builds(
    Rate,
    st.sampled_from([1, 7, 10, 100, 1000]),
    st.sampled_from([1.0, 3.0]),
    st.sampled_from([1, 1, 2, 5]),
)
CATCH_UP = st.sampled_from([0, 0.01, 0.25])
# (seconds after the call before, priority)
ARRIVALS = st.lists(
    st.tuples(st.sampled_from([0, 0, 0, 0.01, 0.1, 1.7]), st.sampled_from([0, 0, 1])),
    min_size=1,
    max_size=60,
)
STALLS = st.lists(st.tuples(st.floats(0, 3), st.floats(0.001, 0.5)), max_size=5)


async def releases(queue, arrivals, stalls=(), keys=None):
    """Let the calls arrive, with these keys; return [(instant, index)] in the order of release."""
    loop = asyncio.get_running_loop()
    index_of = {}
    order = record_releases(queue)

    async def call(slot):
        async with slot:
            pass

    for at, seconds in stalls:
        loop.call_at(loop.time() + at, loop.stall, seconds)
    tasks = []
    for index, (pause, priority) in enumerate(arrivals):
        if pause:
            await asyncio.sleep(pause)
        slot = queue.slot(priority=priority, key=keys and keys[index])
        index_of[slot] = index
        tasks.append(asyncio.create_task(call(slot)))
    await asyncio.gather(*tasks)
    await asyncio.sleep(max([0, *(at + seconds for at, seconds in stalls)]))
    return [(at, index_of[slot]) for at, slot in order if slot in index_of]


@holds_for(RATES, CATCH_UP, ARRIVALS, STALLS, st.sampled_from([0, 0.001, 0.016]))
def test_promise_1_the_limit_holds(limiter, run_virtual, rate, catch_up, arrivals, stalls, grain):
    """In any window, at most burst + (W + catch_up) / interval calls are released."""

    async def scenario():
        queue = limiter.queue(rate, catch_up=catch_up)
        return [at for at, _ in await releases(queue, arrivals, stalls)]

    if limiter.shared:
        grain = min(grain, catch_up)  # a process that is always later than that loses each slot
    times = run_virtual(scenario, grain=grain)
    assert len(times) == len(arrivals)
    for first, last in itertools.combinations(range(len(times)), 2):
        window = times[last] - times[first]
        allowed = rate.burst + (window + catch_up) / rate.interval
        rounding = limiter.rounding / rate.interval  # in calls
        assert last - first + 1 <= allowed + max(1e-6, rounding)


@holds_for(st.integers(1, 5), st.sampled_from([0.5, 1.0, 3.0]), ARRIVALS, STALLS)
def test_promise_1_a_window_holds(limiter, run_virtual, calls, per, arrivals, stalls):
    """A Window never lets more than its calls start in any half-open window."""

    async def scenario():
        return [at for at, _ in await releases(limiter.queue(Window(calls, per)), arrivals, stalls)]

    times = run_virtual(scenario)
    assert len(times) == len(arrivals)
    rounding = limiter.rounding if limiter.shared else 0
    later = zip(times, times[calls:], strict=False)
    assert all(after - before >= per - rounding for before, after in later)


@holds_for(RATES, RATES, CATCH_UP, ARRIVALS, st.lists(st.sampled_from("aab"), min_size=60))
def test_promise_1_each_limit_holds(limiter, run_virtual, rate, own, catch_up, arrivals, keys):
    """Those of a lane and those of all lanes, for the calls that come under each."""

    async def scenario():
        queue = limiter.queue(rate, lanes={"a": own}, catch_up=catch_up)
        order = await releases(queue, arrivals, keys=keys)
        return [(at, keys[index]) for at, index in order]

    released = run_virtual(scenario)
    assert len(released) == len(arrivals)
    for limit, times in (
        (rate, [at for at, _ in released]),
        (own, [at for at, key in released if key == "a"]),
    ):
        rounding = max(1e-6, limiter.rounding / limit.interval)
        for first, last in itertools.combinations(range(len(times)), 2):
            allowed = limit.burst + (times[last] - times[first] + catch_up) / limit.interval
            assert last - first + 1 <= allowed + rounding


# (seconds after the call before, how long its body takes, how it ends)
BODIES = st.lists(
    st.tuples(
        st.sampled_from([0, 0, 0.01, 0.4]),
        st.sampled_from([0, 0.05, 0.3]),
        st.sampled_from(["returns", "returns", "raises", "is cancelled"]),
    ),
    max_size=40,
)


@holds_for(st.integers(1, 4), st.sampled_from([[], ["20/s"], [Window(5, 1)]]), BODIES)
def test_promise_1_concurrency_holds(limiter, run_virtual, places, limits, bodies):
    """Never more bodies at once than that, however they end; and no place is lost."""

    async def scenario():
        queue = limiter.queue(*limits, concurrency=places)
        running = most = 0

        async def call(seconds, end):
            nonlocal running, most
            async with queue.slot():
                running += 1
                most = max(most, running)
                try:
                    await asyncio.sleep(seconds)
                finally:
                    running -= 1
                if end == "raises":
                    raise ZeroDivisionError

        tasks = []
        for pause, seconds, end in bodies:
            await asyncio.sleep(pause)
            tasks.append(asyncio.create_task(call(seconds, end)))
            if end == "is cancelled":
                asyncio.get_running_loop().call_later(0.1, tasks[-1].cancel)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert most <= places
        assert (queue.waiting, queue.running) == (0, 0)
        slots = [await queue.enqueue() for _ in range(places)]  # all of them are there
        assert queue.running == places
        for slot in slots:
            slot.release()
        await queue.aclose()
        await asyncio.sleep(0.1)  # for the timers above

    run_virtual(scenario)


@holds_for(RATES, st.integers(2, 60), st.sampled_from([0, 0.001]))
def test_promise_2_no_drift(limiter, run_virtual, rate, count, grain):
    """Under load the n-th release is due at t0 + n * interval, however late the others were."""
    count = count * 10 // 3 if limiter.at_length else count

    async def scenario():
        return [at for at, _ in await releases(limiter.queue(rate), [(0, 0)] * count)]

    times = run_virtual(scenario, grain=grain)
    for n, at in enumerate(times):
        due = max(0, (n + 1 - rate.burst) * rate.interval)
        late = grain + limiter.late(rate.interval)
        assert -limiter.rounding <= at - due <= late + limiter.rounding


@holds_for(RATES, CATCH_UP, st.floats(0.001, 3))
def test_promise_2_stalls_are_lost(limiter, run_virtual, rate, catch_up, stall):
    """Promise 2: a stall is not made up for.

    After a stall, at most the burst and catch_up's worth of calls start at once.
    """
    calls = 50 if limiter.at_length else 30

    async def scenario():
        loop = asyncio.get_running_loop()
        queue = limiter.queue(rate, catch_up=catch_up)
        loop.call_at(0.0005, loop.stall, stall)
        return [at for at, _ in await releases(queue, [(0, 0)] * calls)]

    times = run_virtual(scenario)
    together = max(times.count(at) for at in times)
    assert together <= rate.burst + catch_up / rate.interval + 1e-6


@holds_for(RATES, ARRIVALS, STALLS, st.sampled_from(["fifo", "fair"]))
def test_promise_3_fifo_within_a_priority(limiter, run_virtual, rate, arrivals, stalls, order):
    """Calls of one priority and key start in the order in which they came."""

    async def scenario():
        return await releases(limiter.queue(rate, order=order), arrivals, stalls)

    released = [index for _, index in run_virtual(scenario)]
    for priority in (0, 1):
        mine = [index for index in released if arrivals[index][1] == priority]
        assert mine == sorted(mine)


@holds_for(
    RATES, st.lists(st.sampled_from(["stays", "leaves", "leaves when granted"]), max_size=60)
)
def test_promise_4_cancellation_costs_nothing(limiter, run_virtual, rate, callers):
    """The others start when they would if the cancelled had never been."""

    async def scenario():
        loop = asyncio.get_running_loop()
        queue = limiter.queue(rate)
        times, tasks, marked = [], [], set()

        def granted(slot, _):
            if slot.key in marked:
                tasks[slot.key].cancel()

        after_grants(queue, granted)

        async def call(index):
            async with queue.slot(key=index):
                times.append(loop.time())

        async with queue.slot():  # so that everybody behind has to wait
            queue.pause(1)
            await limiter.settled()
            tasks += [loop.create_task(call(index)) for index in range(len(callers))]
            marked |= {i for i, kind in enumerate(callers) if kind == "leaves when granted"}
        await asyncio.sleep(0.5)
        for task, kind in zip(tasks, callers, strict=True):
            if kind == "leaves":
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert queue.stats.released == 1 + len(times)
        assert queue.stats.cancelled == len(callers) - len(times)
        return times

    times = run_virtual(scenario)
    assert len(times) == callers.count("stays")
    for n, at in enumerate(times):
        since_resume = max(1, 1 + (n + 1 - rate.burst) * rate.interval)
        since_begin = (n + 2 - rate.burst) * rate.interval
        lateness = [at - since_resume, at - since_begin] if at > 1 else [at - since_resume]
        longest = limiter.late(rate.interval) + limiter.rounding
        assert any(-limiter.rounding <= late <= longest for late in lateness)


class Grumbler:
    """An observer that fails on everything."""

    def on_event(self, event):
        raise ZeroDivisionError(event.kind)


@holds_for(
    RATES,
    st.lists(
        st.tuples(
            st.sampled_from(["runs", "raises", "cancelled", "timed out"]),
            st.sampled_from([0, 0, 0.05, 0.3]),
        ),
        max_size=40,
    ),
    st.sampled_from([None, 1, 5]),
    st.sampled_from(["raise", "drop_oldest"]),
    st.booleans(),
)
def test_promise_5_nothing_lost_nothing_stuck(limiter, rate, callers, concurrency, overflow, drain):
    """Every caller ends in exactly one way, whatever raises, and nothing outlives aclose()."""
    ends = []
    grumbles = []

    async def scenario():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: grumbles.append(context["exception"]))
        queue = limiter.queue(
            rate, concurrency=concurrency, maxsize=20, overflow=overflow, observers=[Grumbler()]
        )

        async def call(kind):
            try:
                async with queue.slot(timeout=0.2 if kind == "timed out" else None):
                    await asyncio.sleep(0.01)
                    ends.append("released")
                    if kind == "raises":
                        raise KeyError(kind)
            except (asyncio.CancelledError, KeyError, SlotTimeout, QueueFull, QueueClosed) as end:
                if not ends or not isinstance(end, KeyError):
                    ends.append(type(end).__name__)

        tasks = []
        for kind, pause in callers:
            tasks.append(loop.create_task(call(kind)))
            await asyncio.sleep(pause)
            if kind == "cancelled" and not tasks[-1].done():
                tasks[-1].cancel()
        await queue.aclose(drain=drain)
        await asyncio.gather(*tasks)
        await limiter.settled()  # the hub of these tests has a ticker of its own, on this loop
        stats = queue.stats
        assert (stats.waiting, stats.running) == (0, 0)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert loop.pending_timers == 0
        assert all(isinstance(error, ZeroDivisionError) for error in grumbles)
        return stats

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        stats = runner.run(scenario())
    # A body that is cancelled has both been released and ended cancelled.
    assert stats.released == ends.count("released") + (
        ends.count("CancelledError") - stats.cancelled
    )
    assert stats.timed_out == ends.count("SlotTimeout")
    assert stats.refused == ends.count("QueueFull") + ends.count("QueueClosed")


@holds_for(RATES, ARRIVALS)
def test_promise_6_idle_is_free(limiter, run_virtual, rate, arrivals):
    """Whenever nobody waits, there is no task and no timer."""

    async def scenario():
        loop = asyncio.get_running_loop()
        queue = limiter.queue(rate)
        await releases(queue, arrivals)
        await asyncio.sleep(0)
        assert queue.waiting == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert loop.pending_timers == 0
        before = loop.time()
        await asyncio.sleep(1000)
        assert loop.time() == before + 1000

    run_virtual(scenario)


@holds_for(st.lists(st.tuples(st.integers(1, 5), st.booleans()), min_size=1, max_size=4))
def test_promise_7_one_loop_at_once(limiter, runs):
    """Promise 7: any loop once at a time.

    A queue made without a loop serves one loop after another, even after one died in use.
    """
    queue = limiter.queue("100ms")

    async def scenario(count, leave_some):
        if leave_some:
            waiting = [asyncio.ensure_future(queue.enqueue()) for _ in range(5)]
            await asyncio.sleep(0)
            assert any(not future.done() for future in waiting)
        else:
            times = [at for at, _ in await releases(queue, [(0, 0)] * count)]
            assert len(times) == count

    for count, leave_some in runs:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(scenario(count, leave_some))
            other = VirtualLoop()
            with pytest.raises(RuntimeError, match="another event loop that is still open"):
                other.run_until_complete(use(queue))
            other.close()
    assert math.isfinite(queue.stats.waited)


async def use(queue):
    async with queue.slot():
        pass


# What happens at one and the same instant has an order here, but on a server, none but the order in
# which it is told; so on a shared limiter, other times are drawn by these numbers.
PAUSES = {False: [0, 0, 0, 0.1, 2], True: [0, 0, 0, 0.1003, 2.0007]}
TIMES = {False: [0.01, 0.3, 5], True: [0.0101, 0.3037, 5.0059]}
ANSWERED = {
    False: ["served", "served", None, 0, 0.5, 3],
    True: ["served", "served", None, 0, 0.5011, 3.0013],
}
ANSWERS = st.lists(
    st.tuples(*(st.integers(0, len(table[False]) - 1) for table in (PAUSES, TIMES, ANSWERED))),
    min_size=1,
    max_size=30,
)


@holds_for(ANSWERS, st.sampled_from([0.5, 0.7, 0.9]), st.booleans())
def test_promise_8_push_back_counts_once(limiter, run_virtual, answers, backoff, in_lane):
    """Promise 8: push back is heard once.

    One slow-down for each round of calls; holds are obeyed, and only ever extended.
    """
    tables = [table[limiter.shared] for table in (PAUSES, TIMES, ANSWERED)]
    calls = [[table[n] for table, n in zip(tables, call, strict=True)] for call in answers]

    async def scenario():
        loop = asyncio.get_running_loop()
        key = "lane" if in_lane else None
        queue = limiter.queue(
            *([] if in_lane else ["10/s"]),
            lanes={"lane": "10/s"},
            adaptive=Adaptive("0.5/s", backoff),
        )
        rounding = limiter.rounding if limiter.shared else 0
        slowed_at, held_until, slowed, holds = -math.inf, -math.inf, 0, []

        def rate():
            """Return the rate now, as far as it is known here and not on the server only."""
            return math.nan if limiter.shared else allowed_rate(queue, key)

        async def call(seconds, answer):
            nonlocal slowed_at, held_until, slowed
            async with queue.slot(key=key) as slot:
                released = loop.time()
                assert all(released <= at or until <= released + rounding for at, until in holds)
                await asyncio.sleep(seconds)
                if answer == "served":
                    return
                before = min(10, rate())
                slot.throttled(answer)
                held_until = max(held_until, loop.time() + (answer or 0))
                holds.append((loop.time(), held_until))
                new_round = released > slowed_at
                if new_round:
                    slowed_at, slowed = loop.time(), slowed + 1
                await limiter.settled()
                assert queue.stats.backed_off == slowed
                if not limiter.shared and new_round:
                    assert rate() <= max(0.5, backoff * before) + 1e-9
                elif not limiter.shared:
                    assert rate() in {before, math.inf}
                assert queue.estimate(key=key) >= held_until - loop.time() - limiter.rounding

        async with asyncio.TaskGroup() as group:
            for pause, seconds, answer in calls:
                await asyncio.sleep(pause)
                group.create_task(call(seconds, answer))
        assert queue.stats.throttled == sum(answer != "served" for *_, answer in calls)
        assert queue.stats.released == len(calls)

    run_virtual(scenario)


@holds_for(ARRIVALS, st.booleans(), st.floats(0, 1), st.booleans())
def test_promise_9_closed_means_closed(limiter, run_virtual, arrivals, drain, patience, by_block):
    """Once closed, nothing starts, however it is asked; and nothing is left."""

    async def scenario():
        loop, starts, ends = asyncio.get_running_loop(), [], []
        queue = limiter.queue("20/s", lanes={"a": "5/s"}, concurrency=3)

        async def call(priority):
            try:
                async with queue.slot(priority=priority, key="a" if priority else None):
                    starts.append(loop.time())
                    await asyncio.sleep(0.02)
                ends.append("released")
            except QueueClosed:
                ends.append("closed")

        async def arrive():
            for pause, priority in arrivals:
                await asyncio.sleep(pause)
                tasks.append(asyncio.create_task(call(priority)))

        tasks = []
        arriving = asyncio.create_task(arrive())
        await asyncio.sleep(patience)
        if by_block and drain:
            async with queue:
                pass
        else:
            await queue.aclose(drain=drain)
        closed = loop.time()
        assert queue.waiting == 0
        for enter in (queue.enqueue, queue.try_slot, queue.slot().__aenter__):
            with pytest.raises(QueueClosed):
                enter()
        await arriving
        await asyncio.gather(*tasks)
        assert len(ends) == len(arrivals)
        assert len(starts) == ends.count("released") == queue.stats.released
        assert max(starts, default=-math.inf) <= closed
        assert queue.running == 0

    run_virtual(scenario)
