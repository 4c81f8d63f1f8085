"""What each process knows of budgets on a real server: spent, reserved, left, and events."""

from __future__ import annotations

import asyncio
import copy

import pytest

from aioapiqueue import ApiQueue, Budget
from aioapiqueue.integrations.redis import SharedSchedule
from aioapiqueue.spi import QueueReader
from tests.helpers.servers import keys_of
from tests.helpers.virtual_client import VirtualClient

FIVE = "5 usd in all"
HASHES = 2
"""Hashes that each message reads: the clock of the quota, and its state."""


class Crossings:
    """An observer that keeps which shares were crossed, and what was left then."""

    event_kinds = ("threshold",)

    def __init__(self):
        self.seen = []

    def on_event(self, event):
        """Keep it."""
        self.seen.append((event.key, str(*event.limits), event.share, event.remaining, event.unit))

    def shares(self):
        """Return the shares alone, and forget the events."""
        shares, self.seen = [share for _, _, share, _, _ in self.seen], []
        return shares


class Watched:
    """A server that keeps its replies, and counts the hashes that it reads for them."""

    def __init__(self, server):
        self.requests = []
        self.replies = []
        self.hashes = 0
        self._client = server.sync()

    def sync(self):
        """Return what runs the script."""
        return self

    def evalsha(self, *arguments):
        """Run the script that the server knows."""
        self._client.config_resetstat()
        self.requests.append(arguments)
        self.replies.append(self._client.evalsha(*arguments))
        counts = self._client.info("commandstats")
        self.hashes += counts.get("cmdstat_hgetall", {"calls": 0})["calls"]
        return self.replies[-1]

    def eval(self, *arguments):
        """Run the script."""
        return self._client.eval(*arguments)

    def forget(self):
        """Forget what it has counted."""
        self.replies, self.hashes = [], 0


async def exchanged():
    """Let the queues and the server exchange what they have; no time passes."""
    for _ in range(30):
        await asyncio.sleep(0)


def make(valkey, name, *limits, client=None, **options):
    """Make a queue of a quota on a real server."""
    schedule = SharedSchedule(client or VirtualClient(valkey), name)
    return ApiQueue(*(limits or [FIVE]), schedule=schedule, **options)


def usd(amount):
    """Return the options of a call."""
    return {"cost": {"usd": amount}}


async def look(queue, **call):
    """Let a queue ask the server; by default, with a call that costs nothing."""
    (await queue.enqueue(**(usd(0) | call))).release()
    await exchanged()


def use(queue, key=None):
    """Return what a process knows of its only budget for a key: spent, reserved, left."""
    (found,) = QueueReader(queue).snapshot(key).budgets.values()
    assert found.resets_at is None
    return found[:3]


async def test_each_process_sees_the_use(valkey, name):
    """What others spend is known with the next reply, and a settlement with its own."""
    one, other = make(valkey, name), make(valkey, name)
    assert (one.stats.budgets, one.stats.remaining) == ({}, {})  # nothing is known yet
    slots = [await one.enqueue(**usd(amount)) for amount in (2, 0.5)]
    assert (use(one), one.stats.remaining) == ((0, 2.5, 2.5), {"usd": 2.5})
    await look(other)
    assert (use(other), other.stats.remaining) == ((0, 2.5, 2.5), {"usd": 2.5})
    slots[0].settle({"usd": 1.25})
    await exchanged()
    assert (use(one), one.stats.remaining) == ((1.25, 0.5, 3.25), {"usd": 3.25})
    assert use(other) == (0, 2.5, 2.5)  # it asks for nothing
    slots[1].release()
    await exchanged()
    assert use(one) == (1.75, 0, 3.25)
    await look(other)
    assert use(other) == (1.75, 0, 3.25)
    assert str(other.stats.budgets[FIVE]) == "1.75 spent, 0 reserved, 3.25 left"


