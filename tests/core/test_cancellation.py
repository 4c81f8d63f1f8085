from __future__ import annotations

import asyncio
import gc
import random

import anyio
import pytest

from aioapiqueue import ApiQueue, QueueClosed, Rate, Window
from aioapiqueue.spi import algorithms
from aioapiqueue.testing import VirtualLoop
from tests.helpers import introspect
from tests.helpers.instants import exactly, free, line_up, now, released, use


async def claim(queue, starts, **options):
    """As `use`, by way of `enqueue`."""
    with await queue.enqueue(**options):
        starts.append(now())


both_ways = pytest.mark.parametrize("enter", [use, claim])

# Cancellation. Every await inside has its race here.


@pytest.mark.contract
@pytest.mark.ahead
@both_ways
async def test_cancelled_while_waiting(limiter, enter):
    """It uses no slot: those behind move up, at the instants that were theirs to take."""
    queue, starts = limiter.queue("10/s"), []
    tasks = [asyncio.create_task(enter(queue, starts)) for _ in range(5)]
    await asyncio.sleep(0.05)
    tasks[1].cancel()
    tasks[2].cancel()
    await asyncio.wait(tasks)
    assert starts == limiter.exactly([0, 0.1, 0.2])
    assert tasks[1].cancelled()
    assert (queue.stats.released, queue.stats.cancelled, queue.running) == (3, 2, 0)


@pytest.mark.contract
@pytest.mark.ahead
@both_ways
async def test_cancelled_between_release_and_resumption(limiter, enter):
    """The slot that its task can no longer take goes to the next waiter in the same tick."""
    queue, starts = limiter.queue("10/s"), []
    tasks = [asyncio.create_task(enter(queue, starts)) for _ in range(4)]
    await asyncio.sleep(0.05)
    introspect.after_next_grant(queue, tasks[1].cancel)
    await asyncio.wait(tasks)
    assert tasks[1].cancelled()
    assert starts == limiter.exactly([0, 0.1, 0.2])
    assert (queue.stats.released, queue.stats.cancelled, queue.running) == (3, 1, 0)


@pytest.mark.contract
@pytest.mark.ahead
@both_ways
@pytest.mark.parametrize("limit", [Rate(10, burst=3), Window(3, 1), None])
async def test_several_cancelled_before_resumption(limiter, enter, limit):
    """Cancelled between release and resumption with others released.

    Several of one burst are cancelled so: as many others get their places in that tick.
    """
    queue, starts = limiter.queue(*[limit] if limit else (), concurrency=3), []
    queue.pause(1)
    await limiter.settled()
    tasks = [asyncio.create_task(enter(queue, starts)) for _ in range(6)]
    await asyncio.sleep(0.5)
    introspect.after_next_grant(queue, lambda: [task.cancel() for task in tasks[:2]])
    await asyncio.wait(tasks)
    assert starts[:3] == limiter.exactly([1, 1, 1])
    assert len(starts) == 4
    assert queue.running == 0


@pytest.mark.contract
@pytest.mark.ahead
async def test_cancel_of_granted_unclaimed_reservation(limiter):
    """Cancel of a reservation granted but not claimed.

    Nobody took it up: the slot goes to the next in the same tick.
    """
    queue, starts = limiter.queue("10/s", concurrency=1), []
    first = queue.enqueue()
    await limiter.settled()
    waiting = asyncio.create_task(use(queue, starts))
    await asyncio.sleep(0.05)
    assert first.done()
    assert first.cancel() is False
    await waiting
    assert starts == limiter.exactly([0.05])
    assert (queue.stats.released, queue.stats.cancelled, queue.running) == (1, 1, 0)


async def test_cancel_of_a_reservation_already_claimed(limiter):
    """The slot is its holder's by then: cancelling the future changes nothing."""
    queue = limiter.queue("10/s")
    future = queue.enqueue()
    slot = await future
    assert future.cancel() is False
    assert queue.running == 1
    slot.release()
    assert (queue.running, queue.stats.released, queue.stats.cancelled) == (0, 1, 0)


