"""Lists what the package genai-prices knows, for people who set a budget."""

from __future__ import annotations

import datetime as dt
import difflib
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeAlias

from aioapiqueue.integrations.llm._price_data import PricedModel, load, steps_of, version
from aioapiqueue.integrations.llm._profiles import (
    anthropic,
    bedrock,
    compatible,
    gemini,
    groq,
    openai,
)
from aioapiqueue.integrations.llm._prompt_bound import HIDDEN

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from aioapiqueue.integrations.llm._rates import Steps

Rates: TypeAlias = "Mapping[str, Steps]"
"""Prices of a million tokens by kind of token; the names of other prices say what they are for."""

_OURS = {"google": "gemini", "aws": "bedrock"}
"""Names of profiles, where the package calls the provider otherwise."""
_PROFILES = {one.name: one for one in (openai, anthropic, gemini, bedrock, groq)}
PROFILES = tuple(_PROFILES)
"""The providers whose profile finds its prices without further settings."""
_CLOSE = 5
"""Number of names that are suggested for an unknown one."""


@dataclass(frozen=True, slots=True)
class PriceTier:
    """The prices of requests with a service tier, or a similar setting.

    Attributes:
        when: the setting, such as `{"service_tier": "flex"}`.
        rates: the prices now. Those that the setting does not change are the standard prices.
    """

    when: Mapping[str, str]
    rates: Rates


@dataclass(frozen=True, slots=True)
class PriceChange:
    """Prices that are valid from a date on, or at a time of day.

    Attributes:
        when: the setting that has these prices, as in `PriceTier`; empty: all requests without one.
        date: the first day, in UTC. None: any day.
        daily: begin and end in each day, in UTC. None: all day.
        rates: the prices.
    """

    when: Mapping[str, str]
    date: dt.date | None
    daily: tuple[dt.time, dt.time] | None
    rates: Rates


@dataclass(frozen=True, slots=True)
class ListedModel:
    """A model of one provider.

    Attributes:
        provider: name of the provider's profile, or its id in the package.
        model: the model's id in the package.
        name: its name for people. None: unknown.
        window: most tokens of a prompt. None: unknown.
        deprecated: whether the provider will withdraw the model.
        comment: what the package says about its prices; "": nothing.
        rates: the standard prices now.
        tiers: settings of a request that have other prices now.
        changes: all standard prices, in the order in which a later one has precedence, if there are
            several; then prices of tiers that are not valid yet, or not all day.
    """

    provider: str
    model: str
    name: str | None
    window: int | None
    deprecated: bool
    comment: str
    rates: Rates
    tiers: tuple[PriceTier, ...]
    changes: tuple[PriceChange, ...]


class PriceList:
    """The models and prices in the package.

    Args:
        now: the instant at which prices are valid.

    Attributes:
        source: name and version of the package.
        now: as given.

    Raises:
        ImportError: the package is not installed.
    """

    def __init__(self, now: dt.datetime) -> None:
        self.source = version()
        self.now = now
        found = load().providers
        self._providers: dict[str, Any] = {_OURS.get(one.id, one.id): one for one in found}

    @property
    def providers(self) -> Sequence[str]:
        """Names of all providers."""
        return sorted(self._providers)

    def containing(self, text: str, providers: Iterable[str]) -> Iterator[ListedModel]:
        """Yield the models whose id or name contains a text, by provider and id.

        Args:
            text: the text. All models contain the empty one.
            providers: names of providers.
        """
        for provider in providers:
            for info in sorted(self._providers[provider].models, key=lambda one: one.id):
                if text.lower() in f"{info.id}\n{info.name or ''}".lower():
                    yield self._listed(provider, info)

    def called(self, model: str, providers: Iterable[str]) -> Iterator[ListedModel]:
        """Yield the model that each provider has under a whole name, or its alias.

        Args:
            model: name of a model, as in a request.
            providers: names of providers.
        """
        for provider in providers:
            if (info := self._providers[provider].find_model(model)) is not None:
                yield self._listed(provider, info)

    def close_to(self, model: str) -> list[str]:
        """Return the ids of models that look like a name, those of `PROFILES` first."""
        of_profiles, others = (
            {info.id for name in names for info in self._providers[name].models}
            for names in (PROFILES, self._providers.keys() - {*PROFILES})
        )
        found = (
            one
            for ids in (of_profiles, others)
            for one in difflib.get_close_matches(model.lower(), ids, n=_CLOSE)
        )
        return [*dict.fromkeys(found)][:_CLOSE]

    def reserved(self, listed: ListedModel, *, prompt: int, output: int) -> Decimal | None:
        """Return the most that a call without cached parts and images can cost, in USD.

        None: its price does not depend on tokens alone.

        Args:
            listed: the model.
            prompt: bytes of the prompt.
            output: most tokens of the response.
        """
        models = self._providers[listed.provider].models
        model = PricedModel(next(one for one in models if one.id == listed.model))
        if not model.is_priced_by_tokens():
            return None
        profile = _PROFILES.get(listed.provider, compatible)
        caches = () if profile.pricing.caches_on_request else ("cache_write",)
        tokens = prompt + HIDDEN
        return max(
            one.highest(("input", *caches), tokens) * tokens + one.of("output", tokens) * output
            for one in model.possible(self.now.timestamp(), {})
        ) / Decimal(1_000_000)

    def _listed(self, provider: str, info: Any) -> ListedModel:  # noqa: ANN401 - of the package
        standard = steps_of(info.get_prices(self.now))
        whens = {repr(one.when): one.when for one in info.price_variants or ()}
        tiers = [
            PriceTier(when, steps_of(info.get_prices(self.now, when))) for when in whens.values()
        ]
        return ListedModel(
            provider=provider,
            model=info.id,
            name=info.name,
            window=info.context_window,
            deprecated=bool(info.deprecated),
            comment=info.price_comments or "",
            rates=standard,
            tiers=tuple(tier for tier in tiers if tier.rates != standard),
            changes=(*_changes(info), *self._changes_of_tiers(info)),
        )

    def _changes_of_tiers(self, info: Any) -> Iterator[PriceChange]:  # noqa: ANN401 - as above
        for one in info.price_variants or ():
            change = _change(one, one.when)
            if change.daily or (change.date and change.date > self.now.date()):
                yield change


def _changes(info: Any) -> Iterator[PriceChange]:  # noqa: ANN401 - of the package
    """Yield the standard prices of a model, if they are not always the same."""
    if isinstance(info.prices, list) and len(info.prices) > 1:
        for one in info.prices:
            yield _change(one, {})


def _change(one: Any, when: Mapping[str, str]) -> PriceChange:  # noqa: ANN401 - of the package
    limited = one.constraint
    begin, end = getattr(limited, "start_time", None), getattr(limited, "end_time", None)
    daily = (_in_utc(begin), _in_utc(end)) if begin and end else None
    return PriceChange(when, getattr(limited, "start_date", None), daily, steps_of(one.prices))


def _in_utc(time: dt.time) -> dt.time:
    """Return a time of day in UTC. Without a time zone, it is in UTC."""
    if time.tzinfo is None:
        return time
    return dt.datetime.combine(dt.date(1970, 1, 1), time).astimezone(dt.UTC).time()
