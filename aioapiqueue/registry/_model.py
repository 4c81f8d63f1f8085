"""The limits of one service (`ServiceLimits`), with the source of each (`Layer`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from aioapiqueue import ApiQueue
from aioapiqueue.adaptive import Adaptive
from aioapiqueue.exceptions import LimitsError
from aioapiqueue.registry._buckets import (
    Bucket,
    LaneKey,
    VariantKey,
    bucket_key,
    counted_in,
    lane_key,
    read_buckets,
    units_of,
    with_lanes,
)
from aioapiqueue.registry._fields import (
    EMPTY,
    expects,
    flag,
    is_list,
    is_number,
    key,
    read_call_limits,
    table_of,
    unknown_keys,
)
from aioapiqueue.registry._published import SCOPES, PublishedLimit, Scope
from aioapiqueue.registry._report import Place, Report, quoted
from aioapiqueue.spi import orders

if TYPE_CHECKING:
    from aioapiqueue import Limit

Limits: TypeAlias = "str | Limit | Sequence[str | Limit]"


def _read_adaptive(value: object, report: Report, place: Place) -> Adaptive | None:
    if value is None or isinstance(value, Adaptive):
        return value
    if isinstance(value, bool):
        return Adaptive() if value else None
    if not isinstance(value, Mapping):
        report.add(place, f'write true or a table such as {{floor = "1/s"}}, not {quoted(value)}')
        return None
    known = [one.name for one in dataclasses.fields(Adaptive)]
    unknown_keys(value, known, report, place)
    for name in (one for one in known if one in value):
        try:
            Adaptive(**{name: value[name]})
        # A value can be of any type, size and depth: 10**5000, or lists in lists.
        except (TypeError, ValueError, ArithmeticError, RecursionError) as error:
            report.add((*place, name), f"{str(error) or quoted(value[name]):.300}")
    return None if report.has(place) else Adaptive(**value)


def _text_key(text: object) -> str:
    return str(lane_key(text))  # a `HostLane` stays one


_read_lanes = table_of(read_call_limits, '{DescribeSnapshots = "5/s"}', lane_key)
_read_scope = expects(
    lambda value: is_list(value) and all(one in SCOPES and value.count(one) == 1 for one in value),
    '{} is not a scope: write ["account", "region"], ["account"], ["region"] or []',
    SCOPES,
    lambda value: tuple(one for one in SCOPES if one in value),
)
_read_concurrency = expects(
    lambda value: value is None or (isinstance(value, int) and is_number(value, least=1)),
    "{} is not a number of calls in flight: write a whole number of at least 1",
)
_read_order = expects(
    lambda value: value in orders.ORDERS,
    "{} is not an order: write " + " or ".join(f'"{word}"' for word in orders.ORDERS),
    "fifo",
)
_WEIGHTS_NEED_FAIR = 'weights are shares of turns: write order = "fair", too'


def _read_weight(value: Any, report: Report, place: Place) -> float:  # noqa: ANN401 - of any type
    key = _text_key(place[-1])
    try:
        ApiQueue(order="fair", weights={key: value})  # a queue checks it
    except (TypeError, ValueError) as error:
        report.add(place, str(error))
        return 1
    return float(value)


_read_weights = table_of(_read_weight, "{DescribeSnapshots = 3}", _text_key)


@dataclass(frozen=True, init=False, repr=False, slots=True)
class ServiceLimits:
    """The limits of one service or HTTP host, with the keys of a table in limits.toml.

    >>> ServiceLimits("20/s burst 100", lanes={"DescribeSnapshots": "5/s"}).rate
    (Rate(calls=20, per=1.0, burst=100),)

    Args:
        rate: the limits of all calls together: a string, a `Rate` or another limit of calls, or
            several in a list. Default: unlimited.
        lanes: limits of single operations, in addition to `rate`. `"Describe*"` gives each
            operation with this prefix a limit of its own, `"*"` each other operation. For a host, a
            lane is a method, a path or both (`"GET /search/*"`), and its requests share the limit.
        scope: whether each account, each Region or both have limits of their own. Default:
            `"account"` and `"region"`, so each account has its own limits in each Region. With an
            empty list, all calls share one queue.
        concurrency: largest number of calls in flight. Default: any number.
        order: `"fifo"`, or `"fair"` for operations to take turns.
        weights: with `"fair"`, shares of operations while calls of them wait, such as
            `{"Describe*": 3}`; default: 1 for each operation.
        adaptive: how to back off when calls are throttled; True for `Adaptive()`. Default: not at
            all.
        buckets: limits that operations share or that depend on parameters, by name, as in
            limits.toml. They may count other units than calls.
        check: False accepts names that neither this package nor the installed botocore knows.

    Raises:
        LimitsError: an argument is invalid. The error names all invalid arguments.
    """

    rate: tuple[Limit, ...] = key(read_call_limits, ())
    lanes: Mapping[LaneKey, tuple[Limit, ...]] = key(_read_lanes, EMPTY)
    scope: tuple[Scope, ...] = key(_read_scope, SCOPES)
    concurrency: int | None = key(_read_concurrency, None)
    order: orders.Order = key(_read_order, "fifo")  # noqa: RUF009 - it makes a field
    weights: Mapping[str, float] = key(_read_weights, EMPTY)
    adaptive: Adaptive | None = key(_read_adaptive, None)  # noqa: RUF009 - it makes a field
    buckets: Mapping[str, Bucket] = key(read_buckets, EMPTY)
    check: bool = key(flag(fallback=True), default=True)

    def __init__(
        self,
        rate: Limits = (),
        *,
        lanes: Mapping[str, Limits] | Mapping[LaneKey, Limits] | None = None,
        scope: Sequence[Scope] = ("account", "region"),
        concurrency: int | None = None,
        order: orders.Order = "fifo",
        weights: Mapping[str, float] | None = None,
        adaptive: Adaptive | bool | None = None,
        buckets: Mapping[str, Bucket | Mapping[str, object]] | None = None,
        check: bool = True,
    ) -> None:
        report = Report("ServiceLimits", in_code=True)
        # In the order of the fields.
        given = (rate, lanes, scope, concurrency, order, weights, adaptive, buckets, check)
        for one, value in zip(dataclasses.fields(self), given, strict=True):
            # `dataclasses.replace` passes values that have been read already, which readers return
            # unchanged.
            read = one.metadata["read"](value, report, (one.name,))
            object.__setattr__(self, one.name, read)  # how a frozen dataclass sets its own fields
        report.finish()
        if self.weights and self.order != "fair":
            raise LimitsError(f"ServiceLimits: {_WEIGHTS_NEED_FAIR}")
        if self.adaptive:
            try:  # a queue checks that it suits the limits
                ApiQueue(
                    *self.rate,
                    lanes=self.queue_lanes,
                    concurrency=self.concurrency,
                    adaptive=self.adaptive,
                )
            except ValueError as error:  # a floor above the limits
                raise LimitsError(f"ServiceLimits: {error}") from error

    def __hash__(self) -> int:
        # Without `buckets`, as mappings have no hash. Equal limits still have equal hashes.
        return hash((self.rate, tuple(self.lanes.items()), self.scope))

    def __repr__(self) -> str:
        default = ServiceLimits()
        changed = [
            f"{one.name}={dict(value) if isinstance(value, Mapping) else value!r}"
            for one in dataclasses.fields(self)
            if (value := getattr(self, one.name)) != getattr(default, one.name)
        ]
        return f"ServiceLimits({', '.join(changed)})"

    @property
    def queue_lanes(self) -> dict[str, tuple[Limit, ...]]:
        """The limits of each lane in the service's queue, by key: operations, variants, buckets."""
        variants = {
            str(VariantKey(operation, name)): bucket.limits
            for name, bucket in self.buckets.items()
            if bucket.per_operation
            for operation in bucket.operations
        }
        # A variant can have a lane of its own in `lanes`, which replaces the bucket's limits below.
        lanes = {str(lane): limits for lane, limits in self.lanes.items()}
        shared = {
            bucket_key(name): counted_in(self.buckets[name], unit)
            for name, unit in units_of(self.buckets).items()
        }
        return variants | lanes | shared


