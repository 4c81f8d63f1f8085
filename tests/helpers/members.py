"""Several queues of one quota, members of a fleet, on one virtual clock and a real server."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from aioapiqueue import ApiQueue
from aioapiqueue.integrations.redis import SharedSchedule
from tests.helpers.virtual_client import VirtualClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from aioapiqueue import Event
    from tests.helpers.servers import Server


class Member:
    """One of them, with a client of its own.

    Args:
        target: the server, or what else a `VirtualClient` asks.
        name: of the quota.
        limits: of the queue.
        schedule: options of `SharedSchedule`.
        client: options of `VirtualClient`.
        queue: options of `ApiQueue`.
    """

    def __init__(
        self,
        target: Server,
        name: str,
        *limits: Any,
        schedule: Mapping[str, Any] | None = None,
        client: Mapping[str, Any] | None = None,
        **queue: Any,
    ) -> None:
        self.client = VirtualClient(target, **(client or {}))
        shared = SharedSchedule(self.client, name, **(schedule or {}))
        self.queue = ApiQueue(*limits, schedule=shared, observers=[self], **queue)
        self.events: list[Event] = []
        self.callers: list[asyncio.Task[None]] = []

    def on_event(self, event: Event) -> None:
        """Remember it."""
        self.events.append(event)

    def instants(self, kind: str = "released", key: Any = None) -> list[float]:
        """Return when there was what."""
        return [one.at for one in self.events if one.kind == kind and key in (None, one.key)]

    def released(self, begin: float, end: float) -> int:
        """Return how many calls were let through from `begin` until before `end`."""
        return sum(begin <= at < end for at in self.instants())

    def call(self, count: int = 50, *, body: float = 0.0, **how: Any) -> None:
        """Let so many callers call again and again."""

        async def caller() -> None:
            while True:
                async with self.queue.slot(**how):
                    await asyncio.sleep(body)

        self.callers += [asyncio.create_task(caller()) for _ in range(count)]

    async def stop(self) -> list[BaseException]:
        """Let its callers go; return the errors that they had before."""
        for each in self.callers:
            each.cancel()
        outcomes = await asyncio.gather(*self.callers, return_exceptions=True)
        self.callers = []
        return [one for one in outcomes if not isinstance(one, asyncio.CancelledError)]

    async def die(self) -> None:
        """End without a word to the server."""
        self.client.down = True
        await self.stop()
        await self.queue.aclose(drain=False)


@contextlib.asynccontextmanager
async def fleet(
    count: int, target: Server, name: str, *limits: Any, **options: Any
) -> AsyncIterator[list[Member]]:
    """Give so many members, all alike."""
    members = [Member(target, name, *limits, **options) for _ in range(count)]
    try:
        yield members
        for one in members:
            assert await one.stop() == []
    finally:
        for one in members:
            await one.stop()
            await one.queue.aclose(drain=False)


def together(*members: Member, key: Any = None) -> list[float]:
    """Return when calls of any of them were let through, in order."""
    return sorted(at for one in members for at in one.instants(key=key))


def between(instants: list[float], begin: float, end: float) -> int:
    """Return how many of these there are from `begin` until before `end`."""
    return sum(begin <= instant < end for instant in instants)
