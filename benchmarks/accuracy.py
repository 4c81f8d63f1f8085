"""How true the pace is in real time: rate, gaps, bursts, and the CPU that pacing takes."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import statistics
import subprocess
import sys
from typing import TYPE_CHECKING

from _common import ROUNDS, Report, interleave, main, ratios, spread
from _pacing import CONTENDERS, LIMITER, OURS, TASKS, TIMER, Pacing, pace, starts

if TYPE_CHECKING:
    from collections.abc import Iterator

    Pacings = dict[str, list[Pacing]]

LEAST = {10: 0.998, 100: 0.999, 1_000: 0.999, 5_000: 0.998, 20_000: 0.998}
"""Share of the nominal rate, by that rate."""
MOST_CPU = {100: 1.3, 1_000: 0.7, 5_000: 1.0, 20_000: 1.35}
"""CPU for each slot, times asynciolimiter's with the same burst."""
MOST_SLEEPS = {100: 1.05, 1_000: 0.25, 5_000: 0.05, 20_000: 0.0125}
"""Sleeps for each slot: one; above 200 per second, one for each group of calls: 250 a second."""
BUSY = "import time\nend = time.monotonic() + 300\nwhile time.monotonic() < end: pass"
"""Keeps a core busy, and ends by itself if this benchmark is killed."""


def together(rate: float, seconds: float) -> Pacings:
    """Pace with all at once on one loop: where calls are rare, none is in another's way."""

    async def all_of_them() -> list[list[float]]:
        count = round(rate * seconds) + 1
        pacings = (starts(make(rate), count, seconds) for make in CONTENDERS.values())
        return await asyncio.gather(*pacings)

    times = asyncio.run(all_of_them())
    return {name: [Pacing(rate, own)] for name, own in zip(CONTENDERS, times, strict=True)}


def low(report: Report, /, *, quick: bool) -> None:
    """10 per second, all contenders at once: rate, gaps, bursts."""
    rounds = [together(10, 5 if quick else 8) for _ in range(1 if quick else ROUNDS)]
    pacings = {name: [own for one in rounds for own in one[name]] for name in CONTENDERS}
    table_of_rates(report, 10, pacings)
    judge_rate(report, 10, pacings)


def high(report: Report, /, *, quick: bool) -> None:
    """100 to 20,000 per second, one at a time: rate; at 100, gaps and bursts."""
    for rate in MOST_CPU:
        few = rate == 100  # noqa: PLR2004 - few calls: longer
        seconds = (2 if few else 0.5) if quick else (3 if few else 1.5)
        # Without a burst, a limiter starts one call each time that the loop wakes up: at most 1,000
        # per second.
        names = (*CONTENDERS, TIMER) if rate <= 1_000 else (OURS, LIMITER, TIMER)  # noqa: PLR2004 - as above
        contenders = {name: functools.partial(pace, name, rate, seconds) for name in names}
        pacings = interleave(contenders, 1 if quick else ROUNDS)
        table_of_rates(report, rate, pacings)
        del pacings[TIMER]
        judge_rate(report, rate, pacings)


def table_of_rates(report: Report, rate: int, pacings: Pacings) -> None:
    """Show the achieved rates and how even they were."""
    rows = [
        (
            name,
            spread([one.achieved for one in own], ".4f"),
            f"{statistics.median([one.first_percentile for one in own]):.2f}",
            str(max(one.most_in_ten for one in own)),
        )
        for name, own in pacings.items()
    ]
    header = ("", "share of nominal rate", "gap p1", "in any 10")
    report.table(f"{rate:,} per second, {TASKS} tasks (gaps in intervals)", header, rows)


