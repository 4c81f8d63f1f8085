"""One way to use every HTTP client that is paced."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib import import_module
from typing import IO, TYPE_CHECKING, Any, Self, TypeAlias

from anyio.from_thread import BlockingPortal

from aioapiqueue import ApiQueue
from aioapiqueue.threads import blocking

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

PATIENCE = 60.0  # seconds: far more than anything here takes, for busy machines


class HttpxClient:
    """Requests by httpx or httpx2."""

    def __init__(self, library: str, queue, *, read_timeout, **pacing) -> None:
        integration = import_module(f"aioapiqueue.integrations.{library}")
        self.library = import_module(library)
        self.errors = (self.library.TransportError,)
        self._client = self.library.AsyncClient(
            transport=integration.RateLimitedTransport(
                queue, limits=limits(self.library), verify=False, trust_env=False, **pacing
            ),
            timeout=self.library.Timeout(PATIENCE, read=read_timeout),
            follow_redirects=True,
        )

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._client.__aexit__(*exc)

    async def get(self, url: str) -> int:
        """Return the status, once the body is there."""
        return (await self._client.get(url)).status_code

    async def fetch(self, url: str, method: str = "GET", body: Any = None) -> tuple[int, bytes]:
        """Return the status and the body, decoded."""
        response = await self._client.request(method, url, content=body)
        return response.status_code, response.content

    async def upload(self, url: str, file: IO[bytes]) -> int:
        """Post a file; return the status."""
        return (await self._client.post(url, files={"file": file})).status_code

    @staticmethod
    def one_shot(chunk: bytes) -> Any:
        """Return a body that can be sent once."""

        async def chunks() -> AsyncIterator[bytes]:
            yield chunk

        return chunks()

    @asynccontextmanager
    async def stream(self, url: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """Yield the chunks of a body."""
        async with self._client.stream("GET", url) as response:
            yield response.aiter_raw()

    async def unread(self, url: str) -> object:
        """Return a response as soon as its head is there."""
        return await self._client.send(self._client.build_request("GET", url), stream=True)


def limits(library: Any) -> Any:
    """Return limits of a pool that closes nothing and refuses nothing.

    By default it keeps 20 idle connections and opens 100, too few for 20 busy hosts; and it may
    close an idle one, after 5 seconds, while a request is being sent on it.
    """
    return library.Limits(
        max_connections=None, max_keepalive_connections=None, keepalive_expiry=None
    )


class AiohttpClient:
    """Requests by aiohttp."""

    def __init__(self, queue, *, read_timeout, **pacing) -> None:
        import aiohttp

        from aioapiqueue.integrations.aiohttp import RateLimitedMiddleware

        self.errors = (aiohttp.ClientError, TimeoutError)
        self._session = aiohttp.ClientSession(
            middlewares=[RateLimitedMiddleware(queue, **pacing)],
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(sock_read=read_timeout),
        )

    async def __aenter__(self) -> Self:
        await self._session.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._session.__aexit__(*exc)

    async def get(self, url: str) -> int:
        """Return the status, once the body is there."""
        return (await self.fetch(url))[0]

    async def fetch(self, url: str, method: str = "GET", body: Any = None) -> tuple[int, bytes]:
        """Return the status and the body, decoded."""
        async with self._session.request(method, url, data=body) as response:
            return response.status, await response.read()

    async def upload(self, url: str, file: IO[bytes]) -> int:
        """Post a file; return the status."""
        return (await self.fetch(url, "POST", file))[0]

    one_shot = staticmethod(HttpxClient.one_shot)

    @asynccontextmanager
    async def stream(self, url: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """Yield the chunks of a body."""
        async with self._session.get(url) as response:
            yield response.content.iter_any()

    async def unread(self, url: str) -> object:
        """Return a response as soon as its head is there."""
        return await self._session.get(url)


class BlockingClient:
    """Requests by a client that blocks, in threads; the queue is on the loop of the test."""

    errors: tuple[type[Exception], ...]

    def __init__(self, queue: Any) -> None:
        self._threads = ThreadPoolExecutor(64)
        self._portal = BlockingPortal()
        is_queue = isinstance(queue, ApiQueue)
        self.queue = blocking(queue, portal=self._portal) if is_queue else queue

    async def __aenter__(self) -> Self:
        await self._portal.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.run(self.close)
        self._threads.shutdown(wait=False)
        await self._portal.__aexit__(*exc)

    async def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function in a thread, and have the loop do what the thread asked of it."""
        result = await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)
        await asyncio.sleep(0)  # Python 3.14 goes on without a pass of the loop if it has ended
        return result

    def close(self) -> None:
        """Close the client."""
        raise NotImplementedError

    async def get(self, url: str) -> int:
        """Return the status, once the body is there."""
        return (await self.fetch(url))[0]

    async def fetch(self, url: str, method: str = "GET", body: Any = None) -> tuple[int, bytes]:
        """Return the status and the body, decoded."""
        raise NotImplementedError

    async def upload(self, url: str, file: IO[bytes]) -> int:
        """Post a file; return the status."""
        return (await self.fetch(url, "POST", file))[0]

    @staticmethod
    def one_shot(chunk: bytes) -> Any:
        """Return a body that can be sent once."""
        return iter([chunk])

    @asynccontextmanager
    async def stream(self, url: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """Yield the chunks of a body."""
        response = await self.unread(url)
        try:
            yield self._chunks(self.iterate(response))
        finally:
            await self.run(response.close)

    async def _chunks(self, chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
        while (chunk := await self.run(next, chunks, None)) is not None:
            yield chunk

    async def unread(self, url: str) -> Any:
        """Return a response as soon as its head is there."""
        raise NotImplementedError

    def iterate(self, response: Any) -> Iterator[bytes]:
        """Iterate over a body as it comes."""
        raise NotImplementedError


class SyncHttpxClient(BlockingClient):
    """Requests by httpx or httpx2, in threads."""

    def __init__(self, library: str, queue, *, read_timeout, **pacing) -> None:
        super().__init__(queue)
        integration = import_module(f"aioapiqueue.integrations.{library}")
        self.library = import_module(library)
        self.errors = (self.library.TransportError,)
        self._client = self.library.Client(
            transport=integration.SyncRateLimitedTransport(
                self.queue, limits=limits(self.library), verify=False, trust_env=False, **pacing
            ),
            timeout=self.library.Timeout(PATIENCE, read=read_timeout),
            follow_redirects=True,
        )

    def close(self) -> None:
        self._client.close()

    async def fetch(self, url: str, method: str = "GET", body: Any = None) -> tuple[int, bytes]:
        response = await self.run(lambda: self._client.request(method, url, content=body))
        return response.status_code, response.content

    async def unread(self, url: str) -> Any:
        request = self._client.build_request("GET", url)
        return await self.run(lambda: self._client.send(request, stream=True))

    def iterate(self, response: Any) -> Iterator[bytes]:
        return response.iter_raw()


class RequestsClient(BlockingClient):
    """Requests by requests, in threads."""

    def __init__(self, queue, *, read_timeout, **pacing) -> None:
        import requests

        from aioapiqueue.integrations.requests import RateLimitedAdapter

        super().__init__(queue)
        self.errors = (requests.RequestException,)
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.mount("http://", RateLimitedAdapter(self.queue, pool_maxsize=100, **pacing))
        self._timeout = (PATIENCE, read_timeout)

    def close(self) -> None:
        self.session.close()

    def _request(self, method: str, url: str, **how: Any) -> Any:
        return self.session.request(method, url, timeout=self._timeout, **how)

    async def fetch(self, url: str, method: str = "GET", body: Any = None) -> tuple[int, bytes]:
        response = await self.run(lambda: self._request(method, url, data=body))
        return response.status_code, response.content

    async def unread(self, url: str) -> Any:
        return await self.run(lambda: self._request("GET", url, stream=True))

    def iterate(self, response: Any) -> Iterator[bytes]:
        return response.iter_content(1)  # else it waits for all of it


Client: TypeAlias = HttpxClient | AiohttpClient | SyncHttpxClient | RequestsClient
