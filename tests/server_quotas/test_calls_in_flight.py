"""What is out without an answer, and what a server's figure leaves: pure, explicit instants."""

from __future__ import annotations

import math

import pytest

from aioapiqueue.spi import algorithms, statements
from tests.helpers import introspect
from tests.helpers.introspect import followed_keys

ONE = (1,)


def a_bound(remaining, *, until=10.0, out=0.0, limit=None, answered=0.0, now=0.0, **count):
    """Return a bound by one figure, of calls."""
    bound = introspect.server_bound(0, limit)
    figure = statements.ServerCount(0, remaining, limit=limit, **count)
    assert bound.set(figure, until=until, out=out, answered=answered, now=now)
    return bound


def starts_at(bound, cost=1.0, now=0.0):
    """Return when a call may start: now, or later."""
    return max(now, bound.next_at(now, (cost,)))


# Answers.


def test_out_until_answered_or_ended():
    """A call is out until it has its answer; one that ends without is for the next to count."""
    answers = introspect.calls_in_flight()
    for call, cost in (("a", 1), ("b", 2), ("c", 4)):
        answers.started(call, ("k",), (1, cost))
    assert (answers.cost_out("k", 1), answers.cost_out(None, 1)) == (7, 7)
    answers.answered("a", ("k",), 0.0, 1.0)
    answers.answered("a", ("k",), 0.0, 1.5)  # a second quota of the same answer
    assert answers.cost_out("k", 1) == 6
    answers.ended("b", ("k",), 2.0)
    assert answers.cost_out("k", 1) == 6
    assert answers.cost_out("k", 1, with_ended=False) == 4
    answers.answered("c", ("k",), 2.1, 3.0)  # released when the other had ended
    assert answers.cost_out("k", 1) == 0


def test_ended_counts_for_later_released():
    """The answer to a call that was released before an end says nothing of that one."""
    answers = introspect.calls_in_flight()
    for call in "abc":
        answers.started(call, ("k",), ONE)
    answers.ended("a", ("k",), 2.0)
    answers.answered("b", ("k",), 1.9, 3.0)
    assert answers.cost_out("k", 0) == 2
    answers.answered("c", ("k",), 2.1, 3.0)
    assert answers.cost_out("k", 0) == 0


def test_answers_after_the_end():
    """One whose answer is reported when it has ended is not taken off its own answer."""
    answers = introspect.calls_in_flight()
    for call in "abc":
        answers.started(call, ("k",), ONE)
    answers.ended("b", ("k",), 1.0)
    assert answers.number_of("b") == 2
    answers.answered("b", ("k",), 0.0, 1.0)
    assert answers.number_of("b") == 2
    assert answers.cost_out("k", 0) == 2
    assert answers.cost_answered("k", 0, 0.5) == 1


def test_answers_of_calls_that_are_forgotten():
    """What was answered, counted or given back already, or is of nobody, is not taken off twice."""
    answers = introspect.calls_in_flight()
    for name in ("one", "other", "runs"):
        answers.started(name, ("k",), ONE)
    answers.ended("one", ("k",), 1.0)
    answers.counted(None, 1.0)
    answers.counted("a key of nobody", 1.0)
    answers.answered("one", ("k",), 0.0, 2.0, runs=False)
    answers.answered("other", ("k",), 0.0, 3.0)
    answers.refunded("other", ("k",))
    assert answers.cost_out(None, 0) == 1
    assert answers.cost_answered(None, 0, 0.0) == 1


def test_settled_costs_are_out():
    """What is out is what calls cost by the latest that is known, after their end, too."""
    answers = introspect.calls_in_flight()
    for call in "abc":
        answers.started(call, ("k",), (1, 10))
    answers.settled("a", ("k",), (1, 50))
    assert answers.cost_out("k", 1) == 70
    answers.ended("a", ("k",), 1.0)
    answers.settled("a", ("k",), (1, 0))
    answers.settled("nobody", ("k", "other"), (1, 7))
    assert answers.cost_out("k", 1) == 20
    answers.answered("b", ("k",), 0.0, 1.0)
    answers.settled("b", ("k",), (1, 99))
    assert answers.cost_out("k", 1) == 10


