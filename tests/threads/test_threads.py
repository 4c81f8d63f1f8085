"""Real threads that take slots; on a loop of ours and through portals."""

import asyncio
import gc
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from aioapiqueue import (
    Adaptive,
    ApiQueue,
    NestedSlotWarning,
    QueueClosed,
    QueueFull,
    Rate,
    Slot,
    SlotTimeout,
    WouldWait,
    rate_limited,
)
from aioapiqueue.spi import Reporter, ThreadAccess
from aioapiqueue.threads import Blocking, BlockingSlot, blocking
from tests.helpers import introspect
from tests.helpers.lazily import lazily
from tests.helpers.threads import figures
from tests.helpers.waiting import PATIENCE, wait_until

trio = lazily("trio")

pytestmark = pytest.mark.real

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
                wait_until(lambda: one_by_one(len(futures)), every=0.001)
        yield futures
        for future in futures:
            future.result(timeout=PATIENCE)


def test_threads_start_one_interval_apart(stalls):
    """Threads get their turns one interval apart.

    Calls of 20 threads start one at a time, at the rate, and no slower.
    """
    released = Released()
    queue = ApiQueue("200/s", observers=[released])
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
    released.assert_paced(0.005)
    assert all(
        let_go <= start for let_go, start in zip(sorted(released.times), starts, strict=True)
    )
    assert starts[-1] - starts[0] < 0.495 + 0.5 + stalls.seconds
    assert settled(queue)


def test_hundreds_of_threads_keep_order():
    """Hundreds of threads get their turns in the order of arrival.

    Of 150 threads that wait, each gets its turn before those that came later.
    """
    released = Released()
    queue = ApiQueue("1000/s", observers=[released])
    queue.pause()

    def work(number):
        with blocking(queue).slot(key=number):
            pass

    with threads(work, 150, one_by_one=lambda count: queue.waiting == count):
        assert queue.waiting == 150
        blocking(queue).call(queue.resume)
    assert released.keys == list(range(150))
    assert settled(queue)


def test_key_priority_cost_are_passed():
    """Key priority and cost are the queue's.

    A thread's slot has what it asks for: a lane, a place ahead of others, a cost.
    """
    released = Released()
    queue = ApiQueue("40/s", lanes={"slow": "5/s"}, observers=[released])
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
        wait_until(lambda: queue.waiting == 4)
        blocking(queue).call(queue.resume)
    assert released.keys == [None, None, "dear", "slow", "slow"]
    assert sorted(keys, key=str) == sorted(released.keys, key=str)
    _, urgent, dear, slow, slower = released.times
    assert dear - urgent >= 4 / 40 - CATCH_UP  # it costs four
    assert slow - dear >= 1 / 40 - CATCH_UP
    assert slower - slow >= 0.2 - CATCH_UP
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
        wait_until(lambda: queue.waiting == 1)
        with pytest.raises(QueueFull), blocking(queue).slot():
            pytest.fail("it was let in")
        blocking(queue).close(drain=False)
        with pytest.raises(QueueClosed, match="was closed while this call waited"):
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


@pytest.mark.usefixtures("no_collector")
def test_lost_slot_is_given_back():
    """A slot that nobody ends is given back.

    A thread that loses its slot without leaving the block holds no place for ever.
    """
    queue = ApiQueue(concurrency=1)
    lost = blocking(queue).slot().__enter__()
    assert queue.running == 1
    del lost
    gc.collect(0)
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


def test_a_slot_says_what_it_costs():
    """As asked until it starts, then as charged, in calls; what is refused changes nothing."""
    queue = ApiQueue("1000 tokens/s burst 1000")
    slot = blocking(queue).slot(priority=-1, cost={"tokens": 5})
    assert (slot.priority, slot.cost) == (-1, 1)
    with slot:
        slot.settle({"tokens": 7})
        assert slot.cost == 1
        slot.settle({"calls": 3, "tokens": 2})
        with pytest.raises(ValueError, match="at least 0"):
            slot.settle({"calls": -1})
    slot.settle({"tokens": 4})
    assert slot.cost == 3
    assert settled(queue)
    assert queue.stats.costs == {"calls": 3, "tokens": 4}
    slot = blocking(ApiQueue()).slot(cost=4)
    assert slot.cost == 4
    with pytest.raises(RuntimeError, match="not started"):
        slot.settle(2)
    assert slot.cost == 4


