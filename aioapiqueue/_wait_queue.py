"""Who is next: an `asyncio.Queue` of those who wait, by priority, key and arrival. Knows no clock.

It is a queue as `asyncio.PriorityQueue` is one: `get` waits for the next, `join` for the moment at
which nobody waits and everybody who was taken out has been accounted for (`task_done`).

Most waiters are in one `KeyQueue`. A key with limits of its own has its own, so that a slow one
blocks nobody else: while its limits are closed it is parked. With `fair` every key has its own,
and one that was served goes to the end of the round. Among the key queues that are not parked, a
heap finds the one whose first waiter is next: each step costs the logarithm of their number. Where
all wait in one (`_alone`), there is no heap.
"""

from __future__ import annotations

import asyncio
from collections import deque
from heapq import heapify, heappop, heappush, heapreplace
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar, get_args

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable, Iterator

__all__ = ["ORDERS", "SHARED", "KeyQueue", "Order", "Rank", "WaitQueue", "Waiter"]

Order = Literal["fifo", "fair"]
"""Among those of one priority: by arrival, or in turns by key."""
ORDERS: tuple[Order, ...] = get_args(Order)

Rank = tuple[float, float]
"""Priority, and place among those of that priority: the least goes first."""

SHARED = object()
"""The key of the queue of those without one of their own."""
_ROUND = 2**60
"""More than any `round_position`: a place in the n-th round from now is n times this, and that."""
_MANY_GONE = 32
"""So few that have left are never cleared away before they are met: it would cost more."""


class Waiter(Protocol):
    """What a wait queue knows of those in it."""

    keys: tuple[Hashable, ...]
    costs: tuple[float, ...]
    priority: float
    arrival: int
    """Its number; given by the queue."""
    future: asyncio.Future[Any]
    """Done once it has left."""
    key_queue: Any
    """Where it waits; None: not any more. Given by the queue."""

    @property
    def waits(self) -> bool:
        """Whether it still waits."""


W = TypeVar("W", bound=Waiter)


class KeyQueue(Generic[W]):
    """The waiters of one key, by priority, then by arrival.

    One that leaves early stays in its deque until it is met or most there have left, so that
    leaving costs no search.

    Args:
        key: whose; or `SHARED`.
    """

    __slots__ = ("entry", "gone", "key", "levels", "live", "parked", "priorities", "round_position")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.levels: dict[float, deque[W]] = {}
        self.priorities: list[float] = []
        """A heap of the priorities in `levels`."""
        self.live = 0
        self.gone = 0
        """How many have left early and are still in a deque."""
        self.entry: tuple[float, int, KeyQueue[W]] | None = None
        """Its place among the ready; another entry of it that is met there is stale."""
        self.parked: float | None = None
        self.round_position = 0
        """With `fair`, its place in the round."""

    def __lt__(self, other: KeyQueue[W]) -> bool:
        return False  # only entries of one and the same queue, one of them stale, ever tie

    def put(self, waiter: W) -> bool:
        """Add `waiter` to those of its priority; return whether it now goes first among them."""
        level = self.levels.get(waiter.priority)
        if level is None:
            level = self.levels[waiter.priority] = deque()
            heappush(self.priorities, waiter.priority)
        level.append(waiter)
        self.live += 1
        return level[0] is waiter

    def first(self) -> W | None:
        """Return who is next, forgetting on the way those who left; None if nobody waits."""
        while self.priorities:
            level = self.levels[self.priorities[0]]
            while level:
                waiter = level[0]
                if not waiter.future.done():  # all who left have a future that is done
                    return waiter
                level.popleft()
                self.gone -= 1
            del self.levels[heappop(self.priorities)]
        return None

    def pop(self) -> None:
        """Take out the one that `first` returned."""
        self.levels[self.priorities[0]].popleft()
        self.live -= 1

    def leave(self) -> None:
        """Note that somebody has left early."""
        self.live -= 1
        self.gone += 1
        if self.gone > self.live + _MANY_GONE:
            kept = {p: deque(w for w in level if w.waits) for p, level in self.levels.items()}
            self.levels = {p: level for p, level in kept.items() if level}
            self.priorities = list(self.levels)
            heapify(self.priorities)
            self.gone = sum(map(len, self.levels.values())) - self.live

    def __iter__(self) -> Iterator[W]:
        """All who wait, in their order."""
        for priority in sorted(self.priorities):
            yield from (waiter for waiter in self.levels[priority] if waiter.waits)

    def oldest_of_least_urgent(self) -> W | None:
        """Return who loses its place to somebody more urgent; None if nobody waits."""
        for priority in sorted(self.priorities, reverse=True):
            for waiter in self.levels[priority]:
                if waiter.waits:
                    return waiter
        return None


