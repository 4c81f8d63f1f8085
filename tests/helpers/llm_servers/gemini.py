"""Gemini: requests per minute and day, and input tokens, told only in the body of a refusal.

Output is not counted, so that nothing is given back, whether an answer comes to its end or not.
"""

from __future__ import annotations

from typing import ClassVar

from tests.helpers.llm_servers.base import Call, Fault, LLMServer, sse
from tests.helpers.llm_servers.ledger import DAY
from tests.helpers.llm_servers.prompts import texts

__all__ = ["GeminiServer"]

METRIC = "generativelanguage.googleapis.com/generate_content_free_tier"
QUOTAS = {
    "calls": ("requests", "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"),
    "calls_per_day": ("requests", "GenerateRequestsPerDayPerProjectPerModel-FreeTier"),
    "input_tokens": ("input_token_count", "GenerateContentInputTokensPerModelPerMinute-FreeTier"),
}
TYPE = "type.googleapis.com/google.rpc"
STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
}


class Generate:
    """POST /v1/models/{model}:generateContent (or /v1beta), and as a stream."""

    def __init__(self, *, streams=False):
        self._streams = streams

    def read(self, request, body):
        """Take the model from the path, and the maximum from the configuration."""
        system = body.get("systemInstruction")
        return Call.of(
            request.match_info["model"],
            [*texts(system), *texts(body["contents"])],
            body,
            max_tokens=body.get("generationConfig", {}).get("maxOutputTokens"),
            streams=self._streams,
        )

    def answer(self, call):
        """Return a candidate with all of the text."""
        return self._candidate(call, call.out, ends=True)

    def opening(self, call):
        """Send nothing before the text."""
        del call
        return b""

    def piece(self, call, tokens):
        """Send some of the text, with the usage so far."""
        return sse(self._candidate(call, tokens, ends=False))

    def closing(self, call):
        """Say why it ends, with the whole usage."""
        return sse(self._candidate(call, 0, ends=True))

    @staticmethod
    def _candidate(call, tokens, *, ends):
        content = {"role": "model", "parts": [{"text": "abc " * tokens}]}
        candidate = {"index": 0, "content": content}
        if ends:
            candidate["finishReason"] = "MAX_TOKENS" if call.is_cut else "STOP"
        made = call.arrival.produced
        return {
            "candidates": [candidate],
            "usageMetadata": {
                "promptTokenCount": call.prompt_tokens,
                "candidatesTokenCount": made,
                "totalTokenCount": call.prompt_tokens + made,
            },
            "modelVersion": call.model,
            "responseId": "resp_1",
        }


class GeminiServer(LLMServer):
    """Gemini: units "calls", "calls_per_day" and "input_tokens".

    Args:
        limits: see `LLMServer`.
        retry_delay: whether a refusal says `RetryInfo`.
        quotas: see `LLMServer`.
    """

    endpoints: ClassVar = {
        "/{version}/models/{model:[^/:]+}:generateContent": Generate(),
        "/{version}/models/{model:[^/:]+}:streamGenerateContent": Generate(streams=True),
    }

    def __init__(self, limits, *, retry_delay=True, **quotas):
        super().__init__(limits, **quotas)
        self._retry_delay = retry_delay

    def costs(self, call):
        """Count the input."""
        return {"calls": 1, "calls_per_day": 1, "input_tokens": call.prompt_tokens}

    def headers(self, call, now):
        """Tell nothing."""
        del call, now
        return {}

    def refuse(self, call):
        """Say which quota it is, and perhaps after how many seconds to try again."""
        refusal = call.arrival.refusal
        metric, name = QUOTAS[refusal.unit]
        message = (
            "You exceeded your current quota, please check your plan and billing details.\n"
            f"* Quota exceeded for metric: {METRIC}_{metric}, limit: {refusal.limit:.0f}, "
            f"model: {call.model}"
        )
        violation = {
            "quotaMetric": f"{METRIC}_{metric}",
            "quotaId": name,
            "quotaDimensions": {"location": "global", "model": call.model},
            "quotaValue": f"{refusal.limit:.0f}",
        }
        details = [{"@type": f"{TYPE}.QuotaFailure", "violations": [violation]}]
        if self._retry_delay:
            after = min(refusal.after, DAY)
            details.append({"@type": f"{TYPE}.RetryInfo", "retryDelay": f"{after:.9f}s"})
        body = self.error(429, message)
        body["error"]["details"] = details
        return Fault(429, body)

    def error(self, status, message):
        """Wrap a message as Google does."""
        name = STATUSES.get(status, "INTERNAL")
        return {"error": {"code": status, "message": message, "status": name}}

    def request(self, model, text, max_tokens):
        """Ask for content."""
        contents = [{"role": "user", "parts": [{"text": text}]}]
        body = {"contents": contents, "generationConfig": {"maxOutputTokens": max_tokens}}
        return f"/v1/models/{model}:generateContent", body
