"""Cancelled while the server is asked: nobody is stuck, and no slot goes to who has left."""

from __future__ import annotations

import asyncio

import pytest

from aioapiqueue import ApiQueue, QueueClosed, Window
from aioapiqueue.integrations.redis import SharedSchedule
from tests.helpers.virtual_client import VirtualClient


async def test_cancelled_while_asking_uses_no_slot(valkey, name):
    """A caller cancelled while its slot is asked for uses none.

    The answer finds nobody: the next caller has the first slot's instant.
    """
    client = VirtualClient(valkey, latency=(0.05, 0.05))
    async with ApiQueue("1/s", schedule=SharedSchedule(client, name)) as queue:

        async def call():
            async with queue.slot():
                pytest.fail("it was cancelled")

        left = asyncio.create_task(call())
        await asyncio.sleep(0.12)  # the clock is known, the request is under way
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left
        async with queue.slot() as slot:
            assert slot.waited < 1
        assert queue.stats.released == 1


@pytest.mark.parametrize("cancelled", [False, True])
async def test_aclose_ends_without_any_answer(valkey, name, cancelled):
    """Aclose ends although the server never answers.

    By itself after a time-out; cancelled, at once. No task is left of it.
    """
    loop, client = asyncio.get_running_loop(), VirtualClient(valkey)
    queue = ApiQueue("10/s", schedule=SharedSchedule(client, name))
    async with queue.slot():
        pass
    client.silent = True
    begun, closing = loop.time(), asyncio.create_task(queue.aclose())
    await asyncio.sleep(0.1)
    if cancelled:
        closing.cancel()
    await asyncio.wait([closing])
    assert closing.cancelled() is cancelled
    assert loop.time() - begun == pytest.approx(0.1 if cancelled else 1.0, abs=0.01)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


class Canceller:
    """Cancels a task as its slot, of the lowest priority number, is granted."""

    task: asyncio.Task

    def on_event(self, event):
        """Process one."""
        if event.kind == "released" and event.priority < 0:
            self.task.cancel()


async def test_unused_slot_goes_to_other_processes(valkey, name):
    """A slot cancelled as it is granted is for other processes.

    Nobody waits here: the slot of the last one goes back at once, and is had elsewhere.
    """
    client, canceller = VirtualClient(valkey), Canceller()
    options = {"observers": [canceller], "schedule": SharedSchedule(client, name)}
    other = ApiQueue("1/s", schedule=SharedSchedule(client, name))
    async with other, ApiQueue("1/s", **options) as queue:
        async with queue.slot():
            pass

        async def call():
            async with queue.slot(priority=-1):
                pytest.fail("it was cancelled")

        canceller.task = asyncio.create_task(call())
        await asyncio.wait([canceller.task])
        async with other.slot():
            assert asyncio.get_running_loop().time() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    ("heir", "last_at"), [({"key": "a"}, 0.2), ({"cost": 0.5}, 0.15), ({}, 0.2)]
)
async def test_unused_slot_goes_to_next_waiter(valkey, name, heir, last_at):
    """A slot cancelled as it is granted goes to the next in line.

    Also to one of another lane or cost, of whom only the server knows whether it may.
    """
    loop, started, canceller = asyncio.get_running_loop(), [], Canceller()
    schedule = SharedSchedule(VirtualClient(valkey), name, ahead=0)
    options = {"lanes": {"a": "100/s"}, "observers": [canceller]}
    async with ApiQueue("10/s", schedule=schedule, **options) as queue:

        async def call(who, **options):
            async with queue.slot(**options):
                started.append((who, loop.time()))

        await call("first")
        canceller.task = asyncio.create_task(call("cancelled", priority=-1))
        async with asyncio.TaskGroup() as group:
            group.create_task(call("next", **heir))
            await asyncio.sleep(0)
            group.create_task(call("last"))
    assert canceller.task.cancelled()
    assert [who for who, _ in started] == ["first", "next", "last"]
    assert [at for _, at in started] == pytest.approx([0, 0.1, last_at], abs=1e-5)


