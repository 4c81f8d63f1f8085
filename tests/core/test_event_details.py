"""Events that can be joined up: each has its call, and what else belongs to its kind."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import random
from contextlib import suppress

import pytest

from aioapiqueue import (
    Adaptive,
    ApiQueue,
    Concurrency,
    Event,
    QueueClosed,
    QueueFull,
    Rate,
    SlotTimeout,
    rate_limited,
)
from aioapiqueue.integrations.redis import SharedSchedule
from aioapiqueue.integrations.report import ReportObserver
from aioapiqueue.spi import Reporter
from aioapiqueue.testing import VirtualLoop
from aioapiqueue.threads import blocking
from tests.helpers.servers import fresh_name
from tests.helpers.virtual_client import VirtualClient
from tests.helpers.virtual_hub import VirtualHub

ENDS = {"finished", "cancelled", "timed_out", "refused"}


class Recorder:
    """An observer that keeps what it is given."""

    def __init__(self):
        self.events = []

    def on_event(self, event):
        """Keep it."""
        self.events.append(event)

    def of(self, kind):
        """Return the events of a kind."""
        return [event for event in self.events if event.kind == kind]

    def only(self, kind):
        """Return the only event of a kind."""
        (event,) = self.of(kind)
        return event


@pytest.fixture
def recorder():
    """Record a queue's events."""
    return Recorder()


async def test_events_of_a_call_have_its_number(limiter, recorder):
    """By arrival; of a waiter, from when it joins, and with all of its keys."""
    queue = limiter.queue("10/s", observers=[recorder])

    async def use(key):
        async with queue.slot(keys=(key, "all")):
            await asyncio.sleep(0.01)

    await asyncio.gather(*map(use, "abc"))
    numbers = {event.key: event.call for event in recorder.of("released")}
    assert numbers["a"] < numbers["b"] < numbers["c"]
    for event in recorder.events:
        assert event.call == numbers[event.key]
        assert event.keys == (event.key, "all")
    joined = {event.key: event for event in recorder.of("joined")}
    assert {"b", "c"} <= set(joined)  # on a shared quota, "a" as well
    assert (joined["c"].at, joined["c"].waited) == (limiter.exactly(0), 0)
    by_call = [event.kind for event in recorder.events if event.key == "c"]
    assert by_call == ["joined", "released", "finished"]


async def test_call_that_waits_again_keeps_its_number(limiter, recorder):
    """It is the same call for those who join events up, in its old place."""
    queue = limiter.queue("10/s", observers=[recorder])
    first = await queue.enqueue(key="a")
    other = queue.enqueue(key="b")
    await limiter.settled()
    again = first.again()
    await limiter.settled()
    (await again).release()
    (await other).release()
    await limiter.settled()
    numbers = {event.call for event in recorder.events if event.key == "a"}
    assert len(numbers) == 1
    assert [event.kind for event in recorder.events if event.key == "a"][-3:] == [
        "joined",
        "released",
        "finished",
    ]
    assert [event.key for event in recorder.of("released")] == ["a", "a", "b"]


def test_numbers_never_come_twice():
    """Not on another loop either: what an observer has kept of the first stays apart."""
    recorder = Recorder()
    queue = ApiQueue("10/s", observers=[recorder])

    async def main():
        for _ in range(3):
            async with queue.slot():
                pass

    for _ in range(2):
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(main())
    numbers = [event.call for event in recorder.of("released")]
    assert len(set(numbers)) == 6
    assert numbers == sorted(numbers)


async def test_released_has_the_charged_instant(recorder):
    """However long who is informed first takes: bounds on a rate are checked against it."""
    loop = asyncio.get_running_loop()

    class Slow:
        def on_event(self, event):
            if event.kind in {"released", "finished"}:
                loop.stall(0.02)

    queue = ApiQueue("10/s burst 3", observers=[Slow(), recorder])
    queue.pause()
    waiting = [queue.enqueue() for _ in range(3)]
    await asyncio.sleep(1)
    queue.resume()
    slots = await asyncio.gather(*waiting)
    loop.stall(0.5)
    for slot in slots:
        slot.release()
    assert [event.at for event in recorder.of("released")] == [1, 1, 1]
    for released, finished in zip(recorder.of("released"), recorder.of("finished"), strict=True):
        assert finished.at - released.at == pytest.approx(finished.duration, abs=1e-12)


