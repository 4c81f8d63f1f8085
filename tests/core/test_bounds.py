"""What is too large, or no number, is refused before anything is lost; timers are bounded."""

from __future__ import annotations

import asyncio
import copy
import math
import pickle

import pytest
import uvloop

from aioapiqueue import Adaptive, ApiQueue, QueueClosed, Rate, Window, WouldWait
from tests.helpers import introspect
from tests.helpers.instants import exactly
from tests.helpers.work import work

HUGE = 10**400


@pytest.mark.parametrize("number", [1e308, HUGE, 1.1e15])
def test_a_huge_cost_is_refused(number, run_virtual):
    """Also a whole number that no float can hold: it used to end in an OverflowError."""

    async def main():
        queue = ApiQueue("10/s", Window(100, 1))
        slot = queue.try_slot()
        for call in (queue.slot, queue.enqueue, queue.try_slot, queue.estimate):
            with pytest.raises(ValueError, match=r"cost must be at most 1e\+15"):
                call(cost=number)
        with pytest.raises(ValueError, match=r"cost must be at most 1e\+15"):
            slot.settle(number)
        assert queue.stats.waiting == 0

    run_virtual(main)


@pytest.mark.parametrize("seconds", [1e308, HUGE, 1.1e9])
async def test_seconds_are_at_most_thirty_years(seconds):
    """Of pauses, holds, time-outs and push-back."""
    queue = ApiQueue("10/s")
    calls = [
        lambda: queue.pause(seconds),
        lambda: queue.hold(seconds),
        lambda: queue.throttled(seconds),
        lambda: queue.slot(timeout=seconds),
        lambda: ApiQueue(catch_up=seconds),
        lambda: Adaptive(recovery=seconds),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"must be at most 1e\+09"):
            call()
    with pytest.raises(ValueError, match=r"timeout must be at most 1e\+09"):
        await queue.aclose(timeout=seconds)


@pytest.mark.parametrize(
    "limit",
    [
        lambda: Rate(1, per=1e308),
        lambda: Rate(1e-300),
        lambda: Rate(1, burst=1e308),
        lambda: Rate(HUGE),
        lambda: Window(1, per=1e308),
        lambda: Window(HUGE, per=1),
    ],
)
def test_huge_limits_are_refused(limit):
    """Where they are made, with the bound."""
    with pytest.raises(ValueError, match=r"must be at most 1e\+(15|09)"):
        limit()


@pytest.mark.real
@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_far_instants_harm_no_ticker(new_loop):
    """What is due in ages is awaited in silence, by timers of a day at most."""

    async def main():
        trouble = []
        asyncio.get_running_loop().set_exception_handler(lambda _, what: trouble.append(what))
        queue = ApiQueue(Rate(1, per=1e9))
        calls = [queue.enqueue(), queue.enqueue(cost=1e15), queue.enqueue(timeout=1e9)]
        queue.pause(1e9)
        await asyncio.sleep(0.02)
        assert [call.done() for call in calls] == [True, False, False]
        assert introspect.timer_of(queue).when() - asyncio.get_running_loop().time() < 86_401
        queue.resume()
        queue.set_rate(Rate(1e15, per=1e-3))
        await asyncio.wait_for(asyncio.gather(*calls), 5)
        assert trouble == []

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


@pytest.mark.parametrize("priority", ["high", None, 1j, [1], object()])
async def test_a_priority_must_be_a_number(priority):
    """One that cannot be put in order is refused at once, and leaves nothing behind."""
    queue = ApiQueue("1/s")
    queue.enqueue()
    for call in (queue.slot, queue.enqueue, queue.try_slot):
        with pytest.raises(TypeError, match="priority must be a number, not"):
            call(priority=priority)
    with pytest.raises(ValueError, match="not NaN"):
        queue.enqueue(priority=math.nan)
    assert (queue.stats.waiting, len(introspect.timeouts_of(queue))) == (0, 0)


@pytest.mark.parametrize("order", ["fifo", "fair"])
@pytest.mark.parametrize("patience", [None, 0.5])
async def test_a_key_must_be_hashable(order, patience):
    """Always, not only where the call has to wait; no timer of it is left."""
    trouble = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: trouble.append(what))
    queue = ApiQueue("1/s", order=order)
    for _ in range(2):
        with pytest.raises(TypeError, match="unhashable"):
            queue.enqueue(key=[], timeout=patience)
        with pytest.raises(TypeError, match="unhashable"):
            queue.try_slot(key=[])
        queue.enqueue()
    await asyncio.sleep(2)
    assert (queue.stats.waiting, len(introspect.timeouts_of(queue)), trouble) == (0, 0, [])


class HashedOnce:
    """A key that can be hashed once."""

    def __init__(self):
        self.hashed = 0

    def __hash__(self):
        self.hashed += 1
        if self.hashed > 1:
            raise TypeError("no more")
        return 1


async def test_a_failed_join_leaves_no_timer():
    """A key that fails later than that, too."""
    queue = ApiQueue("1/s", order="fair")
    queue.enqueue()
    with pytest.raises(TypeError, match="no more"):
        queue.enqueue(key=HashedOnce(), timeout=5)
    assert not introspect.timeouts_of(queue)


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, pickle.dumps])
async def test_a_queue_is_not_copied(how):
    """Two copies shared half of the state: their callers waited for ever."""
    queue = ApiQueue("10/s", name="api")
    with pytest.raises(TypeError, match=r"'api' 10/s.* cannot be copied or pickled"):
        how(queue)
    async with queue.slot():
        pass