@pytest.mark.contract
async def test_cancel_of_a_reservation_that_waits(limiter):
    """`cancel` is the way to leave, and says that it worked."""
    queue = limiter.queue("10/s")
    _, second, third = (queue.enqueue() for _ in range(3))
    await limiter.settled()
    assert second.cancel() is True
    assert queue.waiting == 1
    await third
    assert now() == limiter.exactly(0.1)
    with pytest.raises(asyncio.CancelledError):
        await second


@pytest.mark.contract
@pytest.mark.ahead
async def test_cancelling_900_leaves_100_on_time(limiter):
    """Cancelling 900 of 1000 leaves the other 100 on time.

    No slot and no time is lost on those who left.
    """
    queue, starts = limiter.queue("100/s"), []
    tasks = [asyncio.create_task(use(queue, starts)) for _ in range(1000)]
    await asyncio.sleep(0.005)
    for task in random.Random(5).sample(tasks[1:], 900):
        task.cancel()
    await asyncio.wait(tasks)
    assert starts == limiter.exactly([n / 100 for n in range(100)])
    assert (queue.stats.cancelled, queue.waiting) == (900, 0)


@pytest.mark.contract
async def test_cancelled_while_the_body_runs(limiter):
    """The call has started: its slot stays used, its place is free."""
    queue, starts = limiter.queue("10/s", concurrency=1), []

    async def long():
        async with queue.slot():
            await asyncio.sleep(100)

    task = asyncio.create_task(long())
    await asyncio.sleep(0.01)
    behind = asyncio.create_task(use(queue, starts))
    task.cancel()
    await asyncio.wait([task, behind])
    assert starts == limiter.exactly([0.1])


def by_wait_for(queue, starts):
    """Wrap a coroutine."""
    return asyncio.wait_for(use(queue, starts), 0.15)


async def by_timeout(queue, starts):
    """Wrap a block."""
    async with asyncio.timeout(0.15):
        await use(queue, starts)


async def by_fail_after(queue, starts):
    """Wrap a block, with anyio."""
    with anyio.fail_after(0.15):
        await use(queue, starts)


async def by_wait_for_a_reservation(queue, starts):
    """Wrap a future."""
    with await asyncio.wait_for(queue.enqueue(), 0.15):
        starts.append(now())


@pytest.mark.contract
@pytest.mark.parametrize("way", [by_wait_for, by_timeout, by_fail_after, by_wait_for_a_reservation])
async def test_timeouts_of_asyncio_and_anyio(limiter, way):
    """Timeouts of asyncio and anyio around it.

    Those whose time is up leave without a slot, the others are on time.
    """
    queue, starts = limiter.queue("10/s"), []
    tasks = [asyncio.create_task(way(queue, starts)) for _ in range(4)]
    await asyncio.sleep(0.01)
    await use(queue, starts)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [type(None)] * 2 + [TimeoutError] * 2
    assert starts == limiter.exactly([0, 0.1, 0.2])
    assert (queue.stats.cancelled, queue.running) == (2, 0)


async def test_move_on_at_the_release(limiter):
    """Anyio move on after the very instant of the release.

    Whichever comes first, the slot is used by one of the two who want it.
    """
    queue, starts = limiter.queue("10/s"), []
    await limiter.take(queue)

    async def hasty():
        with anyio.move_on_after(0.1):
            await use(queue, starts)

    async with anyio.create_task_group() as group:
        group.start_soon(hasty)
        group.start_soon(use, queue, starts)
    assert starts[0] == limiter.exactly(0.1)
    assert queue.stats.released == 1 + len(starts)


