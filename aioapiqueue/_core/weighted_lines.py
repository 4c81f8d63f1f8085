"""Lines of waiting calls whose keys take turns by their weights; see `weighted_turns.py`."""

from __future__ import annotations

from bisect import bisect
from collections import deque
from heapq import heapify, heappop, heappush
from itertools import chain
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Generic

from aioapiqueue._core.orders import W, rank_of
from aioapiqueue._core.virtual_time import MANY_FLOWS, Flow, MeanClock
from aioapiqueue._core.wait_lists import Ranked
from aioapiqueue._core.wait_queue import Line
from aioapiqueue._limits.cost_units import is_stated

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator

    from aioapiqueue._core.key_shares import KeyShares, Share
    from aioapiqueue._core.orders import Rank

_PLACES = 2**64
"""Greater than any number of a call."""
_MANY_STALE = 32
"""Calls that have left a line and stay in it until they are reached: removing fewer costs more."""


class _Part(Flow, Generic[W]):
    """The waiting calls of one key and priority in a line, by number.

    Args:
        share: those in the whole queue.
        line: the line.
        turn: the turn of its next call in the line.
    """

    __slots__ = (
        *("_head", "_ranked", "by_share", "by_turn", "calls", "entry"),
        *("line", "rank", "share"),
    )

    def __init__(self, share: Share, line: WeightedLine[W], turn: int) -> None:
        super().__init__(share.weight, turn)
        self.line = line
        self.share = share
        self.calls: deque[W] = deque()
        self.by_turn = _ByTurn(self, self)
        self.by_share = _ByTurn(self, share)
        self.entry: Any = None
        self.rank: Rank | None = None
        self._head: W | None = None
        self._ranked = 0
        """The turn of the last rank."""

    def first(self) -> W | None:
        """Return the next call, and remove those before it that have left; None: no call waits."""
        calls = self.calls
        while calls:
            if not calls[0].future.done():
                return calls[0]
            calls.popleft()
            self.line.stale -= 1  # as in `Line.first`
        return None

    def rank_now(self) -> Rank | None:
        """Return its deadline and the number of its next call as one; None: no call waits."""
        head = self.first()
        if head is None:
            return None
        if head is not self._head or self._ranked != self.turn:
            self._head, self._ranked = head, self.turn
            self.rank = _deadline(self.turn, head, self)
        return self.rank

    def __lt__(self, other: object) -> bool:
        return False  # see Line.__lt__


def _deadline(turn: int, head: Any, part: _Part[Any]) -> Rank:  # noqa: ANN401 - a call
    """Return the turn of a part after its next call, and the number of that, as one number."""
    return (turn + part.line.shares.turns_for(head.costs, part.weight)) * _PLACES + int(
        head.arrival
    )


class _ByTurn:
    """A part in a heap of turns: its own in the line, or that of its key in the whole queue."""

    __slots__ = ("entry", "flow", "part")

    def __init__(self, part: _Part[Any], flow: Flow) -> None:
        self.part = part
        self.flow = flow
        self.entry: Any = None

    def rank_now(self) -> Rank | None:
        """Return the turn; None: no call waits."""
        return None if self.part.first() is None else self.flow.turn

    def __lt__(self, other: object) -> bool:
        return False  # as above


def _place(ranked: Ranked, item: _Part[Any] | _ByTurn) -> None:
    """Give an item its place in a heap, or an earlier one."""
    rank = item.rank_now()
    if rank is not None and (item.entry is None or rank < item.entry[0]):
        ranked.add(item, rank)


