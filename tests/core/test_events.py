from __future__ import annotations

import asyncio
import dataclasses
import random
import sys
import threading

import pytest

from aioapiqueue import (
    Adaptive,
    ApiQueue,
    Event,
    LaneStats,
    Observer,
    QueueClosed,
    QueueFull,
    SlotTimeout,
    Stats,
)
from aioapiqueue.testing import VirtualLoop
from aioapiqueue.threads import blocking


class Recorder:
    """An observer that keeps what it hears."""

    def __init__(self):
        self.events = []

    def on_event(self, event):
        """Keep it."""
        self.events.append(event)

    @property
    def later(self):
        """What happened after calls joined: a shared quota has every call wait for it."""
        return [event for event in self.events if event.kind != "joined"]

    def kinds(self):
        """Return what happened after calls joined, in order."""
        return [event.kind for event in self.later]


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
    first, _, second, last = recorder.later
    assert first == Event("released", "ec2", "k", 3, 1, 0.0, 0.0, ("k",), first.call)
    assert (second.kind, second.cost, second.costs) == ("released", 2, {"calls": 2})
    assert (second.at, second.waited) == limiter.exactly((0.2, 0.19))
    assert recorder.kinds() == ["released", "finished"] * 2
    assert (last.at, last.duration) == limiter.exactly((0.21, 0.01))
    assert (last.outcome, last.call) == ("ok", second.call)
    assert second.call > first.call


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
    assert [(event.kind, event.key) for event in recorder.later] == [
        ("released", None),
        ("refused", "full"),
        ("throttled", None),
        ("finished", None),
        ("cancelled", "withdrawn"),
        ("timed_out", "late"),
        ("refused", "last"),
        ("refused", "closed"),
    ]
    waited = {event.key: event.waited for event in recorder.later}
    assert (waited["withdrawn"], waited["late"]) == limiter.exactly((0.05, 0.15))


async def test_released_comes_before_the_body(limiter):
    """Released comes before the body and in order of release.

    Who listens knows of a call before it does anything.
    """
    log = []

    class Listener:
        def on_event(self, event):
            if event.kind != "joined":
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
    assert len(recorder.later) == 9
    assert len(reported) == len(recorder.events)
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


async def test_observer_changes_lane_left_empty():
    """An observer changes the limits of a lane when the last call that waits there starts."""

    class Slower:
        def on_event(self, event):
            if event.kind == "released" and event.key == "a" and event.waited:
                queue.set_rate("1/min", "9 at once", key="a")

    queue, starts, errors = ApiQueue(lanes={"*": "1/s"}, observers=[Slower()]), [], []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: errors.append(context))

    async def call(key):
        async with queue.slot(key=key):
            starts.append((key, loop.time()))

    await asyncio.gather(*map(call, "abcabb"))
    await call("a")
    assert starts == [*zip("abc", [0, 0, 0], strict=True), ("a", 1), ("b", 1), ("b", 2), ("a", 61)]
    assert errors == []


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
    empty = Stats(lanes={"a": LaneStats(costs={"calls": 0})}, costs={"calls": 0})
    assert queue.stats == empty
    assert {queue.stats, empty} == {empty}  # it can be a member of a set
    assert {queue.stats.lanes["a"], empty.lanes["a"]} == {empty.lanes["a"]}
    slots = [await queue.enqueue(key=key) for key in (None, None, "a")]
    waiting = queue.enqueue(key="a")
    await limiter.settled()
    slots[0].release()
    queue.throttled()
    await limiter.settled()
    before = dataclasses.replace(queue.stats, asks=0)
    waited = {"waited": limiter.exactly(0.1), "longest_wait": limiter.exactly(0.1)}
    assert before == Stats(
        waiting=1,
        running=2,
        lanes={"a": LaneStats(waiting=1, released=1, **waited, costs={"calls": 1})},
        lanes_in_memory=1,
        released=3,
        throttled=1,
        waited=limiter.exactly(0.2),
        longest_wait=limiter.exactly(0.1),
        costs={"calls": 3},
    )
    waiting.cancel()
    assert (queue.stats.waiting, queue.stats.cancelled) == (0, 1)
    assert before.waiting == 1


async def test_events_carry_all_keys(limiter):
    """`key` is the first one; a call without any has `(None,)`."""
    recorder = Recorder()
    queue = limiter.queue(lanes={"a": "10/s"}, observers=[recorder])
    for keys in (("a", "b"), None):
        async with queue.slot(keys=keys):
            pass
    queue.throttled(key="a")
    seen = [(event.kind, event.key, event.keys) for event in recorder.later]
    assert seen[::2] == [
        ("released", "a", ("a", "b")),
        ("released", None, (None,)),
        ("throttled", "a", ("a",)),
    ]


