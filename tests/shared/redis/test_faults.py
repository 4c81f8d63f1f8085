"""What becomes of the callers if the server is not there, or not well. test_refusals.py: or denies.

In real time, with real faults; test_outages.py has the figures, in virtual time. For each: what
those who wait see, what the figures and events say, and that it goes on afterwards.
"""

import asyncio
import contextlib

import pytest
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from aioapiqueue import ApiQueue
from aioapiqueue.integrations.redis import SharedSchedule
from tests.helpers.groups import Sentinels
from tests.helpers.servers import Server

AHEAD = 0.2
CATCH_UP = 0.010
PATIENCE = 60.0  # seconds: far more than anything here takes, for busy machines
# What redis-py does by itself before it gives up is for test_clients.py.
AT_ONCE = Retry(NoBackoff(), 0)
PASSWORD = "sesame-open"  # noqa: S105 - of servers that live for a second


class Listener:
    """Keeps the rarer events of a queue."""

    def __init__(self):
        self.kinds = []

    def on_event(self, event):
        """Hear of one."""
        if event.kind not in {"joined", "released", "finished", "cancelled"}:
            self.kinds.append(event.kind)


@contextlib.asynccontextmanager
async def busy(client, name, *, at_most=1.0, **options):
    """Give a queue of which somebody always wants something, and the events that it had.

    It waits for an answer for so many seconds that a busy machine is no fault; redis-py may use up
    all of them with retries of its own.
    """
    listener = Listener()
    schedule = SharedSchedule(client, name, timeout=at_most, **options)
    async with client:
        queue = ApiQueue("1000/s", schedule=schedule, observers=[listener])

        async def caller():
            while True:
                async with queue.slot():
                    pass

        callers = [asyncio.create_task(caller()) for _ in range(20)]
        try:
            yield queue, listener.kinds
            assert not any(each.done() for each in callers), "a caller had an error"
        finally:
            for each in callers:
                each.cancel()
            await asyncio.gather(*callers, return_exceptions=True)
            await queue.aclose(drain=False)


async def goes_on(queue):
    """Wait until it does, with a healthy server."""
    before = queue.stats.released
    async with asyncio.timeout(PATIENCE):
        while queue.stats.released < before + 100 or queue.stats.fault:  # noqa: ASYNC110 - figures
            await asyncio.sleep(0.01)


async def stands_still(queue, why):
    """Wait until it knows of a fault; make sure that it says why, but no secret, and waits."""
    async with asyncio.timeout(PATIENCE):
        while not queue.stats.fault:  # noqa: ASYNC110 - a figure
            await asyncio.sleep(0.01)
    stats = queue.stats
    assert why in stats.fault
    assert PASSWORD not in stats.fault
    assert stats.faults > 0
    await asyncio.sleep(AHEAD + CATCH_UP + 0.1)
    before = queue.stats.released
    await asyncio.sleep(0.1)
    assert queue.stats.released == before
    assert queue.waiting == 20


WITH_RETRIES = [
    pytest.param({"retry": AT_ONCE}, id="at once"),
    # Those that a client of redis-py has by itself, which take a while:
    pytest.param({}, id="default retries", marks=pytest.mark.slow),
]
"""Options of clients."""


@pytest.mark.real
@pytest.mark.parametrize("retries", WITH_RETRIES)
async def test_a_server_may_come_later(name, retries):
    """Those who wait meanwhile have their turns then."""
    server = Server(password=PASSWORD)
    try:
        async with busy(server.client(**retries), name) as (queue, events):
            await stands_still(queue, "Connect")
            server.start()
            await goes_on(queue)
            assert events == ["disconnected", "reconnected"]
    finally:
        server.stop()


@pytest.mark.real
@pytest.mark.parametrize("retries", WITH_RETRIES)
@pytest.mark.parametrize("tls", [False, True])
async def test_server_may_return_empty(name, tls, retries):
    """A server may die and come back empty.

    The connections that there were are made again.
    """
    with Server(password=PASSWORD, tls=tls) as server:
        async with busy(server.client(**retries), name) as (queue, events):
            await goes_on(queue)
            server.kill()
            await stands_still(queue, "Connect")
            server.start()
            await goes_on(queue)
            assert events == ["disconnected", "reconnected"]


