"""The interface of a dispatcher, which knows the next call, and its limiter, which decides when.

A `Dispatcher` has the waiting calls and can start them; it has one `Limiter`. A limiter sees only
what `Host` offers, so that limits may be kept in this process (`_core/local_limiter.py`), by the
host hub, or on Redis (`_shared/`).

Each limiter follows these rules:

- A call is charged at the instant at which it starts, to all its limits at once, or to none.
- Which call starts is decided at that instant and not before: when a call is due, the limiter takes
  the first out of `host.waiters`. So priority, cancellation, a pause and changed limits need no
  code of their own. The alternative, a reservation for each call as it joins
  (golang.org/x/time/rate), has to be undone whenever one of them happens.
- The loop over the due calls is the limiter's, so that the interface costs no method call for each
  slot. For simple limits, `fast_acquire` saves it for a call that need not wait, too.
- Each change of which call is next, or when, ends in `host.wake()`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

from aioapiqueue._core.loops import report_error
from aioapiqueue._core.slow_downs import SlowDownRounds
from aioapiqueue._limits.state_maker import StateMaker
from aioapiqueue._limits.windows import Permits

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence
    from typing import Any

    from aioapiqueue._core.events import EventKind
    from aioapiqueue._core.loops import BoundLoop
    from aioapiqueue._core.orders import Ordering
    from aioapiqueue._core.slot import Call
    from aioapiqueue._core.statements import ServerCount, Statement
    from aioapiqueue._core.wait_queue import Line, WaitQueue
    from aioapiqueue._limits.budget_use import BudgetUse
    from aioapiqueue._limits.cost_units import CostTotals, Units
    from aioapiqueue._limits.limit_types import Concurrency, Limit
    from aioapiqueue._limits.state_maker import AdaptivePolicy

__all__ = [
    "CallOutcome",
    "FastAcquire",
    "LimitSettings",
    "LimiterFactory",
    "LimiterStats",
    "LimiterTraits",
    "SlowDownRounds",
]


CallOutcome: TypeAlias = "tuple[float | None, float | None]"
"""Time of a call's response, and time at which it ended without one; None twice: in flight."""


class CallsOut(Protocol):
    """Calls in flight, and the costs that a server may not have counted yet."""

    def costs_uncounted(
        self, call: Call | None, key: Hashable, count: ServerCount
    ) -> tuple[float, float]:
        """Return the costs of calls that a server's count may not include.

        Args:
            call: the call whose response has the count; None: no call.
            key: key of the calls; None: all calls.
            count: what the server reports.

        Returns:
            The cost of calls without a response, and of calls whose response came while `call` was
            in flight.
        """

    def cost_out(self, key: Hashable, unit: int, *, with_ended: bool = True) -> float:
        """Return the cost of calls without a response.

        Args:
            key: key of the calls; None: all calls.
            unit: place of the unit in costs.
            with_ended: include calls that have ended without a response.
        """

    def outcome(self, call: Call) -> CallOutcome:
        """Return the outcome of a call, as far as it is known."""

    def counted(self, key: Hashable, at: float) -> None:
        """Note that the server has counted all calls of a key (None: all) that ended by `at`."""


class Host(Protocol):
    """The part of a dispatcher that its limiter may use. Instants are on the clock of its loop."""

    loop: BoundLoop
    """The loop on which the queue is used: its clock, its timers and its tasks."""
    waiters: WaitQueue[Call]
    """The waiting calls, in the order in which they may start; replaced before each `reset`."""
    started: int
    """Number of calls that have started, less those whose slot was refunded."""
    ended: int
    """Number of these calls that have ended."""
    units: Units
    """The units of costs."""

    def grant(self, call: Call, now: float) -> None:
        """Start a call that has been taken out of `waiters` and charged to its limits."""

    def fail(self, call: Call, kind: EventKind, error: Exception) -> None:
        """End the wait of a call with an error, counted as `kind`."""

    def starts_unpaced(self, call: Call) -> None:
        """Note that no limit applies to a call, because none of its keys has a lane.

        Not called if other users of a shared quota, which only the hub knows, may have set limits.
        """

    def wake(self) -> None:
        """Have `release_due` called soon: which call is next, or when, may have changed."""

    def emit(
        self,
        kind: EventKind,
        call: Call | None = None,
        *,
        key: Hashable = None,
        **details: Any,  # noqa: ANN401 - of `Event`, each of its own type
    ) -> None:
        """Count an event of a call, or of a key if the call is not known, and inform observers.

        A disconnection that no observer receives is logged: see `LimiterStats.lost`.
        """

    def find_server_quotas(self, *, begins: bool = True) -> CallsOut:
        """Return which calls are in flight.

        Args:
            begins: track calls from now on. Otherwise, if they are not tracked, every running call
                counts as in flight, with the average cost.
        """

    def note_remote_limits(self, key: Hashable, limits: Sequence[Limit]) -> None:
        """Note limits of the queue (None), or of a key or pattern, that another process has set.

        Called before the waiting calls are sorted by them.
        """


