"""Deliberate faults in the script, each of which the checks of several limits have to find."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from aioapiqueue import ApiQueue, Rate, Window
from aioapiqueue.integrations.redis import SharedSchedule
from tests.helpers import introspect
from tests.helpers.lane_calls import check_limits, run_calls
from tests.helpers.virtual_client import VirtualClient

LANES = {
    "a": [Rate(10), Window(300, 1, "tokens")],
    "b": [Rate(7), Window(200, 1, "tokens")],
}
CALLS = [(0, ("a", "b"), 0, 50), (0, ("a",), 0, 20), (0, ("b",), 0, 30)] * 15
FAULTS = {
    "none": ("", ""),
    "only the first lane is charged": (
        "    for _, lane in ipairs(line) do\n      until_",
        "    for _, lane in ipairs({line[1]}) do\n      until_",
    ),
    "only the first lane is looked at": (
        "      local when, _, place = gate_of(lane, from, costs)",
        "      local when, place = number == 1 and gate_of(lane, from, costs) or from, nil",
    ),
    "only calls are charged": (
        "      latest = math.min(latest, limit:consume",
        "      latest = limit.place ~= CALLS and latest or math.min(latest, limit:consume",
    ),
    "only the first lane has its refund": (
        "    for _, number in ipairs(numbers) do",
        "    for _, number in ipairs({numbers[1]}) do",
    ),
    "tokens are not refunded": (
        "      limit:adjust(at, cost, cost_at(limit, charged), cost_at(limit, started), late)",
        "      if limit.place == CALLS then limit:adjust(at, cost, 0, 0, late) end",
    ),
}


def plant(monkeypatch, fault):
    """Let all queues run a script with this fault."""
    script, _ = introspect.redis_script()
    old, new = FAULTS[fault]
    assert script.count(old) == 1 or not old, f"what {fault!r} is planted in has changed"
    script = script.replace(old, new) + f"\n-- {fault}"
    sha = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
    introspect.replace_script(monkeypatch, script, sha)


async def limits_hold(valkey, name):
    """Check every limit on calls of two lanes and two units, of two processes."""
    queues = [
        ApiQueue(lanes=LANES, schedule=SharedSchedule(VirtualClient(valkey), name))
        for _ in range(2)
    ]
    starts = await run_calls(queues, CALLS)
    await asyncio.gather(*(queue.aclose() for queue in queues))
    check_limits([], LANES, starts)


async def refunds_arrive(valkey, name):
    """Check that a slot which nobody took up is free again, in all its lanes and units."""
    lanes = {key: [Window(1, 100), Window(50, 100, "tokens")] for key in "ab"}
    schedule = SharedSchedule(VirtualClient(valkey), f"{name} refunds")
    async with ApiQueue(lanes=lanes, schedule=schedule) as queue:
        future = queue.enqueue(keys=("a", "b"), cost={"tokens": 50})
        introspect.after_next_grant(queue, future.cancel)
        await asyncio.wait([future])
        await asyncio.sleep(0.01)
        for key in "ab":
            async with asyncio.timeout(5), queue.slot(key=key, cost={"tokens": 50}):
                pass


@pytest.mark.parametrize("fault", FAULTS)
async def test_faults_of_the_script_are_found(valkey, name, monkeypatch, fault):
    """One of the checks fails, unless there is no fault."""
    plant(monkeypatch, fault)
    found = False
    for check in (limits_hold, refunds_arrive):
        try:
            await check(valkey, name)
        except (AssertionError, TimeoutError):
            found = True
    assert found == (fault != "none")
