"""What calls cost: read for each slot, and added up, each by a short way and a long one."""

from __future__ import annotations

import math
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioapiqueue.spi import cost_units


def units_of(*names):
    """Return units that know these."""
    units = cost_units.Units()
    units.declare(names)
    return units


OF_ONE = [
    ({"tokens": 5}, (1, 5)),
    ({"tokens": 0}, (1, 0)),
    ({"tokens": 2.5}, (1, 2.5)),
    ({"calls": 3, "tokens": 5}, (3, 5)),
    ({"tokens": 5, "calls": 3}, (3, 5)),
    (MappingProxyType({"tokens": 5}), (1, 5)),
]


@pytest.mark.parametrize(("cost", "costs"), OF_ONE)
def test_amounts_are_found_by_unit(cost, costs):
    """Wherever it is named, and whatever else is known."""
    assert units_of("tokens").costs_of(cost) == costs
    assert units_of("tokens", "pages").costs_of(cost)[:2] == costs
    assert math.isnan(units_of("tokens", "pages").costs_of(cost)[2])
    assert units_of("pages", "tokens").costs_of(cost)[::2] == costs


@pytest.mark.parametrize("others", [(), ("tokens",), ("tokens", "pages")])
@pytest.mark.parametrize(
    ("cost", "error", "why"),
    [
        ({None: 1}, ValueError, "names None"),
        ({"token": 1}, ValueError, "names 'token'"),
        ({"calls": -1}, ValueError, "'calls'"),
        ({"calls": True}, TypeError, "'calls'"),
        ({"tokens": -1}, ValueError, "'tokens'"),
        ({"tokens": True}, TypeError, "'tokens'"),
        ({"tokens": math.inf}, ValueError, "'tokens'"),
        ({"tokens": 10**400}, ValueError, "'tokens'"),
        ({"tokens": "5"}, TypeError, "'tokens'"),
        (["tokens"], TypeError, "cost"),
    ],
)
def test_wrong_amounts_are_refused(others, cost, error, why):
    """However many units are known: with one beside calls, most are read by a short way."""
    with pytest.raises(error, match=why):
        units_of(*others).costs_of(cost)


def test_settled_number_names_no_unit():
    """Where more than calls is counted, a number could be of any unit: the error names them."""
    assert units_of().settled(5, (1,)) == (5,)
    units = units_of("tokens")
    assert "tokens" in units
    assert "pages" not in units
    with pytest.raises(
        ValueError,
        match=r'ambiguous on a queue with units: write \{"calls": 5\} or \{"tokens": 5\}',
    ):
        units.settled(5, (1, 3))
    with pytest.raises(ValueError, match=r'write \{"calls": 0\} or \{"tokens": 0\}'):
        units.settled(0, (1, 3))
    with pytest.raises(ValueError, match="cost"):
        units.settled(-5, (1, 3))


def test_forgotten_units_are_refused():
    """As before they were declared, and those that are left are found."""
    units = units_of("tokens", "pages")
    units.forget(2)
    assert units.costs_of({"tokens": 5}) == (1, 5)
    units.forget(1)
    with pytest.raises(ValueError, match="tokens"):
        units.costs_of({"tokens": 5})
    units.declare(["pages"])
    assert units.costs_of({"pages": 5}) == (1, 5)


COSTS = st.one_of(
    st.just(cost_units.ONE_CALL),
    st.tuples(st.integers(0, 3), st.sampled_from([0, 7, 0.1, cost_units.UNSTATED])),
)


@given(st.lists(st.tuples(COSTS, st.sampled_from(["stays", "goes", "changes"]), COSTS)))
def test_totals_are_those_of_the_calls_that_count(calls):
    """What is taken off leaves nothing of itself; of a unit that is not named, nothing counts."""
    units, totals, counted = units_of("tokens"), cost_units.CostTotals(), []
    for costs, fate, others in calls:
        if costs is not cost_units.ONE_CALL:
            totals.add(costs)
        if fate == "goes" and costs is not cost_units.ONE_CALL:
            totals.subtract(costs)
        elif fate == "changes":
            totals.replace(costs, others)
            counted.append(others)
        elif fate == "stays":
            counted.append(costs)
    tokens = [one[1] for one in counted if cost_units.is_stated(one, 1)]
    expected = {"calls": sum(one[0] for one in counted), "tokens": round(sum(tokens), 9)}
    assert totals.by_unit(units, len(counted)) == expected
