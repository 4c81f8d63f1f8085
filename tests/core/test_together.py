"""Several limits together: the short way of most newcomers charges what the long one does."""

from __future__ import annotations

import asyncio
import copy
import random

import pytest

from aioapiqueue import ApiQueue, Rate, Window
from aioapiqueue.spi import algorithms, cost_units, windows


def figures(bucket):
    """Return all that the arithmetic of a bucket goes by."""
    return (bucket.anchor, bucket.used, bucket.tat, bucket.last, bucket.full_at)


@pytest.mark.parametrize("seed", range(200))
def test_the_short_way_charges_the_same(seed):
    """What it charges, every bucket has been charged exactly so; else, none has been charged."""
    rng = random.Random(seed)
    catch_up = rng.choice([0, 0.01, 1])
    rates = [Rate(rng.choice([1, 10, 1000]), burst=rng.choice([1, 2, 50])) for _ in range(2)]
    buckets = [
        algorithms.TokenBucket(rate, catch_up=catch_up, unit=i) for i, rate in enumerate(rates)
    ]
    now, short = 100.0, 0
    for _ in range(100):
        now += rng.choice([0, 0.001, 0.005, 0.1, 3])
        costs = tuple(
            rng.choice([0, 1, 1, 2, 60, cost_units.UNSTATED]) if unit else 1 for unit in range(2)
        )
        if rng.random() < 0.05:
            rng.choice(buckets).held = now + rng.choice([-0.005, 0, 0.005])
        stated = cost_units.UNSTATED not in costs
        others, totals, expected = (
            copy.deepcopy(buckets),
            cost_units.CostTotals(),
            cost_units.CostTotals(),
        )
        expected.sums_of(2)
        if algorithms.consume_two_full_buckets(buckets, totals)(now, costs):
            assert stated
            assert 0 not in costs  # such a call does not come under that limit
            assert algorithms.try_consume(others, now, costs) <= now
            short += 1
            assert [*map(figures, buckets)] == [*map(figures, others)]
            expected.add(costs)
        else:
            assert [*map(figures, buckets)] == [*map(figures, others)]
            if stated and 0 not in costs:
                algorithms.try_consume(buckets, now, costs)
        assert totals.sums == expected.sums
    assert short


def test_only_two_rates_take_the_short_way():
    """Other kinds, and other numbers, are asked one by one."""
    bucket = algorithms.TokenBucket(Rate(1), catch_up=0)
    window = windows.SlidingWindow(Window(1, 1))
    assert (
        algorithms.consume_two_full_buckets([bucket, bucket], cost_units.CostTotals()) is not None
    )
    for others in ([bucket, window], [window, window], [bucket], [bucket] * 3, []):
        assert algorithms.consume_two_full_buckets(others, cost_units.CostTotals()) is None


@pytest.mark.parametrize(
    ("units", "costs", "sums"),
    [
        ((0, 0), (2,), [1]),
        ((0, 1), (3, 5), [2, 5]),
        ((1, 0), (1, 5), [0, 5]),
        ((1, 1), (0, 5), [-1, 5]),
        ((2, 1), (1, 5, 7), [0, 5, 7]),
    ],
)
def test_the_short_way_adds_up_each_unit_once(units, costs, sums):
    """What calls cost counts once in each unit, be it counted by no limit, one or both."""
    totals = cost_units.CostTotals()
    charge = algorithms.consume_two_full_buckets(
        [algorithms.TokenBucket(Rate(1, 1, 9), catch_up=1, unit=i) for i in units], totals
    )
    assert charge(100, costs)
    assert totals.sums == sums
    for others in ((), costs[:-1], (*costs, 1)):  # of fewer units, or of more
        assert not charge(200, others)
    assert totals.sums == sums


def test_the_short_way_is_for_all_units():
    """With a unit between those of its limits, what calls cost there would not be added up."""
    buckets = [algorithms.TokenBucket(Rate(1), catch_up=1, unit=unit) for unit in (0, 2)]
    assert algorithms.consume_two_full_buckets(buckets, cost_units.CostTotals()) is None


@pytest.mark.parametrize("rates", [(Rate(1), Rate(4)), (Rate(4), Rate(1))])
def test_the_short_way_opens_when_full(rates):
    """It charges a call from the very instant at which both buckets are full again."""
    buckets = [
        algorithms.TokenBucket(rate, catch_up=0, unit=unit) for unit, rate in enumerate(rates)
    ]
    charge = algorithms.consume_two_full_buckets(buckets, cost_units.CostTotals())
    instants = (100.0, 100.75, 101.0, 101.25, 102.0)
    assert [at for at in instants if charge(at, (1, 1))] == [100, 101, 102]


async def test_the_short_way_keeps_to_rates_that_are_set_later():
    """It is made again, as it is for the rates that were in force when it was."""
    loop = asyncio.get_running_loop()
    queue = ApiQueue("10/s", "1000 tokens/s", catch_up=1)
    async with queue.slot(cost={"tokens": 1}):
        pass
    queue.set_rate("1/s", "1000 tokens/s")
    await asyncio.sleep(5)
    for due in (5.0, 6.0, 7.0):
        async with queue.slot(cost={"tokens": 1}):
            assert loop.time() == due


def test_costs_of_before_a_unit_was_known():
    """A call that was made before `set_rate` named a unit is asked in full, which refuses it."""
    buckets = [algorithms.TokenBucket(Rate(1), catch_up=1, unit=unit) for unit in range(2)]
    for bucket in buckets:
        bucket.consume(100, (1, 1))
    charge = algorithms.consume_two_full_buckets(buckets, cost_units.CostTotals())
    assert not charge(101, (1,))
    assert charge(101, (1, 1))
