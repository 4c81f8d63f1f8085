"""Real threads, real signals, real forks; programs of their own where a process must end."""

import asyncio
import gc
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from aioapiqueue import Adaptive, ApiQueue, QueueClosed, QueueFull, Rate, SlotTimeout
from aioapiqueue.threads import blocking
from tests.helpers import introspect

pytestmark = pytest.mark.real


PATIENCE = 60.0  # seconds: far more than anything here takes, for busy machines
CATCH_UP = 0.010  # seconds, a queue's default


class Released:
    """Notes what a queue let through, and when: a thread may be late to resume."""

    def __init__(self):
        self.keys = []
        self.times = []

    def on_event(self, event):
        """Hear of one."""
        if event.kind == "released":
            self.keys.append(event.key)
            self.times.append(event.at)

    def assert_paced(self, interval):
        """Check that none was early, after any of those before it."""
        latest = self.times[0]
        for number, at in enumerate(self.times):
            assert at - number * interval >= latest - CATCH_UP - 1e-6
            latest = max(latest, at - number * interval)


def until(condition, *, seconds=PATIENCE):
    """Wait until something that another thread does has happened."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.001)


def figures(queue):
    """Return how many wait and run, once all that threads have posted so far is done."""
    return blocking(queue).call(lambda: (queue.waiting, queue.running))


def settled(queue):
    """Tell whether nobody waits or runs."""
    return figures(queue) == (0, 0)


@contextmanager
def threads(function, count, *, one_by_one=None):
    """Run a function in so many threads; pass on what they raise.

    With `one_by_one`, each is started once that is true of the number of those before it.
    """
    with ThreadPoolExecutor(count) as pool:
        futures = []
        for number in range(count):
            futures.append(pool.submit(function, number))
            if one_by_one is not None:
                until(lambda: one_by_one(len(futures)))
        yield futures
        for future in futures:
            future.result(timeout=PATIENCE)


def run_program(source, *, seconds=PATIENCE, ok=True):
    """Run a program in a process of its own, and return the lines that it prints."""
    done = subprocess.run(
        # From Python 3.12 on, a fork beside threads is warned of.
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(source)],
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    if ok:
        assert done.returncode == 0, done.stderr
        assert not done.stderr
    return done.stdout.splitlines()


def test_threads_start_one_interval_apart(stalls):
    """Threads get their turns one interval apart.

    Calls of 20 threads start one at a time, at the rate, and no slower.
    """
    released = Released()
    queue = ApiQueue("100/s", observers=[released])
    starts = []

    def work(_):
        for _ in range(5):
            with blocking(queue).slot():
                starts.append(time.monotonic())

    with threads(work, 20):
        pass
    starts.sort()
    assert len(starts) == 100
    # The release is on time; a thread that resumes late may come close to the next.
    released.assert_paced(0.01)
    assert all(
        let_go <= start for let_go, start in zip(sorted(released.times), starts, strict=True)
    )
    assert starts[-1] - starts[0] < 0.99 + 0.5 + stalls.seconds
    assert settled(queue)


def test_hundreds_of_threads_keep_order():
    """Hundreds of threads get their turns in the order of arrival.

    Of 300 threads that wait, each gets its turn before those that came later.
    """
    released = Released()
    queue = ApiQueue("1000/s", observers=[released])
    queue.pause()

    def work(number):
        with blocking(queue).slot(key=number):
            pass

    with threads(work, 300, one_by_one=lambda count: queue.waiting == count):
        assert queue.waiting == 300
        blocking(queue).call(queue.resume)
    assert released.keys == list(range(300))
    assert settled(queue)


def test_key_priority_cost_are_passed():
    """Key priority and cost are the queue's.

    A thread's slot has what it asks for: a lane, a place ahead of others, a cost.
    """
    released = Released()
    queue = ApiQueue("20/s", lanes={"slow": "2/s"}, observers=[released])
    keys = []

    def work(**asked):
        with blocking(queue).slot(**asked) as slot:
            keys.append(slot.key)

    work()
    blocking(queue).call(queue.pause)
    wishes = [{"key": "dear", "cost": 4}, {"key": "slow"}, {"key": "slow"}, {"priority": -1}]
    with threads(
        lambda number: work(**wishes[number]),
        len(wishes),
        one_by_one=lambda count: queue.waiting == count,
    ):
        until(lambda: queue.waiting == 4)
        blocking(queue).call(queue.resume)
    assert released.keys == [None, None, "dear", "slow", "slow"]
    assert sorted(keys, key=str) == sorted(released.keys, key=str)
    _, urgent, dear, slow, slower = released.times
    assert dear - urgent >= 4 / 20 - CATCH_UP  # it costs four
    assert slow - dear >= 1 / 20 - CATCH_UP
    assert slower - slow >= 0.5 - CATCH_UP
    assert settled(queue)


def test_a_timeout_leaves_nothing_behind(stalls):
    """Threads that wait for too long get SlotTimeout, and delay nobody behind them."""
    queue = ApiQueue("400ms")

    def work(number):
        if number % 2:
            with pytest.raises(SlotTimeout), blocking(queue).slot(timeout=0.2):
                pytest.fail("it was let in")
        else:
            with blocking(queue).slot():
                pass

    def there(count):
        return queue.stats.released + queue.stats.timed_out + queue.waiting >= count

    start = time.monotonic()
    with threads(work, 6, one_by_one=there):
        pass
    # Three calls, none lost to the other three.
    assert 0.75 < time.monotonic() - start < 1.15 + stalls.seconds
    assert (queue.stats.released, queue.stats.timed_out) == (3, 3)
    assert settled(queue)


def test_thread_hears_why_it_fails():
    """A thread hears why it gets no slot.

    What the queue raises is raised in the thread, and leaves nothing behind.
    """
    queue = ApiQueue("10s", maxsize=1)
    with blocking(queue).slot():
        pass
    with pytest.raises(ValueError, match="cost"), blocking(queue).slot(cost=-1):
        pytest.fail("it was let in")
    with ThreadPoolExecutor(1) as pool:

        def wait():
            with blocking(queue).slot():
                pytest.fail("it was let in")

        waiting = pool.submit(wait)
        until(lambda: queue.waiting == 1)
        with pytest.raises(QueueFull), blocking(queue).slot():
            pytest.fail("it was let in")
        blocking(queue).close(drain=False)
        with pytest.raises(QueueClosed, match="closed while a call waited"):
            waiting.result(timeout=PATIENCE)
    with pytest.raises(QueueClosed), blocking(queue).slot():
        pytest.fail("it was let in")
    assert settled(queue)


def test_slot_lasts_as_its_body():
    """A slot is held for as long as its body runs.

    With room for one call at a time, no two bodies overlap, even where they raise.
    """
    queue = ApiQueue(concurrency=1)
    inside, most = 0, 0

    def work(number):
        nonlocal inside, most
        for _ in range(20):
            try:
                with blocking(queue).slot():
                    inside += 1
                    most = max(most, inside)
                    time.sleep(0.001)
                    inside -= 1
                    raise LookupError  # noqa: TRY301 - it is the body that raises
            except LookupError:
                pass

    with threads(work, 8):
        pass
    assert most == 1
    assert queue.stats.released == 160
    assert settled(queue)


def test_lost_slot_is_given_back():
    """A slot that nobody ends is given back.

    A thread that loses its slot without leaving the block holds no place for ever.
    """
    queue = ApiQueue(concurrency=1)
    lost = blocking(queue).slot().__enter__()
    assert queue.running == 1
    del lost
    gc.collect()
    with blocking(queue).slot(timeout=PATIENCE):
        assert queue.running == 1
    assert settled(queue)


def test_slot_joins_before_its_thread():
    """A slot may join before its thread waits.

    A slot that has joined keeps its place in the order, and leaves if nobody enters it.
    """
    queue = ApiQueue("100/s")
    queue.pause()
    first, never, later = (blocking(queue).slot() for _ in range(3))
    for slot in (first, never, later):
        slot.join()
    blocking(queue).call(queue.resume)
    with later, first:
        assert first.waited < later.waited
    assert figures(queue) == (0, 1)  # the one that nobody has entered
    never.release()
    assert settled(queue)
    assert queue.stats.released == 2


def test_a_slot_is_for_one_call():
    """A slot cannot be entered or joined again; ending it again does nothing."""
    queue = ApiQueue()
    slot = blocking(queue).slot()
    with slot:
        for again in (slot.join, slot.__enter__):
            with pytest.raises(RuntimeError, match="for one call"):
                again()
        assert queue.running == 1
    slot.release()
    with pytest.raises(RuntimeError, match="for one call"):
        slot.__enter__()
    with pytest.raises(RuntimeError, match="has not started"):
        blocking(queue).slot().throttled()
    assert settled(queue)


def test_push_back_from_threads_counts_once():
    """Push back from threads holds and is heard once.

    Thirty calls in flight that are all refused slow down once, and hold everybody.
    """
    queue = ApiQueue("1000/s", adaptive=Adaptive("1/s"))
    refused = threading.Barrier(30)

    instants = []

    def work(_):
        with blocking(queue).slot() as slot:
            refused.wait(timeout=PATIENCE)
            instants.append(time.monotonic())
            slot.throttled(retry_after=0.5)

    with threads(work, 30):
        pass
    with blocking(queue).slot():
        assert time.monotonic() - min(instants) >= 0.5
    assert queue.stats.throttled == 30
    assert queue.stats.backed_off == 1
    assert settled(queue)


def test_push_back_without_call_holds():
    """Push back without a call holds too.

    A thread can say that the other side pushed back without a slot; nonsense is refused.
    """
    queue = ApiQueue()
    start = time.monotonic()
    blocking(queue).throttled(0.3)
    with blocking(queue).slot() as slot:
        assert time.monotonic() - start >= 0.3
        with pytest.raises(ValueError, match="at least 0, not -1"):
            slot.throttled(-1)
    with pytest.raises(ValueError, match="at least 0, not nan"):
        blocking(queue).throttled(float("nan"))
    assert queue.stats.throttled == 1


def test_a_thread_settles_the_true_cost():
    """What a call did not use is given back to the others."""
    queue = ApiQueue(Rate(10, 10, burst=10))
    with blocking(queue).slot(cost=10) as slot:
        slot.settle(0)
        with pytest.raises(ValueError, match="cost"):
            slot.settle(-1)
    assert blocking(queue).call(queue.estimate) < 1


def test_queue_changes_while_threads_wait():
    """A queue can be changed while threads wait.

    A new rate holds for those who wait already; what a changed thing raises is raised here.
    """
    queue = ApiQueue("60s")

    def work(_):
        with blocking(queue).slot():
            pass

    with threads(work, 5):
        until(lambda: queue.waiting == 4)
        blocking(queue).call(queue.set_rate, "100/s")
    with pytest.raises(ValueError, match="fast"):
        blocking(queue).call(queue.set_rate, "fast")
    assert settled(queue)


def test_closing_drains_waiting_threads():
    """Closing lets those who wait have their turn.

    Close drains: all of those who wait are let through before it returns.
    """
    queue = ApiQueue("50/s")
    done = []

    def work(number):
        with blocking(queue).slot():
            done.append(number)

    with threads(work, 10):
        until(lambda: queue.waiting + len(done) == 10)
        blocking(queue).close()
        assert queue.waiting == 0
    assert len(done) == 10


def test_waiting_in_own_thread_is_refused():
    """Waiting in the loop's own thread is refused.

    An observer that waits for a slot would wait for itself: it gets an error with a remedy.
    """
    errors = []

    class Eager:
        def on_event(self, _):
            try:
                blocking(queue).slot().__enter__()
            except RuntimeError as error:
                errors.append(str(error))

    queue = ApiQueue(observers=[Eager()])
    with blocking(queue).slot():
        pass
    assert settled(queue)
    assert errors
    assert all("asyncio.to_thread" in error for error in errors)


def test_queue_on_another_loop_is_refused():
    """A queue in use on another loop is refused.

    A queue that coroutines use is not taken from them.
    """

    async def main():
        queue = ApiQueue()
        async with queue.slot():
            with pytest.raises(RuntimeError, match="another event loop that is still alive"):
                await asyncio.to_thread(blocking(queue).slot().__enter__)
        assert queue.running == 0

    asyncio.run(main())


def test_all_queues_share_one_idle_thread():
    """However many queues, one thread serves them, and without work nothing is scheduled in it."""
    before = threading.active_count()
    queues = [ApiQueue("1000/s") for _ in range(20)]
    for queue in queues:
        for _ in range(3):
            with blocking(queue).slot():
                pass
    assert threading.active_count() <= before + 1
    assert all(map(settled, queues))
    loop = introspect.thread_loop()
    until(lambda: not introspect.scheduled_on(loop) and not asyncio.all_tasks(loop))


async def test_coroutines_and_threads_share_a_portal():
    """Coroutines and threads share a queue through a portal.

    Both get their turns in one stream, on the coroutines' own loop.
    """
    released, starts = Released(), []
    async with BlockingPortal() as portal, ApiQueue("50ms", observers=[released]) as queue:

        def work():
            with blocking(queue, portal=portal).slot():
                starts.append(time.monotonic())

        async def call():
            async with queue.slot():
                starts.append(time.monotonic())

        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*(call() for _ in range(5)), *[asyncio.to_thread(work)] * 1)
            await asyncio.gather(
                *(asyncio.to_thread(work) for _ in range(5)), *(call() for _ in range(5))
            )
        assert queue.running == 0
    assert len(starts) == len(released.times) == 16
    released.assert_paced(0.05)
    assert all(
        let_go <= start for let_go, start in zip(released.times, sorted(starts), strict=True)
    )


async def test_waiting_in_portal_thread_is_refused():
    """Waiting in the portal's own thread is refused.

    A coroutine that would block its own loop gets an error with a remedy.
    """
    async with BlockingPortal() as portal, ApiQueue() as queue:
        gate = blocking(queue, portal=portal)
        for _ in range(2):  # before the loop is known, and after
            with pytest.raises(RuntimeError, match="in a coroutine, use"):
                gate.slot().__enter__()
            await asyncio.to_thread(gate.slot().__enter__)


def test_threads_hear_that_loop_ended():
    """Threads hear that the user's loop has ended.

    Threads that wait for a loop that is closed get an error, and so do those that come later.
    """
    queue = ApiQueue("60s")
    with ThreadPoolExecutor(2) as pool:
        with start_blocking_portal() as portal:
            gate = blocking(queue, portal=portal)
            with gate.slot() as slot:
                pass
            waiting = pool.submit(gate.slot().__enter__)
            until(lambda: queue.waiting == 1)
        with pytest.raises(RuntimeError, match="has been closed"):
            waiting.result(timeout=PATIENCE)
    for act in (gate.slot().__enter__, gate.throttled, gate.close):
        with pytest.raises(RuntimeError, match="has been closed"):
            act()
    slot.release()
    # The queue itself goes on, on another loop.
    with blocking(queue).slot(cost=0):
        pass


def test_keyboard_interrupt_leaves_nothing_behind():
    """Ctrl-C in a waiting thread ends the wait; the queue is as if it had never come."""
    lines = run_program(
        """
        import os, signal, threading, time
        from aioapiqueue import ApiQueue
        from aioapiqueue.threads import blocking

        queue = ApiQueue("300ms", concurrency=1)
        for kind in ("waits", "runs"):
            with blocking(queue).slot():
                if kind == "waits":
                    def interrupt():
                        while queue.waiting < 1:
                            time.sleep(0.001)
                        os.kill(os.getpid(), signal.SIGINT)
                    threading.Thread(target=interrupt).start()
                    try:
                        with blocking(queue).slot():
                            print("let in")
                    except KeyboardInterrupt:
                        blocking(queue).call(int)
                        print("interrupted", queue.waiting, queue.running)
        try:
            with blocking(queue).slot():
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(5)
        except KeyboardInterrupt:
            blocking(queue).call(int)
            print("interrupted", queue.waiting, queue.running)
        print("one interval", blocking(queue).call(queue.estimate) <= 0.3)
        with blocking(queue).slot():
            print("goes on", queue.stats.released)
        """
    )
    assert lines == [
        "interrupted 0 1",
        "interrupted 0 0",
        "one interval True",
        "goes on 4",
    ]


def test_ctrl_c_while_closing_refuses():
    """Ctrl c while closing refuses those who wait.

    An interrupted close does not drain: threads that wait are refused at once.
    """
    lines = run_program(
        """
        import os, signal, threading, time
        from aioapiqueue import ApiQueue, QueueClosed
        from aioapiqueue.threads import blocking

        queue = ApiQueue()
        queue.pause()

        def work():
            try:
                with blocking(queue).slot():
                    print("let in")
            except QueueClosed:
                print("refused", flush=True)

        thread = threading.Thread(target=work)
        thread.start()
        while not queue.waiting:
            time.sleep(0.001)

        def interrupt():
            while not queue.closed:
                time.sleep(0.001)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=interrupt).start()
        try:
            blocking(queue).close()
        except KeyboardInterrupt:
            thread.join(60)
            print("interrupted", queue.waiting)
        """
    )
    assert lines == ["refused", "interrupted 0"]


class Struck:
    """Raises KeyboardInterrupt at the n-th instruction from here on, as a signal may.

    Args:
        number: n; those of a thread that waits are counted too, as it looks around now and then.

    Attributes:
        where: the function that it was raised in, and the one that had called that.
    """

    where = None

    def __init__(self, number):
        self._left = number

    def __enter__(self):
        self._outer = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_):
        sys.settrace(self._outer)

    def _trace(self, frame, event, _):
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        self._left -= event in ("opcode", "return")
        if self._left:
            return self._trace
        sys.settrace(None)
        self.where = frame.f_code.co_name, frame.f_back.f_code.co_name
        raise KeyboardInterrupt


WAITING = 2000
"""More instructions than there are before a thread waits for its close."""


@pytest.fixture
def impatient(monkeypatch):
    """Let threads that wait look around often, and the garbage collector not interfere."""
    monkeypatch.setattr("aioapiqueue.threads._PATIENCE", 0.01)
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def close_struck(strike, *, busy=False):
    """Close a paused queue in which a thread waits, interrupted; return whether it is closed.

    If so, the thread has been refused; if not, it waits. With `busy`, the loop gets to nothing
    until then.
    """
    queue = ApiQueue()
    queue.pause()
    interrupted = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        waiter = pool.submit(blocking(queue).slot().__enter__)
        until(lambda: queue.waiting)
        rescue = threading.Timer(PATIENCE, lambda: blocking(queue).close(drain=False))
        rescue.start()
        try:
            if busy:
                loop = blocking(queue).call(asyncio.get_running_loop)
                loop.call_soon_threadsafe(interrupted.wait, PATIENCE)
            with pytest.raises(KeyboardInterrupt), strike:
                blocking(queue).close()
            rescue.cancel()
            interrupted.set()
            figures(queue)
            closed = queue.closed
            until(lambda: queue.waiting == (0 if closed else 1))
        finally:
            blocking(queue).close(drain=False)
        with pytest.raises(QueueClosed):
            waiter.result(PATIENCE)
    return closed


@pytest.mark.usefixtures("impatient")
def test_close_interrupted_at_any_instruction():
    """Interrupted before it has asked, it closes nothing; after that, all are refused at once."""
    closed = []
    strike = None
    while strike is None or strike.where != ("_check_alive", "run"):  # it waits, and looks around
        strike = Struck(len(closed) + 1)
        closed.append(close_struck(strike))
    assert closed == sorted(closed)
    assert set(closed) == {False, True}


@pytest.mark.usefixtures("impatient")
def test_close_interrupted_while_the_loop_is_busy():
    """What closes the queue has begun before it is cancelled: all are refused."""
    assert close_struck(Struck(WAITING), busy=True)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("posted", [False, True])
def test_close_interrupted_twice(monkeypatch, posted):
    """The second interruption falls into what processes the first: all are refused even so."""
    posts = []

    def struck_once(post):
        posts.append(post)
        if len(posts) > 1 or posted:
            post()
        if len(posts) == 1:
            raise KeyboardInterrupt

    introspect.wrap_posts_of_threads(monkeypatch, struck_once)
    assert close_struck(Struck(WAITING))
    assert len(posts) >= 2


@pytest.mark.usefixtures("impatient")
def test_interrupted_close_is_cancelled_once():
    """What a close does on its way out is done, however late the thread posts once more."""

    class Slow(asyncio.SelectorEventLoop):
        def call_soon_threadsafe(self, *args, **how):
            handle = super().call_soon_threadsafe(*args, **how)
            time.sleep(0.02)
            return handle

    class Closing(ApiQueue):
        ends = ()

        async def aclose(self, **_):
            try:
                await asyncio.sleep(PATIENCE)
            finally:
                self.ends += ("begun",)
                await asyncio.sleep(0.1)
                self.ends += ("done",)

    queue = Closing()
    with start_blocking_portal(backend_options={"loop_factory": Slow}) as portal:
        with pytest.raises(KeyboardInterrupt), Struck(WAITING):
            blocking(queue, portal=portal).close()
        until(lambda: len(queue.ends) > 1)
    assert queue.ends == ("begun", "done")


def test_a_task_that_is_refused_raises():
    """What a task factory raises is the thread's, which does not wait for ever."""

    def refuse(loop, coroutine, **_):
        coroutine.close()
        raise ZeroDivisionError

    queue = ApiQueue()
    with start_blocking_portal() as portal:
        gate = blocking(queue, portal=portal)
        loop = gate.call(asyncio.get_running_loop)
        loop.set_task_factory(refuse)
        with pytest.raises(ZeroDivisionError):
            gate.call(int)
        loop.set_task_factory(None)
        assert gate.call(int) == 0


