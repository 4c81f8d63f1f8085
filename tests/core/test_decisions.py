"""What users have decided: the outcome follows from what is known, in whatever order it came."""

from __future__ import annotations

import json
import math
import os
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioapiqueue import Rate
from aioapiqueue.spi import limit_types, statements
from tests.helpers import introspect

decided = introspect.decisions()

KEYS = (None, "a", "b")
SEEDS = st.integers(0, 2**32)


class Clock:
    """A clock that stands still."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        """Return the present instant."""
        return self.now


@pytest.fixture
def clock():
    """The clock of all makers of a test."""
    return Clock()


def state(decisions, now):
    """Return all that holds."""
    limits = decisions.limits(statements.SetLimits), decisions.limits(statements.Learnt)
    return *limits, max(decisions.paused_until, now), decisions.holds(), list(decisions)


def outcome_of(said, now):
    """Return the same of decisions, as DESIGN has it, by looking at all of them."""
    latest, longest = {}, {}
    for _, one in sorted(said, key=lambda one: one.stamp):
        if isinstance(one, statements.SetLimits | statements.Learnt):
            latest[type(one), one.key] = one.limits
            if isinstance(one, statements.SetLimits):  # it replaces what was learnt before
                latest.pop((statements.Learnt, one.key), None)
        elif isinstance(one, statements.Hold) and one.until > now:
            longest[one.key] = max(one.until, longest.get(one.key, one.until))
    resumed = max(
        (stamp for stamp, one in said if isinstance(one, statements.Resume)),
        default=decided.Stamp(-1, ""),
    )
    pauses = [
        one.until for stamp, one in said if isinstance(one, statements.Pause) and stamp > resumed
    ]
    return (
        {key: its for (kind, key), its in latest.items() if kind is statements.SetLimits},
        {key: its for (kind, key), its in latest.items() if kind is statements.Learnt},
        max([now, *pauses]),
        longest,
    )


def any_statement(rng, now):
    """Return anything that a user may decide."""
    key, limits = rng.choice(KEYS), (Rate(rng.randint(1, 9)),)
    return rng.choice(
        [
            statements.SetLimits(key, limits),
            statements.Learnt(key, limits),
            statements.Pause(now + rng.choice([1, 3, 9, math.inf])),
            statements.Pause(now + rng.choice([1, 3, 9, math.inf])),
            statements.Resume(),
            statements.Hold(key, now + rng.choice([1, 4, 9])),
        ]
    )


# The rules, one by one.


def test_later_limits_replace_earlier_ones(clock):
    """Of each key by itself, whichever comes first."""
    one, other = decided.Decisions(clock), decided.Decisions(clock)
    first = one.make(statements.SetLimits(None, (Rate(1),)), statements.SetLimits("a", (Rate(2),)))
    clock.now = 1
    second = other.make(statements.SetLimits(None, (Rate(3),)))
    for known, news in ((one, second), (other, first)):
        known.merge(news)
        assert known.limits(statements.SetLimits) == {None: (Rate(3),), "a": (Rate(2),)}
        assert known.limits_of(statements.SetLimits, None) == (Rate(3),)
        assert (
            known.limits_of(statements.SetLimits, "b")
            is known.limits_of(statements.Learnt, "a")
            is None
        )


def test_short_pause_shortens_no_endless_one(clock):
    """In whatever order they are heard of."""
    one, other = decided.Decisions(clock), decided.Decisions(clock)
    endless = one.make(statements.Pause(math.inf))
    clock.now = 1
    short = other.make(statements.Pause(61.0))
    assert one.merge(short)
    assert other.merge(endless)
    assert one.paused_until == other.paused_until == math.inf


def test_ended_pause_does_not_come_back(clock):
    """The endless pause that was ended stays so, though its maker pauses for a while later."""
    maker, other = decided.Decisions(clock), decided.Decisions(clock)
    endless = maker.make(statements.Pause(math.inf))
    other.merge(endless)
    resume = other.make(statements.Resume())
    maker.merge(resume)
    short = maker.make(statements.Pause(60.0))
    for known in (other, decided.Decisions(clock)):
        for one in (*short, *endless, *resume):
            known.merge([one])
        assert known.paused_until == 60


def test_resume_between_two_pauses(clock):
    """It ends the longer, earlier one alone, even if it is heard of last."""
    maker, other = decided.Decisions(clock), decided.Decisions(clock)
    maker.make(statements.Pause(math.inf))
    clock.now = 1
    resume = other.make(statements.Resume())
    clock.now = 2
    maker.make(statements.Pause(9.0))
    assert maker.paused_until == math.inf
    maker.merge(resume)
    assert maker.paused_until == 9


def test_earlier_resume_ends_no_later_pause(clock):
    """The safety stop holds, though its process had not heard that others had resumed."""
    one, other = decided.Decisions(clock), decided.Decisions(clock)
    resume = one.make(statements.Resume())
    clock.now = 1
    pause = other.make(statements.Pause(math.inf))
    one.merge(pause)
    other.merge(resume)
    assert one.paused_until == other.paused_until == math.inf


def test_longest_hold_counts(clock):
    """Of each key; no resume ends it, and it ends by itself."""
    one, other = decided.Decisions(clock), decided.Decisions(clock)
    long = one.make(statements.Hold("a", 9.0))
    clock.now = 1
    short = other.make(statements.Hold("a", 3.0), statements.Resume())
    one.merge(short)
    other.merge(long)
    for known in (one, other):
        assert (known.holds(), known.held_until("a")) == ({"a": 9.0}, 9)
        assert known.held_until(None) == -math.inf
    clock.now = 9
    assert one.holds() == {}
    assert not [decision for decision in one if isinstance(decision.statement, statements.Hold)]


def test_who_knows_decides_later():
    """A clock that is behind makes no decision older than what its process knew of."""
    fast, slow = Clock(), Clock()
    fast.now = 30.0
    first, second = decided.Decisions(fast), decided.Decisions(slow)
    second.merge(first.make(statements.Pause(math.inf)))
    (resume,) = second.make(statements.Resume())
    assert resume.stamp.at == 30_000_001
    first.merge([resume])
    assert first.paused_until == -math.inf


def test_another_clock_forgets_instants(clock):
    """Limits stay; nothing counts as known of what others still hold."""
    known, other = decided.Decisions(clock), decided.Decisions(clock)
    pause = other.make(statements.Pause(math.inf), statements.SetLimits(None, (Rate(1),)))
    known.merge(pause, other.newest())
    known.make(statements.Hold(None, 9.0))
    known.forget_instants()
    assert (known.paused_until, known.holds()) == (-math.inf, {})
    assert known.limits(statements.SetLimits) == {None: (Rate(1),)}
    assert other.newer_than(known.newest()) == pause


def test_ended_pauses_are_lacking(clock):
    """What a hub forgets as the last client leaves, a client that comes back may know of."""
    hub, client = decided.Decisions(clock), decided.Decisions(clock)
    client.make(statements.Pause(math.inf), statements.SetLimits(None, (Rate(1),)))
    hub.merge(client, client.newest())
    hub.end_pauses()
    assert hub.paused_until == -math.inf
    hub.merge(client.newer_than(hub.newest()), client.newest())
    assert hub.paused_until == math.inf


def test_forked_child_is_another_maker(clock, monkeypatch):
    """Its stamps are not the parent's, and it knows what that knew."""
    decisions = decided.Decisions(clock)
    (before,) = decisions.make(statements.SetLimits(None, (Rate(1),)))
    monkeypatch.setattr(os, "getpid", lambda: 1)
    (after,) = decisions.make(statements.SetLimits("a", (Rate(2),)))
    assert before.stamp.maker != after.stamp.maker
    assert len(list(decisions)) == 2


