"""The rows of `watch`, made from the status that the hub reports."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aioapiqueue.spi import CALLS, limit_types, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from aioapiqueue.recording.spi import LimitUses

__all__ = [
    "SORTS",
    "History",
    "QuotaKey",
    "QuotaRow",
    "arranged",
    "rate_text",
    "short",
    "sparkline",
]

_BARS = " ▁▂▃▄▅▆▇█"
_MOST_SAMPLES = 120
"""Number of rates kept for each quota: more than the columns of a sparkline."""

QuotaKey = tuple[str, str]


@dataclass(frozen=True)
class QuotaRow:
    """The row of one quota.

    Attributes:
        key: the kind and name of the quota.
        limits: the limits of all its calls.
        most: calls a second that the limits allow in the long run; None: unlimited.
        rates: the recent rates in calls a second, the newest last.
        waiting: number of waiting calls.
        running: number of running calls.
        p50: median wait of the last minute, in seconds.
        p99: 99th percentile of the waits of the last minute, in seconds.
        throttled: number of throttled calls.
        lowered: calls a second that `Adaptive` allows after throttling; None: all that the limits
            allow.
        paused: whether the quota is paused.
        held: seconds for which no call starts.
        clients: the queues that use the quota, by process.
        budgets: how much is used of budgets and calendar limits, as the hub reports it.
    """

    key: QuotaKey
    limits: str
    most: float | None
    rates: Sequence[float]
    waiting: int
    running: int
    p50: float
    p99: float
    throttled: int
    lowered: float | None
    paused: bool
    held: float
    clients: Sequence[Mapping[str, Any]]
    budgets: Mapping[str, LimitUses] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name, with control characters escaped."""
        return printable(self.key[1])

    @property
    def short_name(self) -> str:
        """The name without its scheme, because there is little room."""
        return self.name.removeprefix("https://")

    @property
    def rate(self) -> float:
        """The present rate in calls a second."""
        return self.rates[-1] if self.rates else 0.0

    @property
    def processes(self) -> int:
        """Number of processes that use the quota."""
        return len({one["pid"] for one in self.clients})


class History:
    """Keeps the number of calls of each quota, to compute rates."""

    def __init__(self) -> None:
        self._hub: object = None
        self._last: dict[QuotaKey, tuple[float, int]] = {}
        self._rates: dict[QuotaKey, deque[float]] = {}

    def rows(self, status: Mapping[str, Any], now: float) -> list[QuotaRow]:
        """Return a row for each quota.

        Args:
            status: the status that the hub has reported.
            now: the time of the report, in seconds on a clock that never goes back.
        """
        if status["pid"] != self._hub:  # a new hub counts from 0
            self._hub, self._last = status["pid"], {}
        found = [self._row(quota, now) for quota in status["quotas"]]
        there = {row.key for row in found}
        self._last = {key: last for key, last in self._last.items() if key in there}
        self._rates = {key: rates for key, rates in self._rates.items() if key in there}
        return found

    def _row(self, quota: Mapping[str, Any], now: float) -> QuotaRow:
        key = quota["kind"], quota["name"]
        started = quota["started"]
        rates = self._rates.setdefault(key, deque(maxlen=_MOST_SAMPLES))
        if key in self._last:
            then, before = self._last[key]
            # A new quota of the same name counts from 0. Two reports may have the same instant.
            rates.append(max(0, started - before) / max(now - then, 1e-3))
        self._last[key] = now, started
        names = ("waiting", "running", "throttled", "paused", "held", "clients")
        return QuotaRow(
            key=key,
            limits=", ".join(quota["limits"]),
            most=_most(quota["limits"]),
            rates=tuple(rates),
            p50=quota["waits"]["p50"],
            p99=quota["waits"]["p99"],
            lowered=quota["rate"],
            budgets=quota.get("budgets", {}),
            **{name: quota[name] for name in names},
        )


def _most(limits: Iterable[str]) -> float | None:
    found = []
    for text in limits:
        with suppress(ValueError):  # a newer hub may have other kinds of limits
            found.append(limit_types.as_limit(text))
    rates = [limit_types.rate_of(one) for one in found if limit_types.unit_of(one) == CALLS]
    return min(rates, default=None)


def sparkline(row: QuotaRow, width: int) -> str:
    """Return the recent rates as bars. A full bar is the limit, or the highest rate without one.

    >>> row = QuotaRow(
    ...     ("name", "crm"), "10/s", 10.0, (0, 5, 10, 12), 0, 0, 0, 0, 0, None, False, 0, []
    ... )
    >>> sparkline(row, 6)
    '   ▄██'
    """
    rates = row.rates[-width:]
    most = row.most or max(rates, default=0.0) or 1.0
    # Any rate above 0 has a visible bar.
    bars = [
        _BARS[min(len(_BARS) - 1, max(int(rate > 0), round(rate / most * (len(_BARS) - 1))))]
        for rate in rates
    ]
    return "".join(bars).rjust(width)


SORTS = ("name", "rate", "waiting", "running", "p50", "p99", "throttled", "processes")
"""The attributes of `QuotaRow` by which rows can be sorted."""


def arranged(rows: Iterable[QuotaRow], *, by: str, words: str) -> list[QuotaRow]:
    """Return the rows that match a filter, sorted: names from A to Z, figures largest first.

    Args:
        rows: all rows.
        by: one of `SORTS`.
        words: the filter: words that must all occur in the name, limits or programs of a row.
    """
    kept = [row for row in rows if all(word in _text(row) for word in words.lower().split())]
    by_name = sorted(kept, key=lambda row: row.key)
    if by == "name":
        return by_name
    return sorted(by_name, key=lambda row: -getattr(row, by))


def _text(row: QuotaRow) -> str:
    programs = (f"{one['program']} {one['pid']}" for one in row.clients)
    return " ".join((*row.key, row.limits, *programs)).lower()


def rate_text(row: QuotaRow) -> str:
    """Return the rate and its limit per second, or for slow limits per minute or hour."""
    if row.most is None:
        return short(row.rate)
    for unit, seconds in (("", 1), ("m", 60), ("h", 3600)):
        if row.most * seconds >= 1 or unit == "h":
            break
    return f"{short(row.rate * seconds)}/{short(row.most * seconds)}{unit}"


def short(number: float) -> str:
    """Return a number in four characters, if possible."""
    digits = 3 if number >= 10 else 2  # noqa: PLR2004 - of two figures and more
    rounded = float(f"{number:.{digits}g}")  # first, so that 999.9 is "1k", not "1e+03"
    for unit, least in (("M", 1e6), ("k", 1e3)):
        if rounded >= least:
            return f"{rounded / least:.3g}{unit}"
    return f"{rounded:.{digits}g}"
