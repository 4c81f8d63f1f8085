"""The output of `aioapiqueue limits --prices`: a table, the details of models, or JSON."""

from __future__ import annotations

import textwrap
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import typer
from rich.table import Table
from rich.text import Text

from aioapiqueue.spi import printable
from aioapiqueue_run.cli.console import pluralize

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from rich.console import Console

    from aioapiqueue.integrations.llm.spi import ListedModel, PriceChange, PriceList

__all__ = ["as_json", "show_details", "show_table"]

_COLUMNS = {"input": "input", "output": "output", "cache_read": "cache read",
            "cache_write": "cache write"}  # fmt: skip
"""The kinds of tokens in the table, each with its heading."""
_ORDER = ("input", "cache_read", "cache_write", "cache_write_1h", "output")
_BYTES, _TOKENS = 1000, 500
"""The call that is priced as an example: the bytes of its prompt, and its longest response."""
_LONGEST_COMMENT = 240
"""Characters of a comment that is shown; longer ones tell how the prices were found."""
_PER = {
    "_kcount": "1,000 {}",
    "_kpages": "1,000 {} pages",
    "_hours": "hour of {}",
    "_mchars": "million characters of {}",
    "_gpixels": "billion pixels of {}",
}
"""Ends of the names of prices that are not for tokens; each with what has this price."""


def show_table(console: Console, models: Sequence[ListedModel], today: dt.date) -> None:
    """Print a row for each model that has prices for tokens, by provider."""
    current = [one for one in models if not one.deprecated]
    rows = {id(one): [_brief(one, kind, today) for kind in _COLUMNS] for one in current}
    priced = [one for one in current if set(rows[id(one)]) != {"-"}]
    heads = ["Model", *(head.replace(" ", "\n") for head in _COLUMNS.values())]
    with console.capture() as shown:
        for provider in dict.fromkeys(one.provider for one in priced):
            console.print(Text(f"{printable(provider)}, USD per million tokens", style="bold"))
            of_provider = [one for one in priced if one.provider == provider]
            cells = [[printable(one.model), *rows[id(one)]] for one in of_provider]
            _print_columns(console, [heads, *cells])
            console.print()
    _echo(shown.get())
    if any("+" in cell for row in rows.values() for cell in row):
        typer.echo("+ higher for long prompts, or at another time of the day")
    without, deprecated = len(current) - len(priced), len(models) - len(current)
    left_out = [f"{pluralize(without, 'model')} without prices for tokens"] if without else []
    left_out += [f"{pluralize(deprecated, 'deprecated model')}"] if deprecated else []
    if left_out:
        typer.echo(f"Not shown: {', '.join(left_out)}")


def _print_columns(console: Console, rows: Sequence[Sequence[str]]) -> None:
    """Print a row of headings, then rows with a name on the left and numbers on the right."""
    grid = Table.grid()
    grid.add_column(overflow="fold")
    for column in zip(*(row[1:] for row in rows), strict=True):
        # With the space before it, because versions of Rich differ in their padding.
        width = 1 + max(len(line) for cell in column for line in cell.split("\n"))
        grid.add_column(width=width, justify="right", overflow="fold")
    for number, row in enumerate(rows):
        grid.add_row(*map(Text, row), style="" if number else "bold")
    console.print(grid)


def _echo(text: str) -> None:
    for line in text.splitlines():  # rich pads each line with spaces
        typer.echo(line.rstrip())


def _brief(model: ListedModel, kind: str, today: dt.date) -> str:
    """Return the standard price now, with a mark if there is a higher one today."""
    steps = model.rates.get(kind)
    if not steps:
        return "-"
    daily, rest = _of_today(model, today)
    changes = [one for one in (*daily, *rest) if not one.when]
    known = [*steps, *(step for one in changes for step in one.rates.get(kind, ()))]
    return _usd(steps[0][1]) + "+" * (max(price for _, price in known) > steps[0][1])


def _of_today(
    model: ListedModel, today: dt.date
) -> tuple[Sequence[PriceChange], Sequence[PriceChange]]:
    """Return the prices for some times of the day, and the standard price for all others."""
    known = [one for one in model.changes if not _is_later(one, today)]
    daily = [one for one in known if one.daily]
    return daily, [one for one in known if not one.daily and not one.when][-1:]


def _usd(price: Decimal) -> str:
    return f"{price.normalize():,f}"


def show_details(console: Console, prices: PriceList, models: Iterable[ListedModel]) -> None:
    """Print all that is known of the prices of some models."""
    for one in models:
        with console.capture() as shown:
            console.print(Text(printable(f"{one.model} ({one.provider})"), style="bold"))
            about = [printable(one.name)] if one.name and one.name != one.model else []
            if one.window is not None:
                about.append(f"context window of {one.window:,} tokens")
            about += ["deprecated"] * one.deprecated
            if about:
                _print(console, ", ".join(about))
            _show_tokens(console, one)
        _echo(shown.get())
        for text in (*_other_prices(one), *_in_time(one, prices.now.date()), *_last(prices, one)):
            _wrap(text, console.width)
        typer.echo()


def _print(console: Console, text: str) -> None:
    console.print(Text(f"  {text}"))


def _wrap(text: str, width: int) -> None:
    typer.echo(
        textwrap.fill(text, width, initial_indent="  ", subsequent_indent="    ",
                      break_long_words=False, break_on_hyphens=False)
    )  # fmt: skip


