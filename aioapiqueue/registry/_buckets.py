"""Buckets: limits that operations of a service share, or that depend on a call's parameters.

A *variant* is a bucket that an operation uses instead of its own if a call lacks certain
parameters. One `Bucket` (with `per_operation`) states the limits of all operations that have the
variant; a lane with a `VariantKey` replaces them for one operation.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from aioapiqueue import Calendar, Concurrency, Window
from aioapiqueue.registry._fields import (
    EMPTY,
    LIMIT_KEYS,
    NO_LIMIT,
    flag,
    is_number,
    key,
    keys_of,
    limit_table,
    names,
    read_keys,
    table_of,
    unit_of,
    unknown_keys,
)
from aioapiqueue.registry._names import matches_any
from aioapiqueue.registry._report import Report, quoted
from aioapiqueue.spi import CALLS, checks, grammar

if TYPE_CHECKING:
    from aioapiqueue import Limit
    from aioapiqueue.registry._report import Place

_COST = re.compile(r"(?:(\d{1,9})\s*\*\s*)?([A-Za-z]\w*(?:\.\w+)?)", re.ASCII)
_NAME = re.compile(r"[\w ,.()-]{1,60}")
_BUCKET = "bucket: "
"""The prefix of a bucket's key: neither operations nor buckets have a ":" in their names."""
_LONGEST_UNIT = 64


class VariantKey(NamedTuple):
    """The key of a variant: the calls of an operation that lack certain parameters.

    >>> print(VariantKey("DescribeVolumes", "unfiltered"))
    DescribeVolumes unfiltered
    """

    operation: str
    variant: str

    def __str__(self) -> str:
        return f"{self.operation} {self.variant}"


class HostLane(str):
    """The key of a host's lane, which may have a `*` anywhere in its path: see `lane_problem`."""

    __slots__ = ()
    is_exact = True  # for `checks.pattern_problem`

    def __str__(self) -> str:
        return self  # `str` would return a plain string


LaneKey: TypeAlias = str | VariantKey
"""The key of a lane: an operation, a prefix (`"Describe*"`), a variant, or a host's method and path
(`_hosts.py`)."""


def lane_key(text: object) -> LaneKey:
    """Return the key of a lane from its text: `"DescribeVolumes unfiltered"` is a variant."""
    if isinstance(text, VariantKey):
        return text
    if "/" in str(text):  # a lane of a host, which may have a space or several *, too
        return HostLane(text)
    operation, _, variant = str(text).partition(" ")
    return VariantKey(operation, variant) if variant else str(text)


@dataclass(frozen=True, slots=True)
class Cost:
    """The units of a bucket that a call uses.

    Attributes:
        factor: units for each item of the parameter, or for the call.
        parameter: the name of the parameter to count; None: each call uses `factor` units.
    """

    factor: float = 1
    parameter: str | None = None

    def of(self, parameters: Mapping[str, int]) -> float:
        """Return the units that a call with these parameters uses, at least 1."""
        count = 1 if self.parameter is None else parameters.get(self.parameter, 1)
        return max(1, self.factor * count)  # a call with an empty list still uses one

    def __str__(self) -> str:
        if self.parameter is None:
            return f"{self.factor:g}"
        return self.parameter if self.factor == 1 else f"{self.factor:g}*{self.parameter}"


def _read_cost(value: object, report: Report, place: Place) -> Cost:
    match = _COST.fullmatch(value) if isinstance(value, str) else None
    if match:
        return Cost(int(match[1] or 1), match[2])
    if isinstance(value, Cost):  # from code, or read before: see `ServiceLimits.__init__`
        return value
    if is_number(value, least=1):
        return Cost(value)
    report.add(
        place,
        f"{quoted(value)} is not a cost: write a number of at least 1, the parameter to count "
        '("MaxCount"), or both ("2*ChangeBatch.Changes")',
    )
    return Cost()


read_costs = table_of(_read_cost, '{RunInstances = "MaxCount"}')


@dataclass(frozen=True, slots=True)
class Bucket:
    """Limits that several operations share, on top of the service's and their own.

    Attributes:
        operations: names of operations, or prefixes such as `"Describe*"`.
        limits: all of them apply.
        exclude: operations that match `operations` but do not use the bucket.
        unless_params: parameters; a call with any of them does not use the bucket.
        per_operation: True if each operation has a bucket of its own, in place of its lane.
            Default: the operations share one, in addition to their lanes.
        cost: units that a call uses, by operation or prefix. Default: 1.
        shared_with: another service that uses the same bucket. Default: none.
        variant_of: the name of the per-operation bucket that this one replaces for one operation.
            Default: none.
    """

    operations: tuple[str, ...] = key(names, ())
    limits: tuple[Limit, ...] = ()
    exclude: tuple[str, ...] = key(names, ())
    unless_params: tuple[str, ...] = key(names, (), name="unless")
    per_operation: bool = key(flag(fallback=False), default=False, name="each")
    cost: Mapping[str, Cost] = key(read_costs, EMPTY)
    shared_with: str | None = None
    variant_of: str | None = None

    def __hash__(self) -> int:
        # `cost` is a mapping and has no hash. Equal buckets still have equal hashes.
        return hash((self.operations, self.limits, self.per_operation))

    def takes(self, operation: str, parameters: Mapping[str, int]) -> bool:
        """Return whether a call uses this bucket.

        Args:
            operation: the operation's name in botocore.
            parameters: the call's parameters, as `parameter_counts` returns them.
        """
        return (
            matches_any(operation, self.operations)
            # An empty list counts 0, and filters nothing.
            and not any(parameters.get(name) for name in self.unless_params)
            and not matches_any(operation, self.exclude)
        )

    def cost_of(self, operation: str, parameters: Mapping[str, int]) -> float:
        """Return the units that a call uses. The arguments are as for `takes`."""
        name = lane_of(operation, self.cost)
        return 1 if name is None else self.cost[str(name)].of(parameters)