class Core(Host, Protocol):
    """The part of a dispatcher that its own parts may use."""

    name: str | None
    closed: str
    """Why the queue accepts no more calls; empty while it is open."""
    limiter: Limiter

    @property
    def limits(self) -> tuple[Limit, ...]:
        """The queue's own limits that are in force."""

    @property
    def learnt(self) -> Mapping[Hashable, tuple[Limit, ...]]:
        """The limits that servers have stated, by key; None: the queue itself."""

    @property
    def running(self) -> int:
        """Number of bodies that run."""

    def bind(self) -> float:
        """Bind to the running loop, if any; return the present instant."""

    def find_fast_acquire(self) -> None:
        """Find out again which calls may start without the limiter."""


class LimiterTraits(NamedTuple):
    """The properties of a limiter that never change."""

    call_types: tuple[type[Call], type[Call]]
    """The classes of a call without options, and of any other: `Call` and `DetailedCall`, or
    subclasses whose `new` takes the same arguments."""
    alone: bool
    """Whether only this queue makes calls that these limits count."""
    order: type[Ordering[Any]] | None = None
    """The order of `host.waiters`; None: the order that the user has chosen."""


class LimiterStats(NamedTuple):
    """A limiter's part of a queue's figures; most attributes are those of `Stats`."""

    lanes: int
    """`lanes_in_memory` of `Stats`."""
    rate: float
    paused_until: float
    held_until: float
    """The instants at which a pause and a hold of everything end; -inf: there was none."""
    remaining: Mapping[str, float]
    """How much could start now, by unit; of a quota that is kept elsewhere, only what it says."""
    budgets: Mapping[str, BudgetUse]
    """As in `Stats`."""
    asks: int = 0
    faults: int = 0
    fault: str = ""
    lost: str = ""
    """What happened to the connection to a shared quota, in words; empty if it is not lost."""
    meanwhile: str = ""
    """What the queue's calls do until the quota is back: the end of the sentence in the log."""
    permits: float = math.inf
    """Number of bodies that may run at once now, without regard to lanes, if known here."""
    idle_at: float = math.inf
    """The instant from which it is in the same state as a new limiter; inf: never."""

    def stops_for(self, now: float) -> tuple[float, float]:
        """Return `paused` and `held` of `Stats`: of the two, the one that lasts longer."""
        if self.paused_until >= self.held_until:
            return max(0, self.paused_until - now), 0
        return 0, max(0, self.held_until - now)


FastAcquire: TypeAlias = """tuple[
    Callable[[float], float] | None, Callable[[float, Sequence[float]], bool] | None, bool
]"""
"""Steps that the dispatcher may use instead of `try_acquire`, and whether `ended` must be called at
the end of every body. The steps are only used while no call waits:

- (now) -> instant: charge a call with the default cost; `<= now` means charged.
- (now, costs) -> whether a call with any other cost is charged; if not, use `try_acquire`.

They are bound to states of the moment: the dispatcher asks for new ones whenever limits, permits or
policies change (`Dispatcher.find_fast_acquire`).
"""


