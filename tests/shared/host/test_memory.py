"""What a process keeps of a quota of its host, however long it lives."""

from __future__ import annotations

import asyncio

from aioapiqueue import ApiQueue, Window
from tests.helpers import introspect
from tests.helpers.virtual_hub import VirtualHub


async def test_what_has_left_a_window_is_forgotten():
    """Of thousands of calls it knows those within the window, of the queue and of a lane."""
    queue = ApiQueue(
        Window(50, 5), lanes={"a": Window(40, 5)}, schedule=VirtualHub().schedule("quota")
    )
    for _ in range(1000):
        async with queue.slot(key="a"):
            await asyncio.sleep(0.2)
    await asyncio.sleep(0)
    for key, most in ((None, 50), ("a", 40)):
        (window,) = introspect.known_states(queue, key)
        assert 0 < len(window.log) <= most
    await queue.aclose()
