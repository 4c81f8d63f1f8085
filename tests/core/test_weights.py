"""Weights of keys: their shares, in which unit, and what changes them."""

from __future__ import annotations

import asyncio
import gc
import random
from collections import Counter

import pytest

from aioapiqueue import ApiQueue, QueueFull
from tests.helpers import introspect
from tests.helpers.instants import now
from tests.helpers.shares import starts_in


async def order_of(queue, *calls):
    """Return the keys and instants of calls that join at once, as they start."""
    found = []

    async def call(options):
        async with queue.slot(**options):
            found.append((options["key"], now()))

    await asyncio.gather(*map(call, calls))
    return found


@pytest.mark.contract
async def test_shares_follow_weights(limiter):
    """Weights of 3 to 1 are shares of 3 to 1, over 30 seconds."""
    queue = limiter.queue("4/s", order="fair", weights={"a": 3})
    counts = await starts_in(30, queue, ("a", 4, {}), ("b", 4, {}))
    assert sum(counts.values()) == pytest.approx(120, abs=2)
    assert counts["a"] / counts["b"] == pytest.approx(3, rel=0.03)


@pytest.mark.contract
async def test_keys_with_lanes_have_shares(limiter):
    """Of the queue's own limit, where each key has a lane, too."""
    queue = limiter.queue("4/s", order="fair", weights={"a": 3}, lanes={"*": "100/s"})
    counts = await starts_in(30, queue, ("a", 4, {}), ("b", 4, {}))
    assert counts["a"] / sum(counts.values()) == pytest.approx(0.75, abs=0.009)


@pytest.mark.contract
async def test_heavy_keys_do_not_wait_for_all(limiter):
    """A key with half of all weights has every second call, however many keys share the rest."""
    queue = limiter.queue("10/s", order="fair", weights={"heavy": 10})
    (await queue.enqueue()).release()
    light = [{"key": f"{number}"} for number in range(10)]
    order = await order_of(queue, *light, *[{"key": "heavy"}] * 10)
    keys = [key for key, _ in order]
    assert all(keys[number : number + 3].count("heavy") in (1, 2) for number in range(17))


async def test_starts_are_at_their_instants():
    """Nothing but the order changes: calls start when they would without weights."""
    queue = ApiQueue("10/s", order="fair", weights={"a": 2})
    calls = [{"key": key} for key in "bbbaaa"]
    order = await order_of(queue, *calls)
    assert "".join(key for key, _ in order) == "babaab"
    assert [at for _, at in order] == pytest.approx([number / 10 for number in range(6)])


@pytest.mark.contract
async def test_calls_under_two_lanes_start(limiter):
    """The turn of a key moves as its calls in other lines start; what it has reserved stays true.

    Else the line that had reserved "x" would no longer be first there, and hold back all others.
    """
    lanes = {"b": "5/s", "x": "5/s"}
    queue = limiter.queue("unlimited", lanes=lanes, order="fair", weights={"paid": 3})
    calls = [queue.enqueue(keys=keys) for keys in (("b", "x"), ("x",), ("b", "x"), ("b",))]
    await asyncio.wait(calls, timeout=1)
    assert [call.done() for call in calls] == [True] * 4
    for call in calls:
        call.result().release()


async def test_tenants_and_endpoints_do_not_hang():
    """Lanes of tenants and of endpoints under one limit, at length."""
    lanes = {"tenant:*": "10/s, 5 at once", "search": "2/s", "get": "20/s"}
    queue = ApiQueue("50/s", lanes=lanes, order="fair", weights={"tenant:acme": 3})
    rng, counts = random.Random(1), Counter()

    async def work(tenant):
        while True:
            endpoint = rng.choice(["search", "get", "get", "get"])
            async with queue.slot(keys=(tenant, endpoint)):
                counts[endpoint] += 1
                await asyncio.sleep(rng.random() * 0.3)

    tenants = ["tenant:acme", "tenant:b", "tenant:c"] * 4
    tasks = [asyncio.create_task(work(tenant)) for tenant in tenants]
    await asyncio.sleep(100)
    for task in tasks:
        task.cancel()
    assert counts["search"] == pytest.approx(200, abs=2)
    assert counts["get"] > 500


async def test_lanes_bring_no_turns():
    """A key that calls 200 lanes at once has no more of the queue's limit than one with a lane."""
    queue = ApiQueue("10/s", lanes={"*": "100/s"}, order="fair", weights={"c": 2})
    started = []

    async def call(*keys):
        async with queue.slot(keys=keys):
            started.append(keys[0])

    many = [call("a", f"lane {number}") for number in range(200)]
    tasks = [asyncio.create_task(one) for one in (*many, *(call("b") for _ in range(200)))]
    await asyncio.sleep(10)
    for task in tasks:
        task.cancel()
    assert started[:100].count("a") == pytest.approx(50, abs=2)


