"""What AWS publishes of its request limits (presets/*.toml), and a share of it as limits."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aioapiqueue._rate import Rate, Window
from aioapiqueue.registry._buckets import Bucket, Cost, fits, lane_of, read_buckets
from aioapiqueue.registry._report import Report, quoted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aioapiqueue._rate import Limit
    from aioapiqueue.registry._report import Place

__all__ = [
    "DEFAULT_SHARE",
    "Base",
    "Entry",
    "Figure",
    "Origin",
    "base_of",
    "figures",
    "preset_services",
    "published",
    "read_preset",
    "read_share",
    "scaled",
]

DEFAULT_SHARE = 0.5
"""Of what AWS publishes, where nothing else is said: somebody else calls, too."""
LEAST = 1 / 60
"""Calls a second that a share leaves at least, unless AWS publishes less."""

_FOLDER = Path(__file__).parent / "presets"
_SHARE = re.compile(r"(\d{1,3}(?:\.\d{1,6})?)\s*%", re.ASCII)
_SHARE_FORM = 'write a share from above 0 to 100 percent, such as "50%"'

Entry = tuple[str | None, str | None]
"""Which limits of a service: (operation, None), (None, bucket), or (None, None): its own."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A limit that AWS publishes.

    Attributes:
        service: as `create_client` takes it.
        name: what the page, or we, call it.
        operations: whose it is; empty: of all of the service's together.
        rate: what is published: the refill, and the bucket as its burst (1 where none is).
        shared: whether the operations share one bucket, or have one each.
        exclude: operations that are none of it, although `operations` names them.
        unless: parameters; a call that gives any of them is none of it.
        cost: units that a call uses; default 1.
        scope: what has such a limit of its own.
        adjustable: whether AWS raises it.
        source: the page.
        read: on which day.
        kept: whether it can be kept here. Otherwise it is only told.
        per: what has such a limit of its own, where that is smaller than the scope.
        note: what else is to be said of it.
        joint: the other service with which it is shared, which has a figure of the same name.
    """

    service: str
    name: str | None
    operations: tuple[str, ...]
    rate: Rate
    shared: bool
    exclude: tuple[str, ...]
    unless: tuple[str, ...]
    cost: Mapping[str, Cost]
    scope: tuple[str, ...]
    adjustable: bool
    source: str
    read: str
    kept: bool
    per: str | None
    note: str | None
    joint: str | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """Where limits come from.

    Attributes:
        text: for people.
        figure: what AWS publishes.
        share: of that.
    """

    text: str
    figure: Figure | None = None
    share: float | None = None


@dataclass(frozen=True)
class Base:
    """What a service starts from, before its table says otherwise.

    Attributes:
        fields: of a `ServiceLimits`.
        origins: where each of its limits comes from.
        said: of which operations the table says a quota or a share, and where.
    """

    fields: dict[str, Any] = field(default_factory=dict)
    origins: dict[Entry, Origin] = field(default_factory=dict)
    said: dict[str, Place] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.fields)


@cache
def preset_services() -> tuple[str, ...]:
    """Return the services of which AWS publishes request limits."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))


@cache
def figures(service: str) -> tuple[Figure, ...]:
    """Return what AWS publishes of a service; nothing, if it does not.

    It reads a file at its first call.
    """
    if service not in preset_services():
        return ()
    page = tomllib.loads((_FOLDER / f"{service}.toml").read_text("utf-8"))
    return tuple(_figure(page, one) for one in page["limit"])


def _figure(page: Mapping[str, Any], one: Mapping[str, Any]) -> Figure:
    capacity = one.get("capacity", 1)
    bucket = {"operations": ["*"], "rate": "1/s", "cost": one.get("cost", {})}
    return Figure(
        service=page["service"],
        name=one.get("name"),
        operations=tuple(one.get("operations", ())),
        rate=dataclasses.replace(Rate.parse(one["refill"]), burst=capacity),
        shared=one.get("shared", False),
        exclude=tuple(one.get("exclude", ())),
        unless=tuple(one.get("unless", ())),
        cost=read_buckets({"of": bucket}, Report(page["service"]), ())["of"].cost,
        scope=tuple(page["scope"]),
        adjustable=one.get("adjustable", page["adjustable"]),
        source=one.get("source", page["source"]),
        read=page["read"].isoformat(),
        kept=one.get("kept", True),
        per=one.get("per"),
        note=" ".join(filter(None, [one.get("note"), page.get("note")])) or None,
        joint=one.get("joint"),
    )


def scaled(rate: Rate, share: float) -> Rate:
    """Return a share of a rate: of its refill and of its burst.

    The burst is never below 1, the refill never below one call a minute (or what there was, where
    that is less).
    """
    per_second = rate.calls / rate.per
    calls = max(per_second * share, min(LEAST, per_second)) * rate.per
    return Rate(_plain(calls), rate.per, _plain(max(1, rate.burst * share)))


def _plain(number: float) -> float:
    """Return a number without the noise of its last digits; a whole one as an int."""
    number = round(number, 9) or number
    return int(number) if number == int(number) else number


