"""A quota by the hour, over a week."""

from __future__ import annotations

import asyncio
import random

import pytest

from aioapiqueue import ApiQueue, Rate, Window
from aioapiqueue.testing import VirtualLoop
from tests.helpers.yardstick import yards


class Recorder:
    """Notes when each slot was released."""

    def __init__(self):
        self.times = []

    def on_event(self, event):
        if event.kind == "released":
            self.times.append(event.at)


async def call_for_a_week(limit, calls, recorder):
    """Enqueue up to 1.6 times an hour's calls, at once or one by one, and wait for the last."""
    loop = asyncio.get_running_loop()
    queue = ApiQueue(limit, observers=[recorder])
    dice = random.Random(2026)
    futures = []
    while loop.time() < 7 * 24 * 3600:
        apart, burst = dice.random() < 0.5, []
        for _ in range(dice.choice([0, 10, calls * 3 // 5, calls * 8 // 5])):
            burst.append(queue.enqueue())
            if apart:
                await asyncio.sleep(0.01)
        futures += burst[-1:]
        await asyncio.sleep(dice.uniform(0, 2 * 3600))
    await asyncio.gather(*futures)


@pytest.mark.full_speed
@pytest.mark.usefixtures("no_collector")  # in a process that has run thousands of tests
@pytest.mark.parametrize("calls", [100, pytest.param(5000, marks=pytest.mark.slow)])
def test_window_holds_in_a_bursty_week(calls):
    """A window holds in every hour of a bursty week, and takes no longer for being large.

    Window(100, 3600) never releases 101 in any hour. The week took 0.9 to 1.2 times as long as
    with a token bucket of the same size, which keeps no calls in mind.
    """

    def week(limit):
        recorder = Recorder()
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(call_for_a_week(limit, calls, recorder))
        return recorder.times

    times = week(window := Window(calls, 3600))
    assert len(times) > 80 * calls
    assert any(now - before == 0 for before, now in zip(times, times[calls - 1 :], strict=False))
    assert all(now - before >= 3600 for before, now in zip(times, times[calls:], strict=False))
    bucket = Rate(calls, 3600, calls)
    assert yards(lambda: week(window), enough=1.5, than=lambda: week(bucket)) < 1.5
