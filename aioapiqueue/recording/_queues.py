"""Figures of queues for a report: counts, waits, use over time, and what changed when.

An observer of queues, or the run hub, reports each call to a `Recording`. Nothing here reads a
clock. Memory is bounded for any duration and any number of calls.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from aioapiqueue import Concurrency
from aioapiqueue.recording._changes import ChangeHistory, QueueChange
from aioapiqueue.recording._rates import OverTime, allowed_over_time, most_in
from aioapiqueue.recording._series import TimeSeries
from aioapiqueue.recording._unpaced import UnpacedTime
from aioapiqueue.recording._waits import WaitTimes
from aioapiqueue.spi import CALLS, limit_types

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from aioapiqueue import Event, Limit
    from aioapiqueue.spi import seam

_FIELDS = ("used", "started", "waited", "throttled", "errors", "refused")
"""The counts in each point of a time series."""
_USED, _STARTED, _WAITED = range(3)
_TALLIES = ("throttled", "errors", "refused", "cancelled")
"""Calls that the server throttled, that failed otherwise, that the queue refused, and that were
cancelled or timed out while they waited."""
_MOST_LANES = 5_000
"""Most lanes, of all queues together, that have figures of their own: some 10 MB."""
_MOST_QUEUES = 2_000
"""Most queues that have a record of their own; all others share one."""
_OTHERS = "all other queues"
_LEAST_EXTENSION = 1.0
"""Seconds by which a hold must extend the last one to be noted.

