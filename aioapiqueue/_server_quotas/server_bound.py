"""What a server says is left of one of its quotas, and what follows for what may start.

A server that says "40 remain" has counted the calls that it has seen. Of those that are out
without an answer, nobody here knows whether it had: so all of them are taken off what remains. The
rest is a bound on what may start, beside the limit, until the quota is full again. Others who use
the same quota are seen in it, without a push-back.

Whether a call that ended without an answer (cancelled, or its connection broke) was counted is not
known either. The answer to a call that was released after that end counts it, if it is counted. So
does what is read elsewhere, which is of no call.

Where the limit itself was learnt, every call is known from the first answer on, as one was out
alone until then. So what is left is reckoned here, too: from the first answer, less what starts,
plus what is settled back. Each answer says between which two figures it lies:

- at most what it says remains, and what was settled back since its call was released;
- at least that, less all that the server may not have counted in it: calls without an answer, and
  those that were answered while its call was under way. Which of two such calls the server has seen
  first, nobody knows: the network may change their order, and the answer may tell how things stood
  when its call came, or when it ended. Then what that call gives back is in it, too, and will be
  settled here: so it is one of them.

If our figure lies between the two, it holds: it is better than either. If it is above them, others
use the quota; if below, more has come back than we know.

A quota of which nobody has heard since its reset is full again, and counted on. But if later
answers name another size in its place, it ends with its reset: it has that size now, or it is that
of something else, such as of one path.

A bucket comes back bit by bit: between two answers, half of that is taken to be ours, and a
twentieth of the bucket is left in it. Without that the queue would keep it at the very edge, and
others would be refused. It costs no throughput, as what is left in a bucket is not lost. It is full
when the server says so, and later by what starts meanwhile.

A window comes back at once, and what is left in it is lost. So all of it is used, but not at once
where others use it, too: they are left what they need until it ends (`others.py`). Nobody has
said that the whole of the next one is ours: so if calls had to wait for it, one goes first, and
what others have used since is in its answer. Calls that are under way as it begins may be counted
in it, so they are taken off. It begins with the first call that the server sees: if that has no
answer, or a late one, nobody knows when it ends, and of those that start just then, some may be
refused.
"""

from __future__ import annotations

import math
from collections import deque
from operator import attrgetter
from typing import TYPE_CHECKING

from aioapiqueue._limits.algorithms import LimitState
from aioapiqueue._limits.rates import period_of, unit_of
from aioapiqueue._limits.units import is_stated
from aioapiqueue._server_quotas.external_usage import Others

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from aioapiqueue._core.limiter import CallOutcome
    from aioapiqueue._core.statements import ServerCount
    from aioapiqueue._limits.rates import Limit

__all__ = ["ServerBound", "bound_for", "refill_time"]

_MOST_BOUNDS = 8
"""Quotas of one unit that are told apart: for each second, minute, hour, day and so on."""
_MOST_TOLD_APART = 64
"""So many settlements are told apart; of more, the oldest two count as one of the later instant."""
_OURS = 0.5
"""Of what comes back to a bucket before the next answer, so much is taken to be for us: others may
use the rest. Each answer puts it right."""
_MARGIN = 0.05
"""Of a bucket, so much is left in it for others: three calls of one who uses a third of the quota
in steps of a sixtieth. What is used at first is less by that. In simulation (500 calls beside such
a one) nobody was refused with 0.03, either."""
_PERIOD = 60.0
"""Seconds after which a quota of the server's is taken to be full again, where neither an answer
nor a limit says so. Most are counted by the minute."""
_ROUNDING = 1e-9
"""Share by which sums may be off, as fractions do not add up."""


def refill_time(limits: Iterable[Limit], unit: str) -> float:
    """Return the seconds after which a quota without a reset is taken to be full again.

    Args:
        limits: of the lane, or of the queue.
        unit: what the quota counts.
    """
    return max((period_of(one) for one in limits if unit_of(one) == unit), default=_PERIOD)


