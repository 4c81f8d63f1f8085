from __future__ import annotations

import asyncio
import functools
import math
import socket
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import anyio
import pytest
from blockbuster import BlockingError
from hypothesis import example, given
from hypothesis import strategies as st

import aioapiqueue
from aioapiqueue.testing import VirtualLoop

RESOLUTION = 1e-9
instants = st.floats(0, 1e6) | st.integers(0, 10**6).map(lambda ms: ms / 1000)


def now() -> float:
    """Read the running loop's clock."""
    return asyncio.get_running_loop().time()


async def test_time_jumps_to_next_timer():
    """Time starts at zero and jumps to the next timer.

    A sleep of an hour ends at 3600.0 exactly, and in no time.
    """
    began = time.monotonic()
    assert now() == 0.0
    await asyncio.sleep(3600)
    assert now() == 3600.0
    assert time.monotonic() - began < 60


async def test_time_waits_for_ready_callbacks():
    """Time stands still while something is ready.

    Passes of the loop take no virtual time, even with a timer pending.
    """
    asyncio.get_running_loop().call_later(1, int)
    for _ in range(100):
        await asyncio.sleep(0)
    assert now() == 0.0


@given(st.lists(instants, min_size=1, max_size=30))
@example([0.03, 0.3])  # 0.03 + (0.3 - 0.03) == 0.30000000000000004
@example([0.1, 0.1 + 0.2, 0.3])
@example([1e6, 1e6 + 0.5e-9, 1e6 - 2e-10])
@example([86400.0 * 3 + 0.1])
@example([1e-9, 1.5e-9, 2e-9, 2.5e-9])
def test_call_at_lands_exactly(run_virtual, whens):
    """`call_at` lands on the exact instant.

    A callback sees its own `when`; those that share a pass are at most 1 ns off.
    """

    async def scenario():
        loop = asyncio.get_running_loop()
        seen = []
        for when in whens:
            loop.call_at(when, lambda when=when: seen.append((when, loop.time())))
        loop.call_at(max(whens) + 1, (done := loop.create_future()).set_result, None)
        await done
        return seen

    seen = run_virtual(scenario)
    assert sorted(when for when, _ in seen) == sorted(whens)
    times = [at for _, at in seen]
    assert times == sorted(times)
    for when, at in seen:
        # The jump went to the earliest of its pass, which is one of the instants asked for.
        assert at == when or (at in {0.0, *whens} and 0 <= when - at <= RESOLUTION)
    for when in whens:
        if all(other == when or abs(other - when) > 2 * RESOLUTION for other in [0.0, *whens]):
            assert (when, when) in seen


@given(st.lists(st.floats(min_value=1e-6, max_value=1e5), min_size=1, max_size=30))
def test_chained_timers_add_up_exactly(run_virtual, delays):
    """A chain of timers adds up without rounding errors.

    Nested timers, each set from the callback of the last, land on their float sums.
    """

    async def scenario():
        loop = asyncio.get_running_loop()
        when = 0.0
        for delay in delays:
            when += delay
            loop.call_at(when, (reached := loop.create_future()).set_result, None)
            await reached
            assert loop.time() == when

    run_virtual(scenario)


@given(st.lists(st.tuples(instants, st.booleans()), min_size=1, max_size=300))
def test_cancelled_timers_stop_no_clock(run_virtual, timers):
    """Cancelled timers neither run nor stop the clock.

    The clock visits the instants of live timers only.
    """

    async def scenario():
        loop = asyncio.get_running_loop()
        visited = []
        handles = [
            (loop.call_at(when, lambda: visited.append(loop.time())), live) for when, live in timers
        ]
        for handle, live in handles:
            if not live:
                handle.cancel()
        assert loop.pending_timers == sum(live for _, live in timers)
        await asyncio.sleep(2e6)
        return visited

    visited = run_virtual(scenario)
    live = {when for when, live in timers if live}
    assert len(visited) == sum(live for _, live in timers)
    assert {0.0, *live} >= set(visited)


async def test_timers_beyond_a_day():
    """Timers beyond a day take one jump.

    The day to which asyncio caps the timeout of `select` does not show.
    """
    await asyncio.sleep(100 * 86400.0)
    assert now() == 100 * 86400.0


