"""Detects calls that are paced twice by the same queue, which halves their rate.

There are two such mistakes:

- The function that `map` calls takes a slot of the same queue, or sends a request through a client
  that the queue paces. `map` has already taken a slot for the item.
- A task holds a slot around a request through a client that the same queue paces. The client takes
  a slot for each request.

Any other slot inside a slot is intended: two calls, one within the other. It is no mistake either
if no limit counts both slots. A single outer slot with others inside may be intended, too: a
connection that is held for long, with requests beside it, or a task that one item starts for all.
So a warning is issued only when a second outer slot has another one inside.

The queue notes the slots that may be outer ones, at most `_MOST_HELD`, and a context variable has
their numbers only. It does so for `_MOST` slots after a `map` of the queue began, or after it paced
a client. For all other slots, it tests whether to do this, which takes too little time to measure.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING, Literal, NamedTuple, ParamSpec, Protocol, TypeAlias, TypeVar

from aioapiqueue._core.unknown_keys import warn_user
from aioapiqueue._limits.cost_units import is_stated
from aioapiqueue._limits.limit_types import unit_of
from aioapiqueue.exceptions import NestedSlotWarning

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from aioapiqueue._core.seam import Core
    from aioapiqueue._limits.limit_types import Limit

P = ParamSpec("P")
T = TypeVar("T")
Maker: TypeAlias = Literal["user", "map", "client"]

_MOST = 100
"""Number of slots that are checked after a `map` began, or a client was paced."""
_MOST_HELD = 10
"""Largest number of slots that are noted at once: a mistake shows in every item."""


class WatchedSlot(Protocol):
    """A slot of a coroutine or of a thread."""

    @property
    def keys(self) -> tuple[Hashable, ...]:
        """All keys of the call."""

    @property
    def costs(self) -> Sequence[float]:
        """Costs of the call, by unit."""

    @property
    def holds(self) -> bool:
        """Whether the body runs."""

    @property
    def is_over(self) -> bool:
        """Whether the body will not run any more."""


class _Noted(NamedTuple):
    slot: WatchedSlot
    maker: Maker
    holder: int
    """Identity of the task, or of the thread, that made the slot."""


_numbers: ContextVar[tuple[int, ...]] = ContextVar("numbers of the slots around", default=())
_maker: ContextVar[Maker] = ContextVar("maker of the next slot", default="user")
_count = itertools.count()


def made_by(maker: Maker, make: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `make`, which makes a slot, for `map` or for a client."""
    token = _maker.set(maker)
    try:
        return make(*args, **kwargs)
    finally:
        _maker.reset(token)


class DoublePacing:
    """Checks new slots of one queue, and warns once.

    Args:
        owner: the queue's dispatcher.
    """

    __slots__ = ("_first", "_left", "_noted", "_owner", "has_warned")

    def __init__(self, owner: Core) -> None:
        self._owner = owner
        self._noted: dict[int, _Noted] = {}
        """Slots by number. Threads may change it at the same time."""
        self.has_warned = False
        self.begin()

    def begin(self) -> None:
        """Check the next `_MOST` slots."""
        self._left = _MOST
        self._first: int | None = None
        """Number of the first slot that had another one inside."""

    @property
    def is_over(self) -> bool:
        """Whether no more slots need to be checked."""
        return self.has_warned or self._left <= 0

    def made(self, slot: WatchedSlot) -> None:
        """Check a slot that is being made in the current context.

        Raises:
            NestedSlotWarning: the program turns warnings into errors.
        """
        maker = _maker.get()
        # A slot of `map` can only be an outer one, and a client's only an inner one.
        if maker != "map":
            # Checked before it is noted: its own number must not be among those around it.
            self._left -= 1
            self._check(slot, maker)
        if maker != "client":
            self._note(slot, maker)
        if self.is_over:
            self._noted.clear()  # the noted slots must not be kept alive

    def forget(self, slot: WatchedSlot) -> None:
        """Forget a slot that was just made: it is not an outer one if another task uses it."""
        # Only the last number can be its own; if it was not noted, that is another slot's.
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
                self._first = number  # a single outer slot may be intended: see above
            elif self._first != number:
                self.has_warned = True
                warn_user(f"{self._owner!r}: {_TEXTS[outer.maker, maker]}", NestedSlotWarning)
            return

    def _note(self, slot: WatchedSlot, maker: Maker) -> None:
        # A copy, and `pop` with a default, because threads may note slots meanwhile.
        for number, noted in list(self._noted.items()):
            if noted.slot.is_over:
                self._noted.pop(number, None)
                self._left -= 1  # also here, so that a queue that only maps is checked for a time
        if len(self._noted) < _MOST_HELD:
            number = next(_count)
            self._noted[number] = _Noted(slot, maker, _holder())
            # Only numbers: tasks copy the context, and would keep slots and their queue alive.
            _numbers.set((*_numbers.get()[1 - _MOST_HELD :], number))

    def _is_double(self, outer: _Noted, slot: WatchedSlot, maker: Maker) -> bool:
        if not outer.slot.holds:
            return False
        # Other tasks that the function of `map` starts belong to its item. Tasks that run beside a
        # slot of the user's may have nothing to do with it.
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
        """Return whether a limit counts a slot: permits count every slot, others its cost."""
        unit = unit_of(limit)
        if unit is None:
            return True
        place, costs = self._owner.units.known_place_of(unit), slot.costs
        return is_stated(costs, place) and costs[place] > 0


def _holder() -> int:
    # An identity, not the task itself, which must not be kept alive.
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
