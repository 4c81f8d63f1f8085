"""How statements are sent to another process; see `_core/statements.py`.

A key is `[]` for the whole queue and `[key]` for a key, which may be null. A call is the number by
which both processes know it. An infinite time is null.
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
    """Return a statement as it is sent.

    Args:
        statement: which.
        units: what costs are counted in.
        number_of: returns the number by which the other process knows a call; None: by none.
    """

    def number(call: Call | None) -> int | None:
        return None if call is None else number_of(call)

    parts: list[Any] = []
    match statement:
        case statements.SetLimits(key, limits) | statements.Learnt(key, limits):
            parts = [key_to(key), limits_to(limits)]
        case statements.Pause(until):
            parts = [span_to(until)]
        case statements.Hold(key, until):
            parts = [key_to(key), span_to(until)]
        case statements.Throttled(call, key, retry_after):
            parts = [number(call), key_to(key), retry_after]
        case statements.ServerCount():
            count = {name: getattr(statement, name) for name in _COUNTED}
            parts = [number(statement.call), key_to(statement.key), units.names[statement.unit]]
            parts.append({name: one for name, one in count.items() if one is not None})
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
"""What is sent of a `ServerCount`, besides whose it is; each process numbers its own calls."""


def from_json(
    message: Sequence[Any], units: cost_units.Units, call_of: Callable[[int], Call | None]
) -> statements.Statement | None:
    """Return a statement that was sent; None: it is of a call that is known no more.

    Push-back counts all the same.

    Args:
        message: its kind, and its parts.
        units: what costs are counted in; those of the statement are declared there.
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
    said = {name: count[name] for name in _COUNTED if name in count}
    return statements.ServerCount(units.known_place_of(unit), call=call, key=_key_from(key), **said)


def _learn_from(units: cost_units.Units, names: Sequence[str]) -> statements.Learn:
    units.declare(names)
    return statements.Learn()


_FROM_JSON: dict[str, Callable[..., statements.Statement]] = {
    "set": lambda _, key, limits: statements.SetLimits(_key_from(key), limits_from(limits)),
    "learnt": lambda _, key, limits: statements.Learnt(_key_from(key), limits_from(limits)),
    "pause": lambda _, until: statements.Pause(span_from(until)),
    "resume": lambda _: statements.Resume(),
    "hold": lambda _, key, until: statements.Hold(_key_from(key), span_from(until)),
    "throttled": lambda _, call, key, after: statements.Throttled(call, _key_from(key), after),
    "count": _count_from,
    "answered": lambda _, call: statements.Answered(call),
    "settled": _settled_from,
    "learn": _learn_from,
}
_OF_CALLS = {"throttled", "count", "answered", "settled"}


def key_to(key: Hashable) -> list[Hashable]:
    """Return a key as it is sent; None stands for the whole queue."""
    return [] if key is None else [key]


def _key_from(value: Sequence[Any]) -> Hashable:
    return key_from(value[0]) if value else None


def key_from(value: Any) -> Hashable:  # noqa: ANN401 - of JSON
    """Return a key that was sent: JSON has lists for tuples."""
    return tuple(map(key_from, value)) if isinstance(value, list) else value


def limits_to(limits: Iterable[Limit]) -> list[str]:
    """Return limits as they are sent; learnt ones are marked."""
    return [f"~{one}" if isinstance(one, limit_types.LearntRate) else str(one) for one in limits]


def limits_from(texts: Iterable[str]) -> tuple[Limit, ...]:
    """Return limits that were sent.

    Raises:
        ValueError: one of them is none.
    """
    return tuple(map(_limit_from, texts))


@lru_cache(maxsize=1024)  # hundreds of lanes, and of clients that bring them along, have few
def _limit_from(text: str) -> Limit:
    limit = limit_types.parse_limit(text.removeprefix("~"))
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