class BodyError(Exception):
    """What a body raises."""


async def _ok(queue):
    async with queue.slot():
        await asyncio.sleep(0.5)


async def _error(queue):
    async with queue.slot():
        await asyncio.sleep(0.5)
        raise BodyError


async def _cancelled(queue):
    async with asyncio.timeout(0.5), queue.slot():
        await asyncio.sleep(9)


async def _by_hand(queue):
    slot = await queue.enqueue()
    await asyncio.sleep(0.5)
    slot.release()


async def _entered(queue):
    with await queue.enqueue():
        await asyncio.sleep(0.5)
        raise BodyError


async def _decorated(queue):
    @rate_limited(queue)
    async def call():
        await asyncio.sleep(0.5)
        raise BodyError

    await call()


async def _mapped(queue):
    async def call(_):
        await asyncio.sleep(0.5)

    async for _ in queue.map(call, [1]):
        pass


@pytest.mark.parametrize("concurrency", [None, 3], ids=["", "tracked"])
@pytest.mark.parametrize(
    ("use", "outcome"),
    [
        (_ok, "ok"),
        (_error, "error"),
        (_cancelled, "cancelled"),
        (_by_hand, "unknown"),
        (_entered, "error"),
        (_decorated, "error"),
        (_mapped, "ok"),
    ],
)
async def test_end_has_duration_and_outcome(limiter, recorder, use, outcome, concurrency):
    """How long the body ran, and how it ended, whatever the slot was made by."""
    queue = limiter.queue("10/s", concurrency=concurrency, observers=[recorder])
    with suppress(BodyError, TimeoutError):
        await use(queue)
    finished = recorder.only("finished")
    assert (finished.outcome, finished.duration) == (outcome, limiter.exactly(0.5))
    assert all(event.outcome is event.duration is None for event in recorder.of("released"))


async def test_closed_coroutine_is_cancelled(recorder):
    """A body that is closed, as at the end of a generator, did not fail."""
    queue = ApiQueue("10/s", observers=[recorder])

    async def body():
        async with queue.slot():
            await asyncio.get_running_loop().create_future()

    coroutine = body()
    coroutine.send(None)
    coroutine.close()
    assert recorder.only("finished").outcome == "cancelled"


@pytest.mark.real
@pytest.mark.parametrize(("error", "outcome"), [(None, "ok"), (BodyError, "error")])
def test_outcome_of_a_threads_body(recorder, error, outcome):
    """A thread's `with` block, too; `release()` says nothing of it."""
    queue = ApiQueue("1000/s", observers=[recorder])
    threads = blocking(queue)
    try:
        with threads.slot():
            if error is not None:
                raise error
    except BodyError:
        pass
    slot = threads.slot()
    slot.__enter__()
    slot.release()
    with threads.slot():
        pass
    assert [event.outcome for event in recorder.of("finished")][:2] == [outcome, "unknown"]


async def test_push_back_has_its_retry_after(limiter, recorder):
    """As it was given, if it was; and the key that it names."""
    queue = limiter.queue(lanes={"a": "10/s", "b": "10/s"}, observers=[recorder])
    slot = await limiter.take(queue, keys=("a", "b"))
    slot.throttled(2.5)
    slot.throttled(key="b")
    queue.throttled(7, key="b")
    await limiter.settled()
    first, second, third = recorder.of("throttled")
    assert (first.retry_after, first.key, first.call) == (2.5, "a", recorder.only("released").call)
    assert (second.retry_after, second.key, second.keys) == (None, "b", ("a", "b"))
    assert second.call == first.call
    assert (third.retry_after, third.key, third.call) == (7, "b", None)
    slot.release()


@pytest.mark.contract
async def test_settled_costs_are_told(limiter, recorder):
    """True costs by unit, with those that stay as they were."""
    queue = limiter.queue("100/s burst 9", "1000 tokens/s burst 1000", observers=[recorder])
    async with queue.slot(cost={"tokens": 300}) as slot:
        slot.settle({"tokens": 120})
    assert recorder.only("released").costs == {"calls": 1, "tokens": 300}
    settled = recorder.only("settled")
    assert (settled.costs, settled.call) == (
        {"calls": 1, "tokens": 120},
        recorder.only("released").call,
    )
    assert recorder.only("finished").costs == {"calls": 1, "tokens": 120}


