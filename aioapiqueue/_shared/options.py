"""The options that all schedules have of which the limits are kept elsewhere."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from aioapiqueue import Rate
from aioapiqueue.adaptive import Adaptive
from aioapiqueue.spi import CALLS, limit_types

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioapiqueue import Limit
    from aioapiqueue.spi import AdaptivePolicy, algorithms

__all__ = ["YieldingAdaptive", "as_fallback", "yielding"]


class YieldingAdaptive(Adaptive):
    """An `Adaptive` that gives way to limits of others: those below its floor are never lowered.

    Nobody can be refused for limits that others have set, be it while they were away.
    """

    @classmethod
    def of(cls, policy: Adaptive) -> YieldingAdaptive:
        """Return such a one with the options of another."""
        return cls(
            policy.floor, policy.backoff, recovery=policy.recovery, concurrency=policy.concurrency
        )

    def least(self, ceiling: float, unit: str) -> float:
        """Return the rate that it never falls below, per second, under limits of `ceiling`."""
        floor = self.floor
        if isinstance(floor, Rate) and floor.unit not in {CALLS, unit}:
            return replace(self, floor=None).least(ceiling, unit)
        return min(ceiling, super().least(ceiling, unit))

    def govern(
        self,
        limits: Sequence[Limit],
        *,
        concurrency: float,
        **others: Any,  # noqa: ANN401 - as Adaptive's
    ) -> Sequence[algorithms.LimitState]:
        """Return the states that slow down a queue or lane; as `Adaptive.govern`."""
        if self.concurrency is not None and self.concurrency > concurrency:
            fitting = replace(self, concurrency=int(concurrency))
            return fitting.govern(limits, concurrency=concurrency, **others)
        return super().govern(limits, concurrency=concurrency, **others)


def as_fallback(given: str | Rate | None) -> Rate | None:
    """Return what `fallback=` was given, as a rate of calls.

    Raises:
        TypeError: it is another limit, or counts another unit.
        ValueError: it is the text of none.
    """
    limit = None if given is None else limit_types.as_limit(given)
    if limit is not None and (not isinstance(limit, Rate) or limit.unit != CALLS):
        raise TypeError(f'fallback must be a rate of calls, such as "1/s", not {limit}')
    return limit


def yielding(policy: AdaptivePolicy | None) -> YieldingAdaptive | None:
    """Return a policy that can be sent, and gives way to limits of others.

    Raises:
        TypeError: it has a curve of its own.
    """
    if policy is None:
        return None
    if not isinstance(policy, Adaptive) or type(policy).regrow is not Adaptive.regrow:
        raise TypeError(
            f"{policy!r} has its own recovery curve, which cannot be shared: use a plain Adaptive "
            "in a queue with schedule="
        )
    return YieldingAdaptive.of(policy)
