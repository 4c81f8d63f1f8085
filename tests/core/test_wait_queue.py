from __future__ import annotations

import asyncio
import math
import random
from types import SimpleNamespace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aioapiqueue import ApiQueue
from aioapiqueue.spi import Ranked, cost_units, orders
from tests.helpers import introspect
from tests.helpers.waiters import drain, fill, leave, waiter

STALE = 32
"""How many entries a heap keeps beyond twice those that count."""


class Ranking:
    """What a rank is of."""

    entry = None
    rank = 0

    def rank_now(self):
        """Return its rank."""
        return self.rank


class LastFirst(orders.Ordering):
    """Last come, first served."""

    step = -1


# What asyncio.Queue promises: https://docs.python.org/3/library/asyncio-queue.html


async def test_size_and_emptiness():
    """Return the number of waiters; with nobody waiting, `get_nowait` raises QueueEmpty."""
    waiters = introspect.wait_queue(int)
    assert (waiters.qsize(), waiters.empty(), waiters.full()) == (0, True, False)
    with pytest.raises(asyncio.QueueEmpty):
        waiters.get_nowait()
    one = waiter(cost=3)
    await waiters.put(one)
    assert (waiters.qsize(), waiters.total(), waiters.empty()) == (1, 3, False)
    assert not waiters.full()
    assert waiters.get_nowait() is one
    assert (waiters.qsize(), waiters.total(), waiters.empty()) == (0, 0, True)


async def test_get_waits_for_a_put():
    """If the queue is empty, `get` waits until somebody is available; each put wakes one."""
    waiters = introspect.wait_queue(int)
    first, second = (asyncio.create_task(waiters.get()) for _ in range(2))
    await asyncio.sleep(0)
    a, b = waiter(), waiter(priority=-1)
    await waiters.put(a)
    await asyncio.wait([first])
    assert (first.result(), second.done()) == (a, False)
    waiters.put_nowait(b)
    assert await second is b


def common(priority=0.0):
    """Make a slot with the default cost, which comes under the queue's limits."""
    slot = waiter(priority=priority)
    slot.costs = cost_units.ONE_CALL
    return slot


async def test_put_behind_wakes_each_get():
    """A call that joins behind another one wakes the next `get`, before the first has run."""
    waiters = introspect.wait_queue(int)
    getting = [asyncio.create_task(waiters.get()) for _ in range(2)]
    await asyncio.sleep(0)
    (first,), second = fill(waiters, common()), common()
    assert waiters.put_behind(second)
    assert await asyncio.wait_for(asyncio.gather(*getting), 1) == [first, second]


async def test_put_behind_is_for_the_common():
    """Only behind others of its priority, with the default cost and the queue's own limits."""
    waiters = introspect.wait_queue(int)
    assert not waiters.put_behind(common())  # it may be due now
    first, other = fill(waiters, common(), common(priority=1))
    costly, in_lane = waiter(), common()
    in_lane.limits = ("of a lane",)
    for one in (common(priority=-1), costly, in_lane):
        assert not waiters.put_behind(one)
    behind, last = common(), common(priority=1)
    assert waiters.put_behind(behind)
    assert waiters.put_behind(last)
    assert (waiters.qsize(), waiters.total()) == (4, 4)
    assert first.arrival < other.arrival < behind.arrival < last.arrival
    assert drain(waiters) == [first, behind, other, last]


async def test_put_behind_waits_for_the_sorted():
    """While calls are being sorted, a newcomer is one of those to sort."""
    waiters = introspect.wait_queue(int)
    fill(waiters, common())
    sorting = waiters.begin_sorting()
    for line in sorting.former:
        for _ in sorting.take_out(line):
            pass
    waiters.add_to_line(sorting.next())
    assert not waiters.put_behind(common())
    waiters.end_sorting()
    assert waiters.put_behind(common())


async def test_put_behind_those_that_left():
    """A line without waiting calls is not in use, even if calls that have left are still in it."""
    waiters = introspect.wait_queue(int)
    (first,) = fill(waiters, common())
    leave(waiters, first)
    assert not waiters.put_behind(common())


