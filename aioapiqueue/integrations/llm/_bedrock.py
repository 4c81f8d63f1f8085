"""Amazon Bedrock: what its calls cost, as botocore's clients make them. Pure.

Their parameters and answers are those of the operations `Converse`, `ConverseStream`, `InvokeModel`
and `InvokeModelWithResponseStream` (Amazon Bedrock Runtime API reference).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aioapiqueue.integrations.llm._profile import Profile
from aioapiqueue.integrations.llm._usage import read_usage

if TYPE_CHECKING:
    from aioapiqueue.integrations.llm._profile import Costs, Usage
    from aioapiqueue.integrations.llm._request import LLMRequest

__all__ = ["BedrockProfile"]

_SERVICE = "bedrock-runtime"
_HEADERS = {
    "x-amzn-bedrock-input-token-count": "inputTokenCount",
    "x-amzn-bedrock-output-token-count": "outputTokenCount",
    "x-amzn-bedrock-cache-read-input-token-count": "cacheReadInputTokenCount",
    "x-amzn-bedrock-cache-write-input-token-count": "cacheWriteInputTokenCount",
}
"""What `InvokeModel` says in headers, by the names that it has in streams."""
_IN_CHUNK = "amazon-bedrock-invocationMetrics"
"""What the last chunk of a model's own streamed answer has besides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BedrockProfile(Profile):
    """What Bedrock counts: `profile=` of `paced` and `pace_session`, for its runtime clients.

    Quotas are those of a model in a Region, so that the key of a call names both:
    `"anthropic.claude-sonnet-4-20250514-v1:0 eu-west-1"`. With a `key` of your own, it is what that
    returns; the `host` of the request is the Region.

    Args:
        details: as of `Profile`.
    """

    def asked_for(
        self, service: str, operation: str, region: str, parameters: object
    ) -> tuple[str, Costs, LLMRequest] | None:
        """Return the key and the cost of a call, and the call as it was read.

        None, if it is of another service, or asks no model.
        """
        if service != _SERVICE or not isinstance(parameters, Mapping):
            return None
        model = parameters.get("modelId")
        body = dict(parameters) if "messages" in parameters else _json(parameters.get("body"))
        request = self.read(host=region, path=operation, body={**body, "model": model})
        if request.endpoint is None:
            return None
        key = f"{request.model} {region}" if self.key is None else str(self.key_of(request))
        return key, self.cost_of(request), request

    def usage_of(self, answer: Mapping[str, Any], headers: Mapping[str, str]) -> Usage | None:
        """Return what an answer says that it has used; None: it does not, or not yet."""
        usage = answer.get("usage")
        if not isinstance(usage, Mapping):
            given = {name.lower(): value for name, value in headers.items()}
            usage = {
                name: int(given[header])
                for header, name in _HEADERS.items()
                if str(given.get(header)).isdecimal()
            }
        return read_usage(usage) or None

    def usage_in(self, event: Mapping[str, Any]) -> Usage | None:
        """Return what an event of a streamed answer says that it has used; None: nothing."""
        chunk = event.get("chunk", {}).get("bytes", b"")
        if "metadata" in event:
            usage = event["metadata"].get("usage")
        elif _IN_CHUNK.encode() in chunk:
            usage = _json(chunk).get(_IN_CHUNK)
        else:
            return None
        return (read_usage(usage) or None) if isinstance(usage, Mapping) else None


def _json(body: object) -> dict[str, Any]:
    """Return what a body is; empty: it is a file, which is used up as it is read, or no JSON."""
    if not isinstance(body, str | bytes | bytearray):
        return {}
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
