"""What is known of one provider's API: what its requests cost, and what their answers say of it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Self, TypeAlias

from aioapiqueue._callables import is_coroutine_function
from aioapiqueue._grammar import CALLS
from aioapiqueue._rate import LONGEST, positive
from aioapiqueue.integrations._usage import MalformedUsageError
from aioapiqueue.integrations.llm._belief import believable, most_input
from aioapiqueue.integrations.llm._request import (
    Endpoint,
    LLMRequest,
    most_output,
    prompt_size,
    read_body,
)
from aioapiqueue.integrations.llm._tokens import counter_for, estimate_tokens

__all__ = ["Costs", "Key", "Profile", "Usage"]

Costs: TypeAlias = Mapping[str, float]
"""Amounts by unit."""
Usage: TypeAlias = Mapping[str, int]
"""What an answer says it took: see `UsageReader.usage`."""
Key: TypeAlias = "Callable[[LLMRequest], Hashable] | Mapping[str, Hashable] | None"

_UNITS = {
    "tokens": ("input", "output"),
    "input_tokens": ("input",),
    "output_tokens": ("output",),
}
_REFUSED = frozenset({429, 529})
_MOST = 1e12
"""Tokens; what a user's function may return at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What one provider counts, and how: made to be adapted by `with_`.

    Args:
        name: of the provider.
        endpoints: the requests that it knows. Others are calls of the host.
        units: what is counted besides calls: `"tokens"`, or of `"input_tokens"` and
            `"output_tokens"` those that have a limit.
        periods: seconds in which so much as a limit is let through, by unit. Default: what two
            answers show, else a minute.
        refills: whether limits are buckets, that come back bit by bit: see `Learning`.
        credits: whether what was reserved for the answer and not used is given back at its end.
            Default: False; a call is judged by what it might take, and keeps it.
        counts_cache_reads: whether the part of a prompt that comes from the provider's cache is
            counted. Default: True.
        default_output: tokens that are reserved for an answer whose request names no maximum.
        reserve: returns the tokens to reserve for an answer: a function of the `LLMRequest`.
            Default: the maximum that it names, else `default_output`.
        output_weight: returns how many tokens of the quota one of the answer uses in the end: a
            function of the model. Default: 1.
        key: which limits a request comes under. A function of the `LLMRequest`; or a mapping by
            model, in which a name that ends in `*` stands for all that begin like it (the longest
            one counts), and a model that it does not have stands for itself. Default: the model.
        count: returns the tokens of a text. Default: tiktoken for models of OpenAI, if it is
            installed and its tables are on this machine; else `estimate_tokens`.
        attachment_tokens: what an image, an audio file or a document is taken for until the answer
            says more. Default: 1,600, a large image at most providers.

    Raises:
        ValueError: a unit that is not known, or a number that is negative or infinite.
        TypeError: `key`, `count`, `reserve` or `output_weight` is a coroutine function, or nothing
            of the kind.
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

    def __post_init__(self) -> None:
        for unit in self.units:
            if unit not in _UNITS:
                raise ValueError(f"units must be among {', '.join(_UNITS)}, not {unit!r}")
        for unit, seconds in self.periods.items():
            positive(seconds, of=f"periods[{unit!r}]", most=LONGEST)
        for name in ("default_output", "attachment_tokens"):
            positive(getattr(self, name), of=name, least=0)
        for name in ("count", "reserve", "output_weight"):
            function = getattr(self, name)
            if function is not None and not callable(function):
                raise TypeError(f"{name} must be a function, not {function!r}")
        for name in ("count", "reserve", "output_weight", "key"):
            if is_coroutine_function(function := getattr(self, name)):
                raise TypeError(
                    f"{name} must be a plain function, not the coroutine function {function!r}"
                )
        if not (self.key is None or callable(self.key) or isinstance(self.key, Mapping)):
            raise TypeError(
                "key must be a function of the request or a mapping of models such as "
                f'{{"gpt-4o-20*": "gpt-4o"}}, not {self.key!r}'
            )

    def __repr__(self) -> str:
        return f"<Profile {self.name}: {', '.join((CALLS, *self.units))}>"

    def with_(self, **changes: Any) -> Self:  # noqa: ANN401 - of any argument
        """Return the same with other arguments.

        >>> from aioapiqueue.integrations import llm
        >>> llm.openai.with_(key={"gpt-4o-20*": "gpt-4o"}, default_output=500)
        <Profile openai: calls, tokens>

        Args:
            changes: arguments of `Profile`.

        Raises:
            TypeError: one that it does not have, or as of `Profile`.
            ValueError: as of `Profile`.
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
        """Read a request. Whatever it contains, this raises nothing but what `count` raises.

        Args:
            host: of its URL, without the port.
            path: of its URL, without the query.
            method: of HTTP.
            headers: with their names in lower case.
            content: its body, decoded. Default: it has none, or cannot be looked at.
            body: what `content` is as JSON, if that is known already.
        """
        headers = {} if headers is None else headers
        endpoint, model = None, None
        if method.upper() == "POST":
            endpoint, model = self._endpoint_of(path)
        if endpoint is None:
            return LLMRequest(host, path, headers)
        if body is None:
            body = read_body(content)
        model = str(model or body.get("model") or "")
        size_by = partial(prompt_size, body, endpoint, attachment_tokens=self.attachment_tokens)
        size = size_by(count=self.count or counter_for(model))
        # A user's function may count what it likes, as 0 for what another limit is for.
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
            found = re.search(f"(?:{endpoint.path})$", path)
            if found is not None:
                return endpoint, found.groupdict().get("model")
        return None, None

    def key_of(self, request: LLMRequest) -> Hashable:
        """Return which limits a request comes under: by default its model, else its host."""
        if callable(self.key):
            return self.key(request)
        model = request.model
        if not model:
            return request.host
        families = self.key
        if not families:
            return model
        if model in families:
            return families[model]
        patterns = [one for one in families if one.endswith("*") and model.startswith(one[:-1])]
        return families[max(patterns, key=len)] if patterns else model

    def cost_of(self, request: LLMRequest) -> Costs:
        """Return what a request is to be charged as it starts, by unit, in whole numbers."""
        if request.endpoint is None:
            return self._costs(0, 0)
        return self._costs(request.input_tokens, self.reserved_for(request))

    def settled(self, request: LLMRequest, usage: Usage | None) -> Costs | None:
        """Return what a call has really cost, in tokens; None: as much as it was charged.

        That is what the provider counts of it, which may be more than it used: see `credits`.

        Args:
            request: as it was read.
            usage: what its answer says; None: nothing.

        Raises:
            ValueError: some of that cannot be: its output is more than the request allows, or its
                input far more than the request has. The error's `cost` is what this would return if
                the usage did not say so.
        """
        if request.endpoint is None or not usage:
            return None
        usage, wrong = believable(request, usage)
        read, output = float(request.input_tokens), self.reserved_for(request)
        if "input_tokens" in usage:
            read = usage["input_tokens"] + usage.get("cache_write_tokens", 0)
            if self.counts_cache_reads:
                read += usage.get("cache_read_tokens", 0)
        if self.credits and "output_tokens" in usage:
            weight = 1 if self.output_weight is None else self.output_weight(request.model)
            output = usage["output_tokens"] * weight
        costs = dict(self._costs(read, output))
        del costs[CALLS]
        if wrong:
            raise MalformedUsageError(wrong, costs)
        return costs

    def failed(self, request: LLMRequest, status: int) -> Costs | None:
        """Return what the provider counts of a request that has not been served.

        A request that a limit has refused counts as a call ("unsuccessful requests contribute to
        your per-minute limit", says OpenAI; others do not say), and as no tokens. Of any other
        failure, a provider that gives tokens back keeps those of the prompt, and those of the
        answer that was not made come back; one that gives none back keeps all.

        Args:
            request: as it was read.
            status: of the answer.

        Returns:
            What it counts, in tokens; None: all that the request was charged.
        """
        if status < 400 or request.endpoint is None:  # noqa: PLR2004 - HTTP
            return None
        if status in _REFUSED:
            return self._costs(0, 0)
        return self._costs(request.input_tokens, 0) if self.credits else None

    def reserved_for(self, request: LLMRequest) -> float:
        """Return the tokens to reserve for an answer."""
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
