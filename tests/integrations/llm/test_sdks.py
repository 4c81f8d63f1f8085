"""The SDKs, unmodified, with limits learnt from the first answer: what docs/llm.md claims."""

from __future__ import annotations

import asyncio
import statistics

import httpcore2  # noqa: F401 - httpx2 imports it late, and it reads files, which blocks a loop
import pytest

from aioapiqueue import ApiQueue
from aioapiqueue.integrations import llm
from tests.helpers.llm_jobs import some_requests, unmodified_client
from tests.helpers.llm_sdks import SDKS
from tests.helpers.llm_servers import prompt, steady_user
from tests.helpers.llm_servers.base import Fault

pytestmark = pytest.mark.real

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


async def warm_up(sdk):
    """Make a call and read a stream elsewhere: at their first, SDKs import and build their types.

    That takes them up to a second of CPU, between the first answer and the calls that follow, in
    which a bucket is full and loses what comes back.
    """
    async with sdk.server(AMPLE) as server, sdk(server) as one:
        text = prompt(40, out=100, seconds=0.05)
        await one.ask(text, 200)
        await one.read(text, 200)


async def run(name, number, *, share=None, algorithm="bucket", seed=1):
    """Make so many calls, perhaps beside another who uses a share; return what became of both."""
    sdk, queue = SDKS[name], a_queue(name)
    await warm_up(sdk)
    async with sdk.server(LIMITS[name], period=PERIOD, algorithm=algorithm) as server:
        client = llm.client(queue, profile_of(name))
        async with sdk(server, http_client=client) as one:
            requests = some_requests(number, seed=seed)
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


@pytest.mark.parametrize(("name", "number"), [("openai", 150), ("anthropic", 150)])
async def test_learnt_from_first_answer(name, number):
    """Nothing is refused of what is released once the first answer has told the limits."""
    outcome, _, queue = await run(name, number)
    check(outcome, queue, number)
    learnt = {str(limit) for limit in queue.stats.learnt["m"]}
    unit = {"calls": ""}
    assert learnt == {
        f"{n}{unit.get(u, ' ' + u)} per 10s burst {n}" for u, n in LIMITS[name].items()
    }
    assert outcome.used() > 0.7  # of so few calls, the first seconds are a large part


@pytest.mark.slow
@pytest.mark.parametrize("name", ["openai", "openai responses", "anthropic", "gemini"])
async def test_nothing_refused_little_lost(name):
    """500 calls: nothing refused, 0.95 of what the server admits to one who knows all costs."""
    outcome, _, queue = await run(name, 500)
    check(outcome, queue, 500)
    assert outcome.used() >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("name", ["openai", "anthropic"])
async def test_windows_are_kept_too(name):
    """Where the quotas are no buckets, as the profile has them, answers show it in time."""
    outcome, _, queue = await run(name, 500, algorithm="window")
    check(outcome, queue, 500)
    assert outcome.used() >= 0.95


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
    """The first piece of a stream comes within 5 ms of when it does without a queue.

    All pieces come one by one, as the server sends them.
    """
    sdk, queue = SDKS[name], ApiQueue(lanes={"*": ()})
    text, now = prompt(40, out=100, seconds=0.05), asyncio.get_running_loop().time
    async with (
        sdk.server(AMPLE, period=PERIOD) as server,
        sdk(server) as plain,
        sdk(server, http_client=llm.client(queue, profile_of(name))) as paced,
    ):
        first, spread = {plain: [], paced: []}, []
        for turn in range(22):
            for one, times in first.items():
                begun = now()
                _, instants = await one.read(text, 200)
                if turn > 1:  # the SDKs import late
                    assert len(instants) == 5
                    spread.append(instants[-1] - instants[0])
                    times.append(instants[0] - begun)
    assert statistics.median(spread) > 0.03
    # The best quarter of each: what else the machine does only adds to it.
    quarter = {one: statistics.quantiles(times)[0] for one, times in first.items()}
    assert quarter[paced] - quarter[plain] < 0.005


@pytest.mark.parametrize("name", ["openai", "anthropic"])
async def test_retries_are_not_doubled(name):
    """An SDK that tries again by itself sends each attempt once, through the queue."""
    sdk, queue = SDKS[name], ApiQueue(lanes={"*": ()})
    async with (
        sdk.server(AMPLE, period=PERIOD) as server,
        sdk(server, http_client=llm.client(queue, profile_of(name)), retries=2) as one,
    ):
        server.fail_next(Fault(503, {"error": {"message": "overloaded"}}), Fault(503, {}))
        await one.ask(prompt(40, out=20, seconds=0.01), 40)
        assert [arrival.retry for arrival in server.log] == [0, 1, 2]
    assert queue.stats.released == 3
