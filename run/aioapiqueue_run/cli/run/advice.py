"""Suggestions at the end of a run: limits to try after throttling, the command after a dry run."""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections import defaultdict
from functools import cache
from typing import TYPE_CHECKING

from aioapiqueue.recording.spi import FIELDS, added_up, as_clock
from aioapiqueue.registry.spi import enforceable, plan_of, published, target_of
from aioapiqueue.spi import CALLS
from aioapiqueue_run.cli.console import as_argument, pluralize, short, unbroken
from aioapiqueue_run.hub import OTHERS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from aioapiqueue.recording.spi import Points
    from aioapiqueue.registry import PublishedLimit
    from aioapiqueue_run.cli.run.model import Outcome, RunPlan
    from aioapiqueue_run.hub import CallStats

__all__ = [
    "after_dry_run",
    "after_throttling",
    "command_to_copy",
    "listed",
    "published_of",
]

_SHARE = 0.5
"""Share of the accepted rate to suggest: other callers use the account, too."""
_LONGEST_GAP = 5
"""Largest number of steps between two throttled calls of one stretch: in a longer gap, the bucket
fills up, or there are no calls."""
_FEWEST_STEPS = 3
"""Smallest length of a stretch. Its first and last step are left out: the first has the calls of a
full bucket, the last those after throttling ended."""
_FEWEST_CALLS = 5
"""Smallest number of accepted calls in all stretches."""
_MOST_LANES = 3
"""Most throttled lanes of a service: if there are more, suggest one limit for the service."""
_MOST_NAMED = 8  # a longer list is not read
_SLOW = 1 / 60
"""Calls a second. Slower limits are written per hour."""


@dataclasses.dataclass(frozen=True)
class ThrottledCalls:
    """Calls that were throttled, and a limit to try.

    Attributes:
        service: the service or host.
        target: the name of a limit for these calls, as `--limit` takes it.
        lanes: the lanes of the calls.
        throttled: number of throttled calls.
        accepted: calls a second that the server accepted while it throttled others; None if there
            were too few calls to tell.
    """

    service: str
    target: str
    lanes: Sequence[str]
    throttled: int
    accepted: float | None

    @property
    def limit(self) -> str | None:
        """The limit to try, as `--limit` takes it, with two digits; None if it is not known."""
        if self.accepted is None:
            return None
        rate, unit = self.accepted * _SHARE, "s"
        if rate < _SLOW:
            rate, unit = rate * 3600, "h"
        scale = 10.0 ** (1 - math.floor(math.log10(rate)))
        return f"{self.target}={math.floor(rate * scale + 1e-9) / scale:g}/{unit}"


_STARTED, _THROTTLED = map(FIELDS.index, ("started", "throttled"))


def find_throttled(
    figures: Iterable[CallStats], step: float, hosts: Mapping[str, Collection[str]]
) -> list[ThrottledCalls]:
    """Return the throttled calls, the most throttled first.

    Args:
        figures: the figures of the run.
        step: the step of their time series, in seconds.
        hosts: the lanes of each host. Requests outside them count for the whole host.
    """
    services: defaultdict[str, defaultdict[str, list[CallStats]]]
    services = defaultdict(lambda: defaultdict(list))
    for one in figures:
        if one.service != OTHERS and one.throttled:
            services[one.service][one.lane_name].append(one)
    found: list[ThrottledCalls] = []
    for service, lanes in services.items():
        # Any operation of AWS can get a limit of its own. Of a host, only the lanes that the user
        # has named can: other requests are recorded under their method.
        own = hosts.get(service, lanes) if len(lanes) <= _MOST_LANES else ()
        groups: defaultdict[str, list[str]] = defaultdict(list)
        for lane in lanes:
            groups[target_of(service, lane if lane in own else None)].append(lane)
        for target, names in groups.items():
            # A limit applies to each Region and account by itself, so suggest the lowest rate.
            places: defaultdict[object, list[CallStats]] = defaultdict(list)
            for one in (one for name in names for one in lanes[name]):
                places[one.region, one.account].append(one)
            sums = [added_up(each) for each in places.values()]
            series = [one.over_time[CALLS] for one in sums]
            rates = [rate for one in series if (rate := _accepted(one, step)) is not None]
            throttled = sum(one.throttled for one in sums)
            lowest = min(rates, default=None)
            found.append(ThrottledCalls(service, target, names, throttled, lowest))
    return sorted(found, key=lambda one: (-one.throttled, one.target))


