"""Many calls to an LLM server by an SDK, as the "Done when" of learnt limits asks for."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

from tests.helpers.llm_servers import least_time, prompt

__all__ = ["Outcome", "Request", "some_requests", "unmodified_client"]


@dataclass(frozen=True)
class Request:
    """One call of the client."""

    tokens: int
    out: int
    seconds: float  # no two have the same
    streams: bool
    gives_up_after: float | None  # seconds, from when the server has it


@dataclass
class Outcome:
    """What became of them."""

    server: object
    answered: int
    errors: list
    cancelled: int = 0

    @property
    def arrivals(self):
        """What the server has seen of the client."""
        return [one for one in self.server.log if one.key == "mine"]

    @property
    def refused(self):
        """How many the server has refused which it got after it had answered the first."""
        arrivals = self.arrivals
        known = min(one.ended for one in arrivals if one.ended is not None)
        return sum(one.refusal is not None for one in arrivals if one.at > known)

    def used(self, share=1.0):
        """Return the share of the time in which it could have arrived, with all costs known."""
        arrivals = self.arrivals
        jobs = self.server.ledger.jobs(key="mine")
        ideal = least_time(self.server.ledger.new_quotas(share=share), jobs)
        return ideal / (arrivals[-1].at - arrivals[0].at)


def some_requests(number, *, seed=1):
    """Return calls of 0.2 to 1 s, half of them streams, of which 10 % are cancelled on the way."""
    rng = random.Random(seed)
    found = []
    for place in range(number):
        seconds = rng.uniform(0.2, 1)
        gives_up = rng.uniform(0, seconds) if rng.random() < 0.1 else None
        tokens, out = rng.randint(50, 300), rng.randint(100, 300)
        found.append(Request(tokens, out, seconds, place % 2 == 0, gives_up))
    return found


async def unmodified_client(one, server, requests):
    """Make all calls at once by an SDK, asking for twice the tokens that there will be."""
    outcome = Outcome(server, 0, [])

    def has_arrived(request):
        return any(one.script.seconds == request.seconds for one in reversed(server.log))

    async def give_up(request, task):
        while not task.done() and not has_arrived(request):  # noqa: ASYNC110 - only one of many
            await asyncio.sleep(0.1)
        await asyncio.wait([task], timeout=request.gives_up_after)
        task.cancel()

    async def call(request):
        text = prompt(request.tokens, out=request.out, seconds=request.seconds)
        make = one.read if request.streams else one.ask
        task = asyncio.ensure_future(make(text, 2 * request.out))
        if request.gives_up_after is not None:
            await give_up(request, task)
        try:
            await task
        except asyncio.CancelledError:
            outcome.cancelled += 1
        except Exception as error:  # noqa: BLE001 - whatever an SDK raises is looked at
            outcome.errors.append(error)
        else:
            outcome.answered += 1

    await asyncio.gather(*map(call, requests))
    return outcome
