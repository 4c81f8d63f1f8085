"""What a provider admits: a limit for each unit, all or nothing, with time as an argument.

Three ways of counting, as providers describe theirs or are seen to count:

- `bucket`: capacity is the limit, filled evenly over the period (Anthropic and OpenAI say so).
- `window`: fixed windows, one after another, the first of which begins with the first request.
- `sliding`: what arrived within the last period counts, exactly.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Job", "Quotas", "Refusal", "least_time"]

ROUNDING = 1e-6  # of a unit: what sums of floats are off by at most


@dataclass(frozen=True)
class Refusal:
    """Why a request was not admitted: the unit that it has to wait for longest.

    `after` is in seconds, infinite where the cost is above the limit; the others are in `unit`.
    """

    unit: str
    after: float
    limit: float
    remaining: float
    cost: float


class _Bucket:
    def __init__(self, limit, period):
        self.limit = limit
        self._rate = limit / period
        self._level = limit
        self._at = -math.inf

    def begin(self, now):
        """Do nothing: a bucket is full before the first request."""

    def remaining(self, now):
        if now > self._at:
            self._level = min(self.limit, self._level + (now - self._at) * self._rate)
            self._at = now
        return self._level

    def spend(self, now, cost):
        self._level = self.remaining(now) - cost

    def credit(self, now, at, cost):
        del at  # it does not matter to a bucket when that was taken
        self._level = min(self.limit, self.remaining(now) + cost)

    def reset(self, now):
        return (self.limit - self.remaining(now)) / self._rate

    def after(self, now, cost):
        return (cost - self.remaining(now)) / self._rate


class _Window:
    def __init__(self, limit, period):
        self.limit = limit
        self._period = period
        self._origin = None
        self._current = 0
        self._used = 0.0

    def begin(self, now):
        if self._origin is None:
            self._origin = now

    def _number(self, at):
        return math.floor((at - self._origin) / self._period + 1e-9)

    def remaining(self, now):
        if self._origin is not None and self._number(now) > self._current:
            self._current, self._used = self._number(now), 0.0
        return self.limit - self._used

    def spend(self, now, cost):
        self.remaining(now)
        self._used += cost

    def credit(self, now, at, cost):
        self.remaining(now)
        if self._number(at) == self._current:
            self._used = max(0.0, self._used - cost)

    def reset(self, now):
        if self._origin is None:
            return 0.0
        return self._origin + (self._number(now) + 1) * self._period - now

    def after(self, now, cost):
        del cost  # all of it is free at once
        return self.reset(now)


class _Sliding:
    def __init__(self, limit, period):
        self.limit = limit
        self._period = period
        self._spent = []  # [instant, cost], oldest first

    def begin(self, now):
        """Do nothing: only what is taken counts."""

    def _recent(self, now):
        since = now - self._period + 1e-9
        self._spent = [one for one in self._spent if one[0] > since and one[1] > 0]
        return self._spent

    def remaining(self, now):
        return self.limit - sum(cost for _, cost in self._recent(now))

    def spend(self, now, cost):
        self._spent.append([now, cost])

    def credit(self, now, at, cost):
        for one in self._recent(now):
            if one[0] == at:
                back = min(cost, one[1])
                one[1] -= back
                cost -= back

    def reset(self, now):
        recent = self._recent(now)
        return recent[-1][0] + self._period - now if recent else 0.0

    def after(self, now, cost):
        missing = cost - self.remaining(now)
        for at, spent in self._recent(now):
            missing -= spent
            if missing <= ROUNDING:
                return at + self._period - now
        return self.reset(now)


ALGORITHMS = {"bucket": _Bucket, "window": _Window, "sliding": _Sliding}


class Quotas:
    """What one model admits of each unit. Its times never go back.

    Args:
        limits: the most of each unit in a period. Units without one are not counted.
        period: seconds, for all units or for each.
        algorithm: "bucket", "window" or "sliding".
    """

    def __init__(self, limits, *, period=60.0, algorithm="bucket"):
        self.limits = dict(limits)
        self.periods = {
            unit: period[unit] if isinstance(period, Mapping) else period for unit in self.limits
        }
        make = ALGORITHMS[algorithm]
        self._counts = {unit: make(most, self.periods[unit]) for unit, most in self.limits.items()}

    def take(self, now, costs):
        """Take all of these costs and return None; or take nothing and return the `Refusal`."""
        refusals = []
        for unit, cost in self._counted(costs):
            count = self._counts[unit]
            count.begin(now)
            remaining = count.remaining(now)
            if cost > remaining + ROUNDING:
                after = count.after(now, cost) if cost <= count.limit else math.inf
                refusals.append(Refusal(unit, after, count.limit, remaining, cost))
        if refusals:
            return max(refusals, key=lambda refusal: refusal.after)
        self.charge(now, costs)
        return None

    def charge(self, now, costs):
        """Take these costs, whether they fit or not."""
        for unit, cost in self._counted(costs):
            self._counts[unit].begin(now)
            self._counts[unit].spend(now, cost)

    def credit(self, now, at, costs):
        """Give back some of what was taken at `at`, if that still counts."""
        for unit, cost in self._counted(costs):
            self._counts[unit].credit(now, at, cost)

    def remaining(self, now, unit):
        """Return how much of a unit would be admitted now; negative after a charge above it."""
        return self._counts[unit].remaining(now)

    def reset(self, now, unit):
        """Return the seconds until all of a unit is free, if nothing more is taken."""
        return self._counts[unit].reset(now)

    def _counted(self, costs):
        return [(unit, cost) for unit, cost in costs.items() if unit in self.limits]


@dataclass(frozen=True)
class Job:
    """One call: what it takes on arrival, and what comes back `seconds` later."""

    costs: Mapping[str, float]
    seconds: float = 0.0
    back: Mapping[str, float] = field(default_factory=dict)


def least_time(quotas, jobs):
    """Return when the last of these jobs can arrive at the earliest, in this order, from 0 on.

    It is what a client achieves that knows each cost and looks at the quotas themselves.
    """
    now, running = 0.0, []
    for number, job in enumerate(jobs):
        while True:
            while running and running[0][0] <= now:
                end, _, at, back = heapq.heappop(running)
                quotas.credit(end, at, back)
            refusal = quotas.take(now, job.costs)
            if refusal is None:
                break
            now = min([now + refusal.after, *(one[0] for one in running[:1])])
            if now == math.inf:
                raise ValueError(f"job {number} never fits: {refusal}")
        heapq.heappush(running, (now + job.seconds, number, now, job.back))
    return now