def test_given_back_is_not_out():
    """A slot that is given back was never sent; of one that is not known, one fewer runs."""
    answers = introspect.calls_in_flight(untracked=2)
    answers.started("a", ("k",), ONE)
    answers.started("b", ("k",), ONE)
    answers.refunded("a", ("k",))
    assert (answers.cost_out("k", 0), answers.untracked) == (1, 2)
    answers.refunded("early", ("k",))
    answers.ended("early too", ("k",), 1.0)
    assert answers.untracked == 0
    answers.ended("nobody", ("k",), 1.0)
    assert answers.untracked == 0


def test_no_key_is_kept_idle():
    """Nothing is kept of a key of which no call runs, however its calls ended."""
    answers = introspect.calls_in_flight()
    for number in range(1000):
        answers.started(number, (number,), ONE)
    for number in range(1000):
        if number % 2:
            answers.answered(number, (number,), 0.0, 1.0)
        answers.ended(number, (number,), 1.0)
    assert followed_keys(answers) == set()
    assert answers.cost_out(None, 0) == 0


def test_others_hear_of_ends_for_a_minute():
    """Beside others, a key is kept for them whose call ended without an answer: a minute long."""
    answers = introspect.calls_in_flight(alone=False)
    for number in range(100):
        answers.started(number, (number,), ONE)
        answers.ended(number, (number,), float(number))
    assert followed_keys(answers) - {None} == set(range(40, 100))
    assert answers.cost_out(99, 0) == 1
    answers.started("again", (40,), ONE)
    answers.started("late", ("late",), ONE)
    answers.ended("late", ("late",), 1000.0)
    assert followed_keys(answers) - {None} == {40, "late"}  # one runs
    answers.ended("again", (40,), 1001.0)
    assert answers.cost_out(40, 0) == 2
    answers.started("refunded", (40,), ONE)
    answers.started("much later", (1,), ONE)
    answers.ended("much later", (1,), 2000.0)
    answers.refunded("refunded", (40,))
    answers.started("in the end", (2,), ONE)
    answers.ended("in the end", (2,), 3000.0)
    assert followed_keys(answers) - {None} == {2}


def test_idle_key_that_was_counted():
    """A key of which the server has counted all is forgotten at once, and not again a minute on."""
    answers = introspect.calls_in_flight(alone=False)
    for call, key in (("a", "counted"), ("b", "not counted")):
        answers.started(call, (key,), ONE)
        answers.ended(call, (key,), 1.0)
    answers.counted("counted", 2.0)
    assert followed_keys(answers) == {None, "not counted"}
    answers.started("c", ("later",), ONE)
    answers.ended("c", ("later",), 61.0)
    assert followed_keys(answers) == {None, "later"}
    assert (answers.cost_out("counted", 0), answers.cost_out("later", 0)) == (0, 1)


def test_what_has_become_of_a_call():
    """It is known of a call that runs or has ended; of one from long ago, only that it is over."""
    answers = introspect.calls_in_flight()
    for name in ("answered", "not yet", "other"):
        answers.started(name, (), ONE)
    answers.answered("answered", (), 0.0, 3.0)
    assert answers.outcome("answered", runs=True) == (3, None)
    assert answers.outcome("not yet", runs=True) == (None, None)
    assert answers.outcome("from before all that", runs=True) == (None, None)
    answers.ended("answered", (), 4.0)
    answers.ended("not yet", (), 4.0)
    assert answers.outcome("answered", runs=False) == (3, None)
    assert answers.outcome("not yet", runs=False) == (None, 4)
    assert answers.outcome("long ago", runs=False) == (-math.inf, None)


def test_many_ends_are_still_counted():
    """Of hundreds that end without an answer, what they cost is known, and the latest are apart."""
    answers = introspect.calls_in_flight()
    for number in range(500):
        answers.started(number, (), ONE)
    for number in range(499):
        answers.ended(number, (), float(number))
    assert answers.cost_out(None, 0) == 500
    answers.answered(499, (), 490.5, 500.0)
    assert answers.cost_out(None, 0) == 8


def test_fractions_leave_nothing():
    """When all are answered nothing is out, whatever fractions add up to."""
    answers = introspect.calls_in_flight()
    for number in range(10):
        answers.started(number, (), (0.1,))
    for number in range(10):
        answers.answered(number, (), 0.0, 1.0)
    assert answers.cost_out(None, 0) == 0


def test_unstated_costs_add_nothing():
    """A call that says nothing of a unit costs nothing in it."""
    answers = introspect.calls_in_flight()
    answers.started("a", ("k",), (1, math.nan))
    answers.started("b", ("k",), (1, 5))
    answers.ended("a", ("k",), 1.0)
    answers.answered("b", ("k",), 0.0, 2.0)
    assert (answers.cost_out("k", 1), answers.cost_out("k", 2)) == (0, 0)
    assert (answers.cost_answered("k", 1, 0.0), answers.cost_answered("k", 2, 0.0)) == (5, 0)


