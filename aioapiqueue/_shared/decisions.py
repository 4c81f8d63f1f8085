"""The decisions of users about one quota, in any process, merged in whatever order they arrive.

What holds depends only on the *set* of decisions. A process may therefore receive a decision twice,
late, or from a process other than its maker, and no process has to outlive another:

- *Limits*: of each key, those that were set last, and beside them those that were learnt since.
- *Pauses*: the longest of those that are later than the latest resume. Each ends by itself.
- *Holds*: of each key, the longest.

Each decision has a *stamp*: a time on the quota's clock, and the name of its maker. The time is
that of the maker's clock, or one step after the newest stamp that the maker has seen, if that is
later (Lamport's clocks). A decision made with knowledge of another one is therefore later, even if
the clocks differ. The stamps of one maker only increase.

When two processes connect, each sends what the other one lacks. First each states, for every maker,
the time up to which it lacks nothing (`newest`). The other one sends all newer decisions that still
hold (`newer_than`); a decision that no longer holds was replaced by one of these. The receiver then
lacks no more than the sender, so `merge` takes the sender's `newest` as well.

One time for all makers would not do: a process that was disconnected may have made decisions that
never reached the others, and that are older than their newest one. Nor would the latest decision
of each maker that holds here, because it may have arrived before earlier ones. A time that is too
early only causes a decision to be sent twice.
"""

from __future__ import annotations

import math
import os
from itertools import count
from operator import index, itemgetter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from aioapiqueue._shared.statement_json import (
    key_from,
    key_to,
    limits_from,
    limits_to,
    span_from,
    span_to,
)
from aioapiqueue.spi import statements

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence

    from aioapiqueue import Limit

Limiting = statements.SetLimits | statements.Learnt
"""Decisions that give limits to the queue, or to a key."""
Closing = statements.Pause | statements.Hold
"""Decisions that close the queue, or a lane, until an instant."""
Decided = Limiting | Closing | statements.Resume
"""The statements that last. `Decisions.forms` has an entry for each."""
_MOST = 10_000
"""Limits that are kept, set or learnt; beyond, the earliest are forgotten."""
_MOST_MAKERS = 1_000
"""Makers in `newest`, which each process sends when it connects."""
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
    """A lasting statement of a user. Instants in it are on the quota's clock."""

    stamp: Stamp
    statement: Decided

    def as_json(self) -> list[Any]:
        """Return it in the form that is sent."""
        statement, (at, maker) = self.statement, self.stamp
        key, value_of = getattr(statement, "key", None), Decisions.forms[statement.kind].value_of
        return [at, maker, statement.kind, key_to(key), value_of(statement)]

    @classmethod
    def from_json(cls, parts: Sequence[Any]) -> Decision:
        """Return a decision that was sent, see `as_json`.

        Raises:
            ValueError: it is malformed.
            KeyError: it is of an unknown kind.
            TypeError: a part is of another type.
        """
        at, maker, kind, keys, value = parts
        made_of = Decisions.forms[kind].made_of
        return cls(Stamp(index(at), str(maker)), made_of(key_from(keys), value))


class _DecisionForm(NamedTuple):
    """How decisions of one kind are sent and merged.

    Attributes:
        value_of: returns what is sent of a statement besides its key.
        made_of: returns the statement with a key and a sent value.
        merge: merges a decision; returns whether it changes what holds.
    """

    value_of: Callable[[Any], Any]
    made_of: Callable[[Hashable, Any], Decided]
    merge: Callable[[Decisions, Decision, Any], bool]


