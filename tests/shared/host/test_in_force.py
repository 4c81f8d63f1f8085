"""Which limits hold follows from the terms that there are, whatever came and went before."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioapiqueue import Calendar, Concurrency, Rate, Window
from aioapiqueue.spi import statements
from tests.helpers import introspect

decided = introspect.decisions()
wire = introspect.hub_messages()
in_force = introspect.limits_in_force()

LATENESS = "set_lateness"
NAMES = st.sampled_from(["a", "ab", "abc", "a*", "ab*", "*"])
SOME_LIMITS = st.lists(
    st.sampled_from([Rate(1), Rate(2), Window(3, 4), Concurrency(5), Calendar(6, "day")]),
    max_size=2,
    unique=True,
).map(tuple)
LANES = st.dictionaries(NAMES, SOME_LIMITS, max_size=4)
CHANGES = st.dictionaries(st.none() | NAMES, SOME_LIMITS, min_size=1, max_size=2)
TERMS = st.builds(
    lambda limits, lanes, bodies: wire.Terms(limits, lanes, bodies, 0.05, None, ("calls",)),
    SOME_LIMITS,
    LANES,
    st.none() | st.integers(1, 3),
)
STEPS = st.one_of(
    st.tuples(st.just("add"), TERMS),
    st.tuples(st.just("remove"), st.integers(0, 9)),
    st.tuples(st.just(statements.SetLimits), CHANGES),
    st.tuples(st.just(statements.Learnt), CHANGES),
    st.tuples(st.just(LATENESS), st.sampled_from([0.1, 0.2])),
)


def take(limits, terms, decisions, step):
    """Take a step; keep `terms` as those that are there."""
    what, detail = step
    if what in (statements.SetLimits, statements.Learnt):
        made = decisions.make(*(what(key, its) for key, its in detail.items()))
        limits.note([one.statement for one in made])
    elif what == LATENESS:
        limits.set_lateness(detail)
    elif what == "add":
        terms[limits.add(detail)] = None
    elif len(terms) > 1:
        gone = list(terms)[detail % len(terms)]
        limits.remove(gone)
        del terms[gone]


def named(limits):
    """Return the keys and patterns that have limits."""
    return {name for name, its in limits.by_name.items() if its and name is not in_force.QUEUE}


class Knower:
    """A client that hears of names at times."""

    def __init__(self):
        self.known = set()
        self._number = -1

    def hear(self, names):
        """Hear of what has changed since."""
        kind, changes = json.loads(names.since(self._number))
        assert kind == "lanes"
        for added, removed in changes:
            self.known = set() if removed is None else self.known - set(removed)
            self.known |= set(added)
        self._number = names.number


@pytest.fixture(autouse=True, scope="module")
def short_log():
    """Have logs begin again often."""
    with pytest.MonkeyPatch.context() as patch:
        introspect.replace(patch, "names in a log", 2)
        yield


@given(TERMS, st.lists(STEPS, max_size=12), st.booleans())
def test_limits_follow_from_terms(first, steps, each):
    """The same are in force as if all that holds at the end had been there from the beginning."""
    decisions = decided.Decisions(lambda: 0.0)
    limits = in_force.LimitsInForce(first, 0.0, decisions)
    before, has_changed, terms = named(limits), False, {first: None}
    knowers = [Knower() for _ in steps]
    for number, step in enumerate(steps):
        take(limits, terms, decisions, step)
        if each:
            limits.update()
            has_changed |= limits.names_changed
        for names in knowers[: number + 1 : 2]:
            names.hear(limits.names)
    limits.update()
    start, *others = terms
    latenesses = [one for what, one in steps if what == LATENESS]
    fresh = in_force.LimitsInForce(start, [0.0, *latenesses][-1], decisions)
    for one in others:
        fresh.add(one)
    fresh.note([one.statement for one in decisions])
    fresh.update()
    # A name that was given limits once is still listed, with those of a pattern that fits it.
    assert {name: limits.by_name[name] for name in fresh.by_name} == fresh.by_name
    for one in terms:
        assert limits.names.are_all_in(one.lanes) is (named(limits) <= one.lanes.keys())
    for names in knowers:
        names.hear(limits.names)
        assert names.known == named(limits)
    assert limits.names_changed or has_changed or named(limits) == before


class Asked(decided.Decisions):
    """Decisions that note which lanes are looked at: each of them may have been set."""

    def __init__(self):
        super().__init__(float)
        self.lanes = []

    def limits_of(self, kind, key):
        """Return the limits that were set, or learnt."""
        if kind is statements.SetLimits:
            self.lanes.append(key)
        return super().limits_of(kind, key)


def test_equal_lanes_are_not_looked_at():
    """Terms that differ in the queue's limits alone: what they say of lanes changes nothing."""
    lanes = {f"tenant:{number}": (Rate(5),) for number in range(20)} | {"tenant:*": (Rate(9),)}
    asked = Asked()
    limits = in_force.LimitsInForce(
        wire.Terms((Rate(1),), lanes, None, 0.05, None, ("calls",)), 0.02, asked
    )
    assert sorted(asked.lanes) == sorted(lanes)
    asked.lanes.clear()
    limits.add(wire.Terms((Rate(2),), lanes, None, 0.05, None, ("calls",)))
    assert list(limits.update()) == [in_force.QUEUE]
    assert not asked.lanes
