"""A server that throttles calls to a mock EC2, with the token buckets that AWS publishes.

Calls above the limits get `RequestLimitExceeded`; a function that the server is given answers all
others. Like EC2, it has a bucket for each account, Region and action, of one of three kinds: for
actions that read, for reading without a filter, and for actions that write. The published limits of
single actions are left out, because the demonstration calls none of these actions.
"""

from __future__ import annotations

import contextlib
import re
import time
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qs

from aiohttp import web

from aioapiqueue.registry.spi import matches_any, published_limits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping

    Answer = Callable[[web.BaseRequest, Mapping[str, list[str]]], Awaitable[web.Response]]

__all__ = ["EC2_READS", "ThrottlingServer"]

_PUBLISHED = {limit.name: limit for limit in published_limits("ec2")}
EC2_READS = _PUBLISHED["non-mutating"].rate
"""The limit that AWS publishes for each action of EC2 that reads: 100 calls at once, then 20/s."""
_CREDENTIAL = re.compile(r"Credential=([^/]+)/\d+/([^/]+)/([^/]+)/aws4_request")
_THROTTLED = 503
_REFUSAL = """\
<?xml version="1.0" encoding="UTF-8"?>
<Response><Errors><Error><Code>RequestLimitExceeded</Code><Message>Request limit exceeded. \
Account {account} has been throttled on ec2:{action}.</Message></Error></Errors>\
<RequestID>00000000-0000-0000-0000-000000000000</RequestID></Response>"""


class MockBucket:
    """A token bucket that is full at first. It reads no clock.

    Args:
        capacity: the largest number of tokens.
        refill: tokens added per second.
        now: the present instant in seconds, on the clock of the later calls of `try_consume`.
    """

    __slots__ = ("_at", "_capacity", "_refill", "_tokens")

    def __init__(self, capacity: float, refill: float, now: float) -> None:
        self._capacity = capacity
        self._refill = refill
        self._tokens = capacity
        self._at = now

    def try_consume(self, now: float) -> bool:
        """Consume a token if there is a whole one, and return whether there was."""
        self._tokens = min(self._capacity, self._tokens + (now - self._at) * self._refill)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class MockBuckets:
    """EC2's buckets: one for each account, Region and action, made when it is first called."""

    def __init__(self) -> None:
        self._buckets: dict[tuple[str, ...], MockBucket] = {}

    def try_consume(
        self, account: str, region: str, action: str, parameters: Collection[str], now: float
    ) -> bool:
        """Charge a call and return whether EC2 would serve it; otherwise charge nothing.

        Args:
            account: the account that makes the call.
            region: the Region of the call.
            action: the action, such as `DescribeSnapshots`.
            parameters: the names of the call's parameters, as EC2's query protocol writes them.
            now: the present instant in seconds.
        """
        name = _kind(action, parameters)
        key = (account, region, action, name)
        if key not in self._buckets:
            rate = _PUBLISHED[name].rate
            self._buckets[key] = MockBucket(rate.burst, rate.calls / rate.per, now)
        return self._buckets[key].try_consume(now)


def _kind(action: str, parameters: Collection[str]) -> str:
    """Return the name of the published limit that applies to a call."""
    unfiltered = _PUBLISHED["unfiltered"]
    # The query protocol writes `Filters` as `Filter.1.Name` and so on.
    given = {"Filters" if name.startswith("Filter.") else name for name in parameters}
    if action in unfiltered.operations and given.isdisjoint(unfiltered.unless_params):
        return "unfiltered"
    return (
        "non-mutating" if matches_any(action, _PUBLISHED["non-mutating"].operations) else "mutating"
    )


class GateRequest(NamedTuple):
    """One HTTP request.

    Attributes:
        key: the access key that signed it.
        service: the service's name, such as `ec2`.
        action: the action, such as `DescribeSnapshots`; "" if the service does not name it in a
            form.
        parameters: the values of the form by name, as EC2's query protocol writes them.
        arrived: the time of `time.monotonic` at which it arrived.
        status: the HTTP status of the response; 503 if the server throttled it.
    """

    key: str
    service: str
    action: str
    parameters: Mapping[str, list[str]]
    arrived: float
    status: int

    @property
    def is_ec2(self) -> bool:
        """Whether it is a request to EC2."""
        return self.service == "ec2"

    @property
    def is_throttled(self) -> bool:
        """Whether the server throttled it."""
        return self.is_ec2 and self.status == _THROTTLED


class ThrottlingServer:
    """An HTTP server on a free port of 127.0.0.1 that throttles calls to EC2.

    Args:
        answer: returns the response to a request that is not throttled, given the request and the
            values of its form.
        accounts: the account of each access key; an unknown key has an account of its own.

    Attributes:
        requests: all requests, in the order of their responses.
    """

    def __init__(self, answer: Answer, accounts: Mapping[str, str]) -> None:
        self.requests: list[GateRequest] = []
        self._answer = answer
        self._accounts = accounts
        self._buckets = MockBuckets()

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        """Yield the URL of the server, which listens while the block runs."""
        runner = web.ServerRunner(web.Server(self._handle), shutdown_timeout=1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            host, port = runner.addresses[0][:2]
            yield f"http://{host}:{port}"
        finally:
            await runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.Response:
        body = await request.read()
        credential = _CREDENTIAL.search(request.headers.get("Authorization", ""))
        key, region, service = credential.groups() if credential else ("", "", "")
        now = time.monotonic()
        form = parse_qs(body.decode(errors="replace"), keep_blank_values=True)
        action = form.get("Action", [""])[0]
        account = self._accounts.get(key, key)
        if service != "ec2" or self._buckets.try_consume(account, region, action, form, now):
            answer = await self._answer(request, form)
        else:
            text = _REFUSAL.format(account=account, action=action)
            answer = web.Response(status=_THROTTLED, content_type="text/xml", text=text)
        self.requests.append(GateRequest(key, service, action, form, now, answer.status))
        return answer

    def of_key(self, key: str) -> list[GateRequest]:
        """Return the requests that an access key signed."""
        return [one for one in self.requests if one.key == key]
