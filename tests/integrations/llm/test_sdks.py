"""The SDKs, unmodified, with limits learnt from the first answer: what docs/llm.md claims."""

from __future__ import annotations

import asyncio
import time

import pytest

from aioapiqueue import ApiQueue
from aioapiqueue.integrations import llm
from tests.helpers.llm_jobs import some_requests, unmodified_client
from tests.helpers.llm_sdks import SDKS
from tests.helpers.llm_servers import prompt, steady_user
from tests.helpers.llm_servers.base import Fault
from tests.helpers.yardstick import slowness

# The servers listen at Unix sockets, in virtual time.
pytestmark = [pytest.mark.posix, pytest.mark.usefixtures("sdks")]

PERIOD = 10
LIMITS = {
    "openai": {"calls": 150, "tokens": 60_000},
    "openai responses": {"calls": 150, "tokens": 60_000},
    "azure": {"calls": 150, "tokens": 60_000},
    "groq": {"calls": 150, "tokens": 60_000, "calls_per_day": 100_000},
    "anthropic": {"calls": 75, "input_tokens": 15_000, "output_tokens": 15_000},
    "gemini": {"calls": 150, "input_tokens": 30_000},
}
AMPLE = dict.fromkeys(
    ("calls", "calls_per_day", "tokens", "input_tokens", "output_tokens"), 1_000_000
)


def profile_of(name):
    """Return the profile of an SDK's provider, for quotas of `PERIOD` seconds, not a minute."""
    profile = getattr(llm, name.partition(" ")[0])
    return profile.with_(periods=dict.fromkeys(profile.periods, PERIOD))


def a_queue(name):
    """Return a queue without limits; of Gemini, which says nothing of its own, with them."""
    lanes = {"*": ()}
    if name == "gemini":
        # The server's bucket stays full until the first call is there, which takes a while where
        # 500 are made at once: not quite all of it at once.
        limits = LIMITS[name].items()
        lanes = {"*": [f"{n} {unit} per 10s burst {0.9 * n:g}" for unit, n in limits]}
    return ApiQueue(name=name, lanes=lanes)


def paced(server, queue, name):
    """Return a client of httpx2 for an SDK, which reaches the server in real and virtual time."""
    return llm.client(queue, profile_of(name), transport=server.transport())


async def run(name, number, *, limits=None, share=None, algorithm="bucket"):
    """Make so many calls, perhaps beside another who uses a share; return what became of both."""
    sdk, queue = SDKS[name], a_queue(name)
    async with (
        sdk.server(limits or LIMITS[name], period=PERIOD, algorithm=algorithm) as server,
        sdk(server, http_client=paced(server, queue, name)) as one,
    ):
        requests = some_requests(number)
        if share is None:
            return await unmodified_client(one, server, requests), None, queue
        async with steady_user(server, share) as user:
            return await unmodified_client(one, server, requests), user, queue


def check(outcome, queue, number):
    """Check that every call has an answer, or was cancelled, and none is left."""
    assert outcome.errors == []
    assert outcome.answered + outcome.cancelled == number
    assert 0 < outcome.cancelled <= number / 5
    assert outcome.refused == 0
    assert (queue.waiting, queue.running) == (0, 0)
    assert queue.stats.malformed == 0


@pytest.mark.parametrize("name", ["openai", "anthropic"])
async def test_learnt_from_first_answer(name):
    """The server refuses nothing once its first answer has told the limits."""
    limits = {unit: number // 2 for unit, number in LIMITS[name].items()}
    outcome, _, queue = await run(name, 75, limits=limits)
    check(outcome, queue, 75)
    learnt = {str(limit) for limit in queue.stats.learnt["m"]}
    unit = {"calls": ""}
    assert learnt == {f"{n}{unit.get(u, ' ' + u)} per 10s burst {n}" for u, n in limits.items()}
    assert outcome.used() > 0.75  # of so few calls, the first seconds are a large part


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("name", ["openai", "openai responses", "anthropic", "gemini"])
async def test_nothing_refused_little_lost(name):
    """500 calls: nothing refused, 0.95 of what the server admits to one who knows all costs."""
    outcome, _, queue = await run(name, 500)
    check(outcome, queue, 500)
    assert outcome.used() >= 0.95


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("name", ["openai", "anthropic"])
async def test_windows_are_kept_too(name):
    """Where the quotas are no buckets, as the profile has them, answers show it in time."""
    outcome, _, queue = await run(name, 500, algorithm="window")
    check(outcome, queue, 500)
    assert outcome.used() >= 0.95


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["bucket", "window"])
@pytest.mark.parametrize("name", ["openai", "openai responses", "anthropic"])
async def test_beside_another_user(name, algorithm):
    """One who uses a third is left alone: refusals below 0.5 %, 0.9 used of what is left."""
    outcome, user, queue = await run(name, 500, share=1 / 3, algorithm=algorithm)
    assert outcome.answered + outcome.cancelled + len(outcome.errors) == 500
    assert outcome.refused < 0.005 * 500
    assert user.refused < 0.005 * user.sent
    assert outcome.used(2 / 3) >= 0.9
    assert (queue.waiting, queue.running) == (0, 0)


@pytest.mark.full_speed
@pytest.mark.parametrize("name", ["openai", "anthropic", "gemini"])
async def test_streams_are_not_delayed(name):
    """Each piece of a stream arrives as the server sends it.

    Until the first, the queue takes less than 5 ms of CPU: the least of 20 streams, with the queue
    and without, on a machine of ordinary speed. Time in which others have the CPU is not counted.
    """
    sdk, queue = SDKS[name], ApiQueue(lanes={"*": ()})
    text, now = prompt(40, out=100, seconds=0.05), asyncio.get_running_loop().time
    async with (
        sdk.server(AMPLE, period=PERIOD) as server,
        sdk(server) as plain,
        sdk(server, http_client=paced(server, queue, name)) as through,
    ):
        first = {plain: [], through: []}
        for _ in range(20):
            for one, spent in first.items():
                begun, before, instants = now(), time.process_time(), []
                async for piece, _ in one.stream(text, 200):
                    if not instants:
                        spent.append(time.process_time() - before)
                    if piece:
                        instants.append(now() - begun)
                assert instants == pytest.approx([0.0, 0.01, 0.02, 0.03, 0.04])
    took = min(first[through]) - min(first[plain])
    assert took < 0.005 or took < 0.005 * slowness()


@pytest.mark.parametrize("name", ["openai", "anthropic"])
async def test_retries_are_not_doubled(name):
    """An SDK that tries again by itself sends each attempt once, through the queue."""
    sdk, queue = SDKS[name], ApiQueue(lanes={"*": ()})
    async with (
        sdk.server(AMPLE, period=PERIOD) as server,
        sdk(server, http_client=paced(server, queue, name), retries=2) as one,
    ):
        server.fail_next(Fault(503, {"error": {"message": "overloaded"}}), Fault(503, {}))
        await one.ask(prompt(40, out=20, seconds=0.01), 40)
        assert [arrival.retry for arrival in server.log] == [0, 1, 2]
    assert queue.stats.released == 3
