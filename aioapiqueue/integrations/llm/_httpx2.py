"""LLM transports for clients of httpx2."""

from __future__ import annotations

from aioapiqueue.integrations.httpx2 import RateLimitedTransport, SyncRateLimitedTransport
from aioapiqueue.integrations.llm._paced import ProfiledPacer

__all__ = ["LLMTransport", "SyncLLMTransport"]


class LLMTransport(ProfiledPacer, RateLimitedTransport):
    """Gives each request to an LLM provider its turn in a queue."""


class SyncLLMTransport(ProfiledPacer, SyncRateLimitedTransport):
    """The same, for clients that block."""
