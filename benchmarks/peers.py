"""Other limiters beside ours, each in the mode that fits a case best.

Each is measured in a process of its own, in turns, round by round. What hangs
or fails is a cell in a table: DNF (did not finish), or the error. Where ours is
not first, the tables show it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from _common import Report, ratios
from _peer_all import OURS, PEERS, REFERENCE, missing
from _peer_bench import Bench, Column
from _peer_picture import picture

if TYPE_CHECKING:
    from collections.abc import Callable


AIOLIMITER, LIMITER = "aiolimiter", "asynciolimiter"
LEAST = {10: 0.998, 100: 0.999, 1_000: 0.999, 5_000: 0.998, 20_000: 0.998}
"""The share of a rate that ours achieves at least, by that rate."""
MOST_CPU = {100: 1.3, 1_000: 0.7}
"""The time out of select while pacing, times asynciolimiter's, at most, by rate."""
MOST_UNCONTENDED = 1.3 if sys.version_info >= (3, 12) else 1.0
"""As in overhead.py."""


def against(
    report: Report, what: str, ours: list[float], theirs: list[float], **bound: float
) -> None:
    """Note a target that is a ratio, taken round by round."""
    both = min(len(ours), len(theirs))
    rounds = ratios(ours[:both], theirs[:both])
    report.target(what, statistics.median(rounds) if rounds else NAN, rounds=rounds, **bound)


def absolute(report: Report, what: str, rounds: list[float], **bound: float) -> None:
    """Note a target that is a figure of ours."""
    report.target(what, statistics.median(rounds) if rounds else NAN, rounds=rounds, **bound)


NAN = float("nan")


def uncontended(bench: Bench) -> None:
    """One caller, a turn always free."""
    outcomes = bench.measure("uncontended", OURS, AIOLIMITER)
    columns = [Column("us a call", "us", ",.2f", wide=True)]
    bench.table("Uncontended: one caller, a turn always free", outcomes, columns)
    bench.panel("Uncontended call, microseconds", outcomes, "us", ",.2f", more=False)
    if {OURS, AIOLIMITER} <= outcomes.keys():
        ours, theirs = (outcomes[name].values("us") for name in (OURS, AIOLIMITER))
        what = "uncontended, times aiolimiter's time"
        against(bench.report, what, ours, theirs, most=MOST_UNCONTENDED, noise=0.03)


def contended(bench: Bench) -> None:
    """1,000 tasks at more than they can use."""
    outcomes = bench.measure("contended", OURS, LIMITER, REFERENCE)
    columns = [Column("calls/s", "per_second", ",.0f", wide=True)]
    title = "Contended: 1,000 tasks, nominal 1,000,000/s, b = 10,000"
    bench.table(title, outcomes, columns)
    bench.panel("Contended, calls per second", outcomes, "per_second", ",.0f", more=True)
    for name in (LIMITER, REFERENCE):
        if {OURS, name} <= outcomes.keys():
            ours, theirs = (outcomes[one].values("per_second") for one in (OURS, name))
            against(bench.report, f"contended calls/s, times {name}", ours, theirs, least=1.5)


