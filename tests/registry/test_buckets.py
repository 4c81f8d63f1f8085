"""Buckets are lanes of their service's queue: a call comes under all of its limits at once."""

from __future__ import annotations

import asyncio
import gc
from random import Random

import pytest

from aioapiqueue import Calendar, Concurrency, Rate, WouldWait
from aioapiqueue.exceptions import LimitsError
from aioapiqueue.registry import Bucket, Registry, ServiceLimits
from aioapiqueue.registry.spi import bucket_of, forget_idle
from tests.helpers import introspect
from tests.helpers.garbage import leave_older_alone


def make(text, rate="unlimited"):
    """Return a registry with these limits of ec2; names are not looked up, as a loop may run."""
    return Registry.parse(f'[ec2]\nrate = "{rate}"\n{text}', check=False)


def find(registry, operation, **parameters):
    """Return what a call needs."""
    return registry.find_call("ec2", operation, parameters=parameters)


async def start(call, started, *, after=0.0):
    """Wait for a slot; note when it came."""
    await asyncio.sleep(after)
    loop = asyncio.get_running_loop()
    async with call.queue.slot(keys=call.keys, cost=call.cost):
        started.setdefault(call.keys[0], []).append(round(loop.time(), 3))


async def test_patterns_fit_no_bucket():
    """Neither "*" nor "Describe*" gives a bucket's lane limits, though its name begins so."""
    registry = make(
        'lanes = {"*" = "1/s", "Describe*" = "1/s", "b*" = "1/s"}\n'
        '[ec2.buckets."Describe all"]\n'
        'operations = ["CreateTags", "DescribeVpcs", "DescribeTags"]\nrate = "10/s burst 3"'
    )
    calls = [find(registry, name) for name in ("CreateTags", "DescribeVpcs", "DescribeTags")]
    assert {call.keys[1] for call in calls} == {"bucket: Describe all"}
    assert introspect.lane_limits_of(calls[0].queue)["bucket: Describe all"] == [Rate(10, burst=3)]
    started = {}
    await asyncio.gather(*(start(call, started) for call in calls * 2))
    assert started == {"CreateTags": [0, 1], "DescribeVpcs": [0, 1], "DescribeTags": [0, 1]}


async def test_unlimited_bucket_falls_under_no_pattern():
    """A bucket without limits is not what "*" is for either."""
    registry = make(
        'lanes = {"*" = "1/s"}\nbuckets.free = {operations = ["*"], rate = "unlimited"}'
    )
    started = {}
    names = ("CreateTags", "DescribeVpcs", "RunInstances")
    await asyncio.gather(*(start(find(registry, name), started) for name in names))
    assert started == {name: [0] for name in names}


def test_keys_of_buckets_are_told_apart():
    """A key is of a bucket, or of an operation or variant; names of buckets have no colon."""
    assert bucket_of("bucket: cluster read") == ("", "cluster read")
    assert bucket_of("apigateway.bucket: some, of v1") == ("apigateway", "some, of v1")
    assert bucket_of("DescribeVolumes unfiltered") is bucket_of("CreateTags") is None
    with pytest.raises(LimitsError, match="a bucket's name has"):
        make('[ec2.buckets."bucket: x"]\noperations = ["CreateTags"]\nrate = "1/s"')


async def test_call_waits_for_all_and_holds_none():
    """While a call waits for its service, it is charged to no bucket: the next has all of it."""
    registry = make(
        '[ec2.buckets.instances]\noperations = ["RunInstances"]\n'
        'cost = {RunInstances = "MaxCount"}\nrate = "1 instances/s burst 10"',
        rate="1 per 10s",
    )
    first, call = (find(registry, name, MaxCount=10) for name in ("CreateTags", "RunInstances"))
    with first.queue.try_slot(keys=first.keys, cost=first.cost):
        waiting = [call.queue.enqueue(keys=call.keys, cost=call.cost) for _ in range(2)]
        await asyncio.sleep(9)
        bucket = {"keys": call.keys[1:], "cost": {"calls": 0, "instances": 10}}
        call.queue.try_slot(**bucket).release()  # nobody holds a part of it
        await asyncio.wait(waiting)
    # 10 used at 9 s are there again at 19 s, and those of the first launch 10 s after it.
    assert asyncio.get_running_loop().time() == pytest.approx(29, abs=0.02)


