"""What is left of a message to the authority that may have been processed."""

from __future__ import annotations

from tests.helpers import introspect

messages = introspect.redis_messages()


def test_only_charges_survive_an_old_request():
    """A refund that may have been processed is not sent again; a charge is."""
    charge, refund = (
        messages.CostChange((), 1, (0.5,), (1,)),
        messages.CostChange(("a",), 2, (-1.0,), (1,)),
    )
    assert messages.Adjust([charge, refund]).without_refunds() == messages.Adjust([charge])
    assert messages.Return([refund]).without_refunds() == messages.Return([])
    both = messages.CostChange(("a",), 3, (1.0, -20.0), (1, 20))
    assert messages.Adjust([both]).without_refunds() == messages.Adjust(
        [messages.CostChange(("a",), 3, (1.0, 0), (1, 20))]
    )


def test_changes_name_each_lane_once():
    """In the order in which the lanes come."""
    lanes = [("b",), (), ("a",), ("b",)]
    assert messages.Adjust(
        [messages.CostChange(lane, 1, (1.0,), (1,)) for lane in lanes]
    ).lanes == ["b", "a"]
