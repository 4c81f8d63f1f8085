"""On which loop: the dispatcher under `ApiQueue`, with its counters and time-outs.

The way of one call: entering a slot asks `try_start`, which lets it start at once where nobody
waits and its limits have room. Otherwise it joins the wait queue (`join`) with a Future, and the
ticker, a task that exists only while somebody waits, sleeps until the limiter says that a call is
due, and has it grant the one who is next by then (`release_due`, `grant`). All that changes who is
next, or when, wakes the ticker (`wake`), which looks at everything again.
"""

from __future__ import annotations

import asyncio
import logging
import math
from asyncio import get_running_loop
from threading import get_ident
from typing import TYPE_CHECKING

import anyio

from aioapiqueue._core.events import Costs, report_error
from aioapiqueue._core.figures import LaneFigures, QueueFigures
from aioapiqueue._core.followers import BegunHere, Follower, Followers
from aioapiqueue._core.labels import limits_text, name_text, state_text
from aioapiqueue._core.limiter import FastAcquire
from aioapiqueue._core.local_limiter import LocalLimiter
from aioapiqueue._core.loop import BoundLoop, loop_of_this_thread, running_loop
from aioapiqueue._core.nesting import Nesting, tracking
from aioapiqueue._core.observers import Audience
from aioapiqueue._core.slot import GRANTED, HELD, LEFT, WAITING, Call, Reservation
from aioapiqueue._core.statements import Hold, SetLimits, Settled, Throttled
from aioapiqueue._core.ticker import Ticker
from aioapiqueue._core.timeouts import Timeouts
from aioapiqueue._core.unknown_keys import UnknownKeys
from aioapiqueue._core.wait_queue import WaitQueue
from aioapiqueue._limits.rates import Concurrency, LearntRate
from aioapiqueue._limits.units import ONE_CALL, LateCosts, Units
from aioapiqueue.exceptions import QueueClosed, QueueFull

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
    from typing import Any, NoReturn, SupportsIndex

    from aioapiqueue._core.events import EventKind, Observer
    from aioapiqueue._core.limiter import Limiter, LimiterFactory
    from aioapiqueue._core.order import Order
    from aioapiqueue._core.statements import Pause, Resume
    from aioapiqueue._core.stats import Stats
    from aioapiqueue._limits.lanes import AdaptivePolicy
    from aioapiqueue._limits.rates import Limit
    from aioapiqueue._limits.units import Cost
    from aioapiqueue._server_quotas.of_queue import ServerQuotas

__all__ = ["Dispatcher"]

_LOG = logging.getLogger("aioapiqueue")