class _Level(Generic[W]):
    """The calls of one priority in a line."""

    __slots__ = ("_eligible", "_later", "by_share", "clock", "most", "parts")

    def __init__(self) -> None:
        self.clock = MeanClock()
        self.parts: dict[Hashable, _Part[W]] = {}
        """By key: those with waiting calls, and those whose next turn is not over."""
        self.most = MANY_FLOWS
        """Number of parts beyond which those that are over are dropped."""
        self._eligible = Ranked()
        """Parts whose turn has come, by deadline; a part is here or in `_later`."""
        self._later = Ranked()
        """Parts whose turn may not have come, by turn."""
        self.by_share = Ranked()
        """All parts, by the turns of their keys in the whole queue."""

    def rank(self, part: _Part[W]) -> None:
        """Give a part its place, or an earlier one."""
        if part.entry is not None:
            _place(self._eligible, part)
        else:
            _place(self._later, part.by_turn)
        _place(self.by_share, part.by_share)

    def next_part(self) -> _Part[W] | None:
        """Return the part that is next; None: no call waits."""
        now = self.clock.now
        part: _Part[W] | None
        waiting: _ByTurn | None
        while (waiting := self._later.first()) is not None and waiting.flow.turn <= now:
            self._later.remove(waiting)
            _place(self._eligible, waiting.part)
        while (part := self._eligible.first()) is not None:
            if part.turn <= now:
                found: _Part[W] = part
                return found
            self._eligible.remove(part)
            _place(self._later, part.by_turn)
        # None is eligible only if the mean was rounded, or if the calls of others are cancelled and
        # have not left yet.
        waiting = self._later.first()
        return None if waiting is None else waiting.part

    def in_turns(self) -> Iterator[W]:
        """Iterate over the calls that wait, in the order in which they would start now."""
        parts = [one for one in self.parts.values() if one.waiting]
        clock, flows = self.clock.copy(parts)
        copies = dict(zip(parts, flows, strict=True))
        heads: dict[_Part[W], tuple[W, Iterator[W]]] = {}
        eligible: list[tuple[Rank, _Part[W]]] = []
        later: list[tuple[int, int, _Part[W]]] = []

        def go_on(part: _Part[W], waiting: Iterator[W]) -> None:
            head = next((one for one in waiting if one.waits), None)
            if head is None:
                copies[part].waiting = 1
                clock.leave(copies[part])
            else:
                heads[part] = head, waiting
                later.append((copies[part].turn, head.arrival, part))

        for part in parts:
            go_on(part, iter(part.calls))
        heapify(later)
        while eligible or later:
            now = clock.now
            while later and (later[0][0] <= now or not eligible):
                part = heappop(later)[2]
                head = heads[part][0]
                heappush(eligible, (_deadline(copies[part].turn, head, part), part))
            part = heappop(eligible)[1]
            head, waiting = heads[part]
            yield head
            turns = part.line.shares.turns_for(head.costs, part.weight)
            clock.charge(copies[part], turns)
            count = len(later)
            go_on(part, waiting)
            if len(later) > count:
                heappush(later, later.pop())

    def drop_over(self) -> None:
        """Drop parts without calls whose turns are over."""
        if len(self.parts) > self.most:
            now = self.clock.now
            kept = {key: one for key, one in self.parts.items() if one.waiting or one.turn > now}
            self.parts, self.most = kept, 2 * len(kept) + MANY_FLOWS


