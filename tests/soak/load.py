"""Callers of one queue: many, of all kinds, that are cancelled, time out, fail and settle."""

from __future__ import annotations

import asyncio
import gc
import random
import time
import traceback
from collections import Counter
from typing import TYPE_CHECKING, Any

from aioapiqueue import QueueClosed, QueueFull, SlotTimeout, WouldWait
from tests.soak.checks import Broken
from tests.soak.watch import Planted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aioapiqueue import ApiQueue, Slot
    from tests.soak.kinds import Kind

__all__ = ["Load", "let_go"]


def let_go(queues: Iterable[ApiQueue]) -> None:
    """Have queues forget who waited on a loop that was closed, and those callers end.

    Such a caller has ended, and is counted, once it is collected: else some time in the next round.
    """

    async def use() -> None:
        for queue in queues:
            queue.malformed()  # the least that uses it on this loop

    asyncio.run(use())
    gc.collect()


class Load:
    """Calls one queue at random, for one round.

    Args:
        kind: of the queue.
        queue: which.
        seed: of all that is random.
        broken: where to put what does not hold.
    """

    def __init__(self, kind: Kind, queue: ApiQueue, seed: int, broken: list[str]) -> None:
        self.kind = kind
        self.queue = queue
        self.tasks: dict[asyncio.Task[None], None] = {}
        self.ends: Counter[str] = Counter()
        self._rng = random.Random(seed)
        self._broken = broken
        self._before = queue.stats

    async def run(self, seconds: float) -> None:
        """Make calls for so long: some at once, some alone."""
        loop, rng = asyncio.get_running_loop(), self._rng
        until = loop.time() + seconds
        while loop.time() < until:
            for _ in range(rng.choice([1, 1, 2, 5, 30])):
                task = loop.create_task(self._call(), name=f"soak {self.kind.name}")
                self.tasks[task] = None
                task.add_done_callback(self.tasks.pop)
            if self.tasks and rng.random() < 0.5:
                for task in rng.sample(list(self.tasks), min(3, len(self.tasks))):
                    task.cancel()
            await asyncio.sleep(rng.expovariate(self.kind.each_second / 7.8))

    async def _call(self) -> None:
        rng, queue = self._rng, self.queue
        how = self.kind.call(rng)
        if rng.random() < 0.2:
            how["timeout"] = rng.choice([0.001, 0.05, 0.3, 1.0])
        started = False
        try:
            if rng.random() < 0.05:
                how.pop("timeout", None)
                slot = queue.try_slot(**how)
            elif rng.random() < 0.1:
                slot = await queue.enqueue(**how)
            else:
                slot = queue.slot(**how)
                async with slot:
                    started = True
                    await self._body(slot, how)
                return
            with slot:
                started = True
                await self._body(slot, how)
        except WouldWait:
            self.ends["would wait"] += 1
        except SlotTimeout:
            self.ends["timed out"] += 1
        except (QueueFull, QueueClosed):
            self.ends["refused"] += 1
        except Planted:
            self.ends["failed"] += 1
        except asyncio.CancelledError:
            self.ends["cancelled in the body" if started else "cancelled"] += 1
            raise
        except Exception as error:  # noqa: BLE001 - that is what is looked for
            where = traceback.format_list(traceback.extract_tb(error.__traceback__)[-4:])
            self._broken.append(f"{self.kind.name}: a caller got {error!r}\n{''.join(where)}")
        finally:
            self.ends["started"] += started

    async def _body(self, slot: Slot, how: dict[str, Any]) -> None:
        kind, rng = self.kind, self._rng
        kind.bodies += 1
        try:
            if kind.bodies > kind.at_once > 0 and time.monotonic() > kind.unsure_until:
                self._broken.append(f"{kind.name}: {kind.bodies} bodies, {kind.at_once} at once")
            if "cost" in how and rng.random() < 0.3:
                slot.settle({"tokens": rng.uniform(0, how["cost"]["tokens"])})
            if rng.random() < 0.7:
                await asyncio.sleep(rng.expovariate(1 / 0.02))
            if kind.name == "adaptive" and rng.random() < 0.01:
                slot.throttled(rng.choice([None, 0.1]))
            if rng.random() < 0.03:
                raise Planted
        finally:
            kind.bodies -= 1

    async def drain(self, within: float) -> None:
        """Wait until all callers have ended.

        Args:
            within: seconds in which at least one of them is to end: of adaptive, it may have slowed
                down to a crowd's minutes.

        Raises:
            Broken: some are stuck, or the queue has counted others than have ended.
        """
        while tasks := list(self.tasks):
            done, _ = await asyncio.wait(tasks, timeout=within, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                found = f"{len(tasks)} callers are stuck: {self.queue!r} {self.queue.stats}"
                raise Broken(f"{self.kind.name}: {found}")
            await asyncio.sleep(0.1)  # else there is a wait for each
        for _ in range(3):
            await asyncio.sleep(0)
        stats, before = self.queue.stats, self._before
        if (stats.waiting, stats.running) != (0, 0):
            raise Broken(f"nobody is left of {self.queue!r}")
        counted = {
            "started": stats.released - before.released,
            "not started": sum(
                getattr(stats, name) - getattr(before, name)
                for name in ("cancelled", "timed_out", "refused")
            ),
        }
        found = {
            "started": self.ends["started"],
            "not started": sum(self.ends[x] for x in ("cancelled", "timed out", "refused")),
        }
        if counted != found:
            raise Broken(f"{self.kind.name}: the queue has counted {counted}, its callers {found}")
