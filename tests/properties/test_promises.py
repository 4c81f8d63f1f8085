"""The promises of the design, each with its number, on random histories in virtual time."""

from __future__ import annotations

import asyncio
import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioapiqueue import Adaptive, ApiQueue, QueueClosed, QueueFull, Rate, SlotTimeout, Window
from aioapiqueue.testing import VirtualLoop
from tests.helpers.introspect import after_grants, allowed_rate, record_releases

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


async def releases(queue, arrivals, stalls=()):
    """Let the calls arrive; return [(instant, index)] in the order of release."""
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
        slot = queue.slot(priority=priority)
        index_of[slot] = index
        tasks.append(asyncio.create_task(call(slot)))
    await asyncio.gather(*tasks)
    await asyncio.sleep(max([0, *(at + seconds for at, seconds in stalls)]))
    return [(at, index_of[slot]) for at, slot in order if slot in index_of]


@given(RATES, CATCH_UP, ARRIVALS, STALLS, st.sampled_from([0, 0.001, 0.016]))
def test_promise_1_the_limit_holds(run_virtual, rate, catch_up, arrivals, stalls, grain):
    """In any window, at most burst + (W + catch_up) / interval calls are released."""

    async def scenario():
        queue = ApiQueue(rate, catch_up=catch_up)
        return [at for at, _ in await releases(queue, arrivals, stalls)]

    times = run_virtual(scenario, grain=grain)
    assert len(times) == len(arrivals)
    for first, last in itertools.combinations(range(len(times)), 2):
        window = times[last] - times[first]
        allowed = rate.burst + (window + catch_up) / rate.interval
        assert last - first + 1 <= allowed + 1e-6


@given(st.integers(1, 5), st.sampled_from([0.5, 1.0, 3.0]), ARRIVALS, STALLS)
def test_promise_1_a_window_holds(run_virtual, calls, per, arrivals, stalls):
    """A Window never lets more than its calls start in any half-open window."""

    async def scenario():
        return [at for at, _ in await releases(ApiQueue(Window(calls, per)), arrivals, stalls)]

    times = run_virtual(scenario)
    assert len(times) == len(arrivals)
    assert all(later - earlier >= per for earlier, later in zip(times, times[calls:], strict=False))


@given(RATES, st.integers(2, 200), st.sampled_from([0, 0.001]))
def test_promise_2_no_drift(run_virtual, rate, count, grain):
    """Under load the n-th release is due at t0 + n * interval, however late the others were."""

    async def scenario():
        return [at for at, _ in await releases(ApiQueue(rate), [(0, 0)] * count)]

    times = run_virtual(scenario, grain=grain)
    for n, at in enumerate(times):
        due = max(0, (n + 1 - rate.burst) * rate.interval)
        assert -1e-9 <= at - due <= grain + 1e-9


@given(RATES, CATCH_UP, st.floats(0.001, 3))
def test_promise_2_a_stall_is_not_made_up_for(run_virtual, rate, catch_up, stall):
    """After a stall, at most the burst and catch_up's worth of calls start at once."""

    async def scenario():
        loop = asyncio.get_running_loop()
        queue = ApiQueue(rate, catch_up=catch_up)
        loop.call_at(0.0005, loop.stall, stall)
        return [at for at, _ in await releases(queue, [(0, 0)] * 50)]

    times = run_virtual(scenario)
    together = max(times.count(at) for at in times)
    assert together <= rate.burst + catch_up / rate.interval + 1e-6


@given(RATES, ARRIVALS, STALLS, st.sampled_from(["fifo", "fair"]))
def test_promise_3_fifo_within_a_priority(run_virtual, rate, arrivals, stalls, order):
    """Calls of one priority and key start in the order in which they came."""

    async def scenario():
        return await releases(ApiQueue(rate, order=order), arrivals, stalls)

    released = [index for _, index in run_virtual(scenario)]
    for priority in (0, 1):
        mine = [index for index in released if arrivals[index][1] == priority]
        assert mine == sorted(mine)


