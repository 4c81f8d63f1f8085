"""A process that shares a quota: it makes calls, and writes when each has started.

    python -m tests.helpers.host_worker NAME LIMITS CALLS TASKS [BODY]

It reads a line before it begins, and writes one for each call, of two instants (`time.monotonic`):
when its limits let it go, which is never later because other processes have the machine's cores,
and when its body has begun.
`CALLS` is how many; 0: without end. `BODY` is how long each lasts, in seconds.
"""

from __future__ import annotations

import asyncio
import sys

from aioapiqueue import ApiQueue, HostSchedule
from tests.helpers.grants import Grants
from tests.helpers.hubs import begin_hubs_as_told
from tests.helpers.measured import measure_hubs


async def main(name: str, limits: str, calls: str, tasks: str, body: str = "0") -> None:
    """Make the calls."""
    schedule = HostSchedule(name)
    grants = Grants()
    queue = ApiQueue(*limits.split(" and "), schedule=schedule, observers=[grants])
    left = int(calls) or 10**9

    async def work() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            async with queue.slot():
                sys.stdout.write("{} {}\n".format(*grants.body()))
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
    begin_hubs_as_told()
    asyncio.run(main(*sys.argv[1:]))
