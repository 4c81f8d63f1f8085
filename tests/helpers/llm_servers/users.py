"""Another client of the same quota, without an SDK and without a queue."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

import aiohttp

from tests.helpers.llm_servers.prompts import prompt

__all__ = ["SteadyUser", "steady_user"]

NOT_TOKENS = ("calls", "calls_per_day")
UNCOUNTED = 20  # tokens, where there is no limit


@dataclass
class SteadyUser:
    """What became of its requests so far."""

    every: float  # seconds between two of them
    prompt_tokens: int  # of each
    max_tokens: int
    sent: int = 0
    refused: int = 0

    @property
    def refused_share(self):
        """Refusals for each request."""
        return self.refused / self.sent


@contextlib.asynccontextmanager
async def steady_user(server, share, *, model="m", key="steady", seconds=0.0):
    """Use a share of a model's quota evenly, from now to the end of the block.

    Its calls come so often as that share of the calls allows, and each takes that share of the
    tokens in this time, rounded down; so the model needs a limit of calls. Its requests do not
    wait for each other. At the end of the block it waits for the answers to those that it has
    sent; if the block fails or is cancelled, it stops at once.

    Args:
        server: an `LLMServer` that is up.
        share: 0 to 1.
        model: whose quotas.
        key: its API key, by which the server's log knows it.
        seconds: of each answer.
    """
    quotas = server.quotas(model)
    every = quotas.periods["calls"] / (share * quotas.limits["calls"])
    each = {
        unit: int(share * limit * every / quotas.periods[unit])
        for unit, limit in quotas.limits.items()
        if unit not in NOT_TOKENS
    }
    if "tokens" in each:
        asked, made = -(-each["tokens"] // 2), each["tokens"] // 2
    else:
        asked, made = each.get("input_tokens", UNCOUNTED), each.get("output_tokens", UNCOUNTED)
    user = SteadyUser(every, asked, made)
    path, body = server.request(model, prompt(asked, out=made, seconds=seconds), made)

    async def call(session):
        async with session.post(server.url + path, json=body) as response:
            await response.read()
            user.refused += response.status == 429

    stopped = asyncio.Event()

    async def run(session):
        begun = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as calls:
            while not stopped.is_set():
                user.sent += 1
                calls.create_task(call(session))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(begun + user.sent * every):
                        await stopped.wait()

    async with aiohttp.ClientSession(
        headers={"authorization": f"Bearer {key}"}, connector=server.connector()
    ) as session:
        running = asyncio.create_task(run(session))
        try:
            yield user
            stopped.set()
            await running
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
