"""How long a connection may say nothing."""

from __future__ import annotations

import asyncio

from aioapiqueue.registry import Registry
from aioapiqueue_run.hub import Hub


async def test_who_says_no_hello_is_refused(directory, tools, blockbuster):
    """After half a minute, with the reason; who has said hello stays, and needs no timer."""
    blockbuster.deactivate()  # peers' processes are looked up in /proc
    loop = asyncio.get_running_loop()
    async with Hub(Registry({"ec2": "10/s"}), directory=directory / "hub") as hub:
        before = loop.pending_timers
        async with tools.Raw(hub) as silent, tools.Raw(hub) as greeted:
            greeted.greet()
            assert (await greeted.reader.readline()) == b'{"version":2}\n'
            assert loop.pending_timers == before + 1  # of the silent one
            began = loop.time()
            async with asyncio.timeout(60):
                assert b"sent no hello within 30 s" in await silent.reader.readline()
                assert await silent.reader.read() == b""
            assert loop.time() == began + 30
            await asyncio.sleep(60)
            greeted.say(do="ping")
            assert (await greeted.reader.readline()) == b'{"pong":true}\n'
