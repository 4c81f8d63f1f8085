"""`aioapiqueue demo`: the library's main job, on servers of its own on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
from pathlib import Path  # noqa: TC003 - typer reads it
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from aioapiqueue import Rate
from aioapiqueue.cli._help import whole

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aioapiqueue.demo.scan import Plan
    from aioapiqueue.demo.verdict import Result

__all__ = ["demo"]

# The unpaced scan has to empty a bucket of 100 that refills at 20 per second while it runs.
_LEAST_SNAPSHOTS = 200
_LEAST_WORKERS = 5
_WIDTH = 80


def demo(
    snapshots: Annotated[
        int,
        typer.Option(
            metavar="N",
            parser=whole,
            help=f"How many snapshots the account holds; at least {_LEAST_SNAPSHOTS}.",
        ),
    ] = 400,
    rate: Annotated[
        str,
        typer.Option(
            metavar="RATE",
            help='Pace of the blanket and the paced scan, such as "12/s" or "80ms". EC2 refills '
            "20 calls a second: leave some to others.",
        ),
    ] = "16/s",
    workers: Annotated[
        int,
        typer.Option(
            metavar="N",
            parser=whole,
            help="EC2 calls under way at once in each scan; half as many to S3 and IAM.",
        ),
    ] = 20,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write all figures to this file, as JSON."),
    ] = None,
) -> None:
    """Scan a mock AWS account unpaced, with a blanket delay, and paced; compare.

    Nothing outside this machine is contacted, and no AWS account is needed. The scan with a
    blanket delay takes longest: with the defaults, under two minutes.

    Exits with 0 only if the unpaced scan was throttled and the paced one was not, harmed no
    bystander, found every public snapshot, and took no more than 1.05 times EC2 calls / rate.
    """
    _at_least("--snapshots", snapshots, _LEAST_SNAPSHOTS)
    _at_least("--workers", workers, _LEAST_WORKERS)
    pace = _pace(rate)
    _writable(json_file)
    missing = [name for name in ("aiobotocore", "moto", "flask") if not _installed(name)]
    if missing:
        typer.echo(
            f'The demonstration needs {", ".join(missing)}: pip install "aioapiqueue[demo]"',
            err=True,
        )
        raise typer.Exit(1)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _WIDTH
    try:
        with _isolated():
            ok = _run(console, snapshots, pace, workers, json_file)
    except KeyboardInterrupt:
        typer.echo("Interrupted; the servers are stopped.", err=True)
        raise typer.Exit(130) from None
    raise typer.Exit(0 if ok else 1)


def _at_least(option: str, value: int, least: int) -> None:
    if value < least:
        raise typer.BadParameter(
            f"{value} is too few: the unpaced scan would not use up EC2's bucket of 100 calls, "
            f"and there would be nothing to compare. Take {least} or more.",
            param_hint=option,
        )


def _pace(text: str) -> Rate:
    try:
        return Rate.parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--rate") from None


def _writable(path: Path | None) -> None:
    """Refuses a path that could not be written, before the scan rather than after it."""
    if path is None:
        return
    problem = None
    if path.is_dir():
        problem = "is a directory"
    elif not path.parent.is_dir():
        problem = f"cannot be written: there is no directory {path.parent}"
    elif not os.access(path if path.exists() else path.parent, os.W_OK):
        problem = "cannot be written"
    if problem:
        raise typer.BadParameter(f"{path} {problem}", param_hint="--json")


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


@contextlib.contextmanager
def _isolated() -> Iterator[None]:
    """Hides the user's AWS settings and proxies: every call has to go to our own servers."""
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


def _run(
    console: Console, snapshots: int, rate: Rate, workers: int, json_file: Path | None
) -> bool:
    # These need the extra `demo`; the rest of the command line does without.
    from aioapiqueue.demo.moto_server import MotoError, public_among  # noqa: PLC0415
    from aioapiqueue.demo.scan import Plan  # noqa: PLC0415
    from aioapiqueue.demo.table import closing_table  # noqa: PLC0415
    from aioapiqueue.demo.verdict import checks, report, sentences  # noqa: PLC0415

    plan = Plan(snapshots=snapshots, public=public_among(snapshots), rate=rate, workers=workers)
    console.print(_introduction(plan))
    try:
        found = asyncio.run(_scan(console, plan))
    except MotoError as error:
        typer.echo(str(error), err=True)
        return False
    console.print(closing_table(console, plan, found))
    console.print(f"\n{sentences(plan, found)}")
    done = checks(plan, found)
    if json_file:
        json_file.write_text(json.dumps(report(plan, found, done), indent=2) + "\n", "utf-8")
    failed = [check for check in done if not check.ok]
    for check in failed:
        console.print(f"\n[red]FAILED[/] {check.name}: {check.detail}.")
    if not failed:
        console.print(f"\n[green]OK[/]: all {len(done)} checks hold.")
    return not failed


async def _scan(console: Console, plan: Plan) -> dict[str, Result]:
    from aioapiqueue.demo.gate import Gate  # noqa: PLC0415 - as in _run
    from aioapiqueue.demo.moto_server import moto_server  # noqa: PLC0415
    from aioapiqueue.demo.scan import Endpoint, strategies  # noqa: PLC0415
    from aioapiqueue.demo.table import progress  # noqa: PLC0415
    from aioapiqueue.demo.verdict import results  # noqa: PLC0415

    ways = strategies(plan.rate)
    accounts = {key: way.name for way in ways for key in (way.scanner_key, way.bystander_key)}
    async with (
        moto_server(snapshots=plan.snapshots, buckets=plan.buckets, users=plan.users) as moto,
        contextlib.AsyncExitStack() as stack,
    ):
        gate = Gate(moto.url, accounts)
        endpoint = Endpoint(await stack.enter_async_context(gate.serve()))
        await Endpoint(moto.url).warm_up(moto.snapshot)
        for way in ways:
            await way.open(stack, endpoint, plan.workers)
        async with progress(console, plan, ways), asyncio.TaskGroup() as group:
            for way in ways:
                group.create_task(way.run(plan, moto.snapshot))
    return results(ways, gate.counts)


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
