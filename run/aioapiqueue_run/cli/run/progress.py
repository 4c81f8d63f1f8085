"""The text of the status line while a program runs."""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from typing import TYPE_CHECKING

from aioapiqueue.recording.spi import as_clock
from aioapiqueue_run.cli.console import pluralize

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from aioapiqueue_run.cli.run.model import RunPlan
    from aioapiqueue_run.hub import Hub

__all__ = ["Progress"]

_RATE_SECONDS = 5.0  # the time over which rates are measured: a shorter one makes them jump
_SHORTEST_SECONDS = 0.5  # the least for the first rates, which would be too high otherwise


class Progress:
    """The current figures of a run.

    Args:
        plan: the plan of the run.
        hub: the hub, which has the figures.
    """

    def __init__(self, plan: RunPlan, hub: Hub) -> None:
        self._plan = plan
        self._hub = hub
        self._began = time.monotonic()
        self._samples: deque[tuple[float, dict[str, int]]] = deque()
        self._samples.append((self._began, {}))

    def line(self, columns: int) -> str:
        """Return the state of the services, those with the most waiting calls first.

        Args:
            columns: the width of the line.
        """
        plan = self._plan
        now = time.monotonic()
        found = self._totals()
        calls = {one.service: one.calls for one in found}
        self._samples.append((now, calls))
        # One older sample is kept: a line each minute needs it as its beginning.
        while len(self._samples) > 1 and self._samples[1][0] <= now - _RATE_SECONDS:
            self._samples.popleft()
        then, before = self._samples[0]
        parts = []
        if plan.shared is not None and plan.shared.outages.now:
            parts.append(f"SHARED SERVER LOST, {plan.shared.meanwhile}")
        for one in sorted(found, key=lambda one: (-one.waiting, not one.paced, -one.calls)):
            new = one.calls - before.get(one.service, 0)
            rate = new / max(now - then, _SHORTEST_SECONDS)
            limit = "" if plan.given.dry_run else plan.limit_of(one.service)
            name = f"{one.service} {limit}".strip()
            part = f"{name}: {pluralize(one.calls, 'call')}, {rate:.1f}/s"
            if one.paced and not plan.given.dry_run:
                part += f", {one.waiting:,} waiting"
            if one.throttled or (one.paced and not plan.given.dry_run):
                part += f", {one.throttled:,} throttled"
            parts.append(part)
        none = f"no {'' if plan.registry.hosts else 'AWS '}calls yet"
        return fit(parts or [none], as_clock(now - self._began), columns)

    def _totals(self) -> Iterable[_Total]:
        """Return the sums of each service."""
        # In one pass, twice a second: `figures.rows` would be too slow for thousands of figures.
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
    """The figures of a service in the line."""

    service: str
    paced: bool = False
    calls: int = 0
    waiting: int = 0
    throttled: int = 0


def fit(parts: Sequence[str], end: str, columns: int) -> str:
    """Return as many parts as fit into a line, with the end flush right.

    Args:
        parts: the parts, the most important one first.
        end: the end of the line, which is always included.
        columns: the width of the line.
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
