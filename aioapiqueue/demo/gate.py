"""A gate before the mock AWS: EC2's published token buckets, and `RequestLimitExceeded` beyond.

It is a reverse proxy. Whatever it lets through is answered by the server behind it.
Figures: https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html, which keeps one
bucket for each account, Region and action. Its table of single exceptions is left out: none of
them is called here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import time
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qs

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Mapping

    from multidict import CIMultiDictProxy

__all__ = ["Bucket", "Buckets", "Counts", "Ec2Call", "Gate"]

NON_MUTATING = (100, 20)
UNFILTERED = (50, 10)
MUTATING = (50, 5)

_READS = ("Describe", "Get", "List", "Search")
_COSTLY_UNFILTERED = {
    "DescribeInstances",
    "DescribeInstanceStatus",
    "DescribeNetworkInterfaces",
    "DescribeSecurityGroups",
    "DescribeSnapshots",
    "DescribeSpotInstanceRequests",
    "DescribeVolumes",
}
_CREDENTIAL = re.compile(r"Credential=([^/]+)/\d+/([^/]+)/([^/]+)/aws4_request")
# Of one hop only (RFC 9110, 7.6.1), or for aiohttp to set anew.
_NOT_FORWARDED = {"connection", "keep-alive", "transfer-encoding", "content-length", "expect"}
# Enough to keep the mock busy; more would only have its threads compete for one interpreter.
_CONNECTIONS_BEHIND = 16


class Bucket:
    """A token bucket, full at first, with no clock of its own.

    Args:
        capacity: the most tokens it holds.
        refill: tokens that return each second.
        now: the present instant in seconds, on the clock of the later calls of `take`.
    """

    __slots__ = ("_at", "_capacity", "_refill", "_tokens")

    def __init__(self, capacity: float, refill: float, now: float) -> None:
        self._capacity = capacity
        self._refill = refill
        self._tokens = capacity
        self._at = now

    def take(self, now: float) -> bool:
        """Takes one token if there is a whole one; a refusal costs nothing."""
        self._tokens = min(self._capacity, self._tokens + (now - self._at) * self._refill)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Buckets:
    """EC2's buckets: one for each account, Region and action, made at its first call."""

    def __init__(self) -> None:
        self._buckets: dict[tuple[str, str, str, bool], Bucket] = {}

    def take(
        self, account: str, region: str, action: str, parameters: Collection[str], now: float
    ) -> bool:
        """Says whether EC2 would serve this call, and counts it if so.

        Args:
            account: whose call it is.
            region: the Region that is called.
            action: the action, such as `DescribeSnapshots`.
            parameters: the names of the call's parameters, as EC2's query protocol writes them.
            now: the present instant in seconds.
        """
        unfiltered = action in _COSTLY_UNFILTERED and not any(
            name.startswith("Filter.") or name in {"MaxResults", "NextToken"} for name in parameters
        )
        key = (account, region, action, unfiltered)
        bucket = self._buckets.get(key)
        if bucket is None:
            if unfiltered:
                capacity, refill = UNFILTERED
            elif action.startswith(_READS):
                capacity, refill = NON_MUTATING
            else:
                capacity, refill = MUTATING
            bucket = self._buckets[key] = Bucket(capacity, refill, now)
        return bucket.take(now)


@dataclasses.dataclass(slots=True)
class Counts:
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


class Gate:
    """The reverse proxy on an ephemeral port of 127.0.0.1.

    Args:
        upstream: the URL of the server behind it, without a path.
        accounts: the account of each access key; an unknown key is an account of its own.
        observe: is called with every EC2 call as it is answered, in the event loop.
    """

    def __init__(
        self,
        upstream: str,
        accounts: Mapping[str, str],
        *,
        observe: Callable[[Ec2Call], object] | None = None,
    ) -> None:
        self._upstream = upstream
        self._accounts = accounts
        self._observe = observe
        self._buckets = Buckets()
        self.counts: defaultdict[str, Counts] = defaultdict(Counts)

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        """Yields the URL under which the gate answers while the block runs."""
        connector = aiohttp.TCPConnector(limit=_CONNECTIONS_BEHIND)
        async with aiohttp.ClientSession(
            connector=connector,
            auto_decompress=False,
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            timeout=aiohttp.ClientTimeout(total=None),
        ) as session:

            async def handle(request: web.BaseRequest) -> web.StreamResponse:
                return await self._handle(request, session)

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
        if self._buckets.take(account, region, action, form, now):
            answer = await self._forward(request, body, session)
        else:
            counts.throttled += 1
            answer = _request_limit_exceeded(account, action)
        if self._observe:
            self._observe(Ec2Call(key, action, form, now, answer.status))
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
            return web.Response(status=502, text=f"No answer from behind the gate: {error!r}")


def _forwarded(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    return CIMultiDict(
        (name, value) for name, value in headers.items() if name.lower() not in _NOT_FORWARDED
    )


def _request_limit_exceeded(account: str, action: str) -> web.Response:
    return web.Response(
        status=503,
        content_type="text/xml",
        charset="utf-8",
        text=(
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            "<Response><Errors><Error><Code>RequestLimitExceeded</Code>"
            f"<Message>Request limit exceeded. Account {account} has been throttled on "
            f"ec2:{action}.</Message></Error></Errors>"
            "<RequestID>00000000-0000-0000-0000-000000000000</RequestID></Response>"
        ),
    )
