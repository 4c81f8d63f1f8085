"""Budgets on a real server, in virtual time: several processes, and one sum."""

from __future__ import annotations

import asyncio
import logging

import pytest

from aioapiqueue import ApiQueue, Budget, LimitExceeded, SharedError
from aioapiqueue.integrations.redis import SharedSchedule
from tests.helpers.instants import now
from tests.helpers.servers import HOST, Server, keys_of
from tests.helpers.virtual_client import VirtualClient

FIVE = "5 usd in all"


async def exchanged():
    """Let the queues and the server exchange what they have; no time passes."""
    for _ in range(30):
        await asyncio.sleep(0)


def make(valkey, name, *limits, client=None, schedule=None, **options):
    """Make a queue of a quota on a real server."""
    client = client or VirtualClient(valkey)
    shared = SharedSchedule(client, name, **(schedule or {}))
    return ApiQueue(*(limits or [FIVE]), schedule=shared, **options)


def usd(amount):
    """Return the options of a call."""
    return {"cost": {"usd": amount}}


async def outcome(waiting):
    """Return the error that a call raises, or None if it starts; release its slot."""
    try:
        slot = await waiting
    except LimitExceeded as error:
        return error
    slot.release()
    return None


async def left(queue, **call):
    """Return how much a budget has left: what an impossible call is refused with."""
    with pytest.raises(LimitExceeded) as caught:
        await queue.enqueue(**(call or usd(1000)))
    return caught.value.remaining


async def test_parallel_calls_share_a_budget(valkey, name):
    """All of them start at once, as far as the sum goes; money is exact."""
    queues = [make(valkey, name) for _ in range(4)]
    calls = [queue.enqueue(**usd(0.01)) for _ in range(150) for queue in queues]
    found = await asyncio.gather(*map(outcome, calls))
    assert found.count(None) == 500
    assert now() <= 1
    assert await left(queues[0]) == 0


async def test_error_says_what_is_left(valkey, name):
    """It has the limit, the cost, what is left, and the key of a lane."""
    queue = make(valkey, name, "10000/s", lanes={"tenant:*": FIVE})
    (await queue.enqueue(key="tenant:a", **usd(4.5))).release()
    with pytest.raises(LimitExceeded) as caught:
        await queue.enqueue(key="tenant:a", **usd(0.75))
    error = caught.value
    assert (error.limit, error.cost, error.remaining) == (Budget(5, "usd"), 0.75, 0.5)
    assert (error.resets_in, error.key) == (None, "tenant:a")
    assert str(error) == (
        "the budget \"5 usd in all\" of the lane 'tenant:a' has 0.5 usd left, and this call would "
        "cost 0.75 usd: make no further calls, or pass all limits with a larger budget to "
        "set_rate(..., key='tenant:a')"
    )
    assert await left(queue, key="tenant:b", **usd(6)) == 5  # a budget of its own
    assert queue.stats.refused == 2


async def test_settlement_makes_room(valkey, name):
    """A call waits for what others may give back, in its process or another."""
    one, other = make(valkey, name), make(valkey, name)
    mine, theirs = await one.enqueue(**usd(2)), await other.enqueue(**usd(2.5))
    waiting = one.enqueue(**usd(1.5))
    await asyncio.sleep(5)
    assert not waiting.done()
    mine.settle({"usd": 1.5})
    await asyncio.sleep(5)
    assert not waiting.done()  # 1 left
    theirs.settle({"usd": 2})
    assert await outcome(waiting) is None
    assert 10 <= now() <= 11  # it asks each second
    assert await left(other) == 0


async def test_end_of_reservations_raises(valkey, name):
    """A call that waits for a reservation raises once that has ended without a settlement."""
    one, other = make(valkey, name), make(valkey, name)
    slots = [await queue.enqueue(**usd(2)) for queue in (one, other)]
    waiting = [one.enqueue(**usd(2)), other.enqueue(**usd(3))]
    await asyncio.sleep(3.5)
    assert not any(one.done() for one in waiting)
    slots[0].release()
    await asyncio.sleep(0.7)
    assert [one.done() for one in waiting] == [False, False]  # 2 may yet come back
    slots[1].release()
    await exchanged()
    assert [one.done() for one in waiting] == [False, True]  # its own process knows at once
    assert [(await outcome(one)).remaining for one in waiting] == [1, 1]
    assert now() <= 5.5