def read_share(value: object, report: Report, place: Place) -> float | None:
    """Read a share, such as "50%"; None, and a problem: it is none."""
    match = _SHARE.fullmatch(value.strip()) if isinstance(value, str) else None
    share = float(match[1]) / 100 if match else 0.0
    if 0 < share <= 1:
        return share
    if share > 1:
        report.add(
            place,
            f"{quoted(value)} is more than AWS publishes: {_SHARE_FORM}. If AWS has raised yours, "
            "write what it grants in a table quotas",
        )
    else:
        report.add(place, f"{quoted(value)} is no share: {_SHARE_FORM}")
    return None


def read_preset(value: object, report: Report, place: Place) -> bool:
    """Read the name of a preset; return whether it is one."""
    if value not in ("aws", "none"):
        report.add(
            place, f'{quoted(value)} is no preset: write "aws", for what AWS publishes, or "none"'
        )
    return value == "aws"


def base_of(
    service: str,
    share: float,
    *,
    quotas: Mapping[str, tuple[Limit, ...]] | None = None,
    shares: Mapping[str, float] | None = None,
) -> Base:
    """Return a share of what AWS publishes of a service.

    Args:
        service: by its one name.
        share: above 0, at most 1.
        quotas: what AWS grants, where that is not what it publishes: by operation, by operation
            and bucket (`"DescribeSnapshots unfiltered"`), or by bucket.
        shares: other shares of single operations.
    """
    kept = [figure for figure in figures(service) if figure.kept]
    if not kept:
        return Base()
    base = Base({"scope": kept[0].scope, "rate": (), "lanes": {}, "buckets": {}})
    lanes, buckets, origins = base.fields["lanes"], base.fields["buckets"], base.origins
    for figure in kept:
        limits, origin = (scaled(figure.rate, share),), _origin(figure, share)
        entry: Entry = (None, None)
        if not figure.operations:
            base.fields["rate"] = limits
        elif figure.shared or figure.unless:
            name = figure.name or ""
            entry = (None, name)
            buckets[name] = Bucket(
                figure.operations,
                limits,
                figure.exclude,
                figure.unless,
                not figure.shared,
                figure.cost,
                figure.joint,
            )
        else:
            for operation in figure.operations:
                lanes[operation] = limits
                origins[operation, None] = origin
            continue
        origins[entry] = origin
    granted = dict(quotas or {})
    for name, own in granted.items():
        _grant(base, name, own, share)
    # What is said of single operations comes after what is said of all that begin alike.
    for operation, other in sorted((shares or {}).items(), key=lambda one: len(one[0])):
        _other_share(service, base, operation, granted, other)
    return base


def _origin(figure: Figure, share: float) -> Origin:
    return Origin(f"{_percent(share)} of {figure.source.rpartition('/')[2]}", figure, share)


def _percent(share: float) -> str:
    return f"{share * 100:.6g}%"


def _grant(base: Base, name: str, limits: tuple[Limit, ...], share: float) -> None:
    """Put a share of what AWS grants in the place of what it publishes."""
    own = tuple(
        scaled(one, share)
        if isinstance(one, Rate)
        else Window(max(1, int(one.calls * share)), one.per)
        for one in limits
    )
    buckets = base.fields["buckets"]
    if name in buckets:
        buckets[name] = dataclasses.replace(buckets[name], limits=own)
        entry: Entry = (None, name)
    else:
        base.fields["lanes"][name] = own
        entry = (name, None)
    base.origins[entry] = Origin(f"{_percent(share)} of", None, share)


def _other_share(
    service: str,
    base: Base,
    operation: str,
    granted: Mapping[str, tuple[Limit, ...]],
    share: float,
) -> None:
    """Give an operation, and what parameters make of it, another share than its service.

    Its resources are its own too; what it shares with other operations stays as it is.
    """
    buckets = base.fields["buckets"].items()
    own = [name for name, one in buckets if not one.each and one.operations == (operation,)]
    each = [
        f"{one} {name}"
        for name, bucket in buckets
        if bucket.each
        for one in bucket.operations
        if fits(one, (operation,)) and lane_of(one, [*base.fields["lanes"], operation]) == operation
    ]
    for name in (operation, *each, *own):
        if name in granted:
            _grant(base, name, granted[name], share)
        elif name in own:
            figure = next(one for one in figures(service) if one.name == name)
            _grant(base, name, (figure.rate,), share)
            base.origins[None, name] = _origin(figure, share)
        else:
            called, _, variant = name.partition(" ")
            if best := published(service, called, variant or None):
                base.fields["lanes"][name] = (scaled(best.rate, share),)
                base.origins[name, None] = _origin(best, share)


def published(service: str, operation: str, variant: str | None = None) -> Figure | None:
    """Return what AWS publishes of an operation: of it alone, of all that begin so, or shared."""
    found: tuple[int, Figure] | None = None
    for figure in figures(service):
        if not figure.kept or bool(figure.unless) != bool(variant):
            continue
        if variant is not None and figure.name != variant:
            continue
        for name in figure.operations:
            begins = name.endswith("*") and operation.startswith(name[:-1])
            if operation == name or begins:
                rank = (len(name) + (not begins)) * (not figure.shared)
                if operation not in figure.exclude and (found is None or rank > found[0]):
                    found = rank, figure
    return found[1] if found else None
