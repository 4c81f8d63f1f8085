"""Objects that each slot goes through have few enough attributes for CPython to keep them cheap."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections import defaultdict
from types import FunctionType, ModuleType

import pytest

from aioapiqueue import Adaptive, ApiQueue, Concurrency
from tests.helpers import introspect
from tests.helpers.limiters import Limiter, OnHost, Shared

MOST = 29
"""So many attributes of one class share their keys among its instances, from CPython 3.11 on.

One more does on 3.14."""

MOST_OF_DISPATCHER = 22
"""So many does a dispatcher set, so that a reader can bear them in mind."""


def with_attributes(number):
    """Return an instance of a class whose instances have so many attributes."""
    body = "\n".join(f"    self.a{one} = None" for one in range(number))
    namespace = {"__name__": "aioapiqueue.example"}
    exec(f"class Example:\n  def __init__(self):\n{body}", namespace)  # noqa: S102 - as written in code
    return [namespace["Example"]() for _ in range(3)][-1]  # the first ones decide


@pytest.mark.parametrize(("number", "shared"), [(MOST, True), (MOST + 2, False)])
def test_more_attributes_cost_memory(number, shared):
    """Two more, and each instance has its own table of keys, of 500 bytes or more."""
    attributes = vars(with_attributes(number))
    assert (sys.getsizeof(attributes) < 500) is shared


def attributes_of(roots):
    """Return the attributes of each class of the package, of all that can be reached from these."""
    found, seen, left = defaultdict(set), set(), list(roots)
    while left:
        one = left.pop()
        if id(one) in seen or isinstance(one, type | ModuleType):
            continue
        seen.add(id(one))
        module = type(one).__module__ or ""
        if module.startswith("aioapiqueue.") and hasattr(one, "__dict__"):
            found[type(one)] |= vars(one).keys()
        elif not module.startswith(("aioapiqueue", "tests.helpers", "builtins", "collections")):
            continue  # of a loop, one finds what other tests have left there
        if isinstance(one, FunctionType):  # not its module's names, which lead everywhere
            left += [one.__closure__, one.__defaults__, one.__kwdefaults__]
        else:
            left += gc.get_referents(one)
    return found


async def queues_in_use(limiter):
    """Return queues of which one has all that a queue may have, while calls wait and run."""
    make = limiter.quota()
    everything = make(
        *("10/s burst 3", "5 in any 1s", "100 tokens/s burst 100"),
        lanes={"a*": "5/s", "b": "2/s"},
        order="fair",
        adaptive=Adaptive(),
        maxsize=10,
        overflow="drop_oldest",
    )
    queues = [limiter.queue("10/s"), everything]
    for _ in range(4):
        queues[0].enqueue()
        everything.enqueue(keys=("a1", "b"), cost={"tokens": 10}, timeout=50, priority=1)
    await asyncio.sleep(1)
    slot = await everything.enqueue(cost={"tokens": 1})
    slot.settle({"tokens": 2})
    slot.sync(1000, reset=60)
    slot.throttled()
    everything.set_rate("20/s", key="a1")
    await limiter.settled()
    return queues


@pytest.mark.parametrize("kind", ["local", "host", "redis"])
async def test_hot_objects_have_few_attributes(kind, valkey):
    """None of a queue, and of what keeps its limits, has more, whatever the queue is used for."""
    hosts = {
        "local": Limiter,
        "host": lambda: OnHost(examples=1),
        "redis": lambda: Shared(valkey, ahead=0.2, examples=1),
    }
    queues = await queues_in_use(hosts[kind]())
    found = attributes_of([*queues, with_attributes(MOST + 1)])
    numbers = {one.__qualname__: len(names) for one, names in found.items()}
    assert numbers.pop("Example") == MOST + 1
    expected = {"local": "LocalLimiter", "host": "QuotaLimiter", "redis": "SharedLimiter"}
    assert {"ApiQueue", "Dispatcher", expected[kind]} <= set(numbers)
    assert {name: number for name, number in numbers.items() if number > MOST} == {}
    for queue in queues:
        await queue.aclose(drain=False)


def test_attributes_are_counted_in_slots():
    """As in a `__dict__`; those that are not set do not count."""

    class Slotted:
        __slots__ = ("one", "other")

    class Both(Slotted):
        pass

    both = Both()
    both.one = both.third = None
    assert introspect.attributes_of(both) == {"one", "third"}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"lanes": {"a*": ["5/s", Concurrency(3)]}, "strict_lanes": True},
        {"observers": [type("Silent", (), {"on_event": lambda *_: None})()]},
    ],
    ids=["plain", "lanes", "observed"],
)
async def test_dispatcher_sets_few_attributes(options):
    """Whatever the queue is made with, and is used for later."""
    queue = ApiQueue("10/s burst 3", **options)
    made_with = introspect.attributes_of_dispatcher(queue)
    slot = await queue.enqueue(key="a1")
    slot.sync(1000, reset=60)
    slot.throttled()
    queue.set_rate("20/s", key="a2")
    slot.release()
    used = introspect.attributes_of_dispatcher(queue)
    assert used == made_with | {"server_quotas"}  # as it has heard of one
    assert len(made_with) < MOST_OF_DISPATCHER


async def test_wait_queue_has_few_attributes():
    """A wait queue has 19, asyncio's own included, whatever it is used for."""
    queues = await queues_in_use(Limiter())
    for queue in queues:
        assert len(introspect.attributes_of_waiters(queue)) <= 19
        await queue.aclose(drain=False)
