"""Models of LangChain and LlamaIndex that a queue paces, used in the same way.

In the place of an API: they note when they are called, and answer "42" at once.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

__all__ = ["CATCH_UP", "LIBRARIES", "LangChain", "LlamaIndex", "assert_paced"]

CATCH_UP = 0.010  # seconds, a queue's default


def assert_paced(calls, begun, interval):
    """Check that no call came sooner than the rate allows: late, never early.

    Args:
        calls: instants of `time.monotonic()`.
        begun: such an instant, before the first call asked for a slot. Between its slot and its
            note a busy machine may take any time, so that the first note says nothing.
        interval: seconds.
    """
    for number, at in enumerate(sorted(calls)):
        assert at - begun >= number * interval - CATCH_UP, (begun, calls)


def _now():
    """Return the time on the loop's clock, where one runs."""
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:
        return time.monotonic()


class LangChain:
    """Chat models of LangChain.

    Attributes:
        limiter: makes a limiter of a queue.
    """

    name = "LangChain"

    def __init__(self):
        from langchain_core.language_models import BaseChatModel
        from langchain_core.messages import AIMessage, AIMessageChunk
        from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
        from pydantic import Field

        from aioapiqueue.integrations.langchain import QueueRateLimiter

        class NotingModel(BaseChatModel):
            calls: list[float] = Field(default_factory=list)

            @property
            def _llm_type(self):
                return "noting"

            def _generate(self, *_args, **_kwargs):
                self.calls.append(_now())
                return ChatResult(generations=[ChatGeneration(message=AIMessage("42"))])

            async def _agenerate(self, *_args, **_kwargs):
                return self._generate()

            async def _astream(self, *_args, **_kwargs):
                self.calls.append(_now())
                for part in ("4", "2"):
                    yield ChatGenerationChunk(message=AIMessageChunk(part))

        self.limiter = QueueRateLimiter
        self._model = NotingModel

    def model(self, queue, **how):
        """Return a model that is paced by a queue; its `calls` are the instants of its calls."""
        return self._model(rate_limiter=self.limiter(queue, **how))

    async def ask(self, model):
        """Ask it in a coroutine."""
        return (await model.ainvoke("?")).content

    def ask_blocking(self, model):
        """Ask it in a thread."""
        return model.invoke("?").content

    async def read(self, model):
        """Return the parts of a stream."""
        return [chunk.content async for chunk in model.astream("?") if chunk.content]


class LlamaIndex:
    """LLMs of LlamaIndex; see `LangChain`."""

    name = "LlamaIndex"

    def __init__(self):
        from llama_index.core.base.llms.types import CompletionResponse
        from llama_index.core.llms.callbacks import llm_completion_callback
        from llama_index.core.llms.mock import MockLLM
        from pydantic import Field

        from aioapiqueue.integrations.llama_index import QueueRateLimiter

        class NotingLLM(MockLLM):
            calls: list[float] = Field(default_factory=list)

            @llm_completion_callback()
            def complete(self, *_args, **_kwargs):
                self.calls.append(_now())
                return CompletionResponse(text="42")

            @llm_completion_callback()
            async def acomplete(self, *_args, **_kwargs):
                self.calls.append(_now())
                return CompletionResponse(text="42")

            @llm_completion_callback()
            async def astream_complete(self, *_args, **_kwargs):
                self.calls.append(_now())

                async def parts():
                    for part in ("4", "2"):
                        yield CompletionResponse(text=part, delta=part)

                return parts()

        self.limiter = QueueRateLimiter
        self._model = NotingLLM

    def model(self, queue, **how):
        """Return an LLM that is paced by a queue; its `calls` are the instants of its calls."""
        llm = self._model()
        llm.rate_limiter = self.limiter(queue, **how)
        return llm

    async def ask(self, model):
        """Ask it in a coroutine."""
        return (await model.acomplete("?")).text

    def ask_blocking(self, model):
        """Ask it in a thread."""
        return model.complete("?").text

    async def read(self, model):
        """Return the parts of a stream."""
        return [part.delta async for part in await model.astream_complete("?")]


LIBRARIES: dict[str, Any] = {"langchain": LangChain, "llama_index": LlamaIndex}
