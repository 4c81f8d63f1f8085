"""Converts the state of a limit to data for the hub's journal, and back.

Instants are kept on two clocks: the monotonic clock, which is exact until the machine restarts, and
the wall clock, for the time after that. A limit never takes longer to recover than when it was
written, so no call waits because the wall clock was set back.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aioapiqueue.spi import algorithms, cost_units, lane_states, limit_types, windows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from aioapiqueue import Limit

SHARE = 100
"""A window is written each time that a hundredth of it has been used, with about 100 entries."""
_SHARE_OF_BUDGET = 1000
"""The same for a budget, which never recovers what a crash costs."""
_FOREVER = 366 * 86_400.0
"""Seconds after which every limit has recovered, as no period is longer."""
Carried = tuple[Sequence[tuple[float, float]], float]
"""The charges that a limit starts with (instants and amounts), and how much more its predecessors
may have used."""


@dataclass(eq=False, slots=True)
class Record:
    """What the file contains about one limit of a quota, or of one of its lanes.

    Attributes:
        row: the key of its row.
        state: of the limit.
        bound: of a rate, the instant at which everything that may be used has recovered; of other
            limits, how much more may be used before the next write.
        is_long: whether the file is synchronized for it.
        replaced: whether another limit has replaced it and counts its charges.
    """

    row: tuple[str, str, str]
    state: algorithms.LimitState
    bound: float
    is_long: bool
    replaced: bool = False


class Clocks:
    """The machine's clocks at one instant.

    Args:
        now: that instant, on the hub's clock.
        of_calendars: converts an instant to seconds since the epoch, as calendars of the quota do.
            Default: `to_wall`.
    """

    def __init__(self, now: float, of_calendars: Callable[[float], float] | None = None) -> None:
        self.now = now
        self.of_calendars = of_calendars or self.to_wall
        self._wall = time.time()
        self.boot = _boot()

    def to_wall(self, at: float) -> float:
        """Convert an instant to seconds since the epoch."""
        if at == math.inf:
            return at
        # Bounded, as rows are deleted by it.
        return self._wall + min(_FOREVER, at - self.now)

    def both(self, at: float) -> list[float]:
        """Return an instant on both clocks."""
        return [at, self.to_wall(at)]

    def restored(self, both: Sequence[float], boot: str) -> float:
        """Return an instant that was written, on this hub's clock."""
        return both[0] if boot == self.boot else self.now + (both[1] - self._wall)


def _boot() -> str:
    """Return an id that changes when the machine restarts."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    return f"{time.time() - time.monotonic():.0f}"  # not Linux: changes with each step of the clock


def data_of(record: Record, clocks: Clocks, *, exact: bool) -> tuple[dict[str, Any], float]:
    """Return the data of a limit, and the instant at which it has recovered."""
    state, data = record.state, {"boot": clocks.boot, "at": clocks.both(clocks.now)}
    if isinstance(state, algorithms.TokenBucket):
        # After a failure the bound is -inf, until a call uses the limit.
        tat = state.tat if exact else max(record.bound, state.tat)
        return data | {"paid": clocks.both(max(tat, clocks.now - _FOREVER))}, tat
    if isinstance(state, windows.SlidingWindow):
        more = 0 if exact else max(1, math.floor(state.calls / SHARE))
        record.bound = more  # the next `Journal.note` counts down from here
        log = [[*clocks.both(at), cost] for at, cost in _coarse(state.log, state.calls)]
        return data | {"log": log, "more": more}, clocks.now + state.per
    if state.lasts:
        spent = _spent(state, clocks.now)
        more = 0 if exact else math.floor((spent + state.room(clocks.now)) / _SHARE_OF_BUDGET)
        record.bound = more
        return data | {"spent": spent, "more": more}, math.inf
    assert isinstance(state, windows.CalendarWindow)  # noqa: S101 - `Journal.adopt` makes no other records
    more = 0 if exact else max(1, math.floor(state.calendar.calls / SHARE))
    record.bound = more
    period = [state.start_wall, state.end_wall]
    return data | {"period": period, "used": state.used, "more": more}, state.end


def _spent(state: algorithms.LimitState, now: float) -> float:
    """Return what is spent of a budget."""
    return sum(amount for _, amount in state.charges(now))


def _coarse(log: Iterable[Sequence[float]], calls: float) -> list[list[float]]:
    """Return a window's log with fewer entries, each at the latest instant that it combines."""
    coarse: list[list[float]] = []
    for at, cost in log:
        if coarse and coarse[-1][1] + cost <= calls / SHARE:
            # At the later instant: an entry may leave the window too late, but never too early.
            coarse[-1] = [at, coarse[-1][1] + cost]
        else:
            coarse.append([at, cost])
    return coarse


