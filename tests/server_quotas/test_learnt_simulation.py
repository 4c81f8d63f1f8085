"""500 calls to an LLM API whose limits are learnt: nothing is refused, hardly any time is lost.

Half of them are streams, whose answer comes at their beginning; a tenth are cancelled at some time;
each asks for twice the output that it gets, and for a tenth more input. The server counts what is
asked for and gives back what was not used, when the call ends.
"""

from __future__ import annotations

import asyncio
import random
from typing import NamedTuple

import pytest

from aioapiqueue import ApiQueue, Rate
from aioapiqueue.spi import Reporter
from tests.helpers.instants import now
from tests.helpers.quota_server import Bucket, QuotaServer, Windows, least_time

CALLS = 500
PERIOD = 10.0
LIMITS = {"calls": 60, "input_tokens": 20_000, "output_tokens": 20_000}
ON_THE_WAY = 0.002
"""Seconds that a request, and an answer, takes at most: calls may overtake each other."""
SEEDS = range(3)


class Job(NamedTuple):
    """One call."""

    asked: dict[str, float]
    """What it is charged here."""
    counted: dict[str, float]
    """What the server counts when it comes."""
    used: dict[str, float]
    """What it turns out to need."""
    seconds: float
    is_stream: bool
    cancelled_after: float | None


def jobs_of(rng):
    """Return random calls."""
    found = []
    for number in range(CALLS):
        output, words = rng.randint(100, 500), rng.randint(50, 600)
        counted = {"calls": 1, "input_tokens": words, "output_tokens": 2 * output}
        seconds = rng.uniform(0.2, 1)
        found.append(
            Job(
                asked={**counted, "input_tokens": 1.1 * words},
                counted=counted,
                used={**counted, "output_tokens": output},
                seconds=seconds,
                is_stream=number % 2 == 0,
                cancelled_after=rng.uniform(0, seconds) if rng.random() < 0.1 else None,
            )
        )
    return found


class Client:
    """Makes the calls, as a transport does that learns limits.

    Args:
        server: which.
        rng: says how long requests are on their way.
    """

    def __init__(self, server, rng):
        self.server = server
        self.rng = rng
        self.queue = ApiQueue(lanes={"*": ()})
        Reporter(self.queue).learn(LIMITS)

    async def _on_the_way(self):
        await asyncio.sleep(self.rng.uniform(0, ON_THE_WAY))

    def _answered(self, slot, figures):
        quotas = Reporter(self.queue)
        refills = self.server.kind.refills
        for unit, figure in figures.items():
            quotas.sync(
                slot,
                figure.remaining,
                unit=unit,
                reset=figure.reset,
                limit=figure.limit,
                period=PERIOD,
                refills=refills,
            )
        limits = {unit: figure.limit for unit, figure in figures.items()}
        quotas.adopt(slot, [Rate(x, per=PERIOD, burst=x, unit=u) for u, x in limits.items()])

    async def call(self, job):
        """Make one call, perhaps cancelled; one that is refused is lost."""
        async with self.queue.slot(key="model", cost=job.asked) as slot:
            try:
                async with asyncio.timeout(job.cancelled_after):
                    await self._send(slot, job)
            except TimeoutError:
                pass

    async def _send(self, slot, job):
        server = self.server
        await self._on_the_way()
        came = now()
        taken, figures = server.request(came, job.counted), server.figures(came)
        if not taken:
            await self._on_the_way()
            slot.settle(dict.fromkeys(LIMITS, 0))
            self._answered(slot, figures)
            missing = [one for unit, one in figures.items() if one.remaining < job.counted[unit]]
            slot.throttled(max(one.reset for one in missing))
            return
        try:
            if job.is_stream:
                await self._on_the_way()
                self._answered(slot, figures)
            await asyncio.sleep(job.seconds)
            figures = server.figures(now())
        finally:
            unused = {unit: job.counted[unit] - used for unit, used in job.used.items()}
            server.give_back(now(), came, unused)
        await self._on_the_way()
        if not job.is_stream:
            self._answered(slot, figures)
        slot.settle(job.used)


async def use_a_third(server):
    """Use a third of each second's output tokens, in steps of what a call is on average."""
    output, steps = LIMITS["output_tokens"], LIMITS["calls"]
    while True:
        server.request(now(), {"output_tokens": output / steps}, who="they")
        await asyncio.sleep(3 * PERIOD / steps)


def run_jobs(run_virtual, kind, seed, *, beside_others):
    """Make all calls at once; return the server, and the least time as a share of what it took."""
    rng = random.Random(seed)
    jobs = jobs_of(rng)
    server = QuotaServer(kind, LIMITS, period=PERIOD)

    async def main():
        client = Client(server, rng)
        others = asyncio.create_task(use_a_third(server)) if beside_others else None
        await asyncio.gather(*map(client.call, jobs))
        if others is not None:
            others.cancel()
        return now()

    took = run_virtual(main) - 0.6  # seconds of the last call itself, on average
    share = 2 / 3 if beside_others else 1
    ours = {unit: limit * share for unit, limit in LIMITS.items()}
    least = least_time(QuotaServer(kind, ours, period=PERIOD), [job.used for job in jobs])
    return server, least / took


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", [Bucket, Windows])
def test_alone_nothing_is_refused(run_virtual, kind, seed):
    """At least 0.95 of what a client would get that knows what each call will need."""
    server, share = run_jobs(run_virtual, kind, seed, beside_others=False)
    assert server.refused.total() == 0
    assert share >= 0.95


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", [Bucket, Windows])
def test_beside_another_user(run_virtual, kind, seed):
    """Under 0.5 % of both are refused; at least 0.9 of what the other leaves is used."""
    server, share = run_jobs(run_virtual, kind, seed, beside_others=True)
    assert server.taken["they"] > CALLS / 3
    assert server.refused.total() < 0.005 * (server.taken + server.refused).total()
    assert share >= 0.9