async def test_years_pass_despite_coarse_floats():
    """Years pass though floats are coarser than the resolution.

    Where `time() + resolution == time()`, timers run an ulp late instead of never.
    """
    year = 365 * 86400.0
    await asyncio.sleep(year)
    assert now() == pytest.approx(year, abs=1e-7)
    asyncio.get_running_loop().call_at(now(), (ran := asyncio.Event()).set)
    await ran.wait()
    await asyncio.sleep(1)
    assert now() == pytest.approx(year + 1, abs=1e-7)


async def test_cancelled_timers_do_not_accumulate():
    """Thousands of timeouts that never fire leave no trace in memory."""
    loop = asyncio.get_running_loop()
    timers = []
    for _ in range(5000):
        timer = loop.call_later(3600, int)
        timers.append(weakref.ref(timer))
        timer.cancel()
    del timer
    assert loop.pending_timers == 0
    await asyncio.sleep(0)  # in which asyncio drops its own
    assert sum(one() is not None for one in timers) <= 300


async def test_many_timers():
    """Five thousand sleepers wake in order, each at its instant."""
    woken = []

    async def sleeper(delay):
        await asyncio.sleep(delay)
        assert now() == delay
        woken.append(delay)

    delays = [float(i * 7919 % 5000) for i in range(5000)]
    await asyncio.gather(*map(sleeper, delays))
    assert woken == sorted(delays)


async def test_past_timer_runs_at_once():
    """A timer in the past runs at once.

    `call_at` with an instant that has passed, or is no number, needs no jump.
    """
    await asyncio.sleep(5)
    loop = asyncio.get_running_loop()
    for when in (-1.0, 0, 5, math.nan):
        loop.call_at(when, (ran := loop.create_future()).set_result, None)
        await ran
        assert now() == 5.0


@pytest.mark.parametrize(
    ("asked", "reached"),
    [(0.0005, 0.001), (0.001, 0.001), (0.0011, 0.002), (1.1, 1.1), (0.29, 0.29), (0.2905, 0.291)],
)
def test_grain_rounds_waits_up(run_virtual, asked, reached):
    """Grain rounds a wait up to its multiple.

    With a grain of 1 ms timers are late as epoll makes them, and never early.
    """

    async def scenario():
        await asyncio.sleep(asked)
        return now()

    assert run_virtual(scenario, grain=0.001) == pytest.approx(reached, abs=1e-12)


@given(
    st.lists(st.floats(min_value=0, max_value=1e4), min_size=1, max_size=20),
    st.floats(min_value=1e-6, max_value=10),
)
def test_grain_is_never_early(run_virtual, delays, grain):
    """Grain is never early and less than a grain late.

    Each jump ends between the instant asked for and one grain later.
    """

    async def scenario():
        for delay in delays:
            due = now() + delay
            await asyncio.sleep(delay)
            assert due <= now() < due + grain

    run_virtual(scenario, grain=grain)


def test_grain_counts_from_the_wait(run_virtual):
    """Grain counts from the moment of waiting.

    As with epoll, the grid starts where the wait does, not at zero.
    """

    async def scenario():
        loop = asyncio.get_running_loop()
        loop.stall(0.00025)
        await asyncio.sleep(0.0015)
        return loop.time()

    assert run_virtual(scenario, grain=0.001) == pytest.approx(0.00225)


@pytest.mark.parametrize("bad", [-1, -0.001, math.nan, math.inf])
def test_durations_are_validated(run_virtual, bad):
    """A negative, infinite or missing number is refused by name."""
    with pytest.raises(ValueError, match="grain must be finite"):
        VirtualLoop(grain=bad)

    async def scenario():
        with pytest.raises(ValueError, match="seconds must be finite"):
            asyncio.get_running_loop().stall(bad)
        return now()

    assert run_virtual(scenario) == 0.0


