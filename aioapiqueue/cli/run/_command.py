"""`aioapiqueue run`: paces the AWS calls of a program that knows nothing of it."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import sys
from functools import cache, partial
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated

import typer

from aioapiqueue._grammar import CALLS
from aioapiqueue._rate import Rate
from aioapiqueue.cli._console import refuse, wrapped
from aioapiqueue.cli._help import NoCheck, number
from aioapiqueue.cli._hosts import host_problems
from aioapiqueue.cli.run._errors import NotStarted
from aioapiqueue.cli.run._gates import Gate, judge, read_gate
from aioapiqueue.cli.run._gateway import is_installed
from aioapiqueue.cli.run._html_report import html_report
from aioapiqueue.cli.run._json_report import json_report, json_text
from aioapiqueue.cli.run._launch import examine
from aioapiqueue.cli.run._limits_in_words import in_words
from aioapiqueue.cli.run._log import Log
from aioapiqueue.cli.run._model import Plan
from aioapiqueue.cli.run._on_host import OnHost
from aioapiqueue.cli.run._opening import opening
from aioapiqueue.cli.run._output_file import OutputFile, OutputFiles, Unwritable
from aioapiqueue.cli.run._queue_feed import Changes
from aioapiqueue.cli.run._report import (
    headline,
    measure,
    remarks,
    tables,
    to_copy,
    verdict,
)
from aioapiqueue.cli.run._shared_server import SHARED_VARIABLE, Shared
from aioapiqueue.cli.run._status_line import StatusLine
from aioapiqueue.exceptions import LimitsError
from aioapiqueue.registry import Registry
from aioapiqueue.registry._published import DEFAULT_SHARE, read_preset, read_share
from aioapiqueue.registry._report import Report

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioapiqueue.cli.run._launch import Launch

__all__ = ["run"]

_GRACE = 10.0
_NO_LIMIT = (
    f"no limit is given, so it is {DEFAULT_SHARE:.0%} of what AWS publishes; choose another with "
    "--share or --limit"
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
            metavar="LIMIT",
            help="SERVICE=RATE, SERVICE.Operation=RATE, https://HOST=RATE or "
            '"GET https://HOST/path/*=RATE". May be repeated.',
        ),
    ] = None,
    limits: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="A limits.toml. A --limit overrides it for the same calls."
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(metavar="aws", help="Keep the request limits that AWS publishes."),
    ] = None,
    share: Annotated[
        str | None,
        typer.Option(metavar="PERCENT", help="How much of what AWS publishes. Default 50%."),
    ] = None,
    no_check: NoCheck = False,
    shared: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            envvar=SHARED_VARIABLE,
            help="Share the limits with other hosts through this Redis or Valkey. Put a password "
            "into the variable: others can read a command line.",
        ),
    ] = None,
    fallback: Annotated[
        str | None,
        typer.Option(
            metavar="RATE",
            help="Each queue's rate while --shared cannot be reached. Default: calls wait.",
        ),
    ] = None,
    adaptive: Annotated[
        bool,
        typer.Option(
            "--adaptive",
            help="Slow down where AWS throttles, and recover by degrees: services without a "
            "limit, too, and hosts with one.",
        ),
    ] = False,
    fail_on: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GATE",
            help='Exit with 5 instead of 0 if METRIC [OP VALUE]: "throttled", "failed > 1%", '
            '"wait p99 > 30", "unused", "unpaced". May be repeated. See aioapiqueue docs run.',
        ),
    ] = None,
    any_: Annotated[
        bool | None,
        typer.Option(
            "--any/--no-any",
            help="Pace programs in any language, through a proxy. Default: if COMMAND is not "
            "Python, or a host has a limit. Needs the extra gateway. See aioapiqueue docs gateway.",
            show_default=False,
        ),
    ] = None,
    isolate: Annotated[
        bool,
        typer.Option(
            "--isolate",
            help="As --any; and that proxy is the only way to other hosts, so that a program is "
            "paced even if it ignores proxies. Linux.",
        ),
    ] = False,
    private: Annotated[
        bool,
        typer.Option("--private", help="Share the limits with no other run of yours on this host."),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Pace nothing, only count: what would limits do to such a run?"
        ),
    ] = False,
    log: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Append messages to this file, instead of stderr."),
    ] = None,
    json_file: Annotated[
        Path | None,
        typer.Option(
            "--json",
            metavar="FILE",
            help="Write all figures to this file, as JSON; - is stdout, after the program's end.",
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html",
            help="Write a report to this file: one page with charts, which needs no other file.",
        ),
    ] = None,
    show_accounts: Annotated[
        bool,
        typer.Option(
            "--show-accounts", help="With --report: whole account ids, not their last four digits."
        ),
    ] = False,
    no_live: Annotated[
        bool,
        typer.Option(
            "--no-live",
            help="No status line in the terminal, and no line each minute without one.",
        ),
    ] = False,
    grace: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            parser=number,
            help="How long a Python may take until it activates the pacing.",
        ),
    ] = _GRACE,
    allow_inactive: Annotated[
        bool,
        typer.Option("--allow-inactive", help="Do not stop a Python that did not, only warn."),
    ] = False,
) -> None:
    """Pace the API calls of a program that knows nothing of it, and of all its children.

    Every HTTP attempt of botocore, boto3 and aiobotocore waits for its turn, in every process,
    thread and Python environment; all of them together keep the limits. The program needs no change
    and no installed package, and its output stays as it is.

    Programs in other languages go through a proxy that keeps the same limits (--any, --isolate),
    with the extra gateway. So do requests to any other HTTP API that has a limit, as with --limit
    https://api.github.com=10/s.

    Runs of one user on one host share their limits, service by service, Region and account: a call
    comes under those of all runs that make such calls, equal ones once.

    Without any limit, half of each request limit that AWS publishes is kept, as with `--share 50%`:
    the rest is left for others who call with the account.

    For example: `aioapiqueue run --limit ec2=10/s --limit ec2.DescribeSnapshots=200ms --limit
    default=20/s -- scout aws`, where "default" stands for each service that is not named.

    Exits with the program's exit code, 128 and the signal's number if a signal ended it; with 2 if
    an option is wrong or the program could not be paced (nothing is started), 3 if it was not
    paced, 4 if the pacing broke down, 5 if it is not what --fail-on allows, 126 or 127 if there is
    no such program.
    """
    if os.name != "posix":
        refuse(f"run needs Unix domain sockets and signals, which {sys.platform} has not: use WSL")
    if hub := os.environ.get("AIOAPIQUEUE_HUB"):
        refuse(
            "this is inside of an aioapiqueue run already, and a second one would override its "
            f"limits; nothing was started. If the first has ended: unset AIOAPIQUEUE_HUB ({hub})"
        )
    if not grace > 0:
        refuse(f"--grace: {grace:g} is invalid: expected a number of seconds above 0")
    gates = _gates(fail_on or [], dry_run=dry_run)
    nothing = not (limit or limits or preset or share)
    given_preset = preset
    preset = _preset("aws" if nothing else preset, share)
    through = _shared(shared, fallback)
    options = _repeated(
        ("--limit", *(limit or ())),
        ("--limits", limits),
        ("--preset", given_preset),
        ("--share", share),
        ("--shared", through if shared != os.environ.get(SHARED_VARIABLE) else None),
        ("--fallback", fallback),
        ("--grace", None if grace == _GRACE else f"{grace:g}"),
        ("--fail-on", *(fail_on or ())),
        no_check=no_check,
        any=any_ is True,
        no_any=any_ is False,
        isolate=isolate,
        private=private,
        adaptive=adaptive,
        allow_inactive=allow_inactive,
    )
    if private and through is not None:
        refuse("--private and --shared exclude each other: leave one of them out")
    on_host = None if private or dry_run or through is not None else OnHost(_name_of(command))
    used = on_host or (None if dry_run else through)
    changes = Changes()
    registry = _registry(
        limit or [],
        limits,
        preset,
        share,
        used,
        changes=changes,
        check=not no_check,
        adaptive=adaptive,
    )
    try:
        by_gateway = any_ is True or bool(registry.hosts)
        launch = examine(command, any_=by_gateway, isolate=isolate)
    except NotStarted as error:
        refuse(str(error), error.code)
    gateway = _gateway(launch, registry, wanted=any_, isolate=isolate)
    try:
        files = OutputFiles.open(json_file, log, report)
    except Unwritable as error:
        refuse(f"{error}; nothing was started")
    live = not no_live and log is None and StatusLine.possible(2)
    plan = Plan(
        command=command,
        launch=launch,
        registry=registry,
        limits=in_words(registry),
        log=Log(files.log),
        dry_run=dry_run,
        shared=through,
        on_host=on_host,
        live=live,
        each_minute=not (live or no_live),
        grace=grace,
        allow_inactive=allow_inactive,
        gates=gates,
        options=options,
        by_default=nothing,
        changes=changes,
        gateway=gateway,
        isolate=isolate,
    )
    if nothing:
        plan.log.say(wrapped(_NO_LIMIT))
    raise typer.Exit(_run(plan, files, show_accounts=show_accounts))


def _run(plan: Plan, files: OutputFiles, *, show_accounts: bool) -> int:
    from aioapiqueue.cli.run._supervisor import supervise  # noqa: PLC0415 - POSIX only

    plan.log.say(opening(plan))
    try:
        outcome = asyncio.run(supervise(plan))
    except NotStarted as error:
        plan.log.say(str(error))
        files.discard()
        return error.code
    measured = measure(plan, outcome)
    outcome.judged = [judge(gate, measured) for gate in plan.gates]
    code = verdict(plan, outcome)
    plan.log.say(headline(plan, outcome, code))
    plan.log.show(tables(plan, outcome))
    plan.log.say("\n".join(map(wrapped, remarks(plan, outcome))))
    plan.log.show(to_copy(plan, outcome))
    figures = cache(lambda: json_report(plan, outcome, code))
    if files.figures:
        _write(plan, "--json", files.figures, lambda: json_text(figures()))
    if files.report:
        page = partial(html_report, plan, outcome, show_accounts=show_accounts)
        if _write(plan, "--report", files.report, lambda: page(figures())):
            plan.log.say(wrapped(f"the report is in {files.report.path}"))
    return code


def _write(plan: Plan, option: str, file: OutputFile, make: Callable[[], str]) -> bool:
    """Write a file, and return whether it is there; if not, say why: the exit code stays."""
    try:
        text = make()
    except Exception as error:  # noqa: BLE001 - ours: the program has ended, and its code counts
        why = f"{type(error).__name__}: {error}"
        plan.log.say(wrapped(f"{option}: {file.path} could not be made, please report it: {why}"))
        file.discard()
        return False
    try:
        file.write(text)
    except OSError as error:
        plan.log.say(f"{option}: {file.path} cannot be written: {error.strerror}")
        return False
    return True


def _preset(preset: str | None, share: str | None) -> str | None:
    """Return the preset that two options ask for; refuse what is invalid."""
    report = Report("--preset")
    if preset is not None:
        read_preset(preset, report, ())
    shares = Report("--share")
    if share is not None:
        read_share(share, shares, ())
        preset = preset or "aws"
        if preset == "none":
            shares.add((), 'needs a preset, and --preset is "none"')
    if problems := [*report.problems, *shares.problems]:
        refuse("\n".join(problems))
    return preset


def _gates(texts: list[str], *, dry_run: bool) -> list[Gate]:
    """Read --fail-on; refuse what is invalid, or could never fail."""
    found, problems = [], []
    for text in texts:
        try:
            gate = read_gate(text)
        except ValueError as error:
            problems.append(f"--fail-on {error}")
            continue
        if dry_run and gate.metric.startswith("wait"):
            problems.append(f"--fail-on {text!r}: a dry run has no waits: leave one of them out")
        found.append(gate)
    if problems:
        refuse("\n".join(problems))
    return found


def _repeated(*options: tuple[object, ...], **flags: bool) -> list[str]:
    """Return options as they were given: each a name and its values, None for none."""
    found = [
        part
        for name, *values in options
        for value in values
        if value is not None
        for part in (str(name), str(value))
    ]
    return found + [f"--{name.replace('_', '-')}" for name, given in flags.items() if given]


def _gateway(launch: Launch, registry: Registry, *, wanted: bool | None, isolate: bool) -> bool:
    """Return whether what is not Python is paced, too; refuse what cannot be."""
    if isolate and wanted is False:
        refuse("--isolate and --no-any exclude each other: leave one of them out")
    if isolate and sys.platform != "linux":
        refuse(f"--isolate needs Linux's namespaces, which {sys.platform} has not: use --any")
    needs = ["--isolate"] * isolate + ["--any"] * (wanted is True)
    if problems := host_problems(registry):
        refuse("\n".join(map(wrapped, problems)))
    needs += [f"the limit of {host}" for host in registry.hosts]
    if needs and wanted is False:
        refuse(f"{needs[0]} needs --any: leave --no-any out, or the limit")
    if needs and not is_installed():
        refuse(
            f"{needs[0]} needs cryptography, h11 and http-sf, which are not all installed: pip "
            "install 'aioapiqueue[gateway]' (with pipx: pipx inject aioapiqueue cryptography h11 "
            "http-sf)"
        )
    if wanted is None and not needs:
        return not launch.python and is_installed()
    return bool(needs)


def _name_of(command: list[str]) -> str:
    """Return what others are told that runs."""
    return PurePath(command[0]).name


def _shared(url: str | None, fallback: str | None) -> Shared | None:
    """Return what the limits are shared through; refuse what is invalid. Nothing connects."""
    if url is None:
        if fallback is not None:
            refuse(f"--fallback: needs --shared, or {SHARED_VARIABLE} in the environment")
        return None
    if "://" not in url:  # whether redis-py is there or not: it may be no URL that was meant
        meant = f"; did you mean --share {url}?" if re.fullmatch(r"[\d.]{1,9}%?", url) else ""
        refuse(f"--shared: the URL has to begin with redis://, unix:// or the like{meant}")
    if importlib.util.find_spec("redis") is None:
        refuse(
            "--shared needs redis-py, which is not installed: pip install 'aioapiqueue[redis]' "
            "(with pipx: pipx inject aioapiqueue redis)"
        )
    from aioapiqueue.integrations.redis.url import read_address  # noqa: PLC0415 - the extra

    try:
        address = read_address(url)
    except ValueError as error:
        refuse(f"--shared: {error}")
    try:
        rate = None if fallback is None else Rate.parse(fallback)
    except ValueError as error:
        refuse(f"--fallback: {error}")
    if rate is not None and rate.unit != CALLS:
        refuse(f"--fallback: {fallback!r}: calls are counted here: leave {rate.unit!r} out")
    return Shared(address, rate)


def _registry(
    options: list[str],
    file: Path | None,
    preset: str | None,
    share: str | None,
    shared: Shared | OnHost | None,
    *,
    changes: Changes,
    check: bool,
    adaptive: bool,
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
            adaptive=adaptive,
            observers=[changes] if shared is None else [shared, changes],
            schedules=shared.schedule if shared else None,
        )
    except LimitsError as error:
        refuse("\n".join(error.problems))
    if (file or preset) and not list(registry):
        refuse(f"{file or '--preset none'}: it has no limits; see aioapiqueue docs limits")
    return registry
