"""Paces the requests to LLM APIs: calls and tokens, per model, by what the provider counts.

    from anthropic import AsyncAnthropic
    from aioapiqueue.integrations import llm

    queue = ApiQueue(name="claude", lanes={"*": ()})
    client = AsyncAnthropic(http_client=llm.client(queue, llm.anthropic))

There is nothing to do at the calls. Each has the model for its key, and costs a call and the tokens
that its JSON lets expect; it is settled by the usage in its answer, streams included. Limits are
learnt from the answers where nobody has configured them.
"""

from __future__ import annotations

from aioapiqueue.integrations.llm._clients import client, sync_client
from aioapiqueue.integrations.llm._profile import Profile
from aioapiqueue.integrations.llm._profiles import (
    anthropic,
    azure,
    bedrock,
    compatible,
    gemini,
    groq,
    openai,
)
from aioapiqueue.integrations.llm._request import Endpoint, LLMRequest
from aioapiqueue.integrations.llm._tokens import estimate_tokens

__all__ = [
    "Endpoint",
    "LLMRequest",
    "Profile",
    "anthropic",
    "azure",
    "bedrock",
    "client",
    "compatible",
    "estimate_tokens",
    "gemini",
    "groq",
    "openai",
    "sync_client",
]
