"""The dispatcher under each `ApiQueue`: it starts, queues and ends calls.

The way of one call: entering a slot calls `try_start`, which starts the call at once if no call
waits and its limits have room. Otherwise the call joins the wait queue with a Future (`join`). The
ticker, a task that exists only while calls wait, sleeps until a call is due. The limiter then takes
the call that is first at that moment, charges it to its limits, and calls `grant`, which resolves
its Future. Whatever changes which call is first, or when it is due, wakes the ticker (`wake`),
which looks at everything again.
"""

from __future__ import annotations

import math
from threading import get_ident
from typing import TYPE_CHECKING

import anyio

from aioapiqueue._core.figures import LaneFigures, QueueFigures
from aioapiqueue._core.followers import Follower, Followers
from aioapiqueue._core.labels import log_loss, queue_text
from aioapiqueue._core.limit_changes import declare_units, note_remote_limits
from aioapiqueue._core.local_limiter import LocalLimiter
from aioapiqueue._core.loops import BoundLoop, loop_of_this_thread, running_loop
from aioapiqueue._core.nesting import Nesting, tracking
from aioapiqueue._core.quota_policy import policy
from aioapiqueue._core.slot import GRANTED, HELD, LEFT, WAITING, Call, SlotFuture
from aioapiqueue._core.statements import Hold, ServerCount, Settled, Throttled
from aioapiqueue._core.timers import Ticker, Timeouts
from aioapiqueue._core.unknown_keys import UnknownKeys
from aioapiqueue._core.wait_queue import WaitQueue
from aioapiqueue._limits.cost_units import ONE_CALL, LateCosts, Units
from aioapiqueue.exceptions import QueueClosed, QueueFull

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Hashable, Mapping, Sequence
    from typing import Any, NoReturn, SupportsIndex

    from aioapiqueue._core.events import EventKind
    from aioapiqueue._core.observers import Notifier, Observer
    from aioapiqueue._core.orders import Order
    from aioapiqueue._core.quota_policy import QueueQuotas
    from aioapiqueue._core.seam import Limiter, LimiterFactory, LimitSettings
    from aioapiqueue._core.stats import Stats
    from aioapiqueue._core.weights import Weights
    from aioapiqueue._limits.cost_units import Cost
    from aioapiqueue._limits.limit_types import Limit