async def test_an_anyio_scope_that_keeps_cancelling(limiter):
    """A scope of anyio cancels until it is left; the queue hears of it once."""
    queue, starts = limiter.queue("10/s"), []
    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(use, queue, starts)
        await anyio.sleep(0.15)
        group.cancel_scope.cancel()
    assert starts == limiter.exactly([0, 0.1])
    assert (queue.stats.cancelled, queue.waiting, queue.running) == (3, 0, 0)


async def test_a_coroutine_closed_while_it_waits(limiter):
    """GeneratorExit leaves the queue like a cancellation."""
    queue, starts = limiter.queue("10/s"), []
    await limiter.take(queue)
    coroutine = use(queue, starts)
    coroutine.send(None)
    behind = asyncio.create_task(use(queue, starts))
    await asyncio.sleep(0.05)
    assert queue.waiting == 2
    coroutine.close()
    assert queue.waiting == 1
    await behind
    assert starts == limiter.exactly([0.1])


@pytest.mark.contract
async def test_coroutine_closed_before_resumption(limiter):
    """A coroutine closed between release and resumption.

    Its slot goes to the next waiter in the same tick.
    """
    queue, starts = limiter.queue("10/s"), []
    await limiter.take(queue)
    coroutine = use(queue, starts)
    coroutine.send(None)
    behind = asyncio.create_task(use(queue, starts))
    await asyncio.sleep(0.05)
    introspect.after_next_grant(queue, coroutine.close)
    await behind
    assert starts == limiter.exactly([0.1])
    assert queue.stats.released == 2


@pytest.mark.parametrize("lanes", [None, {"*": "10/s"}])
async def test_ticker_cancelled_with_every_task(limiter, lanes):
    """The ticker cancelled by who cancels every task.

    Those who still wait are released all the same, a millisecond late at most.
    """
    queue, starts = limiter.queue(*[] if lanes else ["10/s"], lanes=lanes), []
    futures = [queue.enqueue() for _ in range(4)]
    await asyncio.sleep(0.15)
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    for future in futures:
        with await asyncio.wait_for(future, 10):
            starts.append(now())
    assert starts[2:] == limiter.exactly([0.2, 0.3])


async def test_ticker_cancelled_before_it_began(limiter):
    """The ticker cancelled before it has begun.

    A task that never began has run none of its own clean-up.
    """
    queue = limiter.queue("10/s")
    await limiter.take(queue)
    future = queue.enqueue()
    await limiter.settled()
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    with await asyncio.wait_for(future, 10):
        assert now() == pytest.approx(0.1, abs=0.01)


async def test_joined_after_ticker_was_cancelled():
    """A call that joins behind others replaces the ticker at once, and not a millisecond later."""
    queue = ApiQueue("10/s")
    futures = [queue.enqueue() for _ in range(3)]
    await asyncio.sleep(0.05)
    ticker = introspect.ticker_of(queue)
    ticker.cancel()
    await asyncio.wait([ticker])
    assert introspect.ticker_of(queue) is None
    futures.append(queue.enqueue())
    assert introspect.ticker_of(queue) is not None
    waited = [(await future).waited for future in futures]
    assert waited == pytest.approx([0, 0.1, 0.2, 0.25])


async def test_the_ticker_cancelled_while_aclose_drains(limiter):
    """Draining goes on: nobody is refused who had been promised a turn."""
    queue = limiter.queue("10/s")
    futures = [queue.enqueue() for _ in range(4)]
    await asyncio.sleep(0.05)
    introspect.ticker_of(queue).cancel()
    await queue.aclose()
    assert now() == limiter.exactly(0.3)
    assert [(await future).waited for future in futures] == limiter.exactly([0, 0.1, 0.2, 0.3])


