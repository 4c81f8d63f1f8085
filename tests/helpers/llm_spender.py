"""A process that spends money by the SDKs of OpenAI and Anthropic, at a `BillingServer`.

    python -m tests.helpers.llm_spender WHERE URL REPORT PROCESS CALLS BUDGET RETRIES

`WHERE` is `host:NAME` or a URL of Redis with `#NAME`: the quota has BUDGET USD. Or it is
`naive:FILE`: then a call reads in the file what was spent, is made if that is below BUDGET, and
adds its cost when it has ended, as callbacks of cost trackers do.

It reads a line before it begins, makes all calls at once, and appends to the file REPORT what
became of each of them, and the queue's statistics at the end.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import AsyncExitStack, aclosing
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import httpx2

from aioapiqueue import ApiQueue, HostSchedule, LimitExceeded
from aioapiqueue.integrations import llm
from tests.helpers.hubs import begin_hubs_as_told
from tests.helpers.lazily import lazily
from tests.helpers.ledger import sums
from tests.helpers.measured import measure_hubs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

__all__ = ["LLMUser", "Outcome", "Wish", "wishes"]

anthropic, openai, genai_prices = lazily("anthropic"), lazily("openai"), lazily("genai_prices")

MODELS = {"openai": "gpt-4o", "anthropic": "claude-haiku-4-5"}
"""The model that is called by each SDK."""
EVENTS = 7  # of a stream, at least
SOON, LATER = 0.1, 3.0  # seconds
UNLIMITED = httpx2.Limits(max_connections=None)
ALPHABET = "abcdefgh     éß語🙂"


@dataclass(frozen=True)
class Wish:
    """A call that is made.

    Args:
        name: no other call has it.
        sdk: "openai" or "anthropic".
        text: the prompt, with the name.
        max_tokens: of the response.
        streams: whether it is a stream.
        leaves: when the caller goes away, from 0 to 1: after this part of the events of a stream,
            of `SOON` once its request is sent, or of `LATER`.
        waits: whether it goes away by `LATER`, perhaps before its request is sent.
        asks_usage: whether OpenAI's stream states its usage.
        caches: for how long Anthropic puts the prompt into its cache: "5m", "1h", or "".
    """

    name: str
    sdk: str
    text: str
    max_tokens: int
    streams: bool
    leaves: float | None = None
    waits: bool = False
    asks_usage: bool = True
    caches: str = ""


def wishes(count: int, *, first: int = 0) -> list[Wish]:
    """Return calls, half of them streams, a tenth cancelled, and half of each for either SDK.

    Args:
        count: number of calls.
        first: number of the first call. Calls with the same numbers are the same.
    """
    rng = Random(first)
    found = []
    for number in range(first, first + count):
        name = f"call-{number}"
        text = "".join(rng.choices(ALPHABET, k=rng.randint(20, 120)))
        found.append(
            Wish(
                name,
                sdk=("openai", "anthropic")[number % 2],
                text=f"[{name}] {text}",
                max_tokens=rng.randint(500, 1500),
                streams=number // 2 % 2 == 0,
                leaves=rng.uniform(0.6, 1) if number // 4 % 10 == 0 else None,
                waits=number // 4 % 20 == 0,
                asks_usage=number // 4 % 20 != 1,
                caches=("", "5m", "1h")[number // 4 % 3],
            )
        )
    rng.shuffle(found)
    return found


@dataclass
class Outcome:
    """What became of a call: "answered", "cancelled", "refused" or "failed"."""

    call: str
    kind: str
    error: str = ""
    stated: Any = None  # what of its response states the usage


leaves_after: ContextVar[float | None] = ContextVar("leaves_after", default=None)
"""Seconds after which the task is cancelled whose request is sent."""


class Noticing(httpx2.AsyncBaseTransport):
    """Cancels callers that go away soon after their requests are sent."""

    def __init__(self, inner: httpx2.AsyncBaseTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        after = leaves_after.get()
        if after is not None:
            task = asyncio.current_task()
            assert task is not None
            asyncio.get_running_loop().call_later(after, task.cancel)
        return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        await self._inner.aclose()


class LLMUser:
    """Makes calls by both SDKs.

    Args:
        url: of the server.
        queue: paces the calls. None: nothing does.
        retries: how often an SDK tries again by itself.
        transport: makes what reaches the server. Default: by TCP.
    """

    def __init__(
        self,
        url: str,
        queue: ApiQueue | None,
        *,
        retries: int = 0,
        transport: Callable[[], httpx2.AsyncBaseTransport | None] = lambda: None,
    ) -> None:
        def options(profile: llm.Profile) -> dict[str, Any]:
            inner = Noticing(transport() or httpx2.AsyncHTTPTransport(limits=UNLIMITED))
            if queue is None:
                client = httpx2.AsyncClient(transport=inner, timeout=None)
            else:
                client = llm.client(queue, profile, transport=inner)
            return {"api_key": "mine", "max_retries": retries, "http_client": client}

        self.openai = openai.AsyncOpenAI(base_url=f"{url}/v1", **options(llm.openai))
        self.anthropic = anthropic.AsyncAnthropic(base_url=url, **options(llm.anthropic))

    async def aclose(self) -> None:
        """Close both clients."""
        await self.openai.close()
        await self.anthropic.close()

    async def spend(self, wish: Wish) -> Outcome:
        """Make a call, cancel it if that is wanted, and return what became of it."""
        outcome = Outcome(wish.name, "answered")
        task = asyncio.ensure_future(self._call(wish, outcome))
        if wish.leaves is not None and not wish.streams and wish.waits:
            asyncio.get_running_loop().call_later(wish.leaves * LATER, task.cancel)
        await asyncio.wait({task})
        if task.cancelled():
            return Outcome(wish.name, "cancelled")
        task.result()
        return outcome

    async def _call(self, wish: Wish, outcome: Outcome) -> None:
        if wish.leaves is not None and not wish.streams and not wish.waits:
            leaves_after.set(wish.leaves * SOON)
        try:
            async with aclosing(getattr(self, f"_ask_{wish.sdk}")(wish)) as events:
                number = 0
                async for stated in events:
                    number += 1
                    outcome.stated = stated or outcome.stated
                    if wish.leaves is not None and wish.streams and number >= EVENTS * wish.leaves:
                        this_task = asyncio.current_task()
                        assert this_task is not None
                        this_task.cancel()
        except LimitExceeded:
            if wish.sdk != "openai":  # as documented
                raise
            outcome.kind = "refused"
        except anthropic.APIStatusError as error:
            outcome.kind = "failed" if llm.limit_exceeded(error) is None else "refused"
            outcome.error = repr(error)
        except (openai.APIError, anthropic.APIError, httpx2.HTTPError) as error:
            outcome.kind, outcome.error = "failed", repr(error)

    async def _ask_openai(self, wish: Wish) -> AsyncIterator[Any]:
        """Yield each event as it arrives: what states the usage, or None."""
        request = {
            "model": MODELS["openai"],
            "messages": [{"role": "user", "content": wish.text}],
            "max_completion_tokens": wish.max_tokens,
        }
        if not wish.streams:
            yield await self.openai.chat.completions.create(**request)
            return
        if wish.asks_usage:
            request["stream_options"] = {"include_usage": True}
        async with await self.openai.chat.completions.create(**request, stream=True) as chunks:
            async for chunk in chunks:
                yield chunk if chunk.usage else None

    async def _ask_anthropic(self, wish: Wish) -> AsyncIterator[Any]:
        """Yield each event as it arrives: what states the usage, or None."""
        part = {"type": "text", "text": wish.text}
        if wish.caches:
            part["cache_control"] = {"type": "ephemeral", "ttl": wish.caches}
        request = {
            "model": MODELS["anthropic"],
            "messages": [{"role": "user", "content": [part]}],
            "max_tokens": wish.max_tokens,
        }
        if not wish.streams:
            yield await self.anthropic.messages.create(**request)
            return
        async with self.anthropic.messages.stream(**request) as events:
            async for event in events:
                if event.type in {"content_block_start", "content_block_delta", "message_stop"}:
                    yield event.message if event.type == "message_stop" else None


def cost_of(stated: Any, provider: str) -> float:
    """Return what a response costs by the usage that it states, as cost trackers compute it."""
    flavor = "chat" if provider == "openai" else "default"
    usage = genai_prices.extract_usage(stated.model_dump(), provider_id=provider, api_flavor=flavor)
    return float(usage.calc_price().total_price)


class Naive:
    """Calls if what was spent is below the budget, and adds the cost afterwards."""

    def __init__(self, user: LLMUser, ledger: Path, budget: float) -> None:
        self._user = user
        self._ledger = ledger
        self._budget = budget

    async def spend(self, wish: Wish) -> Outcome:
        """Make a call, if there is still money."""
        if sums(self._ledger)[-1] >= self._budget:
            return Outcome(wish.name, "refused")
        outcome = await self._user.spend(wish)
        if outcome.stated:
            with self._ledger.open("a") as file:
                file.write(f"{cost_of(outcome.stated, wish.sdk):.9f}\n")
        return outcome


class Report:
    """A file to which processes append what became of their calls, a line for each."""

    def __init__(self, file: Path) -> None:
        self._file = os.open(file, os.O_WRONLY | os.O_APPEND)

    def write(self, **found: Any) -> None:
        """Add a line, whole."""
        os.write(self._file, f"{json.dumps(found)}\n".encode())


async def main(  # noqa: PLR0917 - the words of a command
    where: str, url: str, report: str, process: str, calls: str, budget: str, retries: str
) -> None:
    """Spend."""
    file = Report(Path(report))
    async with AsyncExitStack() as stack:
        kind, _, name = where.partition(":")
        limit = f"{budget} usd in all"
        queue = None
        if kind == "host":
            queue = ApiQueue(limit, schedule=HostSchedule(name))
        elif kind != "naive":
            from redis.asyncio import Redis

            from aioapiqueue.integrations.redis import SharedSchedule

            at, _, name = where.partition("#")
            client = await stack.enter_async_context(Redis.from_url(at))
            queue = ApiQueue(limit, schedule=SharedSchedule(client, name))
        user = LLMUser(url, queue, retries=int(retries))
        stack.push_async_callback(user.aclose)
        spends = user.spend if queue else Naive(user, Path(name), float(budget)).spend

        async def spend(wish: Wish) -> None:
            found = await spends(wish)
            file.write(call=found.call, kind=found.kind, error=found.error)

        file.write(ready=process)
        sys.stdin.readline()
        await asyncio.gather(*map(spend, wishes(int(calls), first=int(process) * int(calls))))
        if queue is not None:
            file.write(overdrawn=queue.stats.overdrawn, malformed=queue.stats.malformed)
            await queue.aclose()


if __name__ == "__main__":
    measure_hubs()
    begin_hubs_as_told()
    asyncio.run(main(*sys.argv[1:]))
