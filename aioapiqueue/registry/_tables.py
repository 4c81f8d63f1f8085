"""The tables of a limits.toml, read together, each on top of what its service starts from."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from aioapiqueue.registry import _names
from aioapiqueue.registry._buckets import variant_of
from aioapiqueue.registry._model import (
    ServiceLimits,
    check_buckets,
    check_name,
    check_operation,
    read_flag,
    read_limits,
    read_service,
    revised,
)
from aioapiqueue.registry._published import (
    DEFAULT_SHARE,
    Origin,
    base_of,
    preset_services,
    read_preset,
    read_share,
)
from aioapiqueue.registry._report import quoted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from aioapiqueue._rate import Limit
    from aioapiqueue.adaptive import Adaptive
    from aioapiqueue.registry._buckets import Bucket
    from aioapiqueue.registry._model import Scope
    from aioapiqueue.registry._published import Base, Entry, Figure
    from aioapiqueue.registry._report import Place, Report

__all__ = ["InForce", "Read", "entries", "read_option", "read_tables"]

_OPTION = "SERVICE=LIMIT or SERVICE.Operation=LIMIT, such as ec2=100ms or ec2.DescribeSnapshots=5/s"
_CODE = Origin("code")


class Read(NamedTuple):
    """The limits of a service, and where each of them comes from."""

    limits: ServiceLimits
    origins: Mapping[Entry, Origin]


@dataclass(frozen=True, slots=True)
class InForce:
    """Limits in force, and where they come from.

    Attributes:
        service: its name; "default" stands for each one that is not listed.
        operation: whose limits these are; None: of all of the service's together, or of `bucket`;
            "*": of each operation that has none of its own; "Describe*": of each that begins so.
        limits: all of them hold at once; empty: unlimited.
        scope: what has such limits of its own.
        source: the file and line, the option, "code", or a share of what is published.
        bucket: the name of the bucket whose limits these are.
        members: what is in that bucket.
        figure: what AWS publishes, where they come from that.
        share: of that.
        concurrency: how many calls may be in flight at once, of all of the service's together.
        adaptive: how all of the service's slow down when AWS throttles.
    """

    service: str
    operation: str | None
    limits: tuple[Limit, ...]
    scope: tuple[Scope, ...]
    source: str
    bucket: str | None = None
    members: Bucket | None = None
    figure: Figure | None = None
    share: float | None = None
    concurrency: int | None = None
    adaptive: Adaptive | None = None


def read_tables(
    tables: Mapping[str, object], report: Report, *, check: bool = True
) -> dict[str, Read]:
    """Read all tables, each under its service's one name.

    Args:
        tables: of a limits.toml, or what stands for them in code.
        report: gets what is wrong. If it is of code, parameters are not looked up in botocore's
            models, which are large files, as a loop may be running.
        check: whether names are looked up at all; default: as the tables say.
    """
    tables = dict(tables)
    share = _share(tables, report)
    known = read_flag(tables.pop("check", True), report, ("check",))
    read: dict[str, Read] = {}
    first: dict[str, str] = {}
    for name, value in tables.items():
        limits, base = read_service(name, value, report, share, check=known)
        if check and limits.check:
            check_name(name, report, (name,))
            _check_operations(name, limits, base, report)
        service = _names.canonical(name)
        if service in read:
            report.add((name,), f"{first[service]!r} is the same service: leave one of them")
        where = _in_code if report.in_code else report.where
        read[service] = Read(limits, _origins(name, limits, base, where))
        first[service] = name
    if share is not None:
        for service in preset_services():
            if service not in read and base_of(service, share):
                limits, base = read_service(service, {}, report, share, check=known)
                read[service] = Read(limits, base.origins)
    return read


def _share(tables: dict[str, object], report: Report) -> float | None:
    """Take out of a file what it says of presets; return the share of them, None without."""
    preset, share = tables.pop("preset", None), tables.pop("share", None)
    on = preset is not None and read_preset(preset, report, ("preset",))
    part = None if share is None else read_share(share, report, ("share",))
    if share is not None and preset is None:
        report.add(("share",), 'a share of what? write preset = "aws" beside it')
    return (part or DEFAULT_SHARE) if on else None


def _check_operations(name: str, limits: ServiceLimits, base: Base, report: Report) -> None:
    # What is published needs no look-up, and may be newer than the botocore here.
    lanes, buckets = base.fields.get("lanes", {}), base.fields.get("buckets", {})
    said: dict[str, Place] = {
        lane: (name, "lanes", lane) for lane in limits.lanes if lane not in lanes
    }
    said |= {key: place for key, place in base.said.items() if key not in buckets}
    for key, place in said.items():
        _check_lane(name, key, limits, report, place)
    own = {
        key: one
        for key, one in limits.buckets.items()
        if key not in buckets and variant_of(key, limits.buckets) not in buckets
    }
    if own:
        check_buckets(name, own, report)


def _check_lane(name: str, lane: str, limits: ServiceLimits, report: Report, place: Place) -> None:
    operation, _, bucket = lane.partition(" ")
    check_operation(name, operation, report, place)
    if bucket and not (bucket in limits.buckets and limits.buckets[bucket].each):
        report.add(place, f"{name} has no bucket {bucket!r} that each operation has for itself")
    elif bucket and operation.endswith("*"):
        report.add(place, f"{quoted(operation)}: of a bucket, write whole names")


def _in_code(_: Place) -> str:
    return "code"


def _origins(
    name: str, limits: ServiceLimits, base: Base, where: Callable[[Place], str]
) -> dict[Entry, Origin]:
    """Return where the limits of a service are said, or what is published of them."""
    found: dict[Entry, Origin] = {}
    lanes, buckets = base.fields.get("lanes", {}), base.fields.get("buckets", {})
    places: dict[Entry, tuple[Place, bool]] = {}
    said = [key for key in ("rate", "concurrency", "adaptive") if getattr(limits, key)]
    if said or not base:
        places[None, None] = (name, *said[:1]), bool(base) and limits.rate == base.fields["rate"]
    for lane, these in limits.lanes.items():
        places[lane, None] = (name, "lanes", lane), lanes.get(lane) == these
    for bucket, one in limits.buckets.items():
        if variant_of(bucket, limits.buckets) in buckets:
            found[None, bucket] = _of_variant(bucket, base.origins)
            continue
        same = bucket in buckets and buckets[bucket].limits == one.limits
        places[None, bucket] = (name, "buckets", bucket), same
    for entry, (place, from_base) in places.items():
        found[entry] = Origin(where(place))
        if from_base:
            found[entry] = base.origins.get(entry, found[entry])
    for entry, origin in found.items():
        if origin.share is not None and origin.figure is None:  # of what AWS grants
            quota: Place = (name, "quotas", entry[0] or entry[1] or "")
            found[entry] = dataclasses.replace(origin, text=f"{origin.text} {where(quota)}")
    return found


def _of_variant(name: str, origins: Mapping[Entry, Origin]) -> Origin:
    """Return where the limits of `"DescribeVolumes unfiltered"` are said, now a shared bucket's."""
    return origins.get((name, None)) or origins.get((None, name.partition(" ")[2])) or _CODE


