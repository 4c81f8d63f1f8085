from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import time
import weakref
from itertools import pairwise

import pytest

from aioapiqueue import ApiQueue, QueueClosed, Rate, Window, WouldWait
from aioapiqueue.spi import QueueReader, Reporter, ThreadAccess, loops
from aioapiqueue.testing import VirtualLoop
from tests.helpers import introspect
from tests.helpers.instants import exactly, free

CATCH_UP = 0.010  # seconds, the default
MADE_AT_IMPORT = ApiQueue("1000/s")


def new_uvloop():
    """Make a uvloop, where there is one."""
    return pytest.importorskip("uvloop", reason="Windows has none").new_event_loop()


UVLOOP = pytest.param(new_uvloop, marks=pytest.mark.posix)


async def starts(queue, calls):
    """Queue up so many tasks; return when each body started."""
    loop, seen = asyncio.get_running_loop(), []

    async def call():
        async with queue.slot():
            seen.append(loop.time())

    await asyncio.gather(*(call() for _ in range(calls)))
    return seen


def run(main, factory):
    """Run a coroutine on a loop of its own."""
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


both_loops = pytest.mark.parametrize("factory", [VirtualLoop, asyncio.new_event_loop])


def test_no_loop_is_on_real_time():
    """Before the first loop, instants are the machine's, and converted to its time of day."""
    queue = ApiQueue("1/s")
    now = Reporter(queue).now()
    assert abs(now - time.monotonic()) < 60
    assert abs(QueueReader(queue).to_wall(now) - time.time()) < 60


@pytest.mark.parametrize("is_cancelled", [True, False])
async def test_end_of_spawned_task_is_reported(is_cancelled):
    """Also of a task that is cancelled before its first step."""
    bound, ended = loops.BoundLoop(), []
    assert bound.spawn(lambda: asyncio.sleep(1), name="before a loop", on_end=ended.append) is None
    bound.bind(asyncio.get_running_loop())
    task = bound.spawn(lambda: asyncio.sleep(1), name="a task", on_end=ended.append)
    if is_cancelled:
        task.cancel()
    await asyncio.wait([task])
    assert ended == [task]
    assert (task.get_name(), task.cancelled()) == ("a task", is_cancelled)


def test_lane_named_on_an_earlier_loop():
    """Calls of a later loop, whose clock is behind, count in a lane that was named before."""
    queue = ApiQueue(lanes={"b": "1/s"})

    async def name():
        await asyncio.sleep(100)
        queue.try_slot()
        queue.set_rate("9/s burst 9", key="a")

    async def use():
        with queue.try_slot(key="a") as slot:
            queue.set_rate("1/s", key="c")  # from now on, it matters which lane is how old
            slot.settle(2)

    run(name(), VirtualLoop)
    run(use(), VirtualLoop)
    assert queue.stats.lanes["a"].costs == {"calls": 2}


async def test_threads_see_the_bound_loop():
    """A queue has no loop before its first call, and the running one from then on."""
    queue = ApiQueue("1/s")
    access = ThreadAccess(queue)
    assert access.loop is None
    async with queue.slot():
        assert access.loop is asyncio.get_running_loop()


def test_no_slot_without_a_loop():
    """The error says where a queue is used, in threads, too."""
    with pytest.raises(RuntimeError, match=r"no asyncio event loop .*blocking\(queue\)\.slot\(\)"):
        ApiQueue().try_slot()


@pytest.mark.real
@both_loops
def test_queue_serves_loop_after_loop(factory):
    """A queue made at import time serves one loop after another.

    It binds at first use, and moves on once that loop is closed.
    """
    for _ in range(3):
        seen = run(starts(MADE_AT_IMPORT, 4), factory)
        assert seen[-1] - seen[0] >= 0.003 - 0.010
        assert MADE_AT_IMPORT.waiting == MADE_AT_IMPORT.running == 0


@pytest.mark.real
@both_loops
def test_closed_loop_takes_its_waiters(factory):
    """Waiters of a closed loop are gone with it.

    The first run ends while callers wait: the second is served at once, and in full.
    """
    queue = ApiQueue("20/s", concurrency=2)

    async def leave_waiters_behind():
        tasks = [asyncio.create_task(starts(queue, 5)) for _ in range(3)]
        reservations = [queue.enqueue(timeout=60) for _ in range(3)]
        await asyncio.sleep(0.01)
        assert queue.waiting > 5
        return tasks, reservations

    left = run(leave_waiters_behind(), factory)
    seen = run(starts(queue, 3), factory)
    assert len(seen) == 3
    assert seen[2] - seen[1] >= 0.05 - 0.011
    assert (queue.waiting, queue.running) == (0, 0)
    assert not any(reservation.done() for reservation in left[1][1:])


