"""A call reserves at least what it costs, and is settled to what it has cost.

The judge is genai-prices: its own choice of prices, and its own arithmetic.
"""

from __future__ import annotations

import random
from statistics import median

import pytest

from tests.helpers.billed_calls import call_of, usd_up
from tests.helpers.billed_models import MODELS

pytestmark = pytest.mark.usefixtures("price_package")


def reserved_and_settled(call):
    """Return what a call reserves, and to what it is settled."""
    request, costs = call.profile.priced(call.request, {}, call.begin)
    settled = call.profile.settled(request, call.read(request), now=call.end)
    return costs["usd"], settled["usd"]


def check(provider, seed, calls):
    """Make calls, each of them reserved and settled."""
    source = random.Random(seed)
    for number in range(calls):
        call = call_of(source, provider)
        reserved, settled = reserved_and_settled(call)
        bill = max(call.bills())
        found = (number, call.model, call.request.body, call.usage, call.context)
        assert reserved >= bill, found
        assert settled == usd_up(bill), found


@pytest.mark.parametrize("provider", MODELS)
def test_calls_reserve_what_they_cost(provider):
    """At least; and each is settled to what the package says that its usage costs."""
    check(provider, 1, 150)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("provider", MODELS)
def test_thousands_reserve_what_they_cost(provider, seed):
    """The same for 10,000 calls of each provider."""
    check(provider, 100 + seed, 1000)


def overestimates(provider, calls):
    """Return how many times its cost each of some plain chats reserves."""
    source = random.Random(7)
    plain = (call_of(source, provider, is_plain=True) for _ in range(calls))
    return [reserved / settled for reserved, settled in map(reserved_and_settled, plain)]


@pytest.mark.parametrize("provider", MODELS)
def test_plain_chats_reserve_little_more(provider):
    """At most 3 times the cost at the median: English, with a maximum of 500 tokens."""
    assert median(overestimates(provider, 1000)) <= 3
