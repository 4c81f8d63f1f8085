"""Two scanners at once on one mock AWS account, each under `aioapiqueue run` with no option.

Neither knows of the other, and each would take half of what AWS publishes: together all of it. As
runs of one user on one host share their limits, both together take half. Beside them a process of
its own, which uses the library, makes calls of the same account under a quota of its own.

The account is that of scan.py: a moto server behind the demonstration's gate, which keeps EC2's
published buckets.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from _common import Report
from _scanner_programs import SCANNER_KEY, SCANNERS, Scanner, execute, variables_of
from scan import ACCOUNT, ATTRIBUTE, SLACK

from aioapiqueue.schedules.spi import HUB_DIR, HubLocation, command
from aioapiqueue_run.demo.demonstration import isolated
from aioapiqueue_run.demo.gate import ThrottlingProxy
from aioapiqueue_run.demo.moto_server import Moto, moto_server, public_among
from aioapiqueue_run.demo.scan import warm_up

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

LIBRARY_KEY = "AKIALIBRARY000000001"
LIBRARY = f"""
import asyncio, os, sys
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from aioapiqueue import ApiQueue, HostSchedule

async def main():
    queue = ApiQueue("3/s", schedule=HostSchedule("library"))
    once = AioConfig(retries={{"total_max_attempts": 1}})
    keys = dict(aws_access_key_id="{LIBRARY_KEY}", aws_secret_access_key="x", config=once)
    region = os.environ["AWS_REGION"]
    async with get_session().create_client("ec2", region_name=region, **keys) as ec2:
        async def work():
            while True:
                async with queue.slot():
                    await ec2.describe_snapshot_attribute(
                        SnapshotId=sys.argv[1], Attribute="createVolumePermission")
        await asyncio.gather(*(work() for _ in range(4)))

asyncio.run(main())
"""
PACE = 10.0
"""Calls a second of EC2's that half of its published bucket gives."""


@dataclass(frozen=True)
class Outcome:
    """What came of one scan.

    Attributes:
        command: as it was typed, in a shell.
        seconds: from the scanner's start to its end.
        reported: snapshots whose permissions its report judges.
        public_found: those among them that its report calls public.
        exit_code: of the command.
        counted: HTTP requests to EC2 as `aioapiqueue run` counted them.
    """

    command: str
    seconds: float
    reported: int
    public_found: int
    exit_code: int
    counted: int


async def scan(
    scanner: Scanner, number: int, url: str, environment: Path, plan: argparse.Namespace
) -> Outcome:
    """Let a scanner scan once."""
    directory = Path(plan.directory) / f"scan-{number}"
    directory.mkdir()
    figures = directory / "run.json"
    words = ("aioapiqueue", "run", "--json", str(figures), "--", *scanner.command)
    began = time.monotonic()
    variables = variables_of(url, environment, directory)
    code = await execute(words, directory, variables, 2 * plan.snapshots / PACE + SLACK)
    seconds = time.monotonic() - began
    findings = scanner.findings(directory)
    counted = json.loads(figures.read_text("utf-8"))["figures"]
    return Outcome(
        command=f"aioapiqueue run -- {scanner.command[0]}",
        seconds=seconds,
        reported=findings.reported,
        public_found=findings.public,
        exit_code=code,
        counted=sum(one["calls"] for one in counted if one["service"] == "ec2"),
    )


@contextlib.asynccontextmanager
async def library(
    url: str, moto: Moto, environment: Path, directory: Path
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Let a process that uses the library call while the block runs."""
    program = directory / "library.py"
    program.write_text(LIBRARY, encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(program), moto.snapshot),
        env=variables_of(url, environment, directory),
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def measure(
    scanner: Scanner, plan: argparse.Namespace
) -> tuple[list[Outcome], ThrottlingProxy]:
    """Run two scans at once, and the library beside them."""
    environment = await asyncio.to_thread(scanner.install, plan.cache)
    directory = Path(plan.directory)
    server = moto_server(snapshots=plan.snapshots, buckets=0, users=0, program=ACCOUNT)
    async with server as moto:
        await warm_up(moto.url, moto.snapshot)
        gate = ThrottlingProxy(moto.url, dict.fromkeys((SCANNER_KEY, LIBRARY_KEY), "scanned"))
        async with gate.serve() as url, library(url, moto, environment, directory) as process:
            scans = (scan(scanner, number, url, environment, plan) for number in (1, 2))
            outcomes = list(await asyncio.gather(*scans))
            if process.returncode is not None:
                raise SystemExit(f"the library's process ended with {process.returncode}")
    return outcomes, gate


def check(
    report: Report, outcomes: Sequence[Outcome], gate: ThrottlingProxy, snapshots: int
) -> None:
    """Add the targets: nobody is throttled, and nothing is missed."""
    rows = [
        (one.command, f"{one.seconds:.0f}", f"{one.counted:,}", f"{one.public_found:,}")
        for one in outcomes
    ]
    report.table("Two at once", ("", "seconds", "EC2 calls", "public found"), rows)
    public = public_among(snapshots)
    for number, one in enumerate(outcomes, start=1):
        what = f"scan {number}: "
        report.target(f"{what}snapshots reported", one.reported, least=snapshots, most=snapshots)
        report.target(f"{what}public ones found", one.public_found, least=public, most=public)
        report.target(f"{what}exit code", one.exit_code, most=0)
    throttled = {key: gate.counts_of(key).throttled for key in (SCANNER_KEY, LIBRARY_KEY)}
    report.target("calls of both scans that were throttled", throttled[SCANNER_KEY], most=0)
    report.target("calls of the library that were throttled", throttled[LIBRARY_KEY], most=0)
    arrived = [call for call in gate.ec2_calls if call.key == SCANNER_KEY]
    counted = sum(one.counted for one in outcomes)
    report.target("EC2 calls that run did not count", len(arrived) - counted, least=0, most=0)
    asked = sorted(call.arrived for call in arrived if call.action == ATTRIBUTE)
    rate = (len(asked) - 1 - 50) / (asked[-1] - asked[0])
    report.target("of both, DescribeSnapshotAttribute a second", rate, most=1.02 * PACE)
    mine = [call.arrived for call in gate.ec2_calls if call.key == LIBRARY_KEY]
    often = (len(mine) - 1) / (max(mine) - min(mine))
    report.target("of the library, calls a second", often, least=2.85, most=3.03)


def main() -> int:
    """Run it; return 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aioapiqueue"
    add = parser.add_argument
    add("scanner", nargs="?", default="scoutsuite", choices=sorted(SCANNERS))
    add("--snapshots", type=int, default=3_000, metavar="N", help="default: %(default)s")
    add("--cache", type=Path, default=cache, metavar="DIR", help="of the scanners; %(default)s")
    add("--json", type=Path, metavar="FILE", help="write the figures there, too")
    plan = parser.parse_args()
    with isolated(), tempfile.TemporaryDirectory(prefix="together-", dir="/tmp") as directory:
        plan.directory = directory
        os.environ[HUB_DIR] = directory
        try:
            outcomes, gate = asyncio.run(measure(SCANNERS[plan.scanner], plan))
        finally:
            command(HubLocation(directory), {"command": "stop"})
    report = Report()
    check(report, outcomes, gate, plan.snapshots)
    code = report.finish(None)
    if plan.json:
        figures = {
            "scans": [asdict(one) for one in outcomes],
            "targets": [asdict(one) for one in report.targets],
        }
        plan.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main())
