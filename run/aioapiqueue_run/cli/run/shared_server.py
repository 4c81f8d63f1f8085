"""The server of `--shared`, through which a run shares its limits with other hosts."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from aioapiqueue_run.cli.run.errors import NotStarted
from aioapiqueue_run.cli.run.outages import Outages
from aioapiqueue_run.cli.run.shared_errors import explained

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from aioapiqueue import Rate
    from aioapiqueue.integrations.redis import SharedSchedule
    from aioapiqueue.registry import Registry
    from aioapiqueue_run.cli.run.shared_address import Address, ConnectedClient

__all__ = ["SHARED_VARIABLE", "Shared"]

SHARED_VARIABLE = "AIOAPIQUEUE_SHARED"

_CHECK_SECONDS = 5.0

_CHECK = (files(__package__) / "shared_check.lua").read_text("utf-8")
_CHECK_KEYS = [f"{{aioapiqueue:check}}{part}" for part in ("", ":list", ":set")]


class Shared:
    """Gives each queue its schedule; `outages` observes the queues.

    Args:
        address: the address of the server.
        fallback: the limits of each queue while the server is unreachable; None: calls wait.
    """

    def __init__(self, address: Address, fallback: Rate | None = None) -> None:
        self.address = address
        self.fallback = fallback
        self.outages = Outages(self._loss, "connected to the shared server again")
        self._client: ConnectedClient
        self._registry: Registry

    def __str__(self) -> str:
        return str(self.address)

    @contextlib.asynccontextmanager
    async def open(self, registry: Registry, say: Callable[[str], None]) -> AsyncIterator[None]:
        """Connect to the server, and serve the queues during the block.

        Args:
            registry: the registry, which has made no queue yet.
            say: writes a message.

        Raises:
            NotStarted: the server cannot be reached, or denies a permission.
        """
        from aioapiqueue_run.cli.run.shared_address import connected  # noqa: PLC0415

        self._registry, self.outages.say = registry, say
        async with connected(self.address) as self._client:
            try:
                async with asyncio.timeout(_CHECK_SECONDS):
                    await self._check()
            except Exception as error:  # noqa: BLE001 - it may quote the password: never shown raw
                why = explained(error, self.address, _CHECK_SECONDS)
                raise NotStarted(f"shared server {self}: {why}; nothing was started") from None
            yield

    async def _check(self) -> None:
        """Run a script with every command that the queues' script uses, on the primary."""
        client: Any = self._client  # redis-py's types do not tell its asyncio methods apart
        await client.eval(_CHECK, 3, *_CHECK_KEYS)
        # Again by its digest: EVALSHA is a permission of its own, and is what the queues use.
        digest = hashlib.sha1(_CHECK.encode(), usedforsecurity=False).hexdigest()
        await client.evalsha(digest, 3, *_CHECK_KEYS)

    def schedule(self, name: str) -> SharedSchedule:
        """Return the schedule of a queue."""
        from aioapiqueue.integrations.redis import SharedSchedule  # noqa: PLC0415 - the extra

        return SharedSchedule(self._client, name, fallback=self.fallback)

    def _loss(self, queue: str | None) -> str:
        faults = [one["fault"] for one in self._queues() if queue == one["queue"] and one["fault"]]
        why = f" ({faults[0].rstrip('.')})" if faults else ""
        return f"lost the shared server{why}: until it is back, {self.meanwhile}"

    @property
    def meanwhile(self) -> str:
        """What happens while the server is unreachable, in words."""
        return "calls wait" if self.fallback is None else f"each quota continues at {self.fallback}"

    def _queues(self) -> list[dict[str, Any]]:
        """Return the round trips of each queue to the server, with failures and their reasons."""
        return [
            {
                "queue": str(key),
                "asks": queue.stats.asks,
                "faults": queue.stats.faults,
                "fault": self.address.scrubbed(queue.stats.fault),
            }
            for key, queue in self._registry.queues.items()
        ]

    def as_json(self) -> dict[str, Any]:
        """Return all figures for the JSON. Times are in seconds."""
        return {
            "server": str(self),
            "fallback": None if self.fallback is None else str(self.fallback),
            "times_lost": self.outages.times,
            "seconds_lost": self.outages.seconds,
            "queues": self._queues(),
        }