def test_a_hold_is_no_push_back():
    """A thread can hold a lane: it is not counted, and the others go on."""
    queue = ApiQueue(lanes={"*": ()}, adaptive=Adaptive("1/s"))
    gate = blocking(queue)
    start = time.monotonic()
    gate.hold(0.3, key="busy")
    gate.hold(0.1, key="busy")  # shortens nothing
    assert gate.estimate(key="idle") == 0
    with gate.slot(key="busy"):
        assert time.monotonic() - start >= 0.3
    for wrong, words in (((-1, None), "at least 0, not -1"), ((1, "*"), "pattern")):
        with pytest.raises(ValueError, match=words):
            gate.hold(wrong[0], key=wrong[1])
    assert (queue.stats.throttled, queue.stats.backed_off) == (0, 0)


def test_malformed_answers_are_counted():
    """By threads too, with the key of the call."""
    keys = []

    class Heard:
        def on_event(self, event):
            keys.append((event.kind, event.key))

    queue = ApiQueue(observers=[Heard()])
    blocking(queue).malformed(key="a")
    blocking(queue).malformed()
    assert queue.stats.malformed == 2
    assert keys == [("malformed", "a"), ("malformed", None)]


def test_a_pause_stops_threads():
    """Nothing starts until it is over, or `resume` ends it."""
    queue = ApiQueue()
    gate = blocking(queue)
    start = time.monotonic()
    gate.pause(0.3)
    with gate.slot():
        assert time.monotonic() - start >= 0.3
    gate.pause()
    with pytest.raises(WouldWait):
        gate.try_slot()
    gate.resume()
    with gate.try_slot():
        pass
    with pytest.raises(ValueError, match="at least 0, not -1"):
        gate.pause(-1)


def test_threads_say_what_remains():
    """A slot's `sync` and the queue's: what is wrong is raised where it was said."""
    queue = ApiQueue("1000 in any 10min", lanes={"a": "1000 in any 10min"})
    gate = blocking(queue)
    with pytest.raises(RuntimeError, match="has not started"):
        gate.slot().sync(3)
    with gate.slot() as slot:
        for wrong, match in (({"remaining": -1}, "remaining"), ({"unit": "call"}, "did you mean")):
            with pytest.raises(ValueError, match=match):
                slot.sync(**{"remaining": 1, **wrong})
        slot.sync(1, reset=60)
    with gate.try_slot():
        assert 50 < gate.estimate() <= 60
    slot.sync(9, reset=60)  # released before the other, and ended by now
    gate.sync(0, reset=600, key="a")
    assert 500 < gate.estimate(key="a") <= 600


def test_a_threads_call_waits_again():
    """It waits in its old place, while its permit is free; the slot that it had is over."""
    queue, order = ApiQueue(concurrency=1), []
    gate = blocking(queue)

    def behind(name):
        with gate.slot():
            order.append(name)

    with gate.slot(key="k", priority=0, cost=3) as slot:
        with threads(behind, 3, one_by_one=lambda count: queue.waiting == count):
            gate.pause()
            another = slot.again()
            wait_until(lambda: figures(queue) == (4, 0))
            gate.resume()
            with another:
                order.append("again")
        for over in (slot, another):
            with pytest.raises(
                RuntimeError, match=r"again\(\) works only while the call is running"
            ):
                over.again()
    assert order == ["again", 0, 1, 2]
    assert (another.key, another.cost) == ("k", 3)
    assert settled(queue)