def test_lanes_forget_a_closed_loops_waiters():
    """On the next loop, nobody waits in a lane in which some did as the loop before was closed."""
    queue = ApiQueue(lanes={"a": "1/s"})

    async def figures(calls):
        for _ in range(calls):
            queue.enqueue(key="a")
        return queue.waiting, queue.stats.lanes["a"].waiting

    assert run(figures(4), VirtualLoop) == (3, 3)
    assert run(figures(2), VirtualLoop) == (1, 1)


@pytest.mark.real
@both_loops
def test_leaving_after_the_loop(factory):
    """A waiter of a closed loop that is cancelled only now is none of those who wait here."""
    queue = ApiQueue("20/s")

    async def leave_one_behind():
        queue.try_slot()
        return queue.enqueue()

    async def go_on(left):
        queue.pause(0)
        left.cancel()
        assert queue.waiting == 0
        await asyncio.wait_for(queue.aclose(), 10)

    run(go_on(run(leave_one_behind(), factory)), factory)
    assert (queue.waiting, queue.stats.cancelled) == (0, 1)


@pytest.mark.usefixtures("no_collector")
@both_loops
@pytest.mark.real
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ticker_collected_after_its_loop(factory):
    """A loop that is closed with its tasks in it leaves nothing that could reach the next one."""
    queue = ApiQueue("20/s")

    async def wait_behind():
        for _ in range(3):
            queue.enqueue()
        await asyncio.sleep(0.01)

    loop = factory()
    loop.run_until_complete(wait_behind())
    loop.close()
    del loop

    async def go_on():
        futures = [queue.enqueue() for _ in range(3)]
        await asyncio.sleep(0)
        gc.collect(0)
        await asyncio.wait_for(asyncio.gather(*futures), 10)

    run(go_on(), factory)
    assert queue.waiting == 0


@pytest.mark.real
def test_real_loops_share_one_clock(stalls):
    """Between two real loops what was let through still counts.

    Both read the same clock: a new loop is no way around the limit.
    """
    queue = ApiQueue(Window(2, 0.2))

    async def timed():
        return [await starts(queue, 1) and time.monotonic() for _ in range(2)]

    began = time.monotonic()
    first = run(timed(), asyncio.new_event_loop)
    second = run(timed(), asyncio.new_event_loop)
    assert first[1] - began < 0.15 + stalls.seconds
    assert second[0] - began >= 0.199


def test_virtual_loops_start_time_again():
    """Between two virtual loops time starts again.

    Instants of another clock mean nothing: the new loop finds a rested queue.
    """
    queue = ApiQueue(Window(2, 3600), lanes={"a": "1/h"})

    async def use_up():
        await asyncio.sleep(1e6)
        queue.pause()
        queue.resume()
        async with queue.slot(key="a"), queue.slot():
            return asyncio.get_running_loop().time()

    assert run(use_up(), VirtualLoop) == 1e6
    assert run(use_up(), VirtualLoop) == 1e6


@pytest.mark.parametrize("drain", [True, False])
def test_closing_first_on_the_next_loop(drain):
    """It waits for nobody whose loop is gone, and refuses nobody there."""
    queue = ApiQueue("1/h")

    async def leave_behind():
        return [queue.enqueue() for _ in range(3)]

    async def close():
        await asyncio.wait_for(queue.aclose(drain=drain), 60)
        return asyncio.get_running_loop().time()

    left = run(leave_behind(), VirtualLoop)
    assert run(close(), VirtualLoop) == 0
    assert not any(one.done() for one in left[1:])
    assert queue.closed


def test_permits_of_a_closed_loop_are_free():
    """What was held on a loop that is gone is no reason to refuse a slot inside another."""
    queue = ApiQueue("1/s", lanes={"a": "2 at once"})

    async def leave_behind():
        queue.try_slot(key="a").__enter__()

    async def nested():
        async with queue.slot(key="a"), queue.slot(key="a") as inner:
            return inner.waited

    run(leave_behind(), VirtualLoop)
    assert run(nested(), VirtualLoop) == 1


