"""What a service starts from: a share of what AWS publishes, or grants (preset, share, quotas)."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from aioapiqueue.registry._buckets import (
    Bucket,
    LaneKey,
    VariantKey,
    counted_in,
    lane_key,
    lane_of,
    of_one_unit,
)
from aioapiqueue.registry._fields import EMPTY, key, keys_of, read_keys, table_of
from aioapiqueue.registry._limits import of_calls, read_limits
from aioapiqueue.registry._model import NOTHING, Entry, Layer, LimitSource
from aioapiqueue.registry._names import canonical
from aioapiqueue.registry._published import (
    DEFAULT_SHARE,
    enforceable,
    published,
    published_limits,
    read_preset,
    read_share,
    scaled,
)
from aioapiqueue.registry._report import quoted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aioapiqueue import Limit
    from aioapiqueue.registry._published import PublishedLimit
    from aioapiqueue.registry._report import Place, Report

NO_PRESET = 'this needs a preset: add preset = "aws"'


@dataclass(frozen=True, slots=True)
class Start:
    """What a file, or the table of a service in it, starts from.

    Attributes:
        preset: whether that is what AWS publishes; None: not given.
        share: how much of it, above 0, at most 1; None: not given.
        quotas: what AWS grants in its place, by operation, variant, or name of a bucket.
    """

    preset: bool | None = key(read_preset, None)
    share: float | None = key(read_share, None)
    quotas: Mapping[str, tuple[Limit, ...]] = key(
        table_of(read_limits, '{RunInstances = "4/s"}'), EMPTY
    )


START_KEYS = tuple(keys_of(Start))


class _Whole(NamedTuple):
    """What a share is of: what AWS publishes, or what it grants an account."""

    limits: tuple[Limit, ...]
    where: str
    figure: PublishedLimit | None = None


def take_start(
    table: dict[str, Any], report: Report, place: Place, keys: Iterable[str] = START_KEYS
) -> Start:
    """Take out of a table what it starts from."""
    given = {one: table.pop(one) for one in keys if one in table}
    return Start(**read_keys(Start, given, report, place))


def take_preset(
    service: str, table: dict[str, Any], report: Report, share: float | None
) -> tuple[Layer, dict[LaneKey, Place]]:
    """Take out of a service's table what it starts from, and shares among its lanes.

    Args:
        service: as the table has it.
        table: of limits.toml.
        report: gets what is wrong.
        share: of the whole file; None: it has no preset.

    Returns:
        What the service starts from, and where the table names lanes of it.
    """
    place: Place = (service,)
    name = canonical(service)
    asked: list[str] = [one for one in ("share", "quotas") if one in table]
    start = take_start(table, report, place)
    shares = _take_shares(table, report, (*place, "lanes"))
    asked += ["lanes"] * bool(shares)
    if not (share is not None if start.preset is None else start.preset):
        if asked and start.preset is None:
            report.add((*place, asked[0]), NO_PRESET)
        elif asked and not report.has((*place, "preset")):
            report.add(
                (*place, asked[0]),
                'this needs a preset, but preset = "none" is set: remove one of the two',
            )
        return NOTHING, {}
    quotas = _quotas(name, start.quotas, report, (*place, "quotas"))
    base = _share_of(name, start.share or share or DEFAULT_SHARE, quotas, shares)
    if not base.sources and (start.preset or asked):
        report.add(
            place,
            f"AWS publishes no request limits for {service} that can be enforced here: "
            'write rate = "10/s"',
        )
    named: dict[LaneKey, Place] = {
        one: (*place, "quotas", str(one)) for one in quotas if one not in base.limits.buckets
    }
    for lane in shares if base.sources else ():
        named[lane] = (*place, "lanes", str(lane))
        if Entry(lane) not in base.sources:
            report.add(named.pop(lane), _no_share(name, lane))
    return base, named


def _take_shares(table: dict[str, Any], report: Report, place: Place) -> dict[LaneKey, float]:
    """Take out of a service's lanes those that are shares."""
    lanes = table.get("lanes")
    if not isinstance(lanes, Mapping):
        return {}
    shares = {
        name: value["share"]
        for name, value in lanes.items()
        if isinstance(value, Mapping) and value.keys() == {"share"}
    }
    table["lanes"] = {name: value for name, value in lanes.items() if name not in shares}
    if shares and not table["lanes"]:
        del table["lanes"]
    return {
        lane_key(name): read_share(value, report, (*place, str(name), "share")) or DEFAULT_SHARE
        for name, value in shares.items()
    }