def test_most_limits_are_kept(clock):
    """Of more, the latest; what was forgotten does not come back as if it were the latest."""
    known, other = decided.Decisions(clock), decided.Decisions(clock)
    old = other.make(statements.SetLimits(0, (Rate(9),)))
    clock.now = 1
    known.make(
        *(statements.SetLimits(key, (Rate(1),)) for key in range(11_001)),
        statements.Resume(),
        statements.Hold(None, 9.0),
    )
    assert list(known.limits(statements.SetLimits)) == list(range(1001, 11_001))
    assert not known.merge(old)
    assert known.held_until(None) == 9


def test_makers_are_forgotten(clock, monkeypatch):
    """The earliest of hundreds: what they have decided is sent again, and changes nothing."""
    introspect.replace(monkeypatch, "makers of decisions", 4)
    known, said = decided.Decisions(clock), []
    for number in range(9):
        clock.now = number
        maker = decided.Decisions(clock)
        said += maker.make(statements.SetLimits(number, (Rate(1),)))
        known.merge(said[-1:], maker.newest())
        assert len(known.newest()) <= 4
    assert said[-1].stamp.maker in known.newest()
    assert not known.merge(known.newer_than(known.newest()))


# As it is sent.


@pytest.mark.parametrize(
    "statement",
    [
        statements.SetLimits(None, (Rate(2.5), Rate(10, 60, 10, "tokens"))),
        statements.SetLimits(("a", 1), ()),
        statements.Learnt("a", (limit_types.LearntRate(60, 60, 60),)),
        statements.Pause(math.inf),
        statements.Pause(12.5),
        statements.Resume(),
        statements.Hold(None, 3.25),
        statements.Hold("a", 0.5),
    ],
    ids=str,
)
def test_decisions_survive_json(statement):
    """There and back, through text."""
    decision = decided.Decision(decided.Stamp(5_000_000, "1-2-ab"), statement)
    assert decided.Decision.from_json(json.loads(json.dumps(decision.as_json()))) == decision
    newest = json.loads(json.dumps({"1-2-ab": 5_000_000}))
    assert decided.newest_from(newest) == {"1-2-ab": 5_000_000}


