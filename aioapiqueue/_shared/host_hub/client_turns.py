"""The order of the calls that wait for a quota of the hub: clients take turns.

A call that joins gets the later of two turns: the one after the last call of its client, and the
one of the first call of another client that waits for the same limits. (Without such a call, the
latter is the turn after the call that was served last.) Among calls of one priority, the earliest
turn is served first. The turn of a call never changes, and a client that made no calls has saved no
turns: this is start-time fair queueing (Goyal et al. 1996) with a cost of 1 for each call.

A client has a line for each set of limits of its calls. Some lines may be closed for hours, and
must not delay its other calls. So two calls of one line are as many turns apart as lines of the
client were served recently, and the first call of another line is at most as many turns away. If
keys have weights, their client states how many of its calls go before another one, which gets a
turn after as many.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from aioapiqueue.spi import DetailedCall, orders

if TYPE_CHECKING:
    from collections.abc import Hashable

    from aioapiqueue.spi import Dispatcher

_IN_A_TURN = 2**24
"""Greater than the number of clients. A call's number is its turn times this, plus its number by
arrival modulo this."""
_MOST_APART = 64
"""Most turns between two calls of a line, however many lines the client has."""
_RECENT = 64
"""Number of turns for which a line counts as recent after it was served or got its first call."""


class ClientCall(DetailedCall):
    """A call for which a client requests a grant; made by `of_client`."""

    __slots__ = ("after", "before", "client", "delayed_by", "place", "ticket")

    client: Hashable
    """The client."""
    ticket: int
    """Its number at the client."""
    place: int
    """Its number in the wait queue, which it keeps if it joins again; 0: it has not waited."""
    before: float
    """Seconds that it waited before it joined: at its client, or here under former limits."""
    delayed_by: tuple[str, str, str] | None
    """The limit of another client that it waited for: its lane, its text, and its owner."""
    after: int | None
    """Number of calls of its client that are to start before it, if its keys have weights and it
    has several lines; None: they take equal turns."""

    @classmethod
    def of_client(
        cls,
        client: Hashable,
        ticket: int,
        dispatcher: Dispatcher,
        keys: tuple[Hashable, ...],
        priority: float,
    ) -> Self:
        """Make a call that has not waited yet.

        Args:
            client: the client.
            ticket: its number at the client.
            dispatcher: of the quota.
            keys: of the call.
            priority: lower goes first.
        """
        call = cls.new(dispatcher, keys, priority)
        call.client = client
        call.ticket = ticket
        call.place = 0
        call.before = 0.0
        call.delayed_by = None
        call.after = None
        return call


class _Turns:
    """The turns of a client whose calls wait."""

    __slots__ = ("last", "last_in", "recent", "waiting")

    def __init__(self) -> None:
        self.last = 0
        """The last turn that the client was given."""
        self.last_in: dict[Hashable, int] = {}
        """The last turn in each of its lines, by their limits."""
        self.recent: dict[Hashable, int] = {}
        """The turn in which each of its lines was served or began, the latest last."""
        self.waiting = 0
        """Number of its calls that wait."""

    def note(self, limits: Hashable, now: int) -> None:
        """Note that one of its lines is served or begins, in a turn."""
        recent = self.recent
        if len(recent) == 1 and limits in recent:  # most clients have one line
            recent[limits] = now
            return
        recent.pop(limits, None)  # so that it becomes the last of the dictionary
        recent[limits] = now
        while recent[first := next(iter(recent))] + _RECENT < now:
            del recent[first]


class ClientTurns(orders.Ordering[ClientCall]):
    """Clients take turns, with a line for each client and set of limits."""

    __slots__ = ("_lines_with", "_served", "_turns_of")

    def __init__(self) -> None:
        self._served = 0
        """The number of the last call that was served."""
        self._turns_of: dict[Hashable, _Turns] = {}
        """The turns of each client with a waiting call."""
        self._lines_with: dict[Hashable, dict[Any, None]] = {}
        """The lines with each set of limits: one for each client."""

    def name_of_line(self, call: ClientCall) -> Hashable:
        """Return the name of the line that a call belongs to."""
        return call.client, call.limits

    def number_of(self, call: ClientCall, number: int) -> int:
        """Return the number of a call that joins: its turn, and `number` within that."""
        if call.place:  # it waited before, and joins again as limits have changed
            return call.place
        # It shares the turn of the first call of another client that waits for the same limits: how
        # that client is served under other limits must move it neither forward nor back.
        first, served = None, self._served
        for line in self._lines_with.get(call.limits, ()):
            if line.flow is not call.client and (head := line.first()) is not None:
                at = head.arrival
                if head.after:  # the weights of a client put no call of another one back
                    at = min(at, served + _IN_A_TURN)
                first = at if first is None else min(first, at)
        turn = (served + _IN_A_TURN if first is None else first) // _IN_A_TURN
        turns = self._turns_of.get(call.client)
        if call.after is not None:
            # Where other clients have waited for long, limits are slow that are not those of all
            # lines. There, clients take turns, whatever the weights are.
            if turn >= served // _IN_A_TURN:
                turn = served // _IN_A_TURN + 1 + call.after
        elif turns is not None and turn <= turns.last:  # its client has this turn, or a later one
            last = turns.last_in.get(call.limits)
            apart = min(_MOST_APART, len(turns.recent) + (call.limits not in turns.recent))
            if last is None:  # not always after `turns.last`, which may be in a closed line
                turn = max(turn, min(turns.last + 1, self._served // _IN_A_TURN + apart))
            else:
                turn = max(turn, last + apart)
        return turn * _IN_A_TURN + number % _IN_A_TURN

    def joined(self, call: ClientCall) -> None:
        """Count a call that waits, and keep its number."""
        call.place = call.arrival
        turns = self._turns_of.get(call.client)
        if turns is None:
            turns = self._turns_of[call.client] = _Turns()
        turns.waiting += 1

    def added(self, call: ClientCall, line: Any) -> None:  # noqa: ANN401 - as of `Ordering`
        """Note the turn of a call as the last of its line, and the line if it is new."""
        turns, turn = self._turns_of[call.client], call.place // _IN_A_TURN
        if call.limits not in turns.last_in:
            turns.note(call.limits, self._served // _IN_A_TURN)
        turns.last_in[call.limits] = turn
        if turn > turns.last:  # noqa: PLR1730 - this is done for each slot
            turns.last = turn
        if line is not None and not line.live:
            line.flow = call.client
            self._lines_with.setdefault(call.limits, {})[line] = None

    def served(self, call: ClientCall, line: Any) -> None:  # noqa: ANN401, ARG002 - as above
        """Note that a call starts: newcomers get later turns."""
        if call.arrival > self._served:  # noqa: PLR1730 - this is done for each slot
            self._served = call.arrival
        self._turns_of[call.client].note(call.limits, self._served // _IN_A_TURN)
        self._end_wait(call)

    def left(self, call: ClientCall, line: Any) -> None:  # noqa: ANN401, ARG002 - as above
        """Count a call no longer."""
        self._end_wait(call)

    def _end_wait(self, call: ClientCall) -> None:
        turns = self._turns_of[call.client]
        turns.waiting -= 1
        if not turns.waiting:
            del self._turns_of[call.client]

    def ended(self, line: Any, lines: int) -> None:  # noqa: ANN401, ARG002 - as above
        """Forget a line."""
        self.dissolved(line)

    def dissolved(self, line: Any) -> None:  # noqa: ANN401 - as above
        """Forget a line."""
        turns = self._turns_of.get(line.flow)  # None if no call of the client waits any more
        if turns is not None:
            turns.last_in.pop(line.limits, None)
        lines = self._lines_with.get(line.limits, {})
        lines.pop(line, None)
        if not lines:
            self._lines_with.pop(line.limits, None)

    def begin_sorting(self) -> None:
        """Forget all lines."""
        self._lines_with.clear()
        for turns in self._turns_of.values():
            turns.last_in.clear()
