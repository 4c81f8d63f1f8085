"""An observer that records what its queues do, and writes it as an HTML page."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aioapiqueue import __version__
from aioapiqueue.integrations.report._page import page
from aioapiqueue.recording.spi import CHANGE_KINDS, Recording, as_iso, verdict_of
from aioapiqueue.spi import QueueReader

if TYPE_CHECKING:
    import os
    from collections.abc import Hashable, Sequence

    from aioapiqueue import ApiQueue, Event, Limit
    from aioapiqueue.recording.spi import QueueRecord, UnpacedTime
    from aioapiqueue.spi import events, seam

_CALLS: tuple[events.EventKind, ...] = (
    *("joined", "released", "finished", "cancelled", "timed_out", "refused", "settled"),
)
"""The kinds of events of single calls that are recorded."""
_MOST_STARTS = 10_000
"""Most calls whose start is remembered, so that a later settlement counts at that time."""


class ReportObserver:
    """Record what queues do, and write it as an HTML report.

    >>> from aioapiqueue.integrations.report import ReportObserver
    >>> async def main():
    ...     report = ReportObserver()
    ...     async with ApiQueue("10/s", name="crm", observers=[report]) as queue:
    ...         for _ in range(31):
    ...             async with queue.slot():
    ...                 pass
    ...     return report
    >>> report = asyncio.run(main())
    >>> report.write("crm.html")
    >>> report.as_json()["verdict"]
    'no call was throttled; 31 calls in 0:03, using 100 % of the limit'

    One observer can record several queues of one event loop. Memory is bounded: longer reports
    have longer time steps.

    Args:
        queues: queues to observe, before their first call. Queues with `observers=[report]` need
            not be listed.
        title: the page's title; default: the names of the queues.

    Raises:
        RuntimeError: a queue has been used already, or is listed twice.
        ImportError: Jinja is not installed: `pip install "aioapiqueue[report]"`.
    """

    def __init__(self, *queues: ApiQueue, title: str | None = None) -> None:
        self._title = title
        self._number = 0
        """Number of queues so far."""
        self.starts: OrderedDict[tuple[int, int], float] = OrderedDict()
        """Start times of the latest calls, by the numbers of the queue and of the call."""
        self._recording: Recording | None = None
        self._last = 0.0
        self._lock = threading.RLock()  # reentrant, as a finalizer may emit an event
        for queue in queues:
            reader = QueueReader(queue)
            if queues.count(queue) > 1:
                raise RuntimeError(f"{queue!r} is listed twice: list each queue once")
            if reader.loop is not None:
                raise RuntimeError(
                    f"{queue!r} has been used already: create the report before the queue's first "
                    "call, or create the queue with observers=[report]"
                )
            reader.observe(self.for_queue(queue))

    def for_queue(self, queue: ApiQueue, /) -> _QueueObserver:
        """Return the observer of one queue."""
        self._number += 1
        return _QueueObserver(self, queue, self._number)

    def as_json(self) -> dict[str, Any]:
        """Return all figures from the first event to the last, with times in seconds.

        `budgets` is the use of budgets and calendar limits at this moment.

        You may call this in any thread. The queues of the report pause meanwhile, for at most a
        fifth of a second.
        """
        with self._lock:
            recording = self._recording or Recording(now=0.0, began=0.0)
            found = recording.as_json(self._last)
        seconds = found["times"]["seconds"]
        verdict = verdict_of(found["queues"], seconds, good=True if found["queues"] else None)
        began = recording.began if found["queues"] else None
        names = dict.fromkeys(one["queue"] for one in found["queues"])
        return {
            "version": __version__,
            "title": self._title or ", ".join(names) or "no calls",
            "verdict": verdict.text,
            "good": verdict.good,
            "start": None if began is None else as_iso(began),
            "end": None if began is None else as_iso(began + seconds),
            "seconds": seconds,
            **found,
        }

    def html(self, *, show_accounts: bool = False) -> str:
        """Return the report as HTML.

        This reads files of the package: in a coroutine, call it with `asyncio.to_thread`.

        Args:
            show_accounts: whether to show whole AWS account ids in names. Default: False, only the
                last four digits are shown. AWS keys are never shown.
        """
        return page(self.as_json(), show_accounts=show_accounts)

    def write(self, path: str | os.PathLike[str], *, show_accounts: bool = False) -> None:
        """Write the report to one self-contained HTML file.

        In a coroutine, call it with `asyncio.to_thread`.

        Args:
            path: the file; an existing one is replaced.
            show_accounts: as for `html`.

        Raises:
            OSError: the file cannot be written.
        """
        text = self.html(show_accounts=show_accounts)
        # A name may contain surrogates, such as that of a file whose name is not valid UTF-8.
        Path(path).write_bytes(text.encode("utf-8", "backslashreplace"))

    # Called by the observers of the queues.

    def record(self, one: _QueueObserver, event: Event) -> None:
        """Record an event of a queue."""
        with self._lock:
            # Only now, because a report begins with the first event of any of its queues.
            if self._recording is None:
                wall = one.to_wall(event.at)
                self._recording = Recording(now=event.at, began=wall)
            one.record(event, self._recording)
            self._last = max(self._last, event.at)

    def note_start(self, call: tuple[int, int], at: float) -> None:
        """Note when a call started."""
        self.starts[call] = at
        self.starts.move_to_end(call)
        if len(self.starts) > _MOST_STARTS:
            # If the oldest call is settled after this, its cost counts at that time.
            self.starts.popitem(last=False)


class _QueueObserver:
    """Records the events of one queue.

    Args:
        report: the report.
        queue: the queue.
        number: number of the queue, by which the report calls it if it has no name.
    """

    event_kinds = (*_CALLS, *CHANGE_KINDS)

    def __init__(self, report: ReportObserver, queue: ApiQueue, number: int) -> None:
        self._reader = QueueReader(queue)
        self.to_wall = self._reader.to_wall
        self._report = report
        self._number = number
        self._name = f"queue {number}" if queue.name is None else str(queue.name)
        self._loop = self._reader.loop
        self._lanes: dict[str, Hashable] = {}
        """Names of lanes, by their text."""
        self._names: dict[tuple[Hashable, ...], tuple[str, ...]] = {}
        """Texts of the lanes of a call, by its keys."""
        self._record: QueueRecord | None = None
        self._waiting: set[int] = set()
        self._running: set[int] = set()
        self._throttled: set[int] = set()
        """Running calls that the server throttled."""

    def on_event(self, event: Event, /) -> None:
        """Record an event."""
        self._report.record(self, event)

    def record(self, event: Event, recording: Recording) -> None:
        """Record an event, under the lock of the report."""
        record = self._record
        if record is None:
            record = self._record = recording.record(
                self._name,
                paced=True,
                limits=self._reader.limits_of(None),
                permanent=self._reader.permanent,
            )
            record.find_budgets(self._reader.limits_of(None), self._figures_of)
        # Noted here, because to read it later would keep the queue in memory until then.
        record.prices = self._reader.prices or record.prices
        if self._reader.loop is not self._loop:
            self._forget_callers(event.at, recording.unpaced)
        lanes = self._names.get(event.keys)
        if lanes is None:
            lanes = self._names_of(event.keys)
            # Keys may be ids, so their number has no bound.
            if len(self._names) < _MOST_STARTS:
                self._names[event.keys] = lanes
        if event.kind == "throttled":
            recording.tally(record.counts_of(lanes, self._limits_of), "throttled", event.at)
            # The report may come after the end of the call, when its outcome is counted already.
            if event.call in self._running:
                self._throttled.add(event.call)
        if event.kind in CHANGE_KINDS:
            self._record_change(event, record)
        elif event.call is None:  # refused before it got a number
            recording.tally(record.counts_of(lanes, self._limits_of), "refused", event.at)
        elif event.kind == "settled":
            before = event.before or {}
            more = {unit: cost - before.get(unit, 0) for unit, cost in event.costs.items()}
            start = self._started_at(event.call, event.at)
            recording.used(record.counts_of(lanes, self._limits_of), more, start)
        else:
            self._count(event.call, event, recording, record, lanes)

    def _record_change(self, event: Event, record: QueueRecord) -> None:
        """Record a change of the speed of a queue, a lane or a key."""
        if event.kind == "limits_changed":
            self._names.clear()  # a key may have a lane of its own now
            record.find_budgets(event.limits, self._figures_of)
        if event.key is None:  # the queue, even if calls without a key have a lane
            record.changed(event, None)
            return
        lane = next(iter(self._names_of((event.key,))), None)
        of_key = lane is not None and lane != str(event.key)
        # If a throttled call holds the whole queue, the event has the key of the call, which has no
        # lane: `lane` is None.
        record.changed(event, str(event.key) if of_key else lane, of_key=of_key)

    def _forget_callers(self, at: float, unpaced: UnpacedTime) -> None:
        """Forget calls that waited or ran on another event loop: they ended with it."""
        self._loop = self._reader.loop
        for _ in self._waiting:
            unpaced.left(at)
        for _ in self._running:
            unpaced.ended(at)
        for group in (self._waiting, self._running, self._throttled):
            group.clear()

    def _follow(self, number: int, event: Event, unpaced: UnpacedTime) -> None:
        """Keep track of waiting and running calls."""
        at = event.at
        if event.kind == "joined":
            self._waiting.add(number)
            unpaced.joined(at)
        elif event.kind == "released":
            # A call that did not wait had no event `joined`.
            if number not in self._waiting:
                unpaced.joined(at)
            self._waiting.discard(number)
            self._running.add(number)
            unpaced.started(at)
        elif number in self._waiting:
            self._waiting.discard(number)
            unpaced.left(at)
        elif number in self._running:
            self._running.discard(number)
            unpaced.ended(at)

    def _count(
        self,
        number: int,
        event: Event,
        recording: Recording,
        record: QueueRecord,
        lanes: tuple[str, ...],
    ) -> None:
        """Count an event of a call."""
        at, kind = event.at, event.kind
        # Before `_follow`, which takes the call out of `_running`.
        refunded = kind == "cancelled" and number in self._running
        self._follow(number, event, recording.unpaced)
        if kind == "joined":
            return
        counts = record.counts_of(lanes, self._limits_of)
        if kind == "released":
            self._report.note_start((self._number, number), at)
            recording.started(counts, event.costs, event.waited, at)
            record.sample(at, self._reader.snapshot)
        elif kind == "finished":
            # A throttled call has been counted already, whatever its body raises then.
            if event.outcome == "error" and number not in self._throttled:
                recording.tally(counts, "errors", at)
            self._throttled.discard(number)
        elif kind == "refused":
            recording.tally(counts, "refused", at)
        else:  # cancelled, timed_out
            recording.tally(counts, "cancelled", at)
            if refunded:
                start = self._started_at(number, at)
                recording.not_started(counts, event.costs, event.waited, start)

    def _started_at(self, number: int, now: float) -> float:
        return self._report.starts.get((self._number, number), now)

    def _names_of(self, keys: Sequence[Hashable]) -> tuple[str, ...]:
        """Return the texts of the lanes of a call with these keys."""
        found: dict[str, None] = {}
        for key in keys:
            name = self._reader.lane_of((key,))
            if name is None:
                if key is None or not self._reader.limits_of(key):
                    continue
                name = key  # it has learnt limits
            text = str(name)
            self._lanes.setdefault(text, name)
            found[text] = None
        return tuple(found)

    def _limits_of(self, lane: str) -> tuple[tuple[Limit, ...], bool]:
        limits = self._reader.limits_of(self._lanes[lane])
        if self._record is not None:
            self._record.find_budgets(limits, self._figures_of)
        return limits, lane.endswith("*")

    def _figures_of(self, lane: str | None) -> seam.LimiterStats | None:
        # Another queue of the same name may have had calls of more lanes.
        if lane is not None and lane not in self._lanes:
            return None
        return self._reader.snapshot(None if lane is None else self._lanes[lane])
