"""What limits.toml may say: `ServiceLimits`, and how it is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from aioapiqueue._limits import names as _names
from aioapiqueue._limits.buckets import Bucket, fits, read_buckets, with_lanes
from aioapiqueue._limits.presets import Base, base_of
from aioapiqueue._limits.read import (
    FORMS,
    LIMIT_KEYS,
    is_list,
    is_number,
    limit_table,
    read_limits,
    unknown_keys,
)
from aioapiqueue._limits.report import Place, Report, quoted
from aioapiqueue._limits.shares import take_preset
from aioapiqueue._queue import ApiQueue
from aioapiqueue.adaptive import Adaptive

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from aioapiqueue._events import Observer
    from aioapiqueue._limiter import LimiterFactory
    from aioapiqueue._rate import Limit

__all__ = [
    "Scope",
    "ServiceLimits",
    "check_buckets",
    "check_name",
    "check_operation",
    "read_flag",
    "read_limits",
    "read_service",
    "revised",
]

Scope = Literal["account", "region"]
_OTHER_KEYS = ("scope", "concurrency", "order", "adaptive", "check", "lanes", "buckets")
_PRESET_KEYS = ("preset", "share", "quotas")
_SCOPES: tuple[Scope, ...] = ("account", "region")


@dataclass(frozen=True, init=False, repr=False, slots=True)
class ServiceLimits:
    """The limits of one service, as a table of limits.toml says them.

    >>> ServiceLimits("20/s burst 100", lanes={"DescribeSnapshots": "5/s"}).rate
    (Rate(calls=20, per=1.0, burst=100),)

    Args:
        rate: the service's own limits, which hold for all operations together: a string, a `Rate`,
            a `Window`, or several in a list. Default: none, or "unlimited".
        lanes: limits of single operations, under the service's own; `"Describe*"` is each operation
            whose name begins so, `"*"` each other one.
        scope: what has limits of its own: `"account"` and `"region"` (default: each account in each
            Region, as AWS mostly counts), one of them, or none: one queue for all.
        concurrency: how many calls may be in flight at once; default: any number.
        order: `"fifo"`, or `"fair"`: operations take turns.
        adaptive: how to slow down when AWS throttles; True for `Adaptive()`; default: not at all.
        buckets: limits that some operations share, or that depend on a call's parameters, by name:
            tables as limits.toml has them.
        check: whether the names of the service and its operations must be known ones. False is for
            those newer than the list that is part of this package and the botocore installed.

    Raises:
        LimitsError: a limit or word that makes no sense; all of them at once.
    """

    rate: tuple[Limit, ...]
    lanes: Mapping[str, tuple[Limit, ...]]
    scope: tuple[Scope, ...]
    concurrency: int | None
    order: Literal["fifo", "fair"]
    adaptive: Adaptive | None
    buckets: Mapping[str, Bucket]
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
        buckets: Mapping[str, Bucket | Mapping[str, object]] | None = None,
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
            "buckets": {} if buckets is None else buckets,
            "check": check,
        }
        self._fill(_fields(given, report, ()), report, ())
        report.finish()

    def _fill(self, fields: Mapping[str, object], report: Report, place: Place) -> None:
        """Set all fields, which are checked; see now what a queue would say of them later."""
        for name, value in {**_DEFAULTS, **fields}.items():
            object.__setattr__(self, name, value)
        # Of a rate alone, a queue has nothing to say; and a file may have thousands of those.
        more = self.adaptive or self.lanes or self.buckets
        if more and not report.has(place):
            try:
                self.queue(None)
            except (TypeError, ValueError) as error:  # a floor above the limits
                report.add(place, str(error))

    def __hash__(self) -> int:
        return hash((self.rate, tuple(self.lanes.items()), self.scope))

    def __repr__(self) -> str:
        said = [
            f"{field.name}={dict(value) if isinstance(value, Mapping) else value!r}"
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) != _DEFAULTS.get(field.name)
        ]
        return f"ServiceLimits({', '.join(said)})"

    @property
    def own(self) -> bool:
        """Whether it has more to say than its shared buckets do: what each has is a lane."""
        each = any(bucket.each for bucket in self.buckets.values())
        return bool(self.rate or self.lanes or self.concurrency or self.adaptive or each)

    def queue(
        self,
        name: str | None,
        observers: Sequence[Observer] = (),
        *,
        bucket: str | None = None,
        schedule: LimiterFactory | None = None,
    ) -> ApiQueue:
        """Return a new queue of these limits, but for shared buckets; or of one of those."""
        if bucket is not None:
            limits = self.buckets[bucket].limits
            return ApiQueue(*limits, name=name, schedule=schedule, observers=observers)
        lanes: dict[Hashable, tuple[Limit, ...]] = {
            f"{operation} {bucket_name}": bucket.limits
            for bucket_name, bucket in self.buckets.items()
            if bucket.each
            for operation in bucket.operations
        }
        return ApiQueue(
            *self.rate,
            name=name,
            lanes=lanes | dict(self.lanes.items()),
            order=self.order,
            concurrency=self.concurrency,
            adaptive=self.adaptive,
            schedule=schedule,
            observers=observers,
        )


def _lanes(value: object, report: Report, place: Place) -> Mapping[str, tuple[Limit, ...]]:
    if not isinstance(value, Mapping):
        report.add(place, f'{quoted(value)} is no table: write DescribeSnapshots = "5/s" in one')
        return MappingProxyType({})
    return MappingProxyType(
        {str(name): read_limits(own, report, (*place, str(name))) for name, own in value.items()}
    )


def _scope(value: object, report: Report, place: Place) -> tuple[Scope, ...]:
    if is_list(value) and all(one in _SCOPES and value.count(one) == 1 for one in value):
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
    if isinstance(value, int) and is_number(value, least=1):
        return int(value)
    report.add(place, f"{quoted(value)} is no number of calls in flight: write 1 or more")
    return None


def _order(value: object, report: Report, place: Place) -> Literal["fifo", "fair"]:
    if value in ("fifo", "fair"):
        return value
    report.add(place, f'{quoted(value)} is no order: write "fifo" or "fair"')
    return "fifo"


def read_flag(value: object, report: Report, place: Place) -> bool:
    """Read true or false; True, and a problem: it is neither."""
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
        if not unknown_keys(value, keys, report, place):
            try:
                return Adaptive(**value)
            except (TypeError, ValueError, ArithmeticError, RecursionError) as error:
                report.add(place, f"{str(error) or quoted(value):.300}")
    else:
        report.add(place, f'{quoted(value)}: write true, or a table such as {{floor = "1/s"}}')
    return None


_READERS: dict[str, Callable[[object, Report, Place], object]] = {
    "rate": read_limits,
    "lanes": _lanes,
    "scope": _scope,
    "concurrency": _concurrency,
    "order": _order,
    "adaptive": _adaptive,
    "buckets": read_buckets,
    "check": read_flag,
}
_DEFAULTS: dict[str, object] = {
    "rate": (),
    "lanes": MappingProxyType({}),
    "scope": _SCOPES,
    "concurrency": None,
    "order": "fifo",
    "adaptive": None,
    "buckets": MappingProxyType({}),
    "check": True,
}


def _fields(table: Mapping[str, object], report: Report, place: Place) -> dict[str, object]:
    """Read each field of a `ServiceLimits` that `table` has."""
    return {
        key: read(table[key], report, (*place, key))
        for key, read in _READERS.items()
        if key in table
    }


def read_service(
    service: str,
    value: object,
    report: Report,
    share: float | None = None,
    *,
    check: bool = True,
) -> tuple[ServiceLimits, Base]:
    """Read one table of limits.toml, or what stands for it in code.

    Args:
        service: its name, or "default"; names are not checked here.
        value: a `ServiceLimits`, a table, or limits alone.
        report: gets what is wrong.
        share: of what AWS publishes, which each service starts from; default: from nothing.
        check: whether names must be known ones, where the table does not say it.

    Returns:
        The limits, and what they start from.
    """
    if isinstance(value, ServiceLimits):
        return value, Base()
    place: Place = (service,)
    base = Base()
    if not isinstance(value, Mapping):
        fields: dict[str, object] = {"rate": read_limits(value, report, place)}
        if share is not None and service != "default":
            base = base_of(_names.canonical(service), share)
    else:
        if service != "default":
            table, base = take_preset(service, value, report, share)
        else:
            table = dict(value)
            for key in [one for one in _PRESET_KEYS if one in table]:
                report.add(
                    (service, key),
                    "what AWS publishes is of one service: say it at the top of the file, or in "
                    "a service's table",
                )
        clear = not unknown_keys(table, (*LIMIT_KEYS, *_OTHER_KEYS, *_PRESET_KEYS), report, place)
        fields = _fields({key: table[key] for key in _OTHER_KEYS if key in table}, report, place)
        if any(key in table for key in LIMIT_KEYS):
            fields["rate"] = limit_table(table, report, place)
        elif base or "concurrency" in table or report.has(place):
            pass
        elif "lanes" in table:
            report.add(
                place,
                "lanes without a queue: the service has no limit of its own; "
                'write rate = "10/s", or rate = "unlimited" if there is to be none',
            )
        elif "buckets" not in table and clear:
            report.add(place, f"no limit is given; {FORMS}")
    spec = object.__new__(ServiceLimits)
    spec._fill({"check": check, **_joined(base, fields)}, report, place)
    return spec, base


def _joined(base: Base, fields: Mapping[str, object]) -> dict[str, object]:
    """Return what a table says, on top of what its service starts from."""
    joined = {**base.fields, **fields}
    lanes, own = fields.get("lanes", {}), fields.get("buckets", {})
    if isinstance(lanes, Mapping) and isinstance(own, Mapping):
        every = {**base.fields.get("lanes", {}), **lanes}
        # A lane takes the place of what is published, but not of what the same table says.
        old, joined["lanes"] = with_lanes(base.fields.get("buckets", {}), every, list(lanes))
        own, _ = with_lanes(own, every, [name for name in lanes if " " in name])
        joined["buckets"] = MappingProxyType({**old, **own})
    return joined


def revised(
    old: ServiceLimits,
    report: Report,
    *,
    operation: str | None,
    limits: tuple[Limit, ...],
    others: Sequence[str] = (),
) -> ServiceLimits:
    """Return `old` with other limits for one operation, or (None) of its own.

    `others` are the operations of which the same has been said before.
    """
    fields = {name: getattr(old, name) for name in _DEFAULTS}
    if operation is None:
        fields["rate"] = limits
    else:
        lanes = {**old.lanes, operation: limits}
        fields["buckets"], fields["lanes"] = with_lanes(old.buckets, lanes, [operation, *others])
    spec = object.__new__(ServiceLimits)
    spec._fill(fields, report, ())
    return spec


def check_name(service: str, report: Report, place: Place) -> None:
    """Note if AWS has no such service."""
    if service == "default":
        return
    if problem := _names.unknown_service(service, report):
        report.add(place, problem)


def check_buckets(service: str, buckets: Mapping[str, Bucket], report: Report) -> None:
    """Note which buckets name operations, or parameters, that `service` has not.

    Args:
        service: whose buckets they are.
        buckets: by name.
        report: gets what is wrong. Parameters are looked up in botocore's models, if there are
            any; not for code.
    """
    for key, bucket in buckets.items():
        place = (service, "buckets", key)
        for operation in bucket.operations:
            check_operation(service, operation, report, (*place, "operations"))
        for operation in bucket.exclude:
            check_operation(service, operation, report, (*place, "exclude"))
        if not report.in_code:
            for name in bucket.unless:
                _check_parameter(service, bucket.operations, name, report, (*place, "unless"))
        for operation, cost in bucket.cost.items():
            at = (*place, "cost", operation)
            if not fits(operation, bucket.operations):
                report.add(at, "the bucket has no such operation")
                continue
            check_operation(service, operation, report, at)
            if cost.parameter and not report.in_code:
                _check_parameter(service, [operation], cost.parameter, report, at)


def _check_parameter(
    service: str, operations: Sequence[str], name: str, report: Report, place: Place
) -> None:
    problem = _names.unknown_parameter(service, operations, name, report)
    if problem:
        report.add(place, problem)


def check_operation(service: str, operation: str, report: Report, place: Place) -> None:
    """Note if `service` has no such operation, nor one that begins so."""
    if operation == "*":
        return
    if service == "default":
        problem: str | None = (
            f'{quoted(operation)} is an operation of one service: name it there; here goes only "*"'
        )
    else:
        problem = _names.unknown_operation(service, operation, report)
    if problem:
        report.add(place, problem)
