"""How a queue is given what the answer to one of its calls asks for. Reads no clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioapiqueue._dispatcher import Dispatcher
    from aioapiqueue._slot import Call
    from aioapiqueue._units import Cost
    from aioapiqueue.integrations._advice import Advice, Quota
    from aioapiqueue.integrations._learning import Learner

__all__ = ["apply_advice"]

_UNSAID = 60.0
"""Seconds for which the queue believes what remains where no reset is given, as a rule."""
_SLOWEST = 86_400.0
"""Seconds for each call of the slowest limit that is learnt."""


def apply_advice(
    advice: Advice,
    call: Call,
    dispatcher: Dispatcher,
    *,
    max_hold: float,
    learner: Learner | None = None,
    failure: Cost | None = None,
) -> None:
    """Give a queue what the answer to one of its calls asks for, on the queue's loop.

    Args:
        advice: what it asks for.
        call: which was answered.
        dispatcher: the queue's.
        max_hold: the longest time that is believed, in seconds.
        learner: learns limits from answers; default: none are learnt.
        failure: what the server counts of a call that it has not served; default: all of it.
    """
    if advice.malformed:
        dispatcher.count("malformed", call)
    if advice.refused:
        dispatcher.count("refused_by_server", call)
    if failure is not None:  # first: what the server says remains does not contain it
        call.settle(failure)
    dispatcher.answered(call)
    quotas = [one for one in advice.remaining if one.unit in dispatcher.units]
    if advice.malformed:  # without a reset, they are perhaps what could not be read
        quotas = [one for one in quotas if one.reset is not None]
    given = [(one, _reset_of(one, max_hold)) for one in quotas]
    if learner is None:
        for quota, reset in given:
            if quota.remaining is not None:
                dispatcher.sync(
                    call, quota.remaining, unit=quota.unit, reset=reset, limit=quota.limit
                )
    else:
        _learn(advice, call, dispatcher, learner, given)
    if advice.throttled:
        call.throttled(advice.hold)
    elif advice.hold:
        dispatcher.hold(advice.hold, call, call.key)


def _learn(
    advice: Advice,
    call: Call,
    dispatcher: Dispatcher,
    learner: Learner,
    given: Sequence[tuple[Quota, float | None]],
) -> None:
    now = dispatcher.now()
    quotas = learner.with_periods(call.key, [quota for quota, _ in given], now)
    for quota, (_, reset) in zip(quotas, given, strict=True):
        if quota.remaining is not None:
            dispatcher.sync(
                call,
                quota.remaining,
                unit=quota.unit,
                reset=reset,
                limit=quota.limit,
                period=quota.period if quota.limit else None,
                refills=learner.is_bucket(call.key, quota, now),
                period_is_minimum=learner.period_is_minimum(call.key, quota),
            )
    rates = [one for one in learner.rates(advice, quotas) if one.unit in dispatcher.units]
    # One that lets a call through in years is no limit, but an error.
    fit = [rate for rate in rates if rate.interval <= _SLOWEST]
    if len(fit) < len(rates):
        dispatcher.count("malformed", call)
    if fit:
        dispatcher.adopt(call, fit)


def _reset_of(quota: Quota, max_hold: float) -> float | None:
    """Return the seconds for which what remains is believed; None: as the queue's limits say.

    Without a reset it is the quota's period, if that is short. A long one may end any time.
    """
    if quota.reset is not None:
        return quota.reset
    if quota.period is not None and quota.period <= _UNSAID:
        return min(quota.period, max_hold)
    return max_hold if max_hold < _UNSAID else None
