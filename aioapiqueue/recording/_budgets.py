"""How much is used of budgets and of limits of calendar periods, for reports and status."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from aioapiqueue import BudgetUse

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aioapiqueue.spi import seam

LimitUses: TypeAlias = Mapping[str, Mapping[str, float]]
"""Of each limit, by its text, how much is `spent`, `reserved` and `left`, in the limit's unit."""
ReadLimiter: TypeAlias = "Callable[[str | None], seam.LimiterStats | None]"
"""Returns the limiter's figures with the budgets of a lane, or (None) of the queue's own limits;
None: it does not know the lane."""


def uses_of(figures: seam.LimiterStats) -> dict[str, dict[str, float]]:
    """Return the use of each limit, as JSON."""
    return {
        limit: {"spent": use.spent, "reserved": use.reserved, "left": use.left}
        for limit, use in figures.budgets.items()
    }


class LaneUse(NamedTuple):
    """The use of one limit.

    Attributes:
        lane: the lane that has the limit; "" is the queue.
        limit: the text of the limit.
        use: how much is `spent`, `reserved` and `left`.
    """

    lane: str
    limit: str
    use: Mapping[str, float]

    def __str__(self) -> str:
        """Return the use as text: `1.25 spent, 0.5 reserved, 3.25 left`."""
        return str(BudgetUse(**self.use))

    @property
    def share_left(self) -> float:
        """The share of the limit that is left."""
        return 1 - BudgetUse(**self.use).share


def amount_text(amount: float) -> str:
    """Return an amount for people: with commas, and as many decimals as it needs, up to nine."""
    return f"{amount:,.9f}".rstrip("0").rstrip(".")


def least_left_first(uses: Iterable[tuple[str, LimitUses]]) -> list[LaneUse]:
    """Return all uses of a queue: of its own limits first, then of the fullest ones of its lanes.

    Args:
        uses: of each lane, and ("") of the queue, the use of its limits.
    """
    found = [LaneUse(lane, limit, use) for lane, own in uses for limit, use in own.items()]
    return sorted(found, key=lambda one: (one.lane != "", one.share_left, one.lane))