def test_interrupted_anywhere_no_slot_is_lost():
    """A storm of signals, at any instruction of taking and ending slots, leaks no place."""
    lines = run_program(
        """
        import gc, random, signal, sys, time
        from aioapiqueue import ApiQueue
        from aioapiqueue.threads import blocking

        class Struck(BaseException):
            pass

        def strike(*_):
            raise Struck

        signal.signal(signal.SIGALRM, strike)
        queue = ApiQueue("20000/s", concurrency=1)
        gate = blocking(queue)
        with gate.slot():
            pass

        def calls():
            for _ in range(20):
                with gate.slot(timeout=50) as slot:
                    slot.throttled()

        struck = 0
        sys.unraisablehook = lambda _: None  # struck in a finalizer
        chance = random.Random(4)
        end = time.monotonic() + 50
        while struck < 1000 and time.monotonic() < end:
            try:
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.00001, 0.0004))
                calls()
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Struck:
                struck += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
        gc.collect()
        gate.call(int)
        print(struck, queue.waiting, queue.running)
        with gate.slot(timeout=50):
            print("goes on")
        """
    )
    assert lines == ["1000 0 0", "goes on"]


def test_forked_child_has_its_queue():
    """A child after a fork has a queue of its own.

    Threads that waited in the parent do not in the child; both go on, each for itself.
    """
    lines = run_program(
        """
        import os, threading, time
        from aioapiqueue import ApiQueue
        from aioapiqueue.threads import blocking

        queue = ApiQueue("200ms", concurrency=1)

        def work():
            with blocking(queue).slot():
                pass

        outer = blocking(queue).slot().__enter__()      # until all are there
        waiting = [threading.Thread(target=work) for _ in range(4)]
        for thread in waiting:
            thread.start()
        while queue.waiting < 4:
            time.sleep(0.001)
        child = os.fork()
        if child == 0:
            print("child", queue.waiting, queue.running, threading.active_count())
            # Of those that waited in the parent, none has a slot here before those that come.
            print("child", blocking(queue).call(queue.estimate) <= 0.2)
            for _ in range(3):
                with blocking(queue).slot():
                    pass
            outer.release()
            del outer
            blocking(queue).call(int)
            print("child", queue.stats.released, queue.waiting, queue.running, flush=True)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        outer.release()
        for thread in waiting:
            thread.join()
        blocking(queue).call(int)
        print("parent", status, queue.waiting, queue.running)
        """
    )
    assert lines == ["child 0 0 1", "child True", "child 4 0 0", "parent 0 0 0"]


