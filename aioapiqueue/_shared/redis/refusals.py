"""The part of one queue in budgets, and in limits with `or raise`, that an authority keeps.

The authority refuses the calls for which there is no room, and this raises `LimitExceeded` in them.
A call that has started, and has neither ended nor settled, is a reservation: it may still make room
for calls of any process. So every message reports what is reserved here in its lanes. (A difference
that is lost with a message would make other processes wait for ever.)

This is attached to a limiter by the first limit that raises, and stands before some of its methods.
Other queues do nothing for it.
"""

from __future__ import annotations

import math
from heapq import heappop, heappush
from itertools import chain, count
from typing import TYPE_CHECKING, NamedTuple, Protocol

from aioapiqueue import Budget, Concurrency, LimitExceeded, Rate, Window
from aioapiqueue._shared.known_budgets import KnownBudgets
from aioapiqueue._shared.limit_table import NO_KEY, key_of
from aioapiqueue._shared.redis import messages
from aioapiqueue._shared.redis.leases import LeasedCall, LeasedCosts
from aioapiqueue.spi import CALLS, cost_units

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence

    from aioapiqueue import Limit
    from aioapiqueue._shared.limit_table import LimitTable, Scope
    from aioapiqueue._shared.redis.outbox import Outbox, Outgoing
    from aioapiqueue._shared.redis.planner import Planner
    from aioapiqueue._shared.redis.waiting_scopes import WaitingScopes
    from aioapiqueue.spi import Call, Host, seam, statements


def raises(limit: Limit) -> bool:
    """Return whether a call for which a limit has no room raises `LimitExceeded`."""
    return isinstance(limit, Budget) or limit.on_empty == "raise"


def _makes_room(limit: Limit) -> bool:
    """Return whether calls wait for what running calls may give back to a limit."""
    # Of calls and permits, a reservation makes no room.
    return raises(limit) and not isinstance(limit, Concurrency) and limit.unit != CALLS


def _counts_for(limit: Limit) -> float:
    """Return the seconds for which a limit counts a call: then nothing of it comes back."""
    match limit:
        case Window():
            return limit.per
        case Rate():
            return limit.burst * limit.interval  # all has recovered, whatever started meanwhile
        case _:
            return math.inf


class LimiterSteps(NamedTuple):
    """The steps of a limiter before which `SharedRefusals` stands."""

    started: Callable[[Call], None]
    settle: Callable[[statements.Settled], None]
    ended: Callable[..., None]
    processed: Callable[..., None]
    snapshot: Callable[..., seam.LimiterStats]


class RefusingSession(Protocol):
    """The part of a session that is used here."""

    outbox: Outbox

    def keep_alive(self) -> None:
        """Report from time to time that this process lives, while calls run."""


