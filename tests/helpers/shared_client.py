"""A client of no server, in the place of the one that `run --shared` connects with."""

from __future__ import annotations

import contextlib

import pytest

from aioapiqueue_run.cli.run import shared_address

__all__ = ["open_without_server"]


class _Client:
    def __init__(self):
        self.scripts = []

    async def eval(self, script, *_):
        """Note a script."""
        self.scripts.append(script)

    async def evalsha(self, *_):
        """Run it again."""


async def open_without_server(shared, registry):
    """Open a `Shared` for the queues of a registry; return the scripts that it has run."""
    client = _Client()

    @contextlib.asynccontextmanager
    async def connected(_):
        yield client

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_address, "connected", connected)
        async with shared.open(registry, print):
            return client.scripts
