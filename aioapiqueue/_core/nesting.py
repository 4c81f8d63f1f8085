"""Which task holds which slots, so that none waits for a permit that it holds itself.

A task that has a slot of a queue may ask it for another, which takes its own turn. Where both come
under one `Concurrency` and no permit is left, the task would wait for itself, and for ever: `async
with queue.slot()` raises instead. That others have the rest of the permits is no way out, as they
may do the same, so all that counts is that none is left. Of tasks that all hold a permit and ask
for one more, the last finds none and is refused: those before it are not stuck.

This is counted here, under any limiter, as permits may be kept elsewhere: of a shared quota, what
this process holds is known, and that alone may be all there is.

Only queues with a `Concurrency` have calls that note who holds them (`tracking`), so that others
pay nothing. A slot from `enqueue` or `try_slot` is held by the task that enters it: until then it
may be meant for any. A task that a body starts is another task.
"""

from __future__ import annotations

import asyncio
import math
from asyncio import current_task
from functools import cache
from typing import TYPE_CHECKING, Protocol, Self

from aioapiqueue._core.followers import Follower
from aioapiqueue._core.slot import GRANTED, HELD, NEW, Call, CallOwner
from aioapiqueue._limits.lanes import find_patterns, name_of
from aioapiqueue._limits.rates import Concurrency

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence

    from aioapiqueue._core.limiter import Limiter
    from aioapiqueue._limits.rates import Limit

__all__ = ["Nesting", "tracking"]


class NestingHost(Protocol):
    """What this asks of the dispatcher."""

    limiter: Limiter

    @property
    def running(self) -> int:
        """How many bodies run."""


class Nesting(Follower):
    """The permits of one queue, as far as this process uses them, and who holds them.

    Args:
        host: the queue's dispatcher.
        limits: the queue's own.
        lanes: those of keys and patterns.
        concurrency: how many bodies may run at once, whatever `set_limits` sets; inf: any number.
    """

    __slots__ = (
        "_concurrency",
        "_counted",
        "_host",
        "_in_use",
        "_lanes",
        "_own",
        "_patterns",
        "active",
        "held",
        "of_lanes",
    )

    def __init__(
        self,
        host: NestingHost,
        limits: Sequence[Limit],
        lanes: Mapping[Hashable, Sequence[Limit]],
        concurrency: float,
    ) -> None:
        self._host = host
        self._concurrency = concurrency
        self._own = min(concurrency, _permits(limits))
        self.of_lanes = False
        """Whether some lane has permits, or had, so that this follows starts and ends of calls."""
        self._lanes = {name: _permits(own) for name, own in lanes.items()}
        """How many permits each key has, by its name or pattern."""
        self.forget_callers()
        self._patterns: list[str] = []
        self._note_limits(lanes)

    def forget_callers(self) -> None:
        """Forget who runs: it was on a loop that is gone."""
        self.held: dict[asyncio.Task[object], tuple[Call, ...]] = {}
        """The calls that each task holds."""
        self._in_use: dict[Hashable, int] = {}
        """How many permits of a key's lane are in use here."""
        self._counted: dict[Call, list[Hashable]] = {}
        """The keys of whose lanes a call has a permit."""

    def set_limits(self, key: Hashable, limits: Sequence[Limit]) -> None:
        """Know other limits: of the queue (None), or of a key or pattern."""
        if key is None:
            self._own = min(self._concurrency, _permits(limits))
        else:
            self._lanes[key] = _permits(limits)
        self._note_limits([key])

    def _note_limits(self, names: Iterable[Hashable]) -> None:
        # Of those that have changed only: to look at all of thousands would take too long.
        self._patterns = find_patterns(dict.fromkeys((*self._patterns, *names)))
        self.of_lanes |= any(self._lanes.get(name, math.inf) < math.inf for name in names)
        self.active = self.of_lanes or self._own < math.inf
        """Whether anything here has permits."""

    def concerns(self, keys: Iterable[Hashable]) -> bool:
        """Return whether a call with these keys takes a permit."""
        return self._own < math.inf or bool(self._limited(keys))

    def _limited(self, keys: Iterable[Hashable]) -> list[Hashable]:
        """Return those of these keys whose lanes have permits."""
        if not self._lanes:
            return []
        names = {key: name_of(key, self._lanes, self._patterns) for key in keys}
        return [key for key, name in names.items() if self._lanes.get(name, math.inf) < math.inf]

    def full(self, keys: Iterable[Hashable]) -> list[str]:
        """Return what has no permit left for a call with these keys, in words."""
        found = []
        if self._own < math.inf:
            # Adaptive may have lowered the number; how many others hold is not known here.
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

    # Starts and ends of calls; called only where lanes have permits.

    def started(self, call: Call, waited: float) -> None:  # noqa: ARG002 - of others
        """Count a call that has started."""
        keys = self._counted[call] = self._limited(call.keys)
        for key in keys:
            self._in_use[key] = self._in_use.get(key, 0) + 1

    def refunded(self, call: Call) -> None:
        """Count a call that has started, and will not be made, as ended."""
        self.ended(call, None)

    def ended(self, call: Call, raised: object) -> None:  # noqa: ARG002 - as above
        """Count the end of a call."""
        for key in self._counted.pop(call, ()):
            self._in_use[key] -= 1
            if not self._in_use[key]:
                del self._in_use[key]

    # Who holds what.

    def drop(self, task: asyncio.Task[object], call: Call) -> None:
        """Note that a task holds a call no more."""
        calls = self.held.get(task, ())
        if len(calls) > 1:
            self.held[task] = tuple([one for one in calls if one is not call])
        elif calls:
            del self.held[task]

    def check(self, call: Call) -> None:
        """Refuse a call, which has to wait, if its task would wait for itself.

        Raises:
            RuntimeError: with the remedy.
        """
        task = current_task(call.dispatcher.loop.current)
        held = self.held.get(task, ()) if task is not None else ()
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
    """What a call that is tracked asks of its dispatcher."""

    nesting: Nesting


