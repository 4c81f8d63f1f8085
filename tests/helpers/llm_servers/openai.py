"""OpenAI, Azure and Groq: requests and tokens, told in `x-ratelimit-*` headers.

OpenAI and Azure judge a request on arrival by the tokens of its prompt and its maximum, and give
nothing back: neither what was not used of the maximum, nor anything of a request that failed or
whose client went away. Groq gives back what was not used, at the end.
"""

from __future__ import annotations

import math
from typing import ClassVar

from tests.helpers.llm_servers.base import Fault, LLMServer
from tests.helpers.llm_servers.openai_wire import Chat, Embeddings, Responses

__all__ = ["AzureServer", "GroqServer", "OpenAIServer", "duration"]


def duration(seconds):
    """Return seconds as OpenAI and Groq write them: "120ms", "59.6s", "6m0s", "1h0m0s"."""
    thousandths = math.ceil(seconds * 1000 - 1e-6)
    if thousandths < 1000:
        return f"{thousandths}ms" if thousandths else "0s"
    minutes, rest = divmod(thousandths, 60_000)
    hours, minutes = divmod(minutes, 60)
    found = f"{rest / 1000:g}s"
    if hours:
        return f"{hours}h{minutes}m{found}"
    return f"{minutes}m{found}" if minutes else found


class OpenAIServer(LLMServer):
    """OpenAI: units "calls" and "tokens".

    Args:
        limits: see `LLMServer`.
        retry_after: whether a refusal says `retry-after` and `retry-after-ms`.
        counts_refused: whether a refused request counts as a call, as OpenAI's help says.
        quotas: see `LLMServer`.
    """

    root = "/v1"
    endpoints: ClassVar = {
        "/v1/chat/completions": Chat(),
        "/v1/responses": Responses(),
        "/v1/embeddings": Embeddings(),
    }
    header_units: ClassVar = {"requests": "calls", "tokens": "tokens"}
    names: ClassVar = {
        "calls": "requests per min (RPM)",
        "tokens": "tokens per min (TPM)",
        "calls_per_day": "requests per day (RPD)",
    }

    def __init__(self, limits, *, retry_after=True, counts_refused=False, **quotas):
        super().__init__(limits, **quotas)
        self._retry_after = retry_after
        self._counts_refused = counts_refused

    @staticmethod
    def insufficient_quota(*, should_retry=None):
        """Return the refusal for want of credit; `should_retry=False` says so in a header, too."""
        error = {
            "message": "You exceeded your current quota, please check your plan and billing "
            "details.",
            "type": "insufficient_quota",
            "param": None,
            "code": "insufficient_quota",
        }
        told = {} if should_retry is None else {"x-should-retry": str(should_retry).lower()}
        return Fault(429, {"error": error}, told)

    def costs(self, call):
        """Count the prompt and the maximum."""
        tokens = call.prompt_tokens + (call.max_tokens or 0)
        return {"calls": 1, "calls_per_day": 1, "tokens": tokens}

    def headers(self, call, now):
        """Tell the limit, what remains, and until when all of it does."""
        quotas = self.quotas(call.model)
        found = {"x-request-id": "req_1"}
        for name, unit in self.header_units.items():
            if unit in quotas.limits:
                found |= self._figures(name, quotas, unit, now)
        return found

    def _figures(self, name, quotas, unit, now):
        return {
            f"x-ratelimit-limit-{name}": f"{quotas.limits[unit]:.0f}",
            f"x-ratelimit-remaining-{name}": str(max(0, math.floor(quotas.remaining(now, unit)))),
            f"x-ratelimit-reset-{name}": duration(quotas.reset(now, unit)),
        }

    def refuse(self, call):
        """Say 429, and when to try again where that helps."""
        arrival, refusal = call.arrival, call.arrival.refusal
        if self._counts_refused:
            self.quotas(call.model).charge(arrival.at, {"calls": 1})
        kind = "tokens" if refusal.unit == "tokens" else "requests"
        error = {"message": self._why(call), "type": kind, "param": None}
        told = {}
        if self._retry_after and refusal.after < math.inf:
            told["retry-after"] = str(math.ceil(refusal.after))
            told["retry-after-ms"] = str(math.ceil(refusal.after * 1000))
        return Fault(429, {"error": {**error, "code": "rate_limit_exceeded"}}, told)

    def _why(self, call):
        refusal = call.arrival.refusal
        what = f"for {call.model} in organization org-1 on {self.names[refusal.unit]}"
        if refusal.after == math.inf:
            return (
                f"Request too large {what}: Limit {refusal.limit:.0f}, Requested "
                f"{refusal.cost:.0f}. The input or output tokens must be reduced in order to run "
                "successfully."
            )
        used = refusal.limit - refusal.remaining
        return (
            f"Rate limit reached {what}: Limit {refusal.limit:.0f}, Used {used:.0f}, Requested "
            f"{refusal.cost:.0f}. Please try again in {duration(refusal.after)}."
        )

    def error(self, status, message):
        """Wrap a message as OpenAI does."""
        kind = "invalid_request_error" if status < 500 else "server_error"
        return {"error": {"message": message, "type": kind, "param": None, "code": None}}

    def request(self, model, text, max_tokens):
        """Ask for a completion."""
        messages = [{"role": "user", "content": text}]
        body = {"model": model, "messages": messages, "max_tokens": max_tokens}
        return f"{self.root}/chat/completions", body


class AzureServer(OpenAIServer):
    """Azure OpenAI: as OpenAI, with deployments for models, and resets in whole seconds.

    Args:
        limits: see `LLMServer`.
        unknown: of "requests" and "tokens", those whose figures are -1, -1 and 0, as Azure sends
            them at times (openai/openai-dotnet#838).
        options: see `OpenAIServer`.
    """

    root = ""
    endpoints: ClassVar = {
        "/openai/deployments/{deployment}/chat/completions": Chat(),
        "/openai/deployments/{deployment}/embeddings": Embeddings(),
        "/openai/responses": Responses(),
    }

    def __init__(self, limits, *, unknown=(), **options):
        super().__init__(limits, **options)
        self._unknown = frozenset(unknown)

    def refuse(self, call):
        """Say 429 with a code that is a number."""
        fault = super().refuse(call)
        error = {"code": "429", "message": fault.body["error"]["message"]}
        return Fault(fault.status, {"error": error}, fault.headers)

    def _figures(self, name, quotas, unit, now):
        if name in self._unknown:
            limit, remaining, reset = "-1", "-1", "0"
        else:
            limit, remaining, _ = super()._figures(name, quotas, unit, now).values()
            reset = str(math.ceil(quotas.reset(now, unit)))
        return {
            f"x-ratelimit-limit-{name}": limit,
            f"x-ratelimit-remaining-{name}": remaining,
            f"x-ratelimit-reset-{name}": reset,
        }

    def request(self, model, text, max_tokens):
        """Ask for a completion of a deployment."""
        _, body = super().request(model, text, max_tokens)
        return f"/openai/deployments/{model}/chat/completions", body


class GroqServer(OpenAIServer):
    """Groq: units "calls", "calls_per_day" and "tokens"; headers tell the calls of a day."""

    root = "/openai/v1"
    endpoints: ClassVar = {
        "/openai/v1/chat/completions": Chat(),
        "/openai/v1/embeddings": Embeddings(),
    }
    header_units: ClassVar = {"requests": "calls_per_day", "tokens": "tokens"}

    def back(self, call):
        """Give back what was not used of the maximum."""
        return {"tokens": (call.max_tokens or 0) - call.arrival.produced}