@pytest.mark.usefixtures("no_collector")
def test_threads_again_can_fail():
    """It raises what a slot does, and one that is dropped leaves; nothing is held for either."""
    queue = ApiQueue("1 in any 10min")
    gate = blocking(queue)
    with gate.slot() as slot:
        with pytest.raises(ValueError, match="timeout"):
            slot.again(timeout=-1)
        another = slot.again(timeout=0.01)
    with pytest.raises(SlotTimeout), another:
        pytest.fail("ran without a slot")
    queue = ApiQueue(concurrency=1)
    with blocking(queue).slot() as slot:
        slot.again()
    gc.collect(0)
    assert settled(queue)


def public(kind):
    """Return the names that users of a class see."""
    names = {*dir(kind), *getattr(kind, "__slots__", ())}
    return {name for name in names if not name.startswith("_")}


def test_threads_lack_what_is_known():
    """All that a queue and its slots offer is there for threads, but for these.

    Other figures are in `Blocking.queue`; `enqueue` is `slot` and `join`, `aclose` is `close`.
    """
    figures = {"name", "waiting", "running", "closed", "limits"}
    others = {"enqueue", "aclose", "map", "limiter"}
    others |= {"acquire"}  # it only says what to write
    assert public(ApiQueue) - public(Blocking) == figures | others
    assert public(Slot) - public(BlockingSlot) == set()


def test_queue_changes_while_threads_wait():
    """A queue can be changed while threads wait.

    A new rate holds for those who wait already; what a changed thing raises is raised here.
    """
    queue = ApiQueue("60s")

    def work(_):
        with blocking(queue).slot():
            pass

    with threads(work, 5):
        wait_until(lambda: queue.waiting == 4)
        blocking(queue).set_rate("100/s")
    with pytest.raises(ValueError, match="fast"):
        blocking(queue).set_rate("fast")
    with pytest.raises(TypeError, match="needs a limit: to remove all"):
        blocking(queue).set_rate(key="a")
    blocking(queue).set_rate("1/min", key="a")
    with blocking(queue).slot(key="a"):
        assert blocking(queue).estimate(key="a") > 50
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
        wait_until(lambda: queue.waiting + len(done) == 10)
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
            with pytest.raises(RuntimeError, match="another event loop that is still open"):
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
    loop = ThreadAccess(queues[0]).loop
    wait_until(lambda: not introspect.scheduled_on(loop) and not asyncio.all_tasks(loop))


async def test_coroutines_and_threads_share_a_portal():
    """Coroutines and threads share a queue through a portal.

    Both get their turns in one stream, on the coroutines' own loop.
    """
    released, starts = Released(), []
    async with BlockingPortal() as portal, ApiQueue("20ms", observers=[released]) as queue:

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
    released.assert_paced(0.02)
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
            with pytest.raises(RuntimeError, match="in a coroutine"):
                gate.slot().__enter__()
            await asyncio.to_thread(gate.slot().__enter__)


def on_asyncio(function):
    """Call a function in a coroutine of a loop that no queue is on."""

    async def main():
        return function()

    return asyncio.run(main())


def on_trio(function):
    """Call a function in trio."""

    async def main():
        return function()

    return trio.run(main)


@pytest.mark.parametrize(
    ("run", "remedy"),
    [(on_asyncio, "await asyncio.to_thread"), (on_trio, "await trio.to_thread.run_sync")],
)
def test_slots_on_any_loop_are_refused(run, remedy):
    """Whichever loop it is, waiting would keep it from doing anything else."""
    queue = ApiQueue("10/s")
    gate = blocking(queue)

    def call():
        return queue

    def refusal_of(take):
        with pytest.raises(RuntimeError, match="waiting here would block") as caught:
            run(take)
        return str(caught.value)

    for take in (gate.slot().__enter__, gate.slot().join, rate_limited(gate)(call)):
        assert remedy in refusal_of(take)
    assert queue.stats.released == 0
    with run(gate.try_slot) as slot:  # it waits for no turn, but to wait once more would
        assert remedy in refusal_of(slot.again)
    with pytest.raises(WouldWait):
        run(gate.try_slot)
    assert queue.stats.released == 1
    with gate.slot():  # the queue is as it was
        pass