def _read_bucket(value: object, report: Report, place: Place) -> Bucket:
    if isinstance(value, Bucket):
        return _valid(value, report, place)
    if not _NAME.fullmatch(str(place[-1])):
        report.add(place, "a bucket's name has at most 60 letters, digits, spaces and _ , . ( ) -")
    elif not isinstance(value, Mapping):
        report.add(place, f"{quoted(value)} is not a table: write {_EXAMPLE}")
    else:
        return _bucket(value, report, place)
    return Bucket()


_EXAMPLE = '{operations = ["ListKeys"], rate = "5/s"}'
read_buckets = table_of(_read_bucket, f"{{NAME = {_EXAMPLE}}}")


def _bucket(table: Mapping[str, object], report: Report, place: Place) -> Bucket:
    # An unknown key may be the missing one, misspelt, so only one of the two is reported.
    if not unknown_keys(table, [*LIMIT_KEYS, *keys_of(Bucket)], report, place):
        if not any(one in table for one in LIMIT_KEYS):
            report.add(place, NO_LIMIT)
        if not table.get("operations"):
            text = 'no operations are given: write operations = ["ListKeys", "Describe*"]'
            report.add(place, text)
    limits = limit_table(table, report, place)
    bucket = _valid(Bucket(limits=limits, **read_keys(Bucket, table, report, place)), report, place)
    named = _named_units(bucket.limits)
    if named and "cost" not in table:
        report.add(
            place,
            f"the cost in {named[0]} is missing: write the parameter to count for each operation, "
            'such as cost = {RunInstances = "MaxCount"}',
        )
    return bucket


def _valid(bucket: Bucket, report: Report, place: Place) -> Bucket:
    """Return a bucket without its invalid settings, and report these."""
    if not bucket.per_operation:
        return dataclasses.replace(bucket, limits=only_one_unit(bucket.limits, report, place))
    # `ServiceLimits.queue_lanes` makes a lane for each operation, so it needs full names.
    whole = tuple(name for name in bucket.operations if not name.endswith("*"))
    for name in bucket.operations:
        if name not in whole:
            report.add(
                (*place, "operations"), f"with each = true, write full names, not {quoted(name)}"
            )
    if bucket.cost:
        report.add(
            (*place, "cost"), "a bucket with each = true cannot have a cost: remove one of them"
        )
    named = _named_units(bucket.limits)
    if named:
        report.add(
            place,
            f"a bucket with each = true counts calls, not {named[0]}: write a bucket for each "
            "operation instead",
        )
    limits = () if named else bucket.limits
    return dataclasses.replace(bucket, operations=whole, cost=EMPTY, limits=limits)


def only_one_unit(limits: tuple[Limit, ...], report: Report, place: Place) -> tuple[Limit, ...]:
    """Return the limits if they count at most one unit in addition to calls, else report it."""
    named = _named_units(limits)
    if len(named) < 2:  # noqa: PLR2004 - more than one
        return limits
    report.add(place, f"a bucket counts one unit, not {' and '.join(named)}: write two buckets")
    return ()


def _named_units(limits: Iterable[Limit]) -> list[str]:
    """Return the units that the limits of a bucket count, without calls."""
    return list(dict.fromkeys(one for one in map(unit_of, limits) if one != CALLS))


def units_of(buckets: Mapping[str, Bucket]) -> dict[str, str]:
    """Return the unit that each shared bucket of a service counts, by the bucket's name.

    A bucket with costs counts a unit of its own, unless it limits concurrency only. A slot has one
    cost for each unit, but a call may cost each bucket a different amount. So two buckets that one
    call may use never count the same unit, whatever the user has called it.
    """
    found: dict[str, str] = {}
    for name, bucket in buckets.items():
        if bucket.per_operation:  # lanes of operations, which count calls
            continue
        # A `Concurrency` counts each call once, whatever it costs.
        counts = any(not isinstance(one, Concurrency) for one in bucket.limits)
        unit = first = next(
            iter(_named_units(bucket.limits)),
            _unit_for(name) if bucket.cost and counts else CALLS,
        )
        number = 2
        # Number the unit until no bucket that the same call may use has it.
        while unit != CALLS and any(
            unit == other and _overlap(bucket.operations, buckets[one].operations)
            for one, other in found.items()
        ):
            end = f"_{number}"
            unit, number = first[: _LONGEST_UNIT - len(end)] + end, number + 1
        found[name] = unit
    return found


