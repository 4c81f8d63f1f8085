"""The limits for which the calls of a run waited."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from aioapiqueue import Concurrency
from aioapiqueue.spi import limit_types, printable
from aioapiqueue_run.cli.run.limits_in_words import limit_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from aioapiqueue import Limit
    from aioapiqueue.recording.spi import QueueRecord
    from aioapiqueue_run.cli.run.model import Outcome, RunPlan

__all__ = ["held_by"]

_SHARE_OF_PERMITS = 0.5
"""Assumed use of a limit on calls in flight, whose use over time is not recorded."""
_SURE_SHARE = 0.9
"""Smallest use of a rate that certainly held calls. With less, a limit on calls in flight may have
held them."""
_LEAST_SHARE = 0.1
"""Smallest use of a limit that may have held calls. With less, they waited for something else, such
as the host hub on a busy machine."""
_LEAST = 0.02
"""Smallest part of a queue's waits that is attributed to one more limit."""


def held_by(plan: RunPlan, outcome: Outcome) -> Counter[str]:
    """Return the seconds that calls waited for each limit.

    If several limits apply to a call, its wait is attributed to the one that was used most while
    calls waited. The host hub itself reports which waits were caused by limits of other runs.
    """
    found = Counter[str]()
    recording = outcome.recording
    delays = plan.on_host.as_json()["delays"] if plan.on_host is not None else ()
    changes = recording.changes.as_json()["changes"]
    slowed = {one["queue"] for one in changes if one["kind"] == "backed_off"}
    paced = [one for one in outcome.figures if one.paced and one.waits and one.queue]
    for queue, service in {str(one.queue): one.service for one in paced}.items():
        record = recording.queues.get(queue)
        if record is None:  # there were too many queues
            continue
        counts = record.as_json(outcome.seconds)
        least, left = _LEAST * counts["waited"], counts["waited"]
        for one in delays:
            if one["queue"] == queue:
                name = f"{limit_name(queue, service, printable(one['lane']))} {one['limit']}"
                found[f"{name} of {printable(one['whose'])}"] += one["seconds"]
                left -= one["seconds"]
        # Rates that throttling has lowered are below the limits.
        candidates = [(1.0, "", "(rate lowered after throttling)", left)]
        if queue not in slowed:
            step = recording.series.step
            candidates = sorted(_candidates(record, counts, step, outcome.seconds), reverse=True)
        for share, lane, limit, waited in candidates:
            seconds = min(waited, left)
            if share >= _LEAST_SHARE and seconds > least:
                found[f"{limit_name(queue, service, lane)} {limit}"] += seconds
                left -= seconds
    return found


def _candidates(
    record: QueueRecord, counts: Mapping[str, Any], step: float, end: float
) -> Iterator[tuple[float, str, str, float]]:
    """Yield the fullest limit of the queue ("") and of each lane in which calls waited.

    Yields:
        The share used while calls of the lane waited, the lane, the limit, and the lane's waits.
    """
    for one in (counts, *counts["lanes"]):
        limits: Sequence[Limit] = record.limits_of(one.get("lane"))
        # No call waits for these: it raises.
        limits = [limit for limit in limits if getattr(limit, "on_empty", "wait") == "wait"]
        if one["waited"] and limits:
            series = one["time_series"]
            shares = [(_share(limit, series, step, end), str(limit)) for limit in limits]
            share, name = max(shares)
            if _SHARE_OF_PERMITS < share < _SURE_SHARE:
                permits = [str(limit) for limit in limits if isinstance(limit, Concurrency)]
                name = " and ".join([*permits, name])
            yield share, one.get("lane", ""), name, one["waited"]


def _share(limit: Limit, series: Sequence[Mapping[str, Any]], step: float, end: float) -> float:
    """Return the share of a limit that was used in the steps in which calls waited.

    Args:
        limit: the limit.
        series: the time series of the calls and of what they used.
        step: the length of a step in seconds.
        end: when the program ended, which cuts the last step short.
    """
    if isinstance(limit, Concurrency):
        return _SHARE_OF_PERMITS
    calls = series[0]
    pairs = zip(calls["steps"], calls.get("waited", ()), strict=False)
    steps = sorted(number for number, waited in pairs if waited)
    # In the first and in the last of them, calls may have waited for a part of it only.
    busy = set(steps[1:-1] or steps)
    used: float = sum(
        amount
        for one in series
        if one["unit"] == limit.unit
        for number, amount in zip(one["steps"], one["used"], strict=True)
        if number in busy
    )
    seconds = sum(min(step, end - number * step) for number in busy)
    return used / (limit_types.rate_of(limit) * seconds) if seconds > 0 else 0.0