async def test_calls_never_wait_for_calls(valkey, name):
    """In the unit `calls`, what is reserved is known: a call raises at once."""
    one, other = (make(valkey, name, "3 in all") for _ in range(2))
    slots = [await queue.enqueue() for queue in (one, other, one)]
    error = await outcome(other.enqueue())
    assert (error.remaining, now()) == (0, 0)
    for slot in slots:
        slot.release()
    assert (await outcome(one.enqueue())).limit == Budget(3)


async def test_too_large_a_cost_raises(valkey, name):
    """It raises at once, also behind a call that waits."""
    queue = make(valkey, name)
    held = await queue.enqueue(**usd(4))
    waiting = queue.enqueue(**usd(2))
    await exchanged()
    error = await outcome(queue.enqueue(**usd(5.01)))
    assert now() <= 1
    assert "split the call" in str(error)
    assert not waiting.done()
    held.settle({"usd": 3})
    assert await outcome(waiting) is None


async def test_settling_above_is_charged(valkey, name):
    """It is charged in full, and nothing starts until there is room again."""
    one, other = make(valkey, name), make(valkey, name)
    slot, later = await one.enqueue(**usd(4)), await other.enqueue(**usd(1))
    slot.settle({"usd": 6})
    await exchanged()
    assert await left(other) == 0
    waiting = one.enqueue(**usd(0.5))
    later.settle({"usd": 0})
    await asyncio.sleep(2)
    assert (await outcome(waiting)).remaining == 0
    slot.settle({"usd": 4.5})  # a second settlement replaces the first
    await exchanged()
    assert await left(other) == 0.5
    assert await outcome(other.enqueue(**usd(0.5))) is None


async def test_settlement_counts_once(valkey, name):
    """Also if its reply is lost, and it is sent again."""
    client = VirtualClient(valkey, latency=(0.1, 0.1))
    queue, other = make(valkey, name, client=client), make(valkey, name)
    slot = await queue.enqueue(**usd(4))
    slot.settle({"usd": 3})
    await asyncio.sleep(0.15)
    client.down = True
    await asyncio.sleep(1)
    client.down = False
    await asyncio.sleep(5)
    assert await left(other) == 2


async def test_settlement_outlasts_an_outage(valkey, name):
    """What comes back after minutes comes back: a budget never recovers by itself."""
    client = VirtualClient(valkey)
    queue, other = make(valkey, name, client=client), make(valkey, name)
    slot = await queue.enqueue(**usd(5))
    client.down = True
    slot.settle({"usd": 1})
    await asyncio.sleep(600)
    client.down = False
    await asyncio.sleep(5)
    assert await left(other) == 4


async def test_dead_process_stays_charged(valkey, name):
    """Its calls may have been billed; no call waits for them once it counts as dead."""
    client = VirtualClient(valkey)
    dying, other = make(valkey, name, client=client), make(valkey, name)
    await dying.enqueue(**usd(4))
    client.down = True
    waiting = other.enqueue(**usd(2))
    await asyncio.sleep(9)
    assert not waiting.done()
    await asyncio.sleep(3)
    assert waiting.done()
    assert (await outcome(waiting)).remaining == 1
    await asyncio.sleep(100)
    assert await left(other) == 1


async def test_long_calls_are_waited_for(valkey, name):
    """A process with a running call says that it lives, though it asks for nothing."""
    one, other = make(valkey, name), make(valkey, name)
    slot = await one.enqueue(**usd(4))
    waiting = other.enqueue(**usd(2))
    await asyncio.sleep(100)
    assert not waiting.done()
    slot.settle({"usd": 3})
    assert await outcome(waiting) is None


@pytest.mark.parametrize("key", [None, "a"])
async def test_waiting_call_asks_once_a_second(valkey, name, key):
    """It waits for a reservation of another process, whose end the server learns of at once."""
    limits = {"lanes": {"a": FIVE}} if key else {}
    one, other = (make(valkey, name, *(["100/s"] if key else []), **limits) for _ in range(2))
    slot = await one.enqueue(key=key, **usd(4))
    waiting = other.enqueue(key=key, **usd(2))
    before = other.stats.asks
    await asyncio.sleep(60)
    assert 50 <= other.stats.asks - before <= 70
    slot.settle({"usd": 1})
    await asyncio.sleep(1.1)
    assert waiting.done()


