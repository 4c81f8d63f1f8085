"""Real scanners, unmodified, on a mock AWS account: as they are, and paced by `aioapiqueue run`.

The account is a moto server with snapshots, one in ten of them public, behind the demonstration's
gate: EC2's published buckets of each action, 100 calls and 20 a second. A bystander calls
DescribeSnapshotAttribute in the same account once a second (`--bystander 2`: twice), without
retries. With `--share 50%`, `run` keeps that share of what AWS publishes, instead of a fixed rate.

`--shares` makes the figures of shares in docs/scanners.md, in half an hour: 50%, 80% and `--limit
ec2=100ms`, each beside a bystander of 2 calls a second. With 80%, a scan of 3,000 snapshots is to
take at most 0.7 of the time that it takes with 100 ms; of few, the scanner itself takes most of
both.

`--strategies` compares with what else people do: the same delay before every call (blanket),
botocore's adaptive retries, the scanner's own throttle; and shares of 50 and 80 %, or --share. All
others at --rate. The account has IAM users as well, as otherwise a delay before every call would
cost no more than one before EC2's.
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
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from _common import Report
from _scan_strategies import MORE_SERVICES, STRATEGIES, draw, start
from _scan_tables import Outcome, Plan, check, compare, show
from _scanner_programs import (
    SCANNER_KEY,
    SCANNERS,
    Scanner,
    ScannerError,
    execute,
    variables_of,
)

from aioapiqueue import Rate
from aioapiqueue_run.demo.demonstration import isolated
from aioapiqueue_run.demo.gate import ThrottlingProxy
from aioapiqueue_run.demo.moto_server import Moto, MotoError, moto_server, public_among
from aioapiqueue_run.demo.scan import new_client, standing_by, warm_up

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from aioapiqueue_run.demo.gate import Ec2Call

BYSTANDER_KEY = "AKIABYSTANDER0000001"
ATTRIBUTE = "DescribeSnapshotAttribute"
ACCOUNT = (str(Path(__file__).with_name("_moto_for_scanners.py")),)
WAYS = ("unpaced", "paced")  # default; all: STRATEGIES
SHARES = ("50%", "80%", None)
"""The columns of the table of shares; None: `--rate`."""
CALLS_EACH = 12
"""A scan makes at most so many calls for a user."""
SLACK = 400.0
"""Seconds that a scan may take beyond what its pace asks for, on a busy machine."""


async def scan(
    scanner: Scanner, way: str, share: str | None, *, plan: Plan, moto: Moto, environment: Path
) -> Outcome:
    """Let one scanner scan once, behind a gate of its own whose buckets are full."""
    directory = plan.directory / f"{scanner.requirement}-{way}-{share or plan.rate_text}"
    directory.mkdir()
    prefix: tuple[str, ...] = ()
    figures = directory / "run.json"
    started = start(way, scanner, plan.rate, directory)
    command = scanner.of_services(*MORE_SERVICES) if plan.users else scanner.command
    command += started.options
    if way == "paced":
        limit = ("--share", share) if share else ("--limit", f"ec2={plan.rate_text}")
        prefix = ("aioapiqueue", "run", *limit, *_files(figures), "--")
    written = shlex.join(_files(figures))
    shown = shlex.join((*prefix, *started.shown, *command)).replace(f" {written}", "")
    print(f"\n$ {shown}", flush=True)
    calls = plan.snapshots + CALLS_EACH * plan.users
    most = SLACK + calls * plan.rate.interval * (2 if way == "adaptive" else 1)  # its own pace
    gate = ThrottlingProxy(moto.url, dict.fromkeys((SCANNER_KEY, BYSTANDER_KEY), "scanned"))
    async with (
        gate.serve() as url,
        new_client(url, "ec2", BYSTANDER_KEY) as client,
        standing_by(client, moto.snapshot, often=plan.often) as bystander,
    ):
        cpu, began = _cpu_seconds(), time.monotonic()
        code = await execute(
            (*prefix, *command),
            directory,
            {**variables_of(url, environment, directory), **started.variables},
            most,
        )
        seconds, cpu = time.monotonic() - began, _cpu_seconds() - cpu
    findings = scanner.findings(directory)
    own = [call for call in gate.ec2_calls if call.key == SCANNER_KEY]
    outcome = Outcome(
        scanner=scanner.name,
        way=way,
        share=share if way == "paced" else None,
        command=shown,
        seconds=seconds,
        cpu_seconds=cpu,
        ec2_calls=gate.counts_of(SCANNER_KEY).ec2_calls,
        peak=_most_in_a_second([call.arrived for call in own]),
        throttled=gate.counts_of(SCANNER_KEY).throttled,
        answered=len(set(_answered(own))),
        reported=findings.reported,
        public_found=findings.public,
        bystander_calls=bystander.calls,
        bystander_failures=bystander.failures,
        exit_code=code,
        counted=_counted(figures) if figures.exists() else None,
    )
    print(outcome, flush=True)  # hours may follow, and one of them may fail
    return outcome


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
    counted = json.loads(figures.read_text("utf-8"))["figures"]
    return sum(one["calls"] for one in counted if one["service"] == "ec2")


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
    server = moto_server(snapshots=plan.snapshots, buckets=0, users=plan.users, program=ACCOUNT)
    async with server as moto:
        await warm_up(moto.url, moto.snapshot)
        return [
            await scan(scanner, way, share, plan=plan, moto=moto, environment=environment)
            for scanner, environment in zip(scanners, environments, strict=True)
            for way in plan.ways
            if way != "own" or scanner.throttle
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
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)  # a hub is in it
        plan = Plan(
            snapshots=options.snapshots,
            rate=options.rate[1],
            rate_text=options.rate[0],
            shares=options.columns,
            often=options.bystander,
            ways=options.ways,
            users=options.users,
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
    if options.shares:
        compare(report, outcomes, plan)
    code = report.finish(None)
    machine = f"{platform.platform()}, {os.cpu_count()} CPUs"
    if options.svg:
        public = public_among(plan.snapshots)
        drawn = draw(
            outcomes,
            snapshots=plan.snapshots,
            public=public,
            rate=plan.rate_text,
            machine=machine,
        )
        options.svg.write_text(drawn, encoding="utf-8")
    if options.json:
        figures = {
            "snapshots": plan.snapshots,
            "public": public_among(plan.snapshots),
            "rate": plan.rate_text if None in plan.shares else None,
            "shares": plan.shares,
            "bystander": plan.often,
            "machine": machine,
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
    tables = parser.add_mutually_exclusive_group()
    tables.add_argument("--shares", action="store_true", help="the table of shares; see above")
    tables.add_argument("--strategies", action="store_true", help="of ScoutSuite; see above")
    add("--users", type=int, metavar="N", help="of IAM; 0, of strategies one for 10 snapshots")
    add("--bystander", type=positive, metavar="N", help="calls a second; 1, with --shares 2")
    add("--ways", type=lambda text: text.split(","), help="default: unpaced,paced; of shares paced")
    add("--cache", type=Path, default=cache, metavar="DIR", help="of the scanners; %(default)s")
    add("--keep", type=Path, metavar="DIR", help="keep what the scanners write in this new one")
    add("--json", type=Path, metavar="FILE", help="write the figures there, too")
    add("--svg", type=Path, metavar="FILE", help="write a picture there")
    options = parser.parse_args()
    if options.shares and options.share:
        parser.error("--shares has --share 50% and --share 80% already: leave one of the two out")
    options.bystander = options.bystander or (2 if options.shares else 1)
    options.ways = options.ways or (
        ("paced",) if options.shares else STRATEGIES if options.strategies else WAYS
    )
    options.columns = SHARES if options.shares else (options.share,)
    if options.strategies:
        options.columns = (None, options.share) if options.share else (None, "50%", "80%")
        options.scanners = options.scanners or ["scoutsuite"]
    if options.users is None:
        options.users = options.snapshots // 10 if options.strategies else 0
    for what, known in (("scanners", SCANNERS), ("ways", STRATEGIES)):
        if unknown := set(getattr(options, what)) - set(known):
            parser.error(f"no such {what}: {', '.join(unknown)}; there are {', '.join(known)}")
    if options.keep and options.keep.exists():
        parser.error(f"--keep: {options.keep} is there already; take a new one")
    return options


if __name__ == "__main__":
    sys.exit(main())
