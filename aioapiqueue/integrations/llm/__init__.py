"""Pace the SDKs of LLM providers: calls and tokens for each model, as the provider counts them.

    from anthropic import AsyncAnthropic
    from aioapiqueue.integrations import llm

    queue = ApiQueue(name="claude", lanes={"*": ()})
    client = AsyncAnthropic(http_client=llm.client(queue, llm.anthropic))

The calls themselves do not change. The key of each is its model; it costs a call and the tokens
estimated from its JSON, and is settled to the usage in its response, streams included. Limits that
you do not set are learnt from response headers.
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
