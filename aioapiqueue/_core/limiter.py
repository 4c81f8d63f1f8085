"""When: the one interface between a dispatcher and whatever decides about time.

A `Dispatcher` knows who waits and how to let them go; it has one `Limiter`, which says when. A
limiter sees of its dispatcher what `Host` says, and nothing else, so that limits may be kept in
this process (`_core/local_limiter.py`) or elsewhere (the shared quota of `_fleet`).

What holds in either:

- A call is charged at the instant at which it starts, to all its limits at once, or to none.
- Which call starts is decided at that instant and not before: the limiter takes the first out of
  `host.waiters` when it is due. So priority, cancellation, a pause and changed limits are right
  without any code for them. The alternative, a reservation for each call as it joins
  (golang.org/x/time/rate), has to be undone whenever one of them happens.
- The limiter has the loop over those who are due, so that no call through the interface is made
  for each slot; where one limit is all there is, `fast_acquire` spares even the first.
- Whatever changes who is next, or when, ends in `host.wake()`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence
    from typing import Any

    from aioapiqueue._core.events import EventKind
    from aioapiqueue._core.loop import BoundLoop
    from aioapiqueue._core.order import Ordering
    from aioapiqueue._core.slot import Call
    from aioapiqueue._core.statements import ServerCount, Statement
    from aioapiqueue._core.wait_queue import Line, WaitQueue
    from aioapiqueue._limits.lanes import AdaptivePolicy
    from aioapiqueue._limits.rates import Limit
    from aioapiqueue._limits.units import CostTotals, Units

__all__ = [
    "CallsOut",
    "FastAcquire",
    "Fate",
    "Host",
    "Limiter",
    "LimiterFactory",
    "LimiterStats",
    "LimiterTraits",
    "PushbackRounds",
]


Fate: TypeAlias = "tuple[float | None, float | None]"
"""When a call was answered, or when it ended without an answer; neither: it is out."""


class CallsOut(Protocol):
    """Which calls the server has yet to answer, and what they cost."""

    def costs_uncounted(
        self, call: Call | None, key: Hashable, count: ServerCount
    ) -> tuple[float, float]:
        """Return what calls of a key (None: of any) cost that a server's count may not contain.

        Args:
            call: the one that was answered so, if any.
            key: of the calls.
            count: what the server says.

        Returns:
            What those cost that are out without an answer, and those that were answered while
            `call` was under way.
        """

    def cost_out(self, key: Hashable, unit: int, *, with_ended: bool = True) -> float:
        """Return what calls of a key (None: of any) cost that are out without an answer.

        Args:
            key: of the calls.
            unit: the place of it in costs.
            with_ended: whether those are to be added that ended without an answer.
        """

    def fate(self, call: Call) -> Fate:
        """Return what has become of a call that was sent, as far as is known."""

    def counted(self, key: Hashable, at: float) -> None:
        """Note that the server has counted all calls of a key (None: of any) that ended by then."""


class Host(Protocol):
    """All that a limiter may ask of its dispatcher. Instants are on the clock of its loop."""

    loop: BoundLoop
    """The loop that the queue is in use on: its clock, its timers and its tasks."""
    waiters: WaitQueue[Call]
    """Who waits, in the order in which they are to start. Another one after each `reset`."""
    started: int
    """How many calls have started, less those whose slot was refunded."""
    ended: int
    """How many of them have ended."""
    units: Units
    """What costs are counted in."""

    def grant(self, call: Call, now: float) -> None:
        """Let a call start that has been taken out of `waiters` and charged to its limits."""

    def fail(self, call: Call, kind: EventKind, error: Exception) -> None:
        """Let a call that waits end with an error, counted as `kind`."""

    def starts_unpaced(self, call: Call) -> None:
        """Note that a call comes under no limit, as none of its keys has a lane.

        Not of limits that add up with those of others, which only the hub knows.
        """

    def wake(self) -> None:
        """Have `release_due` called soon: who is next, or when, may have changed."""

    def emit(
        self,
        kind: EventKind,
        call: Call | None = None,
        *,
        key: Hashable = None,
        **details: Any,  # noqa: ANN401 - of `Event`, each of its own type
    ) -> None:
        """Count an event, of a call or (where it is not known) of a key, and tell observers.

        If nobody observes that the queue is disconnected, its log says so: see `LimiterStats.lost`.
        """

    def server_quotas(self, *, begins: bool = True) -> CallsOut:
        """Return what tells which calls are out without an answer.

        Args:
            begins: whether that is noted from now on; else, where it is not, each call that runs
                is out, and has cost as much as others.
        """

    def others_set(self, key: Hashable, limits: Sequence[Limit]) -> None:
        """Note limits of the queue (None), or of a key or pattern, that others set.

        To be called before who waits is sorted by them.
        """


class LimiterTraits(NamedTuple):
    """What a limiter is like, which never changes."""

    call_types: tuple[Callable[..., Call], Callable[..., Call]]
    """What to make for a call that asks for nothing special, and for any other: `Call` and
    `DetailedCall`, or what takes the same arguments."""
    alone: bool
    """Whether nobody else makes calls that these limits count."""
    order: type[Ordering[Any]] | None = None
    """The order of `host.waiters`; None: the one that the user has chosen."""


class LimiterStats(NamedTuple):
    """A limiter's part of a queue's figures; most attributes are those of `Stats`."""

    lanes: int
    """Its `lanes_in_memory`."""
    rate: float
    paused: bool
    """Whether it is held without end."""
    remaining: Mapping[str, float]
    """How much could start now, by unit; empty where that is kept elsewhere."""
    asks: int = 0
    faults: int = 0
    fault: str = ""
    lost: str = ""
    """What has happened, in words, where the authority of a shared quota is lost."""
    meanwhile: str = ""
    """What the queue's calls do until it is back: the rest of a sentence."""
    permits: float = math.inf
    """How many bodies may run at once now, lanes aside, where that is known here."""
    idle_at: float = math.inf
    """The instant from which it cannot be told from a new limiter; inf: it always can."""


