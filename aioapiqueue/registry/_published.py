"""The request limits that AWS publishes, from presets/*.toml: one file for each service."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from aioapiqueue import Budget, Concurrency, Limit, Rate
from aioapiqueue.registry._buckets import Cost, VariantKey, lane_key, read_costs
from aioapiqueue.registry._fields import expects
from aioapiqueue.registry._names import matches_any
from aioapiqueue.registry._report import Report, quoted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aioapiqueue import Ramp
    from aioapiqueue.registry._buckets import LaneKey
    from aioapiqueue.registry._report import Place

DEFAULT_SHARE = 0.5
"""The default share of the published limits. The rest is for other callers in the account."""
LEAST = 1 / 60
"""Fewest calls a second that a share leaves, unless AWS publishes fewer."""

Scope = Literal["account", "region"]
SCOPES: tuple[Scope, ...] = ("account", "region")

_FOLDER = Path(__file__).parent / "presets"
_SHARE = re.compile(r"(\d{1,3}(?:\.\d{1,6})?)\s*%", re.ASCII)
_SHARE_FORM = 'write a percentage above 0 and up to 100, such as "50%"'


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedLimit:
    """A limit that AWS publishes.

    Attributes:
        service: the service's name in `create_client`.
        name: the limit's name.
        operations: names or prefixes of its operations. Empty: all operations together.
        rate: the published refill rate, with the capacity of the bucket as its burst (default: 1).
        shared: True if the operations share one bucket, False if each has its own.
        exclude: operations that match `operations` but do not use the limit.
        unless_params: parameters; a call with any of them does not use the limit.
        cost: units that a call uses, by operation. Default: 1.
        scope: whether each account, each Region or both have such a limit of their own.
        adjustable: whether AWS raises the limit on request.
        source: URL of the page.
        read: the day the page was read.
        enforceable: False if the limit is only listed and cannot be enforced.
        per: the resource that has such a limit of its own, if it is not the scope.
        note: anything else to know about the limit.
        shared_with: another service that uses the same bucket, under the same name.
    """

    service: str
    rate: Rate
    scope: tuple[Scope, ...]
    adjustable: bool
    source: str
    read: str
    name: str | None = None
    operations: tuple[str, ...] = ()
    shared: bool = False
    exclude: tuple[str, ...] = ()
    unless_params: tuple[str, ...] = ()
    cost: Mapping[str, Cost] = dataclasses.field(default_factory=dict)
    enforceable: bool = True
    per: str | None = None
    note: str | None = None
    shared_with: str | None = None


@cache
def preset_services() -> tuple[str, ...]:
    """Return the services whose request limits AWS publishes."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))


@cache
def published_limits(service: str) -> tuple[PublishedLimit, ...]:
    """Return the limits that AWS publishes for a service. The first call reads a file."""
    if service not in preset_services():  # any text may come here: it must not become a path
        return ()
    page = tomllib.loads((_FOLDER / f"{service}.toml").read_text("utf-8"))
    limits = page.pop("limit")
    return tuple(_published_limit(page, one, Report(f"{service}.toml")) for one in limits)


def _published_limit(
    page: Mapping[str, Any], limit: Mapping[str, Any], report: Report
) -> PublishedLimit:
    """Return one limit of a page. Keys at the top of the page apply to each of its limits.

    The files come with this package, so their keys are checked by tests alone.
    """
    both = {**page, **limit}
    both["read"] = both["read"].isoformat()
    both["rate"] = dataclasses.replace(
        Rate.parse(both.pop("refill")), burst=both.pop("capacity", 1)
    )
    # Both notes are kept. Any other key of a limit replaces that of the page.
    both["note"] = " ".join(filter(None, [limit.get("note"), page.get("note")])) or None
    both["cost"] = read_costs(both.get("cost"), report, ("cost",))
    report.finish()
    both.pop("unknown", None)  # names that botocore does not have, for the tests
    lists = {name: tuple(one) for name, one in both.items() if isinstance(one, list)}
    return PublishedLimit(**{**both, **lists})


