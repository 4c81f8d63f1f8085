"""A model of a server that counts several units, each in a bucket or in windows one after another.

It takes a request that fits all its quotas, or refuses it and counts nothing; it says what remains;
and it is told what a request turned out not to need.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import NamedTuple

__all__ = ["Bucket", "Figure", "QuotaServer", "Windows", "least_time"]

ROUNDING = 1e-9


class Figure(NamedTuple):
    """What the server says of one of its quotas."""

    remaining: float
    reset: float
    limit: float


class Bucket:
    """Comes back bit by bit: `limit` in `period` seconds."""

    refills = True

    def __init__(self, limit, period):
        self.limit = self.left = limit
        self.period = period
        self.at = 0.0

    def _refill(self, now):
        self.left = min(self.limit, self.left + (now - self.at) * self.limit / self.period)
        self.at = now

    def fits_at(self, now, cost):
        """Return when it has room for that: now, or later."""
        self._refill(now)
        missing = cost - self.left - ROUNDING
        return now if missing <= 0 else now + (missing + ROUNDING) * self.period / self.limit

    def take(self, now, cost):
        """Count a request."""
        self._refill(now)
        self.left -= cost

    def give_back(self, now, at, cost):  # noqa: ARG002 - as of windows
        """Count so much less for the request that came then."""
        self._refill(now)
        self.left = min(self.limit, self.left + cost)

    def figure(self, now):
        """Return what remains, in whole units, and when it is full again."""
        self._refill(now)
        reset = (self.limit - self.left) * self.period / self.limit
        return Figure(max(0, math.floor(self.left + ROUNDING)), reset, self.limit)


class Windows:
    """Comes back at once, `period` seconds after the first request."""

    refills = False

    def __init__(self, limit, period):
        self.limit = self.left = limit
        self.period = period
        self.since = self.until = -math.inf

    def _renew(self, now):
        if now >= self.until:
            self.left, self.since, self.until = self.limit, now, now + self.period

    def fits_at(self, now, cost):
        """Return when it has room for that: now, or later."""
        self._renew(now)
        return now if cost <= self.left + ROUNDING else self.until

    def take(self, now, cost):
        """Count a request."""
        self._renew(now)
        self.left -= cost

    def give_back(self, now, at, cost):
        """Count so much less for the request that came then, if it was in this window."""
        self._renew(now)
        if at >= self.since:
            self.left = min(self.limit, self.left + cost)

    def figure(self, now):
        """Return what remains, in whole units, and when it is full again."""
        self._renew(now)
        return Figure(max(0, math.floor(self.left + ROUNDING)), self.until - now, self.limit)


class QuotaServer:
    """Takes what fits all its quotas.

    Args:
        kind: `Bucket` or `Windows`.
        limits: by unit.
        period: seconds in which so much is let through.

    Attributes:
        refused: how many requests of whom.
        taken: as above.
    """

    def __init__(self, kind, limits, *, period):
        self.kind = kind
        self.limits = limits
        self.period = period
        self._quotas = {unit: kind(limit, period) for unit, limit in limits.items()}
        self.refused = Counter()
        self.taken = Counter()

    def fits_at(self, now, costs):
        """Return an instant before which it refuses a request of these costs: now, if it fits."""
        return max(self._quotas[unit].fits_at(now, cost) for unit, cost in costs.items())

    def request(self, now, costs, *, who="we"):
        """Take a request, or refuse it; return whether it was taken."""
        fits = self.fits_at(now, costs) <= now
        if fits:
            for unit, cost in costs.items():
                self._quotas[unit].take(now, cost)
        (self.taken if fits else self.refused)[who] += 1
        return fits

    def give_back(self, now, at, costs):
        """Note that the request which came `at` needed so much less."""
        for unit, cost in costs.items():
            self._quotas[unit].give_back(now, at, cost)

    def figures(self, now):
        """Return what it says of each quota."""
        return {unit: quota.figure(now) for unit, quota in self._quotas.items()}


def least_time(server, calls):
    """Return when the last of these calls can come to a new server, one after another."""
    now = 0.0
    for costs in calls:
        while (at := server.fits_at(now, costs)) > now:
            now = math.nextafter(at, math.inf)
        assert server.request(now, costs)
    return now
