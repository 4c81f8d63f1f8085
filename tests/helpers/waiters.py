"""Waiters, and what is done to a wait queue of them."""

from __future__ import annotations

import asyncio

from aioapiqueue.spi import DetailedCall
from tests.helpers import introspect

__all__ = ["drain", "fill", "leave", "waiter"]


def waiter(key=None, priority=0.0, cost=1.0):
    """Make a slot that waits."""
    slot = DetailedCall.new(None, (key,), priority)
    slot.costs = (cost,)
    introspect.begin_to_wait(slot, asyncio.get_running_loop().create_future())
    return slot


def fill(waiters, *slots):
    """Let them wait; return them."""
    for slot in slots:
        waiters.put_nowait(slot)
    return slots


def leave(waiters, slot):
    """Cancel one that waits."""
    introspect.stop_waiting(slot)
    waiters.leave(slot)


def drain(waiters):
    """Take all who are next, one by one."""
    out = []
    while (slot := waiters.first()) is not None:
        waiters.pop(slot)
        out.append(slot)
    return out
