"""Prices of our own, in the form of genai-prices, for tests of what depends on single prices."""

from __future__ import annotations

import contextlib
import datetime as dt
from decimal import Decimal

from tests.helpers.lazily import lazily

data_snapshot, types = lazily("genai_prices.data_snapshot"), lazily("genai_prices.types")

__all__ = ["LATER", "SINCE", "model", "own_prices", "price"]

SINCE, LATER = dt.date(2020, 1, 31), dt.date(2999, 1, 31)


def price(**amounts):
    """Return prices as the package has them: texts, what `steps` returns, or None."""
    numbers = {
        name: Decimal(amount) if isinstance(amount, str) else amount
        for name, amount in amounts.items()
    }
    return types.ModelPrice(**numbers)


def steps(base, **above):
    """Return the prices of short prompts, and (`above_200000=`) of longer ones."""
    tiers = [
        types.Tier(int(start.removeprefix("above_")), Decimal(amount))
        for start, amount in above.items()
    ]
    return types.TieredPrices(Decimal(base), tiers)


def model(ident, prices, *variants, **details):
    """Return a model with this id, which is also its only name in requests."""
    return types.ModelInfo(
        ident, types.ClauseEquals(ident), prices=prices, price_variants=[*variants], **details
    )


def variant(when, limited=None, **amounts):
    """Return the prices of requests with a setting."""
    return types.PriceVariant(when, price(**amounts), limited)


def providers():
    """Return providers: one with a profile, one whose profile has another name, one without."""
    # From 00:30 to 16:30 UTC; the first is given in another time zone.
    east = dt.timezone(dt.timedelta(hours=2))
    hours = types.TimeOfDateConstraint(dt.time(2, 30, tzinfo=east), dt.time(16, 30))
    from_then = types.StartDateConstraint(LATER)
    swift = model(
        "swift-1",
        price(
            input_mtok=steps("1.5", above_200000="3", above_400000="4.5"),
            output_mtok=steps("6", above_200000="9"),
            cache_read_mtok="0.15",
            cache_write_1h_mtok="3",
            web_searches_kcount="10",
        ),
        variant({"service_tier": "default"}),
        variant(
            {"service_tier": "flex"}, input_mtok=steps("0.75", above_200000="2"), output_mtok="3"
        ),
        variant({"service_tier": "late"}, from_then, input_mtok=steps("0.5", above_9000="0.6")),
        name="Swift 1",
        context_window=1_000_000,
        price_comments="Cache reads are cheap.",
    )
    swift.match = types.ClauseStartsWith("swift-1")
    dated = [
        types.ConditionalPrice(prices=price(input_mtok="1", output_mtok="2")),
        types.ConditionalPrice(
            types.StartDateConstraint(SINCE), prices=price(input_mtok="3", output_mtok="4")
        ),
        types.ConditionalPrice(from_then, prices=price(input_mtok="5", output_mtok="6.5")),
    ]
    nightly = [dated[0], types.ConditionalPrice(hours, prices=price(input_mtok="0.25"))]
    soon = [dated[0], dated[-1]]
    hourly = [
        types.ConditionalPrice(prices=price(input_mtok="9", output_mtok="9")),
        types.ConditionalPrice(
            types.StartDateConstraint(SINCE), prices=price(input_mtok="0.5", output_mtok="2")
        ),
        types.ConditionalPrice(hours, prices=price(input_mtok="1", output_mtok="4")),
    ]
    raw = model("raw-[bold]\x1b[31m", price(input_mtok="1"), price_comments="x" * 999)
    return [
        types.Provider("openai", "OpenAI", "openai", models=[
            swift,
            model("swift-0", price(input_mtok="9"), deprecated=True),
            model("slow", price(input_mtok="0.0005", cache_write_mtok="1000")),
            model("listener", price(audio_hours="0.36")),
        ]),
        types.Provider("google", "Google", "google", models=[model("dated", dated), raw]),
        *(types.Provider(name, name, name) for name in ("anthropic", "aws", "groq")),
        types.Provider("elsewhere", "Elsewhere", "else", models=[
            model("hourly", hourly), model("soon", soon), model("nightly", nightly),
        ]),
    ]  # fmt: skip


@contextlib.contextmanager
def own_prices(*models):
    """Use these prices instead of those of the package, and some more of OpenAI."""
    known = providers()
    known[0].models.extend(models)
    before = data_snapshot.get_snapshot()
    snapshot = data_snapshot.DataSnapshot(providers=known, from_auto_update=False)
    data_snapshot.set_custom_snapshot(snapshot)
    try:
        yield
    finally:
        data_snapshot.set_custom_snapshot(before)