def pacing(bench: Bench) -> None:
    """200 tasks at 10 to 20,000 per second: share, gaps, CPU."""
    for rate, least in LEAST.items():
        rare = rate <= 100  # noqa: PLR2004 - hardly any CPU: some at once
        seconds = int(bench.pick(6 if rate == 10 else 2, 2 if rare else 1))  # noqa: PLR2004
        outcomes = bench.measure(
            "pacing",
            *(OURS, LIMITER) if rate in MOST_CPU else (OURS,),
            at_once=4 if rare else 1,
            rate=rate,
            for_seconds=seconds,
            most=2 * seconds + 2,
        )
        bench.table(
            f"{rate:,} per second, 200 tasks (gaps in intervals, CPU in % of a core)",
            outcomes,
            [
                Column("share of rate", "share", ".4f", wide=True),
                Column("gap p50", "gap", ".2f"),
                Column("p99", "late", ".1f"),
                Column("CPU", "cpu", ".1f"),
            ],
        )
        if rate in (1_000, 20_000):
            bench.panel(f"Share of {rate:,} per second", outcomes, "share", ".3f", more=True)
        if rate == 1_000:  # noqa: PLR2004 - where all are awake often enough
            bench.panel("CPU at 1,000/s, % of a core", outcomes, "cpu", ".1f", more=False)
        if OURS in outcomes:
            shares = outcomes[OURS].values("share")
            what = f"{rate:,}/s: share of the rate"
            absolute(bench.report, what, shares, least=least)
            absolute(bench.report, f"{what}, at most", shares, most=1, noise=0.01)
        if rate in MOST_CPU and {OURS, LIMITER} <= outcomes.keys():
            ours, theirs = (outcomes[name].values("awake") for name in (OURS, LIMITER))
            what = f"{rate:,}/s: time out of select, times {LIMITER}'s"
            against(bench.report, what, ours, theirs, most=MOST_CPU[rate], noise=0.05)


def backlog(bench: Bench) -> None:
    """100,000 tasks at 50,000 per second: order, drain, memory."""
    count = int(bench.pick(100_000, 20_000))
    outcomes = bench.measure("backlog", OURS, rounds=3, count=count, rate=50_000)
    bench.table(
        f"A backlog of {count:,} tasks at 50,000/s, b = 500",
        outcomes,
        [
            Column("drained, x ideal", "drained", ".3f", wide=True),
            Column("joined in s", "joined", ".2f"),
            Column("CPU s", "cpu", ".2f"),
            Column("inversions", "inversions", ",.0f"),
        ],
    )
    bench.panel("Backlog: out of order", outcomes, "inversions", ",.0f", more=False)
    if OURS in outcomes:
        own = outcomes[OURS]
        inversions = sum(own.values("inversions")) if own.results else NAN
        bench.report.target("backlog: FIFO inversions", inversions, most=0)
        what = "backlog: time to drain, times ideal"
        absolute(bench.report, what, own.values("drained"), most=1.01)
    memory(bench)


def memory(bench: Bench) -> None:
    """What each of many waiting tasks takes."""
    count = int(bench.pick(20_000, 5_000))
    outcomes = bench.measure("memory", rounds=1, count=count)
    bench.table(f"{count:,} tasks wait", outcomes, [Column("bytes each", "bytes", ",.0f")])
    bench.panel("Bytes a waiting task", outcomes, "bytes", ",.0f", more=False)
    if {OURS, REFERENCE} <= outcomes.keys():
        ours, event = (outcomes[name].values("bytes") for name in (OURS, REFERENCE))
        what = "bytes a waiting task, times a task on an Event"
        against(bench.report, what, ours, event, most=1.02)


def cancelled(bench: Bench) -> None:
    """900 of 1,000 waiters leave; one leaves as its turn comes."""
    outcomes = bench.measure("cancelled", OURS, at_once=2, seconds=15)
    columns = [Column("s for the other 100", "seconds", ".3f", wide=True)]
    bench.table("900 of 1,000 waiters are cancelled, at 100/s", outcomes, columns)
    bench.panel("900 of 1,000 cancelled: s for the rest", outcomes, "seconds", ".2f", more=False)
    if OURS in outcomes:
        what = "900 of 1,000 cancelled: s for the rest"
        absolute(bench.report, what, outcomes[OURS].values("seconds"), least=1, most=1.01)
    outcomes = bench.measure("race", OURS, rounds=3, at_once=4)
    bench.table(
        "A waiter is cancelled as its turn has come: what becomes of the turn",
        outcomes,
        [Column("turn", "turn"), Column("next one late by, intervals", "intervals", ".2f")],
    )
    if OURS in outcomes:
        turns = outcomes[OURS].values("turn")
        lost = len(turns) - turns.count("kept") if turns else NAN
        bench.report.target("cancelled as the turn came: turns lost", lost, most=0)


