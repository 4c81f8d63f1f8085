"""Which messages to the authority replace others, and what is left of them in trouble."""

from __future__ import annotations

import math

import pytest

from aioapiqueue import Rate
from aioapiqueue._fleet.messages import (
    Adjust,
    Change,
    Hold,
    Leave,
    Pause,
    PushBack,
    Renew,
    Resume,
    Return,
    SetLimits,
)

SLOW, FAST = SetLimits(None, (Rate(1),)), SetLimits(None, (Rate(9),))
LANE = SetLimits("a", (Rate(1),))
REFUSED = PushBack(None, 7.0, 1_000_000, None, "key")


@pytest.mark.parametrize(
    ("earlier", "later", "merged"),
    [
        (Hold("a", 5.0), Hold("a", 3.0), Hold("a", 5.0)),
        (Hold("a", 3.0), Hold("a", 5.0), Hold("a", 5.0)),
        (Hold("a", 5.0), Hold("b", 5.0), None),
        (Hold(None, 5.0), Pause(None, 3.0), None),
        (Pause(None, math.inf), Pause(None, 3.0), Pause(None, math.inf)),
        (Pause(None, 5.0), Resume(), Resume()),
        (Resume(), Pause(None, 5.0), None),
        (SLOW, FAST, FAST),
        (SLOW, LANE, None),
        (REFUSED, REFUSED, None),
        (Renew(), Renew(), None),
        (Renew(), Leave(), None),
    ],
)
def test_later_message_replaces_an_earlier(earlier, later, merged):
    """Holds and pauses are only extended; what a user sets last counts."""
    assert later.merged(earlier) == merged


@pytest.mark.parametrize(
    ("message", "left"),
    [
        (Hold(None, 5.0), Hold(None, 5.0)),
        (Hold(None, 3.0), None),
        (Hold("a", 5.0), None),
        (REFUSED, Hold(None, 7.0)),
        (PushBack("a", 7.0, 1, None, "a"), None),
        (PushBack(None, -math.inf, 1, None, "a"), None),
        (Pause(None, math.inf), Pause(None, math.inf)),
        (Pause(None, 3.0), None),
        (Resume(), Resume()),
        (LANE, LANE),
        (Renew(), None),
        (Adjust([Change((), 1, (1.0,), (1.0,))]), None),
    ],
)
def test_refusal_leaves_what_users_decided(message, left):
    """At 4 s, when all that is over by then is dropped."""
    assert message.once_refused(4.0) == left


def test_only_charges_survive_an_old_request():
    """A refund that may have been processed is not sent again; a charge is."""
    charge, refund = Change((), 1, (0.5,), (1,)), Change(("a",), 2, (-1.0,), (1,))
    assert Adjust([charge, refund]).without_refunds() == Adjust([charge])
    assert Return([refund]).without_refunds() == Return([])
    both = Change(("a",), 3, (1.0, -20.0), (1, 20))
    assert Adjust([both]).without_refunds() == Adjust([Change(("a",), 3, (1.0, 0), (1, 20))])


def test_changes_name_each_lane_once():
    """In the order in which the lanes come."""
    lanes = [("b",), (), ("a",), ("b",)]
    assert Adjust([Change(lane, 1, (1.0,), (1,)) for lane in lanes]).lanes == ["b", "a"]