async def test_unstated_units_are_no_costs(recorder):
    """What a call says nothing of is in no mapping."""
    queue = ApiQueue(lanes={"a": "1000 tokens/s burst 1000"}, observers=[recorder])
    async with queue.slot(cost={"calls": 2}):
        pass
    async with queue.slot():
        pass
    assert [event.costs for event in recorder.of("released")] == [{"calls": 2}, {"calls": 1}]
    with pytest.raises(TypeError):
        recorder.events[-1].costs["calls"] = 5


@pytest.mark.contract
async def test_what_the_server_says_is_told(limiter, recorder):
    """In the answer to a call, or by itself."""
    queue = limiter.queue("100/s", lanes={"a": "50/s"}, observers=[recorder])
    async with queue.slot(key="a") as slot:
        slot.sync(40, reset=30, limit=100)
    queue.sync(7, key="a")
    await limiter.settled()
    first, second = recorder.of("synced")
    assert (first.remaining, first.unit, first.reset, first.limit) == (40, "calls", 30, 100)
    assert (first.call, first.key) == (recorder.only("released").call, "a")
    assert (second.remaining, second.reset, second.limit, second.call) == (7, None, None, None)
    assert second.key == "a"


async def test_changed_limits_are_told(limiter, recorder):
    """Those of the queue, and of a key: which, and who changed them."""
    queue = limiter.queue("100/s", observers=[recorder])
    queue.set_rate("20/s", "500 in any 1h")
    queue.set_rate("5/s", key="a")
    await limiter.settled()
    first, second = (one for one in recorder.of("limits_changed") if one.origin == "user")
    assert [str(limit) for limit in first.limits] == ["20/s", "500 in any 1h"]
    assert (first.key, second.key, second.limits) == (None, "a", (Rate(5),))


async def test_learnt_limits_are_told(recorder):
    """What an answer states is a change by itself."""
    queue = ApiQueue(lanes={"*": ()}, observers=[recorder])
    quotas = Reporter(queue)
    quotas.learn(["tokens"])
    async with queue.slot(key="m", cost={"tokens": 1}) as slot:
        quotas.adopt(slot, [Rate(60, 60, 60, "tokens")])
    changed = recorder.only("limits_changed")
    assert (changed.origin, changed.key, changed.limits[0].calls) == ("learnt", "m", 60)


def on_one_host(_):
    """Return what makes queues of one quota, which a hub keeps."""
    hub = VirtualHub()
    return lambda *limits, **options: ApiQueue(*limits, schedule=hub.schedule("crm"), **options)


def on_one_server(server):
    """Return what makes queues of one quota on a server."""
    name = fresh_name()
    return lambda *limits, **options: ApiQueue(
        *limits, schedule=SharedSchedule(VirtualClient(server), name), **options
    )


@pytest.mark.parametrize("shared", [on_one_host, on_one_server])
async def test_limits_of_others_are_told(valkey, recorder, shared):
    """What another client of the quota sets, once it is in force here; not what this one sets."""
    new = shared(valkey)
    heard = []

    class Looks(Recorder):
        def on_event(self, event):
            super().on_event(event)
            if event.kind == "limits_changed":
                heard.append((event.origin, one.limits))

    recorder = Looks()
    one, other = new("100/s", observers=[recorder]), new("100/s")
    for limits in (["20/s"], ["30/s", "5/s"]):
        for queue in (one, other):
            (await queue.enqueue()).release()
        queue = other if len(limits) == 1 else one
        queue.set_rate(*limits)
        for queue in (other, one):
            (await queue.enqueue()).release()
    assert heard == [("others", (Rate(20),)), ("user", (Rate(30), Rate(5)))]
    assert recorder.of("limits_changed")[0].limits == (Rate(20),)


async def test_holds_and_pauses_are_told(limiter, recorder):
    """How long, of what; a pause that ends by itself has no event of that."""
    queue = limiter.queue("100/s", lanes={"a": "10/s"}, observers=[recorder])
    queue.hold(3, key="a")
    queue.hold(2)
    queue.pause(60)
    queue.pause()
    queue.resume()
    await limiter.settled()
    assert [(event.key, event.seconds) for event in recorder.of("held")] == [("a", 3), (None, 2)]
    assert [event.seconds for event in recorder.of("paused")] == [60, None]
    assert recorder.only("resumed").seconds is None


