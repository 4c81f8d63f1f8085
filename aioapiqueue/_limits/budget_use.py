"""How much of a budget, or of a limit of the present day, hour or month, is used.

Imported at the first use, as making a named tuple takes as long as importing a module.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["BudgetUse"]


class BudgetUse(NamedTuple):
    """How much of a budget, or of a limit of the present day, hour or month, is used.

    The amounts are in the unit of the limit.

    Attributes:
        spent: cost of the calls that have settled or ended; for a limit without `or raise`, also of
            those that are running.
        reserved: cost of the running calls that have not settled yet, and may settle at less. 0 for
            a limit without `or raise`, and in the unit `calls`.
        left: what other calls may still cost.
        resets_at: end of the present period, in seconds since the epoch; None: a budget.
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
        """The share of the limit that is used; never below 1 if nothing is left."""
        used = self.spent + self.reserved
        return used / (used + self.left) if self.left else 1


def _text(amount: float) -> str:
    return f"{amount:,.9f}".rstrip("0").rstrip(".")