class _Tracking(Call):
    """A call that notes which task holds it."""

    __slots__ = ()

    dispatcher: TrackingOwner
    holder: asyncio.Task[object] | None
    """The task that entered it last, if one did; a slot of the classes that `tracking` makes."""

    def _hold(self) -> None:
        dispatcher = self.dispatcher
        task = current_task(dispatcher.loop.current)  # without it, a system call to find the loop
        self.holder = task  # type: ignore[misc]  # see there
        if task is not None:
            held = dispatcher.nesting.held
            held[task] = (*held[task], self) if task in held else (self,)

    def _let_go(self) -> None:
        """Note that the task that has entered it, if one did, holds it no more."""
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
        self._let_go()  # one that is held already may be entered again, by any task
        self._hold()
        return entering

    def __next__(self) -> asyncio.Future[Self]:
        if self.state == GRANTED:
            self._hold()
        return Call.__next__(self)

    def __enter__(self) -> Self:
        Call.__enter__(self)
        self._let_go()  # as in `__aenter__`
        self._hold()
        return self

    def finish(self, raised: object) -> None:
        if self.state == HELD:
            self._let_go()
        Call.finish(self, raised)


@cache
def tracking(call_type: Callable[..., Call]) -> Callable[..., Call]:
    """Return a kind of call that is tracked, and otherwise as this one."""
    assert isinstance(call_type, type)  # noqa: S101 - a limiter's `call_types` are
    for name in ("__aenter__", "__next__", "__enter__", "finish"):
        # Not called by super(), which takes a tenth of a slot's time.
        assert getattr(call_type, name) is getattr(Call, name)  # noqa: S101 - as said
    return type(call_type.__name__, (_Tracking, call_type), {"__slots__": ("holder",)})
