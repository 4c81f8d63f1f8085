"""Records the calls of the three scans over time, for the report of the demonstration."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from aioapiqueue import __version__
from aioapiqueue.recording.spi import Recording, as_iso
from aioapiqueue.spi import CALLS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from aioapiqueue import Event, Rate
    from aioapiqueue.recording.spi import QueueRecord
    from aioapiqueue_run.demo.gate import GateRequest

__all__ = ["ScanRecorder"]


class ScanRecorder:
    """Records paced scans as their queues report them, and unpaced ones at the server."""

    def __init__(self) -> None:
        self._recording = Recording(now=time.monotonic(), began=time.time())
        self._records: dict[str, QueueRecord] = {}

    def record(self, name: str, label: str, limit: Rate, *, paced: bool) -> _Starts:
        """Begin the record of a scan, and return the observer of its queue.

        Args:
            name: the name of the scan.
            label: the name of the record in the report.
            limit: the limit of its calls.
            paced: whether a queue has this limit.
        """
        record = self._recording.record(label, paced=paced, limits=(limit,))
        self._records[name] = record
        return _Starts(self._recording, record)

    def count(self, name: str, requests: Iterable[GateRequest]) -> None:
        """Count the requests of a scan that arrived at the server."""
        record = self._records[name]
        counts = record.counts_of()
        for one in sorted(requests, key=lambda one: one.arrived):
            if one.is_ec2 and not record.paced:
                self._recording.started(counts, {CALLS: 1}, 0.0, one.arrived)
            if one.is_throttled:
                self._recording.tally(counts, "throttled", one.arrived)

    def as_json(self, seconds_of: Mapping[str, float]) -> dict[str, Any]:
        """Return all figures of a report except its verdict.

        Args:
            seconds_of: the duration of each scan.
        """
        recording = self._recording
        found = recording.as_json(time.monotonic())
        seconds = found["times"]["seconds"]
        # The scans run independently, so estimates for all of them together mean nothing.
        found["times"] = {"seconds": seconds}
        found["queues"] = [one.as_json(seconds_of[name]) for name, one in self._records.items()]
        return {
            "version": __version__,
            "start": as_iso(recording.began),
            "end": as_iso(recording.began + seconds),
            "seconds": seconds,
            **found,
        }


class _Starts:
    """Counts the calls that a queue starts."""

    event_kinds = ("released",)

    def __init__(self, recording: Recording, record: QueueRecord) -> None:
        self._recording = recording
        self._counts = record.counts_of()

    def on_event(self, event: Event, /) -> None:
        """Count a call."""
        self._recording.started(self._counts, event.costs, event.waited, event.at)
