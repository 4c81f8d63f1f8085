"""Who goes next: an `asyncio.Queue` of waiting slots by priority, lane and turn. Knows no clock."""

from __future__ import annotations

import asyncio
from collections import deque
from heapq import heapify, heappop, heappush, heapreplace
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Container, Hashable, Iterator

    from aioapiqueue._slot import Slot

__all__ = ["SHARED", "KeyQueue", "Rank", "WaitQueue"]

Rank = tuple[float, float]
"""Priority, and place among those of that priority: who has the least goes first."""


class KeyQueue:
    """The waiters of one lane, by priority, then by arrival.

    Whoever leaves early stays in its deque until it is met or the dead are the majority, so that
    leaving costs no search.
    """

    __slots__ = ("entry", "key", "levels", "live", "order", "parked", "round_position", "size")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.levels: dict[float, deque[Slot]] = {}
        self.order: list[float] = []
        """A heap of the priorities in `levels`."""
        self.live = 0
        self.size = 0
        self.entry: tuple[float, int, KeyQueue] | None = None
        """The line's place among the ready; another entry of it that is met there is stale."""
        self.parked: float | None = None
        self.round_position = 0
        """With `fair`, its place in the round."""

    def __lt__(self, other: KeyQueue) -> bool:
        return False  # only entries of one and the same line, one of them stale, ever tie

    def put(self, waiter: Slot) -> bool:
        """Add `waiter` behind those of its priority; return whether there are none."""
        level = self.levels.get(waiter.priority)
        if level is None:
            level = self.levels[waiter.priority] = deque()
            heappush(self.order, waiter.priority)
        level.append(waiter)
        self.live += 1
        self.size += 1
        return len(level) == 1

    def first(self) -> Slot | None:
        """Return who is next, forgetting on the way whoever left; None if nobody waits."""
        while self.order:
            level = self.levels[self.order[0]]
            while level:
                waiter = level[0]
                if not waiter._future.done():  # all who left have a future that is done
                    return waiter
                level.popleft()
                self.size -= 1
            del self.levels[heappop(self.order)]
        return None

    def pop(self) -> None:
        """Take away the one that `first` returned."""
        self.levels[self.order[0]].popleft()
        self.live -= 1
        self.size -= 1

    def leave(self) -> None:
        """Note that somebody has left early."""
        self.live -= 1
        if self.size > 2 * self.live + 32:
            kept = {p: deque(w for w in level if w.waits) for p, level in self.levels.items()}
            self.levels = {p: level for p, level in kept.items() if level}
            self.order = list(self.levels)
            heapify(self.order)
            self.size = sum(map(len, self.levels.values()))

    def __iter__(self) -> Iterator[Slot]:
        """All who wait, in their order."""
        for priority in sorted(self.order):
            yield from (waiter for waiter in self.levels[priority] if waiter.waits)

    def oldest_of_least_urgent(self) -> Slot | None:
        """Return who loses a place to somebody more urgent; None if nobody waits."""
        for priority in sorted(self.order, reverse=True):
            for waiter in self.levels[priority]:
                if waiter.waits:
                    return waiter
        return None


SHARED = object()
"""The key of the line of those without one of their own."""
_ROUND = 2**60
"""More than any turn is: a place in a round is its number times this, and the turn."""


