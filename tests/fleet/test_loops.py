"""Queues of a shared quota on one event loop after another, and after their end."""

from __future__ import annotations

import asyncio
import gc

from aioapiqueue import ApiQueue
from aioapiqueue.integrations.redis import SharedSchedule
from aioapiqueue.testing import VirtualLoop
from tests.helpers.virtual_client import VirtualClient


def test_abandoned_session_touches_no_later_one(valkey, name):
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
            gc.collect()
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