async def test_put_waits_while_full():
    """With `maxsize`, `put` waits for a `get`; `put_nowait` leaves it to the caller."""
    waiters = introspect.wait_queue(int, maxsize=1)
    await waiters.put(waiter())
    assert (waiters.maxsize, waiters.full()) == (1, True)
    putting = asyncio.create_task(waiters.put(waiter()))
    await asyncio.sleep(0)
    assert (waiters.qsize(), putting.done()) == (1, False)
    waiters.get_nowait()
    await putting
    waiters.put_nowait(waiter())
    assert waiters.qsize() == 2


async def test_get_cancelled_loses_nobody():
    """A `get` that is cancelled once it was woken passes the wake-up to the next one."""
    waiters = introspect.wait_queue(int)
    first, second = (asyncio.create_task(waiters.get()) for _ in range(2))
    await asyncio.sleep(0)
    one = waiter()
    waiters.put_nowait(one)
    first.cancel()
    assert await second is one
    assert first.cancelled()


async def test_join_waits_for_every_task_done():
    """`join` unblocks when `task_done` was called for every item that was taken."""
    waiters = introspect.wait_queue(int)
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


async def test_join_after_all_were_done():
    """`task_done` counts before anybody waits for it: a later `join` returns at once."""
    waiters = introspect.wait_queue(int)
    fill(waiters, waiter())
    waiters.get_nowait()
    waiters.task_done()
    await asyncio.wait_for(waiters.join(), 1)
    fill(waiters, waiter())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(waiters.join(), 1)


async def test_join_counts_the_dispatchers_way_out():
    """Those whom the dispatcher serves (`pop`) or lets go (`leave`) need no `task_done`."""
    waiters = introspect.wait_queue(int)
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
    waiters = introspect.wait_queue(int)
    (one,) = fill(waiters, waiter())
    joined = asyncio.create_task(waiters.join())
    await asyncio.sleep(0)
    leave(waiters, one)
    fill(waiters, waiter())
    await joined


# Order.


async def test_by_priority_then_by_arrival():
    """A lower priority goes first; within one, the earlier comer does."""
    waiters = introspect.wait_queue(int)
    a, b, c, d, e = fill(waiters, *(waiter(priority=p) for p in (0, 1, -1, 0, -1)))
    assert drain(waiters) == [c, e, a, d, b]


async def test_those_who_left_are_passed_over():
    """Leaving takes no search, and the rest keep their order."""
    waiters = introspect.wait_queue(int)
    slots = fill(waiters, *(waiter(cost=2) for _ in range(1000)))
    left = set(random.Random(1).sample(range(1000), 900))
    for n in left:
        leave(waiters, slots[n])
    assert (waiters.live, waiters.total()) == (100, 200)
    assert waiters.lines[next(iter(waiters.lines))].stale <= 100 + 32
    assert drain(waiters) == [slot for n, slot in enumerate(slots) if n not in left]
    assert waiters.empty()


@pytest.mark.parametrize("order", ["fifo", "fair"])
async def test_one_from_the_middle_is_removed(order):
    """The rest keep their order; with `fair`, it had its key's turn."""
    waiters = introspect.wait_queue(int, order=order)
    a, b, urgent, other, c = fill(
        waiters,
        *(waiter("a", priority, cost=2) for priority in (0, 0, -1)),
        waiter("b", cost=2),
        waiter("a", cost=2),
    )
    waiters.remove(b)
    assert (waiters.live, waiters.total()) == (4, 8)
    rest = [urgent, a, other, c] if order == "fifo" else [urgent, other, a, c]
    assert drain(waiters) == rest
    assert waiters.empty()
    alone = waiter()
    fill(waiters, alone)
    waiters.remove(alone)
    assert waiters.empty()
    assert not waiters.lines


async def test_fair_takes_turns_by_key():
    """Each key has one turn a round, however many wait under it."""
    waiters = introspect.wait_queue(int, order="fair")
    fill(waiters, *(waiter(key) for key in "aaaabbc"))
    assert [slot.key for slot in drain(waiters)] == list("abcabaa")


async def test_fair_lets_newcomer_in_last():
    """Fair lets a newcomer key in at the end of the round.

    A key that has just had its turn goes behind one that came meanwhile.
    """
    waiters = introspect.wait_queue(int, order="fair")
    fill(waiters, *(waiter(key) for key in "aab"))
    order = [waiters.get_nowait().key]
    fill(waiters, waiter("c"))
    order += [slot.key for slot in drain(waiters)]
    assert order == ["a", "b", "a", "c"]