async def test_figures_of_each_named_lane(limiter):
    """A key that is named has its own, a pattern those of all its lanes together."""
    queue = limiter.queue(lanes={"search": "10/s", "tenant:*": "1/s"})
    waits = []
    for tenant, key in (("a", "search"), ("b", "search"), ("b", "search"), ("c", "other")):
        async with queue.slot(keys=(f"tenant:{tenant}", key)) as slot:
            waits.append(slot.waited)
    lanes = queue.stats.lanes
    assert list(lanes) == ["search", "tenant:*"]
    assert (lanes["search"].released, lanes["tenant:*"].released) == (3, 4)
    assert max(waits) > 0.5
    for lane in lanes.values():
        assert lane.waited == limiter.exactly(sum(waits))
        assert lane.longest_wait == limiter.exactly(max(waits))
    assert queue.stats.lanes_in_memory <= 4


async def test_a_call_counts_once_per_lane(limiter):
    """Two keys under one pattern are one call in the figures of the pattern."""
    queue = limiter.queue(lanes={"t:*": "10/s"})
    async with queue.slot(keys=("t:a", "t:b")):
        pass
    assert queue.stats.lanes["t:*"].released == 1


async def test_unknown_lane_names_what_exists(limiter):
    """A key that comes under a pattern has no entry, nor has one that comes under none."""
    queue = limiter.queue("10/s", lanes={"tenant:*": "1/s"})
    for key in ("tenant:a", "other"):
        with pytest.raises(KeyError, match=rf"no lane is named '{key}': the lanes are 'tenant:\*'"):
            queue.stats.lanes[key]
    with pytest.raises(KeyError, match="this queue has no lanes"):
        limiter.queue().stats.lanes["a"]


async def test_lanes_figure_every_way_out(limiter):
    """Cancelled, timed out and refused calls are those of their lanes."""
    queue = limiter.queue(lanes={"a": "1/s", "b": "1/s"}, maxsize=3)
    slot = await limiter.take(queue, key="a")
    cancelled, late, rest = (queue.enqueue(key="a", timeout=t) for t in (None, 1.5, None))
    await limiter.settled()
    assert (queue.stats.lanes["a"].waiting, queue.stats.lanes["b"].waiting) == (3, 0)
    with pytest.raises(QueueFull):
        queue.enqueue(key="a")
    cancelled.cancel()
    await asyncio.sleep(1.2)
    (await late).release()
    last = queue.enqueue(key="a", timeout=1)
    with pytest.raises(SlotTimeout):
        await last
    slot.throttled(key="b")
    slot.throttled()
    (await rest).release()
    await limiter.settled()
    figures = queue.stats.lanes
    assert dataclasses.replace(figures["a"], waited=0, longest_wait=0) == LaneStats(
        released=3, cancelled=1, timed_out=1, refused=1, throttled=1, costs={"calls": 3}
    )
    assert figures["b"] == LaneStats(throttled=1, costs={"calls": 0})


async def test_lanes_figure_adaptive_back_off():
    """Push-back slows one lane down, whose figures say so."""
    queue = ApiQueue("10/s", lanes={"a": "5/s", "b": "5/s"}, adaptive=Adaptive("1/s"))
    async with queue.slot(keys=("none", "b")) as slot:
        slot.throttled()
    async with queue.slot() as slot:
        slot.throttled()
    lanes = queue.stats.lanes
    assert (lanes["a"].backed_off, lanes["b"].backed_off) == (0, 1)
    assert (lanes["b"].throttled, queue.stats.backed_off) == (1, 2)


async def test_figures_of_call_of_two_lanes():
    """Push-back counts in its first lane alone, and leaving in both."""
    queue = ApiQueue(lanes={"a": "1/s", "b": "1/s"}, adaptive=Adaptive("0.1/s"))
    queue.try_slot(keys=("a", "b")).throttled()
    queue.enqueue(keys=("a", "b")).cancel()
    with pytest.raises(SlotTimeout):
        await queue.enqueue(keys=("a", "b"), timeout=0.5)
    figures = [
        (lane.throttled, lane.backed_off, lane.cancelled, lane.timed_out)
        for lane in queue.stats.lanes.values()
    ]
    assert figures == [(1, 1, 1, 1), (0, 0, 1, 1)]


