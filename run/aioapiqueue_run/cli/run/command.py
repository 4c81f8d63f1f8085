"""`aioapiqueue run`: paces the API calls of a program without changing it."""

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

from aioapiqueue import Rate
from aioapiqueue.exceptions import LimitsError
from aioapiqueue.registry import Registry
from aioapiqueue.registry.spi import DEFAULT_SHARE, check_preset, parse_share
from aioapiqueue.spi import CALLS
from aioapiqueue_run.cli.console import refuse, wrapped
from aioapiqueue_run.cli.help import NoCheck, number
from aioapiqueue_run.cli.hosts import host_problems
from aioapiqueue_run.cli.run.errors import NotStarted
from aioapiqueue_run.cli.run.gates import RunGate, judge, read_gate
from aioapiqueue_run.cli.run.gateway import is_installed
from aioapiqueue_run.cli.run.html_report import html_report
from aioapiqueue_run.cli.run.json_report import json_report, json_text
from aioapiqueue_run.cli.run.launch import examine
from aioapiqueue_run.cli.run.limits_in_words import in_words
from aioapiqueue_run.cli.run.log import Log
from aioapiqueue_run.cli.run.model import RunPlan
from aioapiqueue_run.cli.run.on_host import OnHost
from aioapiqueue_run.cli.run.opening import opening
from aioapiqueue_run.cli.run.output_file import OutputFile, OutputFiles, Unwritable
from aioapiqueue_run.cli.run.report import (
    headline,
    measure,
    remarks,
    tables,
    to_copy,
    verdict,
)
from aioapiqueue_run.cli.run.shared_server import SHARED_VARIABLE, Shared
from aioapiqueue_run.cli.run.status_line import StatusLine
from aioapiqueue_run.hub.spi import QueueRecords

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioapiqueue_run.cli.run.launch import Launch

__all__ = ["run"]

