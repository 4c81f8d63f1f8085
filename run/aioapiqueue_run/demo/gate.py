"""A reverse proxy that throttles calls to a mock EC2, with the token buckets that AWS publishes.

Calls within the limits are forwarded to the server behind it; others get `RequestLimitExceeded`.
Like EC2, it has a bucket for each account, Region and action, of one of three kinds: for actions
that read, for reading without a filter, and for actions that write. The published limits of single
actions are left out, because the demonstration calls none of these actions.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import re
import time
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qs

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from aioapiqueue.registry.spi import matches_any, published_limits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Mapping

    from multidict import CIMultiDictProxy

__all__ = ["EC2_READS", "Ec2Call", "ThrottlingProxy"]

_PUBLISHED = {limit.name: limit for limit in published_limits("ec2")}
EC2_READS = _PUBLISHED["non-mutating"].rate
"""The limit that AWS publishes for each action of EC2 that reads: 100 calls at once, then 20/s."""
_CREDENTIAL = re.compile(r"Credential=([^/]+)/\d+/([^/]+)/([^/]+)/aws4_request")
# Headers that concern a single hop (RFC 9110, 7.6.1), or that aiohttp sets.
_NOT_FORWARDED = {"connection", "keep-alive", "transfer-encoding", "content-length", "expect"}
# Enough to keep the mock busy. With more, its threads would compete for one interpreter lock.
_CONNECTIONS_BEHIND = 16
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
    """EC2's buckets: one for each account, Region and action, made when it is first called.

    Args:
        scale: capacity and refill as a multiple of EC2's. Default: 1.
    """

    def __init__(self, *, scale: float = 1.0) -> None:
        self._scale = scale
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
            rate, scale = _PUBLISHED[name].rate, self._scale
            self._buckets[key] = MockBucket(rate.burst * scale, rate.calls / rate.per * scale, now)
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


@dataclasses.dataclass(frozen=True)
class KeyCounts:
    """The HTTP requests of one access key: all, those to EC2, and those that were throttled."""

    calls: int
    ec2_calls: int
    throttled: int


class Ec2Call(NamedTuple):
    """One HTTP request to EC2.

    Attributes:
        key: the access key that signed it.
        action: the action, such as `DescribeSnapshots`.
        parameters: the values of the form by name, as EC2's query protocol writes them.
        arrived: the time of `time.monotonic` at which it arrived.
        status: the HTTP status of the response.
    """

    key: str
    action: str
    parameters: Mapping[str, list[str]]
    arrived: float
    status: int

    @property
    def throttled(self) -> bool:
        """Whether the proxy throttled it."""
        return self.status == 503  # noqa: PLR2004 - as EC2 does


class ThrottlingProxy:
    """The reverse proxy, on a free port of 127.0.0.1.

    Args:
        upstream: the URL of the server behind it, without a path.
        accounts: the account of each access key; an unknown key has an account of its own.
        watch: called with each request to EC2 after its response is known. Default: none.
        scale: the limits as a multiple of EC2's. Default: 1.

    Attributes:
        requests: number of requests of each access key, to all services.
        ec2_calls: the requests to EC2, in the order of their responses.
    """

    def __init__(
        self,
        upstream: str,
        accounts: Mapping[str, str],
        *,
        watch: Callable[[Ec2Call], None] | None = None,
        scale: float = 1.0,
    ) -> None:
        self._watch = watch
        self.requests: Counter[str] = Counter()
        self.ec2_calls: list[Ec2Call] = []
        self._upstream = upstream
        self._accounts = accounts
        self._buckets = MockBuckets(scale=scale)

    def counts_of(self, key: str) -> KeyCounts:
        """Return the number of requests of an access key."""
        throttled = [call.throttled for call in self.ec2_calls if call.key == key]
        return KeyCounts(self.requests[key], len(throttled), sum(throttled))

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        """Yield the URL of the proxy, which listens while the block runs."""
        connector = aiohttp.TCPConnector(limit=_CONNECTIONS_BEHIND)
        async with aiohttp.ClientSession(
            connector=connector,
            auto_decompress=False,  # bodies are forwarded as they are
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            timeout=aiohttp.ClientTimeout(total=None),
        ) as session:
            handle = functools.partial(self._handle, session=session)
            runner = web.ServerRunner(web.Server(handle), shutdown_timeout=1)
            await runner.setup()
            try:
                await web.TCPSite(runner, "127.0.0.1", 0).start()
                host, port = runner.addresses[0][:2]
                yield f"http://{host}:{port}"
            finally:
                await runner.cleanup()

    async def _handle(
        self, request: web.BaseRequest, session: aiohttp.ClientSession
    ) -> web.Response:
        body = await request.read()
        credential = _CREDENTIAL.search(request.headers.get("Authorization", ""))
        key, region, service = credential.groups() if credential else ("", "", "")
        self.requests[key] += 1
        if service != "ec2":
            return await self._forward(request, body, session)
        now = time.monotonic()
        form = parse_qs(body.decode(), keep_blank_values=True)
        action = form.get("Action", [""])[0]
        account = self._accounts.get(key, key)
        if self._buckets.try_consume(account, region, action, form, now):
            answer = await self._forward(request, body, session)
        else:
            text = _REFUSAL.format(account=account, action=action)
            answer = web.Response(status=503, content_type="text/xml", charset="utf-8", text=text)
        call = Ec2Call(key, action, form, now, answer.status)
        self.ec2_calls.append(call)
        if self._watch is not None:
            self._watch(call)
        return answer

    async def _forward(
        self, request: web.BaseRequest, body: bytes, session: aiohttp.ClientSession
    ) -> web.Response:
        try:
            async with session.request(
                request.method,
                # Not encoded again: the client has signed the path as it is.
                URL(f"{self._upstream}{request.raw_path}", encoded=True),
                headers=_forwarded(request.headers),
                data=body or None,
                allow_redirects=False,
            ) as answer:
                return web.Response(
                    status=answer.status,
                    body=await answer.read(),
                    headers=_forwarded(answer.headers),
                )
        except aiohttp.ClientConnectionError as error:
            return web.Response(status=502, text=f"No response from the mock server: {error!r}")


def _forwarded(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    return CIMultiDict(
        (name, value) for name, value in headers.items() if name.lower() not in _NOT_FORWARDED
    )
