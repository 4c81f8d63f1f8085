"""A cluster of which no node answers, or none lets the user in."""

import asyncio
import contextlib
import re
from pathlib import Path

import pytest
from redis.asyncio import RedisCluster

from aioapiqueue import ApiQueue
from aioapiqueue.exceptions import SharedError
from aioapiqueue.integrations.redis import SharedSchedule
from tests.helpers.groups import Cluster
from tests.helpers.servers import HOST, Server, free_port

pytestmark = pytest.mark.real


async def has_a_fault(queue):
    """Wait until the queue knows that its server cannot be reached."""
    async with asyncio.timeout(60):
        while not queue.stats.fault:  # noqa: ASYNC110 - a figure
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def also_at(port, node):
    """Let a node of a cluster be reached by another port, too."""
    tasks = set()

    async def forward(reader, writer):
        there, back = await asyncio.open_connection(HOST, node.port)
        await asyncio.gather(copy(reader, back), copy(there, writer))

    async def copy(reader, writer):
        tasks.add(asyncio.current_task())
        with contextlib.closing(writer):
            while data := await reader.read(65_536):
                writer.write(data)

    async with await asyncio.start_server(forward, HOST, port):
        yield
        for task in tasks:
            task.cancel()


async def test_callers_wait_for_a_cluster(cluster, name):
    """Callers wait while no node of a cluster can be reached.

    redis-py says so with an error that is none of its RedisErrors.
    """
    port = free_port()
    client = RedisCluster(host=HOST, port=port)
    queue = ApiQueue("100/s", schedule=SharedSchedule(client, name, timeout=30))
    waiting = queue.enqueue()
    await has_a_fault(queue)
    assert not waiting.done()
    async with also_at(port, cluster.nodes[0]):
        async with asyncio.timeout(60):
            (await waiting).release()
        assert queue.stats.fault == ""
        await queue.aclose()
        await client.aclose()


@pytest.mark.slow  # a cluster takes two seconds to start, and as long to come back
async def test_callers_wait_for_a_dead_cluster(name):
    """Callers wait for a cluster that has died until it is back: all nodes at once."""
    with Cluster() as cluster:
        async with cluster.client() as client:
            queue = ApiQueue("100/s", schedule=SharedSchedule(client, name))
            async with asyncio.timeout(60), queue.slot():
                pass
            for node in cluster.nodes:
                node.kill()
            waiting = queue.enqueue()
            await has_a_fault(queue)
            assert not waiting.done()
            for node in cluster.nodes:
                await asyncio.to_thread(node.start)
            await asyncio.to_thread(cluster.settle)
            async with asyncio.timeout(60):
                (await waiting).release()
            assert queue.stats.fault == ""
            await queue.aclose()


async def test_cluster_refuses_a_wrong_password(name):
    """A wrong password for a cluster is refused.

    It is said as if no node could be reached.
    """
    with Server(password="sesame-open") as server:  # noqa: S106 - it lives for a second
        client = RedisCluster(host=HOST, port=server.port, password="sesame-shut")  # noqa: S106
        queue = ApiQueue("100/s", schedule=SharedSchedule(client, name, timeout=30))
        with pytest.raises(SharedError, match="refuses this user") as refusal:
            async with asyncio.timeout(60), queue.slot():
                pass
        assert "sesame" not in str(refusal.value)
        await queue.aclose(drain=False)
        await client.aclose()


async def test_cluster_refuses_user_without_node_command(cluster, name):
    """A user who may not ask a cluster for its nodes is refused.

    With the rules that the documentation names, and then with those for a cluster too.
    """
    text = Path(__file__).parents[3].joinpath("docs", "fleet.md").read_text("utf-8")
    (rules,) = re.findall(r"ACL SETUSER pacer on >PASSWORD (.*)", text)
    (more,) = re.findall(r"For a cluster, add `(.*)`", text)
    login = {"username": name, "password": "sesame-open"}

    def let_in(*rules):
        for node in cluster.nodes:
            node.sync().execute_command("ACL", "SETUSER", name, *rules)

    let_in("on", ">sesame-open", *rules.split())
    client = RedisCluster(host=HOST, port=cluster.nodes[0].port, **login)
    queue = ApiQueue("100/s", schedule=SharedSchedule(client, name, timeout=30))
    with pytest.raises(SharedError, match="no permissions"):
        async with asyncio.timeout(60), queue.slot():
            pass
    let_in(*more.split())
    async with asyncio.timeout(60), queue.slot():
        pass
    await queue.aclose()
    await client.aclose()
