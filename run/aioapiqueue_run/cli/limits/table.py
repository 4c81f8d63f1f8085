"""The output of `aioapiqueue limits`: a table, or JSON."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import typer
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from aioapiqueue import Budget, Concurrency, Rate
from aioapiqueue.registry import InForce
from aioapiqueue.registry.spi import is_host, published_limits
from aioapiqueue.spi import CALLS, printable
from aioapiqueue_run.cli.run.limits_in_words import limits_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import Console

    from aioapiqueue import Limit
    from aioapiqueue.registry import Bucket, PublishedLimit, Registry

__all__ = ["as_json", "show"]

_COLUMNS = {"Limit": 24, "AWS publishes": 24, "Adjustable": 10, "Source": None}
"""The headings, each with the width of its column; the last column has the rest."""


@dataclasses.dataclass(slots=True)
class _LimitRow:
    """Entries that are the same except for their operations."""

    first: InForce
    operations: list[str]


class _Footnotes:
    """The pages and notes that rows refer to, each with its mark."""

    def __init__(self) -> None:
        self._marks: dict[str, str] = {}

    def page(self, figure: PublishedLimit) -> str:
        """Return the mark of the page that has a figure, and that of the figure's note."""
        page = f"{figure.source.removeprefix('https://')}\nread {figure.read}"
        marks = [self._marks.setdefault(text, f"[{len(self._marks) + 1}]")
                 for text in (page, figure.note) if text]  # fmt: skip
        return " ".join(marks)

    def show(self, console: Console) -> None:
        """Print the pages and notes."""
        for text, mark in self._marks.items():
            address, _, read = text.partition("\n")
            if read and len(f"{mark} {address}") > console.width:  # rich would break a word
                text = "/\n".join(address.rsplit("/", 1)) + f"\n{read}"  # noqa: PLW2901 - shorter
            _print_columns(console, [mark, text], [None, None])


def show(console: Console, registry: Registry, services: Sequence[str]) -> None:
    """Print the limits of each service, at most as wide as the console."""
    footnotes = _Footnotes()
    with console.capture() as shown:
        for service, rows in _in_force(registry, services).items():
            if rows:
                scope = "" if is_host(service) else f", {_scope(rows[0].first.scope)}"
                console.print(Text(f"{printable(service)}{scope}", style="bold"))
                _print_columns(console, _COLUMNS, _COLUMNS.values(), style="bold")
            else:
                console.print(Text(f"{printable(service)}: no limit is enforced", style="bold"))
            for row in rows:
                _show_row(console, row, footnotes)
            for figure in published_limits(service):
                if not figure.enforceable:
                    per = f" per {figure.per}" if figure.per else ""
                    rate = f"{figure.rate}{per}"
                    text = f"Not enforced: {figure.name}, {rate} {footnotes.page(figure)}"
                    console.print(Text(text))
            console.print()
        footnotes.show(console)
    for line in shown.get().splitlines():  # rich pads each line with spaces
        typer.echo(line.rstrip())


def _in_force(registry: Registry, services: Sequence[str]) -> dict[str, list[_LimitRow]]:
    """Return the rows of each service: its limits in force, equal ones in one row."""
    found: dict[str, dict[object, _LimitRow]] = {}
    for entry in registry:
        if services and entry.service not in services:
            continue
        rows = found.setdefault(entry.service, {})
        row = rows.setdefault(_kind(entry) or len(rows), _LimitRow(entry, []))
        if entry.operation is not None:
            row.operations.append(entry.operation)
    return {one: list(found.get(one, {}).values()) for one in dict.fromkeys([*found, *services])}


def _kind(entry: InForce) -> object:
    """Return a value that is equal for entries of one row; None for an entry with its own row."""
    if entry.operation is None:
        return None
    figure = entry.figure and (entry.figure.rate, entry.figure.note, entry.figure.adjustable)
    return (entry.limits, entry.source, figure)


def _show_row(console: Console, row: _LimitRow, footnotes: _Footnotes) -> None:
    entry, figure = row.first, row.first.figure
    limits = limits_of(entry) or ["any rate"]
    if entry.adaptive is not None:
        limits.append("adaptive")
    published, adjustable, source = "", "", printable(entry.source)
    if figure is not None:
        published, adjustable = str(figure.rate), "yes" if figure.adjustable else "no"
        source = f"{(entry.share or 1) * 100:.6g}% of {footnotes.page(figure)}"
    _print_columns(console, ["\n".join(limits), published, adjustable, source], _COLUMNS.values())
    console.print(Padding(Text(printable(_calls_text(row))), (0, 0, 0, 4)))


