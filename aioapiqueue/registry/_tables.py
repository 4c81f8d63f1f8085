"""The tables of a limits.toml, and `--limit`: each service's limits, on top of what was there."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aioapiqueue.adaptive import Adaptive
from aioapiqueue.exceptions import LimitsError
from aioapiqueue.registry._buckets import Bucket, LaneKey, lane_key
from aioapiqueue.registry._fields import flag, keys_of, read_keys, unknown_keys
from aioapiqueue.registry._hosts import (
    HOSTS,
    host_called,
    is_host,
    lane_problem,
    meant_as_host,
    read_target,
)
from aioapiqueue.registry._limits import (
    LIMIT_KEYS,
    NO_LIMIT,
    limit_table,
    of_calls,
    read_call_limits,
)
from aioapiqueue.registry._model import (
    NOTHING,
    Entry,
    Layer,
    LimitSource,
    ServiceLimits,
    on_top,
)
from aioapiqueue.registry._names import (
    NAMES,
    canonical,
    fits,
    nearest,
    unknown_operation,
    unknown_parameter,
    unknown_service,
)
from aioapiqueue.registry._preset import NO_PRESET, START_KEYS, take_preset, take_start
from aioapiqueue.registry._published import (
    DEFAULT_SHARE,
    Scope,
    enforceable,
    preset_services,
)
from aioapiqueue.registry._report import Place, Report, quoted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from aioapiqueue import Limit
    from aioapiqueue.registry._published import PublishedLimit

_OPTION = (
    "SERVICE=LIMIT, SERVICE.Operation=LIMIT or HOST=LIMIT, such as ec2=100ms, "
    "ec2.DescribeSnapshots=5/s or https://api.github.com=10/s"
)
_TABLE_KEYS = [one for one in keys_of(ServiceLimits) if one != "rate"]
_TABLE_KEYS.sort(key=lambda one: one in ("lanes", "buckets"))  # in a message, tables come last
_OF_AWS = ("scope", "buckets", "check", *START_KEYS)
"""Keys that a host has not."""
_DEEPEST_NAME = 10
"""Parts of a host's name."""
_ALL_KEYS = (*LIMIT_KEYS, *_TABLE_KEYS, *START_KEYS)
_HOST_KEYS = tuple(one for one in _ALL_KEYS if one not in _OF_AWS)
_TOP_KEYS = ("preset", "share", "check", "default")
_NO_PREFIXES = ("aws", "service", "services")
"""What other programs' files have before the name of a service."""


@dataclass(frozen=True, slots=True)
class InForce:
    """Limits in force, and where they come from.

    Attributes:
        service: the service's name, or "default" for services that are not listed.
        operation: the operation that has the limits, `"Describe*"` for each with this prefix,
            `"*"` for each other one. None: all operations together, or those of `bucket`.
        limits: all of them apply. Empty: unlimited.
        scope: whether each account, each Region or both have such limits of their own.
        source: the file and line, the option, "code", or the share and page of a preset.
        bucket: the name of the bucket that has the limits, if one does.
        members: the bucket itself.
        figure: the published limit, if the limits come from a preset.
        share: the share of the published limit.
        concurrency: largest number of calls of the service in flight.
        adaptive: how the service backs off when AWS throttles.
    """

    service: str
    operation: str | None
    limits: tuple[Limit, ...]
    scope: tuple[Scope, ...]
    source: str
    bucket: str | None = None
    members: Bucket | None = None
    figure: PublishedLimit | None = None
    share: float | None = None
    concurrency: int | None = None
    adaptive: Adaptive | None = None


def entries(layers: Mapping[str, Layer]) -> Iterator[InForce]:
    """Yield what is in force: each service's own limits, its operations', its buckets'."""
    for service, (of, sources) in layers.items():
        found = {Entry(): of.rate}
        found |= {Entry(lane): limits for lane, limits in of.lanes.items()}
        found |= {
            Entry(bucket=name): one.limits for name, one in of.buckets.items() if one.operations
        }
        for entry, limits in found.items():
            source = sources.get(entry)
            if source is None or (source.figure is not None and not limits):
                continue  # nothing is published of all operations together, or a table lifts it
            lane, bucket = entry
            text, figure, share = source
            of_all = (of.concurrency, of.adaptive) if entry == Entry() else (None, None)
            yield InForce(
                service,
                None if lane is None else str(lane),
                limits,
                of.scope,
                text,
                bucket,
                of.buckets.get(bucket or ""),
                figure,
                share,
                *of_all,
            )