@pytest.mark.real
@pytest.mark.parametrize("how", ["paused", pytest.param("frozen", marks=pytest.mark.slow)])
@pytest.mark.parametrize("retries", [{"retry": AT_ONCE}, {}], ids=["at once", "default retries"])
async def test_a_server_may_answer_too_late(server, name, how, retries):
    """What it answers after the time-out is lost, and not used twice."""
    async with busy(server.client(**retries), name, at_most=0.2) as (queue, events):
        await goes_on(queue)
        if how == "frozen":
            server.freeze()
        else:
            server.sync().client_pause(60_000, all=False)  # else it could not be ended
        await stands_still(queue, "no response within 0.2 s")
        if how == "frozen":
            server.thaw()
        else:
            server.sync().client_unpause()
        await goes_on(queue)
        # Once, on a machine that does not stand still for 0.2 s besides.
        assert events[:2] == ["disconnected", "reconnected"]
        assert events == ["disconnected", "reconnected"] * (len(events) // 2)


@pytest.mark.real
@pytest.mark.parametrize("retries", WITH_RETRIES)
async def test_server_may_lack_memory(server, name, retries):
    """A server may be out of memory.

    Until it has some again.
    """
    async with busy(server.client(**retries), name) as (queue, events):
        await goes_on(queue)
        server.sync().config_set("maxmemory", 1)
        await stands_still(queue, "OutOfMemory")
        server.sync().config_set("maxmemory", 0)
        await goes_on(queue)
        assert events == ["disconnected", "reconnected"]


@pytest.mark.real
@pytest.mark.parametrize("retries", WITH_RETRIES)
async def test_server_may_become_a_replica(valkey, server, name, retries):
    """A server may become a replica that is read only.

    Until it is a master again, with all that it knew forgotten.
    """
    async with busy(server.client(**retries), name) as (queue, events):
        await goes_on(queue)
        server.sync().replicaof("127.0.0.1", valkey.port)
        await stands_still(queue, "ReadOnly")
        server.sync().replicaof("NO", "ONE")
        await goes_on(queue)
        assert events == ["disconnected", "reconnected"]


@pytest.mark.real
@pytest.mark.parametrize("retries", WITH_RETRIES)
async def test_busy_server_is_waited_for(server, name, retries):
    """A server that loads its data or runs a long script is waited for.

    It answers, but not with what was asked.
    """
    server.sync().config_set("busy-reply-threshold", 50)
    async with (
        busy(server.client(**retries), name) as (queue, events),
        server.client() as other,
    ):
        await goes_on(queue)
        script = asyncio.create_task(other.eval("while true do end", 0))
        await stands_still(queue, "BUSY")
        server.sync().script_kill()
        await asyncio.wait([script])
        assert script.exception() is not None
        await goes_on(queue)
        assert events == ["disconnected", "reconnected"]


@pytest.mark.real
async def test_a_server_may_forget_its_scripts(server, name):
    """That is nothing that anybody would notice."""
    async with busy(server.client(), name) as (queue, events):
        for _ in range(3):
            await goes_on(queue)
            server.sync().script_flush()
        await goes_on(queue)
        assert events == []
        assert queue.stats.faults == 0


@pytest.mark.slow
@pytest.mark.real
async def test_replica_takes_over_from_dead_master(name):
    """A master may die and its replica take over.

    By way of the sentinels.
    """
    with Sentinels() as sentinels:
        async with sentinels.client() as client, busy(client, name) as (queue, events):
            await goes_on(queue)
            await asyncio.to_thread(sentinels.failover)
            await goes_on(queue)
            assert events == ["disconnected", "reconnected"]


@pytest.mark.real
@pytest.mark.parametrize("retries", WITH_RETRIES)
async def test_untrusted_certificate_is_refused(name, retries):
    """A stranger with a certificate of his own is no server.

    Nothing is sent to him; the fault says that it is about the certificate.
    """
    with Server(tls=True, password=PASSWORD) as server:
        client = server.client(ssl_ca_certs=None, **retries)
        async with busy(client, name) as (queue, events):
            await stands_still(queue, "certificate")
            assert events == ["disconnected"]
