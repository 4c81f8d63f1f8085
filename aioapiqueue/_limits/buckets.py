"""Limits that some operations of a service share, or that depend on a call's parameters."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from aioapiqueue._limits.read import (
    FORMS,
    LIMIT_KEYS,
    is_list,
    is_number,
    limit_table,
    unknown_keys,
)
from aioapiqueue._limits.report import Report, quoted

if TYPE_CHECKING:
    from aioapiqueue._limits.report import Place
    from aioapiqueue._rate import Limit

__all__ = ["Bucket", "Cost", "fits", "lane_of", "read_buckets", "variant_of", "with_lanes"]

_COST = re.compile(r"(?:(\d{1,9})\s*\*\s*)?([A-Za-z]\w*(?:\.\w+)?)", re.ASCII)
_NAME = re.compile(r"[\w ,.()-]{1,60}")


def fits(operation: str, names: Sequence[str]) -> bool:
    """Return whether `operation` is one of `names`, which may end in `*`."""
    return operation in names or any(
        operation.startswith(name[:-1]) for name in names if name.endswith("*")
    )


@dataclass(frozen=True, slots=True)
class Cost:
    """How many units of a bucket a call uses.

    Attributes:
        each: units for one of what is counted; or for the call.
        parameter: how many there are, by the name of the parameter that says so; None: one.
    """

    each: float = 1
    parameter: str | None = None

    def of(self, parameters: Mapping[str, int]) -> float:
        """Return the units, at least 1."""
        count = 1 if self.parameter is None else parameters.get(self.parameter, 1)
        return max(1, self.each * count)

    def __str__(self) -> str:
        if self.parameter is None:
            return f"{self.each:g}"
        return self.parameter if self.each == 1 else f"{self.each:g}*{self.parameter}"


_ONE = Cost()


@dataclass(frozen=True, slots=True)
class Bucket:
    """Limits beside a service's own: what several operations share, or what parameters choose.

    Attributes:
        operations: names, or the beginnings of names with a `*` after them.
        limits: all of them hold at once.
        exclude: operations that are none of it, although `operations` names them.
        unless: parameters; a call that gives any of them is none of it.
        each: each operation has one of its own, in place of its lane. Default: they share one,
            beside their lanes.
        cost: what a call of an operation uses; default: 1.
        joint: the other service whose bucket of this name is the same one; default: none.
    """

    operations: tuple[str, ...]
    limits: tuple[Limit, ...]
    exclude: tuple[str, ...] = ()
    unless: tuple[str, ...] = ()
    each: bool = False
    cost: Mapping[str, Cost] = field(default_factory=dict)
    joint: str | None = None

    def __hash__(self) -> int:
        return hash((self.operations, self.limits, self.each))

    def takes(self, operation: str, parameters: Mapping[str, int]) -> bool:
        """Return whether such a call uses this bucket."""
        return (
            fits(operation, self.operations)
            and not any(parameters.get(name) for name in self.unless)
            and not fits(operation, self.exclude)
        )

    def cost_of(self, operation: str, parameters: Mapping[str, int]) -> float:
        """Return the units that such a call uses."""
        return self.cost.get(operation, _ONE).of(parameters)


def with_lanes(
    buckets: Mapping[str, Bucket], lanes: Mapping[str, tuple[Limit, ...]], own: Sequence[str]
) -> tuple[Mapping[str, Bucket], Mapping[str, tuple[Limit, ...]]]:
    """Return what parameters choose, where operations have got lanes of their own; and the lanes.

    `"DescribeVolumes"` is no longer any bucket's, unless `"DescribeVolumes unfiltered"` is there
    too, which is in any case one of that bucket's. `"Describe*"` is to hold for all calls of the
    operations that it covers, but who wrote it had no single one of them in mind: what parameters
    choose stays, in a bucket of the operation alone, beside that lane instead of in its place.

    Args:
        buckets: of a service.
        lanes: all of its lanes.
        own: which of them are new.
    """
    found, left = dict(buckets), dict(lanes)
    for name, bucket in buckets.items():
        if not bucket.each:
            continue
        named = [one.partition(" ")[0] for one in own if one.partition(" ")[2] == name]
        # Those that an earlier lane has made shared buckets of belong here as well.
        apart = [one for one in buckets if variant_of(one, buckets) == name]
        before = [*bucket.operations, *(one.partition(" ")[0] for one in apart)]
        kept = []
        for operation in dict.fromkeys([*before, *named]):
            key = f"{operation} {name}"
            shared = found.pop(key, None) if key in apart else None
            if operation in named or (shared is None and lane_of(operation, lanes) not in own):
                kept.append(operation)
            elif operation not in own:
                limits = shared.limits if shared else left.pop(key, bucket.limits)
                found[key] = dataclasses.replace(
                    bucket, operations=(operation,), limits=limits, each=False
                )
            else:
                left.pop(key, None)
        found[name] = dataclasses.replace(bucket, operations=tuple(kept))
    return MappingProxyType(found), MappingProxyType(left)


def variant_of(name: str, buckets: Mapping[str, Bucket]) -> str | None:
    """Return which bucket of each operation `with_lanes` made the bucket `name` of; None: none."""
    operation, _, variant = name.partition(" ")
    made = name in buckets and buckets[name].operations == (operation,)
    return variant if made and variant in buckets and buckets[variant].each else None


def lane_of(operation: str, lanes: Iterable[str]) -> str | None:
    """Return which lane an operation has: its own, or the longest pattern that fits."""
    fitting = [one for one in lanes if fits(operation, [one])]
    return max(fitting, key=lambda one: (one == operation, len(one)), default=None)


def read_buckets(value: object, report: Report, place: Place) -> Mapping[str, Bucket]:
    """Read the table `buckets` of a service."""
    if not isinstance(value, Mapping):
        report.add(
            place,
            f'{quoted(value)} is no table: write {{operations = ["ListKeys"], rate = "5/s"}}'
            " for each bucket in one",
        )
        return MappingProxyType({})
    found: dict[str, Bucket] = {}
    for name, one in value.items():
        at = (*place, str(name))
        if not _NAME.fullmatch(str(name)):
            report.add(at, "a bucket's name has at most 60 letters, digits, spaces and , . ( ) -")
        elif isinstance(one, Bucket):
            found[str(name)] = one
        else:
            found[str(name)] = _bucket(one, report, at)
    return MappingProxyType(found)


_KEYS = (*LIMIT_KEYS, "operations", "exclude", "unless", "each", "cost")


def _bucket(value: object, report: Report, place: Place) -> Bucket:
    if not isinstance(value, Mapping):
        report.add(place, f'{quoted(value)} is no table: write operations = ["ListKeys"] in one')
        return Bucket((), ())
    clear = not unknown_keys(value, _KEYS, report, place)
    if clear and not any(key in value for key in LIMIT_KEYS):
        report.add(place, f"no limit is given; {FORMS}")
    if clear and not value.get("operations"):
        report.add(place, 'whose bucket? write operations = ["ListKeys", "Describe*"]')
    each = value.get("each", False)
    if not isinstance(each, bool):
        report.add((*place, "each"), f"{quoted(each)} is neither true nor false")
    operations = _names(value, "operations", report, place)
    if each is True:
        for name in operations:
            if name.endswith("*"):
                report.add((*place, "operations"), f"{quoted(name)}: with each, write whole names")
        if "cost" in value:
            report.add((*place, "cost"), "a cost belongs to a bucket that is shared: without each")
    return Bucket(
        operations,
        limit_table(value, report, place),
        _names(value, "exclude", report, place),
        _names(value, "unless", report, place),
        each is True,
        _costs(value.get("cost", {}), report, (*place, "cost")),
    )


def _names(
    table: Mapping[object, object], key: str, report: Report, place: Place
) -> tuple[str, ...]:
    value = table.get(key, ())
    if is_list(value) and all(isinstance(one, str) and one for one in value):
        return tuple(map(str, value))
    report.add((*place, key), f'{quoted(value)} is no list of names: write ["ListKeys"]')
    return ()


def _costs(value: object, report: Report, place: Place) -> Mapping[str, Cost]:
    if not isinstance(value, Mapping):
        report.add(place, f'{quoted(value)} is no table: write {{RunInstances = "MaxCount"}}')
        return MappingProxyType({})
    found: dict[str, Cost] = {}
    for name, one in value.items():
        match = _COST.fullmatch(one) if isinstance(one, str) else None
        if match:
            found[str(name)] = Cost(int(match[1] or 1), match[2])
        elif is_number(one, least=1):
            found[str(name)] = Cost(one)
        else:
            report.add(
                (*place, str(name)),
                f"{quoted(one)} is no cost: write a number from 1, the parameter that says how "
                'many ("MaxCount"), or both ("2*ChangeBatch.Changes")',
            )
    return MappingProxyType(found)
