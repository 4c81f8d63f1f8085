"""A call of a queue that shares its limits with all processes of its host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aioapiqueue.spi import DetailedCall

if TYPE_CHECKING:
    from aioapiqueue.spi import Call, Line


class HostCall(DetailedCall):
    """A call that asks the hub.

    Args:
        details: as of `DetailedCall`.
    """

    __slots__ = ("counted", "ticket")

    def __init__(self, *details: Any) -> None:  # noqa: ANN401 - as `Args` says
        super().__init__(*details)
        self.ticket = 0
        """Its number at the hub; 0: it has requested nothing."""
        self.counted = 0
        """Generation of the count of waiting calls that includes it (see `Scopes`); 0: none."""


def line_of(call: Call) -> Line[Call] | None:
    """Return the line in which a call waits, if it does."""
    return call.line