@pytest.mark.contract
async def test_unused_shares_cost_nothing(limiter):
    """What a key with a large share leaves, the others have, according to their weights."""
    queue = limiter.queue("4/s", order="fair", weights={"rare": 100, "a": 3})
    counts = Counter()

    async def rarely():
        while True:
            await asyncio.sleep(5)
            async with queue.slot(key="rare") as slot:
                counts[round(slot.waited, 1)] += 1

    task = asyncio.create_task(rarely())
    others = await starts_in(30, queue, ("a", 4, {}), ("b", 4, {}))
    task.cancel()
    assert max(counts) <= 0.5  # it waits for one call at most
    assert others["a"] + others["b"] + counts.total() == pytest.approx(120, abs=2)
    assert others["a"] / others["b"] == pytest.approx(3, rel=0.06)


async def test_weights_are_found_as_lanes_are():
    """By the exact name, then by the longest pattern, then by "*"; a pattern's is each key's."""
    weights = {"*": 2, "a*": 3, "ab*": 4, "abc": 6}
    queue = ApiQueue("15/s", order="fair", weights=weights)
    calls = [(key, 10, {}) for key in ("abc", "abd", "ax", 5)]
    assert await starts_in(29.99, queue, *calls) == {"abc": 180, "abd": 120, "ax": 90, 5: 60}


@pytest.mark.parametrize(
    ("limits", "options", "expected"),
    [
        (("90 tokens/s burst 90", "1000/s"), {}, 3),
        (("1000/s", "90 tokens/s burst 90"), {}, 1),
        (("1000/s", "90 tokens/s burst 90"), {"weights_unit": "tokens"}, 3),
        (("5 at once", "90 tokens/s burst 90"), {}, 3),
    ],
)
async def test_turns_cost_what_calls_cost(limits, options, expected):
    """In the unit of the queue's first limit, or in another: a key with small calls has more."""
    queue = ApiQueue(*limits, order="fair", weights={"c": 1}, **options)
    calls = ("a", 5, {"cost": {"tokens": 10}}), ("b", 5, {"cost": {"tokens": 30}})
    counts = await starts_in(60, queue, *calls)
    assert counts["a"] / counts["b"] == pytest.approx(expected, rel=0.03)


@pytest.mark.contract
async def test_settlements_correct_shares(limiter):
    """Keys share what calls have cost, not what they were expected to cost."""
    # Both use one token; "a" has expected 9.
    options = {"order": "fair", "weights": {"b": 3}, "weights_unit": "tokens"}
    queue = limiter.queue("4/s", "1000 tokens/s burst 1000", **options)
    calls = ("a", 8, {"cost": {"tokens": 9}}), ("b", 8, {"cost": {"tokens": 1}})
    counts = await starts_in(40, queue, *calls, settle={"tokens": 1}, runs=0.6)
    assert counts["b"] / counts["a"] == pytest.approx(3, rel=0.1)


@pytest.mark.parametrize("tokens", [0, None])
async def test_calls_that_cost_nothing_take_turns(tokens):
    """They count like an average call, so that they neither have all turns nor none."""
    options = {"order": "fair", "weights": {"free": 2}, "weights_unit": "tokens"}
    lanes = {"b": "1000000 tokens/s burst 1000000"}
    queue = ApiQueue("10/s", lanes=lanes, **options)
    free = {} if tokens is None else {"cost": {"tokens": tokens}}
    calls = ("free", 5, free), ("b", 5, {"cost": {"tokens": 500}})
    counts = await starts_in(60, queue, *calls)
    assert counts["free"] / counts["b"] == pytest.approx(2, rel=0.02)


async def test_weights_hold_within_a_priority():
    """Urgent calls of one key take no turn of it among the others."""
    queue = ApiQueue("10/s", order="fair", weights={"a": 3})
    calls = ("a", 8, {}), ("b", 8, {})

    async def urgently():
        while True:
            await asyncio.sleep(0.2)
            async with queue.slot(key="b", priority=-1):
                pass

    task = asyncio.create_task(urgently())
    counts = await starts_in(60, queue, *calls)
    task.cancel()
    assert sum(counts.values()) < 450
    assert counts["a"] / counts["b"] == pytest.approx(3, rel=0.02)