def test_units_of_buckets_never_mix():
    """Buckets that a call may come under together count apart, whatever their limits call it."""
    some = {"RunInstances": "MaxCount"}
    limits = ServiceLimits(
        buckets={
            "plain": {"operations": ["Run*"], "rate": "1/s"},
            "named": {"operations": ["Run*"], "rate": "1 instances/s", "cost": some},
            "again": {
                "operations": ["RunInstances"], "rate": "9/s, 5 instances/s burst 9, 3 at once",
                "cost": {"RunInstances": "2*MaxCount"},
            },
            "apart": {
                "operations": ["StopInstances"], "rate": "1 instances/s",
                "cost": {"StopInstances": 3},
            },
            "Of the name": {"operations": ["Run*"], "rate": "1/s", "cost": some},
            "of the name": {"operations": ["Run*"], "rate": "1/s", "cost": some},
            "per": {"operations": ["Run*"], "rate": "1/s", "cost": some},
            "2 things": {"operations": ["Run*"], "rate": "1/s", "cost": some},
            "each": {"operations": ["RunInstances"], "rate": "1/s", "each": True, "unless": ["X"]},
        }
    )  # fmt: skip
    units = {
        lane: {one.unit for one in found if isinstance(one, Rate)}
        for lane, found in limits.queue_lanes.items()
    }
    assert units == units | {
        "bucket: plain": {"calls"},
        "bucket: named": {"instances"},
        "bucket: again": {"calls", "instances_2"},
        "bucket: apart": {"instances"},
        "bucket: Of the name": {"of_the_name"},
        "bucket: of the name": {"of_the_name_2"},
        "bucket: per": {"units_per"},
        "bucket: 2 things": {"units_2_things"},
    }
    assert limits.queue_lanes["bucket: again"] == (
        Rate(9), Rate(5, burst=9, unit="instances_2"), Concurrency(3),
    )  # fmt: skip
    registry = Registry({"ec2": limits})
    assert find(registry, "RunInstances", MaxCount=4).cost == {
        "instances": 4, "instances_2": 8, "of_the_name": 4, "of_the_name_2": 4, "units_per": 4,
        "units_2_things": 4,
    }  # fmt: skip
    assert find(registry, "StopInstances", MaxCount=4).cost == {"instances": 3}


async def test_bucket_in_code_counts_its_unit():
    """A `Bucket` with a unit and no costs counts one of it for each call."""
    limits = Bucket(("CreateTags",), (Rate(5, unit="tags"),))
    registry = Registry({"ec2": ServiceLimits(buckets={"tags": limits})})
    call = find(registry, "CreateTags")
    assert call.cost == {"tags": 1}
    call.queue.try_slot(keys=call.keys, cost=call.cost).release()


async def test_every_kind_of_limit_is_kept():
    """Calendars, and how many are in flight at once, of a service, an operation, a bucket."""
    registry = make(
        'lanes = {CreateTags = "1 at once"}\n[ec2.buckets.volumes]\n'
        'operations = ["CreateVolume", "CopyVolumes"]\nrate = "2 in each hour"',
        rate="100/s burst 100, 3 at once",
    )
    limits = registry.services["ec2"]
    assert limits.rate == (Rate(100, burst=100), Concurrency(3))
    assert limits.lanes["CreateTags"] == (Concurrency(1),)
    assert limits.buckets["volumes"].limits == (Calendar(2, "hour"),)

    def take(operation):
        call = find(registry, operation)
        return call.queue.try_slot(keys=call.keys, cost=call.cost)

    with take("CreateTags"):
        with pytest.raises(WouldWait):
            take("CreateTags")
        with take("CreateVolume"), take("DescribeVpcs"), pytest.raises(WouldWait):
            take("DescribeVpcs")
    take("CopyVolumes").release()
    with pytest.raises(WouldWait) as caught:
        take("CreateVolume")
    assert 0 < caught.value.retry_in <= 3600
    shown = [str(limit) for one in registry for limit in one.limits]
    assert shown == ["100/s burst 100", "3 at once", "1 at once", "2 in each hour"]


@pytest.mark.parametrize(
    ("operation", "held", "free"),
    [
        ("RunInstances", ["RunInstances"], ["StartInstances", "CreateTags"]),
        ("StartInstances", ["StartInstances", "RunInstances"], ["CreateTags"]),
        ("CreateTags", ["CreateTags", "StartInstances"], []),
    ],
)
async def test_push_back_slows_the_narrowest(operation, held, free):
    """The operation's lane; where it has none, its first bucket; or else the service."""
    registry = make(
        'lanes = {RunInstances = "100/s burst 9"}\n'
        'buckets.some = {operations = ["RunInstances", "StartInstances"], rate = "100/s burst 9"}',
        rate="1000/s burst 1000",
    )
    call = find(registry, operation)
    async with call.queue.slot(keys=call.keys, cost=call.cost) as slot:
        slot.throttled(retry_after=30)

    def wait(name):
        needs = find(registry, name)
        return round(needs.queue.estimate(keys=needs.keys, cost=needs.cost))

    assert {name: wait(name) for name in [*held, *free]} == (
        dict.fromkeys(held, 30) | dict.fromkeys(free, 0)
    )


async def test_fair_turns_are_by_operation():
    """Operations of one bucket take turns in it, though they share its key."""
    registry = make(
        'order = "fair"\nbuckets.some = {operations = ["CreateTags", "DeleteTags"], rate = "1/s"}'
    )
    started = {}
    calls = [find(registry, "CreateTags")] * 4 + [find(registry, "DeleteTags")] * 2
    await asyncio.gather(*(start(call, started) for call in calls))
    assert started == {"CreateTags": [0, 1, 3, 5], "DeleteTags": [2, 4]}