def entries(read: Mapping[str, Read]) -> Iterator[InForce]:
    """Yield what is in force: each service's own limits, its operations', its buckets'."""
    rest = read["default"].origins if "default" in read else {}
    for name, (limits, origins) in read.items():
        own: dict[Entry, tuple[Limit, ...]] = {(None, None): limits.rate}
        own.update({(operation, None): lane for operation, lane in limits.lanes.items()})
        own.update(
            {(None, key): one.limits for key, one in limits.buckets.items() if one.operations}
        )
        for entry, these in own.items():
            # An option may have made it from the default.
            origin = origins.get(entry) or rest.get(entry)
            if origin is None and not these:
                continue  # a preset without limits for all operations together
            operation, bucket = entry
            said = origin or _CODE
            yield InForce(
                name,
                operation,
                these,
                limits.scope,
                said.text,
                bucket,
                limits.buckets.get(bucket or ""),
                said.figure,
                said.share,
                limits.concurrency if entry == (None, None) else None,
                limits.adaptive if entry == (None, None) else None,
            )


def read_option(
    option: str,
    tables: dict[str, Read],
    given: dict[tuple[str, str | None], str],
    report: Report,
    *,
    check: bool = True,
) -> None:
    """Put one `--limit` into `tables`.

    Args:
        option: as it was given.
        tables: of all services, so far.
        given: for which service and operation there was an option before, and which.
        report: gets what is wrong.
        check: whether names are looked up at all; default: as the tables say.
    """
    target, found, text = option.partition("=")
    name, dot, operation = target.strip().partition(".")
    if not (found and name and bool(dot) == bool(operation)):
        report.add((), f"write {_OPTION}")
        return
    service = _names.canonical(name)
    place = (service, operation or None)
    if place in given:
        report.add((), f"{given[place]} says it already: put a comma between several limits")
    given[place] = report.source
    own = read_limits(text.strip(), report, ())
    old = tables.get(service)
    if old is None and "default" in tables:
        old = Read(tables["default"].limits, {})
    elif old is None:
        old = Read(ServiceLimits(), {(None, None): Origin(report.source)})
    if check and old.limits.check:
        check_name(name, report, ())
        if operation:
            _check_lane(name, operation, old.limits, report, ())
    others = [one for other, one in given if other == service and one]
    new = revised(old.limits, report, operation=operation or None, limits=own, others=others)
    made: dict[Entry, Origin] = {
        (None, bucket): _of_variant(bucket, old.origins)
        for bucket in new.buckets
        if bucket not in old.limits.buckets
    }
    said: dict[Entry, Origin] = {(operation or None, None): Origin(report.source)}
    tables[service] = Read(new, {**old.origins, **made, **said})