@pytest.mark.contract
async def test_slow_lanes_are_shared_by_weight(limiter):
    """A lane is shared so however fast other lanes of the queue are."""
    lanes = {"slow": "2/s", "fast": "10/s"}
    queue = limiter.queue("100/s", order="fair", weights={"a": 3}, lanes=lanes)
    calls = [(key, 4, {"keys": (key, lane)}) for key, lane in [("a", "slow"), ("b", "slow")]]
    counts = await starts_in(20, queue, *calls, ("c", 4, {"keys": ("c", "fast")}))
    assert counts["c"] == pytest.approx(200, abs=2)
    assert counts["a"] / counts["b"] == pytest.approx(3, rel=0.06)


async def test_lanes_give_no_further_shares():
    """A key has one share of the queue's limit in however many lanes it calls."""
    queue = ApiQueue("10/s", order="fair", weights={"a": 2}, lanes={"*": "100/s"})
    lots = [("a", 3, {"keys": ("a", f"lane {number}")}) for number in range(20)]
    counts = await starts_in(60, queue, *lots, ("b", 5, {}))
    assert counts["a"] / counts["b"] == pytest.approx(2, rel=0.03)


async def test_cancelled_calls_cost_no_turn():
    """Neither one that waits, nor one whose slot was granted and never used."""
    queue = ApiQueue("10/s", order="fair", weights={"a": 1})
    (await queue.enqueue()).release()
    gone = [queue.enqueue(key="a") for _ in range(5)]
    await asyncio.sleep(0)
    for future in gone[1:]:
        future.cancel()
    task = asyncio.create_task(order_of(queue, *[{"key": key} for key in "abab"]))
    introspect.after_grants(queue, lambda slot, _: slot.key == "a" and gone[0].cancel())
    assert "".join(key for key, _ in await task) == "abab"


async def test_overtaking_calls_take_turns():
    """Calls that need not wait, as their limit has room, are charged: others have their turn."""
    limits, lanes = ("10 tokens/s burst 10", "1000/s"), {"small": "1000/s"}
    queue = ApiQueue(*limits, lanes=lanes, order="fair", weights={"a": 1})
    big = [queue.enqueue(key="big", cost={"tokens": 10}) for _ in range(3)]
    await big[1]

    async def small():
        while not big[2].done():
            async with queue.slot(key="small", cost={"tokens": 1.4}):
                await asyncio.sleep(0.15)

    async with asyncio.timeout(10):
        await asyncio.gather(small(), big[2])


async def test_calls_sorted_again_keep_turns():
    """A key that has just had a large turn is not first when the limits change."""
    queue = ApiQueue("10/s", order="fair", weights={"a": 1})
    (await queue.enqueue()).release()
    found = []
    for key, cost in [("a", 10), ("a", 10), *[("b", 1)] * 8]:
        future = queue.enqueue(key=key, cost=cost)
        future.add_done_callback(lambda done: found.append(done.result().key))
    await asyncio.sleep(0.25)
    queue.set_rate("20/s, 1000 in any 1s")
    await asyncio.sleep(5)
    assert "".join(found) == "babbbbbbba"


async def test_closed_lanes_save_no_turns():
    """A key whose calls could not start for long has no more than its share afterwards."""
    lanes = {"slow": "1/h", "*": "1000/s"}
    queue = ApiQueue("10/s", lanes=lanes, order="fair", weights={"a": 1})
    (await queue.enqueue(key="slow")).release()
    slow = queue.enqueue(keys=("a", "slow"))
    await starts_in(60, queue, ("b", 4, {}))
    counts = await starts_in(4, queue, ("a", 4, {}), ("b", 4, {}))
    assert counts["a"] == pytest.approx(20, abs=2)
    slow.cancel()


async def test_dropped_and_sorted_calls_keep_shares():
    """In a full queue that drops calls, while its limits change all the time."""
    queue = ApiQueue(
        *("20/s", "1000 tokens/s burst 1000"),
        order="fair",
        weights={"a": 3},
        maxsize=20,
        overflow="drop_oldest",
        lanes={"*": "50/s"},
    )
    counts = Counter()

    async def call(key):
        while True:
            try:
                async with queue.slot(key=key, cost={"tokens": 1}):
                    counts[key] += 1
            except QueueFull:
                await asyncio.sleep(0.01)

    tasks = [asyncio.create_task(call(key)) for key in "ab" for _ in range(12)]
    for number in range(100):
        await asyncio.sleep(0.3)
        queue.set_rate(f"{50 + number % 2}/s, {1000 + number % 3} in any 1s", key="*")
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert sum(counts.values()) == pytest.approx(600, abs=5)
    assert counts["a"] / counts["b"] == pytest.approx(3, rel=0.05)