def test_numbers_are_by_release():
    """They rise as calls are released; no call is later than all, one that is not known is 0."""
    answers = introspect.calls_in_flight()
    answers.started("a", (), ONE)
    answers.started("b", (), ONE)
    assert [answers.number_of(call) for call in ("?", "a", "b", None)] == [0, 1, 2, 3]


# ServerBound.


def test_bound_lets_what_remains():
    """So much starts as remains, less what is out; the rest at the reset."""
    bound = a_bound(5, out=2)
    for _ in range(3):
        assert algorithms.consume_if_due((bound,), 1.0, ONE) <= 1.0
    assert starts_at(bound, now=1.0) == 10
    assert starts_at(bound, now=10.0) == 10
    assert starts_at(bound, cost=1000, now=10.0) == 10


def test_bound_of_fractions_is_used_up():
    """Ten tenths fit into one, although they do not add up."""
    bound = a_bound(1)
    for _ in range(10):
        assert algorithms.consume_if_due((bound,), 0.0, (0.1,)) <= 0
    assert starts_at(bound, cost=0.1) == 10


def test_later_released_answer_replaces():
    """Up and down; of calls released at one instant, that of the higher number."""
    bound = a_bound(5, released_at=1.0, number=2)
    for remaining, at, number, news in (
        (9, 1.0, 3, True),
        (2, 1.5, 4, True),
        (8, 1.0, 3, False),
        (7, 1.5, 4, True),  # another figure of the same answer
        (8, 1.4, 0, False),
        (8, 1.5, 0, True),  # its number is not known
    ):
        before = bound.left
        figure = statements.ServerCount(0, remaining, released_at=at, number=number)
        assert bound.set(figure, until=10.0, out=0, answered=0, now=2.0) is news
        assert bound.left == (remaining if news else before)


def test_any_answer_counts_after_reset():
    """After the reset, what was said before is void, so that the answer to any call is news."""
    bound = a_bound(5, released_at=3.0, number=3)
    older = statements.ServerCount(0, 1, released_at=2.0, number=2)
    assert not bound.set(older, until=20.0, out=0, answered=0, now=9.9)
    assert bound.set(older, until=20.0, out=0, answered=0, now=10.0)


def test_bound_concerns_what_it_counts():
    """Not a call that uses nothing of its unit, or says nothing."""
    bound = introspect.server_bound(1, None)
    assert [bound.concerns(costs) for costs in ((1,), (1, 0), (1, math.nan), (1, 0.5))] == [
        *[False] * 3,
        True,
    ]


def test_bound_is_settled_both_ways():
    """What a call costs beyond is taken off, what it does not cost comes back, at any instant."""
    bound = a_bound(10)
    bound.consume(0.0, (5,))
    bound.adjust(1.0, 0.0, 5, 8)
    assert bound.left == 2
    bound.adjust(1.0, 0.0, 8, 1)
    assert bound.left == 9
    bound.refund(1.0, 0.0, ONE)
    assert bound.left == 10


def test_hold_outlasts_what_remains():
    """A hold is in force beside it; and an estimate knows both."""
    bound = a_bound(5)
    bound.held = 3.0
    assert starts_at(bound, now=1.0) == 3
    assert (bound.estimate(1.0, 5), bound.estimate(1.0, 6)) == (3, 10)
    bound.held = 30.0
    assert bound.estimate(1.0, 6) == bound.idle_at(1.0) == 30


def test_no_room_while_the_first_is_out():
    """What could start now is nothing within a hold, or until the first of a window is answered."""
    bound = a_learnt(5, refills=False, limit=8)
    assert bound.room(1.0) == 5
    bound.held = 3.0
    assert (bound.room(2.9), bound.room(3.0)) == (0, 5)
    starts_at(bound, cost=6, now=4.0)  # has to wait, so that one goes first
    bound.consume(10.0, ONE)
    assert bound.room(11.0) == 0
    bound.release(10.0)
    assert bound.room(11.0) == 7


