"""Threads that spend one budget: they wait for what others may give back, and raise after that."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from aioapiqueue import ApiQueue, LimitExceeded
from aioapiqueue.threads import blocking
from tests.helpers.waiting import wait_until

pytestmark = pytest.mark.real


def test_threads_wait_and_raise():
    """Two reserve all of it; as they settle low, one more starts, and the rest raises."""
    queue, may_end = blocking(ApiQueue("5 usd in all")), threading.Event()

    def call(_):
        try:
            with queue.slot(cost={"usd": 2}) as slot:
                may_end.wait()
                slot.settle({"usd": 1.5})
        except LimitExceeded as error:
            return error.remaining
        return "made"

    with ThreadPoolExecutor(6) as pool:
        outcomes = pool.map(call, range(6))
        wait_until(lambda: (queue.stats.running, queue.stats.waiting) == (2, 4))
        may_end.set()
        assert sorted(outcomes, key=str) == [0.5, 0.5, 0.5, "made", "made", "made"]
    with pytest.raises(LimitExceeded):
        queue.try_slot(cost={"usd": 2})
