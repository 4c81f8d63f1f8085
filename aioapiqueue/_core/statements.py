"""What users decide and what servers report: values that every limiter takes by `apply`.

A user pauses a queue, a server reports what is left of a quota: each is a *statement*. Whatever
lies between who makes it and where it takes effect (the proxy for threads, the connection to the
hub, the server of a fleet) passes it on without knowing what it says. So a new one needs a class
here, a method where users call it, and a handler where it takes effect.

Each is a tuple with a `kind`, so that statements of two kinds are never equal. Frozen dataclasses
would be as good, but Python needs longer to create them, and every import of this package would
wait.

Users make *decisions*, which last (`_shared/decisions.py`). Servers make *reports*, which
describe one moment. Times are on the clock of the queue's loop.

Only `to_json` and `from_json` know how a statement is sent to another process. A key is `[]` for
the whole queue and `[key]` for a key, which may be null; a call is the number by which both sides
know it; an infinite time is null.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from aioapiqueue._limits.rates import LearntRate, Rate, parse_limit
from aioapiqueue._limits.units import is_stated

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence

    from aioapiqueue._core.slot import Call
    from aioapiqueue._limits.rates import Limit
    from aioapiqueue._limits.units import Units

__all__ = [
    "Answered",
    "Hold",
    "Learn",
    "Learnt",
    "Pause",
    "Resume",
    "ServerCount",
    "SetLimits",
    "Settled",
    "Statement",
    "Throttled",
    "from_json",
    "key_from",
    "key_to",
    "limits_from",
    "limits_to",
    "span_from",
    "span_to",
    "to_json",
]


class SetLimits(NamedTuple):
    """The queue (None), or a key or pattern, has these limits from now on."""

    key: Hashable
    limits: tuple[Limit, ...]
    kind: Literal["set"] = "set"


class Learnt(NamedTuple):
    """Answers state these limits of the queue (None) or a key; they hold beside configured ones."""

    key: Hashable
    limits: tuple[Limit, ...]
    kind: Literal["learnt"] = "learnt"


class Pause(NamedTuple):
    """Nothing starts before an instant; inf: before a `Resume`."""

    until: float
    kind: Literal["pause"] = "pause"


class Resume(NamedTuple):
    """All pauses end."""

    kind: Literal["resume"] = "resume"


class Hold(NamedTuple):
    """Nothing of a key's lane (None, or no lane: nothing at all) starts before an instant."""

    key: Hashable
    until: float
    kind: Literal["hold"] = "hold"


class Throttled(NamedTuple):
    """The server has pushed back: on one call, or (None) on some call of a key.

    Attributes:
        call: which one.
        key: whose lane slows down.
        retry_after: seconds for which the server wants no call; None: it does not say.
    """

    call: Call | None
    key: Hashable
    retry_after: float | None
    kind: Literal["throttled"] = "throttled"


class ServerCount(NamedTuple):
    """The server says what is left of one of its quotas.

    Attributes:
        unit: what it counts: the place of that in costs.
        remaining: how much is left.
        reset: seconds until it is full again; None: not said.
        limit: its size, by which quotas of one unit are told apart.
        number: of the call, by the order in which calls were released; 0: it is not known, so that
            of those that were released at its instant none is taken for a later one.
        released_at: when that call was released.
        period: seconds in which so much as `limit` is let through, where the limit was learnt.
        refills: whether the quota is known to be a bucket, so that it comes back bit by bit.
        period_is_minimum: whether nobody knows more of its period than that it is no shorter than
            the reset, so that it is not known either for how long it has been used.
        call: the one that was answered so; None: no call was.
        key: whose lane, if no call was answered.
    """

    unit: int
    remaining: float
    reset: float | None = None
    limit: float | None = None
    number: int = 0
    released_at: float = -math.inf
    period: float | None = None
    refills: bool = False
    period_is_minimum: bool = False
    call: Call | None = None
    key: Hashable = None
    kind: Literal["count"] = "count"


class Answered(NamedTuple):
    """The server has answered a call."""

    call: Call
    kind: Literal["answered"] = "answered"