@pytest.mark.parametrize(("limit", "period"), [(None, 10.0), (0, 10.0)])
def test_period_of_no_size_is_none(limit, period):
    """A quota without a size, or of nothing, is no learnt one, whatever else is said of it."""
    for refills in (False, True):
        bound = a_bound(3, limit=limit, period=period, refills=refills)
        assert starts_at(bound, cost=3) == 0
        assert starts_at(bound, cost=4) == 10
        bound.consume(10.0, ONE)
        later = statements.ServerCount(0, 1, limit=limit, period=period, refills=refills, number=9)
        assert bound.set(later, until=30.0, out=0, answered=0, now=20.0)
        assert (starts_at(bound, now=20.0), starts_at(bound, cost=2, now=20.0)) == (20, 30)


def test_leaves_room_for_a_reservation():
    """A younger call may start only if the older one still fits by then."""
    bound = a_bound(5)
    assert bound.leaves_room(0.0, (2,), (3,), 9.0)
    assert not bound.leaves_room(0.0, (3,), (3,), 9.0)
    assert bound.leaves_room(0.0, (3,), (3,), 10.0)


# Learnt.


def a_learnt(remaining, *, refills, limit=60):
    """Return a bound of a learnt limit, in 10 s, of which we alone have used."""
    ours = limit - remaining
    return a_bound(remaining, limit=limit, period=10.0, refills=refills, answered=ours)


def test_bucket_does_not_become_more_than_full():
    """What is given back to a bucket that is full by then is lost, as at the server."""
    bound = a_learnt(8, refills=True, limit=10)
    bound.adjust(2.0, 0.0, 3, 0)
    assert bound.left == 10
    bound.adjust(3.0, 0.0, 1, 0)
    assert bound.left == 10


def test_window_comes_back_at_once():
    """A learnt window is counted on: at the reset all of it is there, and again after a period."""
    bound = a_learnt(1, refills=False, limit=2)
    assert algorithms.consume_if_due((bound,), 1.0, ONE) <= 1
    for at in (10.0, 20.5, 30.5):
        for _ in range(2):
            assert algorithms.consume_if_due((bound,), at, ONE) <= at
            bound.release(at)
        assert bound.left == 0


def test_use_of_an_unknown_time_is_no_pace():
    """Where a period is known by the reset alone, nobody is seen to use at a pace by then."""
    bound = introspect.server_bound(0, 5000)
    figure = statements.ServerCount(
        0, 4000, limit=5000, released_at=0.1, number=1, period=1800.0, period_is_minimum=True
    )
    bound.set(figure, until=1800.2, out=0, answered=1, now=0.2, own=1)
    assert [algorithms.consume_if_due((bound,), 0.2, ONE) <= 0.2 for _ in range(4001)] == [
        True
    ] * 4000 + [False]


@pytest.mark.parametrize("refills", [False, True])
def test_size_that_is_named_no_more(refills):
    """If later answers name another size, this one has ended with its reset, for good."""
    bound = a_learnt(0, refills=refills, limit=2)
    bound.widen_uncertainty(
        statements.ServerCount(0, 90, limit=100, released_at=9.0, number=2, period=1.0)
    )
    assert starts_at(bound, now=9.9) > 9.9
    for _ in range(5):
        assert algorithms.consume_if_due((bound,), 20.0, ONE) <= 20
    assert starts_at(bound, now=20.0) <= 20


def test_size_that_is_named_again():
    """It goes on if one of them names it, too, or was given before it."""
    bound = a_learnt(0, refills=False, limit=2)
    first = statements.ServerCount(0, 0, limit=2, released_at=1.0, number=1, period=10.0)
    bound.set(first, until=10.0, out=0, answered=1, now=2.0)
    bound.widen_uncertainty(
        statements.ServerCount(0, 90, limit=100, released_at=0.5, number=0, period=1.0)
    )
    assert not bound.is_uncertain
    other = statements.ServerCount(0, 90, limit=100, released_at=9.0, number=2, period=1.0)
    bound.widen_uncertainty(other)
    same = statements.ServerCount(0, 1, limit=2, released_at=9.0, number=2, period=10.0)
    bound.set(same, until=10.0, out=0, answered=1, now=9.5)
    bound.widen_uncertainty(other)  # the same answer
    assert [algorithms.consume_if_due((bound,), 20.0, ONE) <= 20 for _ in range(3)] == [
        True,
        True,
        False,
    ]


@pytest.mark.parametrize("held", [9.0, 10.0, 12.0])
def test_one_goes_first_after_a_hold(held):
    """Who is held until the next window, or longer, has waited for it, too."""
    bound = a_learnt(0, refills=False, limit=5)
    bound.held = held
    bound.consume(12.0, ONE)
    assert (starts_at(bound, now=12.0) == math.inf) == (held >= 10)


