"""What several commands have in common: how `--help` shows flags, and options of them all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Command", "Group", "NoCheck"]

NoCheck = Annotated[
    bool,
    typer.Option(
        "--no-check", help="Take names of services and operations as they are, unknown ones too."
    ),
]


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
