"""The figures of a queue that users read: `Stats` and `LaneStats`, as text and as HTML.

Imported at the first use: dataclasses with so many fields take as long to import as four modules.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, NoReturn

from aioapiqueue._limits.budget_use import BudgetUse
from aioapiqueue._limits.grammar import duration_text

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

    from aioapiqueue._limits.limit_types import Limit

_MOST_LANES = 20
"""Largest number of lanes in an HTML table."""
_LONGEST_TEXT = 200
"""Largest number of characters in a cell: keys may be of any length."""
_DURATIONS = ("paused", "held", "waited", "longest_wait")
_ALWAYS = ("waiting", "running", "released")
"""Figures that the table of a queue shows even if they are 0."""
_LEFT = ' style="text-align: left"'


@dataclass(frozen=True, slots=True, repr=False)
class LaneStats:
    """Figures of a lane, or of all lanes of a pattern, since the lane was named.

    Attributes:
        waiting: number of calls that are waiting now.
        released: number of slots granted, without refunded ones.
        waited: total seconds that these calls waited.
        longest_wait: longest wait of a call, in seconds.
        refunded: number of slots refunded because of a cancellation.
        cancelled: number of calls cancelled while waiting or before they used their slot.
        timed_out: number of calls whose `timeout` passed.
        refused: number of calls refused because the queue was full or closed, or because a budget
            or a limit with `or raise` had no room.
        throttled: number of times that the server throttled this lane.
        backed_off: number of times that `Adaptive` lowered the rate.
        costs: total cost of the calls that started, by unit.
        remaining: how much the lane's own limits allow now, by unit (`permits`: calls at once). For
            a quota that a hub or server keeps, only units that budgets and calendar limits alone
            count. Empty for a pattern.
        budgets: as in `Stats`, for the lane's own limits. Empty for a pattern.
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
    # Not part of the hash, because a dict has none. `remaining` and `budgets` are not compared
    # either, because they change with time alone.
    costs: Mapping[str, float] = field(default_factory=dict, hash=False)
    remaining: Mapping[str, float] = field(default_factory=dict, hash=False, compare=False)
    budgets: Mapping[str, BudgetUse] = field(default_factory=dict, hash=False, compare=False)

    def __repr__(self) -> str:
        """Show the figures that are not zero or empty."""
        return _brief(self)

    def _repr_html_(self) -> str:
        """Return the same as a table, which notebooks show."""
        return _table("LaneStats", _rows(self))


class LaneTable(dict["Hashable", LaneStats]):
    """Figures of lanes, by the names in `lanes=` and `set_rate`."""

    def __missing__(self, key: Hashable) -> NoReturn:
        """Refuse a name without figures, also a key that has its limits from a pattern."""
        names = ", ".join(map(repr, itertools.islice(self, _MOST_LANES)))
        names += ", ..." * (len(self) > _MOST_LANES)
        there = f"the lanes are {names}" if names else "this queue has no lanes"
        raise KeyError(f"no lane is named {key!r}: {there}")


