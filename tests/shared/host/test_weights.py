"""Weights of keys that have lanes: the hub decides between them, and does not know the keys."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from aioapiqueue import ApiQueue
from tests.helpers.shares import starts_in
from tests.helpers.virtual_hub import VirtualHub

FAIR = {"order": "fair", "weights": {"a": 3}}
LANES = {"lanes": {"*": "100/s"}}


async def test_many_lanes_have_their_shares():
    """Of more lines than are looked at for each request."""
    hub, weights = VirtualHub(), {f"{number}": 1 + number % 4 for number in range(80)}
    options = {"order": "fair", "weights": weights, "schedule": hub.schedule("crm")}
    queue = ApiQueue("200/s", **LANES, **options)
    counts = await starts_in(5, queue, *[(key, 5, {}) for key in weights])
    for key, weight in weights.items():
        assert counts[key] == pytest.approx(5 * weight, abs=1.5)


async def test_key_has_one_share_of_many_lanes():
    """Not one for each lane that it calls."""
    queue = ApiQueue("10/s", **FAIR, **LANES, schedule=VirtualHub().schedule("crm"))
    lots = [("a", 2, {"keys": ("a", f"lane {number}")}) for number in range(20)]
    counts = await starts_in(60, queue, *lots, ("b", 5, {}))
    assert counts["a"] / counts["b"] == pytest.approx(3, rel=0.06)


async def test_closed_lanes_cost_no_share():
    """A key with calls that wait for a lane for hours has its share of the others."""
    lanes = {"closed": "1/h", "*": "100/s"}
    queue = ApiQueue("10/s", **FAIR, lanes=lanes, schedule=VirtualHub().schedule("crm"))
    closed = [(key, 2, {"keys": (key, "closed")}) for key in "ac"]
    counts = await starts_in(60, queue, *closed, ("a", 4, {}), ("b", 4, {}))
    assert counts["a"] / counts["b"] == pytest.approx(3, rel=0.03)


async def test_settlements_correct_shares_of_lanes():
    """Also those of calls that have made their requests."""
    options = {"weights_unit": "tokens", **FAIR, **LANES}
    limits = ("4/s", "1000 tokens/s burst 1000")
    queue = ApiQueue(*limits, **options, schedule=VirtualHub().schedule("crm"))
    calls = ("b", 8, {"cost": {"tokens": 9}}), ("a", 8, {"cost": {"tokens": 1}})
    counts = await starts_in(60, queue, *calls, settle={"tokens": 1}, runs=0.6)
    assert counts["a"] / counts["b"] == pytest.approx(3, rel=0.03)


async def test_second_line_finds_one_request():
    """Calls that have waited alone go no further ahead of a key that comes later than is fair."""
    queue = ApiQueue(
        "10/s", order="fair", weights={"b": 3}, **LANES, schedule=VirtualHub().schedule("crm")
    )
    order = []
    (await queue.enqueue(key="c")).release()

    async def call(key):
        async with queue.slot(key=key):
            order.append(key)

    tasks = [asyncio.create_task(call("a")) for _ in range(8)]
    await asyncio.sleep(0.01)
    tasks += [asyncio.create_task(call("b")) for _ in range(9)]
    await asyncio.gather(*tasks)
    assert order[:12].count("b") == 9


async def test_next_hub_has_the_shares():
    """A hub that takes over gives keys the shares that they had."""
    hub = VirtualHub()
    queue = ApiQueue("10/s", **FAIR, **LANES, schedule=hub.schedule("crm"))
    for number in range(1, 4):
        asyncio.get_running_loop().call_later(15 * number, hub.kill)
    counts = await starts_in(60, queue, ("a", 4, {}), ("b", 4, {}), ("c", 4, {}))
    assert counts["a"] / sum(counts.values()) == pytest.approx(0.6, rel=0.03)


@pytest.mark.parametrize("callers", [1, 4])
@pytest.mark.parametrize(
    ("limit", "lanes", "expected"), [("10/s", "100/s", 150), ("20/s", "2/s", 30)]
)
@pytest.mark.parametrize("changes", [0, 28], ids=["", "changing"])
async def test_weights_take_nothing_from_processes(limit, lanes, expected, callers, changes):
    """Whatever weight a key has in one process, other processes have equal shares of its lane.

    Of the limit of all calls, too, and even if limits change, for which all calls enter again.
    """
    hub, options = VirtualHub(), {"order": "fair", "weights": {"heavy": 1000}}
    one = ApiQueue(limit, lanes={"light": lanes}, **options, schedule=hub.schedule("crm"))
    other = ApiQueue(limit, lanes={"light": lanes}, schedule=hub.schedule("crm"))
    for at in range(changes):
        change = partial(one.set_rate, f"{100 + at}/s", key="other")
        asyncio.get_running_loop().call_later(1 + at, change)
    _, counts = await asyncio.gather(
        starts_in(30, one, ("heavy", 20, {}), ("light", 4, {})),
        starts_in(30, other, ("light", callers, {})),
    )
    assert counts["light"] == pytest.approx(expected, rel=0.04)
