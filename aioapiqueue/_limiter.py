"""When: the one interface between a dispatcher and whatever decides about time.

A `Dispatcher` knows who waits and how to let them go; it has one `Limiter`, which says when. A
limiter sees of its dispatcher what `Host` says, and nothing else, so that limits may be kept in
this process (`LocalLimiter`) or elsewhere (the shared quota of `_fleet`).

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
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol

from aioapiqueue._algorithms import LimitState
from aioapiqueue._lanes import Lanes, fits, limit_state_for
from aioapiqueue._slot import Call, DetailedCall

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine, Hashable, Mapping, Sequence
    from typing import Any

    from aioapiqueue._events import EventKind
    from aioapiqueue._lanes import AdaptivePolicy
    from aioapiqueue._rate import Limit
    from aioapiqueue._wait_queue import WaitQueue

__all__ = ["Host", "Limiter", "LimiterFactory", "LimiterStats", "LocalLimiter", "PushbackRounds"]


class Host(Protocol):
    """All that a limiter may ask of its dispatcher. Instants are on the host's clock."""

    waiters: WaitQueue[Call]
    """Who waits, in the order in which they are to start. Another one after each `reset`."""
    started: int
    """How many calls have started, less those whose slot was refunded."""
    ended: int
    """How many of them have ended."""

    @property
    def running(self) -> int:
        """How many bodies run: those that started, less those that ended."""

    @property
    def on_real_time(self) -> bool:
        """Whether the clock is the machine's: its timers may be milliseconds late."""

    def now(self) -> float:
        """Return the present instant."""

    def grant(self, call: Call, now: float) -> None:
        """Let a call start that has been taken out of `waiters` and charged to its limits."""

    def fail(self, call: Call, kind: EventKind, error: Exception) -> None:
        """Let a call that waits end with an error, counted as `kind`."""

    def wake(self) -> None:
        """Have `release_due` called soon: who is next, or when, may have changed."""

    def count(self, kind: EventKind, call: Call | None = None, *, key: Hashable = None) -> None:
        """Count one event, of a call or (where it is not known) of a key, and emit it."""

    def emit(self, kind: EventKind, call: Call | None = None, *, key: Hashable = None) -> None:
        """Send the observers an event, of a call or of a key."""

    def call_later(self, delay: float, action: Callable[[], None]) -> asyncio.TimerHandle | None:
        """Call `action` in `delay` seconds; None, and never, where no loop has been used yet."""

    def spawn(
        self,
        function: Callable[[], Coroutine[Any, Any, None]],
        *,
        name: str,
        on_end: Callable[[asyncio.Task[None]], None],
    ) -> asyncio.Task[None] | None:
        """Run a coroutine function in a task of its own.

        Args:
            function: what to run.
            name: of the task.
            on_end: called with the task once it has ended, even if it was cancelled before its
                first step, so that not even a `finally` in it ran.

        Returns:
            The task; None where no loop runs, or where the task has ended already (an eager one).
        """

    def report(self, message: str, error: BaseException) -> None:
        """Report an error that is nobody's: to the loop's exception handler."""


class LimiterStats(NamedTuple):
    """A limiter's part of a queue's figures; the attributes are those of `Stats`."""

    lanes: int
    rate: float
    paused: bool
    """Whether it is held without end."""
    asks: int = 0
    faults: int = 0
    fault: str = ""


class Limiter(Protocol):
    """Decides when calls start: one for each queue. Costs are tuples, one figure for each unit."""

    call_types: tuple[Callable[..., Call], Callable[..., Call]]
    """What to make for a call that asks for nothing special, and for any other: `Call` and
    `DetailedCall`, or what takes the same arguments."""
    counts_permits: bool
    """Whether it must be called at the end of every body (`released`)."""

    @property
    def limits(self) -> tuple[Limit, ...]:
        """Those in force of the queue as a whole."""

    def fast_acquire(self) -> Callable[[float, float], float] | None:
        """Return what charges a newcomer while nobody waits: (now, cost) -> instant; <= now: done.

        None unless one such step does all that `try_acquire` would.
        """

    def check(self, costs: Sequence[float]) -> None:
        """Refuse a cost that could never start.

        Raises:
            ValueError: one of the queue's limits is too small for it.
        """

    def try_acquire(self, call: Call, now: float) -> bool:
        """Charge a newcomer to all its limits, and return True, if it need not wait.

        Raises:
            ValueError: one of its lanes' limits is too small for it.
            TypeError: a key that the limiter cannot handle.
        """

    def joined(self, call: Call) -> None:
        """Note that a call waits now."""

    def left(self, call: Call) -> None:
        """Note that a call waits no more, and was not granted."""

    def earliest(self, call: Call, now: float) -> float:
        """Return an instant before which a newcomer cannot start, as far as is known at once."""

    def estimate(self, key: Hashable, costs: Sequence[float], now: float) -> float:
        """Return when a newcomer would start, as things stand."""

    def release_due(self, now: float) -> float | None:
        """Grant all that are due; return when to look again (None: nobody waits)."""

    def released(self, call: Call) -> None:
        """Note that the body of a call has ended; only called if `counts_permits`."""

    def refund(self, call: Call) -> None:
        """Take back the slot of a call that was granted and never used."""

    def settle(self, call: Call, costs: Sequence[float]) -> None:
        """Charge the difference to the true costs of a call that has started, or give it back."""

    def throttled(self, call: Call | None, key: Hashable, retry_after: float | None) -> None:
        """Process push-back: on one call, or (None) on some call of a key."""

    def hold(self, key: Hashable, seconds: float) -> None:
        """Start nothing of a key's lane (or nothing at all) for so long; holds only extend."""

    def pause(self, seconds: float | None) -> None:
        """Start nothing for so long (None: until `resume`)."""

    def resume(self) -> None:
        """End a pause."""

    def set_limits(self, key: Hashable, limits: tuple[Limit, ...]) -> None:
        """Replace the limits of the queue (None), or of a key or pattern.

        Raises:
            ValueError: one of them is too small for a call that waits; nothing has changed.
            TypeError: a key that the limiter cannot handle.
        """

    def reset(self, *, clock_changed: bool) -> None:
        """Start on another loop: nobody waits or runs; with another clock, nothing is known."""

    def idle(self, now: float) -> bool:
        """Return whether this cannot be told from a new limiter."""

    def snapshot(self) -> LimiterStats:
        """Return the figures of this moment."""

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


