"""On which loop: the dispatcher under `ApiQueue`. The only file that makes tasks and timers.

The way of one call: entering a `Slot` asks `_arrive`, which charges the schedule at once where
nobody waits and a slot is due. Otherwise a Future joins the waiters (`_join`), and the ticker (a
task that exists only while somebody waits) sleeps until the next slot is due, and only then picks
the waiter that gets it (`_release_due`, `_grant`). Whatever changes who is next or when nudges the
ticker, which looks at everything anew.
"""

from __future__ import annotations

import asyncio
import math
import time
from asyncio import get_running_loop
from asyncio.log import logger
from contextvars import Context
from functools import partial
from threading import get_ident
from types import FunctionType
from typing import TYPE_CHECKING, Protocol

from aioapiqueue._algorithms import LimitState
from aioapiqueue._events import Event, EventKind
from aioapiqueue._fleet.session import NOW
from aioapiqueue._lanes import AdaptivePolicy, Lanes, limit_state_for
from aioapiqueue._rate import LONGEST, Limit, positive
from aioapiqueue._slot import GRANTED, HELD, OVER, WAITING, Slot
from aioapiqueue._wait_queue import WaitQueue
from aioapiqueue.exceptions import QueueClosed, QueueFull, SlotTimeout

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from aioapiqueue._events import Observer
    from aioapiqueue._fleet.limiter import Member

__all__ = ["Authority", "Dispatcher", "at_rest"]

_LONGEST_TIMER = 86_400.0
"""Seconds after which the ticker looks again at the latest, whatever is due in many years."""


class Authority(Protocol):
    """What `schedule=` takes: `integrations.redis.SharedSchedule`, which the core need not know."""

    def join(
        self, queue: Dispatcher, *, catch_up: float, adaptive: AdaptivePolicy | None
    ) -> Member:
        """Return the part that this queue has in the quota."""


