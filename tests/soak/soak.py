"""The rounds: one event loop after another, for the same queues."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import logging
import os
import random
import threading
import time
import traceback
import warnings
from collections import Counter
from typing import TYPE_CHECKING, Any

import redis.asyncio
import uvloop

from aioapiqueue import ApiQueue, SlotTimeout
from aioapiqueue.integrations.redis import SharedSchedule
from aioapiqueue.threads import blocking
from tests.helpers.hubs import hub_in_use
from tests.helpers.introspect import host_lateness
from tests.helpers.servers import Server
from tests.soak.checks import Broken, Flat, RateCheck, resources
from tests.soak.faults import Faults
from tests.soak.kinds import LATE, Kind, Limit, local_kinds, shared_kind
from tests.soak.load import Load, let_go
from tests.soak.watch import Planted, Watch

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Soak"]

DRAIN = 40.0
"""Seconds in which one more caller of a queue ends: a hub or server may have to start first."""
FORKED = 120.0
"""Seconds for a child; a little earlier, it says where it is."""
ENDINGS = ("drained", "drained", "cancelled", "dropped")


class Soak:
    """Runs rounds until the time is over, or something is broken.

    Args:
        seed: of all that is random; what real time does is not.
    """

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self.broken: list[str] = []
        self.ends: Counter[str] = Counter()
        self.flat = Flat()
        self._endings: Counter[str] = Counter()

    def run(self, seconds: float) -> list[str]:
        """Do it; return what is broken."""
        warnings.simplefilter("ignore", ResourceWarning)  # of loops that are closed in use
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside threads
        # redis-py's own, where the collector ends it.
        warnings.filterwarnings("ignore", "coroutine 'AbstractConnection", RuntimeWarning)
        logging.getLogger("asyncio").addHandler(_Complaints(self.broken))
        logging.getLogger("asyncio").propagate = False
        with hub_in_use() as hub, Server() as server:
            self._server = server
            faults = Faults(random.Random(self._rng.random()), hub, server)
            self._kinds = local_kinds()
            self._watches = {kind.name: self._watch(kind) for kind in self._kinds}
            self._queues = {
                kind.name: kind.make(name=kind.name, observers=[self._watches[kind.name]])
                for kind in self._kinds
            }
            with self._threads():
                try:
                    self._rounds(seconds, faults)
                    self.flat.check()
                except Broken as broken:
                    self.broken.append(str(broken))
                finally:
                    faults.end()
        return self.broken

    def _watch(self, kind: Kind) -> Watch:
        return Watch(kind, random.Random(self._rng.random()))

    def _rounds(self, seconds: float, faults: Faults) -> None:
        begin, minutes = time.monotonic(), 0
        while (left := begin + seconds - time.monotonic()) > 0 and not self.broken:
            ending = self._rng.choice(ENDINGS)
            self._endings[ending] += 1
            self._round(min(left, self._rng.uniform(4, 12)), ending, faults)
            self._fork()
            # First: the events of a round that were not checked yet are as many as it was long.
            self._check_threads(drained=False)
            self.flat.seen.append(resources())
            if time.monotonic() - begin >= 60 * (minutes + 1) or left < 0:
                minutes = int((time.monotonic() - begin) // 60)
                self._tell(minutes, faults)
        if time.monotonic() - begin < 60 * minutes + 30:
            return
        self._tell(minutes + 1, faults)

    def _tell(self, minutes: int, faults: Faults) -> None:
        now, ends, done = self.flat.seen[-1], self.ends, faults.done
        print(
            f"{minutes:3} min: {ends['started']:,} calls, {ends['cancelled']:,} cancelled, "
            f"{done['hubs killed'] + done['servers killed']} kills, "
            f"{now['MB']:.0f} MB, {now['descriptors']} files",
            flush=True,
        )

    # One round.

    def _round(self, seconds: float, ending: str, faults: Faults) -> None:
        factory = self._rng.choice([asyncio.new_event_loop, uvloop.new_event_loop])
        loop = factory()
        loop.set_exception_handler(lambda _, context: self._reported(context, ending))
        try:
            loads, watch = loop.run_until_complete(self._use(seconds, ending, faults))
            if ending == "cancelled":
                loop.run_until_complete(_cancel_all())
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()
        for load in loads:
            self.ends.update(load.ends)
            load.kind.bodies = 0
        del loads
        if ending == "dropped":
            let_go(self._queues.values())
        gc.collect()
        for one in (*self._watches.values(), watch):
            if ending == "dropped":
                one.forget()
            else:
                one.check(drained=True)

    async def _use(self, seconds: float, ending: str, faults: Faults) -> tuple[list[Load], Watch]:
        client = redis.asyncio.Redis.from_url(self._server.url)
        kind = shared_kind(lambda: SharedSchedule(client, f"soak {self._rng.random()}"))
        watch = self._watch(kind)
        queues = {**self._queues, kind.name: kind.make(name=kind.name, observers=[watch])}
        loads = [
            Load(one, queues[one.name], self._rng.getrandbits(32), self.broken)
            for one in (*self._kinds, kind)
        ]
        late = asyncio.create_task(self._note_lateness(queues["hub"]))
        callers = [asyncio.create_task(load.run(seconds)) for load in loads]
        trouble = asyncio.create_task(faults.run(seconds, queues, watch))
        await asyncio.wait([*callers, trouble])
        for task in (*callers, trouble):
            task.result()
        if ending == "drained":
            for load in loads:
                await load.drain(DRAIN)
        late.cancel()
        if ending != "dropped":
            await queues[kind.name].aclose(drain=False)
            await client.aclose()
        return loads, watch

    async def _note_lateness(self, queue: ApiQueue) -> None:
        """Allow what docs/host.md allows a loop that is always late, for this round."""
        limits = [limit for kind in self._kinds if kind.shared for limit in kind.checks]
        checks = [limit.check for limit in limits if isinstance(limit.check, RateCheck)]
        late = LATE
        while True:
            late = max(late, LATE / 2 + host_lateness(queue))
            for check in checks:
                check.late = late
            await asyncio.sleep(0.02)

    def _reported(self, context: dict[str, Any], ending: str) -> None:
        error, message = context.get("exception"), context["message"]
        if isinstance(error, Planted):
            return
        if ending == "dropped" and "was destroyed" in message:
            return
        self.broken.append(f"the loop was told: {message} {error!r}")

    # Forks.

    def _fork(self) -> None:
        """Have a child use the queues whose loop is closed, and the one of the threads."""
        # Here first: what waited and ran on a loop that was dropped has its permits until then.
        asyncio.run(self._use_once())
        child = os.fork()
        if child == 0:
            code = 1
            with contextlib.suppress(BaseException):
                code = self._in_child()
            os._exit(code)
        deadline = time.monotonic() + FORKED
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            if time.monotonic() > deadline:
                os.kill(child, 9)
                os.waitpid(child, 0)
                self.broken.append("a forked child is stuck")
                return
            time.sleep(0.01)

    async def _use_once(self) -> None:
        for name in ("paced", "windows", "hub"):
            for _ in range(3):
                async with self._queues[name].slot():
                    pass

    def _in_child(self) -> int:
        faulthandler.dump_traceback_later(FORKED - 10, exit=True)
        try:
            asyncio.run(self._use_once())
            for _ in range(3):
                with blocking(self._threaded).slot(timeout=20):
                    pass
        except BaseException:  # noqa: BLE001 - whatever it is
            traceback.print_exc()
            return 1
        return 0

    # Threads.

    @contextlib.contextmanager
    def _threads(self) -> Any:
        """Have threads use a queue meanwhile."""
        limit = Limit(RateCheck("threads: 150/s burst 5", 150, 5, LATE))
        kind = Kind("threads", ApiQueue, lambda _: {}, 150, [limit])
        self._thread_watch = self._watch(kind)
        self._threaded = ApiQueue("150/s burst 5", observers=[self._thread_watch])
        stop = threading.Event()
        threads = [
            threading.Thread(target=self._in_thread, args=(number, stop)) for number in range(3)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join(30)
        if any(thread.is_alive() for thread in threads):
            self.broken.append("a thread is stuck")
        blocking(self._threaded).close()
        try:
            self._check_threads(drained=True)
        except Broken as broken:
            self.broken.append(str(broken))

    def _in_thread(self, number: int, stop: threading.Event) -> None:
        rng, calls = random.Random(number), blocking(self._threaded)
        while not stop.is_set():
            try:
                with calls.slot(timeout=rng.choice([0.001, 5])):
                    time.sleep(rng.expovariate(50))
            except SlotTimeout:
                pass
            except Exception as error:  # noqa: BLE001 - that is what is looked for
                self.broken.append(f"a thread got {error!r}")
                return

    def _check_threads(self, *, drained: bool) -> None:
        # On the loop's own thread: no event comes meanwhile.
        blocking_call: Callable[..., None] = blocking(self._threaded).call
        if drained:
            self._thread_watch.check(drained=True)
        else:
            blocking_call(self._thread_watch.check, drained=False)


class _Complaints(logging.Handler):
    """Takes what asyncio logs where there is no loop to tell.

    Args:
        broken: where to put what nobody has planted.
    """

    def __init__(self, broken: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._broken = broken

    def emit(self, record: logging.LogRecord) -> None:
        """Note it."""
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, Planted) and "was destroyed" not in record.getMessage():
            self._broken.append(f"asyncio says: {record.getMessage()} {error!r}")


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
