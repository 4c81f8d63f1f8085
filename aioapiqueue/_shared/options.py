"""Checks of the options that `HostSchedule` and `SharedSchedule` have in common."""

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


class YieldingAdaptive(Adaptive):
    """An `Adaptive` that accepts limits below its floor, and does not lower those.

    Other processes may set such limits at any time, when a queue can no longer be refused for them.
    """

    def least(self, ceiling: float, unit: str) -> float:
        """Return the lowest rate, per second, under limits of `ceiling`."""
        floor = self.floor
        # `Adaptive.least` raises for a floor in a unit that the limits do not count.
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
        # `Adaptive.govern` raises if the floor of permits exceeds the number of permits.
        if self.concurrency is not None and self.concurrency > concurrency:
            fitting = replace(self, concurrency=int(concurrency))
            return fitting.govern(limits, concurrency=concurrency, **others)
        return super().govern(limits, concurrency=concurrency, **others)


def as_fallback(given: str | Rate | None) -> Rate | None:
    """Return the argument of `fallback=` as a rate of calls.

    Raises:
        TypeError: it is another kind of limit, or counts another unit.
        ValueError: its text is malformed.
    """
    limit = None if given is None else limit_types.as_limit(given)
    if limit is not None and (not isinstance(limit, Rate) or limit.unit != CALLS):
        raise TypeError(f'fallback must be a rate of calls, such as "1/s", not {limit}')
    return limit


def check_unused(schedule: object, *, in_use: bool) -> None:
    """Refuse a second queue for one schedule.

    Raises:
        RuntimeError: the schedule is in use.
    """
    if in_use:
        raise RuntimeError(
            f"{schedule!r} is in use by another queue: create one for each queue, with the same "
            "name"
        )


def yielding(policy: AdaptivePolicy | None) -> YieldingAdaptive | None:
    """Return a policy that can be sent, and accepts the limits of other processes.

    Raises:
        TypeError: it has its own recovery curve.
    """
    if policy is None:
        return None
    # The authority computes the curve itself, and is sent only the options of an `Adaptive`.
    if not isinstance(policy, Adaptive) or type(policy).regrow is not Adaptive.regrow:
        raise TypeError(
            f"{policy!r} has its own recovery curve, which cannot be shared: use a plain Adaptive "
            "in a queue with schedule="
        )
    return YieldingAdaptive(
        policy.floor, policy.backoff, recovery=policy.recovery, concurrency=policy.concurrency
    )