class Dispatcher:
    """Binds to a loop, lets callers wait, and releases each when it is due.

    Args:
        limits: of all callers together.
        name: for `repr`, events and errors.
        lanes: limits of single keys.
        fair: whether keys take turns.
        concurrency: how many bodies may run at once; inf: any number.
        maxsize: how many may wait; 0: any number.
        drop_oldest: who is turned away when too many wait.
        catch_up: seconds by which late calls may be made up for.
        adaptive: how to slow down on push-back.
        authority: who keeps the limits, if not this queue for itself.
        observers: who hears of every event.
    """

    def __init__(
        self,
        limits: Sequence[Limit],
        *,
        name: str | None,
        lanes: Mapping[Hashable, Sequence[Limit]],
        fair: bool,
        concurrency: float,
        maxsize: int,
        drop_oldest: bool,
        catch_up: float,
        adaptive: AdaptivePolicy | None,
        authority: Authority | None,
        observers: Sequence[Observer],
    ) -> None:
        # CPython 3.11 shares the keys of up to 29 attributes among instances; with one more, every
        # look-up costs more (7 % of an uncontended slot, measured).
        self.name = name
        self._limits = tuple(limits)
        self._concurrency = concurrency
        self._maxsize = maxsize
        new_state = partial(
            limit_state_for, catch_up=catch_up, adaptive=adaptive, report=self._report
        )
        self._new_schedule = partial(new_state, concurrency=concurrency)
        self._observers = tuple(observers)
        self._heeds_arrivals = concurrency != math.inf or bool(lanes) or authority is not None
        self._heeds_ends = concurrency != math.inf or bool(observers)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_runs: Callable[[], bool] = bool
        self._thread = 0
        self._clock: Callable[[], float] = time.monotonic
        self._ticker: asyncio.Task[None] | None = None
        self._alarm: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._counts: dict[EventKind, int] = dict.fromkeys(
            ("cancelled", "timed_out", "refused", "throttled", "slowed", "odd"), 0
        )
        self._started = 0
        self._ended = 0
        self._waited = 0.0
        self._longest_wait = 0.0
        self._timers: dict[Slot, asyncio.TimerHandle] = {}
        self._paused = self._pushed_back = -math.inf
        self._rounds: dict[tuple[Hashable] | None, int] = {}
        """For each lane (by its key), and the queue (None), that slowed down: how many calls had
        started by then; those over are dropped when they are many."""
        self._schedule = self._new_schedule(self._limits)
        for limits_of_lane in lanes.values():
            new_state(limits_of_lane)  # refuses now what it would refuse at the first call
        self._lanes = Lanes(lanes, new_state)
        self._waiters = WaitQueue(self._nudge, fair=fair, ranked=drop_oldest and maxsize > 0)
        self._shared: Member | None = None
        if authority is not None:
            self._shared = authority.join(self, catch_up=catch_up, adaptive=adaptive)
        self._forget_callers()

    @property
    def waiting(self) -> int:
        """How many callers wait."""
        return self._waiters.live

    @property
    def running(self) -> int:
        """How many bodies run."""
        return self._started - self._ended

    def __repr__(self) -> str:
        limits = ", ".join(str(limit) for limit in self._limits) or "unlimited"
        name = f" {self.name!r}" if self.name is not None else ""
        state = "closed" if self._closed else "paused" if self._paused == math.inf else "open"
        return f"<ApiQueue{name} {limits}: {state}, {self.waiting} waiting, {self.running} running>"

    # From arrival to release.

    def _check(self, priority: float, cost: float, timeout: float | None) -> None:
        positive(cost, of="cost", least=0)
        self._schedule.check(cost)
        try:
            in_order = priority < 0 or priority >= 0
        except TypeError:
            raise TypeError(f"priority takes a number, not {priority!r}") from None
        if not in_order:
            raise ValueError("priority must be a number that can be put in order, not NaN")
        if timeout is not None:
            positive(timeout, of="timeout", least=0, most=LONGEST)

    def _arrive(self, slot: Slot) -> bool:
        """Give a newcomer its turn if it need not wait for anybody or anything."""
        # The loop that runs in this thread is the one it was; get_running_loop costs a system call.
        if get_ident() != self._thread or not self._loop_runs():
            self._bind(get_running_loop())
        slot._since = now = self._clock()
        schedule: LimitState | None = self._schedule
        if self._heeds_arrivals:
            schedule = self._schedule_of(slot, now)
        if self._waiters.live or schedule is None or schedule.try_consume(now, slot.cost) > now:
            return False
        slot._state = HELD
        self._started += 1
        if self._observers:
            self._tell("released", slot)
        return True

    def _join(self, slot: Slot, future: asyncio.Future[Slot]) -> None:
        """Let a newcomer, just arrived, wait for its turn, the result of `future`."""
        loop = future.get_loop()
        if slot._timeout is not None:
            now = slot._since
            # An authority is not asked: of what it knows, only a hold is known here.
            due = self._schedule.held if self._shared else self._schedule.next_at(now, slot.cost)
            if now + slot._timeout < due < math.inf:
                self._count("timed_out", slot)
                raise SlotTimeout(
                    f"{self!r}: no slot within {slot._timeout:g} s, the next is due in "
                    f"{due - now:.3g} s"
                )
        if 0 < self._maxsize <= self._waiters.live:
            self._overflow(slot)
        slot._future = future
        slot._state = WAITING
        self._waiters.put_nowait(slot)
        if slot._timeout is not None:  # only now, so that no timer is left by one that is refused
            self._timers[slot] = loop.call_later(slot._timeout, self._time_out, slot)
        if self._shared is not None:
            self._shared.joined(slot)
        if self._ticker is None:
            self._start_ticker(loop)

    def _schedule_of(self, slot: Slot, now: float) -> LimitState | None:
        """Return all limits that a newcomer is under; None if every place is taken."""
        if self._closed:
            self._count("refused", slot)
            raise QueueClosed(f"{self!r} takes no more calls: make a new queue")
        schedule = self._schedule
        lane = self._lanes.find(slot.key, now)
        if lane is not None:
            lane.check(slot.cost)
            if slot.key not in self._waiters.key_queues:
                lane.on_idle(now)
            schedule = LimitState((lane, schedule))
        if self._shared is not None:
            self._shared.demand.arrives(slot, now)
            return None
        if self.running < self._concurrency:
            return schedule
        if not self._waiters.live:
            schedule.on_idle(now)
            self._adapt_concurrency()  # after long rest there may be more places again
        return schedule if self.running < self._concurrency else None

    def _overflow(self, newcomer: Slot) -> None:
        error = QueueFull(f"{self!r}: {self._maxsize} calls wait already (maxsize)")
        oldest = self._waiters.oldest_of_least_urgent()
        if oldest is None or oldest.priority < newcomer.priority:
            self._count("refused", newcomer)
            raise error
        self._fail(oldest, "refused", error)

    def _start_ticker(self, loop: asyncio.AbstractEventLoop) -> None:
        # An empty context: the ticker is nobody's, and keeps nobody's variables alive.
        ticker = loop.create_task(self._tick(), name="aioapiqueue ticker", context=Context())
        if not ticker.done():  # an eager one may be
            self._ticker = ticker
            ticker.add_done_callback(self._ticked, context=Context())

    def _ticked(self, ticker: asyncio.Task[None]) -> None:
        """Heed the end of a ticker that was cancelled before it began: it has not itself."""
        if self._ticker is ticker:
            self._ticker, loop = None, ticker.get_loop()
            if self._waiters.live:
                loop.call_later(0.001, self._restart_ticker, loop)

    async def _tick(self) -> None:
        """Release each waiter when it is due; end when nobody waits."""
        loop = get_running_loop()
        try:
            while (wake := self._release_due(self._clock())) is not None:
                self._alarm = loop.create_future()
                self._set_timer(wake, loop)
                await self._alarm
                self._drop_timer()
        finally:
            self._drop_timer()
            self._alarm = None
            self._ticker = None
            # Cancelled by somebody who cancels every task. If that is the end of the loop, those
            # who wait are cancelled too, and a timer dies with the loop, silently; if not, the
            # timer starts a new ticker.
            if next(iter(self._waiters), None) is not None and not loop.is_closed():
                loop.call_later(0.001, self._restart_ticker, loop)

    def _restart_ticker(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._ticker is None and self._waiters.live:
            self._start_ticker(loop)

    def _set_timer(self, wake: float, loop: asyncio.AbstractEventLoop) -> None:
        if wake == math.inf:
            self._timer = None
        elif self._clock is not time.monotonic:
            self._timer = loop.call_at(wake, self._on_time, loop)
        else:
            # The timers of real loops count milliseconds, uvloop's are early by up to one:
            # rounding up spares it a spin until the instant comes.
            delay = max(1, math.ceil(min(_LONGEST_TIMER, wake - self._clock()) * 1000))
            self._timer = loop.call_later(delay / 1000, self._on_time, loop)

    def _drop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_time(self, loop: asyncio.AbstractEventLoop) -> None:
        """Tick on the ticker's behalf: to wake it first would cost every tick a loop pass."""
        wake = self._release_due(self._clock())
        if wake is None:
            self._timer = None
            self._nudge()
        else:
            self._set_timer(wake, loop)

    def _nudge(self) -> None:
        """Wake the ticker: who is next, or when, may have changed."""
        if self._alarm is not None and not self._alarm.done():
            self._alarm.set_result(None)

    def _release_due(self, now: float) -> float | None:
        """Release all who are due; return when to look again (None: nobody waits)."""
        if self._shared is not None:
            return self._shared.release_due(now)
        waiters, schedule, lanes = self._waiters, self._schedule, self._lanes.states
        wake = waiters.wake(now)
        while (slot := waiters.first()) is not None:
            if self._started - self._ended >= self._concurrency:
                return math.inf
            lane = lanes.get(slot.key) if lanes else None
            if lane is not None and (due := lane.next_at(now, slot.cost)) > now:
                waiters.park(due)
                wake = due if wake is None or due < wake else wake
                continue
            if (due := schedule.next_at(now, slot.cost)) > now:
                return due if wake is None or due < wake else wake
            waiters.pop(slot)
            schedule.consume(now, slot.cost)
            if lane is not None:
                lane.consume(now, slot.cost)
            self._grant(slot, now)
        return wake

    def _grant(self, slot: Slot, now: float) -> None:
        slot._state = GRANTED
        slot.waited = waited = now - slot._since
        slot._since = now
        self._started += 1
        self._waited += waited
        if waited > self._longest_wait:  # noqa: PLR1730 - a call for each slot
            self._longest_wait = waited
        if self._timers:
            self._stop_timer(slot)
        future = slot._future
        del slot._future  # it is about to refer to the slot
        future.set_result(slot)
        if self._observers:
            self._tell("released", slot)

    # Ways out.

    def _finished(self, slot: Slot) -> None:
        """Heed that a body has ended."""
        if self._concurrency != math.inf:
            if self._shared is not None:
                self._shared.ended()
            self._adapt_concurrency()
            self._nudge()
        if self._observers:
            self._tell("finished", slot)

    def _hand_on(self, slot: Slot) -> None:
        """Take back a turn that its caller, cancelled meanwhile, has not taken up."""
        slot._state = OVER
        self._started -= 1
        self._waited -= slot.waited
        if self._shared is not None:
            self._shared.hand_back(slot)
            self._nudge()
        else:
            self._adjust(slot, -slot.cost)
        self._count("cancelled", slot)

    def _leave(self, slot: Slot, kind: EventKind) -> None:
        """Let a waiter go without a turn."""
        slot._state = OVER
        slot._future.cancel()  # if it is not done: the awaiting coroutine was closed
        slot.waited = self._clock() - slot._since
        self._waiters.leave(slot)
        if self._shared is not None:
            self._shared.left(slot)
        self._stop_timer(slot)
        self._nudge()
        self._count(kind, slot)

    def _fail(self, slot: Slot, kind: EventKind, error: Exception) -> None:
        """Let a waiter go with an error."""
        if slot.waits:
            slot._future.set_exception(error)
            self._leave(slot, kind)

    def _time_out(self, slot: Slot) -> None:
        error = SlotTimeout(f"{self!r}: no slot within {slot._timeout:g} s")
        self._fail(slot, "timed_out", error)

    def _adjust(self, slot: Slot, cost: float) -> None:
        """Charge `cost` more for a call that has started; give back if negative."""
        if self._shared is not None:
            self._shared.adjust(slot, cost)
            return
        self._schedule.adjust(slot._since, cost)
        lane = self._lanes.states.get(slot.key)
        if lane is not None:
            lane.adjust(slot._since, cost)
            self._waiters.wake_key(slot.key)
        self._nudge()

    def _stop_timer(self, slot: Slot) -> None:
        timer = self._timers.pop(slot, None)
        if timer is not None:
            timer.cancel()

    def _hold(self) -> None:
        """Hold the schedule until both pause and push-back have passed."""
        self._schedule.hold(max(self._paused, self._pushed_back))
        self._nudge()

    def _hold_back(self, seconds: float, key: Hashable) -> None:
        """Hold the lane of `key`, if it has one, or everybody; extended only."""
        now = self._now()
        if self._shared is not None:
            self._shared.hold(key, seconds)
            return
        lane = self._lanes.find(key, now)
        if lane is not None:
            lane.hold(max(lane.held, now + seconds))
        else:
            self._pushed_back = max(self._pushed_back, now + seconds)
            self._hold()
        self._nudge()

    def _set_limits(self, key: Hashable, new: tuple[Limit, ...]) -> None:
        """Go by other limits from now on; who waits already, too."""
        now = self._now()
        self._lanes.altered = True
        if key is None:
            schedule = self._new_schedule(new)
            schedule.carry_over(self._schedule, now)
            self._limits, self._schedule = new, schedule
            self._waiters.wake_all()
        else:
            self._heeds_arrivals = True
            self._lanes.set_limits(key, new, now)
            for waiter in self._waiters:
                self._lanes.find(waiter.key, now)
            self._waiters.rebuild()
            if self._shared is not None:
                self._shared.lanes_changed()
        self._nudge()

    def _throttled(self, retry_after: float | None, slot: Slot) -> None:
        """Heed that the other side refused a call: that of `slot`, or (one made up) any."""
        if retry_after is not None:
            positive(retry_after, of="retry_after", least=0, most=LONGEST)
        now = self._now()
        self._count("throttled", slot)
        since = now if self._ended > self._rounds.get(self._slowing(slot), -1) else -math.inf
        if self._shared is not None:
            known = slot._state in (HELD, OVER) and slot.sequence
            instant = slot.sequence if known else NOW if since == now else -1
            self._shared.push_back(slot, retry_after, instant)
            return
        if retry_after is not None:
            self._hold_back(retry_after, slot.key)
        if slot._state in (HELD, OVER):
            since = slot._since
        lane = self._lanes.find(slot.key, now)
        schedule = self._schedule if lane is None else lane
        if schedule.push_back(now, since, self.running):
            self._adapt_concurrency()
            self._waiters.wake_key(slot.key)
            self._nudge()
            self._slowed(slot)

    def _slowing(self, slot: Slot) -> tuple[Hashable] | None:
        """Return what push-back on a call slows down: the lane of its key, or None, the queue."""
        return None if self._lanes.limits_of(slot.key) is None else (slot.key,)

    def _slowed(self, slot: Slot) -> None:
        """Begin a round of calls: who does not know its call is not heard before this one ends."""
        if len(self._rounds) > 2 * len(self._lanes.states) + 32:  # so seldom that it is linear
            self._rounds = {of: n for of, n in self._rounds.items() if n >= self._ended}
        self._rounds[self._slowing(slot)] = self._started
        self._count("slowed", slot)

    def _adapt_concurrency(self) -> None:
        places = self._schedule.permits()
        if places < math.inf:
            self._concurrency = places

    def _count(self, kind: EventKind, slot: Slot) -> None:
        self._counts[kind] += 1
        if self._observers:
            self._tell(kind, slot)

    def _tell(self, kind: EventKind, slot: Slot) -> None:
        event = Event(
            kind, self.name, slot.key, slot.priority, slot.cost, self._clock(), slot.waited
        )
        for observer in self._observers:
            try:
                observer.on_event(event)
            except (KeyboardInterrupt, SystemExit) as error:
                # It ends the loop, from its next pass: here it would cost a slot.
                loop = asyncio._get_running_loop()
                if loop is None:  # outside of a loop there is no slot to lose
                    raise
                loop.call_soon(_raise, error)
            except BaseException as error:  # noqa: BLE001 - an observer never costs a slot
                self._report(f"{observer!r} failed on {event!r}", error)

    def _report(self, message: str, error: BaseException) -> None:
        loop = asyncio._get_running_loop()
        if loop is None:  # `throttled` outside of a loop: as a loop's own handler does
            logger.error(message, exc_info=error)
        else:
            loop.call_exception_handler({"message": message, "exception": error})

    # The loop.

    def _now(self) -> float:
        """Bind to the running loop, if any; return its time."""
        loop = asyncio._get_running_loop()  # the public one raises where there is none
        if loop is not None:
            self._bind(loop)
        return self._clock()

    def _bind(self, loop: asyncio.AbstractEventLoop) -> None:
        if loop is self._loop:
            self._thread = get_ident()
            return
        if self._loop is not None and not self._loop.is_closed():
            raise RuntimeError(
                f"{self!r} is in use on another event loop that is still alive: make a queue for "
                "each loop, or close the other loop first"
            )
        # Whoever waited or ran on the old loop is gone with it. What was let through still
        # counts, unless time itself is another.
        self._loop = loop
        self._loop_runs = loop.is_running
        self._thread = get_ident()
        clock = _clock_of(loop)
        if clock is not self._clock:
            self._clock = clock
            self._forget_calls()
        self._forget_callers()

    def _forget_calls(self) -> None:
        self._paused = self._pushed_back = -math.inf
        self._schedule = self._new_schedule(self._limits)
        altered = self._lanes.altered
        self._lanes = Lanes(self._lanes.limits, self._lanes.new_state)
        self._lanes.altered = altered

    def _forget_callers(self) -> None:
        self._waiters = self._waiters.empty_copy()
        self._waiters.lanes = self._lanes.states
        self._waiters.keeps_round = self._shared is not None
        self._lanes.in_use = self._waiters.key_queues
        self._timers = {}
        self._ticker = self._alarm = self._timer = None
        self._ended = self._started
        if self._shared is not None:
            self._shared.reset()


def _raise(error: BaseException) -> None:
    raise error


def _clock_of(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    """Return `time.monotonic`, or the loop's own clock if it keeps one in Python (VirtualLoop).

    Not a real loop's `time()`: uvloop's is coarse, and stands still while callbacks run.
    """
    # Compiled loops' methods are bound like those in Python, so look at what is bound.
    function = getattr(loop.time, "__func__", None)
    virtual = isinstance(function, FunctionType) and function is not asyncio.BaseEventLoop.time
    return loop.time if virtual else time.monotonic


def at_rest(queue: Dispatcher) -> bool:
    """Return whether a queue is as good as new: nobody waits, no body runs, no limit owes a wait.

    Never while it is closed, goes by a `schedule` that others share, or has limits that were set
    since it was made.
    """
    own, lanes = queue._schedule, queue._lanes
    if queue.waiting or queue.running or queue._closed or queue._shared or lanes.altered:
        return False
    return max(own.idle_at(), lanes.idle_at()) < queue._clock()
