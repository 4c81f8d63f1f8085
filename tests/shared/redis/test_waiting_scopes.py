"""The lines of calls that wait for a server: parked, and looked at again."""

from __future__ import annotations

import pytest

from tests.helpers import introspect
from tests.helpers import waiters as plain

scopes = introspect.scopes()


class Host:
    """A dispatcher, as far as it has a wait queue."""

    def __init__(self, order):
        self.waiters = introspect.wait_queue(int, order=order)

    def wake(self):
        """Do nothing: there is no ticker."""


def scope(key):
    """Return the scope of calls under one lane."""
    return scopes.Scope((key,), ())


def waiter(key, **options):
    """Make a slot that waits, under the lane of its key; `x` and `y` have none."""
    slot = plain.waiter(key, **options)
    slot.limits = scopes.NO_LANES if key in ("x", "y") else scope(key)
    return slot


def fill(waiting, *slots):
    """Let them wait; return them."""
    for slot in slots:
        waiting.host.waiters.put_nowait(slot)
        waiting.joined(slot)
    return slots


def leave(waiting, slot):
    """Cancel one that waits."""
    introspect.stop_waiting(slot)
    waiting.left(waiting.host.waiters.leave(slot))


def drain(waiting):
    """Take all who are next, one by one."""
    out = []
    while (slot := waiting.first()) is not None:
        waiting.pop(slot)
        out.append(slot)
    return out


def park(waiting, due, look_at=None):
    """Park the line of the next call; return the call."""
    first = waiting.first()
    waiting.park(first, due, due if look_at is None else look_at)
    return first


def wake(waiting, now):
    """Unpark the lines that are due; return when the next one is."""
    waiting.wake(now)
    return waiting.next_look(exact=True)


def scopes_with(order):
    """Return the scopes of a queue in which no call waits."""
    host = Host(order)
    scopes = introspect.waiting_scopes(host)
    scopes.host = host
    return scopes


@pytest.fixture
def waiting():
    """Return the scopes of a queue without turns."""
    return scopes_with("fifo")


async def test_parked_line_blocks_nobody(waiting):
    """A parked line blocks nobody and keeps its place by arrival.

    The next of another line goes meanwhile; woken, the earlier comer is first again.
    """
    slow, slow2, other, other2 = fill(
        waiting, waiter("slow"), waiter("slow"), waiter("x"), waiter("y")
    )
    assert park(waiting, 5.0) is slow
    assert wake(waiting, 4.0) == 5.0
    assert waiting.first() is other
    waiting.pop(other)
    assert wake(waiting, 5.0) is None
    assert drain(waiting) == [slow, slow2, other2]


async def test_line_wakes_as_soon_as_it_may_start(waiting):
    """An instant may be rounded up: a line that is due by a rounding earlier is not passed over."""
    slow, _ = fill(waiting, waiter("slow"), waiter("x"))
    park(waiting, 1.0)
    assert wake(waiting, 1.0 - 2**-53) is None
    assert waiting.first() is slow


async def test_group_delays_planned_looks_only(waiting):
    """A line that waits for its group is unparked by any look after it is due."""
    slow, _ = fill(waiting, waiter("slow"), waiter("x"))
    park(waiting, 1.0, 3.0)
    park(waiting, 2.0)
    assert waiting.next_look(exact=False) == 2.0
    assert waiting.next_look(exact=True) == 1.0
    assert wake(waiting, 1.5) == 2.0
    assert waiting.first() is slow


async def test_newcomer_unparks_its_line(waiting):
    """A more urgent call may be due sooner; one behind the first is not."""
    slow, _ = fill(waiting, waiter("slow"), waiter("slow"))
    park(waiting, 5.0)
    fill(waiting, waiter("slow"))
    assert waiting.first() is None
    (urgent,) = fill(waiting, waiter("slow", priority=-1))
    assert drain(waiting)[:2] == [urgent, slow]


