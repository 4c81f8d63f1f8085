"""Lanes that come and go: what is said of one is of it alone, and none is kept for ever."""

from __future__ import annotations

import asyncio
import random

import pytest

from aioapiqueue import ApiQueue
from aioapiqueue.integrations.redis import SharedSchedule
from tests.helpers import introspect
from tests.helpers.virtual_client import VirtualClient
from tests.helpers.work import Ticks, stall_of_bare_tasks, work, worst_stall


@pytest.mark.parametrize("say", ["slot", "queue", "hold"])
async def test_late_push_back_holds_its_lane(valkey, name, say):
    """Push back on a call of an hour ago holds its lane only.

    The lane is found although nobody has called in it for long.
    """
    loop = asyncio.get_running_loop()
    schedule = SharedSchedule(VirtualClient(valkey), name)
    async with ApiQueue("10/s", lanes={"*": "5/s"}, schedule=schedule) as queue:
        async with queue.slot(key="slow") as slot:
            await asyncio.sleep(3600)
            async with queue.slot(key="other"):  # those long idle are forgotten at the next call
                pass
            said = loop.time()
            if say == "slot":
                slot.throttled(20)
            elif say == "queue":
                queue.throttled(20, key="slow")
            else:
                queue.hold(20, key="slow")
        async with queue.slot(key="other"):
            assert loop.time() - said < 1
        async with queue.slot(key="slow"):
            assert loop.time() - said == pytest.approx(20, abs=1e-5)


async def test_lanes_used_once_are_forgotten(valkey, name):
    """Of a thousand keys, each called once, neither this process nor the server keeps much."""
    schedule = SharedSchedule(VirtualClient(valkey), name)
    async with ApiQueue(lanes={"*": "10/s"}, schedule=schedule) as queue:
        for number in range(1000):
            async with queue.slot(key=number):
                await asyncio.sleep(0.01)
        assert introspect.planner_sizes(queue)["grants"] < 200
        assert len(introspect.lanes_of(queue)) < 200


async def test_lane_keeps_its_round_position(valkey, name):
    """The last lanes turn is kept while many others come and go.

    Forgetting the others forgets nothing of one who waits.
    """
    loop = asyncio.get_running_loop()
    schedule = SharedSchedule(VirtualClient(valkey), name)
    async with ApiQueue(lanes={"slow": "0.1/s", "*": "10/s"}, schedule=schedule) as queue:
        begun, waiting = loop.time(), []

        async def wait():
            async with queue.slot(key="slow"):
                waiting.append(loop.time() - begun)

        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(wait())
            for number in range(300):
                async with queue.slot(key=number):
                    await asyncio.sleep(0.01)
    assert waiting == pytest.approx([0, 10, 20], abs=1e-4)


async def test_work_does_not_grow_with_lanes(valkey, name):
    """What a newcomer, one who leaves and a tick cost beside 50 and beside 500 waiting lanes."""
    counts = []
    for lanes in (50, 500):
        schedule = SharedSchedule(VirtualClient(valkey), f"{name} {lanes}")
        async with ApiQueue(lanes={"*": "0.1/s"}, schedule=schedule) as queue:
            calls = [queue.enqueue(key=number) for number in range(lanes) for _ in range(2)]
            await asyncio.sleep(5)
            done = work(lambda queue=queue: queue.enqueue(key=7))
            left = work(calls[-1].cancel)
            tick = work(lambda queue=queue: introspect.release_due(queue))
            counts.append(done + left + tick)
            await queue.aclose(drain=False)
    few, many = counts
    assert many < 2 * few + 200  # a look at each of 500 would be more


async def test_set_rate_changes_one_lane(valkey, name):
    """What other limits of a key cost beside 20 and beside 150 lanes that are in memory."""
    counts = []
    for lanes in (20, 150):
        schedule = SharedSchedule(VirtualClient(valkey), f"{name} {lanes}")
        async with ApiQueue(lanes={"*": "0.01/s"}, schedule=schedule) as queue:
            for call in [queue.enqueue(key=number) for number in range(lanes)]:
                (await call).release()
            assert len(introspect.lanes_of(queue)) == lanes
            counts.append(work(lambda queue=queue: queue.set_rate("5/s", key=7)))
    few, many = counts
    assert many < 2 * few


async def test_varied_costs_are_not_compared(valkey, name):
    """Where costs vary, who is first in a lane is looked at once, not all of 500 at each step."""
    counts = []
    for lanes in (50, 500):
        schedule = SharedSchedule(VirtualClient(valkey), f"{name} {lanes}")
        limits = "10 tokens/s"
        async with ApiQueue(limits, lanes={"*": "1/s"}, schedule=schedule) as queue:
            for number in range(2 * lanes):
                queue.enqueue(key=number % lanes, cost={"tokens": 100 + number % 7})
            await asyncio.sleep(1)
            queue.enqueue(key=7, cost={"tokens": 105})
            counts.append(work(lambda queue=queue: introspect.release_due(queue)))
            await queue.aclose(drain=False)
    few, many = counts
    assert many < few + 50