def enforceable(service: str) -> list[PublishedLimit]:
    """Return the published limits of a service that can be enforced."""
    return [one for one in published_limits(service) if one.enforceable]


def published(service: str, lane: LaneKey) -> PublishedLimit | None:
    """Return the limit that AWS publishes for an operation or a variant: the most specific one.

    Args:
        service: the service's name in `create_client`.
        lane: `"DescribeVolumes"`, or `"DescribeVolumes unfiltered"` for a variant.
    """
    key = lane_key(lane)
    operation, variant = key if isinstance(key, VariantKey) else (key, None)
    # A variant has only the limit with its name; any other lane only limits without conditions.
    ranked = [
        # The longest name, an exact one first; a shared limit only if there is no other.
        ((len(name) + (operation == name)) * (not figure.shared), figure)
        for figure in enforceable(service)
        if variant == (figure.name if figure.unless_params else None)
        and operation not in figure.exclude
        for name in figure.operations
        if matches_any(operation, [name])
    ]
    return max(ranked, key=lambda one: one[0])[1] if ranked else None


def scaled(limit: Limit, share: float) -> Limit:
    """Return a share of a limit: of a rate and its burst, or of a number of calls.

    The burst stays at least 1, and the rate at least one call a minute unless it was lower before.
    Any other limit stays at least one call.
    """
    if isinstance(limit, Concurrency):
        return dataclasses.replace(limit, number=max(1, int(limit.number * share)))
    if isinstance(limit, Budget):
        return dataclasses.replace(limit, amount=limit.amount * share)
    if not isinstance(limit, Rate):
        return dataclasses.replace(limit, calls=max(1, int(limit.calls * share)))
    per_second = limit.calls / limit.per  # the period stays as it is published
    calls = max(per_second * share, min(LEAST, per_second)) * limit.per
    burst = _plain(max(1, limit.burst * share))
    rate = dataclasses.replace(limit, calls=_plain(calls), burst=burst, ramp=None)
    return rate if limit.ramp is None else _with_ramp(rate, limit.ramp, share)


def _with_ramp(rate: Rate, ramp: Ramp, share: float) -> Rate:
    """Return a rate with a ramp whose floor is a share of what it was."""
    floor = ramp.floor
    if isinstance(floor, Rate):
        floor = dataclasses.replace(floor, calls=_plain(floor.calls * share))
    # A floor has to admit a call in `per`. Without room for that below the rate, no ramp is left.
    for one in (floor, Rate(1, ramp.per, unit=rate.unit)):
        with contextlib.suppress(ValueError):
            return dataclasses.replace(rate, ramp=dataclasses.replace(ramp, floor=one))
    return rate


def _plain(number: float) -> float:
    """Return a number without rounding errors; a whole one as an int."""
    # 7 % of 100 is 7.000000000000001. A number that would round to 0 is kept: 0 is no valid limit.
    number = round(number, 9) or number
    return int(number) if number == int(number) else number


def read_share(value: object, report: Report, place: Place) -> float | None:
    """Read a share, such as "50%". If it is invalid, report it and return None."""
    match = _SHARE.fullmatch(value.strip()) if isinstance(value, str) else None
    share = float(match[1]) / 100 if match else 0.0
    if 0 < share <= 1:
        return share
    if share > 1:
        report.add(
            place,
            f'{quoted(value)} is more than AWS publishes: write at most "100%". If AWS has raised '
            "your limits, write them under quotas",
        )
    else:
        report.add(place, f"{quoted(value)} is not a share: {_SHARE_FORM}")
    return None


read_preset = expects(
    lambda value: value in ("aws", "none"),
    '{} is not a preset: write "aws" or "none"',
    fallback=False,
    convert=lambda value: value == "aws",
)
"""Reads the name of a preset; True for "aws"."""


def parse_share(text: str, source: str) -> float:
    """Return the share that an option gives, such as "50%".

    Args:
        text: the value of the option.
        source: the option's name, for errors.

    Raises:
        LimitsError: it is not a share.
    """
    report = Report(source)
    share = read_share(text, report, ())
    report.finish()
    assert share is not None  # noqa: S101 - otherwise the report has a problem
    return share
