"""The shares that keys have of the starts of a queue."""

from __future__ import annotations

import asyncio
from collections import Counter

__all__ = ["starts_in"]


async def starts_in(seconds, queue, *calls, settle=None, runs=0.0):
    """Return how often each key has started, of calls (key, callers, options) that go on for ever.

    After `seconds`, all are cancelled.
    """
    counts = Counter()

    async def call(key, options):
        while True:
            async with queue.slot(**({} if "keys" in options else {"key": key}), **options) as slot:
                counts[key] += 1
                if runs:
                    await asyncio.sleep(runs)
                if settle is not None:
                    slot.settle(settle)

    tasks = [
        asyncio.create_task(call(key, options))
        for key, callers, options in calls
        for _ in range(callers)
    ]
    await asyncio.sleep(seconds)
    for task in tasks:
        task.cancel()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(one, asyncio.CancelledError) for one in ended)
    return counts
