from __future__ import annotations

import asyncio
import random

import pytest

from aioapiqueue._slot import DetailedCall
from aioapiqueue._wait_queue import WaitQueue
from tests.helpers import introspect


def waiter(key=None, priority=0.0, cost=1.0):
    """Make a slot that waits."""
    slot = DetailedCall(None, (key,), priority, (cost,))
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


# What asyncio.Queue promises: https://docs.python.org/3/library/asyncio-queue.html


async def test_size_and_emptiness():
    """Return the number of waiters; with nobody waiting, `get_nowait` raises QueueEmpty."""
    waiters = WaitQueue(int)
    assert (waiters.qsize(), waiters.empty(), waiters.full()) == (0, True, False)
    with pytest.raises(asyncio.QueueEmpty):
        waiters.get_nowait()
    one = waiter(cost=3)
    await waiters.put(one)
    assert (waiters.qsize(), waiters.cost, waiters.empty()) == (1, 3, False)
    assert waiters.get_nowait() is one
    assert (waiters.qsize(), waiters.cost, waiters.empty()) == (0, 0, True)


async def test_get_waits_for_a_put():
    """If the queue is empty, `get` waits until somebody is available; each put wakes one."""
    waiters = WaitQueue(int)
    first, second = (asyncio.create_task(waiters.get()) for _ in range(2))
    await asyncio.sleep(0)
    a, b = waiter(), waiter(priority=-1)
    await waiters.put(a)
    await asyncio.wait([first])
    assert (first.result(), second.done()) == (a, False)
    waiters.put_nowait(b)
    assert await second is b


async def test_get_cancelled_loses_nobody():
    """A `get` that is cancelled once it was woken passes the wake-up to the next one."""
    waiters = WaitQueue(int)
    first, second = (asyncio.create_task(waiters.get()) for _ in range(2))
    await asyncio.sleep(0)
    one = waiter()
    waiters.put_nowait(one)
    first.cancel()
    assert await second is one
    assert first.cancelled()


@pytest.mark.parametrize("number", [1, 3])
async def test_get_waits_for_parked(number):
    """Those whose limits are closed are not available; each `get` has one once they are."""
    waiters = WaitQueue(int)
    waiters.lanes = {"slow"}
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
    waiters = WaitQueue(int)
    waiters.lanes = {"slow"}
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


async def test_join_waits_for_every_task_done():
    """`join` unblocks when `task_done` was called for every item that was taken."""
    waiters = WaitQueue(int)
    await waiters.join()  # nobody was ever put
    fill(waiters, waiter(), waiter())
    joined = asyncio.create_task(waiters.join())
    for _ in range(2):
        await waiters.get()
        await asyncio.sleep(1)
        assert not joined.done()
    waiters.task_done()
    await asyncio.sleep(1)
    assert not joined.done()
    waiters.task_done()
    await joined
    with pytest.raises(ValueError, match="too many times"):
        waiters.task_done()


async def test_join_counts_the_dispatchers_way_out():
    """Those whom the dispatcher serves (`pop`) or lets go (`leave`) need no `task_done`."""
    waiters = WaitQueue(int)
    served, gone = fill(waiters, waiter(), waiter())
    joined = asyncio.create_task(waiters.join())
    await asyncio.sleep(0)
    assert waiters.first() is served
    waiters.pop(served)
    await asyncio.sleep(1)
    assert not joined.done()
    leave(waiters, gone)
    await joined
    with pytest.raises(ValueError, match="too many times"):
        waiters.task_done()


async def test_join_unblocks_though_others_come():
    """Once the count was zero, `join` returns, even if somebody joins before it resumes."""
    waiters = WaitQueue(int)
    (one,) = fill(waiters, waiter())
    joined = asyncio.create_task(waiters.join())
    await asyncio.sleep(0)
    leave(waiters, one)
    fill(waiters, waiter())
    await joined


# Order.


async def test_by_priority_then_by_arrival():
    """A lower priority goes first; within one, the earlier comer does."""
    waiters = WaitQueue(int)
    a, b, c, d, e = fill(waiters, *(waiter(priority=p) for p in (0, 1, -1, 0, -1)))
    assert drain(waiters) == [c, e, a, d, b]


async def test_those_who_left_are_passed_over():
    """Leaving takes no search, and the rest keep their order."""
    waiters = WaitQueue(int)
    slots = fill(waiters, *(waiter(cost=2) for _ in range(1000)))
    left = set(random.Random(1).sample(range(1000), 900))
    for n in left:
        leave(waiters, slots[n])
    assert (waiters.live, waiters.cost) == (100, 200)
    assert waiters.key_queues[next(iter(waiters.key_queues))].gone <= 100 + 32
    assert drain(waiters) == [slot for n, slot in enumerate(slots) if n not in left]
    assert waiters.empty()


