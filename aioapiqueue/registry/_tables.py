"""Reads and checks the tables of a limits.toml: `read_tables` makes the limits of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from aioapiqueue.registry._buckets import Bucket, LaneKey
from aioapiqueue.registry._fields import (
    EMPTY,
    LIMIT_KEYS,
    NO_LIMIT,
    flag,
    keys_of,
    limit_table,
    only_calls,
    read_call_limits,
    read_keys,
    unknown_keys,
)
from aioapiqueue.registry._hosts import HOSTS, host_called, is_host, lane_problem, suggest_host
from aioapiqueue.registry._model import (
    NOTHING,
    Entry,
    Layer,
    Layers,
    LimitSource,
    ServiceLimits,
    add_layer,
)
from aioapiqueue.registry._names import (
    canonical,
    is_listed,
    matches_any,
    nearest,
    unknown_operation,
    unknown_parameter,
    unknown_service,
)
from aioapiqueue.registry._plan import check_shared_queues
from aioapiqueue.registry._preset import NO_PRESET, START_KEYS, pop_preset, pop_start
from aioapiqueue.registry._published import DEFAULT_SHARE, enforceable, preset_services
from aioapiqueue.registry._report import Place, Report, quoted

_TABLE_KEYS = [one for one in keys_of(ServiceLimits) if one != "rate"]
_TABLE_KEYS.sort(key=lambda one: one in ("lanes", "buckets"))  # in a message, tables come last
_OF_AWS = ("scope", "buckets", "check", *START_KEYS)
"""Keys that the table of a host cannot have."""
_DEEPEST_NAME = 10
"""Depth to which nested tables are searched for a host: TOML nests an unquoted name at its dots."""
_ALL_KEYS = (*LIMIT_KEYS, *_TABLE_KEYS, *START_KEYS)
_HOST_KEYS = tuple(one for one in _ALL_KEYS if one not in _OF_AWS)
_TOP_KEYS = ("preset", "share", "check", "default")
_NO_PREFIXES = ("aws", "service", "services")
"""Prefixes that the files of other programs put before the name of a service."""


def read_tables(tables: Mapping[str, object], report: Report, *, check: bool = True) -> Layers:
    """Read all tables; return the limits of each service and host, by its canonical name.

    Args:
        tables: the tables of a limits.toml, or the values that stand for them in code.
        report: gets the problems. For limits in code, the parameters of buckets are not checked:
            that reads large files of botocore, and an event loop may be running.
        check: False: names are not checked. Default: they are, unless a table switches that off.
    """
    tables = dict(tables)
    start = pop_start(tables, report, (), ("preset", "share"))
    if start.share is not None and start.preset is None:
        report.add(("share",), NO_PRESET)
    share = (start.share or DEFAULT_SHARE) if start.preset else None  # None: no preset
    known = flag(fallback=True)(tables.pop("check", True), report, ("check",))
    found = Layers()
    first: dict[str, str] = {}
    if share is not None:
        listed = {canonical(one) for one in tables}
        # A service without a table also starts from the preset, as if its table were empty.
        tables |= {one: {} for one in preset_services() if one not in listed and enforceable(one)}
    found.update(_read_hosts(tables, report))  # removes them, so only services are left
    for name, value in tables.items():
        if problems := _not_of_a_service(name, value, check=check and known):
            for one in problems:
                report.add((name,), one)
            continue
        service = canonical(name)
        if service in found:
            report.add((name,), f"{first[service]!r} is the same service: remove one of the two")
        first[service] = name
        found[service] = _read_service(name, value, report, share, known=known, check=check)
    services = {service: one.limits for service, one in found.items() if service in first}
    check_shared_queues(services, report, first)
    return found


def _read_service(
    service: str, value: object, report: Report, share: float | None, *, known: bool, check: bool
) -> Layer:
    """Read the table of a service, or the value that stands for it in code.

    Args:
        service: the service's name, or "default".
        value: a `ServiceLimits`, a table, or limits alone.
        report: gets the problems.
        share: the share of the published limits that each service starts from; None: no preset.
        known: whether names are checked, unless the table has a `check` of its own.
        check: False: names are not checked, whatever the tables say.
    """
    base, named = NOTHING, dict[LaneKey, Place]()
    value = dict(value) if isinstance(value, Mapping) else value
    if not (isinstance(value, ServiceLimits) or service == "default"):
        # Limits alone start from a preset, too, which they replace.
        table = value if isinstance(value, dict) else {}
        base, named = pop_preset(service, table, report, share)
    based = bool(base.sources)
    if not known:  # the table's own `check`, if any, replaces the file's
        base = Layer(dataclasses.replace(base.limits, check=False), base.sources)
    return read_over(base, service, value, report, named=named, based=based, check=check)


def read_over(
    base: Layer,
    service: str,
    value: object,
    report: Report,
    *,
    named: Mapping[LaneKey, Place] = EMPTY,
    based: bool = True,
    check: bool = True,
) -> Layer:
    """Return the limits of a service after a table, or limits alone, have replaced some of them.

    Args:
        base: the limits before.
        service: the service's name, or "default".
        value: a `ServiceLimits`, a table, or limits alone.
        report: gets the problems.
        named: further lanes whose names to check, in addition to those of the table.
        based: whether the table needs no limit for the service as a whole.
        check: False: names are not checked, whatever the limits say.
    """
    place: Place = (service,)
    fields = _fields_of(value, report, place, based=based)
    layer = add_layer(base, fields, _sources_of(fields, base, report, place), report, place)
    if check and layer.limits.check:
        # Published names need no check, and may be newer than the installed botocore.
        own = [lane for lane in fields.get("lanes", ()) if lane not in base.limits.lanes]
        named = {**named, **{lane: (service, "lanes", str(lane)) for lane in own}}
        buckets = fields.get("buckets", EMPTY).items()
        new = {name: one for name, one in buckets if name not in base.limits.buckets}
        _check_names(service, layer.limits, named, new, report)
    return layer


def _read_hosts(tables: dict[str, Any], report: Report) -> dict[str, Layer]:
    """Remove the tables of hosts from `tables`, and read them."""
    found: dict[str, Layer] = {}
    first: dict[str, str] = {}
    given: list[tuple[Place, str, object]] = []
    # In a file, hosts are in the table `hosts`; in code, they may be among the services.
    table = tables.pop(HOSTS, {})
    if isinstance(table, Mapping):
        given += [((HOSTS, str(name)), str(name), value) for name, value in table.items()]
    else:
        report.add((HOSTS,), f'{quoted(table)} is not a table: write [{HOSTS}."api.github.com"]')
    given += [((name,), name, tables.pop(name)) for name in [*tables] if is_host(name)]
    for place, name, value in given:
        if name == "default" or name in _ALL_KEYS:
            report.add(place, f'this is not a host: write it in a table [{HOSTS}."api.github.com"]')
            continue
        if dotted := _dotted(name, value):
            for one in dotted:
                report.add(place, f'the name of a host needs quotes: write [{HOSTS}."{one}"]')
            continue
        try:
            host = host_called(name)
        except ValueError as error:
            report.add(place, f"{quoted(name)} {error}")
            continue
        if host in found:
            report.add(place, f"{first[host]!r} is the same host: remove one of the two")
        first[host] = name
        found[host] = _read_host(value, report, place)
    return found


def _read_host(value: object, report: Report, place: Place) -> Layer:
    """Read the table of a host, or the value that stands for it in code."""
    of_aws: list[str] = []
    if isinstance(value, ServiceLimits):
        usual = NOTHING.limits
        of_aws += [
            one for one in ("scope", "buckets") if getattr(value, one) != getattr(usual, one)
        ]
    elif isinstance(value, Mapping):
        of_aws += [one for one in _OF_AWS if one in value]
        value = {one: own for one, own in value.items() if one not in _OF_AWS}
    for one in of_aws:
        report.add(
            (*place, one), f"{one} is only for AWS services, but this is a host: remove {one}"
        )
    fields = _fields_of(value, report, place, known=_HOST_KEYS)
    for lane in fields.get("lanes", ()):
        if problem := lane_problem(str(lane)):
            report.add((*place, "lanes", str(lane)), f"{quoted(str(lane))} {problem}")
    # Region and account mean nothing for a host, and it has no names to check.
    fields |= {"scope": (), "check": False, "buckets": EMPTY}
    return add_layer(NOTHING, fields, _sources_of(fields, NOTHING, report, place), report, place)


def _not_of_a_service(name: str, value: object, *, check: bool) -> list[str]:
    """Return the problems of a key that was not meant to be the name of a service.

    Args:
        name: the key.
        value: its value.
        check: whether unknown names are refused.
    """
    if is_listed(canonical(name)):
        return []
    if name in _ALL_KEYS:
        default = "" if name in START_KEYS else ", or in [default]"
        return [f"write this in the table of a service, such as [ec2]{default}"]
    # A host without its scheme looks like an unknown service: suggest the host instead.
    if meant := _suggested_hosts(name, value):
        return [f"this is not an AWS service: {_remedy(one)}" for one in meant]
    is_table = isinstance(value, Mapping | ServiceLimits)
    if check and not is_table and name != "default" and (key := nearest(name, _TOP_KEYS)):
        return [f"neither a key nor an AWS service: did you mean {key}?"]
    return []


def _suggested_hosts(name: str, value: object) -> list[str]:
    """Return the hosts that the table of an unknown service was probably meant for."""
    if name == "host":
        return [*value] if isinstance(value, Mapping) else ["api.github.com"]
    return [name] if suggest_host(name) else _dotted(name, value)


def _remedy(meant: str) -> str:
    first, _, rest = meant.partition(".")
    if first in _NO_PREFIXES and is_listed(canonical(rest)):
        return f"write the service alone, as [{rest}]"
    return f'for a host, write [{HOSTS}."{meant}"]'


def _dotted(name: str, value: object, depth: int = 0) -> list[str]:
    """Return the hosts whose unquoted names TOML has split into nested tables."""
    is_nested = isinstance(value, Mapping) and value and not any(one in _ALL_KEYS for one in value)
    if not (isinstance(value, Mapping) and is_nested and depth < _DEEPEST_NAME):
        return [name] if depth and suggest_host(name) else []
    deeper = (_dotted(f"{name}.{part}", inner, depth + 1) for part, inner in value.items())
    return [one for found in deeper for one in found]


def _sources_of(
    fields: Mapping[str, Any], base: Layer, report: Report, place: Place
) -> dict[Entry, LimitSource]:
    """Return the sources of the limits that a service's own table sets."""
    sources = {
        Entry(one): LimitSource(report.source_of((*place, "lanes", str(one))))
        for one in fields.get("lanes", ())
    }
    for name in fields.get("buckets", ()):
        sources[Entry(bucket=name)] = LimitSource(report.source_of((*place, "buckets", name)))
    # The source of the limits of all calls: the line of the rate, else of another setting.
    own = {"rate": base.limits.rate, **fields}
    given = next((one for one in ("rate", "concurrency", "adaptive") if own.get(one)), None)
    if fields.get("rate") or (Entry() not in base.sources and (given or not base.sources)):
        sources[Entry()] = LimitSource(report.source_of((*place, given) if given else place))
    return sources


