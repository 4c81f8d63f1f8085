"""Several limits together: the short way of most newcomers charges what the long one does."""

from __future__ import annotations

import asyncio
import copy
import random

import pytest

from aioapiqueue import ApiQueue, Rate, Window
from aioapiqueue._algorithms import SlidingWindow, TokenBucket
from aioapiqueue._together import charge_full_pair, try_consume
from aioapiqueue._units import UNSTATED


def figures(bucket):
    """Return all that the arithmetic of a bucket goes by."""
    return (bucket.anchor, bucket.used, bucket.tat, bucket.last, bucket.full_at)


@pytest.mark.parametrize("seed", range(200))
def test_the_short_way_charges_the_same(seed):
    """What it charges, every bucket has been charged exactly so; else, none has been charged."""
    rng = random.Random(seed)
    catch_up = rng.choice([0, 0.01, 1])
    rates = [Rate(rng.choice([1, 10, 1000]), burst=rng.choice([1, 2, 50])) for _ in range(2)]
    buckets = [TokenBucket(rate, catch_up=catch_up, unit=i) for i, rate in enumerate(rates)]
    now, short = 100.0, 0
    for _ in range(100):
        now += rng.choice([0, 0.001, 0.005, 0.1, 3])
        costs = tuple(rng.choice([0, 1, 1, 2, 60, UNSTATED]) if unit else 1 for unit in range(2))
        if rng.random() < 0.05:
            rng.choice(buckets).held = now + rng.choice([-0.005, 0, 0.005])
        stated = UNSTATED not in costs
        others = copy.deepcopy(buckets)
        if charge_full_pair(buckets)(now, costs):
            assert stated
            assert try_consume(others, now, costs) <= now
            short += 1
            assert [*map(figures, buckets)] == [*map(figures, others)]
        else:
            assert [*map(figures, buckets)] == [*map(figures, others)]
            if stated and 0 not in costs:
                try_consume(buckets, now, costs)
    assert short


def test_only_two_rates_take_the_short_way():
    """Other kinds, and other numbers, are asked one by one."""
    bucket = TokenBucket(Rate(1), catch_up=0)
    window = SlidingWindow(Window(1, 1))
    assert charge_full_pair([bucket, bucket]) is not None
    for others in ([bucket, window], [window, window], [bucket], [bucket] * 3, []):
        assert charge_full_pair(others) is None


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
    buckets = [TokenBucket(Rate(1), catch_up=1, unit=unit) for unit in range(2)]
    for bucket in buckets:
        bucket.consume(100, (1, 1))
    assert not charge_full_pair(buckets)(101, (1,))
    assert charge_full_pair(buckets)(101, (1, 1))
