"""What `aioapiqueue limits` shows: the limits in force, and where each figure comes from."""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from rich.text import Text

from aioapiqueue._rate import Rate
from aioapiqueue.registry._published import published_limits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from aioapiqueue._rate import Limit
    from aioapiqueue.adaptive import Adaptive
    from aioapiqueue.registry import Bucket, InForce, PublishedLimit, Registry

__all__ = ["as_json", "in_force", "say", "show"]


_LINE = "{:<19} {:<19} {:<11} {}"
_FIRST = 19  # columns, of the first of them
_SECONDS = 11  # of which "one call in so many seconds" says more than a fraction
_READ = "\n    read "
_HEADINGS = ("At most", "AWS publishes", "Adjustable", "From")


@dataclass(slots=True)
class _Row:
    """Entries that differ in their operations only."""

    first: InForce
    operations: list[str]


def in_force(registry: Registry, services: Sequence[str]) -> dict[str, list[_Row]]:
    """Return the limits in force, by service, those of a kind together."""
    found: dict[str, list[_Row]] = {}
    for entry in registry:
        if services and entry.service not in services:
            continue
        rows = found.setdefault(entry.service, [])
        for row in rows:
            if _kind(row.first) == _kind(entry) is not None:
                row.operations.append(entry.operation or "")
                break
        else:
            rows.append(_Row(entry, [entry.operation] if entry.operation is not None else []))
    return found


def _kind(entry: InForce) -> object:
    """Return what entries of one row have in common; None: it stands alone."""
    if entry.operation is None:
        return None
    told = entry.figure and (entry.figure.rate, entry.figure.note, entry.figure.adjustable)
    return (entry.limits, entry.source, told)


def say(limit: Limit) -> str:
    """Return a limit as people say it, and limits.toml takes it."""
    if not isinstance(limit, Rate):
        return str(limit)
    rate = limit.calls / limit.per
    whole = rate < 1 and math.isclose(1 / rate, round(1 / rate)) and 1 / rate >= _SECONDS
    text = f"1 per {round(1 / rate)}s" if whole else f"{_plain(rate)}/s"
    return text if limit.burst == 1 else f"{text} burst {_plain(limit.burst)}"


def _plain(number: float) -> str:
    """Return a number with 6 digits that matter, and without an exponent, which no limit has."""
    return f"{Decimal(f'{number:.6g}'):f}"


def show(console: Console, registry: Registry, services: Sequence[str]) -> None:
    """Print the limits of each service, at most as wide as the console."""
    sources: dict[str, int] = {}
    notes: dict[str, str] = {}
    forced = in_force(registry, services)
    told = dict.fromkeys([*forced, *services])
    for service in told:
        rows = forced.get(service, [])
        if rows:
            _print(console, f"{service}, for {_scope(rows[0].first.scope)}", style="bold")
            _print(console, _LINE.format(*_HEADINGS).rstrip(), style="bold")
        else:
            _print(console, f"{service}: nothing is kept", style="bold")
        for row in rows:
            _show_row(console, row, sources, notes)
        for figure in published_limits(service):
            if not figure.enforceable:
                _wrap(console, _not_kept(figure, sources, notes), "")
        console.print()
    for note, mark in notes.items():
        _wrap(console, f"{mark}) {note}", "   ")
    for source, number in sources.items():
        line = f"[{number}] {source.partition(_READ)[0]}"
        if len(line) > console.width:  # a page's address is not broken within a word
            line = "/\n    ".join(line.rsplit("/", 1))
        _print(console, line + "".join(source.partition(_READ)[1:]))


def _show_row(console: Console, row: _Row, sources: dict[str, int], notes: dict[str, str]) -> None:
    entry, figure = row.first, row.first.figure
    published, raised, mark = "", "", ""
    if figure is not None:
        published, raised = say(figure.rate), "yes" if figure.adjustable else "no"
        mark = _mark(figure, notes)
    limits = list(map(say, entry.limits))
    if entry.concurrency is not None:
        limits.append(f"{entry.concurrency:,} in flight")
    limits = limits or ["any rate"]
    if entry.adaptive is not None:
        limits.append("adaptive")
    cells = (published, raised, _from(entry, sources) + mark)
    if len(limits[0]) > _FIRST:  # on a line of its own, or it would push the others aside
        _print(console, limits[0])
        limits[0] = ""
    _print(console, _LINE.format(limits[0], *cells).rstrip())
    for limit in limits[1:]:
        _print(console, limit)
    _wrap(console, _calls(row), "    ")


def _print(console: Console, text: str, style: str = "") -> None:
    console.print(Text(text, style=style), overflow="fold", soft_wrap=False)


def _wrap(console: Console, text: str, indent: str) -> None:
    lines = textwrap.wrap(
        text,
        console.width,
        initial_indent=indent if indent == "    " else "",
        subsequent_indent=indent,
        break_on_hyphens=False,
    )
    for line in lines:
        _print(console, line)


def _scope(scope: Sequence[str]) -> str:
    words = {"account": "each account", "region": "each Region"}
    return " in ".join(words[one] for one in scope) or "all accounts and Regions together"


