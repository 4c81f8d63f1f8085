"""The command `aioapiqueue limits` and its subcommands `check` and `discover`."""

from __future__ import annotations

import asyncio
import datetime as dt
import importlib.util
import json
import os
from pathlib import Path  # noqa: TC003 - typer reads it
from typing import TYPE_CHECKING, Annotated

import typer

from aioapiqueue.exceptions import LimitsError
from aioapiqueue.registry import Registry
from aioapiqueue.registry.spi import (
    DEFAULT_SHARE,
    canonical,
    host_called,
    is_host,
    parse_share,
    published_limits,
    unknown_service,
)
from aioapiqueue.spi import printable
from aioapiqueue_run.cli.console import FAILED, console, pluralize, refuse, say, why_unwritable
from aioapiqueue_run.cli.help import Command, CommandGroup, NoCheck, seconds
from aioapiqueue_run.cli.hosts import host_problems
from aioapiqueue_run.cli.limits.models import BEDROCK, read_models, to_lanes
from aioapiqueue_run.cli.limits.quotas import SERVICES, GrantedRates, read_quotas, to_toml
from aioapiqueue_run.cli.limits.table import as_json, show

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from aioapiqueue.registry import InForce
    from aioapiqueue_run.cli.limits.quotas import ServiceQuota

__all__ = ["app"]

app = typer.Typer(name="limits", cls=CommandGroup, rich_markup_mode="markdown")

_TIMEOUT = 600  # seconds; enough for 3,000 calls at half the rate that Service Quotas allows


def _one_name_each(names: list[str] | None) -> list[str] | None:
    for several in (one for one in names or () if "," in one):
        written = " ".join(f"--service {one.strip()}" for one in several.split(","))
        refuse(f"--service {several}: each --service takes one name: write {written}")
    return names


_Service = Annotated[
    list[str] | None,
    typer.Option(
        "--service",
        metavar="SERVICE",
        help="Use only this service. Repeatable.",
        callback=_one_name_each,
    ),
]
_Share = Annotated[
    str | None,
    typer.Option(metavar="PERCENT", help="Share of the published limits to use. Default: 50%."),
]


