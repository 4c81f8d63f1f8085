"""What several commands have in common: flags in `--help`, options without a value, options."""

from __future__ import annotations

import contextlib
import math
from pathlib import PurePath
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from aioapiqueue.cli.console import refuse, say, wrapped

__all__ = ["Command", "CommandGroup", "Launcher", "NoCheck", "number", "seconds", "whole"]

NoCheck = Annotated[
    bool,
    typer.Option(
        "--no-check",
        help="Accept services and operations that the installed botocore does not know.",
    ),
]


def number(text: str | float) -> float:
    """Read an option's number in ASCII digits: `float` takes those of all scripts.

    Args:
        text: as it was given, or a default.

    Raises:
        BadParameter: it is not a number.
    """
    with contextlib.suppress(ValueError):
        if str(text).isascii():
            return float(text)
    raise typer.BadParameter(
        f"{text!r} is invalid: expected a number, written with the digits 0 to 9"
    )


def seconds(text: str | float) -> float:
    """Read an option's time, as `number` does: above 0, and finite."""
    value = number(text)
    if not 0 < value < math.inf:
        raise typer.BadParameter(f"{text!r} is invalid: expected a number of seconds above 0")
    return value


def whole(text: str | int) -> int:
    """Read an option's whole number, as `number` does."""
    value = number(text)
    if not value.is_integer():
        raise typer.BadParameter(f"{text!r} is invalid: expected a whole number")
    return int(value)


class _Ours:
    """Shows a command's flags without `<bool>`, and takes no `--` as the value of an option."""

    def get_params(self, ctx: Any) -> Any:  # noqa: ANN401 - click's, or typer's own copy of it
        """Return all parameters, `--help` among them."""
        found = list(super().get_params(ctx))  # type: ignore[misc]  # of the class beside this one
        for param in found:
            if getattr(param, "is_flag", False) and param.metavar is None:
                param.metavar = ""
        return found

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - as above
        """Read options; refuse one whose value is `--`, or an option: click takes any word."""
        rest: list[str] = super().parse_args(ctx, args)  # type: ignore[misc]  # as above
        options = [one for one in self.get_params(ctx) if one.param_type_name == "option"]
        never = {"--", *(name for one in options for name in one.opts)}
        for one in options:
            value = ctx.params.get(one.name)
            values = value if isinstance(value, list | tuple) else [value]
            if word := next((word for word in map(str, values) if word in never), None):
                refuse(f"{one.opts[0]} needs a value ({one.metavar}), but {word} follows it")
        return rest


class Command(_Ours, TyperCommand):
    """A command that is read, and shown, as all of ours."""


class CommandGroup(_Ours, TyperGroup):
    """A group of commands that is read, and shown, as all of ours."""


class Launcher(Command):
    """A command that starts another one: from its argument `command` on, all is the other's."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 - as above
        """Read options; hint at those of ours that went to the other command, perhaps by mistake.

        There is no hint after a `--` before the other command, which says where our options end.
        """
        given = [*args]
        rest = super().parse_args(ctx, args)
        command = ctx.params.get("command") or []
        ours = {name for param in self.params for name in getattr(param, "opts", ())}
        own = command[1 : command.index("--")] if "--" in command else command[1:]
        names = [one.partition("=")[0] for one in own if one.startswith("--")]
        found = next((name for name in names if name in ours), None)
        if found and given[: len(given) - len(command)][-1:] != ["--"]:
            program = PurePath(command[0]).name
            say(
                wrapped(
                    f"{found} comes after {program}, so {program} gets it. If this is not what you "
                    f'want, put {found} before {program}. If it is, write "--" before {program}.'
                )
            )
        return rest
