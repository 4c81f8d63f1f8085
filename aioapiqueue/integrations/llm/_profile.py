"""Profiles: how a provider counts its requests, and the usage in their responses."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from aioapiqueue.integrations._learnt_ramp import check_ramp
from aioapiqueue.integrations._usage import MalformedUsageError
from aioapiqueue.integrations.llm import _price_data as price_data
from aioapiqueue.integrations.llm._prices import USD, price_of
from aioapiqueue.integrations.llm._request import (
    Endpoint,
    LLMRequest,
    most_input,
    most_output,
    plausible_part,
    prompt_size,
    read_body,
    with_maximum,
)
from aioapiqueue.integrations.llm._stated_usage import ReadUsage
from aioapiqueue.integrations.llm._tariffs import (
    Prices,
    Pricing,
    check_models,
    check_prices,
    find_pattern,
)
from aioapiqueue.integrations.llm._tokens import counter_for, estimate_tokens
from aioapiqueue.spi import CALLS, checks

if TYPE_CHECKING:
    from aioapiqueue import Ramp
    from aioapiqueue.integrations.llm._stated_usage import Usage

Costs: TypeAlias = Mapping[str, float]
"""Amounts by unit."""
Key: TypeAlias = "Callable[[LLMRequest], Hashable] | Mapping[str, Hashable] | None"

_UNITS = {
    "tokens": ("input", "output"),
    "input_tokens": ("input",),
    "output_tokens": ("output",),
}
_REFUSED = frozenset({429, 529})
_BAD_REQUEST, _TIMEOUT = 400, 408
_MOST = 1e12
"""Most tokens that a function of the user may return."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What one provider counts, and how. Adapt an existing profile with `with_`.

    The cost of a call is reserved when the call starts: one call, the estimated tokens of the
    prompt, and the tokens of the longest response that the request allows. When the response ends,
    the call is settled to the usage that the response reports:

    - A profile without `credits` settles the prompt only. The call keeps the tokens reserved for
      its response.
    - If a stream reports no usage, or if the caller leaves the stream early, the output is
      estimated from the text that has arrived. Each event that contains text counts for at least
      one token.
    - Impossible usage is ignored, and `stats.malformed` counts it. The call keeps its reserved
      input or output tokens, whichever the response misreports. The `aioapiqueue` logger warns of
      the first impossible usage that a client receives, and logs later ones at level DEBUG.
    - Output is impossible if it exceeds the maximum of the request by more than a tenth plus 16
      tokens. Reasoning tokens are not included.
    - Input is impossible if it exceeds 10 times the estimate plus 30,000 tokens. This rule applies
      only if the request contains the whole prompt as text. It does not apply to requests with
      images, files, stored responses, cached prompts or tools that the provider runs. For these,
      see `settle` of `HttpPacer`.
    - The usage in a body is not read if the body decodes to more than 2 MB and 100 times its
      compressed size, or to more than 16 MB and 8 times its compressed size. The caller still gets
      the whole body, and `stats.malformed` counts it.
    - An impossible limit in the headers is not learnt: see `Learning`.

    Args:
        name: name of the provider.
        endpoints: requests that the profile covers. Any other request costs one call and no
            tokens, and its key is its host. Batches and Anthropic's token counts are such
            requests.
        units: units counted in addition to calls: `"tokens"`, or those of `"input_tokens"` and
            `"output_tokens"` that the provider limits.
        periods: seconds per limit, by unit. Default: the period that two responses suggest, else
            60.
        refills: whether limits refill continuously, as buckets do: see `Learning`. Default: False.
        credits: whether the unused part of the tokens reserved for the response is refunded.
            Default: False.
        counts_cache_reads: whether prompt tokens from the provider's cache count. Default: True.
        default_output: tokens to reserve for a response if the request sets no maximum. Default: 0.
        reserve: function of the `LLMRequest` that returns the tokens to reserve for the response.
            Default: its maximum, else `default_output`. Anthropic has documented two rules: it
            counts `max_tokens` when a call starts, or it counts the output as the model writes it.
            The default suits the first rule. For the second rule, return the average length of a
            response, as in `llm.anthropic.with_(reserve=lambda request: 300)`.
        output_weight: function of the model's name that returns the tokens of quota used per output
            token. Default: 1.
        key: lane of a request: a function of the `LLMRequest`, or a mapping of models to keys, in
            which names may end in `*` (the longest match applies; the key of any other model is its
            name). Default: the model.
        count: function of a text that returns its tokens. Default: tiktoken for OpenAI's models if
            its tables are on this machine, else `estimate_tokens`.
        attachment_tokens: tokens to reserve for an image, audio file or document. Default: 1600, a
            large image at most providers.
        ramp: a `Ramp` for limits that are learnt, if the provider also refuses a sharp rise: see
            `Learning`. Default: None, as providers publish few figures.
        prices: prices of models that the package genai-prices does not know, or knows by another
            name, for calls under a limit in USD. A mapping of models, or of prefixes (`"llama*"`),
            to the name of a known model, or to a table of USD per million tokens: `{"input": 2.5,
            "output": 10, "cache_read": 1.25}`. Or a function of an `LLMRequest` and a usage that
            returns USD: for the usage None, the most that the request can cost. Default: the
            prices of the package.
        max_output: maximum to set in requests that set none. Default: None; then they have no
            highest price, and under a limit in USD they are refused.
        pricing: how the provider charges its requests.
        answers_refusals: whether a call that is refused before it is sent gets a response with
            status 402, or 400 without a price, instead of an error, because the provider's SDK
            would wrap the error and try again. Default: False.

    Raises:
        ValueError: a unit is unknown, a number is negative or infinite, the ramp has a floor, or a
            pattern of models can match nothing.
        TypeError: `key`, `count`, `reserve`, `output_weight` or `prices` is not a plain function
            (or for `key` and `prices`, a mapping), or `ramp` is not a `Ramp`.
    """

    name: str
    endpoints: tuple[Endpoint, ...]
    units: tuple[str, ...]
    periods: Mapping[str, float] = field(default_factory=dict)
    refills: bool = False
    credits: bool = False
    counts_cache_reads: bool = True
    default_output: float = 0
    reserve: Callable[[LLMRequest], float] | None = None
    output_weight: Callable[[str], float] | None = None
    key: Key = None
    count: Callable[[str], float] | None = None
    attachment_tokens: float = 1600
    ramp: Ramp | None = None
    prices: Prices = None
    max_output: int | None = None
    pricing: Pricing = field(default_factory=Pricing)
    answers_refusals: bool = False

    def __post_init__(self) -> None:
        for unit in self.units:
            if unit not in _UNITS:
                raise ValueError(f"units must be among {', '.join(_UNITS)}, not {unit!r}")
        for unit, seconds in self.periods.items():
            checks.positive(seconds, of=f"periods[{unit!r}]", most=checks.LONGEST)
        for name in ("default_output", "attachment_tokens"):
            checks.positive(getattr(self, name), of=name, least=0)
        check_ramp(self.ramp)
        check_prices(self.prices)
        if self.max_output is not None:
            checks.whole(self.max_output, of="max_output", least=1)
        self._check_functions()
        if isinstance(self.key, Mapping):
            check_models(self.key, of="key")
        elif not (self.key is None or callable(self.key)):
            raise TypeError(
                "key must be a function of the request or a mapping of models such as "
                f'{{"gpt-4o-20*": "gpt-4o"}}, not {self.key!r}'
            )

    def _check_functions(self) -> None:
        for name in ("count", "reserve", "output_weight"):
            function = getattr(self, name)
            if function is not None and not callable(function):
                raise TypeError(f"{name} must be a function, not {function!r}")
        for name in ("count", "reserve", "output_weight", "key", "prices"):
            if checks.is_coroutine_function(function := getattr(self, name)):
                raise TypeError(
                    f"{name} must be a plain function, not the coroutine function {function!r}"
                )

    def __repr__(self) -> str:
        return f"<Profile {self.name}: {', '.join((CALLS, *self.units))}>"

    def with_(self, **changes: Any) -> Self:  # noqa: ANN401 - of any argument
        """Return a copy of this profile with some arguments changed.

        >>> from aioapiqueue.integrations import llm
        >>> llm.openai.with_(key={"gpt-4o-20*": "gpt-4o"}, default_output=500)
        <Profile openai: calls, tokens>

        Args:
            changes: arguments of `Profile`.

        Raises:
            TypeError: an argument is unknown; or as for `Profile`.
            ValueError: as for `Profile`.
        """
        return replace(self, **changes)

    def read(
        self,
        *,
        host: str,
        path: str,
        method: str = "POST",
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> LLMRequest:
        """Read the model, prompt and maximum from a request. The only errors are those of `count`.

        Args:
            host: host of the URL, without the port.
            path: path of the URL, without the query.
            method: HTTP method. Default: `"POST"`.
            headers: headers, with names in lower case. Default: none.
            content: decoded body. Default: None, the body cannot be read.
            body: JSON of the body, if already parsed. Default: parsed from `content`.
        """
        headers = {} if headers is None else headers
        endpoint, model = None, None
        if method.upper() == "POST":
            endpoint, model = self._endpoint_of(path)
        if endpoint is None:
            return LLMRequest(host, path, headers, method=method.upper())
        if body is None:
            body = read_body(content)
        # Azure and Gemini name the model in the path, the others in the body.
        model = str(model or body.get("model") or "")
        size_by = partial(prompt_size, body, endpoint, attachment_tokens=self.attachment_tokens)
        size = size_by(count=self.count or counter_for(model))
        # A function of the user may return any number, such as 0 to count nothing. The maximum that
        # a response may plausibly report must not depend on that.
        most = size if self.count is None else max(size, size_by(count=estimate_tokens))
        return LLMRequest(
            host,
            path,
            headers,
            body,
            model,
            endpoint,
            math.ceil(size),
            most_output(body, endpoint),
            most_input_tokens=most_input(body, endpoint, most),
        )

    def _endpoint_of(self, path: str) -> tuple[Endpoint | None, str | None]:
        for endpoint in self.endpoints:
            # Only the end must match, because a proxy may put a prefix before the path.
            found = re.search(f"(?:{endpoint.path})$", path)
            if found is not None:
                return endpoint, found.groupdict().get("model")
        return None, None

    def key_of(self, request: LLMRequest) -> Hashable:
        """Return the key of a request: by default its model, or its host if it has no model."""
        if callable(self.key):
            return self.key(request)
        model = request.model
        if not model:
            return request.host
        families = self.key
        if not families:
            return model
        found = find_pattern(families, model)
        return model if found is None else found

    def cost_of(self, request: LLMRequest) -> Costs:
        """Return the cost to reserve for a request, by unit, in whole numbers."""
        if request.endpoint is None:
            # 0 of each unit, because a limit refuses a cost that does not name its unit.
            return self._costs(0, 0)
        return self._costs(request.input_tokens, self.reserved_for(request))

    def with_maximum(self, request: LLMRequest) -> dict[str, Any] | None:
        """Return the body of a request with `max_output`, or None if it needs no change."""
        endpoint = request.endpoint
        if self.max_output is None or endpoint is None or not endpoint.most or not request.body:
            return None
        if request.max_output_tokens:
            return None
        return with_maximum(request.body, endpoint, self.max_output)

    def load_prices(self) -> None:
        """Import the price package if calls need it; an error is raised by the first such call."""
        prices = self.prices
        # A program that gives the tables of all its models may do without the package.
        if not callable(prices) and not (prices and all(map(_is_table, prices.values()))):
            with suppress(ImportError):
                price_data.load()

    def priced(self, request: LLMRequest, costs: Costs, now: float) -> tuple[LLMRequest, Costs]:
        """Return a request with its price, and its costs with the most that it can cost in USD.

        Args:
            request: the request.
            costs: its costs in other units.
            now: seconds since the epoch.

        Raises:
            NoPrice: the request has no highest price, or it is unknown.
            ImportError: the price package is needed and not installed.
        """
        price = price_of(request, prices=self.prices, pricing=self.pricing, now=now)
        most = request.most_input_tokens
        if most is None:  # the price knows more: how much an image or the context window has
            most = price.most_input_tokens
        return replace(request, price=price, most_input_tokens=most), {**costs, USD: price.most}

    def settled(self, request: LLMRequest, usage: Usage | None, *, now: float = 0) -> Costs | None:
        """Return the true cost of a call in tokens and USD, or None to keep its reserved cost.

        The true cost is what the provider counts, which may exceed the usage: see `credits`.

        Args:
            request: the request, as `read` returned it.
            usage: usage in the response, or None.
            now: seconds since the epoch, for prices that depend on the time. Default: the time at
                which the request was priced.

        Raises:
            ValueError: the usage is impossible: more output than the request allows, or far more
                input than its estimate. The `cost` of the error ignores the impossible part.
        """
        if request.endpoint is None or usage is None:
            return None
        stated, malformed = usage, usage.malformed if isinstance(usage, ReadUsage) else ""
        if not stated:
            if malformed:
                raise MalformedUsageError(malformed)
            return None
        usage, wrong = plausible_part(request, stated)
        # Whatever the usage does not state keeps its reserved amount.
        read, output = float(request.input_tokens), self.reserved_for(request)
        if "input_tokens" in usage:
            read = usage["input_tokens"] + usage.get("cache_write_tokens", 0)
            if self.counts_cache_reads:
                read += usage.get("cache_read_tokens", 0)
        if self.credits and "output_tokens" in usage:
            weight = 1 if self.output_weight is None else self.output_weight(request.model)
            output = usage["output_tokens"] * weight
        costs = dict(self._costs(read, output))
        # Only tokens are settled: the call itself was made, whatever it used.
        del costs[CALLS]
        if request.price is not None:
            # The provider charges what it has generated, whatever the request allowed.
            billed = {**stated}
            if "output_tokens" in billed:
                billed["output_tokens"] = min(billed["output_tokens"], request.price.most_output)
            billed, _ = plausible_part(replace(request, max_output_tokens=None), billed)
            costs[USD] = request.price.settled(stated, billed, now)
        if wrong := " and ".join(filter(None, (malformed, wrong))):
            raise MalformedUsageError(wrong, costs)
        return costs

    def failed(self, request: LLMRequest, status: int) -> Costs | None:
        """Return the true cost of a failed request, or None to keep its reserved cost.

        A throttled request costs a call and no tokens (OpenAI: "unsuccessful requests contribute to
        your per-minute limit"). After other failures, a profile with `credits` charges the prompt;
        one without keeps the reserved cost.

        Args:
            request: the request, as `read` returned it.
            status: status of the response.
        """
        if status < 400:  # noqa: PLR2004 - HTTP
            return None
        costs: Costs | None = None
        if request.endpoint is not None:
            if status in _REFUSED:
                costs = self._costs(0, 0)
            elif self.credits:
                costs = self._costs(request.input_tokens, 0)
        if request.price is None or not self._is_free(status):
            return costs
        return {**(costs or {}), USD: 0}

    def _is_free(self, status: int) -> bool:
        """Return whether no provider charges a request that failed with a status."""
        # After a timeout or an error of the server, it may have generated a response.
        if status == _BAD_REQUEST:
            return not self.pricing.charges_rejected
        return status in _REFUSED or (status < 500 and status != _TIMEOUT)  # noqa: PLR2004 - HTTP

    def reserved_for(self, request: LLMRequest) -> float:
        """Return the tokens to reserve for the response to a request."""
        # Computed before; `reserve` may return another number now.
        if request.reserved is not None:
            return request.reserved
        endpoint = request.endpoint
        if endpoint is None or not endpoint.most:
            return 0
        if self.reserve is not None:
            return self.reserve(request)
        most = request.max_output_tokens
        return self.default_output if most is None else most

    def _costs(self, read: float, output: float) -> Costs:
        amounts = {"input": read, "output": output}
        costs = {unit: sum(amounts[what] for what in _UNITS[unit]) for unit in self.units}
        return {CALLS: 1, **{unit: math.ceil(min(one, _MOST)) for unit, one in costs.items()}}


def _is_table(price: object) -> bool:
    return isinstance(price, Mapping)
