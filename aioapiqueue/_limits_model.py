"""What limits.toml may say: `ServiceLimits`, and how it is read."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, TypeGuard

from aioapiqueue import _limits_names as _names
from aioapiqueue._limits_report import Place, Report, quoted
from aioapiqueue._queue import ApiQueue
from aioapiqueue._rate import Limit, Rate, Window, as_limit
from aioapiqueue.adaptive import Adaptive

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioapiqueue._events import Observer

__all__ = [
    "Scope",
    "ServiceLimits",
    "check_name",
    "check_operation",
    "read_limits",
    "read_service",
    "revised",
]

Scope = Literal["account", "region"]
_FORMS = (
    'write "10/s", "500/min" or "100ms" (a pace), "20/s burst 100" (a token bucket), '
    '"5000 in any 1h" (a sliding window), several of them in a list, or "unlimited"'
)
_LIMIT_KEYS = ("rate", "burst", "window")
_OTHER_KEYS = ("scope", "concurrency", "order", "adaptive", "check", "lanes")
_SCOPES: tuple[Scope, ...] = ("account", "region")
_MOST = 1e12  # calls: more is a slip of the keyboard
_BURST = re.compile(r"(.+?)(?:\s+burst\s+(\S+)|\s*\(\s*burst\s+(\S+?)\s*\))", re.IGNORECASE)
_WINDOW = re.compile(r"(\S+)\s+in\s+any\s+(.+)", re.IGNORECASE)
_NUMBER = re.compile(r"\d{1,12}(?:\.\d{1,12})?", re.ASCII)
_LONGEST_LIMIT = 60
_DEEPEST = 8  # keys and positions; tables and lists of limits need no more


@dataclass(frozen=True, init=False, repr=False, slots=True)
class ServiceLimits:
    """The limits of one service, as a table of limits.toml says them.

    >>> ServiceLimits("20/s burst 100", lanes={"DescribeSnapshots": "5/s"}).rate
    (Rate(calls=20, per=1.0, burst=100),)

    Args:
        rate: the service's own limits, which hold for all operations together: a string, a `Rate`,
            a `Window`, or several in a list. Default: none, or "unlimited".
        lanes: limits of single operations, under the service's own; `"*"` is each other operation.
        scope: what has limits of its own: `"account"` and `"region"` (default: each account in each
            Region, as AWS mostly counts), one of them, or none: one queue for all.
        concurrency: how many calls may be in flight at once; default: any number.
        order: `"fifo"`, or `"fair"`: operations take turns.
        adaptive: how to slow down when AWS throttles; True for `Adaptive()`; default: not at all.
        check: whether the names of the service and its operations must be known ones. False is for
            those newer than the list here and the botocore installed.

    Raises:
        LimitsError: a limit or word that makes no sense; all of them at once.
    """

    rate: tuple[Limit, ...]
    lanes: Mapping[str, tuple[Limit, ...]]
    scope: tuple[Scope, ...]
    concurrency: int | None
    order: Literal["fifo", "fair"]
    adaptive: Adaptive | None
    check: bool

    def __init__(
        self,
        rate: str | Limit | Sequence[str | Limit] = (),
        *,
        lanes: Mapping[str, str | Limit | Sequence[str | Limit]] | None = None,
        scope: Sequence[Scope] = ("account", "region"),
        concurrency: int | None = None,
        order: Literal["fifo", "fair"] = "fifo",
        adaptive: Adaptive | bool | None = None,
        check: bool = True,
    ) -> None:
        report = Report("ServiceLimits")
        given = {
            "rate": rate,
            "lanes": {} if lanes is None else lanes,
            "scope": scope,
            "concurrency": concurrency,
            "order": order,
            "adaptive": adaptive,
            "check": check,
        }
        self._fill(_fields(given, report, ()), report, ())
        report.finish()

    def _fill(self, fields: Mapping[str, object], report: Report, place: Place) -> None:
        """Set all fields, which are checked; see now what a queue would say of them later."""
        for name, value in {**_DEFAULTS, **fields}.items():
            object.__setattr__(self, name, value)
        if not report.has(place):
            try:
                self.queue(None)
            except (TypeError, ValueError) as error:  # a floor above the limits
                report.add(place, str(error))

    def __hash__(self) -> int:
        return hash((self.rate, tuple(self.lanes.items()), self.scope))

    def __repr__(self) -> str:
        said = [
            f"{field.name}={dict(value) if field.name == 'lanes' else value!r}"
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) != _DEFAULTS.get(field.name)
        ]
        return f"ServiceLimits({', '.join(said)})"

    def queue(self, name: str | None, observers: Sequence[Observer] = ()) -> ApiQueue:
        """Return a new queue of these limits."""
        return ApiQueue(
            *self.rate,
            name=name,
            lanes=dict(self.lanes.items()),
            order=self.order,
            concurrency=self.concurrency,
            adaptive=self.adaptive,
            observers=observers,
        )


def _is_list(value: object) -> TypeGuard[Sequence[object]]:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def read_limits(value: object, report: Report, place: Place) -> tuple[Limit, ...]:
    """Read limits as they stand after `rate =` or an operation's name."""
    if len(place) > _DEEPEST:
        report.add(place[:_DEEPEST], f"nested too deeply: {_FORMS}")
        return ()
    if isinstance(value, Mapping):
        if not (_unknown_keys(value, _LIMIT_KEYS, report, place) or value):
            report.add(place, f"no limit is given; {_FORMS}")
        return _limit_table(value, report, place)
    if not _is_list(value):
        return _limit_text(value, report, place)
    found: list[Limit] = []
    for index, one in enumerate(value):
        item = (*place, index)
        if _is_list(one):
            report.add(item, f"a list within a list: {_FORMS}")
        elif isinstance(one, str) and one.strip().lower() == "unlimited":
            report.add(item, '"unlimited" stands alone: take it out of the list, or the others')
        else:
            found += read_limits(one, report, item)
    return tuple(found)


