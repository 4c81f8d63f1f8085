"""What the status line shows while a program runs."""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from typing import TYPE_CHECKING

from aioapiqueue._recording import as_clock
from aioapiqueue.cli.console import pluralize

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from aioapiqueue.cli.run.model import RunPlan
    from aioapiqueue.hub import Hub

__all__ = ["Progress"]

_RATE_SECONDS = 5.0  # over which rates are taken: shorter, and they jump; longer, and they lag
_SHORTEST_SECONDS = 0.5  # what the first of them are taken over


class Progress:
    """The calls of a run as they go.

    Args:
        plan: of the run.
        hub: which has the figures.
    """

    def __init__(self, plan: RunPlan, hub: Hub) -> None:
        self._plan = plan
        self._hub = hub
        self._began = time.monotonic()
        self._samples: deque[tuple[float, dict[str, int]]] = deque()
        self._samples.append((self._began, {}))

    def line(self, columns: int) -> str:
        """Return the state of each service: those that wait first, then those that are paced."""
        plan = self._plan
        now = time.monotonic()
        found = self._totals()
        calls = {one.service: one.calls for one in found}
        self._samples.append((now, calls))
        # One that is older stays, where lines are far apart.
        while len(self._samples) > 1 and self._samples[1][0] <= now - _RATE_SECONDS:
            self._samples.popleft()
        then, before = self._samples[0]
        parts = []
        if plan.shared is not None and plan.shared.lost:
            parts.append(f"SHARED SERVER LOST, {plan.shared.meanwhile}")
        for one in sorted(found, key=lambda one: (-one.waiting, not one.paced, -one.calls)):
            new = one.calls - before.get(one.service, 0)
            rate = new / max(now - then, _SHORTEST_SECONDS)
            limit = "" if plan.dry_run else plan.limits.get(one.service, "")
            name = f"{one.service} {limit}".strip()
            part = f"{name}: {pluralize(one.calls, 'call')}, {rate:.1f}/s"
            if one.paced and not plan.dry_run:
                part += f", {one.waiting:,} waiting"
            if one.throttled or (one.paced and not plan.dry_run):
                part += f", {one.throttled:,} throttled"
            parts.append(part)
        none = f"no {'' if plan.registry.hosts else 'AWS '}calls yet"
        return fit(parts or [none], as_clock(now - self._began), columns)

    def _totals(self) -> Iterable[_Total]:
        """Return the sums of each service, not by `rows`: there may be thousands of figures."""
        found: dict[str, _Total] = {}
        for one in self._hub.figures:
            total = found.get(one.service)
            if total is None:
                total = found[one.service] = _Total(one.service)
            total.paced |= one.paced
            total.calls += one.calls
            total.waiting += one.waiting
            total.throttled += one.throttled
        return found.values()


@dataclasses.dataclass
class _Total:
    """What the line shows of a service."""

    service: str
    paced: bool = False
    calls: int = 0
    waiting: int = 0
    throttled: int = 0


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
