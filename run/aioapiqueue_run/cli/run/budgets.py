"""How much a run has left of budgets and of limits of calendar periods."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from aioapiqueue.recording.spi import least_left_first
from aioapiqueue.spi import printable
from aioapiqueue_run.cli.console import as_argument, pluralize, unbroken
from aioapiqueue_run.cli.run.limits_in_words import limit_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aioapiqueue.recording.spi import LimitUses
    from aioapiqueue_run.cli.run.model import Outcome, RunPlan

__all__ = ["budgets_left"]

_MOST_NAMED = 8  # a longer list is not read


def budgets_left(plan: RunPlan, outcome: Outcome) -> Iterator[str]:
    """Yield the use of each budget and calendar limit at the end of a run, the fullest first."""
    services = {one.queue: one.service for one in outcome.figures if one.queue is not None}
    records = {
        name: record
        for name in services
        if (record := outcome.recording.queues.get(name)) is not None  # None: too many queues
    }
    found: list[tuple[str, str, LimitUses]] = [
        (queue, limit_name(queue, services[queue], lane or ""), uses)
        for queue, record in records.items()
        for lane, uses in record.budgets()
    ]
    # Each Region and account has a queue of its own, with the same limits.
    times = Counter(name for _, name, _ in found)
    uses = least_left_first(
        (name if times[name] == 1 else f"{name} in {printable(queue)}", uses)
        for queue, name, uses in found
    )
    for one in uses[:_MOST_NAMED]:
        yield f"{one.lane} {one.limit}: {unbroken(str(one))}"
    if (more := len(uses) - _MOST_NAMED) > 0:
        yield f"and {pluralize(more, 'more budget')}: --json FILE has all of them"
    yield from _of_later_runs(plan, [name for name, one in records.items() if one.has_budget])


def _of_later_runs(plan: RunPlan, queues: list[str]) -> Iterator[str]:
    """Yield that what was spent of budgets counts in later runs, if that is so."""
    if queues and plan.shared is not None:
        yield (
            "what this run spent counts against its budgets in later runs, until you delete the "
            "quota's keys on the server"
        )
    elif queues and plan.on_host is not None:
        first, *more = queues
        which = f"one of {len(queues):,} quotas" if more else "it"
        yield (
            f"what this run spent counts against its budgets in later runs; to reset {which}: "
            f"aioapiqueue hub reset {as_argument(first)}"
        )