class Decisions:
    """All decisions that hold, as far as this process knows.

    Args:
        now: returns the present instant on the quota's clock, in seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._limits: dict[tuple[type[Limiting], Hashable], Decision] = {}
        """The latest of each kind and key."""
        self._holds: dict[Hashable, Decision] = {}
        """The longest of each key."""
        self._resumed: Decision | None = None
        """The latest resume."""
        self._pauses: list[Decision] = []
        """Those after that resume, by stamp. A later one ends earlier, or it alone would count."""
        self._newest = -1
        """The instant of the newest stamp that was ever seen."""
        self._complete: dict[str, int] = {}
        """By maker, the instant up to which nothing is lacking."""
        self._forgotten = Stamp(-1, "")
        """The newest stamp of forgotten limits. Limits up to it are ignored, or they would return
        from another process."""
        self.begin()

    def begin(self) -> None:
        """Become a new maker: in a child made by `fork`, or when decisions were forgotten."""
        self._pid = os.getpid()
        # A pid may be used again, also on another host: hence the random part.
        # The name decides between decisions of one microsecond. Where a clock stands still, as in
        # virtual time, the queue that was made later wins, and not one by chance.
        self._maker = f"{self._pid}-{next(_numbers):06}-{os.urandom(4).hex()}"

    def make(self, *given: Decided) -> list[Decision]:
        """Make decisions, later than all known ones; return those that change what holds."""
        if os.getpid() != self._pid:  # two processes of one name could make equal stamps
            self.begin()
        made = []
        for statement in given:
            # Later than all that was seen, whatever the clocks say: a user who resumes after a
            # pause from another process must win, even with a slow clock.
            self._newest = max(math.ceil(self._now() * 1e6), self._newest + 1)
            made.append(Decision(Stamp(self._newest, self._maker), statement))
        return self.merge(made, {self._maker: self._newest} if made else {})

    def merge(
        self, decisions: Iterable[Decision], newest: Mapping[str, int] = MappingProxyType({})
    ) -> list[Decision]:
        """Merge decisions; return those that change what holds.

        Args:
            decisions: decisions, in any order.
            newest: by maker, the instant up to which nothing is lacking now: the sender's, if
                these are all that it had and was lacking here. Default: unchanged.
        """
        effective = [one for one in decisions if self._merge_one(one)]
        for maker, at in newest.items():
            self._complete[maker] = max(at, self._complete.get(maker, at))
        if len(self._complete) > _MOST_MAKERS:
            # The decisions of a maker that is dropped are only received once more.
            makers = sorted(self._complete.items(), key=itemgetter(1))
            self._complete = dict(makers[-_MOST_MAKERS // 2 :])
        if len(self._limits) > _MOST + _SLACK:  # so seldom that it is linear
            self._forgotten = sorted(one.stamp for one in self._limits.values())[-_MOST - 1]
            latest = (item for item in self._limits.items() if item[1].stamp > self._forgotten)
            self._limits = dict(latest)
        return effective

    def _merge_one(self, decision: Decision) -> bool:
        self._newest = max(self._newest, decision.stamp.at)
        return self.forms[decision.statement.kind].merge(self, decision, decision.statement)

    def _merge_limits(self, decision: Decision, given: Limiting) -> bool:
        kind, key = type(given), given.key
        known = self._limits.get((kind, key))
        if decision.stamp <= (self._forgotten if known is None else known.stamp):
            return False
        # Set limits replace those learnt before them, also if the learnt ones arrive later.
        learnt = self._limits.get((statements.Learnt, key))
        set_ = self._limits.get((statements.SetLimits, key))
        if kind is statements.Learnt and set_ is not None and decision.stamp < set_.stamp:
            return False
        if kind is statements.SetLimits and learnt is not None and learnt.stamp < decision.stamp:
            del self._limits[statements.Learnt, key]
        self._limits[kind, key] = decision
        return True

    def _merge_hold(self, decision: Decision, hold: statements.Hold) -> bool:
        known = self._holds.get(hold.key)
        # After a conversion between clocks, the same hold may end a microsecond later.
        if known is not None and (
            decision.stamp == known.stamp
            or (hold.until, decision.stamp) < (_until(known), known.stamp)
        ):
            return False
        self._holds[hold.key] = decision
        return True

    def _merge_pause(self, decision: Decision, pause: statements.Pause) -> bool:
        stamp, until = decision.stamp, pause.until
        if self._resumed is not None and stamp <= self._resumed.stamp:
            return False
        if any(one.stamp == stamp for one in self._pauses):
            return False
        if any(one.stamp > stamp and _until(one) >= until for one in self._pauses):
            return False
        # A pause that was made earlier and ends no later can never count again. The others stay: a
        # resume may end the longer one, and not the later one.
        rest = [one for one in self._pauses if one.stamp > stamp or _until(one) > until]
        self._pauses = sorted([*rest, decision], key=lambda one: one.stamp)
        return True

    def _merge_resume(self, decision: Decision, _: statements.Resume) -> bool:
        if self._resumed is not None and decision.stamp <= self._resumed.stamp:
            return False
        # It changes what holds even if it ends no pause here: an earlier pause may arrive after it.
        self._resumed = decision
        self._pauses = [one for one in self._pauses if one.stamp > decision.stamp]
        return True

    # What holds.

    def limits(self, kind: type[Limiting]) -> dict[Hashable, tuple[Limit, ...]]:
        """Return the limits that were set, or learnt, by key; None: of the queue."""
        given = (one.statement for one in self._limits.values())
        return {one.key: one.limits for one in given if isinstance(one, kind)}

    def limits_of(self, kind: type[Limiting], key: Hashable) -> tuple[Limit, ...] | None:
        """Return the limits of a key, or (None) of the queue, if they were set, or learnt."""
        known = self._limits.get((kind, key))
        if known is None:
            return None
        assert isinstance(known.statement, kind)  # noqa: S101 - as `_merge_limits` has it
        return known.statement.limits

    @property
    def paused_until(self) -> float:
        """The instant until which users pause everything; -inf: they do not."""
        return max(map(_until, self._pauses), default=-math.inf)

    def held_until(self, key: Hashable) -> float:
        """Return the instant until which a key, or (None) everything, is held; -inf: it is not."""
        hold = self._holds.get(key)
        return -math.inf if hold is None else _until(hold)

    def holds(self) -> dict[Hashable, float]:
        """Return the instants until which keys are held; None: everything."""
        now = self._now()
        self._holds = {key: one for key, one in self._holds.items() if _until(one) > now}
        return {key: _until(one) for key, one in self._holds.items()}

    def forget_instants(self) -> None:
        """Forget all decisions with instants: the clock has changed."""
        self._holds, self._resumed = {}, None
        self.end_pauses()

    def end_pauses(self) -> None:
        """Forget all pauses: no process is left that could end them."""
        self._pauses = []
        # A process that connects again may know one, and must send it.
        self._complete.clear()
        # Under the old name, the next decision made here would state that none of those forgotten
        # is lacking.
        self.begin()

    # What other processes lack.

    def newest(self) -> dict[str, int]:
        """Return, by maker, the instant up to which nothing is lacking here."""
        return dict(self._complete)

    def newer_than(self, newest: Mapping[str, int]) -> list[Decision]:
        """Return what another process lacks.

        Args:
            newest: its `newest`.
        """
        return [one for one in self if one.stamp.at > newest.get(one.stamp.maker, -1)]

    def __iter__(self) -> Iterator[Decision]:
        """Yield all that hold, or may hold once a pause is resumed, by stamp."""
        now = self._now()
        self.holds()  # drops those that are over
        self._pauses = [one for one in self._pauses if _until(one) > now]
        found = [*self._limits.values(), *self._holds.values(), *self._pauses]
        if self._resumed is not None:
            found.append(self._resumed)
        yield from sorted(found, key=lambda one: one.stamp)

    forms: ClassVar[dict[str, _DecisionForm]] = {
        "set": _DecisionForm(
            lambda given: limits_to(given.limits),
            lambda key, sent: statements.SetLimits(key, limits_from(sent)),
            _merge_limits,
        ),
        "learnt": _DecisionForm(
            lambda given: limits_to(given.limits),
            lambda key, sent: statements.Learnt(key, limits_from(sent)),
            _merge_limits,
        ),
        "pause": _DecisionForm(
            lambda pause: span_to(pause.until),
            lambda _, sent: statements.Pause(float(span_from(sent))),
            _merge_pause,
        ),
        "resume": _DecisionForm(lambda _: None, lambda *_: statements.Resume(), _merge_resume),
        "hold": _DecisionForm(
            lambda hold: span_to(hold.until),
            lambda key, sent: statements.Hold(key, float(span_from(sent))),
            _merge_hold,
        ),
    }
    """By kind of decision, how it is sent and merged."""


_SLACK = 1_000
"""Limits beyond `_MOST` before any are forgotten, so that not each further one causes a sort."""


def _until(decision: Decision) -> float:
    statement = decision.statement
    assert isinstance(statement, Closing)  # noqa: S101 - the caller has looked
    return statement.until


def newest_from(sent: Mapping[str, Any]) -> dict[str, int]:
    """Return the `newest` that another process sent.

    Raises:
        TypeError, ValueError: it is not a mapping to instants.
    """
    return {str(maker): index(at) for maker, at in dict(sent).items()}