A server throttles many calls at once, each with the same retry time: that is one hold.
"""


class _SeriesKey(NamedTuple):
    """The name of a time series."""

    queue: str
    lane: str | None
    unit: str


@dataclass(slots=True)
class LaneCounts:
    """The figures of a queue or of one of its lanes.

    Attributes:
        limits: the limits in force.
        per_key: whether each key has such limits of its own. The figures are of all keys together.
        waits: the waits of the calls that started.
        tallies: number of calls, by the names in `_TALLIES`.
        used: the units charged, by name.
        limits_over_time: the limits in force from each instant on.
        adaptive_rates: the calls a second that `Adaptive` allowed from each instant on; inf: no
            fewer than the limits.
    """

    limits: tuple[Limit, ...] = ()
    per_key: bool = False
    waits: WaitTimes = field(default_factory=WaitTimes)
    tallies: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_TALLIES, 0))
    used: dict[str, float] = field(default_factory=dict)
    limits_over_time: OverTime[tuple[Limit, ...]] = field(default_factory=OverTime)
    adaptive_rates: OverTime[float] = field(default_factory=OverTime)

    def units(self) -> list[str]:
        """Return the units that calls used or limits count, "calls" first."""
        limited = [limit.unit for limit in self.limits if not isinstance(limit, Concurrency)]
        return list(dict.fromkeys([CALLS, *self.used, *limited]))

    def shares(self, seconds: float, began: float) -> Iterator[tuple[float, str]]:
        """Yield the share of each limit that was used, with the text of the limit.

        Args:
            seconds: the duration of the recording.
            began: when it began, in seconds since the epoch.
        """
        # If each key has its own limit, or the limit has changed, its share is not known.
        if self.per_key or len(self.limits_over_time.pairs) > 1:
            return
        for limit in self.limits:
            most = most_in(limit, seconds, began)
            if most is not None and not isinstance(limit, Concurrency):
                yield self.used.get(limit.unit, 0) / most, str(limit)


class QueueRecord:
    """The figures of one queue.

    Args:
        recording: the recording that the queue is part of.
        name: the name of the queue.
        paced: whether its calls wait.
        limits_of: returns the limits of a lane, or (None) of the queue, and whether each of several
            keys has such limits of its own.
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
        self._is_adaptive_active = False
        self._sampled_at = -math.inf
        self._held_until: dict[str | None, float] = {}
        """The end of the latest noted hold of each lane, or (None) of the queue."""
        self._whole = self._new(None)
        self._lanes: dict[str, LaneCounts] = {}

    def _new(self, lane: str | None) -> LaneCounts:
        limits, per_key = self.limits_of(lane)
        return LaneCounts(limits, per_key, limits_over_time=OverTime(limits))

    def _find(self, lanes: Iterable[str]) -> Iterator[tuple[str | None, LaneCounts]]:
        """Yield the figures of the queue and of its lanes, which are created if there is room."""
        yield None, self._whole
        for lane in lanes:
            counts = self._lanes.get(lane)
            # Without room, the calls of the lane still count for the queue.
            if counts is None and self._recording.reserve_lane():
                counts = self._lanes[lane] = self._new(lane)
            if counts is not None:
                yield lane, counts

    def started(
        self, lanes: Sequence[str], costs: Mapping[str, float], waited: float, now: float
    ) -> None:
        """Count a call that starts."""
        point_of, name = self._recording.series.point, self.name
        # This runs for each call, so it avoids `_add`, and looks up the point of calls once.
        for lane, counts in self._find(lanes):
            counts.waits.add(waited)
            point = point_of(_SeriesKey(name, lane, CALLS), now)
            # `costs` lists calls first, so `point` is used up before the next `point_of`, which may
            # double the step and drop this list.
            point[_STARTED] += 1
            point[_WAITED] += waited
            for unit, cost in costs.items():
                counts.used[unit] = counts.used.get(unit, 0) + cost
                if unit == CALLS:
                    point[_USED] += cost
                elif cost:
                    point_of(_SeriesKey(name, lane, unit), now)[_USED] += cost

    def used(self, lanes: Sequence[str], costs: Mapping[str, float], now: float) -> None:
        """Add to the units that calls have used; a negative amount takes back an excess."""
        for lane, counts in self._find(lanes):
            for unit, cost in costs.items():
                counts.used[unit] = counts.used.get(unit, 0) + cost
                if cost:
                    self._add(lane, unit, now, _USED, cost)

    def not_started(
        self, lanes: Sequence[str], costs: Mapping[str, float], waited: float, at: float
    ) -> None:
        """Take back a call that was counted as started at `at`, but was not sent after all."""
        # Subtracted where it was added: another step could fall below 0.
        for lane, counts in self._find(lanes):
            counts.waits.remove(waited)
            self._add(lane, CALLS, at, _STARTED, -1)
            if waited:
                self._add(lane, CALLS, at, _WAITED, -waited)
        self.used(lanes, {unit: -cost for unit, cost in costs.items()}, at)

    def tally(self, name: str, lanes: Sequence[str], now: float) -> None:
        """Count a call.

        Args:
            name: what happened to it: one of `_TALLIES`.
            lanes: its lanes.
            now: the present instant.
        """
        for lane, counts in self._find(lanes):
            counts.tallies[name] += 1
            if name in _FIELDS:  # cancelled calls have no time series
                self._add(lane, CALLS, now, _FIELDS.index(name), 1)

    def changed(self, event: Event, lane: str | None, *, of_key: bool = False) -> None:
        """Note an event that made the queue faster or slower.

        Args:
            event: an event of one of `CHANGE_KINDS`.
            lane: the lane that it concerns; None: the queue.
            of_key: whether it concerns one key of a lane whose keys have limits of their own.
        """
        at = event.at - self._recording.now
        kind, seconds = event.kind, event.seconds
        # A throttled call holds the queue for its retry time. Without one, it changes nothing here:
        # if `Adaptive` backs off, it reports that itself.
        if kind == "throttled":
            kind, seconds = "held", event.retry_after
        if kind == "held":
            known = self._held_until.get(lane, -math.inf)
            if not seconds or at + seconds <= known + _LEAST_EXTENSION:
                return
            # Bounded, because events also concern lanes that have no figures here.
            if len(self._held_until) < _MOST_LANES or lane in self._held_until:
                self._held_until[lane] = at + seconds
        what = kind, event.limits, event.origin, event.rate, seconds
        self._recording.changes.note(QueueChange(at, self.name, lane, *what))
        if of_key:  # the figures of its lane are those of all keys together
            return
        if kind == "limits_changed":
            *_, (found, counts) = self._find(() if lane is None else (lane,))
            if found == lane:  # otherwise, there was no room for the lane
                counts.limits = event.limits
                counts.limits_over_time.note(at, event.limits)
        elif kind == "backed_off" and lane is None:
            self._is_adaptive_active = True
            if event.rate is not None:
                self._whole.adaptive_rates.note(at, event.rate)

    def sample(self, now: float, snapshot: Callable[[], seam.LimiterStats]) -> None:
        """Note the rate that `Adaptive` allows, once it has backed off.

        `Adaptive` recovers gradually and reports no event for that, so the rate is sampled, at most
        once in each step of the time series.

        Args:
            now: the present instant.
            snapshot: returns the figures of the queue's limiter.
        """
        if self._is_adaptive_active and now >= self._sampled_at + self._recording.series.step:
            self._sampled_at = now
            self._whole.adaptive_rates.note(now - self._recording.now, snapshot().rate)

    def _add(self, lane: str | None, unit: str, now: float, field: int, amount: float) -> None:
        self._recording.series.add(_SeriesKey(self.name, lane, unit), now, field, amount)

    @property
    def calls(self) -> int:
        """Number of calls that started."""
        return self._whole.waits.number

    @property
    def is_used(self) -> bool:
        """Whether there was any call."""
        return bool(self.calls or any(self._whole.tallies.values()))

    def limits_reached(self) -> Iterator[Limit]:
        """Yield the limits that applied to some call."""
        yield from self._whole.limits
        for counts in self._lanes.values():
            if counts.waits.number:
                yield from counts.limits

    def as_json(self, seconds: float) -> dict[str, Any]:
        """Return all figures.

        Args:
            seconds: the duration of the recording.
        """
        busiest = sorted(self._lanes.items(), key=lambda one: (-one[1].waits.number, one[0]))
        shares: list[dict[str, Any]] = [
            {"share": share, "limit": limit, "lane": lane}
            for lane, counts in ((None, self._whole), *busiest)
            for share, limit in counts.shares(seconds, self._recording.began)
        ]
        return {
            "queue": self.name,
            "paced": self.paced,
            **self._figures(None, self._whole),
            "tightest": max(shares, key=lambda one: one["share"], default=None),
            "lanes": [{"lane": lane, **self._figures(lane, counts)} for lane, counts in busiest],
        }

    def _figures(self, lane: str | None, counts: LaneCounts) -> dict[str, Any]:
        return {
            "limits": [str(limit) for limit in counts.limits],
            "limits_of_each_key": counts.per_key,
            "calls": counts.waits.number,
            "used": {unit: _plain(amount) for unit, amount in counts.used.items()},
            "waited": counts.waits.total,
            "waits": counts.waits.as_json(),
            **counts.tallies,
            "time_series": [self._series(lane, counts, unit) for unit in counts.units()],
        }

    def _series(self, lane: str | None, counts: LaneCounts, unit: str) -> dict[str, Any]:
        """Return the counts of each step that has any, and the rate allowed over time."""
        points = self._recording.series.series.get(_SeriesKey(self.name, lane, unit), {})
        steps = sorted(points)
        found: dict[str, Any] = {"unit": unit, "steps": steps}
        for place, name in enumerate(_FIELDS):
            values = [_plain(points[step][place]) for step in steps]
            # Most calls cost 1, so "started" is mostly a copy of "used": it is left out then.
            is_copy = place == _STARTED and values == found["used"]
            if place == _USED or (any(values) and not is_copy):
                found[name] = values
        if not counts.per_key:
            limits, rates = counts.limits_over_time.pairs, counts.adaptive_rates.pairs
            pairs = allowed_over_time(limits, rates, unit)
            found["allowed"] = [[round(at, 3), rate] for at, rate in pairs]
        return found


