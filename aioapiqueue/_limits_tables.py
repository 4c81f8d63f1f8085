"""The tables of a limits.toml, read together, each on top of what its service starts from."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from aioapiqueue import _limits_names as _names
from aioapiqueue._limits_model import (
    ServiceLimits,
    check_buckets,
    check_name,
    check_operation,
    read_service,
)
from aioapiqueue._limits_presets import (
    DEFAULT_SHARE,
    Origin,
    base_of,
    preset_services,
    read_preset,
    read_share,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from aioapiqueue._limits_presets import Base, Entry
    from aioapiqueue._limits_report import Place, Report

__all__ = ["Read", "read_tables"]


class Read(NamedTuple):
    """The limits of a service, and where each of them comes from."""

    limits: ServiceLimits
    origins: Mapping[Entry, Origin]


def read_tables(
    tables: Mapping[str, object], report: Report, *, ask_models: bool
) -> dict[str, Read]:
    """Read all tables, each under its service's one name.

    Args:
        tables: of a limits.toml, or what stands for them in code.
        report: gets what is wrong.
        ask_models: whether to look operations up in botocore's models, which are large files.
    """
    tables = dict(tables)
    share = _share(tables, report)
    read: dict[str, Read] = {}
    first: dict[str, str] = {}
    for name, value in tables.items():
        limits, base = read_service(name, value, report, share)
        if limits.check:
            check_name(name, report, (name,))
            _check_operations(name, limits, base, report, ask_models=ask_models)
        service = _names.canonical(name)
        if service in read:
            report.add((name,), f"{first[service]!r} is the same service: leave one of them")
        where = report.where if ask_models else _in_code
        read[service] = Read(limits, _origins(name, limits, base, where))
        first[service] = name
    if share is not None:
        for service in preset_services():
            if service not in read and base_of(service, share):
                limits, base = read_service(service, {}, report, share)
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


def _check_operations(
    name: str, limits: ServiceLimits, base: Base, report: Report, *, ask_models: bool
) -> None:
    if not ask_models and name != "default":
        return
    known = base.fields.get("lanes", {})
    for lane in limits.lanes:
        operation, _, bucket = lane.partition(" ")
        place = (name, "lanes", lane)
        if lane in known:
            continue
        check_operation(name, operation, report, place)
        if bucket and not (bucket in limits.buckets and limits.buckets[bucket].each):
            report.add(place, f"{name} has no bucket {bucket!r} that each operation has for itself")
    own = {
        bucket: one
        for bucket, one in limits.buckets.items()
        if bucket not in base.fields.get("buckets", {})
    }
    if own:
        check_buckets(name, own, report)


def _in_code(_: Place) -> str:
    return "code"


def _origins(
    name: str, limits: ServiceLimits, base: Base, where: Callable[[Place], str]
) -> dict[Entry, Origin]:
    """Return where the limits of a service are said, or what is published of them."""
    found: dict[Entry, Origin] = {}
    lanes, buckets = base.fields.get("lanes", {}), base.fields.get("buckets", {})
    places: dict[Entry, tuple[Place, bool]] = {}
    if limits.rate or not base:
        places[None, None] = (name, "rate"), bool(base) and limits.rate == base.fields["rate"]
    for lane, these in limits.lanes.items():
        places[lane, None] = (name, "lanes", lane), lanes.get(lane) == these
    for bucket, one in limits.buckets.items():
        same = bucket in buckets and buckets[bucket].limits == one.limits
        places[None, bucket] = (name, "buckets", bucket), same
    for entry, (place, from_base) in places.items():
        found[entry] = Origin(where(place))
        if from_base:
            found[entry] = base.origins.get(entry, found[entry])
    return found