def test_forks_at_any_moment_work():
    """Forks at any moment leave parent and child working.

    Children forked while threads take slots all work, end in silence, and harm no parent.
    """
    lines = run_program(
        """
        import os, sys, threading, time
        from aioapiqueue import ApiQueue
        from aioapiqueue.threads import blocking

        queue = ApiQueue("2000/s")
        stop = False

        def work():
            while not stop:
                with blocking(queue).slot():
                    pass

        busy = [threading.Thread(target=work) for _ in range(4)]
        for thread in busy:
            thread.start()
        failed = 0
        for _ in range(25):
            child = os.fork()
            if child == 0:
                stop = True
                for _ in range(5):
                    with blocking(queue).slot(timeout=30):
                        pass
                sys.exit(0)
            failed += os.waitpid(child, 0)[1] != 0
        stop = True
        for thread in busy:
            thread.join(60)
        blocking(queue).call(int)
        print(failed, queue.waiting, queue.running)
        """
    )
    assert lines == ["0 0 0"]


def test_pool_of_forks_works():
    """A pool of forked processes can use the queue.

    Workers that multiprocessing forks pace themselves, and end in silence.
    """
    lines = run_program(
        """
        import multiprocessing, time
        from aioapiqueue import ApiQueue
        from aioapiqueue.threads import blocking

        queue = ApiQueue("20/s")

        def work(_):
            with blocking(queue).slot():
                return time.monotonic()

        work(0)
        begun = time.monotonic()
        with multiprocessing.get_context("fork").Pool(2) as pool:
            times = sorted(pool.map(work, range(10), chunksize=5))
            pool.close()
            pool.join()
        print(len(times), times[-1] - begun > 0.19)
        """
    )
    assert lines == ["10 True"]