async def test_stall_makes_later_timers_late():
    """Stall makes later timers late and keeps their order.

    While the loop is blocked nothing runs; afterwards everything that is due does.
    """
    loop = asyncio.get_running_loop()
    seen = []
    for when in (1.0, 3.0, 2.0, 7.0):
        loop.call_at(when, lambda when=when: seen.append((when, loop.time())))
    loop.call_at(1.0, loop.stall, 4.0)
    await asyncio.sleep(10)
    assert seen == [(1.0, 1.0), (2.0, 5.0), (3.0, 5.0), (7.0, 7.0)]


async def test_deadlines_expire_at_their_instant():
    """Timeout and `wait_for` expire at their instant.

    Deadlines of asyncio itself run on virtual time.
    """
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(5):
            await asyncio.sleep(6)
    assert now() == 5.0
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.Event().wait(), 2.5)
    assert now() == 7.5
    async with asyncio.timeout(5):
        await asyncio.sleep(4.5)
    assert now() == 12.0


async def test_anyio_deadlines_run_on_virtual_time():
    """The sleep, fail_after and move_on_after of anyio read the same clock."""
    await anyio.sleep(1.5)
    with pytest.raises(TimeoutError):
        with anyio.fail_after(2):
            await anyio.sleep(60)
    with anyio.move_on_after(3) as scope:
        await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert anyio.current_time() == now() == 6.5


async def test_clock_waits_for_a_job():
    """The clock waits for a job in a thread.

    A timeout around `to_thread` does not fire, however often the loop polls meanwhile.
    """
    loop = asyncio.get_running_loop()

    def job():
        for _ in range(20):
            polled = threading.Event()
            loop.call_soon_threadsafe(polled.set)
            assert polled.wait(60)
        return "done"

    async with asyncio.timeout(5):
        assert await asyncio.to_thread(job) == "done"
    assert now() == 0.0
    await asyncio.sleep(1)
    assert now() == 1.0


async def test_clock_waits_for_last_job():
    """The clock waits for the last of several jobs.

    Jobs are counted: one that ends does not release the clock for the others.
    """
    loop = asyncio.get_running_loop()
    first_seen = threading.Event()

    async def first():
        await asyncio.to_thread(int)
        loop.call_soon(first_seen.set)

    async with asyncio.timeout(5):
        await asyncio.gather(first(), asyncio.to_thread(first_seen.wait, 60))
    assert now() == 0.0


async def test_a_failed_job_releases_the_clock():
    """An exception in a thread counts as its end."""
    with pytest.raises(ZeroDivisionError):
        await asyncio.to_thread(divmod, 1, 0)
    await asyncio.sleep(1)
    assert now() == 1.0


async def test_refused_job_stops_no_clock():
    """A refused job does not stop the clock.

    A job that the executor would not take is not waited for.
    """
    executor = ThreadPoolExecutor()
    executor.shutdown()
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop().run_in_executor(executor, int)
    await asyncio.sleep(1)
    assert now() == 1.0


async def test_cancelled_job_is_not_awaited():
    """A cancelled job is not waited for.

    Once its future is cancelled, a thread that goes on does not hold the clock.
    """
    loop = asyncio.get_running_loop()
    let_go = threading.Event()
    job = loop.run_in_executor(None, let_go.wait, 60)
    job.cancel()
    await asyncio.sleep(1)
    assert now() == 1.0
    let_go.set()


async def test_clock_waits_for_executor_shutdown():
    """The clock waits for the executor to shut down.

    The five minutes that Runner.close() allows for threads are not used up by a jump.
    """
    loop = asyncio.get_running_loop()
    let_go = threading.Event()
    loop.run_in_executor(None, let_go.wait, 60).cancel()

    def poll_and_let_go():
        for _ in range(20):
            polled = threading.Event()
            loop.call_soon_threadsafe(polled.set)
            assert polled.wait(60)
        let_go.set()

    thread = threading.Thread(target=poll_and_let_go)
    async with asyncio.timeout(5):
        thread.start()
        await loop.shutdown_default_executor(300)
    assert now() == 0.0
    thread.join()