async def test_cheaper_first_is_asked_for(valkey, name):
    """A call that costs less than all that wait asks at once, each time that one comes."""
    loop, schedule = asyncio.get_running_loop(), SharedSchedule(VirtualClient(valkey), name)
    async with ApiQueue("10 tokens/s", lanes={"*": "10/s"}, schedule=schedule) as queue:
        calls = [queue.enqueue(key=key, cost={"tokens": 100 - key}) for key in range(4)]
        await asyncio.sleep(11.03)  # what the first has cost is paid off since 10 s
        for _ in range(3):
            begun = loop.time()
            (await queue.enqueue(key="new", priority=-1, cost={"tokens": 1})).release()
            assert loop.time() - begun < 0.001
            await asyncio.sleep(0.35)
        assert [call.done() for call in calls] == [True, False, False, False]
        await queue.aclose(drain=False)
    await asyncio.gather(*calls, return_exceptions=True)


async def test_stuck_lanes_hold_up_no_others(valkey, name):
    """More lanes than a request names wait for one unit; calls that use none of it go on.

    They were never named: those that wait for tokens came first, in each request.
    """
    loop, client = asyncio.get_running_loop(), VirtualClient(valkey)
    limits = "1000/s", "10 tokens/min burst 10"
    schedule = SharedSchedule(client, name)
    async with ApiQueue(*limits, lanes={"*": "100/s"}, schedule=schedule) as queue:
        stuck = [queue.enqueue(key=number, cost={"tokens": 10}) for number in range(100)]
        await asyncio.sleep(5)
        begun, asked = loop.time(), client.calls
        others = [queue.enqueue(key=-number, cost={"tokens": 0}) for number in range(1, 201)]
        await asyncio.gather(*others)
        assert loop.time() - begun < 0.25
        assert client.calls - asked < 40
        assert [call.done() for call in stuck] == [True] + 99 * [False]
        await asyncio.sleep(114 - (loop.time() - begun))  # two minutes, but for a second
        assert [call.done() for call in stuck] == 2 * [True] + 98 * [False]
        assert client.calls - asked < 300  # each second, those who wait ask
        await queue.aclose(drain=False)
    await asyncio.gather(*stuck, return_exceptions=True)


async def test_replies_look_at_few_lanes(valkey, name):
    """What a reply costs does not grow with the lanes that wait, also where it grants little.

    It looked at all of them whenever a queue was given much less than its share: a stall of 8 ms
    for 2,000, so that slots came too late.
    """
    most = {}
    for number in (100, 400):
        counts = []

        def counted(apply, counts=counts):
            return lambda *reply, **how: counts.append(work(lambda: apply(*reply, **how)))

        queues, callers = [], []
        for seed in range(2):
            client = VirtualClient(valkey, latency=(0.001, 0.002), seed=seed)
            schedule = SharedSchedule(client, f"{name} {number}")
            queue = ApiQueue("500/s", lanes={"*": "10/s"}, schedule=schedule)
            introspect.wrap_replies(queue, counted)
            queues.append(queue)

            async def caller(key, queue=queue):
                while True:
                    async with queue.slot(key=key):
                        pass

            callers += [asyncio.create_task(caller(key)) for key in range(number)]
        await asyncio.sleep(1)  # at first, all are looked at
        counts.clear()
        await asyncio.sleep(1.5)
        most[number] = max(counts)
        for one in callers:
            one.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
        for queue in queues:
            await queue.aclose(drain=False)
    assert most[400] < 1.2 * most[100]


async def test_requests_name_at_most_32_lanes(valkey, name):
    """No request names more lanes than 32.

    So that no call of the script, and no answer, holds up others; nobody is left out for it.
    """
    client = VirtualClient(valkey)
    async with ApiQueue(lanes={"*": "1/s"}, schedule=SharedSchedule(client, name)) as queue:
        sizes = []
        introspect.before_requests(queue, sizes.append)
        begun = asyncio.get_running_loop().time()
        await asyncio.gather(*(queue.enqueue(key=number) for number in range(500)))
        assert asyncio.get_running_loop().time() - begun < 0.1
    assert max(sizes) == 32


@pytest.mark.parametrize("order", ["fifo", "fair"])
@pytest.mark.parametrize("limits", [(), ("2000/s",)])
async def test_lanes_with_leases_leave_out_none(valkey, name, order, limits):
    """Those whose first callers have slots to come make room for lanes that have none.

    Asking for the former only asked for nothing, over and over, until the slots were due.
    """
    loop, client = asyncio.get_running_loop(), VirtualClient(valkey)
    schedule = SharedSchedule(client, name)
    async with ApiQueue(*limits, lanes={"*": "50/s"}, schedule=schedule, order=order) as queue:
        ticks = Ticks(queue)
        client.latency = 0.001, 0.02  # so that the queue asks early
        for _ in range(20):
            (await queue.enqueue(key="one")).release()
        client.latency = 0, 0
        begun = loop.time()
        await asyncio.gather(*[queue.enqueue(key=n) for _ in range(3) for n in range(200)])
        assert loop.time() - begun < 0.5
        assert ticks.most < 10
        assert client.calls < 300