def test_parent_portal_is_refused_in_child():
    """A portal of the parent is refused in the child.

    A child has no thread that runs the parent's loop: it gets an error instead of hanging.
    """
    lines = run_program(
        """
        import os
        from anyio.from_thread import start_blocking_portal
        from aioapiqueue import ApiQueue
        from aioapiqueue.threads import blocking

        queue = ApiQueue()
        with start_blocking_portal() as portal:
            gate = blocking(queue, portal=portal)
            with gate.slot():
                child = os.fork()
                if child == 0:
                    try:
                        gate.slot().__enter__()
                    except RuntimeError as error:
                        print(error)
                    with blocking(queue).slot():
                        print("a loop of its own", flush=True)
                    os._exit(0)
            os.waitpid(child, 0)
        """
    )
    assert "make a portal in the child" in lines[0]
    assert lines[1:] == ["a loop of its own"]


def test_daemon_threads_keep_no_interpreter():
    """The interpreter ends although daemon threads wait.

    Threads that wait for ever keep no process alive, and die in silence.
    """
    lines = run_program(
        """
        import threading, time
        from aioapiqueue import ApiQueue
        from aioapiqueue.threads import blocking

        queue = ApiQueue()
        queue.pause()

        def work():
            with blocking(queue).slot():
                print("let in")

        for _ in range(50):
            threading.Thread(target=work, daemon=True).start()
        while queue.waiting < 50:
            time.sleep(0.001)
        print("end")
        """
    )
    assert lines == ["end"]


def test_last_threads_get_their_turns():
    """Threads that the program waits for get their turns at its end.

    After the main thread has ended, threads that are no daemons are still served.
    """
    lines = run_program(
        """
        import threading
        from aioapiqueue import ApiQueue
        from aioapiqueue.threads import blocking

        queue = ApiQueue("20/s")

        def work():
            with blocking(queue).slot():
                print("call")

        for _ in range(10):
            threading.Thread(target=work).start()
        print("main ends")
        """
    )
    assert sorted(lines) == ["call"] * 10 + ["main ends"]
    assert lines[-1] == "call"


def test_nothing_starts_before_first_slot():
    """Nothing is started before the first slot.

    Importing the module, and giving access to a queue, starts no thread.
    """
    lines = run_program(
        """
        import threading
        from aioapiqueue import ApiQueue
        from aioapiqueue.threads import blocking
        gate = blocking(ApiQueue())
        print(threading.active_count())
        """
    )
    assert lines == ["1"]
