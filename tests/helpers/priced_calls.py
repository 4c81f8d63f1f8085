"""A client of an LLM provider whose calls are priced, and what it sends and spends.

async with PricedCalls(llm.openai, answer(usage)) as calls:
    await calls.chat(max_completion_tokens=100)
assert calls.spent == per_million(20 * 2.5 + 5 * 10)
"""

from __future__ import annotations

import json
from collections import deque
from typing import Self

import httpx2
import pytest

from aioapiqueue import ApiQueue
from aioapiqueue.integrations import llm

__all__ = ["QUESTION", "PricedCalls", "chat_answer", "per_million", "stream_answer"]

BUDGET = "100 usd in all"
QUESTION = [{"role": "user", "content": "Why?"}]
OPENAI = "https://api.openai.com/v1"


def per_million(amount):
    """Return USD for a sum of tokens times their price per million, as budgets round it up."""
    return pytest.approx(amount / 1e6, rel=0, abs=1.01e-9)


def chat_answer(read=20, made=5, **more):
    """Return a chat completion that states its usage; `more` are fields beside it."""
    usage = {"prompt_tokens": read, "completion_tokens": made, "total_tokens": read + made}
    message = {"role": "assistant", "content": "Hi!"}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        "usage": usage,
        **more,
    }


def stream_answer(*events):
    """Return a response that is a stream of these events."""
    content = "".join(f"data: {json.dumps(one)}\n\n" for one in events).encode()
    return httpx2.Response(200, content=content, headers={"content-type": "text/event-stream"})


class PricedCalls:
    """A queue with a limit in USD, and a client of it whose requests get the answers of a test.

    >>> async with PricedCalls(llm.openai, chat_answer(20, 5)) as calls:
    ...     await calls.chat(max_completion_tokens=100)
    >>> assert calls.spent == per_million(20 * 2.5 + 5 * 10)

    Args:
        profile: the profile of the client.
        answers: what the requests get, one after the other: JSON, a status, a response, or an error
            to raise. The last one is given again.
        limits: limits of the queue.
        lanes: its lanes.
        options: as for `llm.client`.
    """

    def __init__(self, profile, *answers, limits=(BUDGET,), lanes=None, **options):
        self.queue = ApiQueue(*limits, lanes={"*": ()} if lanes is None else lanes)
        self.requests = []
        """What was sent."""
        self.reserved = []
        """USD of the first limit reserved while each request was being answered."""
        self._answers = deque(answers or [chat_answer()])
        self._budget = limits[0] if limits else ""
        transport = httpx2.MockTransport(self.answer)
        self.client = llm.client(self.queue, profile, transport=transport, **options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.aclose()

    def answer(self, request):
        """Answer a request as the test wants it."""
        self.requests.append(request)
        use = self.queue.stats.budgets.get(self._budget)
        self.reserved.append(use and use.reserved)
        found = self._answers[0] if len(self._answers) == 1 else self._answers.popleft()
        if isinstance(found, Exception):
            raise found
        if isinstance(found, int):
            return httpx2.Response(found, json={"error": {"message": "failed"}})
        return found if isinstance(found, httpx2.Response) else httpx2.Response(200, json=found)

    @property
    def bodies(self):
        """JSON of the requests."""
        return [json.loads(request.content) for request in self.requests]

    @property
    def spent(self):
        """USD that the calls have cost."""
        return self.queue.stats.costs.get("usd")

    async def chat(self, *, base=OPENAI, **body):
        """Ask a chat model; by default gpt-4o, which costs 2.5 and 10 USD per million tokens."""
        asked = {"model": "gpt-4o", "messages": QUESTION, **body}
        return await self.client.post(f"{base}/chat/completions", json=asked)

    async def post(self, path, *, base=OPENAI, **body):
        """Send another request."""
        return await self.client.post(f"{base}{path}", json=body)

    async def claude(self, **body):
        """Ask a model of Anthropic; by default Haiku 4.5: 1 and 5 USD per million tokens."""
        asked = {"model": "claude-haiku-4-5", "messages": QUESTION, "max_tokens": 100, **body}
        return await self.client.post("https://api.anthropic.com/v1/messages", json=asked)

    async def gemini(self, method="generateContent", *, model="gemini-2.0-flash", **body):
        """Ask a model of Google; by default Gemini 2.0 Flash: 0.1 and 0.4 USD per million."""
        base = "https://generativelanguage.googleapis.com/v1beta/models"
        asked = {"contents": [{"role": "user", "parts": [{"text": "Why?"}]}], **body}
        return await self.client.post(f"{base}/{model}:{method}", json=asked)