@app.callback(invoke_without_command=True)
def limits(
    context: typer.Context,
    *,
    service: _Service = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--limits",
            metavar="FILE",
            help="A limits.toml file. Default: the limits that AWS publishes.",
        ),
    ] = None,
    share: _Share = None,
    no_check: NoCheck = False,
    as_json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the limits in force, and where each figure comes from.

    Without a file, these are half of the request limits that AWS publishes. With `--limits FILE`,
    they are the limits that `run --limits FILE` would enforce, each with its line in the file.

    Exits with 2 if the file or an option is invalid.
    """
    if context.invoked_subcommand is not None:
        return
    registry = _registry(file, share, check=not no_check)
    known = {entry.service for entry in registry}
    names = [_name_of(one, known) for one in service or ()]
    for number, name in enumerate(names):
        if name in known:
            continue
        if is_host(name):
            refuse(_why_no_limits(name, file, check=not no_check))
        if "default" in known and (no_check or not unknown_service(name)):
            names[number] = "default"  # whose limits such a service has
        # Limits that are published but cannot be enforced are shown, too.
        elif not published_limits(name):
            refuse(_why_no_limits(name, file, check=not no_check))
    if as_json_:
        typer.echo(json.dumps(as_json(registry, names), indent=2))
        return
    show(console(), registry, names)


def _name_of(text: str, known: Collection[str]) -> str:
    """Return the canonical name of a service or a host."""
    if f"https://{text}" in known:
        return f"https://{text}"
    if "." not in text and "://" not in text:  # no service of AWS has either
        return canonical(text)
    try:
        return host_called(text)
    except ValueError as error:
        refuse(f"--service: {text!r} {error}")


@app.command(cls=Command)
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The limits.toml to check.")],
    *,
    no_check: NoCheck = False,
) -> None:
    """Check a limits.toml and print each problem with its line.

    Exits with 0 if the file is valid, and with 1 if it has a problem.
    """
    try:
        registry = Registry.load(file, check=not no_check)
    except LimitsError as error:
        refuse("\n".join(error.problems), FAILED)
    if problems := host_problems(registry):
        refuse("\n".join(problems), FAILED)
    entries = list(registry)
    if not entries:  # which `run` refuses, too
        refuse(f"{file} has no limits: see aioapiqueue docs limits", FAILED)
    names = {entry.service for entry in entries}
    hosts = sum(map(is_host, names))
    counted = [pluralize(len(names) - hosts, "service")] if len(names) > hosts else []
    counted += [pluralize(hosts, "host")] if hosts else []
    if not no_check and importlib.util.find_spec("botocore") is None:
        for entry in entries:
            if entry.share is None and _has_parameters(entry):
                say(
                    f"{entry.source}: {entry.bucket}: parameter names were not checked, because "
                    "botocore is not installed: pip install botocore (with pipx: pipx inject "
                    "aioapiqueue botocore)"
                )
    typer.echo(f"{file} is valid: {pluralize(len(entries), 'limit')} for {' and '.join(counted)}")


def _has_parameters(entry: InForce) -> bool:
    bucket = entry.members
    return bucket is not None and bool(
        bucket.unless_params or any(cost.parameter for cost in bucket.cost.values())
    )


@app.command(cls=Command)
def discover(
    *,
    write: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Create this limits.toml. Default: print it."),
    ] = None,
    service: _Service = None,
    region: Annotated[
        str | None,
        typer.Option(
            metavar="REGION", help="Region of the quotas. Default: that of the environment."
        ),
    ] = None,
    share: Annotated[
        str | None,
        typer.Option(metavar="PERCENT", help="Share of the granted limits to use. Default: 50%."),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(metavar="SECONDS", parser=seconds, help="Give up after this time."),
    ] = _TIMEOUT,
) -> None:
    """Write a limits.toml with the request rates that Service Quotas grants this account.

    The file starts from the limits that AWS publishes and replaces those that are raised or lowered
    for this account. Quotas that match no operation are listed on stderr. The command needs AWS
    credentials that may list quotas, finds them as boto3 does, and paces its own calls.

    With `--service bedrock` alone, it prints the quotas of each model as lanes of a queue for
    `llm.bedrock`.

    Exits with 1 and writes nothing if Service Quotas denies access, throttles the account, cannot
    be reached, or does not finish within --timeout. Exits with 2 if an option is invalid.
    """
    part = _share(share)
    services = [canonical(one) for one in service or SERVICES]
    region = region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    today = dt.datetime.now(tz=dt.UTC).date().isoformat()
    if BEDROCK in services:
        if set(services) != {BEDROCK} or write is not None:
            refuse(
                "--service bedrock prints lanes for models, not a limits.toml: use it without "
                "--write and without another --service"
            )
        _print_models(region, timeout, share=part, when=today)
        return
    for one in services:
        if one not in SERVICES:
            refuse(
                f"--service {printable(one)}: its quotas do not name operations. Use one of "
                f"{', '.join(SERVICES)}, {BEDROCK}"
            )
    if write is not None and (problem := _why_not_new(write)):
        refuse(f"--write: {write} {problem}")
    quotas, unknown = _fetch({one: SERVICES[one].code for one in services}, region, timeout)
    found = [read_quotas(*one) for one in quotas.items()]
    text = to_toml(found, region=region or "its Region", share=f"{part:.6g}%", when=today)
    Registry.parse(text, source=str(write or "limits.toml"))  # never write an invalid file
    for name, why in unknown.items():
        say(f"{name}: the published limits are kept: {printable(why)}")
    for each in found:
        _summarize(each)
    if write is None:
        typer.echo(text, nl=False)
        return
    try:
        with write.open("x", encoding="utf-8") as created:
            created.write(text)
    except OSError as error:
        refuse(f"--write: {write} cannot be written: {error.strerror}", FAILED)
    typer.echo(
        f"aioapiqueue: wrote {write}; to show it: aioapiqueue limits --limits {write}", err=True
    )


def _fetch(
    services: Mapping[str, str], region: str | None, timeout: float
) -> tuple[dict[str, list[ServiceQuota]], dict[str, str]]:
    """Return the result of `fetch_quotas`, or end the command with the reason why there is none."""
    try:
        from aioapiqueue_run.cli.limits.service_quotas import QuotasError, fetch_quotas  # noqa: PLC0415
    except ImportError as error:
        needed = str(error.name).partition(".")[0]
        refuse(
            f'discover needs {needed}: pip install "aioapiqueue[aws,cli]" (with pipx: pipx inject '
            "aioapiqueue aiobotocore). Nothing was written.",
            FAILED,
        )
    try:
        return asyncio.run(fetch_quotas(services, region=region, seconds=timeout))
    except QuotasError as error:
        refuse(f"{printable(str(error))}. Nothing was written.", FAILED)


def _why_not_new(path: Path) -> str | None:
    """Return why a new file cannot be written there; None if it can."""
    if os.path.lexists(path):
        return "exists already: choose another name, or move the file away"
    return why_unwritable(path)


def _print_models(region: str | None, timeout: float, *, share: float, when: str) -> None:
    """Print lanes for the models of Bedrock."""
    quotas, _ = _fetch({BEDROCK: BEDROCK}, region, timeout)
    models = read_models(quotas[BEDROCK])
    say(f"{BEDROCK}: skipped {pluralize(models.others, 'quota')} not for models")
    _list_unmapped(BEDROCK, models.unmapped)
    typer.echo(to_lanes(models, region=region or "<Region>", share=share, when=when), nl=False)


def _summarize(found: GrantedRates) -> None:
    say(
        f"{found.service}: {pluralize(len(found.rates), 'request rate')} "
        f"{'differs' if len(found.rates) == 1 else 'differ'} from the published ones, "
        f"{found.same} {'does' if found.same == 1 else 'do'} not; "
        f"{pluralize(found.others, 'other quota')}"
    )
    _list_unmapped(found.service, found.unmapped)


def _list_unmapped(service: str, unmapped: Iterable[str]) -> None:
    for name in unmapped:
        say(f"{service}: skipped: {printable(name)}")


def _registry(file: Path | None, share: str | None, *, check: bool) -> Registry:
    try:
        if file is not None:
            preset = None if share is None else "aws"  # a share without a preset is an error
            return Registry.load(file, preset=preset, share=share, check=check)
        return Registry.parse('preset = "aws"', source="--share", share=f"{_share(share):.6g}%")
    except LimitsError as error:
        refuse("\n".join(error.problems))


def _share(text: str | None) -> float:
    """Return a share in percent. Default: that of a limits.toml."""
    if text is None:
        return DEFAULT_SHARE * 100
    try:
        return parse_share(text, "--share") * 100
    except LimitsError as error:
        refuse("\n".join(error.problems))


def _why_no_limits(name: str, file: Path | None, *, check: bool) -> str:
    if check and not is_host(name) and (problem := unknown_service(name)):
        return f"--service: {problem}"
    where = f"{file} has no limit for {name}" if file else f"AWS publishes no limits for {name}"
    if is_host(name) and not file:
        where = f"AWS publishes no limits for {name}: name your own file with --limits FILE"
    return f"--service: {where}"