@pytest.mark.parametrize("passes", [0, 1])
async def test_no_restart_outlives_aclose(passes):
    """Closed before a ticker that was cancelled is replaced, a queue leaves no timer."""
    queue = ApiQueue("10/s")
    futures = [queue.enqueue() for _ in range(3)]
    await asyncio.sleep(0.05 * passes)  # with 0, it has not begun
    introspect.ticker_of(queue).cancel()
    await asyncio.sleep(0)
    await queue.aclose(drain=False)
    assert asyncio.get_running_loop().pending_timers == 0
    for future in futures[1:]:
        with pytest.raises(QueueClosed):
            await future


@pytest.mark.contract
async def test_cancelled_while_aclose_drains(limiter):
    """A waiter that leaves is not waited for; `aclose` cancelled refuses the rest at once."""
    queue, starts = limiter.queue("10/s"), []
    tasks = [asyncio.create_task(use(queue, starts)) for _ in range(5)]
    await asyncio.sleep(0.05)
    closing = asyncio.create_task(queue.aclose())
    await asyncio.sleep(0.1)
    tasks[2].cancel()
    await asyncio.sleep(0.1)
    closing.cancel()
    await limiter.settled()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert now() == limiter.exactly(0.25)
    assert closing.cancelled()
    assert starts == limiter.exactly([0, 0.1, 0.2])
    kinds = [type(result) for result in results]
    assert kinds == [type(None)] * 2 + [asyncio.CancelledError, type(None), QueueClosed]
    assert not asyncio.all_tasks() - {asyncio.current_task()}


@pytest.mark.parametrize("leaves", ["first", "meanwhile"])
async def test_no_restart_for_nobody(leaves):
    """A ticker that was cancelled before it began is not replaced if nobody waits any more."""
    queue = ApiQueue("10/s")
    queue.try_slot()
    future = queue.enqueue()
    looks = introspect.work_of_steps(queue, lambda look: look() or 1)
    ticker = introspect.ticker_of(queue)
    ticker.cancel()
    if leaves == "first":
        future.cancel()
    await asyncio.wait([ticker])
    assert (introspect.timer_of(queue) is None) == (leaves == "first")
    future.cancel()
    await asyncio.sleep(1)
    assert looks == []
    assert introspect.left_over(queue) == []


@pytest.mark.parametrize("keys", [("a", "b"), ("a", "a"), (None, None)])
async def test_cancelled_in_pass_of_set_rate(keys):
    """One whose task has not resumed yet is sorted out, and nobody else is lost with it."""
    queue, starts = ApiQueue("1/s", lanes={"a": "1/s"}, maxsize=5, overflow="drop_oldest"), []
    queue.try_slot()
    tasks = [asyncio.create_task(use(queue, starts, key=key)) for key in keys]
    await asyncio.sleep(0)
    tasks[0].cancel()
    queue.set_rate("1/s", key="b")
    await asyncio.sleep(0)
    assert queue.waiting == 1
    tasks.append(asyncio.create_task(use(queue, starts)))
    await asyncio.wait(tasks, timeout=10)
    assert starts == exactly([1, 2])
    assert queue.waiting == 0


async def test_cancelled_and_sorted_while_parked():
    """Its old line, which is parked, does not come back when its task leaves."""
    queue, starts = ApiQueue(lanes={"a": "1/s"}), []
    tasks = line_up(queue, starts, 4, key="a")
    await asyncio.sleep(0.5)
    tasks[3].cancel()
    queue.set_rate("1/s", key="b")
    await asyncio.wait(tasks, timeout=10)
    assert starts == exactly([0, 1, 2])
    assert queue.stats.released == 3


async def test_newcomer_meets_a_line_of_gone():
    """A line in which all are cancelled, and have not left yet, is in nobody's way."""
    queue = ApiQueue("1/s", lanes={"*": "1/s"})
    queue.try_slot()
    gone = asyncio.create_task(use(queue, [], key="gone"))
    await asyncio.sleep(0)
    gone.cancel()
    assert (await queue.enqueue(key="other")).waited == 1  # from now on there are two lines
    assert gone.cancelled()
    await asyncio.sleep(0)
    assert introspect.left_over(queue) == []


