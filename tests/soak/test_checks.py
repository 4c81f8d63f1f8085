"""That what the soak looks for is found where it is there."""

from __future__ import annotations

import asyncio
import gc
import random

import pytest

from aioapiqueue import ApiQueue, Event
from aioapiqueue.testing import VirtualLoop
from tests.helpers.garbage import leave_older_alone
from tests.soak.checks import Broken, Flat, RateCheck, WindowCheck
from tests.soak.kinds import Kind, Limit
from tests.soak.load import Load, let_go
from tests.soak.watch import Planted, Watch


class Calm(random.Random):
    """Raises nothing on its own."""

    def random(self):
        """Return what is never below anything."""
        return 1.0


def event(kind, at, call, **details):
    """Make an event."""
    return Event(kind, "queue", None, 0, 1, at, 0.0, call=call, **details)


def watch_of(*limits):
    """Return a watch of a queue with these limits."""
    kind = Kind("kind", ApiQueue, lambda _: {}, 1, [Limit(one) for one in limits])
    return Watch(kind, Calm())


def test_rate_allows_what_is_due():
    """The burst, what comes back, and what may be late; not one more."""
    check = RateCheck("10/s burst 3", 10, 3, late=0.01)
    for at in (5, 5, 5, 5.1, 5.19, 6, 6, 6):
        check.start(at, 1)
    with pytest.raises(Broken, match=r"10/s burst 3: 4\.00 at once, 3\.10 are allowed"):
        check.start(6, 1)


def test_window_allows_so_many():
    """Three in any second, at whatever instants."""
    check = WindowCheck("3 in any 1s", 3, 1)
    for at in (0, 0.5, 0.9, 1.0, 1.5):
        check.start(at, 1)
    with pytest.raises(Broken, match="3 in any 1s: 4 within 1 s"):
        check.start(1.8, 1)


def test_call_that_ends_twice_is_found():
    """Each is in one of the ends."""
    watch = watch_of()
    for kind in ("joined", "cancelled", "timed_out"):
        watch.on_event(event(kind, 1, 7))
    with pytest.raises(Broken, match="call 7 has ended twice"):
        watch.check(drained=True)


def test_call_without_end_is_found():
    """When all callers have gone, each body has ended."""
    watch = watch_of()
    watch.on_event(event("released", 1, 7))
    watch.check(drained=False)
    with pytest.raises(Broken, match="1 calls have started and never ended"):
        watch.check(drained=True)


def test_refunded_starts_do_not_count():
    """A slot that was passed on counts once; starts are sorted, and carried over checks."""
    watch = watch_of(RateCheck("10/s", 10, 1, late=0.0))
    for kind, at, call in [("released", 1, 1), ("cancelled", 1, 1), ("released", 1, 2)]:
        watch.on_event(event(kind, at, call))
    watch.check(drained=False)
    watch.on_event(event("finished", 1.5, 2, duration=0.5))
    watch.check(drained=True)
    watch.on_event(event("released", 1.05, 3))
    watch.on_event(event("finished", 1.05, 3, duration=0.0))
    with pytest.raises(Broken, match=r"kind: 10/s: 1\.50 at once"):
        watch.check(drained=True)


def test_lost_data_begin_again():
    """What starts while the server is down is not counted, and nothing of before is."""
    watch = watch_of(RateCheck("1/s", 1, 1, late=0.0))
    for call, at in enumerate((1.0, 1.1, 1.2), start=1):
        watch.on_event(event("released", at, call))
        watch.on_event(event("finished", at, call, duration=0.0))
    watch.lost(1.05, 1.15)
    watch.check(drained=True)
    watch.on_event(event("released", 1.3, 9))
    watch.on_event(event("finished", 1.3, 9, duration=0.0))
    with pytest.raises(Broken):
        watch.check(drained=True)


def test_observer_raises_now_and_then():
    """With some seed it raises, and has noted the event before that."""
    watch = Watch(watch_of().kind, random.Random(1))
    raised = 0
    for call in range(1000):
        try:
            watch.on_event(event("released", call, call))
        except Planted:
            raised += 1
    assert 1 <= raised <= 50
    with pytest.raises(Broken, match="1000 calls have started"):
        watch.check(drained=True)


@pytest.mark.parametrize("name", ["MB", "blocks", "descriptors", "threads"])
def test_growth_is_found(name):
    """Whatever it is that grows from one half to the other; what stays is all right."""
    flat = Flat()
    usual = {"MB": 80, "blocks": 300_000, "descriptors": 12, "threads": 5}
    flat.seen = [dict(usual) for _ in range(20)]
    flat.check()
    for number, one in enumerate(flat.seen):
        one[name] *= 1 + number / 20
    with pytest.raises(Broken, match=f"{name} grow"):
        flat.check()


async def test_callers_and_counts_agree():
    """A round of a real queue is all right; one that counts a call too many is not."""
    broken = []
    kind = Kind("paced", ApiQueue, lambda _: {}, 100, at_once=0)
    load = Load(kind, ApiQueue("100/s"), 3, broken)
    await load.run(5)
    await load.drain(60)
    assert load.ends["started"] > 50
    assert load.ends["cancelled"] > 5
    assert broken == []
    load.ends["cancelled"] -= 1
    with pytest.raises(Broken, match="the queue has counted"):
        await load.drain(1)


@pytest.fixture
def _few_objects():
    """Have the collector look only at what the test makes, not at all modules each time."""
    leave_older_alone()


@pytest.mark.usefixtures("_few_objects")
def test_callers_of_a_dropped_loop_are_let_go():
    """They have ended, and been counted, before the next round begins."""
    kind, queue = Kind("paced", ApiQueue, lambda _: {}, 100), ApiQueue("20/s")

    async def use(drain):
        load = Load(kind, queue, 3, [])
        await load.run(2)
        assert queue.waiting > 5
        gc.collect()
        if drain:
            await load.drain(60)

    def use_a_loop(*, drain):
        loop = VirtualLoop()
        loop.set_exception_handler(lambda *_: None)  # which is told of tasks that are destroyed
        loop.run_until_complete(use(drain))
        loop.close()

    use_a_loop(drain=False)
    let_go([queue])
    use_a_loop(drain=True)


async def test_stuck_callers_are_found():
    """Those who wait for ever are named."""
    queue = ApiQueue("100/s")
    load = Load(Kind("paced", ApiQueue, lambda _: {}, 50), queue, 3, [])
    queue.pause()
    await load.run(0.5)
    with pytest.raises(Broken, match="callers are stuck: <ApiQueue 100/s: paused"):
        await load.drain(5)
    for task in load.tasks:
        task.cancel()
    await asyncio.wait(load.tasks)


async def test_too_many_bodies_are_found():
    """A queue that lets more run than it should is named once for each."""
    broken = []
    load = Load(Kind("many", ApiQueue, lambda _: {}, 100, at_once=1), ApiQueue(), 3, broken)
    await load.run(0.5)
    await load.drain(60)
    assert broken[0].startswith("many: 2 bodies, 1 at once")
