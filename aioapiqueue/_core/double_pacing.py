"""Detect calls that are paced twice by the same queue, which halves their rate.

There are two ways to do so by mistake:

- The function that `map` calls takes a slot of the same queue, or makes a request by a client which
  that queue paces. `map` has taken one for the item.
- A task holds a slot around a request by a client that the same queue paces. The client takes one
  for each request that it sends.

Any other slot inside a slot is meant: two calls, one within the other. Nor is it a mistake where no
limit counts both. And one that happens within a single slot may be meant, too (a connection that is
held for long, with requests beside it; a task that one item starts for all): the second slot that
has another within it gives the mistake away.

Slots that may be such an outer one are noted by the queue, up to `_MOST_HELD`, and the context has
no more than their numbers. This is done only where it can matter: after a `map` of the queue has
begun, or a client was paced by it, and then until `_MOST` slots were looked at. All others only
look whether they are to be noted, which takes too little to be measured.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING, Literal, NamedTuple, ParamSpec, Protocol, TypeAlias, TypeVar

from aioapiqueue._core.unknown_keys import warn_user
from aioapiqueue._limits.rates import unit_of
from aioapiqueue._limits.units import is_stated
from aioapiqueue.exceptions import NestedSlotWarning

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from aioapiqueue._core.limiter import Limiter
    from aioapiqueue._limits.rates import Limit
    from aioapiqueue._limits.units import Units

__all__ = ["DoublePacing", "made_by"]

P = ParamSpec("P")
T = TypeVar("T")
Maker: TypeAlias = Literal["user", "map", "client"]

_MOST = 100
"""Slots that are looked at after a `map` has begun, or a client was paced."""
_MOST_HELD = 10
"""Slots that are noted at a time: a mistake is in every item."""


class WatchedSlot(Protocol):
    """A slot, of a coroutine or of a thread."""

    @property
    def keys(self) -> tuple[Hashable, ...]:
        """What kinds of call it is for."""

    @property
    def costs(self) -> Sequence[float]:
        """Its costs, by unit."""

    @property
    def holds(self) -> bool:
        """Whether its body runs."""

    @property
    def is_over(self) -> bool:
        """Whether its body will not run any more."""


class Owner(Protocol):
    """What this asks of a queue's dispatcher."""

    limiter: Limiter
    units: Units


class _Noted(NamedTuple):
    slot: WatchedSlot
    maker: Maker
    holder: int
    """Which task, or thread, has made it."""


_numbers: ContextVar[tuple[int, ...]] = ContextVar("slots around, by number", default=())
_maker: ContextVar[Maker] = ContextVar("who makes a slot", default="user")
_count = itertools.count()


def made_by(maker: Maker, make: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Make a slot for `map` or for a client."""
    token = _maker.set(maker)
    try:
        return make(*args, **kwargs)
    finally:
        _maker.reset(token)


class DoublePacing:
    """Looks for double turns of one queue, and warns once.

    Args:
        owner: the queue's dispatcher.
    """

    __slots__ = ("_first", "_left", "_noted", "_owner", "has_warned")

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._noted: dict[int, _Noted] = {}
        """By number. Threads may change it at once."""
        self.has_warned = False
        self.begin()

    def begin(self) -> None:
        """Look at so many slots from now on."""
        self._left = _MOST
        self._first: int | None = None
        """The number of the first slot that had another within it."""

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to be looked at."""
        return self.has_warned or self._left <= 0

    def made(self, slot: WatchedSlot) -> None:
        """Look at a slot that is made now, in this context.

        Raises:
            NestedSlotWarning: if the program has warnings raised.
        """
        maker = _maker.get()
        if maker != "map":
            self._left -= 1
            self._check(slot, maker)
        if maker != "client":
            self._note(slot, maker)
        if self.is_over:
            self._noted.clear()

    def forget(self, slot: WatchedSlot) -> None:
        """Let a slot that was just made be no outer one: it may be handed to another task."""
        for number in _numbers.get()[-1:]:
            noted = self._noted.get(number)
            if noted is not None and noted.slot is slot:
                self._noted.pop(number, None)

    def _check(self, slot: WatchedSlot, maker: Maker) -> None:
        for number in _numbers.get():
            outer = self._noted.get(number)
            if outer is None or not self._is_double(outer, slot, maker):
                continue
            if self._first is None:
                self._first = number
            elif self._first != number:
                self.has_warned = True
                warn_user(f"{self._owner!r}: {_TEXTS[outer.maker, maker]}", NestedSlotWarning)
            return

    def _note(self, slot: WatchedSlot, maker: Maker) -> None:
        for number, noted in list(self._noted.items()):
            if noted.slot.is_over:
                self._noted.pop(number, None)
                self._left -= 1
        if len(self._noted) < _MOST_HELD:
            number = next(_count)
            self._noted[number] = _Noted(slot, maker, _holder())
            _numbers.set((*_numbers.get()[1 - _MOST_HELD :], number))

    def _is_double(self, outer: _Noted, slot: WatchedSlot, maker: Maker) -> bool:
        if not outer.slot.holds:
            return False
        # What the function of `map` starts in other tasks is part of it; beside a slot of the
        # user's, it may be something else.
        if outer.maker != "map" and (maker != "client" or outer.holder != _holder()):
            return False
        limiter, keys = self._owner.limiter, (None, *slot.keys)  # None: the queue's own limits
        shared = [limiter.limits_of(key) or () for key in keys if key in (None, *outer.slot.keys)]
        return any(
            self._counts(limit, outer.slot) and self._counts(limit, slot)
            for limits in shared
            for limit in limits
        )

    def _counts(self, limit: Limit, slot: WatchedSlot) -> bool:
        """Return whether a limit counts a slot: its permits any, others what it costs."""
        unit = unit_of(limit)
        if unit is None:
            return True
        place, costs = self._owner.units.known_place_of(unit), slot.costs
        return is_stated(costs, place) and costs[place] > 0


def _holder() -> int:
    try:
        return id(asyncio.current_task())
    except RuntimeError:  # no loop runs here
        return threading.get_ident()


_IF_MEANT = "(If this is intended, ignore NestedSlotWarning.)"
_TEXTS: dict[tuple[Maker, Maker], str] = {
    ("map", "user"): (
        "each item of map() uses two slots, because the function that map() calls takes another "
        "slot of the same queue: remove that slot, or decorate the function with "
        f"@rate_limited(queue) {_IF_MEANT}"
    ),
    ("map", "client"): (
        "each item of map() uses two slots, because the function that map() calls sends requests "
        "through a client paced by the same queue: use asyncio.gather or a task group instead of "
        f"map(), or a client that is not paced {_IF_MEANT}"
    ),
    ("user", "client"): (
        "each request uses two slots, because a slot is held around a client paced by the same "
        f"queue: remove that slot, because the client takes one for each request {_IF_MEANT}"
    ),
}