async def test_line_of_gone_is_joined_again():
    """Who joins a line before those that are cancelled have left it waits there as the first.

    The line waited for two limits, in a group with others of the same: it has left that.
    """
    queue = ApiQueue("1/s", lanes={"*": "0.25/s"})
    queue.try_slot(key="a")
    early = [queue.enqueue(key=name) for name in "bcdef"]
    gone = asyncio.create_task(use(queue, [], key="a"))
    await asyncio.sleep(5.5)  # its lane has had room, and the queue has not: it is the next
    assert "group of 2" in introspect.left_over(queue)
    gone.cancel()
    late = [queue.enqueue(key=name) for name in "ga"]
    assert [(await call).waited for call in late] == exactly([0.5, 1.5])
    assert [(await call).waited for call in early] == exactly([1, 2, 3, 4, 5])
    await asyncio.sleep(0)
    assert introspect.left_over(queue) == []


async def test_ticker_between_cancelling_and_leaving():
    """The ticker stays if it sees that all are cancelled before their tasks have resumed."""
    queue, starts = ApiQueue("1/s", lanes={"a": "1/s"}), []
    queue.try_slot()
    gone = asyncio.create_task(use(queue, starts))
    await asyncio.sleep(0.5)
    queue.resume()  # the ticker is woken before the one that is cancelled
    gone.cancel()
    queue.set_rate("1 in any 1s")
    await asyncio.sleep(0)
    assert queue.waiting == 0
    assert introspect.ticker_of(queue) is not None
    # Half a call of the rate was not recovered: the window counts it until 1.5 s.
    assert await released(queue, 2) == exactly([1.5, 2.5])
    assert starts == []
    assert introspect.left_over(queue) == []


async def test_forgotten_reservation_leaves_no_cycle(limiter):
    """A reservation that is forgotten leaves no reference cycle.

    Once claimed and dropped, a slot is freed without the garbage collector.
    """
    queue = limiter.queue("1000/s")
    gc.disable()
    gc.collect(0)  # what came before; what comes now is young until the end
    try:
        for _ in range(50):
            async with queue.slot():
                pass
            with await queue.enqueue():
                pass
        assert gc.collect(0) < 50
    finally:
        gc.enable()


@pytest.mark.parametrize("costs", [(5, 5, 5), (6, 4)])
def test_all_of_one_instant_come_back(costs):
    """Of several above the burst that start at one instant, nothing stays used if all come back."""
    bucket = algorithms.TokenBucket(Rate(1), catch_up=20)
    bucket.on_idle(0)
    for cost in costs:
        bucket.consume(100, (cost,))
    for cost in reversed(costs):
        bucket.refund(100, 100, (cost,))
    assert bucket.next_at(100, (costs[0],)) == 100 - 20


def test_rate_that_changes_before_a_refund():
    """If the rate changes before a call above the burst comes back, others still count."""
    bucket = algorithms.TokenBucket(Rate(1, 1, 3), catch_up=1)
    bucket.on_idle(0)
    for cost in (6, 1):
        bucket.consume(100, (cost,))
    bucket.change(Rate(1, 1.5, 3), 100)
    bucket.refund(100, 100, (6,))
    assert bucket.next_at(100, (3,)) == 100  # the 1 has used up what was left to catch up with


async def test_cancelled_grants_above_the_burst():
    """Also where two are cancelled at one instant: the next does not wait for it all again."""
    queue = ApiQueue("8/s burst 8", catch_up=0)
    calls = [queue.enqueue(cost=cost) for cost in (16, 12, 12)]
    for call in calls[:2]:
        await asyncio.wait([call])  # granted, and not taken up
        call.cancel()
    await calls[2]
    assert asyncio.get_running_loop().time() == 1