def _limit_table(table: Mapping[object, object], report: Report, place: Place) -> tuple[Limit, ...]:
    """Read `rate`, `burst` and `window`, of a limit's or a service's table."""
    found: list[Limit] = []
    if "rate" in table:
        found += read_limits(table["rate"], report, (*place, "rate"))
    if "burst" in table:
        burst, at = table["burst"], (*place, "burst")
        if not _is_number(burst, least=1):
            report.add(at, f"{quoted(burst)} is no number of calls at once: write 1 or more")
        elif len(found) == 1 and isinstance(found[0], Rate) and found[0].burst == 1:
            found[0] = dataclasses.replace(found[0], burst=burst)
        elif not report.has((*place, "rate")):
            report.add(at, 'a burst belongs to one rate: rate = "20/s", burst = 100')
    if "window" in table:
        found += _window(table["window"], report, (*place, "window"))
    return tuple(found)


def _window(value: object, report: Report, place: Place) -> list[Window]:
    if isinstance(value, str) and len(value) <= _LONGEST_LIMIT:
        try:
            rate = Rate.parse(value)
            return [Window(rate.calls, rate.per)]  # type: ignore[arg-type]  # it says if not whole
        except (TypeError, ValueError):
            pass
    report.add(
        place, f'{quoted(value)} is no window: write a whole number of calls per time, "5000/h"'
    )
    return []


def _limit_text(value: object, report: Report, place: Place) -> tuple[Limit, ...]:
    try:
        if not isinstance(value, str):
            return (as_limit(value),)
        if value.strip().lower() == "unlimited":
            return ()
        return tuple(_limit(one.strip()) for one in value.split(","))
    except (TypeError, ValueError, OverflowError) as error:
        bare = isinstance(value, int | float) and _is_number(value, least=0)
        report.add(place, str(error) if bare else f"{quoted(value)} is no limit: {_FORMS}")
        return ()


def _limit(text: str) -> Limit:
    if len(text) > _LONGEST_LIMIT:
        raise ValueError(text)
    if match := _WINDOW.fullmatch(text):
        rate = Rate.parse("{} per {}".format(*match.groups()))
        return Window(rate.calls, rate.per)  # type: ignore[arg-type]  # it says if not whole
    if match := _BURST.fullmatch(text):
        burst = match[2] or match[3]
        if not _NUMBER.fullmatch(burst):
            raise ValueError(text)
        number = float(burst)
        return dataclasses.replace(
            Rate.parse(match[1]), burst=int(number) if number.is_integer() else number
        )
    return Rate.parse(text)


def _is_number(value: object, *, least: float) -> TypeGuard[float]:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= _MOST
    )


def _lanes(value: object, report: Report, place: Place) -> Mapping[str, tuple[Limit, ...]]:
    if not isinstance(value, Mapping):
        report.add(place, f'{quoted(value)} is no table: write DescribeSnapshots = "5/s" in one')
        return MappingProxyType({})
    return MappingProxyType(
        {str(name): read_limits(own, report, (*place, str(name))) for name, own in value.items()}
    )


def _scope(value: object, report: Report, place: Place) -> tuple[Scope, ...]:
    if _is_list(value) and all(one in _SCOPES and value.count(one) == 1 for one in value):
        return tuple(one for one in _SCOPES if one in value)
    report.add(
        place,
        f'{quoted(value)} is no scope: write ["account", "region"], one of the two in a list, '
        "or [] for one queue for all",
    )
    return _SCOPES


def _concurrency(value: object, report: Report, place: Place) -> int | None:
    if value is None:
        return None
    if isinstance(value, int) and _is_number(value, least=1):
        return int(value)
    report.add(place, f"{quoted(value)} is no number of calls in flight: write 1 or more")
    return None


