"""A queue's figures, as users read them.

Loaded when they are first asked for: classes of so many fields take as long as four modules.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from aioapiqueue._rate import Limit

__all__ = ["LaneStats", "LaneTable", "Stats"]


@dataclass(frozen=True, slots=True)
class LaneStats:
    """The figures of one lane, or of all lanes of one pattern; counts are since it was named.

    Attributes:
        waiting: callers who wait now.
        released: slots given out, less those refunded because of a cancellation.
        waited: seconds that released callers waited, added up.
        longest_wait: the longest of them, in seconds.
        refunded: slots refunded because of a cancellation: with `released`, all that were given
            out.
        cancelled: waiters who were cancelled, and those whose slot was refunded.
        timed_out: waiters whose `timeout` passed.
        refused: callers turned away because the queue was full or closed.
        throttled: times that the other side pushed back on this lane.
        backed_off: times that adaptive lowered its rate for that.
        costs: what the calls that started have cost, by unit.
        remaining: how much could start now as far as its own limits go, by unit ("permits": bodies
            at once); empty of a pattern, and of a quota that is kept elsewhere.
    """

    waiting: int = 0
    released: int = 0
    waited: float = 0.0
    longest_wait: float = 0.0
    refunded: int = 0
    cancelled: int = 0
    timed_out: int = 0
    refused: int = 0
    throttled: int = 0
    backed_off: int = 0
    costs: Mapping[str, float] = field(default_factory=dict, hash=False)
    remaining: Mapping[str, float] = field(default_factory=dict, hash=False, compare=False)

    def __str__(self) -> str:
        """As `repr`, without what is zero or empty."""
        return _brief(self)


class LaneTable(dict["Hashable", LaneStats]):
    """The figures of lanes by the names that they have in `lanes=` and `set_rate`."""

    def __missing__(self, key: Hashable) -> NoReturn:
        """Refuse a name that no lane has, be it a key that comes under a pattern."""
        names = ", ".join(map(repr, self))
        there = f"there are {names}" if names else "this queue has none"
        raise KeyError(f"no lane is named {key!r}: {there}")


@dataclass(frozen=True, slots=True)
class Stats:
    """A queue's figures at one moment; counts are since the queue was made.

    Attributes:
        waiting: callers who wait now.
        running: bodies that run now.
        lanes: the figures of each lane: `stats.lanes["search"]` of a key that `lanes=` or
            `set_rate` names, `stats.lanes["tenant:*"]` of all keys that come under this pattern
            together. A call counts once in each of them that it comes under.
        lanes_in_memory: keys whose own limits are kept in memory now.
        released: slots given out, less those refunded because of a cancellation.
        refunded: slots refunded because of a cancellation: with `released`, all that were given
            out.
        cancelled: waiters who were cancelled, and those whose slot was refunded.
        timed_out: waiters whose `timeout` passed.
        refused: callers turned away because the queue was full or closed.
        throttled: times that the other side pushed back.
        backed_off: times that adaptive lowered a rate for that.
        refused_by_server: calls that the other side refused for good, such as for a quota that is
            gone: no push-back, and nobody is slowed down.
        malformed: times that the other side sent something that is not valid.
        rate: calls per second that adaptive lets through now, lanes aside; inf while it leaves
            all to the limits.
        waited: seconds that released callers waited, added up.
        longest_wait: the longest of them, in seconds.
        costs: what the calls that started have cost, by unit: `stats.costs["tokens"]`.
        remaining: how much could start now as far as the queue's own limits go, by unit
            ("permits": bodies at once); empty where there is none, or it is kept elsewhere.
        unaccounted: calls that said nothing of a unit which a learnt limit counts, and so were not
            charged to it.
        learnt: limits that the other side has stated, by key; None: the queue's own. All others
            are configured.
        asks: round trips to the server of a shared quota.
        faults: those of them that failed.
        fault: why the server cannot be asked at present, without credentials; "": it can.
    """

    waiting: int = 0
    running: int = 0
    lanes: Mapping[Hashable, LaneStats] = field(default_factory=LaneTable, hash=False)
    lanes_in_memory: int = 0
    released: int = 0
    refunded: int = 0
    cancelled: int = 0
    timed_out: int = 0
    refused: int = 0
    throttled: int = 0
    backed_off: int = 0
    refused_by_server: int = 0
    malformed: int = 0
    rate: float = math.inf
    waited: float = 0.0
    longest_wait: float = 0.0
    costs: Mapping[str, float] = field(default_factory=dict, hash=False)
    remaining: Mapping[str, float] = field(default_factory=dict, hash=False, compare=False)
    unaccounted: int = 0
    learnt: Mapping[Hashable, tuple[Limit, ...]] = field(default_factory=dict, hash=False)
    asks: int = 0
    faults: int = 0
    fault: str = ""

    def __str__(self) -> str:
        """As `repr`, without what is zero or empty, in the figures of lanes, too."""
        return _brief(self)

    @property
    def slowed(self) -> int:
        """Deprecated: the old name of `backed_off`."""
        _warn("Stats.slowed", "Stats.backed_off")
        return self.backed_off

    @property
    def odd(self) -> int:
        """Deprecated: the old name of `malformed`."""
        _warn("Stats.odd", "Stats.malformed")
        return self.malformed


def _brief(figures: LaneStats | Stats) -> str:
    shown = []
    for one in fields(figures):
        value = getattr(figures, one.name)
        if one.name == "lanes":
            text = ", ".join(f"{key!r}: {lane}" for key, lane in value.items())
            shown += [f"lanes={{{text}}}"] * bool(text)
        elif value and value != one.default and (one.name != "costs" or any(value.values())):
            shown.append(f"{one.name}={value!r}")
    return f"{type(figures).__qualname__}({', '.join(shown)})"


def _warn(old: str, new: str) -> None:
    warnings.warn(f"{old} is now {new}", DeprecationWarning, stacklevel=3)
