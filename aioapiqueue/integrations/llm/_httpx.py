"""LLM transports for clients of httpx."""

from __future__ import annotations

from aioapiqueue.integrations.httpx import RateLimitedTransport, SyncRateLimitedTransport
from aioapiqueue.integrations.llm._pacer import ProfiledPacer

__all__ = ["LLMTransport", "SyncLLMTransport"]


class LLMTransport(ProfiledPacer, RateLimitedTransport):
    """A transport that paces requests to an LLM provider."""


class SyncLLMTransport(ProfiledPacer, SyncRateLimitedTransport):
    """A transport that paces requests of synchronous clients to an LLM provider."""
