"""What a queue says of itself, in `repr`, in errors, in the log and in notebooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioapiqueue._limits.rates import LearntRate

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Iterable

    from aioapiqueue._core.limiter import LimiterStats
    from aioapiqueue._limits.rates import Limit

__all__ = ["limits_text", "name_text", "state_text"]


def name_text(kind: str, name: str | None) -> str:
    """Return what a queue is called, if it has a name."""
    return kind if name is None else f"{kind} {name!r}"


def limits_text(limits: Iterable[Limit], learnt: Collection[Hashable]) -> str:
    """Return a queue's own limits, and of how many lanes the server has stated some.

    Args:
        limits: the queue's own.
        learnt: the keys whose limits the server has stated; None: the queue's own.
    """
    text = ", ".join(map(_described, limits)) or "unlimited"
    if number := len(learnt) - (None in learnt):
        text += f" (learnt limits: {number} lane{'s' * (number > 1)})"
    return text


def state_text(limiter: LimiterStats, *, closed: bool) -> str:
    """Return whether a queue starts calls, and whether it is cut off from who keeps its quota."""
    state = "closed" if closed else "paused" if limiter.paused else "open"
    return f"{state}, disconnected ({limiter.fault})" if limiter.fault else state


def _described(limit: Limit) -> str:
    return f"{limit} (learnt)" if isinstance(limit, LearntRate) else str(limit)
