"""What others use of a window that is shared with them, and when enough is left to them."""

from __future__ import annotations

import math

import pytest

from aioapiqueue.spi import statements
from tests.helpers import introspect

LIMIT, PERIOD = 100.0, 60.0


def others(used, seconds, *, began=0.0):
    """Return others who have used so much in so many seconds of the first window."""
    them = introspect.external_usage(began)
    them.see(used, began + seconds)
    return them


def room_at(them, spare, *, until=PERIOD):
    """Return when so much may be used that only `spare` would be left."""
    return them.reserved_until(spare, until=until, limit=LIMIT, period=PERIOD)


# Their figures.


def test_seen_of_nobody_takes_all_at_once():
    """Where nobody else was seen, all that remains may be used, down to nothing."""
    assert room_at(others(0, 10), 0) <= 10


@pytest.mark.parametrize("spare", [0, -5])
def test_nothing_to_spare(spare):
    """Beside others, the very last is not used until the window ends."""
    assert room_at(others(1, 10), spare) == math.inf


def test_three_times_their_need_is_left():
    """And what they use in 0.03 of a period; with that much to spare, a call goes at once."""
    them = others(6, 20)  # 0.3 a second
    need = 0.3 * (3 * 40 + 0.03 * PERIOD)
    assert room_at(them, need) == pytest.approx(20)
    assert room_at(them, 1.01 * need) < 20
    assert room_at(them, 0.99 * need) > 20


def test_seen_less_and_less_without_an_answer():
    """What is not seen of them for longer, they seem to use more slowly; meanwhile they may."""
    them = others(6, 20)
    at = room_at(them, 30)
    wait = at - 20
    pace = 6 / (20 + wait)
    unseen, need = pace * wait, pace * (3 * (40 - wait) + 0.03 * PERIOD)
    assert 0 < wait < 40
    assert unseen + need == pytest.approx(30)


def test_never_more_than_an_even_use_leaves():
    """A burst at the beginning does not stop us for the rest: a tenth above the even line is."""
    them = others(60, 1)
    assert room_at(them, 20) == pytest.approx(PERIOD * (1 - 0.2 + 0.1))
    assert room_at(them, 35) == pytest.approx(PERIOD * (1 - 0.35 + 0.1))


def test_less_than_it_seemed():
    """What turns out to be our own after all is taken off, and never makes up for theirs."""
    them = others(6, 20)
    them.see(-9, 21)
    assert (them.used, them.seconds) == (0, 21)
    them.see(4, 22)
    assert them.used == 4


def test_earlier_windows_count_half():
    """All of the window that ended counts, also its end, of which nothing was seen."""
    them = others(6, 20)
    them.renew(60)
    assert (them.used, them.seconds, them.at) == (3, 30, 60)
    them.see(1, 62)
    assert (them.used, them.seconds) == (4, 32)


def test_answer_from_before_the_window():
    """An instant before the window's beginning, as resets are rounded, takes no time off."""
    them = others(0, 5, began=10)
    them.see(1, 12)
    assert (them.used, them.seconds) == (1, 5)


# In the server's bound.


def learnt(remaining, *, ours, now=20.0, refills=False):
    """Return the bound of a learnt quota, of which we have used `ours`, until 60."""
    bound = introspect.server_bound(0, None)
    figure = statements.ServerCount(0, remaining, limit=LIMIT, period=PERIOD, refills=refills)
    assert bound.set(figure, until=PERIOD, out=0, answered=ours, now=now)
    return bound


def answer(bound, remaining, now, *, until=PERIOD, limit=LIMIT, number=1, **more):
    """Let an answer say what remains, to a call that was released at that instant."""
    figure = statements.ServerCount(
        0, remaining, limit=limit, number=number, released_at=now, period=PERIOD
    )
    assert bound.set(figure, until=until, **{"out": 0, "answered": 0, "now": now, **more})


def test_first_answer_shows_others():
    """What is used and not by us, since the window began, is theirs."""
    bound = learnt(90, ours=4)
    assert (bound.external.used, bound.external.seconds) == (6, 20)
    assert bound.next_at(20, (1,)) <= 20
    need = 0.3 * (3 * 40 + 0.03 * PERIOD)
    assert bound.next_at(20, (math.floor(90 - need),)) <= 20
    assert bound.next_at(20, (math.ceil(90 - need),)) > 20


def test_all_of_it_is_ours_where_nobody_else_is():
    """Alone, the whole of a window is used at once, as before."""
    bound = learnt(96, ours=4)
    assert bound.next_at(20, (96,)) <= 20
    assert bound.next_at(20, (97,)) == PERIOD


def test_use_of_others_between_two_answers():
    """What an answer lacks that we have not used is theirs."""
    bound = learnt(96, ours=4)
    bound.consume(21, (6,))
    answer(bound, 85, 25)
    assert (bound.left, bound.external.used, bound.external.seconds) == (85, 5, 25)


def test_window_that_begins_before_we_thought_so():
    """A reset that is a window later tells of a new one: theirs of the one before counts half."""
    bound = learnt(90, ours=4)
    bound.consume(59, (3,))
    answer(bound, 98, 59.5, until=59 + PERIOD, answered=1)
    assert bound.external.used == 6 / 2
    assert bound.external.seconds == (20 + 39) / 2 + 0.5
    assert bound.left == 97  # the answer may have come before its call was counted
    bound.adjust(59.6, 58, 3, 1)  # a call of the window before gives back nothing in this one
    assert bound.left == 97


def test_window_that_begins_with_a_call():
    """Where no answer tells of it, our first call after the reset does: theirs counts half."""
    bound = learnt(90, ours=4)
    bound.consume(61, (3,))
    assert (bound.left, bound.external.used, bound.external.at) == (97, 6 / 2, 61)
    assert bound.external.seconds == (20 + 41) / 2


def test_own_use_is_nobody_else_s_in_a_sliding_window():
    """A reset that moves on with each call takes nothing of what was used before: it was ours."""
    bound = learnt(96, ours=4)
    bound.consume(21, (30,))
    answer(bound, 66, 55, until=55 + PERIOD)
    assert (bound.left, bound.external.used) == (66, 0)


def test_changed_limit_is_nobody_s_use():
    """If the server lets through less from now on, others are not taken to have used the rest."""
    bound = learnt(96, ours=4)
    answer(bound, 6, 25, limit=10.0)
    assert (bound.left, bound.external.used) == (6, 0)


def test_bucket_has_its_own_margin():
    """A bucket comes back bit by bit: others are left a twentieth of it, and no more."""
    bound = learnt(50, ours=0, refills=True)
    assert bound.external is None
    assert bound.next_at(20, (45,)) <= 20


def test_all_is_used_by_the_end():
    """Beside one who uses a third, calls of ours go until the end, and what is left is little."""
    bound, ours = learnt(LIMIT - 1, ours=1, now=0.0), 1
    for tick in range(1, int(4 * PERIOD)):
        now = tick / 4
        theirs = LIMIT / 3 * now / PERIOD
        assert ours + theirs <= LIMIT, "they would be refused"
        if bound.next_at(now, (1,)) <= now:
            bound.consume(now, (1,))
            ours += 1
            answer(bound, LIMIT - ours - theirs, now, number=ours)
    assert ours >= 0.9 * LIMIT * 2 / 3
