"""An observer that records what its queues do, and writes it down as a page."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from aioapiqueue import __version__
from aioapiqueue._queue import dispatcher_of
from aioapiqueue._recording.queues import CHANGE_KINDS, QueueRecord, Recording
from aioapiqueue._recording.text import as_iso
from aioapiqueue._recording.verdict import verdict_of
from aioapiqueue.integrations.report._page import page

if TYPE_CHECKING:
    import os
    from collections.abc import Hashable, Mapping, Sequence

    from aioapiqueue import ApiQueue, Event
    from aioapiqueue._events import EventKind
    from aioapiqueue._rate import Limit
    from aioapiqueue._recording.unpaced import UnpacedTime

__all__ = ["ReportObserver"]

_CALLS: tuple[EventKind, ...] = (
    *("joined", "released", "finished", "cancelled", "timed_out", "refused"),
    *("throttled", "settled"),
)
_MOST_CALLS = 10_000
"""That are remembered after they ended, as they may be settled later."""


class ReportObserver:
    """Records what queues do, for a report that proves it afterwards: an HTML file of its own.

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
    'nobody was throttled; 31 calls in 0:03, 1.00 of the limit'

    One may observe several queues, of one loop. Memory is bounded: the longer it records, the
    longer are the steps of time that it knows. It takes some microseconds for each slot.

    Args:
        queues: to be observed, beside those that have it among their `observers=`; nobody has used
            them yet.
        title: of the page; default: the names of the queues.

    Raises:
        RuntimeError: a queue is in use already.
        ModuleNotFoundError: Jinja is not installed (`pip install "aioapiqueue[report]"`).
    """

    def __init__(self, *queues: ApiQueue, title: str | None = None) -> None:
        self._title = title
        self._observers: list[_QueueObserver] = []
        self._recording: Recording | None = None
        self._last = 0.0
        self._lock = threading.RLock()  # what is collected under it may emit an event
        for queue in queues:
            dispatcher = dispatcher_of(queue)
            if dispatcher.loop is not None:
                raise RuntimeError(
                    f"{queue!r} is in use already: make the report before its first call, or the "
                    "queue with observers=[report]"
                )
            dispatcher.observe([self.for_queue(queue)])

    def for_queue(self, queue: ApiQueue, /) -> _QueueObserver:
        """Return the observer of one queue."""
        observer = _QueueObserver(self, queue, f"queue {len(self._observers) + 1}")
        self._observers.append(observer)
        return observer

    def as_json(self) -> dict[str, Any]:
        """Return all figures, from the first event to the last one. Times are in seconds."""
        with self._lock:
            recording = self._recording
            if recording is None:
                recording = Recording(now=self._last, began=0.0)
            found = recording.as_json(self._last)
        seconds = found["times"]["seconds"]
        verdict = verdict_of(found["queues"], seconds)
        names = dict.fromkeys(one["queue"] for one in found["queues"])
        return {
            "version": __version__,
            "title": self._title or ", ".join(names) or "no calls",
            "verdict": verdict.text,
            "good": verdict.good,
            "start": as_iso(recording.began),
            "end": as_iso(recording.began + seconds),
            "seconds": seconds,
            **found,
        }

    def html(self, *, show_accounts: bool = False) -> str:
        """Return the page, as it would be written now.

        It reads files of this package: within a loop, call it in a thread.

        Args:
            show_accounts: leave the numbers of AWS accounts in names as they are; default: only
                their last four digits are shown. Keys of AWS are never shown.
        """
        return page(self.as_json(), show_accounts=show_accounts)

    def write(self, path: str | os.PathLike[str], *, show_accounts: bool = False) -> None:
        """Write the page to a file, which needs no other; within a loop, call it in a thread.

        Args:
            path: of the file, which is replaced.
            show_accounts: as for `html`.

        Raises:
            OSError: it cannot be written.
        """
        Path(path).write_text(self.html(show_accounts=show_accounts), encoding="utf-8")

    # What the observers of its queues call.

    def record(self, one: _QueueObserver, event: Event) -> None:
        """Record an event of a queue."""
        with self._lock:
            if self._recording is None:
                wall = one.to_wall(event.at)
                self._recording = Recording(now=event.at, began=wall)
            one.record(event, self._recording)
            self._last = max(self._last, event.at)


class _Call(NamedTuple):
    """A call that has started."""

    at: float
    lanes: Sequence[str]
    costs: Mapping[str, float]


class _QueueObserver:
    """Records the events of one queue.

    Args:
        report: which it belongs to.
        queue: which.
        name: of a queue that has none.
    """

    event_kinds = (*_CALLS, *CHANGE_KINDS)

    def __init__(self, report: ReportObserver, queue: ApiQueue, name: str) -> None:
        dispatcher = dispatcher_of(queue)
        self.to_wall = dispatcher.to_wall
        self._report = report
        self._name = name if queue.name is None else str(queue.name)
        self._limiter = dispatcher.limiter
        self._lane_of = dispatcher.lane_of
        self._lanes: dict[str, Hashable] = {}
        """The names of lanes as they were given, by their text."""
        self._waiting: set[int] = set()
        self._calls: OrderedDict[int, _Call] = OrderedDict()
        self._record: QueueRecord | None = None

    def on_event(self, event: Event, /) -> None:
        """Record an event."""
        self._report.record(self, event)

    def record(self, event: Event, recording: Recording) -> None:
        """Record an event, while nobody else does."""
        record = self._record
        if record is None:
            new = QueueRecord(recording, self._name, paced=True, limits_of=self._limits_of)
            record = self._record = recording.queues.setdefault(self._name, new)
        lanes = self._names_of(event.keys)
        if event.kind in CHANGE_KINDS:
            key = event.key
            lane = None if key is None else next(iter(self._names_of((key,))), None)
            record.changed(event, lane)
        elif event.kind == "throttled":
            record.throttled(lanes, event.at)
        elif event.call is None:  # turned away before it had a number
            record.refused(lanes, event.at)
        elif event.kind == "settled":
            self._settle(event.call, event.costs, record)
        else:
            self._follow(event.call, event, recording.unpaced)
            self._count(event.call, event, lanes, record)

    def _follow(self, number: int, event: Event, unpaced: UnpacedTime) -> None:
        """Keep track of who waits, and who runs."""
        at, waited = event.at, number in self._waiting
        self._waiting.discard(number)
        if event.kind == "joined":
            self._waiting.add(number)
            unpaced.joined(at)
        elif event.kind == "released":
            if not waited:
                unpaced.joined(at)
            unpaced.started(at)
        elif waited:
            unpaced.left(at)
        elif event.kind in {"finished", "cancelled"}:  # it ran, or would have
            unpaced.ended(at)

    def _count(self, number: int, event: Event, lanes: Sequence[str], record: QueueRecord) -> None:
        """Count what happened to a call."""
        at, kind = event.at, event.kind
        if kind == "released":
            self._calls[number] = _Call(at, lanes, event.costs)
            if len(self._calls) > _MOST_CALLS:
                self._calls.popitem(last=False)
            record.started(lanes, event.costs, event.waited, at)
            record.sample(at, self._limiter.snapshot)
        elif kind == "finished":
            if event.outcome == "error":
                record.failed(lanes, at)
        elif kind == "refused":
            record.refused(lanes, at)
        elif kind != "joined":  # cancelled, timed_out
            record.cancelled(lanes)
            call = self._calls.pop(number, None)
            if call is not None:  # it had its slot
                record.not_started(call.lanes, call.costs, call.at)

    def _settle(self, number: int, costs: Mapping[str, float], record: QueueRecord) -> None:
        call = self._calls.get(number)
        if call is not None:
            more = {unit: costs.get(unit, 0) - call.costs.get(unit, 0) for unit in costs}
            record.used(call.lanes, more, call.at)
            self._calls[number] = call._replace(costs={**call.costs, **costs})

    def _names_of(self, keys: Sequence[Hashable]) -> Sequence[str]:
        """Return the lanes that a call with these keys comes under, as text."""
        found: dict[str, None] = {}
        for key in keys:
            name = self._lane_of((key,))
            if name is None:
                if key is None or not self._limiter.limits_of(key):
                    continue
                name = key  # its limits were learnt
            text = str(name)
            self._lanes.setdefault(text, name)
            found[text] = None
        return tuple(found)

    def _limits_of(self, lane: str | None) -> tuple[tuple[Limit, ...], bool]:
        if lane is None:
            return tuple(self._limiter.limits), False
        return tuple(self._limiter.limits_of(self._lanes[lane]) or ()), lane.endswith("*")
