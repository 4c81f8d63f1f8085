"""What several commands have in common: how `--help` shows flags, and options of them all."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Command", "Group", "NoCheck", "number", "whole"]

NoCheck = Annotated[
    bool,
    typer.Option(
        "--no-check", help="Take names of services and operations as they are, unknown ones too."
    ),
]


def number(text: str | float) -> float:
    """Read an option's number, in digits from 0 to 9: `float` takes those of all scripts.

    Args:
        text: as it was given, or a default.

    Raises:
        BadParameter: it is none.
    """
    with contextlib.suppress(ValueError):
        if str(text).isascii():
            return float(text)
    raise typer.BadParameter(f"{text!r} is not a number: write one in digits from 0 to 9")


def whole(text: str | int) -> int:
    """Read an option's whole number, as `number` does."""
    value = number(text)
    if not value.is_integer():
        raise typer.BadParameter(f"{text!r} is not a whole number")
    return int(value)


class Command(TyperCommand):
    """A command whose flags are shown without `<bool>`."""

    def get_params(self, ctx: Any) -> Any:  # noqa: ANN401 - click's, or typer's own copy of it
        """Return all parameters, `--help` among them."""
        return _plain(super().get_params(ctx))


class Group(TyperGroup):
    """A group of commands whose flags are shown without `<bool>`."""

    def get_params(self, ctx: Any) -> Any:  # noqa: ANN401 - as above
        """Return all parameters, `--help` among them."""
        return _plain(super().get_params(ctx))


def _plain(params: Iterable[Any]) -> list[Any]:
    found = list(params)
    for param in found:
        if getattr(param, "is_flag", False) and param.metavar is None:
            param.metavar = ""
    return found