@pytest.mark.real
def test_second_live_loop_is_refused():
    """A second live loop is refused with the remedy.

    Two threads, two loops, one queue: a RuntimeError that says what to do.
    """
    queue, caught = ApiQueue("1000/s", name="shared"), []

    async def elsewhere():
        for use in (queue.enqueue, queue.try_slot, queue.pause, queue.estimate, queue.throttled):
            with pytest.raises(RuntimeError, match="create a queue for each loop") as error:
                use()
            caught.append(error.value)
        with pytest.raises(RuntimeError, match="'shared'"):
            await queue.slot().__aenter__()
        with pytest.raises(RuntimeError, match="close that loop first"):
            async with queue:
                pytest.fail("entered")

    async def here():
        await starts(queue, 2)
        thread = threading.Thread(target=asyncio.run, args=(elsewhere(),))
        thread.start()
        await asyncio.to_thread(thread.join)
        return await starts(queue, 2)

    assert len(run(here(), asyncio.new_event_loop)) == 2
    assert len(caught) == 5


@pytest.mark.real
def test_second_loop_in_thread_is_refused():
    """A second live loop in the same thread is refused.

    Also where the first loop is merely not running.
    """
    queue = ApiQueue("1000/s")
    with asyncio.Runner() as runner:
        runner.run(starts(queue, 1))
        with pytest.raises(RuntimeError, match="create a queue for each loop"):
            run(starts(queue, 1), asyncio.new_event_loop)
        assert len(runner.run(starts(queue, 1))) == 1


def test_figures_and_settings_need_no_loop():
    """A queue can be set up, asked and held before any loop runs."""
    queue = ApiQueue("10/s")
    queue.set_rate("5/s")
    queue.pause(0)
    queue.resume()
    queue.throttled(0)
    assert queue.estimate() == exactly(0)
    assert (queue.waiting, queue.running, queue.closed) == (0, 0, False)
    assert queue.limits == (Rate(5),)


def test_nothing_is_spawned_without_a_loop():
    """Before a loop runs, or after, there is neither a task nor a coroutine that nobody awaits."""
    queue, made = ApiQueue("10/s"), []

    async def task():
        made.append(None)

    def spawn():
        return introspect.spawn(queue, task)

    async def main():
        queue.try_slot()
        await spawn()

    assert spawn() is None
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())
        assert spawn() is None
    assert made == [None]


def eager(loop_class):
    """Return a factory of loops that start tasks eagerly, where Python can (3.12)."""

    def factory():
        loop = loop_class()
        if hasattr(asyncio, "eager_task_factory"):
            loop.set_task_factory(asyncio.eager_task_factory)
        return loop

    return factory


