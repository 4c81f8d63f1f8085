"""A quota lives on one node of a cluster, with all that it has."""

import asyncio

import pytest

from aioapiqueue import Adaptive, ApiQueue, Window
from aioapiqueue.integrations.redis import SharedSchedule
from tests.helpers.groups import Cluster
from tests.helpers.members import between, fleet, together
from tests.helpers.servers import fresh_name, keys_of
from tests.helpers.workers import fullest

KEEP = 2.0  # seconds for which a key is kept when it could be forgotten
LANES = {"lane": ["250/s", Window(100, 0.5)], "*": "400/s"}
EVERYTHING = {
    "lanes": LANES,
    "concurrency": 10,
    "adaptive": Adaptive(),
}


def patient(client, name):
    """Share a quota with whom a machine that stands still for a while is no fault."""
    return SharedSchedule(client, name, timeout=30)


async def work(queue, count):
    """Let 20 callers make so many calls in all, of three lanes."""
    left = iter(range(count))

    async def caller(key):
        for _ in left:
            async with queue.slot(key=key):
                await asyncio.sleep(0.001)

    async with asyncio.timeout(60), asyncio.TaskGroup() as callers:
        for number in range(20):
            callers.create_task(caller(("lane", "else", None)[number % 3]))


@pytest.mark.real
async def test_everything_works_on_a_cluster(cluster, name):
    """Each kind of limit and all that can be said, without a fault; each key expires."""
    async with cluster.client() as client, cluster.client(decode_responses=True) as another:
        queues = [
            ApiQueue("500/s", Window(450, 1), schedule=patient(one, name), **EVERYTHING)
            for one in (client, another)
        ]
        await asyncio.gather(*(work(queue, 30) for queue in queues))
        one, other = queues
        one.set_rate("1000/s", Window(750, 2))
        one.set_rate("300/s", key="lane")
        one.pause(0.1)
        other.throttled(retry_after=0.1, key="lane")
        other.throttled()
        await asyncio.gather(*(work(queue, 20) for queue in queues))
        assert one.limits == other.limits
        one.pause()
        await asyncio.sleep(0.3)  # what two say at once, the server hears in any order
        other.resume()
        await asyncio.gather(*(work(queue, 10) for queue in queues))
        for queue in queues:
            await queue.aclose()
            assert queue.stats.faults == 0
        keys = keys_of(cluster, name)
        assert len(keys) >= 5
        assert None not in keys.values()
        assert keys == pytest.approx(keys_of(cluster.node_of(name), name), abs=10)


@pytest.mark.real
@pytest.mark.parametrize("wait", [False, pytest.param(True, marks=pytest.mark.slow)])
async def test_no_key_is_left_when_idle(cluster, name, wait):
    """No key is left after an idle while, and nothing renews one meanwhile.

    Two seconds after nobody could tell it from a new one any more.
    """
    async with cluster.client() as client:
        schedule = SharedSchedule(client, name, lease=0.5)
        options = {**EVERYTHING, "lanes": LANES, "schedule": schedule}
        async with ApiQueue("500/s", Window(450, 0.5), **options) as queue:
            await work(queue, 50)
        keys = keys_of(cluster, name)
        assert len(keys) >= 5
        assert all(left <= 0.5 + KEEP + 0.5 for left in keys.values())
        await asyncio.sleep(max(keys.values()) + 0.1 if wait else 0.25)
        left = keys_of(cluster, name)
        assert left == {} if wait else all(left[key] <= keys[key] - 0.2 for key in left)


@pytest.mark.real
async def test_each_quota_has_a_node(cluster):
    """By its name: whatever that is, all keys of one are in one slot."""
    names = [*(fresh_name() for _ in range(9)), f"{fresh_name()} * [a] {{b \u00e9"]
    async with cluster.client() as client:
        queues = [ApiQueue("100/s", schedule=patient(client, name), **EVERYTHING) for name in names]
        await asyncio.gather(*(work(queue, 20) for queue in queues))
        for queue in queues:
            assert queue.stats.faults == 0
            await queue.aclose()
    assert len({cluster.node_of(name).port for name in names}) > 1
    for name in names:
        assert keys_of(cluster, name).keys() == keys_of(cluster.node_of(name), name).keys() != set()


async def test_queues_share_on_a_cluster(cluster, name):
    """Queues share a quota on a cluster.

    Exactly, in virtual time.
    """
    lanes = {"lane": [Window(5, 1)]}
    async with fleet(3, cluster, name, "20/s", lanes=lanes, concurrency=9) as members:
        for one in members:
            one.call(key="lane", body=0.05)
            one.call(key="else", body=0.05)
        await asyncio.sleep(10)
        instants = together(*members)
        assert 199 <= between(instants, 0, 10) <= 201
        assert fullest(instants, 1.0) <= 21
        assert fullest(together(*members, key="lane"), 1.0) <= 5
        assert all(one.queue.stats.faults == 0 for one in members)


@pytest.mark.slow
@pytest.mark.real
async def test_node_may_die_and_return(name):
    """A node may die and come back.

    Those who wait do so until it is back, and empty.
    """
    with Cluster() as cluster:
        node = cluster.node_of(name)
        async with cluster.client() as client:
            queue = ApiQueue("100/s", schedule=SharedSchedule(client, name))
            await work(queue, 50)
            node.kill()
            working = asyncio.create_task(work(queue, 100))
            await asyncio.sleep(5)
            assert not working.done()
            assert queue.stats.fault
            await asyncio.to_thread(node.start)
            await asyncio.to_thread(cluster.settle)
            await working
            assert queue.stats.fault == ""
            await queue.aclose()
