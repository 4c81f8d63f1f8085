"""Figures of queues for a report: counts, waits, use over time, and what changed when.

An observer of queues, or the run hub, reports each call to a `Recording`. Nothing here reads a
clock. Memory is bounded for any duration and any number of calls.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from aioapiqueue import Budget, Calendar, Concurrency
from aioapiqueue.recording._budgets import uses_of
from aioapiqueue.recording._changes import ChangeHistory, QueueChange
from aioapiqueue.recording._counts import FIELDS, TALLIES, CallTotals, added_up
from aioapiqueue.recording._rates import OverTime, allowed_over_time, most_in
from aioapiqueue.recording._series import TimeSeries
from aioapiqueue.recording._unpaced import UnpacedTime
from aioapiqueue.spi import CALLS, limit_types

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from aioapiqueue import Event, Limit
    from aioapiqueue.recording._budgets import LimitUses, ReadLimiter
    from aioapiqueue.recording._counts import Tally
    from aioapiqueue.recording._series import Points
    from aioapiqueue.spi import seam

_USED, _STARTED, _WAITED = range(3)
"""The indices of these fields in a point."""
_DELAY = 0.010
"""Seconds; a shorter wait is only the way to the queue or to a hub."""
_MOST_LANE_SETS = 10_000
"""Most sets of lanes, of all queues together, whose calls are counted by lane: some 20 MB."""
_MOST_QUEUES = 2_000
"""Most queues that have a record of their own; all others share one."""
_OTHERS = "all other queues"
_LEAST_EXTENSION = 1.0
"""Seconds by which a hold must extend the last one to be noted.

