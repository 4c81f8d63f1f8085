"""A client that connects sends what the hub lacks, and is told what it lacks itself."""

from __future__ import annotations

import asyncio
import json
from contextlib import closing
from functools import partial

import pytest

from aioapiqueue import ApiQueue, Rate
from aioapiqueue.spi import statements
from aioapiqueue.testing import VirtualLoop
from tests.helpers import introspect
from tests.helpers.introspect import decisions_of
from tests.helpers.virtual_hub import VirtualHub

decided = introspect.decisions()
wire = introspect.hub_messages()

MANY, LANES = 300, 500


class Client:
    """A process that knows of decisions, and its connection to a hub."""

    def __init__(self, known=()):
        self.decisions = decided.Decisions(asyncio.get_running_loop().time)
        self.decisions.merge(known, known.newest() if known else {})
        self.sent = self.received = self.told = 0

    def connect(self, quotas):
        """Say what it has; what the hub says is heard at once."""
        terms = wire.Terms((), {}, None, 0.05, None, ("calls",)).as_json()
        newest = self.decisions.newest()
        hello = {"kind": "name", "quota": "crm", "terms": terms, "newest": newest}
        self.end = quotas.welcome(json.loads(json.dumps(hello)), self._hear)
        self.hub_newest = decided.newest_from(self.end.hello()["newest"])

    def _hear(self, client):
        messages, client.outbox = [json.loads(one) for one in client.outbox], []
        for kind, *parts in messages:
            if kind == "decided":
                self.received += len(parts[0])
                self.told += len(parts[1])
                self.decisions.merge(
                    map(decided.Decision.from_json, parts[0]), decided.newest_from(parts[1])
                )

    def decide(self, *statements):
        """Decide something, and tell the hub."""
        made = self.decisions.make(*statements)
        self._send(made, {one.stamp.maker: one.stamp.at for one in made})

    def answer(self):
        """Send what the hub lacks."""
        self._send(self.decisions.newer_than(self.hub_newest), self.decisions.newest())

    def _send(self, decisions, newest):
        self.sent += len(decisions)
        self.end.receive([["decided", [one.as_json() for one in decisions], newest]])


@pytest.fixture
def quotas():
    """A hub that knows nothing."""
    return introspect.hub_quotas()


def known_to_all():
    """Return what all know of 500 lanes."""
    decisions = decided.Decisions(asyncio.get_running_loop().time)
    decisions.make(
        *(statements.SetLimits(f"tenant:{number}", (Rate(5),)) for number in range(LANES))
    )
    return decisions


def all_same(quotas, clients):
    """Return whether all clients and the hub know the same, and lack nothing of each other."""
    (quota,) = quotas
    hub = quota.decisions
    return all(
        list(one.decisions) == list(hub) and one.decisions.newest() == hub.newest()
        for one in clients
    )


