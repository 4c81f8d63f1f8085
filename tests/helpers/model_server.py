"""A server with a quota of tokens, as LLM APIs have them: it says what remains, and refuses."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from typing import Self


class ModelServer:
    """A token bucket behind a socket, in a thread of its own.

    A request is a line with its tokens; the answer is a line with what `slot.sync` takes. What
    remains is as of the arrival, and the answer takes its time.

    Args:
        tokens: how many it takes in `period`, all of them at once after a rest.
        period: seconds.
        used: how many others have used before the first request.
        latency: seconds that an answer takes, at least and at most.
    """

    def __init__(
        self, tokens: float, *, period: float, used: float, latency: tuple[float, float]
    ) -> None:
        self.tokens, self.period = tokens, period
        self.refused = self.taken = 0
        self.spent = 0.0
        self._used, self._latency = used, latency
        self._at = 0.0
        self._random = random.Random(7)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run)
        self._up = threading.Event()
        self._requests: set[asyncio.Task[None]] = set()
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._up.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set_result, None)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._end = self._loop.create_future()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._up.set()
        await self._end
        server.close()
        for one in self._requests:
            one.cancel()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            answer = self._take(json.loads(line))
            task = asyncio.create_task(self._answer(writer, answer))
            self._requests.add(task)
            task.add_done_callback(self._requests.discard)
        writer.close()

    async def _answer(self, writer: asyncio.StreamWriter, answer: dict[str, float]) -> None:
        await asyncio.sleep(self._random.uniform(*self._latency))
        writer.write(json.dumps(answer).encode() + b"\n")

    def _take(self, tokens: float) -> dict[str, float]:
        """Count a request, or refuse it."""
        now, rate = time.monotonic(), self.tokens / self.period
        if self._at:
            self._used = max(0.0, self._used - (now - self._at) * rate)
        self._at = now
        fits = self._used + tokens <= self.tokens
        if fits:
            self._used += tokens
            self.spent += tokens
        self.taken += fits
        self.refused += not fits
        remaining = max(0.0, self.tokens - self._used)
        return {
            "ok": fits,
            "remaining": remaining,
            "reset": self._used / rate,
            "limit": self.tokens,
            "period": self.period,
        }