class WaitQueue(asyncio.Queue["Slot"]):
    """All who wait, in lines; the next is the first of the line whose turn it is.

    Most share one line. A key with limits of its own has its own, so that a slow lane blocks
    nobody else: a line whose lane is not due is parked. With `fair` every key has its own, and
    a line that has had its turn goes to the end of the round.

    Args:
        changed: called when somebody becomes the first of a line.
        fair: take turns by key instead of going by arrival.
        ranked: keep what `oldest_of_least_urgent` needs.
    """

    def __init__(
        self, changed: Callable[[], None], *, fair: bool = False, ranked: bool = False
    ) -> None:
        self.changed = changed
        self.fair = fair
        self.lanes: Container[Hashable] = ()
        """The keys with limits of their own."""
        self.key_queues: dict[Hashable, KeyQueue] = {}
        self.live = 0
        """How many wait."""
        self.cost: float = 0
        """What they will cost together."""
        self.keeps_round = False
        """With `fair`, a line that was parked has the place in the round that it had before."""
        self._ready: list[tuple[float, int, KeyQueue]] = []
        """A heap of (priority, arrival or turn, line). An entry may rank its line too early,
        never too late: whoever is met at the top is checked there."""
        self._parked: list[tuple[float, int, KeyQueue]] = []
        """A heap of (until, turn, line)."""
        self._count = 0
        self._everybody = KeyQueue(None) if ranked else None
        super().__init__()

    def empty_copy(self) -> WaitQueue:
        """Return an empty one of the same kind."""
        return WaitQueue(self.changed, fair=self.fair, ranked=self._everybody is not None)

    def _init(self, maxsize: int) -> None:
        """Make no container: the lines are it."""

    def qsize(self) -> int:
        """Return how many wait."""
        return self.live

    def empty(self) -> bool:
        """Return whether nobody waits."""
        return not self.live

    def put_nowait(self, item: Slot) -> None:
        """Let `item` wait; called for every caller, so without what a blocking `get` would need."""
        key = item.key if self.fair or item.key in self.lanes else SHARED
        line = self.key_queues.get(key)
        if line is None:
            line = self.key_queues[key] = KeyQueue(key)
        item.sequence = self._count = self._count + 1
        item.line = line
        alone = line.put(item)
        if self._everybody is not None:
            self._everybody.put(item)
        self.live += 1
        self.cost += item.cost
        if line.entry is None:
            # In a parked line a new first may be due sooner (it may cost less).
            if line.parked is None or line.first() is item:
                self._enter(line, item)
        elif alone and line.first() is item:  # the entry may be that of one who has gone
            self._enter(line, item)

    def get_nowait(self) -> Slot:
        """Take away and return who is next.

        Raises:
            asyncio.QueueEmpty: nobody is, or only in parked lines.
        """
        waiter = self.first()
        if waiter is None:
            raise asyncio.QueueEmpty
        self.pop(waiter)
        return waiter

    def first(self) -> Slot | None:
        """Return who is next among the lines that are not parked; None if nobody is."""
        ready = self._ready
        while ready:
            priority, rank, line = entry = ready[0]
            if line.entry is not entry:
                heappop(ready)
                continue
            waiter = line.first()
            if waiter is None:
                heappop(ready)
                line.entry = None
                del self.key_queues[line.key]
            elif len(ready) > 1 and (
                waiter.priority != priority if self.fair else waiter.sequence != rank
            ):
                line.entry = (waiter.priority, rank if self.fair else waiter.sequence, line)
                heapreplace(ready, line.entry)
            else:
                return waiter
        return None

    def pop(self, waiter: Slot) -> None:
        """Take away the one that `first` has just returned."""
        line = waiter.line
        if line is None:
            return
        line.pop()
        waiter.line = None
        self.live -= 1
        self.cost = self.cost - waiter.cost if self.live else 0
        if self._everybody is not None:
            self._everybody.leave()
        if self.fair:  # to the end of the round
            heappop(self._ready)
            line.entry, line.round_position = None, 0
            after = line.first()
            if after is None:
                del self.key_queues[line.key]
            else:
                self._enter(line, after)

    def leave(self, waiter: Slot) -> None:
        """Take out a waiter that no longer wants its turn."""
        line = waiter.line
        if line is None:
            return
        waiter.line = None
        line.leave()
        self._gone(waiter)
        if line.parked is not None:  # its next may be due sooner, or there is none
            self._unpark(line)

    def park(self, until: float) -> None:
        """Set the line of the first aside, until `wake` is told that `until` has come."""
        line = heappop(self._ready)[2]
        line.entry = None
        line.parked = until
        self._count += 1
        heappush(self._parked, (until, self._count, line))

    def wake(self, now: float) -> float | None:
        """Let go the lines parked until `now`; return when the next one is to be let go."""
        parked = self._parked
        while parked:
            until, _, line = parked[0]
            if line.parked != until:
                heappop(parked)
            elif until <= now:
                heappop(parked)
                self._unpark(line)
            else:
                return until
        return None

    def wake_key(self, key: Hashable) -> None:
        """Release the parked line of one key, if it has one: what was due there has changed."""
        line = self.key_queues.get(key)
        if line is not None and line.parked is not None:
            self._unpark(line)

    def wake_keyless(self) -> None:
        """Release the parked line of the keys without limits; with `fair`, each has its own."""
        if self.fair:
            self.wake_all()
        else:
            self.wake_key(SHARED)

    def wake_all(self) -> None:
        """Let go every parked line: what was due has changed."""
        for line in list(self.key_queues.values()):
            if line.parked is not None:
                self._unpark(line)

    def rebuild(self) -> None:
        """Sort all who wait into lines anew: which keys have their own has changed."""
        waiting = sorted(self, key=lambda waiter: waiter.sequence)
        if self._everybody is not None:
            self._everybody = KeyQueue(None)
        self.key_queues.clear()  # in place: the lanes know it
        self._ready, self._parked, self.live, self.cost = [], [], 0, 0
        for waiter in waiting:
            self.put_nowait(waiter)

    def rank(self, key: Hashable, behind: int = 0) -> Rank | None:
        """Return the rank of who waits behind so many others in one line; None: nobody does."""
        line = self.key_queues.get(key)
        if line is None:
            return None
        waiter = next(islice(line, behind, None), None) if behind else line.first()
        return None if waiter is None else (waiter.priority, self._place(line, waiter, behind))

    def _place(self, line: KeyQueue, waiter: Slot, behind: int) -> int:
        return behind * _ROUND + line.round_position if self.fair else waiter.sequence

    def iter_in_order(self, keys: Collection[Hashable]) -> Iterator[tuple[Rank, Hashable, Slot]]:
        """Yield rank, key and waiter of who would be next if no line of these keys were parked.

        A line whose key is taken out of `keys` meanwhile is left there.

        With `fair`, this takes `keeps_round`.
        """
        turn = self._count
        heads: list[tuple[float, float, KeyQueue, Slot, int, Iterator[Slot] | None]] = []
        for line in map(self.key_queues.get, keys):
            first = None if line is None else line.first()
            if line is not None and first is not None:
                heads.append((first.priority, self._place(line, first, 0), line, first, 0, None))
        heapify(heads)
        while heads:
            _, _, line, first, behind, rest = heads[0]
            if line.key in keys:
                yield (first.priority, self._place(line, first, behind)), line.key, first
            if rest is None:  # most lines are not looked into any further
                rest = iter(line)
                next(rest, None)
            after = next(rest, None) if line.key in keys else None
            if after is None:
                heappop(heads)
            else:
                turn += 1
                place = turn if self.fair else after.sequence
                heapreplace(heads, (after.priority, place, line, after, behind + 1, rest))

    def cost_of(self, key: Hashable) -> float:
        """Return the cost of all who wait in the line of one key."""
        return sum(waiter.cost for waiter in self.key_queues.get(key, ()))

    def oldest_of_least_urgent(self) -> Slot | None:
        """Return whom a newcomer may push out of a full queue."""
        return self._everybody.oldest_of_least_urgent() if self._everybody is not None else None

    def __iter__(self) -> Iterator[Slot]:
        """All who wait, in no order."""
        for line in list(self.key_queues.values()):
            for level in list(line.levels.values()):
                yield from [waiter for waiter in level if waiter.waits]

    def _enter(self, line: KeyQueue, first: Slot) -> None:
        self._count += 1
        line.parked = None
        if not (line.round_position and self.keeps_round):
            line.round_position = self._count
        line.entry = (first.priority, line.round_position if self.fair else first.sequence, line)
        heappush(self._ready, line.entry)
        self.changed()

    def _unpark(self, line: KeyQueue) -> None:
        line.parked = None
        first = line.first()
        if first is not None:
            self._enter(line, first)
        elif self.key_queues.get(line.key) is line:
            del self.key_queues[line.key]

    def _gone(self, waiter: Slot) -> None:
        self.live -= 1
        self.cost = self.cost - waiter.cost if self.live else 0
        if self._everybody is not None:
            self._everybody.leave()
