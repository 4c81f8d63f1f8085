"""What a queue's events say, against what its callers have seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.soak.checks import Broken

if TYPE_CHECKING:
    import random

    from aioapiqueue import Event
    from tests.soak.kinds import Kind

__all__ = ["Planted", "Watch"]

ENDS = {"finished", "cancelled", "timed_out", "refused"}


class Planted(Exception):  # noqa: N818 - it is no error of ours
    """What observers and bodies raise on purpose."""


class Watch:
    """An observer that notes what there is to check, and raises now and then.

    Args:
        kind: of queue.
        rng: says when to raise.
    """

    def __init__(self, kind: Kind, rng: random.Random) -> None:
        self.kind = kind
        self._rng = rng
        self._events: list[Event] = []
        self._costs: dict[int, dict[str, float]] = {}
        self._starts: dict[int, tuple[float, tuple]] = {}
        self._ended: set[int] = set()
        self._joined: dict[int, float] = {}
        self._lost: list[tuple[float, float]] = []

    def on_event(self, event: Event) -> None:
        """Note it, and perhaps raise."""
        if event.call is not None:
            self._events.append(event)
        if self._rng.random() < 0.01:
            raise Planted

    def lost(self, begin: float, end: float) -> None:
        """Count no starts from `begin` to `end`, and begin again: the server has lost its data."""
        self._lost.append((begin, end))

    def forget(self) -> None:
        """Let go of calls that will have no end: their loop was closed with them in it."""
        self.check(drained=False)
        self._count(sorted((at, call) for call, (at, _) in self._starts.items()))
        self._starts.clear()
        self._ended.clear()
        self._joined.clear()

    def check(self, *, drained: bool) -> None:
        """Check all that has happened since the last time.

        Args:
            drained: whether all calls have ended.
        """
        events, self._events = self._events, []
        for event in events:
            self._note(event)
        running = [at for call, (at, _) in self._starts.items() if call not in self._ended]
        if drained and running:
            raise Broken(f"{self.kind.name}: {len(running)} calls have started and never ended")
        until = min(running, default=float("inf"))  # it may yet be refunded
        self._count(sorted((at, call) for call, (at, _) in self._starts.items() if at < until))
        self._ended &= self._starts.keys()

    def _note(self, event: Event) -> None:
        call = event.call
        if event.kind == "joined":
            self._joined[call] = event.at
        elif event.kind == "released":
            # The instant itself is in no event. Each of three is a little later, or much where
            # another thread has run in between: the earliest is the best.
            at = min(event.at, self._joined.get(call, event.at) + event.waited)
            self._starts[call] = (at, event.keys)
            self._costs[call] = dict(event.costs)
        elif event.kind == "settled":
            self._costs[call] = dict(event.costs)
        elif event.kind in ENDS:
            if call in self._ended:
                raise Broken(f"{self.kind.name}: call {call} has ended twice")
            self._ended.add(call)
            self._joined.pop(call, None)
            if event.kind == "cancelled":  # refunded, if it had its slot
                self._starts.pop(call, None)
                self._costs.pop(call, None)
            elif event.kind == "finished" and call in self._starts:
                at, keys = self._starts[call]
                self._starts[call] = (min(at, event.at - event.duration), keys)

    def _count(self, known: list[tuple[float, int]]) -> None:
        for at, call in known:
            _, keys = self._starts.pop(call)
            costs = self._costs.pop(call)
            while self._lost and self._lost[0][1] < at:
                self._lost.pop(0)
                for limit in self.kind.checks:
                    limit.check.forget()
            if self._lost and self._lost[0][0] <= at:
                continue
            for limit in self.kind.checks:
                if limit.concerns(keys):
                    try:
                        limit.check.start(at, costs.get(limit.unit, 0))
                    except Broken as broken:
                        raise Broken(f"{self.kind.name}: {broken}, at {at:.3f}") from None
