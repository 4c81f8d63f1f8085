"""What is left of a message to the authority that may have been processed."""

from __future__ import annotations

from aioapiqueue._shared.redis.messages import Adjust, CostChange, Return


def test_only_charges_survive_an_old_request():
    """A refund that may have been processed is not sent again; a charge is."""
    charge, refund = CostChange((), 1, (0.5,), (1,)), CostChange(("a",), 2, (-1.0,), (1,))
    assert Adjust([charge, refund]).without_refunds() == Adjust([charge])
    assert Return([refund]).without_refunds() == Return([])
    both = CostChange(("a",), 3, (1.0, -20.0), (1, 20))
    assert Adjust([both]).without_refunds() == Adjust([CostChange(("a",), 3, (1.0, 0), (1, 20))])


def test_changes_name_each_lane_once():
    """In the order in which the lanes come."""
    lanes = [("b",), (), ("a",), ("b",)]
    assert Adjust([CostChange(lane, 1, (1.0,), (1,)) for lane in lanes]).lanes == ["b", "a"]
