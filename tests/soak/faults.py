"""What goes wrong, at random: each is one step that somebody takes while callers wait and run."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from typing import TYPE_CHECKING

from tests.helpers.hubs import processes_of

if TYPE_CHECKING:
    import random
    from pathlib import Path

    from aioapiqueue import ApiQueue
    from tests.helpers.servers import Server
    from tests.soak.watch import Watch

__all__ = ["Faults"]


class Faults:
    """Does one thing after another to the queues of one loop.

    Args:
        rng: says what, and when.
        hub: the hub's directory.
        server: the one that keeps the quota of the queue "server".
    """

    def __init__(self, rng: random.Random, hub: Path, server: Server) -> None:
        self._rng = rng
        self._hub = hub
        self._server = server
        self._time = time.time
        self.done: Counter[str] = Counter()

    async def run(self, seconds: float, queues: dict[str, ApiQueue], watch: Watch) -> None:
        """Go on for so long.

        Args:
            seconds: how long.
            queues: by kind.
            watch: of the queue "server".
        """
        rng = self._rng
        until = time.monotonic() + seconds
        try:
            while time.monotonic() < until:
                await asyncio.sleep(rng.expovariate(3))
                self._one(rng.random(), queues, watch)
        finally:
            for queue in queues.values():
                queue.resume()
            queues["paced"].set_rate("200/s burst 20")

    def _one(self, dice: float, queues: dict[str, ApiQueue], watch: Watch) -> None:
        rng = self._rng
        queue = queues[rng.choice(sorted(queues))]
        if dice < 0.4:
            self.done["stalls"] += 1
            time.sleep(rng.uniform(0.005, 0.3))
        elif dice < 0.5:
            self.done["steps"] += 1
            self.step(rng.uniform(-7200, 7200))
        elif dice < 0.6:
            self.done["pauses"] += 1
            queue.pause(rng.uniform(0, 0.5))
        elif dice < 0.65:
            self.done["pauses"] += 1
            queue.pause()
            asyncio.get_running_loop().call_later(rng.uniform(0, 0.5), queue.resume)
        elif dice < 0.75:
            self.done["holds"] += 1
            queue.hold(rng.uniform(0, 0.5))
        elif dice < 0.85:
            self.done["changes"] += 1
            queues["paced"].set_rate(rng.choice(["50/s", "10/s burst 3"]))
            asyncio.get_running_loop().call_later(
                rng.uniform(0, 0.5), queues["paced"].set_rate, "200/s burst 20"
            )
        elif dice < 0.93:
            self.kill_hub()
        else:
            self.kill_server(watch)

    def step(self, seconds: float) -> None:
        """Set the wall clock forth or back, as far as this process sees."""
        time.time = lambda: self._time() + seconds

    def kill_hub(self) -> None:
        """Kill the hub, if there is one."""
        for pid in processes_of(self._hub):
            os.kill(pid, signal.SIGKILL)
            self.done["hubs killed"] += 1

    def kill_server(self, watch: Watch) -> None:
        """Kill the server, and start it again without its data; the loop stands still meanwhile."""
        begin = time.monotonic()
        self._server.kill()
        self._server.start()
        self.done["servers killed"] += 1
        # Leases of before are used up `ahead` seconds later; permits are there again within a
        # third of `lease`.
        watch.lost(begin, time.monotonic() + 0.5)
        watch.kind.unsure_until = time.monotonic() + 4

    def end(self) -> None:
        """Set the clock right."""
        time.time = self._time