@dataclass(frozen=True, slots=True, repr=False)
class Stats:
    """Figures of a queue at one moment, since the queue was created.

    Attributes:
        waiting: number of calls that are waiting now.
        running: number of calls that are running now.
        lanes: figures of each lane by its name in `lanes=` or `set_rate`: `stats.lanes["search"]`
            for one key, `stats.lanes["tenant:*"]` for all keys of this pattern together. A call
            counts once in each of its lanes.
        lanes_in_memory: number of keys whose limits are in memory now.
        released: number of slots granted, without refunded ones.
        refunded: number of slots refunded because of a cancellation.
        cancelled: number of calls cancelled while waiting or before they used their slot.
        timed_out: number of calls whose `timeout` passed.
        refused: number of calls refused because the queue was full or closed, or because a budget
            or a limit with `or raise` had no room.
        throttled: number of times that the server throttled a call.
        backed_off: number of times that `Adaptive` lowered a rate.
        refused_by_server: number of calls that the server refused for good, such as for an
            exhausted balance. They slow nothing down.
        malformed: number of invalid values that the server sent.
        rate: calls per second that `Adaptive` allows the queue now, without lanes; inf while it
            does not restrict the limits.
        paused: seconds until `pause()` ends; inf: until `resume()`. 0 if the queue is not paused.
        held: seconds until all calls may start again after a hold, such as a server's
            `Retry-After`. 0 without one, or if a pause lasts longer.
        waited: total seconds that released calls waited.
        longest_wait: longest wait of a call, in seconds.
        costs: total cost of the calls that started, by unit: `stats.costs["tokens"]`.
        remaining: how much the queue's own limits allow now, by unit (`permits`: calls at once).
            For a quota that a hub or server keeps, only units that budgets and calendar limits
            alone count. Empty without limits.
        budgets: use of each budget and calendar limit, by its text:
            `stats.budgets["5 usd in all"].left`; see `BudgetUse`. For a quota that a hub or server
            keeps, the figures that this process last received.
        overdrawn: number of calls that settled above what they were charged before, in a unit that
            a budget or a limit with `or raise` counts.
        prices: the source of the prices of this queue's calls, such as "genai-prices 0.2.3". Empty
            if no call was priced by a package.
        unaccounted: number of calls that were not charged to a learnt limit, because their cost
            does not name its unit.
        learnt: limits that the server stated, by key; None is the queue itself. All other limits
            are configured.
        asks: number of round trips to the server of a shared quota.
        faults: number of these round trips that failed.
        fault: why the server of a shared quota cannot be reached now, without credentials; empty
            if it can.
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
    paused: float = field(default=0, compare=False)
    held: float = field(default=0, compare=False)
    waited: float = 0.0
    longest_wait: float = 0.0
    costs: Mapping[str, float] = field(default_factory=dict, hash=False)
    remaining: Mapping[str, float] = field(default_factory=dict, hash=False, compare=False)
    budgets: Mapping[str, BudgetUse] = field(default_factory=dict, hash=False, compare=False)
    overdrawn: int = 0
    prices: str = ""
    unaccounted: int = 0
    learnt: Mapping[Hashable, tuple[Limit, ...]] = field(default_factory=dict, hash=False)
    asks: int = 0
    faults: int = 0
    fault: str = ""

    def __repr__(self) -> str:
        """Show the figures that are not zero or empty, also those of lanes."""
        return _brief(self)

    def _repr_html_(self) -> str:
        """Return the same as a table, which notebooks show."""
        return _table("Stats", _rows(self), self.lanes)


def _brief(figures: LaneStats | Stats) -> str:
    shown = [f"{name}={_rounded(value)!r}" for name, value in _shown(figures)]
    return f"{type(figures).__qualname__}({', '.join(shown)})"


def _shown(
    figures: LaneStats | Stats, always: tuple[str, ...] = ()
) -> Iterable[tuple[str, object]]:
    """Yield the name and the value of each figure that is not 0 or empty, or is always shown."""
    for one in fields(figures):
        value = getattr(figures, one.name)
        # `rate` is inf by default, and costs have an entry for each unit, even if it is 0.
        has_value = any(value.values()) if one.name == "costs" else value and value != one.default
        if has_value or one.name in always:
            yield one.name, value


def _rounded(value: object) -> object:
    """Return a figure rounded to a millionth."""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, Mapping):
        return {key: _rounded(its) for key, its in value.items()}
    return value


def html_of_queue(name: str | None, limits: str, state: str, figures: Stats) -> str:
    """Return an HTML table of a queue: its limits, its state, its figures."""
    title = "ApiQueue" if name is None else f"ApiQueue {name!r}"
    rows = [("limits", limits), ("state", state)]  # which says how long it is paused or held
    rows += [row for row in _rows(figures, always=_ALWAYS) if row[0] not in ("paused", "held")]
    return _table(title, rows, figures.lanes)


def _rows(figures: LaneStats | Stats, *, always: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    """Return the name and the text of each figure that is shown, without lanes."""
    shown = _shown(figures, always)
    return [(name, _text_of(value, name)) for name, value in shown if name != "lanes"]


def _text_of(value: object, name: str = "") -> str:
    match value:
        case int() | float() if name in _DURATIONS:
            return duration_text(value) if value < math.inf else "without end"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.3f}".rstrip("0").rstrip(".")
        case Mapping():
            return ", ".join(f"{_name_of(key)}: {_text_of(its)}" for key, its in value.items())
        case tuple() if not isinstance(value, BudgetUse):
            return ", ".join(map(str, value))
        case _:
            return str(value)


def _name_of(key: object) -> str:
    if key is None:
        return "queue"
    return key if isinstance(key, str) and key.isidentifier() else repr(key)


def _table(
    title: str, rows: Iterable[tuple[str, str]], lanes: Mapping[Hashable, LaneStats] | None = None
) -> str:
    """Return an HTML table with a row for each figure, and one with a row for each lane."""
    lines = [f"<caption{_LEFT}>{_escaped(title)}</caption>"]
    lines += [_row((name,), (text,)) for name, text in rows]
    tables = [lines]
    if lanes:
        shown = {key: dict(_rows(one)) for key, one in itertools.islice(lanes.items(), _MOST_LANES)}
        # Columns in which every lane is empty are left out, in the order of the fields.
        names = [one.name for one in fields(LaneStats)]
        names = [name for name in names if any(name in row for row in shown.values())]
        below = [_row(("lane", *names), ())]
        below += [
            _row((repr(key),), (row.get(name, "") for name in names)) for key, row in shown.items()
        ]
        if len(lanes) > len(shown):
            below.append(_row((f"... {len(lanes) - len(shown):,} more",), ()))
        tables.append(below)
    return "\n".join("<table>\n" + "\n".join(lines) + "\n</table>" for lines in tables)


def _row(heads: Iterable[str], cells: Iterable[str]) -> str:
    texts = [f"<th{_LEFT}>{_escaped(head)}</th>" for head in heads]
    texts += [f"<td{_LEFT}>{_escaped(cell)}</td>" for cell in cells]
    return f"<tr>{''.join(texts)}</tr>"


def _escaped(text: str) -> str:
    """Escape and shorten a text that may come from outside: a key, a name, a server's error."""
    import html  # noqa: PLC0415 - only notebooks need it

    if len(text) > _LONGEST_TEXT:  # before escaping, or an entity might be cut in two
        text = f"{text[:_LONGEST_TEXT]}..."
    return html.escape(text)
