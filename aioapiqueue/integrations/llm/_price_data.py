"""Reads the prices of the package genai-prices, to price calls.

The package is imported only where calls are priced, because that takes long. It contains its
prices as data, and nothing here lets it download newer ones.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from aioapiqueue.integrations.llm._rates import KINDS, Rates

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from aioapiqueue.integrations.llm._rates import Steps

_TOKENS = "_mtok"
"""End of the names of prices for a million tokens."""
_OF_TOOLS = frozenset(
    {"code_executions_kcount", "social_searches_kcount", "storage_searches_kcount"}
    | {"web_searches_kcount"}
)
"""Prices of tools that the provider runs. Requests with such tools have no highest price."""
_AHEAD, _STEP = 24 * 3600, 1800
"""Prices change by date and by the time of day. A call may wait until another one is valid, so all
prices of the next day are possible. Each is valid for at least half an hour."""


def version() -> str:
    """Return the name and the version of the package.

    Raises:
        ImportError: the package is not installed; the message names the extra.
    """
    return f"genai-prices {_package().__version__}"


def load() -> Any:  # noqa: ANN401 - of the package
    """Return all prices, which are imported on the first call.

    Raises:
        ImportError: as for `version`.
    """
    _package()  # for its error
    from genai_prices import data_snapshot  # noqa: PLC0415 - late: see the module's docstring

    return data_snapshot.get_snapshot()


@lru_cache(maxsize=4096)
def find(model: str, *, provider: str | None, host: str) -> PricedModel | None:
    """Return a model of the package, or None if it is unknown or not priced by its tokens.

    Args:
        model: name of the model, as in the request.
        provider: the provider's id in the package. None: the provider with this host, else the one
            that makes the model.
        host: host of the request.

    Raises:
        ImportError: as for `version`.
    """
    snapshot = load()
    url: str | None = f"https://{host}/"
    try:
        snapshot.find_provider(None, None, url)
    except LookupError:
        url = None  # the maker of the model is the best guess
    try:
        _, found = snapshot.find_provider_model(model, None, provider, url)
    except LookupError:
        return None
    priced = PricedModel(found)
    return priced if priced.is_priced_by_tokens() else None


def _package() -> Any:  # noqa: ANN401 - a module
    try:
        import genai_prices  # noqa: PLC0415 - late: see the module's docstring
    except ImportError as error:
        raise ImportError(
            'to price calls, install the price package: pip install "aioapiqueue[prices]", or give '
            "the prices of your models: profile.with_(prices={...}) (aioapiqueue docs llm)",
            name=error.name,
        ) from error
    return genai_prices


class PricedModel:
    """A model of the package, with the prices that are valid at any instant.

    Args:
        info: the model, as the package has it.
    """

    def __init__(self, info: Any) -> None:  # noqa: ANN401 - of the package
        self._info = info
        self.source = version()
        """Where the prices are from."""
        self.window: int | None = info.context_window
        """Most tokens of a prompt. None: unknown."""
        self._possible: dict[object, tuple[Rates, ...]] = {}
        """The latest result of `possible` for each context, which most calls have in common."""

    def is_priced_by_tokens(self) -> bool:
        """Return whether the price depends on nothing but numbers of tokens."""
        names = {name for table in self._tables() for name, _ in _items(table)}
        kinds = {name.removesuffix(_TOKENS) for name in names - _OF_TOOLS}
        # Of the kinds of output, no response states the tokens of any others.
        known = {one for one in kinds if one in KINDS or one.startswith(("input", "cache"))}
        return "input" in kinds and kinds == known

    def _tables(self) -> list[Any]:
        """Return all prices, whenever they are valid."""
        prices = self._info.prices
        return [one.prices for one in prices] if isinstance(prices, list) else [prices]

    def has_price_for(self, context: Mapping[str, str]) -> bool:
        """Return whether requests in this context have prices of their own."""
        variants = self._info.price_variants or ()
        return any(context.items() >= one.when.items() for one in variants)

    def has_kind(self, kind: str) -> bool:
        """Return whether tokens of a kind, such as `"audio"`, have a price of their own."""
        return any(f"_{kind}_" in name for table in self._tables() for name, _ in _items(table))

    def rates(self, now: float, context: Mapping[str, str]) -> Rates:
        """Return the prices at an instant.

        Args:
            now: seconds since the epoch.
            context: the service tier and the like, by the package's names.
        """
        table = self._info.get_prices(datetime.fromtimestamp(now, UTC), dict(context) or None)
        return Rates(steps_of(table))

    def possible(self, now: float, context: Mapping[str, str]) -> tuple[Rates, ...]:
        """Return all prices that may be charged for a request made now.

        Args:
            now: as for `rates`.
            context: as for `rates`. The provider may also serve the request without it.
        """
        begin = now // _STEP * _STEP
        key = (begin, *sorted(context.items()))
        known = self._possible.get(key)  # once: another thread may clear it
        if known is None:
            if len(self._possible) >= 16:  # noqa: PLR2004 - those of earlier hours
                self._possible.clear()
            instants = (begin + after for after in range(0, _AHEAD + _STEP, _STEP))
            contexts: list[Mapping[str, str]] = [{}, context] if context else [{}]
            found = [self.rates(at, one) for at in instants for one in contexts]
            known = self._possible[key] = tuple({repr(one): one for one in found}.values())
        return known


def _items(table: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - of the package
    """Yield the prices in a table by their names."""
    return ((name, price) for name, price in vars(table).items() if price is not None)


def steps_of(table: Any) -> dict[str, Steps]:  # noqa: ANN401 - of the package
    """Return the prices in a table: of tokens by their kind, others by the package's names."""
    return {name.removesuffix(_TOKENS): _steps(price) for name, price in _items(table)}


def _steps(price: Any) -> Steps:  # noqa: ANN401 - of the package
    if isinstance(price, Decimal):
        return ((0, price),)
    return ((0, price.base), *((tier.start, tier.price) for tier in price.tiers))
