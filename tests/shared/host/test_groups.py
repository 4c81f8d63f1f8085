"""When a quota allows hundreds of calls per second, the hub starts them in groups."""

from __future__ import annotations

import asyncio

import pytest

from aioapiqueue import ApiQueue
from tests.helpers.virtual_hub import VirtualHub


def call_of(queue, starts):
    """Return a function that makes a call, and notes when it starts."""

    async def call(*, lasts=0.0, **options):
        async with queue.slot(**options):
            starts.append(round(asyncio.get_running_loop().time(), 6))
            await asyncio.sleep(lasts)

    return call


async def starts_of(limit, number, **options):
    """Return when each of so many calls starts, which are made at once."""
    starts = []
    queue = ApiQueue(limit, schedule=VirtualHub().schedule("crm"), **options)
    call = call_of(queue, starts)
    await asyncio.gather(*(call() for _ in range(number)))
    return starts


async def test_fast_calls_start_in_groups():
    """A group starts 5 ms after the one before, with all calls that are due by then."""
    starts = await starts_of("1000/s", 15)
    assert starts == pytest.approx([0, 0.001, *[0.006] * 5, *[0.011] * 5, *[0.016] * 3])


async def test_slow_calls_start_when_due():
    """Up to 200 calls per second, each one starts at its own instant."""
    assert await starts_of("200/s", 5) == pytest.approx([0, 0.005, 0.010, 0.015, 0.020])


@pytest.mark.parametrize(
    ("catch_up", "expected"),
    [
        (0, [0, 0.001, 0.002, 0.003]),
        (0.004, [0, 0.001, 0.003, 0.003]),
        (3, [0, 0.001, 0.006, 0.006]),
    ],
)
async def test_groups_are_within_catch_up(catch_up, expected):
    """Groups are closer together if `catch_up` is small; with 0, no call starts late."""
    assert await starts_of("1000/s", 4, catch_up=catch_up) == pytest.approx(expected)


async def test_smallest_catch_up_ends_groups():
    """If one process allows no lateness, the calls of all processes start when they are due."""
    hub, starts = VirtualHub(), []
    queue = ApiQueue("1000/s", schedule=hub.schedule("crm"))
    other = ApiQueue("1000/s", schedule=hub.schedule("crm"), catch_up=0)
    for one in (queue, other):  # the first to connect allows lateness
        (await one.enqueue()).release()
    await asyncio.sleep(1)
    call = call_of(queue, starts)
    await asyncio.gather(*(call() for _ in range(4)))
    assert starts == pytest.approx([1.001, 1.002, 1.003, 1.004])
    await other.aclose()


async def test_permit_is_used_at_once():
    """A permit that comes free between two groups is used at once."""
    starts = []
    queue = ApiQueue("1000/s, 2 at once", schedule=VirtualHub().schedule("crm"))
    call = call_of(queue, starts)
    await asyncio.gather(call(lasts=1), *(call(lasts=0.002) for _ in range(3)))
    assert starts == pytest.approx([0, 0.001, 0.003, 0.005])


async def test_urgent_call_is_not_kept_waiting():
    """A call that goes before those that wait starts when it is due itself."""
    starts, urgent = [], []
    queue = ApiQueue("1000/s", schedule=VirtualHub().schedule("crm"))
    call = call_of(queue, starts)
    tasks = [asyncio.create_task(call()) for _ in range(10)]
    await asyncio.sleep(0.0015)
    await call_of(queue, urgent)(priority=-1)
    assert urgent == pytest.approx([0.002])
    await asyncio.gather(*tasks)


async def test_resumed_calls_start_at_once():
    """Resumed calls do not wait for the next group."""
    starts = []
    queue = ApiQueue("1000/s", schedule=VirtualHub().schedule("crm"))
    call = call_of(queue, starts)
    tasks = [asyncio.create_task(call()) for _ in range(3)]
    await asyncio.sleep(0.0015)
    queue.pause()
    await asyncio.sleep(0.002)
    queue.resume()
    await asyncio.gather(*tasks)
    assert starts == pytest.approx([0, 0.001, 0.0035])