class SharedRefusals:
    """Refuses calls for which there is no room, and reports reservations.

    Args:
        host: the queue's dispatcher.
        limits: of the queue and its lanes.
        waiting: the scopes in which calls wait.
        session: the exchange with the authority.
        after: what the limiter does at the same steps.
    """

    def __init__(
        self,
        host: Host,
        limits: LimitTable,
        waiting: WaitingScopes,
        session: RefusingSession,
        after: LimiterSteps,
    ) -> None:
        self.lasts = False
        """Whether there is, or was, a budget."""
        self._host = host
        self._limits = limits
        self._waiting = waiting
        self._session = session
        self._after = after
        self._known = KnownBudgets(host)
        self._epoch = 0

    def reset(self, planner: Planner) -> None:
        """Start on another event loop, where nothing is reserved yet."""
        self._planner = planner
        self._calls: dict[Call, tuple[Scope, Sequence[float]]] = {}
        """The running calls that are reservations, with their scopes, and costs as they started."""
        self._costs = LeasedCosts()
        """What they have reserved."""
        self._ends: list[tuple[float, int, Call]] = []
        """A heap of (instant from which nothing of a call can come back, number, call)."""
        self._numbers = count()

    def note_limits(self, limits: Iterable[Limit]) -> None:
        """Note limits that are, or come, into force."""
        self.lasts |= any(isinstance(one, Budget) for one in limits)

    # Reservations.

    def started(self, call: Call) -> None:
        """Note that a call has started."""
        self._after.started(call)
        scope = call.limits
        # At the fallback rate, there is no lease, and the authority has charged nothing.
        if LeasedCall.of(call).lease is None or not (lasts := self._lasts_for(scope, call.costs)):
            return
        self._calls[call] = scope, call.costs
        self._costs.add(scope, call.costs)
        if lasts < math.inf:
            heappush(self._ends, (self._host.loop.now() + lasts, next(self._numbers), call))
        self._session.keep_alive()

    def _lasts_for(self, scope: Scope, costs: Sequence[float]) -> float:
        """Return the seconds in which some of these costs can come back; 0: they never can."""
        place_of = self._limits.units.place_of
        return max(
            (
                _counts_for(limit)
                for lane in (None, *scope.lanes)
                for limit in self._limits.limits_of(lane)
                if not isinstance(limit, Concurrency)
                and _makes_room(limit)
                and cost_units.is_stated(costs, unit := place_of(limit.unit))
                and costs[unit]
            ),
            default=0,
        )

    def _end_reservation(self, call: Call) -> bool:
        """Note that a call is no reservation any more; return whether it was one."""
        reservation = self._calls.pop(call, None)
        if reservation is None:
            return False
        self._costs.remove(*reservation)
        return True

    def settle(self, _limiter: object, settled: statements.Settled) -> None:
        """Charge the difference to the true costs of a call; it is no reservation any more."""
        call = settled.call
        was_reserved = self._end_reservation(call)
        self._after.settle(settled)
        if was_reserved:
            self._report_end(call.limits)

    def ended(self, call: Call, *, used: bool) -> None:
        """Do what the limiter does, after the reservation of the call has ended."""
        if self._end_reservation(call) and used:
            self._report_end(call.limits)
        self._after.ended(call, used=used)

    def _report_end(self, scope: Scope) -> None:
        """Report that a reservation has ended: calls that wait for it may have to raise now."""
        self._session.outbox.add_report(self._kept(scope.lanes))
        self._planner.ask_soon(scope)
        self._host.wake()

    # Reports.

    def _kept(self, lanes: Iterable[Hashable]) -> list[Hashable]:
        """Return those of these lanes whose reservations the authority keeps."""
        return [lane for lane in lanes if self._keeps(lane)]

    def _keeps(self, lane: Hashable) -> bool:
        # Of a budget of calls as well: what is lost with a reply has to come back.
        return any(
            isinstance(one, Budget) or _makes_room(one) for one in self._limits.limits_of(lane)
        )

    def unanswered(self, ask: messages.Ask) -> None:
        """Report what has arrived, after a request without a reply: its slots are not lost then."""
        lanes = self._kept((None, *ask.lanes))
        if lanes:
            self._session.outbox.add_report([lane for lane in lanes if lane is not None])

    def report(
        self,
        message: messages.Message,
        waiting: Iterable[Outgoing],
        *,
        sequence: int,
        answered: int,
    ) -> messages.Reserved:
        """Return what every message reports.

        Args:
            message: the message.
            waiting: the messages that wait to be sent. What they give back counts as reserved until
                it arrives.
            sequence: the number of this message.
            answered: that of the last message with a reply.
        """
        now = self._host.loop.now()
        while self._ends and self._ends[0][0] <= now:
            self._end_reservation(heappop(self._ends)[2])
        refunds = LeasedCosts()
        changes = chain.from_iterable(
            one.message.changes
            for one in waiting
            if isinstance(one.message, messages.Adjust) and one.message is not message
        )
        for change in changes:
            refund = tuple(max(0, -cost) for cost in change.costs)
            for lane in (None, *change.lanes):
                refunds.add_to(lane, refund)
        sums = (self._costs, self._planner.leases.costs, refunds)
        units = range(len(self._limits.units))
        costs = {
            lane: tuple([sum(one.of(lane, unit) for one in sums) for unit in units])
            for lane in self._kept((None, *message.lanes))
        }
        return messages.Reserved(costs, sequence, answered, self.lasts)

    # Figures.

    def processed(
        self, message: messages.Message, reply: messages.Reply, *, forgotten: bool
    ) -> None:
        """Apply a reply as the limiter does; then note how much is used of budgets."""
        self._after.processed(message, reply, forgotten=forgotten)
        if reply.epoch != self._epoch:  # a user has reset the quota, or the authority lost its data
            self._epoch, self._known = reply.epoch, KnownBudgets(self._host)
        for key, status in reply.statuses.items():
            if key is not NO_KEY:  # by the key None, a user gets the figures of the queue
                in_force = self._limits.of_key(key) or ()
                uses = {str(one): status.budgets[one] for one in in_force if one in status.budgets}
                self._known.note(key, uses)

    def snapshot(self, key: Hashable = None, *, deep: bool = False) -> seam.LimiterStats:
        """Return the figures of the limiter, with the last known use of budgets."""
        figures = self._after.snapshot(key, deep=deep)
        limits = self._limits.of_key(key) or ()
        return self._known.with_budgets(figures, key, limits, only_these=True)

    # Refusing.

    def refuse(self, refusals: Iterable[messages.Refusal]) -> None:
        """Raise in the calls for which the authority has no room."""
        for request, lane, limit, remaining, resets_in in refusals:
            cost = 1.0
            if not isinstance(limit, Concurrency):
                cost = request.costs[self._limits.units.place_of(limit.unit)]
            for call in self._asked_in(request):
                error = LimitExceeded.of(
                    limit, cost=cost, remaining=remaining, resets_in=resets_in, key=key_of(lane)
                )
                self._host.fail(call, "refused", error)
        self._planner.ask_all_soon()  # those behind them may have room

    def _asked_in(self, request: messages.SlotRequest) -> list[Call]:
        """Return the waiting calls of a request that were granted nothing."""
        scope = request.scope
        lines = self._waiting.by_scope.get(scope, {})
        covered = len(self._planner.leases.of(scope).leases)  # the first calls, which will use them
        asked = []
        for number, (place, _, call) in enumerate(self._waiting.iter_in_order(lines)):
            if place > request.last:
                break
            if number >= covered and place >= request.first and call.costs == request.costs:
                asked.append(call)
        return asked
