"""A provider that bills what it generates, in USD, and may fail in many ways while it does so.

It speaks OpenAI's chat completions and Anthropic's messages. Prices are those of genai-prices. The
bill counts the true tokens, whatever the responses state:

- The prompt has between one token for four bytes and one token for each byte, and a few more for
  its format. A part of a long prompt may come from the cache, or go into it if the request says so.
- The response has between half of the request's maximum and all of it.
- The prompt is billed when generation starts, and the output as it is generated, in five pieces.
- A stream ends when the client goes away. A response in one piece is generated to its end.

A prompt contains the name of its call in brackets: `[call-7]`. What became of each call: `seen`.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import defaultdict
from decimal import Decimal
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar

from aiohttp import web

from tests.helpers.lazily import lazily
from tests.helpers.llm_servers.anthropic import Messages
from tests.helpers.llm_servers.base import PIECES, LLMServer
from tests.helpers.llm_servers.ledger import Arrival
from tests.helpers.llm_servers.openai_wire import Chat
from tests.helpers.llm_servers.prompts import Script, texts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["FAILURES", "BillingServer"]

genai_prices = lazily("genai_prices")

FAILURES = ("dropped", "cut", "failed", "failed and billed", "throttled")
"""Fates of a request whose response does not arrive whole."""
FORMAT = 7  # tokens of a message besides its text
LONG = 100  # tokens of a prompt of which a part may be cached
REQUIRED = rb"(?:prompt|completion|input|output)_tokens"
OPTIONAL = rb"\w+_input_tokens|(?:cached|audio|reasoning|total)_tokens"
IMPOSSIBLE = [b"1000000000", b"-5", b'"many"', b"12.5", b"true", b"[]", b"1e400"]
PROVIDERS = {"/v1/chat/completions": "openai", "/v1/messages": "anthropic"}
"""The names of the providers in genai-prices."""


class BillingServer(LLMServer):
    """Both providers; the base URL of OpenAI's SDK is `server.url + "/v1"`.

    Args:
        seconds: the most that a response takes; it takes at least half of it.
        fates: the share of requests, in twentieths, that each of these happens to:
            "dropped": generated and billed, but the connection is closed before the response;
            "cut": the connection is closed somewhere in the body, within an event of a stream;
            "failed": 500, not generated;
            "failed and billed": 500, after generation;
            "throttled": 429;
            "lies": the usage has impossible numbers;
            "exceeds": a tenth more output than the maximum, as the usage says, too.
        seed: of the numbers that are drawn.
    """

    endpoints: ClassVar = {"/v1/chat/completions": Chat(), "/v1/messages": Messages()}

    def __init__(
        self, *, seconds: float = 0.1, fates: Mapping[str, float] | None = None, seed: int = 0
    ) -> None:
        super().__init__({})
        self.bill = Decimal(0)
        """All that was billed so far, in USD. It never falls."""
        self.seen: dict[str, list[str]] = defaultdict(list)
        """The fates of the requests of each call, "" where nothing happened, by its name."""
        self.when_billed: Callable[[], object] = lambda: None
        """Is called after each change of the bill."""
        self._seconds = seconds
        self._fates = dict(fates or {})
        self._rng = Random(seed)
        self._deck: list[str] = []

    async def _handle(self, endpoint: Any, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        fate = self._draw_fate()
        call = endpoint.read(request, body)
        name = PROVIDERS[request.path]
        self._decide(call, fate)
        (of_call,) = re.findall(r"\[([\w-]+)\]", "".join(texts(body["messages"])))
        self.seen[of_call].append(fate)
        if fate in {"throttled", "failed"}:
            return self._fail(fate)
        bill = _Bill(self, name, call)
        try:
            return await self._answer(endpoint, request, call, bill, fate)
        except ConnectionError:  # the client has just gone away
            return web.Response()

    async def _answer(
        self, endpoint: Any, request: web.Request, call: Any, bill: _Bill, fate: str
    ) -> web.StreamResponse:
        if fate == "failed and billed":
            await self._to_the_end(call, bill)
            return self._fail(fate)
        if call.streams:
            return await self._stream_billed(endpoint, request, call, bill, fate)
        await self._to_the_end(call, bill)
        return await self._send_whole(endpoint, request, call, fate)

    def _draw_fate(self) -> str:
        """Draw one of 20 fates, all of which have come before one comes again."""
        if not self._deck:
            drawn = [fate for fate, share in self._fates.items() for _ in range(round(20 * share))]
            self._deck = drawn + [""] * (20 - len(drawn))
            self._rng.shuffle(self._deck)
        return self._deck.pop()

    def _decide(self, call: Any, fate: str) -> None:
        """Draw the true tokens of a call, and how long its response takes."""
        rng = self._rng
        size = len("".join(texts(call.body["messages"])).encode())
        call.prompt_tokens = FORMAT + round(size * rng.uniform(0.25, 1))
        out = rng.randint(call.max_tokens // 2, call.max_tokens)
        if fate == "exceeds":
            out = call.max_tokens = call.max_tokens + call.max_tokens // 10
            # So dense that little of what was reserved for the prompt is left for the output.
            call.prompt_tokens = FORMAT + size
        cached = written = written_1h = 0
        if call.prompt_tokens >= LONG and fate != "exceeds":
            cached = rng.choice([0, call.prompt_tokens // 2])
            if "cache_control" in str(call.body["messages"]):
                written = rng.randint(0, call.prompt_tokens - cached)
            if "1h" in str(call.body["messages"]):
                written_1h = written
        seconds = self._seconds * rng.uniform(0.5, 1)
        call.script = Script(out, seconds, cached, written, written_1h)
        call.arrival = Arrival(self.now(), "", call.model, {})

    @staticmethod
    def _fail(fate: str) -> web.Response:
        status = 429 if fate == "throttled" else 500
        # So soon, as these SDKs wait for half a second and more by themselves.
        return web.json_response(
            {"type": "error", "error": {"type": "api_error", "message": "Failed."}},
            status=status,
            headers={"retry-after-ms": "20"},
        )

    async def _to_the_end(self, call: Any, bill: _Bill) -> None:
        """Generate a response, also if the client goes away meanwhile."""

        async def generate() -> None:
            for tokens, until in call.schedule(PIECES):
                await self._sleep_until(call, until)
                bill.add(tokens)

        task = asyncio.ensure_future(generate())
        self._handlers.add(task)
        task.add_done_callback(self._handlers.discard)
        await asyncio.shield(task)

    async def _send_whole(
        self, endpoint: Any, request: web.Request, call: Any, fate: str
    ) -> web.StreamResponse:
        data = self._told(json.dumps(endpoint.answer(call)).encode(), fate)
        response = web.StreamResponse(headers={"content-type": "application/json"})
        response.content_length = len(data)
        if fate == "dropped":
            await self._close(request)
        await response.prepare(request)
        if fate == "cut":
            await response.write(data[: self._rng.randrange(len(data))])
            await self._close(request)
        await response.write(data)
        return response

    async def _stream_billed(
        self, endpoint: Any, request: web.Request, call: Any, bill: _Bill, fate: str
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        if fate == "dropped":
            await self._to_the_end(call, bill)
            await self._close(request)
        cut = self._rng.randrange(PIECES + 2) if fate == "cut" else None
        await response.prepare(request)
        pieces = [(endpoint.opening, 0, 0.0)]
        pieces += [(endpoint.piece, *one) for one in call.schedule(PIECES)]
        pieces += [(endpoint.closing, 0, 0.0)]
        for number, (event, tokens, until) in enumerate(pieces):
            await self._sleep_until(call, until)
            bill.add(tokens)
            data = self._told(event(call, tokens) if tokens else event(call), fate)
            if number == cut:
                await response.write(data[: self._rng.randrange(1, len(data))])
                await self._close(request)
            await response.write(data)
        await response.write_eof()
        return response

    async def _close(self, request: web.Request) -> None:
        """Close the connection, in good order or not."""
        assert request.transport is not None
        if self._rng.random() < 0.5:
            request.transport.close()
        else:
            request.transport.abort()
        await asyncio.Event().wait()  # until this handler is cancelled for it

    def _told(self, data: bytes, fate: str) -> bytes:
        """Return an event or a body, with impossible numbers of tokens if it lies."""
        if fate != "lies":
            return data

        def wrong(found: re.Match[bytes]) -> bytes:
            # null is no lie for parts of the whole: it means that there are none.
            lies = IMPOSSIBLE + [b"null"] * bool(re.fullmatch(REQUIRED, found[1]))
            number = found[2] if self._rng.random() < 0.6 else self._rng.choice(lies)
            return b'"%b": %b' % (found[1], number)

        return re.sub(rb'"(%b|%b)": (\d+)' % (REQUIRED, OPTIONAL), wrong, data)


class _Bill:
    """What one response costs so far."""

    def __init__(self, server: BillingServer, provider: str, call: Any) -> None:
        self._server = server
        self._provider = provider
        self._call = call
        self._billed = Decimal(0)
        self.add(0)

    def add(self, tokens: int) -> None:
        """Bill more output."""
        call, server = self._call, self._server
        call.arrival.produced += tokens
        usage = genai_prices.Usage(
            input_tokens=call.prompt_tokens,
            cache_read_tokens=call.script.cached,
            cache_write_tokens=call.script.written,
            cache_write_1h_tokens=call.script.written_1h,
            output_tokens=call.arrival.produced,
        )
        price = genai_prices.calc_price(usage, call.model, provider_id=self._provider)
        server.bill += price.total_price - self._billed
        self._billed = price.total_price
        server.when_billed()
