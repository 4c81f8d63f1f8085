"""What a service's table in limits.toml says of presets: preset, share, quotas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from aioapiqueue.registry import _names
from aioapiqueue.registry._published import (
    DEFAULT_SHARE,
    Base,
    base_of,
    figures,
    read_preset,
    read_share,
)
from aioapiqueue.registry._read import read_limits
from aioapiqueue.registry._report import quoted

if TYPE_CHECKING:
    from aioapiqueue._rate import Limit
    from aioapiqueue.registry._report import Place, Report

__all__ = ["take_preset"]


def take_preset(
    service: str, table: Mapping[str, object], report: Report, share: float | None
) -> tuple[dict[str, object], Base]:
    """Take out of a service's table what it says of presets.

    Args:
        service: as the table has it.
        table: of limits.toml.
        report: gets what is wrong.
        share: of the whole file; None: it has no preset.

    Returns:
        The rest of the table, and what its service starts from.
    """
    rest = dict(table)
    place: Place = (service,)
    name = _names.canonical(service)
    preset = rest.pop("preset", None)
    wanted = None if preset is None else read_preset(preset, report, (*place, "preset"))
    own = read_share(rest.pop("share"), report, (*place, "share")) if "share" in table else None
    quotas = rest.pop("quotas", {})
    shares = _lane_shares(rest, report, (*place, "lanes"))
    asked = [key for key in ("share", "quotas") if key in table] + ["lanes"] * bool(shares)
    on = wanted if wanted is not None else share is not None
    if not on:
        if asked and preset is None:
            report.add((*place, asked[0]), 'a share of what? write preset = "aws" beside it')
        elif asked and preset == "none":
            report.add(
                (*place, asked[0]),
                'a share of what? preset = "none" leaves nothing: take one of the two out',
            )
        return rest, Base()
    granted = _quotas(name, quotas, report, (*place, "quotas"))
    part = own or share or DEFAULT_SHARE
    base = base_of(name, part, quotas=granted, shares=shares)
    base.said.update({key: (*place, "quotas", key) for key in granted})
    if not base and (wanted or asked):
        report.add(
            place,
            f"AWS publishes no request limits of {service}, or none that can be kept here: "
            'write rate = "10/s"',
        )
    for operation in shares:
        if (operation, None) in base.origins:
            base.said[operation] = (*place, "lanes", operation)
        elif base:
            report.add((*place, "lanes", operation), _no_figure(name, operation))
    return rest, base


def _quotas(
    service: str, value: object, report: Report, place: Place
) -> dict[str, tuple[Limit, ...]]:
    """Read the table `quotas` of a service."""
    if not isinstance(value, Mapping):
        report.add(place, f'{quoted(value)} is no table: write RunInstances = "4/s"')
        return {}
    found = {}
    for key, one in value.items():
        at = (*place, str(key))
        found[str(key)] = read_limits(one, report, at)
        _check_quota(service, str(key), report, at)
    return found


def _check_quota(service: str, key: str, report: Report, place: Place) -> None:
    """Note a quota of calls that AWS has no such bucket of: nothing would ever use it."""
    operation, _, variant = key.partition(" ")
    each = next((one for one in figures(service) if one.unless and one.name == variant), None)
    if each is not None and operation not in each.operations:
        report.add(
            place,
            f"AWS has no bucket {quoted(variant)} of {quoted(operation)}, but of "
            f"{', '.join(each.operations)}; a limit of your own goes into lanes",
        )


def _no_figure(service: str, operation: str) -> str:
    """Return why an operation can have no share of its own."""
    known = [one for one in figures(service) if one.kept]
    if " " not in operation and any(not one.operations for one in known):
        return (
            f"AWS publishes no request limit of {quoted(operation)} alone, only one of all "
            f"operations of {service} together: write a share of the service, or a limit"
        )
    return f"AWS publishes no request limit of {quoted(operation)}: write a limit"


def _lane_shares(table: dict[str, object], report: Report, place: Place) -> dict[str, float]:
    """Take out of a service's lanes those that are shares."""
    lanes = table.get("lanes")
    if not isinstance(lanes, Mapping):
        return {}
    found: dict[str, float] = {}
    rest = {}
    for operation, value in lanes.items():
        if isinstance(value, Mapping) and "share" in value and len(value) == 1:
            share = read_share(value["share"], report, (*place, str(operation), "share"))
            found[str(operation)] = share or DEFAULT_SHARE
        else:
            rest[operation] = value
    if found:
        table["lanes"] = rest
        if not rest:
            del table["lanes"]
    return found
