"""What to do next: after throttling, a limit to try; after a dry run, the command that paces."""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections import defaultdict
from typing import TYPE_CHECKING

from aioapiqueue.cli._console import pluralize
from aioapiqueue.cli.run._figures import duration
from aioapiqueue.cli.run._recorder import CALLS, THROTTLED
from aioapiqueue.hub import OTHERS
from aioapiqueue.registry._buckets import lane_key
from aioapiqueue.registry._published import enforceable, published

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from aioapiqueue._recording.series import TimeSeries
    from aioapiqueue.cli.run._model import Outcome, Plan
    from aioapiqueue.cli.run._recorder import SeriesName
    from aioapiqueue.registry import PublishedLimit

__all__ = ["Throttled", "after_dry_run", "after_throttling", "command_to_copy", "published_of"]

_SHARE = 0.5
"""Of what gets through: others call with the account, too (as of what AWS publishes)."""
_FEWEST_STEPS = 3
"""Of time, from the first push-back to the last, that a rate is measured over; the first of them
and the last are then left out: what a full bucket gave, and what came after."""
_FEWEST_CALLS = 5
"""That got through meanwhile."""
_MOST_LANES = 3
"""Of one service: if more were throttled, one limit for all of them is what to try."""
_MOST_NAMED = 8


@dataclasses.dataclass(frozen=True)
class Throttled:
    """Calls that were throttled, and what to do about it.

    Attributes:
        service: whose calls.
        lane: which; None: those of several operations.
        throttled: how many answers pushed back.
        got_through: how many calls a second were answered otherwise, from the first push-back to
            the last; None: they were too few to tell.
    """

    service: str
    lane: str | None
    throttled: int
    got_through: float | None

    @property
    def limit(self) -> float | None:
        """The calls a second to try, rounded down to two digits; None: nobody knows."""
        if self.got_through is None:
            return None
        rate = self.got_through * _SHARE
        digits: int = 1 - math.floor(math.log10(rate))
        scale = 10.0**digits
        return math.floor(rate * scale + 1e-9) / scale

    @property
    def option(self) -> str | None:
        """The limit to try, as `--limit` takes it."""
        if self.limit is None:
            return None
        name = self.service if self.lane is None else f"{self.service}.{self.lane}"
        return f"{name}={self.limit:g}/s"


def find_throttled(series: TimeSeries[SeriesName]) -> list[Throttled]:
    """Return what was throttled, the most throttled first."""
    lanes: defaultdict[tuple[str, str], list[dict[int, Sequence[float]]]] = defaultdict(list)
    queues: defaultdict[str, defaultdict[object, list[dict[int, Sequence[float]]]]]
    queues = defaultdict(lambda: defaultdict(list))
    for name, points in series.series.items():
        if name.service == OTHERS:
            continue
        lanes[name.service, name.lane].append(dict(points))
        queues[name.service][name.region, name.account].append(dict(points))
    by_service: defaultdict[str, list[Throttled]] = defaultdict(list)
    for (service, lane), each in lanes.items():
        if throttled := _sum(each, THROTTLED):
            # A limit holds for each Region and account: the least that got through anywhere.
            rates = [rate for one in each if (rate := _got_through(one, series.step)) is not None]
            by_service[service].append(
                Throttled(service, lane, throttled, min(rates, default=None))
            )
    found: list[Throttled] = []
    for service, those in by_service.items():
        if len(those) <= _MOST_LANES:
            found += those
            continue
        sums = [_added_up(each) for each in queues[service].values()]
        rates = [rate for one in sums if (rate := _got_through(one, series.step)) is not None]
        found.append(Throttled(service, None, _sum(sums, THROTTLED), min(rates, default=None)))
    return sorted(found, key=lambda one: (-one.throttled, one.service, one.lane or ""))


def _sum(each: Iterable[dict[int, Sequence[float]]], field: int) -> int:
    return int(sum(point[field] for points in each for point in points.values()))


def _added_up(each: Iterable[dict[int, Sequence[float]]]) -> dict[int, Sequence[float]]:
    total: dict[int, Sequence[float]] = {}
    for points in each:
        for number, point in points.items():
            known = total.get(number)
            total[number] = point if known is None else [*map(sum, zip(known, point, strict=True))]
    return total


