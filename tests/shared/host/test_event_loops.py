"""Several event loops at once in one process, and processes one after the other: one quota."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from aioapiqueue import ApiQueue, HostSchedule
from tests.helpers.host_workers import Starts, Workers, most_in
from tests.helpers.hubs import ask_hub, hub_in_use, stop_hub
from tests.helpers.modules import ROOT

pytestmark = pytest.mark.real


@pytest.fixture
def hub():
    """A hub of the test's own."""
    with hub_in_use() as directory:
        yield directory


@pytest.mark.usefixtures("hub")
def test_loops_at_once_share_one_quota():
    """Three loops in three threads, each with a queue of one name: 50 per second together."""
    starts = Starts()

    async def main():
        queue = ApiQueue("200/s", schedule=HostSchedule("crm"), observers=[starts])

        async def call():
            async with queue.slot():
                starts.begin()

        await asyncio.gather(*(call() for _ in range(20)))
        await queue.aclose()

    threads = [threading.Thread(target=asyncio.run, args=(main(),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = sorted(starts.instants)
    assert len(found) == 60
    assert found[-1] - found[0] >= 59 / 200 - 0.010
    for per in (0.05, 0.1, 0.2):
        assert most_in(found, per) <= 1 + (per + 0.01) * 200


def started(hub):
    """How many calls of an hour's five a new process makes, until it has to wait."""
    with Workers(1, "crm", "5 in any 1h", tasks=1):
        deadline = time.monotonic() + 60
        while True:
            assert time.monotonic() < deadline
            time.sleep(0.02)
            status = ask_hub(hub, command="status") or {"quotas": []}
            for client in (one for quota in status["quotas"] for one in quota["clients"]):
                if client["waiting"]:
                    return client["started"]


def test_restart_gives_no_fresh_quota(hub):
    """Neither a new process nor a new hub makes calls that the last one used up."""
    assert started(hub) == 5
    assert started(hub) == 0
    stop_hub(hub)
    assert started(hub) == 0


@pytest.mark.parametrize(
    "act",
    [
        lambda _, slot, __: slot.settle(0),
        lambda _, slot, __: slot.release(),
        lambda *those: those[2].cancel(),
        lambda queue, *_: queue.throttled(),
        lambda queue, *_: queue.resume(),
    ],
    ids=["settle", "release", "cancel", "throttled", "resume"],
)
@pytest.mark.usefixtures("hub")
def test_queue_is_used_between_loops(act):
    """Its connection belongs to the loop before, which is closed; the next loop has another."""
    queue = ApiQueue("50/s", schedule=HostSchedule("crm"))

    async def two():
        slot = await queue.enqueue()
        return slot, queue.enqueue()

    async def last():
        async with queue, queue.slot():
            pass

    act(queue, *asyncio.run(two()))
    asyncio.run(last())


def test_decisions_between_loops_are_shared(hub):
    """What is decided while no loop runs reaches the hub with the next one."""
    queue = ApiQueue("100/s", schedule=HostSchedule("crm"))

    async def one():
        await queue.enqueue()

    asyncio.run(one())
    queue.set_rate("7/s")
    queue.pause()

    async def wait():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await queue.enqueue()
        [quota] = (await asyncio.to_thread(ask_hub, hub, command="status"))["quotas"]
        await queue.aclose()
        return quota

    quota = asyncio.run(wait())
    assert (quota["limits"], quota["paused"]) == (["7/s"], True)


@pytest.mark.parametrize(
    ("page", "topic"),
    [
        ("migrate/pyrate-limiter.md", "restart"),
        ("migrate/token-throttle.md", "restart"),
        ("threads.md", "event loops at once"),
    ],
)
def test_pages_name_the_schedule(page, topic):
    """Where the pages come to what the tests above show, they name `HostSchedule`."""
    text = (ROOT / "docs" / page).read_text("utf-8")
    about = [part for part in text.split("\n\n") if topic in part.casefold()]
    assert about
    start = text.index(about[0])
    assert "HostSchedule" in text[start : start + 800]
