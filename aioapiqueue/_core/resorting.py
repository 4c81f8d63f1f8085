"""Keeps waiting calls in the lines of the limits that apply to them, also when limits change.

A new line registers with its limits, and with the scheduler if there are several lines. When limits
change, lanes are updated and all waiting calls are sorted again, as many in one step as there is
time for; no call starts before all are sorted. If only one lane has changed, only its lines are
sorted.
"""

from __future__ import annotations

from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING

from aioapiqueue._core.scheduler import BUDGET, Scheduler
from aioapiqueue._core.wait_lists import add_line, lines_under, remove_line
from aioapiqueue._limits.lanes import fits

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Sequence

    from aioapiqueue._core.limiter import Host
    from aioapiqueue._core.slot import Call
    from aioapiqueue._core.wait_queue import Line
    from aioapiqueue._limits.algorithms import LimitState
    from aioapiqueue._limits.lanes import Lane, Lanes

__all__ = ["Sorter"]

_QUICK = 8
"""So many of what takes a microsecond or two are one look, of what the budget of a step counts."""


class Sorter:
    """Keeps the lines of one wait queue.

    Args:
        host: whose wait queue it is.
        lanes: which calls come under.
        own: returns the queue's own limits.
        limits_of: returns the limits of a line.
        find_limits: finds again what a call that waits comes under, and notes it in the call.
    """

    __slots__ = (
        "_find_limits",
        "_lanes",
        "_outdated",
        "_own",
        "_partial",
        "_steps",
        "_waiters",
        "scheduler",
    )

    def __init__(
        self,
        host: Host,
        lanes: Lanes,
        *,
        own: Callable[[], Sequence[LimitState]],
        limits_of: Callable[[Line[Call]], Sequence[LimitState]],
        find_limits: Callable[[Call, float], object],
    ) -> None:
        self._waiters = host.waiters
        self._lanes = lanes
        self._own = own
        self._find_limits = find_limits
        self.scheduler = Scheduler(
            host.waiters,
            limits_of=limits_of,
            own=self._unreserved,
            grant=host.grant,
            on_end=self.drop,
        )
        """Says which line is next, where there is more than one."""
        self._partial = 0
        """How many lines do not come under all of the queue's own limits."""
        self._outdated: dict[Hashable, None] = {}
        """Keys whose lanes may have other limits by now."""
        self._steps: Iterator[None] | None = None
        """The sorting of all who wait, while it is under way."""

    @property
    def is_sorting(self) -> bool:
        """Whether all who wait are being sorted again."""
        return self._steps is not None

    @property
    def is_settled(self) -> bool:
        """Whether all who wait are in the lines of what they come under."""
        return not (self._outdated or self._steps or self._lanes.states_replaced)

    def _unreserved(self) -> Sequence[LimitState]:
        """Return the limits that all calls come under: the first by rank is the next there."""
        return () if self._partial else self._own()

    # One line.

    def note(self, line: Line[Call], now: float) -> None:
        """Note a line that is new, or that may have another first."""
        if not line.counted:
            line.counted = True
            if line.limits is not None:
                add_line(line)
                line.partial = not set(self._own()).issubset(line.limits)
                self._partial += line.partial
        if self.scheduler.active:
            self.scheduler.joined(line, now)
        elif len(self._waiters.lines) > 1:
            self.schedule(now)

    def schedule(self, now: float) -> None:
        """Have the scheduler say which line is next, from now on."""
        if not self.scheduler.active:
            self.scheduler.begin()
            for line in list(self._waiters.lines.values()):
                self.scheduler.joined(line, now)

    def drop(self, line: Line[Call]) -> None:
        """Note that nobody is left in a line."""
        if line.counted:
            line.counted = False
            if line.limits is not None:
                remove_line(line)
                self._partial -= line.partial
        if not self._waiters.live:
            self.scheduler.end()
            self._steps = None
            self._waiters.end_sorting()

    # The lines of one lane.

    def lines_in(self, lane: Lane) -> list[Line[Call]]:
        """Return the lines of those who come under a lane."""
        return list(dict.fromkeys(line for one in lane.all_states() for line in lines_under(one)))

    def sort_lines_again(self, lines: Sequence[Line[Call]], now: float) -> None:
        """Sort those of these lines again: their lane has other states."""
        if self._steps is not None or sum(line.live for line in lines) > BUDGET:
            self._lanes.states_replaced = True  # all of them, step by step
            return
        waiting: list[Call] = []
        for line in lines:
            self.scheduler.close(line)
            waiting += self._waiters.dissolve(line)
            self.drop(line)
        changed: dict[Line[Call], None] = {}
        for call in sorted(waiting, key=attrgetter("arrival")):  # of two lines, one may come
            self._find_limits(call, now)
            self._waiters.put_back(call)
            changed[call.line] = None
        for line in changed:
            self.note(line, now)

    # All of them.

    def outdate(self, keys: Iterable[Hashable]) -> None:
        """Note that the lanes of these keys may have other limits by now."""
        self._outdated.update(dict.fromkeys(keys))

    def refresh_lanes(self, now: float) -> bool:
        """Bring as many lanes up to date as one step has time for.

        Returns:
            Whether all are, and have other states, so that it has sorted who waits.
        """
        for key in list(islice(self._outdated, BUDGET)):
            del self._outdated[key]
            for state in self._lanes.refresh(key):
                self.scheduler.changed(state)
        if self._outdated or not self._lanes.states_replaced:
            return False
        self._lanes.states_replaced = False  # once, as it looks at all
        self.sort_again(now)
        return True

    def sort_again(self, now: float, key: Hashable = None) -> None:
        """Sort all who wait into lines again: they may come under other limits.

        Args:
            now: the present instant.
            key: only if one of them has this key, or one that fits this pattern; None: in any case.
        """
        if self._waiters.live:
            self._steps = self._sort(now, None if self._steps is not None else key)
            self._take_steps(self._steps)

    def go_on(self, now: float) -> bool:
        """Bring as many lanes up to date, and sort as many, as one step has time for.

        Returns:
            Whether that were all.
        """
        if not self.refresh_lanes(now) and self._steps is not None and not self._outdated:
            self._take_steps(self._steps)
        return not (self._outdated or self._steps)

    def _take_steps(self, steps: Iterator[None]) -> None:
        """Sort as many as one step has time for: nobody starts until all are."""
        for _ in islice(steps, BUDGET):
            pass
        if next(steps, self) is self:
            self._steps = None

    def _sort(self, now: float, key: Hashable) -> Iterator[None]:
        """As `sort_again`; what one look takes lies between two of those that it yields."""
        waiters, scheduler = self._waiters, self.scheduler
        if key is not None and not (yield from self._has(key)):
            return
        unsorted = waiters.begin_sorting()
        for line in unsorted.former:
            scheduler.close(line)
            self.drop(line)
            yield
        scheduler.end()
        for line in unsorted.former:
            for number, _ in enumerate(unsorted.take_out(line)):
                if number % _QUICK == 0:
                    yield
        for call in iter(unsorted.next, None):
            self._find_limits(call, now)
            waiters.sort_in(call)
            yield
        waiters.end_sorting()
        if len(waiters.lines) > 1:
            scheduler.begin()
        for line in list(waiters.lines.values()):
            if line.live:  # else all have left meanwhile
                self.note(line, now)
            yield

    def _has(self, key: Hashable) -> Generator[None, None, bool]:
        """Return whether somebody waits who has this key, or one that fits this pattern."""
        for number, call in enumerate(self._waiters):
            if any(fits(key, one) for one in call.keys):
                return True
            if number % _QUICK == 0:
                yield
        return False
