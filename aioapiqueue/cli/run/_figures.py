"""What came of a run: counted while it goes on, told at its end for people and as JSON."""

from __future__ import annotations

import dataclasses
import re
import time
from typing import TYPE_CHECKING, Any

from aioapiqueue.cli._console import WIDTH
from aioapiqueue.hub import OTHERS, Second

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from aioapiqueue.hub import Figure

__all__ = [
    "Peaks",
    "Row",
    "as_json",
    "buckets_as_json",
    "dry_run_table",
    "duration",
    "rows",
    "table",
]


class Peaks:
    """The most attempts in any one second: of services, of their queues, and of those' lanes.

    Where nothing is paced, an account in a Region stands for a queue.
    """

    def __init__(self) -> None:
        self._seconds: dict[tuple[object, ...], Second] = {}

    def count(self, figure: Figure) -> None:
        """Count an attempt that may go."""
        now = time.monotonic()
        service, group, lane = figure.service, _group(figure), _lane(figure)
        for key in ((service,), (service, group), (service, group, lane)):
            self._seconds.setdefault(key, Second()).count(now)

    def of(self, *key: object) -> int:
        """Return the peak of a service, of a queue of it, or of a lane of that."""
        return self._seconds[key].peak if key in self._seconds else 0


def _group(figure: Figure) -> object:
    """Return what stands for the queue that an attempt waits for last."""
    return figure.queue or (figure.region, figure.account)


def _lane(figure: Figure) -> str:
    return figure.lane or figure.operation


@dataclasses.dataclass
class Row:
    """Figures of one service, one queue or one lane, added up.

    Attributes:
        name: of the service, the queue or the lane.
        paced: whether a queue paces it.
        calls: HTTP attempts let go.
        paced_calls: those among them that some limit concerned.
        waits: those among them that had to wait.
        waited: seconds that they waited, added up.
        longest: the longest of these, in seconds.
        throttled: answers by which the other side pushed back.
        errors: other failures.
        waiting: attempts that wait now.
        peak: the most attempts in any one second.
        parts: what it is the sum of.
    """

    name: str
    paced: bool = False
    calls: int = 0
    paced_calls: int = 0
    waits: int = 0
    waited: float = 0.0
    longest: float = 0.0
    throttled: int = 0
    errors: int = 0
    waiting: int = 0
    peak: int = 0
    parts: list[Row] = dataclasses.field(default_factory=list)

    def add(self, figure: Figure) -> None:
        """Add one of the hub's figures."""
        self.paced = self.paced or figure.paced
        self.calls += figure.calls
        self.paced_calls += figure.calls * figure.paced
        self.waits += figure.waits
        self.waited += figure.waited
        self.longest = max(self.longest, figure.longest_wait)
        self.throttled += figure.throttled
        self.errors += figure.errors
        self.waiting += figure.waiting


def rows(figures: Iterable[Figure], peaks: Peaks, buckets: Iterable[Figure] = ()) -> list[Row]:
    """Return a row for each service, the busiest first, and for what the hub has summed up.

    Its parts are its lanes, or, if it has several queues (where nothing is paced: Regions and
    accounts), these, whose parts are their lanes; then the buckets that operations share.

    Args:
        figures: the hub's, of lanes.
        peaks: of all of them.
        buckets: figures of queues that operations share, with the bucket's name as operation.
    """
    services: dict[str, list[Figure]] = {}
    others = []
    for figure in figures:
        if figure.service == OTHERS:  # of many services: one of what is paced, one of what is not
            row = Row(OTHERS, peak=figure.peak)
            row.add(figure)
            others.append(row)
        else:
            services.setdefault(figure.service, []).append(figure)
    shared = list(buckets)
    return _busiest(
        _service(name, found, peaks, [one for one in shared if one.service == name])
        for name, found in services.items()
    ) + _busiest(others)


def _service(name: str, figures: Sequence[Figure], peaks: Peaks, buckets: Sequence[Figure]) -> Row:
    service = Row(name, peak=peaks.of(name))
    groups: dict[object, list[Figure]] = {}
    for figure in figures:
        service.add(figure)
        groups.setdefault(_group(figure), []).append(figure)
    queues = []
    for group, found in groups.items():
        # Of a shared one, what comes from the lanes of other queues as well.
        whole = [one for one in buckets if one.queue == group]
        label = _bucket(whole[0], figures) if whole else _queue(found, figures)
        queue = Row(label, peak=peaks.of(name, group), parts=_lanes(found, peaks))
        for figure in whole or found:
            queue.add(figure)
        queues.append(queue)
    service.parts = _busiest(queues) if len(queues) > 1 else queues[0].parts
    shared = []
    for figure in buckets:
        if figure.queue not in groups:
            row = Row(_bucket(figure, figures), peak=figure.peak)
            row.add(figure)
            shared.append(row)
    service.parts += _busiest(shared)
    return service


def _lanes(figures: Sequence[Figure], peaks: Peaks) -> list[Row]:
    """Return the rows of one queue's lanes, over all Regions and accounts that have the queue."""
    lanes: dict[str, Row] = {}
    for figure in figures:
        key = (figure.service, _group(figure), _lane(figure))
        lanes.setdefault(_lane(figure), Row(_lane(figure), peak=peaks.of(*key))).add(figure)
    return _busiest(lanes.values())


def _queue(figures: Sequence[Figure], others: Sequence[Figure]) -> str:
    """Return what a queue is called among the service's others."""
    where = _where(figures, others)
    return f"in {where}" if where else str(figures[0].queue)