async def test_refused_calls_have_numbers(limiter, recorder):
    """One that never waited has one, too, and a later one than those before it."""
    queue = limiter.queue("1/s", maxsize=1, observers=[recorder])
    slot = await limiter.take(queue, key="first")
    waiting = queue.enqueue(key="waits")
    await limiter.settled()
    with pytest.raises(QueueFull):
        queue.enqueue(key="full")
    with pytest.raises(QueueFull):
        queue.enqueue(key="full too")
    slot.release()
    await queue.aclose(drain=False)
    with pytest.raises(QueueClosed):
        await waiting
    numbers = {event.key: event.call for event in recorder.events}
    assert numbers["first"] < numbers["waits"] < numbers["full"] < numbers["full too"]
    assert [event.key for event in recorder.of("refused")] == ["full", "full too", "waits"]


def test_events_are_immutable():
    """An observer cannot change what the next one is given; the type is public."""
    event = Event("released", None, None, 0, 1, 0.0, 0.0)
    with pytest.raises(AttributeError):
        event.kind = "finished"
    assert event.keys == (None,)
    assert event._replace(kind="finished").kind == "finished"


@pytest.mark.parametrize("seed", range(10))
async def test_every_call_ends_once(limiter, recorder, seed):
    """Whatever happens: one end for each call, after its start, and a start for each that ran."""
    chance = random.Random(seed)
    queue = limiter.queue(
        "50/s burst 3",
        Concurrency(4),
        lanes={"a": "20/s"},
        maxsize=12,
        observers=[recorder],
    )
    tasks = []

    async def use():
        key = chance.choice([None, "a", "b"])
        timeout = chance.choice([None, None, 0.05, 0.3])
        with suppress(BodyError, QueueFull, QueueClosed, SlotTimeout):
            async with queue.slot(key=key, timeout=timeout, priority=chance.choice([0, 1])) as slot:
                await asyncio.sleep(chance.choice([0, 0.01, 0.1]))
                if chance.random() < 0.1:
                    slot.throttled(0.05)
                if chance.random() < 0.2:
                    raise BodyError

    for _ in range(limiter.fewer(120)):
        tasks.append(asyncio.create_task(use()))
        await asyncio.sleep(chance.choice([0, 0, 0.01, 0.05]))
        if chance.random() < 0.25:
            chance.choice(tasks).cancel()
    await asyncio.sleep(0.2)
    await queue.aclose(drain=chance.random() < 0.5)
    await asyncio.wait(tasks)
    calls = {}
    for event in recorder.events:
        if event.call is not None:
            calls.setdefault(event.call, []).append(event.kind)
    for kinds in calls.values():
        steps = [kind for kind in kinds if kind in ENDS | {"joined", "released"}]
        assert sum(kind in ENDS for kind in steps) == 1, kinds
        assert steps[-1] in ENDS
        assert steps[:-1] in (["joined", "released"], ["released"], ["joined"], []), kinds
        assert ("released" in steps) >= ("finished" in steps)
    stats = queue.stats
    released = sum("released" in kinds for kinds in calls.values())
    refunded = sum("released" in kinds and "cancelled" in kinds for kinds in calls.values())
    assert released - refunded == stats.released
    assert sum("refused" in kinds for kinds in calls.values()) == stats.refused
    assert sum("cancelled" in kinds for kinds in calls.values()) == stats.cancelled
    assert sum("timed_out" in kinds for kinds in calls.values()) == stats.timed_out


async def test_observer_names_the_kinds_it_wants(limiter, recorder):
    """Others are not made for it; another observer of the queue still has them."""

    class Picky(Recorder):
        event_kinds = ("released", "throttled")

    picky = Picky()
    queue = limiter.queue("100/s", observers=[picky, recorder])
    async with queue.slot() as slot:
        slot.throttled()
    await limiter.settled()
    assert [event.kind for event in picky.events] == ["released", "throttled"]
    assert recorder.only("finished").outcome == "ok"