class FastAcquire(NamedTuple):
    """What the dispatcher may do by itself; of None: ask `try_acquire`."""

    one: Callable[[float], float] | None = None
    """While nobody waits, charge a call that says nothing of its cost: now -> instant; `<= now`
    means charged."""
    costly: Callable[[float, Sequence[float]], bool] | None = None
    """Likewise of any other: (now, costs) -> whether it is charged; False: ask `try_acquire`."""
    follows_ends: bool = False
    """Whether `ended` must be called at the end of every body."""


class Limiter(Protocol):
    """Decides when calls start: one for each queue. Costs are tuples, one figure for each unit."""

    traits: LimiterTraits

    def limits_of(self, key: Hashable) -> tuple[Limit, ...] | None:
        """Return the limits of a key's lane; None: it has none. Of the key None: the queue's.

        Empty where only other users of a shared quota give the lane its limits.
        """

    def fast_acquire(self, totals: CostTotals) -> FastAcquire:
        """Return what the dispatcher may do by itself, until limits change.

        Args:
            totals: to which that of costly calls adds what they cost.
        """

    def check(self, costs: Sequence[float]) -> None:
        """Refuse a cost that the queue's own limits could never let through.

        Those of its lanes refuse it when it comes.

        Raises:
            ValueError: one of them is too small for it, or counts a unit of which it says nothing.
        """

    def try_acquire(self, call: Call, now: float) -> bool:
        """Charge a newcomer to all its limits, and return True, if it need not wait.

        Raises:
            ValueError: one of its limits is too small for it, or counts a unit of which it says
                nothing.
            TypeError: a key that the limiter cannot handle.
        """

    def joined(self, call: Call) -> None:
        """Note that a call waits now."""

    def left(self, call: Call, line: Line[Call] | None) -> None:
        """Note that a call waits no more, and was not granted; it was in this line."""

    def estimate(self, call: Call | None, now: float, *, alone: bool = False) -> float:
        """Return when a newcomer would start, as things stand.

        Args:
            call: the newcomer; None: there is none, and the last of those who wait is meant.
            now: the present instant.
            alone: as if nobody else waited, of a call that `try_acquire` has seen: it cannot start
                earlier. Default: all who wait go first.

        Raises:
            ValueError: as `try_acquire`.
        """

    def release_due(self, now: float) -> float | None:
        """Grant all that are due; return when to look again (None: nobody waits)."""

    def ended(self, call: Call, *, used: bool) -> None:
        """Note that a call is over.

        Args:
            call: which.
            used: whether its body has run, as is only said if `follows_ends`; else its slot was
                granted and never used, and what it was charged comes back.
        """

    def apply(self, *statements: Statement) -> None:
        """Apply what users decide and servers report: all of it, or (if it is refused) nothing.

        Raises:
            ValueError: limits are too small for a call that waits.
            TypeError: a key that the limiter cannot handle.
        """

    def snapshot(self, key: Hashable = None, *, deep: bool = False) -> LimiterStats:
        """Return the figures of this moment; any thread may ask.

        Args:
            key: of whose lane `remaining` is; None: of the queue's own limits.
            deep: whether `idle_at` is wanted, for which each lane is looked at.
        """

    def reset(self, *, clock_changed: bool) -> None:
        """Start on another loop: nobody waits or runs; with another clock, nothing is known."""

    async def aclose(self) -> None:
        """End what the limiter has running; nobody waits any more."""


class PushbackRounds:
    """Which push-back is news: that on the calls of one round slows down once.

    Push-back on a call that nobody can name is taken for one on a call that ran at the last
    slow-down, until as many calls have ended as had started by then.

    Args:
        host: counts what has started and ended.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._started: dict[Hashable, int] = {}
        """For each scope that slowed down, how many calls had started by then."""
        self._prune_at = _FEW_ROUNDS

    def is_news(self, scope: Hashable) -> bool:
        """Return whether push-back on an unknown call of `scope` is on a later round."""
        return self._host.ended > self._started.get(scope, -1)

    def begin(self, scope: Hashable) -> None:
        """Note that `scope` has slowed down."""
        ended = self._host.ended
        if len(self._started) >= self._prune_at:  # so seldom that it is linear
            self._started = {of: n for of, n in self._started.items() if n >= ended}
            self._prune_at = 2 * len(self._started) + _FEW_ROUNDS
        self._started[scope] = self._host.started


_FEW_ROUNDS = 32
"""So many are never cleared away, even if they are over: it would cost more than they do."""


class LimiterFactory(Protocol):
    """What `schedule=` takes: `integrations.redis.SharedSchedule`, which the core need not know."""

    def make_limiter(
        self,
        host: Host,
        limits: Sequence[Limit],
        lanes: Mapping[Hashable, Sequence[Limit]],
        *,
        concurrency: float,
        catch_up: float,
        adaptive: AdaptivePolicy | None,
    ) -> Limiter:
        """Return the limiter of one queue.

        Args:
            host: the queue's dispatcher; not to be used before this has returned.
            limits: of all calls together.
            lanes: limits of single keys and patterns.
            concurrency: how many bodies may run at once; inf: any number.
            catch_up: seconds by which late calls may be made up for.
            adaptive: how to slow down on push-back.
        """
