"""Texts about a queue: its `repr`, which errors quote, its log message and its HTML table."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

from aioapiqueue._limits.rates import LearntRate

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Iterable

    from aioapiqueue._core.limiter import Limiter, LimiterStats
    from aioapiqueue._core.quota_policy import QueueQuotas
    from aioapiqueue._core.slot import Call
    from aioapiqueue._core.stats import Stats
    from aioapiqueue._core.wait_queue import WaitQueue
    from aioapiqueue._limits.rates import Limit

_LOG = logging.getLogger("aioapiqueue")


class LabelledQueue(Protocol):
    """The part of the dispatcher that is used here."""

    name: str | None
    closed: str
    limiter: Limiter
    waiters: WaitQueue[Call]

    @property
    def limits(self) -> tuple[Limit, ...]:
        """The queue's own limits that are in force."""

    @property
    def running(self) -> int:
        """Number of bodies that run."""

    @property
    def server(self) -> QueueQuotas | None:
        """What servers have reported; None: nothing so far."""

    def stats(self) -> Stats:
        """Return the queue's current figures."""


def queue_text(queue: LabelledQueue) -> str:
    """Return the `repr` of a queue."""
    state = _state_text(queue.limiter.snapshot(), closed=bool(queue.closed))
    name = _name_text("ApiQueue", queue.name)
    return f"<{name} {_limits_of(queue)}: {state}, {_calls_text(queue)}>"


def queue_html(queue: LabelledQueue) -> str:
    """Return a queue's limits, state and figures as an HTML table."""
    from aioapiqueue._core.stats import html_of_queue  # noqa: PLC0415 - late, as there

    state = _state_text(queue.limiter.snapshot(), closed=bool(queue.closed))
    return html_of_queue(queue.name, _limits_of(queue), state, queue.stats())


def log_loss(queue: LabelledQueue) -> None:
    """Log that the hub or server of a shared quota was lost, and what calls do meanwhile."""
    limiter = queue.limiter.snapshot()
    text = f"{_name_text('queue', queue.name)} ({_limits_of(queue)})"
    calls = _calls_text(queue)
    _LOG.warning("%s; calls of the %s %s (%s)", limiter.lost, text, limiter.meanwhile, calls)


def _name_text(kind: str, name: str | None) -> str:
    """Return the kind of a thing, with its name if it has one."""
    return kind if name is None else f"{kind} {name!r}"


def _limits_text(limits: Iterable[Limit], learnt: Collection[Hashable]) -> str:
    """Return a queue's own limits, and the number of lanes with learnt limits.

    Args:
        limits: the queue's own limits.
        learnt: the keys whose limits a server has stated; None is the queue itself.
    """
    text = ", ".join(map(_limit_text, limits)) or "unlimited"
    if number := len(learnt) - (None in learnt):
        text += f" (learnt limits: {number} lane{'s' * (number > 1)})"
    return text


def _state_text(limiter: LimiterStats, *, closed: bool) -> str:
    """Return whether a queue is open, paused or closed, and why it is disconnected if it is."""
    state = "closed" if closed else "paused" if limiter.paused else "open"
    return f"{state}, disconnected ({limiter.fault})" if limiter.fault else state


def _limits_of(queue: LabelledQueue) -> str:
    return _limits_text(queue.limits, () if queue.server is None else queue.server.learnt)


def _calls_text(queue: LabelledQueue) -> str:
    return f"{queue.waiters.live} waiting, {queue.running} running"


def _limit_text(limit: Limit) -> str:
    return f"{limit} (learnt)" if isinstance(limit, LearntRate) else str(limit)
