"""Lanes that come and go: what is said of one is of it alone, and none is kept for ever."""

from __future__ import annotations

import asyncio

import pytest
from virtual_client import VirtualClient

from aioapiqueue import ApiQueue
from aioapiqueue.integrations.redis import SharedSchedule


@pytest.mark.parametrize("say", ["slot", "queue", "hold"])
async def test_push_back_on_a_call_of_an_hour_ago_holds_its_lane_only(valkey, name, say):
    """The lane is found although nobody has called in it for long."""
    loop = asyncio.get_running_loop()
    schedule = SharedSchedule(VirtualClient(valkey), name)
    async with ApiQueue("10/s", lanes={"*": "5/s"}, schedule=schedule) as queue:
        async with queue.slot(key="slow") as slot:
            await asyncio.sleep(3600)
            async with queue.slot(key="other"):  # those long idle are forgotten at the next call
                pass
            said = loop.time()
            if say == "slot":
                slot.throttled(20)
            elif say == "queue":
                queue.throttled(20, key="slow")
            else:
                queue.hold(20, key="slow")
        async with queue.slot(key="other"):
            assert loop.time() - said < 1
        async with queue.slot(key="slow"):
            assert loop.time() - said == pytest.approx(20, abs=1e-5)


async def test_lanes_used_once_are_forgotten(valkey, name):
    """Of a thousand keys, each called once, neither this process nor the server keeps much."""
    schedule = SharedSchedule(VirtualClient(valkey), name)
    async with ApiQueue(lanes={"*": "10/s"}, schedule=schedule) as queue:
        for number in range(1000):
            async with queue.slot(key=number):
                await asyncio.sleep(0.01)
        assert len(queue._shared.demand.lines) < 200
        assert len(queue._lanes.schedules) < 200


async def test_the_last_lanes_turn_is_kept_while_many_others_come_and_go(valkey, name):
    """Forgetting the others forgets nothing of one who waits."""
    loop = asyncio.get_running_loop()
    schedule = SharedSchedule(VirtualClient(valkey), name)
    async with ApiQueue(lanes={"slow": "0.1/s", "*": "10/s"}, schedule=schedule) as queue:
        begun, waiting = loop.time(), []

        async def wait():
            async with queue.slot(key="slow"):
                waiting.append(loop.time() - begun)

        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(wait())
            for number in range(300):
                async with queue.slot(key=number):
                    await asyncio.sleep(0.01)
    assert waiting == pytest.approx([0, 10, 20], abs=1e-4)