def _mark(figure: PublishedLimit, notes: dict[str, str]) -> str:
    if not figure.note:
        return ""
    return f" {notes.setdefault(figure.note, _letters(len(notes)))})"


def _letters(number: int) -> str:
    letters = "abcdefghijklmnopqrstuvwxyz"
    more, last = divmod(number, len(letters))
    return (_letters(more - 1) if more else "") + letters[last]


def _calls(row: _Row) -> str:
    entry = row.first
    if entry.members is not None:
        return _members(entry.bucket or "", entry.members)
    if not row.operations:
        return "all together"
    names = ["each other operation" if one == "*" else one for one in row.operations]
    names = [f"each {one}" if one.endswith("*") else one for one in names]
    return ", ".join(names)


def _members(name: str, bucket: Bucket) -> str:
    names = ["all" if one == "*" else one for one in bucket.operations]
    text = f"{name}: {', '.join(names)}"
    if bucket.exclude:
        text += f", but for {', '.join(bucket.exclude)}"
    if bucket.unless_params:
        text += f", without {', '.join(bucket.unless_params)}"
    costs = [f"{operation} {cost}" for operation, cost in bucket.cost.items()]
    if costs:
        text += f" (cost: {', '.join(costs)})"
    return text if bucket.per_operation or len(bucket.operations) == 1 else f"{text} (together)"


def _from(entry: InForce, sources: dict[str, int]) -> str:
    if entry.figure is None:
        return entry.source
    text = f"{entry.figure.source.removeprefix('https://')}, read {entry.figure.read}"
    number = sources.setdefault(text.replace(", read ", _READ), len(sources) + 1)
    return f"{(entry.share or 1) * 100:.6g}% of [{number}]"


def _not_kept(figure: PublishedLimit, sources: dict[str, int], notes: dict[str, str]) -> str:
    text = f"{figure.source.removeprefix('https://')}{_READ}{figure.read}"
    number = sources.setdefault(text, len(sources) + 1)
    per = f" for each {figure.per}" if figure.per else ""
    return f"Not kept: {figure.name}, {say(figure.rate)}{per} [{number}]{_mark(figure, notes)}"


def as_json(registry: Registry, services: Sequence[str]) -> list[dict[str, Any]]:
    """Return the limits in force, each with all that is known of it; then what is not kept."""
    forced = in_force(registry, services)
    told = dict.fromkeys([*forced, *services])
    rows = [_row_json(row) for service in told for row in forced.get(service, ())]
    return rows + [
        _not_kept_json(figure)
        for service in told
        for figure in published_limits(service)
        if not figure.enforceable
    ]


def _row_json(row: _Row) -> dict[str, Any]:
    entry, bucket, figure = row.first, row.first.members, row.first.figure
    return {
        "service": entry.service,
        "operations": list(bucket.operations) if bucket else row.operations or None,
        "bucket": entry.bucket,
        "shared": bucket is not None and not bucket.per_operation,
        "exclude": list(bucket.exclude) if bucket else [],
        "unless": list(bucket.unless_params) if bucket else [],
        "cost": {name: str(cost) for name, cost in bucket.cost.items()} if bucket else {},
        "limits": [_limit_json(limit) for limit in entry.limits],
        "concurrency": entry.concurrency,
        "adaptive": None if entry.adaptive is None else _adaptive_json(entry.adaptive),
        "scope": list(entry.scope),
        "source": entry.source,
        "share": entry.share,
        "kept": True,
        "published": None if figure is None else _published_json(figure),
    }


def _not_kept_json(figure: PublishedLimit) -> dict[str, Any]:
    """Return a figure that is only told, with the keys of those that are kept."""
    return {
        "service": figure.service,
        "operations": list(figure.operations) or None,
        "bucket": figure.name,
        "shared": figure.shared,
        "exclude": list(figure.exclude),
        "unless": list(figure.unless_params),
        "cost": {name: str(cost) for name, cost in figure.cost.items()},
        "limits": [],
        "concurrency": None,
        "adaptive": None,
        "scope": list(figure.scope),
        "source": None,
        "share": None,
        "kept": False,
        "published": {**_published_json(figure), "for_each": figure.per},
    }


def _published_json(figure: PublishedLimit) -> dict[str, Any]:
    return {
        **_limit_json(figure.rate),
        "adjustable": figure.adjustable,
        "page": figure.source,
        "read": figure.read,
        "note": figure.note,
    }


def _adaptive_json(adaptive: Adaptive) -> dict[str, Any]:
    return {
        "floor": None if adaptive.floor is None else str(adaptive.floor),
        "backoff": adaptive.backoff,
        "recovery": adaptive.recovery,
        "concurrency": adaptive.concurrency,
    }


def _limit_json(limit: Limit) -> dict[str, Any]:
    if isinstance(limit, Rate):
        return {"calls": limit.calls, "per": limit.per, "burst": limit.burst}
    return {"window": limit.calls, "per": limit.per}