def _got_through(points: dict[int, Sequence[float]], step: float) -> float | None:
    """Return the calls a second that were not throttled while others were; None: too few."""
    pushed_back = [number for number, point in points.items() if point[THROTTLED]]
    if not pushed_back:
        return None
    first, last = min(pushed_back), max(pushed_back)
    if last - first + 1 < _FEWEST_STEPS:
        return None
    between = [point for number, point in points.items() if first < number < last]
    served = sum(point[CALLS] - point[THROTTLED] for point in between)
    return served / ((last - first - 1) * step) if served >= _FEWEST_CALLS else None


def after_throttling(plan: Plan, outcome: Outcome) -> Iterator[str]:
    """Yield what got through of calls that were throttled, and which limit to try."""
    found = find_throttled(outcome.recorder.series)
    for one in found[:_MOST_NAMED]:
        name = f"{one.service} {one.lane}" if one.lane else one.service
        text = f"{name}: throttled {pluralize(one.throttled, 'time')}"
        if one.option is not None:
            text += f"; meanwhile {one.got_through:,.3g} a second got through"
        if plan.dry_run:
            yield text
        elif one.option is None:
            yield f"{text}, too few to measure what gets through: try half of its limit"
        else:
            yield f"{text}. Try --limit {shlex.quote(one.option)}: half of it, as others call, too"
    if len(found) > _MOST_NAMED:
        yield f"{len(found) - _MOST_NAMED:,} more were throttled: the table has them"
    if found and not plan.dry_run and plan.registry.default is None:
        yield "with --adaptive, rates come down by themselves when AWS throttles"


def after_dry_run(outcome: Outcome) -> Iterator[str]:
    """Yield which limits would have held in a dry run, and how long a paced one would take."""
    estimate = outcome.recorder.estimate
    if estimate is None or not outcome.figures:
        return
    over = [*_over_published(outcome)]
    if over:
        yield f"more than AWS publishes: {_listed(over)}"
    held = [f"{one} ({pluralize(count, 'call')})" for one, count in estimate.held.most_common()]
    if held:
        yield f"would have been held back by: {_listed(held)}"
        took, paced = duration(outcome.seconds), duration(outcome.paced_seconds or 0)
        yield f"a paced run would take about {paced}, where this one took {took}"
    elif any(one.paced for one in outcome.figures):
        yield "no limit would have held any call back: a paced run would take as long"
    else:
        yield "no limit is of any of these calls: nothing would be paced"


def _listed(names: Sequence[str]) -> str:
    more = f", and {len(names) - _MOST_NAMED:,} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more


def _over_published(outcome: Outcome) -> Iterator[str]:
    """Yield the lanes whose mean, or peak, is above what AWS publishes of them."""
    seconds = max(outcome.seconds, 1.0)
    for one in outcome.figures:
        figure = published_of(one.service, one.lane or one.operation)
        if figure is None:
            continue
        rate, where = figure.rate, f" in {one.region}" if one.region else ""
        refill = rate.calls / rate.per
        if one.calls / seconds > refill:
            how = f"{one.calls / seconds:,.1f}/s in the mean"
        elif one.peak > rate.burst + refill:
            how = f"{one.peak:,} in a second"
        else:
            continue
        yield f"{one.service} {one.lane or one.operation}{where} ({how}, {rate} published)"


def published_of(service: str, lane: str) -> PublishedLimit | None:
    """Return what AWS publishes of the calls of a lane; None: nothing, or it is no lane's name.

    Args:
        service: whose calls.
        lane: their name; the service's: what is published of all of its calls together.
    """
    if lane == service:
        return next((one for one in enforceable(service) if not one.operations), None)
    key = lane_key(lane)
    return published(service, key) if isinstance(key, str) else published(service, *key)


def command_to_copy(plan: Plan, outcome: Outcome) -> str:
    """Return the command that does what the dry run did, paced.

    Where the limits would have let through what AWS throttled, it has the limits to try besides.
    """
    options = list(plan.options)
    estimate = outcome.recorder.estimate
    for one in find_throttled(outcome.recorder.series)[:_MOST_NAMED]:
        if one.option is None or one.limit is None or estimate is None:
            continue
        lanes = [one.lane] if one.lane else [f.lane or f.operation for f in outcome.figures]
        if min(estimate.strictest(one.service, lane) for lane in lanes) > (one.got_through or 0):
            options += ["--limit", one.option]
    return shlex.join(["aioapiqueue", "run", *options, "--", *plan.command])
