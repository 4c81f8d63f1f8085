"""Feeds a recording with the attempts that the hub of a run paces or counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from aioapiqueue import Concurrency
from aioapiqueue.recording.spi import CHANGE_KINDS, Recording
from aioapiqueue.registry.spi import bucket_of
from aioapiqueue.spi import CALLS, QueueReader, lane_states
from aioapiqueue_run.hub.watcher import Ended

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aioapiqueue import Event, Limit
    from aioapiqueue.recording.spi import QueueRecord
    from aioapiqueue.registry import Registry
    from aioapiqueue_run.hub.records import CallStats
    from aioapiqueue_run.hub.request import Request

    _Limits = Callable[[str | None], tuple[tuple[Limit, ...], bool]]

__all__ = ["Changes", "QueueFeed"]


class Changes:
    """An observer of all queues of a run: forwards events that make them faster or slower."""

    event_kinds = CHANGE_KINDS

    def __init__(self) -> None:
        self.feed: QueueFeed | None = None
        """The feed that gets the events; None before the recording begins."""

    def on_event(self, event: Event, /) -> None:
        """Forward an event."""
        if self.feed is not None:
            self.feed.changed(event)


class QueueFeed:
    """Records the calls of a run by queue, and calls without a limit by service.

    Args:
        registry: the limits; None: there are none.
        paced: whether calls wait.
        now: the beginning, as `time.monotonic()`.
        began: the beginning, as `time.time()`.
    """

    def __init__(self, registry: Registry | None, *, paced: bool, now: float, began: float) -> None:
        self.recording = Recording(now=now, began=began)
        self._registry = registry
        self._paced = paced
        self._limits: dict[str, _Limits] = {}

    def joined(self, now: float) -> None:
        """Note a new attempt."""
        self.recording.unpaced.joined(now)

    def left(self, now: float) -> None:
        """Note that a waiting attempt has left."""
        self.recording.unpaced.left(now)

    def started(self, request: Request, now: float) -> None:
        """Count an attempt that starts."""
        self.recording.unpaced.started(now)
        record = self._record_of(request.stats)
        record.started(_lanes_of(request), _costs_of(request), request.waited, now)
        if request.needs is not None:
            record.sample(now, QueueReader(request.needs.queue).snapshot)

    def ended(self, request: Request, now: float, outcome: Ended) -> None:
        """Count the outcome of an attempt."""
        self.recording.unpaced.ended(now)
        record, lanes = self._record_of(request.stats), _lanes_of(request)
        if outcome is Ended.THROTTLED:
            record.tally("throttled", lanes, now)
        elif outcome is Ended.FAILED:
            record.tally("errors", lanes, now)
        elif outcome is Ended.NOT_SENT:
            costs, at = _costs_of(request), request.started_at
            record.not_started(lanes, costs, request.waited, at)

    def refused(self, stats: CallStats, now: float) -> None:
        """Count an attempt that was refused."""
        self._record_of(stats).tally("refused", (stats.lane or stats.operation,), now)

    def changed(self, event: Event) -> None:
        """Note an event of a queue, which may have had no call yet."""
        name = str(event.queue)
        record = self._record(name, name.partition(" ")[0], paced=True)
        lane = None if event.key is None else _lane_named(str(event.key))
        record.changed(event, lane if lane is not None and record.limits_of(lane)[0] else None)

    def _record_of(self, stats: CallStats) -> QueueRecord:
        """Return the record of a queue, or of a service's calls that have none or are added up."""
        if stats.queue is not None:
            return self._record(stats.queue, stats.service, paced=stats.paced)
        end = "with limits" if stats.paced else "without a limit"
        return self._record(f"{stats.service} {end}", None, paced=stats.paced)

    def _record(self, name: str, service: str | None, *, paced: bool) -> QueueRecord:
        limits = _no_limits if service is None else self._limits_of(service)
        return self.recording.record(name, paced=self._paced and paced, limits_of=limits)

    def _limits_of(self, service: str) -> _Limits:
        """Return the function that knows the limits of a service's queues."""
        if service not in self._limits and self._registry is not None:
            own, lanes = self._registry.limits_of_queue(service)
            _, limits = self._registry.limits_of(service)
            # If several services share a queue, a lane has the concurrency of each.
            if limits is not None and limits.concurrency is not None and service not in lanes:
                own = (*own, Concurrency(limits.concurrency))
            by_lane = {_lane_named(key): its for key, its in lanes.items()}
            patterns = lane_states.find_patterns(by_lane)

            def find(lane: str | None) -> tuple[tuple[Limit, ...], bool]:
                if lane is None:
                    return own, False
                return tuple(
                    by_lane.get(str(lane_states.name_of(lane, by_lane, patterns)), ())
                ), False

            self._limits[service] = find
        return self._limits.get(service, _no_limits)


def _no_limits(_: str | None) -> tuple[tuple[Limit, ...], bool]:
    return (), False


def _lanes_of(request: Request) -> Sequence[str]:
    """Return the lanes of an attempt, with their names in reports."""
    if request.needs is None:
        return (request.stats.lane or request.stats.operation,)
    first, *others = request.needs.keys
    # In a queue that several services share, a call has its operation as a key with and without the
    # service. The lane has the name with the service only.
    if any(other.endswith(f".{first}") for other in others):
        return [_lane_named(key) for key in others]
    return [_lane_named(key) for key in request.needs.keys]


def _lane_named(key: str) -> str:
    found = bucket_of(key)
    if found is None:
        return key
    service, bucket = found
    return f"shared {bucket} of {service}" if service else f"shared {bucket}"


def _costs_of(request: Request) -> Mapping[str, float]:
    cost = 1 if request.needs is None else request.needs.cost
    return {CALLS: 1, **cost} if isinstance(cost, Mapping) else {CALLS: cost}
