"""Runs the demonstration: three scans of a mock AWS account, and a comparison of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from aioapiqueue import ApiQueue
from aioapiqueue_run.demo.account import MockAccount
from aioapiqueue_run.demo.gate import EC2_READS, ThrottlingServer
from aioapiqueue_run.demo.scan import WORKERS, ScanPlan, Strategy
from aioapiqueue_run.demo.verdict import are_as_promised, closing_table, closing_text, did_harm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from aioapiqueue import Rate
    from aioapiqueue_run.demo.scan import ScanFigures

__all__ = ["demonstrate"]

# Seconds. One event loop runs three scans and the server, so each is often some 10 ms late. With
# the default `catch_up` of 10 ms, a scan would lose 3 to 5 % of its time (measured). A quarter of a
# second makes up for it with a few calls at once, and EC2 allows a burst of 100.
_CATCH_UP = 0.25


def demonstrate(console: Console, *, snapshots: int, rate: Rate) -> bool:
    """Scan a mock account in three ways and compare them. Return whether they differ as promised.

    Args:
        console: shows the progress and the comparison.
        snapshots: number of snapshots in the account.
        rate: the pace of the blanket scan and the paced scan.
    """
    plan = ScanPlan(snapshots, rate)
    console.print(_introduction(plan))
    with isolated():
        found = asyncio.run(_scan(console, plan))
    if did_harm(found["unpaced"]):
        console.print("")
        console.print(closing_table(plan, found))
    console.print(closing_text(plan, found))
    return are_as_promised(plan, found)


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


async def _scan(console: Console, plan: ScanPlan) -> dict[str, ScanFigures]:
    """Scan in three ways; return the result of each."""
    every_call, ec2_calls = (ApiQueue(plan.rate, catch_up=_CATCH_UP) for _ in range(2))
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f} calls"),
        TextColumn("[red]{task.fields[errors]:,} errors"),
        TimeElapsedColumn(),
    )
    hidden = not console.is_terminal
    with Progress(*columns, console=console, expand=True, disable=hidden) as bars:
        ways = (
            Strategy("unpaced", {}, plan, bars),
            # One delay for all calls, as people without a rate limiter use it.
            Strategy("blanket", dict.fromkeys(("ec2", "s3", "iam"), every_call), plan, bars),
            Strategy("paced", {"ec2": ec2_calls}, plan, bars),
        )
        accounts = {key: way.name for way in ways for key in (way.scanner_key, way.bystander_key)}
        server = ThrottlingServer(MockAccount(plan).answer, accounts)

        async def run(way: Strategy) -> None:
            await way.run(url)
            console.print(f"{way.name} ended after {way.figures.seconds:.1f} s")

        unpaced, blanket, paced = ways
        # The unpaced scan takes all of the processor, and would make a paced scan late. The blanket
        # scan is so slow that it runs beside both.
        async with server.serve() as url, asyncio.TaskGroup() as group:
            group.create_task(run(blanket))
            await run(unpaced)
            await run(paced)
    for way in ways:
        requests = server.of_key(way.scanner_key)
        way.figures.calls = len(requests)
        way.figures.ec2_calls = sum(one.is_ec2 for one in requests)
        way.figures.throttled = sum(one.is_throttled for one in requests)
    return {way.name: way.figures for way in ways}


def _introduction(plan: ScanPlan) -> str:
    return f"""\
A mock AWS account: {plan.snapshots:,} snapshots ({plan.public:,} public), \
{plan.buckets:,} buckets, {plan.buckets:,} users.
For each action it allows what EC2 publishes:
{int(EC2_READS.burst)} calls at once, then {EC2_READS.calls:g}/s.

Three scans, each in its own account;
each makes {plan.calls:,} calls, {plan.snapshots + 1:,} of them to EC2:
  unpaced   as fast as {WORKERS} workers can, with botocore's standard retries
  blanket   {plan.rate} for all calls, whatever the service
  paced     {plan.rate} for EC2 calls only, by aioapiqueue (begins after unpaced)
In each account, a bystander makes one DescribeSnapshotAttribute call a second.

The blanket scan takes about {plan.calls * plan.rate.interval:,.0f} s.
"""
