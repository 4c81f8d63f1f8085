"""What the status line shows while a program runs."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from aioapiqueue.cli._console import pluralize
from aioapiqueue.cli.run._figures import duration, rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioapiqueue.cli.run._figures import Peaks
    from aioapiqueue.cli.run._model import Plan
    from aioapiqueue.hub import Hub

__all__ = ["Progress", "fit"]

_RATE_SECONDS = 5.0  # over which rates are taken: shorter, and they jump; longer, and they lag
_SHORTEST_SECONDS = 0.5  # what the first of them are taken over


class Progress:
    """The calls of a run as they go.

    Args:
        plan: of the run.
        hub: which has the figures.
        peaks: which `rows` needs.
    """

    def __init__(self, plan: Plan, hub: Hub, peaks: Peaks) -> None:
        self._plan = plan
        self._hub = hub
        self._peaks = peaks
        self._began = time.monotonic()
        self._samples: deque[tuple[float, dict[tuple[str, bool], int]]] = deque()

    def line(self, columns: int) -> str:
        """Return the state of each service: those that wait first, then those that are paced."""
        plan = self._plan
        now = time.monotonic()
        found = rows(self._hub.figures, self._peaks)
        calls = {(row.name, row.total.paced): row.total.calls for row in found}
        self._samples.append((now, calls))
        # One that is older stays, where lines are far apart.
        while len(self._samples) > 1 and self._samples[1][0] <= now - _RATE_SECONDS:
            self._samples.popleft()
        then, before = self._samples[0]
        parts = []
        if plan.shared is not None and plan.shared.lost:
            parts.append(f"SHARED SERVER LOST, {plan.shared.meanwhile}")
        totals = [row.total for row in found]
        for one in sorted(totals, key=lambda one: (-one.waiting, not one.paced, -one.calls)):
            new = one.calls - before.get((one.service, one.paced), 0)
            rate = new / max(now - then, _SHORTEST_SECONDS)
            limit = "" if plan.dry_run else plan.limits.get(one.service, "")
            name = f"{one.service} {limit}".strip()
            part = f"{name}: {pluralize(one.calls, 'call')}, {rate:.1f}/s"
            if one.paced and not plan.dry_run:
                part += f", {one.waiting:,} waiting"
            if one.throttled or (one.paced and not plan.dry_run):
                part += f", {one.throttled:,} throttled"
            parts.append(part)
        return fit(parts or ["no AWS calls yet"], duration(now - self._began), columns)


def fit(parts: Sequence[str], end: str, columns: int) -> str:
    """Lay out as many parts as fit, and the end flush right.

    Args:
        parts: the most important one first.
        end: shown in any case.
        columns: the width.
    """
    room = columns - len(end) - 2
    line = ""
    for done, part in enumerate(parts):
        more = f"  +{len(parts) - done} more" if done else ""
        longer = f"{line} | {part}" if line else part
        last = done == len(parts) - 1
        if len(longer) + (0 if last else len(f"  +{len(parts) - done - 1} more")) > room:
            line = (line + more) if line else part[: max(room, 0)]
            break
        line = longer
    return f"{line:{max(room, 0)}}  {end}"[: max(columns, 0)]
