"""Queues of a shared quota on one event loop after another, and after their end."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys

import pytest

from aioapiqueue import ApiQueue
from aioapiqueue.integrations.redis import SharedSchedule
from aioapiqueue.testing import VirtualLoop
from tests.helpers import introspect
from tests.helpers.servers import Server
from tests.helpers.virtual_client import VirtualClient


def test_abandoned_session_touches_no_later_one(valkey, name, collect):
    """A session left on a closed loop, ended by the garbage collector, changes nothing.

    While a request of the session on the next loop is under way, no second one is sent.
    """
    client = VirtualClient(valkey)
    client.silent = True
    queue = ApiQueue("10/s", schedule=SharedSchedule(client, name))

    async def wait():
        queue.enqueue()
        await asyncio.sleep(0.01)

    gc.disable()
    try:
        abandoned = VirtualLoop()
        abandoned.run_until_complete(wait())
        abandoned.close()
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(wait())
            calls, abandoned = client.calls, None
            collect()
            runner.run(wait())
            assert client.calls == calls
    finally:
        gc.enable()


async def test_no_timer_outlives_aclose(valkey, name):
    """No timer is left of a closed queue, although a body runs on that holds a permit."""
    client = VirtualClient(valkey)
    client.down = True
    schedule = SharedSchedule(client, name, fallback="10/s")
    queue = ApiQueue(concurrency=2, schedule=schedule)
    with await queue.enqueue():
        waiting = queue.enqueue()
        await queue.aclose(drain=False)
        assert waiting.exception() is not None
        assert asyncio.get_running_loop().pending_timers == 0


def test_closed_queue_sends_nothing_later(valkey, name):
    """A queue that was closed sends nothing from a later loop either, and starts no task there."""
    client = VirtualClient(valkey)
    queue = ApiQueue("10/s", schedule=SharedSchedule(client, name))

    async def use():
        async with queue, queue.slot():
            pass

    async def hold():
        calls = client.calls
        queue.hold(5)
        await asyncio.sleep(1)
        assert client.calls == calls

    for function in (use, hold):
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(function())


ABANDONED = """
import asyncio, os, signal, sys
from redis.asyncio import Redis
from aioapiqueue import ApiQueue
from aioapiqueue.integrations.redis import SharedSchedule

server, url, name = int(sys.argv[1]), *sys.argv[2:]
queue = ApiQueue("10/s", schedule=SharedSchedule(Redis.from_url(url), name))

async def wait():
    waiting = queue.enqueue()
    await asyncio.sleep(0.05)
    assert not waiting.done()
    return waiting

os.kill(server, signal.SIGSTOP)
try:
    abandoned = asyncio.new_event_loop()
    abandoned.run_until_complete(wait())
    tasks = asyncio.all_tasks(abandoned)
    (request,) = (one.get_coro() for one in tasks if one.get_name() == "aioapiqueue leases")
    abandoned.close()
    with asyncio.Runner() as runner:
        waiting = runner.run(wait())
        request.close()
        assert not waiting.done(), waiting.exception()
        os.kill(server, signal.SIGCONT)
        assert runner.run(asyncio.wait_for(waiting, 20)).waited > 0
        runner.run(queue.aclose())
finally:
    os.kill(server, signal.SIGCONT)
print("served")
"""


@pytest.mark.real
def test_abandoned_request_fails_no_later_caller(name):
    """A request that is ended after its loop is no answer to those who wait now.

    The garbage collector ends it so, some time. redis-py turns that into a RuntimeError, as it
    cannot close its connection without a loop. In a process of its own, as that is never closed.
    """
    with Server() as server:
        run = subprocess.run(
            [sys.executable, "-P", "-c", ABANDONED, str(server.pid), server.url, name],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert (run.returncode, run.stdout) == (0, "served\n"), run.stderr


def test_callers_collected_after_their_loop(valkey, name):
    """Callers whose loop was closed with them in it end in silence, the first of them first."""
    queue = ApiQueue("1/h", schedule=SharedSchedule(VirtualClient(valkey), name))
    ended = []

    async def call(number):
        try:
            async with queue.slot(key=number):
                pass
        except BaseException as error:
            ended.append(type(error))
            raise

    async def leave_behind():
        async with queue.slot():
            pass
        tasks = [asyncio.ensure_future(call(number)) for number in range(3)]
        await asyncio.sleep(1)
        assert queue.waiting == 3
        return [task.get_coro() for task in tasks]

    loop = VirtualLoop()
    loop.set_exception_handler(lambda *_: None)  # which is told of tasks that are destroyed
    left = loop.run_until_complete(leave_behind())
    loop.close()
    for coroutine in left:
        coroutine.close()
    assert ended == [GeneratorExit] * 3
    assert queue.waiting == 0


async def test_ticker_wakes_once_for_a_slot(valkey, name):
    """Neither the timer of a slot nor a call that joins behind others causes another look."""
    queue = ApiQueue("100/s", schedule=SharedSchedule(VirtualClient(valkey), name))
    looks, loop = [], asyncio.get_running_loop()
    introspect.wrap_looks(
        queue, lambda look: lambda now, **how: looks.append(now) or look(now, **how)
    )

    async def caller():
        while loop.time() < 2:
            async with queue.slot():
                pass

    await asyncio.gather(*(caller() for _ in range(50)))
    # A reply, and a request that nothing else is due for, cause one each.
    assert len(looks) <= queue.stats.released + 3 * queue.stats.asks