def _accepted(points: Points, step: float) -> float | None:
    """Return the calls a second accepted while others were throttled; None if there are too few."""
    # Only stretches in which calls were throttled all the time show the rate of the server: pauses
    # of the program would make it look lower.
    stretches: list[list[int]] = []
    for number in sorted(number for number, point in points.items() if point[_THROTTLED]):
        if stretches and number - stretches[-1][-1] <= _LONGEST_GAP:
            stretches[-1].append(number)
        else:
            stretches.append([number])
    served, steps = 0.0, 0
    for first, *_, last in (one for one in stretches if len(one) > 1):
        if last - first + 1 >= _FEWEST_STEPS:
            between = [points.get(number) for number in range(first + 1, last)]
            served += sum(point[_STARTED] - point[_THROTTLED] for point in between if point)
            steps += len(between)
    return served / (steps * step) if served >= _FEWEST_CALLS else None


def after_throttling(plan: RunPlan, outcome: Outcome) -> Iterator[str]:
    """Yield the rates that were accepted while calls were throttled, and limits to try."""
    found = find_throttled(outcome.figures, outcome.recording.series.step, plan.registry.hosts)
    estimate = outcome.estimate
    # If a --limit is given, the default preset no longer applies, so name it.
    preset = "--preset aws " if plan.given.has_no_limit else ""
    for one in found[:_MOST_NAMED]:
        lanes = len(one.lanes)
        what = f": {lanes:,} operations were" if lanes > 1 else f" {one.lanes[0]}:"
        text = f"{one.service}{what} throttled {pluralize(one.throttled, 'time')}"
        if one.accepted is not None:
            text += f", while {short(one.accepted)} calls a second were accepted"
            strictest = 0.0
            if estimate is not None:  # a dry run, whose limits may be low enough
                strictest = max(estimate.strictest(one.service, lane) for lane in one.lanes)
            if estimate is None or strictest > one.accepted:
                option = unbroken(f"{preset}--limit {shlex.quote(one.limit or '')}")
                text += f". Use half of that, to leave room for other callers: {option}"
        yield text
    if len(found) > _MOST_NAMED:
        yield f"{len(found) - _MOST_NAMED:,} more were throttled: see the table"
    plans = [plan_of(plan.registry, one.service) for one in found]
    if not plan.given.dry_run and any(one is None or one.limits.adaptive is None for one in plans):
        who = "a server" if plan.registry.hosts else "AWS"
        yield f"with --adaptive, rates drop automatically when {who} throttles"


def after_dry_run(outcome: Outcome) -> Iterator[str]:
    """Yield how long a paced run would take, and which limits would delay or refuse its calls."""
    estimate = outcome.estimate
    if estimate is None or not outcome.figures:
        return
    held, refused = (
        [f"{' '.join(one)} ({pluralize(n, 'call')})" for one, n in counts.most_common()]
        for counts in (estimate.held, estimate.refused)
    )
    if refused:
        yield f"limits that would have refused calls: {listed(refused)}"
    if held:
        took, paced = as_clock(outcome.seconds), as_clock(outcome.paced_seconds or 0)
        yield f"a paced run would take about {paced}; this one took {took}"
        yield f"limits that would have delayed calls: {listed(held)}"
    elif not refused and any(one.paced for one in outcome.figures):
        yield "no limit would have delayed a call: a paced run would take as long as this one"
    elif not refused:
        yield "no limit applies to these calls: set one with --limit SERVICE=RATE"
    if estimate.left_out:
        yield (
            "the estimate ignores limits on calls in flight, because the calls' duration is unknown"
        )


def listed(names: Sequence[str], separator: str = ", ") -> str:
    """Return the first names, and the number of further ones."""
    further = len(names) - _MOST_NAMED
    more = [f"and {further:,} more"] if further > 0 else []
    return separator.join([*names[:_MOST_NAMED], *more])


@cache
def published_of(service: str, lane: str) -> PublishedLimit | None:
    """Return the published limit of a lane; None if there is none.

    Args:
        service: the service.
        lane: the lane. The name of the service itself means all of its calls together.
    """
    if lane == service:
        return next((one for one in enforceable(service) if not one.operations), None)
    return published(service, lane)


def command_to_copy(plan: RunPlan) -> str:
    """Return the command of the paced run."""
    words = ["aioapiqueue", "run", *plan.given.as_words(), "--", *plan.given.command]
    return " ".join(map(as_argument, words))