async def test_cancelled_slots_come_back(valkey, name):
    """Granted to calls that are cancelled before they run, or while the reply is under way."""
    client = VirtualClient(valkey, latency=(0.001, 0.001))
    queue, other = make(valkey, name, client=client), make(valkey, name)
    await outcome(queue.enqueue(**usd(0)))
    waiting = [queue.enqueue(**usd(1)) for _ in range(4)]
    await asyncio.sleep(0.001)
    for one in waiting:
        one.cancel()
    await asyncio.sleep(1)
    assert await left(other) == 5


@pytest.mark.parametrize("lost", ["reply", "request"])
async def test_lost_reply_comes_back(valkey, name, lost):
    """Slots whose reply was lost come back, although their calls have left."""
    client = VirtualClient(valkey, latency=(0.1, 0.1))
    queue = make(valkey, name, client=client, lanes={"a": "3 in all"})
    other = make(valkey, name, lanes={"a": "3 in all"})
    await outcome(queue.enqueue(**usd(0)))
    waiting = [queue.enqueue(key="a", **usd(1)) for _ in range(3)]
    await asyncio.sleep(0.05 if lost == "request" else 0.15)
    client.down = True
    await asyncio.sleep(0.5)
    for one in waiting:
        one.cancel()
    client.down = False
    await asyncio.sleep(5)
    assert await left(other) == 5
    for _ in range(3):
        assert await outcome(other.enqueue(key="a", **usd(1))) is None


async def test_lost_reply_of_another_lane_comes_back(valkey, name):
    """Also if the first message after it is about a call of another lane."""
    client, lanes = VirtualClient(valkey, latency=(0.1, 0.1)), {"*": "3 usd in all"}
    queue, other = make(valkey, name, "100/s", client=client, lanes=lanes), None
    slot = await queue.enqueue(key="b", **usd(2))
    waiting = queue.enqueue(key="a", **usd(2))
    await asyncio.sleep(0.05)
    slot.settle({"usd": 1})
    await asyncio.sleep(0.1)
    client.down = True
    await asyncio.sleep(0.5)
    waiting.cancel()
    client.down = False
    await asyncio.sleep(5)
    other = make(valkey, name, "100/s", lanes=lanes)
    assert await left(other, key="a", **usd(1000)) == 3
    assert await left(other, key="b", **usd(1000)) == 2


async def test_nothing_is_lent_ahead(valkey, name):
    """Of a paced budget, a process is granted a slot only when it is due."""
    client = VirtualClient(valkey)
    dying = make(valkey, name, "10/s", FIVE, client=client, schedule={"ahead": 2})
    waiting = [dying.enqueue(**usd(1)) for _ in range(5)]
    (await waiting[0]).release()
    await asyncio.sleep(0.05)
    client.down = True
    other = make(valkey, name, "10/s", FIVE)
    assert await left(other) == 4


async def test_calls_behind_may_start(valkey, name):
    """A refused call holds up none of those behind it."""
    queue = make(valkey, name)
    costs = [2, 4, 4, 1, 3, 1]
    calls = [queue.enqueue(**usd(cost)) for cost in costs]
    for one in calls[:1]:
        (await one).release()
    found = [await outcome(one) is None for one in calls[1:]]
    assert found == [False, False, True, False, True]
    assert now() <= 1


async def test_every_limit_of_a_call_raises(valkey, name):
    """A call under several budgets is charged to all, or to none."""
    lanes = {"a": "2 usd in all", "b": "3 usd in all"}
    one, other = (make(valkey, name, lanes=lanes) for _ in range(2))
    assert await outcome(one.enqueue(keys=("a", "b"), **usd(2))) is None
    error = await outcome(other.enqueue(keys=("a", "b"), **usd(1)))
    assert (error.key, error.remaining) == ("a", 0)
    assert await left(other) == 3
    assert await outcome(other.enqueue(key="b", **usd(1))) is None
    assert (await outcome(one.enqueue(key="b", **usd(1)))).key == "b"