def read_tables(
    tables: Mapping[str, object], report: Report, *, check: bool = True
) -> dict[str, Layer]:
    """Read all tables, each under its service's one name.

    Args:
        tables: of a limits.toml, or what stands for them in code.
        report: gets what is wrong. If it is of code, parameters are not looked up in botocore's
            models, which are large files, as a loop may be running.
        check: whether names are looked up; default: where no table switches it off.
    """
    tables = dict(tables)
    start = take_start(tables, report, (), ("preset", "share"))
    if start.share is not None and start.preset is None:
        report.add(("share",), NO_PRESET)
    share = (start.share or DEFAULT_SHARE) if start.preset else None
    known = flag(fallback=True)(tables.pop("check", True), report, ("check",))
    found: dict[str, Layer] = {}
    first: dict[str, str] = {}
    if share is not None:
        listed = {canonical(one) for one in tables}
        tables |= {one: {} for one in preset_services() if one not in listed and enforceable(one)}
    found |= _read_hosts(tables, report)
    for name, value in tables.items():
        service = canonical(name)
        if service not in NAMES and (meant := _hosts_in(name, value)):
            for one in meant:
                report.add((name,), f"this is not an AWS service: {_remedy(one)}")
            continue
        if check and known and (key := _key_meant(service, value)):
            report.add((name,), f"neither a key nor an AWS service: did you mean {key}?")
            continue
        if service in found:
            report.add((name,), f"{first[service]!r} is the same service: remove one of the two")
        first[service] = name
        if isinstance(value, Layer):
            found[service] = value
        else:
            found[service] = _read_service(name, value, report, share, known=known, check=check)
    return found


