"""A server that counts requests and tokens in any period, and refuses what does not fit."""

from __future__ import annotations

__all__ = ["BudgetServer", "least_time"]


class BudgetServer:
    """Counts what arrives, at its true cost, and remembers all of it.

    Args:
        requests: how many it takes in any `period`.
        tokens: how many of them.
        period: seconds.
    """

    def __init__(self, *, requests, tokens, period):
        self.requests = requests
        self.tokens = tokens
        self.period = period
        self.arrivals = []
        self.refused = 0

    def fits(self, now, tokens):
        """Return whether it would take a request now."""
        recent = [spent for at, spent in self.arrivals if at > now - self.period + 1e-9]
        return len(recent) < self.requests and sum(recent) + tokens <= self.tokens

    def request(self, now, tokens):
        """Take a request, or refuse it; return whether it was taken."""
        taken = self.fits(now, tokens)
        if taken:
            self.arrivals.append((now, tokens))
        self.refused += not taken
        return taken


def least_time(server, costs):
    """Return when the last of these requests can arrive at the earliest, in this order."""
    now = 0.0
    for tokens in costs:
        instants = [now, *(at + server.period for at, _ in server.arrivals)]
        now = min(at for at in instants if at >= now and server.fits(at, tokens))
        server.arrivals.append((now, tokens))
    return now