def _print_columns(
    console: Console, cells: Iterable[str], widths: Iterable[int | None], *, style: str = ""
) -> None:
    # Padding on the right only: with padding on the left, Rich before 14.3 makes columns wider.
    grid = Table.grid(padding=(0, 1, 0, 0))
    for width in widths:
        grid.add_column(width=width, overflow="fold")
    grid.add_row(*map(Text, cells), style=style)
    console.print(grid)


def _scope(scope: Sequence[str]) -> str:
    words = {"account": "account", "region": "Region"}
    shared = "shared by all accounts and Regions"
    return f"per {' and '.join(words[one] for one in scope)}" if scope else shared


def _calls_text(row: _LimitRow) -> str:
    entry = row.first
    if entry.members is not None:
        return _bucket_text(entry.bucket or "", entry.members)
    if not row.operations:
        return "all calls together"
    if is_host(entry.service):
        return ", ".join(row.operations) + ", each on its own" * (len(row.operations) > 1)
    names = ["any other operation" if one == "*" else one for one in row.operations]
    return ", ".join(f"each {one}" if one.endswith("*") else one for one in names)


def _bucket_text(name: str, bucket: Bucket) -> str:
    names = ["all" if one == "*" else one for one in bucket.operations]
    text = f"{name}: {', '.join(names)}"
    if bucket.exclude:
        text += f", except {', '.join(bucket.exclude)}"
    if bucket.unless_params:
        text += f", without {', '.join(bucket.unless_params)}"
    costs = [f"{operation} {cost}" for operation, cost in bucket.cost.items()]
    if costs:
        text += f" (cost: {', '.join(costs)})"
    return text if bucket.per_operation or len(bucket.operations) == 1 else f"{text} (shared)"


def as_json(registry: Registry, services: Sequence[str]) -> list[dict[str, Any]]:
    """Return the limits in force with all details; then those that cannot be enforced."""
    forced = _in_force(registry, services)
    found = []
    for row in (row for rows in forced.values() for row in rows):
        bucket = row.first.members
        shared = bucket is not None and not bucket.per_operation
        operations = row.operations if bucket is None else bucket.operations
        found.append(_entry_json(row.first, bucket, operations, shared=shared))
    for figure in (figure for service in forced for figure in published_limits(service)):
        if not figure.enforceable:
            entry = InForce(
                figure.service, None, (), figure.scope, "", bucket=figure.name, figure=figure
            )
            found.append(_entry_json(entry, figure, figure.operations, shared=figure.shared))
            found[-1]["kept"] = False
            found[-1]["published"]["for_each"] = figure.per
    return found


def _entry_json(
    entry: InForce,
    calls: Bucket | PublishedLimit | None,
    operations: Sequence[str],
    *,
    shared: bool,
) -> dict[str, Any]:
    adaptive, figure = entry.adaptive, entry.figure
    return {
        "service": entry.service,
        "operations": list(operations) or None,
        "bucket": entry.bucket,
        "shared": shared,
        "exclude": list(calls.exclude) if calls else [],
        "unless": list(calls.unless_params) if calls else [],
        "cost": {name: str(cost) for name, cost in calls.cost.items()} if calls else {},
        "limits": list(map(_limit_json, entry.limits)),
        "concurrency": entry.concurrency,
        "adaptive": adaptive
        and dataclasses.asdict(adaptive) | {"floor": adaptive.floor and str(adaptive.floor)},
        "scope": list(entry.scope),
        "source": entry.source or None,
        "share": entry.share,
        "kept": True,
        "published": figure
        and {
            **_limit_json(figure.rate),
            "adjustable": figure.adjustable,
            "page": figure.source,
            "read": figure.read,
            "note": figure.note,
        },
    }


def _limit_json(limit: Limit) -> dict[str, Any]:
    values = dataclasses.asdict(limit)
    for name, default in (("unit", CALLS), ("on_empty", "wait"), ("ramp", None)):
        if values.get(name, default) == default:
            values.pop(name, None)
    if isinstance(limit, Rate | Concurrency):
        return values
    amount = "amount" if isinstance(limit, Budget) else "calls"
    return {type(limit).__name__.lower(): values.pop(amount)} | values
