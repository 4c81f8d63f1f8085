"""A process that shares a quota: it makes calls, and writes when each has started.

    python -m tests.helpers.host_worker NAME LIMITS CALLS TASKS [BODY]

It reads a line before it begins, and writes one for each call: the instant (`time.monotonic`).
`CALLS` is how many; 0: without end. `BODY` is how long each lasts, in seconds.
"""

from __future__ import annotations

import asyncio
import sys
import time

from aioapiqueue import ApiQueue, HostSchedule
from tests.helpers.measured import measure_hubs


async def main(name: str, limits: str, calls: str, tasks: str, body: str = "0") -> None:
    """Make the calls."""
    queue = ApiQueue(*limits.split(" and "), schedule=HostSchedule(name))
    left = int(calls) or 10**9

    async def work() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            async with queue.slot():
                sys.stdout.write(f"{time.monotonic()}\n")
                if float(body):
                    await asyncio.sleep(float(body))

    sys.stdin.readline()
    flusher = asyncio.create_task(_flush())
    async with asyncio.TaskGroup() as group:
        for _ in range(int(tasks)):
            group.create_task(work())
    flusher.cancel()
    await queue.aclose()


async def _flush() -> None:
    while True:
        await asyncio.sleep(0.05)
        sys.stdout.flush()


if __name__ == "__main__":
    measure_hubs()
    asyncio.run(main(*sys.argv[1:]))
