"""Turns by weights: the virtual times by which keys take turns.

The waiting calls of one key are a flow. Its turn is an instant of virtual time. When one of its
calls starts, the turn advances by the cost of the call divided by the weight of the key. A turn
depends only on calls that have started, so a call that leaves has cost its key nothing. A flow
without waiting calls saves no turns: its next turn is the present one, or later.

`VirtualClock` is for flows that may not be able to start when it is their turn (start-time fair
queueing, Goyal et al. 1996). The flow with the earliest turn goes next, and virtual time is the
latest turn in which a call has started:

- A flow whose calls could not start falls behind virtual time, and catches up with it when one
  starts. Otherwise it would then keep all others waiting.
- A settlement moves the turn of the flow. What comes back may move it behind virtual time, and this
  much (`Flow.credit`) is not lost by the rule above: the key has waited for it before.

`MeanClock` is for flows that can all start. Virtual time is the mean of their turns, by weight, and
the flow with the earliest deadline, its turn after its next call, goes next, if its turn is not
later than the mean (earliest eligible virtual deadline first, Stoica and Abdel-Wahab 1995). So no
flow is ahead of its share by more than one call, or behind it: by turns alone, a heavy key would
wait for one call of each light one before its next; by deadlines alone, they would wait for all its
calls that fit in one of theirs.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

ONE = 2**32
"""The turns that a cost of 1 takes with the weight 1: turns are whole numbers, as ranks are, and
costs of a millionth of a dollar still differ. A rank has 64 bits for a turn. Beyond them (a cost of
4 billion for each weight of 1 while calls wait all the time), only priorities that differ by less
than a part in 10**15 could be mixed up."""

MANY_FLOWS = 64
"""Flows that are never dropped: searching for those that are over would cost more than they do."""


class Flow:
    """The waiting calls of one key.

    Args:
        weight: of the key.
        turn: the turn of its next call.
    """

    __slots__ = ("counted", "credit", "keeps", "turn", "waiting", "weight")

    def __init__(self, weight: float, turn: int) -> None:
        self.weight = weight
        self.turn = turn
        self.credit = 0
        """How far settlements have moved its turn behind virtual time."""
        self.waiting = 0
        """Number of waiting calls."""
        self.keeps = False
        """Whether its calls are being sorted again, and keep its turn."""
        self.counted = False
        """Whether a `MeanClock` counts it."""

    def copy(self) -> Flow:
        """Return a flow with as many calls and the same turn."""
        other = Flow(self.weight, self.turn)
        other.waiting = self.waiting
        return other


class VirtualClock:
    """The virtual time of several flows."""

    __slots__ = ("now", "waiting")

    def __init__(self) -> None:
        self.now = 0
        """The latest turn in which a call has started."""
        self.waiting = 0
        """Number of waiting calls."""

    def next_turn(self, flow: Flow) -> int:
        """Return the turn of the next call of a flow, whether or not a call waits."""
        return flow.turn if flow.waiting or flow.keeps else max(flow.turn, self.now)

    def join(self, flow: Flow) -> None:
        """Count a call that waits."""
        if not flow.waiting:
            flow.turn = self.next_turn(flow)
            if not flow.keeps:
                flow.credit = 0
            flow.keeps = False
        flow.waiting += 1
        self.waiting += 1

    def leave(self, flow: Flow, calls: int = 1) -> None:
        """Count calls no longer."""
        flow.waiting -= calls
        self.waiting -= calls

    def charge(self, flow: Flow, turns: int) -> None:
        """Move a flow by the cost of a call that starts."""
        start = self.next_turn(flow)
        self.now = max(self.now, start)
        flow.turn = max(start + turns, self.now - flow.credit)
        flow.credit = max(0, min(flow.credit, self.now - flow.turn))

    def give_back(self, flow: Flow, turns: int) -> None:
        """Move a flow back, or (below 0) forward, because a call has cost less than charged."""
        flow.turn = self.next_turn(flow) - turns
        if flow.waiting or flow.keeps:
            flow.credit = max(0, min(flow.credit + turns, self.now - flow.turn))


class MeanClock:
    """The virtual time of several flows that can all start."""

    __slots__ = ("_ahead", "_count", "_total", "_weight", "now")

    def __init__(self) -> None:
        self.now = 0
        """The mean turn of the flows with waiting calls, and of those that are ahead of it."""
        self._weight = 0.0
        """Their total weight."""
        self._total = 0.0
        """The sum of their turns, by weight."""
        self._ahead: list[tuple[int, int, Flow]] = []
        """A heap of the flows without waiting calls that are ahead, by their turns. Without them,
        virtual time would fall back as their last calls start, and the others would have to wait
        for calls of further keys."""
        self._count = 0

    def join(self, flow: Flow) -> None:
        """Count a call that waits."""
        if not flow.waiting and not flow.counted:
            flow.turn = max(flow.turn, self.now)
            self._add(flow)
        flow.waiting += 1

    def leave(self, flow: Flow) -> None:
        """Count a call no longer."""
        flow.waiting -= 1
        if not flow.waiting:
            self._wait_for(flow)
            self._find_now()

    def charge(self, flow: Flow, turns: int) -> None:
        """Move a flow by the cost of a call that starts, or (below 0) back."""
        if flow.counted:
            self._total += flow.weight * turns
        else:
            flow.turn = max(flow.turn, self.now)
        flow.turn += turns
        if not flow.waiting and flow.counted:
            self._wait_for(flow)
        self._find_now()

    def copy(self, waiting: Iterable[Flow]) -> tuple[MeanClock, list[Flow]]:
        """Return the same virtual time, and copies of the flows that wait, to look ahead."""
        other = MeanClock()
        for _, _, flow in self._ahead:
            if flow.counted and not flow.waiting:
                other._wait_for(other._add(flow.copy()))
        copies = [other._add(flow.copy()) for flow in waiting]
        other.now = self.now
        return other, copies

    def _add(self, flow: Flow) -> Flow:
        flow.counted = True
        self._weight += flow.weight
        self._total += flow.weight * flow.turn
        return flow

    def _wait_for(self, flow: Flow) -> None:
        self._count += 1  # so that flows are never compared
        heappush(self._ahead, (flow.turn, self._count, flow))

    def _find_now(self) -> None:
        if self._weight > 0:
            self.now = int(self._total / self._weight)
        ahead = self._ahead
        while ahead and ahead[0][0] <= self.now:
            turn, _, flow = heappop(ahead)
            # Else it waits again, or was removed with an earlier entry.
            if flow.counted and not flow.waiting and flow.turn == turn:
                flow.counted = False
                self._weight -= flow.weight
                self._total -= flow.weight * turn
