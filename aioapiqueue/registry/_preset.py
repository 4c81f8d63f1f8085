"""The limits that a service starts from, before its own table: `preset`, `share`, `quotas`.

They are a share of the limits that AWS publishes, or that it grants the account.
"""

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
    only_one_unit,
)
from aioapiqueue.registry._fields import (
    EMPTY,
    key,
    keys_of,
    only_calls,
    only_waiting,
    read_keys,
    read_limits,
    table_of,
)
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
    """The keys of a file, or of a service's table, that choose the limits to start from.

    Attributes:
        preset: whether to start from the limits that AWS publishes; None: not given.
        share: the share of these limits, above 0 and at most 1; None: not given.
        quotas: limits that AWS grants instead, by operation, variant or bucket.
    """

    preset: bool | None = key(read_preset, None)
    share: float | None = key(read_share, None)
    quotas: Mapping[str, tuple[Limit, ...]] = key(
        table_of(read_limits, '{RunInstances = "4/s"}'), EMPTY
    )


START_KEYS = tuple(keys_of(Start))


class _Unscaled(NamedTuple):
    """Limits as AWS publishes or grants them, before the share is taken."""

    limits: tuple[Limit, ...]
    where: str
    figure: PublishedLimit | None = None


def pop_start(
    table: dict[str, Any], report: Report, place: Place, keys: Iterable[str] = START_KEYS
) -> Start:
    """Remove the keys of `Start` from a table, and read them."""
    given = {one: table.pop(one) for one in keys if one in table}
    return Start(**read_keys(Start, given, report, place))


def pop_preset(
    service: str, table: dict[str, Any], report: Report, share: float | None
) -> tuple[Layer, dict[LaneKey, Place]]:
    """Remove the keys of `Start`, and lanes that are shares, from a service's table; read them.

    Args:
        service: the service's name, as in the table.
        table: the table; it is changed.
        report: gets the problems.
        share: the share of the whole file; None if the file has no preset.

    Returns:
        The limits that the service starts from, and the places of the lanes that the table names.
    """
    place: Place = (service,)
    name = canonical(service)
    # The keys that need a preset, noted before they are removed.
    asked: list[Place] = [(*place, one) for one in ("share", "quotas") if one in table]
    start = pop_start(table, report, place)
    shares = _pop_shares(table, report, (*place, "lanes"))
    asked += [(*place, "lanes", str(lane)) for lane in shares]
    # The table's own preset decides; without one, the file's.
    if not (share is not None if start.preset is None else start.preset):
        if asked and start.preset is None:
            report.add(asked[0], NO_PRESET)
        elif asked and not report.has((*place, "preset")):
            report.add(
                asked[0],
                'this needs a preset, but preset = "none" is set: remove one of the two',
            )
        return NOTHING, {}
    quotas = _quotas(name, start.quotas, report, (*place, "quotas"))
    base = _share_of(name, start.share or share or DEFAULT_SHARE, quotas, shares)
    # No error if only the file has a preset: it applies just to services with published limits.
    if not base.sources and (start.preset or asked):
        report.add(
            place,
            f"AWS publishes no request limits for {service} that can be enforced here: "
            'write rate = "10/s"',
        )
    # Names of operations to check. Those of buckets are published, and need no check.
    named: dict[LaneKey, Place] = {
        one: (*place, "quotas", str(one)) for one in quotas if one not in base.limits.buckets
    }
    for lane in shares if base.sources else ():
        named[lane] = (*place, "lanes", str(lane))
        if Entry(lane) not in base.sources:
            report.add(named.pop(lane), _why_no_share(name, lane))
    return base, named


def _pop_shares(table: dict[str, Any], report: Report, place: Place) -> dict[LaneKey, float]:
    """Remove from a service's table the lanes that are shares, and read them."""
    lanes = table.get("lanes")
    if not isinstance(lanes, Mapping):
        return {}
    shares = {
        name: value["share"]
        for name, value in lanes.items()
        # With a limit beside it, the share stays in the table, where it is an unknown key.
        if isinstance(value, Mapping) and value.keys() == {"share"}
    }
    table["lanes"] = {name: value for name, value in lanes.items() if name not in shares}
    if shares and not table["lanes"]:
        del table["lanes"]  # an empty table of lanes would be refused for lack of a rate
    return {
        lane_key(name): read_share(value, report, (*place, str(name), "share")) or DEFAULT_SHARE
        for name, value in shares.items()
    }