class Entry(NamedTuple):
    """Identifies limits of a service: those of a lane, of a bucket, or by default of all calls."""

    lane: LaneKey | None = None
    bucket: str | None = None


class LimitSource(NamedTuple):
    """Where limits come from.

    Attributes:
        text: the source as users read it: a file and line, an option, a share of a page.
        figure: the published limit, if the limits come from a preset.
        share: the share of that limit.
    """

    text: str
    figure: PublishedLimit | None = None
    share: float | None = None


class Layer(NamedTuple):
    """The limits of a service, and the source of each of them."""

    limits: ServiceLimits
    sources: Mapping[Entry, LimitSource]


NOTHING = Layer(ServiceLimits(), {})


class Layers(dict[str, Layer]):
    """The layer of each service and host by its canonical name: read, and free of problems."""


def add_layer(
    base: Layer,
    fields: Mapping[str, Any],
    sources: Mapping[Entry, LimitSource],
    report: Report,
    place: Place,
) -> Layer:
    """Return the limits of a service after a table or options have replaced some of them.

    Args:
        base: the limits before.
        fields: the new values of fields of `ServiceLimits`.
        sources: the sources of the new limits.
        report: gets the problems of limits that contradict each other.
        place: the place of the table.
    """
    buckets = fields.get("buckets", EMPTY)
    # The bucket of a lane's variant may be in the same table as the lane.
    known = {**base.limits.buckets, **buckets}
    lanes = _without_patterns(fields.get("lanes", EMPTY), known, report, place)
    every = {**base.limits.lanes, **lanes}
    old, remaining = with_lanes(base.limits.buckets, every, lanes)
    # A lane replaces buckets of the base, but not those of its own table.
    new, _ = with_lanes(buckets, every, [one for one in lanes if isinstance(one, VariantKey)])
    joined = {**fields, "lanes": remaining, "buckets": {**old, **new}}
    if {"weights", "order"} & joined.keys():
        order = joined.get("order", base.limits.order)
        if order != "fair" and joined.get("weights", base.limits.weights):
            report.add((*place, "weights"), _WEIGHTS_NEED_FAIR)
            joined["weights"] = EMPTY
    try:
        limits = dataclasses.replace(base.limits, **joined)
    except LimitsError as error:
        if not report.has(place):  # another problem of this table may be the cause
            report.add((*place, "adaptive"), str(error.__cause__))
        # Go on without `adaptive`, which did not suit the limits, to find all other problems.
        limits = dataclasses.replace(base.limits, **{**joined, "adaptive": None})
    found = {**base.sources, **sources}
    for name, bucket in limits.buckets.items():
        if bucket.variant_of:
            lane = VariantKey(bucket.operations[0], bucket.variant_of)
            # It has the limits of the variant's lane, or else those of the variant's bucket.
            source = found.get(Entry(lane)) or found[Entry(bucket=bucket.variant_of)]
            found.setdefault(Entry(bucket=name), source)
    return Layer(limits, found)


def _without_patterns(
    lanes: Mapping[LaneKey, tuple[Limit, ...]],
    buckets: Mapping[str, Bucket],
    report: Report,
    place: Place,
) -> Mapping[LaneKey, tuple[Limit, ...]]:
    """Return the lanes without those that combine a prefix and a variant; report these."""
    # `with_lanes` adds variants to operations, so it needs their full names.
    kept = {}
    for lane, limits in lanes.items():
        if (
            isinstance(lane, VariantKey)
            and lane.operation.endswith("*")
            and lane.variant in buckets
            and buckets[lane.variant].per_operation
        ):
            at = (*place, "lanes", str(lane))
            report.add(at, f"write the full name of an operation, not {quoted(lane.operation)}")
        else:
            kept[lane] = limits
    return kept
