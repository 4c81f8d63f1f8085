"""Waits for the turn of a request, for longer than its client or its signature would bear.

- A client whose read time-out runs (60 seconds in boto3) is sent an interim answer now and then,
  `100 Continue`, after which the time-out starts again.
- A signature grows old. So after a while the client is answered as a throttled one is: it signs
  again, and comes again. Meanwhile its place is kept, under the id that AWS's SDKs give all tries
  of a call; where there is none, for any request that is the same kind of call of the same account.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from aioapiqueue.gateway._signatures import Signatures

if TYPE_CHECKING:
    from collections.abc import Hashable

    from aioapiqueue.gateway._calls import ApiCall, HttpRequest
    from aioapiqueue.gateway._hub_client import HubRequest, RunHubClient
    from aioapiqueue.gateway._link import HttpLink
    from aioapiqueue.gateway._signatures import Validity

__all__ = ["HubTurns", "StaleError"]

_AT_ONCE_SECONDS = 0.05
"""In which most turns come; meanwhile, nobody looks whether the client has hung up."""
_GO = ("go-http-client", "aws-sdk-go", "golang")
"""In User-Agent, of clients that give up at the sixth interim answer: Go before 1.24. They have no
time-out by default."""
_NEVER = ("undici", "node")
"""The same, of those that take one which they have not asked for as an error: fetch of Node.js. Its
time-out is 300 s, which is longer than the life of a signature."""
_KEPT_SECONDS = 30.0
"""How long a place is kept for a client that comes again: in between, SDKs pause for up to 20 s."""


class _Interims(NamedTuple):
    """The interim answers to a client.

    Attributes:
        seconds: from one to the next. The shortest read time-outs in use are 30 seconds.
        most: of one request. Newer Pythons and Rubies give up at more than 100.
    """

    seconds: float
    most: int


class StaleError(Exception):
    """Raised where a client has to sign its request again; its place is kept."""


class _KeptPlace:
    """A place in line, whose client is to come again.

    If its turn comes meanwhile, that is for others: the client will go before all who wait then.

    Args:
        ask: the request at the hub.
    """

    def __init__(self, ask: HubRequest) -> None:
        self._ask = ask
        self._missed = self._taken = False
        ask.turn.add_done_callback(self._give_back)

    def take_up(self, call: ApiCall, hub: RunHubClient) -> HubRequest:
        """Return the request at the hub, now that its client is there again."""
        # If its turn has come in this very moment, `_give_back` is still to be called.
        self._taken = True
        return hub.ask(call, again=True) if self._missed else self._ask

    def give_up(self) -> None:
        """Leave the line."""
        if not self._missed:
            self._ask.leave()

    def _give_back(self, turn: asyncio.Future[None]) -> None:
        # Refused ones are refused once more, when the client comes.
        if not self._taken and not turn.cancelled() and turn.exception() is None:
            self._missed = True
            self._ask.leave()


class HubTurns:
    """Asks the hub for all requests, and keeps places.

    Args:
        hub: which is asked.
    """

    def __init__(self, hub: RunHubClient) -> None:
        self._hub = hub
        self._signatures = Signatures()
        self._kept: dict[Hashable, deque[tuple[_KeptPlace, asyncio.TimerHandle]]] = {}

    def note_date(self, date: str) -> None:
        """Note the time of an answer's server, by its header."""
        self._signatures.note_date(date, time.time())

    async def wait(self, call: ApiCall, request: HttpRequest, link: HttpLink) -> HubRequest:
        """Wait for a turn; return it. Cancelled, the request leaves the line.

        Args:
            call: what the request is.
            request: which.
            link: to its client.

        Raises:
            NotPacedError: the hub refuses, or cannot be asked.
            ClientClosedError: the client has hung up, and the request left the line.
            StaleError: the signature is about to be too old.
        """
        # Of others that are signed as AWS is, neither the clock is known nor the age they take.
        validity = self._signatures.validity_of(request, time.time()) if call.of_aws else None
        key = _key_of(call, request)
        place = self._taken_up(key)
        ask = self._hub.ask(call) if place is None else place.take_up(call, self._hub)
        try:
            await asyncio.wait([ask.turn], timeout=_AT_ONCE_SECONDS)
            if not ask.turn.done():
                await self._wait_long(ask, validity, link, _interims_for(request))
            if ask.turn.done():
                ask.turn.result()
                if validity is None or time.time() <= validity.ends:
                    ask.good_until = math.inf if validity is None else validity.ends
                    return ask
        except BaseException:
            ask.leave()
            raise
        # Its turn has not come yet, or in the very moment in which the signature grew too old.
        self._keep(key, _KeptPlace(ask))
        raise StaleError

    async def _wait_long(
        self, ask: HubRequest, validity: Validity | None, link: HttpLink, interims: _Interims
    ) -> None:
        """Return once the turn has come, or the signature has to be made again."""
        gone, sent = asyncio.create_task(link.wait_closed()), 0
        try:
            while not ask.turn.done():
                left = math.inf if validity is None else validity.waits_until - time.time()
                if left <= 0:
                    return
                pause = min(left, interims.seconds)
                timeout = None if pause == math.inf else pause
                await asyncio.wait({ask.turn, gone}, timeout=timeout, return_when="FIRST_COMPLETED")
                if gone.done():
                    gone.result()  # raises
                if not ask.turn.done() and pause < left and sent < interims.most:
                    sent += 1
                    await link.go_on()
        finally:
            # Before anything else is read from the client.
            gone.cancel()
            await asyncio.wait({gone})

    def _taken_up(self, key: Hashable) -> _KeptPlace | None:
        """Return the place that was kept for a request, the one that is kept for longest."""
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
            # The timers of a key run out in the order in which its places were kept.
            given_up = self._taken_up(key)
            if given_up is not None:
                given_up.give_up()

        timer = asyncio.get_running_loop().call_later(_KEPT_SECONDS, give_up)
        self._kept.setdefault(key, deque()).append((place, timer))


def _interims_for(request: HttpRequest) -> _Interims:
    """Return which interim answers a client bears."""
    agent = request.headers.get("user-agent", "").lower()
    # Clients take anything but 101 for the end of a WebSocket's handshake.
    if agent in _NEVER or not request.headers.keys().isdisjoint({"sec-fetch-mode", "upgrade"}):
        return _Interims(math.inf, 0)
    return _Interims(48.0, 5) if any(word in agent for word in _GO) else _Interims(15.0, 90)


def _key_of(call: ApiCall, request: HttpRequest) -> Hashable:
    """Return what the tries of one call have in common."""
    mark = request.headers.get("amz-sdk-invocation-id")
    if mark:
        return mark
    counts = frozenset(call.parameters.items())
    return call.service, call.operation, call.region, call.key, counts
