"""The use of budgets as reports and status show it."""

from __future__ import annotations

from aioapiqueue.recording.spi import LaneUse, least_left_first


def use(spent, left, reserved=0):
    """The use of a limit, as JSON has it."""
    return {"spent": spent, "reserved": reserved, "left": left}


def test_amounts_have_all_their_digits():
    """Large and tiny ones, and no others."""
    tiny = use(0, 6.999999999, 1_234_560.000000001)
    text = "0 spent, 1,234,560.000000001 reserved, 6.999999999 left"
    assert str(LaneUse("", "1234567 usd in all", tiny)) == text
    assert str(LaneUse("a", "7 tokens in all", use(0, 6.7, 0.3))) == (
        "0 spent, 0.3 reserved, 6.7 left"
    )


def test_queue_and_fullest_lanes_come_first():
    """By the share that is left, as units differ; a limit of 0 has nothing left."""
    found = least_left_first(
        [
            ("b", {"8 usd in all": use(2, 6)}),
            ("a", {"2 usd in all": use(1, 0.5, 0.5), "900 in all": use(890, 10)}),
            ("c", {"1 in all": use(0, 0)}),
            ("", {"5 usd in all": use(0, 5)}),
        ]
    )
    assert [(one.lane, one.limit) for one in found] == [
        *(("", "5 usd in all"), ("c", "1 in all")),
        *(("a", "900 in all"), ("a", "2 usd in all"), ("b", "8 usd in all")),
    ]