class Dispatcher:
    """Binds to a loop, lets callers wait, and releases each when its limiter says so.

    Args:
        limits: of all callers together.
        name: for `repr`, events and errors.
        lanes: limits of single keys.
        order: who goes first among those of one priority.
        concurrency: how many bodies may run at once; inf: any number.
        maxsize: how many may wait; 0: any number.
        drop_oldest: whether the oldest of the least urgent is turned away when too many wait,
            and not the newcomer.
        catch_up: seconds by which late calls may be made up for.
        adaptive: how to slow down on push-back.
        factory: makes the limiter, where the limits are not this queue's alone.
        strict_lanes: whether a key that fits no lane is refused.
    """

    def __init__(
        self,
        limits: Sequence[Limit],
        *,
        name: str | None,
        lanes: Mapping[Hashable, Sequence[Limit]],
        order: Order,
        concurrency: float,
        maxsize: int,
        drop_oldest: bool,
        catch_up: float,
        adaptive: AdaptivePolicy | None,
        factory: LimiterFactory | None,
        strict_lanes: bool = False,
    ) -> None:
        # CPython 3.11 shares the keys of up to 29 attributes among instances. With one more, every
        # look-up costs more (2.7 % of a slot's instructions), and a queue has 1.3 kB more. Here are
        # at most 22 (tests/test_hot_objects.py): what only some queues need is a `Follower`.
        self.name = name
        self.closed = ""
        """Why it takes no more calls, and what to do; empty: it does. Set by `_close`."""
        self.started = 0
        """How many calls have started, less those whose slot was refunded."""
        self.ended = 0
        self.loop = BoundLoop()
        self._here: BegunHere | None = None
        """Where bodies ran on a loop with another clock: the calls that run on this one."""
        self.units = Units()
        for one in (limits, *lanes.values()):
            self._declare(one)
        self._audience: Audience | None = None
        """Who is informed of what happens, if anybody is."""
        self.lanes: LaneFigures | None = None
        """Their figures, if there are any."""
        self.unknown_keys = UnknownKeys(self, lanes, is_strict=strict_lanes)
        self._followers: Followers | None = None
        """The followers, if there are any."""
        self._ticker = Ticker(self)
        self._timeouts = Timeouts(self)
        self.figures = QueueFigures()
        make: Callable[..., Limiter] = LocalLimiter
        if factory is not None:
            make = factory.make_limiter
        self.limiter = make(
            self, limits, lanes, concurrency=concurrency, catch_up=catch_up, adaptive=adaptive
        )
        self.waiters: WaitQueue[Call] = WaitQueue(
            self._ticker.wake,
            order=self.limiter.traits.order or order,
            maxsize=maxsize,
            ranked=drop_oldest and maxsize > 0,
        )
        self.limits_follow_ends = False
        self.nesting = Nesting(self, limits, lanes, concurrency)
        if lanes or strict_lanes:
            self.lanes = LaneFigures(self, lanes)
            self.follow(self.lanes)
        if self.nesting.of_lanes:
            self.follow(self.nesting)
        self._forget_callers(clock_changed=False)

    def observe(self, observers: Sequence[Observer]) -> None:
        """Inform these, too, of what happens from now on."""
        if self._audience is None:
            self._audience = Audience(
                name=self.name,
                units=self.units,
                number_of=self._number_of,
                loop=self.loop,
                report=report_error,
            )
        self._audience.add(observers)
        self.follow(self._audience)

    def follow(self, follower: Follower) -> None:
        """Tell a follower, too, what happens from now on."""
        before = Followers(()) if self._followers is None else self._followers
        self._followers = before.with_one(follower)
        self._note_ends()

    @property
    def limits(self) -> tuple[Limit, ...]:
        """Those in force of the queue as a whole."""
        return self.limiter.limits_of(None) or ()

    @property
    def running(self) -> int:
        """How many bodies run."""
        return self.started - self.ended

    @property
    def call_types(self) -> tuple[Callable[..., Call], Callable[..., Call]]:
        """What to make for a call that asks for nothing special, and for any other."""
        plain, detailed = self.limiter.traits.call_types
        if self.nesting.active:
            plain, detailed = tracking(plain), tracking(detailed)
        return plain, self.unknown_keys.checked(detailed)

    def __repr__(self) -> str:
        state = state_text(self.limiter.snapshot(), closed=bool(self.closed))
        return (
            f"<{name_text('ApiQueue', self.name)} {self._limits_text()}: {state}, "
            f"{self.waiters.live} waiting, {self.running} running>"
        )

    def html(self) -> str:
        """Return the limits, the state and the figures as a table of HTML."""
        from aioapiqueue._core.stats import html_of_queue  # noqa: PLC0415 - late: see there

        state = state_text(self.limiter.snapshot(), closed=bool(self.closed))
        return html_of_queue(self.name, self._limits_text(), state, self.stats())

    def _limits_text(self) -> str:
        learnt = () if self._server is None else self._server.learnt
        return limits_text(self.limits, learnt)

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        """Refuse to be copied or pickled, be it with a queue or with a slot of it."""
        raise TypeError(
            f"{self!r} cannot be copied or pickled, because each copy would allow the full limit: "
            "pass the queue itself, or share a quota between processes with schedule="
        )

    def stats(self) -> Stats:
        """Return the queue's figures, as things stand."""
        return self.figures.stats(self, self.lanes, self._server)

    def lane_of(self, keys: Sequence[Hashable]) -> Hashable:
        """Return under which name there are figures of a call with these keys; None: under none."""
        return None if self.lanes is None else self.lanes.name_of(keys)

    def idle(self) -> bool:
        """Return whether this is as good as new: nobody waits, no body runs, no limit owes a wait.

        Never while it is closed, shares its quota with others, or has limits that were set since
        it was made.
        """
        busy = self.waiters.live or self.running or self.closed
        return not busy and self.limiter.snapshot(deep=True).idle_at < self.loop.now()

    # From arrival to release.

    def try_start(self, call: Call) -> bool:
        """Let a newcomer, or a call that comes `again`, start if nothing makes it wait.

        Most are charged by the steps that `fast_acquire` has returned; others by the limiter.

        Raises:
            QueueClosed: the queue takes no more calls.
        """
        # The loop that runs in this thread is the one it was; get_running_loop costs a system call.
        # Here and below, a callable that is an attribute is loaded before it is called: called at
        # once, it is looked up as a method, which CPython 3.11 does not speed up.
        loop = self.loop
        loop_runs = loop.runs
        if get_ident() != loop.thread or not loop_runs():
            self._bind(loop_of_this_thread())
        clock = loop.now
        call.joined_at = now = clock()
        fast = self._fast_one  # None while closed
        if fast is not None and call.costs is ONE_CALL:
            if self.waiters.live or fast(now) > now:
                return False
        else:
            charge, costs = self._fast_costly, call.costs
            if charge is None or self.waiters.live or not charge(now, costs):
                if self.closed:
                    self.emit("refused", call)
                    raise QueueClosed(f"{self!r} accepts no more calls: {self.closed}")
                if not self.limiter.try_acquire(call, now):
                    return False
                if costs is not ONE_CALL:
                    self.figures.costs.add(costs)
        call.waited_until = now
        call.state = HELD
        self.started += 1
        if self._followers is not None and (tell := self._followers.started) is not None:
            tell(call, 0.0)
        return True

    def join(self, call: Call, future: asyncio.Future[Any], arrival: int | None = None) -> None:
        """Let a newcomer, which could not start, wait for `future`.

        Args:
            call: which.
            future: what it waits for.
            arrival: its number by arrival, if it had come before; default: the next.

        Raises:
            SlotTimeout: even the next slot comes too late for it.
            QueueFull: too many wait.
        """
        timeout = call.timeout
        if timeout is not None:
            self._timeouts.check(call, timeout)
        waiters = self.waiters
        is_full = self._overflow(call) if 0 < waiters.maxsize <= waiters.live else None
        call.future = future
        call.state = WAITING
        waiters.put_nowait(call)
        followers = self._followers
        if followers is not None and (tell := followers.joining) is not None:
            tell(call)
        if timeout is not None:  # only now, so that no timer is left by one that is refused
            self._timeouts.start(call, timeout, future.get_loop())
        goes_first = arrival is not None and waiters.move_up(call, arrival)
        self.limiter.joined(call)
        if followers is not None and (tell := followers.joined) is not None:
            tell(call)
        if is_full is not None:
            self.fail(is_full[0], "refused", is_full[1])
        ticker = self._ticker
        if ticker.task is None:
            ticker.start()
        elif goes_first:
            ticker.wake()

    def enqueue(self, call: Call, arrival: int | None = None) -> Reservation:
        """Return a Future of the slot of a new call, which has joined.

        Args:
            call: which.
            arrival: its number by arrival, if it had come before; default: another one.
        """
        try:  # costs nothing, unlike a call of what it raises by
            loop = get_running_loop()
        except RuntimeError:
            loop = loop_of_this_thread()
        future = Reservation(call, loop=loop)
        if arrival is not None:
            call.arrival = arrival
        if self.try_start(call):
            if self._audience is not None:
                self._number_of(call)
            elif arrival is None:
                call.arrival = self.waiters.next_number()
            call.state = GRANTED
            future.set_result(call)
        else:
            self.join(call, future, arrival)
        return future

    def _number_of(self, call: Call) -> int:
        """Return a call's number by arrival, which is its next if it has none yet."""
        number: int | None = getattr(call, "arrival", None)
        if number is None:  # it did not wait
            number = call.arrival = self.waiters.next_number()
        return number

    def again(self, call: Call, cost: Cost | None, timeout: float | None) -> Reservation:
        """Release a call, and let it wait once more, in its old place.

        One of which that is not known, as it did not wait, goes before all who did.
        """
        another = self.call_types[1](self, call.keys, call.priority, timeout)
        another.costs = tuple(call.costs) if cost is None else self.units.costs_of(cost)
        arrival: int | None = getattr(call, "arrival", None)
        if arrival is None:
            arrival = self.waiters.early_number()
        call.release()
        return self.enqueue(another, arrival)

    def _overflow(self, newcomer: Call) -> tuple[Call, QueueFull]:
        """Return who is to be turned away for a newcomer, if it is not that itself, and why."""
        error = QueueFull(f"{self!r} is full (maxsize={self.waiters.maxsize})")
        oldest = self.waiters.oldest_of_least_urgent()
        if oldest is None or oldest.priority < newcomer.priority:
            self.emit("refused", newcomer)
            raise error
        return oldest, error

    def wake(self) -> None:
        """Wake the ticker: who is next, or when, may have changed."""
        self._ticker.wake()

    def grant(self, call: Call, now: float) -> None:
        """Let a call start that has been taken out of `waiters` and charged to its limits."""
        call.state = GRANTED
        call.waited_until = now
        waited = now - call.joined_at
        self.started += 1
        figures = self.figures
        if call.costs is not ONE_CALL:
            figures.costs.add(call.costs)
        figures.waited += waited
        if waited > figures.longest_wait:  # noqa: PLR1730 - a call for each slot
            figures.longest_wait = waited
        if self._timeouts:
            self._timeouts.stop(call)
        future = call.future
        del call.future  # it is about to refer to the call
        future.set_result(call)
        if self._followers is not None and (tell := self._followers.started) is not None:
            tell(call, waited)

    # Ways out.

    def _began_here(self, call: Call) -> bool:
        """Return whether a call that ends, and has not started since `bound_at`, began here."""
        return self._here is not None and self._here.take(call)

    def finished(self, call: Call, raised: object) -> None:
        """Process the end of a body, where there is more to do than to count it."""
        if call.waited_until < self.loop.bound_at and not self._began_here(call):
            return  # it began on a loop that is gone
        self.ended += 1
        if self.limits_follow_ends:
            self.limiter.ended(call, used=True)
        if self._followers is not None and (tell := self._followers.ended) is not None:
            tell(call, raised)

    def refund(self, call: Call) -> None:
        """Take back a slot that its caller, cancelled meanwhile, has not taken up."""
        call.state = LEFT
        if call.waited_until < self.loop.bound_at and not self._began_here(call):
            return  # it was granted on a loop that is gone
        self.started -= 1
        self.figures.refunded(call)
        if self._followers is not None and (tell := self._followers.refunded) is not None:
            tell(call)
        self.limiter.ended(call, used=False)
        self.emit("cancelled", call)

    def leave(self, call: Call, kind: EventKind) -> None:
        """Let a waiter go without a slot."""
        call.state = LEFT
        call.waited_until = self.loop.now()
        loop = call.future.get_loop()
        if loop is self.loop.current:  # else it waited on an earlier one
            if not loop.is_closed():  # else nobody can be resumed any more
                call.future.cancel()  # if it is not done: the awaiting coroutine was closed
            self.limiter.left(call, self.waiters.leave(call))
            self._timeouts.stop(call)
            if self._followers is not None and (tell := self._followers.left) is not None:
                tell(call)
            self.wake()
        self.emit(kind, call)

    def fail(self, call: Call, kind: EventKind, error: Exception) -> None:
        """Let a waiter go with an error."""
        if call.waits:
            call.future.set_exception(error)
            self.leave(call, kind)

    def _close(self, why: str) -> None:
        """Take no more calls: `try_start` refuses them."""
        self.closed = self.closed or why
        self.find_fast_acquire()  # it drops the fast steps, which do not look at `closed`

    async def aclose(self, *, drain: bool, within: float | None, why: str) -> None:
        """Take no more calls, let those who wait go, and end what is running here.

        Args:
            drain: let them start first.
            within: seconds for that at most; None: any time.
            why: what has closed it, and what to do, for the errors of later calls.
        """
        self.bind()
        self._close(why)
        try:
            with anyio.move_on_after(within):
                if drain:
                    await self.waiters.join()
        finally:
            # Cancelled while draining or not: who is left is refused without another await.
            for call in list(self.waiters):
                self.fail(
                    call, "refused", QueueClosed(f"{self!r} was closed while this call waited")
                )
            self._ticker.stop()
            await self.limiter.aclose()
        await self._ticker.ended()

    # Limits that change.

    def set_limits(self, key: Hashable, limits: tuple[Limit, ...]) -> None:
        """Replace the limits of the queue (None), or of a key or pattern."""
        self.unknown_keys.check_lane(key)
        self.bind()
        server = self._server
        beside = {} if server is None else server.beside(key, limits)
        known, waiting = len(self.units), self.waiters.not_left()
        self._declare(limits)
        try:
            changes = {key: limits, **beside}
            self.limiter.apply(*(SetLimits(one, its) for one, its in changes.items()))
        except BaseException:
            self.units.forget(known)
            raise
        self._note_limits(key, limits, waiting)
        if server is not None:
            for name, its in beside.items():
                server.note_limits(name, its, of_pattern=True)
        self.find_fast_acquire()
        self.emit("limits_changed", key=key, limits=limits, origin="user")

    def others_set(self, key: Hashable, limits: Sequence[Limit]) -> None:
        """Note limits of the queue (None), or of a key or pattern, that others set."""
        self._declare(limits)
        if any(isinstance(one, LearntRate) for one in limits):
            self.server_quotas().note_limits(key, limits)
        else:
            self._note_limits(key, limits, self.waiters.not_left())

    def _note_limits(
        self, key: Hashable, limits: Sequence[Limit], waiting: Collection[Call]
    ) -> None:
        """Note limits that are set.

        Args:
            key: or pattern, that has them; None: the queue.
            limits: which.
            waiting: who waited before.
        """
        self.nesting.set_limits(key, limits)
        if self.nesting.of_lanes:
            self.follow(self.nesting)
        if self._server is not None:
            self._server.note_limits(key, limits)
        if key is None:
            self.unknown_keys.permit()  # somebody has said what paces them: perhaps nothing
        else:
            if self.lanes is None:
                self.lanes = LaneFigures(self, ())
                if self.started:
                    self.lanes.begin(self.loop.now())
                self.follow(self.lanes)
            self.lanes.add(key, waiting)

    def starts_unpaced(self, call: Call) -> None:
        """Warn, once, that a call comes under no limit, as none of its keys has a lane."""
        self.unknown_keys.starts_unpaced(call)

    def _declare(self, limits: Sequence[Limit]) -> None:
        self.units.declare(one.unit for one in limits if not isinstance(one, Concurrency))

    def settle(self, call: Call, cost: Cost) -> None:
        """Charge the difference to the true costs of a call that has started."""
        costs = self.units.settled(cost, call.costs)
        self.limiter.apply(Settled(call, costs))
        self.figures.costs.replace(call.costs, costs)
        if self._followers is not None and (tell := self._followers.settled) is not None:
            tell(call, costs)
        before = call.costs
        call.costs = LateCosts.noted(before, costs, self.loop.now())
        if self._audience is not None:
            self.emit("settled", call, before=Costs(self.units.named(before)))

    def throttled(self, retry_after: float | None, call: Call | None, key: Hashable) -> None:
        """Process push-back: on one call, or (None) on some call of a key."""
        if call is None or key not in call.keys:  # of its own, one may be the same as a pattern
            self.unknown_keys.refuse_pattern(key)
        self.bind()
        self.emit("throttled", call, key=key, retry_after=retry_after)
        self.limiter.apply(Throttled(call, key, retry_after))

    def note_malformed(self, key: Hashable) -> None:
        """Count an invalid value that the server has sent."""
        self.bind()
        self.emit("malformed", key=key)

    def hold(self, seconds: float, call: Call | None, key: Hashable) -> None:
        """Start nothing for so long: of the lane of a call, or (None) of a key."""
        if call is None:
            self.unknown_keys.refuse_pattern(key)
        self.limiter.apply(Hold(key, self.bind() + seconds))
        if self._audience is not None:
            # Of a key that has no lane, the whole queue is held.
            lane = key if self.limiter.limits_of(key) is not None else None
            self.emit("held", None if lane is None else call, key=lane, seconds=seconds)

    def apply(
        self,
        statement: Pause | Resume,
        event: EventKind,
        **details: Any,  # noqa: ANN401 - of `Event`, each of its own type
    ) -> None:
        """Have the limiter apply what users decide, and emit an event with these details."""
        self.bind()
        self.limiter.apply(statement)
        self.emit(event, **details)

    # What servers say of their quotas.

    _server: ServerQuotas | None = None
    """What they have said, once one has."""

    def server_quotas(self, *, begins: bool = True) -> ServerQuotas:
        """Return the policy for servers' reports, attached by the first call; see `Host`."""
        found = self._server
        if found is None:
            # Imported late: few queues hear of a server.
            from aioapiqueue._server_quotas.of_queue import ServerQuotas  # noqa: PLC0415

            found = ServerQuotas(self, self.figures.costs)
            if begins:
                self._server = found
                self.follow(found)
        return found

    def sync(
        self,
        call: Call | None,
        remaining: float,
        *,
        unit: str,
        reset: float | None,
        limit: float | None,
        key: Hashable = None,
    ) -> None:
        """Apply a remaining quota that a user reports; see `ServerQuotas.sync`."""
        if self._server is None:  # a report that is refused must not attach the policy
            self.unknown_keys.refuse_pattern(key)
            self.bind()
            self.units.known_place_of(unit)
        self.server_quotas().sync(call, remaining, unit=unit, reset=reset, limit=limit, key=key)

    def answered(self, call: Call) -> None:
        """Note that the server has answered a call, if the queue follows its reports."""
        if self._server is not None:
            self._server.answered(call)

    # What happened, for counters and observers.

    def emit(
        self,
        kind: EventKind,
        call: Call | None = None,
        *,
        key: Hashable = None,
        **details: Any,  # noqa: ANN401 - of `Event`, each of its own type
    ) -> None:
        """Count an event, if its kind is counted, and tell all followers of it.

        Args:
            kind: what happened.
            call: to which.
            key: of the lane that it happened to; default: of the call's first key.
            details: what else an `Event` of that kind has.
        """
        counts = self.figures.counts
        if kind in counts:
            counts[kind] += 1
        if self._followers is not None and (tell := self._followers.happened) is not None:
            tell(kind, call, key, **details)
        if kind == "disconnected" and not (self._audience and self._audience.wants(kind)):
            self._log_loss()

    def _log_loss(self) -> None:
        # Without this, calls would wait, and nobody would know why.
        limiter = self.limiter.snapshot()
        queue = f"{name_text('queue', self.name)} ({self._limits_text()})"
        now = f"{self.waiters.live} waiting, {self.running} running"
        _LOG.warning("%s; calls of the %s %s (%s)", limiter.lost, queue, limiter.meanwhile, now)

    # The loop.

    def bind(self) -> float:
        """Bind to the running loop, if any; return the present instant.

        Raises:
            RuntimeError: the queue is in use on another loop that is still alive.
        """
        loop = running_loop()
        if loop is not None:
            self._bind(loop)
        return self.loop.now()

    def _bind(self, loop: asyncio.AbstractEventLoop) -> None:
        current = self.loop.current
        if loop is current:
            self.loop.thread = get_ident()
            return
        if current is not None and not current.is_closed():
            raise RuntimeError(
                f"{self!r} is in use on another event loop that is still open: close that loop "
                "first, create a queue for each loop (a HostSchedule shares the limits), or use "
                "blocking(queue) in threads (aioapiqueue docs threads)"
            )
        clock_changed = self.loop.bind(loop)
        if self._here is None and clock_changed and self.running:
            self._here = BegunHere()
            self.follow(self._here)
        if self._here is not None:
            self.loop.bound_at = math.inf  # it is no instant that says where a call began
        self._forget_callers(clock_changed=clock_changed)

    def _forget_callers(self, *, clock_changed: bool) -> None:
        self.waiters = self.waiters.empty_copy()
        self._timeouts.clear()
        self._ticker.forget_loop()
        self.ended = self.started
        self.nesting.forget_callers()
        if self._followers is not None and (tell := self._followers.loop_changed) is not None:
            tell(clock_changed=clock_changed)
        self.limiter.reset(clock_changed=clock_changed)
        self.find_fast_acquire()

    def find_fast_acquire(self) -> None:
        """Find out again which calls may start without the limiter, and which ends are followed."""
        steps = self.limiter.fast_acquire(self.figures.costs)
        if self.closed:
            steps = FastAcquire(follows_ends=steps.follows_ends)
        self._fast_one, self._fast_costly, self.limits_follow_ends = steps
        self._note_ends()

    def _note_ends(self) -> None:
        follows = self._followers is not None and self._followers.ended is not None
        had_another_loop = self.loop.bound_at > -math.inf
        self.follows_ends = self.limits_follow_ends or follows or had_another_loop

    def abandon_loop(self) -> tuple[object, ...]:
        """Forget the loop and all who wait or run on it, in a child made by `fork`.

        Returns:
            What must be kept alive: collecting it would reach into the parent's selector, or into
            the state that this queue has by then.
        """
        left = (self.loop.current, self._ticker.abandon(), self.waiters)
        self.loop.forget()
        self._forget_callers(clock_changed=False)
        return left
