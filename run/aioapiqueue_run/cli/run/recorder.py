"""Records the calls of a run: peaks, time series, and the recording of its queues."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from aioapiqueue.recording.spi import TimeSeries
from aioapiqueue_run.cli.run.figures import Peaks, lane_of
from aioapiqueue_run.hub import Ended, QueueFeed, Watcher

if TYPE_CHECKING:
    from aioapiqueue.recording.spi import Recording
    from aioapiqueue.registry import Registry
    from aioapiqueue_run.cli.run.estimate import PacedEstimate
    from aioapiqueue_run.hub import CallStats, Changes, Request

__all__ = ["CALLS", "THROTTLED", "RunRecorder", "SeriesName"]

_FIELDS = ("calls", "waited", "throttled", "errors", "refused")
CALLS, WAITED, THROTTLED, ERRORS, REFUSED = range(len(_FIELDS))
"""The indices of the counts in a point of the time series."""


class SeriesName(NamedTuple):
    """The name of a time series, with fields of `CallStats`."""

    service: str
    operation: str
    lane: str
    region: str | None
    account: str | None
    queue: str | None
    paced: bool = True

    @classmethod
    def of(cls, stats: CallStats) -> SeriesName:
        """Return the name of the series of some counts."""
        lane = lane_of(stats)
        place = stats.region, stats.account, stats.queue
        return cls(stats.service, stats.operation, lane, *place, stats.paced)


class RunRecorder(Watcher):
    """Records a run.

    Args:
        estimate: estimates a paced run, if this is a dry run. Default: none.
        registry: the limits. Default: none.
        changes: forwards events of the queues. Default: none.
    """

    def __init__(
        self,
        estimate: PacedEstimate | None = None,
        *,
        registry: Registry | None = None,
        changes: Changes | None = None,
    ) -> None:
        self.peaks = Peaks()
        self.estimate = estimate
        self._registry = registry
        self._changes = changes
        self.began = 0.0
        """When the program was started, as `time.time()`."""
        self.begin(time.monotonic())

    def begin(self, now: float) -> None:
        """Note the start of the program. Nothing is counted before it."""
        self.began = time.time()
        self.series: TimeSeries[SeriesName] = TimeSeries(_FIELDS, began=now)
        self._queues = QueueFeed(
            self._registry, paced=self.estimate is None, now=now, began=self.began
        )
        if self._changes is not None:
            self._changes.feed = self._queues
        if self.estimate is not None:
            self.estimate.begin(now)

    @property
    def recording(self) -> Recording:
        """The recording of the queues."""
        return self._queues.recording

    def joined(self, now: float) -> None:
        """Note a new attempt."""
        self._queues.joined(now)

    def left(self, now: float) -> None:
        """Note that a waiting attempt has left."""
        self._queues.left(now)

    def started(self, request: Request, now: float) -> None:
        """Count an attempt that starts."""
        self.peaks.count(request.stats, now)
        self._add(request.stats, now, CALLS)
        if request.waited:
            self._add(request.stats, now, WAITED, request.waited)
        self._queues.started(request, now)
        if self.estimate is not None:
            self.estimate.started(request, now)

    def ended(self, request: Request, now: float, outcome: Ended) -> None:
        """Count the outcome of an attempt."""
        if outcome is Ended.THROTTLED:
            self._add(request.stats, now, THROTTLED)
        elif outcome is Ended.FAILED:
            self._add(request.stats, now, ERRORS)
        elif outcome is Ended.NOT_SENT:  # take it off again, in the step in which it was counted
            self._add(request.stats, request.started_at, CALLS, -1)
        self._queues.ended(request, now, outcome)
        if self.estimate is not None:
            self.estimate.ended(request, now, throttled=outcome is Ended.THROTTLED)

    def refused(self, stats: CallStats, now: float) -> None:
        """Count an attempt that was refused."""
        self._add(stats, now, REFUSED)
        self._queues.refused(stats, now)

    def _add(self, stats: CallStats, now: float, field: int, amount: float = 1) -> None:
        self.series.add(SeriesName.of(stats), now, field, amount)