def test_jupyter_is_told_to_await():
    """Cells run on a running loop: the error has what works there."""
    with pytest.raises(
        RuntimeError, match='in a coroutine or a Jupyter cell, write "async with queue'
    ):
        on_asyncio(blocking(ApiQueue()).slot().__enter__)


def test_control_works_on_any_loop():
    """What waits for no slot takes some microseconds."""
    queue = ApiQueue("10/s")
    gate = blocking(queue)
    for run in (on_asyncio, on_trio):
        run(gate.pause)
        assert run(gate.estimate) > 1000
        run(gate.resume)
        assert run(gate.estimate) == 0


async def test_threads_of_trio_may_wait():
    """A thread beside a loop is none of its own, wherever it came from."""
    gate = blocking(ApiQueue("10/s"))

    def work():
        with gate.slot() as slot:
            return slot.key

    async def main():
        return await trio.to_thread.run_sync(work)

    assert await asyncio.to_thread(work) is None
    assert await asyncio.to_thread(trio.run, main) is None


@pytest.mark.flaky(reruns=2)
def test_threads_hear_that_loop_ended(monkeypatch):
    """Threads hear that the user's loop has ended.

    Threads that wait for a loop that is closed get an error, and so do those that come later. The
    loop has a millisecond to close after it has cancelled the ticker. Then the ticker is replaced,
    and Python warns if the new one never runs.
    """
    introspect.let_threads_look(monkeypatch, every=0.01)
    queue = ApiQueue("60s")
    with ThreadPoolExecutor(2) as pool:
        with start_blocking_portal() as portal:
            gate = blocking(queue, portal=portal)
            with gate.slot() as slot:
                pass
            waiting = pool.submit(gate.slot().__enter__)
            wait_until(lambda: queue.waiting == 1)
        with pytest.raises(RuntimeError, match="has been closed"):
            waiting.result(timeout=PATIENCE)
    for act in (gate.slot().__enter__, gate.throttled, gate.close):
        with pytest.raises(RuntimeError, match="has been closed"):
            act()
    slot.release()
    # The queue itself goes on, on another loop.
    with blocking(queue).slot(cost=0):
        pass


def test_keys_and_costs_by_unit():
    """A thread's slot comes under several lanes, and costs what it says in each unit."""
    queue = ApiQueue("1000 tokens/s burst 1000", lanes={"t:*": "10/s", "search": "20/s"})
    cost = {"tokens": 300}
    with blocking(queue).slot(keys=("t:a", "search"), cost=cost) as slot:
        assert slot.key == "t:a"
        slot.throttled(0.2, key="search")
        slot.settle({"tokens": 100})
        for wrong, words in (
            (5, "is ambiguous on a queue with units"),
            ({"token": 5}, "did you mean 'tokens'"),
            ({"tokens": -1}, "at least 0"),
        ):
            with pytest.raises(ValueError, match=words):
                slot.settle(wrong)
        with pytest.raises(TypeError, match="number"):
            slot.settle({"tokens": "5"})
    assert settled(queue)
    stats = queue.stats
    assert stats.costs == {"calls": 1, "tokens": 100}
    assert [stats.lanes[lane].throttled for lane in ("t:*", "search")] == [0, 1]
    assert blocking(queue).estimate(keys=("search",), cost={"tokens": 1}) > 0
    assert blocking(queue).estimate(key="t:b", cost={"tokens": 1}) == 0


def test_costs_are_those_of_the_call():
    """A mapping that is changed afterwards changes nothing."""
    queue = ApiQueue("1000 tokens/s burst 1000")
    queue.pause()
    cost = {"tokens": 5}
    slot = blocking(queue).slot(cost=cost)
    cost["tokens"] = 900
    slot.join()
    blocking(queue).call(queue.resume)
    with slot:
        true = {"tokens": 7}
        slot.settle(true)
        true["tokens"] = 900
    assert settled(queue)
    assert queue.stats.costs["tokens"] == 7


