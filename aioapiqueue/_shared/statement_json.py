"""Converts servers' reports, keys and limits to JSON and back; see `_core/statements.py`.

The whole queue is `[]`, and a key is `[key]`, which may be null. A call is the number by which both
processes know it. An infinite time is null.

Decisions have a form of their own: see `Decision.as_json`.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from aioapiqueue import Rate
from aioapiqueue.spi import cost_units, limit_types, statements

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence

    from aioapiqueue import Limit
    from aioapiqueue.spi import Call


def to_json(
    statement: statements.Statement,
    units: cost_units.Units,
    number_of: Callable[[Call], int | None],
) -> list[Any]:
    """Return a report as it is sent.

    Args:
        statement: the report.
        units: what costs are counted in.
        number_of: returns the number by which the other process knows a call; None: it does not
            know the call.
    """

    def number(call: Call | None) -> int | None:
        return None if call is None else number_of(call)

    parts: list[Any] = []
    # Units are sent by name: their places differ from process to process.
    match statement:
        case statements.Throttled(call, key, retry_after):
            parts = [number(call), key_to(key), retry_after]
        case statements.ServerCount():
            parts = [number(statement.call), key_to(statement.key), units.names[statement.unit]]
            counted = {name: getattr(statement, name) for name in _COUNTED}
            parts.append({name: one for name, one in counted.items() if one is not None})
        case statements.Answered(call):
            parts = [number(call)]
        case statements.Settled(call, costs):
            names = enumerate(units.names[: len(costs)])
            stated = {
                name: costs[unit] for unit, name in names if cost_units.is_stated(costs, unit)
            }
            parts = [number(call), stated]
        case statements.Learn():
            parts = [list(units.names)]
    return [statement.kind, *parts]


_COUNTED = ("remaining", "reset", "limit", "period", "refills", "period_is_minimum")
"""The attributes of a `ServerCount` that describe the quota and are sent under their own names."""


def from_json(
    message: Sequence[Any], units: cost_units.Units, call_of: Callable[[int], Call | None]
) -> statements.Statement | None:
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
    make = _FROM_JSON[kind]
    if kind not in _OF_CALLS:
        return make(units, *parts)
    number, *rest = parts
    call = None if number is None else call_of(number)
    # The hub remembers only the calls that have ended most recently. Throttling counts all the
    # same, and so does a count that was not the answer to a call.
    if call is None and not (kind == "throttled" or (kind == "count" and number is None)):
        return None
    return make(units, call, *rest)


def _settled_from(
    units: cost_units.Units, call: Call, amounts: dict[str, float]
) -> statements.Settled:
    units.declare(amounts)
    return statements.Settled(call, units.settled(amounts, call.costs))


def _count_from(
    units: cost_units.Units, call: Call | None, key: list[Any], unit: str, count: dict[str, Any]
) -> statements.ServerCount:
    units.declare((unit,))
    # What is None was not sent.
    sent = {name: count[name] for name in _COUNTED if name in count}
    return statements.ServerCount(units.known_place_of(unit), call=call, key=key_from(key), **sent)


def _learn_from(units: cost_units.Units, names: Sequence[str]) -> statements.Learn:
    units.declare(names)
    return statements.Learn()


_FROM_JSON: dict[str, Callable[..., statements.Statement]] = {
    "throttled": lambda _, call, key, after: statements.Throttled(call, key_from(key), after),
    "count": _count_from,
    "answered": lambda _, call: statements.Answered(call),
    "settled": _settled_from,
    "learn": _learn_from,
}
_OF_CALLS = {"throttled", "count", "answered", "settled"}


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
    limit = limit_types.as_limit(text.removeprefix("~"))
    if not text.startswith("~"):
        return limit
    assert isinstance(limit, Rate)  # noqa: S101 - as `limits_to` writes it
    return limit_types.LearntRate(limit.calls, limit.per, limit.burst, limit.unit)


def span_to(seconds: float) -> float | None:
    """Return a span or an instant as it is sent; null is infinite."""
    return None if seconds == math.inf else seconds


def span_from(value: float | None) -> float:
    """Return a span or an instant that was sent."""
    return math.inf if value is None else value
