"""How true the pace is in real time: rate, gaps, bursts, and the CPU that pacing takes."""

from __future__ import annotations

import asyncio
import functools
import itertools
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import uvloop as uv
from _common import ROUNDS, CountingSelector, Report, interleave, main, ratios, run, spread
from aiolimiter import AsyncLimiter
from asynciolimiter import Limiter, StrictLimiter

from aioapiqueue import ApiQueue, Rate

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    Call = Callable[[], Coroutine[Any, Any, None]]
    """Makes one call."""

OURS = "aioapiqueue"
LIMITER = "asynciolimiter.Limiter"
TIMER = "bare timer"
TASKS = 200
SECOND = 2
LEAST = {10: 0.998, 100: 0.999, 1_000: 0.999, 5_000: 0.999, 20_000: 0.999}
"""Share of the nominal rate, by that rate."""


def ours(rate: float) -> Call:
    """Enter a slot of a queue."""
    queue = ApiQueue(Rate(rate))

    async def call() -> None:
        async with queue.slot():
            pass

    return call


def entering(rate: float) -> Call:
    """Enter an aiolimiter without burst."""
    limiter = AsyncLimiter(1, 1 / rate)

    async def call() -> None:
        async with limiter:
            pass

    return call


CONTENDERS: dict[str, Callable[[float], Call]] = {
    OURS: ours,
    LIMITER: lambda rate: Limiter(rate).wait,  # makes up for five late calls
    "asynciolimiter.Strict": lambda rate: StrictLimiter(rate).wait,
    "aiolimiter, burst 1": entering,
}


@dataclass(frozen=True)
class Pacing:
    """What one contender did at one rate."""

    rate: float
    starts: list[float]
    cpu: float
    """Share of a core, by the process's clock."""
    awake: float
    """Share of the time that the loop was not asleep in its selector."""
    sleeps: float
    """How often it went to sleep, for each slot."""

    @property
    def achieved(self) -> float:
        """Share of the nominal rate."""
        return (len(self.starts) - 1) / (self.starts[-1] - self.starts[0]) / self.rate

    @property
    def first_percentile(self) -> float:
        """The gap that one in a hundred falls below, in intervals."""
        gaps = [after - before for before, after in itertools.pairwise(self.starts)]
        return statistics.quantiles(gaps, n=100, method="inclusive")[0] * self.rate

    @property
    def most_in_ten(self) -> int:
        """How many started within any ten intervals, at most."""
        most = begin = 0
        for end, start in enumerate(self.starts):
            while start - self.starts[begin] >= 10 / self.rate:
                begin += 1
            most = max(most, end - begin + 1)
        return most


async def starts(
    call: Call, count: int, seconds: float, mark: Callable[[], None] = lambda: None
) -> list[float]:
    """Let all tasks call until `count` calls have started, or much too long; return when.

    `mark` is called at the second start, when all have joined, and after the last one.
    """
    times: list[float] = []
    enough = asyncio.get_running_loop().create_future()

    async def keep_calling() -> None:
        while True:
            await call()
            times.append(time.monotonic())
            if len(times) == SECOND:
                mark()
            elif len(times) == count and not enough.done():
                enough.set_result(None)

    tasks = [asyncio.create_task(keep_calling()) for _ in range(TASKS)]
    await asyncio.wait([enough], timeout=1.5 * seconds)
    mark()
    enough.cancel()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    return times[:count]


async def ticks(rate: float, count: int, mark: Callable[[], None]) -> list[float]:
    """The same by a timer alone, which makes up for every late call: what the loop can do."""
    loop = asyncio.get_running_loop()
    times: list[float] = []
    enough = loop.create_future()
    begun = loop.time()

    def tick() -> None:
        times.append(time.monotonic())
        if len(times) == SECOND:
            mark()
        if len(times) < count:
            loop.call_at(begun + len(times) / rate, tick)
        else:
            enough.set_result(None)

    tick()
    await enough
    mark()
    return times


def pace(name: str, rate: float, seconds: float) -> Pacing:
    """Pace on a loop that counts its sleeps."""
    count = round(rate * seconds) + 1
    selector = CountingSelector()
    marks: list[tuple[float, float, float, int]] = []

    def mark() -> None:
        clocks = time.process_time(), time.perf_counter()
        marks.append((*clocks, selector.asleep, selector.sleeps))

    if name == TIMER:
        pacing = ticks(rate, count, mark)
    else:
        pacing = starts(CONTENDERS[name](rate), count, seconds, mark)
    times = run(pacing, lambda: asyncio.SelectorEventLoop(selector))
    cpu, took, asleep, sleeps = (after - before for before, after in zip(*marks, strict=True))
    return Pacing(rate, times, cpu / took, 1 - asleep / took, sleeps / (len(times) - SECOND))