async def test_reservations_of_all_are_summed(valkey, name):
    """As calls of several processes start, settle, end, and are refunded."""
    queues = [make(valkey, name) for _ in range(3)]
    slots = [await queue.enqueue(**usd(0.1)) for queue in queues for _ in range(3)]
    await look(queues[0])
    assert use(queues[0]) == (0, 0.9, 4.1)
    slots[0].settle({"usd": 0.3})
    slots[3].settle({"usd": 0})
    slots[6].release()
    await exchanged()
    cancelled = queues[2].enqueue(**usd(1))
    cancelled.cancel()
    for queue in queues:
        await look(queue)
        assert use(queue) == (0.4, 0.6, 4)
    for slot in slots[1:3] + slots[4:6] + slots[7:]:
        slot.release()
    await exchanged()
    await look(queues[1])
    assert use(queues[1]) == (1, 0, 4)


async def test_last_settlement_is_known_at_the_end(valkey, name):
    """Of a program that ends with it, and has no other call."""
    seen = Crossings()
    async with make(valkey, name, observers=[seen]) as queue:
        slot = await queue.enqueue(**usd(1))
        slot.settle({"usd": 4.5})
        slot.release()
    assert use(queue) == (4.5, 0, 0.5)
    assert seen.shares() == [0.5, 0.8]
    assert queue.stats.overdrawn == 1


async def test_thresholds_come_once_per_process(valkey, name):
    """Also in a process whose calls crossed none, with its next reply; and never again."""
    mine, theirs = Crossings(), Crossings()
    one = make(valkey, name, observers=[mine])
    other = make(valkey, name, observers=[theirs])
    slot = await one.enqueue(**usd(2.5))
    assert mine.seen == [(None, FIVE, 0.5, 2.5, "usd")]
    assert theirs.seen == []
    await look(other)
    assert theirs.seen == mine.seen
    slot.settle({"usd": 1})
    await exchanged()
    slots = [await one.enqueue(**usd(amount)) for amount in (2, 1.5)]
    await look(other)
    assert mine.shares() == [0.5, 0.8]
    assert theirs.shares() == [0.5, 0.8]
    slots[0].settle({"usd": 3})
    await exchanged()
    await look(other)
    assert (mine.shares(), theirs.shares()) == ([1], [1])
    assert use(other) == (4, 1.5, 0)
    assert one.stats.overdrawn == 1
    assert other.stats.overdrawn == 0


async def test_each_lane_has_its_figures(valkey, name):
    """Beside those of the queue, by key; what is left is the least of each unit."""
    seen = Crossings()
    limits = "9 usd in all", "7 usd in all", "10/s", "20 in all"
    lanes = {"a": "2 usd in all", "tenant:*": "1 usd in all", "plain": "5/s"}
    one = make(valkey, name, *limits, lanes=lanes, observers=[seen])
    other = make(valkey, name, *limits, lanes=lanes)
    await one.enqueue(keys=("a", "tenant:x"), **usd(0.75))
    (await one.enqueue(key="plain", **usd(4))).release()
    await exchanged()
    stats = one.stats
    assert stats.remaining == {"usd": 2.25}  # of calls, the rate decides
    assert {text: found[:3] for text, found in stats.budgets.items()} == {
        "9 usd in all": (4, 0.75, 4.25),
        "7 usd in all": (4, 0.75, 2.25),
        "20 in all": (2, 0, 18),
    }
    assert stats.lanes["a"].remaining == {"usd": 1.25}
    assert stats.lanes["plain"].remaining == stats.lanes["plain"].budgets == {}
    assert (use(one, "a"), use(one, "tenant:x")) == ((0, 0.75, 1.25), (0, 0.75, 0.25))
    assert QueueReader(one).snapshot("tenant:y").budgets == {}
    assert seen.seen == [
        ("tenant:x", "1 usd in all", 0.5, 0.25, "usd"),
        (None, "9 usd in all", 0.5, 4.25, "usd"),
        (None, "7 usd in all", 0.5, 2.25, "usd"),
    ]
    await look(other)  # no message about the lanes
    assert other.stats.remaining == {"usd": 2.25}
    assert other.stats.lanes["a"].budgets == {}
    await look(other, key="tenant:x")
    assert use(other, "tenant:x") == (0, 0.75, 0.25)


