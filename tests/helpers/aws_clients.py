"""One way to use the clients of botocore, in threads, and those of aiobotocore."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import botocore.session
from anyio.from_thread import BlockingPortal
from botocore.config import Config
from botocore.credentials import DeferredRefreshableCredentials

from aioapiqueue import ApiQueue
from aioapiqueue.threads import blocking
from tests.helpers import introspect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from aioapiqueue.registry import Registry

CREDENTIALS = {"aws_access_key_id": "AKIDEXAMPLE", "aws_secret_access_key": "secret"}
PATIENCE = 60.0  # seconds: far more than anything here takes, for busy machines


class Coroutines:
    """Calls by aiobotocore; the queue is on the loop of the test."""

    name = "aiobotocore"

    def __init__(self, url: str, models: object) -> None:
        from aiobotocore.session import get_session

        self.session = get_session()
        self.session.register_component("data_loader", models)
        self._url = url
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.__aexit__(*exc)

    async def client(
        self, service: str = "ec2", *, region: str = "eu-west-1", url: str = "", **config: Any
    ) -> Any:
        """Make a client of the endpoint; with `keys={}`, one with the session's credentials."""
        from aiobotocore.config import AioConfig

        keys = config.pop("keys", CREDENTIALS)
        made = self.session.create_client(
            service, region, endpoint_url=url or self._url, config=AioConfig(**config), **keys
        )
        return await self._stack.enter_async_context(made)

    @asynccontextmanager
    async def paced(self, client: Any, source: ApiQueue | Registry, **how: Any) -> AsyncIterator:
        """Pace a client for the length of a block."""
        from aioapiqueue.integrations.aiobotocore import paced

        async with paced(client, source, **how) as same:
            assert same is client
            yield

    def pace_session(self, sources: Any) -> None:
        """Pace the clients that are made from now on."""
        from aioapiqueue.integrations.aiobotocore import pace_session

        pace_session(self.session, sources)

    async def call(self, client: Any, operation: str, **arguments: Any) -> Any:
        """Make a call."""
        return await getattr(client, operation)(**arguments)

    async def pages(self, client: Any, operation: str) -> list[Any]:
        """Return all that a paginator asks for."""
        return [page async for page in client.get_paginator(operation).paginate()]

    async def until(self, client: Any, waiter: str, **arguments: Any) -> None:
        """Wait as a client's waiters do."""
        await client.get_waiter(waiter).wait(**arguments)

    async def presign(self, client: Any, operation: str, parameters: Mapping[str, str]) -> str:
        """Sign a URL."""
        return await client.generate_presigned_url(operation, Params=parameters)

    async def ask(self, queue: ApiQueue, question: Callable[[], Any]) -> Any:
        """Ask a queue of a registry something."""
        del queue
        return question()

    def meet_before_send(self, client: Any, count: int) -> None:
        """Let each call, once it has its slot, wait until so many are about to be sent."""
        barrier = asyncio.Barrier(count)

        async def meet(**_: object) -> None:
            async with asyncio.timeout(PATIENCE):
                await barrier.wait()

        client.meta.events.register("before-send.ec2", meet)

    def refresh_credentials(self, refresh: Callable[[], Mapping[str, str]]) -> None:
        """Let the session's credentials come from a function."""
        from aiobotocore.credentials import AioDeferredRefreshableCredentials

        async def refreshed() -> Mapping[str, str]:
            return refresh()

        introspect.set_credentials(
            self.session, AioDeferredRefreshableCredentials(refreshed, "test")
        )


class Threads:
    """Calls by botocore, in threads; the queue is on the loop of the test."""

    name = "botocore"

    def __init__(self, url: str, models: object) -> None:
        self.session = botocore.session.get_session()
        self.session.register_component("data_loader", models)
        self._url = url
        self._clients: list[Any] = []
        self._threads = ThreadPoolExecutor(32)
        self._ready = asyncio.Event()
        self._gates: dict[ApiQueue, object] = {}

    async def __aenter__(self) -> Self:
        self._serves = asyncio.ensure_future(self._serve())
        await self._ready.wait()
        return self

    async def _serve(self) -> None:
        # In a task of its own: fixtures begin and end in different ones.
        async with BlockingPortal() as self._portal:
            self._ready.set()
            await self._portal.sleep_until_stopped()

    async def __aexit__(self, *exc: object) -> None:
        for client in self._clients:
            client.close()
        self._threads.shutdown(wait=False)
        await self._portal.stop()
        await self._serves

    async def client(
        self, service: str = "ec2", *, region: str = "eu-west-1", url: str = "", **config: Any
    ) -> Any:
        """Make a client of the endpoint; with `keys={}`, one with the session's credentials."""
        keys = config.pop("keys", CREDENTIALS)
        config.setdefault("max_pool_connections", 32)
        made = self.session.create_client(
            service, region, endpoint_url=url or self._url, config=Config(**config), **keys
        )
        self._clients.append(made)
        return made

    def _source(self, source: Any) -> Any:
        if isinstance(source, dict):
            return {name: self._source(one) for name, one in source.items()}
        if not isinstance(source, ApiQueue):
            return source
        if source not in self._gates:
            self._gates[source] = blocking(source, portal=self._portal)
        return self._gates[source]

    @asynccontextmanager
    async def paced(self, client: Any, source: ApiQueue | Registry, **how: Any) -> AsyncIterator:
        """Pace a client for the length of a block."""
        from aioapiqueue.integrations.botocore import paced

        with paced(client, self._source(source), **how) as same:
            assert same is client
            yield

    def pace_session(self, sources: Any) -> None:
        """Pace the clients that are made from now on."""
        from aioapiqueue.integrations.botocore import pace_session

        pace_session(self.session, self._source(sources))

    async def _run(self, function: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)

    async def call(self, client: Any, operation: str, **arguments: Any) -> Any:
        """Make a call."""
        return await self._run(lambda: getattr(client, operation)(**arguments))

    async def pages(self, client: Any, operation: str) -> list[Any]:
        """Return all that a paginator asks for."""
        return await self._run(lambda: list(client.get_paginator(operation).paginate()))

    async def until(self, client: Any, waiter: str, **arguments: Any) -> None:
        """Wait as a client's waiters do."""
        await self._run(lambda: client.get_waiter(waiter).wait(**arguments))

    async def presign(self, client: Any, operation: str, parameters: Mapping[str, str]) -> str:
        """Sign a URL."""
        return await self._run(lambda: client.generate_presigned_url(operation, Params=parameters))

    async def ask(self, queue: ApiQueue, question: Callable[[], Any]) -> Any:
        """Ask a queue of a registry something."""
        return await self._run(lambda: blocking(queue).call(question))

    def meet_before_send(self, client: Any, count: int) -> None:
        """Let each call, once it has its slot, wait until so many are about to be sent."""
        barrier = threading.Barrier(count)

        def meet(**_: object) -> None:
            barrier.wait(PATIENCE)

        client.meta.events.register("before-send.ec2", meet)

    def refresh_credentials(self, refresh: Callable[[], Mapping[str, str]]) -> None:
        """Let the session's credentials come from a function."""
        introspect.set_credentials(self.session, DeferredRefreshableCredentials(refresh, "test"))


Library: TypeAlias = Coroutines | Threads
