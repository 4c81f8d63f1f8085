"""How a queue is given what the answer to one of its calls asks for. Reads no clock.

An answer can be wrong, or made to do harm. Nothing that it says may close a lane for longer than
an hour, or `max_hold` where that is longer, counted in calls like the one that it answered: such a
learnt limit, or true cost, is malformed. It is counted, and leaves things as they were. A true cost
may close a lane for longer where a limit is so slow: `"100000 tokens/day"` has days of 100,000.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from aioapiqueue import Concurrency, Rate
from aioapiqueue.integrations._advice import MAX_HOLD
from aioapiqueue.spi import count_text, largest_of, period_of, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioapiqueue import Limit, Slot
    from aioapiqueue.integrations._advice import Advice, Quota
    from aioapiqueue.integrations._learning import Learner
    from aioapiqueue.spi import Cost, Reporter

__all__ = ["Settling", "apply_advice"]

_LOG = logging.getLogger("aioapiqueue")
_UNSAID = 60.0
"""Seconds for which the queue believes what remains where no reset is given, as a rule."""
_SLOWEST = 86_400.0
"""Seconds for each call of the slowest limit that is learnt."""


def apply_advice(
    advice: Advice,
    slot: Slot,
    reporter: Reporter,
    *,
    max_hold: float,
    learner: Learner | None = None,
    failure: Cost | None = None,
    reserves: bool = False,
) -> None:
    """Give a queue what the answer to one of its calls asks for, on the queue's loop.

    Args:
        advice: what it asks for.
        slot: the slot of the call.
        reporter: reports to its queue.
        max_hold: the longest time that is believed, in seconds.
        learner: learns limits from answers; default: none are learnt.
        failure: what the server counts of a call that it has not served; default: all of it.
        reserves: whether calls may be charged more at first than they cost in the end. Default: no;
            the server has served all that the call was charged.
    """
    if advice.malformed:
        reporter.count("malformed", slot)
    if advice.refused:
        reporter.count("refused_by_server", slot)
    # A server that refuses a call may do so because it is larger than the limit.
    is_refused = advice.throttled or advice.refused
    served = _Served(slot, reporter, max_hold, reserves=reserves or is_refused)
    if failure is not None:  # first: what the server says remains does not contain it
        slot.settle(failure)
    reporter.answered(slot)
    quotas = [one for one in advice.remaining if one.unit in reporter.units]
    if advice.malformed:  # without a reset, they are perhaps what could not be read
        quotas = [one for one in quotas if one.reset is not None]
    given = [(one, _reset_of(one, max_hold)) for one in quotas]
    if learner is None:
        for quota, reset in given:
            if quota.remaining is not None:
                reporter.sync(
                    slot, quota.remaining, unit=quota.unit, reset=reset, limit=quota.limit
                )
    else:
        _learn(advice, served, learner, given)
    if advice.throttled:
        slot.throttled(advice.hold)
    elif advice.hold:
        reporter.hold(slot, advice.hold)


def _learn(
    advice: Advice, served: _Served, learner: Learner, given: Sequence[tuple[Quota, float | None]]
) -> None:
    slot, reporter = served.slot, served.reporter
    now = reporter.now()
    quotas = learner.with_periods(slot.key, [quota for quota, _ in given], now)
    rates = [one for one in learner.rates(advice, quotas) if one.unit in reporter.units]
    fit = [rate for rate in rates if served.may_have_limit(rate)]
    wrong = {(one.unit, one.calls) for one in rates}.difference(
        (one.unit, one.calls) for one in fit
    )
    # What remains is believed all the same, until the reset: that is not later than `max_hold`.
    quotas = [
        replace(one, limit=None, period=None) if (one.unit, one.limit) in wrong else one
        for one in quotas
    ]
    for quota, (_, reset) in zip(quotas, given, strict=True):
        if quota.remaining is not None:
            reporter.sync(
                slot,
                quota.remaining,
                unit=quota.unit,
                reset=reset,
                limit=quota.limit,
                period=quota.period if quota.limit else None,
                refills=learner.is_bucket(slot.key, quota, now),
                period_is_minimum=learner.period_is_minimum(slot.key, quota),
            )
    if len(fit) < len(rates):
        reporter.count("malformed", slot)
    if fit:
        reporter.adopt(slot, fit)


class _Served:
    """A call that was answered, as it was charged: what the answer says of limits must fit it.

    Args:
        slot: its slot.
        reporter: reports to its queue.
        max_hold: as of `apply_advice`.
        reserves: whether the server may have counted less of it, or nothing.
    """

    def __init__(self, slot: Slot, reporter: Reporter, max_hold: float, *, reserves: bool) -> None:
        self.slot = slot
        self.reporter = reporter
        self._costs = reporter.costs_of(slot)
        self._longest = max(max_hold, MAX_HOLD)
        self._reserves = reserves

    def may_have_limit(self, rate: Rate) -> bool:
        """Return whether a server with this limit serves such calls, and more than now and then."""
        cost = self._costs.get(rate.unit, 1)
        # Of a reservation the server may count less: `max_tokens` is above many limits of tokens.
        if cost > rate.burst and not self._reserves:
            return False
        # The next one waits for as long, at once after this one.
        wait = (2 * cost - rate.burst) * rate.interval
        # One that lets a call through in years is no limit, but an error.
        return wait <= self._longest and max(1, cost) * rate.interval <= _SLOWEST


class Settling:
    """Settles the calls of one client to what their answers say that they cost.

    What would close a lane for too long is malformed: of its unit, the call keeps what it was
    charged. Why the first such answer is malformed is logged as a warning, and of others for
    debugging.

    Args:
        max_hold: as of `apply_advice`.
    """

    def __init__(self, max_hold: float) -> None:
        self._longest = max(max_hold, MAX_HOLD)
        self._has_warned = False

    def settle(self, slot: Slot, reporter: Reporter, cost: Cost | None, *, wrong: str = "") -> None:
        """Settle a call, on the queue's loop.

        Args:
            slot: the slot of the call.
            reporter: reports to its queue.
            cost: as `Slot.settle` takes it; None: it is as it was.
            wrong: why something else in the answer is malformed. Default: nothing is.
        """
        if cost is not None:
            excess = self._excess(slot, reporter, cost)
            wrong = wrong or next(iter(excess.values()), "")
            stated = cost if isinstance(cost, Mapping) else {}
            rest = {unit: amount for unit, amount in stated.items() if unit not in excess}
            if rest or not excess:
                slot.settle(rest if excess else cost)
        if wrong:
            reporter.count("malformed", slot)
            self._log(reporter, wrong)

    def _excess(self, slot: Slot, reporter: Reporter, cost: Cost) -> dict[str, str]:
        """Return why amounts of a cost cannot be, by unit."""
        excess = {}
        charged, costs = reporter.costs_of(slot), reporter.settled(slot, cost)
        for limit in reporter.limits_of(slot):
            if isinstance(limit, Concurrency) or limit.unit not in costs:
                continue
            unit, amount = limit.unit, costs[limit.unit]
            # What it was charged at first is the user's affair. So is what the user's limit allows
            # at once or in its period, however long that is.
            least = max(charged.get(unit, 0), limit.calls, largest_of(limit))
            if (amount - least) * _interval(limit) > self._longest:
                excess[unit] = f'{count_text(amount, unit)}, far above the limit "{limit}"'
        return excess

    def _log(self, reporter: Reporter, wrong: str) -> None:
        queue = printable(str(reporter.name or "(no name)"))
        if self._has_warned:
            _LOG.debug("queue %s: malformed usage in a response: %s", queue, wrong)
            return
        self._has_warned = True
        _LOG.warning(
            "queue %s: malformed usage in a response: %s. This usage is ignored, and the call "
            "keeps its reserved cost. stats.malformed counts such responses; this client logs "
            "further ones at level DEBUG",
            queue,
            wrong,
        )


def _interval(limit: Limit) -> float:
    """Return the seconds in which a limit lets one of its unit through."""
    return limit.interval if isinstance(limit, Rate) else period_of(limit) / largest_of(limit)


def _reset_of(quota: Quota, max_hold: float) -> float | None:
    """Return the seconds for which what remains is believed; None: as the queue's limits say.

    Without a reset it is the quota's period, if that is short. A long one may end any time.
    """
    if quota.reset is not None:
        return quota.reset
    if quota.period is not None and quota.period <= _UNSAID:
        return min(quota.period, max_hold)
    return max_hold if max_hold < _UNSAID else None
