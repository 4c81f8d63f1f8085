"""Threads that are interrupted, by real signals and at every instruction."""

import asyncio
import gc
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from anyio.from_thread import start_blocking_portal

from aioapiqueue import ApiQueue, QueueClosed
from aioapiqueue.threads import blocking
from tests.helpers import introspect
from tests.helpers.measured import COVERAGE
from tests.helpers.threads import figures, run_program
from tests.helpers.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.real


def test_keyboard_interrupt_leaves_nothing_behind():
    """Ctrl-C in a waiting thread ends the wait; the queue is as if it had never come."""
    lines = run_program(
        """
        import os, signal, threading, time
        from aioapiqueue import ApiQueue
        from aioapiqueue.threads import blocking

        queue = ApiQueue("100ms", concurrency=1)
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
        print("one interval", blocking(queue).call(queue.estimate) <= 0.1)
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
    introspect.let_threads_look(monkeypatch, every=0.001)
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
        wait_until(lambda: queue.waiting, every=0.001)
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
            wait_until(lambda: queue.waiting == (0 if closed else 1), every=0.001)
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
    while strike is None or strike.where != ("check_alive", "run"):  # it waits, and looks around
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
        wait_until(lambda: len(queue.ends) > 1, every=0.001)
    assert queue.ends == ("begun", "done")


def test_a_task_that_is_refused_raises():
    """What a task factory raises is the thread's, which does not wait for ever."""

    def refuse(loop, coroutine, **_):
        coroutine.close()
        raise ZeroDivisionError

    with start_blocking_portal() as portal:
        gate = blocking(ApiQueue(), portal=portal)
        loop = gate.call(asyncio.get_running_loop)
        raised = []

        def work():
            try:
                gate.call(int)
            except ZeroDivisionError as error:
                raised.append(error)

        loop.set_task_factory(refuse)
        try:
            thread = threading.Thread(target=work, daemon=True)
            thread.start()
            wait_until(lambda: raised, every=0.001)
        finally:
            loop.set_task_factory(None)
        assert gate.call(int) == 0


WAYS = {
    "slot": "with gate.slot(timeout=50) as slot: slot.throttled()",
    "try_slot": "with contextlib.suppress(WouldWait), gate.try_slot() as slot: slot.settle(2)",
}


@pytest.mark.parametrize("way", WAYS)
def test_interrupted_anywhere_no_slot_is_lost(monkeypatch, way):
    """A storm of signals, at any instruction of taking and ending slots, leaks no place."""
    # Where lines are traced, a thread of CPython 3.11 that enters a function while a signal is
    # pending spins there until the main thread handles it, which here waits for that thread.
    monkeypatch.delenv(COVERAGE, raising=False)
    lines = run_program(
        """
        import contextlib, gc, random, signal, sys, time
        from aioapiqueue import ApiQueue, WouldWait
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
                WAY

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
        """.replace("WAY", WAYS[way])
    )
    assert lines == ["1000 0 0", "goes on"]