def _quotas(
    service: str, table: Mapping[str, tuple[Limit, ...]], report: Report, place: Place
) -> dict[LaneKey, _Whole]:
    """Return what AWS grants; report what is of a variant that AWS does not have."""
    variants = {one.name: one for one in enforceable(service) if one.unless_params}
    shared = {one.name: one for one in enforceable(service) if one.shared}
    buckets = {*variants, *shared}
    quotas: dict[LaneKey, _Whole] = {}
    for name, limits in table.items():
        at = (*place, name)
        lane = name if name in buckets else lane_key(name)
        figure = shared.get(name)
        if figure is None or not figure.cost:
            limits = of_calls(limits, report, at)  # noqa: PLW2901 - none, if it is reported
        else:  # "4/s" is of what is published, such as instances
            limits = of_one_unit(limits, report, at)  # noqa: PLW2901 - none, if it is reported
            limits = counted_in(Bucket(limits=limits), figure.rate.unit)  # noqa: PLW2901
        quotas[lane] = _Whole(limits, report.source_of(at))
        if not isinstance(lane, VariantKey) or lane.variant not in variants:
            continue
        known = variants[lane.variant].operations
        if lane.operation not in known:
            report.add(
                at,
                f"AWS has no bucket {quoted(lane.variant)} for {quoted(lane.operation)}, only for "
                f"{', '.join(known)}: put a limit of your own into lanes",
            )
    return quotas


def _share_of(
    service: str, share: float, quotas: Mapping[LaneKey, _Whole], shares: Mapping[LaneKey, float]
) -> Layer:
    """Return a share of what AWS publishes of a service, or grants.

    Args:
        service: by its one name.
        share: above 0, at most 1.
        quotas: what AWS grants, where that is not what it publishes.
        shares: other shares of single operations.
    """
    known = enforceable(service)
    if not known:
        return NOTHING
    buckets = {one.name or "": _bucket(one) for one in known if one.shared or one.unless_params}
    parts: dict[LaneKey | None, tuple[_Whole, float]] = {}
    for one in known:
        names = (one.name or "",) if one.shared or one.unless_params else one.operations or (None,)
        parts |= dict.fromkeys(names, (_of(one), share))
    parts |= {name: (whole, share) for name, whole in quotas.items()}
    # Shares of single operations replace those of all operations that begin alike.
    for lane in sorted(shares, key=lambda one: len(str(one))):
        for name in _belonging(lane, parts, buckets):
            whole = quotas.get(name) or _published(service, name, buckets)
            if whole is not None:
                parts[name] = whole, shares[lane]
    lanes: dict[LaneKey, tuple[Limit, ...]] = {}
    rate: tuple[Limit, ...] = ()
    sources = {}
    for part, (whole, of_it) in parts.items():
        limits = tuple(scaled(one, of_it) for one in whole.limits)
        entry = Entry(part)
        if part is None:
            rate = limits
        elif isinstance(part, str) and part in buckets:
            entry = Entry(bucket=part)
            buckets[part] = dataclasses.replace(buckets[part], limits=limits)
        else:
            lanes[part] = limits
        sources[entry] = LimitSource(f"{of_it * 100:.6g}% of {whole.where}", whole.figure, of_it)
    scope = known[0].scope
    fields = dataclasses.replace(
        NOTHING.limits, rate=rate, scope=scope, lanes=lanes, buckets=buckets
    )
    return Layer(fields, sources)


def _of(figure: PublishedLimit) -> _Whole:
    return _Whole((figure.rate,), figure.source.rpartition("/")[2], figure)


def _bucket(figure: PublishedLimit) -> Bucket:
    """Return the bucket that is published, without its limits."""
    return Bucket(
        figure.operations,
        exclude=figure.exclude,
        unless_params=figure.unless_params,
        per_operation=not figure.shared,
        cost=figure.cost,
        shared_with=figure.shared_with,
    )


def _belonging(
    lane: LaneKey, lanes: Collection[LaneKey | None], buckets: Mapping[str, Bucket]
) -> list[LaneKey]:
    """Return what has the share of a lane: the lane, its variants, and buckets that it alone uses.

    What it shares with other operations stays as it is.
    """
    found: list[LaneKey] = [lane]
    for name, bucket in buckets.items():
        if bucket.per_operation:
            found += [
                VariantKey(operation, name)
                for operation in bucket.operations
                if lane_of(operation, [*lanes, lane]) == lane
            ]
        elif bucket.operations == (lane,):
            found.append(name)
    return found


def _published(service: str, name: LaneKey, buckets: Collection[LaneKey]) -> _Whole | None:
    """Return what AWS publishes of a lane or a bucket."""
    if name in buckets:
        figure = next((one for one in published_limits(service) if one.name == name), None)
    else:
        figure = published(service, name)
    return None if figure is None else _of(figure)


def _no_share(service: str, lane: LaneKey) -> str:
    """Return why a lane can have no share of its own."""
    if isinstance(lane, str) and any(not one.operations for one in enforceable(service)):
        return (
            f"AWS publishes no request limit for {quoted(lane)} alone, only one for all "
            f"operations of {service} together: write a share for the service, or a limit here"
        )
    return f"AWS publishes no request limit for {quoted(str(lane))}: write a limit, not a share"