def _show_tokens(console: Console, model: ListedModel) -> None:
    """Print the prices of tokens: a row for each kind and prompt length, a column for each tier."""
    heads = ["standard", *(printable(_tier(one.when)) for one in model.tiers)]
    tables = [model.rates, *(tier.rates for tier in model.tiers)]
    kinds = {one for steps in tables for one in steps if not _unit(one)}
    if not kinds:
        return
    rows = [["  USD per million tokens", *heads]]
    has_steps = False
    for kind in sorted(kinds, key=_place):
        columns = [steps.get(kind, ()) for steps in tables]
        for start in sorted({start for steps in columns for start, _ in steps}):
            has_steps |= start > 0
            label = f"    above {start:,}" if start else f"  {printable(kind).replace('_', ' ')}"
            rows.append([label, *(_price_above(one, start) for one in columns)])
    _print_columns(console, rows)
    if has_steps:
        _print(console, '"above": all tokens of a call whose prompt has more tokens than this')


def _place(kind: str) -> tuple[int, str]:
    """Return the place of a kind of tokens among others: those of most calls come first."""
    return (_ORDER.index(kind) if kind in _ORDER else len(_ORDER), kind)


def _price_above(steps: Sequence[tuple[int, Decimal]], start: int) -> str:
    return next((_usd(price) for begin, price in reversed(steps) if begin <= start), "-")


def _tier(when: Mapping[str, str]) -> str:
    return " ".join(when.values())


def _unit(kind: str) -> str:
    """Return what a price is for, if it is not for tokens."""
    for end, text in _PER.items():
        if kind.endswith(end):
            return text.format(kind.removesuffix(end).replace("_", " "))
    return ""


def _other_prices(model: ListedModel) -> Iterator[str]:
    """Yield the prices of what is not a token."""
    for kind, steps in model.rates.items():
        if unit := _unit(kind):
            yield printable(f"{_usd(steps[0][1])} USD per {unit}")


def _in_time(model: ListedModel, today: dt.date) -> Iterator[str]:
    """Yield how prices depend on the date and the time of the day."""
    daily, rest = _of_today(model, today)
    for one in daily:
        yield printable(f"each day{_hours(one)}{_with(one)}: {_in_words(one)}")
    for one in rest:
        if any(not other.when for other in daily):
            yield printable(f"at other times: {_in_words(one)}")
        elif one.date is not None:
            yield f"in force since {one.date}"
    for one in model.changes:
        if _is_later(one, today):
            yield printable(f"from {one.date} on{_hours(one)}{_with(one)}: {_in_words(one)}")


def _with(change: PriceChange) -> str:
    settings = [f"{name}={value}" for name, value in change.when.items()]
    return f" with {', '.join(settings)}" if settings else ""


def _is_later(change: PriceChange, today: dt.date) -> bool:
    return change.date is not None and change.date > today


def _hours(change: PriceChange) -> str:
    if change.daily is None:
        return ""
    return f" from {change.daily[0]:%H:%M} to {change.daily[1]:%H:%M} UTC"


def _in_words(change: PriceChange) -> str:
    """Return prices in one line."""
    texts = []
    for kind, steps in sorted(change.rates.items(), key=lambda one: _place(one[0])):
        unit = _unit(kind)
        name = f"per {unit}" if unit else kind.replace("_", " ")
        above = "".join(f" (above {start:,}: {_usd(price)})" for start, price in steps[1:])
        texts.append(f"{name} {_usd(steps[0][1])}{above}")
    return ", ".join(texts)


def _last(prices: PriceList, model: ListedModel) -> Iterator[str]:
    if 0 < len(model.comment) <= _LONGEST_COMMENT:
        yield printable(model.comment)
    cost = prices.reserved(model, prompt=_BYTES, output=_TOKENS)
    if cost is None:
        yield "not priced by tokens alone: a budget in USD refuses its calls without prices="
    else:
        usd = _usd(Decimal(f"{cost:.3g}"))
        call = f"{_BYTES:,} bytes of prompt and {_TOKENS} output tokens"
        yield f"a call reserves {usd} USD for {call}"


def as_json(prices: PriceList, models: Iterable[ListedModel]) -> dict[str, Any]:
    """Return all that is known of the prices of some models."""
    return {
        "prices": prices.source,
        "models": [
            {
                "provider": one.provider,
                "model": one.model,
                "name": one.name,
                "context_window": one.window,
                "deprecated": one.deprecated,
                "comment": one.comment or None,
                **_rates_json(one.rates),
                "tiers": [
                    {"when": dict(tier.when), **_rates_json(tier.rates)} for tier in one.tiers
                ],
                "changes": [
                    {
                        "when": dict(change.when),
                        "date": change.date and change.date.isoformat(),
                        "daily": change.daily and [f"{time:%H:%M}" for time in change.daily],
                        **_rates_json(change.rates),
                    }
                    for change in one.changes
                ],
            }
            for one in models
        ],
    }


def _rates_json(steps: Mapping[str, Sequence[tuple[int, Decimal]]]) -> dict[str, Any]:
    rates: dict[int, dict[str, float]] = {0: {}}
    for kind, each in steps.items():
        for start, price in each:
            rates.setdefault(start, {})[kind] = float(price)
    above = {str(start): rates[start] for start in sorted(rates) if start}
    return {"rates": rates[0]} | ({"above": above} if above else {})
