"""What a queue's part in a quota of the host, and its way to the hub, ask of each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aioapiqueue._shared.host.messages import Message
    from aioapiqueue.exceptions import SharedError

__all__ = ["HubLink", "LinkOwner"]


class LinkOwner(Protocol):
    """What a link asks of its user."""

    @property
    def newest(self) -> dict[str, int]:
        """What the hub need not send this queue of decisions: see `Decisions.newest`."""

    def connected(self, newest: Mapping[str, int]) -> None:
        """Note that the hub is there: it knows nothing of this queue but what it says first.

        Args:
            newest: what the hub does not want to be sent of decisions.
        """

    def receive(self, messages: Sequence[Message]) -> None:
        """Process what the hub has sent."""

    def disconnected(self, why: str) -> None:
        """Note that the hub is not there, or not there any more."""

    def refused(self, error: SharedError) -> None:
        """Note that the hub will not serve this queue, until somebody puts something right."""

    @property
    def has_callers(self) -> bool:
        """Whether somebody waits for the hub, or runs, so that it is to know."""

    @property
    def is_needed(self) -> bool:
        """The same, or whether the hub has still to be told something."""


class HubLink(Protocol):
    """The way of one queue to the hub."""

    asks: int
    """How often something was sent."""

    def attach(self, owner: LinkOwner) -> None:
        """Have somebody to report to."""

    def open(self) -> None:
        """Connect, if it is not connected; on a failure, try again for as long as it is needed."""

    def send(self, text: str, *, at_once: bool = False) -> None:
        """Send a message with all others of this pass of the loop; only while it is connected.

        Args:
            text: of the message.
            at_once: now, with what was said before, if it is the first such one of this pass:
                somebody waits for the answer.
        """

    def drop(self) -> None:
        """Forget the connection, without a word to its owner: its loop or process is another."""

    async def aclose(self) -> None:
        """Close the connection, and end all that is running for it."""