class Settled(NamedTuple):
    """A call has cost something else than it was charged; `costs` are in full, by place."""

    call: Call
    costs: Sequence[float]
    kind: Literal["settled"] = "settled"


class Learn(NamedTuple):
    """Limits are learnt from answers: until a lane has its first one, one call of it is out."""

    kind: Literal["learn"] = "learn"


Statement: TypeAlias = (
    "SetLimits | Learnt | Pause | Resume | Hold"
    " | Throttled | ServerCount | Answered | Settled | Learn"
)


# To another process and back.


def to_json(
    statement: Statement, units: Units, number_of: Callable[[Call], int | None]
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
        case SetLimits(key, limits) | Learnt(key, limits):
            parts = [key_to(key), limits_to(limits)]
        case Pause(until):
            parts = [span_to(until)]
        case Hold(key, until):
            parts = [key_to(key), span_to(until)]
        case Throttled(call, key, retry_after):
            parts = [number(call), key_to(key), retry_after]
        case ServerCount():
            count = {name: getattr(statement, name) for name in _COUNTED}
            parts = [number(statement.call), key_to(statement.key), units.names[statement.unit]]
            parts.append({name: one for name, one in count.items() if one is not None})
        case Answered(call):
            parts = [number(call)]
        case Settled(call, costs):
            names = enumerate(units.names[: len(costs)])
            stated = {name: costs[unit] for unit, name in names if is_stated(costs, unit)}
            parts = [number(call), stated]
        case Learn():
            parts = [list(units.names)]
    return [statement.kind, *parts]


_COUNTED = ("remaining", "reset", "limit", "period", "refills", "period_is_minimum")
"""What is sent of a `ServerCount`, besides whose it is; each process numbers its own calls."""


def from_json(
    message: Sequence[Any], units: Units, call_of: Callable[[int], Call | None]
) -> Statement | None:
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


def _settled_from(units: Units, call: Call, amounts: dict[str, float]) -> Settled:
    units.declare(amounts)
    return Settled(call, units.settled(amounts, call.costs))


def _count_from(
    units: Units, call: Call | None, key: list[Any], unit: str, count: dict[str, Any]
) -> ServerCount:
    units.declare((unit,))
    said = {name: count[name] for name in _COUNTED if name in count}
    return ServerCount(units.known_place_of(unit), call=call, key=_key_from(key), **said)


def _learn_from(units: Units, names: Sequence[str]) -> Learn:
    units.declare(names)
    return Learn()


_FROM_JSON: dict[str, Callable[..., Statement]] = {
    "set": lambda _, key, limits: SetLimits(_key_from(key), limits_from(limits)),
    "learnt": lambda _, key, limits: Learnt(_key_from(key), limits_from(limits)),
    "pause": lambda _, until: Pause(span_from(until)),
    "resume": lambda _: Resume(),
    "hold": lambda _, key, until: Hold(_key_from(key), span_from(until)),
    "throttled": lambda _, call, key, after: Throttled(call, _key_from(key), after),
    "count": _count_from,
    "answered": lambda _, call: Answered(call),
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
    return [f"~{one}" if isinstance(one, LearntRate) else str(one) for one in limits]


def limits_from(texts: Iterable[str]) -> tuple[Limit, ...]:
    """Return limits that were sent.

    Raises:
        ValueError: one of them is none.
    """
    return tuple(map(_limit_from, texts))


@lru_cache(maxsize=1024)  # hundreds of lanes, and of clients that bring them along, have few
def _limit_from(text: str) -> Limit:
    limit = parse_limit(text.removeprefix("~"))
    if not text.startswith("~"):
        return limit
    assert isinstance(limit, Rate)  # noqa: S101 - as `limits_to` writes it
    return LearntRate(limit.calls, limit.per, limit.burst, limit.unit)


def span_to(seconds: float) -> float | None:
    """Return a span or an instant as it is sent; null is infinite."""
    return None if seconds == math.inf else seconds


def span_from(value: float | None) -> float:
    """Return a span or an instant that was sent."""
    return math.inf if value is None else value