class LocalLimiter:
    """Limits kept in this process, for one queue.

    Args:
        host: the queue's dispatcher.
        limits: of all calls together.
        lanes: limits of single keys and patterns.
        concurrency: how many bodies may run at once; inf: any number.
        catch_up: seconds by which late calls may be made up for.
        adaptive: how to slow down on push-back.

    Raises:
        ValueError: what `adaptive` wants does not fit the limits.
    """

    call_types: tuple[Callable[..., Call], Callable[..., Call]] = (Call, DetailedCall)

    def __init__(
        self,
        host: Host,
        limits: Sequence[Limit],
        lanes: Mapping[Hashable, Sequence[Limit]],
        *,
        concurrency: float,
        catch_up: float,
        adaptive: AdaptivePolicy | None,
    ) -> None:
        self.limits = tuple(limits)
        self.counts_permits = concurrency != math.inf
        self._host = host
        self._concurrency = concurrency
        new_lane = partial(
            limit_state_for, catch_up=catch_up, adaptive=adaptive, report=host.report
        )
        self._new_state = partial(new_lane, concurrency=concurrency)
        self._state = self._new_state(self.limits)
        for limits_of_lane in lanes.values():
            new_lane(limits_of_lane)  # refuses now what it would refuse at the first call
        self._lanes = Lanes(lanes, new_lane)
        self._paused = self._held = -math.inf
        """The instants until which users and the other side hold everything."""
        self._rounds = PushbackRounds(host)

    def reset(self, *, clock_changed: bool) -> None:
        """Start on another loop; what was let through still counts, unless time is another."""
        if clock_changed:
            self._paused = self._held = -math.inf
            self._state = self._new_state(self.limits)
            self._lanes = self._lanes.empty_copy()
        waiters = self._host.waiters
        waiters.lanes, self._lanes.in_use = self._lanes.states, waiters.key_queues

    # From arrival to release.

    def fast_acquire(self) -> Callable[[float, float], float] | None:
        """Return the one step that charges a newcomer, where there are no lanes and permits."""
        plain = not self.counts_permits and not self._lanes.limits
        return self._state.try_consume if plain else None

    def check(self, costs: Sequence[float]) -> None:
        """Refuse a cost that could never start."""
        self._state.check(costs[0])

    def try_acquire(self, call: Call, now: float) -> bool:
        """Charge a newcomer to its lane, the queue and a permit, if all of them have room."""
        host, state, key = self._host, self._state, call.keys[0]
        lane = self._lanes.find(key, now)
        if lane is not None:
            lane.check(call.costs[0])
            if key not in host.waiters.key_queues:
                lane.on_idle(now)
            state = LimitState((lane, state))
        if host.waiters.live:
            return False
        if host.started - host.ended >= self._concurrency:
            state.on_idle(now)
            self._adapt_permits()  # after a long rest there may be more permits again
            if host.started - host.ended >= self._concurrency:
                return False
        return state.try_consume(now, call.costs[0]) <= now

    def joined(self, call: Call) -> None:
        """Do nothing: the wait queue knows."""

    def left(self, call: Call) -> None:
        """Do nothing: the wait queue knows."""

    def earliest(self, call: Call, now: float) -> float:
        """Return when the queue's own limits will have room, if nobody else comes first."""
        return self._state.next_at(now, call.costs[0])

    def estimate(self, key: Hashable, costs: Sequence[float], now: float) -> float:
        """Return when a newcomer would start, if all who wait are charged first."""
        waiters = self._host.waiters
        when = self._state.estimate(now, waiters.cost + costs[0])
        lane = self._lanes.find(key, now)
        if lane is not None:
            when = max(when, lane.estimate(now, waiters.cost_of(key) + costs[0]))
        return when

    def release_due(self, now: float) -> float | None:
        """Grant all that are due; return when to look again (None: nobody waits)."""
        host, state, lanes = self._host, self._state, self._lanes.states
        waiters, grant, limited = host.waiters, host.grant, self.counts_permits
        wake = waiters.wake(now)
        while (call := waiters.first()) is not None:
            if limited and host.started - host.ended >= self._concurrency:
                return math.inf
            cost = call.costs[0]
            lane = lanes.get(call.keys[0]) if lanes else None
            if lane is not None and (due := lane.next_at(now, cost)) > now:
                waiters.park(due)
                wake = due if wake is None or due < wake else wake
                continue
            if (due := state.next_at(now, cost)) > now:
                return due if wake is None or due < wake else wake
            waiters.pop(call)
            state.consume(now, cost)
            if lane is not None:
                lane.consume(now, cost)
            grant(call, now)
        return wake

    # Afterwards.

    def released(self, call: Call) -> None:  # noqa: ARG002 - one permit is like another
        """Let the next have the permit."""
        self._adapt_permits()
        self._host.wake()

    def refund(self, call: Call) -> None:
        """Give back what a call was charged."""
        self._adjust(call, -call.costs[0])

    def settle(self, call: Call, costs: Sequence[float]) -> None:
        """Charge the difference to the true costs."""
        self._adjust(call, costs[0] - call.costs[0])

    def _adjust(self, call: Call, cost: float) -> None:
        self._state.adjust(call.waited_until, cost)
        key = call.keys[0]
        lane = self._lanes.states.get(key)
        if lane is not None:
            lane.adjust(call.waited_until, cost)
            self._host.waiters.wake_key(key)
        self._host.wake()

    def _adapt_permits(self) -> None:
        permits = self._state.permits()
        if permits < math.inf:
            self._concurrency = permits

    # What the other side and users say.

    def throttled(self, call: Call | None, key: Hashable, retry_after: float | None) -> None:
        """Process push-back: hold, and slow down once for each round of calls."""
        host, now = self._host, self._host.now()
        # Of lanes found by one pattern, each slows down for itself.
        scope = None if self._lanes.limits_of(key) is None else (key,)
        if call is not None and call.started:
            released_at = call.waited_until
        else:
            released_at = now if self._rounds.is_news(scope) else -math.inf
        if retry_after is not None:
            self.hold(key, retry_after)
        lane = self._lanes.find(key, now)
        state = self._state if lane is None else lane
        if state.push_back(now, released_at, host.running):
            self._adapt_permits()
            host.waiters.wake_key(key)
            host.wake()
            self._rounds.begin(scope)
            host.count("backed_off", call, key=key)

    def hold(self, key: Hashable, seconds: float) -> None:
        """Start nothing of a key's lane, if it has one, or nothing at all."""
        now = self._host.now()
        lane = self._lanes.find(key, now)
        if lane is not None:
            lane.hold(max(lane.held, now + seconds))
            self._host.wake()
        else:
            self._held = max(self._held, now + seconds)
            self._hold_all()

    def pause(self, seconds: float | None) -> None:
        """Start nothing for so long (None: until `resume`)."""
        until = math.inf if seconds is None else self._host.now() + seconds
        self._paused = max(self._paused, until)
        self._hold_all()

    def resume(self) -> None:
        """End a pause; what it has missed is not made up for."""
        self._paused = min(self._paused, self._host.now())
        self._hold_all()

    def _hold_all(self) -> None:
        self._state.hold(max(self._paused, self._held))
        self._host.wake()

    def set_limits(self, key: Hashable, limits: tuple[Limit, ...]) -> None:
        """Replace the limits of the queue (None), or of a key or pattern."""
        host, now = self._host, self._host.now()
        state = self._new_state(limits)
        for call in host.waiters:
            if key is None or fits(key, call.keys[0]):
                state.check(call.costs[0])
        self._lanes.altered = True
        if key is None:
            state.carry_over(self._state, now)
            self.limits, self._state = limits, state
            host.waiters.wake_all()
        else:
            self._lanes.set_limits(key, limits, now)
            for call in host.waiters:
                self._lanes.find(call.keys[0], now)
            host.waiters.rebuild()
        host.wake()

    # Figures, and the end.

    def idle(self, now: float) -> bool:
        """Return whether no limit owes a wait, and none was set since the queue was made."""
        return not self._lanes.altered and max(self._state.idle_at(), self._lanes.idle_at()) < now

    def snapshot(self) -> LimiterStats:
        """Return the figures of this moment."""
        return LimiterStats(
            lanes=len(self._lanes.states),
            rate=self._state.allowed(),
            paused=self._paused == math.inf,
        )

    async def aclose(self) -> None:
        """Do nothing: nothing is running."""


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
