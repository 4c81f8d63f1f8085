"""Options and `--help` of all commands: how they are shown, read and checked."""

from __future__ import annotations

import contextlib
import math
from pathlib import PurePath
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from aioapiqueue_run.cli.console import refuse, say

__all__ = ["NO_CHECK", "Command", "CommandGroup", "Launcher", "NoCheck", "seconds"]

NO_CHECK = "Accept services and operations that the installed botocore does not know."
NoCheck = Annotated[bool, typer.Option("--no-check", help=NO_CHECK)]


def seconds(text: str | float) -> float:
    """Read the time that an option gives: a finite number above 0."""
    with contextlib.suppress(ValueError):
        if 0 < float(text) < math.inf:
            return float(text)
    raise typer.BadParameter(f"{text!r} is invalid: expected a number of seconds above 0")


class _CheckedOptions:
    """Shows flags without `<bool>`, and refuses an option as the value of another option."""

    def get_params(self, ctx: Any) -> Any:  # noqa: ANN401 - click's, or typer's own copy of it
        """Return all parameters, including `--help`."""
        found = list(super().get_params(ctx))  # type: ignore[misc]  # of the class beside this one
        for param in found:
            if getattr(param, "is_flag", False) and param.metavar is None:
                param.metavar = ""  # typer shows "<bool>" for None
        return found

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - as above
        """Read options; refuse one whose value is `--` or an option, which click would accept."""
        rest: list[str] = super().parse_args(ctx, args)  # type: ignore[misc]  # as above
        options = [one for one in self.get_params(ctx) if one.param_type_name == "option"]
        never = {"--", *(name for one in options for name in one.opts)}
        for one in options:
            # An option may have no value, one, or several (those that can be repeated).
            value = ctx.params.get(one.name)
            values = value if isinstance(value, list | tuple) else [value]
            if word := next((word for word in map(str, values) if word in never), None):
                refuse(f"{one.opts[0]} needs a value ({one.metavar}), but {word} follows it")
        return rest


class Command(_CheckedOptions, TyperCommand):
    """A command with the options and the `--help` that all our commands have."""


class CommandGroup(_CheckedOptions, TyperGroup):
    """A group of commands with the options and the `--help` that all our commands have."""


class Launcher(Command):
    """A command that starts a program: all words from its argument `command` on are the program's.

    If the program gets an option that is also one of ours, perhaps by mistake, a hint says so. A
    `--` before the program, which shows where our options end, prevents the hint.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - as above
        """Read options, and give the hint."""
        given = [*args]
        rest = super().parse_args(ctx, args)
        command = ctx.params.get("command") or []
        ours = {name for param in self.params for name in getattr(param, "opts", ())}
        # After a `--`, the program itself reads no options.
        own = command[1 : command.index("--")] if "--" in command else command[1:]
        names = [one.partition("=")[0] for one in own if one.startswith("--")]
        found = next((name for name in names if name in ours), None)
        # The word before the program; click has removed it from `command`.
        if found and given[: len(given) - len(command)][-1:] != ["--"]:
            program = PurePath(command[0]).name
            say(
                f"{found} comes after {program}, so {program} gets it.\n"
                f"If this is not what you want, put {found} before {program}.\n"
                f'If it is, write "--" before {program}.'
            )
        return rest