async def test_queue_at_rest_has_buckets_at_rest():
    """A queue is given up with its buckets, and not while one of them owes a wait."""
    leave_older_alone()
    registry = make(
        'buckets.some = {operations = ["CreateTags"], rate = "1/min"}\n'
        '[ec2.buckets.instances]\noperations = ["RunInstances"]\n'
        'cost = {RunInstances = "MaxCount"}\nrate = "1 instances/s burst 10"'
    )
    await start(find(registry, "CreateTags"), {})
    await start(find(registry, "RunInstances", MaxCount=100), {})  # waits for 90 s
    assert forget_idle(registry) == []
    await asyncio.sleep(9)
    assert forget_idle(registry) == []  # ten instances come back in ten seconds
    await asyncio.sleep(2)
    assert len(forget_idle(registry)) == 1
    gc.collect()
    assert not registry.queues


OPERATIONS = ("CreateTags", "CreateVolume", "DeleteTags", "DescribeTags", "RunInstances")


def draw_limits(random):
    """Return random limits of a service: its own, of operations, variants, shared buckets."""

    def rate(unit="calls"):
        return Rate(random.choice([1, 2, 5, 10]), burst=random.choice([1, 2, 6]), unit=unit)

    buckets = {}
    for number in range(random.randint(1, 4)):
        operations = tuple(random.sample(OPERATIONS, random.randint(1, 4)))
        unless = ("Filters",) * random.randint(0, 1)
        unit = random.choice(["calls", "things", "more"])
        costs = {name: random.choice([2, "MaxCount"]) for name in operations if unit != "calls"}
        buckets[f"b{number}"] = {
            "operations": operations, "rate": [rate(unit)], "unless": unless, "cost": costs,
        } if unit != "calls" or random.random() < 0.7 else {
            "operations": operations, "rate": [rate()], "unless": ("Filters",), "each": True,
        }  # fmt: skip
    lanes = {random.choice([*OPERATIONS, "Create*", "*"]): [rate()] for _ in range(2)}
    return ServiceLimits([rate()] * random.randint(0, 1), lanes=lanes, buckets=buckets)


def limits_of(limits, operation, parameters):
    """Return each limit of a call, by what has it, with what the call uses of it: by the schema."""
    found = [(("service",), limit, 1) for limit in limits.rate]
    own, variant = operation, False
    for name, bucket in limits.buckets.items():
        if operation not in bucket.operations or (bucket.unless_params and parameters["Filters"]):
            continue
        if bucket.per_operation:
            own, variant = name, True
            continue
        cost = bucket.cost.get(operation)
        units = 1 if cost is None else parameters["MaxCount"] if cost.parameter else cost.factor
        found += [((name,), limit, units) for limit in bucket.limits]
    if variant:
        return [*found, ((own, operation), limits.buckets[own].limits[0], 1)]
    fitting = [one for one in limits.lanes if one == operation or operation.startswith(one[:-1])]
    lane = operation if operation in fitting else max(fitting, key=len, default=None)
    return found + [((lane, operation), limit, 1) for limit in limits.lanes.get(lane, ())]


@pytest.mark.parametrize("seed", range(40))
async def test_random_limits_are_all_kept(seed):
    """Whatever calls there are: in every window each bucket keeps what promise 1 says of it."""
    random = Random(seed)
    limits = draw_limits(random)
    registry = Registry({"ec2": limits}, default=None)
    used = {}

    async def call():
        operation = random.choice(OPERATIONS)
        parameters = {"MaxCount": random.randint(1, 9), "Filters": random.randint(0, 1)}
        await asyncio.sleep(random.choice([0, 0, random.random() * 20]))
        needs = registry.find_call("ec2", operation, parameters=parameters)
        assert needs is not None
        async with needs.queue.slot(keys=needs.keys, cost=needs.cost):
            now = asyncio.get_running_loop().time()
            for owner, limit, units in limits_of(limits, operation, parameters):
                used.setdefault((owner, limit), []).append((now, units))
            await asyncio.sleep(random.random() / 10)

    async with asyncio.TaskGroup() as group:
        for _ in range(120):
            group.create_task(call())
    for (owner, limit), starts in used.items():
        for first, (start, _) in enumerate(starts):
            units = 0.0
            for at, one in starts[first:]:
                units += one
                most = max(limit.burst, starts[first][1]) + (at - start + 0.01) / limit.interval
                assert units <= most + 1e-6, (seed, owner, limit, start, at)


@pytest.mark.parametrize("fair", ["apigateway", "apigatewayv2"])
def test_shared_queue_is_fair_if_one_is(fair):
    """Services that share a queue have one order: the last of `ORDERS` that one of them names."""
    registries = [Registry.parse(f'preset = "aws"\n{one}', check=False) for one in (
        "", f'[{fair}]\norder = "fair"'
    )]  # fmt: skip
    by_arrival = []
    for registry in registries:
        calls = [
            registry.find_call(service, operation)
            for service, operation in (("apigateway", "GetRestApis"), ("apigatewayv2", "GetApis"))
        ]
        assert calls[0].queue is calls[1].queue
        by_arrival.append(introspect.waiters_of(calls[0].queue).ordering is None)
    assert by_arrival == [True, False]