def test_one_goes_first_after_waiting():
    """If a call had to wait for the next window, one goes, and the rest when it is answered."""
    bound = a_learnt(0, refills=False, limit=5)
    assert starts_at(bound, now=1.0) == 10
    assert algorithms.consume_if_due((bound,), 10.0, (3,)) <= 10
    assert starts_at(bound, now=11.0) == math.inf
    figure = statements.ServerCount(
        0, 2, limit=5, released_at=10.0, number=9, period=10.0, refills=False
    )
    bound.set(figure, until=20.0, out=0, answered=0, now=11.0)
    assert [algorithms.consume_if_due((bound,), 11.0, ONE) <= 11 for _ in range(3)] == [
        True,
        True,
        False,
    ]


def test_only_the_first_opens_a_window():
    """One that was released before, and ends meanwhile, does not let the rest go."""
    bound = a_learnt(0, refills=False, limit=5)
    starts_at(bound, now=1.0)
    bound.consume(10.0, ONE)
    bound.release(9.0)
    assert starts_at(bound, now=11.0) == math.inf
    bound.release(10.0)
    assert starts_at(bound, now=11.0) == 11


@pytest.mark.parametrize("how", ["refund", "other loop"])
def test_first_that_is_lost(how):
    """If the one that goes first is given back, or gone with its loop, the next one goes."""
    bound = a_learnt(0, refills=False, limit=5)
    starts_at(bound, now=1.0)
    bound.consume(10.0, ONE)
    if how == "refund":
        bound.refund(10.0, 10.0, ONE)
    else:
        bound.forget_callers()
    assert starts_at(bound, now=10.0) == 10


def test_bucket_is_reckoned_until_the_next_answer():
    """Half of what has come back by then is ours, and never more than all, if answers allow it."""
    bound = a_learnt(10, refills=True)
    for at, left in ((2.0, 10 + 2 * 3), (50.0, 60)):
        said = {"released_at": at - 1, "number": 9, "period": 10.0, "refills": True}
        figure = statements.ServerCount(0, 60, limit=60, **said)
        assert bound.set(figure, until=at + 10, out=0, answered=60, now=at)
        assert bound.left == left


def test_bucket_is_not_used_to_its_edge():
    """A twentieth of a bucket is left, and half of what comes back is taken to be ours."""
    bound = a_learnt(4, refills=True)
    assert algorithms.consume_if_due((bound,), 0.0, ONE) <= 0
    # 3 are left, a twentieth of 60: one more needs what comes back at 3 per second.
    assert starts_at(bound) == pytest.approx(1 / 3)
    assert bound.idle_at(0.0) == pytest.approx((60 - 3) / 3)


def test_bucket_takes_what_fits_at_all():
    """A call of the whole bucket starts when it is full, whatever is to be left in it."""
    bound = a_learnt(59, refills=True)
    assert starts_at(bound, cost=60) == pytest.approx(1 / 3)


def test_own_figure_between_two_holds():
    """Our own figure, if it is between what an answer says at most and at least, is the better."""
    for remaining, out, answered, settled, left in (
        (30, 0, 0, 0, 30),  # others have used 20
        (48, 0, 0, 5, 50),  # 5 came back that the server had not counted
        (60, 5, 5, 0, 50),
        (70, 5, 5, 0, 60),  # more came back than is known
    ):
        bound = a_learnt(50, refills=False, limit=100)
        bound.adjust(1.0, 0.0, settled, 0)
        bound.left = 50
        figure = statements.ServerCount(
            0, remaining, limit=100, released_at=0.5, number=1, period=10.0
        )
        bound.set(figure, until=10.0, out=out, answered=answered, now=2.0)
        assert bound.left == left, remaining


def test_settled_before_release_is_counted():
    """What came back before a call was released is in its answer; what comes at one instant too."""
    bound = a_learnt(50, refills=False, limit=100)
    bound.adjust(1.0, 0.0, 5, 0)
    bound.adjust(2.0, 0.0, 5, 0)
    figure = statements.ServerCount(0, 40, limit=100, released_at=1.0, number=1, period=10.0)
    bound.set(figure, until=10.0, out=0, answered=0, now=2.0)
    assert bound.left == 40


def test_many_settlements_are_still_counted():
    """Of hundreds, the sum is known; no list is without end."""
    bound = a_learnt(0, refills=False, limit=1000)
    for number in range(500):
        bound.adjust(number / 100, 0.0, 1, 0)
    assert len(bound.settled) < 100
    assert sum(back for _, back in bound.settled) == 500