@pytest.mark.parametrize(
    "sent",
    [
        [1, "a", "stop", [], None],
        [1, "a", "resume", []],
        [1.5, "a", "resume", [], None],
        [math.inf, "a", "resume", [], None],
        [1, "a", "pause", [], "soon"],
        [1, "a", "set", [], ["soon"]],
        [1, "a", "set", [], 5],
    ],
)
def test_wrong_decisions_are_refused(sent):
    """By errors that a hub expects."""
    with pytest.raises((KeyError, TypeError, ValueError)):
        decided.Decision.from_json(sent)


@pytest.mark.parametrize("sent", [5, "ab", [1], {"a": 1.5}, {"a": "1"}, {"a": None}])
def test_wrong_instants_are_refused(sent):
    """By errors that a hub expects."""
    with pytest.raises((TypeError, ValueError)):
        decided.newest_from(sent)


def test_same_hold_is_no_news(clock):
    """Though another clock has counted it, and it ends an instant later by rounding."""
    known, maker = decided.Decisions(clock), decided.Decisions(clock)
    (made,) = maker.make(statements.Hold(None, 0.1))
    known.merge([made])
    for until in (math.nextafter(0.1, 1), math.nextafter(0.1, 0)):
        assert not known.merge([decided.Decision(made.stamp, statements.Hold(None, until))])


# In any order.


@given(SEEDS)
def test_order_decides_nothing(seed):
    """Whatever the order, with repeats, and known in part to those who decide."""
    rng, clock = random.Random(seed), Clock()
    makers, said = [decided.Decisions(clock) for _ in range(3)], []
    for _ in range(rng.randint(1, 12)):
        clock.now += rng.choice([0, 0, 1, 5])
        maker = rng.choice(makers)
        if said and rng.random() < 0.4:
            maker.merge(rng.sample(said, rng.randint(1, len(said))))
        said += maker.make(any_statement(rng, clock.now))
    expected = outcome_of(said, clock.now)
    first = None
    for _ in range(4):
        known = decided.Decisions(clock)
        order = [*said, *rng.choices(said, k=5)]
        rng.shuffle(order)
        while order:
            some = rng.randint(1, len(order))
            known.merge(order[:some])
            del order[:some]
        found = state(known, clock.now)
        first = found if first is None else first
        assert found == first
        assert found[:4] == expected


@given(SEEDS)
def test_exchange_makes_two_equal(seed):
    """Any two of several that decide, meet, and are cut off from each other in between.

    Each says what it lacks nothing of, and gets what is newer: then both know the same, and would
    be sent nothing more.
    """
    rng, clock = random.Random(seed), Clock()
    by_itself = rng.choice([0, 0.2])
    """How often a decision is heard of by itself, before all that came earlier."""
    several = [decided.Decisions(clock) for _ in range(rng.randint(2, 4))]
    said = []
    for _ in range(rng.randint(3, 25)):
        clock.now += rng.choice([0, 0, 0.5, 3])
        one, other = rng.sample(several, 2)
        if rng.random() < 0.5:
            said += one.make(any_statement(rng, clock.now))
            if rng.random() < by_itself:
                other.merge(said[-1:])
        else:
            meet(one, other)
            assert state(one, clock.now) == state(other, clock.now)
            assert one.newest() == other.newest()
            assert by_itself or not one.newer_than(other.newest())
    for one in several[1:] * 2:
        meet(several[0], one)
    for one in several:
        assert state(one, clock.now) == state(several[0], clock.now)
        assert state(one, clock.now)[:4] == outcome_of(said, clock.now)


def meet(one, other):
    """Let two exchange what they know."""
    for receiver, sender in ((one, other), (other, one)):
        receiver.merge(sender.newer_than(receiver.newest()), sender.newest())


def test_latest_here_is_not_all_before_it(clock):
    """That a maker's second decision is known does not say that its first one is."""
    maker, between, hub = (decided.Decisions(clock) for _ in range(3))
    first = maker.make(statements.SetLimits("a", (Rate(1),)))
    meet(maker, between)
    second = maker.make(statements.SetLimits("b", (Rate(2),)))
    hub.merge(second)
    meet(between, hub)
    assert hub.limits(statements.SetLimits) == {"a": (Rate(1),), "b": (Rate(2),)}
    assert first[0] in list(hub)