async def test_refunded_slot_is_no_lanes_figure(limiter):
    """A slot that is cancelled after its release counts as cancelled only."""
    queue = limiter.queue(lanes={"a": "1/s"})
    slot = queue.enqueue(key="a", cost=3)
    await limiter.settled()
    slot.cancel()
    found = queue.stats.lanes["a"]
    assert found.refunded == queue.stats.refunded <= 1
    expected = LaneStats(cancelled=1, costs={"calls": 0})
    assert dataclasses.replace(found, refunded=0) == expected


async def test_lane_named_later_has_figures(limiter):
    """From then on: those who wait already are counted under their new name."""
    queue = limiter.queue("1/s", lanes={"*": "1/s"})
    waiting = [queue.enqueue(key=key) for key in "aab"]
    await limiter.settled()
    queue.set_rate("1/s", key="a")
    before = {name: lane.waiting for name, lane in queue.stats.lanes.items()}
    for one in waiting:
        (await one).release()
    await limiter.settled()
    assert before == {"*": 1, "a": 1}
    assert [lane.waiting for lane in queue.stats.lanes.values()] == [0, 0]


@pytest.mark.parametrize("later", [0, 1])
@pytest.mark.parametrize("lanes", [{"*": "unlimited"}, {}])
async def test_lane_named_while_bodies_run(lanes, later):
    """They stay where they were counted, and are settled and refunded there."""
    queue = ApiQueue("9 tokens/s burst 9", lanes=lanes)
    cost = {"tokens": 4}
    runs, unused = queue.try_slot(key="a", cost=cost), queue.enqueue(key="a", cost=cost)
    await asyncio.sleep(later)
    queue.set_rate("9 tokens/s burst 9", key="a")
    unused.cancel()
    runs.settle({"tokens": 1})
    of_a = LaneStats(costs={"calls": 0, "tokens": 0})
    assert queue.stats.lanes["a"] == dataclasses.replace(of_a, cancelled=1)
    if lanes:
        costs = {"calls": 1, "tokens": 1}
        others = dataclasses.replace(of_a, released=1, refunded=1, costs=costs)
        assert queue.stats.lanes["*"] == others
    await asyncio.sleep(1)
    with queue.try_slot(key="a", cost=cost) as slot:
        slot.settle({"tokens": 2})
    assert queue.stats.lanes["a"].costs == {"calls": 1, "tokens": 2}


@pytest.mark.parametrize("number", [1, 3])
async def test_lanes_named_in_pass_of_cancel(number):
    """One that is cancelled, and has not resumed, is in the figures of no lane once it has."""
    queue = ApiQueue("1/s")
    queue.try_slot()

    async def use():
        async with queue.slot(key="a"):
            pass

    tasks = [asyncio.create_task(use()) for _ in range(5)]
    await asyncio.sleep(0)
    for task in tasks[:number]:
        task.cancel()
    queue.estimate(key="a", priority=-1)  # looks at the first
    queue.set_rate("1/s", key="a")  # sorts all again
    queue.set_rate("1/s", key="b")
    tasks[4].cancel()
    await asyncio.sleep(0)
    assert queue.stats.lanes["a"].waiting == queue.waiting == 4 - number
    await asyncio.wait(tasks)
    assert [lane.waiting for lane in queue.stats.lanes.values()] == [0, 0]


async def test_lane_named_before_any_call():
    """Its figures begin with the first call, be it at the same instant."""
    queue = ApiQueue(lanes={"b": "1/s"})
    queue.set_rate("1/s", key="a")
    queue.try_slot(key="a").release()
    queue.set_rate("1/s", key="c")
    await asyncio.sleep(1)
    queue.set_rate("1/s", key="d")
    for key in "acd":
        queue.try_slot(key=key).release()
    released = {name: lane.released for name, lane in queue.stats.lanes.items()}
    assert released == {"b": 0, "a": 2, "c": 1, "d": 1}


