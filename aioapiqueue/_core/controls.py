"""The methods that `ApiQueue` and `Blocking` share: controls and estimates.

Each checks its arguments in the caller's thread, and then calls the dispatcher on the queue's loop.
Most controls make a statement (`_core/statements.py`), which the limiter applies.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeVar

from aioapiqueue._core.limit_changes import set_limits
from aioapiqueue._core.options import check_place
from aioapiqueue._core.slot import keys_of
from aioapiqueue._core.statements import Pause, Resume
from aioapiqueue._limits.checks import LONGEST, check_count, pattern_problem, positive
from aioapiqueue._limits.grammar import CALLS
from aioapiqueue._limits.limit_types import as_limits

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from aioapiqueue._core.dispatcher import Dispatcher
    from aioapiqueue._limits.cost_units import Cost
    from aioapiqueue._limits.limit_types import Limit

T = TypeVar("T")


class Controls:
    """Methods that control a queue, or estimate when calls will start.

    You can also call them from any thread, through `blocking(queue)`. They then raise
    `RuntimeError` in the thread of the queue's own loop, and after that loop was closed.
    """

    __slots__ = ()

    def _control(self, do: Callable[[Dispatcher], T]) -> T:
        """Bind the queue to its loop, and call `do` with its dispatcher there."""
        raise NotImplementedError

    def _check_lane(self, key: Hashable) -> None:
        """Refuse a key that is about to get limits, or warn of a typo, in the caller's thread."""
        raise NotImplementedError

    def estimate(
        self,
        *,
        key: Hashable = None,
        keys: Sequence[Hashable] | None = None,
        priority: float = 0,
        cost: Cost = 1,
    ) -> float:
        """Estimate how many seconds a new call would wait if it joined now.

        The result is exact for a FIFO queue with one limit (with a `Window`, if all costs are
        equal). Otherwise it is an estimate: waiting for a permit (`concurrency`) adds nothing,
        because the end of running calls is unknown, and all waiting calls count as ahead, unless
        all of them are less urgent. It is infinite while the queue is paused without an end, and if
        the call would raise `LimitExceeded`. The arguments are those of `ApiQueue.slot`.
        """
        all_keys = keys_of(key, keys)
        check_place(priority, None)
        # The call is made here, not by `slot()`, which would check it for double pacing.

        def do(queue: Dispatcher) -> float:
            call = queue.call_makers[1](queue, all_keys, priority, None)
            call.costs = queue.units.costs_of(cost)
            now = queue.loop.now()  # once: both parts must be of the same instant
            return queue.limiter.estimate(call, now) - now

        return self._control(do)

    @property
    def eta(self) -> float:
        """Estimated seconds until all waiting calls have started; 0 if none is waiting.

        This is useful for progress bars: the value falls by one second per second while no call
        joins.

        >>> import asyncio
        >>> async def main():
        ...     queue = ApiQueue("10/s", lanes={"slow": "1/s"})
        ...     for key in ("slow",) * 5 + ("fast",) * 20:
        ...         queue.enqueue(key=key)
        ...     print(f"{queue.eta:.1f} s")
        ...     await asyncio.sleep(1.5)
        ...     print(f"{queue.eta:.1f} s")
        >>> asyncio.run(main())
        4.0 s
        2.5 s

        The value is exact if one limit decides (with a `Window`, if all costs are equal).
        Otherwise it is a lower bound: calls that wait for two limits in turn may take longer, and
        calls that wait for a permit add nothing, so the value can be 0 while calls are waiting. For
        a shared quota, it is an estimate from the last reply of the hub or server. It is infinite
        while the queue is paused without an end. The time to compute it grows with the number of
        keys that have waiting calls: some tenths of a second for 100,000 keys, and much longer if
        each of these keys has a `Calendar`.
        """

        def do(queue: Dispatcher) -> float:
            now = queue.loop.now()
            # While no call waits, a pause or hold must not count.
            return queue.limiter.estimate(None, now) - now if queue.waiters.live else 0.0

        return self._control(do)

    def set_rate(self, *limits: str | Limit, key: Hashable = None) -> None:
        """Replace the limits now, also for calls that already wait.

        Earlier calls still count: if half of the old interval is left, half of the new one is left.
        This also holds for a limit of another kind:

        - A window or calendar that replaces a rate starts with what the rate has not recovered.
        - A rate that replaces a window starts as if it had always been in force.
        - A rate that replaces a calendar starts exhausted, if the period has seen a full burst.
        - A budget of another amount keeps what was spent. A limit that replaces a budget starts
          with all of it, because the queue does not know when it was spent.

        A limit of another kind refunds nothing for calls that started before it and are settled or
        cancelled afterwards. A new `Concurrency` of a lane counts the calls that start from now on;
        a new `Concurrency` of the queue counts all running calls.

        Args:
            limits: as in `ApiQueue`; they replace all old ones. `"unlimited"` removes all limits.
            key: key of a lane, or a pattern such as `"*"` or `"List*"`; default: the queue's own
                limits.

        Raises:
            TypeError: no limit is given, or a value is not a limit.
            ValueError: a limit is invalid, or too small for the cost of a waiting call; the key is
                a pattern that can match nothing; or, with `strict_lanes`, it has no lane.

        >>> import asyncio
        >>> async def main():
        ...     loop = asyncio.get_running_loop()
        ...     queue = ApiQueue("2/s")
        ...     calls = [queue.enqueue() for _ in range(50)]
        ...     queue.set_rate("50/s")
        ...     await asyncio.gather(*calls)
        ...     print(f"{loop.time():.2f}")
        >>> asyncio.run(main())
        0.98
        """
        if not limits:
            raise TypeError(
                'set_rate() needs a limit: to remove all limits, write set_rate("unlimited")'
            )
        keys_of(key, None)  # refuses a key that is not hashable
        if problem := pattern_problem(key):
            raise ValueError(f"set_rate(key={key!r}): {problem}")
        parsed = tuple(as_limits(limits))
        self._check_lane(key)  # here, because a warning names the line of the caller's thread
        self._control(lambda queue: set_limits(queue, key, parsed))

    def throttled(self, retry_after: float | None = None, *, key: Hashable = None) -> None:
        """Report that the server throttled a call: start nothing for `retry_after` seconds.

        With `adaptive`, the rate falls as well, but only once for calls that were running at the
        same time. `Slot.throttled` knows when its call started. This method does not: it assumes
        that the call was already running at the last slow-down, until as many calls have ended as
        were running then.

        Args:
            retry_after: seconds from now; this never shortens a hold.
            key: key of the lane, if it has limits of its own; default: the whole queue.

        Raises:
            ValueError: `retry_after` is negative, infinite or NaN; or `key` is a pattern.

        >>> async def main():
        ...     queue = ApiQueue("10/s")
        ...     queue.throttled(retry_after=5)
        ...     queue.throttled(retry_after=2)                  # shortens nothing
        ...     return queue.estimate()
        >>> asyncio.run(main())
        5.0
        """
        if retry_after is not None:
            positive(retry_after, of="retry_after", least=0, most=LONGEST)
        self._control(lambda queue: queue.throttled(retry_after, None, key))

    def hold(self, seconds: float, *, key: Hashable = None) -> None:
        """Start no calls for some seconds, for example until a quota is reset.

        Unlike `throttled`, this is not counted, and does not lower an adaptive rate.

        Args:
            seconds: seconds from now; this never shortens a hold.
            key: key of the lane, if it has one of its own; default: the whole queue.

        Raises:
            ValueError: `seconds` is negative, infinite or NaN; or `key` is a pattern.

        >>> async def main():
        ...     queue = ApiQueue(lanes={"*": ()})               # no limits, but lanes
        ...     queue.hold(30, key="busy.example")
        ...     return [queue.estimate(key=host) for host in ("busy.example", "idle.example")]
        >>> asyncio.run(main())
        [30.0, 0.0]
        """
        positive(seconds, of="seconds", least=0, most=LONGEST)
        self._control(lambda queue: queue.hold(seconds, None, key))

    def sync(
        self,
        remaining: float,
        *,
        unit: str = CALLS,
        reset: float | None = None,
        limit: float | None = None,
        key: Hashable = None,
    ) -> None:
        """Report a remaining quota, for example from a status endpoint of the API.

        If the response to a call states it, prefer `Slot.sync`, which knows the calls that the
        server had counted by then. This method subtracts all calls in flight.

        Args:
            remaining: as in `Slot.sync`.
            unit: as in `Slot.sync`.
            reset: as in `Slot.sync`.
            limit: as in `Slot.sync`.
            key: key of the lane, if it has one of its own; default: the whole queue.

        Raises:
            ValueError: a number is negative, infinite or NaN; the unit is unknown; or `key` is a
                pattern.

        >>> async def main():
        ...     queue = ApiQueue("100/min burst 100", lanes={"*": ()})
        ...     queue.sync(0, reset=30, key="busy.example")
        ...     return [queue.estimate(key=host) for host in ("busy.example", "idle.example")]
        >>> asyncio.run(main())
        [30.0, 0.0]
        """
        check_count(remaining, reset, limit)  # here: a thread's error must reach its own caller
        self._control(
            lambda queue: queue.sync(None, remaining, unit=unit, reset=reset, limit=limit, key=key)
        )

    def malformed(self, *, key: Hashable = None) -> None:
        """Count an invalid value from the server, such as "retry after -1".

        Args:
            key: key of the call whose response had it.
        """
        # Observers are called on the loop, so this goes there too, although it changes no limit.
        self._control(lambda queue: queue.emit("malformed", key=key))

    def pause(self, seconds: float | None = None) -> None:
        """Start no calls until `resume`, or for some seconds. Running calls continue.

        Args:
            seconds: length of the pause; default: until `resume`. This never shortens a pause.

        Raises:
            ValueError: `seconds` is negative, infinite or NaN.

        >>> import asyncio
        >>> async def main():
        ...     queue = ApiQueue("10/s")
        ...     queue.pause(60)
        ...     return queue.estimate()
        >>> asyncio.run(main())
        60.0
        """
        if seconds is not None:
            positive(seconds, of="seconds", least=0, most=LONGEST)
        span = math.inf if seconds is None else seconds

        def do(queue: Dispatcher) -> None:
            # The instant is found here: `blocking(queue)` calls this in the thread of the loop.
            queue.limiter.apply(Pause(queue.loop.now() + span))
            queue.emit("paused", seconds=seconds)

        self._control(do)

    def resume(self) -> None:
        """End a `pause`. Holds that the server asked for (`throttled`) stay in force."""

        def do(queue: Dispatcher) -> None:
            queue.limiter.apply(Resume())
            queue.emit("resumed")

        self._control(do)