async def test_set_rate_keeps_what_was_spent(valkey, name):
    """Another amount, a window in its place, and back: it is still spent."""
    one, other = make(valkey, name), make(valkey, name)
    await outcome(one.enqueue(**usd(4)))
    assert (await outcome(other.enqueue(**usd(2)))).limit == Budget(5, "usd")
    one.set_rate("8 usd in all")
    await exchanged()
    assert await left(other) == 4
    assert other.limits == (Budget(8, "usd"),)
    one.set_rate("5 usd in any 100s")
    waiting = other.enqueue(**usd(2))
    await asyncio.sleep(90)
    assert not waiting.done()  # the window counts the 4 as well
    await asyncio.sleep(11)
    assert await outcome(waiting) is None
    one.set_rate("7 usd in all")
    await exchanged()
    assert await left(one) == 3  # and what was spent before
    one.set_rate("3 usd in all")
    await exchanged()
    assert await left(one) == 0


async def test_window_hands_over_its_calls(valkey, name):
    """A budget in the place of a window begins with what that counts."""
    one, other = (make(valkey, name, "5 usd in any 1h") for _ in range(2))
    await outcome(one.enqueue(**usd(4)))
    await outcome(other.enqueue(**usd(1)))
    other.set_rate("8 usd in all")
    await exchanged()
    assert await left(other) == 3


async def test_keys_of_a_budget_never_expire(valkey, name):
    """Neither the queue's key, nor that of a lane that was ever charged; others do."""
    lanes = {"tenant:*": "1 usd in all"}
    async with make(valkey, name, "100/s", lanes=lanes) as queue:
        for cost in (0.5, 0):
            await outcome(queue.enqueue(key=f"tenant:{cost}", **usd(cost)))
        await outcome(queue.enqueue(**usd(1)))
    async with make(valkey, name, "50/s", lanes={"tenant:*": "10/s"}) as later:  # without a budget
        await outcome(later.enqueue(key="tenant:0.5"))
    kept = {key for key, seconds in keys_of(valkey, name).items() if seconds is None}
    base = f"{{aioapiqueue:{name}}}"
    assert kept == {base, f'{base}:lane:"tenant:0.5"'}
    for key in keys_of(valkey, name):
        if key not in kept:
            valkey.sync().delete(key)
    queue = make(valkey, name, "100/s", lanes=lanes)
    assert await left(queue, key="tenant:0.5", **usd(2)) == 0.5


async def test_deleted_keys_reset_a_budget(valkey, name):
    """What is settled later, for calls from before, gives nothing back."""
    queue = make(valkey, name)
    slots = [await queue.enqueue(**usd(2)) for _ in range(2)]
    valkey.sync().delete(*keys_of(valkey, name))
    await asyncio.sleep(1)
    (await queue.enqueue(**usd(3))).release()
    for slot in slots:
        slot.settle({"usd": 0})
    await exchanged()
    assert await left(queue) == 2


async def test_fallback_starts_no_call(valkey, name):
    """While the server is away, only it knows what is left; other calls go on."""
    client = VirtualClient(valkey)
    queue = make(
        valkey, name, "10/s", client=client, schedule={"fallback": "5/s"}, lanes={"a": FIVE}
    )
    await outcome(queue.enqueue(key="a", **usd(1)))
    client.down = True
    waiting = queue.enqueue(key="a", **usd(1))
    await outcome(queue.enqueue(**usd(1)))
    await asyncio.sleep(20)
    assert not waiting.done()
    client.down = False
    assert await outcome(waiting) is None


async def test_changed_limits_end_the_wait(valkey, name):
    """A larger amount makes room for the waiting calls."""
    one, other = make(valkey, name), make(valkey, name)
    await one.enqueue(**usd(4))
    waiting = other.enqueue(**usd(3))
    await asyncio.sleep(2)
    one.set_rate("7 usd in all")
    assert await outcome(waiting) is None
    assert now() <= 3