def _overlap(some: Iterable[str], others: Collection[str]) -> bool:
    """Return whether some operation may match patterns of both collections."""
    return any(
        matches_any(one.removesuffix("*"), others)
        or (one.endswith("*") and any(other.startswith(one[:-1]) for other in others))
        for one in some
    )


def _unit_for(name: str) -> str:
    """Return a unit named after a bucket."""
    unit = re.sub(r"[^a-z0-9_]+", "_", name.lower()).strip("_")
    try:
        grammar.check_unit(unit)
    except ValueError:  # it begins with a digit, or has a meaning in limits, such as "s"
        return f"units_{unit}"[:_LONGEST_UNIT]
    # The costs of a bucket named "calls" must not be charged to the limits that count calls.
    return f"units_{unit}" if unit == CALLS else unit


def counted_in(bucket: Bucket, unit: str) -> tuple[Limit, ...]:
    """Return the limits of a bucket, with the unit of its costs replaced by `unit`."""
    # `only_one_unit` has made sure that there is at most one. Without one, costs are in calls.
    named = (*_named_units(bucket.limits), CALLS)[0]
    return tuple(
        one
        if isinstance(one, Concurrency) or one.unit != named
        else dataclasses.replace(one, unit=unit)
        for one in bucket.limits
    )


def largest_cost(limits: Iterable[Limit], unit: str) -> float:
    """Return the largest cost, in a unit, that limits can ever admit."""
    # A `Rate` admits any cost, and later calls wait longer. A `Window` and a `Calendar` never admit
    # a cost above their number.
    whole = [one.calls for one in limits if isinstance(one, Window | Calendar) and one.unit == unit]
    return min([checks.LARGEST, *whole])


def bucket_key(name: str) -> str:
    """Return the key of a bucket's lane."""
    # No operation has such a name. The pattern "*" matches it, too, but does not apply: a lane with
    # limits of its own ignores patterns.
    return f"{_BUCKET}{name}"


def bucket_of(key: str) -> tuple[str, str] | None:
    """Return the service and the bucket that a lane's key names; None if it names no bucket.

    The service is "" unless several services share the queue and the bucket is of one of them.
    """
    service, found, name = key.partition(_BUCKET)
    return (service.removesuffix("."), name) if found else None


def lane_of(operation: LaneKey, lanes: Collection[LaneKey | None]) -> LaneKey | None:
    """Return the lane of an operation or a variant: its own, or the longest prefix that matches."""
    if operation in lanes:
        return operation
    patterns = [
        one
        for one in lanes
        if isinstance(one, str) and one.endswith("*") and str(operation).startswith(one[:-1])
    ]
    return max(patterns, key=len, default=None)


def with_lanes(
    buckets: Mapping[str, Bucket],
    lanes: Mapping[LaneKey, tuple[Limit, ...]],
    own: Iterable[LaneKey],
) -> tuple[dict[str, Bucket], dict[LaneKey, tuple[Limit, ...]]]:
    """Return the buckets and lanes of a service after new lanes have been added.

    - A new lane of an operation replaces the operation's variants, except those with a new lane of
      their own.
    - A new lane of a variant gives the operation that variant, if it had none.
    - A new lane of a prefix applies to variants of its operations as well, but replaces no variant,
      because it was not written for a single operation. A call has one lane, so such a variant
      becomes a bucket of its operation alone, beside the lane (`Bucket.variant_of`).

    Args:
        buckets: the buckets of the service.
        lanes: all lanes, old and new.
        own: the keys of the new lanes.
    """
    own = dict.fromkeys(own)  # fast to search, and ordered, unlike a set
    found, remaining = dict(buckets), dict(lanes)
    for name, bucket in buckets.items():
        if not bucket.per_operation:
            continue
        named = [
            one.operation for one in own if isinstance(one, VariantKey) and one.variant == name
        ]
        # The operations whose variant became a bucket beside their lane in an earlier layer.
        separate = [one.operations[0] for one in buckets.values() if one.variant_of == name]
        kept = []
        for operation in dict.fromkeys([*bucket.operations, *separate, *named]):
            lane = VariantKey(operation, name)
            own_bucket = found.pop(str(lane), None) if operation in separate else None
            if operation in named or not (own_bucket or lane_of(operation, lanes) in own):
                kept.append(operation)  # the variant stays a lane in place of the operation's
            elif operation in own:  # its own new lane replaces the variant
                remaining.pop(lane, None)
            else:  # a prefix covers it, in this layer or an earlier one
                found[str(lane)] = dataclasses.replace(
                    bucket,
                    operations=(operation,),
                    limits=own_bucket.limits if own_bucket else remaining.pop(lane, bucket.limits),
                    per_operation=False,
                    variant_of=name,
                )
        found[name] = dataclasses.replace(bucket, operations=tuple(kept))
    return found, remaining