class Dispatcher:
    """The calls of one queue: which wait, which run, and on which event loop.

    Args:
        settings: the queue's limits.
        name: name of the queue in `repr`, events and errors.
        order: order of waiting calls that have the same priority.
        maxsize: largest number of waiting calls; 0: no limit.
        drop_oldest: refuse the oldest of the least urgent calls if too many wait, instead of the
            new one.
        factory: makes the limiter of a shared quota; None: the limits are this queue's alone.
        strict_lanes: refuse keys that fit no lane.
        weights: of keys, which take turns; None: the turns of all keys are equal.
    """

    def __init__(
        self,
        settings: LimitSettings,
        *,
        name: str | None,
        order: Order,
        maxsize: int,
        drop_oldest: bool,
        factory: LimiterFactory | None,
        strict_lanes: bool = False,
        weights: Weights | None = None,
    ) -> None:
        # At most 22 attributes (tests/core/test_hot_objects.py): what only some queues need is a
        # `Follower`. Beyond 29, CPython 3.11 stops sharing attribute names between instances, which
        # makes a slot 2.7 % slower and a queue 1.3 kB larger.
        self.name = name
        self.closed = ""
        """Why the queue accepts no more calls, and what to do; empty while it is open."""
        self.started = 0
        """Number of calls that have started, without those whose slot was refunded."""
        self.ended = 0
        """Number of those calls that have ended."""
        self.loop = BoundLoop()
        self.units = Units()
        lanes = settings.lanes
        for one in (settings.limits, *lanes.values()):
            declare_units(self.units, one)
        self._notifier: Notifier | None = None
        """Sends events to observers; None: the queue has no observers."""
        self.lanes: LaneFigures | None = None
        """Figures of the lanes; None: the queue has no lanes."""
        self.unknown_keys = UnknownKeys(self, lanes, is_strict=strict_lanes)
        self._followers: Followers | None = None
        self._ticker = Ticker(self)
        self._timeouts = Timeouts(self, self._ticker.be_exact)
        self.figures = QueueFigures()
        # The limiter is made before the wait queue, because it determines the kind of that.
        make = LocalLimiter if factory is None else factory.make_limiter
        self.limiter: Limiter = make(self, settings)
        options: Any = {"maxsize": maxsize, "ranked": drop_oldest and maxsize > 0}
        if weights is None:
            options["order"] = self.limiter.traits.order or order
            self.waiters: WaitQueue[Call] = WaitQueue(self._ticker.wake, **options)
        else:
            make_waiters = weights.queue_type(self.units, settings.limits)
            self.waiters = make_waiters(self._ticker.wake, **options)
        self.limits_follow_ends = False
        # A shared quota needs to know of each call that waits, and `maxsize` may refuse it.
        # Followers need to know, too: for them, `follow` chooses again.
        is_plain = self.limiter.traits.alone and not maxsize
        self.join = self._join_behind if is_plain else self._join
        """Adds a call to the wait queue; see `_join`."""
        self.nesting = Nesting(self, settings)
        if lanes or strict_lanes:
            self.lanes = LaneFigures(self, lanes)
            self.follow(self.lanes)
        if self.nesting.of_lanes:
            self.follow(self.nesting)
        if weights is not None:
            self.follow(weights.follower(self))
        # The first reset also makes what is replaced with each loop, such as the fast steps.
        self._forget_callers(clock_changed=False)

    def observe(self, observers: Sequence[Observer]) -> None:
        """Send events to these observers as well from now on."""
        if self._notifier is None:
            from aioapiqueue._core.observers import Notifier  # noqa: PLC0415 - few queues need it

            self._notifier = Notifier(self, self._number_of)
        self._notifier.add(observers)

    def follow(self, follower: Follower) -> None:
        """Call a follower as well from now on."""
        before = Followers(()) if self._followers is None else self._followers
        self._followers = before.with_one(follower)
        self.join = self._join
        self._note_ends()

    @property
    def limits(self) -> tuple[Limit, ...]:
        """The queue's own limits that are in force."""
        return self.limiter.limits_of(None) or ()

    @property
    def learnt(self) -> Mapping[Hashable, tuple[Limit, ...]]:
        """The limits that servers have stated, by key; None: the queue itself."""
        return {} if self.server_quotas is None else self.server_quotas.learnt

    @property
    def running(self) -> int:
        """Number of bodies that run."""
        return self.started - self.ended

    @property
    def call_makers(self) -> tuple[Callable[..., Call], Callable[..., Call]]:
        """Functions that make a call without options, and any other call."""
        plain, detailed = self.limiter.traits.call_types
        if self.nesting.active:
            plain, detailed = tracking(plain), tracking(detailed)
        return plain.new, self.unknown_keys.checked(detailed.new)

    def __repr__(self) -> str:
        return queue_text(self)

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        """Refuse to be copied or pickled, also as part of a queue or a slot."""
        raise TypeError(
            f"{self!r} cannot be copied or pickled, because each copy would allow the full limit: "
            "pass the queue itself, or share a quota between processes with schedule="
        )

    def stats(self) -> Stats:
        """Return the queue's current figures."""
        unaccounted = 0 if self.server_quotas is None else self.server_quotas.unaccounted
        return self.figures.stats(self, self.lanes, unaccounted)

    # How a call starts.

    def try_start(self, call: Call) -> bool:
        """Start a new call, or one that is queued `again`, if it need not wait.

        Most calls are charged by the steps that `fast_acquire` returned, all others by the limiter.

        Raises:
            QueueClosed: the queue is closed.
        """
        # If the bound loop runs in this thread, it is the running one. get_running_loop would cost
        # a system call. Attributes that hold functions are loaded into a local first, here and
        # below: CPython 3.11 does not specialize `self.attribute()` for them.
        loop = self.loop
        loop_runs = loop.runs
        if get_ident() != loop.thread or not loop_runs():
            self._bind(loop_of_this_thread())
        clock = loop.now
        call.joined_at = now = clock()
        # What `Limiter.fast_acquire` returned: for one rate, `TokenBucket.try_consume_one`. It
        # charges the call, or returns the later instant at which it may start. None while closed.
        fast = self._fast_one
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
        if self._followers is not None and (notify := self._followers.started) is not None:
            notify(call, 0.0)
        return True

    def _join_behind(
        self, call: Call, future: asyncio.Future[Any], arrival: int | None = None
    ) -> None:
        """Do the same as `_join`, where a call behind others concerns no follower or limiter."""
        if call.timeout is None and arrival is None:
            call.future = future
            call.state = WAITING
            if self.waiters.put_behind(call):
                if self._ticker.task is None:  # it was cancelled
                    self._ticker.start()
                return
        self._join(call, future, arrival)

    def _join(self, call: Call, future: asyncio.Future[Any], arrival: int | None = None) -> None:
        """Add a new call that could not start to the wait queue.

        Args:
            call: the call.
            future: resolved with the call when it may start.
            arrival: number by arrival of a call that is queued again; default: the next number.

        Raises:
            SlotTimeout: even the next slot comes too late.
            QueueFull: too many calls are waiting.
        """
        timeout, waiters = call.timeout, self.waiters
        if timeout is not None:
            self._timeouts.check(call, timeout)
        refused = None
        if waiters.maxsize and waiters.live >= waiters.maxsize:
            refused = self._call_to_refuse(call)
        call.future = future
        call.state = WAITING
        waiters.put_nowait(call)
        followers = self._followers
        # Figures count the call before the limiter sees it, which may grant or refuse it at once.
        if followers is not None and (notify := followers.joining) is not None:
            notify(call)
        if timeout is not None:  # only now: a call that was refused must not leave a timer behind
            self._timeouts.start(call, timeout, future.get_loop())
        if arrival is not None:
            waiters.move_up(call, arrival)
        self.limiter.joined(call)
        if followers is not None and (notify := followers.joined) is not None:
            notify(call)
        if refused is not None:
            self.fail(refused[0], "refused", refused[1])
        ticker = self._ticker
        if ticker.task is None:
            ticker.start()

    def enqueue(self, call: Call, arrival: int | None = None) -> SlotFuture:
        """Start or queue a new call, and return a Future of its slot.

        Args:
            call: the call.
            arrival: number by arrival of a call that is queued again; default: the next number.
        """
        if arrival is not None:
            call.arrival = arrival
        starts = self.try_start(call)  # before the Future, because it binds the queue to the loop
        future = SlotFuture(call, loop=self.loop.current)
        if starts:
            if self._notifier is not None:
                self._number_of(call)
            elif arrival is None:
                call.arrival = self.waiters.next_number()
            call.state = GRANTED  # instead of HELD, so that cancelling the Future refunds the slot
            future.set_result(call)
        else:
            self.join(call, future, arrival)
        return future

    def _number_of(self, call: Call) -> int:
        """Return a call's number by arrival; give it one if it has none."""
        number: int | None = getattr(call, "arrival", None)
        if number is None:  # the call did not wait
            number = call.arrival = self.waiters.next_number()
        return number

    def again(self, call: Call, cost: Cost | None, timeout: float | None) -> SlotFuture:
        """End a call, and queue it again in its old place.

        A call that did not wait the first time has no place, and goes before all calls that did.
        """
        another = self.call_makers[1](self, call.keys, call.priority, timeout)
        # A plain tuple: `LateCosts` note what the first attempt was charged, and when.
        another.costs = tuple(call.costs) if cost is None else self.units.costs_of(cost)
        arrival: int | None = getattr(call, "arrival", None)
        if arrival is None:
            arrival = self.waiters.early_number()
        call.release()
        return self.enqueue(another, arrival)

    def _call_to_refuse(self, call: Call) -> tuple[Call, QueueFull]:
        """Return the waiting call to refuse in favour of a new one, and the error for it.

        Raises:
            QueueFull: the new call itself is refused.
        """
        error = QueueFull(f"{self!r} is full (maxsize={self.waiters.maxsize})")
        oldest = self.waiters.oldest_of_least_urgent()
        if oldest is None or oldest.priority < call.priority:
            self.emit("refused", call)
            raise error
        return oldest, error

    def wake(self) -> None:
        """Wake the ticker: which call is first, or when it is due, may have changed."""
        self._ticker.wake()

    def grant(self, call: Call, now: float) -> None:
        """Resolve the Future of a call that was taken out of `waiters` and charged."""
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
        del call.future  # the Future is about to refer to the call: no reference cycle
        future.set_result(call)
        if self._followers is not None and (notify := self._followers.started) is not None:
            notify(call, waited)

    # How a call ends.

    def finished(self, call: Call, raised: object) -> None:
        """Process the end of a body; called only while `follows_ends` is set."""
        if call.waited_until < self.loop.bound_at:
            return  # it began on an earlier loop, and was counted as ended when that was replaced
        self.ended += 1
        if self.limits_follow_ends:
            self.limiter.ended(call, used=True)
        if self._followers is not None and (notify := self._followers.ended) is not None:
            notify(call, raised)

    def refund(self, call: Call) -> None:
        """Take back a granted slot whose caller was cancelled before it resumed."""
        call.state = LEFT
        if call.waited_until < self.loop.bound_at:
            return  # as in `finished`
        self.started -= 1
        self.figures.refunded(call)
        if self._followers is not None and (notify := self._followers.refunded) is not None:
            notify(call)
        self.limiter.ended(call, used=False)
        self.emit("cancelled", call)

    def leave(self, call: Call, kind: EventKind) -> None:
        """Take a waiting call out of the queue, without a slot."""
        call.state = LEFT
        call.waited_until = self.loop.now()
        loop = call.future.get_loop()
        if loop is self.loop.current:  # else the call waited on an earlier loop
            if not loop.is_closed():  # else cancelling would schedule callbacks on it, and raise
                call.future.cancel()  # no effect on a Future that is done
            self.limiter.left(call, self.waiters.leave(call))
            self._timeouts.stop(call)
            if self._followers is not None and (notify := self._followers.left) is not None:
                notify(call)
            self.wake()  # if it was first, the next call may need less, and be due earlier
        self.emit(kind, call)

    def fail(self, call: Call, kind: EventKind, error: Exception) -> None:
        """Take a waiting call out of the queue, and raise an error in its caller."""
        if call.waits:
            # First, because `leave` cancels the Future, which has no effect once it is done.
            call.future.set_exception(error)
            self.leave(call, kind)

    async def aclose(self, *, drain: bool, within: float | None, why: str) -> None:
        """Accept no more calls, refuse the waiting ones, and stop the ticker and the limiter.

        Args:
            drain: let the waiting calls start first.
            within: longest time to drain in seconds; None: no limit.
            why: what closed the queue, and what to do; for the errors of later calls.
        """
        self.bind()
        self.closed = self.closed or why
        self.find_fast_acquire()  # which drops the fast steps, because they do not check `closed`
        try:
            with anyio.move_on_after(within):
                if drain:
                    await self.waiters.join()
        finally:
            # Also if cancelled while draining: no await before the last call is refused.
            for call in list(self.waiters):  # a copy, because each that fails leaves the queue
                error = QueueClosed(f"{self!r} was closed while this call waited")
                self.fail(call, "refused", error)
            self._ticker.stop()
            await self.limiter.aclose()
        await self._ticker.ended()

    # What users decide, and what their calls report.

    def note_remote_limits(self, key: Hashable, limits: Sequence[Limit]) -> None:
        """Note limits of the queue (None), or of a key or pattern, that another process set."""
        note_remote_limits(self, key, limits)

    def starts_unpaced(self, call: Call) -> None:
        """Warn once that a call has no limit because none of its keys has a lane."""
        self.unknown_keys.starts_unpaced(call)

    def settle(self, call: Call, cost: Cost) -> None:
        """Charge or refund the difference to the true costs of a call."""
        before, costs = call.costs, self.units.settled(cost, call.costs)
        # `call.costs` changes last: all that is called before needs the costs that were charged.
        self.limiter.apply(Settled(call, costs))
        noted = LateCosts.noted(before, costs, self.loop.now())
        self.figures.settled(self, call, noted)
        if self._followers is not None and (notify := self._followers.settled) is not None:
            notify(call, costs)
        call.costs = noted
        if self._notifier is not None:
            self.emit("settled", call, before=self._notifier.named(before))

    def throttled(self, retry_after: float | None, call: Call | None, key: Hashable) -> None:
        """Slow down: the server throttled a call, or (None) some call with this key."""
        if call is None or key not in call.keys:  # a call's own key may look like a pattern
            self.unknown_keys.refuse_pattern(key)
        self.bind()
        # The event comes first, because applying may lower the rate and emit `backed_off`.
        self.emit("throttled", call, key=key, retry_after=retry_after)
        self.limiter.apply(Throttled(call, key, retry_after))

    def hold(self, seconds: float, call: Call | None, key: Hashable) -> None:
        """Start no calls of a lane for some seconds: of a call's lane, or (None) of a key's."""
        if call is None:
            self.unknown_keys.refuse_pattern(key)
        self.limiter.apply(Hold(key, self.bind() + seconds))
        if self._notifier is not None:
            # A key without a lane holds the whole queue.
            lane = key if self.limiter.limits_of(key) is not None else None
            self.emit("held", None if lane is None else call, key=lane, seconds=seconds)

    # What servers report of their quotas.

    server_quotas: QueueQuotas | None = None
    """The policy for servers' reports. The first report sets it, on the instance."""

    def find_server_quotas(self, *, begins: bool = True) -> QueueQuotas:
        """Return the policy for servers' reports, attached by the first call; see `Host`."""
        found = self.server_quotas
        if found is None:
            found = policy.load()[0](self, self.figures.costs)
            if begins:
                self.server_quotas = found
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
        """Apply a remaining quota that a user reports."""
        self.unknown_keys.refuse_pattern(key)
        self.bind()
        place = self.units.known_place_of(unit)
        count = ServerCount(place, remaining, reset, limit, call=call, key=key)
        # Only now: a report that is refused attaches no policy.
        self.find_server_quotas().sync(count)

    def answered(self, call: Call) -> None:
        """Note that the server has answered a call, if the queue follows its reports."""
        if self.server_quotas is not None:
            self.server_quotas.answered(call)

    # Counters and followers.

    def emit(
        self,
        kind: EventKind,
        call: Call | None = None,
        *,
        key: Hashable = None,
        **details: Any,  # noqa: ANN401 - of `Event`, each of its own type
    ) -> None:
        """Count an event, if its kind is counted, and notify the followers.

        Args:
            kind: kind of the event.
            call: the call that it happened to, if it is known.
            key: key of the lane that it happened to; default: the call's first key.
            details: other attributes of an `Event` of this kind.
        """
        counts = self.figures.counts
        if kind in counts:
            counts[kind] += 1
        if self._followers is not None and (notify := self._followers.happened) is not None:
            notify(kind, call, key, **details)
        if kind == "disconnected" and not (self._notifier and self._notifier.wants(kind)):
            log_loss(self)  # otherwise calls would wait, and no user would learn why

    # The loop.

    def bind(self) -> float:
        """Bind to the running loop, if there is one, and return the present instant.

        Raises:
            RuntimeError: the queue is in use on another loop that is still open.
        """
        loop = running_loop()
        if loop is not None:
            self._bind(loop)
        return self.loop.now()

    def _bind(self, loop: asyncio.AbstractEventLoop) -> None:
        current = self.loop.current
        if loop is current:
            self.loop.thread = get_ident()  # it may run in another thread than before
            return
        if current is not None and not current.is_closed():
            raise RuntimeError(
                f"{self!r} is in use on another event loop that is still open: close that loop "
                "first, create a queue for each loop (a HostSchedule shares the limits), or use "
                "blocking(queue) in threads (aioapiqueue docs threads)"
            )
        clock_changed = self.loop.bind(loop)
        self._forget_callers(clock_changed=clock_changed)

    def _forget_callers(self, *, clock_changed: bool) -> None:
        # A new object: the old ticker compares it with its own, and then leaves the new state
        # alone.
        self.waiters = self.waiters.empty_copy()
        self._timeouts.clear()
        self._ticker.forget_loop()
        self.ended = self.started  # their tasks ended with the loop
        self.nesting.forget_callers()
        if self._followers is not None and (notify := self._followers.loop_changed) is not None:
            notify(clock_changed=clock_changed)
        # After all that it reads: the new `waiters`, and the number of running calls, which is 0.
        self.limiter.reset(clock_changed=clock_changed)
        self.find_fast_acquire()

    def find_fast_acquire(self) -> None:
        """Ask the limiter again which calls may start without it, and whether ends matter."""
        steps = self.limiter.fast_acquire(self.figures.costs)
        if self.closed:
            steps = (None, None, steps[2])
        self._fast_one, self._fast_costly, self.limits_follow_ends = steps
        self._note_ends()

    def _note_ends(self) -> None:
        # The end of a body is only counted, without a call of `finished`, unless one of these needs
        # it: a limit (permits, reports of servers), a follower, or a body that began on an earlier
        # loop, which must not be counted again.
        follows = self._followers is not None and self._followers.ended is not None
        had_another_loop = self.loop.bound_at > -math.inf
        self.follows_ends = self.limits_follow_ends or follows or had_another_loop

    def abandon_loop(self) -> tuple[object, ...]:
        """Forget the loop and all calls on it, in a child process made by `fork`.

        Returns:
            Objects to keep alive. If they were collected, the loop would close the parent's
            selector, and the ticker would run its `finally` on the queue's new state.
        """
        # Read before they are replaced below.
        left = (self.loop.current, self._ticker.abandon(), self.waiters)
        self.loop.forget()
        self._forget_callers(clock_changed=False)
        return left