class WeightedLine(Line[W]):
    """Waiting calls with the same limits, whose keys take turns."""

    __slots__ = ("_ranked", "_tag", "shares", "sorting", "weight")

    levels: dict[float, _Level[W]]  # type: ignore[assignment]  # not of calls
    shares: KeyShares

    def __init__(self, name: Hashable, limits: Any, shares: KeyShares) -> None:  # noqa: ANN401 - the limiter's
        super().__init__(name, limits)
        self._ranked: W | None = None
        """The call that has the rank, even if another one of the line goes before it by now."""
        self._tag: tuple[Share, int] | None = None
        """The key by whose turn it is ranked, and the turns that this call will take."""
        self.levels, self.priorities = {}, []
        self.shares = shares
        self.sorting = shares.sorting
        """The sorting in which its calls were counted; -1: they no longer are."""
        self.weight = 0.0
        """Total weight of its parts with waiting calls."""

    def put(self, waiter: W) -> bool:
        """Add a call behind those of its key and priority; return whether it may go first now."""
        level = self.levels.get(waiter.priority)
        if level is None:
            level = self.levels[waiter.priority] = _Level()
            heappush(self.priorities, waiter.priority)
        elif len(self.levels) != len(self.priorities):  # as in `Line.put`
            self.priorities = sorted(self.levels)
        key = waiter.keys[0]
        part = level.parts.get(key)
        if part is None or not part.waiting:
            share = self.shares.of(waiter)
            if part is None:
                # A key that is ahead in the queue is so in a new line: else it would gain a turn
                # with each lane that it calls, and each time that calls are sorted again.
                turn = level.clock.now + self.shares.lead_of(share, waiter.priority)
                part = level.parts[key] = _Part(share, self, turn)
            part.share = part.by_share.flow = share
            share.parts[part] = None
            self.weight += share.weight
        level.clock.join(part)
        part.calls.append(waiter)
        level.rank(part)
        self.live += 1
        self.head = None
        return self.first() is waiter

    def _part_of(self, waiter: W) -> _Part[W] | None:
        level = self.levels.get(waiter.priority)
        return None if level is None else level.parts.get(waiter.keys[0])

    def move_by_number(self, waiter: W) -> bool:
        """Move a call to its place by number; return whether it is first."""
        part = self._part_of(waiter)
        if part is not None:
            part.calls.remove(waiter)
            part.calls.insert(bisect(part.calls, waiter.arrival, key=attrgetter("arrival")), waiter)
            self.levels[waiter.priority].rank(part)
        self.head = None
        return self.first() is waiter

    def first(self) -> W | None:
        """Return the next call, and remove those before it that have left; None: no call waits."""
        while self.priorities:
            level = self.levels.get(self.priorities[0])
            part = None if level is None else level.next_part()
            if part is not None:
                self.top = part.calls
                first: W = part.calls[0]
                return first
            self._drop_level(heappop(self.priorities))
        self.top = None
        return None

    def _drop_level(self, priority: float) -> None:
        level = self.levels.pop(priority, None)
        # It may have calls that are cancelled and have not left yet.
        for part in () if level is None else level.parts.values():
            if part.waiting:
                self._end(part)

    def _end(self, part: _Part[W]) -> None:
        """Note that a part has no waiting calls."""
        part.share.parts.pop(part, None)
        self.weight -= part.weight

    def rank_now(self) -> Rank | None:
        """Return the rank of the next call; None: no call waits."""
        head = self.head
        if head is None or head.future.done():
            before, turn, ranked = self.rank, self.turn, self._ranked
            keeps = ranked is not None and ranked.waits
            tag = self._give_tag_back()
            head = self.head = self.first()
            if head is None:
                self.rank = None
                return None
            share: Share = self.levels[head.priority].by_share.first().flow
            self.turn = share.turn + share.given
            rank = rank_of(head.priority, self.turn, head.arrival)
            # The scheduler relies on it: while a call waits, its rank only becomes earlier. The
            # turn of its key moves all the time, as calls of other lines start.
            if keeps and before is not None and tag is not None and before <= rank:
                self.turn, self._ranked, self._tag = turn, ranked, tag
            else:
                self.rank, self._ranked = rank, head
                self._tag = share, self.shares.turns_for(head.costs, share.weight)
            self._tag[0].given += self._tag[1]
        return self.rank

    def _give_tag_back(self) -> tuple[Share, int] | None:
        """Leave the turns that the line was given to others; return them."""
        tag, self._tag, self._ranked = self._tag, None, None
        if tag is not None:
            tag[0].given -= tag[1]
        return tag

    def find(self, waiter: W) -> None:
        """Note where a call is that is about to be taken out: it is the first of its key."""
        part = self._part_of(waiter)
        if part is not None and part.first() is waiter:
            self.top = part.calls

    def remove(self, waiter: W) -> None:
        """Take out a call that starts, and need not be the first."""
        part = self._part_of(waiter)
        if part is not None:
            part.calls.remove(waiter)
        self.live -= 1
        self.head = None

    def leave(self) -> None:
        """Note that a call has left early."""
        self.head = None
        if self._ranked is not None and not self._ranked.waits:
            self._give_tag_back()
        self.live -= 1
        self.stale += 1
        if self.stale > self.live + _MANY_STALE:  # so each departure costs O(1) on average
            for level in self.levels.values():
                for part in level.parts.values():
                    part.calls = deque(one for one in part.calls if one.waits)
            self.stale = sum(1 for _ in self.all_calls()) - self.live
            self.first()

    def charge(self, waiter: W) -> None:
        """Charge a call that starts to its key, and count it no longer."""
        self._give_tag_back()
        level, part = self.levels.get(waiter.priority), self._part_of(waiter)
        if level is not None and part is not None:
            level.clock.charge(part, self.shares.turns_for(waiter.costs, part.weight))
            self.count_off(waiter)

    def count_off(self, waiter: W) -> None:
        """Count a call no longer."""
        level, part = self.levels.get(waiter.priority), self._part_of(waiter)
        if level is not None and part is not None:
            level.clock.leave(part)
            level.rank(part)  # by the call after it, which may cost less
            if not part.waiting:
                self._end(part)
                level.drop_over()

    def give_back(self, waiter: W, turns: int) -> None:
        """Move the turn of a key back, because a call of it has cost less than charged."""
        level, part = self.levels.get(waiter.priority), self._part_of(waiter)
        if level is not None and part is not None:
            level.clock.charge(part, -turns)
            self.rank_again(part, waiter.priority)

    def rank_again(self, part: _Part[W], priority: float) -> None:
        """Note that the turn of a part, here or in the whole queue, has changed."""
        self.head = None
        self.levels[priority].rank(part)

    def dissolve(self) -> None:
        """Leave the turns of all keys to the lines that their calls join now."""
        self._give_tag_back()
        if self.sorting == self.shares.sorting:
            self.sorting = -1  # calls that are cancelled and leave only now are counted no more
            for priority, level in self.levels.items():
                for part in level.parts.values():
                    if part.waiting:
                        self.shares.leave_line(priority, part)

    def all_calls(self) -> Iterable[W]:
        """Return all calls, in no order, with those that have left and are still there."""
        parts = chain.from_iterable(level.parts.values() for level in self.levels.values())
        return chain.from_iterable(part.calls for part in parts)

    def __iter__(self) -> Iterator[W]:
        """Iterate over the calls that wait, in the order in which they would start now."""
        for priority in sorted(self.priorities):
            yield from self.levels[priority].in_turns()

    def ahead_of(self, call: W, turn: int, unit: int) -> float:
        """Return the cost of the calls that start before a newcomer.

        Args:
            call: the newcomer.
            turn: its turn in the whole queue.
            unit: the unit of the cost.
        """
        cost, key = 0.0, call.keys[0]
        for priority, level in self.levels.items():
            if priority > call.priority:
                continue
            for its, part in level.parts.items():
                if (first := part.first()) is None:
                    continue
                number = part.waiting
                if priority == call.priority and its != key:
                    # As if all calls of a key cost the same.
                    turns = self.shares.turns_for(first.costs, part.weight)
                    number = min(number, max(0, (turn - part.share.turn) // turns + 1))
                cost += number * (first.costs[unit] if is_stated(first.costs, unit) else 0)
        return cost