def _quotas(
    service: str, table: Mapping[str, tuple[Limit, ...]], report: Report, place: Place
) -> dict[LaneKey, _Unscaled]:
    """Return the granted limits; report those of variants that AWS does not have."""
    variants = {one.name: one for one in enforceable(service) if one.unless_params}
    shared = {one.name: one for one in enforceable(service) if one.shared}
    buckets = {*variants, *shared}
    quotas: dict[LaneKey, _Unscaled] = {}
    for name, limits in table.items():
        at = (*place, name)
        # The name of a bucket may have a space, at which `lane_key` would cut it.
        lane = name if name in buckets else lane_key(name)
        figure = shared.get(name)
        limits = only_waiting(limits, report, at)  # noqa: PLW2901 - empty after a problem
        if figure is None or not figure.cost:
            limits = only_calls(limits, report, at)  # noqa: PLW2901 - empty after a problem
        else:  # "4/s" counts the published unit, such as instances
            limits = only_one_unit(limits, report, at)  # noqa: PLW2901 - empty after a problem
            limits = counted_in(Bucket(limits=limits), figure.rate.unit)  # noqa: PLW2901 - as above
        quotas[lane] = _Unscaled(limits, report.source_of(at))
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
    service: str,
    share: float,
    quotas: Mapping[LaneKey, _Unscaled],
    shares: Mapping[LaneKey, float],
) -> Layer:
    """Return a share of the limits that AWS publishes or grants for a service.

    Args:
        service: the canonical name.
        share: the share, above 0 and at most 1.
        quotas: the granted limits, where they differ from the published ones.
        shares: the shares of lanes that have one of their own.
    """
    known = enforceable(service)
    if not known:
        return NOTHING
    buckets = {one.name or "": _bucket(one) for one in known if one.shared or one.unless_params}
    # The key is a lane, the name of a bucket, or None for all operations together.
    parts: dict[LaneKey | None, tuple[_Unscaled, float]] = {}
    for one in known:
        # A bucket is one part. Any other limit is a part for each of its operations.
        names = (one.name or "",) if one.shared or one.unless_params else one.operations or (None,)
        parts |= dict.fromkeys(names, (_unscaled_limits_of(one), share))
    parts |= {name: (unscaled, share) for name, unscaled in quotas.items()}
    # Shortest first, so that the share of an operation replaces that of a prefix.
    for lane in sorted(shares, key=lambda one: len(str(one))):
        for name in _parts_of(lane, parts, buckets):
            # `parts` may lack the lane, such as an operation that only a prefix covers.
            unscaled = quotas.get(name) or _published(service, name, buckets)
            if unscaled is not None:
                parts[name] = unscaled, shares[lane]
    lanes: dict[LaneKey, tuple[Limit, ...]] = {}
    rate: tuple[Limit, ...] = ()
    sources = {}
    for part, (unscaled, taken) in parts.items():
        limits = tuple(scaled(one, taken) for one in unscaled.limits)
        entry = Entry(part)
        if part is None:
            rate = limits
        elif isinstance(part, str) and part in buckets:
            entry = Entry(bucket=part)
            buckets[part] = dataclasses.replace(buckets[part], limits=limits)
        else:
            lanes[part] = limits
        sources[entry] = LimitSource(
            f"{taken * 100:.6g}% of {unscaled.where}", unscaled.figure, taken
        )
    scope = known[0].scope  # a test checks that all limits of a service have the same scope
    fields = dataclasses.replace(
        NOTHING.limits, rate=rate, scope=scope, lanes=lanes, buckets=buckets
    )
    return Layer(fields, sources)


def _unscaled_limits_of(figure: PublishedLimit) -> _Unscaled:
    return _Unscaled((figure.rate,), figure.source.rpartition("/")[2], figure)


def _bucket(figure: PublishedLimit) -> Bucket:
    """Return the bucket of a published limit, without limits."""
    return Bucket(
        figure.operations,
        exclude=figure.exclude,
        unless_params=figure.unless_params,
        per_operation=not figure.shared,
        cost=figure.cost,
        shared_with=figure.shared_with,
    )


def _parts_of(
    lane: LaneKey, lanes: Collection[LaneKey | None], buckets: Mapping[str, Bucket]
) -> list[LaneKey]:
    """Return what the share of a lane applies to: the lane, its variants, and its own buckets.

    Buckets that it shares with other operations are not affected.
    """
    found: list[LaneKey] = [lane]
    for name, bucket in buckets.items():
        if bucket.per_operation:
            # The variants of operations for which this lane is the best match.
            found += [
                VariantKey(operation, name)
                for operation in bucket.operations
                if lane_of(operation, [*lanes, lane]) == lane
            ]
        elif bucket.operations == (lane,):
            found.append(name)
    return found


def _published(service: str, name: LaneKey, buckets: Collection[LaneKey]) -> _Unscaled | None:
    """Return the published limits of a lane or a bucket."""
    if name in buckets:
        figure = next((one for one in published_limits(service) if one.name == name), None)
    else:
        figure = published(service, name)
    return None if figure is None else _unscaled_limits_of(figure)


def _why_no_share(service: str, lane: LaneKey) -> str:
    """Return why a lane cannot have a share of its own."""
    if isinstance(lane, str) and any(not one.operations for one in enforceable(service)):
        return (
            f"AWS publishes no request limit for {quoted(lane)} alone, only one for all "
            f"operations of {service} together: write a share for the service, or a limit here"
        )
    return f"AWS publishes no request limit for {quoted(str(lane))}: write a limit, not a share"
