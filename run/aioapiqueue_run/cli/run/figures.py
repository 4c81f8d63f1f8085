"""The figures of a run: sums and tables."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from aioapiqueue_run.cli.console import WIDTH
from aioapiqueue_run.hub import OTHERS, CallStats

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from aioapiqueue_run.cli.run.model import RunPlan

__all__ = ["dry_run_table", "rows", "table"]

_Line: TypeAlias = "tuple[str, *tuple[str | float, ...]]"
"""A line of a table: a name and its figures."""
_HEAD: _Line = ("Service", "Calls", "Waits", "Waited s", "Longest", "Throttled", "Errors")
_DRY_RUN_HEAD: _Line
_DRY_RUN_HEAD = ("Service", "Calls", "Per s", "Peak", "AWS publishes", "Throttled", "Errors")
_MOST_ROWS = 30
"""Most rows of a service: a scan of many Regions has thousands, which nobody reads."""


@dataclasses.dataclass(frozen=True)
class FigureRow:
    """The figures of a service, a queue or a lane.

    Attributes:
        name: the name of the service, queue or lane.
        total: the sums of the figures. The peak is that of all of them together.
        parts: the rows that it is the sum of, the busiest first.
    """

    name: str
    total: CallStats
    parts: Sequence[FigureRow]


def _row(
    name: str, figures: Sequence[CallStats], peak: int, parts: Sequence[FigureRow] = ()
) -> FigureRow:
    """Return the sum of figures; their peak together is not a sum."""
    paced = any(one.paced for one in figures)
    total = CallStats(name, "", None, None, None, paced, peak=peak)
    for one in figures:
        total.merge(one, series=False)
    return FigureRow(name, total, parts)


def _busiest(found: Iterable[FigureRow]) -> list[FigureRow]:
    return sorted(found, key=lambda row: (-row.total.calls, row.name))


_Key = TypeVar("_Key")


def _grouped(
    figures: Iterable[CallStats], key: Callable[[CallStats], _Key]
) -> Iterable[tuple[_Key, list[CallStats]]]:
    found: dict[_Key, list[CallStats]] = defaultdict(list)
    for figure in figures:
        found[key(figure)].append(figure)
    return found.items()


def rows(figures: Iterable[CallStats], buckets: Sequence[CallStats] = ()) -> list[FigureRow]:
    """Return a row for each service, the busiest first, then for calls that the hub has added up.

    The parts of a service are its queues, if it has several, and otherwise its lanes; then its
    shared buckets. The parts of a queue are its lanes.

    Args:
        figures: the figures of lanes.
        buckets: the figures of shared buckets, whose `operation` is their name.
    """
    services, others = [], []
    for name, found in _grouped(figures, lambda one: one.service):
        if name == OTHERS:  # the hub adds up further kinds of calls: paced ones, and unpaced ones
            others += [_row(OTHERS, [figure], figure.peak) for figure in found]
        else:
            shared = [one for one in buckets if one.service == name]
            services.append(_service(name, found, shared))
    return _busiest(services) + _busiest(others)


def _service(name: str, figures: Sequence[CallStats], buckets: Sequence[CallStats]) -> FigureRow:
    queues, places = [], _places(figures)
    for _, found in _grouped(figures, lambda one: one.place):
        lanes = [
            # A queue may serve several Regions and accounts, and so has several figures of a lane.
            _row(lane, own, own[0].lane_peak)
            for lane, own in _grouped(found, lambda one: one.lane_name)
        ]
        label = _where(_places(found), places) or str(found[0].queue)
        queues.append(_row(label, found, found[0].place_peak, _busiest(lanes)))
    parts = _busiest(queues) if len(queues) > 1 else list(queues[0].parts)
    parts += _busiest(_row(_bucket(one, places), [one], one.peak) for one in buckets)
    return _row(name, figures, figures[0].service_peak, parts)


def _places(figures: Iterable[CallStats]) -> tuple[set[str | None], set[str | None]]:
    """Return the Regions and the accounts of figures."""
    return {one.region for one in figures}, {one.account for one in figures}


def _bucket(bucket: CallStats, others: Iterable[set[str | None]]) -> str:
    """Return the name of a shared bucket in a table."""
    # A bucket for all Regions, or all accounts, has none, so nothing is written for it.
    where = _where(_places([bucket]), others, unknown="")
    return f"shared {bucket.operation} {where}".rstrip()


def _where(
    places: Iterable[set[str | None]], others: Iterable[set[str | None]], unknown: str = "none"
) -> str:
    """Return the Region and account of some places, if others have different ones."""
    names = [
        ", ".join(sorted(one or unknown for one in own))
        for own, of_all in zip(places, others, strict=True)
        if own != of_all
    ]
    return f"in {' '.join(filter(None, names))}" if any(names) else ""


def table(found: Sequence[FigureRow], plan: RunPlan) -> str:
    """Return the closing table, at most 80 columns wide.

    Args:
        found: the rows of all services.
        plan: the plan of the run, which has the limits.
    """
    lines = [_HEAD]
    for row in found:
        limit = f" {plan.limit_of(row.name)}" if row.total.paced else ", not paced"
        if not row.total.paced and row.name not in plan.registry.services:
            row = dataclasses.replace(row, parts=())  # noqa: PLW2901 - no limit is for a part of it
        for_service: list[_Line] = []
        for name, one in _named(row, f"{row.name}{limit}".rstrip()):
            waits = (one.waits, one.waited, one.longest_wait) if row.total.paced else ("", "", "")
            for_service.append((name, one.calls, *waits, one.throttled, one.errors))
        lines += _cut(for_service)
    return _laid_out(lines)


def dry_run_table(
    found: Sequence[FigureRow], seconds: float, published: Callable[[str, str], str]
) -> str:
    """Return the closing table of a dry run, at most 80 columns wide.

    Args:
        found: the rows of all services.
        seconds: the duration of the run, for means.
        published: returns the published limit of a service's lane; "" if there is none.
    """
    lines = [_DRY_RUN_HEAD]
    for row in found:
        for_service: list[_Line] = []
        for name, one in _named(row, row.name):
            mean, limit = one.calls / max(seconds, 0.001), published(row.name, one.service)
            for_service.append((name, one.calls, mean, one.peak, limit, one.throttled, one.errors))
        lines += _cut(for_service)
    return _laid_out(lines)


def _cut(lines: list[_Line]) -> list[_Line]:
    """Return the lines of a service, with a number in place of those beyond the busiest."""
    more = len(lines) - _MOST_ROWS
    rest = f"  and {more:,} more: --json FILE has all of them"
    return lines if more <= 1 else [*lines[:_MOST_ROWS], (rest, *[""] * (len(_HEAD) - 1))]


def _named(row: FigureRow, name: str) -> Iterator[tuple[str, CallStats]]:
    """Yield the figures of a service and of its parts, with their names in the table."""
    yield name, row.total
    nested = any(part.parts for part in row.parts)
    for part in row.parts:
        # Queues are indented by one space, so that lanes are always indented by two.
        yield f"{' ' if nested else '  '}{part.name}", part.total
        for lane in part.parts:
            yield f"  {lane.name}", lane.total


def _laid_out(lines: Sequence[_Line]) -> str:
    """Return lines as a table."""
    # Not by rich, which breaks a name that is longer than its column: it could not be searched for.
    cells = [[one if isinstance(one, str) else _number(one) for one in line] for line in lines]
    _, *widths = (max(map(len, column)) + 2 for column in zip(*cells, strict=True))
    text = []
    for name, *figures in cells:
        row = "".join(f"{one:>{width}}" for one, width in zip(figures, widths, strict=True))
        row = row.rjust(WIDTH)
        # A name may use the space before its first figure. A longer one gets a line of its own.
        if row[: len(name) + 1].strip():
            text += [name, row]
        else:
            text.append((name + row[len(name) :]).rstrip())
    return "\n".join(text)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"