async def test_parked_line_blocks_nobody():
    """A parked line blocks nobody and keeps its place by arrival.

    The next of another line goes meanwhile; woken, the earlier comer is first again.
    """
    waiters = WaitQueue(int)
    waiters.lanes = {"slow": None}
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
    waiters = WaitQueue(int)
    waiters.lanes = {"slow": None}
    dear, cheap = fill(waiters, waiter("slow", cost=5), waiter("slow"))
    waiters.first()
    waiters.park(9.0)
    leave(waiters, dear)
    assert waiters.first() is cheap
    waiters.park(8.0)
    leave(waiters, cheap)
    assert waiters.first() is None
    assert waiters.wake(0.0) is None
    assert not waiters.key_queues


async def test_wake_all_unparks_every_line():
    """Wake all lets go every parked line.

    As when the rate has changed.
    """
    waiters = WaitQueue(int)
    waiters.lanes = {"a": None, "b": None}
    a, b = fill(waiters, waiter("a"), waiter("b"))
    for until in (5.0, 6.0):
        waiters.first()
        waiters.park(until)
    waiters.wake_all()
    assert drain(waiters) == [a, b]


async def test_fair_takes_turns_by_key():
    """Each key has one turn a round, however many wait under it."""
    waiters = WaitQueue(int, order="fair")
    fill(waiters, *(waiter(key) for key in "aaaabbc"))
    assert [slot.key for slot in drain(waiters)] == list("abcabaa")


async def test_fair_lets_newcomer_in_last():
    """Fair lets a newcomer key in at the end of the round.

    A key that has just had its turn goes behind one that came meanwhile.
    """
    waiters = WaitQueue(int, order="fair")
    fill(waiters, *(waiter(key) for key in "aab"))
    order = [waiters.get_nowait().key]
    fill(waiters, waiter("c"))
    order += [slot.key for slot in drain(waiters)]
    assert order == ["a", "b", "a", "c"]


async def test_fair_still_goes_by_priority_first():
    """The rounds are among those of the same urgency."""
    waiters = WaitQueue(int, order="fair")
    fill(waiters, waiter("a"), waiter("a", -1), waiter("b"), waiter("b", -1), waiter("a", -1))
    drained = [(slot.key, slot.priority) for slot in drain(waiters)]
    assert drained == [("a", -1), ("b", -1), ("a", -1), ("b", 0), ("a", 0)]


async def test_regroup_keeps_arrival_order():
    """A key that gets limits of its own takes its waiters along, in order."""
    waiters = WaitQueue(int)
    slots = fill(waiters, *(waiter(key) for key in "abababa"))
    leave(waiters, slots[2])
    waiters.lanes = {"a": None}
    waiters.rebuild()
    assert (waiters.live, waiters.cost) == (6, 6)
    assert waiters.first() is slots[0]
    waiters.park(1.0)
    assert [slot.key for slot in drain(waiters)] == list("bbb")
    waiters.wake_all()
    assert drain(waiters) == [slots[0], slots[4], slots[6]]


async def test_oldest_least_urgent_loses_place():
    """Who loses a place is the oldest of the least urgent.

    Those who have left or gone are no candidates.
    """
    waiters = WaitQueue(int, ranked=True)
    urgent, first, second, third = fill(
        waiters, waiter(priority=-1), waiter(priority=5), waiter(priority=5), waiter(priority=0)
    )
    assert waiters.oldest_of_least_urgent() is first
    leave(waiters, first)
    assert waiters.oldest_of_least_urgent() is second
    leave(waiters, second)
    assert waiters.oldest_of_least_urgent() is third
    assert WaitQueue(int, ranked=True).oldest_of_least_urgent() is None
    assert drain(waiters) == [urgent, third]


async def test_new_first_is_reported():
    """A callback runs when the next may be another.

    A new first of a line is news; one more behind it is not.
    """
    told = []
    waiters = WaitQueue(lambda: told.append(1))
    fill(waiters, waiter())
    assert len(told) == 1
    fill(waiters, waiter())
    assert len(told) == 1
    fill(waiters, waiter(priority=-1))
    assert len(told) == 2


async def test_overtaking_leaves_no_entries():
    """A lane that urgent calls starve costs no memory for each of them."""
    waiters = WaitQueue(int)
    waiters.lanes = {"a", "b"}
    fill(waiters, *(waiter(key) for key in "aba"))
    for _ in range(1000):
        (urgent,) = fill(waiters, waiter("a", priority=-1))
        assert waiters.first() is urgent
        waiters.pop(urgent)
    assert introspect.heap_entries(waiters) < 50


async def test_leaving_parked_leaves_no_entries():
    """Callers that leave while their lane is closed cost no memory for each of them."""
    waiters = WaitQueue(int)
    waiters.lanes = {"a", "b"}
    fill(waiters, waiter("b"))
    waiters.first()
    waiters.park(5)
    for _ in range(1000):
        (one, _) = fill(waiters, waiter("a"), waiter("a"))
        if waiters.first() is not None:
            waiters.park(10)
        leave(waiters, one)
    assert introspect.heap_entries(waiters) < 50
