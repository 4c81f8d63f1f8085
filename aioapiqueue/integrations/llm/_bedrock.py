"""Keys and costs of calls to Amazon Bedrock through botocore's clients. Pure.

Parameters and responses are those of the operations `Converse`, `ConverseStream`, `InvokeModel` and
`InvokeModelWithResponseStream` (Amazon Bedrock Runtime API reference).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from aioapiqueue.integrations.llm._profile import Profile
from aioapiqueue.integrations.llm._refused import NoPrice
from aioapiqueue.integrations.llm._request import read_body
from aioapiqueue.integrations.llm._stated_usage import ReadUsage, read_usage
from aioapiqueue.integrations.llm._usage import BodyUsageReader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aioapiqueue.integrations.llm._profile import Costs
    from aioapiqueue.integrations.llm._request import LLMRequest
    from aioapiqueue.integrations.llm._stated_usage import Usage

_SERVICE = "bedrock-runtime"
_HEADERS = {
    "x-amzn-bedrock-input-token-count": "inputTokenCount",
    "x-amzn-bedrock-output-token-count": "outputTokenCount",
    "x-amzn-bedrock-cache-read-input-token-count": "cacheReadInputTokenCount",
    "x-amzn-bedrock-cache-write-input-token-count": "cacheWriteInputTokenCount",
}
"""Headers of `InvokeModel`, with the names of the same counts in streams."""
_METRICS = "amazon-bedrock-invocationMetrics"
"""Field that Bedrock adds to the last chunk of a model's own stream."""
_TEXTS = ("completion", "generation", "outputText", "text")
"""Fields with the text of a chunk, for models without `delta` and `choices` (Meta's, Titan's,
Cohere's)."""
_NO_TEXT = re.compile(r"embed|rerank|image|canvas|stability\.", re.IGNORECASE)
"""Ids of models whose responses are not text, and do not count as output tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BedrockProfile(Profile):
    """What Bedrock counts: the `profile=` of `paced` and `pace_session`, for its runtime clients.

    Quotas apply to a model in a Region, so the key of a call contains both:
    `"anthropic.claude-sonnet-4-20250514-v1:0 eu-west-1"`. A `key` function of yours replaces it;
    the `host` of its `LLMRequest` is the Region. The id of an inference profile begins with `eu.`,
    `us.`, `apac.` or `global.`, and so does its key.

    Each output token of Claude 3.7 and later models is settled as five tokens, as Bedrock counts
    them.

    Args:
        details: as for `Profile`.
    """

    def asked_for(
        self, service: str, operation: str, region: str, parameters: object
    ) -> tuple[str, Costs, LLMRequest] | None:
        """Return the key, cost and `LLMRequest` of a call.

        Return None for a call that the profile does not cover, such as one of another service.
        """
        request = self._request_of(service, operation, region, parameters)
        if request is None:
            return None
        key = f"{request.model} {region}" if self.key is None else str(self.key_of(request))
        # Computed once, because `reserve` may return another number when the call is settled.
        request = replace(request, reserved=self.reserved_for(request))
        return key, self.cost_of(request), request

    def _request_of(
        self, service: str, operation: str, region: str, parameters: object
    ) -> LLMRequest | None:
        if service != _SERVICE or not isinstance(parameters, Mapping):
            return None
        model = parameters.get("modelId")
        # Converse has its parts as parameters, InvokeModel as the JSON of a body.
        body = dict(parameters) if "messages" in parameters else read_body(parameters.get("body"))
        if "messages" not in parameters:
            body |= _settings_beside(parameters)
        request = self.read(host=region, path=operation, body={**body, "model": model})
        return None if request.endpoint is None else request

    def cost_outside(self, service: str, operation: str, region: str) -> float:
        """Return the cost in USD of a call that the profile does not cover: 0.

        Raises:
            NoPrice: the call is charged by its content.
        """
        if service == _SERVICE and operation != "CountTokens":
            raise NoPrice(
                f"a request to {service} at {region} {operation} has no price that is known: send "
                "it through a client without a limit in USD"
            )
        return 0

    def with_maximum_set(self, service: str, operation: str, parameters: object) -> object:
        """Return the parameters of a call, with `max_output` if they set no maximum.

        Only Converse has the same parameter for all models.
        """
        if self.max_output is None or not operation.startswith("Converse"):
            return parameters
        request = self._request_of(service, operation, "", parameters)
        body = None if request is None else self.with_maximum(request)
        if body is not None:
            del body["model"]  # see `_request_of`
        return parameters if body is None else body

    def priced(self, request: LLMRequest, costs: Costs, now: float) -> tuple[LLMRequest, Costs]:
        """Return a request with its price, and its costs with the most that it can cost in USD.

        Raises:
            NoPrice: as for `Profile.priced`.
            ImportError: as for `Profile.priced`.
        """
        if request.endpoint is not None and _NO_TEXT.search(request.model):
            # One operation serves all models, so only the model tells that there is no output.
            request = replace(request, endpoint=replace(request.endpoint, most=()))
        return Profile.priced(self, request, costs, now)

    def reserved_for(self, request: LLMRequest) -> float:
        """Return the tokens to reserve for the response to a request."""
        # Not `super()`: `dataclass(slots=True)` replaces the class that `super()` would refer to.
        return 0 if _NO_TEXT.search(request.model) else Profile.reserved_for(self, request)

    def settled(self, request: LLMRequest, usage: Usage | None, *, now: float = 0) -> Costs | None:
        """Return the true cost of a call in tokens and USD, or None to keep its reserved cost.

        Raises:
            ValueError: as for `Profile.settled`.
        """
        if usage and request.path == "InvokeModel" and _is_cached_for_an_hour(request):
            # Its headers do not state for how long the cache was written.
            usage = {**usage, "cache_write_1h_tokens": usage.get("cache_write_tokens", 0)}
        # A response that states only its input has no text. `_NO_TEXT` misses some of these models,
        # because an id may be the ARN of a custom model.
        if usage and "input_tokens" in usage and "output_tokens" not in usage:
            usage = ReadUsage({"output_tokens": 0, **usage})
            # A budget keeps the price of the output, which is 0 if the model is known to have none.
            usage.is_estimate = _NO_TEXT.search(request.model) is None
        return Profile.settled(self, request, usage, now=now)

    def usage_of(self, answer: Mapping[str, Any], headers: Mapping[str, str]) -> Usage | None:
        """Return the usage in a response, or None."""
        usage = answer.get("usage")
        # Only Converse states it in the response itself.
        if not isinstance(usage, Mapping):
            given = {name.lower(): value for name, value in headers.items()}
            usage = {
                name: int(given[header])
                for header, name in _HEADERS.items()
                if str(given.get(header)).isdecimal()
            }
        found = read_usage(usage)
        return found if found or found.malformed else None

    def stream_reader(self, request: LLMRequest) -> BedrockStream:
        """Return a reader for the events of a streamed response."""
        return BedrockStream(request.max_output_tokens)


def _settings_beside(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the parameters of `InvokeModel` say beside its body, as `Converse` names it."""
    latency = parameters.get("performanceConfigLatency")
    found = {
        "serviceTier": parameters.get("serviceTier"),
        "guardrailConfig": parameters.get("guardrailIdentifier"),
        "performanceConfig": latency and {"latency": latency},
    }
    return {name: value for name, value in found.items() if value}


