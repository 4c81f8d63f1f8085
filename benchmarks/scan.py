"""Real scanners, unmodified, on a mock AWS account: as they are, and paced by `aioapiqueue run`.

The account is a moto server with snapshots, one in ten of them public, behind the demonstration's
gate: EC2's published buckets of each action, 100 calls and 20 a second. A bystander calls
DescribeSnapshotAttribute in the same account once a second (`--bystander 2`: twice), without
retries. With `--share 50%`, `run` keeps that share of what AWS publishes, instead of a fixed rate.

`--shares` makes the figures of shares in docs/scanners.md, in half an hour: 50%, 80% and `--limit
ec2=100ms`, each beside a bystander of 2 calls a second. With 80%, a scan of 3,000 snapshots is to
take at most 0.7 of the time that it takes with 100 ms; of few, the scanner itself takes most of
both.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import resource
import shlex
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from _common import Report
from _scanner_programs import (
    SCANNER_KEY,
    SCANNERS,
    Scanner,
    ScannerError,
    execute,
    variables_of,
)

from aioapiqueue import Rate
from aioapiqueue.demo.demonstration import isolated
from aioapiqueue.demo.gate import Gate
from aioapiqueue.demo.moto_server import Moto, MotoError, moto_server, public_among
from aioapiqueue.demo.scan import new_client, standing_by, warm_up

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from aioapiqueue.demo.gate import Ec2Call

BYSTANDER_KEY = "AKIABYSTANDER0000001"
ATTRIBUTE = "DescribeSnapshotAttribute"
ACCOUNT = (str(Path(__file__).with_name("_moto_for_scanners.py")),)
WAYS = ("unpaced", "paced")
SHARES = ("50%", "80%", None)
"""The columns of the table of shares; None: `--rate`."""
FASTER, THAN, MOST = "80%", None, 0.7
"""A scan with this share takes at most so much of the time of that one."""
SLACK = 400.0
"""Seconds that a scan may take beyond what its pace asks for, on a busy machine."""


@dataclass(frozen=True)
class Plan:
    """What the command line asks for."""

    snapshots: int
    rate: Rate
    rate_text: str
    shares: Sequence[str | None]
    often: int
    ways: Sequence[str]
    cache: Path
    directory: Path


@dataclass(frozen=True)
class Outcome:
    """What came of one scan.

    Attributes:
        scanner: which one it was.
        way: `unpaced` or `paced`.
        share: of what AWS publishes, that it was paced to; None: a fixed rate, or unpaced.
        command: as it was typed, in a shell.
        seconds: from the scanner's start to its end.
        cpu_seconds: of the scanner, and of `aioapiqueue run` if it is paced.
        ec2_calls: HTTP requests to EC2 that it sent.
        peak: the most of them in any one second.
        throttled: those among them that the gate refused.
        answered: snapshots whose permissions EC2 returned.
        reported: snapshots whose permissions its report judges.
        public_found: those among them that its report calls public.
        bystander_calls: calls of the bystander while it ran.
        bystander_failures: those among them that failed, for whatever reason.
        exit_code: of the command.
        counted: HTTP requests to EC2 as `aioapiqueue run` counted them; None if it did not run.
    """

    scanner: str
    way: str
    share: str | None
    command: str
    seconds: float
    cpu_seconds: float
    ec2_calls: int
    peak: int
    throttled: int
    answered: int
    reported: int
    public_found: int
    bystander_calls: int
    bystander_failures: int
    exit_code: int
    counted: int | None

    @property
    def name(self) -> str:
        """What the tables call it."""
        return " ".join(filter(None, (self.scanner, self.way, self.share)))


async def scan(
    scanner: Scanner, way: str, share: str | None, *, plan: Plan, moto: Moto, environment: Path
) -> Outcome:
    """Let one scanner scan once, behind a gate of its own whose buckets are full."""
    directory = plan.directory / f"{scanner.requirement}-{way}-{share or plan.rate_text}"
    directory.mkdir()
    prefix: tuple[str, ...] = ()
    figures = directory / "run.json"
    if way == "paced":
        limit = ("--share", share) if share else ("--limit", f"ec2={plan.rate_text}")
        prefix = ("aioapiqueue", "run", *limit, *_files(figures), "--")
    written = shlex.join(_files(figures))
    shown = shlex.join((*prefix, *scanner.command)).replace(f" {written}", "")
    print(f"\n$ {shown}", flush=True)
    expected = plan.snapshots * plan.rate.interval if way == "paced" else 0
    gate = Gate(moto.url, dict.fromkeys((SCANNER_KEY, BYSTANDER_KEY), "scanned"))
    async with (
        gate.serve() as url,
        new_client(url, "ec2", BYSTANDER_KEY) as client,
        standing_by(client, moto.snapshot, often=plan.often) as bystander,
    ):
        cpu, began = _cpu_seconds(), time.monotonic()
        code = await execute(
            (*prefix, *scanner.command),
            directory,
            variables_of(url, environment, directory),
            expected + SLACK,
        )
        seconds, cpu = time.monotonic() - began, _cpu_seconds() - cpu
    findings = scanner.findings(directory)
    own = [call for call in gate.ec2_calls if call.key == SCANNER_KEY]
    return Outcome(
        scanner=scanner.name,
        way=way,
        share=share if way == "paced" else None,
        command=shown,
        seconds=seconds,
        cpu_seconds=cpu,
        ec2_calls=gate.counts[SCANNER_KEY].ec2_calls,
        peak=_most_in_a_second([call.arrived for call in own]),
        throttled=gate.counts[SCANNER_KEY].throttled,
        answered=len(set(_answered(own))),
        reported=findings.reported,
        public_found=findings.public,
        bystander_calls=bystander.calls,
        bystander_failures=bystander.failures,
        exit_code=code,
        counted=_counted(figures) if figures.exists() else None,
    )


def _files(figures: Path) -> tuple[str, ...]:
    """Return the options by which `run` writes its figures, and a report of them."""
    return ("--json", str(figures), "--report", str(figures.with_suffix(".html")))


def _cpu_seconds() -> float:
    """Return what ended children used; the moto server has not ended yet."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _answered(calls: Sequence[Ec2Call]) -> Iterator[str]:
    for call in calls:
        if call.action == ATTRIBUTE and call.status == 200:  # noqa: PLR2004 - OK
            yield call.parameters["SnapshotId"][0]


