"""Who follows what happens to a queue's calls: figures of lanes, permits in use, observers.

The dispatcher itself does what every queue needs. What only some queues need is a `Follower`: the
dispatcher calls it at each step of a call, and it may be added while the queue is in use. A queue
without followers pays for one test at each step.
"""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING, Any, ParamSpec, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence

    from aioapiqueue._core.events import EventKind
    from aioapiqueue._core.slot import Call

__all__ = ["Follower", "Followers"]

P = ParamSpec("P")
Start: TypeAlias = "Callable[[Call, float], None]"
"""Tells of a call that has started, and how many seconds it has waited."""


class Follower:
    """Base class: override the methods for the steps of a call that you want to know about."""

    __slots__ = ()

    is_last = False
    """Whether it is called last, because it may do anything with the queue."""

    def joining(self, call: Call) -> None:
        """Note that a call waits from now on; the limiter does not know it yet."""

    def joined(self, call: Call) -> None:
        """Note that a call waits; the limiter knows."""

    def left(self, call: Call) -> None:
        """Note that a call waits no more, and was not granted."""

    def started(self, call: Call, waited: float) -> None:
        """Note that a call has started, after so many seconds."""

    def ended(self, call: Call, raised: object) -> None:
        """Note that the body of a call has ended; see `Call.finish`."""

    def refunded(self, call: Call) -> None:
        """Note that a call which had started will not be made; the limiter does not know it yet."""

    def settled(self, call: Call, costs: tuple[float, ...]) -> None:
        """Note the true costs of a call, which still has those that it was charged."""

    def happened(
        self,
        kind: EventKind,
        call: Call | None,
        key: Hashable,
        **details: Any,  # noqa: ANN401 - of `Event`, each of its own type
    ) -> None:
        """Note what happened to a call, or (where it is not known) to a call of a key."""

    def loop_changed(self, *, clock_changed: bool) -> None:
        """Note that all who wait or run are gone with their loop, and perhaps with its clock."""


class Followers:
    """The followers of one queue, and for each turn what tells those who want to know.

    Args:
        members: the followers, in the order in which they are called.
    """

    __slots__ = (
        *("ended", "happened", "joined", "joining", "left", "loop_changed"),
        *("members", "refunded", "settled", "started"),
    )

    def __init__(self, members: Iterable[Follower]) -> None:
        self.members = tuple(sorted(members, key=lambda one: one.is_last))
        # Each: None, if nobody overrides it.
        self.joining = _all_of([one.joining for one in self._who_override("joining")])
        self.joined = _all_of([one.joined for one in self._who_override("joined")])
        self.left = _all_of([one.left for one in self._who_override("left")])
        starts: list[Start] = [one.started for one in self._who_override("started")]
        self.started = reduce(_both_starts, starts) if starts else None
        self.ended = _all_of([one.ended for one in self._who_override("ended")])
        self.refunded = _all_of([one.refunded for one in self._who_override("refunded")])
        self.settled = _all_of([one.settled for one in self._who_override("settled")])
        self.happened = _all_of([one.happened for one in self._who_override("happened")])
        self.loop_changed = _all_of(
            [one.loop_changed for one in self._who_override("loop_changed")]
        )

    def _who_override(self, name: str) -> Iterable[Follower]:
        default = getattr(Follower, name)
        return [one for one in self.members if getattr(type(one), name) is not default]

    def with_one(self, follower: Follower) -> Followers:
        """Return these and another one, unless it is one of them."""
        return self if follower in self.members else Followers((*self.members, follower))


def _all_of(methods: Sequence[Callable[P, None]]) -> Callable[P, None] | None:
    """Return what calls each of these methods; None: there is none."""
    return reduce(_both, methods) if methods else None


def _both(one: Callable[P, None], other: Callable[P, None]) -> Callable[P, None]:
    def call_both(*args: P.args, **kwargs: P.kwargs) -> None:
        one(*args, **kwargs)
        other(*args, **kwargs)

    return call_both


def _both_starts(one: Start, other: Start) -> Start:
    """As `_both`, in less time: most followers want to know of starts, and each slot has one."""

    def call_both(call: Call, waited: float) -> None:
        one(call, waited)
        other(call, waited)

    return call_both
