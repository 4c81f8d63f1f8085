"""Waits for the turn of a request, even longer than the client's time-out or the signature's life.

- Clients have a read time-out (60 seconds in boto3). So they are sent an interim response from time
  to time, which restarts the time-out.
- AWS refuses signatures older than five minutes. So after some minutes the client gets a response
  as if it were throttled: it signs the request again and retries. The retry overtakes all calls
  that wait then, as they have not waited for as long. It is recognized by the id that the SDKs of
  AWS give to all attempts of a call, or else by the kind of call and the account.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import math
import time
from collections import deque
from typing import TYPE_CHECKING

from aioapiqueue_run.gateway.hub_client import NotPacedError

if TYPE_CHECKING:
    from collections.abc import Hashable

    from aioapiqueue_run.gateway.calls import ApiCall, HttpRequest
    from aioapiqueue_run.gateway.hub_client import HubRequest, RunHubClient
    from aioapiqueue_run.gateway.link import HttpLink

__all__ = ["HubTurns", "StaleError"]

_AT_ONCE_SECONDS = 0.05
"""Most turns come within this time. Only a longer wait is worth a task that watches the client."""
_HOLD_SECONDS = 240.0
"""Age of a signature at which the client of a waiting request is asked to sign again."""
_OLDEST_SECONDS = 290.0
"""Age at which a request is no longer sent: ten seconds are left for its way and AWS's clock."""
_RETRY_SECONDS = 30.0
"""Time in which a retry is expected: before they retry, SDKs pause for up to 20 s."""
_INTERIM_SECONDS = 20.0
"""Interval between interim responses. The shortest read time-outs in use are 30 seconds."""
_MOST_CONTINUES = 90
"""Most times that a request gets `100 Continue`. New versions of Python and Ruby accept 100."""
_GO = ("go-http-client", "aws-sdk-go", "golang")
"""Parts of the User-Agent of Go, whose time-outs interim responses do not restart. It has none by
default, and before 1.24 it fails at the sixth interim response, whichever these are."""


class StaleError(Exception):
    """Raised if the client has to sign its request again. The retry overtakes waiting calls."""


class HubTurns:
    """Waits for the turns of all requests.

    Args:
        hub: the connection to the hub.
    """

    def __init__(self, hub: RunHubClient) -> None:
        self._hub = hub
        self._retries: dict[Hashable, deque[asyncio.TimerHandle]] = {}
        """The timers of expected retries, the oldest first."""

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
        key = _key_of(call, request)
        is_retry = self._forget_retry(key)
        # Other hosts may use AWS's signatures, too (S3-compatible stores), but their clock and
        # their limit of age are unknown.
        signed = _signed_at(request, is_retry=is_retry) if call.of_aws else math.inf
        ask = self._hub.ask(call, again=is_retry)
        try:
            await asyncio.wait([ask.turn], timeout=_AT_ONCE_SECONDS)
            if not ask.turn.done():
                most = _most_interims(request, link)
                await link.while_connected(_wait_long(ask, signed + _HOLD_SECONDS, link, most))
            if ask.turn.done():
                ask.turn.result()
                # A turn between both ages is still used.
                ask.good_until = signed + _OLDEST_SECONDS
                if time.time() <= ask.good_until:
                    return ask
        except BaseException:  # cancelled, too: otherwise the hub would start a call of no client
            ask.leave()
            raise
        # Its turn has not come yet, or came just when the signature expired.
        ask.leave()
        self._expect_retry(key)
        raise StaleError

    def check(self, turn: HubRequest, call: ApiCall, request: HttpRequest) -> None:
        """Check that a request may still be sent.

        Args:
            turn: the turn of the request.
            call: the call that the request makes.
            request: the request.

        Raises:
            NotPacedError: the hub has ended, without which nothing may be sent.
            StaleError: the signature has expired.
        """
        if self._hub.lost.is_set():
            raise NotPacedError(self._hub.why)
        if time.time() > turn.good_until:
            self._expect_retry(_key_of(call, request))
            raise StaleError

    def _expect_retry(self, key: Hashable) -> None:
        timer = asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._forget_retry, key)
        self._retries.setdefault(key, deque()).append(timer)

    def _forget_retry(self, key: Hashable) -> bool:
        """Stop expecting the oldest retry of a request; return whether there was one."""
        timers = self._retries.get(key)
        if not timers:
            return False
        timers.popleft().cancel()
        if not timers:
            del self._retries[key]
        return True


async def _wait_long(ask: HubRequest, until: float, link: HttpLink, most_interims: float) -> None:
    """Return when the turn has come, or the signature is about to expire."""
    sent = 0
    while not ask.turn.done() and (left := until - time.time()) > 0:
        pause = min(left, _INTERIM_SECONDS) if sent < most_interims else left
        await asyncio.wait([ask.turn], timeout=None if pause == math.inf else pause)
        # `pause < left`: at the end of the last pause the client gets its response anyway.
        if not ask.turn.done() and pause < left:
            sent += 1
            await link.send_interim()


def _signed_at(request: HttpRequest, *, is_retry: bool) -> float:
    """Return when a request was signed, as from `time.time()`; infinity if it is not signed."""
    if "authorization" not in request.headers:
        return math.inf
    try:
        date = dt.datetime.strptime(request.headers.get("x-amz-date", ""), "%Y%m%dT%H%M%S%z")
    except ValueError:
        return math.inf
    signed, now = date.timestamp(), time.time()
    # A retry was signed just now. If that seems to be long ago, the clock of this machine is wrong:
    # SDKs notice it in AWS's responses, and then sign with AWS's time.
    return now if is_retry or signed > now else signed


def _most_interims(request: HttpRequest, link: HttpLink) -> float:
    agent = request.headers.get("user-agent", "").lower()
    # In a handshake of WebSockets, anything but 101 is an error.
    if "upgrade" in request.headers or any(word in agent for word in _GO):
        return 0
    return math.inf if link.accepts_processing else _MOST_CONTINUES


def _key_of(call: ApiCall, request: HttpRequest) -> Hashable:
    """Return a key that is the same for all attempts of a call."""
    invocation = request.headers.get("amz-sdk-invocation-id")
    if invocation:
        return invocation
    # Requests with the same key may swap their places, which makes no difference to the limits.
    counts = frozenset(call.parameters.items())
    return call.service, call.operation, call.region, call.key, counts