def _bucket(figure: Figure, others: Sequence[Figure]) -> str:
    """Return what a queue that operations share is called; None is what is not in its scope."""
    where = [
        own
        for attribute in ("region", "account")
        if (own := getattr(figure, attribute)) is not None
        and {own} != {getattr(other, attribute) for other in others}
    ]
    return f"shared {figure.operation}" + (f" in {' '.join(where)}" if where else "")


def _where(figures: Sequence[Figure], others: Sequence[Figure]) -> str:
    """Return the Region and account of figures, as far as they tell them from others."""
    names = []
    for attribute in ("region", "account"):
        own = {getattr(figure, attribute) for figure in figures}
        every = {getattr(figure, attribute) for figure in others}
        if own != every:
            names.append(", ".join(sorted(str(one or "none") for one in own)))
    return " ".join(names)


def _busiest(found: Iterable[Row]) -> list[Row]:
    return sorted(found, key=lambda row: (-row.calls, row.name))


def duration(seconds: float) -> str:
    """Return a time as a clock shows it: 1:23, or 2:03:04."""
    minutes, left = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"


def table(found: Sequence[Row], limits: dict[str, str]) -> str:
    """Return the closing table, at most 80 columns wide.

    Args:
        found: the services' rows.
        limits: what each service's queues keep, for those that have any.
    """
    paced = [row for row in found if row.paced]
    free = [row for row in found if not row.paced]
    lines = []
    if paced:
        lines.append(_line("Paced", "Calls", "Waits", "Waited s", "Longest", "Throttled", "Errors"))
        for row in paced:
            limit = "" if row.name == OTHERS else limits.get(row.name, limits.get("default", ""))
            lines += _paced_lines(row, f"{row.name} {limit}".strip())
            for name, part in _parts(row):
                lines += _paced_lines(part, name)
    if free:
        lines += [""] if paced else []
        lines.append(_line("Not paced", "Calls", "", "", "", "Throttled", "Errors"))
        named = {re.split(r"[. ]", one)[0] for one in limits}
        for row in free:
            # Of a service that has limits of other operations, it is told which had none.
            for name, one in [(row.name, row), *(_parts(row) if row.name in named else ())]:
                lines += _row(name, f"{one.calls:,}", "", "", "", one.throttled, one.errors)
    return "\n".join(lines)


def dry_run_table(found: Sequence[Row], seconds: float) -> str:
    """Return what would have been sent, at most 80 columns wide.

    Args:
        found: the services' rows.
        seconds: that the run took, over which the mean is taken.
    """
    lines = [_line("Would send", "Calls", "Per s", "Peak", "", "Throttled", "Errors")]
    for row in found:
        for name, one in ((row.name, row), *_parts(row)):
            mean = f"{one.calls / max(seconds, 0.001):,.1f}"
            peak = f"{one.peak:,}"
            lines += _row(name, f"{one.calls:,}", mean, peak, "", one.throttled, one.errors)
    return "\n".join(lines)


def _parts(row: Row) -> Iterator[tuple[str, Row]]:
    """Yield what a service's row is the sum of, each with its name as the table shows it."""
    nested = any(part.parts for part in row.parts)
    for part in row.parts:
        # So that long names of lanes have as much room as where there is one queue.
        yield f"{' ' if nested else '  '}{part.name}", part
        for lane in part.parts:
            yield f"  {lane.name}", lane


def _paced_lines(row: Row, name: str) -> Iterator[str]:
    return _row(
        name,
        f"{row.calls:,}",
        f"{row.waits:,}",
        f"{row.waited:,.1f}",
        f"{row.longest:,.1f}",
        row.throttled,
        row.errors,
    )


_WIDTHS = (9, 8, 10, 8, 10, 7)


def _row(  # noqa: PLR0917 - the columns, in their order
    name: str, calls: str, waits: str, waited: str, longest: str, throttled: int, errors: int
) -> Iterator[str]:
    line = _line(name, calls, waits, waited, longest, f"{throttled:,}", f"{errors:,}")
    if len(line) > WIDTH:
        yield name[:WIDTH]
        line = _line("", calls, waits, waited, longest, f"{throttled:,}", f"{errors:,}")
    yield line


def _line(name: str, *cells: str) -> str:
    # A figure too large for its column takes the room from the name.
    figures = "".join(
        f"{cell:>{width}}" if len(cell) < width else f" {cell}"
        for cell, width in zip(cells, _WIDTHS, strict=True)
    )
    if len(name) > WIDTH - len(figures):  # it may have the blanks before the first figure
        figures = f" {figures.lstrip()}"
    return f"{name:{max(WIDTH - len(figures), 0)}}{figures}"


def as_json(figures: Iterable[Figure], *, of_lanes: bool = True) -> list[dict[str, Any]]:
    """Return the hub's figures. Times are in seconds."""
    return [
        {
            "service": figure.service,
            "operation": figure.operation,
            **({"lane": _lane(figure)} if of_lanes else {}),
            "region": figure.region,
            "account": figure.account,
            "queue": figure.queue,
            "paced": figure.paced,
            "calls": figure.calls,
            "waits": figure.waits,
            "waited": figure.waited,
            "longest_wait": figure.longest_wait,
            "throttled": figure.throttled,
            "errors": figure.errors,
            "peak": figure.peak,
        }
        for figure in figures
    ]


def buckets_as_json(buckets: Iterable[Figure]) -> list[dict[str, Any]]:
    """Return the figures of what operations share. Times are in seconds."""
    return [
        {("bucket" if key == "operation" else key): value for key, value in one.items()}
        for one in as_json(buckets, of_lanes=False)
    ]