def judge_rate(report: Report, rate: int, pacings: Pacings) -> None:
    """Compare with what is promised of the rate, and up to 100 per second of gaps."""
    achieved = {name: [one.achieved for one in own] for name, own in pacings.items()}
    medians = {name: statistics.median(values) for name, values in achieved.items()}
    share = medians.pop(OURS)
    report.target(
        f"{rate:,}/s: share of nominal rate", share, least=LEAST[rate], rounds=achieved[OURS]
    )
    best = max(medians, key=lambda name: medians[name])
    times = ratios(achieved[OURS], achieved[best])
    what = f"{rate:,}/s: times the best peer's"
    report.target(what, share / medians[best], least=1, noise=0.005, rounds=times)
    mine = pacings[OURS]
    if rate <= 100:  # noqa: PLR2004 - above, the loop's milliseconds are coarser than the gaps
        gaps = [one.first_percentile for one in mine]
        gap, least = statistics.median(gaps), {10: 0.95, 100: 0.75}[rate]
        what = f"{rate:,}/s: 1st percentile of gaps, in intervals"
        report.target(what, gap, least=least, rounds=gaps)
        most = max(one.most_in_ten for one in mine)
        report.target(f"{rate:,}/s: starts in any 10 intervals", most, most=11)
    report.target(f"{rate:,}/s: share of nominal rate, at most", share, most=1, noise=0.01)


def cpu(report: Report, /, *, quick: bool) -> None:
    """CPU of a slot at the same rates, by two clocks, and how often the loop wakes up.

    The process's clock decides. It counts what the kernel does for each sleep, and not what other
    processes do meanwhile; the time out of the selector is the other way round, and differs more
    from round to round. It is shown because some sandboxes count short sleeps as CPU: the bare
    timer's process_time is near 10,000 us at 100 per second there, and the ratios mean nothing.
    """
    for rate, most in MOST_CPU.items():
        contenders = {
            name: functools.partial(pace, name, rate, 0.5 if quick else 1)
            for name in (OURS, LIMITER, TIMER)
        }
        pacings = interleave(contenders, 3 if quick else 9)
        rows = [
            (
                name,
                spread([one.cpu for one in own], ".1f"),
                spread([one.awake for one in own], ".1f"),
                f"{statistics.median([one.wake_ups for one in own]):.0f}",
            )
            for name, own in pacings.items()
        ]
        header = ("", "process_time", "out of select", "wake-ups/s")
        report.table(f"CPU at {rate:,} per second, in us a slot", header, rows)
        times = ratios(*([one.cpu for one in pacings[name]] for name in (OURS, LIMITER)))
        what = f"{rate:,}/s: CPU for each slot, times {LIMITER}'s"
        # Medians of several runs were within some 5 % of their mean.
        report.target(what, statistics.median(times), most=most, noise=0.05, rounds=times)
        sleeps = statistics.median([one.sleeps for one in pacings[OURS]])
        report.target(f"{rate:,}/s: sleeps a slot", sleeps, most=MOST_SLEEPS[rate])


@contextlib.contextmanager
def all_cores_busy() -> Iterator[None]:
    """Keep each core busy with a process of its own."""
    command = [sys.executable, "-c", BUSY]
    processes = [subprocess.Popen(command) for _ in range(os.cpu_count() or 1)]  # noqa: S603 - our own words
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def busy(report: Report, /, *, quick: bool) -> None:
    """1,000 per second while other processes keep all cores busy: rate."""
    contenders = {
        name: functools.partial(pace, name, 1_000, 0.5 if quick else 2)
        for name in (OURS, LIMITER, TIMER)
    }
    with all_cores_busy():
        pacings = interleave(contenders, 3 if quick else 7)
    achieved = {name: [one.achieved for one in own] for name, own in pacings.items()}
    rows = [(name, spread(values, ".4f")) for name, values in achieved.items()]
    title = "1,000 per second, other processes keep all cores busy"
    report.table(title, ("", "share of nominal rate"), rows)
    share = statistics.median(achieved[OURS])
    what = "1,000/s, all cores busy: share of nominal rate"
    report.target(what, share, least=0.99, rounds=achieved[OURS])


if __name__ == "__main__":
    main((__doc__ or "").partition("\n")[0], low, high, cpu, busy)