@given(RATES, st.lists(st.sampled_from(["stays", "leaves", "leaves when granted"]), max_size=60))
def test_promise_4_cancellation_costs_nothing(run_virtual, rate, callers):
    """The others start exactly when they would if the cancelled had never been."""

    async def scenario():
        loop = asyncio.get_running_loop()
        queue = ApiQueue(rate)
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
        assert at == pytest.approx(max(1, 1 + (n + 1 - rate.burst) * rate.interval), abs=1e-9) or (
            at > 1 and at == pytest.approx((n + 2 - rate.burst) * rate.interval, abs=1e-9)
        )


class Grumbler:
    """An observer that fails on everything."""

    def on_event(self, event):
        raise ZeroDivisionError(event.kind)


@given(
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
def test_promise_5_nothing_lost_nothing_stuck(rate, callers, concurrency, overflow, drain):
    """Every caller ends in exactly one way, whoever raises, and nothing outlives aclose()."""
    ends = []
    grumbles = []

    async def scenario():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: grumbles.append(context["exception"]))
        queue = ApiQueue(
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


@given(RATES, ARRIVALS)
def test_promise_6_idle_is_free(run_virtual, rate, arrivals):
    """Whenever nobody waits, there is no task and no timer."""

    async def scenario():
        loop = asyncio.get_running_loop()
        queue = ApiQueue(rate)
        await releases(queue, arrivals)
        await asyncio.sleep(0)
        assert queue.waiting == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert loop.pending_timers == 0
        before = loop.time()
        await asyncio.sleep(1000)
        assert loop.time() == before + 1000

    run_virtual(scenario)


@given(st.lists(st.tuples(st.integers(1, 5), st.booleans()), min_size=1, max_size=4))
def test_promise_7_any_loop_once_at_a_time(runs):
    """A queue made without a loop serves one loop after another, even after one died in use."""
    queue = ApiQueue("100ms")

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
            with pytest.raises(RuntimeError, match="another event loop that is still alive"):
                other.run_until_complete(use(queue))
            other.close()
    assert math.isfinite(queue.stats.waited)


async def use(queue):
    async with queue.slot():
        pass


# (seconds after the call before, how long it takes, what it is answered: a retry-after, if refused)
ANSWERS = st.lists(
    st.tuples(
        st.sampled_from([0, 0, 0, 0.1, 2]),
        st.sampled_from([0.01, 0.3, 5]),
        st.sampled_from(["served", "served", None, 0, 0.5, 3]),
    ),
    min_size=1,
    max_size=40,
)


@given(ANSWERS, st.sampled_from([0.5, 0.7, 0.9]), st.booleans())
def test_promise_8_push_back_is_heard_once(run_virtual, answers, backoff, in_lane):
    """One slow-down for each round of calls; holds are obeyed, and only ever extended."""

    async def scenario():
        loop = asyncio.get_running_loop()
        key = "lane" if in_lane else None
        queue = ApiQueue(
            *([] if in_lane else ["10/s"]),
            lanes={"lane": "10/s"},
            adaptive=Adaptive("0.5/s", backoff),
        )
        slowed_at, held_until, holds = -math.inf, -math.inf, []

        async def call(seconds, answer):
            nonlocal slowed_at, held_until
            async with queue.slot(key=key) as slot:
                released = loop.time()
                assert all(released <= said or until <= released for said, until in holds)
                await asyncio.sleep(seconds)
                if answer == "served":
                    return
                before, count = min(allowed_rate(queue, key), 10), queue.stats.backed_off
                slot.throttled(answer)
                held_until = max(held_until, loop.time() + (answer or 0))
                holds.append((loop.time(), held_until))
                heard = queue.stats.backed_off - count
                assert heard == (released > slowed_at)
                if heard:
                    slowed_at = loop.time()
                    assert allowed_rate(queue, key) <= max(0.5, backoff * before) + 1e-9
                else:
                    assert (
                        allowed_rate(queue, key) == before or allowed_rate(queue, key) == math.inf
                    )
                assert queue.estimate(key=key) >= held_until - loop.time() - 1e-9

        async with asyncio.TaskGroup() as group:
            for pause, seconds, answer in answers:
                await asyncio.sleep(pause)
                group.create_task(call(seconds, answer))
        assert queue.stats.throttled == sum(answer != "served" for _, _, answer in answers)
        assert queue.stats.released == len(answers)

    run_virtual(scenario)