async def test_calls_without_key_have_none(valkey, name):
    """Calls without a key may have a lane, "*"; by the key None, there are those of the queue."""
    seen = Crossings()
    queue = make(valkey, name, "100/s", lanes={"*": FIVE}, observers=[seen])
    (await queue.enqueue(**usd(4))).release()
    await look(queue, key="a")
    assert (queue.stats.budgets, seen.seen) == ({}, [])
    assert use(queue, "a") == (0, 0, 5)


async def test_changed_limits_have_other_figures(valkey, name):
    """Those of a replaced budget are dropped; another amount has events of its own."""
    mine, theirs = Crossings(), Crossings()
    one = make(valkey, name, observers=[mine])
    other = make(valkey, name, observers=[theirs])
    (await one.enqueue(**usd(4))).release()
    await look(other)
    assert (mine.shares(), theirs.shares()) == ([0.5, 0.8], [0.5, 0.8])
    one.set_rate("8 usd in all")
    assert (one.stats.budgets, one.stats.remaining) == ({}, {})
    await exchanged()
    assert use(one) == (4, 0, 4)
    await look(other)
    assert use(other) == (4, 0, 4)
    assert (mine.shares(), theirs.shares()) == ([0.5], [0.5])
    one.set_rate("10/s")
    await exchanged()
    await look(other)
    assert one.stats.budgets == other.stats.budgets == {}
    one.set_rate("10/s", FIVE)
    await exchanged()
    assert use(one) == (4, 0, 1)


async def test_reply_of_replaced_limits_is_dropped(valkey, name):
    """One that was under way when the limits changed has no figures and sends no events."""
    seen = Crossings()
    client = VirtualClient(valkey, latency=(0.1, 0.1))
    queue = make(valkey, name, client=client, observers=[seen])
    await look(queue)
    waiting = queue.enqueue(**usd(4))
    await asyncio.sleep(0.15)
    queue.set_rate("100 usd in all")
    await asyncio.sleep(0.1)
    assert (queue.stats.budgets, seen.seen) == ({}, [])
    await waiting
    assert use(queue) == (0, 4, 96)


async def test_budget_begins_with_set_rate(valkey, name):
    """Also in a process that had no budget before."""
    one, other = make(valkey, name, "10/s"), make(valkey, name, "10/s")
    for queue in (one, other):
        (await queue.enqueue()).release()
    await asyncio.sleep(1)  # else a new limit begins with what another has not recovered
    one.set_rate("10/s", "4 in all")
    await exchanged()
    (await other.enqueue()).release()
    assert use(other) == (1, 0, 3)
    assert other.stats.remaining == {}  # the rate may have less


async def test_reset_budget_begins_again(valkey, name):
    """Once its keys are deleted: figures of before are dropped, and events sent again."""
    seen = Crossings()
    lanes = {"a": "2 usd in all"}
    queue = make(valkey, name, lanes=lanes, observers=[seen])
    (await queue.enqueue(key="a", **usd(1))).release()
    (await queue.enqueue(**usd(2))).release()
    assert seen.shares() == [0.5, 0.5]
    await asyncio.sleep(1)
    valkey.sync().delete(*keys_of(valkey, name))
    await look(queue)
    assert use(queue) == (0, 0, 5)
    assert queue.stats.lanes["a"].budgets == {}
    (await queue.enqueue(**usd(3))).release()
    assert seen.shares() == [0.5]


async def test_dead_process_reserves_no_more(valkey, name):
    """Within two leases, what its calls were charged counts as spent."""
    client = VirtualClient(valkey)
    dying, other = make(valkey, name, client=client), make(valkey, name)
    await dying.enqueue(**usd(4))
    client.down = True
    await asyncio.sleep(9)
    await look(other)
    assert use(other) == (0, 4, 1)
    await asyncio.sleep(11.5)
    await look(other)
    assert use(other) == (4, 0, 1)


