"""Whatever callers and others do: nobody is forgotten, and nobody asks without time passing."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict

import pytest

from aioapiqueue import Adaptive, ApiQueue, QueueFull, Rate, SlotTimeout, Window
from aioapiqueue.integrations.redis import SharedSchedule
from tests.helpers import introspect
from tests.helpers.virtual_client import VirtualClient
from tests.helpers.work import Ticks

SLOW_SEEDS = [pytest.param(seed, marks=pytest.mark.slow) for seed in range(5, 60)]
PATIENCE = 120.0  # virtual seconds: far more than the calls of any of these need


def make(chance, client, name, keys):
    """Make a queue with some limits, lanes for all keys or for some, and some of all options."""
    some = dict.fromkeys(chance.sample(keys, len(keys) // 2), "10/s")
    both = Rate(20, burst=3), Window(10, 1)
    tokens = ("100/s", "1000 tokens/s burst 100"), ("100/s", Window(2000, 1, "tokens"))
    return ApiQueue(
        *chance.choice(
            [("unlimited",), ("100/s",), (Rate(200, burst=10),), (Window(100, 1),), *tokens]
        ),
        lanes=chance.choice([{"*": "10/s"}, {"*": "10/s", None: "5/s"}, {"*": both}, some, {}]),
        order=chance.choice(["fifo", "fair"]),
        concurrency=chance.choice([None, None, 5]),
        adaptive=chance.choice([None, Adaptive("5/s")]),
        **chance.choice([{}, {}, {"maxsize": 100, "overflow": "drop_oldest"}]),
        schedule=SharedSchedule(client, name, fallback=chance.choice([None, "50/s"])),
    )


def disturb(chance, client, queue, keys, calls):
    """Do one of all that users and the world may do meanwhile."""
    key = chance.choice(keys)
    actions = [
        lambda: [call.cancel() for call in chance.sample(calls, len(calls) // 5)],
        lambda: queue.set_rate(chance.choice(["50/s", "unlimited", "300/s"])),
        lambda: queue.set_rate(chance.choice(["5/s", "40/s"]), key=chance.choice([key, "*"])),
        lambda: queue.pause(chance.random()),
        queue.resume,
        lambda: queue.hold(chance.random(), key=key),
        lambda: queue.throttled(chance.choice([None, 0.1]), key=key),
        lambda: setattr(client, "down", True),
    ]
    chance.choice(actions)()
    client.down = client.down and chance.random() < 0.5


@pytest.mark.parametrize("disturbed", [False, True])
@pytest.mark.parametrize("seed", [1, 2, 6, 7, 18, 27])
async def test_random_lanes_all_have_their_turns(valkey, name, seed, disturbed):
    """Everybody starts, or ends as asked; in order; and the queue remembers none of them."""
    await random_calls(valkey, name, seed, disturbed=disturbed, several=False)


@pytest.mark.parametrize("disturbed", [False, True])
@pytest.mark.parametrize("seed", [*range(1, 5), *SLOW_SEEDS])
async def test_random_calls_of_several_lanes(valkey, name, seed, disturbed):
    """The same of calls that come under up to three lanes, and use tokens or none."""
    await random_calls(valkey, name, seed, disturbed=disturbed, several=True)


async def random_calls(valkey, name, seed, *, disturbed, several):
    """Make random calls on a random queue."""
    chance, loop = random.Random(seed), asyncio.get_running_loop()
    latency = chance.choice([(0, 0), (0.001, 0.01), (0.001, 0.05)])
    client = VirtualClient(valkey, latency=latency, seed=seed)
    keys = [*chance.choice([[], [None]]), *range(chance.choice([3, 70]))]
    costs, priorities = chance.choice([[1], [0.5, 1, 2]]), chance.choice([[0], [0, 0, 1, -1]])
    queue = make(chance, client, name, keys)
    ticks, calls, started = Ticks(queue), [], defaultdict(list)
    timeouts = Counter()

    async def call(number, **options):
        try:
            async with queue.slot(**options):
                # Those that use none of a unit may go before others.
                started[repr(options)].append(number)
                await asyncio.sleep(chance.choice([0, 0, 0.05]))
        except (SlotTimeout, QueueFull):
            pass

    for _ in range(chance.choice([2, 4])):
        for _ in range(chance.choice([5, 150])):
            options = {
                "key": chance.choice(keys),
                "priority": chance.choice(priorities),
                "cost": {"calls": chance.choice(costs)},
                "timeout": chance.choice([None, None, 0.05, 2]),
            }
            if several:
                options["keys"] = [
                    options.pop("key"),
                    *chance.choices(keys, k=chance.randint(0, 2)),
                ]
            if "tokens" in str(queue.limits):
                options["cost"]["tokens"] = chance.choice([0, 1, 30]) if several else 1
            timeouts[options["timeout"]] += 1
            calls.append(asyncio.create_task(call(len(calls), **options)))
        await asyncio.sleep(chance.choice([0, 0.01, 0.3]))
        if disturbed:
            disturb(chance, client, queue, keys, calls)
    client.down = False
    queue.resume()
    _, waiting = await asyncio.wait(calls, timeout=PATIENCE)
    assert not waiting
    assert all(one.cancelled() or not one.exception() for one in calls)
    assert all(numbers == sorted(numbers) for numbers in started.values())
    await asyncio.sleep(3)
    assert introspect.leases_of(queue) == 0
    sizes = introspect.planner_sizes(queue)
    assert max(sizes[of] for of in ("requesting", "later", "by rank")) <= 70
    # Whose time is over looks whether the slot is due at that very instant.
    assert ticks.most < 100 + max(timeouts[0.05], timeouts[2])
    assert client.calls < 100 + 400 * loop.time()
    await queue.aclose()
