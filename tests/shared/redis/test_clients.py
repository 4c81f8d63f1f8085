"""Whatever client of redis-py a user has, it will do."""

import asyncio

import pytest
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff, NoBackoff

from aioapiqueue import ApiQueue, Rate, Window
from aioapiqueue.integrations.redis import SharedSchedule

pytestmark = pytest.mark.real


def one_connection(server):
    """Return a client all of whose commands wait for the only connection."""
    pool = redis.asyncio.BlockingConnectionPool.from_url(server.url, max_connections=1, timeout=30)
    return redis.asyncio.Redis.from_pool(pool)


CLIENTS = {
    "plain": lambda server: server.client(),
    "decoding": lambda server: server.client(decode_responses=True),
    "resp2": lambda server: server.client(protocol=2),
    "resp3": lambda server: server.client(protocol=3, decode_responses=True),
    "url": lambda server: redis.asyncio.from_url(server.url),
    "socket": lambda server: redis.asyncio.from_url(server.socket_url),
    "one connection": one_connection,
    "single": lambda server: server.client(single_connection_client=True),
    "no retries": lambda server: server.client(retry=Retry(NoBackoff(), 0)),
    "many retries": lambda server: server.client(
        retry=Retry(ExponentialBackoff(cap=5, base=1), 20),
        retry_on_error=[redis.ConnectionError, redis.TimeoutError],
    ),
    "time-outs": lambda server: server.client(socket_timeout=5, socket_connect_timeout=5),
    "checks": lambda server: server.client(health_check_interval=1, socket_keepalive=True),
}


async def calls(queue, count, **how):
    """Make so many calls at once."""

    async def call():
        async with queue.slot(**how):
            pass

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(call())


@pytest.mark.parametrize("kind", CLIENTS)
async def test_any_client_will_do(valkey, name, kind):
    """For all that is asked, said, and answered."""
    async with CLIENTS[kind](valkey) as client, valkey.client() as another:
        options = {"lanes": {"lane": Window(100, 1)}, "concurrency": 50}
        one, other = (
            # So long a time-out that a machine that stands still is no fault.
            ApiQueue("500/s", schedule=SharedSchedule(each, name, timeout=30), **options)
            for each in (client, another)
        )
        await calls(one, 20)
        other.set_rate("1000/s")
        await calls(other, 5)
        await calls(one, 20, key="lane")  # hears of it
        assert one.limits == (Rate(1000),)
        one.throttled(retry_after=0.05)
        one.set_rate("800/s")
        await calls(one, 20, cost=2)
        await calls(other, 5)
        assert other.limits == (Rate(800),)
        for queue in (one, other):
            assert queue.stats.faults == 0
            await queue.aclose()


@pytest.mark.parametrize(
    "kind",
    [
        kind
        if kind in {"decoding", "many retries", "one connection"}
        # the others have nothing of their own here
        else pytest.param(kind, marks=pytest.mark.slow)
        for kind in CLIENTS
    ],
)
async def test_any_client_survives_a_dying_server(server, name, kind):
    """Any client bears a server that dies and is slow.

    With its own retries or without; answers are never mixed up.
    """
    async with CLIENTS[kind](server) as client:
        schedule = SharedSchedule(client, name, timeout=0.2)
        queue = ApiQueue("500/s", schedule=schedule)
        await calls(queue, 10)
        server.kill()
        waiting = asyncio.create_task(calls(queue, 20))
        async with asyncio.timeout(60):
            while not queue.stats.fault:  # noqa: ASYNC110 - a figure
                await asyncio.sleep(0.01)
        await asyncio.to_thread(server.start)
        await waiting
        assert queue.stats.fault == ""
        server.sync().client_pause(300)
        await calls(queue, 20)
        assert queue.stats.fault == ""
        assert queue.stats.released == 50
        await queue.aclose()
