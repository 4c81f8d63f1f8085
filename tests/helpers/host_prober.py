"""A process that calls again and again in a shared quota, and says how long it has waited.

    python -m tests.helpers.host_prober

It writes a line when the first call has started. For each line that it reads, it writes the
longest wait of a slot since the line before, the present one included, in seconds.
"""

from __future__ import annotations

import asyncio
import sys
import time

from aioapiqueue import ApiQueue, HostSchedule


def say(what: object) -> None:
    """Write a line."""
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


async def main() -> None:
    """Call."""
    queue = ApiQueue("2000/s burst 20", schedule=HostSchedule("crm"))
    longest, began = 0.0, time.monotonic()

    def answer() -> None:
        nonlocal longest
        if not sys.stdin.readline():
            task.cancel()
        say(max(longest, time.monotonic() - began))
        longest = 0.0

    async def call() -> None:
        nonlocal longest, began
        while True:
            began = time.monotonic()
            async with queue.slot():
                longest = max(longest, time.monotonic() - began)

    async with queue.slot():
        say("ready")
    task = asyncio.create_task(call())
    asyncio.get_running_loop().add_reader(sys.stdin, answer)
    await asyncio.wait([task])
    await queue.aclose()


if __name__ == "__main__":
    asyncio.run(main())
