"""The seam between a dispatcher and its limiter: few members, and no server's quotas in it."""

from __future__ import annotations

import asyncio
import inspect
from itertools import combinations

import pytest

from aioapiqueue import ApiQueue
from aioapiqueue.spi import Dispatcher, Host, seam
from aioapiqueue.spi import statements as _statements
from tests.core.test_hot_objects import attributes_of
from tests.helpers import introspect


def members(protocol):
    """Return the public names that a protocol asks for."""
    names = {*vars(protocol), *vars(protocol).get("__annotations__", ())}
    return {name for name in names if not name.startswith("_")}


@pytest.mark.parametrize(("protocol", "most"), [(seam.Limiter, 14), (Host, 12)])
def test_few_members(protocol, most):
    """All that either side may ask of the other fits on a page; a new verb is a statement."""
    found = members(protocol)
    assert found > {seam.Limiter: {"traits", "apply"}, Host: {"loop", "emit"}}[protocol]
    assert len(found) <= most, sorted(found)


def test_statements_of_two_kinds_differ():
    """Even if they have the same parts: to set no limits is not to learn that there are none."""
    kinds = [one for one in vars(_statements).values() if hasattr(one, "_field_defaults")]
    some = [one(*range(len(one._fields) - 1)) for one in kinds]
    assert len(some) == 10
    assert all(one == type(one)(*one) for one in some)
    assert not any(one == other or hash(one) == hash(other) for one, other in combinations(some, 2))
    with pytest.raises(AttributeError):
        some[0].kind = "another"


@pytest.mark.parametrize(
    ("method", "name"),
    [(Dispatcher.follow, "class Dispatcher:"), (ApiQueue.slot, "class ApiQueue(")],
)
def test_core_can_be_read(method, name):
    """In one sitting: what only some queues need is a follower, or a policy."""
    source = inspect.getsource(inspect.getmodule(method))
    assert name in source
    assert len(source.splitlines()) <= 600


def of_servers(queue):
    """Return what a queue's objects have that is for what servers say: classes and attributes."""
    found = {
        one.__qualname__ for one in attributes_of([queue]) if "_server_quotas" in one.__module__
    }
    if "server_quotas" in introspect.attributes_of_dispatcher(queue):
        found.add("Dispatcher")
    if "server_quotas" in introspect.attributes_of_limiter(queue):
        found.add("LocalLimiter")
    return found


async def use(queue):
    """Use a queue for all that needs no word from a server."""
    calls = [asyncio.create_task(one_call(queue)) for _ in range(5)]
    await asyncio.gather(*calls)
    (await queue.enqueue(key="a", cost={"tokens": 1})).settle({"tokens": 2})
    queue.enqueue(key="a", cost={"tokens": 1}).cancel()
    queue.set_rate("20/s", key="a")
    await asyncio.sleep(10)


async def one_call(queue):
    """Make a call that is pushed back."""
    async with queue.slot(key="a", cost={"tokens": 1}) as slot:
        slot.throttled()


@pytest.mark.parametrize("wrong", [{"unit": "tokens"}, {"key": "a*"}])
async def test_refused_report_is_not_heard(wrong):
    """What a server cannot say makes no difference: from then on, each slot costs as much."""
    queue = ApiQueue("10/s", lanes={"a*": "5/s"})
    with pytest.raises(ValueError, match=r"unit|pattern"):
        queue.sync(5, **wrong)
    async with queue.slot() as slot:
        with pytest.raises(ValueError, match="unit"):
            slot.sync(5, unit="tokens")
    assert of_servers(queue) == set()


async def test_nothing_of_servers_until_then():
    """A queue that hears of no server has no object, attribute or follower for what they say."""
    plain, queue = ApiQueue("10/s"), ApiQueue("10/s", "100 tokens/s", lanes={"*": "5/s"})
    async with plain.slot():
        pass
    assert introspect.followers_of(plain) is None
    await use(queue)
    followers = introspect.followers_of(queue).members
    assert of_servers(plain) == of_servers(queue) == set()
    async with queue.slot(key="a", cost={"tokens": 1}) as slot:
        slot.sync(100, unit="tokens", reset=60)
    assert {"Dispatcher", "LocalLimiter", "ServerQuotas"} <= of_servers(queue)
    assert len(introspect.followers_of(queue).members) == len(followers) + 1


async def test_local_limiter_has_few_parts():
    """Its limits, its lines and its holds are objects, whatever the queue has received."""
    queue = ApiQueue("10/s", "100 tokens/s", lanes={"*": "5/s"}, concurrency=5)
    await use(queue)
    async with queue.slot(key="a", cost={"tokens": 1}) as slot:
        slot.sync(100, unit="tokens", reset=60)
    assert len(introspect.attributes_of_limiter(queue)) <= 12
