"""What the cases of `peers.py` share: who is measured how often, tables, notes, the picture."""

from __future__ import annotations

import asyncio
import statistics
import textwrap
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from _common import ROUNDS, WIDTH, Report, spread
from _peer_all import PEERS, REFERENCE, missing
from _peer_picture import Panel
from _peer_rounds import Case, Outcome, measure

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Bench", "Column", "Outcomes"]

Outcomes = dict[str, Outcome]
QUICK_SECONDS = 8.0
"""After which a process is ended in a quick run."""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        header: above it.
        key: which figure.
        form: how it is written; empty: it is a word, the most frequent one is shown.
        wide: whether least and most are shown, if there were several rounds.
    """

    header: str
    key: str
    form: str = ""
    wide: bool = False

    def cell(self, outcome: Outcome) -> str:
        """Return what is in a row."""
        values = [value for value in outcome.values(self.key) if value is not None]
        if not values:
            return ""
        if not self.form:
            return str(statistics.mode(values))
        if self.wide:
            return spread(values, self.form)
        return format(statistics.median(values), self.form)


class Bench:
    """What all cases share.

    Args:
        names: who is measured.
        quick: less exact, in five minutes.
    """

    def __init__(self, names: Sequence[str], *, quick: bool) -> None:
        self.names = names
        self.quick = quick
        self.report = Report()
        self.panels: list[Panel] = []
        self.raw: list[dict[str, object]] = []

    def pick(self, full: float, quick: float) -> float:
        """Return one of two figures."""
        return quick if self.quick else full

    def measure(
        self,
        name: str,
        *deciding: str,
        rounds: int = ROUNDS,
        seconds: float = 30,
        at_once: int = 1,
        **options: float,
    ) -> Outcomes:
        """Measure everybody whom a case is for; those that decide a target, five times at least."""
        case = Case(
            name,
            options,
            rounds=1 if self.quick else rounds,
            seconds=min(seconds, QUICK_SECONDS) if self.quick else seconds,
            often=dict.fromkeys(deciding, ROUNDS),
            at_once=at_once,
        )
        able = [one for one in self.names if not self.why_not(one, name)]
        begun = time.monotonic()
        outcomes = asyncio.run(measure(case, able))
        took = time.monotonic() - begun
        figures = {
            one: {"results": own.results, "failed": own.failed, "detail": own.detail}
            for one, own in outcomes.items()
        }
        self.raw.append({"case": name, "options": options, "seconds": took, "peers": figures})
        return outcomes

    def why_not(self, name: str, case: str) -> str | None:
        """Return why somebody is not measured in a case."""
        return missing(PEERS[name]) or PEERS[name].why_not(case)

    def table(self, title: str, outcomes: Outcomes, columns: Sequence[Column]) -> None:
        """Show medians, of those with a spread, least and most as well."""
        rows = []
        for name in self.names:
            if name in outcomes:
                cells = [column.cell(outcomes[name]) for column in columns]
                if not outcomes[name].results:
                    cells = [str(outcomes[name].failed), *[""] * (len(columns) - 1)]
                rows.append((name, *cells))
            elif reason := missing(PEERS[name]):
                rows.append((name, reason, *[""] * (len(columns) - 1)))
        self.report.table(title, ("", *(column.header for column in columns)), rows)
        self.notes(str(self.raw[-1]["case"]), outcomes)

    def notes(self, case: str, outcomes: Outcomes) -> None:
        """Say who is not in a table, and what errors there were."""
        reasons: dict[str, list[str]] = {}
        for name in self.names:
            if (reason := PEERS[name].why_not(case)) and name != REFERENCE:
                reasons.setdefault(reason, []).append(name)
        notes = [f"Not {', '.join(own)}: {reason}." for reason, own in reasons.items()]
        for name, own in outcomes.items():
            if own.detail or (own.failed and own.results):
                notes.append(f"{name}: {own.failed}: {own.detail}")
        for note in notes:
            print(textwrap.fill(note, WIDTH - 2, initial_indent="  ", subsequent_indent="    "))
        self.report.tables[-1]["notes"] = notes

    def panel(self, title: str, outcomes: Outcomes, key: str, form: str, *, more: bool) -> None:
        """Add bars to the picture."""
        bars = [
            (name, statistics.median(own.values(key)) if own.results else None, own.failed or "")
            for name, own in outcomes.items()
        ]
        self.panels.append(Panel(title, bars, form, more_is_better=more))
