"""The list of prices for people: what is valid at an instant, and what changes later."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import pytest

from aioapiqueue.integrations.llm.spi import PROFILES, PriceList
from tests.helpers.price_snapshot import LATER, SINCE, model, own_prices, price


@pytest.fixture(autouse=True)
def _own_prices():
    with own_prices():
        yield


def at(date, *time):
    """Return the prices at an instant."""
    return PriceList(dt.datetime.combine(date, dt.time(*time, tzinfo=dt.UTC)))


def listed(prices, name):
    """Return the one model of this name."""
    (found,) = prices.called(name, prices.providers)
    return found


DAY = dt.timedelta(days=1)


@pytest.mark.parametrize(
    ("date", "rate"),
    [(SINCE - DAY, "1"), (SINCE, "3"), (LATER - DAY, "3"), (LATER, "5")],
)
def test_rates_are_those_of_the_day(date, rate):
    """A price is valid from its date on; all others are listed as changes."""
    found = listed(at(date), "dated")
    assert found.provider == "gemini"
    assert found.rates["input"] == ((0, Decimal(rate)),)
    assert [one.date for one in found.changes] == [None, SINCE, LATER]
    assert [one.rates["input"][0][1] for one in found.changes] == [1, 3, 5]


@pytest.mark.parametrize(("time", "rate"), [((0, 29), "0.5"), ((0, 30), "1"), ((16, 30), "0.5")])
def test_hours_of_day_are_in_utc(time, rate):
    """One of them is given in another time zone; the other one without any."""
    found = listed(at(SINCE, *time), "hourly")
    assert found.rates["input"] == ((0, Decimal(rate)),)
    assert [one.daily for one in found.changes[1:]] == [None, (dt.time(0, 30), dt.time(16, 30))]


def test_tiers_have_their_own_rates():
    """Those that change nothing now are left out, and those of later are changes."""
    early, late = listed(at(SINCE), "swift-1"), listed(at(LATER), "swift-1")
    assert [one.when for one in early.tiers] == [{"service_tier": "flex"}]
    (flex,) = early.tiers
    assert flex.rates["input"] == ((0, Decimal("0.75")), (200_000, Decimal(2)))
    assert flex.rates["cache_read"] == early.rates["cache_read"]
    assert [(one.when, one.date) for one in early.changes] == [({"service_tier": "late"}, LATER)]
    assert [one.when["service_tier"] for one in late.tiers] == ["flex", "late"]
    assert late.changes == ()


def test_most_of_a_day_is_reserved():
    """A call may start at the dearest hour, and a prompt of some length may cost more."""
    prices = at(SINCE, 17)
    swift, hourly, listener = (listed(prices, one) for one in ("swift-1", "hourly", "listener"))
    assert prices.reserved(hourly, prompt=900, output=250) == Decimal("0.002")
    assert prices.reserved(swift, prompt=900, output=0) == Decimal("0.0015")
    assert prices.reserved(swift, prompt=299_900, output=0) == Decimal("0.9")
    assert prices.reserved(listener, prompt=1, output=1) is None


@pytest.mark.parametrize(
    ("amounts", "known"),
    [
        ({"input_mtok": "1"}, True),
        ({"input_mtok": "1", "audio_hours": None}, True),
        ({"input_mtok": "1", "web_searches_kcount": "5"}, True),
        ({"input_mtok": "1", "requests_kcount": "5"}, False),
        ({"output_mtok": "1"}, False),
    ],
)
def test_call_needs_prices_of_tokens(amounts, known):
    """A price of a request or an hour has no highest amount; tools of the provider are refused."""
    with own_prices(model("another", price(**amounts))):
        prices = at(SINCE)
        found = listed(prices, "another")
        assert (prices.reserved(found, prompt=1, output=1) is not None) is known


def test_names_and_parts_find_models():
    """A whole name as requests have it, or a part of an id or a name in any case."""
    prices = at(SINCE)
    assert [one.model for one in prices.called("SWIFT-1-2026", PROFILES)] == ["swift-1"]
    assert [*prices.called("swift", PROFILES)] == []
    assert [one.model for one in prices.containing("Swift", PROFILES)] == ["swift-0", "swift-1"]
    assert [one.model for one in prices.containing("wift 1", PROFILES)] == ["swift-1"]
    assert [*prices.containing("hourly", PROFILES)] == []
    assert prices.close_to("Swift-12") == ["swift-1", "swift-0"]
    assert prices.close_to("hourli") == ["hourly"]
    assert prices.providers == sorted([*PROFILES, "elsewhere"])
