"""Anthropic: requests, input tokens and output tokens, told in `anthropic-ratelimit-*` headers.

Input is what does not come from the cache. Output is reserved by `max_tokens` on arrival, and what
was not made is given back at the end, which is also when the client goes away or the request
fails; or it is counted as it is made. Anthropic's documentation has said both.
"""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime, timedelta
from typing import ClassVar

from tests.helpers.llm_servers.base import Call, Fault, LLMServer, sse
from tests.helpers.llm_servers.prompts import texts

__all__ = ["AnthropicServer"]

NAMES = {
    "calls": "requests per minute",
    "input_tokens": "input tokens per minute",
    "output_tokens": "output tokens per minute",
}
ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    429: "rate_limit_error",
    529: "overloaded_error",
}
OUTPUTS = ("reserved", "actual")


class Messages:
    """POST /v1/messages."""

    @staticmethod
    def read(request, body):
        """Take what must be there, the maximum among it."""
        del request
        if body.get("max_tokens") is None:
            raise KeyError("max_tokens")
        return Call.of(
            body["model"],
            [*texts(body.get("system")), *texts(body["messages"])],
            body,
            max_tokens=body["max_tokens"],
            streams=body.get("stream", False),
        )

    def answer(self, call):
        """Return a message."""
        content = [{"type": "text", "text": "abc " * call.out}]
        return self._message(call, content, self._reason(call), call.out)

    def opening(self, call):
        """Send the message without its text, but with the usage of the input."""
        block = {"type": "text", "text": ""}
        return (
            self._event("message_start", message=self._message(call, [], None, 1))
            + self._event("content_block_start", index=0, content_block=block)
            + self._event("ping")
        )

    def piece(self, call, tokens):
        """Send some of the text."""
        del call
        delta = {"type": "text_delta", "text": "abc " * tokens}
        return self._event("content_block_delta", index=0, delta=delta)

    def closing(self, call):
        """Say why it ends, with the usage of the output."""
        delta = {"stop_reason": self._reason(call), "stop_sequence": None}
        return (
            self._event("content_block_stop", index=0)
            + self._event("message_delta", delta=delta, usage={"output_tokens": call.out})
            + self._event("message_stop")
        )

    @staticmethod
    def _event(kind, **data):
        return sse({"type": kind, **data}, kind)

    @staticmethod
    def _reason(call):
        return "max_tokens" if call.is_cut else "end_turn"

    @staticmethod
    def _message(call, content, reason, made):
        return {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": call.model,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": None,
            "usage": {
                "input_tokens": call.prompt_tokens - call.script.cached - call.script.written,
                "cache_creation_input_tokens": call.script.written,
                "cache_read_input_tokens": call.script.cached,
                "cache_creation": {
                    "ephemeral_5m_input_tokens": call.script.written - call.script.written_1h,
                    "ephemeral_1h_input_tokens": call.script.written_1h,
                },
                "output_tokens": made,
            },
        }


class AnthropicServer(LLMServer):
    """Anthropic: units "calls", "input_tokens" and "output_tokens".

    Args:
        limits: see `LLMServer`.
        output: "reserved" or "actual", see above.
        nearest: what token figures in headers are rounded to; Anthropic's are to 1,000.
        whole_seconds: whether resets in headers are rounded up to whole seconds.
        quotas: see `LLMServer`.
    """

    endpoints: ClassVar = {"/v1/messages": Messages()}
    header_units: ClassVar = {
        "requests": ("calls",),
        "tokens": ("input_tokens", "output_tokens"),
        "input-tokens": ("input_tokens",),
        "output-tokens": ("output_tokens",),
    }

    def __init__(self, limits, *, output="reserved", nearest=1, whole_seconds=False, **quotas):
        super().__init__(limits, **quotas)
        if output not in OUTPUTS:
            raise ValueError(f"output is {output!r}: it must be one of {OUTPUTS}")
        self._reserves = output == "reserved"
        self._nearest = nearest
        self._whole_seconds = whole_seconds

    def overloaded(self, *, retry_after=None):
        """Return a 529, with a number of seconds if wanted."""
        told = {} if retry_after is None else {"retry-after": str(retry_after)}
        return Fault(529, self.error(529, "Overloaded"), told)

    def costs(self, call):
        """Count what is not cached, and the maximum if it is reserved."""
        reserved = call.max_tokens if self._reserves else 0
        read = call.prompt_tokens - call.script.cached
        return {"calls": 1, "input_tokens": read, "output_tokens": reserved}

    def back(self, call):
        """Give back what was reserved and not made."""
        unused = call.max_tokens - call.arrival.produced
        return {"output_tokens": unused} if self._reserves else {}

    def produce(self, call, tokens):
        """Count output where it is not reserved."""
        if not self._reserves:
            self.quotas(call.model).charge(self.now(), {"output_tokens": tokens})

    def headers(self, call, now):
        """Tell the limit, what remains, and when all of it will; "tokens" is input and output."""
        quotas = self.quotas(call.model)
        found = {"request-id": "req_1"}
        for name, units in self.header_units.items():
            if any(unit not in quotas.limits for unit in units):
                continue
            nearest = 1 if name == "requests" else self._nearest
            figures = {
                "limit": sum(quotas.limits[unit] for unit in units),
                "remaining": sum(max(0.0, quotas.remaining(now, unit)) for unit in units),
            }
            for what, figure in figures.items():
                rounded = math.floor(figure / nearest + (0.5 if nearest > 1 else 0)) * nearest
                found[f"anthropic-ratelimit-{name}-{what}"] = str(rounded)
            reset = max(quotas.reset(now, unit) for unit in units)
            found[f"anthropic-ratelimit-{name}-reset"] = self._instant(reset)
        return found

    def _instant(self, seconds):
        at = time.time() + seconds
        at = math.ceil(at) if self._whole_seconds else at
        instant = datetime.fromtimestamp(0, UTC) + timedelta(seconds=at)
        return instant.isoformat().replace("+00:00", "Z")

    def refuse(self, call):
        """Say 429, and after how many seconds to try again where that helps."""
        refusal = call.arrival.refusal
        message = (
            "This request would exceed your organization's rate limit of "
            f"{refusal.limit:,.0f} {NAMES[refusal.unit]}."
        )
        told = {}
        if refusal.after < math.inf:
            told["retry-after"] = str(math.ceil(refusal.after))
        return Fault(429, self.error(429, message), told)

    def error(self, status, message):
        """Wrap a message as Anthropic does."""
        kind = ERRORS.get(status, "api_error")
        return {
            "type": "error",
            "error": {"type": kind, "message": message},
            "request_id": "req_1",
        }

    def request(self, model, text, max_tokens):
        """Ask for a message."""
        messages = [{"role": "user", "content": text}]
        return "/v1/messages", {"model": model, "messages": messages, "max_tokens": max_tokens}
