"""Where the prices of a model come from: what the user gave, or the price package."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

from aioapiqueue.integrations.llm import _price_data
from aioapiqueue.integrations.llm._rates import KINDS, Rates
from aioapiqueue.spi import checks

if TYPE_CHECKING:
    from aioapiqueue.integrations.llm._request import LLMRequest

T = TypeVar("T")
PriceFunction: TypeAlias = "Callable[[LLMRequest, Mapping[str, int] | None], float | None]"
PriceTable: TypeAlias = Mapping[str, float]
"""USD per million tokens, by kind of token; and `context_window`, the most tokens of a prompt."""
_WINDOW = "context_window"
Prices: TypeAlias = "PriceFunction | Mapping[str, str | PriceTable] | None"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pricing:
    """How a provider charges its requests.

    Args:
        provider: the provider's id in the package genai-prices. Default: the provider with the host
            of the request, else the one that makes the model.
        image_tokens: most tokens of an image, by model or prefix (`"gpt-4*"`). Default: unknown, so
            that an image may fill the context window of the model.
        caches_on_request: whether prompts are written to a cache only where a request marks them.
            Default: False, the provider may do so at any time.
        audio_costs_as_text: whether a model without a price for audio charges it as text. Default:
            False, the price is unknown.
        names_models: whether requests name a model of the package. Default: True. With False, they
            name a deployment, so that only `prices=` can tell its price.
        charges_rejected: whether requests that are rejected with status 400 may be charged.
            Default: False.
        window: most tokens of a prompt, for models whose context window the package does not know.
            Default: unknown; such models refuse content of unknown size.
    """

    provider: str | None = None
    image_tokens: Mapping[str, int] = field(default_factory=dict)
    caches_on_request: bool = False
    audio_costs_as_text: bool = False
    names_models: bool = True
    charges_rejected: bool = False
    window: int | None = None


class Tariff(Protocol):
    """The prices of one model."""

    @property
    def source(self) -> str: ...

    @property
    def window(self) -> int | None: ...

    def has_price_for(self, context: Mapping[str, str]) -> bool: ...

    def has_kind(self, kind: str) -> bool: ...

    def rates(self, now: float, context: Mapping[str, str]) -> Rates: ...

    def possible(self, now: float, context: Mapping[str, str]) -> tuple[Rates, ...]: ...


@dataclass(frozen=True, slots=True)
class OwnTariff:
    """Prices of a table that the user gave. They are the same at all times."""

    table: Rates
    source: str = ""
    window: int | None = None

    def has_price_for(self, context: Mapping[str, str]) -> bool:  # noqa: ARG002 - a `Tariff`
        """Return True: the user knows what the requests cost."""
        return True

    def has_kind(self, kind: str) -> bool:  # noqa: ARG002 - as above
        """Return True: the user knows what the requests cost."""
        return True

    def rates(self, now: float, context: Mapping[str, str]) -> Rates:  # noqa: ARG002 - as above
        """Return the prices."""
        return self.table

    def possible(self, now: float, context: Mapping[str, str]) -> tuple[Rates, ...]:  # noqa: ARG002 - as above
        """Return the prices."""
        return (self.table,)


def find_tariff(request: LLMRequest, prices: Any, pricing: Pricing) -> Tariff | None:  # noqa: ANN401 - no function
    """Return the prices of the model of a request, or None if they are unknown.

    Args:
        request: the request.
        prices: as for `Profile`, but no function.
        pricing: how the provider charges the request.

    Raises:
        ImportError: the price package is needed and not installed.
    """
    named = find_pattern(prices or {}, request.model)
    if isinstance(named, Mapping):
        return own_tariff(named, request.model)
    if named is None and not (pricing.names_models and request.model):
        return None
    return _price_data.find(named or request.model, provider=pricing.provider, host=request.host)


def own_tariff(table: PriceTable, model: str) -> OwnTariff:
    """Return the prices in a user's table.

    Raises:
        TypeError: a price is not a number, or a kind of token is unknown.
        ValueError: a price is negative or infinite, or `input` is missing.
    """
    of = f"prices[{model!r}]"
    checks.refuse_unknown(table, (*KINDS, _WINDOW), by=of)
    if "input" not in table:
        raise ValueError(f'{of} needs a price for "input", in USD per million tokens')
    for name, value in table.items():
        checks.positive(value, of=f"{of}[{name!r}]", least=0)
    rates = {kind: ((0, Decimal(str(table[kind]))),) for kind in table if kind != _WINDOW}
    window = table.get(_WINDOW)
    return OwnTariff(Rates(rates), window=None if window is None else int(window))


def check_prices(prices: object) -> None:
    """Refuse a value of `prices=` that cannot be used.

    Raises:
        TypeError: it is neither a function nor a mapping of models to names or tables.
        ValueError: a table is wrong, or a pattern can match nothing.
    """
    if prices is None or callable(prices):
        return
    if not isinstance(prices, Mapping):
        raise TypeError(
            'prices must be a function of request and usage, or a mapping such as {"my-model": '
            f'{{"input": 2.5, "output": 10}}}} or {{"my-deployment": "gpt-4o"}}, not {prices!r}'
        )
    check_models(prices, of="prices")
    for model, value in prices.items():
        if isinstance(value, Mapping):
            own_tariff(value, model)
        elif not isinstance(value, str):
            raise TypeError(
                f"prices[{model!r}] must be the name of a model or a table of USD per million "
                f'tokens such as {{"input": 2.5, "output": 10}}, not {value!r}'
            )


def check_models(table: Mapping[str, object], *, of: str) -> None:
    """Refuse a table of models with a pattern that `find_pattern` would never use.

    Raises:
        ValueError: a pattern can match nothing.
    """
    for model in table:
        remedy = "name each model, or pass a function instead of a mapping"
        if problem := checks.pattern_problem(model, remedy=remedy):
            raise ValueError(f"{of}[{model!r}]: {problem}")


def find_pattern(table: Mapping[str, T], name: str) -> T | None:
    """Return the value of a name in a table with patterns such as `"gpt-4*"`, or None."""
    if name in table:
        return table[name]
    patterns = [one for one in table if one.endswith("*") and name.startswith(one[:-1])]
    return table[max(patterns, key=len)] if patterns else None
