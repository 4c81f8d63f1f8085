"""Waits for the turn of a request, even longer than the client's time-out or the signature's life.

- Clients have a read time-out (60 seconds in boto3). So they are sent an interim response,
  `100 Continue`, from time to time, which restarts the time-out.
- A signature expires. So after some minutes the client gets a response as if it were throttled: it
  signs the request again and retries. Its place in the queue is kept meanwhile, under the id that
  the SDKs of AWS give to all attempts of a call, or else for any request of the same kind and
  account.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from aioapiqueue_run.gateway.signatures import Signatures

if TYPE_CHECKING:
    from collections.abc import Hashable

    from aioapiqueue_run.gateway.calls import ApiCall, HttpRequest
    from aioapiqueue_run.gateway.hub_client import HubRequest, RunHubClient
    from aioapiqueue_run.gateway.link import HttpLink
    from aioapiqueue_run.gateway.signatures import Validity

__all__ = ["HubTurns", "StaleError"]

_AT_ONCE_SECONDS = 0.05
"""Most turns come within this time. Only a longer wait is worth a task that watches the client."""
_GO = ("go-http-client", "aws-sdk-go", "golang")
"""Parts of the User-Agent of Go before 1.24, which fails at the sixth interim response. It has no
time-out by default."""
_NO_INTERIMS = ("undici", "node")
"""The User-Agent of Node.js's fetch, for which an interim response is an error unless it has asked
for one. Its time-out is 300 s, longer than the life of a signature."""
_KEPT_SECONDS = 30.0
"""Time for which a place is kept: before they retry, SDKs pause for up to 20 s."""


class _Interims(NamedTuple):
    """The interim responses that a client accepts.

    Attributes:
        seconds: the interval between two. The shortest read time-outs in use are 30 seconds.
        most: their largest number for a request. New versions of Python and Ruby accept 100.
    """

    seconds: float
    most: int


class StaleError(Exception):
    """Raised if the client has to sign its request again. Its place is kept."""


class _KeptPlace:
    """The place of a client that will retry.

    If its turn comes meanwhile, it is given back, and the retry overtakes all calls that wait then.

    Args:
        ask: the request at the hub.
    """

    def __init__(self, ask: HubRequest) -> None:
        self._ask = ask
        self._missed = self._taken = False
        ask.turn.add_done_callback(self._give_back)

    def take_up(self, call: ApiCall, hub: RunHubClient) -> HubRequest:
        """Return the request at the hub, for the client's retry."""
        # If the turn has just come, `_give_back` has not run yet, and must leave it to the retry.
        self._taken = True
        return hub.ask(call, again=True) if self._missed else self._ask

    def give_up(self) -> None:
        """Leave the queue."""
        if not self._missed:
            self._ask.leave()

    def _give_back(self, turn: asyncio.Future[None]) -> None:
        # A refusal is kept: the client gets it when it retries.
        if not self._taken and not turn.cancelled() and turn.exception() is None:
            self._missed = True
            self._ask.leave()


class HubTurns:
    """Waits for the turns of all requests, and keeps the places of clients that will retry.

    Args:
        hub: the connection to the hub.
    """

    def __init__(self, hub: RunHubClient) -> None:
        self._hub = hub
        self._signatures = Signatures()
        self._kept: dict[Hashable, deque[tuple[_KeptPlace, asyncio.TimerHandle]]] = {}

    def note_date(self, date: str, arrived: float) -> None:
        """Note the `Date` header of a response, which shows AWS's clock, and when it arrived."""
        self._signatures.note_date(date, arrived)

    async def wait(self, call: ApiCall, request: HttpRequest, link: HttpLink) -> HubRequest:
        """Wait for the turn of a request, and return it. Cancelling this leaves the queue.

        Args:
            call: the call that the request makes.
            request: the request.
            link: the connection to its client.

        Raises:
            NotPacedError: the hub refuses the request, or is unreachable.
            ClientClosedError: the client has hung up, and the request has left the queue.
            StaleError: the signature is about to expire.
        """
        # Other hosts may use AWS's signatures, too (S3-compatible stores), but their clock and
        # their limit of age are unknown.
        validity = self._signatures.validity_of(request, time.time()) if call.of_aws else None
        key = _key_of(call, request)
        place = self._take_place(key)
        ask = self._hub.ask(call) if place is None else place.take_up(call, self._hub)
        try:
            await asyncio.wait([ask.turn], timeout=_AT_ONCE_SECONDS)
            if not ask.turn.done():
                await self._wait_long(ask, validity, link, _interims_for(request))
            if ask.turn.done():
                ask.turn.result()
                # A turn between `waits_until` and `ends` is still used.
                if validity is None or time.time() <= validity.ends:
                    ask.good_until = math.inf if validity is None else validity.ends
                    return ask
        except BaseException:  # cancelled, too: otherwise the hub would start a call of no client
            ask.leave()
            raise
        # Its turn has not come yet, or came just when the signature expired.
        self._keep(key, _KeptPlace(ask))
        raise StaleError

    async def _wait_long(
        self, ask: HubRequest, validity: Validity | None, link: HttpLink, interims: _Interims
    ) -> None:
        """Return when the turn has come, or the signature is about to expire."""
        closed, sent = asyncio.create_task(link.wait_closed()), 0
        try:
            while not ask.turn.done():
                left = math.inf if validity is None else validity.waits_until - time.time()
                if left <= 0:
                    return
                pause = min(left, interims.seconds)
                timeout = None if pause == math.inf else pause
                await asyncio.wait(
                    {ask.turn, closed}, timeout=timeout, return_when="FIRST_COMPLETED"
                )
                if closed.done():
                    closed.result()  # raises
                # `pause < left`: at the end of the last pause the client gets its response anyway.
                if not ask.turn.done() and pause < left and sent < interims.most:
                    sent += 1
                    await link.send_continue()
        finally:
            # Wait for it to end, because two tasks must not read from the client.
            closed.cancel()
            await asyncio.wait({closed})

    def _take_place(self, key: Hashable) -> _KeptPlace | None:
        """Remove and return the oldest place that is kept for a request."""
        places = self._kept.get(key)
        if not places:
            return None
        place, timer = places.popleft()
        timer.cancel()
        if not places:
            del self._kept[key]
        return place

    def _keep(self, key: Hashable, place: _KeptPlace) -> None:
        def give_up() -> None:
            # The timers of a key end in the order of its places, so the oldest is the right one.
            oldest = self._take_place(key)
            if oldest is not None:
                oldest.give_up()

        # If the client has given up, its place must not let a call start that no client sends.
        timer = asyncio.get_running_loop().call_later(_KEPT_SECONDS, give_up)
        self._kept.setdefault(key, deque()).append((place, timer))


def _interims_for(request: HttpRequest) -> _Interims:
    """Return the interim responses that a client accepts."""
    agent = request.headers.get("user-agent", "").lower()
    # In a handshake of WebSockets, anything but 101 is an error.
    if agent in _NO_INTERIMS or not request.headers.keys().isdisjoint(
        {"sec-fetch-mode", "upgrade"}
    ):
        return _Interims(math.inf, 0)
    return _Interims(48.0, 5) if any(word in agent for word in _GO) else _Interims(15.0, 90)


def _key_of(call: ApiCall, request: HttpRequest) -> Hashable:
    """Return a key that is the same for all attempts of a call."""
    invocation = request.headers.get("amz-sdk-invocation-id")
    if invocation:
        return invocation
    # Requests with the same key may swap their places, which makes no difference to the limits.
    counts = frozenset(call.parameters.items())
    return call.service, call.operation, call.region, call.key, counts