async def test_observer_of_each_queue(limiter):
    """`for_queue` is called with each queue, and what it returns observes that."""

    class PerQueue:
        def __init__(self):
            self.made = {}

        def for_queue(self, queue):
            return self.made.setdefault(queue.name, Recorder())

    metrics = PerQueue()
    queues = [limiter.queue("100/s", name=name, observers=[metrics]) for name in "ab"]
    (await queues[1].enqueue()).release()
    assert len(metrics.made["b"].of("finished")) == 1
    assert metrics.made["a"].events == []


async def test_malformed_before_any_call_has_its_instant():
    """That of the running loop, though the queue has not been used on it yet."""
    recorder = Recorder()
    queue = ApiQueue(observers=[recorder])
    await asyncio.sleep(3)
    queue.malformed(key="a")
    assert (recorder.only("malformed").at, recorder.only("malformed").key) == (3, "a")


async def test_a_report_joins_a_queues_own_observers():
    """A queue that has observers already keeps them."""
    own = Recorder()
    queue = ApiQueue(name="own", observers=[own])
    report = ReportObserver(queue)
    async with queue.slot():
        pass
    assert len(own.of("finished")) == 1
    (figures,) = report.as_json()["queues"]
    assert figures["calls"] == 1


def test_for_queue_has_to_return_an_observer():
    """Nothing that is not one is called for each slot."""

    class Wrong:
        def for_queue(self, queue):
            return queue

    with pytest.raises(TypeError, match="on_event"):
        ApiQueue("1/s", observers=[Wrong()])


@pytest.mark.parametrize(
    ("kinds", "error", "why"),
    [
        ("released", TypeError, r"write \('released',\)"),
        (["released", "relesed"], ValueError, "'relesed', but the kinds are joined, released"),
    ],
)
def test_kinds_that_there_are_not(kinds, error, why):
    """Refused when the queue is made: such an observer would hear nothing, silently."""
    picky = Recorder()
    picky.event_kinds = kinds
    with pytest.raises(error, match=why):
        ApiQueue("1/s", observers=[picky])


@pytest.mark.parametrize("kinds", [(), ("finished",), ("joined", "released", "finished")])
async def test_numbers_are_by_arrival(limiter, kinds):
    """Whatever kinds are wanted: a call that waits again has its old place, and its number."""
    picky = Recorder()
    picky.event_kinds = kinds
    queue = limiter.queue("10/s", observers=[picky])
    order = []
    first = await limiter.take(queue, key="x")
    others = [queue.enqueue(key=key) for key in "yz"]
    await limiter.settled()
    first.throttled()
    again = first.again()
    await limiter.settled()
    for key, future in (("x", again), ("y", others[0]), ("z", others[1])):
        future.add_done_callback(lambda _, key=key: order.append(key))
    for future in (again, *others):
        (await future).release()
    assert order == ["x", "y", "z"]
    numbers = [event.call for event in picky.of("finished")]
    if "finished" in kinds:
        assert numbers[0] == numbers[1] < numbers[2] < numbers[3]


async def test_observer_that_enqueues_wakes_the_ticker():
    """A call that joins from within an event of the last waiter is served, and those after it."""

    class Enqueues(Recorder):
        def on_event(self, event):
            if event.kind == "released" and event.priority == 7:
                more.append(queue.enqueue(key="a"))

    more = []
    queue = ApiQueue("10/s", order="fair", observers=[Enqueues()])
    queue.pause()
    waiting = queue.enqueue(key="a", priority=7)
    await asyncio.sleep(1)
    queue.resume()
    (await waiting).release()
    async with asyncio.timeout(5):
        (await more[0]).release()
        (await queue.enqueue(key="b")).release()


async def test_ticker_that_is_woken_lets_others_run():
    """An observer that wakes it at each release does not keep the loop from its next pass."""

    class Wakes(Recorder):
        event_kinds = ("released",)

        def on_event(self, event):
            super().on_event(event)
            queue.resume()

    observer, passes = Wakes(), []
    queue = ApiQueue(observers=[observer])
    queue.pause()
    waiting = [queue.enqueue() for _ in range(6000)]
    await asyncio.sleep(1)
    loop = asyncio.get_running_loop()

    def next_pass():
        passes.append(len(observer.events))
        if len(observer.events) < len(waiting):
            loop.call_soon(next_pass)

    loop.call_soon(next_pass)
    queue.resume()
    for one in waiting:
        (await one).release()
    assert any(0 < seen < len(waiting) for seen in passes)