async def test_fair_still_goes_by_priority_first():
    """The rounds are among those of the same urgency."""
    waiters = introspect.wait_queue(int, order="fair")
    fill(waiters, waiter("a"), waiter("a", -1), waiter("b"), waiter("b", -1), waiter("a", -1))
    drained = [(slot.key, slot.priority) for slot in drain(waiters)]
    assert drained == [("a", -1), ("b", -1), ("a", -1), ("b", 0), ("a", 0)]


@pytest.mark.parametrize("resort", [False, True])
async def test_falling_numbers_put_newcomers_first(resort):
    """An order may count down: within a line, among lines, and after all are sorted again."""
    waiters = introspect.wait_queue(int, order=LastFirst)
    a, b, c, urgent, d = fill(waiters, *(waiter(key, -(key == "u")) for key in "abau"), waiter("a"))
    for one in (a, c, d):
        one.limits = ("a limit",)
    waiters.rebuild()
    leave(waiters, c)
    (last,) = fill(waiters, waiter("b"))
    if resort:
        waiters.rebuild()
    assert drain(waiters) == [urgent, last, d, b, a]


async def test_falling_numbers_let_old_calls_return():
    """A call that waits again takes the place of its number, which need not be the last."""
    waiters = introspect.wait_queue(int, order=LastFirst)
    again = waiter()
    fill(waiters, again)
    drain(waiters)
    arrival = again.arrival
    later = fill(waiters, *(waiter() for _ in range(2)))
    fill(waiters, again)
    waiters.move_up(again, arrival)
    assert drain(waiters) == [*reversed(later), again]


async def test_order_notes_newcomers_while_sorting():
    """An order learns of a call that joins while all are sorted, and of its line afterwards."""
    added = []

    class Noting(orders.Ordering):
        def added(self, call, line):
            added.append((call, line is not None))

    waiters = introspect.wait_queue(int, order=Noting)
    (first,) = fill(waiters, waiter())
    sorting = waiters.begin_sorting()
    (newcomer,) = fill(waiters, waiter())
    for line in sorting.former:
        assert list(sorting.take_out(line)) == [first]
    for one in iter(sorting.next, None):
        waiters.add_to_line(one)
    waiters.end_sorting()
    assert added == [(first, True), (newcomer, False), (first, True), (newcomer, True)]
    assert drain(waiters) == [first, newcomer]


async def test_falling_numbers_keep_who_is_oldest():
    """Whatever the order, the oldest call makes room in a full queue."""
    waiters = introspect.wait_queue(int, order=LastFirst, ranked=True)
    oldest, *_ = fill(waiters, *(waiter() for _ in range(3)))
    assert waiters.oldest_of_least_urgent() is oldest


async def test_newcomer_ranks_as_its_order_says():
    """The rank that a call would have is the one that it gets."""
    for order in ("fifo", "fair", LastFirst):
        waiters = introspect.wait_queue(int, order=order)
        fill(waiters, *(waiter(key) for key in "aab"))
        newcomer = waiter("c", 1)
        newcomer.limits = ("a limit",)
        rank = waiters.rank_of(newcomer)
        fill(waiters, newcomer)
        assert newcomer.line.rank_now() == rank
        assert newcomer.line.name == waiters.name_of_line(newcomer)


@pytest.mark.parametrize(("order", "turns"), [("fifo", [0, 0, 0]), ("fair", [1, 2, 3])])
async def test_turn_behind_others_is_known(order, turns):
    """A call that waits behind others of its line will have the turn that the queue predicts."""
    waiters = introspect.wait_queue(int, order=order)
    first, *_ = fill(waiters, *(waiter("a") for _ in range(3)))
    line = first.line
    predicted = [waiters.turn_behind(line, behind) for behind in range(3)]
    served = []
    while line.live:
        served.append(line.turn)
        waiters.get_nowait()
    assert predicted == served == turns


@pytest.mark.parametrize("order", [(3, 6), (6, 3)])
async def test_earliest_turn_of_a_flow_stays(order):
    """Lines of one key are dissolved in any order: the first call then has the first turn."""
    turns = orders.FairTurns()
    turns.last_of = {"a": 6}
    for turn in order:
        turns.dissolved(SimpleNamespace(flow="a", turn=turn))
    assert turns.turn_of(waiter("a")) == 3


