"""Calls that take two turns of one queue, as they are paced twice: half the rate, in silence.

There are two ways to do so by mistake:

- The function that `map` calls takes a slot of the same queue, or makes a request by a client which
  that queue paces. `map` has taken one for the item.
- A task holds a slot around a request by a client that the same queue paces. The client takes one
  for each request that it sends.

Any other slot inside a slot is meant: two calls, one within the other. Nor is it a mistake where
the two share no limit (the queue has none of its own, and their lanes are not the same), or where
one of them costs no calls.

Which slots a task holds is noted in its context, and only where it can matter: after a `map` of the
queue has begun, or a client was paced by it, and then for `_MOST` slots. A program that nests them
does so from the start. All other slots only look whether they are to be noted, which takes too
little to be measured.
"""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING, Literal, NamedTuple, ParamSpec, Protocol, TypeAlias, TypeVar

from aioapiqueue._unknown_keys import warn_user
from aioapiqueue.exceptions import NestedSlotWarning

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from aioapiqueue._limiter import Limiter
    from aioapiqueue._nesting import Nesting

__all__ = ["DoubleTurns", "made_by"]

P = ParamSpec("P")
T = TypeVar("T")
Maker: TypeAlias = Literal["user", "map", "client"]

_MOST = 100
"""Slots that are noted after a `map` has begun, or a client was paced."""


class Turn(Protocol):
    """A slot, of a coroutine or of a thread."""

    @property
    def keys(self) -> tuple[Hashable, ...]:
        """What kinds of call it is for."""

    @property
    def cost(self) -> float:
        """Its cost in calls."""

    @property
    def holds(self) -> bool:
        """Whether its body runs."""


class Owner(Protocol):
    """What this asks of a queue's dispatcher."""

    limiter: Limiter
    nesting: Nesting


class _Held(NamedTuple):
    owner: Owner
    turn: Turn
    maker: Maker
    holder: int
    """Which task, or thread, has made it: not the task itself, whose context has this."""


_held: ContextVar[tuple[_Held, ...]] = ContextVar("slots that are held", default=())
_maker: ContextVar[Maker] = ContextVar("who makes a slot", default="user")


def made_by(maker: Maker, make: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Make a slot for `map` or for a client."""
    token = _maker.set(maker)
    try:
        return make(*args, **kwargs)
    finally:
        _maker.reset(token)


class DoubleTurns:
    """Looks for double turns of one queue, and warns once.

    Args:
        owner: the queue's dispatcher.
    """

    __slots__ = ("_left", "_owner", "has_warned")

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._left = _MOST
        self.has_warned = False

    def begin(self) -> None:
        """Note so many slots from now on."""
        self._left = _MOST

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to be noted."""
        return self.has_warned or self._left <= 0

    def made(self, turn: Turn) -> None:
        """Note a slot that is made now, in this context.

        Raises:
            NestedSlotWarning: if the program has warnings raised.
        """
        maker, held = _maker.get(), _held.get()
        holder = _holder()
        for outer in held:
            if self._is_double(outer, turn, maker, holder):
                self.has_warned = True
                warn_user(f"{self._owner!r}: {_TEXTS[outer.maker, maker]}", NestedSlotWarning)
                return
        if maker == "user":
            self._left -= 1
        if maker != "client":
            # Those that are over are left out, so that a task which makes many keeps one.
            rest = [one for one in held if one.turn.holds]
            _held.set((*rest, _Held(self._owner, turn, maker, holder)))

    def _is_double(self, outer: _Held, turn: Turn, maker: Maker, holder: int) -> bool:
        if outer.owner is not self._owner or not outer.turn.holds:
            return False
        # What the function of `map` starts in other tasks is part of it; beside a slot of the
        # user's, it may be something else.
        if outer.maker != "map" and (maker != "client" or outer.holder != holder):
            return False
        return bool(outer.turn.cost and turn.cost) and self._share_limits(outer.turn, turn)

    def _share_limits(self, one: Turn, other: Turn) -> bool:
        limiter, nesting = self._owner.limiter, self._owner.nesting
        if limiter.limits or nesting.concerns(()):
            return True
        return any(limiter.has_lane(key) for key in one.keys if key in other.keys)


def _holder() -> int:
    try:
        return id(asyncio.current_task())
    except RuntimeError:  # no loop runs here
        return threading.get_ident()


_IF_MEANT = "(If two turns are meant, ignore NestedSlotWarning.)"
_TEXTS: dict[tuple[Maker, Maker], str] = {
    ("map", "user"): (
        "the function that map() calls takes a slot of the same queue, so that each item takes two "
        "turns: leave its slot out, or decorate it with @rate_limited(queue), which map() knows "
        f"{_IF_MEANT}"
    ),
    ("map", "map"): (
        "the function that map() calls uses map() of the same queue, so that it takes turns beside "
        f"those of its items: pace the inner calls only {_IF_MEANT}"
    ),
    ("map", "client"): (
        "the function that map() calls makes requests by a client which this queue paces, so that "
        "each takes two turns: use a task group or asyncio.gather in the place of map(), as the "
        f"client takes a slot for each request, or a client that is not paced {_IF_MEANT}"
    ),
    ("user", "client"): (
        "a slot is held around a request of a client which the same queue paces, so that it takes "
        "two turns: leave the slot out, as the client takes one for each request that it sends "
        f"{_IF_MEANT}"
    ),
}
