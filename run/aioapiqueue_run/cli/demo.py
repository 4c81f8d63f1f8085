"""`aioapiqueue demo`: shows what the library does, on servers that run on this machine only."""

from __future__ import annotations

import importlib.util
from typing import Annotated

import typer

from aioapiqueue import Rate
from aioapiqueue_run.cli.console import FAILED, console, refuse

__all__ = ["demo"]

# With fewer, the unpaced scan may not empty EC2's bucket of 100, which refills at 20 per second.
_MIN_SNAPSHOTS = 200


def demo(
    *,
    snapshots: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=_MIN_SNAPSHOTS,
            help="Number of snapshots in the account. With too few, no scan would be throttled.",
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
) -> None:
    """Compare three scans of a mock AWS account: unpaced, with a blanket delay, and paced.

    Everything runs on this machine; you need no AWS account. With the defaults, it takes under two
    minutes: the scan with a blanket delay takes longest. In each account, a bystander (another
    program) makes calls, too.

    Exits with 0 if the scans show the difference: the unpaced scan was throttled, and it lost
    snapshots or made calls of its bystander fail. The paced scan was not throttled, found every
    public snapshot, and all calls of its bystander succeeded.
    """
    try:
        pace = Rate.parse(rate)
    except ValueError as error:
        refuse(f"--rate: {error}")
    if pace != Rate(pace.calls, pace.per):
        refuse(f"--rate: {rate!r} has a burst or a unit: use a plain rate, such as 16/s")
    if importlib.util.find_spec("aiobotocore") is None:
        refuse('demo needs aiobotocore: pip install "aioapiqueue[demo]"', FAILED)
    # This needs the extra `demo`; the other commands do not.
    from aioapiqueue_run.demo.demonstration import demonstrate  # noqa: PLC0415

    ok = demonstrate(console(), snapshots=snapshots, rate=pace)
    raise typer.Exit(not ok)  # 0 for True
