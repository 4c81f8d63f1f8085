"""What a shared quota has got wrong once: units, reservations, and limits that others set."""

from __future__ import annotations

import asyncio

import pytest

from aioapiqueue import Adaptive, ApiQueue, Rate, Window
from aioapiqueue.integrations.redis import SharedSchedule
from tests.helpers.instants import now
from tests.helpers.servers import fresh_name
from tests.helpers.virtual_client import VirtualClient


@pytest.fixture
def name():
    """Return the name of a quota that no other test uses."""
    return fresh_name()


def make(valkey, name, *limits, ahead=0.2, **options):
    """Return a queue of a process of its own in a quota."""
    schedule = SharedSchedule(VirtualClient(valkey), name, ahead=ahead)
    return ApiQueue(*limits, schedule=schedule, **options)


async def take(queue, **options):
    """Return when a call has started."""
    async with queue.slot(**options):
        return now()


async def end(tasks):
    """Cancel what runs."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def crowd(queue, counts, number, **options):
    """Start callers who call again and again, and are counted by their keys."""

    async def caller():
        while True:
            async with queue.slot(**options):
                keys = options["keys"]
                counts[keys] = counts.get(keys, 0) + 1

    return [asyncio.create_task(caller()) for _ in range(number)]


@pytest.mark.parametrize("where", ["queue", "lane"])
@pytest.mark.parametrize("processes", [2, 4])
async def test_rate_beside_full_bucket(valkey, name, where, processes):
    """Tokens for minutes are saved up, and calls of the other limit are used up all the same."""
    limits = ["500/min", "30000 tokens/min burst 30000"]
    own, lanes = (limits, {}) if where == "queue" else ([], {"a": ", ".join(limits)})
    queues = [make(valkey, name, *own, lanes=lanes) for _ in range(processes)]
    counts, tasks = {}, []
    for queue in queues:
        tasks += crowd(queue, counts, 20, keys=("a",), cost={"tokens": 10})
    await asyncio.sleep(30)
    await end(tasks)
    for queue in queues:
        await queue.aclose()
    assert 0.9 * 250 <= counts["a",] <= 251


@pytest.mark.parametrize("how", ["hold", "throttled"])
async def test_held_without_key(valkey, name, how):
    """It concerns calls of every key, also where all keys have limits."""
    async with make(valkey, name, "100/s", lanes={"*": "50/s"}) as queue:
        await take(queue, key="a")
        getattr(queue, how)(10)
        assert await take(queue, key="b") >= 10 - 1e-5


@pytest.mark.parametrize("later", [0, 40])
async def test_window_settled_from_zero(valkey, name, later):
    """What comes on top is charged from when the call started, whatever has started since."""
    async with make(valkey, name, Window(100, 60, unit="tokens")) as queue:
        slot = await queue.enqueue(cost={"tokens": 0})
        await asyncio.sleep(1)
        if later:
            await take(queue, cost={"tokens": later})
        slot.settle({"tokens": 100 - later})
        slot.release()
        await asyncio.sleep(0.1)
        assert 60 <= await take(queue, cost={"tokens": 100 - later}) <= 60.1


async def test_order_of_swapped_keys(valkey, name):
    """Calls of the same lanes go in their order, though they name them in another."""
    async with make(valkey, name, lanes={"a": "10/s", "b": "10/s"}) as queue:
        await take(queue, keys=("a", "b"))
        starts = []

        async def call(number, keys):
            async with queue.slot(keys=keys):
                starts.append(number)

        pairs = [("a", "b"), ("b", "a"), ("a", "b"), ("b", "a")]
        tasks = [asyncio.create_task(call(*one)) for one in enumerate(pairs)]
        await asyncio.sleep(0.01)
        tasks[0].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert starts == [1, 2, 3]


async def test_reservation_between_orders_of_units(valkey, name):
    """Processes that met tokens and images in another order keep a reservation of tokens."""
    lanes = {
        "a": [Rate(10, unit="tokens")],
        "b": [Rate(10, unit="tokens")],
        "x": [Rate(10, unit="images")],
    }
    one = make(valkey, name, lanes=lanes)
    two, three = (make(valkey, name, lanes=dict(reversed(lanes.items()))) for _ in range(2))
    counts, cost = {}, {"calls": 0, "tokens": 1}
    async with one, two, three:
        tasks = crowd(two, counts, 5, keys=("a",), cost=cost)
        await asyncio.sleep(0.05)
        tasks += crowd(three, counts, 5, keys=("b",), cost=cost)
        await asyncio.sleep(0.3)
        tasks += crowd(one, counts, 2, keys=("a", "b"), cost=cost)
        await asyncio.sleep(30)
        await end(tasks)
    assert counts["a", "b"] >= 60


@pytest.mark.parametrize("cancelled", [False, True])
async def test_reservation_for_much_later(valkey, name, cancelled):
    """A call that waits an hour for one of its lanes leaves the other to pairs that need not."""
    lanes = {"a": "10/s", "b": "1 in any 1h", "c": "10/s"}
    counts, pair = {}, ("a", "c")
    async with make(valkey, name, lanes=lanes) as one, make(valkey, name, lanes=lanes) as two:
        await take(two, key="a")
        far = asyncio.create_task(take(one, keys=("a", "b")))
        await asyncio.sleep(0.05)
        await take(two, key="b")
        await asyncio.sleep(0.5)
        if cancelled:
            far.cancel()
        tasks = crowd(two, counts, 5, keys=("a",))
        await asyncio.sleep(0.05)
        tasks += crowd(two, counts, 5, keys=("c",))
        await asyncio.sleep(0.3)
        tasks += crowd(one, counts, 2, keys=pair)
        await asyncio.sleep(30)
        await end([far, *tasks])
    assert counts[pair] >= 60


async def test_permit_comes_back(valkey, name):
    """It does at once, in a process that learnt of the concurrency from another one, too."""
    async with make(valkey, name, "1000/s") as one, make(valkey, name, "1000/s") as other:
        await take(other)
        one.set_rate("1000/s, 1 at once")
        await asyncio.sleep(0.01)
        slot = await other.enqueue()
        waiting = one.enqueue()
        await asyncio.sleep(2)
        assert not waiting.done()
        slot.release()
        released = now()
        (await waiting).release()
        assert now() - released < 0.5


async def test_strange_key_beside_foreign_pattern(valkey, name):
    """A key without a text that comes to have a lane ends its own call, and no other."""
    async with make(valkey, name, "1/s") as one, make(valkey, name, "1/s") as two:
        await take(one, key="warm")
        strange = asyncio.create_task(take(one, key=object()))
        other = asyncio.create_task(take(one, key="b"))
        await asyncio.sleep(0.01)
        two.set_rate("5/s", key="*")
        with pytest.raises(TypeError, match="key must be text"):
            await strange
        await other


async def test_strange_key_beside_our_pattern(valkey, name):
    """Limits that would give it a lane are refused, as those that a call could never pass."""
    async with make(valkey, name, "1/s") as queue:
        await take(queue, key="warm")
        strange = asyncio.create_task(take(queue, key=object()))
        await asyncio.sleep(0.01)
        with pytest.raises(TypeError, match="key must be text"):
            queue.set_rate("5/s", key="*")
        await strange


async def test_push_back_recalls_leases(valkey, name):
    """After it nothing goes out at the old rate, though slots for a second were taken ahead."""
    starts = []
    async with make(valkey, name, "100/s", ahead=1.0, adaptive=Adaptive()) as queue:

        async def caller():
            while True:
                starts.append(await take(queue))

        tasks = [asyncio.create_task(caller()) for _ in range(200)]
        await asyncio.sleep(3.005)
        queue.throttled()
        await asyncio.sleep(1)
        rate = queue.stats.rate
        await end(tasks)
    assert sum(3.005 < at <= 3.505 for at in starts) <= 0.5 * rate + 2
