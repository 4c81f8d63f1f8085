"""With thousands of lanes in use, a call costs what it costs with a few."""

from __future__ import annotations

import asyncio
import math
import time
from itertools import chain

import pytest

from aioapiqueue import Adaptive, ApiQueue, WouldWait
from benchmarks._lanes import CATCH_UP, ENDPOINT, TENANT, Tenants
from tests.helpers import introspect
from tests.helpers.instants import now
from tests.helpers.work import stall_of_bare_tasks, work, worst_stall


async def crowded(lanes, **options):
    """Return a queue with two who wait in each of so many lanes, each lane's first call running."""
    queue = ApiQueue(lanes={"*": "0.01/s"}, **options)
    calls = [queue.enqueue(key=number) for number in range(lanes) for _ in range(3)]
    for _ in range(3):  # the lanes are looked at, and those who wait are parked
        await asyncio.sleep(2)
        queue.enqueue(key="other")
    return queue, calls


def join(queue, _slot):
    """Let one more wait, in a lane of its own."""
    queue.enqueue(key="new")


def fail_to_join(queue, _slot):
    """Ask for a slot that is not free."""
    with pytest.raises(WouldWait):
        queue.try_slot(key=7)


def settle(_queue, slot):
    """Give back half of a cost."""
    slot.settle(0.5)


def push_back(_queue, slot):
    """Slow down."""
    slot.throttled()


def retry_later(_queue, slot):
    """Slow down and hold the lane."""
    slot.throttled(5)


def hold(queue, _slot):
    """Hold the lane."""
    queue.hold(5, key=7)


@pytest.mark.parametrize("adaptive", [None, Adaptive("0.001/s")], ids=["fixed", "adaptive"])
@pytest.mark.parametrize("action", [join, fail_to_join, settle, push_back, retry_later, hold])
async def test_work_does_not_grow_with_lanes(action, adaptive):
    """What a call, its settlement and push-back cost, and the tick after it, is the same."""
    counts = []
    for lanes in (50, 1000):
        queue, calls = await crowded(lanes, adaptive=adaptive)
        slot = await calls[0]
        done = work(lambda queue=queue, slot=slot: action(queue, slot))
        tick = work(lambda queue=queue: introspect.release_due(queue))
        counts.append(done + tick)
        for call in calls:
            call.cancel()
        await queue.aclose(drain=False)
    few, many = counts
    assert many < 2 * few + 200  # a look at each of 1,000 would be more


@pytest.mark.real
async def test_push_back_in_lanes_is_linear(no_collector):
    """Push back in each lane is linear.

    Many lanes that are slowed down at once: what each costs does not grow with the others.
    """
    queue = ApiQueue(lanes={"*": "1/s"}, adaptive=Adaptive("0.1/s"))
    slots = [queue.try_slot(key=number) for number in range(8000)]
    thousands = []
    for first in range(0, 8000, 1000):
        since = time.thread_time()
        for slot in slots[first : first + 1000]:
            slot.throttled()
        thousands.append(time.thread_time() - since)
    assert queue.stats.backed_off == 8000
    assert min(thousands[-3:]) < 2 * min(thousands[:3])


async def test_joining_does_not_grow_with_lanes():
    """Where many wait for the queue's own limit, each in a lane that is free."""
    counts = []
    for lanes in (50, 1000):
        queue = ApiQueue("0.001/s", lanes={"*": "1/s"})
        calls = [queue.enqueue(key=number) for number in range(lanes)]
        for other in range(5):
            await asyncio.sleep(1)
            counts.append(work(lambda queue=queue, key=f"late {other}": queue.enqueue(key=key)))
        for call in calls:
            call.cancel()
    assert max(counts[5:]) < 2 * max(counts[:5])


async def test_idle_lanes_go_gradually():
    """Idle lanes go a few a call.

    After thousands of keys, no single call pays for forgetting them; all go in the end.
    """
    queue = ApiQueue(lanes={"*": "10/s"})
    for number in range(5000):
        queue.try_slot(key=number).release()
    await asyncio.sleep(10)
    costs = []
    for _ in range(400):
        costs.append(work(lambda: queue.try_slot(key="one").release()))
        await asyncio.sleep(1)
    assert max(costs) < 1000
    assert queue.stats.lanes_in_memory == 1


@pytest.mark.parametrize("keys", [("one",), ("one", "two")], ids=["one", "two"])
async def test_call_keeps_its_own_lanes(keys):
    """A lane that idled is not made again by the call that looks it up; later ones are as paced."""
    queue = ApiQueue(lanes={"*": "10/s, 5 usd in all"})
    starts, lanes = [], set()
    for _ in range(5):
        await asyncio.sleep(3)
        for _ in range(3):  # the second and third wait for what a new lane would let them wait for
            async with queue.slot(keys=keys, cost={"calls": 1, "usd": 0}):
                starts.append(now())
        lanes.add(tuple(id(introspect.own_states(queue, key)[0]) for key in keys))
    assert starts == pytest.approx(
        [3 * (turn + 1) + 0.2 * turn + 0.1 * call for turn in range(5) for call in range(3)]
    )
    assert len(lanes) == 1
    await queue.aclose()


async def test_used_lanes_keep_no_idle_ones():
    """Lanes in use do not keep idle ones.

    Beside a thousand lanes in which somebody waits, those that come and go are forgotten.
    """
    queue, calls = await crowded(1000)
    most = 0
    for number in range(2000):
        queue.enqueue(key=f"once {number}")
        await asyncio.sleep(0.1)
        most = max(most, queue.stats.lanes_in_memory)
    assert most < 1000 + 1100  # each is kept for 100 s, at 10 a second
    for call in calls:
        call.cancel()


@pytest.mark.real
async def test_thousands_of_lanes_stall_no_loop(no_collector):
    """The loop's longest pass is no longer than that of as many tasks on an Event (CPU time).

    The least of up to three attempts each, taken in turn: so a busy machine is one for both.
    """
    bare, ours = [], []
    for _ in range(3):
        bare.append(await stall_of_bare_tasks(5000))
        queue = ApiQueue(lanes={"*": "1/s"})
        queue.try_slot(key=0).release()

        async def call(key, queue=queue):
            async with queue.slot(key=key):
                pass

        ours.append(await worst_stall(call, lambda: None, tasks=5000))
        if min(ours) < 1.5 * min(bare):
            break
    assert min(ours) < 1.5 * min(bare)


@pytest.mark.parametrize(("rate", "share"), [(None, 1.005), (64, 1.02)])
async def test_tenants_and_endpoints_lose_no_time(rate, share):
    """Thousands of calls under two lanes each end in time, and no lane is over its limit.

    As benchmarks/lanes.py does, with a tenth of the calls: under a limit of the queue, too, the
    busiest endpoint waits for the queue's next instant each time, which is a second or two at the
    end, in a job of any length.
    """
    setting = Tenants(tenants=500, endpoints=50, calls=5000, rate=rate)
    last = await setting.run()
    assert last <= share * setting.ideal()
    assert setting.looks <= 6 * 5000
    for key, times in setting.starts.items():
        keeps(times, TENANT if key.startswith("tenant") else ENDPOINT)
    assert sum(map(len, setting.starts.values())) == 2 * 5000
    if rate is not None:
        tenants = [times for key, times in setting.starts.items() if key.startswith("tenant")]
        keeps(sorted(chain(*tenants)), rate)


def keeps(times, rate):
    """Check that in any window at most 1 + (W + catch_up) * rate start."""
    most = -math.inf
    for number, at in enumerate(times):
        most = max(most, at * rate - number)
        assert at * rate - number + CATCH_UP * rate >= most - 1e-6
