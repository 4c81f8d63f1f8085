"""What a call waits for at the hub, and what a quota asks of the client that it belongs to."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aioapiqueue._shared.host.messages import Terms
    from aioapiqueue._shared.host_hub.client_turns import ClientCall


class QuotaClient(Protocol):
    """What a quota asks of each of its clients."""

    terms: Terms
    whose: str
    """The program and its process."""
    newest: Mapping[str, int]
    """By maker, the instant up to which it knew all decisions when it connected."""
    lateness: float
    """Seconds after which the client no longer uses a grant, but returns it."""

    def __hash__(self) -> int:
        """Return its hash: quotas keep their clients in dictionaries."""

    @property
    def waiting(self) -> int:
        """Number of its calls that wait."""

    def granted(self, call: ClientCall) -> None:
        """Start a call."""

    def refused(self, call: ClientCall, error: BaseException) -> None:
        """Tell the client that a call will never start."""

    def entered(self, call: ClientCall) -> None:
        """Note that a call waits again, under other limits."""

    def backed_off(self, call: ClientCall) -> None:
        """Note that the rate was lowered because a call was throttled."""

    def send_rate(self) -> None:
        """Send the client its rate after slow-downs, if it has changed."""

    def send_names(self) -> None:
        """Send the client the keys and patterns that have limits, if they have changed."""

    def send(self, *message: Any) -> None:  # noqa: ANN401 - JSON
        """Send a message by the end of this pass of the loop."""

    def send_text(self, text: str) -> None:
        """Send the text of a message by the end of this pass of the loop."""

    def flush(self) -> None:
        """Send now what has been queued."""


class PendingGrant(asyncio.Future[Any]):
    """What a call waits for. It informs the client at once, not in the loop's next pass.

    Args:
        call: the call that waits.
        client: the client that made it.
        loop: the running event loop.
    """

    def __init__(
        self, call: ClientCall, client: QuotaClient, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(loop=loop)
        self._call = call
        self._client = client

    def set_result(self, result: Any) -> None:  # noqa: ANN401 - as asyncio.Future's
        super().set_result(result)
        self._client.granted(self._call)

    def set_exception(self, exception: Any) -> None:  # noqa: ANN401 - as asyncio.Future's
        self.cancel()  # it is never awaited: asyncio would report the exception as never retrieved
        self._client.refused(self._call, exception)