async def test_tasks_cancelled_early_are_replaced(valkey, name):
    """Tasks that are cancelled before they begin are replaced.

    By somebody who cancels every task: the one that ticks, and the one that talks.
    """
    schedule = SharedSchedule(VirtualClient(valkey), name)
    async with ApiQueue("10/s", schedule=schedule) as queue, asyncio.timeout(5):
        waiting = queue.enqueue()
        for _ in range(3):  # the ticker, then what it has started
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            await asyncio.sleep(0)
        (await waiting).release()
        waiting = queue.enqueue()
        queue.hold(0.1)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        (await waiting).release()


@pytest.mark.parametrize("after", [0.001, 0.006])
async def test_refunded_slot_keeps_its_deadline(valkey, name, after):
    """A slot granted late then cancelled is for the heir no later than it was leased for.

    Granted 6 ms late, refunded 1 or 6 ms later: `catch_up`, 10 ms, bounds both together.
    """
    loop = asyncio.get_running_loop()
    schedule = SharedSchedule(VirtualClient(valkey), name)
    async with ApiQueue("10/s", schedule=schedule) as queue:
        async with queue.slot():
            pass
        began, (first, heir) = loop.time(), [queue.enqueue(), queue.enqueue()]

        def leave_late(_):
            loop.stall(after)
            first.cancel()

        first.add_done_callback(leave_late)
        loop.call_at(began + 0.0999, loop.stall, 0.0061)
        (await heir).release()
        used_at = 0.106 + after if after < 0.004 else 0.2
        assert loop.time() - began == pytest.approx(used_at, abs=1e-4)


@pytest.mark.parametrize("closes", [False, True])
async def test_slots_for_nobody_go_back(valkey, name, closes):
    """Slots in a reply that finds nobody waiting are for other processes.

    The only caller was cancelled, or its queue closed, while the request was under way.
    """
    client = VirtualClient(valkey, latency=(0.05, 0.05))
    queue = ApiQueue(Window(1, 60), schedule=SharedSchedule(client, name))
    left = queue.enqueue()
    await asyncio.sleep(0.12)  # the clock is known, the request is under way
    if closes:
        await queue.aclose(drain=False)
        assert isinstance(left.exception(), QueueClosed)
    else:
        left.cancel()
        await asyncio.sleep(0.2)
    schedule = SharedSchedule(VirtualClient(valkey), name)
    async with ApiQueue(Window(1, 60), schedule=schedule) as other, asyncio.timeout(1):
        (await other.enqueue()).release()
    await queue.aclose()


async def test_permits_for_nobody_go_back(valkey, name):
    """Permits in such a reply are for others, although a body runs on that renews its own."""
    options = {"lease": 1.0}
    client = VirtualClient(valkey)
    queue = ApiQueue(concurrency=2, schedule=SharedSchedule(client, name, **options))
    with await queue.enqueue():
        client.latency = (0.05, 0.05)
        left = queue.enqueue()
        await asyncio.sleep(0.03)
        left.cancel()
        await asyncio.sleep(3)
        schedule = SharedSchedule(VirtualClient(valkey), name, **options)
        async with ApiQueue(concurrency=2, schedule=schedule) as other, asyncio.timeout(1):
            (await other.enqueue()).release()
    await queue.aclose()


async def test_refunded_slot_is_not_settled(valkey, name):
    """A call that was refunded gives nothing back by `settle`, however often that is said."""
    loop, started, canceller = asyncio.get_running_loop(), [], Canceller()
    schedule = SharedSchedule(VirtualClient(valkey), name)
    async with ApiQueue(Window(2, 60), schedule=schedule, observers=[canceller]) as queue:
        slot = queue.slot(priority=-1)

        async def call():
            try:
                async with slot:
                    pytest.fail("it was cancelled")
            finally:
                slot.settle(0)

        canceller.task = asyncio.create_task(call())
        await asyncio.wait([canceller.task])
        await asyncio.sleep(0.1)
        for _ in range(3):
            (await queue.enqueue()).release()
            started.append(loop.time())
    assert [at >= 60 for at in started] == [False, False, True]
