"""Prices of requests: the most that each can cost, and what it did cost.

A price is reserved as the highest one that is possible (`_prompt_bound.py`, `Rates.highest`), and
settled to the usage that the response states. Usage that is only estimated, as of a stream that was
cut, settles nothing: the provider may have generated more than has arrived.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, Decimal
from typing import TYPE_CHECKING, Any

from aioapiqueue.integrations.llm._prompt_bound import prompt_bound
from aioapiqueue.integrations.llm._rates import KINDS, OUTPUTS
from aioapiqueue.integrations.llm._refused import NoPrice
from aioapiqueue.integrations.llm._request import plausible_input, responses
from aioapiqueue.integrations.llm._stated_usage import ReadUsage
from aioapiqueue.integrations.llm._tariffs import find_pattern, find_tariff
from aioapiqueue.spi import checks

if TYPE_CHECKING:
    from aioapiqueue.integrations.llm._prompt_bound import PromptBound
    from aioapiqueue.integrations.llm._rates import Rates
    from aioapiqueue.integrations.llm._request import Endpoint, LLMRequest
    from aioapiqueue.integrations.llm._tariffs import PriceFunction, Prices, Pricing, Tariff

USD = "usd"
_MILLION, _BILLION = 10**6, 10**9
_FREE = ("/count_tokens", ":countTokens", "/moderations", "/input_tokens", "/files")
"""Ends of the paths of requests that no provider charges."""
_USUAL = frozenset({"auto", "default", "standard", "standard_only", "on_demand", "flex", "batch"})
"""Service tiers and speeds that cost at most the usual price."""
_REGIONAL = ".api.openai.com"
"""End of the hosts of OpenAI's regions."""
_NO_REGION = frozenset({"global", "not_available"})
_MILLION_TOKENS = "context-1m"
"""Anthropic's name for prompts beyond the usual context window."""
_SURCHARGE = Decimal("1.1")
"""Factor for processing in one region, at OpenAI (by host) and Anthropic (`inference_geo`); the
price package does not know it."""
_SEARCHES = re.compile(r"search|sonar|-online|compound|deep-research")
"""Models that search the web on their own, which the price package does not price."""
_LONGEST_OUTPUT = 200_000
"""Most output tokens of any model, thoughts included, if its context window is not smaller. The
price package does not know them: the longest response of a model has 128,000."""
_MEDIA = ("input_audio", "input_image", "input_video")
_SILENT = tuple(kind for kind in OUTPUTS if kind != "output_audio")


@dataclass(frozen=True, slots=True)
class Price:
    """The price of one request.

    Attributes:
        prompt: most USD for the prompt.
        output: most USD for the response.
        source: name and version of the price package; empty if the prices are the user's.
        most_input_tokens: most input tokens that a response may plausibly report. None: unknown.
        most_output: most output tokens of the model, for all responses to the request.
        cache: how long the request wants its prompt to be cached, as in `PromptBound`.
    """

    prompt: Decimal
    output: Decimal
    source: str = ""
    most_input_tokens: float | None = None
    most_output: int = 0
    tariff: Tariff | None = None
    context: Mapping[str, str] | None = None
    factor: Decimal = Decimal(1)
    cache: str = ""
    has_output: bool = True
    reserved_at: float = 0.0
    function: Callable[[Mapping[str, int]], float | None] | None = None

    @property
    def most(self) -> float:
        """The most that the request can cost, in USD."""
        return _usd(self.prompt + self.output)

    def settled(self, usage: Mapping[str, int], plausible: Mapping[str, int], now: float) -> float:
        """Return what the request has cost, in USD.

        Args:
            usage: the usage that was read from the response.
            plausible: its part that is not impossible.
            now: seconds since the epoch; 0: the time at which the request was priced.
        """
        is_estimate = isinstance(usage, ReadUsage) and usage.is_estimate
        if self.function is not None:
            is_whole = len(plausible) == len(usage) and not (is_estimate and self.has_output)
            amount = self.function(plausible) if is_whole else None
            return self.most if amount is None else _usd(_checked(amount))
        prompt, output = self.prompt, self.output
        if self.tariff is None:
            return self.most
        tokens = _by_kind(plausible)
        size = sum(tokens[kind] for kind in tokens if kind not in OUTPUTS)
        # A price by the time of day may change while a request runs.
        instants = {self.reserved_at, now or self.reserved_at}
        context = self._context(usage)
        factor = self.factor
        if context.pop("inference_geo", "global") not in _NO_REGION and self.source:
            factor = _SURCHARGE  # the workspace may have chosen the region
        tables = [self.tariff.rates(at, context) for at in instants]
        if "input_tokens" in plausible:
            kinds = {kind: number for kind, number in tokens.items() if kind not in OUTPUTS}
            prompt = max(table.cost(kinds, size) for table in tables) * factor
        if "output_tokens" in plausible and not is_estimate:
            kinds = {kind: number for kind, number in tokens.items() if kind in OUTPUTS}
            output = max(table.cost(kinds, size) for table in tables) * factor
        return _usd(prompt + output)

    def _context(self, usage: Mapping[str, int]) -> dict[str, str]:
        """Return the service tier that served the request, if the response states one."""
        stated = usage.context if isinstance(usage, ReadUsage) else {}
        return {**(self.context or {}), **stated}


