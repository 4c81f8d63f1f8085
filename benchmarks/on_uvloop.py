"""On uvloop, whose timers are early and whose clock is coarse, beside asyncio's own loop."""

from __future__ import annotations

import asyncio
import functools
import statistics
from typing import TYPE_CHECKING

import uvloop
from _common import ROUNDS, Report, interleave, main, ratios, spread
from _pacing import LIMITER, OURS, pace
from _speeds import AIOLIMITER, NOMINAL, alone, at_once, free_limiters, limiters

if TYPE_CHECKING:
    from collections.abc import Callable

    from _speeds import Loop

LOOPS: dict[str, Loop] = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def timers(report: Report, /, *, quick: bool) -> None:
    """700 and 5,000 per second: rate, and how many timers that takes."""
    rows = []
    for rate in (700, 5_000):
        rounds = [
            pace(OURS, rate, 1 if quick else 3, on_uvloop=True) for _ in range(2 if quick else 3)
        ]
        shares = [one.achieved for one in rounds]
        wake_ups = [one.wake_ups for one in rounds]
        rows.append((f"{rate:,}/s", spread(shares, ".4f"), spread(wake_ups, ".0f")))
        report.target(f"uvloop, {rate:,}/s: share of nominal rate", max(shares), most=1, noise=0.01)
        report.target(f"uvloop, {rate:,}/s: timers a second", max(wake_ups), most=250)
    report.table("On uvloop", ("", "share of nominal rate", "timers a second"), rows)


def beside(
    what: str, peer: str, measure: Callable[[str, str], float], rounds: int
) -> tuple[str, ...]:
    """Measure us and a peer on both loops; return a row of the table."""
    every = [(loop, who) for loop in LOOPS for who in (OURS, peer)]
    costs = interleave({" ".join(one): functools.partial(measure, *one) for one in every}, rounds)
    row = [what, peer.partition(".")[0]]
    for loop in LOOPS:
        ours, theirs = (costs[f"{loop} {who}"] for who in (OURS, peer))
        row += [f"{statistics.median(ours):.0f}", spread(ratios(ours, theirs))]
    return tuple(row)


def loops(report: Report, /, *, quick: bool) -> None:
    """Both loops: a slot of one caller, of 1,000 at once, and the CPU of pacing."""
    free, shared = free_limiters(), limiters(NOMINAL, NOMINAL // 100)
    calls, seconds = (20, 0.5) if quick else (50, 1.5)
    rows = [
        beside("free", AIOLIMITER, lambda loop, who: alone(free[who], LOOPS[loop]), 15),
        beside(
            "contended",
            LIMITER,
            lambda loop, who: at_once(shared[who], LOOPS[loop], calls=calls).cpu,
            ROUNDS if quick else 11,
        ),
    ]
    for rate in (1_000, 20_000):

        def cpu(loop: str, who: str, rate: int = rate) -> float:
            return 1000 * pace(who, rate, seconds, on_uvloop=loop == "uvloop").cpu

        rows.append(beside(f"{rate:,}/s", LIMITER, cpu, 2 if quick else ROUNDS))
    header = ("", "peer", *(cell for loop in LOOPS for cell in (loop, "times peer's")))
    report.table("Both loops: ns of CPU a slot", header, rows)


if __name__ == "__main__":
    main((__doc__ or "").partition("\n")[0], timers, loops)