def restart(state: algorithms.LimitState, now: float) -> None:
    """Set a limit to unused."""
    # In place: lanes, calls and records refer to this object.
    if isinstance(state, algorithms.TokenBucket):
        state.restart(-math.inf, 0)
        state.last = state.full_at = -math.inf
        state.peaks = state.overs = None
    elif isinstance(state, windows.SlidingWindow):
        state.log.clear()
        state.total = 0
    elif isinstance(state, windows.CalendarWindow):
        state.used = 0
    elif state.lasts:
        state.forget_spent(now)


def carried_to(
    former: Mapping[str, str], kept: Mapping[str, str], in_force: Sequence[Limit], clocks: Clocks
) -> Mapping[Limit, Carried]:
    """Return the charges with which limits start if they replace others, as after `set_rate`.

    Args:
        former: the data of limits that are no longer in force, by their texts.
        kept: the data of limits that still are.
        in_force: the limits in force.
        clocks: the machine's, at the present instant.
    """
    units = cost_units.Units()
    old: list[algorithms.LimitState] = []
    maker = lane_states.StateMaker(units, catch_up=0, to_wall=clocks.of_calendars)
    units.declare(unit for unit in map(limit_types.unit_of, in_force) if unit is not None)
    ahead: dict[int, float] = {}
    for rule, text in (*former.items(), *kept.items()):
        # Malformed data of one limit is ignored: it must not keep the others from being read.
        with contextlib.suppress(ValueError, TypeError, LookupError):
            limit, data = limit_types.as_limit(rule), json.loads(text)
            units.declare(unit for unit in (limit_types.unit_of(limit),) if unit is not None)
            (state,) = maker.states_of((limit,))
            restore(state, data | {"more": 0}, clocks)  # `more` is returned by itself
            old.append(state)
            if rule in former:
                ahead[state.unit] = max(ahead.get(state.unit, 0), float(data.get("more", 0)))
    # As `set_rate` does it in a running queue.
    states = maker.changed(old, in_force, clocks.now, {})
    return {
        limit: (state.charges(clocks.now), ahead.get(state.unit, 0))
        for limit, state in zip(in_force, states, strict=True)
    }


def take_over(state: algorithms.LimitState, carried: Carried, now: float) -> None:
    """Charge a state with what the limits that it replaces have used, or may have used."""
    charges, more = carried
    # `more` may have been used. It can use the limit up, but puts a rate in debt by at most a
    # hundredth of its burst: a rate may need hours to recover a hundredth of a daily window.
    state.take_over([*charges, (now, more)], now, beside=True)
    if isinstance(state, algorithms.TokenBucket):
        more = min(more, max(1, state.burst / SHARE))
    state.take_over([*charges, (now, more)], now)


def restore(state: algorithms.LimitState, data: dict[str, Any], clocks: Clocks) -> None:
    """Charge a state with what was used, or may have been."""
    boot = data["boot"]
    # No recovery takes longer than it did when written, however the wall clock was set since.
    since = min(clocks.now, clocks.restored(data["at"], boot))

    def restored(both: Sequence[float]) -> float:
        lead = both[1] - data["at"][1]
        return (
            min(clocks.restored(both, boot), clocks.now + lead)
            if lead > 0
            else min(clocks.now, clocks.restored(both, boot))
        )

    if isinstance(state, algorithms.TokenBucket):
        paid = restored(data["paid"])
        if paid > max(clocks.now, state.tat):  # else it has recovered, or has used more since
            state.restart(paid, 0)
            state.last = max(since, state.last)
        return
    more = float(data["more"])
    if isinstance(state, windows.SlidingWindow):
        log = [(restored(both), float(cost)) for *both, cost in data["log"]]
        if more:  # perhaps used until this very moment
            log.append((clocks.now, more))
        state.take_over(log, clocks.now)
    elif state.lasts:
        state.take_over([(clocks.now, float(data["spent"]) + more)], clocks.now)
    elif isinstance(state, windows.CalendarWindow):
        start, end = map(float, data["period"])
        used = float(data["used"]) + more
        state.advance(clocks.now)
        if end >= state.end_wall:  # a later period had begun before the clock was set back
            state.used = max(used, state.used if end == state.end_wall else 0)
            state.start_wall, state.end_wall = start, end
            state.advance(clocks.now)