def idle(bench: Bench) -> None:
    """What goes on after the last call."""
    seconds = bench.pick(3, 1)
    outcomes = bench.measure("idle", rounds=3, at_once=4, seconds=15, for_seconds=seconds)
    columns = [Column("wake-ups", "wakes", ".0f"), Column("CPU in % of a core", "cpu", ".2f")]
    bench.table(f"{seconds:g} s after the last call", outcomes, columns)
    if OURS in outcomes:
        absolute(bench.report, "idle: wake-ups", outcomes[OURS].values("wakes"), most=0)


def opening(bench: Bench) -> None:
    """10 per second as documented: calls in the first 10 ms."""
    outcomes = bench.measure("opening", rounds=3, at_once=2)
    title = "10 per second, as its documentation writes it: the first 10 ms"
    bench.table(title, outcomes, [Column("calls", "calls", ".0f")])
    bench.panel("10 per second: calls in the first 10 ms", outcomes, "calls", ".0f", more=False)
    if OURS in outcomes:
        what = "10 per second: calls in the first 10 ms"
        absolute(bench.report, what, outcomes[OURS].values("calls"), most=1)


def second_loop(bench: Bench) -> None:
    """A limiter outlives its event loop, in which callers waited."""
    outcomes = bench.measure("second_loop", rounds=1, at_once=4)
    title = "A second event loop, after one that ended while callers waited"
    bench.table(title, outcomes, [Column("result", "result")])
    if OURS in outcomes:
        results = outcomes[OURS].values("result")
        failed = sum(result != "works" for result in results) if results else NAN
        bench.report.target("second event loop: failures", failed, most=0)


def threads(bench: Bench) -> None:
    """8 threads at 1,000 per second."""
    seconds = int(bench.pick(2, 1))
    outcomes = bench.measure(
        "threads", rounds=3, rate=1_000, for_seconds=seconds, most=2 * seconds + 2
    )
    columns = [Column("share of rate", "share", ".4f", wide=True), Column("CPU %", "cpu", ".1f")]
    bench.table("8 threads at 1,000 per second", outcomes, columns)
    bench.panel("8 threads: share of 1,000 per second", outcomes, "share", ".3f", more=True)


def two(bench: Bench) -> None:
    """Requests and tokens at once: is either exceeded, is anything lost?"""
    outcomes = bench.measure("two", OURS, rounds=3, calls=200)
    bench.table(
        "100 requests/s and 5,000 tokens/s, of which a second's may go at once:\n"
        "200 calls, one in five large; those large that wait are cancelled after 1 s",
        outcomes,
        [
            Column("time, x ideal", "times", ".3f", wide=True),
            Column("calls over", "calls_over", ".1f"),
            Column("tokens over", "tokens_over", ".0f"),
            Column("us alone", "us", ",.2f"),
        ],
    )
    bench.panel("Two limits: calls over the limit", outcomes, "calls_over", ".1f", more=False)
    if OURS in outcomes:
        own = outcomes[OURS]
        absolute(
            bench.report, "two limits: calls over", own.values("calls_over"), most=1, noise=0.01
        )
        absolute(bench.report, "two limits: tokens over", own.values("tokens_over"), most=50)


def lanes(bench: Bench) -> None:
    """1,000 keys with a limit each."""
    calls = int(bench.pick(4, 2))
    outcomes = bench.measure("lanes", OURS, rounds=3, keys=1_000, calls=calls)
    bench.table(
        f"1,000 keys at one call a second each, {calls} calls of each (too early: under 0.5 s)",
        outcomes,
        [
            Column("time, x ideal", "times", ".3f", wide=True),
            Column("CPU s", "cpu", ".2f"),
            Column("calls too early", "early", ".0f"),
        ],
    )
    bench.panel("1,000 keys: time, times ideal", outcomes, "times", ".2f", more=False)
    if OURS in outcomes:
        own = outcomes[OURS]
        early = sum(own.values("early")) if own.results else NAN
        bench.report.target("1,000 keys: calls too early", early, most=0)