def test_with_eager_tasks():
    """Pace, order, cancellation and the orderly end are the same."""
    queue = ApiQueue("10/s", concurrency=2)

    async def main():
        seen = await starts(queue, 5)
        tasks = [asyncio.create_task(starts(queue, 1)) for _ in range(3)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        await asyncio.wait(tasks)
        waiting = asyncio.create_task(starts(queue, 2))
        await asyncio.sleep(0.01)
        await queue.aclose()
        await waiting
        with pytest.raises(QueueClosed):
            queue.try_slot()
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return seen, asyncio.get_running_loop().time()

    seen, ended = run(main(), eager(VirtualLoop))
    assert seen == exactly([0, 0.1, 0.2, 0.3, 0.4])
    assert ended == exactly(0.8)


async def test_idle_is_free():
    """No task and no timer while nobody waits, before, between and after use."""
    queue, loop, alone = ApiQueue("10/s", lanes={"*": "1/s"}), asyncio.get_running_loop(), 1

    def assert_idle():
        assert len(asyncio.all_tasks()) == alone
        assert loop.pending_timers == 0

    async with queue:
        assert_idle()
        for key in "aabb":
            async with queue.slot(key=key):
                await asyncio.sleep(0)  # the ticker may end in this very pass of the loop
                assert_idle()
        withdrawn = queue.enqueue(key="a", timeout=100)
        await asyncio.sleep(0)
        assert loop.pending_timers == 2
        withdrawn.cancel()
        await asyncio.sleep(0)
        assert_idle()
    assert_idle()


@pytest.mark.usefixtures("no_collector")
async def test_the_ticker_keeps_nobodys_context_alive():
    """What the first waiter's context held is freed while others still wait."""
    queue, variable = ApiQueue("10/s"), contextvars.ContextVar("variable")

    class Big:
        """Can be referred to weakly."""

    def start():
        variable.set(big := Big())
        return weakref.ref(big), queue.try_slot(), queue.enqueue()

    big, _, _ = contextvars.copy_context().run(start)
    waiting = queue.enqueue()
    await asyncio.sleep(0.15)
    assert queue.waiting == 1
    gc.collect(0)
    assert big() is None
    await waiting


async def test_ticker_wakes_once_per_release():
    """The ticker wakes no more often than it releases.

    Between two slots it sleeps; unmoved waiters cost nothing.
    """
    queue, looks = ApiQueue("10/s"), []
    introspect.wrap_looks(
        queue, lambda look: lambda now, **how: looks.append(now) or look(now, **how)
    )
    await starts(queue, 101)
    assert len(looks) <= 102


def pace_on(factory, rate, seconds, *, tasks=50):
    """Let tasks compete for a while; return the releases (monotonic) and the ticker's looks.

    A release is noted as the queue's clock had it, and may not be before that: a machine that
    stands still between the two does not make two of them come closer together.
    """
    queue, seen, looks = ApiQueue(f"{rate}/s"), [], 0

    def count(look):
        def counted(now, **how):
            nonlocal looks
            looks += 1
            return look(now, **how)

        return counted

    def note(grant):
        def noted(slot, now):
            assert now <= time.monotonic()
            seen.append(now)
            grant(slot, now)

        return noted

    introspect.wrap_looks(queue, count)
    introspect.wrap_grants(queue, note)

    async def worker(until):
        while time.monotonic() < until:
            async with queue.slot():
                pass

    async def main():
        until = time.monotonic() + seconds
        cpu = time.thread_time()
        await asyncio.gather(*(worker(until) for _ in range(tasks)))
        return time.thread_time() - cpu

    cpu = run(main(), factory)
    return seen, looks, cpu


@pytest.mark.posix
@pytest.mark.real
@pytest.mark.parametrize("rate", [700, 5000])
def test_uvloop_keeps_the_limit(rate):
    """Uvloop keeps the limit and does not spin.

    Its early timers and coarse clock break no window, and cost no wake-up per microsecond.
    """
    seconds = 0.5
    stock, stock_looks, _ = pace_on(asyncio.new_event_loop, rate, seconds)
    fast, looks, _ = pace_on(new_uvloop, rate, seconds)
    for begins in (stock, fast):
        for per in (0.0, 0.01, 0.1, 1.0):
            assert most_in(begins, per) <= 1 + (per + CATCH_UP) * rate + 1e-3
        assert len(begins) <= 1 + (begins[-1] - begins[0] + CATCH_UP) * rate + 1e-3
    assert looks <= 2 * len(fast) + 10
    assert looks <= 2 * seconds * 1000 + 10  # a millisecond is the least it sleeps
    assert stock_looks <= 2 * seconds * 1000 + 10


@pytest.mark.posix
@pytest.mark.real
@pytest.mark.flaky(reruns=2)
@pytest.mark.parametrize("rate", [700, 5000])
def test_uvloop_lets_calls_through(rate, stalls):
    """Uvloop lets half of what it may through in half a second, for little more CPU time.

    A busy machine can keep it from letting half the calls through, so it is tried again.
    """
    seconds = 0.5
    stock, _, stock_cpu = pace_on(asyncio.new_event_loop, rate, seconds)
    fast, _, cpu = pace_on(new_uvloop, rate, seconds)
    for begins in (stock, fast):
        assert len(begins) >= 0.5 * (seconds - stalls.seconds) * rate
    assert cpu <= 1.5 * stock_cpu + 0.1


def test_clock_depends_on_the_loop():
    """The clock is monotonic time on real loops and the loop's own on virtual ones.

    The `time()` of uvloop is a bound method too, but coarse: it is not read.
    """
    for factory, expected in (
        (asyncio.new_event_loop, time.monotonic),
        (new_uvloop, time.monotonic),
        (VirtualLoop, None),
    ):
        loop = factory()
        assert introspect.clock_for(loop) == (expected or loop.time)
        loop.close()


def most_in(begins, per):
    """Return how many of `begins` lie in the fullest stretch of `per` seconds."""
    most = first = 0
    for last, start in enumerate(begins):
        while begins[first] < start - per:
            first += 1
        most = max(most, last - first + 1)
    return most


@pytest.mark.real
@pytest.mark.parametrize("factory", [asyncio.new_event_loop, UVLOOP])
def test_no_early_release_on_real_loops(factory):
    """No release is early on real loops.

    One call each 20 ms, watched from outside: no gap is shorter with `catch_up=0`.
    """
    queue = ApiQueue("20ms", catch_up=0)
    times = []
    introspect.wrap_grants(
        queue,
        lambda grant: lambda slot, now: times.append((now, time.monotonic())) or grant(slot, now),
    )
    run(starts(queue, 16), factory)
    assert len(times) == 15
    assert min(after[0] - before[0] for before, after in pairwise(times)) >= 0.02 - 1e-9
    assert all(now <= clock for now, clock in times)


def test_entered_again_on_another_loop():
    """A queue whose loop was closed within its `async with` can be entered on the next."""
    queue = ApiQueue("10/s")

    async def main():
        await queue.__aenter__()

    for _ in range(2):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
        loop.close()
    assert not queue.closed


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, UVLOOP])
@pytest.mark.real
def test_waiter_collected_after_its_loop(factory):
    """A caller whose loop was closed with it in it ends in silence, and waits no more."""
    queue = ApiQueue("20/s")
    ended = []

    async def call():
        try:
            async with queue.slot():
                pass
        except BaseException as error:
            ended.append(type(error))
            raise

    async def leave_behind():
        queue.try_slot()
        tasks = [asyncio.ensure_future(call()) for _ in range(3)]
        await asyncio.sleep(0.01)
        return [task.get_coro() for task in tasks]

    loop = factory()
    loop.set_exception_handler(lambda *_: None)  # which is told of tasks that are destroyed
    left = loop.run_until_complete(leave_behind())
    loop.close()
    for coroutine in left:
        coroutine.close()
    assert ended == [GeneratorExit] * 3
    assert queue.waiting == 0


