"""Which task holds which slots, so that no task waits for a permit that it holds itself.

A task that holds a slot may request another one of the same queue. If both need a permit of the
same `Concurrency`, and none is free, the task would wait for itself for ever: `async with
queue.slot()` raises instead. It does not help that other tasks hold the other permits, because they
may do the same. So the test is only whether a permit is free. If all tasks hold a permit and
request one more, the last task finds none and is refused, and the others get theirs in time.

Permits are counted here, above every limiter, because a limiter may keep them in another process.
For a shared quota, only the permits in this process are known, and they may be all there are.

Only queues with a `Concurrency` make calls that note their holder (`tracking`); other queues pay
nothing. A slot from `enqueue` or `try_slot` is held by the task that enters it: until then, it may
be meant for any task. A task that a body starts is a different task.
"""

from __future__ import annotations

import asyncio
import math
from asyncio import current_task
from functools import cache
from typing import TYPE_CHECKING, Protocol, Self

from aioapiqueue._core.followers import Follower
from aioapiqueue._core.slot import GRANTED, HELD, NEW, Call, CallOwner
from aioapiqueue._limits.lane_states import find_patterns, name_of
from aioapiqueue._limits.limit_types import Concurrency

if TYPE_CHECKING:
    from collections.abc import Awaitable, Hashable, Iterable, Sequence

    from aioapiqueue._core.seam import Core, LimitSettings
    from aioapiqueue._limits.limit_types import Limit


class Nesting(Follower):
    """The permits of one queue that this process uses, and the tasks that hold them.

    Args:
        host: the queue's dispatcher.
        settings: the queue's limits.
    """

    __slots__ = (
        "_counted",
        "_host",
        "_in_use",
        "_lanes",
        "_own",
        "_patterns",
        "active",
        "held",
        "of_lanes",
        "permanent",
    )

    def __init__(self, host: Core, settings: LimitSettings) -> None:
        self._host = host
        lanes = settings.lanes
        number = settings.concurrency
        self.permanent = () if number == math.inf else (Concurrency(int(number)),)
        """The limit of `ApiQueue(concurrency=...)`, which `set_limits` does not change."""
        self._own = _permits((*self.permanent, *settings.limits))
        self.of_lanes = False
        """Whether a lane has or had permits, so that starts and ends of calls are followed."""
        self._lanes = {name: _permits(own) for name, own in lanes.items()}
        """Number of permits of each key or pattern; inf: no limit."""
        self.forget_callers()
        self._patterns: list[str] = []
        self._note_limits(lanes)

    def forget_callers(self) -> None:
        """Forget the running calls, which were on a closed loop."""
        self.held: dict[asyncio.Task[object], tuple[Call, ...]] = {}
        """The calls that each task holds."""
        self._in_use: dict[Hashable, int] = {}
        """Number of permits of each key's lane that this process uses."""
        self._counted: dict[Call, list[Hashable]] = {}
        """Keys whose lanes have given a permit to a call."""

    def set_limits(self, key: Hashable, limits: Sequence[Limit]) -> None:
        """Note new limits of the queue (None), or of a key or pattern."""
        if key is None:
            self._own = _permits((*self.permanent, *limits))
        else:
            self._lanes[key] = _permits(limits)
        self._note_limits([key])

    def _note_limits(self, names: Iterable[Hashable]) -> None:
        # Only the changed names: going through thousands of lanes would take too long.
        self._patterns = find_patterns(dict.fromkeys((*self._patterns, *names)))
        # Once True, this stays: calls that hold permits of a former limit still run.
        self.of_lanes |= any(self._lanes.get(name, math.inf) < math.inf for name in names)
        self.active = self.of_lanes or self._own < math.inf
        """Whether the queue or a lane has permits."""

    def concerns(self, keys: Iterable[Hashable]) -> bool:
        """Return whether a call with these keys needs a permit."""
        return self._own < math.inf or bool(self._limited(keys))

    def _limited(self, keys: Iterable[Hashable]) -> list[Hashable]:
        """Return the keys, of these, whose lanes have permits."""
        if not self._lanes:
            return []
        names = {key: name_of(key, self._lanes, self._patterns) for key in keys}
        return [key for key, name in names.items() if self._lanes.get(name, math.inf) < math.inf]

    def full(self, keys: Iterable[Hashable]) -> list[str]:
        """Return what has no free permit for a call with these keys, in words for a message."""
        found = []
        if self._own < math.inf:
            # `Adaptive` may have lowered the number. Permits of other processes are unknown here.
            most = min(self._own, self._host.limiter.snapshot().permits)
            if self._host.running >= most:
                found.append("the queue")
        return found + [f"the lane {key!r}" for key in self._full_lanes(keys)]

    def _full_lanes(self, keys: Iterable[Hashable]) -> list[Hashable]:
        return [
            key
            for key in self._limited(keys)
            if self._in_use.get(key, 0) >= self._lanes[name_of(key, self._lanes, self._patterns)]
        ]

    # Starts and ends of calls; called only if lanes have permits.

    def started(self, call: Call, waited: float) -> None:  # noqa: ARG002 - as `Follower`
        """Count a call that has started."""
        # Kept for the end: by then, `set_limits` may have changed which keys have permits.
        keys = self._counted[call] = self._limited(call.keys)
        for key in keys:
            self._in_use[key] = self._in_use.get(key, 0) + 1

    def refunded(self, call: Call) -> None:
        """Count a call that started and was refunded as ended."""
        self.ended(call, None)

    def ended(self, call: Call, raised: object) -> None:  # noqa: ARG002 - as `Follower`
        """Count the end of a call."""
        for key in self._counted.pop(call, ()):
            self._in_use[key] -= 1
            # No zeros are kept: keys may be as many as tenants.
            if not self._in_use[key]:
                del self._in_use[key]

    # Which task holds which calls.

    def drop(self, task: asyncio.Task[object], call: Call) -> None:
        """Note that a task no longer holds a call."""
        calls = self.held.get(task, ())
        if len(calls) > 1:
            # A list in it, because a tuple of a generator takes longer.
            self.held[task] = tuple([one for one in calls if one is not call])
        elif calls:
            del self.held[task]

    def check(self, call: Call) -> None:
        """Refuse a call that has to wait if its task would wait for itself.

        Raises:
            RuntimeError: the task would wait for itself; the message says what to do.
        """
        task = current_task(call.dispatcher.loop.current)
        held = self.held.get(task, ()) if task is not None else ()
        # Only lanes of which the task holds a permit: it may wait for any other one.
        shared = {key for one in held for key in one.keys}
        without = self.full([key for key in call.keys if key in shared]) if held else ()
        if without:
            raise RuntimeError(
                f"{self._host!r}: this task would wait for itself: it holds a slot, and the "
                f"concurrency limit of {' and of '.join(without)} is reached. Release the outer "
                "slot before you request another, or pace only the inner call"
            )


