"""What is recorded of queues for a report: counts, waits and use over time, and what changed when.

What sees the calls tells it of each: an observer of queues, or the hub of a run. It reads no
clock; memory is bounded, however long it goes on and however many calls there are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from aioapiqueue import Concurrency
from aioapiqueue._recording.changes import ChangeHistory, QueueChange
from aioapiqueue._recording.rates import OverTime, allowed_over_time, delay_of, most_in
from aioapiqueue._recording.series import TimeSeries
from aioapiqueue._recording.unpaced import UnpacedTime
from aioapiqueue._recording.waits import WaitTimes
from aioapiqueue.spi import CALLS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from aioapiqueue import Event, Limit
    from aioapiqueue.spi import seam

__all__ = ["QueueRecord", "Recording"]

_FIELDS = ("used", "started", "waited", "throttled", "errors", "refused")
_USED, _STARTED, _WAITED, _THROTTLED, _ERRORS, _REFUSED = range(len(_FIELDS))
_MOST_LANES = 5_000
"""Of all queues together, that have a record of their own: some 10 MB."""
_MOST_QUEUES = 2_000
"""Of which each has a record; all others are one."""
_OTHERS = "all other queues"
_SLIGHTLY = 1.0
"""Seconds by which a hold has to be longer than is known for it to be noted once more."""


class _SeriesKey(NamedTuple):
    """Whose time series it is."""

    queue: str
    lane: str | None
    unit: str


@dataclass(slots=True)
class _LaneCounts:
    """What is counted of a queue, or of a lane of it.

    Attributes:
        limits: those in force.
        summed_up: whether it is the sum of several keys, each with such limits of its own.
        calls: that started.
        waits: how long they waited.
        waited: the same, added up.
        throttled: times that the other side pushed back.
        errors: calls that ended with another error.
        refused: calls that the pacing turned away.
        cancelled: waiters that left, or whose time was over.
        used: what has been charged, by unit.
        since: since when there have been which limits.
        lowered: calls a second that push-back has left, from when on; inf: what the limits say.
    """

    limits: tuple[Limit, ...] = ()
    summed_up: bool = False
    calls: int = 0
    waits: WaitTimes = field(default_factory=WaitTimes)
    waited: float = 0.0
    throttled: int = 0
    errors: int = 0
    refused: int = 0
    cancelled: int = 0
    used: dict[str, float] = field(default_factory=dict)
    since: OverTime[tuple[Limit, ...]] = field(default_factory=OverTime)
    lowered: OverTime[float] = field(default_factory=OverTime)

    def units(self) -> list[str]:
        """Return the units that were used, or that limits count; calls first."""
        limited = [limit.unit for limit in self.limits if not isinstance(limit, Concurrency)]
        return list(dict.fromkeys([CALLS, *self.used, *limited]))


class QueueRecord:
    """What is recorded of one queue.

    Args:
        recording: which it belongs to.
        name: of the queue.
        paced: whether its calls wait.
        limits_of: returns the limits of a lane, or (None) of the queue, and whether a lane of that
            name is the sum of several keys.
    """

    def __init__(
        self,
        recording: Recording,
        name: str,
        *,
        paced: bool,
        limits_of: Callable[[str | None], tuple[tuple[Limit, ...], bool]],
    ) -> None:
        self.name = name
        self.paced = paced
        self.limits_of = limits_of
        self._recording = recording
        self._is_lowered = False
        self._sampled_at = -math.inf
        self._held_until: dict[str | None, float] = {}
        """Of lanes, and (None) of the queue, as far as it was noted."""
        self._whole = self._new(None)
        self._lanes: dict[str, _LaneCounts] = {}

    def _new(self, lane: str | None) -> _LaneCounts:
        limits, summed_up = self.limits_of(lane)
        return _LaneCounts(limits, summed_up, since=OverTime(limits))

    def _find(self, lanes: Iterable[str]) -> Iterator[tuple[str | None, _LaneCounts]]:
        """Yield the counts of the queue, and of those lanes that have any."""
        yield None, self._whole
        for lane in lanes:
            counts = self._lanes.get(lane)
            if counts is None and self._recording.take_room():
                counts = self._lanes[lane] = self._new(lane)
            if counts is not None:
                yield lane, counts

    def started(
        self, lanes: Sequence[str], costs: Mapping[str, float], waited: float, now: float
    ) -> None:
        """Count a call that starts."""
        point_of, name = self._recording.series.point, self.name
        for lane, counts in self._find(lanes):  # in few steps: this is done for each call
            counts.calls += 1
            counts.waits.add(waited)
            counts.waited += waited
            point = point_of(_SeriesKey(name, lane, CALLS), now)
            point[_STARTED] += 1
            point[_WAITED] += waited
            for unit, cost in costs.items():
                counts.used[unit] = counts.used.get(unit, 0) + cost
                if unit == CALLS:
                    point[_USED] += cost
                elif cost:
                    point_of(_SeriesKey(name, lane, unit), now)[_USED] += cost

    def used(self, lanes: Sequence[str], costs: Mapping[str, float], now: float) -> None:
        """Count what a call has used: at its start, and less or more when that is known."""
        for lane, counts in self._find(lanes):
            for unit, cost in costs.items():
                counts.used[unit] = counts.used.get(unit, 0) + cost
                if cost:
                    self._add(lane, unit, now, _USED, cost)

    def not_started(
        self, lanes: Sequence[str], costs: Mapping[str, float], waited: float, at: float
    ) -> None:
        """Take out a call that had started then, and was not sent after all."""
        for lane, counts in self._find(lanes):
            counts.calls -= 1
            counts.waits.remove(waited)
            counts.waited -= waited
            self._add(lane, CALLS, at, _STARTED, -1)
            if waited:
                self._add(lane, CALLS, at, _WAITED, -waited)
        self.used(lanes, {unit: -cost for unit, cost in costs.items()}, at)

    def throttled(self, lanes: Sequence[str], now: float) -> None:
        """Count that the server throttled a call."""
        for lane, counts in self._find(lanes):
            counts.throttled += 1
            self._add(lane, CALLS, now, _THROTTLED, 1)

    def failed(self, lanes: Sequence[str], now: float) -> None:
        """Count a call that ended with another error."""
        for lane, counts in self._find(lanes):
            counts.errors += 1
            self._add(lane, CALLS, now, _ERRORS, 1)

    def refused(self, lanes: Sequence[str], now: float) -> None:
        """Count a call that was turned away."""
        for lane, counts in self._find(lanes):
            counts.refused += 1
            self._add(lane, CALLS, now, _REFUSED, 1)

    def cancelled(self, lanes: Sequence[str]) -> None:
        """Count a waiter that left, or whose time was over."""
        for _, counts in self._find(lanes):
            counts.cancelled += 1

    def changed(self, event: Event, lane: str | None, *, of_key: bool = False) -> None:
        """Note what made it faster or slower.

        Args:
            event: of one of `CHANGE_KINDS`.
            lane: which it is of; None: the queue.
            of_key: whether it is of a single key, of those that a lane sums up; default False.
        """
        at = event.at - self._recording.now
        kind, seconds = event.kind, event.seconds
        if kind == "throttled":  # with what it has asked for, it is a hold
            kind, seconds = "held", event.retry_after
        if kind == "held":
            if not seconds or at + seconds <= self._held_until.get(lane, -math.inf) + _SLIGHTLY:
                return
            if len(self._held_until) < _MOST_LANES or lane in self._held_until:
                self._held_until[lane] = at + seconds
        what = kind, event.limits, event.origin, event.rate, seconds
        self._recording.changes.note(QueueChange(at, self.name, lane, *what))
        if of_key:
            return
        if kind == "limits_changed":
            *_, (found, counts) = self._find(() if lane is None else (lane,))
            if found == lane:
                counts.limits = event.limits
                counts.since.note(at, event.limits)
        elif kind == "backed_off" and lane is None:
            self._is_lowered = True
            if event.rate is not None:
                self._whole.lowered.note(at, event.rate)

    def sample(self, now: float, snapshot: Callable[[], seam.LimiterStats]) -> None:
        """Note what push-back has left of the rate, where it has lowered it.

        Args:
            now: the present instant.
            snapshot: returns the figures of the queue's limiter; called once in a step of time.
        """
        if self._is_lowered and now >= self._sampled_at + self._recording.series.step:
            self._sampled_at = now
            self._whole.lowered.note(now - self._recording.now, snapshot().rate)

    def _add(self, lane: str | None, unit: str, now: float, field: int, amount: float) -> None:
        self._recording.series.add(_SeriesKey(self.name, lane, unit), now, field, amount)

    @property
    def calls(self) -> int:
        """How many calls started."""
        return self._whole.calls

    @property
    def is_used(self) -> bool:
        """Whether there was any call."""
        whole = self._whole
        return bool(whole.calls or whole.refused or whole.cancelled or whole.throttled)

    def met(self) -> Iterator[Limit]:
        """Yield the limits that calls came under."""
        yield from self._whole.limits
        for counts in self._lanes.values():
            if counts.calls:
                yield from counts.limits

    def as_json(self, seconds: float, began: float) -> dict[str, Any]:
        """Return all figures.

        Args:
            seconds: from the beginning to the end.
            began: when that was, in seconds since the epoch.
        """
        busiest = sorted(self._lanes.items(), key=lambda one: (-one[1].calls, one[0]))
        tightest: tuple[float, str, str | None] | None = None
        for lane, counts in ((None, self._whole), *busiest):
            for share, limit in _shares(counts, seconds, began):
                if tightest is None or share > tightest[0]:
                    tightest = share, limit, lane
        return {
            "queue": self.name,
            "paced": self.paced,
            **self._figures(None, self._whole),
            "tightest": None
            if tightest is None
            else dict(zip(("share", "limit", "lane"), tightest, strict=True)),
            "lanes": [{"lane": lane, **self._figures(lane, counts)} for lane, counts in busiest],
        }

    def _figures(self, lane: str | None, counts: _LaneCounts) -> dict[str, Any]:
        return {
            "limits": [str(limit) for limit in counts.limits],
            "limits_of_each_key": counts.summed_up,
            "calls": counts.calls,
            "used": {unit: _plain(amount) for unit, amount in counts.used.items()},
            "waited": counts.waited,
            "waits": counts.waits.as_json(),
            "throttled": counts.throttled,
            "errors": counts.errors,
            "refused": counts.refused,
            "cancelled": counts.cancelled,
            "time_series": [self._series(lane, counts, unit) for unit in counts.units()],
        }

    def _series(self, lane: str | None, counts: _LaneCounts, unit: str) -> dict[str, Any]:
        """Return what was counted in each step in which anything was, and the limit over time."""
        points = self._recording.series.series.get(_SeriesKey(self.name, lane, unit), {})
        steps = sorted(points)
        found: dict[str, Any] = {"unit": unit, "steps": steps}
        for place, name in enumerate(_FIELDS):
            values = [_plain(points[step][place]) for step in steps]
            # Most calls cost one: their number is not said twice.
            said = place == _STARTED and values == found["used"]
            if place == _USED or (any(values) and not said):
                found[name] = values
        if not counts.summed_up:
            pairs = allowed_over_time(counts.since.pairs, counts.lowered.pairs, unit)
            found["allowed"] = [[round(at, 3), rate] for at, rate in pairs]
        return found


class Recording:
    """Records queues.

    Args:
        now: the instant at which it begins, in seconds on the clock of all others.
        began: the same, in seconds since the epoch.
    """

    def __init__(self, *, now: float, began: float) -> None:
        self.now = now
        self.began = began
        self.series: TimeSeries[_SeriesKey] = TimeSeries(_FIELDS, began=now)
        self.unpaced = UnpacedTime(now=now)
        self.queues: dict[str, QueueRecord] = {}
        self.changes = ChangeHistory()
        self._records = 0
        self._left_out = False
        """Whether lanes have been left out."""

    def record(
        self,
        name: str,
        *,
        paced: bool,
        limits_of: Callable[[str | None], tuple[tuple[Limit, ...], bool]],
    ) -> QueueRecord:
        """Return the record of a queue, or of all others where there are too many; see there."""
        found = self.queues.get(name)
        if found is None:
            if len(self.queues) >= _MOST_QUEUES:
                name, paced, limits_of = _OTHERS, True, _no_limits
                found = self.queues.get(name)
            if found is None:
                found = QueueRecord(self, name, paced=paced, limits_of=limits_of)
                self.queues[name] = found
        return found

    def take_room(self) -> bool:
        """Return whether one more lane may have a record, and count it if so."""
        if self._records >= _MOST_LANES:
            self._left_out = True
            return False
        self._records += 1
        return True

    def as_json(self, now: float) -> dict[str, Any]:
        """Return all figures of queues that were used. Times are in seconds.

        Args:
            now: the instant at which it ends.
        """
        seconds = now - self.now
        self.series.reach(now)
        used = [one for one in self.queues.values() if one.is_used]
        found = [one.as_json(seconds, self.began) for one in used]
        found.sort(key=lambda one: (not one["paced"], -one["calls"], one["queue"]))
        return {
            "queues": found,
            "step_seconds": self.series.step,
            **self.changes.as_json(),
            "lanes_left_out": self._left_out,
            "times": self._times(used, seconds, now),
        }

    def _times(self, used: Sequence[QueueRecord], seconds: float, now: float) -> dict[str, Any]:
        """Return how long it took, and would have taken in other ways."""
        unpaced = min(seconds, self.unpaced.seconds(now))
        delays = [one for record in used for limit in record.met() if (one := delay_of(limit))]
        delay = max(delays, default=None)
        calls = sum(record.calls for record in used)
        return {
            "seconds": seconds,
            "unpaced": unpaced,
            "blanket_delay": delay,
            "blanket": None if delay is None else max(unpaced, calls * delay),
        }


def _no_limits(_: str | None) -> tuple[tuple[Limit, ...], bool]:
    return (), False


def _plain(number: float) -> float:
    return int(number) if number == int(number) else round(number, 6)


def _shares(counts: _LaneCounts, seconds: float, began: float) -> Iterator[tuple[float, str]]:
    """Yield how much of what each limit allows in that time was used, as a share of it."""
    if counts.summed_up or len(counts.since.pairs) > 1:  # of several limits, no share of one
        return
    for limit in counts.limits:
        most = most_in(limit, seconds, began)
        if most is not None and not isinstance(limit, Concurrency):
            yield counts.used.get(limit.unit, 0) / most, str(limit)
