"""Suggestions at the end of a run: limits to try after throttling, the command after a dry run."""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections import defaultdict
from functools import cache
from typing import TYPE_CHECKING

from aioapiqueue.recording.spi import FIELDS, added_up, as_clock
from aioapiqueue.registry.spi import (
    canonical,
    enforceable,
    matches_any,
    published,
    target_called,
    target_of,
)
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
    "limits_to_try",
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
        lanes: the lanes of the calls.
        throttled: number of throttled calls.
        accepted: calls a second that the server accepted while it throttled others; None if there
            were too few calls to tell.
        of_service: whether the limit to try is one of the whole service.
    """

    service: str
    lanes: tuple[str, ...]
    throttled: int
    accepted: float | None
    of_service: bool = False

    @property
    def name(self) -> str:
        """The name of a limit for these calls, as `--limit` takes it."""
        whole = self.of_service or len(self.lanes) > 1
        return target_of(self.service, None if whole else self.lanes[0])

    @property
    def limit(self) -> str | None:
        """The limit to try, as `--limit` takes it, with two digits; None if it is not known."""
        if self.accepted is None:
            return None
        rate, unit = self.accepted * _SHARE, "s"
        if rate < _SLOW:
            rate, unit = rate * 3600, "h"
        scale = 10.0 ** (1 - math.floor(math.log10(rate)))
        return f"{self.name}={math.floor(rate * scale + 1e-9) / scale:g}/{unit}"


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
        groups: list[tuple[tuple[str, ...], list[CallStats]]]
        # Any operation of AWS can get a limit of its own. Of a host, only the lanes that the user
        # has named can: other requests are recorded under their method.
        own = hosts.get(service, lanes)
        groups = [((lane,), those) for lane, those in lanes.items() if lane in own]
        if rest := [lane for lane in lanes if lane not in own]:
            groups.append((tuple(rest), [one for lane in rest for one in lanes[lane]]))
        if len(lanes) > _MOST_LANES:
            groups = [(tuple(lanes), [one for those in lanes.values() for one in those])]
        for lane_names, those in groups:
            # A limit applies to each Region and account by itself, so suggest the lowest rate.
            places: defaultdict[object, list[CallStats]] = defaultdict(list)
            for one in those:
                places[one.region, one.account].append(one)
            series = [added_up(each).over_time[CALLS] for each in places.values()]
            rates = [rate for one in series if (rate := _accepted(one, step)) is not None]
            throttled = sum(one.throttled for one in those)
            accepted, whole = min(rates, default=None), lane_names[0] not in own
            found.append(ThrottledCalls(service, lane_names, throttled, accepted, whole))
    return sorted(found, key=lambda one: (-one.throttled, one.name))


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


def _throttled(plan: RunPlan, outcome: Outcome) -> list[ThrottledCalls]:
    return find_throttled(outcome.figures, outcome.recording.series.step, plan.registry.hosts)


def after_throttling(plan: RunPlan, outcome: Outcome) -> Iterator[str]:
    """Yield the rates that were accepted while calls were throttled, and limits to try."""
    found = _throttled(plan, outcome)
    # If a --limit is given, the default preset no longer applies, so name it.
    preset = "--preset aws " if plan.by_default else ""
    for one in found[:_MOST_NAMED]:
        lanes = one.lanes[0] if len(one.lanes) == 1 else f"{len(one.lanes):,} operations"
        text = f"{one.service} {lanes}: throttled {pluralize(one.throttled, 'time')}"
        if one.accepted is not None:
            text += f", while {short(one.accepted)} calls a second were accepted"
        if plan.dry_run:
            yield text
        elif one.limit is None:
            yield f"{text}: too few calls to suggest a limit"
        else:
            option = unbroken(f"{preset}--limit {shlex.quote(one.limit)}")
            yield f"{text}. Half of that leaves room for other callers: {option}"
    if len(found) > _MOST_NAMED:
        yield f"{len(found) - _MOST_NAMED:,} more were throttled: see the table"
    limits = [plan.registry.limits_of(one.service)[1] for one in found]
    if not plan.dry_run and any(one is None or one.adaptive is None for one in limits):
        who = "a server" if plan.registry.hosts else "AWS"
        yield f"with --adaptive, rates drop automatically when {who} throttles"


def after_dry_run(outcome: Outcome, *, suggested: Collection[str] = ()) -> Iterator[str]:
    """Yield the limits that would have delayed calls, and how long a paced run would take.

    Args:
        outcome: the outcome of the dry run.
        suggested: the limits that `command_to_copy` adds. The estimate ignores them.
    """
    estimate = outcome.estimate
    if estimate is None or not outcome.figures:
        return
    over = [*_over_published(outcome)]
    if over:
        yield f"over the limit that AWS publishes: {listed(over)}"
    yield from _when_read(outcome)
    named = f"the suggested limit{'s' * (len(suggested) > 1)} ({', '.join(suggested)})"
    held = [f"{one} ({pluralize(count, 'call')})" for one, count in estimate.held.most_common()]
    if held:
        yield f"limits that would have delayed calls: {listed(held)}"
        took, paced = as_clock(outcome.seconds), as_clock(outcome.paced_seconds or 0)
        yield f"a paced run would take about {paced}; this one took {took}"
        if suggested:
            yield f"the estimate ignores {named}: the paced run may take longer"
    elif suggested:
        paced_any = any(one.paced for one in outcome.figures)
        text = "would have delayed a call" if paced_any else "applies to these calls"
        yield f"no limit of this dry run {text}; with {named}, a paced run may take longer"
    elif any(one.paced for one in outcome.figures):
        yield "no limit would have delayed a call: a paced run would take as long as this one"
    else:
        yield "no limit applies to these calls: nothing would be paced"
    if estimate.left_out:
        yield (
            "the estimate ignores limits on calls in flight, because the calls' duration is unknown"
        )


def listed(names: Sequence[str], separator: str = ", ") -> str:
    """Return the first names, and the number of further ones."""
    further = len(names) - _MOST_NAMED
    more = [f"and {further:,} more"] if further > 0 else []
    return separator.join([*names[:_MOST_NAMED], *more])


def _over_published(outcome: Outcome) -> Iterator[str]:
    """Yield the calls that exceeded a published limit, on average or in one second."""
    groups: defaultdict[tuple[str, str, object, object], list[CallStats]] = defaultdict(list)
    figures: dict[tuple[str, str], PublishedLimit] = {}
    for one in outcome.figures:
        for name, figure in _published_for(one.service, one.lane or one.operation):
            if figure.rate.unit == CALLS and not figure.cost:
                figures[one.service, name] = figure
                region = one.region if "region" in figure.scope else None
                groups[one.service, name, region, one.account].append(one)
    for (service, name, where, _), those in groups.items():
        rate = figures[service, name].rate
        refill = rate.calls / rate.per
        # The peak of several figures together is unknown; it is at least the largest of them.
        calls, peak = sum(one.calls for one in those), max(one.peak for one in those)
        # A token bucket admits its burst, and what it refills meanwhile.
        if calls > rate.burst + refill * outcome.seconds:
            how = f"{short(calls / outcome.seconds)}/s on average"
        elif peak > rate.burst + refill:
            how = f"{peak:,} in one second"
        else:
            continue
        place = f" in {where}" if where else ""
        yield f"{service}{' ' * bool(name)}{name}{place} ({how}, {rate} published)"


def _when_read(outcome: Outcome) -> Iterator[str]:
    """Yield when the published limits of these calls were read; nothing if there are none."""
    days = {
        figure.read
        for one in outcome.figures
        for _, figure in _published_for(one.service, one.lane or one.operation)
    }
    if days:
        first, last = min(days), max(days)
        when = f"on {first}" if first == last else f"from {first} to {last}"
        yield f"published limits were read {when}: see {unbroken('aioapiqueue limits')}"


@cache
def _published_for(service: str, lane: str) -> list[tuple[str, PublishedLimit]]:
    """Return the published limits that apply to a lane, each with a name."""
    found = []
    of_lane = published_of(service, lane)
    if of_lane is not None and not of_lane.shared:
        found.append((lane, of_lane))
    operation = lane.partition(" ")[0]
    for figure in enforceable(service):
        if not figure.operations:
            found.append(("", figure))
        elif figure.shared and matches_any(operation, figure.operations):
            found += [(f"({figure.name})", figure)] * (not matches_any(operation, figure.exclude))
    return found


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


def command_to_copy(plan: RunPlan, outcome: Outcome) -> str:
    """Return the command of the paced run.

    If the server throttled calls that the limits would have admitted, it has the limits to try.
    """
    options, limits = list(plan.options), limits_to_try(plan, outcome)
    if limits and plan.by_default:
        options[:0] = ["--preset", "aws"]
    for place in range(len(options) - 1, -1, -1):
        # Our limit replaces the user's for the same calls: it is lower.
        if options[place] == "--limit" and _target(options[place + 1]) in limits:
            del options[place : place + 2]
    options += [part for limit in limits.values() for part in ("--limit", limit)]
    return " ".join(map(as_argument, ["aioapiqueue", "run", *options, "--", *plan.command]))


def limits_to_try(plan: RunPlan, outcome: Outcome) -> dict[str, str]:
    """Return the limits to add after a dry run, by the calls that they apply to."""
    limits = dict[str, str]()
    estimate = outcome.estimate
    for one in _throttled(plan, outcome)[:_MOST_NAMED]:
        if one.limit is None or one.accepted is None or estimate is None:
            continue
        if max(estimate.strictest(one.service, lane) for lane in one.lanes) > one.accepted:
            limits[one.name] = one.limit
    return limits


def _target(option: str) -> str:
    """Return the canonical name of the calls that a `--limit` names."""
    service, operation = target_called(option.rpartition("=")[0])
    return target_of(canonical(service), operation)