A server throttles many calls at once, each with the same retry time: that is one hold.
"""


LimitsOf: TypeAlias = "Callable[[str], tuple[tuple[Limit, ...], bool]]"
"""Returns the limits of a lane, and whether each of several keys has such limits of its own."""


def no_limits(_: str) -> tuple[tuple[Limit, ...], bool]:
    """Return that a lane has no limits."""
    return (), False


@dataclass(slots=True)
class LaneLimits:
    """The limits of a queue or of one of its lanes.

    Attributes:
        limits: the limits in force.
        per_key: whether each key has such limits of its own. The counts are of all keys together.
        over_time: the limits in force from each instant on.
        adaptive_rates: the calls a second that `Adaptive` allowed from each instant on; inf: no
            fewer than the limits.
    """

    limits: tuple[Limit, ...]
    per_key: bool
    over_time: OverTime[tuple[Limit, ...]]
    adaptive_rates: OverTime[float] = field(default_factory=OverTime)

    def units(self, used: Mapping[str, float]) -> list[str]:
        """Return the units that calls used or limits count, "calls" first."""
        limited = [limit.unit for limit in self.limits if not isinstance(limit, Concurrency)]
        return list(dict.fromkeys([CALLS, *used, *limited]))

    def shares(
        self, used: Mapping[str, float], seconds: float, began: float
    ) -> Iterator[tuple[float, str]]:
        """Yield the share of each limit that was used, with the text of the limit.

        Args:
            used: the units that were used.
            seconds: the duration of the recording.
            began: when it began, in seconds since the epoch.
        """
        # If each key has its own limit, or the limit has changed, its share is not known.
        if self.per_key or len(self.over_time.pairs) > 1:
            return
        for limit in self.limits:
            most = most_in(limit, seconds, began)
            if most is not None and not isinstance(limit, Concurrency):
                yield used.get(limit.unit, 0) / most, str(limit)


class QueueRecord:
    """The calls of one queue, by kind, and its limits.

    Args:
        recording: the recording that the queue is part of.
        name: the name of the queue.
        paced: whether its calls wait.
        limits: the limits of all of its calls.
        permanent: those of them that no event changes.

    Attributes:
        prices: the source of the prices of its calls; empty: none is known.
    """

    def __init__(
        self,
        recording: Recording,
        name: str,
        *,
        paced: bool,
        limits: tuple[Limit, ...],
        permanent: tuple[Limit, ...] = (),
    ) -> None:
        self.name = name
        self.paced = paced
        self.prices = ""
        self._recording = recording
        self._permanent = permanent
        self._is_common = name == _OTHERS
        self._is_adaptive_active = False
        self._read: ReadLimiter | None = None
        """Reads the use of budgets; None: no limit is a budget, or of a calendar period."""
        self._sampled_at = -math.inf
        self._held_until: dict[str | None, float] = {}
        """The end of the latest noted hold of each lane, or (None) of the queue."""
        self._whole = LaneLimits(limits, per_key=False, over_time=OverTime(limits))
        self._limits: dict[str | None, LaneLimits] = {None: self._whole}
        """The limits of the queue (None) and of each lane that has been used or changed."""
        self._kinds: list[tuple[tuple[str, ...], CallTotals]] = []
        """The lanes of each kind of calls, and their counts."""
        self._by_lanes: dict[tuple[str, ...], CallTotals] = {}

    def add(
        self, counts: CallTotals, lanes: tuple[str, ...], limits_of: LimitsOf = no_limits
    ) -> None:
        """Add the counts of one kind of calls. All of its calls have these lanes."""
        for lane in lanes:
            if lane not in self._limits:
                limits, per_key = no_limits(lane) if self._is_common else limits_of(lane)
                self._limits[lane] = LaneLimits(limits, per_key, OverTime(limits))
        self._kinds.append((lanes, counts))

    def counts_of(self, lanes: tuple[str, ...] = (), limits_of: LimitsOf = no_limits) -> CallTotals:
        """Return the counts of all calls with these lanes, if the caller counts no other kinds.

        Beyond 10,000 sets of lanes in all queues, calls with further ones count in no lane.
        """
        found = self._by_lanes.get(lanes)
        if found is None:
            if lanes and not self._recording.has_room_for_lanes():
                return self.counts_of()
            found = self._by_lanes[lanes] = CallTotals()
            self.add(found, lanes, limits_of)
        return found

    def find_budgets(self, limits: Iterable[Limit], read: ReadLimiter) -> None:
        """Show how much is used of budgets and calendar limits, if there is one among `limits`.

        It is read when the figures are: `read` keeps the queue in memory until then.
        """
        # The common record would show the budgets of one of its queues as those of all.
        if not self._is_common and any(isinstance(one, Budget | Calendar) for one in limits):
            self._read = read

    @property
    def has_budget(self) -> bool:
        """Whether a limit that applied to some call is a `Budget`."""
        known = (limit for lane in self._limits.values() for limit in lane.limits)
        return any(isinstance(limit, Budget) for limit in known)

    def budgets(self) -> Iterator[tuple[str | None, LimitUses]]:
        """Yield each lane with such limits, or (None) the queue, and how much of them is used now.

        A lane whose keys have limits of their own is left out.
        """
        if self._read is not None:
            for lane, limits in self._limits.items():
                figures = None if limits.per_key else self._read(lane)
                if figures is not None and (uses := uses_of(figures)):
                    yield lane, uses

    def changed(self, event: Event, lane: str | None, *, of_key: bool = False) -> None:
        """Note an event that made the queue faster or slower, or announces it.

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
            if len(self._held_until) < _MOST_LANE_SETS or lane in self._held_until:
                self._held_until[lane] = at + seconds
        what = kind, event.limits, event.origin, event.rate, seconds, event.share
        self._recording.changes.note(QueueChange(at, self.name, lane, *what))
        # The figures of a lane are those of all its keys together, and those of the common record
        # are of all its queues.
        if of_key or self._is_common:
            return
        if kind == "limits_changed" and lane in self._limits:
            limits = event.limits if lane is not None else (*event.limits, *self._permanent)
            self._limits[lane].limits = limits
            self._limits[lane].over_time.note(at, limits)
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

    def limits_of(self, lane: str | None) -> tuple[Limit, ...]:
        """Return the limits of the queue (None) or of a lane that has been used."""
        return self._limits[lane].limits

    def limits_reached(self) -> Iterator[Limit]:
        """Yield the limits that applied to some call."""
        used = {lane for lanes, counts in self._kinds if counts.calls for lane in lanes}
        for lane in (None, *used):
            yield from self._limits[lane].limits

    def as_json(self, seconds: float) -> dict[str, Any]:
        """Return all figures.

        Args:
            seconds: the duration of the recording.
        """
        kinds: dict[str | None, list[CallTotals]] = {lane: [] for lane in self._limits}
        for lanes, counts in self._kinds:
            for lane in (None, *lanes):
                kinds[lane].append(counts)
        sums = {lane: added_up(each) for lane, each in kinds.items()}
        busiest = sorted(
            ((lane, counts) for lane, counts in sums.items() if lane is not None),
            key=lambda one: (-one[1].calls, one[0]),
        )
        shares: list[dict[str, Any]] = [
            {"share": share, "limit": limit, "lane": lane}
            for lane, counts in ((None, sums[None]), *busiest)
            for share, limit in self._limits[lane].shares(
                counts.used, seconds, self._recording.began
            )
        ]
        uses = dict(self.budgets())
        return {
            "queue": self.name,
            "paced": self.paced,
            **self._figures(None, sums[None], uses.get(None)),
            "tightest": max(shares, key=lambda one: one["share"], default=None),
            **({"prices": self.prices} if self.prices else {}),
            "lanes": [
                {"lane": lane, **self._figures(lane, counts, uses.get(lane))}
                for lane, counts in busiest
            ],
        }

    def _figures(
        self, lane: str | None, counts: CallTotals, uses: LimitUses | None
    ) -> dict[str, Any]:
        limits = self._limits[lane]
        return {
            "limits": [str(limit) for limit in limits.limits],
            "limits_of_each_key": limits.per_key,
            **({"budgets": uses} if uses else {}),
            "calls": counts.calls,
            "used": {unit: _plain(amount) for unit, amount in counts.used.items()},
            "waited": counts.waited,
            "waits": counts.wait_times.as_json(),
            **{name: getattr(counts, name) for name in TALLIES},
            "time_series": [
                _series(counts.over_time.get(unit, {}), limits, unit)
                for unit in limits.units(counts.used)
            ],
        }


