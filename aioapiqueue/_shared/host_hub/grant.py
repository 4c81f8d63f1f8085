"""What a call waits for at the hub, and what that asks of its client."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aioapiqueue._shared.host.messages import Terms
    from aioapiqueue._shared.host_hub.client_turns import ClientCall

__all__ = ["ClientOwner", "Grant"]


class ClientOwner:
    """What a quota asks of each of its clients."""

    terms: Terms
    whose: str
    """The program and its process."""
    lateness: float
    """Seconds after which it gives back at the latest what it was granted."""

    @property
    def waiting(self) -> int:
        """How many of its calls wait."""
        return 0

    def granted(self, call: ClientCall) -> None:
        """Let a call start that waited."""

    def refused(self, call: ClientCall, error: BaseException) -> None:
        """Tell the client that a call never will."""

    def entered(self, call: ClientCall) -> None:
        """Note that a call waits again, under other limits."""

    def backed_off(self, call: ClientCall) -> None:
        """Note that the rate was lowered for push-back on a call."""

    def tell_status(self) -> None:
        """Tell the client what push-back has left."""

    def tell_names(self) -> None:
        """Tell the client which keys and patterns have limits of others."""

    def send(self, *message: Any) -> None:  # noqa: ANN401 - JSON
        """Send a message by the end of this pass of the loop."""

    def send_text(self, text: str) -> None:
        """Send the text of a message by the end of this pass of the loop."""

    def flush(self) -> None:
        """Send now what there is."""


class Grant(asyncio.Future[Any]):
    """What a call waits for: its client is told at once, not in the loop's next pass.

    Args:
        call: whose.
        client: whose that is.
        loop: the running one.
    """

    def __init__(
        self, call: ClientCall, client: ClientOwner, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(loop=loop)
        self._call = call
        self._client = client

    def set_result(self, result: Any) -> None:  # noqa: ANN401 - as asyncio.Future's
        super().set_result(result)
        self._client.granted(self._call)

    def set_exception(self, exception: Any) -> None:  # noqa: ANN401 - as asyncio.Future's
        self.cancel()  # nobody awaits it: the exception would be reported as never retrieved
        self._client.refused(self._call, exception)