@pytest.mark.parametrize("fails", [False, True])
async def test_limiter_views_have_outcomes(recorder, fails):
    """`async with queue.limiter():`, as any slot."""
    view = ApiQueue("10/s", observers=[recorder]).limiter()
    with suppress(BodyError):
        async with view:
            if fails:
                raise BodyError
    assert recorder.only("finished").outcome == ("error" if fails else "ok")


async def test_oldest_goes_after_the_newcomer_joined():
    """An observer that enqueues at a refusal finds the queue as full as it is."""

    class Enqueues(Recorder):
        def on_event(self, event):
            super().on_event(event)
            if event.kind == "refused" and len(self.of("refused")) == 1:
                more.append(queue.enqueue(key="more"))

    more, observer = [], Enqueues()
    queue = ApiQueue("1/s", maxsize=1, overflow="drop_oldest", observers=[observer])
    queue.try_slot().release()
    first = queue.enqueue(key="first")
    second = queue.enqueue(key="second")
    assert queue.waiting == 1
    for lost in (first, second):
        with pytest.raises(QueueFull):
            await lost
    (await more[0]).release()
    assert [event.key for event in observer.of("joined")] == ["first", "second", "more"]


async def test_costs_of_events_are_plain_and_fixed(recorder):
    """They can be pickled, hashed and written as JSON, and nobody can change them."""
    queue = ApiQueue("100/s", "100 tokens/s burst 100", observers=[recorder])
    async with queue.slot(cost={"tokens": 3}):
        pass
    event = recorder.only("released")
    assert pickle.loads(pickle.dumps(event)) == event  # noqa: S301 - our own
    assert copy.deepcopy(event) == event
    assert hash(event) == hash(copy.copy(event))
    assert json.loads(json.dumps(event.costs)) == {"calls": 1, "tokens": 3}
    for change in (
        lambda: event.costs.update(tokens=5),
        lambda: event.costs.pop("tokens"),
        event.costs.clear,
    ):
        with pytest.raises(TypeError, match="cannot be changed"):
            change()


async def test_observer_that_cannot_say_its_name():
    """One that fails, and whose `repr` fails, costs no slot either."""

    class Nameless(Recorder):
        def on_event(self, _event):
            raise ZeroDivisionError

        def __repr__(self):
            raise ZeroDivisionError

    reported = []
    asyncio.get_running_loop().set_exception_handler(lambda _, one: reported.append(one))
    queue = ApiQueue("10/s", concurrency=1, observers=[Nameless()])
    for _ in range(3):
        async with queue.slot():
            pass
    assert queue.running == 0
    assert len(reported) >= 6
    assert "Nameless object at" in reported[0]["message"]


@pytest.mark.posix
async def test_limits_of_a_host_are_told_once(recorder):
    """What this queue sets and learns comes back from the hub: that is nobody else's change."""
    hub = VirtualHub()
    one = ApiQueue("100/s", schedule=hub.schedule("crm"), observers=[recorder])
    other = ApiQueue("100/s", schedule=hub.schedule("crm"))
    for queue in (one, other):
        (await queue.enqueue()).release()
    one.set_rate("20/s")
    one.set_rate("30/s")
    for queue in (one, other, one):
        (await queue.enqueue()).release()
    assert [event.origin for event in recorder.of("limits_changed")] == ["user", "user"]
    assert one.limits == other.limits == (Rate(30),)


class Counting(Recorder):
    """Counts calls without events."""

    event_kinds = ()

    def __init__(self):
        super().__init__()
        self.starts, self.ends = [], []

    def record_start(self, keys, waited):
        """Note a start."""
        self.starts.append((keys, waited))

    def record_end(self, keys, waited, duration, outcome):
        """Note an end."""
        self.ends.append((keys, waited, duration, outcome))


async def test_recorder_counts_without_events(limiter):
    """It is called at each start and end, with two figures; no event is made for it."""
    counting = Counting()
    queue = limiter.queue("10/s", observers=[counting])
    for _ in range(2):
        async with queue.slot(key="k"):
            await asyncio.sleep(0.05)
    assert counting.starts == [(("k",), 0), (("k",), limiter.exactly(0.05))]
    assert [end[2:] for end in counting.ends] == [(limiter.exactly(0.05), "ok")] * 2
    assert counting.events == []