class WaitQueue(asyncio.Queue[W]):
    """All who wait; the next is the first of the key queue whose turn it is.

    Args:
        on_first: called when somebody becomes the first of a key queue.
        order: who goes first among those of one priority.
        ranked: keep what `oldest_of_least_urgent` needs.
    """

    def __init__(
        self, on_first: Callable[[], None], *, order: Order = "fifo", ranked: bool = False
    ) -> None:
        self.on_first = on_first
        self.order = order
        self.fair = order == "fair"
        self.lanes: Collection[Hashable] = ()
        """The keys with limits of their own."""
        self.key_queues: dict[Hashable, KeyQueue[W]] = {}
        self.live = 0
        """How many wait."""
        self.cost: float = 0
        """What they will cost together."""
        self.keeps_round = False
        """With `fair`, one that was parked has the place in the round that it had before."""
        self._everybody: KeyQueue[W] | None = KeyQueue(None) if ranked else None
        """All of them, by arrival whatever the order: for `oldest_of_least_urgent` and nothing
        else, as those who were served are still in it."""
        self._count = 0
        self._taken = 0
        """How many were taken out by `get`, and not yet accounted for by `task_done`."""
        self._none_left = asyncio.Event()
        self._start_over()
        super().__init__()

    def _start_over(self) -> None:
        """Forget every key queue, and all who wait in one."""
        self.key_queues.clear()  # in place: the lanes know it
        self._ready: list[tuple[float, int, KeyQueue[W]]] = []
        """A heap of (priority, `_place`, key queue). An entry may rank its queue
        too early, never too late: the one at the top is checked when it is met. So a newcomer that
        overtakes the first of its queue has to `_enter` it again."""
        self._parked: list[tuple[float, int, KeyQueue[W]]] = []
        """A heap of (until, number, key queue)."""
        self._alone: KeyQueue[W] | None = None
        """The only key queue, where all wait in one: it is neither ready nor parked."""
        if not self.fair and not self.lanes:
            self._alone = self.key_queues[SHARED] = KeyQueue(SHARED)

    def empty_copy(self) -> WaitQueue[W]:
        """Return an empty one of the same kind."""
        return WaitQueue(self.on_first, order=self.order, ranked=self._everybody is not None)

    # What asyncio.Queue asks of those derived from it.

    def _init(self, maxsize: int) -> None:
        """Make no container: the key queues are it."""

    def qsize(self) -> int:
        """Return how many wait, be they parked or not."""
        return self.live

    def empty(self) -> bool:
        """Return whether nobody waits who may be next: all others are parked."""
        return self.first() is None

    def put_nowait(self, item: W) -> None:
        """Let `item` wait. There is always room: how many may wait is for the caller to say."""
        # As the inherited one does, with less: this is done for every call that has to wait.
        self._put(item)
        if self._getters:  # type: ignore[attr-defined]  # typeshed leaves it out
            self._wakeup_next(self._getters)  # type: ignore[attr-defined]  # as above

    def _put(self, item: W) -> None:
        if not self.live:
            self._start_over()
        item.arrival = self._count = self._count + 1
        if self._everybody is not None:
            self._everybody.put(item)
        self.live += 1
        self.cost += item.costs[0]
        queue = self._alone
        if queue is not None and not self.lanes:
            item.key_queue = queue
            if queue.put(item):
                self.on_first()
        else:
            self._put_by_key(item)

    def _put_by_key(self, item: W) -> None:
        if self._alone is not None:
            self._leave_alone()
        key = item.keys[0] if self.fair or item.keys[0] in self.lanes else SHARED
        queue = self.key_queues.get(key)
        if queue is None:
            queue = self.key_queues[key] = KeyQueue(key)
        item.key_queue = queue
        is_first = queue.put(item)
        if queue.entry is None:
            # In a parked queue a new first may be due sooner (it may cost less).
            if queue.parked is None:
                self._enter(queue, item)
            elif queue.first() is item:
                self._unpark(queue)
        elif is_first and queue.first() is item:  # the entry may be that of one who has gone
            self._enter(queue, item)

    def _leave_alone(self) -> None:
        """Put the only key queue among others: from now on, who is next is found by the heap."""
        queue, self._alone = self._alone, None
        if queue is not None and (first := queue.first()) is not None:
            self._enter(queue, first)
        else:
            self.key_queues.pop(SHARED, None)

    def _get(self) -> W:
        waiter = self.first()
        assert waiter is not None  # noqa: S101 - asyncio.Queue asks `empty` before
        self._taken += 1
        self.pop(waiter)
        return waiter

    def task_done(self) -> None:
        """Note that one who was taken out by `get` has been dealt with.

        Raises:
            ValueError: called more often than there were any.
        """
        if not self._taken:
            raise ValueError("task_done() called too many times")
        self._taken -= 1
        self._check_none_left()

    async def join(self) -> None:
        """Wait until nobody waits, and `task_done` was called for everybody that `get` gave."""
        if self.live or self._taken:
            self._none_left.clear()
            await self._none_left.wait()

    def _check_none_left(self) -> None:
        if not self.live and not self._taken:
            self._none_left.set()

    # Beyond that.

    def first(self) -> W | None:
        """Return who is next among those that are not parked; None if nobody is."""
        if self._alone is not None:
            return self._alone.first()
        ready = self._ready
        while ready:
            priority, place, queue = entry = ready[0]
            if queue.entry is not entry:
                heappop(ready)
                continue
            waiter = queue.first()
            if waiter is None:
                heappop(ready)
                queue.entry = None
                del self.key_queues[queue.key]
            elif len(ready) > 1 and (
                (true := self._place(queue, waiter)) != place or waiter.priority != priority
            ):
                queue.entry = (waiter.priority, true, queue)
                heapreplace(ready, queue.entry)
            else:
                return waiter
        return None

    def pop(self, waiter: W) -> None:
        """Take out the one that `first` has just returned: it needs no `task_done`.

        That it no longer `waits` is for the caller to see to.
        """
        queue = waiter.key_queue
        waiter.key_queue = None
        queue.pop()
        if self.fair:  # to the end of the round
            heappop(self._ready)
            queue.entry, queue.round_position = None, 0
            after = queue.first()
            if after is None:
                del self.key_queues[queue.key]
            else:
                self._enter(queue, after)
        self._forget(waiter)

    def leave(self, waiter: W) -> None:
        """Take out one that waits no more; nothing if it has been taken out before."""
        queue = waiter.key_queue
        if queue is None:
            return
        waiter.key_queue = None
        queue.leave()
        if queue.parked is not None:  # its next may be due sooner, or there is none
            self._unpark(queue)
        self._forget(waiter)

    def _forget(self, waiter: W) -> None:
        self.live -= 1
        if self._everybody is not None:
            self._everybody.leave()
        if self.live:
            self.cost -= waiter.costs[0]
        else:
            self.cost = 0  # whatever rounding has left
            self._check_none_left()

    def park(self, until: float) -> None:
        """Set the key queue of the first aside, until `wake` is called with `until` or later."""
        if self._alone is not None:
            self._leave_alone()
        queue = heappop(self._ready)[2]
        queue.entry = None
        queue.parked = until
        self._count += 1
        heappush(self._parked, (until, self._count, queue))
        if len(self._parked) > 2 * len(self.key_queues) + _MANY_GONE:  # as in `_enter`
            parked = {entry[2]: entry for entry in self._parked if entry[2].parked == entry[0]}
            self._parked = list(parked.values())
            heapify(self._parked)

    def wake(self, now: float) -> float | None:
        """Let go the key queues parked until `now`; return when the next one is to be let go."""
        parked = self._parked
        while parked:
            until, _, queue = parked[0]
            if queue.parked != until:
                heappop(parked)
            elif until <= now:
                heappop(parked)
                self._unpark(queue)
            else:
                return until
        return None

    def wake_key(self, key: Hashable) -> None:
        """Let go the queue of one key, if it is parked: what was due there has changed."""
        queue = self.key_queues.get(key)
        if queue is not None and queue.parked is not None:
            self._unpark(queue)

    def wake_keyless(self) -> None:
        """Let go the queue of the keys without limits; with `fair`, each has its own."""
        if self.fair:
            self.wake_all()
        else:
            self.wake_key(SHARED)

    def wake_all(self) -> None:
        """Let go every key queue that is parked: what was due has changed."""
        for queue in list(self.key_queues.values()):
            if queue.parked is not None:
                self._unpark(queue)

    def rebuild(self) -> None:
        """Sort all who wait into key queues again: which keys have their own has changed."""
        waiting = sorted(self, key=lambda waiter: waiter.arrival)
        # Those whose future is cancelled, and whose task has not come to `leave` yet, stay in the
        # old key queues, which must not come back when they leave. `live` and `cost` count them.
        for queue in self.key_queues.values():
            queue.parked = None
        self._start_over()
        for waiter in waiting:
            self._put_by_key(waiter)
        self._wake_getters()

    def rank(self, key: Hashable, behind: int = 0) -> Rank | None:
        """Return the rank of who waits behind so many others of one key; None: nobody does."""
        queue = self.key_queues.get(key)
        if queue is None:
            return None
        waiter = next(islice(queue, behind, None), None) if behind else queue.first()
        return None if waiter is None else (waiter.priority, self._place(queue, waiter, behind))

    def _place(self, queue: KeyQueue[W], waiter: W, behind: int = 0) -> int:
        """Return a waiter's place among those of its priority: the least goes first.

        With `fair`, it is that of who waits behind so many of its key.
        """
        return behind * _ROUND + queue.round_position if self.fair else waiter.arrival

    def iter_in_order(self, keys: Collection[Hashable]) -> Iterator[tuple[Rank, Hashable, W]]:
        """Yield rank, key and waiter of who would be next if none of these keys were parked.

        A key that is taken out of `keys` meanwhile is left there. With `fair`, this takes
        `keeps_round`.
        """
        number = self._count
        heads: list[tuple[float, float, KeyQueue[W], W, int, Iterator[W] | None]] = []
        for queue in map(self.key_queues.get, keys):
            first = None if queue is None else queue.first()
            if queue is not None and first is not None:
                heads.append((first.priority, self._place(queue, first, 0), queue, first, 0, None))
        heapify(heads)
        while heads:
            _, _, queue, first, behind, rest = heads[0]
            if queue.key in keys:
                yield (first.priority, self._place(queue, first, behind)), queue.key, first
            if rest is None:  # most key queues are not looked into any further
                rest = iter(queue)
                next(rest, None)
            after = next(rest, None) if queue.key in keys else None
            if after is None:
                heappop(heads)
            else:
                number += 1
                place = number if self.fair else self._place(queue, after)
                heapreplace(heads, (after.priority, place, queue, after, behind + 1, rest))

    def cost_of(self, key: Hashable) -> float:
        """Return the cost of all who wait in the queue of one key."""
        return sum(waiter.costs[0] for waiter in self.key_queues.get(key, ()))

    def oldest_of_least_urgent(self) -> W | None:
        """Return whom a newcomer may push out of a full queue."""
        return self._everybody.oldest_of_least_urgent() if self._everybody is not None else None

    def __iter__(self) -> Iterator[W]:
        """All who wait, in no order."""
        for queue in list(self.key_queues.values()):
            for level in list(queue.levels.values()):
                yield from [waiter for waiter in level if waiter.waits]

    def _enter(self, queue: KeyQueue[W], first: W) -> None:
        self._count += 1
        queue.parked = None
        if not (queue.round_position and self.keeps_round):
            queue.round_position = self._count
        queue.entry = (first.priority, self._place(queue, first), queue)
        heappush(self._ready, queue.entry)
        if len(self._ready) > 2 * len(self.key_queues) + _MANY_GONE:  # so seldom that it is linear
            entries = (one.entry for one in self.key_queues.values())
            self._ready = [entry for entry in entries if entry is not None]
            heapify(self._ready)
        self.on_first()

    def _unpark(self, queue: KeyQueue[W]) -> None:
        queue.parked = None
        first = queue.first()
        if first is None:
            if self.key_queues.get(queue.key) is queue:
                del self.key_queues[queue.key]
            return
        self._enter(queue, first)
        self._wake_getters()

    def _wake_getters(self) -> None:
        # All of them: each finds out whether there is somebody for it. PriorityQueue has no need of
        # this, so that asyncio has no public way.
        while self._getters:  # type: ignore[attr-defined]  # typeshed leaves it out
            self._wakeup_next(self._getters)  # type: ignore[attr-defined]  # as above