async def test_sums_take_little_work(valkey, name):
    """The reservations of all processes are added up once in a lease, not for each reply."""
    watched = Watched(valkey)
    client = VirtualClient(watched, outlive=False)
    queue = make(valkey, name, client=client)
    for _ in range(5):
        await make(valkey, name, client=client).enqueue(**usd(0.5))
    await look(queue)
    watched.forget()
    for _ in range(20):
        await look(queue)
    assert len(watched.replies) >= 20
    assert watched.hashes == HASHES * len(watched.replies)
    assert use(queue) == (0, 2.5, 2.5)
    await asyncio.sleep(31)  # three leases, and each process says three times in one that it lives
    assert len(watched.replies) >= 60
    assert 4 <= watched.hashes - HASHES * len(watched.replies) <= 6
    await look(queue)
    assert use(queue) == (0, 2.5, 2.5)


@pytest.mark.parametrize(
    ("limits", "figures"),
    [(("10/s",), 1), (("10/s or raise", "5 in any 1h"), 2), ((FIVE,), 2), (("4 in all", "9/s"), 3)],
)
async def test_other_replies_stay_the_same(valkey, name, limits, figures):
    """Only budgets add to them, two figures each, after those of all other limits."""
    watched = Watched(valkey)
    client = VirtualClient(watched, outlive=False)
    async with make(valkey, name, *limits, client=client) as queue:
        await look(queue, **(usd(1) if limits == (FIVE,) else {"cost": 1}))
    assert len(watched.replies) >= 3
    for _, _, _, (status,), *_ in watched.replies:
        assert len(status) == 4 + figures
    has_budget = any(isinstance(one, Budget) for one in queue.limits)
    assert bool(queue.stats.budgets) == has_budget
    assert bool(queue.stats.remaining) == (limits == (FIVE,))


@pytest.mark.parametrize("limit", ["10/s", "5 in all"])
async def test_figures_can_be_copied(valkey, name, limit):
    """With budgets and without, before the first reply and after it."""
    queue = make(valkey, name, limit, lanes={"a": "3/s"})
    for _ in range(2):
        stats = queue.stats
        assert copy.deepcopy(stats) == stats
        (await queue.enqueue(key="a")).release()
        await exchanged()


async def test_late_message_reserves_nothing(valkey, name):
    """One that arrives after a later one of its process, which said more."""
    watched = Watched(valkey)
    client = VirtualClient(watched, outlive=False)
    queue, other = make(valkey, name, client=client), make(valkey, name)
    await look(queue)
    sha, keys, *arguments = watched.requests[-1]
    await queue.enqueue(**usd(3))
    arguments[keys + 1] = ""  # the instant
    await client.evalsha(sha, keys, *arguments)
    await look(other)
    assert use(other) == (0, 3, 2)


async def test_grant_comes_back_after_an_outage(valkey, name):
    """Of a lost reply, also if other processes have added up the reservations meanwhile."""
    client = VirtualClient(valkey, latency=(0.1, 0.1))
    queue, other = make(valkey, name, client=client), make(valkey, name)
    await look(queue)
    waiting = queue.enqueue(**usd(3))
    await asyncio.sleep(0.15)
    client.down = True
    await asyncio.sleep(0.5)
    waiting.cancel()
    for _ in range(20):
        await asyncio.sleep(10)
        await look(other)
    assert use(other) == (3, 0, 2)
    client.down = False
    await asyncio.sleep(5)
    await look(other)
    assert use(other) == (0, 0, 5)


async def test_killed_processes_are_forgotten(valkey, name):
    """Each had a grant in a reply that may be lost: the server remembers a hundred of them."""
    queue, server = make(valkey, name), valkey.sync()
    await queue.enqueue(**usd(3))
    hashes = [one for one in keys_of(valkey, name) if server.type(one) == b"hash"]
    (key,) = [one for one in hashes if any(b" usd=3=3" in value for value in server.hvals(one))]
    for number in range(300):
        server.hset(key, f"killed {number}", "7 usd=0.5=0.5")
    await asyncio.sleep(100)
    await look(queue)
    assert server.hlen(key) == 101
    assert use(queue) == (0, 3, 2)