def _permits(limits: Iterable[Limit]) -> float:
    numbers = [limit.number for limit in limits if isinstance(limit, Concurrency)]
    return min(numbers, default=math.inf)


class TrackingOwner(CallOwner, Protocol):
    """The part of the dispatcher that tracked calls use."""

    nesting: Nesting


class _Tracking(Call):
    """A call that notes which task holds it. `tracking` makes its concrete subclasses."""

    __slots__ = ()

    dispatcher: TrackingOwner
    holder: asyncio.Task[object] | None
    """The task that entered the call last; a slot of the concrete subclasses."""

    def _hold(self) -> None:
        dispatcher = self.dispatcher
        task = current_task(dispatcher.loop.current)  # without a loop, it makes a system call
        self.holder = task  # type: ignore[misc]  # declared above, a slot of the subclasses
        if task is not None:
            held = dispatcher.nesting.held
            held[task] = (*held[task], self) if task in held else (self,)

    def _drop_hold(self) -> None:
        """Note that the task that entered the call last no longer holds it."""
        holder = getattr(self, "holder", None)
        if holder is not None:
            self.dispatcher.nesting.drop(holder, self)

    def check_before_waiting(self) -> None:
        self.dispatcher.nesting.check(self)

    def __aenter__(self) -> Awaitable[Self]:
        if self.state == NEW:
            dispatcher = self.dispatcher
            if not dispatcher.try_start(self):
                dispatcher.nesting.check(self)
                dispatcher.join(self, asyncio.Future(loop=dispatcher.loop.current))
                return self  # type: ignore[return-value]  # as `Call` says
            self._hold()
            return self._entered()
        entering = Call.__aenter__(self)
        self._drop_hold()  # a call that is held may be entered again, by any task
        self._hold()
        return entering

    def __next__(self) -> asyncio.Future[Self]:
        if self.state == GRANTED:
            self._hold()
        return Call.__next__(self)

    def __enter__(self) -> Self:
        Call.__enter__(self)
        self._drop_hold()  # as in `__aenter__`
        self._hold()
        return self

    async def __aexit__(self, exc_type: object, exc: object, traceback: object) -> None:
        self.finish(exc_type)  # `Call` inlines its own

    def finish(self, raised: object) -> None:
        if self.state == HELD:
            self._drop_hold()
        Call.finish(self, raised)


@cache
def tracking(call_type: type[Call]) -> type[Call]:
    """Return a subclass of a call type that notes which task holds it."""
    for name in ("__aenter__", "__next__", "__enter__", "__aexit__", "finish"):
        # `_Tracking` calls those of `Call`: super() would take a tenth of a slot's time.
        assert getattr(call_type, name) is getattr(Call, name)  # noqa: S101 - holds for all of ours
    return type(call_type.__name__, (_Tracking, call_type), {"__slots__": ("holder",)})