async def test_idle_loop_waits_for_threads():
    """With no timer the loop waits for other threads.

    With nothing scheduled it blocks really, until `call_soon_threadsafe` wakes it.
    """
    loop = asyncio.get_running_loop()
    woken = loop.create_future()
    thread = threading.Thread(target=loop.call_soon_threadsafe, args=(woken.set_result, "hello"))
    thread.start()
    assert await woken == "hello"
    assert now() == 0.0
    thread.join()


async def test_timer_at_infinity_is_none():
    """A timer at infinity is no timer.

    A sleep without end leaves the clock alone, and the loop can still be woken.
    """
    loop = asyncio.get_running_loop()
    forever = loop.call_at(math.inf, int)
    woken = loop.create_future()
    thread = threading.Thread(target=loop.call_soon_threadsafe, args=(woken.set_result, None))
    thread.start()
    await woken
    assert now() == 0.0
    thread.join()
    forever.cancel()


async def test_ready_io_precedes_the_clock():
    """Io that is ready goes before the clock.

    Data that has arrived is read before any timer moves the time.
    """
    loop = asyncio.get_running_loop()
    left, right = socket.socketpair()
    with left, right:
        left.settimeout(0)
        right.send(b"ping")
        async with asyncio.timeout(1e-6):
            assert await loop.sock_recv(left, 10) == b"ping"
    assert now() == 0.0


def test_debug_mode(run_virtual, caplog):
    """Debug mode times callbacks by the virtual clock: only a stall is slow."""

    async def scenario():
        asyncio.get_running_loop().set_debug(True)
        await asyncio.sleep(1000)
        assert not [record for record in caplog.records if "took" in record.message]
        asyncio.get_running_loop().call_soon(asyncio.get_running_loop().stall, 30.0)
        await asyncio.sleep(0.5)

    run_virtual(scenario)
    assert [record for record in caplog.records if "took 30.000 seconds" in record.message]


def test_loops_are_independent():
    """Each loop has a clock of its own that starts at zero."""
    for _ in range(2):
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(asyncio.sleep(10))
            assert runner.get_loop().time() == 10.0


def test_run_virtual_returns_and_takes_options(run_virtual):
    """The helper passes its options to the loop and returns the result."""

    async def scenario():
        await asyncio.sleep(0.5)
        return now()

    assert run_virtual(scenario) == 0.5
    assert run_virtual(scenario, grain=2.0) == 2.0


def test_run_virtual_fails_on_leftovers(run_virtual):
    """A task or a timer that outlives the scenario, or an error nobody awaited, fails it."""
    kept = []

    async def leaves_a_task():
        kept.append(asyncio.create_task(asyncio.Event().wait()))

    async def leaves_a_timer():
        asyncio.get_running_loop().call_later(1, int)

    async def leaves_an_error():
        asyncio.get_running_loop().call_soon(divmod, 1, 0)

    with pytest.raises(AssertionError, match="tasks"):
        run_virtual(leaves_a_task)
    with pytest.raises(AssertionError, match="timers"):
        run_virtual(leaves_a_timer)
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        run_virtual(leaves_an_error)


@pytest.mark.real
async def test_real_tests_get_the_stock_loop():
    """The `real` mark opts out of virtual time."""
    assert not isinstance(asyncio.get_running_loop(), VirtualLoop)


async def test_async_tests_get_a_virtual_loop():
    """Virtual time is the default."""
    assert isinstance(asyncio.get_running_loop(), VirtualLoop)


async def test_blocking_calls_of_the_package_fail(blockbuster):
    """A call that blocks the loop raises where the package makes it, and nowhere else."""

    def sleep_in(path):
        exec(compile("time.sleep(0)", path, "exec"), {"time": time})  # noqa: S102 - under that name

    inside = f"{aioapiqueue.__path__[0]}/_core/queue.py"
    with pytest.raises(BlockingError):
        sleep_in(inside)
    sleep_in("elsewhere.py")
    blockbuster.deactivate()
    sleep_in(inside)


def test_loop_factory_with_options():
    """`functools.partial` makes a factory of a loop with options."""
    with asyncio.Runner(loop_factory=functools.partial(VirtualLoop, grain=0.25)) as runner:
        runner.run(asyncio.sleep(0.1))
        assert runner.get_loop().time() == 0.25