async def test_turns_that_are_over_are_forgotten():
    """Thousands of keys leave nothing behind while one waits, and take their turns all the same."""
    waiters = introspect.wait_queue(int, order="fair")
    fill(waiters, waiter("last", priority=1))
    served = []
    for number in range(2000):
        fill(waiters, waiter(number), waiter("often"))
        served += [waiters.get_nowait().key, waiters.get_nowait().key]
    assert sorted(map(str, served)) == sorted(["often"] * 2000 + [str(one) for one in range(2000)])
    assert len(waiters.ordering.last_of) < 100
    fill(waiters, *(waiter(key) for key in ("often", "often", "new")))
    assert [slot.key for slot in drain(waiters)] == ["often", "new", "often", "last"]


def test_ranks_that_change_leave_no_heap():
    """What is put in again and again, each time with another rank, is kept once."""
    ranked, first, item = Ranked(), Ranking(), Ranking()
    ranked.add(first, -10_000)
    first.rank = -10_000
    for rank in range(1000):
        item.rank = -rank
        ranked.add(item, -rank)
        assert ranked.first() is first
        assert ranked.size == 2
        assert len(ranked.rest) <= 2 * 2 + STALE
    ranked.remove(first)
    assert ranked.first() is item


def test_ranks_that_leave_leave_no_heap():
    """As many leave behind the first, no more entries are kept than there are items."""
    ranked, first = Ranked(), Ranking()
    ranked.add(first, 0)
    items = [Ranking() for _ in range(1000)]
    for rank, item in enumerate(items, 1):
        item.rank = rank
        ranked.add(item, rank)
    for item in items:
        ranked.remove(item)
        assert len(ranked.rest) <= 2 * ranked.size + STALE
    assert ranked.first() is first


async def test_oldest_least_urgent_loses_place():
    """Who loses a place is the oldest of the least urgent.

    Those who have left or gone are no candidates.
    """
    waiters = introspect.wait_queue(int, ranked=True)
    urgent, first, second, third = fill(
        waiters, waiter(priority=-1), waiter(priority=5), waiter(priority=5), waiter(priority=0)
    )
    assert waiters.oldest_of_least_urgent() is first
    leave(waiters, first)
    assert waiters.oldest_of_least_urgent() is second
    leave(waiters, second)
    assert waiters.oldest_of_least_urgent() is third
    assert introspect.wait_queue(int, ranked=True).oldest_of_least_urgent() is None
    assert drain(waiters) == [urgent, third]


@pytest.mark.parametrize("many", range(30, 40))
async def test_priority_that_many_have_left_is_forgotten(many):
    """Of a priority whose last caller leaves as those who left are cleared away, nothing stays."""
    waiters = introspect.wait_queue(int, ranked=True)
    one, *others = fill(waiters, waiter(priority=1), *(waiter(priority=5) for _ in range(many)))
    for other in others:
        leave(waiters, other)
    assert list(waiters) == [one]
    assert waiters.oldest_of_least_urgent() is one
    assert drain(waiters) == [one]


async def test_who_left_is_not_kept_behind_who_waits():
    """Thousands may give up behind one that waits for long: few of them are still in its line."""
    waiters = introspect.wait_queue(int)
    one, *others = fill(waiters, *(waiter() for _ in range(1000)))
    for other in others:
        leave(waiters, other)
    assert len(list(one.line.all_calls())) < 50
    assert drain(waiters) == [one]


async def test_sorted_again_nobody_has_lost_a_turn():
    """With `fair`, who comes after callers were sorted again has no turn before theirs."""
    waiters = introspect.wait_queue(int, order="fair")
    first, other, last = fill(waiters, waiter("a"), waiter("b"), waiter("a"))
    waiters.rebuild()
    (newcomer,) = fill(waiters, waiter("c"))
    assert drain(waiters) == [first, other, newcomer, last]


async def test_empty_copy_has_the_same_size():
    """On the next loop, too, as many may wait."""
    assert introspect.wait_queue(int, maxsize=3).empty_copy().maxsize == 3


async def test_empty_copy_knows_who_loses_a_place():
    """On the next loop, too, the oldest makes room, if the queue is one that drops it."""
    ranked, other = (
        introspect.wait_queue(int, ranked=True).empty_copy(),
        introspect.wait_queue(int).empty_copy(),
    )
    (oldest,), _ = fill(ranked, waiter()), fill(other, waiter())
    assert ranked.oldest_of_least_urgent() is oldest
    assert other.oldest_of_least_urgent() is None


