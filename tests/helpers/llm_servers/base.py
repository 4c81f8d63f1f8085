"""A server on loopback that speaks a provider's protocol, from a request to the end of its answer.

A request is counted when all of it has arrived. Then:

- An answer in one piece comes after the `seconds` that its prompt asks for.
- A stream sends its head and its first tokens at once, the others evenly over these seconds, and
  its last events at the end.
- Headers tell what the quotas are at the moment when the head is sent.
- What a provider gives back it gives back just before the end of the answer is sent, so that it
  is there for what the client sends next. If the client goes away, the answer ends at once and
  what it has not used is given back in the same manner: output that was never made is not counted.
  The same holds for a request that fails after it was admitted, and for a stream that is cut.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import aiohttp
import httpx2
from aiohttp import web

from aioapiqueue.testing import VirtualLoop
from tests.helpers.llm_servers.ledger import Ledger
from tests.helpers.llm_servers.prompts import count_tokens, read_script

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.helpers.llm_servers.ledger import Arrival
    from tests.helpers.llm_servers.prompts import Script

__all__ = ["Call", "Fault", "LLMServer", "sse"]

PATIENCE = 60.0  # seconds: far more than anything here takes, for busy machines
PIECES = 5  # how many events the tokens of a stream come in
KEY_HEADERS = ("x-api-key", "api-key", "x-goog-api-key", "authorization")


@dataclass(frozen=True)
class Fault:
    """An answer that is no success: its body is JSON."""

    status: int
    body: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Call:
    """A request as its endpoint reads it."""

    model: str
    prompt_tokens: int
    max_tokens: int | None
    streams: bool
    script: Script
    body: Mapping[str, Any]
    arrival: Arrival | None = None

    @classmethod
    def of(cls, model, parts, body, *, max_tokens=None, streams=False) -> Self:
        """Read the script and count the tokens of these texts."""
        return cls(model, count_tokens(*parts), max_tokens, streams, read_script(parts), body)

    @property
    def out(self):
        """Output tokens, all of them."""
        most = self.script.out if self.max_tokens is None else self.max_tokens
        return min(self.script.out, most)

    @property
    def is_cut(self):
        """Whether the maximum is below what the answer would be."""
        return self.out < self.script.out

    def schedule(self, pieces):
        """Return (tokens, when the next one is due) of each piece."""
        pieces = max(1, min(pieces, self.out))
        ends = [self.out * number // pieces for number in range(pieces + 1)]
        return [
            (ends[number + 1] - ends[number], self.script.seconds * (number + 1) / pieces)
            for number in range(pieces)
        ]


def sse(data, event=None):
    """Return a server-sent event; `data` is text or becomes JSON."""
    name = f"event: {event}\n" if event else ""
    return f"{name}data: {data if isinstance(data, str) else json.dumps(data)}\n\n".encode()


class LLMServer:
    """What all providers have in common: use it as `async with OpenAIServer(...) as server`.

    A provider says which endpoints there are, what a call costs and gives back, what the headers
    are, and how it refuses. An endpoint has `read(request, body) -> Call`, `answer(call) -> dict`,
    and the bytes of a stream: `opening(call)`, `piece(call, tokens)` and `closing(call)`.

    On a `VirtualLoop` it listens at a Unix socket, which `transport` of a client goes to: what one
    side writes there the other can read at once, so that the clock jumps over nothing that is
    under way. Elsewhere it listens on loopback, and clients need no transport.

    Args:
        limits: the most of each unit in a period: "calls", "tokens", "input_tokens",
            "output_tokens", "calls_per_day", as the provider counts.
        quotas: the other arguments of `Ledger`.
    """

    root = ""  # path of what an SDK takes as its base URL
    endpoints: Mapping[str, Any]  # by path

    def __init__(self, limits, **quotas):
        self.ledger = Ledger(limits, **quotas)
        self.base_url = ""
        self._folder = self._path = None
        self._faults = deque()
        self._handlers = set()
        self._arrived = asyncio.Event()

    def costs(self, call):
        """Return what a call takes of each unit on arrival."""
        raise NotImplementedError

    def back(self, call):
        """Return what an answer that ends now has not used of it."""
        del call
        return {}

    def headers(self, call, now):
        """Return the headers that every answer has."""
        raise NotImplementedError

    def refuse(self, call):
        """Return the answer to a call that a quota refused."""
        raise NotImplementedError

    def error(self, status, message):
        """Return the body of another error."""
        raise NotImplementedError

    def request(self, model, text, max_tokens):
        """Return the path and the body of a request in one piece, for a client without an SDK."""
        raise NotImplementedError

    def produce(self, call, tokens):
        """Count output as it is made, where the provider does so."""

    @property
    def log(self):
        """All that arrived: a list of `Arrival`."""
        return self.ledger.log

    @property
    def refusals(self):
        """Those that a quota refused."""
        return self.ledger.refusals

    def quotas(self, model="m"):
        """Return the `Quotas` of a model, as they are now."""
        return self.ledger.quotas(model)

    def fail_next(self, *faults):
        """Answer the next requests with these; nothing is counted for them."""
        self._faults.extend(faults)

    async def arrived(self, count):
        """Wait until so many requests have arrived since the start."""
        async with asyncio.timeout(PATIENCE):
            while len(self.log) < count:
                self._arrived.clear()
                await self._arrived.wait()

    async def idle(self):
        """Wait until no request is being answered."""
        async with asyncio.timeout(PATIENCE):
            while self._handlers:
                await asyncio.wait(self._handlers)

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=2**24)
        for path, endpoint in self.endpoints.items():
            app.router.add_post(path, self._handler(endpoint))
        # The default goes on with what nobody waits for any more.
        self._runner = web.AppRunner(
            app, handler_cancellation=True, access_log=None, shutdown_timeout=1.0
        )
        await self._runner.setup()
        if isinstance(asyncio.get_running_loop(), VirtualLoop):
            self._folder = tempfile.TemporaryDirectory()
            self._path = str(Path(self._folder.name, "llm"))
            await web.UnixSite(self._runner, self._path, backlog=1000).start()
            self.url = "http://127.0.0.1"
        else:
            await web.TCPSite(self._runner, "127.0.0.1", 0, backlog=1000).start()
            host, port = self._runner.addresses[0][:2]
            self.url = f"http://{host}:{port}"
        self.base_url = self.url + self.root
        return self

    async def __aexit__(self, *_: object) -> None:
        for handler in self._handlers:
            handler.cancel()
        await self._runner.cleanup()
        if self._folder is not None:
            self._folder.cleanup()

    def transport(self):
        """Return what a client of httpx2 reaches the server by; None: its own."""
        return None if self._path is None else httpx2.AsyncHTTPTransport(uds=self._path)

    def connector(self):
        """Return what a session of aiohttp reaches it by, any number of times at once."""
        if self._path is None:
            return aiohttp.TCPConnector(limit=0)
        return aiohttp.UnixConnector(self._path, limit=0)

    def _handler(self, endpoint):
        async def handle(request):
            task = asyncio.current_task()
            self._handlers.add(task)
            try:
                return await self._handle(endpoint, request)
            finally:
                self._handlers.discard(task)

        return handle

    async def _handle(self, endpoint, request):
        body = await request.json()
        key = next((request.headers[name] for name in KEY_HEADERS if name in request.headers), "")
        if not key:
            return web.json_response(self.error(401, "No API key was given."), status=401)
        try:
            call = endpoint.read(request, body)
        except KeyError as missing:
            message = f"{missing.args[0]}: Field required"
            return web.json_response(self.error(400, message), status=400)
        fault = self._faults.popleft() if self._faults else None
        call.arrival = self.ledger.arrive(
            self.now(),
            key=key.removeprefix("Bearer "),
            model=call.model,
            costs=self.costs(call),
            retry=int(request.headers.get("x-stainless-retry-count", 0)),
            fault=fault and fault.status,
        )
        call.arrival.script = call.script
        self._arrived.set()
        if call.arrival.refusal is not None:
            fault = self.refuse(call)
        if fault is not None:
            headers = {**self.headers(call, self.now()), **fault.headers}
            return web.json_response(fault.body, status=fault.status, headers=headers)
        try:
            return await self._serve(endpoint, request, call)
        finally:
            if call.arrival.ended is None:
                self._end(call, cancelled=True)

    async def _serve(self, endpoint, request, call):
        status = call.script.status
        if status != 200:
            await self._sleep_until(call, call.script.seconds)
            self._end(call)
            call.arrival.fault = status
            headers = self.headers(call, self.now())
            return web.json_response(self.error(status, "Failed."), status=status, headers=headers)
        if call.streams:
            return await self._stream(endpoint, request, call)
        for tokens, until in call.schedule(PIECES):
            self._produce(call, tokens)
            await self._sleep_until(call, until)
        self._end(call)
        return web.json_response(endpoint.answer(call), headers=self.headers(call, self.now()))

    async def _stream(self, endpoint, request, call):
        response = web.StreamResponse(
            headers={
                **self.headers(call, self.now()),
                "Content-Type": "text/event-stream; charset=utf-8",
                "Cache-Control": "no-cache",
            }
        )
        await response.prepare(request)
        await response.write(endpoint.opening(call))
        for number, (tokens, until) in enumerate(call.schedule(PIECES), start=1):
            self._produce(call, tokens)
            await response.write(endpoint.piece(call, tokens))
            if number == call.script.cut:
                request.transport.close()
                await asyncio.sleep(PATIENCE)  # until this handler is cancelled for it
            await self._sleep_until(call, until)
        self._end(call)
        await response.write(endpoint.closing(call))
        await response.write_eof()
        return response

    def _produce(self, call, tokens):
        call.arrival.produced += tokens
        self.produce(call, tokens)

    def _end(self, call, *, cancelled=False):
        self.ledger.end(self.now(), call.arrival, self.back(call), cancelled=cancelled)

    @staticmethod
    def now():
        """Return the time on the clock that arrivals are noted by."""
        return asyncio.get_running_loop().time()

    async def _sleep_until(self, call, seconds):
        await asyncio.sleep(max(0.0, call.arrival.at + seconds - self.now()))