def _fields_of(
    value: object,
    report: Report,
    place: Place,
    *,
    based: bool = False,
    known: Sequence[str] = _ALL_KEYS,
) -> dict[str, Any]:
    """Return the fields of `ServiceLimits` that a value sets: a table, or what stands for it."""
    if isinstance(value, ServiceLimits):
        return {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return _read_table(value, report, place, based=based, known=known)
    return {"rate": read_call_limits(value, report, place)}


def _read_table(
    table: Mapping[str, object],
    report: Report,
    place: Place,
    *,
    based: bool,
    known: Sequence[str],
) -> dict[str, Any]:
    """Return the fields of `ServiceLimits` that a table sets.

    Args:
        table: the table. `preset`, `share` and `quotas` have been removed, except from the default,
            which cannot have them.
        report: gets the problems.
        place: the place of the table.
        based: whether the service starts from published limits.
        known: the keys that the table may have.
    """
    for one in START_KEYS:
        if one in table:
            top = "at the top of the file or " if one in _TOP_KEYS else ""
            report.add(
                (*place, one),
                f"the default cannot start from a preset: write this {top}in the table of a "
                "service",
            )
    unknown_keys(table, known, report, place)
    # The rate is read below, together with `burst` and `window`, which have no field of their own.
    rest = {one: value for one, value in table.items() if one in _TABLE_KEYS}
    fields = read_keys(ServiceLimits, rest, report, place)
    if any(one in table for one in LIMIT_KEYS):
        key = next(one for one in LIMIT_KEYS if one in table)
        fields["rate"] = only_calls(limit_table(table, report, place), report, (*place, key))
    elif based or "concurrency" in table or report.has(place):
        pass  # there are limits, or another problem may be the reason why they are missing
    elif "lanes" in table:
        what = "host" if known is _HOST_KEYS else "service"
        report.add(
            place,
            f"there are lanes, but no limit for the {what} as a whole: "
            'write rate = "10/s", or rate = "unlimited" for none',
        )
    elif "buckets" not in table:
        report.add(place, NO_LIMIT)
    return fields


def _check_names(
    service: str,
    limits: ServiceLimits,
    named: Mapping[LaneKey, Place],
    buckets: Mapping[str, Bucket],
    report: Report,
) -> None:
    """Report unknown names: of the service, of its lanes, and in its buckets."""
    if service != "default":
        report.add((service,), unknown_service(service, report))
    for lane, where in named.items():
        _check_lane(service, lane, limits, report, where)
    for name, bucket in buckets.items():
        _check_bucket(service, bucket, report, (service, "buckets", name))


def _check_lane(
    service: str, lane: LaneKey, limits: ServiceLimits, report: Report, place: Place
) -> None:
    """Report an unknown operation or variant in the key of a lane."""
    operation, variant = (lane, None) if isinstance(lane, str) else lane
    report.add(place, unknown_operation(service, operation, report))
    if variant is None:
        return
    if not (variant in limits.buckets and limits.buckets[variant].per_operation):
        report.add(place, f"{service} has no bucket {variant!r} with each = true")


def _check_bucket(service: str, bucket: Bucket, report: Report, place: Place) -> None:
    """Report unknown operations and parameters of a bucket."""
    for name, operations in (("operations", bucket.operations), ("exclude", bucket.exclude)):
        for operation in operations:
            report.add((*place, name), unknown_operation(service, operation, report))
    parameters = [((*place, "unless"), bucket.operations, name) for name in bucket.unless_params]
    for operation, cost in bucket.cost.items():
        at = (*place, "cost", operation)
        if not matches_any(operation, bucket.operations):
            report.add(at, "this is not one of the bucket's operations")
            continue
        report.add(at, unknown_operation(service, operation, report))
        if cost.parameter:
            parameters.append((at, (operation,), cost.parameter))
    # Not for limits in code: this reads large files, and an event loop may be running.
    for at, operations, name in parameters if not report.in_code else ():
        report.add(at, unknown_parameter(service, operations, name, report))