class Limiter(Protocol):
    """Decides when calls start: one for each queue. Costs are tuples, one figure for each unit."""

    traits: LimiterTraits

    def limits_of(self, key: Hashable) -> tuple[Limit, ...] | None:
        """Return the limits of a key's lane; None: it has none. Of the key None: the queue's.

        Empty if only other users of a shared quota give the lane its limits.
        """

    def fast_acquire(self, totals: CostTotals) -> FastAcquire:
        """Return the steps that the dispatcher may use, until limits change.

        Args:
            totals: the second step adds the costs that it charges to these.
        """

    def check(self, costs: Sequence[float]) -> None:
        """Refuse costs that the queue's own limits could never admit.

        The limits of lanes refuse the costs of each call under them.

        Raises:
            ValueError: one of them is too small, or counts a unit that the costs do not name.
        """

    def try_acquire(self, call: Call, now: float) -> bool:
        """Charge a new call to all its limits, and return True, if it need not wait.

        Raises:
            ValueError: one of its limits is too small, or counts a unit that its cost does not
                name.
            TypeError: the limiter cannot handle one of its keys.
        """

    def joined(self, call: Call) -> None:
        """Note that a call waits now."""

    def left(self, call: Call, line: Line[Call] | None) -> None:
        """Note that a call has left this line without a grant."""

    def estimate(self, call: Call | None, now: float, *, alone: bool = False) -> float:
        """Return when a new call would start, if nothing changes.

        Args:
            call: the new call; None: return when the last waiting call will have started.
            now: the present instant.
            alone: as if no other call waited, which is the earliest instant at which the new call
                can start; `try_acquire` must have been called for it. Default: all waiting calls go
                first.

        Raises:
            ValueError: as for `try_acquire`.
        """

    def release_due(self, now: float, *, planned: float = -math.inf) -> float | None:
        """Grant all calls that are due; return when to look again (None: no call waits).

        Args:
            now: the present instant.
            planned: the instant for which this look was planned. After calls have started, the next
                ones under a rate may then start in a group (`next_look`). Default: something has
                changed, and the next call starts when it is due.
        """

    def ended(self, call: Call, *, used: bool) -> None:
        """Note that a call is over.

        Args:
            call: the call.
            used: True: its body has run (called only if `fast_acquire` asked for ends). False: its
                slot was granted and never used, so that its charges come back.
        """

    def apply(self, *statements: Statement) -> None:
        """Apply decisions of users and reports of servers: all of them, or (if refused) none.

        Raises:
            ValueError: limits are too small for a waiting call.
            TypeError: the limiter cannot handle one of the keys.
        """

    def snapshot(self, key: Hashable = None, *, deep: bool = False) -> LimiterStats:
        """Return the figures of this moment; any thread may call it.

        Args:
            key: the key of the lane for `remaining` and `budgets`; None: the queue's own limits.
            deep: whether to find `idle_at`, which looks at each lane.
        """

    def reset(self, *, clock_changed: bool) -> None:
        """Start on another loop: no call waits or runs; with another clock, forget all charges."""

    async def aclose(self) -> None:
        """End the tasks of the limiter; no call waits any more."""


class LimitSettings(NamedTuple):
    """The limits of a queue, as its user created it.

    Attributes:
        limits: the limits of all calls.
        lanes: the limits of single keys and patterns.
        concurrency: number of bodies that may run at once, whatever limits are set later; inf: any.
        catch_up: seconds of lateness that a rate makes up for.
        adaptive: how to slow down when the server throttles calls; None: only wait as it asks.
    """

    limits: Sequence[Limit]
    lanes: Mapping[Hashable, Sequence[Limit]]
    concurrency: float
    catch_up: float
    adaptive: AdaptivePolicy | None

    def state_maker(
        self,
        host: Host,
        *,
        permits: Callable[[Concurrency], Permits] = Permits,
        concurrency: float | None = None,
    ) -> StateMaker:
        """Return the maker of limit states, for lanes or (with `concurrency`) for the queue."""
        # `to_wall` belongs to the `BoundLoop`, which outlives loops: calendars must not keep the
        # clock of a loop that is closed.
        return StateMaker(
            host.units,
            catch_up=self.catch_up,
            adaptive=self.adaptive,
            report=report_error,
            to_wall=host.loop.to_wall,
            permits=permits,
            concurrency=concurrency,
        )


class LimiterFactory(Protocol):
    """The interface of `schedule=`: `HostSchedule`, `SharedSchedule`, and a hub's own."""

    def make_limiter(self, host: Host, settings: LimitSettings) -> Limiter:
        """Return the limiter of one queue.

        Args:
            host: the queue's dispatcher, which must not be used before this returns.
            settings: the queue's limits.
        """
