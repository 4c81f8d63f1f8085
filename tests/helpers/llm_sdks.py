"""The SDKs of LLM providers, each used in the same way: a call in one piece, and a stream.

All of them take a client of httpx2; openai and google-genai also take one of httpx.
"""

from __future__ import annotations

import asyncio
from typing import ClassVar, Self

import httpx2

from tests.helpers.lazily import lazily
from tests.helpers.llm_servers import (
    AnthropicServer,
    AzureServer,
    GeminiServer,
    GroqServer,
    OpenAIServer,
)

__all__ = ["SDKS", "Sdk"]

anthropic, openai, genai = lazily("anthropic"), lazily("openai"), lazily("google.genai")
errors, types = lazily("google.genai.errors"), lazily("google.genai.types")


class Sdk:
    """One SDK, in use with one server.

    Args:
        server: what it calls.
        key: its API key.
        http_client: an asynchronous client of httpx2 or httpx, closed at the end; by default the
            SDK's own, or in virtual time a plain one.
        retries: how often it tries again by itself.
    """

    server: ClassVar  # the class of servers that it calls
    tokens: ClassVar = "tokens"  # the unit that its prompts count in

    def __init__(self, server, *, key="mine", http_client=None, retries=0):
        if http_client is None and (transport := server.transport()) is not None:
            http_client = httpx2.AsyncClient(transport=transport, timeout=None)
        self.client = self.connect(server, key, http_client, retries)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()

    def connect(self, server, key, http_client, retries):
        """Make the client of the SDK."""
        raise NotImplementedError

    @classmethod
    def refused(cls):
        """Return the class of its errors when the server refuses a call."""
        return openai.RateLimitError

    async def ask(self, text, max_tokens=None, *, model="m"):
        """Make a call; return the tokens of its prompt and of its answer, as the usage has them."""
        raise NotImplementedError

    def stream(self, text, max_tokens=None, *, model="m"):
        """Yield a piece of text and None, or "" and the usage, for each event that has one."""
        raise NotImplementedError

    async def read(self, text, max_tokens=None, *, model="m"):
        """Read a stream to its end; return (usage, instants of the pieces of text)."""
        usage, instants = None, []
        async for piece, found in self.stream(text, max_tokens, model=model):
            usage = found or usage
            if piece:
                instants.append(asyncio.get_running_loop().time())
        return usage, instants


class OpenAIChat(Sdk):
    """Package openai, chat completions."""

    server = OpenAIServer

    def connect(self, server, key, http_client, retries):
        return openai.AsyncOpenAI(
            base_url=server.base_url, api_key=key, http_client=http_client, max_retries=retries
        )

    async def ask(self, text, max_tokens=None, *, model="m"):
        found = await self.client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": text}], max_tokens=max_tokens
        )
        return found.usage.prompt_tokens, found.usage.completion_tokens

    async def stream(self, text, max_tokens=None, *, model="m"):
        async with await self.client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": text}],
            max_completion_tokens=max_tokens,
            stream=True,
            stream_options={"include_usage": True},
        ) as chunks:
            async for chunk in chunks:
                if chunk.usage:
                    yield "", (chunk.usage.prompt_tokens, chunk.usage.completion_tokens)
                elif chunk.choices[0].delta.content:
                    yield chunk.choices[0].delta.content, None


class AzureChat(OpenAIChat):
    """Package openai, chat completions of a deployment at Azure."""

    server = AzureServer

    def connect(self, server, key, http_client, retries):
        return openai.AsyncAzureOpenAI(
            azure_endpoint=server.base_url,
            api_version="2024-10-21",
            api_key=key,
            http_client=http_client,
            max_retries=retries,
        )


class GroqChat(OpenAIChat):
    """Package openai, chat completions at Groq."""

    server = GroqServer


class OpenAIResponses(OpenAIChat):
    """Package openai, responses."""

    async def ask(self, text, max_tokens=None, *, model="m"):
        found = await self.client.responses.create(
            model=model, input=text, max_output_tokens=max_tokens
        )
        return found.usage.input_tokens, found.usage.output_tokens

    async def stream(self, text, max_tokens=None, *, model="m"):
        async with self.client.responses.stream(
            model=model, input=text, max_output_tokens=max_tokens
        ) as events:
            async for event in events:
                if event.type == "response.output_text.delta":
                    yield event.delta, None
                elif event.type in {"response.completed", "response.incomplete"}:
                    usage = event.response.usage
                    yield "", (usage.input_tokens, usage.output_tokens)


class AnthropicMessages(Sdk):
    """Package anthropic, messages."""

    server = AnthropicServer
    tokens = "input_tokens"

    @classmethod
    def refused(cls):
        return anthropic.RateLimitError

    def connect(self, server, key, http_client, retries):
        return anthropic.AsyncAnthropic(
            base_url=server.base_url, api_key=key, http_client=http_client, max_retries=retries
        )

    async def ask(self, text, max_tokens=None, *, model="m"):
        found = await self.client.messages.create(
            model=model, messages=[{"role": "user", "content": text}], max_tokens=max_tokens or 1000
        )
        return found.usage.input_tokens, found.usage.output_tokens

    async def stream(self, text, max_tokens=None, *, model="m"):
        async with self.client.messages.stream(
            model=model, messages=[{"role": "user", "content": text}], max_tokens=max_tokens or 1000
        ) as events:
            async for event in events:
                if event.type == "content_block_delta":
                    yield event.delta.text, None
                elif event.type == "message_stop":
                    yield "", (event.message.usage.input_tokens, event.message.usage.output_tokens)


class GeminiContent(Sdk):
    """Package google-genai, content."""

    server = GeminiServer
    tokens = "input_tokens"

    @classmethod
    def refused(cls):
        return errors.ClientError

    def connect(self, server, key, http_client, retries):
        # By itself it uses aiohttp, in a way that aiohttp warns of.
        self._http_client = httpx2.AsyncClient(timeout=None) if http_client is None else http_client
        options = types.HttpOptions(base_url=server.base_url, httpx_async_client=self._http_client)
        if retries:
            options.retry_options = types.HttpRetryOptions(attempts=1 + retries)
        return genai.Client(api_key=key, http_options=options)

    async def __aexit__(self, *_: object) -> None:
        await self.client.aio.aclose()
        self.client.close()
        await self._http_client.aclose()  # which google-genai leaves open

    async def ask(self, text, max_tokens=None, *, model="m"):
        found = await self.client.aio.models.generate_content(
            model=model, contents=text, config={"max_output_tokens": max_tokens}
        )
        return found.usage_metadata.prompt_token_count, found.usage_metadata.candidates_token_count

    async def stream(self, text, max_tokens=None, *, model="m"):
        async for chunk in await self.client.aio.models.generate_content_stream(
            model=model, contents=text, config={"max_output_tokens": max_tokens}
        ):
            usage = chunk.usage_metadata
            yield chunk.text, (usage.prompt_token_count, usage.candidates_token_count)


SDKS = {
    "openai": OpenAIChat,
    "openai responses": OpenAIResponses,
    "azure": AzureChat,
    "groq": GroqChat,
    "anthropic": AnthropicMessages,
    "gemini": GeminiContent,
}
