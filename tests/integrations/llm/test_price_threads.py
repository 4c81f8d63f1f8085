"""Calls in USD from threads: they share a budget with each other, and with coroutines."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
from anyio.from_thread import BlockingPortal

from aioapiqueue import ApiQueue, LimitExceeded
from aioapiqueue.integrations import llm
from aioapiqueue.threads import blocking
from tests.helpers.priced_calls import QUESTION, chat_answer, per_million

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("price_package")]

LIMIT = "0.05 usd in all"
PROFILE = llm.openai.with_(prices={"*": {"input": 0, "output": 10}})
BODY = {"model": "m", "messages": QUESTION, "max_completion_tokens": 100}
URL = "https://api.openai.com/v1/chat/completions"
COST = 50 * 10 / 1e6  # of each call, half of what it reserves
THREADS = 4
PATIENCE = 60  # seconds: far more than anything here takes


class Provider:
    """Answers in threads and on the loop; keeps what it bills."""

    def __init__(self):
        self.billed = 0.0
        self._lock = threading.Lock()
        self.transport = httpx2.MockTransport(self.answer)

    def answer(self, _):
        """Bill a call."""
        with self._lock:
            self.billed += COST
        return httpx2.Response(200, json=chat_answer(20, 50))


def spend(client):
    """Make calls until one is refused; return their number."""
    for count in range(1000):  # ten times as many as there is room for
        try:
            client.post(URL, json=BODY).raise_for_status()
        except LimitExceeded:
            return count
    pytest.fail("nothing was refused")


async def settled(queue):
    """Return the use of the budget, once no call is pending."""
    async with asyncio.timeout(PATIENCE):
        while queue.stats.budgets[LIMIT].reserved:  # noqa: ASYNC110 - no event for it
            await asyncio.sleep(0.001)
    return queue.stats.budgets[LIMIT]


def check(provider, queue, count, use):
    """Check that all of the budget is used, and nothing beyond."""
    assert provider.billed == pytest.approx(count * COST)
    assert use.spent == per_million(count * 50 * 10)
    # The last call of each thread is refused: it might have cost twice as much as one does.
    assert 0.05 - (THREADS + 1) * 2 * COST < use.spent <= 0.05
    assert queue.stats.overdrawn == 0


async def test_threads_of_their_own():
    """Each has a client, and all of them one queue."""
    queue, provider = ApiQueue(LIMIT), Provider()

    def one():
        with llm.sync_client(queue, PROFILE, transport=provider.transport) as client:
            return spend(client)

    def everyone():
        with ThreadPoolExecutor(THREADS) as pool:
            return sum(one.result() for one in [pool.submit(one) for _ in range(THREADS)])

    count = await asyncio.to_thread(everyone)
    check(provider, queue, count, await settled(queue))


async def test_threads_and_coroutines():
    """With a portal to the loop, both spend the same budget."""
    queue, provider = ApiQueue(LIMIT), Provider()
    async with BlockingPortal() as portal:
        shared = blocking(queue, portal=portal)

        def one():
            with llm.sync_client(shared, PROFILE, transport=provider.transport) as client:
                return spend(client)

        async def other():
            async with llm.client(queue, PROFILE, transport=provider.transport) as client:
                for _ in range(5):
                    await client.post(URL, json=BODY)
            return 5

        threads = (asyncio.to_thread(one) for _ in range(THREADS))
        counts = await asyncio.gather(other(), *threads)
    check(provider, queue, sum(counts), await settled(queue))


async def test_refusals_in_threads():
    """A call without a price raises the same error there, and takes nothing."""
    queue, provider = ApiQueue(LIMIT), Provider()

    def ask():
        with llm.sync_client(queue, llm.openai, transport=provider.transport) as client:
            client.post(URL, json=BODY)

    with pytest.raises(llm.NoPrice, match="no known price"):
        await asyncio.to_thread(ask)
    assert (provider.billed, queue.running) == (0, 0)
