"""What a slot costs: uncontended, contended, where every slot queues, with lanes, by two limits."""

from __future__ import annotations

import asyncio
import functools
import statistics
import sys
from typing import TYPE_CHECKING

import _contenders as contenders
from _common import Report, interleave, main, ratios, spread
from _speeds import (
    AIOLIMITER,
    BUCKET,
    FUTURE,
    LIMITER,
    NOMINAL,
    OURS,
    TASKS,
    Costs,
    alone,
    at_once,
    free_limiters,
    limiters,
    show_alone,
    show_at_once,
)

from aioapiqueue import ApiQueue, Rate
from aioapiqueue.testing import VirtualLoop

if TYPE_CHECKING:
    from _speeds import Loop, Makers

coarse = functools.partial(VirtualLoop, grain=0.001)
NEWER = sys.version_info >= (3, 12)
MOST_PACE, MOST_BUCKET = (1.3, 1.5) if NEWER else (1.0, 1.25)
"""The time of an uncontended slot, times aiolimiter's, which calls `max()`: that takes 71 ns on
Python 3.11.7, and 36 on 3.13.0."""
MOST_LANES = 4.4 if NEWER else 3.98
"""The CPU of a slot with priorities and lanes, times a bare Future's: a tenth less than at commit
0bc96f5e (4.89 on Python 3.13, 4.42 on 3.11)."""


def all_at_once(
    makers: Makers, loop: Loop = asyncio.new_event_loop, *, quick: bool
) -> dict[str, list[Costs]]:
    """Measure all with 1,000 tasks, round after round."""
    calls = 20 if quick else 50
    measured = {
        name: functools.partial(at_once, make, loop, calls=calls) for name, make in makers.items()
    }
    return interleave(measured, 5 if quick else 11)


def all_alone(makers: Makers, *, quick: bool) -> dict[str, list[float]]:
    """Measure all with one caller, round after round."""
    measured = {name: functools.partial(alone, make) for name, make in makers.items()}
    return interleave(measured, 15 if quick else 45)


def times(costs: dict[str, list[Costs]], one: str, other: str) -> list[float]:
    """Return the CPU of one for each slot, times that of the other, round by round."""
    return ratios([own.cpu for own in costs[one]], [own.cpu for own in costs[other]])


def contended(report: Report, /, *, quick: bool) -> None:
    """1,000 tasks on a real loop, at more than they can use."""
    burst = NOMINAL // 100  # 10 ms, as our catch_up
    costs = all_at_once(limiters(NOMINAL, burst), quick=quick)
    show_at_once(report, f"Contended: {TASKS:,} tasks, nominal {NOMINAL:,}/s", costs)
    for peer in (LIMITER, FUTURE):
        gains = ratios([own.time for own in costs[peer]], [own.time for own in costs[OURS]])
        gain = statistics.median(gains)
        report.target(f"contended slots/s, times {peer}", gain, least=1.5, rounds=gains)


def queued(report: Report, /, *, quick: bool) -> None:
    """The same where every slot queues, and 1,000 are released per wake-up (virtual time)."""
    costs = all_at_once(limiters(NOMINAL, NOMINAL // 1000), coarse, quick=quick)
    show_at_once(report, f"Every slot queues, {TASKS:,} a wake-up (virtual time)", costs)
    gains = times(costs, LIMITER, OURS)
    gain = statistics.median(gains)
    report.target(f"queued slots/s, times {LIMITER}", gain, least=0.5, rounds=gains)


def queued_real(report: Report, /, *, quick: bool) -> None:
    """The same at 100,000 per second on a real loop, which sleeps when the limit is reached."""
    rate = NOMINAL // 10
    makers = limiters(rate, 1 + rate // 100)  # 10 ms, and the call that is on time
    del makers[FUTURE]  # it waits for nothing
    costs = all_at_once(makers, quick=quick)
    show_at_once(report, f"Every slot queues, {rate:,}/s (real time)", costs)
    # By the clock. The table shows the CPU, too, which is what sleeping hides.
    gains = ratios([own.time for own in costs[LIMITER]], [own.time for own in costs[OURS]])
    gain = statistics.median(gains)
    report.target(f"queued slots/s in real time, times {LIMITER}", gain, least=0.95, rounds=gains)


def uncontended(report: Report, /, *, quick: bool) -> None:
    """One caller, a slot always free."""
    costs = all_alone(free_limiters(), quick=quick)
    show_alone(report, "Uncontended", costs)
    for what, name, peer, most in (
        ("pace", OURS, AIOLIMITER, MOST_PACE),
        ("bucket", BUCKET, "aiolimiter, burst 100", MOST_BUCKET),
    ):
        shares = ratios(costs[name], costs[peer])
        title = f"uncontended slot, {what}: times aiolimiter's time"
        report.target(title, statistics.median(shares), most=most, noise=0.03, rounds=shares)


def lanes(report: Report, /, *, quick: bool) -> None:
    """Ten priorities and 100 lanes with limits, beside plain FIFO (virtual time)."""
    narrow = Rate(NOMINAL // 100)  # together as much as the queue: each of them binds
    by_lane = "with lanes, priorities"
    makers = limiters(NOMINAL, NOMINAL // 1000)
    del makers[AIOLIMITER]
    makers[by_lane] = lambda: contenders.ours_by_lane(ApiQueue(Rate(NOMINAL), lanes={"*": narrow}))
    costs = all_at_once(makers, coarse, quick=quick)
    show_at_once(report, "Every slot queues: 10 priorities, 100 limited lanes", costs)
    # Times a Future's, which is part of every slot, and which no limiter can make faster. Compared
    # with our plain queue, lanes would seem to cost more whenever a plain slot costs less.
    shares = times(costs, by_lane, FUTURE)
    what = "a slot with priorities and lanes, times a bare Future's CPU"
    report.target(what, statistics.median(shares), most=MOST_LANES, rounds=shares)


def two_limits(report: Report, /, *, quick: bool) -> None:
    """Calls and tokens, with a cost in both, beside one limit of calls."""
    tokens = Rate(2 * NOMINAL, burst=2, unit="tokens")
    makers: Makers = {
        "one limit": lambda: contenders.ours(ApiQueue(Rate(NOMINAL))),
        "two": lambda: contenders.ours(ApiQueue(Rate(NOMINAL), tokens), cost={"tokens": 2}),
    }
    costs = all_alone(makers, quick=quick)
    together = all_at_once(makers, quick=quick)
    rows = [
        (
            name,
            spread(costs[name], ".0f"),
            spread([1e6 / one.time for one in together[name]], ".0f"),
        )
        for name in costs
    ]
    report.table("Two limits with two units", ("", "ns alone", "1,000 slots/s contended"), rows)
    by_time = {name: [one.time for one in own] for name, own in together.items()}
    for what, shares, most in (
        ("uncontended", ratios(costs["two"], costs["one limit"]), 1.8),
        ("contended", ratios(by_time["two"], by_time["one limit"]), 1.5),
    ):
        title = f"two limits, {what}: times one limit"
        report.target(title, statistics.median(shares), most=most, rounds=shares)


if __name__ == "__main__":
    cases = (contended, queued, queued_real, uncontended, two_limits, lanes)
    main((__doc__ or "").partition("\n")[0], *cases)