def _read_service(
    service: str, value: object, report: Report, share: float | None, *, known: bool, check: bool
) -> Layer:
    """Read one table of limits.toml, or what stands for it in code.

    Args:
        service: its name, or "default".
        value: a `ServiceLimits`, a table, or limits alone.
        report: gets what is wrong.
        share: of what AWS publishes, which each service starts from; default: from nothing.
        known: whether names must be known ones, unless the table has a `check` of its own.
        check: False: no names are looked up.
    """
    place: Place = (service,)
    base, named = NOTHING, dict[LaneKey, Place]()
    table = dict(value) if isinstance(value, Mapping) else {}
    if not (isinstance(value, ServiceLimits) or service == "default"):
        base, named = take_preset(service, table, report, share)
    if isinstance(value, ServiceLimits):
        fields = {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
    elif isinstance(value, Mapping):
        fields = _read_table(table, report, place, based=bool(base.sources))
    else:
        fields = {"rate": read_call_limits(value, report, place)}
    sources = _sources_of(fields, base, report, place)
    layer = on_top(base, {"check": known, **fields}, sources, report, place)
    if check and layer.limits.check:
        # What is published needs no look-up, and may be newer than the botocore here.
        for lane in fields.get("lanes", ()):
            if lane not in base.limits.lanes:
                named[lane] = (service, "lanes", str(lane))
        buckets = fields.get("buckets", {}).items()
        own = {name: one for name, one in buckets if name not in base.limits.buckets}
        _check_names(service, layer.limits, named, own, report)
    return layer


def _read_hosts(tables: dict[str, Any], report: Report) -> dict[str, Layer]:
    """Take the tables of hosts out of all others, and read them, each under its host's one name."""
    found: dict[str, Layer] = {}
    first: dict[str, str] = {}
    given: list[tuple[Place, str, object]] = []
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
        found[host] = value if isinstance(value, Layer) else _read_host(value, report, place)
    return found


def _read_host(value: object, report: Report, place: Place) -> Layer:
    """Read one table of a host, or what stands for it in code."""
    if isinstance(value, ServiceLimits):
        fields = {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
        usual = ServiceLimits()
        for one in ("scope", "buckets"):
            if fields.pop(one) != getattr(usual, one):
                report.add((*place, one), _no_host_has(one))
    elif isinstance(value, Mapping):
        for one in _OF_AWS:
            if one in value:
                report.add((*place, one), _no_host_has(one))
        table = {one: own for one, own in value.items() if one not in _OF_AWS}
        fields = _read_table(table, report, place, based=False, known=_HOST_KEYS)
    else:
        fields = {"rate": read_call_limits(value, report, place)}
    for lane in fields.get("lanes", ()):
        if problem := lane_problem(str(lane)):
            report.add((*place, "lanes", str(lane)), f"{quoted(str(lane))} {problem}")
    fields |= {"scope": (), "check": False}
    return on_top(NOTHING, fields, _sources_of(fields, NOTHING, report, place), report, place)


def _no_host_has(key: str) -> str:
    return f"{key} is only for AWS services, but this is a host: remove {key}"


def _key_meant(name: str, value: object) -> str:
    """Return, quoted, which key of the top a name that is of no service is near to, if any."""
    is_table = isinstance(value, Mapping | ServiceLimits | Layer)
    return "" if is_table or name in (*NAMES, *_TOP_KEYS) else nearest(name, _TOP_KEYS)


def _hosts_in(name: str, value: object) -> list[str]:
    """Return what in a table that is of no service of AWS was probably meant as hosts."""
    if name == "host":
        return [*value] if isinstance(value, Mapping) else ["api.github.com"]
    return [name] if meant_as_host(name) else _dotted(name, value)


def _remedy(meant: str) -> str:
    first, _, rest = meant.partition(".")
    if first in _NO_PREFIXES and canonical(rest) in NAMES:
        return f"write the service alone, as [{rest}]"
    return f'for a host, write [{HOSTS}."{meant}"]'


def _dotted(name: str, value: object, depth: int = 0) -> list[str]:
    """Return the names of hosts that were meant, where their parts have become tables in tables."""
    is_nested = isinstance(value, Mapping) and value and not any(one in _ALL_KEYS for one in value)
    if not (isinstance(value, Mapping) and is_nested and depth < _DEEPEST_NAME):
        return [name] if depth and meant_as_host(name) else []
    deeper = (_dotted(f"{name}.{part}", inner, depth + 1) for part, inner in value.items())
    return [one for found in deeper for one in found]


def _check_names(
    service: str,
    limits: ServiceLimits,
    named: Mapping[LaneKey, Place],
    buckets: Mapping[str, Bucket],
    report: Report,
) -> None:
    """Report which names AWS does not have: of the service, of lanes, of what is in buckets."""
    if service != "default":
        report.add((service,), unknown_service(service, report))
    for lane, where in named.items():
        _check_lane(service, lane, limits, report, where)
    for name, bucket in buckets.items():
        _check_bucket(service, bucket, report, (service, "buckets", name))


def _sources_of(
    fields: Mapping[str, Any], base: Layer, report: Report, place: Place
) -> dict[Entry, LimitSource]:
    """Return the sources of the limits that a service's table sets itself."""
    sources = {
        Entry(one): LimitSource(report.source_of((*place, "lanes", str(one))))
        for one in fields.get("lanes", ())
    }
    for name in fields.get("buckets", ()):
        sources[Entry(bucket=name)] = LimitSource(report.source_of((*place, "buckets", name)))
    own = {"rate": base.limits.rate, **fields}
    given = next((one for one in ("rate", "concurrency", "adaptive") if own.get(one)), None)
    if fields.get("rate") or (Entry() not in base.sources and (given or not base.sources)):
        sources[Entry()] = LimitSource(report.source_of((*place, given) if given else place))
    return sources


def _read_table(
    table: Mapping[str, object],
    report: Report,
    place: Place,
    *,
    based: bool,
    known: Sequence[str] = _ALL_KEYS,
) -> dict[str, Any]:
    """Return the fields of a `ServiceLimits` that a service's table sets.

    Args:
        table: without `preset`, `share` and `quotas`, which the default cannot have.
        report: gets what is wrong.
        place: of the table.
        based: whether the service starts from what AWS publishes.
        known: the keys that it may have; default: those of a service.
    """
    for one in START_KEYS:
        if one in table:
            report.add(
                (*place, one),
                "the default cannot start from a preset: write this at the top of the file or in "
                "the table of a service",
            )
    unknown_keys(table, known, report, place)
    rest = {one: value for one, value in table.items() if one in _TABLE_KEYS}
    fields = read_keys(ServiceLimits, rest, report, place)
    if any(one in table for one in LIMIT_KEYS):
        key = next(one for one in LIMIT_KEYS if one in table)
        fields["rate"] = of_calls(limit_table(table, report, place), report, (*place, key))
    elif based or "concurrency" in table or report.has(place):
        pass
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


ADAPTIVE = "--adaptive"
"""Where it comes from that every service is adaptive."""


def all_adaptive(layers: Mapping[str, Layer]) -> dict[str, Layer]:
    """Return limits of which every service is adaptive, those that are not listed too."""
    found = dict(layers)
    default = Layer(ServiceLimits(), {Entry(): LimitSource(ADAPTIVE)})
    for service, layer in {"default": default, **layers}.items():
        if layer.limits.adaptive is None:
            limits = dataclasses.replace(layer.limits, adaptive=Adaptive())
            found[service] = Layer(limits, layer.sources)
    return found


def _check_lane(
    service: str, lane: LaneKey, limits: ServiceLimits, report: Report, place: Place
) -> None:
    """Report if the service has no such operation, or the operation no such variant."""
    operation, variant = (lane, None) if isinstance(lane, str) else lane
    report.add(place, unknown_operation(service, operation, report))
    if variant is None:
        return
    if not (variant in limits.buckets and limits.buckets[variant].per_operation):
        report.add(place, f"{service} has no bucket {variant!r} with each = true")


def _check_bucket(service: str, bucket: Bucket, report: Report, place: Place) -> None:
    """Report which operations and parameters of a bucket the service does not have."""
    for name, operations in (("operations", bucket.operations), ("exclude", bucket.exclude)):
        for operation in operations:
            report.add((*place, name), unknown_operation(service, operation, report))
    parameters = [((*place, "unless"), bucket.operations, name) for name in bucket.unless_params]
    for operation, cost in bucket.cost.items():
        at = (*place, "cost", operation)
        if not fits(operation, bucket.operations):
            report.add(at, "this is not one of the bucket's operations")
            continue
        report.add(at, unknown_operation(service, operation, report))
        if cost.parameter:
            parameters.append((at, (operation,), cost.parameter))
    for at, operations, name in parameters if not report.in_code else ():
        report.add(at, unknown_parameter(service, operations, name, report))


def target_called(text: str) -> tuple[str, str | None]:
    """Return which service, and which operation of it, a `--limit` is for.

    Args:
        text: what is before the `=`.

    Raises:
        ValueError: it is for none that can be, with the reason.
    """
    text = text.strip()
    try:
        if host := read_target(text):
            return host
    except ValueError as error:
        raise ValueError(f"{quoted(text)} {error}") from None
    name, dot, operation = text.partition(".")
    meant = meant_as_host(text)
    if meant and ("." in operation or unknown_service(name, Report("")) is not None):
        raise ValueError(f"{quoted(text)} is not an AWS operation: for a host, write {meant}=10/s")
    if not name or bool(dot) != bool(operation):
        raise ValueError(f"write {_OPTION}")
    return name, operation or None


def read_options(
    options: Iterable[str], layers: Mapping[str, Layer], *, check: bool = True
) -> dict[str, Layer]:
    """Return limits, some of which `--limit` replaces.

    Args:
        options: as they were given.
        layers: of all services.
        check: whether names are looked up; default: where no table switches it off.

    Raises:
        LimitsError: an option is invalid; all problems in one error.
    """
    found, bases = dict(layers), dict[str, Layer]()
    problems: list[str] = []
    given: dict[str, dict[Entry, tuple[LimitSource, tuple[Limit, ...]]]] = {}
    for option in options:
        report = Report(f"--limit {quoted(option)[1:-1]}")
        # A path may have a =, and no limit has one.
        target, equals, text = option.rpartition("=")
        try:
            name, operation = target_called(target if equals else "")
        except ValueError as error:
            problems.append(f"{report.source}: {error}")
            continue
        service, entry = canonical(name), Entry(lane_key(operation) if operation else None)
        source, own = LimitSource(report.source), given.setdefault(service, {})
        if service not in bases:
            if is_host(service):
                usual = Layer(ServiceLimits(scope=(), check=False), {Entry(): source})
            else:
                usual = found.get("default", Layer(ServiceLimits(), {Entry(): source}))
            bases[service] = found.get(service, usual)
        if entry in own:
            first = own[entry][0].text
            report.add(
                (), f"{first} is for the same calls: write one option, with a comma between limits"
            )
        own[entry] = source, read_call_limits(text.strip(), report, ())
        base = bases[service]
        if check and base.limits.check:
            if name != "default":
                report.add((), unknown_service(name, report))
            if entry.lane is not None:
                _check_lane(name, entry.lane, base.limits, report, ())
        # All options of a service together, like one table: their order does not matter.
        lanes = {one.lane: limits for one, (_, limits) in own.items() if one.lane is not None}
        fields = {"lanes": lanes} | ({"rate": own[Entry()][1]} if Entry() in own else {})
        sources = {one: source for one, (source, _) in own.items()}
        found[service] = on_top(base, fields, sources, report)
        problems += report.problems
    if problems:
        raise LimitsError(*problems)
    return found
