"""The options that all schedules have of which the limits are kept elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioapiqueue._grammar import CALLS
from aioapiqueue._rate import Rate, as_limit
from aioapiqueue.adaptive import Adaptive

if TYPE_CHECKING:
    from aioapiqueue._lanes import AdaptivePolicy

__all__ = ["as_fallback", "plain_adaptive"]


def as_fallback(given: str | Rate | None) -> Rate | None:
    """Return what `fallback=` was given, as a rate of calls.

    Raises:
        TypeError: it is another limit, or counts another unit.
        ValueError: it is the text of none.
    """
    limit = None if given is None else as_limit(given)
    if limit is not None and (not isinstance(limit, Rate) or limit.unit != CALLS):
        raise TypeError(f"fallback takes a rate of calls, not {limit}")
    return limit


def plain_adaptive(policy: AdaptivePolicy | None) -> Adaptive | None:
    """Return a policy that can be sent.

    Raises:
        TypeError: it has a curve of its own.
    """
    if policy is None:
        return None
    if not isinstance(policy, Adaptive) or type(policy).regrow is not Adaptive.regrow:
        raise TypeError(
            f"{policy!r} has a curve of its own, which is not known where this quota is kept: give "
            "a queue with schedule= a plain Adaptive"
        )
    return policy
