"""A bound on the calls that may start, from what a server reports of one of its quotas.

A server that reports "40 remain" has counted the calls that it has seen. Calls in flight may or may
not be among them, so all of them are subtracted. The rest is a bound beside the limit, until the
quota is full again. Usage by other clients shows in it, before the server throttles a call.

A call that ended without a response (cancelled, or its connection broke) may or may not have been
counted. The response to any call released after that end includes it, if it was counted. So does a
report that belongs to no call.

**Learnt limits.** If the limit itself was learnt, every call since the first response is known,
because only one call was in flight until then. So the amount that is left is tracked here as well:
the first response's, minus what starts, plus what is settled back. Each later response gives two
bounds for it:

- at most what the server reports, plus what was settled back since the call was released;
- at least that, minus all that the server may not have counted: calls without a response, and calls
  whose response came while this call was in flight. The server may have seen two such calls in
  either order, because the network may reorder them, and a response may describe the moment of
  arrival or of completion. In the first case, the call's own refund is missing in it and will be
  settled here, so the call is one of those.

A tracked amount between the two bounds is kept, as it is better than either. If it is above them,
other clients use the quota; if below, more has come back than was known.

A quota without a report since its reset counts as full. But if later responses name another size in
its place, it ends with its reset: either the size has changed, or the quota was for something else,
such as a single path.

**Token buckets** refill gradually. Between two responses, half of the refill counts as ours, and a
twentieth of the bucket is left in it. Otherwise the queue would keep the bucket at its edge, and
the server would throttle other clients. Throughput does not suffer, because what is left in a
bucket is not lost. The bucket is full when the server says so, and later by what starts meanwhile.

**Windows** come back at once, and what is left at the end is lost. So everything is used, but not
at once if other clients use the window, too: what they need until the end is reserved for them
(`external_usage.py`). Nor is the whole of the next window known to be ours: if calls had to wait
for it, one goes first, and its response shows what other clients have used since. Calls in flight
when a window begins may be counted in it, so they are subtracted. A window begins with the first
call that the server sees. If that call gets no response, or a late one, its end is unknown, and the
server may throttle some of the calls that start at that moment.
"""

from __future__ import annotations

import math
from collections import deque
from operator import attrgetter
from typing import TYPE_CHECKING

from aioapiqueue._server_quotas.external_usage import ExternalUsage
from aioapiqueue.spi import algorithms, cost_units, limit_types

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from aioapiqueue import Limit
    from aioapiqueue.spi import seam, statements

_MAX_BOUNDS = 8
"""Largest number of quotas of one unit: per second, minute, hour, day and so on."""
_MAX_SETTLED = 64
"""Largest number of settlements that are remembered one by one. Beyond it, the oldest two count as
one, at the later instant."""
_OURS = 0.5
"""Part of a bucket's refill until the next response that counts as ours; other clients may use the
rest. Each response corrects it."""
_MARGIN = 0.05
"""Part of a bucket that is left in it for other clients: three calls of a client that uses a third
of the quota in steps of a sixtieth. In simulation (500 calls beside such a client), the server
throttled no call with 0.03, either."""
_PERIOD = 60.0
"""Seconds after which a quota counts as full again, if neither a response nor a limit says when.
Most quotas are counted by the minute."""
_ROUNDING = 1e-9
"""Relative error of sums of fractions."""


def refill_time(limits: Iterable[Limit], unit: str) -> float:
    """Return the seconds after which a quota counts as full if its report has no reset.

    Args:
        limits: limits of the lane, or of the queue.
        unit: unit of the quota.
    """
    return max(
        (limit_types.period_of(one) for one in limits if limit_types.unit_of(one) == unit),
        default=_PERIOD,
    )