class Failing(Counting):
    """Fails at whatever it is called for."""

    def record_start(self, *_):
        """Fail."""
        raise ZeroDivisionError

    record_end = record_start


def test_failing_recorder_costs_no_slot():
    """What it raises is reported, each time."""
    reported, done = [], []

    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda _, one: reported.append(one))
        queue = ApiQueue("10/s", concurrency=1, observers=[Failing()])
        for _ in range(3):
            async with queue.slot():
                done.append(queue.running)
        done.append(queue.running)

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())
    assert done == [1, 1, 1, 0]
    assert [type(one["exception"]) for one in reported] == [ZeroDivisionError] * 6


@pytest.mark.parametrize(
    ("limits", "before", "after"),
    [
        (["10/s burst 5"], {"calls": 5}, {"calls": 2}),
        (["10/s"], {"calls": 1}, {"calls": 0}),
        (["9 in any 1h"], {"calls": 9}, {"calls": 6}),
        (["3 in any 1h"], {"calls": 3}, {"calls": 0}),
        (["9 in each day"], {"calls": 9}, {"calls": 6}),
        (["4 at once"], {"permits": 4}, {"permits": 1}),
        (
            ["100/s burst 9", "1000 tokens/min burst 1000"],
            {"calls": 9, "tokens": 1000},
            {"calls": 6, "tokens": 700},
        ),
        ([], {}, {}),
    ],
    ids=str,
)
async def test_remaining_is_what_could_start(limits, before, after):
    """Of the queue and of a lane, by unit; nothing while it is held or paused."""
    for queue, key, figures in (
        (ApiQueue(*limits), None, lambda queue: queue.stats),
        (ApiQueue(lanes={"k": limits}), "k", lambda queue: queue.stats.lanes["k"]),
    ):
        assert figures(queue).remaining == before
        cost = {"tokens": 100} if "tokens" in before else 1
        slots = []
        for number in range(3):
            slot = queue.enqueue(key=key, cost=cost)
            if number < sum(before.values()) or not before:
                slots.append(slot)
        await asyncio.sleep(0)
        assert figures(queue).remaining == pytest.approx(after)
        queue.hold(5, key=key)
        assert set(figures(queue).remaining.values()) <= {0}
        for slot in slots:
            slot.cancel()


async def test_remaining_goes_by_the_servers_count():
    """As long as it holds; of a lane, too."""
    queue = ApiQueue("100/min burst 100", lanes={"a": "50/s burst 50"})
    async with queue.slot() as slot:
        slot.sync(2, reset=30)
    assert queue.stats.remaining == {"calls": 2}
    queue.sync(0, reset=20, key="a")
    async with queue.slot():
        pass
    assert queue.stats.remaining == {"calls": 1}
    assert queue.stats.lanes["a"].remaining == {"calls": 0}
    await asyncio.sleep(31)
    assert queue.stats.remaining["calls"] > 50
    assert queue.stats.lanes["a"].remaining == {"calls": 50}


async def test_nothing_remains_known_after_the_reset():
    """Without a limit of its own, a queue knows what is left only as long as the server's holds."""
    queue = ApiQueue()
    async with queue.slot() as slot:
        slot.sync(2, reset=30)
    assert queue.stats.remaining == {"calls": 2}
    await asyncio.sleep(31)
    assert queue.stats.remaining == {}


async def test_remaining_after_push_back():
    """While adaptive has lowered the rate, nothing remains until the next instant."""
    queue = ApiQueue("100/s burst 50", adaptive=Adaptive())
    for _ in range(20):
        async with queue.slot() as slot:
            pass
    slot.throttled()
    async with queue.slot():
        pass
    assert queue.stats.remaining == {"calls": 0}
    await asyncio.sleep(1)
    assert queue.stats.remaining == {"calls": 50}


async def test_pause_leaves_nothing_remaining():
    """A queue that is paused starts nothing, whatever its limits have left."""
    queue = ApiQueue("10/s burst 5")
    queue.pause(60)
    assert queue.stats.remaining == {"calls": 0}
    queue.resume()
    assert queue.stats.remaining == {"calls": 5}