def _most_in_a_second(arrivals: list[float]) -> int:
    arrivals.sort()
    most = begin = 0
    for end, arrived in enumerate(arrivals):
        while arrived - arrivals[begin] >= 1:
            begin += 1
        most = max(most, end - begin + 1)
    return most


def _counted(figures: Path) -> int:
    services = json.loads(figures.read_text("utf-8"))["services"]
    return sum(one["calls"] for one in services if one["service"] == "ec2")


def show(report: Report, outcomes: Sequence[Outcome], plan: Plan) -> None:
    """Add the tables."""
    public = public_among(plan.snapshots)
    names = [one.name for one in outcomes]
    report.table(
        "What EC2 saw of it, and what came of the bystander's calls",
        ("", "seconds", "CPU s", "calls", "peak/s", "throttled", "bystander failed"),
        [
            (
                name,
                f"{one.seconds:.1f}",
                f"{one.cpu_seconds:.1f}",
                f"{one.ec2_calls:,}",
                f"{one.peak}",
                f"{one.throttled:,}",
                f"{one.bystander_failures} of {one.bystander_calls}",
            )
            for name, one in zip(names, outcomes, strict=True)
        ],
    )
    report.table(
        f"What the scanner made of {plan.snapshots:,} snapshots",
        ("", "answered", "reported", "public found", "exit code"),
        [
            (
                name,
                f"{one.answered:,}",
                f"{one.reported:,}",
                f"{one.public_found} of {public}",
                f"{one.exit_code}",
            )
            for name, one in zip(names, outcomes, strict=True)
        ],
    )


def check(report: Report, one: Outcome, plan: Plan) -> None:
    """Add the targets: the paced scan misses nothing and harms nobody, the unpaced does."""
    what = f"{one.name}: "
    if one.way == "unpaced":
        report.target(f"{what}throttled, or there is nothing to compare", one.throttled, least=1)
        return
    all_, public = plan.snapshots, public_among(plan.snapshots)
    report.target(f"{what}throttled", one.throttled, most=0)
    report.target(f"{what}snapshots answered", one.answered, least=all_)
    report.target(f"{what}snapshots reported", one.reported, least=all_, most=all_)
    report.target(f"{what}public ones found", one.public_found, least=public, most=public)
    report.target(f"{what}bystander's calls that failed", one.bystander_failures, most=0)
    often = one.bystander_calls / one.seconds
    report.target(f"{what}bystander's calls a second", often, least=0.9 * plan.often)
    report.target(f"{what}exit code", one.exit_code, most=0)
    missed = one.ec2_calls - (one.counted or 0)
    report.target(f"{what}EC2 calls that run did not count", missed, least=0, most=0)


def compare(report: Report, outcomes: Sequence[Outcome], plan: Plan) -> None:
    """Add the table of shares, and the targets of the times in it against each other."""
    seconds: dict[str, dict[str | None, float]] = {}
    for one in outcomes:
        if one.way == "paced":
            seconds.setdefault(one.scanner, {})[one.share] = one.seconds
    report.table(
        f"Seconds, beside a bystander of {plan.often} calls a second",
        (
            "",
            *(f"--share {one}" if one else f"--limit ec2={plan.rate_text}" for one in plan.shares),
        ),
        [(name, *(f"{own[one]:.0f}" for one in plan.shares)) for name, own in seconds.items()],
    )
    for name, own in seconds.items():
        if FASTER in own and THAN in own:
            what = f"{name}: time with --share {FASTER}, of that with --limit ec2={plan.rate_text}"
            report.target(what, own[FASTER] / own[THAN], most=MOST)