def _order(value: object, report: Report, place: Place) -> Literal["fifo", "fair"]:
    if value in ("fifo", "fair"):
        return value
    report.add(place, f'{quoted(value)} is no order: write "fifo" or "fair"')
    return "fifo"


def _flag(value: object, report: Report, place: Place) -> bool:
    if isinstance(value, bool):
        return value
    report.add(place, f"{quoted(value)} is neither true nor false")
    return True


def _adaptive(value: object, report: Report, place: Place) -> Adaptive | None:
    if value is None or isinstance(value, Adaptive):
        return value
    if isinstance(value, bool):
        return Adaptive() if value else None
    if isinstance(value, Mapping):
        keys = tuple(field.name for field in dataclasses.fields(Adaptive))
        if not _unknown_keys(value, keys, report, place):
            try:
                return Adaptive(**value)
            except (TypeError, ValueError, ArithmeticError, RecursionError) as error:
                report.add(place, f"{str(error) or quoted(value):.300}")
    else:
        report.add(place, f'{quoted(value)}: write true, or a table such as {{floor = "1/s"}}')
    return None


def _unknown_keys(
    table: Mapping[object, object], known: Sequence[str], report: Report, place: Place
) -> bool:
    unknown = [key for key in table if key not in known]
    for key in unknown:
        meant = _names.nearest(str(key), known)
        report.add(
            (*place, str(key)),
            f"unknown key {quoted(key)}"
            + (f"; did you mean {meant}?" if meant else f"; known are {', '.join(known)}"),
        )
    return bool(unknown)


_READERS: dict[str, Callable[[object, Report, Place], object]] = {
    "rate": read_limits,
    "lanes": _lanes,
    "scope": _scope,
    "concurrency": _concurrency,
    "order": _order,
    "adaptive": _adaptive,
    "check": _flag,
}
_DEFAULTS: dict[str, object] = {
    "rate": (),
    "lanes": MappingProxyType({}),
    "scope": _SCOPES,
    "concurrency": None,
    "order": "fifo",
    "adaptive": None,
    "check": True,
}


def _fields(table: Mapping[str, object], report: Report, place: Place) -> dict[str, object]:
    """Read each field of a `ServiceLimits` that `table` has."""
    return {
        key: read(table[key], report, (*place, key))
        for key, read in _READERS.items()
        if key in table
    }


def read_service(service: str, value: object, report: Report) -> ServiceLimits:
    """Read one table of limits.toml, or what stands for it in code.

    Args:
        service: its name, or "default"; names are not checked here.
        value: a `ServiceLimits`, a table, or limits alone.
        report: gets what is wrong.
    """
    if isinstance(value, ServiceLimits):
        return value
    place: Place = (service,)
    if not isinstance(value, Mapping):
        fields: dict[str, object] = {"rate": read_limits(value, report, place)}
    else:
        clear = not _unknown_keys(value, (*_LIMIT_KEYS, *_OTHER_KEYS), report, place)
        fields = _fields({key: value[key] for key in _OTHER_KEYS if key in value}, report, place)
        if any(key in value for key in _LIMIT_KEYS):
            fields["rate"] = _limit_table(value, report, place)
        elif "lanes" in value and "concurrency" not in value:
            report.add(
                place,
                "lanes without a queue: the service has no limit of its own; "
                'write rate = "10/s", or rate = "unlimited" if there is to be none',
            )
        elif "concurrency" not in value and clear:
            report.add(place, f"no limit is given; {_FORMS}")
    spec = object.__new__(ServiceLimits)
    spec._fill(fields, report, place)
    return spec


def revised(
    old: ServiceLimits, report: Report, *, operation: str | None, limits: tuple[Limit, ...]
) -> ServiceLimits:
    """Return `old` with other limits for one operation, or (None) of its own."""
    fields = {name: getattr(old, name) for name in _DEFAULTS}
    if operation is None:
        fields["rate"] = limits
    else:
        fields["lanes"] = MappingProxyType({**old.lanes, operation: limits})
    spec = object.__new__(ServiceLimits)
    spec._fill(fields, report, ())
    return spec


def check_name(service: str, report: Report, place: Place) -> None:
    """Note if AWS has no such service."""
    if service != "default" and (problem := _names.unknown_service(service)):
        report.add(place, problem)


def check_operation(service: str, operation: str, report: Report, place: Place) -> None:
    """Note if `service` has no such operation, as far as the botocore installed can tell."""
    if operation == "*":
        return
    if service == "default":
        problem: str | None = (
            f'{quoted(operation)} is an operation of one service: name it there; here goes only "*"'
        )
    else:
        problem = _names.unknown_operation(service, operation)
    if problem:
        report.add(place, problem)
