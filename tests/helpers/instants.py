"""What tests in virtual time share: the loop's clock, and callers that note when they start."""

from __future__ import annotations

import asyncio

import pytest

from aioapiqueue import WouldWait

__all__ = ["exactly", "free", "line_up", "now", "released", "use"]


def now():
    """Read the running loop's clock."""
    return asyncio.get_running_loop().time()


def exactly(expected):
    """Compare instants to the nanosecond."""
    return pytest.approx(expected, abs=1e-9)


async def use(queue, starts, **options):
    """Note when a slot came."""
    async with queue.slot(**options):
        starts.append(now())


def line_up(queue, starts, calls, **options):
    """Start so many tasks that use the queue."""
    return [asyncio.create_task(use(queue, starts, **options)) for _ in range(calls)]


async def released(queue, calls, **options):
    """Let so many tasks queue up; return when each body started, in order of release."""
    starts = []
    await asyncio.gather(*line_up(queue, starts, calls, **options))
    return starts


def free(queue, most=100, **call):
    """Return how many calls start at once now; they are ended."""
    slots = []
    for _ in range(most):
        try:
            slots.append(queue.try_slot(**call))
        except WouldWait:
            break
    for slot in slots:
        slot.release()
    return len(slots)