class ServerBound(algorithms.LimitState):
    """The amount that may start of one of the server's quotas, until the quota is full again.

    Args:
        unit: place of its unit in costs.
        limit: size of the quota, which tells quotas of the same unit apart; None: not stated.
    """

    __slots__ = (
        "at",
        "cost_out",
        "external",
        "is_renewed",
        "is_uncertain",
        "is_waited_for",
        "left",
        "limit",
        "order",
        "period",
        "refill",
        "renewed_at",
        "sent_at",
        "settled",
        "until",
    )

    optional = True

    def __init__(self, unit: int, limit: float | None) -> None:
        super().__init__(unit)
        self.limit = limit
        self.cost_out: Callable[[], float] = float
        """Returns the cost of calls without a response."""
        self.left = 0.0
        """Amount that may start, as of `at`."""
        self.at = self.until = -math.inf
        self.order: tuple[float, int] = (-math.inf, 0)
        """Release time and number of the latest call with a response."""
        self.period: float | None = None
        """Period of a learnt limit, whose size is known; None: the limit was not learnt."""
        self.refill = 0.0
        """Our part of a token bucket's refill per second."""
        self.external: ExternalUsage | None = None
        """Usage by other clients, of a learnt window."""
        self.settled: deque[tuple[float, float]] = deque()
        """Refunds by `settle` that the last response may not include: instant and amount."""
        self.is_waited_for = False
        """Whether a call has waited for it since the last response."""
        self.renewed_at = -math.inf
        """Start of the latest window that was estimated here."""
        self.is_renewed = False
        """Whether the quota has become full since the last response, usually by a new window."""
        self.is_uncertain = False
        """Whether a later response has named another size, and not this one."""
        self.sent_at = math.inf
        """Instant at which the first call after a reset was sent; inf: it has its response."""

    def set(
        self,
        count: statements.ServerCount,
        *,
        until: float,
        out: float,
        answered: float,
        now: float,
        own: float = 0,
    ) -> bool:
        """Adopt a report; return whether it is newer than the last one.

        Args:
            count: the report.
            until: instant at which the quota is full again.
            out: cost of calls without a response.
            answered: cost of calls whose response came while the call of the report was in flight,
                including that call.
            now: the present instant.
            own: cost of that call.
        """
        order = (count.released_at, count.number or self.order[1])
        if now < self.until and order < self.order:
            return False  # the server had counted fewer calls by then
        if self._is_of_previous_window(count, until):
            return False
        left = count.remaining - out  # as if the server had counted none of the calls in flight
        rate, external, period = 0.0, None, None
        if count.limit and count.period is not None:
            period = count.period
            rate = count.limit / count.period if count.refills else 0.0
            began = until - count.period
            least, external = left - answered, self.external or ExternalUsage(began)
            used = count.limit - count.remaining - out - answered  # so far, by other clients
            if rate:  # the costs that the server may not have counted delay it
                until += (out + answered - own) / rate
            if count.period_is_minimum and self.period is None:
                # The time in which that was used is unknown, so it gives no pace.
                used, external = 0, ExternalUsage(now)
            if self.period is not None:
                self._bring_up_to(now)
                before = self.left
                left = self._between(least, self._most(count, rate, now))
                # What the tracked amount had to be lowered by, other clients have used.
                used = before - left if count.limit == self.limit else 0
                if until > self.until + count.period / 2 and not count.refills:
                    # The window started earlier than assumed.
                    self.renewed_at = until - count.period
                    external.renew(self.renewed_at)
                    used = max(0, used)
            external.see(used, now)
        self.left, self.at, self.until, self.order = left, now, until, order
        self.limit, self.period, self.refill = count.limit, period, rate * _OURS
        self.external = None if count.refills else external
        self.is_waited_for, self.sent_at = False, math.inf
        self.is_renewed = self.is_uncertain = False
        return True

    def _is_of_previous_window(self, count: statements.ServerCount, until: float) -> bool:
        """Return whether a response is so late that calls have started in the next window."""
        if count.period is None or count.refills:
            return False
        is_older = self.is_renewed and count.released_at < self.renewed_at
        return is_older and until < self.until - count.period / 2

    def widen_uncertainty(self, count: statements.ServerCount) -> None:
        """Note that a response has named another quota of this unit, perhaps in place of this."""
        if (count.released_at, count.number or self.order[1]) > self.order:
            self.is_uncertain = True

    def _most(self, count: statements.ServerCount, rate: float, now: float) -> float:
        while self.settled and self.settled[0][0] <= count.released_at:
            self.settled.popleft()
        # A refund at this very instant is of the call itself, which the server did not serve: it
        # is in `remaining` already.
        back = sum(amount for at, amount in self.settled if at < now)
        return count.remaining + back + rate * (now - count.released_at)

    def _between(self, least: float, most: float) -> float:
        """Return the tracked amount, limited to the two bounds of a response."""
        if self.left > most:  # other clients use the quota
            return most
        return max(self.left, min(least, most))

    def _bring_up_to(self, now: float) -> None:
        """Add what has come back to `left`."""
        assert self.limit is not None  # noqa: S101 - it is learnt
        if self.refill:
            self.left = min(self.limit, self.left + self.refill * (now - self.at))
        elif now >= self.until:
            self._renew(now)
        self.at = now

    def _renew(self, now: float) -> None:
        """Begin with a full quota."""
        assert self.limit is not None  # noqa: S101 - it is learnt
        assert self.period is not None  # noqa: S101 - as above
        # Calls in flight may be counted in the new window.
        self.left, self.at, self.is_renewed = self.limit - self.cost_out(), now, True
        if self.refill:
            self.until = now  # `_charge` delays it by each cost
        else:
            self.renewed_at, self.until = now, now + self.period
        if self.external is not None:
            self.external.renew(now)

    def room(self, now: float) -> float:
        if now >= self.until:
            return math.inf
        if self.held > now or self.sent_at < math.inf:
            return 0
        return max(0.0, self.left + self.refill * (now - self.at))

    def concerns(self, costs: Sequence[float]) -> bool:
        return cost_units.is_stated(costs, self.unit) and costs[self.unit] != 0

    def next_at(self, now: float, costs: Sequence[float]) -> float:
        # The first call of a new window is in flight: its response will show what other clients
        # have used of the window.
        if self.sent_at < math.inf:
            return math.inf
        at = self._fits_at(costs[self.unit], now)
        if at > now:
            self.is_waited_for = True
        return max(self.held, at)

    def _fits_at(self, cost: float, now: float) -> float:
        missing, ends = cost - self.left - _ROUNDING * abs(self.left), self.until
        if now >= ends:
            return -math.inf
        if self.limit is None or self.period is None:
            return ends if missing > 0 else -math.inf
        # The part that stays in a bucket for other clients; less for a call that needs more.
        if self.refill:
            missing += max(0, min(_MARGIN * self.limit, self.limit - cost))
            return min(ends, self.at + missing / self.refill) if missing > 0 else -math.inf
        if missing > 0:
            return ends
        assert self.external is not None  # noqa: S101 - it is a window
        at = self.external.reserved_until(
            -missing, until=ends, limit=self.limit, period=self.period
        )
        return min(ends, at)

    def consume(self, now: float, costs: Sequence[float]) -> None:
        if self.period is not None and now >= self.until:
            if self.is_uncertain:  # its size has changed, or it was for something else
                self.period, self.refill, self.external = None, 0.0, None
            else:
                # A call that was held until then has waited for it, too.
                is_waited_for = self.is_waited_for or self.held >= self.until
                self.sent_at = now if is_waited_for and not self.refill else math.inf
                self._renew(now)
        self._charge(now, costs[self.unit])

    def _charge(self, now: float, cost: float) -> None:
        self.left -= cost
        # The server refills at its full rate; `refill` is only our share of that rate.
        if self.refill and cost > 0:
            assert self.limit is not None  # noqa: S101 - it is learnt
            assert self.period is not None  # noqa: S101 - as above
            self.until = max(self.until, now) + cost * self.period / self.limit

    def release(self, at: float) -> bool:
        if at < self.sent_at:
            return False
        self.sent_at = math.inf  # the first call has its response, or a later one has
        return True

    def refund(self, now: float, at: float, costs: Sequence[float]) -> None:
        super().refund(now, at, costs)
        self.release(at)

    def forget_callers(self) -> None:
        super().forget_callers()
        self.sent_at = math.inf

    def leaves_room(
        self, now: float, charge: Sequence[float], costs: Sequence[float], by: float
    ) -> bool:
        return self._fits_at(charge[self.unit] + costs[self.unit], now) <= by

    def was_subtracted(
        self, released_at: float, outcome: seam.CallOutcome, *, charged: bool
    ) -> bool:
        """Return whether the expected cost of a call was subtracted from `left`.

        Args:
            released_at: instant at which the call started.
            outcome: what has become of it.
            charged: whether it was charged to this bound when it started.
        """
        answered_at, ended_at = outcome
        if self.period is not None:  # `left` is tracked here, so each charge was subtracted
            return charged or answered_at is None
        if charged and released_at > self.at:
            return True
        # It was subtracted if the call was in flight when the last report came.
        if answered_at is not None:
            return answered_at > self.at
        return ended_at is None or ended_at > self.order[0]

    def adjust(self, now: float, at: float, charged: float, cost: float) -> None:
        back = charged - cost
        if back > 0 and at < self.renewed_at:
            return  # the server has counted it in an earlier window
        self._charge(now, -back)
        if back > 0 and self.refill:
            self._bring_up_to(now)  # limits it to a full bucket
        if back > 0 and self.period is not None:
            self.settled.append((now, back))
            # With the later instant, the upper bound of a response never misses a refund (`_most`).
            if len(self.settled) > _MAX_SETTLED:
                (_, one), (later, other) = self.settled.popleft(), self.settled.popleft()
                self.settled.appendleft((later, one + other))

    def estimate(self, now: float, cost: float) -> float:
        return max(now, self.held, self._fits_at(cost, now))

    def idle_at(self, now: float) -> float:  # noqa: ARG002 - only a calendar needs it
        full = self.until
        if self.refill and self.limit is not None:
            full = self.at + max(0.0, self.limit - self.left) / self.refill
        return max(self.held, full)


def bound_for(
    count: statements.ServerCount, states: Iterable[algorithms.LimitState], now: float
) -> ServerBound:
    """Return the bound of a quota: one of these states, or a new one.

    Args:
        count: a report of the quota.
        states: the states of its lane, or of the queue.
        now: the present instant.
    """
    bounds = [one for one in states if isinstance(one, ServerBound) and one.unit == count.unit]
    for bound in bounds:
        if bound.limit == count.limit:
            return bound
    order = (count.released_at, count.number)
    for bound in bounds:
        # The old quota is full again, so this may be its successor; or the size of a learnt quota
        # has changed. Not if this response has named the old one as well.
        changed = bound.period is not None and bound.period == count.period
        if bound.until <= now or (changed and bound.order != order):
            return bound
    if len(bounds) >= _MAX_BOUNDS:
        return min(bounds, key=attrgetter("until"))
    return ServerBound(count.unit, count.limit)
