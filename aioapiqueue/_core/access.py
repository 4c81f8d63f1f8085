"""The ways in which other wings use a queue: for clients of APIs, for metrics, and for threads.

These classes hide the dispatcher, which may change without the other wings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, cast

from aioapiqueue._core.controls import Controls
from aioapiqueue._core.double_pacing import made_by
from aioapiqueue._core.options import check_place
from aioapiqueue._core.queue import dispatcher_of
from aioapiqueue._core.slot import GRANTED, SlotFuture, keys_of
from aioapiqueue._core.statements import ServerCount
from aioapiqueue._limits import limit_types

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Hashable, Iterable, Sequence

    from aioapiqueue._core.dispatcher import Dispatcher
    from aioapiqueue._core.double_pacing import WatchedSlot
    from aioapiqueue._core.observers import Observer
    from aioapiqueue._core.queue import ApiQueue
    from aioapiqueue._core.seam import LimiterStats
    from aioapiqueue._core.slot import Call, Slot
    from aioapiqueue._core.stats import Stats
    from aioapiqueue._limits.cost_units import Cost
    from aioapiqueue._limits.limit_types import Limit, Rate

P = ParamSpec("P")
T = TypeVar("T")


class Reporter:
    """Reports the responses to a queue's calls, for one client of an API.

    An integration makes one for each queue, and calls it on the loop of that queue. It has only
    what the public `Slot` lacks: an integration calls `Slot.settle` and `Slot.throttled` itself.

    Args:
        queue: paces the calls.
    """

    def __init__(self, queue: ApiQueue) -> None:
        self._queue = queue
        self._dispatcher = dispatcher_of(queue)

    @property
    def name(self) -> str | None:
        """Name of the queue."""
        return self._dispatcher.name

    @property
    def units(self) -> Sequence[str]:
        """The units that limits of the queue count, or that were declared; `calls` is the first."""
        return self._dispatcher.units.names

    def now(self) -> float:
        """Return the present instant on the clock of the queue's loop."""
        return self._dispatcher.loop.now()

    # Before a call.

    def watch(self) -> None:
        """Look for slots that are held around requests, which would then be paced twice."""
        self._queue._watch_double_pacing(again=False)  # noqa: SLF001 - as in `dispatcher_of`

    @staticmethod
    def request(take: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Take a slot for a request of a client: call `take`, and return its result."""
        return made_by("client", take, *args, **kwargs)

    def declare(self, units: Iterable[str]) -> None:
        """Accept costs that name these units, whether or not a limit counts them."""
        self._dispatcher.units.declare(units)

    def check(self, *, cost: Cost = 1, priority: float = 0) -> None:
        """Refuse a cost or a priority that `ApiQueue.slot` would refuse.

        Raises:
            TypeError: an amount or the priority is not a number.
            ValueError: an amount is negative, or of an unknown unit; or the priority is NaN.
        """
        self._dispatcher.units.costs_of(cost)  # for its errors alone
        check_place(priority, None)

    def check_limits(self, cost: Cost) -> None:
        """Refuse a cost that the queue's own limits can never allow.

        Raises:
            ValueError: a limit is too small, or counts a unit that the cost does not name.
        """
        self._dispatcher.limiter.check(self._dispatcher.units.costs_of(cost))

    def counts(self, unit: str, keys: Iterable[Hashable]) -> bool:
        """Return whether a limit of a call with these keys counts a unit. Any thread may ask."""
        if unit not in self._dispatcher.units:
            return False
        limits_of = self._dispatcher.limiter.limits_of
        limits = (limit for key in (None, *keys) for limit in limits_of(key) or ())
        return any(limit_types.unit_of(limit) == unit for limit in limits)

    def limits_concurrency(self, keys: Iterable[Hashable]) -> bool:
        """Return whether a call with these keys takes a permit."""
        return self._dispatcher.nesting.concerns(keys)

    def track(self) -> None:
        """Track calls in flight from now on, so that a later report can be compared with them."""
        self._dispatcher.find_server_quotas()  # attaches the policy, which tracks calls

    def learn(self, units: Iterable[str]) -> None:
        """Learn limits of these units: until a lane's first response, one call of it is sent."""
        self._dispatcher.find_server_quotas().learn(units)

    # After a call.

    def answered(self, slot: Slot) -> None:
        """Report that a call has its response; reports about other calls then include it."""
        self._dispatcher.answered(_call_of(slot))

    def count(self, kind: Literal["malformed", "refused_by_server"], slot: Slot) -> None:
        """Count an unusable response, or a permanent refusal."""
        self._dispatcher.emit(kind, _call_of(slot))

    def hold(self, slot: Slot, seconds: float) -> None:
        """Start no calls of the slot's lane for some seconds."""
        self._dispatcher.hold(seconds, _call_of(slot), slot.key)

    def sync(
        self,
        slot: Slot,
        remaining: float,
        *,
        unit: str,
        reset: float | None,
        limit: float | None,
        period: float | None = None,
        refills: bool = False,
        period_is_minimum: bool = False,
    ) -> None:
        """Report a remaining quota, with details that `Slot.sync` does not accept.

        Args:
            slot: the call with this response.
            remaining: as in `Slot.sync`.
            unit: as in `Slot.sync`.
            reset: as in `Slot.sync`.
            limit: as in `Slot.sync`.
            period: seconds in which the server allows `limit`, if that was learnt.
            refills: whether the quota is known to be a token bucket.
            period_is_minimum: whether the period may be longer, because only the reset is known.
        """
        count = ServerCount(
            self._dispatcher.units.known_place_of(unit),
            remaining,
            reset,
            limit,
            period=period,
            refills=refills,
            period_is_minimum=period_is_minimum,
            call=_call_of(slot),
        )
        self._dispatcher.find_server_quotas().sync(count)

    def adopt(self, slot: Slot, limits: Sequence[Rate]) -> None:
        """Adopt limits that a response states, for units without a configured limit."""
        self._dispatcher.find_server_quotas().adopt(_call_of(slot), limits)

    # What a call is charged.

    def costs_of(self, slot: Slot) -> dict[str, float]:
        """Return the current costs of a call, by unit, without units that it does not name."""
        return self._dispatcher.units.named(_call_of(slot).costs)

    def settled(self, slot: Slot, cost: Cost) -> dict[str, float]:
        """Return the costs that a call would have after `slot.settle(cost)`, by unit.

        Raises:
            TypeError: as in `Slot.settle`.
            ValueError: as in `Slot.settle`.
        """
        units = self._dispatcher.units
        return units.named(units.settled(cost, _call_of(slot).costs))

    def price_from(self, source: str) -> None:
        """Note what prices the queue's calls, such as "genai-prices 0.2.3": `Stats.prices`."""
        self._dispatcher.figures.prices = source

    def limits_of(self, slot: Slot) -> list[Limit]:
        """Return all limits that a call is subject to."""
        limits_of = self._dispatcher.limiter.limits_of
        # None, the queue's own limits, is also the key of a call without a key: once is enough.
        keys = dict.fromkeys((None, *_call_of(slot).keys))
        return [limit for key in keys for limit in limits_of(key) or ()]


class QueueReader:
    """Reads the figures and the state of a queue, which it does not keep alive.

    Args:
        queue: the queue to read.
    """

    __slots__ = ("_dispatcher",)

    def __init__(self, queue: ApiQueue) -> None:
        # Not the queue: an exporter watches it only as long as a program uses it, and reads the
        # last figures when it is collected.
        self._dispatcher = dispatcher_of(queue)

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop on which the queue is used; None: it has not been used yet."""
        return self._dispatcher.loop.current

    def to_wall(self, at: float) -> float:
        """Convert an instant of the queue's loop to seconds since the epoch."""
        return self._dispatcher.loop.to_wall(at)

    def stats(self) -> Stats:
        """Return the current figures, as `ApiQueue.stats` does."""
        return self._dispatcher.stats()

    @property
    def prices(self) -> str:
        """The source of the prices of the queue's calls, as in `Stats`."""
        return self._dispatcher.figures.prices

    def snapshot(self, key: Hashable = None) -> LimiterStats:
        """Return the figures of the limiter, with the `remaining` of a key's lane."""
        return self._dispatcher.limiter.snapshot(key)

    def lane_of(self, keys: Sequence[Hashable]) -> Hashable:
        """Return the name of the lane that counts a call with these keys; None: no lane."""
        lanes = self._dispatcher.lanes
        return None if lanes is None else lanes.name_of(keys)

    def limits_of(self, key: Hashable) -> tuple[Limit, ...]:
        """Return the limits of a key's lane, or of the queue (None)."""
        limits = self._dispatcher.limiter.limits_of(key) or ()
        return limits if key is not None else (*limits, *self.permanent)

    @property
    def permanent(self) -> tuple[Limit, ...]:
        """The limits of the queue that `set_rate` does not change: those of `concurrency=`."""
        return self._dispatcher.nesting.permanent

    def is_idle(self) -> bool:
        """Return whether a new queue would behave the same: no calls, and all limits recovered.

        Always False while the queue is closed or shares its quota, and after `set_rate`.
        """
        queue = self._dispatcher
        busy = queue.waiters.live or queue.running or queue.closed
        return not busy and queue.limiter.snapshot(deep=True).idle_at < queue.loop.now()

    def observe(self, observer: Observer) -> None:
        """Send the events of the queue to one more observer, from now on."""
        self._dispatcher.observe([observer])


class ThreadAccess:
    """A queue for threads.

    The checks run in the caller's thread, which receives their errors; the loop could only log
    them. `try_reserve` and `abandon_loop` run in the loop's thread only.

    Attributes:
        queue: the queue.
    """

    __slots__ = ("_dispatcher", "queue")

    def __init__(self, queue: ApiQueue) -> None:
        self.queue = queue
        self._dispatcher = dispatcher_of(queue)

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop that the queue is bound to, which may be closed; None: no loop yet."""
        return self._dispatcher.loop.current

    @staticmethod
    def keys_of(key: Hashable, keys: Sequence[Hashable] | None) -> tuple[Hashable, ...]:
        """Return the keys of a call, or refuse them; see `ApiQueue.slot`."""
        return keys_of(key, keys)

    def watch(self, slot: WatchedSlot) -> None:
        """Check a new slot of a thread for double pacing, as `ApiQueue.slot` does."""
        self.queue._note_slot(slot)  # noqa: SLF001 - this class is the queue's other half

    def costs_of(self, cost: Cost) -> tuple[float, ...]:
        """Return a cost by unit, or refuse it."""
        return self._dispatcher.units.costs_of(cost)

    def calls_of_settled(self, cost: Cost, calls: float) -> float:
        """Return the number of calls in a true cost, or refuse the cost; see `Slot.settle`."""
        # The thread knows the former cost in calls alone, and needs no more of the new one.
        return self._dispatcher.units.settled(cost, (calls,))[0]

    def check_unit(self, unit: str) -> None:
        """Refuse a unit that the queue does not know."""
        self._dispatcher.units.known_place_of(unit)

    def check_throttled(self, key: Hashable, keys: Sequence[Hashable]) -> None:
        """Refuse a pattern where a key is meant; see `Slot.throttled`."""
        if key not in keys:  # a call's own key may look like a pattern
            self._dispatcher.unknown_keys.refuse_pattern(key)

    def try_reserve(self, **arguments: Any) -> asyncio.Future[Slot]:  # noqa: ANN401 - as `try_slot`
        """Take a slot that is free now, and return it in a Future, as `ApiQueue.enqueue` does."""
        call = cast("Call", self.queue.try_slot(**arguments))
        # Not HELD yet: if the thread is interrupted before it enters the slot, it cancels the
        # Future, which refunds only a slot that is not in use.
        call.state = GRANTED
        future = SlotFuture(call, loop=self._dispatcher.loop.current)
        future.set_result(call)
        return future

    def abandon_loop(self) -> tuple[object, ...]:
        """Forget the loop, in a child process made by `fork`; see `Dispatcher.abandon_loop`."""
        return self._dispatcher.abandon_loop()


class ThreadControls(Controls):
    """The controls of a queue for threads: each runs in the thread of the queue's loop.

    Attributes:
        queue: the queue.
    """

    __slots__ = ()

    queue: ApiQueue

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function in the thread of the loop, and return or raise its result."""
        raise NotImplementedError

    def _check_lane(self, key: Hashable) -> None:
        self.queue._check_lane(key)  # noqa: SLF001 - this class is the queue's other half

    def _control(self, do: Callable[[Dispatcher], T]) -> T:
        return self.call(self.queue._control, do)  # noqa: SLF001 - as above


def _call_of(slot: Slot) -> Call:
    """Return the call behind a slot, which each slot of a queue is."""
    return cast("Call", slot)
