"""Applies to a queue what the response to one of its calls asks for. Reads no clock.

A response can be wrong or malicious. No response may close a lane for longer than an hour (or
`max_hold`, if longer), assuming that the next calls cost as much as this one. A learnt limit or
true cost that would do so is malformed: it is counted and not applied. The exception is a true cost
that your own limit admits in one period: with `"100000 tokens/day"`, a call that used 100,000
tokens closes its lane for a day.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from aioapiqueue import Budget, Concurrency, Rate
from aioapiqueue.integrations._advice import MAX_HOLD
from aioapiqueue.spi import grammar, limit_types, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aioapiqueue import Slot
    from aioapiqueue.integrations._advice import Advice, Quota
    from aioapiqueue.integrations._learning import Learner
    from aioapiqueue.spi import Cost, Reporter

_LOG = logging.getLogger("aioapiqueue")
_DEFAULT_RESET = 60.0
"""Default seconds until a remaining amount without a reset is no longer valid."""
_SLOWEST = 86_400.0
"""Seconds per call of the slowest limit that can be learnt."""


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
    """Apply what a response asks for. Runs on the loop of the queue.

    Args:
        advice: what the response asks for.
        slot: the slot of the call.
        reporter: reports to its queue.
        max_hold: the longest hold or reset in seconds.
        learner: learns limits from responses. Default: none; no limits are learnt.
        failure: the true cost of a call that the server did not serve. Default: its full cost.
        reserves: whether the call may have been charged more than it will cost. Default: False; the
            server has served the full cost.
    """
    if advice.malformed:
        reporter.count("malformed", slot)
    if advice.refused:
        reporter.count("refused_by_server", slot)
    # Before `settle`: a limit must allow what the call was charged when it started.
    may_fit = partial(
        _may_have_limit,
        costs=reporter.costs_of(slot),
        longest=max(max_hold, MAX_HOLD),
        # The server may have refused the call because it is larger than the limit.
        reserves=reserves or advice.throttled or advice.refused,
    )
    if failure is not None:  # before `sync`, because the server has not counted the full cost
        slot.settle(failure)
    # Even if the response reports no quota: while limits are learnt, a lane waits for its first
    # response.
    reporter.answered(slot)
    # The server may count a unit that the queue does not know, and that `sync` would refuse.
    quotas = [one for one in advice.remaining if one.unit in reporter.units]
    if advice.malformed:  # a missing reset may be the value that could not be parsed
        quotas = [one for one in quotas if one.reset is not None]
    # Before periods are guessed: only a stated period may end a remaining amount.
    given = [(one, _reset_of(one, max_hold)) for one in quotas]
    if learner is None:
        for quota, reset in given:
            if quota.remaining is not None:
                reporter.sync(
                    slot, quota.remaining, unit=quota.unit, reset=reset, limit=quota.limit
                )
    else:
        _learn(advice, slot, reporter, learner, given, may_fit=may_fit)
    if advice.throttled:
        slot.throttled(advice.hold)
    # A hold alone does not lower the rate of `Adaptive`: the call itself was served.
    elif advice.hold:
        reporter.hold(slot, advice.hold)


def _learn(
    advice: Advice,
    slot: Slot,
    reporter: Reporter,
    learner: Learner,
    given: Sequence[tuple[Quota, float | None]],
    *,
    may_fit: Callable[[Rate], bool],
) -> None:
    now = reporter.now()
    quotas = learner.with_periods(slot.key, [quota for quota, _ in given], now)
    rates = [one for one in learner.rates(advice, quotas) if one.unit in reporter.units]
    fit = [rate for rate in rates if may_fit(rate)]
    # By unit and size, the attributes that a quota shares with its limit.
    wrong = {(one.unit, one.calls) for one in rates}.difference(
        (one.unit, one.calls) for one in fit
    )
    # The remaining amount is still applied: its reset is at most `max_hold` away.
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


def _may_have_limit(
    rate: Rate, costs: Mapping[str, float], longest: float, *, reserves: bool
) -> bool:
    """Return whether a server with this limit would serve such calls at a useful rate.

    Args:
        rate: the limit.
        costs: what the call was charged, by unit.
        longest: the longest wait in seconds that a limit may cause.
        reserves: whether the server may have counted less than the call was charged.
    """
    cost = costs.get(rate.unit, 1)
    # A reservation may exceed the limit: many requests have a `max_tokens` above it.
    if cost > rate.burst and not reserves:
        return False
    # The wait of the next call of this cost, if it comes at once: this call leaves `burst - cost`,
    # and the next one needs `cost`.
    wait = (2 * cost - rate.burst) * rate.interval
    # A limit such as one call in years is an error of the server.
    return wait <= longest and max(1, cost) * rate.interval <= _SLOWEST


class Settling:
    """Settles the calls of one client to the costs that their responses report.

    A cost that would close a lane for too long is malformed, and the call keeps its reserved cost
    of that unit. The first malformed response is logged as a warning, later ones at level DEBUG.

    Args:
        max_hold: as for `apply_advice`.
    """

    def __init__(self, max_hold: float) -> None:
        self._longest = max(max_hold, MAX_HOLD)
        self._has_warned = False

    def settle(self, slot: Slot, reporter: Reporter, cost: Cost | None, *, wrong: str = "") -> None:
        """Settle a call. Runs on the loop of the queue.

        Args:
            slot: the slot of the call.
            reporter: reports to its queue.
            cost: the true cost, as for `Slot.settle`. None: the reserved cost.
            wrong: why another part of the response is malformed. Default: no other part is.
        """
        if cost is not None:
            excess = self._excess(slot, reporter, cost)
            wrong = wrong or next(iter(excess.values()), "")
            stated = cost if isinstance(cost, Mapping) else {}
            rest = {unit: amount for unit, amount in stated.items() if unit not in excess}
            # If the whole cost is impossible, nothing is left to settle.
            if rest or not excess:
                slot.settle(rest if excess else cost)
        if wrong:
            reporter.count("malformed", slot)
            self._log(reporter, wrong)

    def _excess(self, slot: Slot, reporter: Reporter, cost: Cost) -> dict[str, str]:
        """Return the units whose cost is impossible, each with the reason."""
        excess = {}
        charged, costs = reporter.costs_of(slot), reporter.settled(slot, cost)
        for limit in reporter.limits_of(slot):
            # Permits have no cost, and what a budget has left says nothing of one answer.
            if isinstance(limit, Concurrency | Budget) or limit.unit not in costs:
                continue
            unit, amount = limit.unit, costs[limit.unit]
            # Allowed in any case: the cost that the user has reserved, and what the user's limit
            # admits at once or in one period, however long that period is.
            at_once = limit.burst if isinstance(limit, Rate) else limit.calls
            least = max(charged.get(unit, 0), limit.calls, at_once)
            if (amount - least) / limit_types.rate_of(limit) > self._longest:
                excess[unit] = f'{grammar.count_text(amount, unit)}, far above the limit "{limit}"'
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


def _reset_of(quota: Quota, max_hold: float) -> float | None:
    """Return the seconds until a remaining amount is no longer valid. None: the queue decides.

    Without a reset, this is the period of the quota, unless it is long: a long period may end at
    any time.
    """
    if quota.reset is not None:
        return quota.reset
    if quota.period is not None and quota.period <= _DEFAULT_RESET:
        return min(quota.period, max_hold)
    # None is the period of the queue's own limits, or a minute if it has none of this unit.
    return max_hold if max_hold < _DEFAULT_RESET else None
