"""The options of `aioapiqueue run`: their names, values and explanations, each in one place."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path, PurePath
from typing import Annotated, Any

import typer

from aioapiqueue_run.cli.help import NO_CHECK, seconds
from aioapiqueue_run.cli.run.launch import is_python_name, python_options
from aioapiqueue_run.cli.run.shared_server import SHARED_VARIABLE

__all__ = ["RunOptions", "signature"]

_LIMITS, _SHARING = "Limits", "Sharing limits"
_PROGRAMS, _RESULTS = "Programs", "Output and checks"
"""The panels of `--help`."""
_OF_ONE_RUN = {"command", "dry_run", "log", "json", "report", "show_accounts", "no_live"}


def _option(
    panel: str | None,
    metavar: str | None,
    text: str,
    *,
    default: object = None,
    name: str | None = None,
    **more: Any,  # noqa: ANN401 - typer's
) -> Any:  # noqa: ANN401 - as `dataclasses.field`
    """Return a field for an option.

    Args:
        panel: the panel of `--help` that shows it; None for that of all commands.
        metavar: the name of its value in `--help`; None for a flag.
        text: its explanation.
        default: the value if it is not given.
        name: its name. Default: that of the field.
        more: further arguments of `typer.Option`.
    """
    shown = {"metavar": metavar, "help": text, "rich_help_panel": panel, **more}
    return dataclasses.field(default=default, metadata={"name": name, "shown": shown})


def _flag(panel: str | None, text: str) -> Any:  # noqa: ANN401 - as above
    """Return a field for an option without a value."""
    return _option(panel, None, text, default=False)


@dataclasses.dataclass(frozen=True, repr=False)  # the URL of --shared may have a password
class RunOptions:
    """The command to run, and the values of all options."""

    command: list[str]
    limit: list[str] | None = _option(
        _LIMITS,
        "LIMIT",
        "A limit, such as ec2=10/s, ec2.DescribeSnapshots=5/s, default=20/s, "
        'https://api.github.com=10/s or "GET https://HOST/path/*=30/min". Repeatable.',
    )
    limits: Path | None = _option(
        _LIMITS, "FILE", "Read limits from this limits.toml file. --limit overrides them."
    )
    preset: str | None = _option(
        _LIMITS, "aws|none", "Use the limits that AWS publishes (see --share), or none of them."
    )
    share: str | None = _option(
        _LIMITS, "PERCENT", "Use this share of the limits that AWS publishes. Default: 50%."
    )
    no_check: bool = _flag(None, NO_CHECK)
    shared: str | None = _option(
        _SHARING,
        "URL",
        "Share the limits with other hosts through this Redis or Valkey server. If the URL has a "
        "password, use the environment variable: other users can read your command line.",
        envvar=SHARED_VARIABLE,
    )
    fallback: str | None = _option(
        _SHARING,
        "RATE",
        "Rate for each quota while the --shared server is unreachable. Default: calls wait.",
    )
    adaptive: bool = _flag(
        _LIMITS,
        "Slow down when AWS, or a host with a limit, throttles calls; then recover gradually. This "
        "includes services without a limit.",
    )
    fail_on: list[str] | None = _option(
        _RESULTS,
        "GATE",
        'Exit with 5 instead of 0 if this condition is true, such as "throttled", "failed > 1%", '
        '"wait p99 > 30", "unused" or "unpaced". Repeatable. See aioapiqueue docs run.',
    )
    any: bool | None = _option(
        _PROGRAMS,
        None,
        "Pace programs in any language through a local proxy. Default: only if COMMAND is not "
        "Python, or a host has a limit. Needs the gateway extra; see aioapiqueue docs gateway.",
        name="--any/--no-any",
        show_default=False,
    )
    isolate: bool = _flag(
        _PROGRAMS,
        "Like --any, but the program reaches other hosts only through that proxy, even if it "
        "ignores proxy settings. Linux only.",
    )
    private: bool = _flag(_SHARING, "Do not share limits with your other runs on this host.")
    dry_run: bool = _flag(_RESULTS, "Only count calls, and show which ones the limits would delay.")
    log: Path | None = _option(_RESULTS, "FILE", "Append messages to this file instead of stderr.")
    json: Path | None = _option(
        _RESULTS,
        "FILE",
        "Write all figures to this file as JSON. With -, write them to stdout after the program "
        "ends.",
    )
    report: Path | None = _option(
        _RESULTS, "FILE.html", "Write a report with charts to this file, as a single HTML page."
    )
    show_accounts: bool = _flag(
        _RESULTS, "Show full account ids in the report, not only four digits."
    )
    no_live: bool = _flag(
        _RESULTS,
        "Show no progress: no status line in a terminal, and no message every minute elsewhere.",
    )
    grace: float = _option(
        _PROGRAMS,
        "SECONDS",
        "How long a Python process may take to load the pacing.",
        default=10.0,
        parser=seconds,
    )
    allow_inactive: bool = _flag(
        _PROGRAMS,
        "Only warn about a Python process that did not load the pacing; do not stop it.",
    )

    @property
    def program(self) -> str:
        """The name of the program, or of the script or module that Python executes."""
        # No further arguments: messages and pages may be shown to others, and one may be a
        # password.
        name = PurePath(self.command[0]).name
        if not is_python_name(name):
            return name
        _, runs = python_options(self.command)
        return f"{name} {runs if runs.startswith('-m ') else PurePath(runs).name}".rstrip()

    @property
    def has_no_limit(self) -> bool:
        """Whether no option sets a limit: those that AWS publishes are used."""
        return not (self.limit or self.limits or self.preset or self.share)

    def as_words(self) -> list[str]:
        """Return the options of limits and pacing as they were given, to repeat the run."""
        words: list[str] = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in _OF_ONE_RUN or value == field.default:
                continue
            name = _name_of(field)
            if isinstance(value, bool):
                words.append(name.split("/")[not value])
                continue
            for one in value if isinstance(value, list) else [value]:
                words += [name, str(one)]
        return words


def signature() -> inspect.Signature:
    """Return the signature of a function that takes all options, from which typer makes them."""
    shown = {
        field.name: typer.Option(_name_of(field), **field.metadata["shown"])
        for field in dataclasses.fields(RunOptions)
        if field.metadata
    }
    shown["command"] = typer.Argument(metavar="COMMAND", help="The program and its arguments.")
    found = inspect.signature(RunOptions, eval_str=True)
    return found.replace(
        parameters=[
            one.replace(annotation=Annotated[one.annotation, shown[name]])
            for name, one in found.parameters.items()
        ]
    )


def _name_of(field: dataclasses.Field[Any]) -> str:
    return field.metadata["name"] or f"--{field.name.replace('_', '-')}"