def _is_cached_for_an_hour(request: LLMRequest) -> bool:
    return request.price is not None and request.price.cache == "1h"


class BedrockStream:
    """Finds the usage in the events of a stream, or estimates it from the text if left early.

    Args:
        most_output: as for `BodyUsageReader`.
    """

    def __init__(self, most_output: int | None) -> None:
        self._reader = BodyUsageReader(streams=True, most_output=most_output)

    def feed(self, event: Mapping[str, Any]) -> None:
        """Read an event."""
        for piece in _pieces(event):
            self._reader.read_event(piece)

    def usage(self) -> Usage | None:
        """Return the usage found so far, or None."""
        return self._reader.usage()


def _pieces(event: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the events of the provider's own stream that an event of Bedrock contains."""
    # ConverseStream: the text, and at the end the usage.
    for name in ("contentBlockDelta", "metadata"):
        if isinstance(event.get(name), Mapping):
            yield dict(event[name])
    if "chunk" in event:
        chunk = read_body(event["chunk"].get("bytes"))
        if isinstance(chunk.get(_METRICS), Mapping):
            yield {"usage": chunk.pop(_METRICS)}
        if "delta" not in chunk and "choices" not in chunk:
            chunk["delta"] = "".join(
                chunk[name] for name in _TEXTS if isinstance(chunk.get(name), str)
            )
        yield chunk
        # Amazon's models stream the events of Converse inside of chunks.
        yield from _pieces({name: chunk[name] for name in ("contentBlockDelta",) if name in chunk})