def price_of(request: LLMRequest, *, prices: Prices, pricing: Pricing, now: float) -> Price:
    """Return the price of a request.

    Args:
        request: the request.
        prices: as for `Profile`.
        pricing: how its provider charges it.
        now: seconds since the epoch.

    Raises:
        NoPrice: the request has no highest price, or it is unknown.
        ImportError: the price package is needed and not installed.
    """
    if request.method != "POST" or request.path.endswith(_FREE):
        return Price(Decimal(), Decimal())
    if callable(prices):
        return _by_function(request, prices)
    endpoint = request.endpoint
    if endpoint is None or not endpoint.prompt:
        raise _unbounded(request, "such requests are not priced by the tokens of a prompt")
    if not request.body:
        raise _unbounded(request, "its body is not a JSON object in memory")
    if endpoint.most and not request.max_output_tokens:
        raise _no_maximum(request, endpoint)
    tariff = _find_tariff(request, prices, pricing)
    bound = prompt_bound(request.body, endpoint)
    _check(request, bound, tariff, pricing)
    named = find_pattern(prices or {}, request.model)
    image_model = named if isinstance(named, str) else request.model
    image_tokens = find_pattern(pricing.image_tokens, image_model)
    size = _prompt_size(request, bound, tariff, pricing, image_tokens)
    context = _context_of(request, tariff)
    tables = tariff.possible(now, context)
    _check_rates(request, bound, tariff, tables)
    kinds = ("input", *_written(bound, pricing))
    media = (*kinds, *_MEDIA)
    text = 0 if bound.elsewhere else bound.text
    factor = _surcharge(request, tariff)
    outputs = OUTPUTS if _wants_audio(request.body) else _SILENT
    return Price(
        prompt=factor
        * max(
            one.highest(kinds, size) * text + one.highest(media, size) * (size - text)
            for one in tables
        )
        / _MILLION,
        output=factor
        * max(one.highest(outputs, size) for one in tables)
        * (request.max_output_tokens or 0 if endpoint.most else 0)
        / _MILLION,
        source=tariff.source,
        most_input_tokens=plausible_input(size),
        most_output=_most_output(request, tariff.window),
        tariff=tariff,
        context=context,
        factor=factor,
        cache=bound.cache,
        reserved_at=now,
    )


def _by_function(request: LLMRequest, function: PriceFunction) -> Price:
    amount = function(request, None)
    if amount is None:
        raise _unbounded(request, "the function prices= returned None for it")
    # Kept until the response ends: without the API key.
    kept = replace(request, headers={})
    return Price(
        _checked(amount),
        Decimal(),
        most_output=_most_output(request, None),
        has_output=request.endpoint is None or bool(request.endpoint.most),
        function=lambda usage: function(kept, usage),
    )


def _most_output(request: LLMRequest, window: int | None) -> int:
    if request.endpoint is None:
        return _LONGEST_OUTPUT
    of_each = min(window or _LONGEST_OUTPUT, _LONGEST_OUTPUT)
    return of_each * responses(request.body, request.endpoint)


def _no_maximum(request: LLMRequest, endpoint: Endpoint) -> NoPrice:
    # For `InvokeModel`, the field depends on the model, so the client cannot set it.
    is_body = request.path.startswith("InvokeModel")
    set_it = f"one of {', '.join(endpoint.most)}" if is_body else endpoint.most[0]
    for_all = "" if is_body else ", or for all requests: profile.with_(max_output=...)"
    return NoPrice(
        f"{_name(request)} has no highest price, as it sets no maximum for the response: set "
        f"{set_it} in the request{for_all}"
    )


def _find_tariff(request: LLMRequest, prices: Prices, pricing: Pricing) -> Tariff:
    tariff = find_tariff(request, prices, pricing)
    if tariff is not None:
        return tariff
    model = request.model
    raise NoPrice(
        f"{_name(request)} has no known price: in the profile, name the model behind it, "
        f'profile.with_(prices={{"{model}": "known-model"}}), or give its USD per million tokens, '
        f'prices={{"{model}": {{"input": 2.5, "output": 10}}}}, or a function of request and usage'
        ". Known models: aioapiqueue limits --prices"
    )


def _check(request: LLMRequest, bound: PromptBound, tariff: Tariff, pricing: Pricing) -> None:
    """Refuse a request whose cost the price package cannot bound."""
    if not tariff.source:
        return  # the user's own prices are taken to be right for all requests of the model
    if bound.unbounded:
        raise _unbounded(request, f"it uses {bound.unbounded}")
    if _SEARCHES.search(request.model):
        raise _unbounded(request, "its model may search the web, for a fee")
    body = request.body
    has_price = not pricing.audio_costs_as_text and _has_audio(bound, body)
    if has_price and not tariff.has_kind("audio"):
        raise _unbounded(request, "the price package has no price for audio of this model")
    latency = body.get("performanceConfig")
    if isinstance(latency, Mapping) and latency.get("latency") == "optimized":
        raise _unbounded(request, "the price package does not know optimized latency")


