"""Converts servers' reports, keys and limits to JSON and back; see `_core/statements.py`.

The whole queue is `[]`, and a key is `[key]`, which may be null. A call is the number by which both
processes know it. An infinite time is null.

Decisions have a form of their own: see `Decision.as_json`.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from aioapiqueue import Rate
from aioapiqueue.spi import cost_units, limit_types, statements

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence

    from aioapiqueue import Limit
    from aioapiqueue.spi import Call


Report = (
    statements.Throttled
    | statements.ServerCount
    | statements.Answered
    | statements.Settled
    | statements.Learn
)
"""What servers report. `_FORMS` has an entry for each."""


def to_json(
    report: Report, units: cost_units.Units, number_of: Callable[[Call], int | None]
) -> list[Any]:
    """Return a report as it is sent.

    Args:
        report: the report.
        units: what costs are counted in.
        number_of: returns the number by which the other process knows a call; None: it does not
            know the call.
    """
    parts = _FORMS[report.kind].parts_of(report, units)
    if not isinstance(report, statements.Learn):  # all others may be about a call
        parts.insert(0, None if report.call is None else number_of(report.call))
    return [report.kind, *parts]


_COUNTED = ("remaining", "reset", "limit", "period", "refills", "period_is_minimum")
"""The attributes of a `ServerCount` that describe the quota and are sent under their own names."""


def from_json(
    message: Sequence[Any], units: cost_units.Units, call_of: Callable[[int], Call | None]
) -> Report | None:
    """Return a report that was sent; None: it is about an unknown call, and has no effect.

    Args:
        message: its kind, and its parts.
        units: what costs are counted in. Units in the report are declared there.
        call_of: returns the call of a number.

    Raises:
        KeyError: an unknown kind, or a part is missing.
        ValueError: an invalid part, or one too many or too few.
        TypeError: a part of another type.
    """
    kind, *parts = message
    made_of = _FORMS[kind].made_of
    if kind == "learn":
        return made_of(units, *parts)
    number, *rest = parts
    call = None if number is None else call_of(number)
    # The hub remembers only the calls that have ended most recently. Throttling counts all the
    # same, and so does a count that was not the answer to a call.
    if call is None and not (kind == "throttled" or (kind == "count" and number is None)):
        return None
    return made_of(units, call, *rest)


class _ReportForm(NamedTuple):
    """How reports of one kind are sent.

    Attributes:
        parts_of: returns the parts of a report besides its kind and the number of its call.
        made_of: returns the report with a call and these parts.
    """

    parts_of: Callable[[Any, cost_units.Units], list[Any]]
    made_of: Callable[..., Report]


def _count_to(count: statements.ServerCount, units: cost_units.Units) -> list[Any]:
    counted = {name: getattr(count, name) for name in _COUNTED}
    stated = {name: one for name, one in counted.items() if one is not None}
    return [key_to(count.key), units.names[count.unit], stated]


def _count_from(
    units: cost_units.Units, call: Call | None, key: list[Any], unit: str, count: dict[str, Any]
) -> statements.ServerCount:
    units.declare((unit,))
    # What is None was not sent.
    sent = {name: count[name] for name in _COUNTED if name in count}
    return statements.ServerCount(units.known_place_of(unit), call=call, key=key_from(key), **sent)


def _settled_from(
    units: cost_units.Units, call: Call, amounts: dict[str, float]
) -> statements.Settled:
    units.declare(amounts)
    return statements.Settled(call, units.settled(amounts, call.costs))


def _learn_from(units: cost_units.Units, names: Sequence[str]) -> statements.Learn:
    units.declare(names)
    return statements.Learn()


# Units are sent by name: their places differ from process to process.
_FORMS = {
    "throttled": _ReportForm(
        lambda throttled, _: [key_to(throttled.key), throttled.retry_after],
        lambda _, call, key, after: statements.Throttled(call, key_from(key), after),
    ),
    "count": _ReportForm(_count_to, _count_from),
    "answered": _ReportForm(lambda *_: [], lambda _, call: statements.Answered(call)),
    "settled": _ReportForm(
        lambda settled, units: [amounts_to(settled.costs, units)], _settled_from
    ),
    "learn": _ReportForm(lambda _, units: [list(units.names)], _learn_from),
}


def plain_costs(costs: Sequence[float]) -> tuple[float, ...]:
    """Return costs with 0 in each unit that they do not state."""
    # Nothing is charged in either case. The mark of an unstated cost is NaN, which JSON lacks.
    return tuple(
        cost if cost_units.is_stated(costs, unit) else 0 for unit, cost in enumerate(costs)
    )


def amounts_to(costs: Sequence[float], units: cost_units.Units) -> dict[str, float]:
    """Return costs as they are sent: by unit, without units that they do not state."""
    # Units that were declared since the costs were stated are not in them.
    known = zip(units.names, costs, strict=False)
    return {
        name: cost for unit, (name, cost) in enumerate(known) if cost_units.is_stated(costs, unit)
    }


def key_to(key: Hashable) -> list[Hashable]:
    """Return a key as it is sent; None stands for the whole queue."""
    return [] if key is None else [key]


def key_from(sent: Sequence[Any]) -> Hashable:
    """Return a key that was sent; None stands for the whole queue."""
    return as_key(sent[0]) if sent else None


def as_key(value: Any) -> Hashable:  # noqa: ANN401 - of JSON
    """Return a value of JSON, which has lists for tuples, as a key."""
    return tuple(map(as_key, value)) if isinstance(value, list) else value


def is_sendable(key: Hashable) -> bool:
    """Return whether a key means the same in all processes."""
    if isinstance(key, tuple):
        return all(map(is_sendable, key))
    return key is None or isinstance(key, str | int | float)


def check_key(key: Hashable) -> None:
    """Check that the key of a lane can be sent.

    Raises:
        TypeError: it is not text, a number or a tuple of these.
    """
    if not is_sendable(key):
        raise TypeError(
            f"a shared lane's key must be text, a number or a tuple of these, not {key!r}"
        )


def limits_to(limits: Iterable[Limit]) -> list[str]:
    """Return limits as they are sent; a learnt one begins with "~"."""
    return [f"~{one}" if isinstance(one, limit_types.LearntRate) else str(one) for one in limits]


def limits_from(texts: Iterable[str]) -> tuple[Limit, ...]:
    """Return limits that were sent.

    Raises:
        ValueError: a text is malformed.
    """
    return tuple(map(_limit_from, texts))


@lru_cache(maxsize=1024)  # hundreds of lanes and clients have the same few limits
def _limit_from(text: str) -> Limit:
    if not isinstance(text, str):
        raise ValueError(f"a limit is sent as text, not as {text!r}")  # noqa: TRY004 - malformed
    limit = limit_types.as_limit(text.removeprefix("~"))
    if not text.startswith("~"):
        return limit
    if not isinstance(limit, Rate):
        raise ValueError(f"a learnt limit must be a rate, not {text!r}")  # noqa: TRY004 - malformed
    return limit_types.LearntRate(limit.calls, limit.per, limit.burst, limit.unit, ramp=limit.ramp)


def span_to(seconds: float) -> float | None:
    """Return a span or an instant as it is sent; null is infinite."""
    return None if seconds == math.inf else seconds


def span_from(value: float | None) -> float:
    """Return a span or an instant that was sent."""
    return math.inf if value is None else value