def test_calls_under_way_are_off_a_new_window():
    """As a window begins, calls that are under way may be counted in it: so they are off it."""
    bound = a_learnt(1, refills=False, limit=10)
    bound.cost_out = lambda: 2
    bound.consume(10.5, (3,))
    assert bound.left == 5
    figure = statements.ServerCount(0, 8, limit=10, released_at=9.0, number=1, period=10.0)
    bound.set(figure, until=20.5, out=3, answered=0, now=11.0)
    assert bound.left == 5  # it is as much as the figure says at least
    figure = figure._replace(remaining=7, released_at=10.5, number=2)
    bound.set(figure, until=20.5, out=0, answered=0, now=11.0)
    assert bound.left == 7  # they were counted in the window before


def test_late_answer_does_not_end_a_new_window():
    """What a call of the window before is told is nothing to the one in which others start."""
    bound = a_learnt(1, refills=False, limit=10)
    bound.consume(10.5, (3,))
    assert (bound.left, bound.until) == (7, 20.5)
    late = statements.ServerCount(0, 0, limit=10, released_at=9.0, number=1, period=10.0)
    assert not bound.set(late, until=12.0, out=3, answered=0, now=11.0)
    assert (bound.left, bound.until) == (7, 20.5)
    assert bound.set(late._replace(remaining=6), until=20.25, out=3, answered=0, now=11.0)
    assert (bound.left, bound.until) == (6, 20.25)  # it was counted in the new one


@pytest.mark.parametrize(
    ("said", "left"), [({}, 4), ({"period": 10.0, "refills": True}, 6)], ids=["plain", "bucket"]
)
def test_late_answer_of_another_kind(said, left):
    """A late answer is adopted if it does not speak of a window, whatever has begun meanwhile."""
    bound = a_learnt(1, refills=False, limit=10)
    bound.consume(10.5, (3,))
    late = statements.ServerCount(0, 4, limit=10, released_at=9.0, number=1, **said)
    assert bound.set(late, until=12.0, out=0, answered=0, now=11.0)
    assert (bound.left, bound.until) == (left, 12)


def test_late_answer_while_nothing_starts():
    """Where nothing has started since, it is all that is known: as long as it says."""
    bound = a_learnt(1, refills=False, limit=10)
    late = statements.ServerCount(0, 0, limit=10, released_at=9.0, number=1, period=10.0)
    assert bound.set(late, until=10.75, out=0, answered=0, now=10.5)
    assert (bound.left, bound.until) == (0, 10.75)


def test_bucket_is_full_later_by_what_starts():
    """A learnt bucket of 10 in 10 s, full at 4: 3 more start, so at 7; and 2 that are out, at 9."""
    bound = introspect.server_bound(0, 10)
    figure = statements.ServerCount(
        0, 6, limit=10, released_at=0.0, number=1, period=10.0, refills=True
    )
    bound.set(figure, until=4.0, out=0, answered=1, now=0.0, own=1)
    assert bound.until == 4
    bound.consume(1.0, (3,))
    assert bound.until == 7
    figure = figure._replace(remaining=3, released_at=0.5, number=2)
    bound.set(figure, until=7.0, out=2, answered=1, now=1.0, own=1)
    assert bound.until == 9
    bound.adjust(1.0, 1.0, 3, 4)
    assert bound.until == 10
    bound.consume(12.0, (4,))
    assert (bound.left, bound.until) == (6, 16)


def test_settled_from_the_window_before():
    """What a call does not need comes back to the window in which it came, and to no other."""
    bound = a_learnt(1, refills=False, limit=10)
    bound.consume(10.5, (3,))
    bound.adjust(11.0, 9.0, 5, 1)
    assert bound.left == 7
    bound.adjust(11.0, 10.5, 3, 1)
    assert bound.left == 9
    bound.adjust(11.0, 9.0, 1, 3)  # what it costs beyond is counted now
    assert bound.left == 7


def test_plain_figure_after_a_learnt_one():
    """What is said without a size is no bucket, even if the quota was one before."""
    bound = a_learnt(0, refills=True)
    bound.limit = None
    bound.set(statements.ServerCount(0, 3, number=9), until=50.0, out=0, answered=0, now=20.0)
    assert starts_at(bound, cost=3) <= 20
    assert starts_at(bound, cost=4) == 50
