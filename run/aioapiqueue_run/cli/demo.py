"""`aioapiqueue demo`: shows what the library does, on servers that run on this machine only."""

from __future__ import annotations

import importlib.util
from pathlib import Path  # noqa: TC003 - typer reads it
from typing import Annotated

import typer

from aioapiqueue import Rate
from aioapiqueue_run.cli.console import FAILED, console, refuse, why_unwritable

__all__ = ["demo"]

# With fewer, the unpaced scan may not empty EC2's bucket of 100, which refills at 20 per second.
_MIN_SNAPSHOTS = 200
_MIN_WORKERS = 5
_NEEDED = ("aiobotocore", "moto", "flask")


def demo(
    *,
    snapshots: Annotated[
        int,
        typer.Option(
            metavar="N",
            help=f"Number of snapshots in the account; at least {_MIN_SNAPSHOTS}.",
        ),
    ] = 320,
    rate: Annotated[
        str,
        typer.Option(
            metavar="RATE",
            help='Rate of the blanket and the paced scan, such as "12/s" or "80ms". EC2 allows '
            "20/s, so stay below that.",
        ),
    ] = "16/s",
    workers: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Number of concurrent EC2 calls in each scan. S3 and IAM each get half as many.",
        ),
    ] = 20,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write all figures to this file as JSON."),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="Write an HTML report with charts."),
    ] = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Also fail if the paced scan takes more than 1.05 times EC2 calls / rate, which "
            "can happen on a busy machine.",
        ),
    ] = False,
) -> None:
    """Compare three scans of a mock AWS account: unpaced, with a blanket delay, and paced.

    Everything runs on this machine; you need no AWS account. With the defaults, it takes under two
    minutes: the scan with a blanket delay takes longest. In each account, a bystander (another
    program) makes calls, too.

    The demo first measures for three seconds how fast this machine scans. If that is too slow to
    exceed EC2's limits, it reduces the account, its limits and the pace to a half, a quarter or an
    eighth.

    Exits with 0 if the scans show the difference: the unpaced scan was throttled, and it lost
    snapshots or made calls of its bystander fail. The paced scan was not throttled, found every
    public snapshot, and all calls of its bystander succeeded.
    """
    _check_minimum("--snapshots", snapshots, _MIN_SNAPSHOTS)
    _check_minimum("--workers", workers, _MIN_WORKERS)
    try:
        pace = Rate.parse(rate)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--rate") from None
    if pace != Rate(pace.calls, pace.per):
        raise typer.BadParameter(
            f"{rate!r} has a burst or a unit: use a plain rate, such as 16/s",
            param_hint="--rate",
        )
    for option, file in (("--json", json_file), ("--report", report)):
        if file and (problem := why_unwritable(file)):
            raise typer.BadParameter(f"{file} {problem}", param_hint=option)
    if json_file and report and json_file.resolve() == report.resolve():
        raise typer.BadParameter(
            f"{report} is also the file of --json: choose another", param_hint="--report"
        )
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        what = ", ".join(missing)
        refuse(f'the demo needs {what}: pip install "aioapiqueue[demo]"', FAILED)
    # These need the extra `demo`; the other commands do not.
    from aioapiqueue_run.demo.demonstration import demonstrate  # noqa: PLC0415
    from aioapiqueue_run.demo.moto_server import MotoError  # noqa: PLC0415

    try:
        ok = demonstrate(
            console(),
            snapshots=snapshots,
            rate=pace,
            workers=workers,
            json_file=json_file,
            report_file=report,
            strict=strict,
        )
    except MotoError as error:
        refuse(str(error), FAILED)
    except KeyboardInterrupt:
        refuse("interrupted; the servers are stopped", 130)
    raise typer.Exit(not ok)  # 0 for True


def _check_minimum(option: str, value: int, least: int) -> None:
    if value < least:
        raise typer.BadParameter(
            f"{value} is too few: the unpaced scan would not be throttled, so there would be "
            f"nothing to compare. Use {least} or more.",
            param_hint=option,
        )