def test_wrong_keys_are_refused_at_once():
    """Before anything is asked of the loop."""
    gate = blocking(ApiQueue())
    for how in ({"key": "a", "keys": ("b",)}, {"keys": "ab"}, {"key": ["a"]}):
        for ask in (gate.slot, gate.try_slot):
            with pytest.raises(TypeError, match="key"):
                ask(**how)


def test_try_slot_does_not_wait():
    """A free slot is held at once; else WouldWait says when there may be one."""
    queue = ApiQueue("1/min", concurrency=1)
    gate = blocking(queue)
    with gate.try_slot(key="a") as slot:
        assert (figures(queue), slot.key, slot.waited) == ((0, 1), "a", 0)
        with pytest.raises(WouldWait) as caught:
            gate.try_slot()
        assert 50 < caught.value.retry_in <= 60
    assert settled(queue)
    with pytest.raises(RuntimeError, match="for one call"):
        slot.__enter__()
    assert queue.stats.released == 1
    assert queue.stats.cancelled == 0


@pytest.mark.usefixtures("no_collector")
def test_try_slot_is_its_callers_to_end():
    """By `release`, or by being lost."""
    queue = ApiQueue(concurrency=1)
    gate = blocking(queue)
    slot = gate.try_slot()
    slot.release()
    assert settled(queue)
    lost = gate.try_slot()
    del lost
    gc.collect(0)
    assert settled(queue)
    assert queue.stats.released == 2


def test_decorated_functions_wait_in_threads(stalls):
    """`@rate_limited(blocking(queue))` paces a plain function in any thread."""
    released = Released()
    queue = ApiQueue("100 tokens/s burst 20", observers=[released], lanes={"a": "100/s"})

    @rate_limited(
        blocking(queue),
        key=lambda name: name,
        cost=lambda name: {"tokens": 10 * len(name)},
        settle=lambda length: {"tokens": length},
    )
    def length_of(name):
        """Say so."""
        return len(name)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(length_of, ["a", "bb", "a", "ccc"])) == [1, 2, 1, 3]
    assert settled(queue)
    assert queue.stats.costs == {"calls": 4, "tokens": 7}
    assert sorted(released.keys) == ["a", "a", "bb", "ccc"]
    assert (length_of.__name__, length_of.__doc__) == ("length_of", "Say so.")


def test_queue_for_threads_by_argument():
    """A function of the arguments finds the queue of each call."""
    queues = {name: ApiQueue() for name in "ab"}

    class Client:
        @rate_limited(lambda _, name: blocking(queues[name]))
        def get(self, name):
            if name == "b":
                raise LookupError
            return name

    assert Client().get("a") == "a"
    with pytest.raises(LookupError):
        Client().get("b")
    assert all(map(settled, queues.values()))
    assert [queue.stats.released for queue in queues.values()] == [1, 1]


def test_queue_without_a_loop_names_blocking():
    """Code that has never seen asyncio is told what is for threads."""
    queue = ApiQueue("10/s")
    with pytest.raises(RuntimeError, match=r"asyncio event loop .*with blocking\(queue\).slot\(\)"):
        queue.try_slot()
    with pytest.raises(RuntimeError, match=r"blocking\(queue\)"), queue.slot():
        pytest.fail("it was let in")


@pytest.mark.parametrize("same_thread", [True, False])
def test_other_threads_may_call_inside_slots(same_thread):
    """A client's call is paced twice by a slot around it, but not by that of another thread."""
    queue = ApiQueue("1000/s burst 1000")
    calls = blocking(queue)
    Reporter(queue).watch()

    def request():
        with Reporter.request(calls.slot):
            pass

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            with calls.slot():
                if same_thread:
                    request()
                else:
                    thread = threading.Thread(target=copy_context().run, args=(request,))
                    thread.start()
                    thread.join()
    assert [one.category for one in caught] == [NestedSlotWarning] * same_thread
