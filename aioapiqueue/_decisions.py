"""What users have decided about one quota, in any process: merged in whatever order it comes.

What holds is a function of the *set* of decisions, so a process may hear of one twice, late, or
from a process that its maker never met, and nobody has to outlive anybody else:

- *Limits*, set or learnt: of each key, the latest.
- *Pauses*: the longest of those that are later than the latest resume. Each ends by itself.
- *Holds*: of each key, the longest.

Each decision has a *stamp*: an instant of the quota's clock and the name of its maker. The instant
is the maker's clock, or one step after the newest stamp that it has seen, if that is later (as of
Lamport's clocks). So who decides with knowledge of another decision decides later, even if the
clocks differ. Stamps of one maker only grow.

Two processes that meet exchange what the other lacks. Each says the newest stamp that it has of
each maker (`newest`), and the other sends what is newer (`newer_than`). One newest stamp of all
makers would not do: a process that was cut off for a while has made decisions that are older than
what the others have meanwhile, and that they have never seen. It suffices to look at what still
holds: who knows a decision of a maker knows all earlier ones of that maker, or what has replaced
them, as a message of several is merged as a whole.
"""

from __future__ import annotations

import math
import os
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

from aioapiqueue._statements import (
    Hold,
    Learnt,
    Pause,
    Resume,
    SetLimits,
    key_from,
    key_to,
    limits_from,
    limits_to,
    span_from,
    span_to,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
    from typing import TypeAlias

    from aioapiqueue._rate import Limit

    Place: TypeAlias = "tuple[type[SetLimits | Learnt | Resume | Hold], Hashable]"

__all__ = ["Decision", "Decisions", "Stamp"]

_MOST = 10_000
"""Limits that are kept, set or learnt: of more, the earliest are forgotten."""
_numbers = count()


class Stamp(NamedTuple):
    """When and by whom something was decided: the greater is the later.

    Attributes:
        at: microseconds of the quota's clock; whole, so that no conversion changes a stamp.
        maker: a name that no other maker has.
    """

    at: int
    maker: str


class Decision(NamedTuple):
    """A statement of a user, which lasts. Instants in it are on the quota's clock."""

    stamp: Stamp
    statement: SetLimits | Learnt | Pause | Resume | Hold

    def as_json(self, lead: int = 0) -> list[Any]:
        """Return it as it is sent; to who has a clock that is so many microseconds ahead."""
        statement, (at, maker) = self.statement, self.stamp
        value: Any = None
        if isinstance(statement, SetLimits | Learnt):
            value = limits_to(statement.limits)
        elif not isinstance(statement, Resume):
            value = span_to(statement.until + lead / 1e6 if lead else statement.until)
        key = None if isinstance(statement, Pause | Resume) else statement.key
        return [at + lead, maker, statement.kind, key_to(key), value]

    @classmethod
    def from_json(cls, parts: Sequence[Any], lead: int = 0) -> Decision:
        """Return one that was sent, as by `as_json`.

        Raises:
            ValueError: it is none.
            KeyError: it is of an unknown kind.
            TypeError: a part is of another type.
        """
        at, maker, kind, keys, value = parts
        key = key_from(keys[0]) if keys else None
        statement: SetLimits | Learnt | Pause | Resume | Hold
        if kind in _OF_LIMITS:
            statement = _OF_LIMITS[kind](key, limits_from(value))
        elif kind == Resume.kind:
            statement = Resume()
        else:
            until = float(span_from(value)) - lead / 1e6 if lead else float(span_from(value))
            statement = Hold(key, until) if _UNTIL[kind] is Hold else Pause(until)
        return cls(Stamp(int(at) - lead, str(maker)), statement)


_OF_LIMITS: Mapping[str, type[SetLimits | Learnt]] = {one.kind: one for one in (SetLimits, Learnt)}
_UNTIL: Mapping[str, type[Pause | Hold]] = {one.kind: one for one in (Pause, Hold)}


class Decisions:
    """All decisions that still hold, as far as is known here.

    Args:
        now: returns the present instant on the quota's clock, in seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._latest: dict[Place, Decision] = {}
        """Limits by key, holds by key, and the latest resume."""
        self._pauses: list[Decision] = []
        """Those after that resume, by stamp. A later one ends earlier, or it alone would count."""
        self._newest = -1
        """The instant of the newest stamp that was ever seen."""
        self.begin()

    def begin(self) -> None:
        """Be a new maker, as in a child made by `fork`."""
        self._maker = f"{os.getpid()}-{next(_numbers)}-{os.urandom(4).hex()}"

    def make(self, *statements: SetLimits | Learnt | Pause | Resume | Hold) -> list[Decision]:
        """Decide something, later than all that is known here; return what is news in that."""
        made = []
        for statement in statements:
            self._newest = max(math.ceil(self._now() * 1e6), self._newest + 1)
            made.append(Decision(Stamp(self._newest, self._maker), statement))
        return self.merge(made)

    def merge(self, decisions: Iterable[Decision]) -> list[Decision]:
        """Note decisions; return those that are news."""
        news = [one for one in decisions if self._note(one)]
        if len(self._latest) > _MOST + _SLACK:  # so seldom that it is linear
            limits = {key: one for key, one in self._latest.items() if key[0] in _LIMITS}
            for key, _ in sorted(limits.items(), key=lambda item: item[1].stamp)[:-_MOST]:
                del self._latest[key]
        return news

    def _note(self, decision: Decision) -> bool:
        stamp, statement = decision
        self._newest = max(self._newest, stamp.at)
        if isinstance(statement, Pause):
            return self._note_pause(decision, statement.until)
        place: Place = type(statement), None if isinstance(statement, Resume) else statement.key
        known = self._latest.get(place)
        if known is not None and self._rank(decision) <= self._rank(known):
            return False
        self._latest[place] = decision
        if isinstance(statement, Resume):
            self._pauses = [one for one in self._pauses if one.stamp > stamp]
        return True

    @staticmethod
    def _rank(decision: Decision) -> tuple[float, Stamp]:
        """Return what decides between two of one kind and key: the greater one holds."""
        stamp, statement = decision
        return statement.until if isinstance(statement, Hold) else 0.0, stamp

    def _note_pause(self, pause: Decision, until: float) -> bool:
        resumed = self._latest.get((Resume, None))
        if resumed is not None and pause.stamp <= resumed.stamp:
            return False
        if any(one.stamp >= pause.stamp and _until(one) >= until for one in self._pauses):
            return False
        # One that is earlier and ends no later counts in no case any more; of the others, a resume
        # may end the longer one and not the later one.
        rest = [one for one in self._pauses if one.stamp > pause.stamp or _until(one) > until]
        self._pauses = sorted([*rest, pause], key=lambda one: one.stamp)
        return True

    # What holds.

    def limits(self, kind: type[SetLimits | Learnt]) -> dict[Hashable, tuple[Limit, ...]]:
        """Return the limits that were set, or learnt, by key; None: of the queue."""
        statements = (one.statement for one in self._latest.values())
        return {one.key: one.limits for one in statements if isinstance(one, kind)}

    @property
    def paused_until(self) -> float:
        """The instant until which users pause everything; -inf: they do not."""
        return max(map(_until, self._pauses), default=-math.inf)

    def held_until(self, key: Hashable) -> float:
        """Return the instant until which a key, or (None) everything, is held; -inf: it is not."""
        hold = self._latest.get((Hold, key))
        return -math.inf if hold is None else _until(hold)

    def holds(self) -> dict[Hashable, float]:
        """Return the instants until which keys are held; None: everything."""
        now = self._now()
        for place, one in list(self._latest.items()):
            if isinstance(one.statement, Hold) and one.statement.until <= now:
                del self._latest[place]
        return {key: _until(one) for (kind, key), one in self._latest.items() if kind is Hold}

    def forget_instants(self) -> None:
        """Forget all that a clock has counted which is another one by now."""
        self._latest = {place: one for place, one in self._latest.items() if place[0] in _LIMITS}
        self._pauses = []

    def end_pauses(self) -> None:
        """Forget all pauses: nobody is left who could end them."""
        self._pauses = []

    # What others lack.

    def newest(self) -> dict[str, int]:
        """Return the instant of the newest decision of each maker, of those that hold."""
        found: dict[str, int] = {}
        for at, maker in (one.stamp for one in self):
            found[maker] = max(at, found.get(maker, at))
        return found

    def newer_than(self, newest: Mapping[str, int]) -> list[Decision]:
        """Return what somebody lacks who has these, by maker, as `newest` returns it."""
        return [one for one in self if one.stamp.at > newest.get(one.stamp.maker, -1)]

    def __iter__(self) -> Iterator[Decision]:
        """Yield all that hold, or may hold once a pause is resumed, by stamp."""
        now = self._now()
        self.holds()  # without those that are over
        self._pauses = [one for one in self._pauses if _until(one) > now]
        found = [*self._latest.values(), *self._pauses]
        yield from sorted(found, key=lambda one: one.stamp)


_LIMITS = (SetLimits, Learnt)
_SLACK = 1_000
"""Decisions beyond `_MOST` by which forgetting waits, so that it is not done at each one."""


def _until(decision: Decision) -> float:
    statement = decision.statement
    assert isinstance(statement, Pause | Hold)  # noqa: S101 - the caller has looked
    return statement.until