_GRACE = 10.0
_LIMITS, _SHARING = "Limits", "Sharing limits"
_PROGRAMS, _RESULTS = "Programs", "Output and checks"
"""The panels of `--help`."""
_NO_LIMIT = (
    f"no limit is set: using {DEFAULT_SHARE:.0%} of each limit that AWS publishes. To change this, "
    "use --share or --limit"
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
            help="A limit, such as ec2=10/s, ec2.DescribeSnapshots=5/s, default=20/s, "
            'https://api.github.com=10/s or "GET https://HOST/path/*=30/min". Repeatable.',
            rich_help_panel=_LIMITS,
        ),
    ] = None,
    limits: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Read limits from this limits.toml file. --limit overrides them.",
            rich_help_panel=_LIMITS,
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="aws",
            help="Use the limits that AWS publishes; see --share.",
            rich_help_panel=_LIMITS,
        ),
    ] = None,
    share: Annotated[
        str | None,
        typer.Option(
            metavar="PERCENT",
            help="Use this share of the limits that AWS publishes. Default: 50%.",
            rich_help_panel=_LIMITS,
        ),
    ] = None,
    no_check: NoCheck = False,
    shared: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            envvar=SHARED_VARIABLE,
            help="Share the limits with other hosts through this Redis or Valkey server. If the "
            "URL has a password, use the environment variable: other users can read your command "
            "line.",
            rich_help_panel=_SHARING,
        ),
    ] = None,
    fallback: Annotated[
        str | None,
        typer.Option(
            metavar="RATE",
            help="Rate for each quota while the --shared server is unreachable. Default: calls "
            "wait.",
            rich_help_panel=_SHARING,
        ),
    ] = None,
    adaptive: Annotated[
        bool,
        typer.Option(
            "--adaptive",
            help="Slow down when AWS, or a host with a limit, throttles calls; then recover "
            "gradually. This includes services without a limit.",
            rich_help_panel=_LIMITS,
        ),
    ] = False,
    fail_on: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GATE",
            help='Exit with 5 instead of 0 if this condition is true, such as "throttled", '
            '"failed > 1%", "wait p99 > 30", "unused" or "unpaced". Repeatable. See '
            "aioapiqueue docs run.",
            rich_help_panel=_RESULTS,
        ),
    ] = None,
    any_: Annotated[
        bool | None,
        typer.Option(
            "--any/--no-any",
            help="Pace programs in any language through a local proxy. Default: only if COMMAND is "
            "not Python, or a host has a limit. Needs the gateway extra; see aioapiqueue docs "
            "gateway.",
            show_default=False,
            rich_help_panel=_PROGRAMS,
        ),
    ] = None,
    isolate: Annotated[
        bool,
        typer.Option(
            "--isolate",
            help="Like --any, but the program reaches other hosts only through that proxy, even if "
            "it ignores proxy settings. Linux only.",
            rich_help_panel=_PROGRAMS,
        ),
    ] = False,
    private: Annotated[
        bool,
        typer.Option(
            "--private",
            help="Do not share limits with your other runs on this host.",
            rich_help_panel=_SHARING,
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Only count calls, and show which ones the limits would delay.",
            rich_help_panel=_RESULTS,
        ),
    ] = False,
    log: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Append messages to this file instead of stderr.",
            rich_help_panel=_RESULTS,
        ),
    ] = None,
    json_file: Annotated[
        Path | None,
        typer.Option(
            "--json",
            metavar="FILE",
            help="Write all figures to this file as JSON. With -, write them to stdout after the "
            "program ends.",
            rich_help_panel=_RESULTS,
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html",
            help="Write a report with charts to this file, as a single HTML page.",
            rich_help_panel=_RESULTS,
        ),
    ] = None,
    show_accounts: Annotated[
        bool,
        typer.Option(
            "--show-accounts",
            help="Show full account ids in the report, not only four digits.",
            rich_help_panel=_RESULTS,
        ),
    ] = False,
    no_live: Annotated[
        bool,
        typer.Option(
            "--no-live",
            help="Show no progress: no status line in a terminal, and no message every minute "
            "elsewhere.",
            rich_help_panel=_RESULTS,
        ),
    ] = False,
    grace: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            parser=number,
            help="How long a Python process may take to load the pacing.",
            rich_help_panel=_PROGRAMS,
        ),
    ] = _GRACE,
    allow_inactive: Annotated[
        bool,
        typer.Option(
            "--allow-inactive",
            help="Only warn about a Python process that did not load the pacing; do not stop it.",
            rich_help_panel=_PROGRAMS,
        ),
    ] = False,
) -> None:
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
    if os.name != "posix":
        refuse(f"run does not work on {sys.platform}: use WSL")
    if hub := os.environ.get("AIOAPIQUEUE_HUB"):
        refuse(
            "this command is already inside an aioapiqueue run, and a second run would override "
            f"its limits; nothing was started. If that run has ended: unset AIOAPIQUEUE_HUB ({hub})"
        )
    if not grace > 0:
        refuse(f"--grace: {grace:g} is invalid: expected a number of seconds above 0")
    gates = _gates(fail_on or [], dry_run=dry_run)
    by_default = not (limit or limits or preset or share)
    given_preset = preset
    preset = _preset("aws" if by_default else preset, share)
    through = _shared(shared, fallback)
    options = _repeated(
        ("--limit", *(limit or ())),
        ("--limits", limits),
        ("--preset", given_preset),
        ("--share", share),
        # Without its password. A URL from the variable is not repeated: it will be set again.
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
        refuse("--private and --shared cannot be combined: remove one of them")
    program = PurePath(command[0]).name
    on_host = None if private or dry_run or through is not None else OnHost(program)
    used = on_host or (None if dry_run else through)
    queues = QueueRecords(paced=not dry_run)
    registry = _registry(
        limit or [],
        limits,
        preset,
        share,
        used,
        queues=queues,
        check=not no_check,
        adaptive=adaptive,
    )
    try:
        by_gateway = any_ is True or bool(registry.hosts)
        launch = examine(command, any_=by_gateway, isolate=isolate)
    except NotStarted as error:
        refuse(str(error), error.code)
    gateway = _gateway(launch, registry, wanted=any_, isolate=isolate)
    # Last, so that no refusal above leaves an empty file.
    try:
        files = OutputFiles.open(json_file, log, report)
    except Unwritable as error:
        refuse(f"{error}; nothing was started")
    live = not no_live and log is None and StatusLine.possible(2)
    plan = RunPlan(
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
        by_default=by_default,
        queues=queues,
        gateway=gateway,
        isolate=isolate,
    )
    if by_default:
        plan.log.say(wrapped(_NO_LIMIT))
    raise typer.Exit(_run(plan, files, show_accounts=show_accounts))


def _run(plan: RunPlan, files: OutputFiles, *, show_accounts: bool) -> int:
    from aioapiqueue_run.cli.run.supervisor import supervise  # noqa: PLC0415 - POSIX only

    plan.log.say(opening(plan))
    try:
        outcome = asyncio.run(supervise(plan))
    except NotStarted as error:
        plan.log.say(str(error))
        files.discard()
        return error.code
    measured = measure(plan, outcome)
    outcome.judged = [judge(gate, measured) for gate in plan.gates]
    code = verdict(plan, outcome)  # it depends on the gates, and all below shows it
    plan.log.say(headline(plan, outcome, code))
    plan.log.show(tables(plan, outcome))
    plan.log.say("\n".join(map(wrapped, remarks(plan, outcome))))
    plan.log.show(to_copy(plan, outcome))
    figures = cache(lambda: json_report(plan, outcome, code))  # for both files, if any
    if files.figures:
        _write(plan, "--json", files.figures, lambda: json_text(figures()))
    if files.report:
        page = partial(html_report, plan, outcome, show_accounts=show_accounts)
        if _write(plan, "--report", files.report, lambda: page(figures())):
            plan.log.say(wrapped(f"report written to {files.report.path}"))
    return code


def _write(plan: RunPlan, option: str, file: OutputFile, make: Callable[[], str]) -> bool:
    """Write a file; return whether that worked. An error is reported, and changes no exit code."""
    try:
        text = make()
    except Exception as error:  # noqa: BLE001 - a bug of ours must not hide the program's exit code
        why = f"{type(error).__name__}: {error}"
        why = f"not written because of a bug, please report it: {why}"
        plan.log.say(wrapped(f"{option}: {file.path} {why}"))
        file.discard()
        return False
    try:
        file.write(text)
    except OSError as error:
        plan.log.say(f"{option}: {file.path} cannot be written: {error.strerror}")
        return False
    return True


def _preset(preset: str | None, share: str | None) -> str | None:
    """Return the preset that `--preset` and `--share` select; refuse invalid values."""
    problems: list[str] = []
    options = ((check_preset, preset, "--preset"), (parse_share, share, "--share"))
    for read, text, option in options:
        try:
            if text is not None:
                read(text, option)
        except LimitsError as error:
            problems += error.problems
    if share is not None:
        preset = preset or "aws"
        if preset == "none":
            problems.append("--share: cannot be combined with --preset none: remove one of them")
    if problems:
        refuse("\n".join(problems))
    return preset


def _gates(texts: list[str], *, dry_run: bool) -> list[RunGate]:
    """Read `--fail-on`; refuse gates that are invalid or could never fail."""
    found, problems = [], []
    for text in texts:
        try:
            gate = read_gate(text)
        except ValueError as error:
            problems.append(f"--fail-on {error}")
            continue
        if dry_run and gate.metric.startswith("wait"):
            problems.append(
                f"--fail-on {text!r}: a dry run has no waits: remove this gate or --dry-run"
            )
        found.append(gate)
    if problems:
        refuse("\n".join(problems))
    return found


def _repeated(*options: tuple[object, ...], **flags: bool) -> list[str]:
    """Return options as words of a command line. Values that are None were not given."""
    found = [
        part
        for name, *values in options
        for value in values
        if value is not None
        for part in (str(name), str(value))
    ]
    return found + [f"--{name.replace('_', '-')}" for name, given in flags.items() if given]


def _gateway(launch: Launch, registry: Registry, *, wanted: bool | None, isolate: bool) -> bool:
    """Return whether to start the gateway; refuse if that is impossible."""
    if isolate and wanted is False:
        refuse("--isolate and --no-any cannot be combined: remove one of them")
    if isolate and sys.platform != "linux":
        refuse(f"--isolate needs Linux, and this is {sys.platform}: use --any")
    # The reasons for the gateway, as the start of an error message.
    needs = ["--isolate"] * isolate + ["--any"] * (wanted is True)
    if problems := host_problems(registry):
        refuse("\n".join(map(wrapped, problems)))
    needs += [f"the limit of {host}" for host in registry.hosts]
    if needs and wanted is False:
        refuse(f"{needs[0]} needs --any: remove --no-any, or the limit")
    if needs and not is_installed():
        refuse(
            f"{needs[0]} needs the gateway extra, which is not installed: pip "
            "install 'aioapiqueue[gateway]' (with pipx: pipx inject aioapiqueue cryptography h11 "
            "http-sf)"
        )
    if wanted is None and not needs:
        return not launch.python and is_installed()
    return bool(needs)


def _shared(url: str | None, fallback: str | None) -> Shared | None:
    """Return the server that shares the limits, not connected yet; refuse invalid options."""
    if url is None:
        if fallback is not None:
            refuse(f"--fallback needs --shared, or {SHARED_VARIABLE} in the environment")
        return None
    # Before redis-py is required: "--shared 30%" needs another remedy. Anything else is not quoted,
    # because it may contain a password.
    if "://" not in url:
        meant = f"; did you mean --share {url}?" if re.fullmatch(r"[\d.]{1,9}%?", url) else ""
        refuse(f"--shared: not a URL: write one such as redis://HOST:6379{meant}")
    if importlib.util.find_spec("redis") is None:
        refuse(
            "--shared needs redis-py, which is not installed: pip install 'aioapiqueue[redis]' "
            "(with pipx: pipx inject aioapiqueue redis)"
        )
    from aioapiqueue_run.cli.run.shared_address import read_address  # noqa: PLC0415 - the extra

    try:
        address = read_address(url)
    except ValueError as error:
        refuse(f"--shared: {error}")
    try:
        rate = None if fallback is None else Rate.parse(fallback)
    except ValueError as error:
        refuse(f"--fallback: {error}")
    if rate is not None and rate.unit != CALLS:
        refuse(f"--fallback: {fallback!r} does not count calls: remove {rate.unit!r}")
    return Shared(address, rate)


def _registry(
    options: list[str],
    file: Path | None,
    preset: str | None,
    share: str | None,
    shared: Shared | OnHost | None,
    *,
    queues: QueueRecords,
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
            observers=[queues] if shared is None else [shared, queues],
            schedules=shared.schedule if shared else None,
        )
    except LimitsError as error:
        refuse("\n".join(error.problems))
    if (file or preset) and not list(registry):
        refuse(f"{file or '--preset none'} contains no limits; see aioapiqueue docs limits")
    return registry
