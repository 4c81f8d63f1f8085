"""Followers: the work that only some queues need at each step of a call.

The dispatcher does the work that every queue needs. Figures of lanes, permits in use and observers
are each a `Follower`, and the dispatcher calls the methods that it overrides. A follower can be
added while the queue is in use. A queue without followers pays for one test at each step.
"""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING, Any, ParamSpec, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence

    from aioapiqueue._core.events import EventKind
    from aioapiqueue._core.slot import Call

P = ParamSpec("P")
Start: TypeAlias = "Callable[[Call, float], None]"
"""`Follower.started` of one follower or more."""


class Follower:
    """Base class: override the methods for the steps of a call that you need."""

    __slots__ = ()

    is_last = False
    """Whether it is called after the other followers, because it may run a user's code."""

    def joining(self, call: Call) -> None:
        """Process a call that begins to wait, before the limiter does."""

    def joined(self, call: Call) -> None:
        """Process a call that begins to wait, after the limiter did."""

    def left(self, call: Call) -> None:
        """Process a call that left the queue without a slot."""

    def started(self, call: Call, waited: float) -> None:
        """Process the start of a call that waited these seconds."""

    def ended(self, call: Call, raised: object) -> None:
        """Process the end of a body; see `Call.finish`."""

    def refunded(self, call: Call) -> None:
        """Process a call that started and is refunded, before the limiter does."""

    def settled(self, call: Call, costs: tuple[float, ...]) -> None:
        """Process the true costs of a call; `call.costs` are still those that it was charged."""

    def happened(
        self,
        kind: EventKind,
        call: Call | None,
        key: Hashable,
        **details: Any,  # noqa: ANN401 - of `Event`, each of its own type
    ) -> None:
        """Process an event of a call, or (None) of some call with this key."""

    def loop_changed(self, *, clock_changed: bool) -> None:
        """Forget all calls: the loop on which they waited or ran is closed."""


class Followers:
    """The followers of one queue, combined into one function for each step of a call.

    A function is None if no follower overrides its method: the dispatcher then calls nothing.

    Args:
        members: the followers, in the order in which they are called.
    """

    __slots__ = (
        *("ended", "happened", "joined", "joining", "left", "loop_changed"),
        *("members", "refunded", "settled", "started"),
    )

    def __init__(self, members: Iterable[Follower]) -> None:
        # Sorting is stable: the others keep the order in which they were added.
        self.members = tuple(sorted(members, key=lambda one: one.is_last))
        self.joining = _all_of([one.joining for one in self._overriding("joining")])
        self.joined = _all_of([one.joined for one in self._overriding("joined")])
        self.left = _all_of([one.left for one in self._overriding("left")])
        # Each slot starts, and most followers override this step: `_both` would take longer.
        starts: list[Start] = [one.started for one in self._overriding("started")]
        self.started = reduce(_both_starts, starts) if starts else None
        self.ended = _all_of([one.ended for one in self._overriding("ended")])
        self.refunded = _all_of([one.refunded for one in self._overriding("refunded")])
        self.settled = _all_of([one.settled for one in self._overriding("settled")])
        self.happened = _all_of([one.happened for one in self._overriding("happened")])
        self.loop_changed = _all_of([one.loop_changed for one in self._overriding("loop_changed")])

    def _overriding(self, name: str) -> Iterable[Follower]:
        # Of the class: an instance has another bound method each time it is asked for one.
        default = getattr(Follower, name)
        return [one for one in self.members if getattr(type(one), name) is not default]

    def with_one(self, follower: Follower) -> Followers:
        """Return these followers and another one, unless it is already among them."""
        return self if follower in self.members else Followers((*self.members, follower))


def _all_of(methods: Sequence[Callable[P, None]]) -> Callable[P, None] | None:
    """Return a function that calls each of these methods, or None if there are none."""
    # Nested pairs, not a loop: a single method, the commonest case, is called directly.
    return reduce(_both, methods) if methods else None


def _both(one: Callable[P, None], other: Callable[P, None]) -> Callable[P, None]:
    def call_both(*args: P.args, **kwargs: P.kwargs) -> None:
        one(*args, **kwargs)
        other(*args, **kwargs)

    return call_both


def _both_starts(one: Start, other: Start) -> Start:
    """Do the same as `_both`, for a step whose arguments are known."""

    # Without *args and **kwargs, a tuple and a dict are not made at each call.
    def call_both(call: Call, waited: float) -> None:
        one(call, waited)
        other(call, waited)

    return call_both