async def measure(plan: Plan, scanners: Sequence[Scanner]) -> list[Outcome]:
    """Run all scans, one after the other, on one moto server."""
    environments = []
    async with moto_server(snapshots=1, buckets=0, users=0, program=ACCOUNT) as small:
        for scanner in scanners:
            environment = await asyncio.to_thread(scanner.install, plan.cache)
            environments.append(environment)
            print(f"{scanner.name}: {scanner.versions(environment)}", flush=True)
            # Not measured: after an installation, Python compiles what it imports.
            directory = plan.directory / f"{scanner.requirement}-warm-up"
            directory.mkdir()
            variables = variables_of(small.url, environment, directory)
            await execute(scanner.command, directory, variables, SLACK)
    server = moto_server(snapshots=plan.snapshots, buckets=0, users=0, program=ACCOUNT)
    async with server as moto:
        await warm_up(moto.url, moto.snapshot)
        return [
            await scan(scanner, way, share, plan=plan, moto=moto, environment=environment)
            for scanner, environment in zip(scanners, environments, strict=True)
            for way in plan.ways
            for share in (plan.shares if way == "paced" else (None,))
        ]


def main() -> int:
    """Run what the command line asks for; return 1 if a target is missed."""
    options = _options()
    with contextlib.ExitStack() as stack:
        stack.enter_context(isolated())  # for the bystander, too
        directory = options.keep or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="aioapiqueue-scan-"))
        )
        directory.mkdir(parents=True, exist_ok=True)
        plan = Plan(
            snapshots=options.snapshots,
            rate=options.rate[1],
            rate_text=options.rate[0],
            shares=SHARES if options.shares else (options.share,),
            often=options.bystander,
            ways=options.ways,
            cache=options.cache,
            directory=directory.resolve(),
        )
        try:
            outcomes = asyncio.run(
                measure(plan, [SCANNERS[name] for name in options.scanners or SCANNERS])
            )
        except (MotoError, ScannerError) as error:
            print(error, file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("Interrupted; what was started is stopped.", file=sys.stderr)
            return 130
    report = Report()
    show(report, outcomes, plan)
    for one in outcomes:
        check(report, one, plan)
    if len(plan.shares) > 1:
        compare(report, outcomes, plan)
    code = report.finish(None)
    if options.json:
        figures = {
            "snapshots": plan.snapshots,
            "public": public_among(plan.snapshots),
            "rate": plan.rate_text if None in plan.shares else None,
            "shares": plan.shares,
            "bystander": plan.often,
            "machine": f"{platform.platform()}, {os.cpu_count()} CPUs",
            "scans": [asdict(one) for one in outcomes],
            "targets": [asdict(target) for target in report.targets],
        }
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return code


def _options() -> argparse.Namespace:
    def rate(text: str) -> tuple[str, Rate]:
        return text, Rate.parse(text)

    def positive(text: str) -> int:
        if (value := int(text)) < 1:
            raise ValueError
        return value

    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aioapiqueue"
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("scanners", nargs="*", metavar="SCANNER", help=f"{', '.join(SCANNERS)}; default: all")
    add("--snapshots", type=positive, default=3_000, metavar="N", help="default: %(default)s")
    add("--rate", type=rate, default="100ms", help="of EC2 calls; default: %(default)s")
    add("--share", metavar="PERCENT", help="of what AWS publishes, instead of --rate")
    add("--shares", action="store_true", help="the table of shares; see above")
    add("--bystander", type=positive, metavar="N", help="calls a second; 1, with --shares 2")
    add("--ways", type=lambda text: text.split(","), help="default: unpaced,paced; of shares paced")
    add("--cache", type=Path, default=cache, metavar="DIR", help="of the scanners; %(default)s")
    add("--keep", type=Path, metavar="DIR", help="keep what the scanners write in this new one")
    add("--json", type=Path, metavar="FILE", help="write the figures there, too")
    options = parser.parse_args()
    if options.shares and options.share:
        parser.error("--shares has --share 50% and --share 80% already: leave one of the two out")
    options.bystander = options.bystander or (2 if options.shares else 1)
    options.ways = options.ways or (("paced",) if options.shares else WAYS)
    for what, known in (("scanners", SCANNERS), ("ways", WAYS)):
        if unknown := set(getattr(options, what)) - set(known):
            parser.error(f"no such {what}: {', '.join(unknown)}; there are {', '.join(known)}")
    if options.keep and options.keep.exists():
        parser.error(f"--keep: {options.keep} is there already; take a new one")
    return options


if __name__ == "__main__":
    sys.exit(main())