@pytest.mark.parametrize("seed", range(20))
async def test_lanes_named_at_random_moments(seed):
    """No figure is ever below zero, and together the lanes have what the queue has."""
    rng, keys = random.Random(seed), ["a", "b", "ab", "ac", "bc"]
    queue = ApiQueue("50 tokens/s burst 50", "30/s burst 3", lanes={"*": "unlimited"})
    names, slots, waiting = [*keys, "a*", "b*"], [], []
    for _ in range(200):
        await asyncio.sleep(rng.choice([0, 0, 0.03, 0.3]))
        step = rng.random()
        if step < 0.4:
            cost = {"tokens": rng.randint(0, 20)}
            waiting.append(queue.enqueue(key=rng.choice(keys), cost=cost))
        elif step < 0.55 and waiting:
            waiting.pop(rng.randrange(len(waiting))).cancel()
        elif step < 0.9 and slots:
            slots[rng.randrange(len(slots))].settle({"tokens": rng.randint(0, 30)})
        elif step > 0.93 and names:
            queue.set_rate(rng.choice(["20/s", "unlimited"]), key=names.pop())
        slots += [one.result() for one in waiting if one.done() and rng.random() < 0.7]
        waiting = [one for one in waiting if not one.done() or one.result() not in slots]
        lanes = queue.stats.lanes.values()
        for lane in lanes:
            assert min(lane.waiting, lane.released, *lane.costs.values()) >= 0
            assert lane.waited > -1e-9
        assert sum(lane.released for lane in lanes) == queue.stats.released
        assert sum(lane.waiting for lane in lanes) == queue.waiting
        assert sum(lane.costs["tokens"] for lane in lanes) == queue.stats.costs["tokens"]
    assert len(names) < 5
    assert queue.stats.cancelled > 5
    for one in waiting:
        one.cancel()


def test_lanes_named_on_another_loop():
    """What is counted begins again with a clock that begins again."""
    queue = ApiQueue(lanes={"*": "unlimited"})

    async def call(after):
        await asyncio.sleep(after)
        queue.try_slot(key="a").release()
        queue.set_rate("9/s", key="a")

    for after in (100, 1):
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(call(after))
    released = {name: lane.released for name, lane in queue.stats.lanes.items()}
    assert released == {"*": 1, "a": 1}


async def test_costs_are_added_up_by_unit():
    """Totals of what calls that started have cost, as it was settled, refunds aside."""
    queue = ApiQueue("1000 tokens/min burst 1000", lanes={"a": "1000 images/min burst 9"})
    assert queue.stats.costs == {"calls": 0, "tokens": 0, "images": 0}
    async with queue.slot(key="a", cost={"tokens": 300, "images": 2}) as slot:
        slot.settle({"tokens": 200})
    async with queue.slot(cost={"tokens": 100, "calls": 3}):
        pass
    queue.enqueue(cost={"tokens": 50}).cancel()
    assert queue.stats.costs == {"calls": 4, "tokens": 300, "images": 2}
    assert queue.stats.lanes["a"].costs == {"calls": 1, "tokens": 200, "images": 2}


async def test_costs_read_in_a_thread():
    """Another thread, while calls start and are settled, reads figures that were true at a time."""
    queue, stop = ApiQueue("100000 tokens/s burst 100000"), threading.Event()
    seen, interval = [], sys.getswitchinterval()

    def read():
        while not stop.is_set():
            costs = queue.stats.costs
            seen.append((costs["calls"], costs["tokens"]))

    reader = threading.Thread(target=read)
    sys.setswitchinterval(1e-6)
    try:
        reader.start()
        for number in range(2000):
            with queue.try_slot(cost={"tokens": 3}) as slot:
                slot.settle({"tokens": 4})
            read = len(seen)
            while number % 500 == 0 and len(seen) == read and reader.is_alive():
                stop.wait(1e-5)  # on a busy machine, too, the other thread has its turn
    finally:
        sys.setswitchinterval(interval)
        stop.set()
        reader.join()
    assert queue.stats.costs == {"calls": 2000, "tokens": 8000}
    assert len(set(seen)) > 2
    assert seen == sorted(seen)


def test_observer_without_on_event_is_refused():
    """At construction, not at the first event."""
    for wrong in (print, Recorder, object()):
        with pytest.raises(TypeError, match="on_event"):
            ApiQueue(observers=[wrong])


def test_threads_push_back_refuses_patterns():
    """As a coroutine's slot: a pattern is no key."""
    queue = ApiQueue(lanes={"a*": "100/s"})
    with blocking(queue).slot(key="ab") as slot, pytest.raises(ValueError, match="pattern"):
        slot.throttled(5, key="a*")


async def test_push_back_refuses_patterns():
    """`slot.throttled(key="a*")` would slow nobody down."""
    queue = ApiQueue(lanes={"a*": "100/s"})
    async with queue.slot(key="ab") as slot:
        with pytest.raises(ValueError, match="pattern"):
            slot.throttled(5, key="a*")