def _series(points: Points, limits: LaneLimits, unit: str) -> dict[str, Any]:
    """Return the counts of each step that has any, and the rate allowed over time."""
    steps = sorted(points)
    found: dict[str, Any] = {"unit": unit, "steps": steps}
    for place, name in enumerate(FIELDS):
        values = [_plain(points[step][place]) for step in steps]
        # Most calls cost 1, so "started" is mostly a copy of "used": it is left out then.
        is_copy = place == _STARTED and values == found["used"]
        if place == _USED or (any(values) and not is_copy):
            found[name] = values
    if not limits.per_key:
        pairs = allowed_over_time(limits.over_time.pairs, limits.adaptive_rates.pairs, unit)
        found["allowed"] = [[round(at, 3), rate] for at, rate in pairs]
    return found


class Recording:
    """The figures of all queues of a report or a run.

    Args:
        now: the instant at which it begins, on the clock of all other instants.
        began: the same instant in seconds since the epoch.
    """

    def __init__(self, *, now: float, began: float) -> None:
        self.queues: dict[str, QueueRecord] = {}
        self.changes = ChangeHistory()
        self.series = TimeSeries(len(FIELDS), began=now)
        self._lane_sets = 0
        """Number of sets of lanes that have been given counts."""
        self.lanes_left_out = False
        """Whether there are calls whose lanes are not known."""
        self.begin(now=now, began=began)

    def begin(self, *, now: float, began: float) -> None:
        """Move the beginning, before any call is counted. The arguments are those of the class."""
        self.now = self.series.began = now
        self.began = began
        self.unpaced = UnpacedTime(now=now)

    def started(
        self, counts: CallTotals, costs: Mapping[str, float], waited: float, now: float
    ) -> None:
        """Count a call that starts."""
        counts.wait_times.add(waited)
        counts.waits += waited >= _DELAY
        point = self._point(counts, CALLS, now)
        # `costs` lists calls first, so `point` is used up before the next one, which may double the
        # step and drop this list.
        point[_STARTED] += 1
        point[_WAITED] += waited
        for unit, cost in costs.items():
            counts.used[unit] = counts.used.get(unit, 0) + cost
            if unit == CALLS:
                point[_USED] += cost
            elif cost:
                self._point(counts, unit, now)[_USED] += cost

    def used(self, counts: CallTotals, costs: Mapping[str, float], now: float) -> None:
        """Add to the units that calls have used; a negative amount takes back an excess."""
        for unit, cost in costs.items():
            counts.used[unit] = counts.used.get(unit, 0) + cost
            if cost:
                self._point(counts, unit, now)[_USED] += cost

    def not_started(
        self, counts: CallTotals, costs: Mapping[str, float], waited: float, at: float
    ) -> None:
        """Take back a call that was counted as started at `at`, but was not sent after all."""
        counts.wait_times.remove(waited)
        counts.waits -= waited >= _DELAY
        # Subtracted where it was added: another step could fall below 0.
        point = self._point(counts, CALLS, at)
        point[_STARTED] -= 1
        point[_WAITED] -= waited
        self.used(counts, {unit: -cost for unit, cost in costs.items()}, at)

    def tally(self, counts: CallTotals, name: Tally, now: float) -> None:
        """Count what happened to a call."""
        setattr(counts, name, getattr(counts, name) + 1)
        if name in FIELDS:  # cancelled calls have no time series
            self._point(counts, CALLS, now)[FIELDS.index(name)] += 1

    def _point(self, counts: CallTotals, unit: str, now: float) -> list[float]:
        series = counts.over_time.get(unit)
        if series is None:
            series = counts.over_time[unit] = self.series.new()
        return self.series.point(series, now)

    def record(
        self,
        name: str,
        *,
        paced: bool,
        limits: tuple[Limit, ...] = (),
        permanent: tuple[Limit, ...] = (),
    ) -> QueueRecord:
        """Return the record of a queue, or the shared one if there are too many queues.

        The arguments are those of `QueueRecord`.
        """
        found = self.queues.get(name)
        if found is None:
            if len(self.queues) >= _MOST_QUEUES:
                # They have different limits, so their common record has none.
                name, paced, limits, permanent = _OTHERS, True, (), ()
                found = self.queues.get(name)
            if found is None:
                found = QueueRecord(self, name, paced=paced, limits=limits, permanent=permanent)
                self.queues[name] = found
        return found

    def has_room_for_lanes(self) -> bool:
        """Return whether there is room for one more set of lanes, and take it."""
        self._lane_sets += 1
        self.lanes_left_out |= self._lane_sets > _MOST_LANE_SETS
        return self._lane_sets <= _MOST_LANE_SETS

    def as_json(self, now: float) -> dict[str, Any]:
        """Return all figures of the queues that were used. Times are in seconds.

        Args:
            now: the instant at which the recording ends.
        """
        seconds = now - self.now
        self.series.reach(now)  # first: it may change the numbers of all steps
        found = [one.as_json(seconds) for one in self.queues.values()]
        found = [one for one in found if any(one[name] for name in ("calls", *TALLIES))]
        # Paced queues first, then the busiest.
        found.sort(key=lambda one: (not one["paced"], -one["calls"], one["queue"]))
        return {
            "queues": found,
            "step_seconds": self.series.step,
            **self.changes.as_json(),
            "lanes_left_out": self.lanes_left_out,
            "times": self._times(found, seconds, now),
        }

    def _times(
        self, used: Sequence[Mapping[str, Any]], seconds: float, now: float
    ) -> dict[str, Any]:
        """Return the duration, and estimates of it without pacing and with a fixed delay."""
        unpaced = min(seconds, self.unpaced.seconds(now))
        records = [self.queues[one["queue"]] for one in used]
        reached = [one for record in records for one in record.limits_reached()]
        rates = [limit_types.rate_of(one) for one in reached if limit_types.unit_of(one) == CALLS]
        # The fixed pause between calls that stays under the strictest limit of calls. No pause
        # stays under a budget.
        delay = max((1 / rate for rate in rates if rate < math.inf), default=None)
        calls = sum(one["calls"] for one in used)
        return {
            "seconds": seconds,
            "unpaced": unpaced,
            "blanket_delay": delay,
            "blanket": None if delay is None else max(unpaced, calls * delay),
        }


def _plain(number: float) -> float:
    # Whole numbers without ".0", and no 0.30000000000000004: a page has thousands of numbers.
    return int(number) if number == int(number) else round(number, 6)
