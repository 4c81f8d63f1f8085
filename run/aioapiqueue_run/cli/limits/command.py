"""The command `aioapiqueue limits` and its subcommands `check` and `discover`."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import importlib.util
import json
import os
from pathlib import Path  # noqa: TC003 - typer reads it
from typing import TYPE_CHECKING, Annotated, Any

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
from aioapiqueue_run.cli.console import (
    FAILED,
    USAGE_ERROR,
    check_writable,
    console,
    not_installed,
    pluralize,
    refuse,
    say,
)
from aioapiqueue_run.cli.help import Command, CommandGroup, NoCheck, seconds
from aioapiqueue_run.cli.hosts import host_problems
from aioapiqueue_run.cli.limits.models import BEDROCK, read_models, to_lanes
from aioapiqueue_run.cli.limits.prices import show_prices
from aioapiqueue_run.cli.limits.quotas import SERVICES, GrantedRates, read_quotas, to_toml
from aioapiqueue_run.cli.limits.table import as_json, show

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from aioapiqueue.registry import InForce
from aioapiqueue_run.cli.limits.quotas import ServiceQuota

__all__ = ["app"]


class _LimitsGroup(CommandGroup):
    """The group of commands, whose `--prices` may have a value."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - as inherited
        """Read options, with an empty value for a `--prices` without one."""
        following = [*args, "-"][1:]
        args = [
            "--prices=" if word == "--prices" and after.startswith("-") else word
            for word, after in zip(args, following, strict=True)
        ]
        return super().parse_args(ctx, args)


app = typer.Typer(name="limits", cls=_LimitsGroup, rich_markup_mode="markdown")

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
    typer.Option(metavar="PERCENT", help="Share of these limits to use. Default: 50%."),
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
    prices: Annotated[
        str | None,
        typer.Option(
            metavar="[MODEL]",
            help="Show prices of LLM APIs, or all prices of the models with this name.",
        ),
    ] = None,
    provider: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Show prices of this provider, or of all. Repeatable. Default: openai, "
            "anthropic, gemini, bedrock, groq.",
        ),
    ] = None,
    as_json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the limits in force, and where each figure comes from.

    Without a file, these are half of the request limits that AWS publishes. With `--limits FILE`,
    they are the limits that `run --limits FILE` would enforce, each with its line in the file.

    With `--prices`, it shows what LLM calls cost, from the package genai-prices (extra `prices`).

    Exits with 2 if the file or an option is invalid, and with 1 if no model has the name.
    """
    if context.invoked_subcommand is not None:
        return
    if prices is not None:
        _check_alone(service=service, limits=file, share=share, no_check=no_check)
        show_prices(prices, provider or (), json_=as_json_)
        return
    if provider:
        refuse("--provider shows prices: use it with --prices")
    preset = "aws" if file is None or share else None  # a share without a preset is an error
    with _problems_refused():
        if file is None:
            registry = Registry.parse("", preset=preset, share=share)
        else:
            registry = Registry.load(file, preset=preset, share=share, check=not no_check)
    known = {entry.service for entry in registry}
    names = [_shown(one, known, file, check=not no_check) for one in service or ()]
    if as_json_:
        typer.echo(json.dumps(as_json(registry, names), indent=2))
        return
    show(console(), registry, names)


def _check_alone(**others: object) -> None:
    for name in (name for name, value in others.items() if value):
        option = f"--{name.replace('_', '-')}"
        refuse(f"--prices shows prices instead of limits: use it without {option}")


@contextlib.contextmanager
def _problems_refused(code: int = USAGE_ERROR) -> Iterator[None]:
    """End the command if limits are invalid, with all problems."""
    try:
        yield
    except LimitsError as error:
        refuse(str(error), code)


def _share(text: str | None) -> float:
    """Return the share that the option gives. Default: that of a limits.toml."""
    with _problems_refused():
        return DEFAULT_SHARE if text is None else parse_share(text, "--share")


def _shown(text: str, known: Collection[str], file: Path | None, *, check: bool) -> str:
    """Return the name under which the limits of a service or host are shown; refuse one without.

    Args:
        text: the value of `--service`.
        known: the services and hosts that have limits.
        file: the file with the limits; None: they are those that AWS publishes.
        check: whether to check the names of services.
    """
    if f"https://{text}" in known:
        return f"https://{text}"
    where = f"{file} has no limit for" if file else "AWS publishes no limits for"
    if "." in text or "://" in text:  # no service of AWS has either
        try:
            name = host_called(text)
        except ValueError as error:
            refuse(f"--service: {text!r} {error}")
        if name in known:
            return name
        own = "" if file else ": name your own file with --limits FILE"
        refuse(f"--service: {where} {name}{own}")
    name = canonical(text)
    # Limits that are published but cannot be enforced are shown, too.
    if name in known or ("default" not in known and published_limits(name)):
        return name
    if check and (problem := unknown_service(name)):
        refuse(f"--service: {problem}")
    if "default" not in known:
        refuse(f"--service: {where} {name}")
    return "default"  # whose limits such a service has


@app.command(cls=Command)
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The limits.toml to check.")],
    *,
    no_check: NoCheck = False,
) -> None:
    """Check a limits.toml and print each problem with its line.

    Exits with 0 if the file is valid, and with 1 if it has a problem.
    """
    with _problems_refused(FAILED):
        registry = Registry.load(file, check=not no_check)
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
    share: _Share = None,
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
    part = 100 * _share(share)
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
    if write is not None:
        _check_new(write)
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
    say(f"wrote {write}; to show it: aioapiqueue limits --limits {write}")


def _fetch(
    services: Mapping[str, str], region: str | None, timeout: float
) -> tuple[dict[str, list[ServiceQuota]], dict[str, str]]:
    """Return the result of `fetch_quotas`, or end the command with the reason why there is none."""
    try:
        from aioapiqueue_run.cli.limits.service_quotas import QuotasError, fetch_quotas  # noqa: PLC0415
    except ImportError as error:
        needed = str(error.name).partition(".")[0]
        refuse(f"discover needs {not_installed(needed, 'aws,cli', 'aiobotocore')}", FAILED)
    try:
        return asyncio.run(fetch_quotas(services, region=region, seconds=timeout))
    except QuotasError as error:
        refuse(f"{printable(str(error))}. Nothing was written.", FAILED)


def _check_new(path: Path) -> None:
    if os.path.lexists(path):
        refuse(f"--write: {path} exists already: choose another name, or move the file away")
    check_writable("--write", path)


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