async def test_leaver_unparks_its_line(waiting):
    """When the first of a parked line leaves the line is looked at again.

    The next may cost less and be due sooner; an empty line is forgotten.
    """
    expensive, cheap = fill(waiting, waiter("slow", cost=5), waiter("slow"))
    park(waiting, 9.0)
    leave(waiting, expensive)
    assert park(waiting, 8.0) is cheap
    leave(waiting, cheap)
    assert waiting.first() is None
    assert wake(waiting, 0.0) is None
    assert not waiting.by_scope
    assert not waiting.scopes_of("slow")


async def test_wake_all_unparks_every_line(waiting):
    """As when the rate has changed."""
    a, b = fill(waiting, waiter("a"), waiter("b"))
    for until in (5.0, 6.0):
        park(waiting, until)
    waiting.wake_all()
    assert drain(waiting) == [a, b]


async def test_regroup_keeps_arrival_order(waiting):
    """A key that gets limits of its own takes its waiters along, in order."""
    slots = fill(waiting, *(waiter("x") for _ in "abababa"))
    leave(waiting, slots[2])
    own = [slots[n] for n in (0, 4, 6)]
    for slot in own:
        slot.limits = scope("a")
    waiting.rebuild()
    assert (waiting.waiting_in(scopes.NO_LANES), waiting.waiting_in(scope("a"))) == (3, 3)
    assert park(waiting, 1.0) is slots[0]
    assert drain(waiting) == [slots[n] for n in (1, 3, 5)]
    waiting.wake_all()
    assert drain(waiting) == own


async def test_cancelled_call_is_passed_over(waiting):
    """Before its task has run again and left, and if it is the only one of its line."""
    gone, other, later = fill(waiting, waiter("a"), waiter("b"), waiter("b"))
    gone.future.cancel()
    assert waiting.first() is other
    waiting.pop(other)
    (back,) = fill(waiting, waiter("a"))
    leave(waiting, gone)
    assert drain(waiting) == [later, back]
    assert not waiting.by_scope


async def test_costs_of_a_lane(waiting):
    """Those of all its scopes count, until a call starts or leaves."""
    one, two, _ = fill(waiting, *(waiter(key, cost=3) for key in "aab"))
    both = plain.waiter("a", cost=2)
    both.limits = scopes.Scope(("a", "b"), ())
    fill(waiting, both)
    assert (waiting.cost_in("a", 0), waiting.cost_in("b", 0)) == (8, 5)
    waiting.pop(one)
    leave(waiting, two)
    assert waiting.cost_in("a", 0) == 2


@pytest.mark.parametrize("order", ["fifo", "fair"])
@pytest.mark.parametrize("started", [0, 1, 4])
async def test_places_are_in_order_of_starts(order, started):
    """Calls are listed, and have places, in the order in which they start."""
    waiting = scopes_with(order)
    fill(waiting, *(waiter(key) for key in "xxaxyyaxy"), waiter("a", priority=-1))
    for _ in range(started):
        waiting.pop(waiting.first())
    lines = {line for lines in waiting.by_scope.values() for line in lines}
    places, _, calls = zip(*waiting.iter_in_order(lines), strict=True)
    assert list(places) == sorted(set(places))
    for one in waiting.by_scope:
        of_scope = [place for place, call in zip(places, calls, strict=True) if call.limits == one]
        assert [waiting.place_in(one, n) for n in range(len(of_scope))] == of_scope
    assert drain(waiting) == list(calls)


async def test_overtaking_leaves_no_entries(waiting):
    """A lane that urgent calls starve costs no memory for each of them."""
    fill(waiting, *(waiter(key) for key in "aba"))
    for _ in range(1000):
        (urgent,) = fill(waiting, waiter("a", priority=-1))
        assert waiting.first() is urgent
        waiting.pop(urgent)
    assert introspect.heap_entries(waiting) < 50


async def test_leaving_parked_leaves_no_entries(waiting):
    """Callers that leave while their lane is closed cost no memory for each of them."""
    fill(waiting, waiter("b"))
    park(waiting, 5)
    for _ in range(1000):
        (one, _) = fill(waiting, waiter("a"), waiter("a"))
        if waiting.first() is not None:
            park(waiting, 10)
        leave(waiting, one)
    assert introspect.heap_entries(waiting) < 50