def _check_rates(
    request: LLMRequest, bound: PromptBound, tariff: Tariff, tables: Sequence[Rates]
) -> None:
    """Refuse a request for which the provider may charge something without a known price."""
    has_output = request.endpoint is not None and bool(request.endpoint.most)
    kinds = set.intersection(*(set(one.steps) for one in tables))
    if has_output and "output" not in kinds:
        raise _unbounded(request, "its model has a price for input, but none for output")
    if not tariff.source:
        return
    if has_output and "output_image" in kinds:
        raise _unbounded(request, "the maximum of a response does not include its images")
    if bound.cache == "1h" and "cache_write" in kinds and "cache_write_1h" not in kinds:
        raise _unbounded(request, "the price package has no price for a cache of an hour")


def _has_audio(bound: PromptBound, body: Mapping[str, Any]) -> bool:
    return bool(bound.audio) or ("messages" in body and _wants_audio(body))


def _wants_audio(body: Mapping[str, Any]) -> bool:
    """Return whether the response may be audio; OpenAI's chat completions have to ask for it."""
    modalities = body.get("modalities")
    return "messages" not in body or (isinstance(modalities, list) and "audio" in modalities)


def _prompt_size(
    request: LLMRequest,
    bound: PromptBound,
    tariff: Tariff,
    pricing: Pricing,
    image_tokens: int | None,
) -> int:
    """Return the most tokens of a prompt."""
    if not bound.elsewhere and not (bound.images and image_tokens is None):
        return bound.text + bound.audio + bound.images * (image_tokens or 0)
    if tariff.window is None and pricing.window is None:
        raise NoPrice(
            f"{_name(request)} has no known highest price: its prompt has "
            f"{bound.elsewhere or 'an image'}, whose size is unknown, and the context window of "
            "the model is unknown too: give the profile a table with it, profile.with_(prices="
            f'{{"{request.model}": {{"input": 2.5, "output": 10, "context_window": 128000}}}})'
        )
    window = tariff.window or pricing.window or 0
    if _MILLION_TOKENS in request.headers.get("anthropic-beta", ""):
        window = max(window, _MILLION)
    return max(window, bound.text)


def _written(bound: PromptBound, pricing: Pricing) -> tuple[str, ...]:
    """Return the kinds of cache writes that a request may be charged for."""
    if bound.cache == "1h":
        return "cache_write", "cache_write_1h"
    return ("cache_write",) if bound.cache or not pricing.caches_on_request else ()


def _context_of(request: LLMRequest, tariff: Tariff) -> dict[str, str]:
    """Return what a request asks for that has a price of its own, by the package's names."""
    body = request.body
    tier = body.get("service_tier", body.get("serviceTier"))
    if isinstance(tier, Mapping):  # Bedrock
        tier = tier.get("type")
    wanted = {"service_tier": tier, "speed": body.get("speed")}
    context = {name: str(value) for name, value in wanted.items() if value is not None}
    found = {}
    for name, value in context.items():
        if tariff.has_price_for({name: value}):
            found[name] = value
        elif value not in _USUAL:
            raise _unbounded(request, f"the price package does not know {name}={value!r}")
    return found


def _surcharge(request: LLMRequest, tariff: Tariff) -> Decimal:
    place = request.body.get("inference_geo", "global")
    is_regional = request.host.endswith(_REGIONAL) or place != "global"
    return _SURCHARGE if tariff.source and is_regional else Decimal(1)


def _by_kind(usage: Mapping[str, int]) -> dict[str, int]:
    """Return the numbers of tokens in a usage by kind, each token once."""
    parts = {kind: usage.get(f"{kind}_tokens", 0) for kind in KINDS}
    # Some servers count reasoning separately, but none charges more of it than of output.
    parts["output_reasoning"] = min(usage.get("reasoning_tokens", 0), parts["output"])
    # The whole of the input, the output and the cache writes includes their parts.
    for whole in ("input", "output", "cache_write"):
        inner = sum(parts[kind] for kind in KINDS if kind.startswith(f"{whole}_"))
        parts[whole] = max(0, parts[whole] - inner)
    return parts


def _unbounded(request: LLMRequest, why: str) -> NoPrice:
    return NoPrice(
        f"{_name(request)} has no known highest price: {why}. To send it under a limit in USD, "
        "give the profile a function that returns the most it can cost: "
        "profile.with_(prices=lambda request, usage: ...) (aioapiqueue docs llm)"
    )


def _name(request: LLMRequest) -> str:
    model = f" to the model {request.model!r}" if request.model else ""
    gap = "" if request.path.startswith("/") else " "  # an operation of Bedrock
    return f"a request{model} at {request.host}{gap}{request.path}"


def _checked(amount: float) -> Decimal:
    checks.positive(amount, of="the result of prices=", least=0)
    return Decimal(str(amount))


def _usd(amount: Decimal) -> float:
    """Return an amount rounded up to a whole billionth, as budgets count them."""
    return int((amount * _BILLION).to_integral_value(ROUND_CEILING)) / _BILLION
