"""Several event loops at once in one process, and processes one after the other: one quota."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time

import pytest

from aioapiqueue import ApiQueue, HostSchedule
from tests.helpers.host_workers import ROOT, most_in
from tests.helpers.hubs import hub_in_use, stop_hub

pytestmark = pytest.mark.real

ALL_OF_AN_HOUR = """
import asyncio
from aioapiqueue import ApiQueue, HostSchedule, SlotTimeout

async def main():
    queue = ApiQueue("5 in any 1h", schedule=HostSchedule("crm"))
    started = 0
    try:
        while True:
            async with queue.slot(timeout=2):
                started += 1
    except SlotTimeout:
        print(started)

asyncio.run(main())
"""


@pytest.fixture
def hub():
    """A hub of the test's own."""
    with hub_in_use() as directory:
        yield directory


@pytest.mark.usefixtures("hub")
def test_loops_at_once_share_one_quota():
    """Three loops in three threads, each with a queue of one name: 50 per second together."""
    starts = []

    async def main():
        queue = ApiQueue("50/s", schedule=HostSchedule("crm"))

        async def call():
            async with queue.slot():
                starts.append(time.monotonic())

        await asyncio.gather(*(call() for _ in range(20)))
        await queue.aclose()

    threads = [threading.Thread(target=asyncio.run, args=(main(),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    starts.sort()
    assert len(starts) == 60
    assert starts[-1] - starts[0] >= 59 / 50 - 0.010
    for per in (0.25, 0.5, 1.0):
        assert most_in(starts, per) <= 1 + (per + 0.01) * 50


def test_restart_gives_no_fresh_quota(hub):
    """Neither a new process nor a new hub makes calls that the last one used up."""

    def started():
        command = [sys.executable, "-c", ALL_OF_AN_HOUR]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        return int(ended.stdout)

    assert started() == 5
    assert started() == 0
    stop_hub(hub)
    assert started() == 0


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