async def settled():
    """Let the hub tell all what it has to."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


@pytest.mark.parametrize("own", [0, 10])
async def test_many_reconnect_to_a_new_hub(quotas, own):
    """All send what they know; each is told only what it did not know, once.

    That includes up to when each maker's decisions are known.
    """
    known = known_to_all()
    clients = [Client(known) for _ in range(MANY)]
    for number, client in enumerate(clients[:own]):
        client.decisions.make(statements.SetLimits(f"own:{number}", (Rate(1),)))
    for client in clients:
        client.connect(quotas)
    for client in clients:
        client.answer()
    await settled()
    assert sum(client.received for client in clients) == own * (MANY - 1)
    assert sum(client.told for client in clients) == (own + (own > 0)) * (MANY - 1)
    assert all_same(quotas, clients)


async def test_later_clients_send_nothing_again(quotas):
    """The hub says what it knows by then."""
    known = known_to_all()
    clients = [Client(known) for _ in range(10)]
    for client in clients:
        client.connect(quotas)
        client.answer()
    await settled()
    assert [client.sent for client in clients] == [LANES, *[0] * 9]
    assert all_same(quotas, clients)


async def test_newcomer_sends_what_it_alone_knows(quotas):
    """And is sent the rest, once, with up to when it knows all then."""
    one, other = Client(), Client()
    one.connect(quotas)
    one.decide(statements.SetLimits(None, (Rate(5),)))
    other.decisions.make(statements.SetLimits("a", (Rate(2),)))
    other.connect(quotas)
    other.answer()
    await settled()
    assert (one.sent, one.received, other.sent, other.received) == (1, 1, 1, 1)
    assert all_same(quotas, [one, other])


async def test_unknown_message_is_named(quotas):
    """A hub that refuses a message says which, as its client may be of another version."""
    client = Client()
    client.connect(quotas)
    with pytest.raises(KeyError, match="unknown message 'dance'"):
        client.end.receive([["dance"]])


async def test_queues_send_what_is_news():
    """Twenty queues and a new hub: each sends what it knows in one message, and what is new."""
    hub = VirtualHub()
    queues = [ApiQueue("100/s", schedule=hub.schedule("crm")) for _ in range(20)]
    slots = [await queue.enqueue() for queue in queues]
    for number in range(30):
        queues[number % 20].set_rate("5/s", key=f"tenant:{number}")
    await asyncio.sleep(1)
    hub.log.clear()
    hub.down = True
    hub.kill()
    queues[7].set_rate("1/s")
    hub.down = False
    await asyncio.sleep(5)
    sent = [message[1] for message in hub.log if message[0] == "decided"]
    assert len(sent) <= 2 * len(queues)
    (quota,) = hub.quotas
    for queue in queues:
        assert list(decisions_of(queue)) == list(decisions_of(quota))
    for slot in slots:
        slot.release()


async def test_a_stopped_queue_delays_no_decision():
    """Another one that knows it tells the new hub at once."""
    hub = VirtualHub()
    queues = [ApiQueue("100/s", schedule=hub.schedule("crm")) for _ in range(2)]
    slots = [await queue.enqueue() for queue in queues]
    queues[0].set_rate("5/s")
    await asyncio.sleep(1)
    hub.links[0].silent = True
    hub.kill()
    await asyncio.sleep(0.1)
    assert [quota.as_json()["limits"] for quota in hub.quotas] == [["5/s"]]
    hub.links[0].silent = False
    await asyncio.sleep(1)
    (quota,) = hub.quotas
    for queue in queues:
        assert list(decisions_of(queue)) == list(decisions_of(quota))
    for slot in slots:
        slot.release()


async def test_change_of_others_is_reported_once():
    """Whatever is sent again: to each that has not made it, and never as of others to its maker."""

    class Origins(list):
        """Notes whose changes of limits there are."""

        def on_event(self, event):
            """Note one."""
            if event.kind == "limits_changed":
                self.append(event.origin)

    hub, heard = VirtualHub(), [Origins(), Origins()]
    queues = [ApiQueue("9/s", schedule=hub.schedule("crm"), observers=[one]) for one in heard]
    slots = [await queue.enqueue() for queue in queues]
    queues[0].set_rate("5/s")
    await settled()
    for link in (*hub.links, *hub.links):
        link.lose("lost")
        await asyncio.sleep(1)
    hub.kill()
    await asyncio.sleep(2)
    assert heard == [["user"], ["others"]]
    for slot in slots:
        slot.release()


def test_forgotten_pause_needs_no_hub():
    """It was made on another clock, and no hub has heard of it: none is to be kept for it."""
    hub = VirtualHub()
    hub.down = True
    queue = ApiQueue("10/s", schedule=hub.schedule("crm"))
    (link,) = hub.links

    async def pause():
        queue.pause(60)
        await asyncio.sleep(3)

    async def use():
        hub.down = False
        async with queue.slot():
            assert link.owner.is_needed
        await asyncio.sleep(1)
        assert not link.owner.is_needed
        await queue.aclose()

    for part in (pause, use):
        with closing(VirtualLoop()) as loop:
            loop.run_until_complete(part())


async def test_hold_reaches_a_lane_that_comes_later():
    """A new hub hears of it before anybody has a lane of that key: the other calls go on."""
    hub = VirtualHub()
    plain = ApiQueue("100/s", schedule=hub.schedule("crm"))
    laned = ApiQueue(lanes={"search": "50/s"}, schedule=hub.schedule("crm"))
    for queue in (laned, plain):
        (await queue.enqueue(key="search")).release()
    await settled()
    began = asyncio.get_running_loop().time()
    plain.hold(20, key="search")
    waiting = [queue.enqueue(key="search") for queue in (plain, laned)]
    hub.links[1].blocked = True
    hub.kill()
    await asyncio.sleep(3)
    async with asyncio.timeout(0.1), plain.slot():
        pass
    hub.links[1].blocked = False
    for one in waiting:
        (await one).release()
        assert 20 <= asyncio.get_running_loop().time() - began <= 21


@pytest.mark.parametrize("newest", [5, [1], {"a": "b"}, {"a": 1.5}])
async def test_wrong_instants_are_refused(quotas, newest):
    """By an error that the hub answers."""
    client = Client()
    client.decisions.newest = partial(lambda: newest)
    with pytest.raises((TypeError, ValueError)):
        client.connect(quotas)


@pytest.mark.parametrize("decision", [[], [5], 7, [None, "a", "resume", [], None]])
async def test_malformed_decisions_are_refused(quotas, decision):
    """By an error that the hub answers, even before the decision is read."""
    client = Client()
    client.connect(quotas)
    with pytest.raises((TypeError, ValueError)):
        client.end.receive([["decided", [decision], {}]])
