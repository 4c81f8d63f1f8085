"""The text of the status line while a program runs."""

from __future__ import annotations

import time
from collections import Counter, deque
from typing import TYPE_CHECKING

from aioapiqueue.recording.spi import as_clock
from aioapiqueue_run.cli.console import pluralize

if TYPE_CHECKING:
    from collections.abc import Sequence

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
        self._samples: deque[tuple[float, Counter[str]]] = deque()
        self._samples.append((self._began, Counter()))

    def line(self, columns: int) -> str:
        """Return the state of the services, those with the most waiting calls first.

        Args:
            columns: the width of the line.
        """
        plan = self._plan
        now = time.monotonic()
        # In one pass, twice a second: `figures.rows` would be too slow for thousands of figures.
        calls, waiting, throttled = Counter[str](), Counter[str](), Counter[str]()
        paced: set[str] = set()
        for one in self._hub.figures:
            calls[one.service] += one.calls
            waiting[one.service] += one.waiting
            throttled[one.service] += one.throttled
            if one.paced and not plan.given.dry_run:
                paced.add(one.service)
        self._samples.append((now, calls))
        # One older sample is kept: a line each minute needs it as its beginning.
        while len(self._samples) > 1 and self._samples[1][0] <= now - _RATE_SECONDS:
            self._samples.popleft()
        then, before = self._samples[0]
        parts = []
        if plan.shared is not None and plan.shared.outages.now:
            parts.append(f"SHARED SERVER LOST, {plan.shared.meanwhile}")
        for name in sorted(
            calls, key=lambda name: (-waiting[name], name not in paced, -calls[name])
        ):
            rate = (calls[name] - before[name]) / max(now - then, _SHORTEST_SECONDS)
            limit = f" {plan.limit_of(name)}" if name in paced else ""
            part = f"{name}{limit.rstrip()}: {pluralize(calls[name], 'call')}, {rate:.1f}/s"
            if name in paced:
                part += f", {waiting[name]:,} waiting"
            if throttled[name] or name in paced:
                part += f", {throttled[name]:,} throttled"
            parts.append(part)
        none = f"no {'' if plan.registry.hosts else 'AWS '}calls yet"
        return fit(parts or [none], as_clock(now - self._began), columns)


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