async def test_call_again_keeps_its_place():
    """Among the calls of its key, it goes before those that came after it."""
    queue = ApiQueue("10/s", order="fair", weights={"a": 2})
    (await queue.enqueue()).release()
    first = queue.enqueue(key="a")
    rest = [queue.enqueue(key="a") for _ in range(3)]
    again = (await first).again()
    (await again).release()
    assert not any(future.done() for future in rest)
    for future in rest:
        (await future).release()


async def test_estimate_knows_the_weights():
    """A newcomer waits for those calls of others that start before it."""
    queue = ApiQueue("1/s", order="fair", weights={"heavy": 4})
    (await queue.enqueue()).release()
    waiting = [queue.enqueue(key="a") for _ in range(20)]
    assert queue.estimate(key="a") == 21
    assert queue.estimate(key="heavy") == pytest.approx(1.5, abs=0.5)
    assert queue.estimate(key="light") == pytest.approx(2, abs=1)
    for one in waiting:
        one.cancel()


def test_next_loop_has_the_weights(run_virtual):
    """Weights outlive the loop on which they were used first, and what was charged there does not.

    A call of that loop may settle on the next.
    """
    queue, slots = ApiQueue("10/s", order="fair", weights={"a": 3}), []

    async def scenario():
        counts = await starts_in(8, queue, ("a", 4, {}), ("b", 4, {}))
        slots.append(queue.enqueue(key="a"))
        return counts["a"] / counts["b"]

    for _ in range(2):
        assert run_virtual(scenario) == pytest.approx(3, rel=0.06)


async def test_keys_that_are_over_are_forgotten():
    """Thousands of keys and priorities leave nothing behind while one call waits."""
    queue = ApiQueue("1000/s", lanes={"last": "1/h"}, order="fair", weights={"*": 2})
    (await queue.enqueue(key="last")).release()
    last = queue.enqueue(key="last")
    for number in range(1000):
        calls = [
            queue.enqueue(key=f"{number}-{priority}", priority=priority) for priority in (0, number)
        ]
        for call in calls:
            (await call).release()
    kinds = Counter(type(one).__name__ for one in gc.get_objects())
    assert 0 < kinds["Share"] < 200
    assert kinds["_OfPriority"] < 10
    last.cancel()


async def test_calls_of_many_keys_may_leave():
    """Where more keys wait than are kept without waiting calls, each call can be cancelled."""
    queue = ApiQueue("1/h", order="fair", weights={"*": 2})
    (await queue.enqueue()).release()

    async def call(key):
        async with queue.slot(key=key):
            pass

    tasks = [asyncio.create_task(call(number)) for number in range(100)]
    await asyncio.sleep(1)
    for task in tasks:
        task.cancel()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(one) for one in ended} == {asyncio.CancelledError}
    assert queue.stats.waiting == 0


REFUSED = [
    ({"weights": {"a": 0}}, ValueError, r"weights\['a'\] must be finite and above 0, not 0"),
    ({"weights": {"a": -1}}, ValueError, "above 0, not -1"),
    ({"weights": {"a": float("inf")}}, ValueError, "must be finite"),
    ({"weights": {"a": float("nan")}}, ValueError, "must be finite"),
    ({"weights": {"a": 1e7}}, ValueError, "at most 1e.06"),
    ({"weights": {"a": 1e-7}}, ValueError, "at least 1e-06, .* multiply all weights"),
    ({"weights": {"a": "3"}}, TypeError, "must be a number"),
    ({"weights": {"a": True}}, TypeError, "must be a number"),
    ({"weights": {}}, ValueError, "weights is empty"),
    ({"weights": [("a", 3)]}, TypeError, r'weights must map keys to numbers, such as {"a": 3}'),
    ({"weights": {"a": 1}, "weights_unit": 3}, TypeError, "must be the name of a unit"),
    ({"weights": {"a": 1}, "weights_unit": "token"}, ValueError, "weights_unit: .*'tokens'"),
    ({"weights_unit": "calls"}, ValueError, "needs weights: write weights="),
    ({"weights": {"a": 1}, "order": "fifo"}, ValueError, 'write order="fair", weights='),
]


@pytest.mark.parametrize(("options", "error", "remedy"), REFUSED)
def test_what_is_no_weight_is_refused(options, error, remedy):
    """With what to write instead."""
    with pytest.raises(error, match=remedy):
        ApiQueue("10/s", "10 tokens/s", **({"order": "fair"} | options))
