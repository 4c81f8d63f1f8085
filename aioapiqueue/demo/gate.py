"""A gate before the mock AWS: EC2's published token buckets, and `RequestLimitExceeded` beyond.

It is a reverse proxy. What it lets through is answered by the server behind it. As EC2 does, it
keeps a bucket for each account, Region and action: that for all that read, for reading without a
filter, or for all else. What is published of single actions is left out: none is called here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import re
import time
from collections import defaultdict
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

__all__ = ["EC2_READS", "Ec2Call", "KeyCounts", "MockBucket", "MockBuckets", "ThrottlingProxy"]

_PUBLISHED = {limit.name: limit for limit in published_limits("ec2")}
EC2_READS = _PUBLISHED["non-mutating"].rate
"""What EC2 publishes for each action that reads: 100 calls at once, then 20 per second."""
_CREDENTIAL = re.compile(r"Credential=([^/]+)/\d+/([^/]+)/([^/]+)/aws4_request")
# Of one hop only (RFC 9110, 7.6.1), or for aiohttp to set.
_NOT_FORWARDED = {"connection", "keep-alive", "transfer-encoding", "content-length", "expect"}
# Enough to keep the mock busy; more would only have its threads compete for one interpreter.
_CONNECTIONS_BEHIND = 16
_REFUSAL = """\
<?xml version="1.0" encoding="UTF-8"?>
<Response><Errors><Error><Code>RequestLimitExceeded</Code><Message>Request limit exceeded. \
Account {account} has been throttled on ec2:{action}.</Message></Error></Errors>\
<RequestID>00000000-0000-0000-0000-000000000000</RequestID></Response>"""


class MockBucket:
    """A token bucket, full at first, with no clock of its own.

    Args:
        capacity: the most tokens it holds.
        refill: tokens that return each second.
        now: the present instant in seconds, on the clock of the later calls of `try_consume`.
    """

    __slots__ = ("_at", "_capacity", "_refill", "_tokens")

    def __init__(self, capacity: float, refill: float, now: float) -> None:
        self._capacity = capacity
        self._refill = refill
        self._tokens = capacity
        self._at = now

    def try_consume(self, now: float) -> bool:
        """Consume a token if there is a whole one, and return whether; a refusal costs nothing."""
        self._tokens = min(self._capacity, self._tokens + (now - self._at) * self._refill)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class MockBuckets:
    """EC2's buckets: one for each account, Region and action, made at its first call.

    Args:
        scale: the factor by which capacity and refill differ from EC2's. Default 1.
    """

    def __init__(self, *, scale: float = 1.0) -> None:
        self._scale = scale
        self._buckets: dict[tuple[str, ...], MockBucket] = {}

    def try_consume(
        self, account: str, region: str, action: str, parameters: Collection[str], now: float
    ) -> bool:
        """Count a call if EC2 would serve it, and return whether.

        Args:
            account: whose call it is.
            region: the Region that is called.
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
    """Return the name of the published limit that a call comes under."""
    unfiltered = _PUBLISHED["unfiltered"]
    # The query protocol writes `Filters` as `Filter.1.Name` and so on.
    given = {"Filters" if name.startswith("Filter.") else name for name in parameters}
    if action in unfiltered.operations and given.isdisjoint(unfiltered.unless_params):
        return "unfiltered"
    return (
        "non-mutating" if matches_any(action, _PUBLISHED["non-mutating"].operations) else "mutating"
    )


@dataclasses.dataclass(slots=True)
class KeyCounts:
    """What one access key sent: HTTP requests, those among them to EC2, and those throttled."""

    calls: int = 0
    ec2_calls: int = 0
    throttled: int = 0


class Ec2Call(NamedTuple):
    """One HTTP request to EC2, as the gate saw it.

    Attributes:
        key: the access key that signed it.
        action: what was asked for, such as `DescribeSnapshots`.
        parameters: the form's values by name, as EC2's query protocol writes them.
        arrived: the instant in seconds, of `time.monotonic`.
        status: of the answer; 503 if the gate refused.
    """

    key: str
    action: str
    parameters: Mapping[str, list[str]]
    arrived: float
    status: int


class ThrottlingProxy:
    """The reverse proxy on an ephemeral port of 127.0.0.1.

    Args:
        upstream: the URL of the server behind it, without a path.
        accounts: the account of each access key; an unknown key is an account of its own.
        watch: called with each answered request to EC2; default: nobody is.
        scale: the factor by which the limits differ from EC2's. Default 1.

    Attributes:
        counts: what each access key has sent.
        ec2_calls: every answered request to EC2.
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
        self.counts: defaultdict[str, KeyCounts] = defaultdict(KeyCounts)
        self.ec2_calls: list[Ec2Call] = []
        self._upstream = upstream
        self._accounts = accounts
        self._buckets = MockBuckets(scale=scale)

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        """Yield the URL under which the gate answers while the block runs."""
        connector = aiohttp.TCPConnector(limit=_CONNECTIONS_BEHIND)
        async with aiohttp.ClientSession(
            connector=connector,
            auto_decompress=False,
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
        counts = self.counts[key]
        counts.calls += 1
        if service != "ec2":
            return await self._forward(request, body, session)
        counts.ec2_calls += 1
        now = time.monotonic()
        form = parse_qs(body.decode(), keep_blank_values=True)
        action = form.get("Action", [""])[0]
        account = self._accounts.get(key, key)
        if self._buckets.try_consume(account, region, action, form, now):
            answer = await self._forward(request, body, session)
        else:
            counts.throttled += 1
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
                URL(f"{self._upstream}{request.raw_path}", encoded=True),  # as it was signed
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
