"""The recording of a run: its queues, with the names of their lanes in reports."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from aioapiqueue.recording.spi import CHANGE_KINDS, Recording
from aioapiqueue.registry.spi import bucket_of
from aioapiqueue.spi import QueueReader

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from aioapiqueue import ApiQueue, Event, Limit
    from aioapiqueue.recording.spi import QueueRecord
    from aioapiqueue.registry import PacedCall
    from aioapiqueue_run.hub.records import CallStats

__all__ = ["QueueRecords"]


class QueueRecords:
    """Records the calls of a run by queue, and calls without a limit by service.

    Also an observer of queues, which notes what makes them faster or slower.

    Args:
        paced: whether calls wait.
    """

    def __init__(self, *, paced: bool) -> None:
        self.recording = Recording(now=time.monotonic(), began=time.time())
        self.paced = paced
        self._keys: dict[str, str] = {}
        """Keys of calls by the names of their lanes in reports."""

    def for_queue(self, queue: ApiQueue) -> _Changes:
        """Return the observer of one queue."""
        reader = QueueReader(queue)
        return _Changes(self, self._record(reader, queue), reader)

    def _record(self, reader: QueueReader, queue: ApiQueue) -> QueueRecord:
        record = self.recording.record(
            str(queue.name),
            paced=self.paced,
            limits=reader.limits_of(None),
            permanent=reader.permanent,
        )
        self.find_budgets(record, reader, reader.limits_of(None))
        return record

    def find_budgets(
        self, record: QueueRecord, reader: QueueReader, limits: Iterable[Limit]
    ) -> None:
        """Let a record show how much is used of budgets, if there is one among `limits`."""
        if self.paced:  # else calls are not charged to them
            keys = self._keys
            record.find_budgets(
                limits, lambda lane: reader.snapshot(None if lane is None else keys[lane])
            )

    def add(self, stats: CallStats, needs: PacedCall | None = None) -> None:
        """Add the counts of a kind of calls.

        Args:
            stats: the counts.
            needs: what each of these calls needs. Default: nothing, or the calls are added up.
        """
        if needs is None:
            name = f"{stats.service} {'with limits' if stats.paced else 'without a limit'}"
            record = self.recording.record(name, paced=self.paced and stats.paced)
            record.add(stats, (stats.lane_name,))
            return
        reader, lanes = QueueReader(needs.queue), _lanes_of(needs.keys)
        record = self._record(reader, needs.queue)
        self._keys |= lanes
        record.add(stats, tuple(lanes), lambda lane: (reader.limits_of(lanes[lane]), False))
        for key in lanes.values():
            self.find_budgets(record, reader, reader.limits_of(key))

    def sample(self, queue: ApiQueue, now: float) -> None:
        """Note the rate that `Adaptive` allows, at the start of a call."""
        record = self.recording.queues.get(str(queue.name))
        if record is not None:
            record.sample(now, lambda: QueueReader(queue).snapshot())


class _Changes:
    """Notes what makes a queue faster or slower."""

    event_kinds = CHANGE_KINDS

    def __init__(self, records: QueueRecords, record: QueueRecord, reader: QueueReader) -> None:
        self._records = records
        self._record = record
        self._reader = reader

    def on_event(self, event: Event, /) -> None:
        """Note an event of the queue."""
        has_lane = event.key is not None and self._reader.limits_of(event.key)
        self._record.changed(event, _lane_named(str(event.key)) if has_lane else None)
        if event.kind == "limits_changed":
            self._records.find_budgets(self._record, self._reader, event.limits)


def _lanes_of(keys: Sequence[str]) -> dict[str, str]:
    """Return the keys of calls by the names of their lanes in reports."""
    # In a queue that several services share, a call has its operation as a key with and without the
    # service. The lane has the name with the service only.
    if any(other.endswith(f".{keys[0]}") for other in keys[1:]):
        keys = keys[1:]
    return {_lane_named(key): key for key in keys}


def _lane_named(key: str) -> str:
    found = bucket_of(key)
    if found is None:
        return key
    service, bucket = found
    return f"shared {bucket} of {service}" if service else f"shared {bucket}"
