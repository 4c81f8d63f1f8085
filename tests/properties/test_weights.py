"""Promise 11 with weights: a key that waits gets its share of what others are charged."""

from __future__ import annotations

import asyncio
import math
from typing import NamedTuple

from hypothesis import strategies as st

from aioapiqueue import Rate
from tests.helpers.limiters import holds_for

WEIGHTS = st.sampled_from([0.5, 1, 1, 2, 3, 10])
COSTS = st.sampled_from([1, 1, 1, 2, 5])
KEYS = st.lists(st.tuples(WEIGHTS, COSTS, st.integers(1, 8)), min_size=2, max_size=5)
LATER = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 30)), max_size=8)


class Start(NamedTuple):
    """A call that started."""

    key: int
    cost: float
    waits: dict[int, int]
    """By key, the number of calls that wait after it."""


async def starts_of(queue, keys, later):
    """Return the starts of calls: of each key (weight, cost, number), and single ones later."""
    starts, waiting, loop = [], dict.fromkeys(range(len(keys)), 0), asyncio.get_running_loop()
    (await queue.enqueue(key="first")).release()

    async def call(key):
        cost = keys[key][1]
        waiting[key] += 1
        async with queue.slot(key=f"{key}", cost=cost):
            waiting[key] -= 1
            starts.append(Start(key, cost, dict(waiting)))

    tasks = [loop.create_task(call(key)) for key, one in enumerate(keys) for _ in range(one[2])]
    for key, ticks in later:
        await asyncio.sleep(ticks / 100)
        if key < len(keys):
            tasks.append(loop.create_task(call(key)))
    await asyncio.gather(*tasks)
    return starts


def shortfalls(starts, weights, largest):
    """Yield the keys, with a window of starts, that had less than their share while they waited."""
    for begin in range(len(starts)):
        charged = dict.fromkeys(weights, 0)
        waiting = {key for key, number in starts[begin].waits.items() if number}
        keys = set(waiting)
        for end in range(begin + 1, len(starts)):
            one = starts[end]
            charged[one.key] += one.cost
            keys |= {one.key, *(key for key, number in one.waits.items() if number)}
            for key in waiting:
                share = sum(charged.values()) * weights[key] / sum(weights[each] for each in keys)
                if charged[key] < (math.floor(share / largest) - 1) * largest - 1e-9:
                    yield key, begin, end, share, charged
            waiting = {key for key in waiting if one.waits[key]}


@holds_for(KEYS, LATER)
def test_promise_11_weights_are_shares(limiter, run_virtual, keys, later):
    """Of n charges while a key waits, it has its share, but for one of the largest cost."""
    weights = {key: one[0] for key, one in enumerate(keys)}

    async def scenario():
        options = {"weights": {f"{key}": weight for key, weight in weights.items()}}
        return await starts_of(limiter.queue(Rate(100), order="fair", **options), keys, later)

    starts = run_virtual(scenario)
    assert len(starts) == sum(one[2] for one in keys) + sum(key < len(keys) for key, _ in later)
    assert not list(shortfalls(starts, weights, max(one[1] for one in keys)))
