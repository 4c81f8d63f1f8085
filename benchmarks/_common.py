"""What the benchmarks share: the command line, rounds, contenders, tables and targets."""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import math
import platform
import selectors
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

__all__ = [
    "ROUNDS",
    "CountingSelector",
    "Report",
    "interleave",
    "judge",
    "main",
    "rate_of",
    "ratios",
    "run",
    "spread",
]

T = TypeVar("T")
WIDTH = 80
WIDEST = 0.1
"""If the middle half of the rounds is wider than this share of the median, it excuses no miss."""
ROUNDS = 5
"""Fewer rounds than this do not show how far they spread."""


class Case(Protocol):
    """A part of a benchmark: measures, and adds a table and its targets to the report."""

    __name__: str
    __doc__: str | None

    def __call__(self, report: Report, /, *, quick: bool) -> None: ...


@dataclass(frozen=True)
class Target:
    """A figure that was promised, and what it came to."""

    what: str
    value: float
    bound: str
    verdict: str


MET, EQUAL, MISSED = "met", "equal within", "MISSED"


def judge(
    value: float,
    *,
    least: float = -float("inf"),
    most: float = float("inf"),
    noise: float = 0.0,
    rounds: Sequence[float] = (),
) -> str:
    """Return whether a figure is within its bounds, missed them, or is too close to them to decide.

    Args:
        value: the figure.
        least: its lower bound.
        most: its upper bound.
        noise: the share of a bound that was chosen in advance to count as equal.
        rounds: what `value` is the median of, if a miss is to count as equal where the bound lies
            in the middle half of them: where a quarter of this run's rounds and more kept it. Five
            at least, and a middle half that is no wider than a tenth of the median.
    """
    if least <= value <= most:
        return MET
    if least * (1 - noise) <= value <= most * (1 + noise):
        return f"{EQUAL} noise ({noise:.1%})"
    bound = least if value < least else most
    if not bound or not math.isfinite(value):
        return MISSED
    return _missed(f"{MISSED} by {abs(value - bound) / abs(bound):.1%}", bound, rounds)


def _missed(missed: str, bound: float, rounds: Sequence[float]) -> str:
    """Return a missed bound's verdict: whether the rounds excuse it."""
    if len(rounds) < ROUNDS:
        return missed
    low, middle, high = statistics.quantiles(rounds, n=4, method="inclusive")
    half = f"the middle half of {len(rounds)} rounds ({low:.3g} to {high:.3g})"
    if not low <= bound <= high:
        return f"{missed}, and by {half}"
    if high - low > WIDEST * abs(middle):
        return f"{missed}; {half} is too wide"
    return f"{EQUAL} {half}: {missed.lower()}"