@pytest.mark.real
def test_body_that_outlives_its_loop():
    """One that ends once its queue is in use on another loop ends in silence, and frees nothing."""
    queue = ApiQueue(concurrency=1)

    async def body():
        async with queue.slot():
            await asyncio.sleep(60)

    async def leave_behind():
        task = asyncio.create_task(body())
        await asyncio.sleep(0)
        return task.get_coro()

    async def go_on():
        with queue.try_slot():
            left.close()
            assert queue.running == 1
            with pytest.raises(WouldWait):
                queue.try_slot()
        assert queue.running == 0
        assert introspect.nesting_sizes(queue) == [0, 0, 0]

    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # which is told of the task that is destroyed
    left = loop.run_until_complete(leave_behind())
    loop.close()
    run(go_on(), asyncio.new_event_loop)


@pytest.mark.real
def test_late_ends_change_no_figures():
    """What ends, or is given back, after its loop is gone is not of those that are counted now."""
    queue, left = ApiQueue("3/h burst 3", concurrency=1), []

    async def leave_behind():
        left.append(queue.try_slot())
        left[0].release()
        left.append(queue.enqueue())  # granted, and not taken up
        assert queue.running == 1

    async def go_on():
        queue.try_slot()
        left[1].cancel()
        assert (queue.running, queue.stats.released, queue.stats.refunded) == (1, 3, 0)
        with pytest.raises(WouldWait):
            queue.try_slot()

    run(leave_behind(), asyncio.new_event_loop)
    run(go_on(), asyncio.new_event_loop)
    queue, left = ApiQueue(concurrency=1), []

    async def hold():
        left.append(queue.try_slot())

    async def hold_another():
        queue.try_slot()
        left[0].release()
        assert queue.running == 1
        with pytest.raises(WouldWait):
            queue.try_slot()

    run(hold(), asyncio.new_event_loop)
    run(hold_another(), asyncio.new_event_loop)


@pytest.mark.parametrize("how", ["ends", "is given back"])
def test_start_as_the_next_loop_begins(monkeypatch, how):
    """A call that starts in the instant of its queue's first use on a loop is one of that loop."""
    queue, stands_at = ApiQueue(concurrency=1), time.monotonic()

    async def use():
        future = queue.enqueue()
        if how == "ends":
            (await future).release()
        else:
            future.cancel()
        assert queue.running == 0
        assert free(queue) == 1

    with monkeypatch.context() as patch:  # a clock as coarse as that of Windows
        patch.setattr(time, "monotonic", lambda: stands_at)
        for _ in range(2):
            asyncio.run(use())


def test_other_loops_are_told_apart():
    """Where none of asyncio runs, as under trio, the message says that it takes one."""
    with pytest.raises(RuntimeError, match=r"no asyncio event loop .* \(trio has its own\): use"):
        ApiQueue("10/s").slot().__aenter__().send(None)