async def test_hold_delays_the_refusal(valkey, name):
    """During a hold nothing is refused: what there will be room for is not known."""
    queue = make(valkey, name)
    await outcome(queue.enqueue(**usd(5)))
    queue.hold(10)
    waiting = queue.enqueue(**usd(1))
    await asyncio.sleep(9)
    assert not waiting.done()
    assert (await outcome(waiting)).remaining == 0
    assert now() == pytest.approx(10, abs=0.01)


@pytest.mark.real
@pytest.mark.parametrize("is_mended", [False, pytest.param(True, marks=pytest.mark.slow)])
async def test_eviction_is_refused(name, is_mended):
    """A server that may evict keys is refused, and used once that has changed."""
    options = {"maxmemory-policy": "allkeys-lru"}
    with Server(maxmemory="50mb", options=options) as server:
        async with make(server, name) as queue, make(server, name + "2", "10/s") as plain:
            with pytest.raises(SharedError, match=r"maxmemory-policy is allkeys-lru.*noeviction"):
                await queue.enqueue(**usd(1))
            assert keys_of(server, name) == {}
            assert await outcome(plain.enqueue()) is None  # it has no budget
            if is_mended:
                server.sync().config_set("maxmemory-policy", "noeviction")
                await asyncio.sleep(5)
                assert await outcome(queue.enqueue(**usd(1))) is None


@pytest.mark.real
async def test_unknown_policy_is_warned_of(name, caplog):
    """A user who may not ask for it uses the server all the same."""
    users = {"few": ("secret", "~{aioapiqueue:*}* +@all -info")}
    with Server(users=users) as server:
        target = server.client(username="few", password=users["few"][0])
        with caplog.at_level(logging.WARNING, "aioapiqueue"):
            async with target, make(server, name, client=target) as queue:
                assert await outcome(queue.enqueue(**usd(1))) is None
                assert await outcome(queue.enqueue(**usd(1))) is None
        assert [one.levelname for one in caplog.records] == ["WARNING"]
        assert "maxmemory-policy" in caplog.text
        assert HOST not in caplog.text


# "or raise" of other limits.


async def test_rate_raises_at_once(valkey, name):
    """It names the time until there is room, and never lets a call wait."""
    one, other = (make(valkey, name, "2/s burst 2 or raise") for _ in range(2))
    found = [await outcome(queue.enqueue()) for queue in (one, other, one)]
    assert found[:2] == [None, None]
    assert found[2].resets_in == pytest.approx(0.5)
    assert "call again in 0.5 s, or remove" in str(found[2])
    assert (found[2].remaining, now()) == (0, 0)
    await asyncio.sleep(0.5)
    assert await outcome(other.enqueue()) is None
    assert await outcome(one.enqueue()) is not None
    assert now() == pytest.approx(0.5)


async def test_window_raises_unless_reserved(valkey, name):
    """Tokens of running calls may come back; of calls, nothing does."""
    limits = "100 tokens in any 60s or raise", "3 in any 60s or raise"
    one, other = (make(valkey, name, *limits) for _ in range(2))
    slot = await one.enqueue(cost={"tokens": 90})
    waiting = other.enqueue(cost={"tokens": 50})
    await asyncio.sleep(5)
    assert not waiting.done()
    slot.settle({"tokens": 40})
    assert await outcome(waiting) is None
    error = await outcome(one.enqueue(cost={"tokens": 20}))
    assert (error.cost, error.remaining) == (20, 10)
    assert error.resets_in == pytest.approx(60 - now(), abs=0.1)
    assert await outcome(one.enqueue(cost={"tokens": 1})) is None
    error = await outcome(one.enqueue(cost={"tokens": 1}))
    assert str(error.limit) == "3 in any 1min or raise"


async def test_concurrency_raises(valkey, name):
    """A call raises while all permits are in use, in whichever process."""
    one, other = (make(valkey, name, "2 at once or raise") for _ in range(2))
    slots = [await queue.enqueue() for queue in (one, other)]
    error = await outcome(other.enqueue())
    assert str(error).startswith('the limit "2 at once or raise" is used up: call again when')
    assert (error.cost, error.remaining, error.resets_in, now()) == (1, 0, None, 0)
    slots[0].release()
    await exchanged()
    assert await outcome(other.enqueue()) is None
    assert now() == 0