async def test_new_first_is_reported():
    """A callback runs when the next may be another.

    A new first of a line is news; one more behind it is not.
    """
    told = []
    waiters = introspect.wait_queue(lambda: told.append(1))
    fill(waiters, waiter())
    assert len(told) == 1
    fill(waiters, waiter())
    assert len(told) == 1
    fill(waiters, waiter(priority=-1))
    assert len(told) == 2


async def test_moved_up_is_first_or_not():
    """A call with an earlier number wakes the ticker only if it becomes the first of its line."""
    told = []
    waiters = introspect.wait_queue(lambda: told.append(1))
    one, *_, other, last = fill(waiters, *(waiter() for _ in range(4)))
    assert len(told) == 1
    waiters.move_up(last, waiters.early_number())
    assert len(told) == 2
    waiters.move_up(other, waiters.early_number())
    assert len(told) == 2
    assert drain(waiters)[:3] == [last, other, one]


async def test_lines_by_limits():
    """Calls that come under the same limits form a line; a newcomer of another has its own."""
    waiters = introspect.wait_queue(int)
    plain, other, third = waiter(), waiter("a"), waiter("b")
    other.limits = third.limits = ("a limit",)
    fill(waiters, plain, other, third)
    assert [list(line) for line in waiters.lines.values()] == [[plain], [other, third]]
    waiters.pop(plain)
    leave(waiters, other)
    assert [list(line) for line in waiters.lines.values()] == [[third]]
    leave(waiters, third)
    assert not waiters.lines


async def test_totals_by_unit():
    """What waits is added up by unit, whatever a call says nothing of left out."""
    waiters = introspect.wait_queue(int)
    plain, costly, other = waiter(), waiter(), waiter()
    plain.costs, costly.costs, other.costs = cost_units.ONE_CALL, (2, 800), (1, math.nan, 3)
    fill(waiters, plain, costly, other)
    assert [waiters.total(unit) for unit in range(4)] == [4, 800, 3, 0]
    leave(waiters, costly)
    assert [waiters.total(unit) for unit in range(4)] == [2, 0, 3, 0]
    assert drain(waiters) == [plain, other]
    assert [waiters.total(unit) for unit in range(4)] == [0, 0, 0, 0]


async def test_one_flow_has_one_turn():
    """With `fair`, a key that waits in many lines has one turn a round all the same."""
    waiters = introspect.wait_queue(int, order="fair")
    for number in range(3):
        many = waiter("many")
        many.limits = (number,)
        fill(waiters, many)
    fill(waiters, waiter("one"), waiter("one"))
    assert [slot.key for slot in drain(waiters)] == ["many", "one", "many", "one", "many"]


PLACES = st.tuples(
    st.one_of(
        st.integers(-3, 3), st.floats(allow_nan=False), st.sampled_from([0, 0.0, -0.0, 5e-324])
    ),
    st.sampled_from([0, 0, 1, 2**63]),
    st.integers(1, 2**63),
)


@given(PLACES, PLACES)
@example((-math.inf, 0, 1), (-1e308, 0, 1))
@example((-5e-324, 2**63, 2**63), (0, 0, 1))
def test_ranks_are_in_the_order_of_their_places(one, other):
    """One number says who is before whom by priority, then turn, then arrival."""
    ranks = orders.rank_of(*one), orders.rank_of(*other)
    assert (ranks[0] < ranks[1]) == (one < other)
    assert (ranks[0] == ranks[1]) == (one == other)


def test_priorities_beyond_floats_are_the_last_and_the_first():
    """Whole numbers of any size are priorities."""
    ranks = [orders.rank_of(priority, 0, 1) for priority in (-(10**400), -1e308, 0, 1e308, 10**400)]
    assert ranks == sorted(set(ranks))


async def test_call_joins_where_others_have_left():
    """A call is looked at as it joins, also if those of its priority in its line have all left."""
    queue = ApiQueue("10/s", lanes={"slow": "2/h"})
    queue.try_slot(key="slow")
    left = queue.enqueue()
    left.cancel()
    await asyncio.sleep(0.05)
    slow = queue.enqueue(key="slow")
    await asyncio.sleep(0)  # the ticker has looked, and sleeps for half an hour
    assert (await asyncio.wait_for(queue.enqueue(), 1)).waited == pytest.approx(0.05)
    slow.cancel()