def together(rate: float, seconds: float) -> dict[str, list[Pacing]]:
    """Pace with all at once on one loop: where calls are rare, none is in another's way."""

    async def all_of_them() -> list[list[float]]:
        count = round(rate * seconds) + 1
        pacings = (starts(make(rate), count, seconds) for make in CONTENDERS.values())
        return await asyncio.gather(*pacings)

    nan = float("nan")
    times = run(all_of_them())
    return {
        name: [Pacing(rate, own, nan, nan, nan)]
        for name, own in zip(CONTENDERS, times, strict=True)
    }


def low(report: Report, /, *, quick: bool) -> None:
    """10 per second, all contenders at once: rate, gaps, bursts."""
    rounds = [together(10, 5 if quick else 8) for _ in range(1 if quick else ROUNDS)]
    judge(report, 10, {name: [own for one in rounds for own in one[name]] for name in CONTENDERS})


def high(report: Report, /, *, quick: bool) -> None:
    """100 to 20,000 per second, one at a time: rate; up to 100, gaps and bursts."""
    for rate in (100, 1_000, 5_000, 20_000):
        seconds = (1 if quick else 2) + (rate == 100)  # noqa: PLR2004 - few calls: longer
        contenders = {name: functools.partial(pace, name, rate, seconds) for name in CONTENDERS}
        judge(report, rate, interleave(contenders, 1 if quick else ROUNDS))


def judge(report: Report, rate: int, pacings: dict[str, list[Pacing]]) -> None:
    """Show the achieved rates and what else is promised at this one."""
    achieved = {name: [one.achieved for one in own] for name, own in pacings.items()}
    header = ["", "share of nominal rate", "gap p1", "in any 10"]
    rows = [
        (
            name,
            spread(achieved[name], ".4f"),
            f"{statistics.median([one.first_percentile for one in own]):.2f}",
            str(max(one.most_in_ten for one in own)),
        )
        for name, own in pacings.items()
    ]
    report.table(f"{rate:,} per second, {TASKS} tasks (gaps in intervals)", header, rows)
    medians = {name: statistics.median(values) for name, values in achieved.items()}
    share = medians.pop(OURS)
    report.target(
        f"{rate:,}/s: share of nominal rate", share, least=LEAST[rate], rounds=achieved[OURS]
    )
    best = max(medians.values())
    report.target(f"{rate:,}/s: times the best peer's", share / best, least=1, noise=0.005)
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
    """CPU while pacing 100 and 1,000 per second.

    The process's clock is not to be trusted everywhere: some sandboxes count short sleeps in full.
    So the loop's own time out of its selector decides, and the bare timer shows what is left.
    """
    for rate in (100, 1_000):
        names = (OURS, LIMITER, "aiolimiter, burst 1", TIMER)
        contenders = {
            name: functools.partial(pace, name, rate, 1 if quick else 1.5) for name in names
        }
        pacings = interleave(contenders, 3 if quick else ROUNDS)
        rows = [
            (
                name,
                spread([100 * one.awake for one in own], ".1f"),
                spread([100 * one.cpu for one in own], ".1f"),
                spread([one.sleeps for one in own]),
            )
            for name, own in pacings.items()
        ]
        title = f"CPU at {rate:,} per second, in % of a core"
        report.table(title, ("", "out of select", "process_time", "sleeps a slot"), rows)
        awake = ratios(*([one.awake for one in pacings[name]] for name in (OURS, LIMITER)))
        ratio = statistics.median(awake)
        what = f"CPU at {rate:,}/s, times {LIMITER}'s"
        report.target(what, ratio, most=1, noise=0.1, rounds=awake)
        sleeps = statistics.median([one.sleeps for one in pacings[OURS]])
        report.target(f"sleeps a slot at {rate:,}/s", sleeps, most=1.05)


class CountingUvloop(uv.Loop):
    """A uvloop that counts its timers."""

    timers = 0

    def call_later(self, *args: Any, **kwargs: Any) -> asyncio.TimerHandle:  # type: ignore[override]  # noqa: ANN401
        """Schedule as usual."""
        self.timers += 1
        return super().call_later(*args, **kwargs)


def uvloop(report: Report, /, *, quick: bool) -> None:
    """On uvloop, whose timers are early and whose clock is coarse."""
    rows = []
    for rate in (700, 5_000):
        seconds = 1 if quick else 3
        shares, wake_ups = [], []
        for _ in range(2 if quick else 3):
            loop = CountingUvloop()
            times = run(starts(ours(rate), rate * seconds + 1, seconds), lambda loop=loop: loop)  # type: ignore[misc]
            shares.append(Pacing(rate, times, 0, 0, 0).achieved)
            wake_ups.append(loop.timers / (times[-1] - times[0]))
        rows.append((f"{rate:,}/s", spread(shares, ".4f"), spread(wake_ups, ".0f")))
        report.target(f"uvloop, {rate:,}/s: share of nominal rate", max(shares), most=1, noise=0.01)
        report.target(f"uvloop, {rate:,}/s: timers a second", max(wake_ups), most=1_050)
    report.table("On uvloop", ("", "share of nominal rate", "timers a second"), rows)


if __name__ == "__main__":
    main((__doc__ or "").partition("\n")[0], low, high, cpu, uvloop)
