"""What came of a run: counted while it goes on, told at its end for people and as JSON."""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from aioapiqueue.hub import Figure

__all__ = ["Peaks", "Row", "as_json", "dry_run_table", "duration", "rows", "table"]


class Second:
    """The most events in any one second."""

    def __init__(self) -> None:
        self.peak = 0
        self._recent: deque[float] = deque()

    def count(self, now: float) -> None:
        """Count one event, at `now` seconds on a clock that never goes back."""
        self._recent.append(now)
        while self._recent[0] <= now - 1:
            self._recent.popleft()
        self.peak = max(self.peak, len(self._recent))


class Peaks:
    """The most attempts in any one second: of services, of their operations, and of each place.

    A place is an account in a Region.
    """

    def __init__(self) -> None:
        self._seconds: dict[tuple[str | None, ...], Second] = {}

    def count(self, figure: Figure) -> None:
        """Count an attempt that may go."""
        now = time.monotonic()
        for key in _peak_keys(figure):
            self._seconds.setdefault(key, Second()).count(now)

    def of(self, *key: str | None) -> int:
        """Return the peak of a service, of an operation of it, or of a Region and account of it."""
        return self._seconds[key].peak if key in self._seconds else 0


def _peak_keys(figure: Figure) -> tuple[tuple[str | None, ...], ...]:
    service = figure.service
    place = (service, figure.region, figure.account)
    return (service,), (service, figure.operation), place


@dataclasses.dataclass
class Row:
    """Figures of one service, one queue or one operation, added up.

    Attributes:
        name: of the service, the queue or the operation.
        paced: whether a queue paces it.
        calls: HTTP attempts let go.
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
        self.waits += figure.waits
        self.waited += figure.waited
        self.longest = max(self.longest, figure.longest_wait)
        self.throttled += figure.throttled
        self.errors += figure.errors
        self.waiting += figure.waiting


def rows(figures: Iterable[Figure], peaks: Peaks) -> list[Row]:
    """Return a row for each service, the busiest first.

    Its parts are its queues (where nothing is paced: its Regions and accounts), if there are
    several, and then its operations over all of them.
    """
    services: dict[str, list[Figure]] = {}
    for figure in figures:
        services.setdefault(figure.service, []).append(figure)
    return _busiest(_service(name, found, peaks) for name, found in services.items())


def _service(name: str, figures: Sequence[Figure], peaks: Peaks) -> Row:
    service = Row(name, peak=peaks.of(name))
    operations: dict[str, Row] = {}
    queues: dict[object, list[Figure]] = {}
    for figure in figures:
        operation = figure.operation
        row = operations.setdefault(operation, Row(operation, peak=peaks.of(name, operation)))
        row.add(figure)
        service.add(figure)
        queues.setdefault(figure.queue or (figure.region, figure.account), []).append(figure)
    if len(queues) > 1:
        service.parts = _busiest(_queue(found, figures, peaks) for found in queues.values())
    service.parts += _busiest(operations.values())
    return service


def _queue(figures: Sequence[Figure], others: Sequence[Figure], peaks: Peaks) -> Row:
    """Return the row of one queue, named for what tells it from the service's others."""
    names = []
    for attribute in ("region", "account"):
        own = {getattr(figure, attribute) for figure in figures}
        every = {getattr(figure, attribute) for figure in others}
        if own != every:
            names.append(", ".join(sorted(str(one or "none") for one in own)))
    row = Row(f"in {' '.join(names)}" if names else str(figures[0].queue))
    for figure in figures:
        row.add(figure)
    row.peak = max(peaks.of(one.service, one.region, one.account) for one in figures)
    return row


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
            limit = limits.get(row.name, limits.get("default", ""))
            lines += _paced_lines(row, f"{row.name} {limit}".strip())
            for part in row.parts:
                lines += _paced_lines(part, f"  {part.name}")
    if free:
        lines += [""] if paced else []
        lines.append(_line("Not paced", "Calls", "", "", "", "Throttled", "Errors"))
        for row in free:
            lines += _row(row.name, f"{row.calls:,}", "", "", "", row.throttled, row.errors)
    return "\n".join(lines)


def dry_run_table(found: Sequence[Row], seconds: float) -> str:
    """Return what would have been sent, at most 80 columns wide.

    Args:
        found: the services' rows.
        seconds: that the run took, over which the mean is taken.
    """
    lines = [_line("Would send", "Calls", "Per s", "Peak", "", "Throttled", "Errors")]
    for row in found:
        for name, one in ((row.name, row), *((f"  {part.name}", part) for part in row.parts)):
            mean = f"{one.calls / max(seconds, 0.001):,.1f}"
            peak = f"{one.peak:,}"
            lines += _row(name, f"{one.calls:,}", mean, peak, "", one.throttled, one.errors)
    return "\n".join(lines)


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


_WIDTH = 80
_WIDTHS = (9, 8, 10, 8, 10, 7)


def _row(  # noqa: PLR0917 - the columns, in their order
    name: str, calls: str, waits: str, waited: str, longest: str, throttled: int, errors: int
) -> Iterator[str]:
    line = _line(name, calls, waits, waited, longest, f"{throttled:,}", f"{errors:,}")
    if len(line) > _WIDTH:
        yield name[:_WIDTH]
        line = _line("", calls, waits, waited, longest, f"{throttled:,}", f"{errors:,}")
    yield line


def _line(name: str, *cells: str) -> str:
    # A figure too large for its column takes the room from the name.
    figures = "".join(
        f"{cell:>{width}}" if len(cell) < width else f" {cell}"
        for cell, width in zip(cells, _WIDTHS, strict=True)
    )
    return f"{name:{max(_WIDTH - len(figures), 0)}}{figures}"


def as_json(figures: Iterable[Figure]) -> list[dict[str, Any]]:
    """Return the hub's figures. Times are in seconds."""
    return [
        {
            "service": figure.service,
            "operation": figure.operation,
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
