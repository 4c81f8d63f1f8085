"""Runs the demonstration: three scans of a mock AWS account, and a comparison of them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
from typing import TYPE_CHECKING

from aioapiqueue.integrations.report import page
from aioapiqueue_run.demo.calibration import plan_at, reached_rate, scale_for
from aioapiqueue_run.demo.gate import ThrottlingProxy
from aioapiqueue_run.demo.moto_server import moto_server
from aioapiqueue_run.demo.recording import Scans
from aioapiqueue_run.demo.scan import strategies, warm_up
from aioapiqueue_run.demo.table import closing_table, progress
from aioapiqueue_run.demo.verdict import (
    as_document,
    checks,
    closing_text,
    failed,
    is_shown,
    report,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rich.console import Console

    from aioapiqueue import Rate
    from aioapiqueue_run.demo.scan import ScanFigures, ScanPlan

__all__ = ["demonstrate"]


def demonstrate(
    console: Console,
    *,
    snapshots: int,
    rate: Rate,
    workers: int,
    json_file: Path | None,
    report_file: Path | None = None,
    strict: bool = False,
) -> bool:
    """Scan a mock account in three ways and compare them. Return whether all checks passed.

    On a busy machine, the account, its limits and the pace are reduced: see `calibration`.

    Args:
        console: shows the progress and the comparison.
        snapshots: number of snapshots in the account.
        rate: the pace of the blanket scan and the paced scan.
        workers: number of concurrent EC2 calls in each scan.
        json_file: the file for all figures, as JSON; None: no file.
        report_file: the file for the report, a page that needs no other file. Default: none.
        strict: whether a late paced scan counts as a failure, which a busy machine may cause.

    Raises:
        MotoError: the mock account could not be started.
    """
    whole = plan_at(1, snapshots=snapshots, rate=rate, workers=workers)
    with isolated():
        scans = Scans()
        plan, found = asyncio.run(_scan(console, whole, scans))
    done = checks(plan, found)
    if is_shown(done):
        console.print(closing_table(console, plan, found))
        console.print()
    console.print(closing_text(plan, found, done, strict=strict))
    recorded = scans.as_json({name: figures.seconds for name, figures in found.items()})
    document = as_document(plan, found, done, recorded, strict=strict)
    if json_file:
        verdict = {name: document[name] for name in ("verdict", "good")}
        figures = report(plan, found, done, strict=strict) | recorded | verdict
        json_file.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
    if report_file:
        report_file.write_text(page(document), "utf-8")
    return not failed(done, strict=strict)


@contextlib.contextmanager
def isolated() -> Iterator[None]:
    """Hide the user's AWS settings and proxies, so that each call goes to our own servers."""
    saved = dict(os.environ)
    for name in saved:
        if name.upper().startswith(("AWS_", "BOTO_", "MOTO_")) or name.lower().endswith("_proxy"):
            del os.environ[name]
    os.environ.update(
        AWS_CONFIG_FILE=os.devnull,
        AWS_SHARED_CREDENTIALS_FILE=os.devnull,
        AWS_EC2_METADATA_DISABLED="true",
    )
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(saved)


async def _scan(
    console: Console, whole: ScanPlan, scans: Scans
) -> tuple[ScanPlan, dict[str, ScanFigures]]:
    console.print("Starting a mock AWS account and measuring how fast this machine scans it ...\n")
    async with (
        moto_server(snapshots=whole.snapshots, buckets=whole.buckets, users=whole.users) as moto,
        contextlib.AsyncExitStack() as stack,
    ):
        await warm_up(moto.url, moto.snapshot)
        reached = await reached_rate(moto, whole)
        plan = plan_at(
            scale_for(reached),
            snapshots=whole.snapshots,
            rate=whole.rate,
            workers=whole.workers,
        )
        console.print(_introduction(plan, reached))
        ways = strategies(plan.rate, scans)
        accounts = {key: way.name for way in ways for key in (way.scanner_key, way.bystander_key)}
        gate = ThrottlingProxy(moto.url, accounts, watch=scans.count_request, scale=plan.scale)
        url = await stack.enter_async_context(gate.serve())
        for way in ways:
            await way.open(stack, url, plan.workers)
        names = {way.scanner_key: way.name for way in reversed(ways)}
        scans.begin(names, dict.fromkeys(("blanket", "paced"), plan.rate), plan.ec2_limit)
        unpaced, blanket, paced = ways
        # The unpaced scan uses all that the mock can serve, and would make a paced scan late. The
        # blanket scan is so slow that it runs beside both.
        async with progress(console, plan, ways), asyncio.TaskGroup() as group:
            group.create_task(blanket.run(plan, moto.snapshot))
            await unpaced.run(plan, moto.snapshot)
            await paced.run(plan, moto.snapshot)
    return plan, {
        way.name: dataclasses.replace(
            way.figures, **dataclasses.asdict(gate.counts_of(way.scanner_key))
        )
        for way in ways
    }


def _introduction(plan: ScanPlan, reached: float) -> str:
    share = {1.0: "", 1 / 2: "half of ", 1 / 4: "a quarter of ", 1 / 8: "an eighth of "}[plan.scale]
    limit = plan.ec2_limit
    busy = f"""\
This machine is slow or busy: without limits, a scan makes {reached:.0f} EC2 calls/s.
The account, its limits and the pace are smaller than usual.

"""
    return f"""\
{busy if share else ""}\
A mock AWS account: {plan.snapshots:,} snapshots ({plan.public:,} public), \
{plan.buckets:,} buckets, {plan.users:,} users.
For each action it allows {share}what EC2 publishes:
{int(limit.burst)} calls at once, then {limit.calls:g}/s.

Three scans, each in its own account;
each makes {plan.calls:,} calls, {plan.snapshots + 1:,} of them to EC2:
  unpaced   as fast as {plan.workers} workers can, with botocore's standard retries
  blanket   {plan.rate} for all calls, whatever the service
  paced     {plan.rate} for EC2 calls only, by aioapiqueue (begins after unpaced)
In each account, a bystander makes one DescribeSnapshotAttribute call \
{"a second" if plan.often == 1 else f"every {1 / plan.often:g} s"}.

The blanket scan takes about {plan.calls * plan.rate.interval:,.0f} s.
"""
