"""Pace the SDKs of LLM providers: calls and tokens for each model, as the provider counts them.

    from anthropic import AsyncAnthropic
    from aioapiqueue.integrations import llm

    queue = ApiQueue(name="claude", lanes={"*": ()})
    client = AsyncAnthropic(http_client=llm.client(queue, llm.anthropic))

Your calls do not change. The key of a call is its model. A call costs one call and the tokens
estimated from its JSON, until its response, streamed or not, reports the actual usage. Limits that
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
from aioapiqueue.integrations.llm._refused import NoPrice, limit_exceeded
from aioapiqueue.integrations.llm._request import Endpoint, LLMRequest
from aioapiqueue.integrations.llm._tariffs import Pricing
from aioapiqueue.integrations.llm._tokens import estimate_tokens

__all__ = [
    "Endpoint",
    "LLMRequest",
    "NoPrice",
    "Pricing",
    "Profile",
    "anthropic",
    "azure",
    "bedrock",
    "client",
    "compatible",
    "estimate_tokens",
    "gemini",
    "groq",
    "limit_exceeded",
    "openai",
    "sync_client",
]
