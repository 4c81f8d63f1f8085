"""Texts about a queue: its `repr`, which errors quote, its log message, and its HTML table."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

from aioapiqueue._limits.grammar import duration_text
from aioapiqueue._limits.limit_types import LearntRate

if TYPE_CHECKING:
    from aioapiqueue._core.seam import Core
    from aioapiqueue._core.stats import Stats
    from aioapiqueue._limits.limit_types import Limit

_LOG = logging.getLogger("aioapiqueue")


def queue_text(queue: Core) -> str:
    """Return the `repr` of a queue."""
    name = _name_text("ApiQueue", queue.name)
    return f"<{name} {_limits_text(queue)}: {_state_text(queue)}, {_calls_text(queue)}>"


def queue_html(queue: Core, figures: Stats) -> str:
    """Return a queue's limits, state and figures as an HTML table."""
    from aioapiqueue._core.stats import html_of_queue  # noqa: PLC0415 - late, as there

    return html_of_queue(queue.name, _limits_text(queue), _state_text(queue), figures)


def log_loss(queue: Core) -> None:
    """Log that the hub or server of a shared quota was lost, and what calls do meanwhile."""
    limiter = queue.limiter.snapshot()
    text = f"{_name_text('queue', queue.name)} ({_limits_text(queue)})"
    calls = _calls_text(queue)
    _LOG.warning("%s; calls of the %s %s (%s)", limiter.lost, text, limiter.meanwhile, calls)


def _name_text(kind: str, name: str | None) -> str:
    """Return the kind of a thing, with its name if it has one."""
    return kind if name is None else f"{kind} {name!r}"


def _state_text(queue: Core) -> str:
    """Return whether a queue is open, stopped or closed, and why it is disconnected if it is."""
    limiter = queue.limiter.snapshot()
    paused, held = limiter.stops_for(queue.loop.now())
    if queue.closed:
        state = "closed"
    elif paused == math.inf:
        state = "paused"
    elif paused:
        state = f"paused for {duration_text(paused)}"
    else:
        state = f"held for {duration_text(held)}" if held else "open"
    return f"{state}, disconnected ({limiter.fault})" if limiter.fault else state


def _limits_text(queue: Core) -> str:
    """Return a queue's own limits, and the number of lanes with learnt limits."""
    text = ", ".join(map(_limit_text, queue.limits)) or "unlimited"
    # Lanes are only counted: errors quote this text, and there may be thousands of lanes.
    if number := len(queue.learnt) - (None in queue.learnt):
        text += f" (learnt limits: {number} lane{'s' * (number > 1)})"
    return text


def _calls_text(queue: Core) -> str:
    return f"{queue.waiters.live} waiting, {queue.running} running"


def _limit_text(limit: Limit) -> str:
    return f"{limit} (learnt)" if isinstance(limit, LearntRate) else str(limit)