async def test_cancelled_grant_above_the_burst_with_another():
    """Of two that a late loop starts at once, the one that stays is charged when the other goes."""
    queue = ApiQueue("1/s", catch_up=10)
    queue.try_slot()
    await asyncio.sleep(10)
    large, stays = queue.enqueue(cost=2), queue.enqueue()
    assert large.done()
    assert stays.done()
    large.cancel()
    # Eleven are due from 0 to 10: two have started, and what the burst could not hold of the large
    # one stays charged, as several small ones would start at once for it.
    assert free(queue) == 8


@pytest.mark.parametrize("lanes", [{}, {"*": "1/s"}])
def test_interrupted_in_the_middle_of_a_grant(lanes):
    """Ctrl-C between taking out a call and granting it: all tasks can be cancelled, as ever."""
    queue, ended = ApiQueue("10/s", lanes=lanes), []

    def interrupted(*_):
        raise KeyboardInterrupt

    async def call(number):
        try:
            async with queue.slot(key=number):
                ended.append(None)
                await asyncio.sleep(60)
        except BaseException as error:
            ended.append(type(error))
            raise

    async def main():
        await asyncio.gather(*map(call, range(4)))

    introspect.wrap_grants(queue, lambda _: interrupted)
    with pytest.raises(KeyboardInterrupt), asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())
    assert ended == [None] + [asyncio.CancelledError] * 4
    assert (queue.waiting, queue.stats.cancelled) == (0, 3)


@pytest.mark.parametrize("priority", [0, -1])
def test_interrupted_while_a_call_joins(priority, monkeypatch):
    """Ctrl-C between noting the priority of a call and the call itself: others start as ever."""

    async def main():
        queue, started = ApiQueue("10/s"), []
        queue.try_slot()
        others = [queue.enqueue() for _ in range(3 if priority else 0)]
        introspect.interrupt_new_priority(monkeypatch)
        with pytest.raises(KeyboardInterrupt):
            queue.enqueue(priority=priority)
        others += [queue.enqueue(priority=priority) for _ in range(3)]
        for number, other in enumerate(others):
            other.add_done_callback(lambda _, number=number: started.append(number))
        await asyncio.sleep(60)
        return started

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        assert runner.run(main()) == ([3, 4, 5, 0, 1, 2] if priority else [0, 1, 2])


@pytest.mark.parametrize("others", [0, 2])
def test_interrupted_as_a_priority_ends(others, monkeypatch):
    """Ctrl-C between the two steps that forget a priority: others of it start as ever."""

    async def first():
        queue.try_slot()
        for _ in range(others):
            queue.enqueue(priority=1)
        introspect.interrupt_end_of_priority(monkeypatch)
        await queue.enqueue()
        await asyncio.sleep(60)

    async def later():
        calls = [queue.enqueue() for _ in range(3)]
        await asyncio.sleep(60)
        return [call.done() for call in calls]

    queue = ApiQueue("10/s")
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        with pytest.raises(KeyboardInterrupt):
            runner.run(first())
        assert runner.run(later()) == [True] * 3
        assert queue.waiting == 0


@pytest.mark.contract
def test_interrupted_in_a_look(limiter):
    """Ctrl-C as one call is granted, and the loop runs again: all other calls start."""
    calls, interrupts = [], [KeyboardInterrupt]

    def interrupted(grant):
        def granting(slot, at):
            if interrupts:
                raise interrupts.pop()
            grant(slot, at)

        return granting

    async def first():
        await limiter.take(queue)
        calls.extend(queue.enqueue() for _ in range(6))
        await asyncio.sleep(0.25)
        introspect.wrap_grants(queue, interrupted)
        await asyncio.sleep(60)

    async def later():
        calls.extend(queue.enqueue() for _ in range(3))
        await asyncio.sleep(60)
        return sum(call.done() for call in calls)

    queue = limiter.queue("10/s")
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        with pytest.raises(KeyboardInterrupt):
            runner.run(first())
        assert runner.run(later()) == len(calls) - 1