@pytest.mark.parametrize("how", [copy.deepcopy, pickle.dumps])
def test_no_copy_of_a_slot(how):
    """It would bring a copy of its queue's limits."""
    slot = ApiQueue("10/s", name="api").slot()
    with pytest.raises(TypeError, match=r"'api' 10/s.* cannot be copied or pickled"):
        how(slot)


class Failing:
    """Raises what it is given at each event of one kind."""

    def __init__(self, error, kind):
        self.error, self.kind = error, kind

    def on_event(self, event):
        """Raise."""
        if event.kind == self.kind:
            raise self.error


class Stop(BaseException):
    """No Exception."""


@pytest.mark.parametrize("kind", ["released", "finished", "cancelled"])
@pytest.mark.parametrize("error", [Stop(), asyncio.CancelledError(), GeneratorExit(), ValueError()])
async def test_no_observer_costs_a_place(kind, error):
    """Whatever it raises: the calls go on, and the loop's exception handler hears of it."""
    trouble = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: trouble.append(what))
    queue = ApiQueue("10/s", concurrency=1, observers=[Failing(error, kind)])
    started = []

    async def call(number):
        async with queue.slot():
            started.append(number)

    tasks = [asyncio.create_task(call(number)) for number in range(4)]
    await asyncio.sleep(0.05)
    tasks[1].cancel()
    await asyncio.wait(tasks)
    assert started == [0, 2, 3]
    assert (queue.stats.running, queue.stats.waiting) == (0, 0)
    assert {what["exception"] for what in trouble} == {error}


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_observer_may_end_the_program(error, run_virtual):
    """What ends the loop anywhere ends it here, once the event's bookkeeping is done."""
    queue = ApiQueue("10/s", concurrency=1, observers=[Failing(error(), "released")])

    async def main():
        async with queue.slot():
            await asyncio.sleep(60)

    with pytest.raises(error):
        run_virtual(main)
    assert (queue.stats.released, queue.stats.running) == (1, 0)


@pytest.mark.parametrize("number", [0.5, 1.5, 2.0, True])
async def test_concurrency_is_a_whole_number(number):
    """With 0.5 or 1.5, a semaphore never comes to 0: `map` called all at once."""

    async def double(item):
        return 2 * item

    for call in (
        lambda: ApiQueue(concurrency=number),
        lambda: ApiQueue().map(double, [1], concurrency=number),
    ):
        with pytest.raises((TypeError, ValueError), match="concurrency"):
            call()


@pytest.mark.parametrize("bound", [False, True])
@pytest.mark.parametrize("error", [ValueError(), SystemExit(), Stop()])
def test_observer_fails_outside_a_loop(error, bound, run_virtual, caplog):
    """An observer fails outside of a loop.

    What it raises is reported, and the push-back counts; what ends the program is raised.
    """
    queue = ApiQueue("10/s", observers=[Failing(error, "throttled")])

    async def main():
        (await queue.enqueue()).release()

    if bound:
        run_virtual(main)
    if isinstance(error, SystemExit):
        with pytest.raises(SystemExit):
            queue.throttled(5)
        return
    queue.throttled(5)
    assert 4.8 < queue.estimate() <= 5
    assert "failed on Event(kind='throttled'" in caplog.text
    assert caplog.records[0].exc_info[1] is error


async def test_fractions_fill_a_window_exactly():
    """Three times 0.1 and 0.7 are 1, although their sum in floats is a little more."""
    loop, queue = asyncio.get_running_loop(), ApiQueue(Window(1, 10))
    for _ in range(3):
        async with queue.slot(cost=0.3) as slot:
            slot.settle(0.1)
        await asyncio.sleep(1)
    async with queue.slot(cost=0.7):
        assert loop.time() == exactly(3)
    async with queue.slot(cost=0.1):
        assert loop.time() == exactly(10)


async def test_a_huge_window_counts_whole_calls():
    """Whatever sums of fractions may be off by, a whole call more has to wait."""
    loop, queue = asyncio.get_running_loop(), ApiQueue(Window(10**12, 10))
    async with queue.slot(cost=10**12):
        pass
    async with queue.slot():
        assert loop.time() == exactly(10)


async def test_windows_forget_what_has_left():
    """After a thousand calls have left its window, a queue has as little to do as at first."""
    queue, costs = ApiQueue("5 in any 1s"), []
    for _ in range(1000):
        costs.append(work(lambda: queue.try_slot().release()))
        await asyncio.sleep(0.25)
    assert min(costs[-10:]) <= max(costs[:10])


async def test_observer_cancels_who_is_refused_next():
    """Who is let go by an observer, while a queue that closes refuses all, is let go once."""

    class Cancels:
        def on_event(self, event):
            """Cancel the second as the first is refused."""
            kinds.append(event.kind)
            if kinds == ["refused"]:
                waiting[1].cancel()

    queue, kinds = ApiQueue("1/h", observers=[Cancels()]), []
    queue.try_slot()
    kinds.clear()
    waiting = [queue.enqueue() for _ in range(3)]
    kinds.clear()
    await queue.aclose(drain=False)
    assert [kind for kind in kinds if kind != "closed"] == ["refused", "cancelled", "refused"]
    assert waiting[1].cancelled()
    for future in (waiting[0], waiting[2]):
        with pytest.raises(QueueClosed):
            await future


@pytest.mark.parametrize("how", [copy.copy, pickle.dumps])
def test_errors_leave_their_process(how):
    """A pool of processes that cannot read the error of a call breaks with all its calls."""
    error = WouldWait("in 1.5 s", retry_in=1.5)
    error.add_note("noted")
    found = how(error)
    if isinstance(found, bytes):
        found = pickle.loads(found)  # noqa: S301 - our own
    assert (str(found), found.retry_in, found.__notes__) == ("in 1.5 s", 1.5, ["noted"])
