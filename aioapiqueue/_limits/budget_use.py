"""How much of a budget, or of a limit of the present day, hour or month, is used.

Imported at the first use, as making a named tuple takes as long as importing a module.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["BudgetUse"]


class BudgetUse(NamedTuple):
    """Use of a budget, or of a calendar limit in its current period, in the unit of the limit.

    Attributes:
        spent: total cost of calls that have settled or ended. Where `reserved` is always 0, it
            includes running calls.
        reserved: cost of running calls that have not settled and may still cost less. Always 0 in
            the unit `calls`, and for a calendar limit without `or raise`.
        left: amount that is neither spent nor reserved.
        resets_at: end of the current period, in seconds since the epoch; None for a budget.
        share: share of the limit that is spent or reserved, from 0 to 1; 1 also if it is overdrawn.
    """

    spent: float
    reserved: float
    left: float
    resets_at: float | None = None

    def __str__(self) -> str:
        """Return it for people to read: `1.25 spent, 0.5 reserved, 3.25 left`."""
        return (
            f"{_text(self.spent)} spent, {_text(self.reserved)} reserved, {_text(self.left)} left"
        )

    @property
    def share(self) -> float:
        """Return the share of the limit that is used."""
        used = self.spent + self.reserved
        return used / (used + self.left) if self.left else 1


def _text(amount: float) -> str:
    return f"{amount:,.9f}".rstrip("0").rstrip(".")
