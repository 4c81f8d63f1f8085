"""The server that several hosts share a quota through, as one run uses it: `--shared`."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aioapiqueue.cli._launch import NotStarted
from aioapiqueue.cli._shared_faults import explained
from aioapiqueue.cli._words import wrapped

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from aioapiqueue import Rate
    from aioapiqueue._events import Event
    from aioapiqueue.integrations.redis import SharedSchedule
    from aioapiqueue.integrations.redis.url import Address, Client
    from aioapiqueue.registry import Registry

__all__ = ["SHARED_VARIABLE", "Shared", "SharedFigure"]

SHARED_VARIABLE = "AIOAPIQUEUE_SHARED"

_CHECK_SECONDS = 5.0
_MOST_TOLD = 20  # times that the server was lost; the summary counts them all

_CHECK = """
local key, list, set = unpack(KEYS)
redis.call('HSET', key, 'at', '0')  -- first, as it is refused where memory is full
redis.call('PEXPIRE', key, 1000)
redis.call('HGETALL', key)
redis.call('HDEL', key, 'none')
redis.call('RPUSH', list, '0', '1')
redis.call('PEXPIRE', list, 1000)
redis.call('LINDEX', list, 0)
redis.call('LRANGE', list, 0, 0)
redis.call('LSET', list, 0, '1')
redis.call('LPOP', list)
redis.call('ZADD', set, 0, 'one')
redis.call('PEXPIRE', set, 1000)
redis.call('ZREMRANGEBYSCORE', set, 1, 1)
redis.call('ZCARD', set)
redis.call('ZREM', set, 'one')
redis.call('DEL', list, set)
return redis.call('TIME')[1]
"""
_CHECK_KEYS = [f"{{aioapiqueue:check}}{part}" for part in ("", ":list", ":set")]


@dataclass(frozen=True)
class SharedFigure:
    """What one queue had to do with the server.

    Attributes:
        queue: its name.
        asks: round trips.
        faults: those among them that failed.
        fault: why the last one did, if it has not been reached since; else "".
    """

    queue: str
    asks: int
    faults: int
    fault: str


class Shared:
    """Gives each queue its schedule, and tells of the server's trouble.

    Args:
        address: of the server.
        fallback: what each queue keeps while the server cannot be reached; None: calls wait.
    """

    def __init__(self, address: Address, fallback: Rate | None = None) -> None:
        self.address = address
        self.fallback = fallback
        self.times_lost = 0
        self._lost_at: float | None = None
        self._seconds_lost = 0.0
        self._client: Client
        self._kind: type[SharedSchedule]
        self._registry: Registry
        self._say: Callable[[str], None]

    def __str__(self) -> str:
        return str(self.address)

    @contextlib.asynccontextmanager
    async def open(self, registry: Registry, say: Callable[[str], None]) -> AsyncIterator[None]:
        """Reach the server, and be there for the queues as long as the block lasts.

        Args:
            registry: whose queues these are; nobody has asked it yet.
            say: how to tell of trouble.

        Raises:
            NotStarted: it cannot be reached, or is not let do what it has to.
        """
        from aioapiqueue.integrations.redis import SharedSchedule  # noqa: PLC0415 - the extra
        from aioapiqueue.integrations.redis.url import connected  # noqa: PLC0415

        self._kind, self._registry, self._say = SharedSchedule, registry, say
        async with connected(self.address) as self._client:
            try:
                async with asyncio.timeout(_CHECK_SECONDS):
                    await self._check()
            except Exception as error:  # noqa: BLE001 - it may quote the password: never shown raw
                why = explained(error, self.address, _CHECK_SECONDS)
                said = f"--shared: {self}: {why}; nothing was started"
                raise NotStarted(wrapped(said)) from None
            yield

    async def _check(self) -> None:
        """Do once what the queues will: run a script with all that theirs does, on the primary."""
        client: Any = self._client  # its types are of both its kinds, waiting and not
        await client.eval(_CHECK, 3, *_CHECK_KEYS)
        digest = hashlib.sha1(_CHECK.encode(), usedforsecurity=False).hexdigest()
        await client.evalsha(digest, 3, *_CHECK_KEYS)

    def schedule(self, name: str) -> SharedSchedule:
        """Return the schedule of the queue of this name."""
        return self._kind(self._client, name, fallback=self.fallback)

    # What it hears of the queues.

    @property
    def lost(self) -> bool:
        """Whether the server cannot be reached now."""
        return self._lost_at is not None

    @property
    def seconds_lost(self) -> float:
        """For how long it could not be reached, altogether."""
        return self._seconds_lost + (0 if self._lost_at is None else _now() - self._lost_at)

    def on_event(self, event: Event, /) -> None:
        """Tell when the server is lost, and when it is there again: once for all queues."""
        if event.kind == "disconnected" and self._lost_at is None:
            self._lost_at = _now()
            self.times_lost += 1
            if self.times_lost <= _MOST_TOLD:
                self._say(wrapped(self._loss(event.queue)))
        elif event.kind == "reconnected" and self._lost_at is not None:
            seconds = _now() - self._lost_at
            self._lost_at = None
            self._seconds_lost += seconds
            if self.times_lost <= _MOST_TOLD:
                self._say(f"the shared server is there again, after {seconds:.1f} s")

    def _loss(self, queue: str | None) -> str:
        faults = [one.fault for one in self.figures if one.queue == queue and one.fault]
        why = f" ({faults[0].rstrip('.')})" if faults else ""
        if self.fallback is None:
            return f"the shared server is lost{why}: nothing goes out until it is there again"
        return f"the shared server is lost{why}: until it is there again, {self.meanwhile}"

    @property
    def meanwhile(self) -> str:
        """What is done while the server is lost."""
        return "calls wait" if self.fallback is None else f"each queue keeps {self.fallback}"

    @property
    def figures(self) -> list[SharedFigure]:
        """What each queue had to do with the server, as things stand."""
        return list(self._figures())

    def _figures(self) -> Iterator[SharedFigure]:
        for key, queue in self._registry.queues.items():
            stats = queue.stats
            fault = self.address.scrubbed(stats.fault)
            yield SharedFigure(str(key), stats.asks, stats.faults, fault)

    def as_json(self) -> dict[str, Any]:
        """Return all figures as JSON has them. Times are in seconds."""
        return {
            "server": str(self),
            "fallback": None if self.fallback is None else str(self.fallback),
            "times_lost": self.times_lost,
            "seconds_lost": self.seconds_lost,
            "queues": [
                {"queue": one.queue, "asks": one.asks, "faults": one.faults, "fault": one.fault}
                for one in self.figures
            ],
        }


def _now() -> float:
    return time.monotonic()
