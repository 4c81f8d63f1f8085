"""`aioapiqueue run`: paces the AWS calls of a program that knows nothing of it."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import sys
from pathlib import Path  # noqa: TC003 - typer reads it
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from aioapiqueue._limits.presets import DEFAULT_SHARE, read_preset, read_share
from aioapiqueue._limits.report import Report
from aioapiqueue._rate import Rate
from aioapiqueue.cli._help import NoCheck, number
from aioapiqueue.cli._launch import NotStarted, examine
from aioapiqueue.cli._report import (
    headline,
    in_words,
    opening,
    remarks,
    report,
    tables,
    verdict,
)
from aioapiqueue.cli._shared import SHARED_VARIABLE, Shared
from aioapiqueue.cli._target import Target, Unwritable
from aioapiqueue.cli._words import wrapped
from aioapiqueue.exceptions import LimitsError
from aioapiqueue.registry import Registry

if TYPE_CHECKING:
    from aioapiqueue.cli._supervise import Plan

__all__ = ["run"]

_USAGE = 2

_NO_LIMIT = (
    f"no limit is given, so it is {DEFAULT_SHARE:.0%} of what AWS publishes; --share and --limit "
    "say something else"
)


def run(
    command: Annotated[
        list[str],
        typer.Argument(metavar="COMMAND", help="The program and its arguments."),
    ],
    *,
    limit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LIMIT", help="SERVICE=RATE or SERVICE.Operation=RATE. May be repeated."
        ),
    ] = None,
    limits: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="A limits.toml. What a --limit says takes the place of its own."
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(metavar="aws", help="Keep what AWS publishes of its request limits."),
    ] = None,
    share: Annotated[
        str | None,
        typer.Option(metavar="PERCENT", help="Of what AWS publishes, and not more. Default 50%."),
    ] = None,
    no_check: NoCheck = False,
    shared: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            envvar=SHARED_VARIABLE,
            help="Share the limits with other hosts through this Redis or Valkey. `ps` shows what "
            "is said here: a password belongs into the variable.",
        ),
    ] = None,
    fallback: Annotated[
        str | None,
        typer.Option(
            metavar="RATE",
            help="What each queue keeps while --shared cannot be reached. Default: calls wait.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Pace nothing, only count: to choose a limit.")
    ] = False,
    log: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Append our own words to this file, none to stderr."),
    ] = None,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write all figures to this file, as JSON."),
    ] = None,
    no_live: Annotated[
        bool,
        typer.Option(
            "--no-live", help="Show no line at the foot of the terminal. See docs/run.md."
        ),
    ] = False,
    grace: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            parser=number,
            help="How long a Python may take to activate the pacing.",
        ),
    ] = 10,
    allow_inactive: Annotated[
        bool,
        typer.Option(
            "--allow-inactive", help="Only warn of a Python that did not, rather than stop it."
        ),
    ] = False,
) -> None:
    """Pace the AWS calls of a program that knows nothing of it, and of all its children.

    Every HTTP attempt of botocore, boto3 and aiobotocore waits its turn, in whichever process,
    thread and Python environment it is made; all of them together keep the limits. The program
    needs no change and no installed package, and its output stays as it is.

    Without any limit, half of what AWS publishes of its request limits is kept, as with `--share
    50%`: the rest is left for whoever else calls with the account.

    For example: `aioapiqueue run --limit ec2=10/s --limit ec2.DescribeSnapshots=200ms --limit
    default=20/s -- scout aws`, where "default" is each service that is not named.

    Exits with the program's exit code, 128 and the signal's number if a signal ended it; with 2 if
    an option is wrong or the program could not be paced (nothing is started), 3 if it was not
    paced, 4 if the pacing broke down, 126 or 127 if there is no such program.
    """
    if os.name != "posix":
        _refuse(f"run needs Unix domain sockets and signals, which {sys.platform} has not: use WSL")
    if hub := os.environ.get("AIOAPIQUEUE_HUB"):
        _refuse(
            "this is inside of an aioapiqueue run already, whose limits a second one would put "
            f"aside; nothing was started. If that one has ended: unset AIOAPIQUEUE_HUB ({hub})"
        )
    from aioapiqueue.cli._live import Foot  # noqa: PLC0415 - POSIX only
    from aioapiqueue.cli._supervise import Plan, Words  # noqa: PLC0415

    if not grace > 0:
        _refuse(f"--grace: {grace:g} is no time: write a number of seconds above 0")
    nothing = not (limit or limits or preset or share or dry_run)
    preset = _preset("aws" if nothing else preset, share)
    through = _shared(shared, fallback)
    registry = _registry(
        limit or [],
        limits,
        preset,
        share,
        None if dry_run else through,
        check=not no_check,
    )
    try:
        launch = examine(command)
    except NotStarted as error:
        _refuse(str(error), error.code)
    figures, words = _targets(json_file, log)
    plan = Plan(
        command=command,
        launch=launch,
        registry=registry,
        limits=in_words(registry),
        words=Words(words),
        dry_run=dry_run,
        shared=through,
        live=not no_live and log is None and Foot.possible(2),
        grace=grace,
        allow_inactive=allow_inactive,
    )
    if nothing:
        plan.words.say(wrapped(_NO_LIMIT))
    raise typer.Exit(_run(plan, figures))


def _run(plan: Plan, figures: Target | None) -> int:
    from aioapiqueue.cli._supervise import supervise  # noqa: PLC0415 - as above

    plan.words.say(opening(plan))
    try:
        outcome = asyncio.run(supervise(plan))
    except NotStarted as error:
        plan.words.say(str(error))
        if figures:
            figures.discard()
        return error.code
    code = verdict(plan, outcome)
    plan.words.say(headline(plan, outcome, code))
    plan.words.show(tables(plan, outcome))
    plan.words.say(remarks(plan, outcome))
    if figures:
        try:
            figures.write(json.dumps(report(plan, outcome, code), indent=2) + "\n")
        except OSError as error:
            plan.words.say(f"--json: {figures.path} cannot be written: {error.strerror}")
    return code


def _preset(preset: str | None, share: str | None) -> str | None:
    """Return the preset that two options ask for; refuse what makes no sense."""
    report = Report("--preset")
    if preset is not None:
        read_preset(preset, report, ())
    shares = Report("--share")
    if share is not None:
        read_share(share, shares, ())
        preset = preset or "aws"
        if preset == "none":
            shares.add((), 'a share of what? --preset is "none"')
    if problems := [*report.problems, *shares.problems]:
        _refuse("\n".join(problems))
    return preset


def _shared(url: str | None, fallback: str | None) -> Shared | None:
    """Return what the limits are shared through; refuse what makes no sense. Nothing connects."""
    if url is None:
        if fallback is not None:
            _refuse(f"--fallback: instead of what? There is no --shared, and no {SHARED_VARIABLE}")
        return None
    if importlib.util.find_spec("redis") is None:
        _refuse(
            "--shared needs redis-py, which is not installed: pip install 'aioapiqueue[redis]' "
            "(with pipx: pipx inject aioapiqueue redis)"
        )
    from aioapiqueue.integrations.redis.url import read_address  # noqa: PLC0415 - the extra

    try:
        address = read_address(url)
    except ValueError as error:
        _refuse(f"--shared: {error}")
    try:
        return Shared(address, None if fallback is None else Rate.parse(fallback))
    except ValueError as error:
        _refuse(f"--fallback: {error}")


def _registry(
    options: list[str],
    file: Path | None,
    preset: str | None,
    share: str | None,
    shared: Shared | None,
    *,
    check: bool,
) -> Registry:
    try:
        base = None
        if file:
            base = Registry.load(file, preset=preset, share=share, check=check)
        elif preset:
            base = Registry.parse("", source="--preset", preset=preset, share=share)
        registry = Registry.from_options(
            options,
            base=base,
            check=check,
            observers=[shared] if shared else [],
            schedules=shared.schedule if shared else None,
        )
    except LimitsError as error:
        _refuse("\n".join(error.problems))
    if (file or preset) and not list(registry):
        _refuse(f"{file or '--preset none'}: it says no limit; see docs/limits.md")
    return registry


def _targets(json_file: Path | None, log: Path | None) -> tuple[Target | None, Target | None]:
    """Open the files that are written; refuse one before the program runs rather than after it."""
    figures = words = None
    option = "--json"
    try:
        figures = None if json_file is None else Target(json_file)
        option = "--log"
        words = None if log is None else Target(log, append=True)
    except Unwritable as error:
        if figures is not None:
            figures.discard()
        _refuse(f"{option}: {error}; nothing was started")
    if figures is not None and words is not None and figures.replaces(words):
        figures.discard()
        _refuse(
            f"--json: {json_file} is the file of --log, too: choose another; nothing was started"
        )
    return figures, words


def _refuse(why: str, code: int = _USAGE) -> NoReturn:
    typer.echo("".join(f"aioapiqueue: {line}\n" for line in why.splitlines()), err=True, nl=False)
    raise typer.Exit(code)