class Recording:
    """The figures of all queues of a report or a run.

    Args:
        now: the instant at which it begins, on the clock of all other instants.
        began: the same instant in seconds since the epoch.
    """

    def __init__(self, *, now: float, began: float) -> None:
        self.now = now
        self.began = began
        self.series: TimeSeries[_SeriesKey] = TimeSeries(_FIELDS, began=now)
        self.unpaced = UnpacedTime(now=now)
        self.queues: dict[str, QueueRecord] = {}
        self.changes = ChangeHistory()
        self._lanes = 0
        self._left_out = False
        """Whether lanes have been left out."""

    def record(
        self,
        name: str,
        *,
        paced: bool,
        limits_of: Callable[[str | None], tuple[tuple[Limit, ...], bool]],
    ) -> QueueRecord:
        """Return the record of a queue, or the shared one if there are too many queues.

        The arguments are those of `QueueRecord`.
        """
        found = self.queues.get(name)
        if found is None:
            if len(self.queues) >= _MOST_QUEUES:
                # They have different limits, so their common record has none.
                name, paced, limits_of = _OTHERS, True, lambda _: ((), False)
                found = self.queues.get(name)
            if found is None:
                found = QueueRecord(self, name, paced=paced, limits_of=limits_of)
                self.queues[name] = found
        return found

    def reserve_lane(self) -> bool:
        """Return whether there is room for one more lane, and take it."""
        if self._lanes >= _MOST_LANES:
            self._left_out = True
            return False
        self._lanes += 1
        return True

    def as_json(self, now: float) -> dict[str, Any]:
        """Return all figures of the queues that were used. Times are in seconds.

        Args:
            now: the instant at which the recording ends.
        """
        seconds = now - self.now
        self.series.reach(now)  # first: it may change the numbers of all steps
        used = [one for one in self.queues.values() if one.is_used]
        found = [one.as_json(seconds) for one in used]
        # Paced queues first, then the busiest.
        found.sort(key=lambda one: (not one["paced"], -one["calls"], one["queue"]))
        return {
            "queues": found,
            "step_seconds": self.series.step,
            **self.changes.as_json(),
            "lanes_left_out": self._left_out,
            "times": self._times(used, seconds, now),
        }

    def _times(self, used: Sequence[QueueRecord], seconds: float, now: float) -> dict[str, Any]:
        """Return the duration, and estimates of it without pacing and with a fixed delay."""
        unpaced = min(seconds, self.unpaced.seconds(now))
        reached = [one for record in used for one in record.limits_reached()]
        rates = [limit_types.rate_of(one) for one in reached if limit_types.unit_of(one) == CALLS]
        # The fixed pause between calls that stays under the strictest limit of calls.
        delay = max((1 / rate for rate in rates), default=None)
        calls = sum(record.calls for record in used)
        return {
            "seconds": seconds,
            "unpaced": unpaced,
            "blanket_delay": delay,
            "blanket": None if delay is None else max(unpaced, calls * delay),
        }


def _plain(number: float) -> float:
    # Whole numbers without ".0", and no 0.30000000000000004: a page has thousands of numbers.
    return int(number) if number == int(number) else round(number, 6)