def processes(bench: Bench) -> None:
    """8 processes share 1,000 per second through a Valkey."""
    seconds = int(bench.pick(10, 3))
    outcomes = bench.measure(
        "processes", OURS, rounds=3, seconds=seconds + 30, rate=1_000, for_seconds=seconds
    )
    bench.table(
        f"8 processes of 100 tasks share 1,000/s through a Valkey, {seconds} s after the first one",
        outcomes,
        [
            Column("share of rate", "share", ".3f", wide=True),
            Column("most in 1 s", "most", ",.0f"),
            Column("reads/call", "reads", ".2f"),
            Column("us/call", "us", ",.0f"),
            Column("least", "least", ".2f"),
        ],
    )
    print("  reads: of the server's, each a round trip; us: of its CPU; least: the share of the")
    print("    process that had the fewest calls, 1.00 if it had an eighth")
    bench.panel("8 processes: share of 1,000 per second", outcomes, "share", ".3f", more=True)
    bench.panel("8 processes: round trips a call", outcomes, "reads", ".2f", more=False)
    if OURS in outcomes:
        own = outcomes[OURS]
        what = "8 processes: share of the rate"
        absolute(bench.report, what, own.values("share"), least=0.99, most=1)
        absolute(bench.report, "8 processes: most in 1 s", own.values("most"), most=1_011)
        absolute(bench.report, "8 processes: round trips a call", own.values("reads"), most=0.05)


CASES: tuple[Callable[[Bench], None], ...] = (
    uncontended,
    contended,
    pacing,
    backlog,
    cancelled,
    idle,
    opening,
    second_loop,
    threads,
    two,
    lanes,
    processes,
)


def machine() -> str:
    """Return what this was measured on."""
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    python = f"Python {platform.python_version()}"
    return f"{python}, {platform.system()}, {os.cpu_count()} cores{load} at the start"


def show_peers(names: list[str]) -> list[dict[str, str]]:
    """Print who is measured, and how; return it."""
    print("\nr: calls per second; b: what 10 ms of them are, 1 at least")
    shown = []
    for name in names:
        peer = PEERS[name]
        one = missing(peer) or (version(peer.distribution) if peer.distribution else "")
        print(f"{name} {one}".rstrip(), f"    {peer.mode}", sep="\n")
        shown.append({"name": name, "version": one, "mode": peer.mode})
    return shown


def main() -> int:
    """Run the cases that the command line asks for; return 1 if a target is missed."""
    options = _options()
    names = [name for name in PEERS if name in options.peers or not options.peers]
    bench = Bench(names, quick=options.quick)
    begun = time.monotonic()
    where = machine()
    print(where)
    print("Medians of interleaved rounds, with [min-max]; each in a process of its own.")
    shown = show_peers(names)
    for case in CASES:
        if not options.cases or case.__name__ in options.cases:
            case(bench)
    code = bench.report.finish(options.json)
    print(f"\n{(time.monotonic() - begun) / 60:.1f} minutes")
    if options.json:
        figures = json.loads(options.json.read_text("utf-8"))
        figures.update({"machine": where, "peers": shown, "cases": bench.raw})
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    if options.svg:
        title = "Rate limiters side by side"
        drawn = picture(bench.panels, ours={OURS}, title=title, subtitle=f"Medians. {where}.")
        options.svg.write_text(drawn, encoding="utf-8")
    return code


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="\n".join(f"{case.__name__:12} {case.__doc__}" for case in CASES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("cases", nargs="*", metavar="CASE", help="only these; default: all, in 40 minutes")
    add("--quick", action="store_true", help="five minutes, less exact")
    add("--peer", action="append", dest="peers", default=[], metavar="NAME", help="only these")
    add("--json", type=Path, metavar="FILE", help="write all figures there, too")
    add("--svg", type=Path, metavar="FILE", help="write a picture there")
    options = parser.parse_args()
    for what, given, known in (
        ("case", options.cases, [case.__name__ for case in CASES]),
        ("peer", options.peers, list(PEERS)),
    ):
        if unknown := sorted(set(given) - set(known)):
            parser.error(f"no such {what}: {', '.join(unknown)}; there are {', '.join(known)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