class ServerBound(LimitState):
    """So much of one of the server's quotas may start until it is full again.

    Args:
        unit: which of the costs it counts.
        limit: the size of the quota, by which those of one unit are told apart; None: not said.
    """

    __slots__ = (
        "at",
        "cost_out",
        "is_doubted",
        "is_renewed",
        "is_waited_for",
        "left",
        "limit",
        "order",
        "others",
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
        """Returns what calls cost that are out without an answer."""
        self.left = 0.0
        """What may start, as of `at`."""
        self.at = self.until = -math.inf
        self.order: tuple[float, int] = (-math.inf, 0)
        """When the call was released that was answered last, and its number."""
        self.period: float | None = None
        """Of a learnt limit, whose size is known; None: it is not one."""
        self.refill = 0.0
        """What comes back each second, of a bucket, as far as it is for us."""
        self.others: Others | None = None
        """Who else uses it, of a learnt limit that comes back at its reset."""
        self.settled: deque[tuple[float, float]] = deque()
        """(when, how much) was settled back that the last answer may not have counted."""
        self.is_waited_for = False
        """Whether a call has had to wait for it since the last answer."""
        self.renewed_at = -math.inf
        """When the latest window has begun, of those that are reckoned here."""
        self.is_renewed = False
        """Whether all of it has come back since the last answer: a window has begun, as a rule."""
        self.is_doubted = False
        """Whether a later answer has named another size, and not this one."""
        self.sent_at = math.inf
        """When the one was sent that goes first after the reset; inf: it is not out."""

    def set(
        self,
        count: ServerCount,
        *,
        until: float,
        out: float,
        answered: float,
        now: float,
        own: float = 0,
    ) -> bool:
        """Adopt what an answer says; return whether it is news.

        Args:
            count: what it says.
            until: when the quota is full again.
            out: what calls cost that are out without an answer.
            answered: what those cost that were answered while its call was under way, that one
                among them.
            now: the present instant.
            own: what that one costs.
        """
        order = (count.released_at, count.number or self.order[1])
        if now < self.until and order < self.order:
            return False  # the server had counted less by then
        if self._tells_of_the_one_before(count, until):
            return False
        left = count.remaining - out
        rate, others, period = 0.0, None, None
        if count.limit and count.period is not None:
            period = count.period
            rate = count.limit / count.period if count.refills else 0.0
            began = until - count.period
            least, others = left - answered, self.others or Others(began)
            used = count.limit - count.remaining - out - answered  # so far, not by us
            if rate:  # it is full so much later
                until += (out + answered - own) / rate
            if count.period_is_minimum and self.period is None:  # nobody knows in how long that was
                used, others = 0, Others(now)
            if self.period is not None:
                self._bring_up_to(now)
                before = self.left
                left = self._between(least, self._most(count, rate, now))
                used = before - left if count.limit == self.limit else 0
                if until > self.until + count.period / 2 and not count.refills:
                    # The window started earlier than assumed.
                    self.renewed_at = until - count.period
                    others.renew(self.renewed_at)
                    used = max(0, used)
            others.see(used, now)
        self.left, self.at, self.until, self.order = left, now, until, order
        self.limit, self.period, self.refill = count.limit, period, rate * _OURS
        self.others = None if count.refills else others
        self.is_waited_for, self.sent_at = False, math.inf
        self.is_renewed = self.is_doubted = False
        return True

    def _tells_of_the_one_before(self, count: ServerCount, until: float) -> bool:
        """Return whether an answer came so late that calls have started in the next window."""
        if count.period is None or count.refills:
            return False
        is_older = self.is_renewed and count.released_at < self.renewed_at
        return is_older and until < self.until - count.period / 2

    def doubt(self, count: ServerCount) -> None:
        """Note that an answer has named another quota of this unit: perhaps in this one's place."""
        if (count.released_at, count.number or self.order[1]) > self.order:
            self.is_doubted = True

    def _most(self, count: ServerCount, rate: float, now: float) -> float:
        while self.settled and self.settled[0][0] <= count.released_at:
            self.settled.popleft()
        # What is settled at this instant is of the answered call, which the server has refused.
        back = sum(amount for at, amount in self.settled if at < now)
        return count.remaining + back + rate * (now - count.released_at)

    def _between(self, least: float, most: float) -> float:
        """Return what is left by our own figure, if it lies between two."""
        if self.left > most:  # others use the quota
            return most
        return max(self.left, min(least, most))

    def _bring_up_to(self, now: float) -> None:
        """Add to `left` what has come back."""
        assert self.limit is not None  # noqa: S101 - it is learnt
        if self.refill:
            self.left = min(self.limit, self.left + self.refill * (now - self.at))
        elif now >= self.until:
            self._renew(now)
        self.at = now

    def _renew(self, now: float) -> None:
        """Have all of it back."""
        assert self.limit is not None  # noqa: S101 - it is learnt
        assert self.period is not None  # noqa: S101 - as above
        # Calls that are under way may be counted in it.
        self.left, self.at, self.is_renewed = self.limit - self.cost_out(), now, True
        if self.refill:
            self.until = now
        else:
            self.renewed_at, self.until = now, now + self.period
        if self.others is not None:
            self.others.renew(now)

    def room(self, now: float) -> float:
        if now >= self.until:
            return math.inf
        if self.held > now or self.sent_at < math.inf:
            return 0
        return max(0.0, self.left + self.refill * (now - self.at))

    def concerns(self, costs: Sequence[float]) -> bool:
        return is_stated(costs, self.unit) and costs[self.unit] != 0

    def next_at(self, now: float, costs: Sequence[float]) -> float:
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
        if self.refill:
            missing += max(0, min(_MARGIN * self.limit, self.limit - cost))
            return min(ends, self.at + missing / self.refill) if missing > 0 else -math.inf
        if missing > 0:
            return ends
        assert self.others is not None  # noqa: S101 - it is a window
        at = self.others.leave_room_at(-missing, until=ends, limit=self.limit, period=self.period)
        return min(ends, at)

    def consume(self, now: float, costs: Sequence[float]) -> None:
        if self.period is not None and now >= self.until:
            if self.is_doubted:  # it has another size now, or was that of something else
                self.period, self.refill, self.others = None, 0.0, None
            else:
                # Who was held until then has waited for it, too.
                is_waited_for = self.is_waited_for or self.held >= self.until
                self.sent_at = now if is_waited_for and not self.refill else math.inf
                self._renew(now)
        self._charge(now, costs[self.unit])

    def _charge(self, now: float, cost: float) -> None:
        self.left -= cost
        if self.refill and cost > 0:
            assert self.limit is not None  # noqa: S101 - it is learnt
            assert self.period is not None  # noqa: S101 - as above
            self.until = max(self.until, now) + cost * self.period / self.limit

    def release(self, at: float) -> bool:
        if at < self.sent_at:
            return False
        self.sent_at = math.inf  # it is the one that went first, or came after it
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

    def was_taken_off(self, released_at: float, outcome: CallOutcome, *, charged: bool) -> bool:
        """Return whether what a call was thought to cost is off what is left.

        Args:
            released_at: when it started.
            outcome: what has become of it.
            charged: whether it was charged to this as it started.
        """
        answered_at, ended_at = outcome
        if self.period is not None:  # we reckon ourselves
            return charged or answered_at is None
        if charged and released_at > self.at:
            return True
        # Of those that were out when the last figure came, it has been taken off.
        if answered_at is not None:
            return answered_at > self.at
        return ended_at is None or ended_at > self.order[0]

    def adjust(self, now: float, at: float, charged: float, cost: float) -> None:
        back = charged - cost
        if back > 0 and at < self.renewed_at:
            return  # it was counted in a window that is over
        self._charge(now, -back)
        if back > 0 and self.refill:
            self._bring_up_to(now)  # it does not become more than full
        if back > 0 and self.period is not None:
            self.settled.append((now, back))
            if len(self.settled) > _MOST_TOLD_APART:
                (_, one), (later, other) = self.settled.popleft(), self.settled.popleft()
                self.settled.appendleft((later, one + other))

    def estimate(self, now: float, cost: float) -> float:
        return max(now, self.held, self._fits_at(cost, now))

    def idle_at(self) -> float:
        full = self.until
        if self.refill and self.limit is not None:
            full = self.at + max(0.0, self.limit - self.left) / self.refill
        return max(self.held, full)


def bound_for(count: ServerCount, states: Iterable[LimitState], now: float) -> ServerBound:
    """Return the bound of a quota: one of these states, or a new one.

    Args:
        count: what an answer says of it.
        states: those of its lane, or of the queue.
        now: the present instant.
    """
    bounds = [one for one in states if isinstance(one, ServerBound) and one.unit == count.unit]
    for bound in bounds:
        if bound.limit == count.limit:
            return bound
    order = (count.released_at, count.number)
    for bound in bounds:
        # That quota is full again, so that this may be what became of it; or its size has changed,
        # of a learnt one: but for one that this answer has told of, too.
        changed = bound.period is not None and bound.period == count.period
        if bound.until <= now or (changed and bound.order != order):
            return bound
    if len(bounds) >= _MOST_BOUNDS:
        return min(bounds, key=attrgetter("until"))
    return ServerBound(count.unit, count.limit)
