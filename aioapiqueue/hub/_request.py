"""One attempt that a client has asked for: in line, and then under way."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from aioapiqueue import ApiQueue, Slot
    from aioapiqueue.hub._records import Figure, Kind
    from aioapiqueue.registry import Turn

__all__ = ["Request"]

_AHEAD = float("-inf")
"""The priority of a request that a call with a slot has to wait for."""


class Request:
    """An attempt: it waits for its turns, one after the other, and then is under way.

    Attributes:
        kind: what is called.
        figure: where it is counted.
        of_queues: where it is counted for each queue whose slot it has, as in `slots`.
        needs: all of its turns, in order; of nothing that paces it: none.
        turns: those that it has not joined yet.
        ahead: whether it goes ahead of all that wait.
        turn: the one that it waits for; None once it is under way.
        queue: whose turn that is, or was last.
        slots: what it holds.
        under_way: whether it has been let go.
    """

    __slots__ = (
        "ahead",
        "figure",
        "kind",
        "needs",
        "of_queues",
        "queue",
        "slots",
        "turn",
        "turns",
        "under_way",
    )

    def __init__(
        self,
        kind: Kind,
        figure: Figure,
        of_queues: Sequence[Figure],
        turns: Sequence[Turn],
        *,
        ahead: bool,
    ) -> None:
        self.kind = kind
        self.figure = figure
        self.of_queues = of_queues
        self.needs = turns
        self.turns = iter(turns)
        self.ahead = ahead
        self.turn: asyncio.Future[Slot] | None = None
        self.queue: ApiQueue | None = None
        self.slots: list[Slot] = []
        self.under_way = False

    def advance(self) -> asyncio.Future[Slot] | None:
        """Return what is to be waited for next, or None: the attempt may start.

        Raises:
            Exception: whatever a queue refuses it with.
        """
        if self.turn is not None:
            self.slots.append(self.turn.result())
            self.turn = None
        priority = _AHEAD if self.ahead else 0
        for queue, key, cost in self.turns:
            self.queue = queue
            turn = queue.enqueue(key=key, priority=priority, cost=cost)
            if not turn.done():
                self.turn = turn
                return turn
            self.slots.append(turn.result())
        return None

    def release(self) -> None:
        """Give its places back."""
        for slot in self.slots:
            slot.release()

    def withdraw(self) -> None:
        """Leave the line it is in, and give back what it has not used."""
        turn, self.turn = self.turn, None
        # It leaves, or the slot that it has just got passes to the next waiter.
        if turn is not None and not turn.cancel() and not turn.cancelled():
            turn.exception()  # nobody is there to hear of it
        for slot in self.slots:
            slot.settle(0)
            slot.release()
