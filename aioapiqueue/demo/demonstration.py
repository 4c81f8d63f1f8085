"""The demonstration itself: three scans at once of a mock AWS account, and what came of them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
from typing import TYPE_CHECKING

from aioapiqueue.demo.gate import Gate
from aioapiqueue.demo.moto_server import moto_server, public_among
from aioapiqueue.demo.recording import Scans
from aioapiqueue.demo.scan import Plan, strategies, warm_up
from aioapiqueue.demo.table import closing_table, progress
from aioapiqueue.demo.verdict import as_document, checks, report, sentences
from aioapiqueue.integrations.report import page

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rich.console import Console

    from aioapiqueue import Rate
    from aioapiqueue.demo.scan import Figures

__all__ = ["demonstrate", "isolated"]


def demonstrate(
    console: Console,
    *,
    snapshots: int,
    rate: Rate,
    workers: int,
    json_file: Path | None,
    report_file: Path | None = None,
) -> bool:
    """Scan a mock account in three ways, compare them, and return whether all checks hold.

    Args:
        console: where the progress and the comparison go.
        snapshots: how many the account holds.
        rate: the pace of the blanket and of the paced scan.
        workers: how many of a scan's EC2 calls run at once.
        json_file: where all figures go, too.
        report_file: where the report goes: a page that needs no other file.

    Raises:
        MotoError: the mock account could not be started.
    """
    plan = Plan(snapshots=snapshots, public=public_among(snapshots), rate=rate, workers=workers)
    console.print(_introduction(plan))
    with isolated():
        scans = Scans()
        found = asyncio.run(_scan(console, plan, scans))
    console.print(closing_table(console, plan, found))
    console.print(f"\n{sentences(plan, found)}")
    done = checks(plan, found)
    recorded = scans.as_json({name: figures.seconds for name, figures in found.items()})
    document = as_document(plan, found, done, recorded)
    if json_file:
        verdict = {name: document[name] for name in ("verdict", "good")}
        figures = report(plan, found, done) | recorded | verdict
        json_file.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
    if report_file:
        report_file.write_text(page(document), "utf-8")
    failed = [check for check in done if not check.ok]
    for check in failed:
        console.print(f"\n[red]FAILED[/] {check.name}: {check.detail}.")
    if not failed:
        console.print(f"\n[green]OK[/]: all {len(done)} checks hold.")
    return not failed


@contextlib.contextmanager
def isolated() -> Iterator[None]:
    """Hide the user's AWS settings and proxies: every call has to go to servers of our own."""
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


async def _scan(console: Console, plan: Plan, scans: Scans) -> dict[str, Figures]:
    ways = strategies(plan.rate, scans)
    accounts = {key: way.name for way in ways for key in (way.scanner_key, way.bystander_key)}
    async with (
        moto_server(snapshots=plan.snapshots, buckets=plan.buckets, users=plan.users) as moto,
        contextlib.AsyncExitStack() as stack,
    ):
        gate = Gate(moto.url, accounts, watch=scans.at_gate)
        url = await stack.enter_async_context(gate.serve())
        await warm_up(moto.url, moto.snapshot)
        for way in ways:
            await way.open(stack, url, plan.workers)
        names = {way.scanner_key: way.name for way in reversed(ways)}
        scans.begin(names, dict.fromkeys(("blanket", "paced"), plan.rate))
        async with progress(console, plan, ways), asyncio.TaskGroup() as group:
            for way in ways:
                group.create_task(way.run(plan, moto.snapshot))
    return {
        way.name: dataclasses.replace(
            way.figures, **dataclasses.asdict(gate.counts[way.scanner_key])
        )
        for way in ways
    }


def _introduction(plan: Plan) -> str:
    return f"""\
A mock AWS account with {plan.snapshots:,} snapshots ({plan.public:,} public), \
{plan.buckets:,} buckets, {plan.users:,} users.
Before it EC2's published limit of each action: 100 calls at once, then 20/s.

Three scans at once, each in an account of its own;
each makes {plan.calls:,} calls, {plan.snapshots + 1:,} of them to EC2:
  unpaced   as fast as {plan.workers} workers go, with botocore's standard retries
  blanket   {plan.rate} for all calls together, whatever the service
  paced     {plan.rate} for EC2's calls alone, by aioapiqueue
In each account a bystander makes one DescribeSnapshotAttribute a second.

The blanket scan will take about {plan.calls * plan.rate.interval:,.0f} s.
"""
