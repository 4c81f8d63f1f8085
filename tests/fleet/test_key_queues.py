"""The wait queue of a shared quota: lines that are parked, and let go."""

from __future__ import annotations

import asyncio

import pytest

from aioapiqueue._shared.redis.key_queues import KeyQueues
from aioapiqueue._shared.scope import Scope
from tests.helpers import introspect
from tests.helpers import waiters as plain
from tests.helpers.waiters import drain, fill, leave


def scope(key):
    """Return the scope of calls under one lane."""
    return Scope((key,), ())


def waiter(key, **options):
    """Make a slot that waits, under the lane of its key; `x` and `y` have none."""
    slot = plain.waiter(key, **options)
    slot.limits = None if key in ("x", "y") else scope(key)
    return slot


@pytest.mark.parametrize("number", [1, 3])
async def test_get_waits_for_parked(number):
    """Those whose limits are closed are not available; each `get` has one once they are."""
    waiters = KeyQueues(int)
    slots = fill(waiters, *(waiter("slow") for _ in range(number)))
    waiters.first()
    waiters.park(5)
    assert (waiters.qsize(), waiters.empty()) == (number, True)
    gets = [asyncio.create_task(waiters.get()) for _ in range(number)]
    await asyncio.sleep(1)
    assert not any(get.done() for get in gets)
    assert waiters.wake(5) is None
    assert await asyncio.gather(*gets) == list(slots)


@pytest.mark.parametrize("way", ["put", "rebuild"])
async def test_get_takes_all_let_go(way):
    """A newcomer that is due sooner, and other keys of their own, let go those parked before."""
    waiters = KeyQueues(int)
    slots = fill(waiters, waiter("slow"), waiter("slow"))
    waiters.first()
    waiters.park(5)
    gets = [asyncio.create_task(waiters.get()) for _ in slots]
    await asyncio.sleep(0)
    if way == "put":
        slots = (*fill(waiters, waiter("slow", priority=-1)), slots[0])
    else:
        waiters.rebuild()
    assert await asyncio.wait_for(asyncio.gather(*gets), 1) == list(slots)


async def test_parked_line_blocks_nobody():
    """A parked line blocks nobody and keeps its place by arrival.

    The next of another line goes meanwhile; woken, the earlier comer is first again.
    """
    waiters = KeyQueues(int)
    slow, slow2, other, other2 = fill(
        waiters, waiter("slow"), waiter("slow"), waiter("x"), waiter("y")
    )
    assert waiters.first() is slow
    waiters.park(5.0)
    assert waiters.wake(4.0) == 5.0
    assert waiters.first() is other
    waiters.pop(other)
    assert waiters.wake(5.0) is None
    assert drain(waiters) == [slow, slow2, other2]


async def test_leaver_unparks_its_line():
    """When the first of a parked line leaves the line is looked at again.

    The next may cost less and be due sooner; an empty line is forgotten.
    """
    waiters = KeyQueues(int)
    dear, cheap = fill(waiters, waiter("slow", cost=5), waiter("slow"))
    waiters.first()
    waiters.park(9.0)
    leave(waiters, dear)
    assert waiters.first() is cheap
    waiters.park(8.0)
    leave(waiters, cheap)
    assert waiters.first() is None
    assert waiters.wake(0.0) is None
    assert not waiters.lines


async def test_wake_all_unparks_every_line():
    """Wake all lets go every parked line.

    As when the rate has changed.
    """
    waiters = KeyQueues(int)
    a, b = fill(waiters, waiter("a"), waiter("b"))
    for until in (5.0, 6.0):
        waiters.first()
        waiters.park(until)
    waiters.wake_all()
    assert drain(waiters) == [a, b]


async def test_regroup_keeps_arrival_order():
    """A key that gets limits of its own takes its waiters along, in order."""
    waiters = KeyQueues(int)
    slots = fill(waiters, *(plain.waiter(key) for key in "abababa"))
    leave(waiters, slots[2])
    for slot in slots:
        slot.limits = scope(slot.key) if slot.key == "a" else None
    waiters.rebuild()
    assert (waiters.live, waiters.total()) == (6, 6)
    assert waiters.first() is slots[0]
    waiters.park(1.0)
    assert [slot.key for slot in drain(waiters)] == list("bbb")
    waiters.wake_all()
    assert drain(waiters) == [slots[0], slots[4], slots[6]]


async def test_overtaking_leaves_no_entries():
    """A lane that urgent calls starve costs no memory for each of them."""
    waiters = KeyQueues(int)
    fill(waiters, *(waiter(key) for key in "aba"))
    for _ in range(1000):
        (urgent,) = fill(waiters, waiter("a", priority=-1))
        assert waiters.first() is urgent
        waiters.pop(urgent)
    assert introspect.heap_entries(waiters) < 50


async def test_leaving_parked_leaves_no_entries():
    """Callers that leave while their lane is closed cost no memory for each of them."""
    waiters = KeyQueues(int)
    fill(waiters, waiter("b"))
    waiters.first()
    waiters.park(5)
    for _ in range(1000):
        (one, _) = fill(waiters, waiter("a"), waiter("a"))
        if waiters.first() is not None:
            waiters.park(10)
        leave(waiters, one)
    assert introspect.heap_entries(waiters) < 50
