"""`aioapiqueue run`: paces the API calls of a program without changing it."""

from __future__ import annotations

import asyncio
from typing import Any

import typer

from aioapiqueue_run.cli.console import refuse
from aioapiqueue_run.cli.run.errors import NotStarted
from aioapiqueue_run.cli.run.options import RunOptions, signature
from aioapiqueue_run.cli.run.output_file import discard
from aioapiqueue_run.cli.run.plan import make_plan
from aioapiqueue_run.cli.run.results import show_results

__all__ = ["run"]


def run(**options: Any) -> None:  # noqa: ANN401 - the fields of RunOptions
    """Run a program under rate limits, without changing it.

    For example: `aioapiqueue run --limit ec2=10/s -- scout aws`

    Paces every HTTP request that boto3, botocore and aiobotocore send, retries included, in the
    program and all processes that it starts. They share the limits. If you set no limit, run
    uses half of each limit that AWS publishes.

    Programs in other languages, and requests to other HTTP APIs that have a limit, are paced
    through a local proxy (install the gateway extra).

    Your runs on this host share their limits. To share with other hosts, use --shared.

    Exit codes: the program's own (128 + n if signal n ended it), or

    - 2: an option is invalid, or the program cannot be paced; nothing was started

    - 3: something was not paced

    - 4: the pacing failed, and the program was stopped

    - 5: a --fail-on gate failed

    - 126, 127: the program cannot be executed, or was not found
    """
    try:
        plan = make_plan(RunOptions(**options))
    except NotStarted as error:
        refuse(str(error), error.code)
    from aioapiqueue_run.cli.run.supervisor import supervise  # noqa: PLC0415 - POSIX only

    try:
        outcome = asyncio.run(supervise(plan))
    except NotStarted as error:
        plan.log.say(str(error))
        discard(plan.files.values())
        raise typer.Exit(error.code) from None
    raise typer.Exit(show_results(plan, outcome))


run.__signature__ = signature()  # type: ignore[attr-defined]  # typer reads it
