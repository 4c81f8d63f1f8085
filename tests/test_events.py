from __future__ import annotations

import asyncio
import dataclasses

import pytest

from aioapiqueue import Event, Observer, QueueClosed, QueueFull, Stats


class Recorder:
    """An observer that keeps what it hears."""

    def __init__(self):
        self.events = []

    def on_event(self, event):
        """Keep it."""
        self.events.append(event)

    def kinds(self):
        """Return what happened, in order."""
        return [event.kind for event in self.events]


class Raising:
    """An observer that fails on everything."""

    def on_event(self, _event):
        """Fail."""
        raise ZeroDivisionError


async def test_call_is_reported_start_and_end(limiter):
    """A call is heard of when it starts and when it ends.

    Each event says what, of which queue and call, when, and how long it waited.
    """
    recorder = Recorder()
    queue = limiter.queue("10/s", name="ec2", observers=[recorder])
    for cost in (1, 2):
        async with queue.slot(key="k", priority=3, cost=cost):
            await asyncio.sleep(0.01)
    first, _, second, _ = recorder.events
    assert first == Event("released", "ec2", "k", 3, 1, 0.0, 0.0)
    assert (second.kind, second.cost) == ("released", 2)
    assert (second.at, second.waited) == limiter.exactly((0.2, 0.19))
    assert recorder.kinds() == ["released", "finished"] * 2
    assert recorder.events[3].at == limiter.exactly(0.21)


async def test_every_way_out_is_reported(limiter):
    """Every way out is heard of in order.

    Cancelled, timed out, refused and throttled, besides released and finished.
    """
    recorder = Recorder()
    queue = limiter.queue("10/s", maxsize=2, observers=[recorder])
    slot = await limiter.take(queue)
    withdrawn, late = queue.enqueue(key="withdrawn"), queue.enqueue(timeout=0.15, key="late")
    await limiter.settled()
    with pytest.raises(QueueFull):
        queue.enqueue(key="full")
    slot.throttled(0.3)
    await limiter.settled()
    slot.release()
    await asyncio.sleep(0.05)
    withdrawn.cancel()
    await asyncio.wait([late])
    last = queue.enqueue(key="last")
    await queue.aclose(drain=False)
    with pytest.raises(QueueClosed):
        await last
    with pytest.raises(QueueClosed):
        await limiter.take(queue, key="closed")
    assert [(event.kind, event.key) for event in recorder.events] == [
        ("released", None),
        ("refused", "full"),
        ("throttled", None),
        ("finished", None),
        ("cancelled", "withdrawn"),
        ("timed_out", "late"),
        ("refused", "last"),
        ("refused", "closed"),
    ]
    waited = {event.key: event.waited for event in recorder.events}
    assert (waited["withdrawn"], waited["late"]) == limiter.exactly((0.05, 0.15))


async def test_released_comes_before_the_body(limiter):
    """Released comes before the body and in order of release.

    Who listens knows of a call before it does anything.
    """
    log = []

    class Listener:
        def on_event(self, event):
            log.append((event.kind, event.key))

    queue = limiter.queue("10/s", observers=[Listener()])

    async def call(key):
        async with queue.slot(key=key):
            log.append(("body", key))

    await asyncio.gather(*map(call, "abc"))
    assert log == [(kind, key) for key in "abc" for kind in ("released", "body", "finished")]


async def test_cancelled_grant_is_reported_twice(limiter):
    """A slot passed to the next is heard of as released then cancelled.

    One event each, so that sums come out right: two released, one of them cancelled.
    """
    recorder = Recorder()
    queue = limiter.queue("10/s", observers=[recorder])
    first = queue.enqueue()
    await limiter.settled()
    first.cancel()
    await limiter.settled()
    (await queue.enqueue()).release()
    assert recorder.kinds() == ["released", "cancelled", "released", "finished"]
    assert queue.stats.released == 1


async def test_raising_observer_costs_no_slot(limiter):
    """A raising observer costs no slot and is reported.

    Pace and places are kept, the others hear all, the loop's handler gets each error.
    """
    recorder, reported, loop = Recorder(), [], asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: reported.append(context))
    queue, starts = limiter.queue("10/s", concurrency=1, observers=[Raising(), recorder]), []

    async def call():
        async with queue.slot():
            starts.append(loop.time())

    tasks = [asyncio.create_task(call()) for _ in range(5)]
    await asyncio.sleep(0.05)
    tasks[1].cancel()
    await asyncio.wait(tasks)
    assert starts == limiter.exactly([0, 0.1, 0.2, 0.3])
    assert queue.running == 0
    assert len(recorder.events) == 9
    assert len(reported) == 9
    assert all(isinstance(context["exception"], ZeroDivisionError) for context in reported)
    assert "Raising" in reported[0]["message"]


async def test_an_observer_may_use_the_queue(limiter):
    """It slows the queue down at the first push-back that it hears of, from within."""

    class Slower:
        def on_event(self, event):
            if event.kind == "throttled" and queue.limits == limiter.queue("10/s").limits:
                queue.set_rate("1/s")

    queue = limiter.queue("10/s", observers=[Slower()])
    starts = []
    for n in range(3):
        async with queue.slot() as slot:
            starts.append(asyncio.get_running_loop().time())
            if n == 0:
                slot.throttled()
                await limiter.settled()
    assert starts == limiter.exactly([0, 1, 2])


async def test_observer_cancels_the_released_caller(limiter):
    """An observer that cancels the released caller.

    The slot goes to the next waiter in the same tick, also from within the event.
    """
    queue, starts, victims = limiter.queue("10/s"), [], []

    class Canceller:
        def on_event(self, event):
            if event.kind == "released" and victims:
                victims.pop().cancel()

    queue = limiter.queue("10/s", observers=[Canceller()])

    async def call():
        async with queue.slot():
            starts.append(asyncio.get_running_loop().time())

    tasks = [asyncio.create_task(call()) for _ in range(4)]
    await asyncio.sleep(0.05)
    victims.append(tasks[1])
    await asyncio.wait(tasks)
    assert starts == limiter.exactly([0, 0.1, 0.2])


def test_anything_with_on_event_observes():
    """Anything with on event is an observer.

    The protocol can be checked at run time.
    """
    assert isinstance(Recorder(), Observer)
    assert not isinstance(object(), Observer)


async def test_the_figures_add_up(limiter):
    """`stats` is a snapshot of counts and waits."""
    queue = limiter.queue("10/s", lanes={"a": "1/s"})
    assert queue.stats == Stats()
    slots = [await queue.enqueue(key=key) for key in (None, None, "a")]
    waiting = queue.enqueue(key="a")
    await limiter.settled()
    slots[0].release()
    queue.throttled()
    await limiter.settled()
    before = dataclasses.replace(queue.stats, asks=0)
    assert before == Stats(
        waiting=1,
        running=2,
        lanes=1,
        released=3,
        throttled=1,
        waited=limiter.exactly(0.2),
        longest_wait=limiter.exactly(0.1),
    )
    waiting.cancel()
    assert (queue.stats.waiting, queue.stats.cancelled) == (0, 1)
    assert before.waiting == 1