@pytest.mark.parametrize("priorities", [[0], [0, 0, -1]])
async def test_keys_that_take_turns_keep_leases(valkey, name, priorities):
    """A slot of one key's cost is not given back as another's turn is looked at before it is due.

    It was, and asked for again, without end.
    """
    chance, loop = random.Random(1), asyncio.get_running_loop()
    client = VirtualClient(valkey)
    async with ApiQueue("100/s", schedule=SharedSchedule(client, name), order="fair") as queue:
        ticks = Ticks(queue)
        costs = [chance.choice([0.5, 1, 2]) for _ in range(200)]
        calls = []
        for number, cost in enumerate(costs):
            how = {"cost": cost, "priority": chance.choice(priorities)}
            calls.append(queue.enqueue(key=number % 40, **how))
            if number % 20 == 0:
                await asyncio.sleep(0.01)
        await asyncio.gather(*calls)
        assert loop.time() < 1.2 * sum(costs) / 100
        assert ticks.most < 20
        assert client.calls < 250


@pytest.mark.parametrize("order", ["fifo", "fair"])
async def test_lanes_left_unserved_are_forgotten(valkey, name, order):
    """While 70 lanes wait for long, a thousand others come, time out, and leave nothing."""
    schedule = SharedSchedule(VirtualClient(valkey), name)
    async with ApiQueue("1/s", lanes={"*": "10/s"}, schedule=schedule, order=order) as queue:
        calls = [queue.enqueue(key=number % 70) for number in range(500)]
        for number in range(1000):
            calls.append(queue.enqueue(key=f"late {number}", priority=1, timeout=0.05))
            await asyncio.sleep(0.01)
        assert max(introspect.planner_sizes(queue).values()) < 400
        await queue.aclose(drain=False)
    await asyncio.gather(*calls, return_exceptions=True)


@pytest.mark.parametrize("order", ["fifo", "fair"])
async def test_postponed_lanes_are_not_overtaken(valkey, name, order):
    """A caller that is left out is not overtaken.

    Under a limit of all lanes, 100 lanes of which a request names 32 go by arrival.
    """
    schedule = SharedSchedule(VirtualClient(valkey), name)
    started = []
    queue = ApiQueue("100/s", lanes={"*": "50/s"}, schedule=schedule, order=order)

    async def call(number):
        async with queue.slot(key=number % 100, priority=number >= 200):
            started.append(number)

    async with queue:
        await asyncio.gather(*map(call, range(300)))
    assert started == list(range(300))


@pytest.mark.real
@pytest.mark.slow
async def test_ten_thousand_lanes_stall_no_loop(valkey, name, no_collector):
    """The loop's longest pass is no longer than that of as many tasks on an Event (CPU time)."""
    bare = min([await stall_of_bare_tasks(10_000) for _ in range(3)])
    ours = []
    for number in range(2):
        client = valkey.client()
        schedule = SharedSchedule(client, f"{name} {number}", timeout=5)
        async with ApiQueue(lanes={"*": "1/s"}, schedule=schedule) as queue:

            async def call(key, queue=queue):
                async with queue.slot(key=key):
                    pass

            await call(0)
            ours.append(await worst_stall(call, lambda: None, tasks=10_000))
        await client.aclose()
    assert min(ours) < 1.5 * bare


@pytest.mark.parametrize("pairs", [False, True])
async def test_many_lanes_use_their_limit(valkey, name, pairs):
    """With 2,000 lanes waiting, the limit of all is used, and no message names many of them.

    The calls of two lanes are of one of 50 besides. What they had leased is given back at the end.
    """
    sizes = []
    client = VirtualClient(valkey, latency=(0.001, 0.002))
    lanes = {"lane *": "1/s", "group *": "50/s"}
    schedule = SharedSchedule(client, name)
    async with ApiQueue("500/s", lanes=lanes, schedule=schedule) as queue:
        introspect.before_requests(queue, sizes.append)

        async def caller(number):
            keys = (f"lane {number}", f"group {number % 50}")
            while True:
                async with queue.slot(keys=keys if pairs else keys[:1]):
                    pass

        callers = [asyncio.create_task(caller(number)) for number in range(2000)]
        await asyncio.sleep(4)
        released = queue.stats.released
        for one in callers:
            one.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
    assert released >= 0.98 * 4 * 500
    assert max(sizes) <= 33  # the one beyond 32 is that of a single call of two lanes
    assert client.calls < 4 * 500