class Report:
    """Prints each table as it is ready, and the targets at the end."""

    def __init__(self) -> None:
        self.tables: list[dict[str, object]] = []
        self.targets: list[Target] = []

    def table(self, title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table, the first column to the left and the others to the right."""
        self.tables.append({"title": title, "header": header, "rows": rows})
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        print(f"\n{title}")
        for row in (header, ["-" * width for width in widths], *rows):
            first, *others = (
                cell.rjust(width) if place else cell.ljust(width)
                for place, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            print("  ".join((first, *others))[:WIDTH].rstrip())
        sys.stdout.flush()

    def target(
        self,
        what: str,
        value: float,
        *,
        least: float = -float("inf"),
        most: float = float("inf"),
        noise: float = 0.0,
        rounds: Sequence[float] = (),
    ) -> None:
        """Note whether `value` is within its bounds, or close enough: see `judge`."""
        verdict = judge(value, least=least, most=most, noise=noise, rounds=rounds)
        bounds = [f">= {least:g}"] * (least > -float("inf")) + [f"<= {most:g}"] * (
            most < float("inf")
        )
        self.targets.append(Target(what, value, " and ".join(bounds), verdict))

    def finish(self, path: Path | None) -> int:
        """Print the targets; return the exit code: 1 if one is missed."""
        print("\nTargets")
        for target in self.targets:
            line = f"  {target.what}: {target.value:.4g} ({target.bound}):"
            fits = len(line) + len(target.verdict) < WIDTH
            print(line, target.verdict, sep=" " if fits else "\n    ")
        missed = [target.what for target in self.targets if target.verdict.startswith(MISSED)]
        close = [target.what for target in self.targets if target.verdict.startswith(EQUAL)]
        if close:
            print("\n  ".join(("\nNot met, but equal to the target as far as it goes:", *close)))
        if missed:
            print("\n  ".join(("\nMissed:", *missed)))
        else:
            print(f"\nEvery {'other ' if close else ''}target is met.")
        if path is not None:
            figures = {"tables": self.tables, "targets": [asdict(one) for one in self.targets]}
            path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        return bool(missed)


class CountingSelector(selectors.DefaultSelector):
    """A selector that counts how often the loop went to sleep, and for how long it slept."""

    def __init__(self) -> None:
        super().__init__()
        self.sleeps = 0
        self.asleep = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Select as usual."""
        if timeout is not None and timeout <= 0:
            return super().select(timeout)
        self.sleeps += 1
        before = time.perf_counter()
        try:
            return super().select(timeout)
        finally:
            self.asleep += time.perf_counter() - before


def run(
    main: Coroutine[Any, Any, T],
    loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop,
) -> T:
    """Run `main` on a loop of its own."""
    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(main)


def interleave(contenders: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Measure all, `rounds` times over, each round beginning with another.

    Garbage is collected between measurements, for all contenders, and not during them.
    """
    names = list(contenders)
    results: dict[str, list[T]] = {name: [] for name in names}
    for begin in range(rounds):
        for place in range(len(names)):
            name = names[(begin + place) % len(names)]
            gc.collect()
            gc.disable()
            try:
                results[name].append(contenders[name]())
            finally:
                gc.enable()
    return results


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Return ours / theirs, round by round: what slows a whole round cancels out."""
    return [one / other for one, other in zip(ours, theirs, strict=True)]


def rate_of(starts: Sequence[float]) -> float:
    """Return the calls per second of these starts: the slope of the line that fits them best.

    The first call starts at once, and the last one waits for the others of its group. Between these
    two alone, a rate whose calls start in groups would seem to be lower than it is.
    """
    return statistics.linear_regression(starts, range(len(starts))).slope


def spread(values: Sequence[float], form: str = ".2f") -> str:
    """Return the median, with least and most where there are several: `1.20 [1.15-1.31]`."""
    median = format(statistics.median(values), form)
    if len(values) == 1:
        return median
    return f"{median} [{min(values):{form}}-{max(values):{form}}]"


def main(description: str, *cases: Case) -> None:
    """Run the cases that the command line asks for; exit with 1 if a target is missed."""
    parser = argparse.ArgumentParser(
        description=description,
        epilog="\n".join(f"{case.__name__:12} {case.__doc__}" for case in cases),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [case.__name__ for case in cases]
    parser.add_argument("cases", nargs="*", metavar="CASE", help="only these; default: all")
    parser.add_argument("--quick", action="store_true", help="less than a minute, less exact")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    options = parser.parse_args()
    if unknown := set(options.cases) - set(names):
        parser.error(f"no such case: {', '.join(sorted(unknown))}")
    peers = (f"{name} {version(name)}" for name in ("asynciolimiter", "aiolimiter", "uvloop"))
    print(f"Python {platform.python_version()}, {platform.system()}; {', '.join(peers)}")
    print("Medians of interleaved rounds, with [min-max]; ratios are taken round by round.")
    report = Report()
    for case in cases:
        if not options.cases or case.__name__ in options.cases:
            case(report, quick=options.quick)
    sys.exit(report.finish(options.json))
