"""`aioapiqueue limits --prices`: finds the models that the options name, and prints them."""

from __future__ import annotations

import datetime as dt
import difflib
import json
import textwrap
from typing import TYPE_CHECKING, NoReturn

import typer

from aioapiqueue.spi import printable
from aioapiqueue_run.cli.console import FAILED, console, not_installed, pluralize, refuse
from aioapiqueue_run.cli.limits.price_table import as_json, show_details, show_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioapiqueue.integrations.llm.spi import ListedModel, PriceList

__all__ = ["show_prices"]

_ALL = "all"
"""The value of `--provider` for all providers."""
_MOST_OTHERS = 20
"""Number of models that are only named."""


def show_prices(model: str, providers: Sequence[str], *, json_: bool) -> None:
    """Print the prices of models, or end the command if there are none.

    Args:
        model: the name of a model, or a part of it. Empty: all models.
        providers: the values of `--provider`. Empty: the providers with profiles.
        json_: whether to print JSON.
    """
    try:
        # Late: the package takes half a second to import, and other commands do not need it.
        from aioapiqueue.integrations.llm.spi import PROFILES, PriceList  # noqa: PLC0415

        prices = PriceList(dt.datetime.now(tz=dt.UTC))
    except ImportError as error:
        needed = str(error.name).partition(".")[0].replace("_", "-")
        refuse(f"--prices needs {not_installed(needed, 'prices', 'genai-prices')}", FAILED)
    chosen = _chosen(providers, prices) or PROFILES
    if model:
        found = _find(model, prices, chosen)
        if not found and not providers:
            found = _find(model, prices, prices.providers)
        if not found:
            _refuse_unknown(model, prices, providers)
    else:
        found = [*prices.containing("", chosen)]
    if json_:
        typer.echo(json.dumps(as_json(prices, found), indent=2))
        return
    if model:
        show_details(console(), prices, found)
        _name_others(model, prices, chosen, found)
    else:
        show_table(console(), found, prices.now.date())
        typer.echo("For all prices of a model: aioapiqueue limits --prices MODEL")
    if left := len(prices.providers) - len(chosen):
        typer.echo(
            f"For {pluralize(left, 'other provider')}: --provider NAME, or --provider {_ALL}"
        )
    typer.echo(f"Prices: {prices.source}")


def _chosen(names: Sequence[str], prices: PriceList) -> Sequence[str]:
    """Return the providers that the options name; refuse unknown ones."""
    if _ALL in names:
        return prices.providers
    for one in names:
        if one not in prices.providers:
            close = difflib.get_close_matches(one, prices.providers, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            refuse(f"--provider {printable(one)}: {hint}Use {_ALL}, or one of "
                   f"{', '.join(prices.providers)}")  # fmt: skip
    return [*dict.fromkeys(names)]


def _find(model: str, prices: PriceList, providers: Sequence[str]) -> list[ListedModel]:
    """Return the models with this name, or if there are none, those with it in their names."""
    return [*prices.called(model, providers)] or [*prices.containing(model, providers)]


def _refuse_unknown(model: str, prices: PriceList, providers: Sequence[str]) -> NoReturn:
    name = json.dumps(printable(model))
    if others := dict.fromkeys(one.provider for one in _find(model, prices, prices.providers)):
        chosen = " or ".join(providers)
        refuse(
            f"--prices: {chosen} has no model {name}. Providers that have it: {', '.join(others)}",
            FAILED,
        )
    close = prices.close_to(model)
    known = close[0] if close else "known-model"
    similar = f". Similar names: {', '.join(map(printable, close))}" if close else ""
    refuse(
        f"--prices: {prices.source} has no model {name}{similar}\n"
        "You can set its price in profile.with_(...), in one of three ways:\n"
        f"  prices={{{name}: {json.dumps(known)}}}  # the prices of a known model\n"
        f'  prices={{{name}: {{"input": 2.5, "output": 10}}}}  # USD per million tokens\n'
        "  prices=function  # called with (request, usage), returns USD",
        FAILED,
    )


def _name_others(
    model: str, prices: PriceList, providers: Sequence[str], shown: Sequence[ListedModel]
) -> None:
    """Print the names of the models that have the name of those that were shown in theirs."""
    known = {one.model for one in shown}
    others = dict.fromkeys(one.model for one in prices.containing(model, providers))
    names = [printable(one) for one in others if one not in known]
    if names:
        more = f" and {len(names) - _MOST_OTHERS:,} more" if len(names) > _MOST_OTHERS else ""
        text = f"Similar names: {', '.join(names[:_MOST_OTHERS])}{more}"
        typer.echo(textwrap.fill(text, console().width, break_on_hyphens=False))
