"""What a process knows of budgets that a hub keeps: figures, and events as they are used up."""

from __future__ import annotations

import asyncio

import pytest

from aioapiqueue import ApiQueue, LimitExceeded
from tests.helpers.limiters import Limiter, OnHost
from tests.helpers.virtual_hub import VirtualHub

DAY = 86_400


def usd(amount):
    """Return a cost in money."""
    return {"usd": amount}


class Seen:
    """An observer that collects `threshold` events."""

    def __init__(self):
        self.events = []

    def on_event(self, event):
        """Note the key, the limit and the share of an event."""
        if event.kind == "threshold":
            self.events.append((event.key, str(event.limits[0]), event.share))

    @property
    def shares(self):
        """The shares of all events."""
        return [share for *_, share in self.events]


@pytest.fixture
def hub(open_journal, blockbuster):
    """A hub with a file that outlasts it."""
    blockbuster.deactivate()
    return VirtualHub(open_journal)


async def settled():
    """Let all queues and the hub talk; no time passes."""
    for _ in range(20):
        await asyncio.sleep(0)


def figures(stats):
    """Return what is spent, reserved and left of each budget."""
    return {limit: tuple(use[:3]) for limit, use in stats.budgets.items()}


def received_by(hub):
    """Collect the figures that each queue is sent: for each link a list of messages."""
    found = []
    for link in hub.links:
        found.append([])
        link.owner.receive = _noting(link.owner.receive, found[-1])
    return found


def _noting(receive, found):
    def noting(messages):
        found.extend(parts[0] for kind, *parts in messages if kind == "budgets")
        receive(messages)

    return noting


@pytest.mark.parametrize("kind", [Limiter(), OnHost(examples=1)], ids=["alone", "host"])
async def test_figures_of_a_budget(kind):
    """A hub tells a queue what one that keeps its own limits knows, and at the same instants."""
    seen = Seen()
    queue = kind.queue("5 usd in all", "8 in each day", observers=[seen])
    slot = await queue.enqueue(cost=usd(2))
    await kind.settled()
    day = "8 in each day"
    assert figures(queue.stats) == {"5 usd in all": (0, 2, 3), day: (1, 0, 7)}
    assert queue.stats.budgets["5 usd in all"].resets_at is None
    assert queue.stats.budgets[day].resets_at == DAY
    assert queue.stats.remaining == {"usd": 3, "calls": 7}
    slot.settle(usd(2.5))
    await kind.settled()
    assert figures(queue.stats)["5 usd in all"] == (2.5, 0, 2.5)
    assert queue.stats.overdrawn == 1
    slot.release()
    unsettled = await queue.enqueue(cost=usd(1.5))
    await kind.settled()
    assert figures(queue.stats)["5 usd in all"] == (2.5, 1.5, 1)
    unsettled.release()
    await asyncio.sleep(0.1)
    await kind.settled()
    assert figures(queue.stats)["5 usd in all"] == (4, 0, 1)
    with pytest.raises(LimitExceeded):
        await queue.enqueue(cost=usd(2))
    assert seen.events == [(None, "5 usd in all", 0.5), (None, "5 usd in all", 0.8)]
    await queue.aclose()


async def test_others_learn_of_each_share_once():
    """One process spends; one that has made a single call for nothing knows, and so do events."""
    hub, seen = VirtualHub(), Seen()
    spender = ApiQueue("5 usd in all", schedule=hub.schedule("crm"))
    other = ApiQueue("5 usd in all", schedule=hub.schedule("crm"), observers=[seen])
    (await other.enqueue(cost=usd(0))).release()
    for number, shares in enumerate([[], [], [0.5], [0.5, 0.8], [0.5, 0.8, 1]]):
        slot = await spender.enqueue(cost=usd(1))
        await settled()
        assert figures(other.stats)["5 usd in all"] == (number, 1, 4 - number)
        assert seen.shares == shares
        slot.release()
        await asyncio.sleep(1)
    assert other.stats.remaining == {"usd": 0}
    assert seen.shares == [0.5, 0.8, 1]
    await spender.aclose()
    await other.aclose()


async def test_figures_come_with_a_refusal():
    """A process whose first call is refused knows why, and of the shares that are used."""
    hub, seen = VirtualHub(), Seen()
    spender = ApiQueue("5 usd in all", schedule=hub.schedule("crm"))
    (await spender.enqueue(cost=usd(4))).release()
    await asyncio.sleep(1)
    other = ApiQueue("5 usd in all", schedule=hub.schedule("crm"), observers=[seen])
    with pytest.raises(LimitExceeded):
        await other.enqueue(cost=usd(2))
    await settled()
    assert other.stats.remaining == {"usd": 1}
    assert seen.shares == [0.5, 0.8]
    await spender.aclose()
    await other.aclose()


async def test_figures_come_to_a_waiting_call():
    """It waits for what another process may give back, and can say how much that is."""
    hub = VirtualHub()
    one, other = (ApiQueue("5 usd in all", schedule=hub.schedule("crm")) for _ in range(2))
    slot = await one.enqueue(cost=usd(4))
    waiting = other.enqueue(cost=usd(2))
    await settled()
    assert not waiting.done()
    assert figures(other.stats) == {"5 usd in all": (0, 4, 1)}
    slot.settle(usd(1))
    slot.release()
    (await waiting).release()
    await one.aclose()
    await other.aclose()


async def test_unused_slot_is_not_spent():
    """What a cancelled call had reserved is free again."""
    queue = ApiQueue("5 usd in all", schedule=VirtualHub().schedule("crm"))
    (await queue.enqueue(cost=usd(1))).release()
    await asyncio.sleep(1)
    task = asyncio.ensure_future(queue.enqueue(cost=usd(3)))
    await settled()
    assert figures(queue.stats) == {"5 usd in all": (1, 3, 1)}
    task.cancel()
    await settled()
    assert figures(queue.stats) == {"5 usd in all": (1, 0, 4)}
    await queue.aclose()


async def test_new_day_needs_no_message():
    """Figures are those of the present day, and events are sent again as that is used."""
    hub, seen = VirtualHub(), Seen()
    queue = ApiQueue("4 in each day", schedule=hub.schedule("crm"), observers=[seen])
    (messages,) = received_by(hub)
    for day in range(3):
        assert figures(queue.stats) == ({"4 in each day": (0, 0, 4)} if day else {})
        for _ in range(2):
            (await queue.enqueue()).release()
        await asyncio.sleep(1)
        use = queue.stats.budgets["4 in each day"]
        assert use == (2, 0, 2, (day + 1) * DAY)
        assert seen.shares == [0.5] * (day + 1)
        known = len(messages)
        await asyncio.sleep(DAY)
        assert len(messages) == known
    assert queue.stats.budgets["4 in each day"].resets_at == 4 * DAY
    await queue.aclose()


async def test_what_is_known_is_not_sent():
    """The end of a call changes nothing of what a day's calls have used."""
    hub = VirtualHub()
    queue = ApiQueue("4 in each day", schedule=hub.schedule("crm"))
    (messages,) = received_by(hub)
    slot = await queue.enqueue()
    await asyncio.sleep(1)
    slot.release()
    await asyncio.sleep(1)
    assert messages == [[[[], {"4 in each day": [1, 0, 3, DAY]}]]]
    await queue.aclose()


async def test_lane_is_sent_to_its_callers():
    """A process of one tenant is not sent those of others."""
    hub, seen = VirtualHub(), Seen()
    lanes = {"tenant:*": "2 usd in all", "tenant:a": "4 usd in all"}
    one, other = (
        ApiQueue(lanes=lanes, schedule=hub.schedule("crm"), observers=its) for its in ((), (seen,))
    )
    messages, of_other = received_by(hub)
    for queue, key in ((other, "tenant:a"), (one, "tenant:b"), (one, "tenant:a")):
        (await queue.enqueue(key=key, cost=usd(1))).release()
        await asyncio.sleep(1)
    assert {str(key) for news in messages for key, _ in news} == {"['tenant:a']", "['tenant:b']"}
    assert {str(key) for news in of_other for key, _ in news} == {"['tenant:a']"}
    for queue in (one, other):
        assert figures(queue.stats.lanes["tenant:a"]) == {"4 usd in all": (2, 0, 2)}
        assert queue.stats.lanes["tenant:a"].remaining == {"usd": 2}
        assert figures(queue.stats) == queue.stats.remaining == {}
    assert seen.events == [("tenant:a", "4 usd in all", 0.5)]
    await one.aclose()
    await other.aclose()


async def test_busy_quota_sends_few_figures():
    """Some ten messages a second for each queue, and the last one has it all; then none."""
    hub = VirtualHub()
    queues = [ApiQueue("900 in all", schedule=hub.schedule("crm")) for _ in range(3)]
    messages = received_by(hub)

    async def spend(queue):
        for _ in range(200):
            (await queue.enqueue()).release()
            await asyncio.sleep(0.01)

    await asyncio.gather(*map(spend, queues))
    await asyncio.sleep(0.1)
    counts = list(map(len, messages))
    assert 18 <= min(counts) <= max(counts) <= 24
    for queue in queues:
        assert figures(queue.stats) == {"900 in all": (600, 0, 300)}
    await asyncio.sleep(100)
    assert list(map(len, messages)) == counts
    for queue in queues:
        await queue.aclose()


async def test_many_lanes_share_a_message():
    """Those of 300 tenants that change at once come in two messages, and none is left out."""
    hub = VirtualHub()
    queue = ApiQueue(lanes={"*": "9 in all"}, schedule=hub.schedule("crm"))
    (messages,) = received_by(hub)
    keys = [f"tenant:{number}" for number in range(300)]
    for slot in await asyncio.gather(*(queue.enqueue(key=key) for key in keys)):
        slot.release()
    await asyncio.sleep(1)
    assert {key for news in messages for (key,), _ in news} == set(keys)
    assert len(messages) <= 4
    await queue.aclose()


async def test_only_latest_keys_are_followed():
    """Of a process that calls for more than a thousand tenants, the first is forgotten."""
    hub = VirtualHub()
    many, other = (
        ApiQueue(lanes={"*": "9 in all"}, schedule=hub.schedule("crm")) for _ in range(2)
    )
    messages, _ = received_by(hub)
    slots = [many.enqueue(key=f"tenant:{number}") for number in range(1001)]
    for slot in await asyncio.gather(*slots):
        slot.release()
    await asyncio.sleep(1)
    messages.clear()
    for number in (0, 1):
        (await other.enqueue(key=f"tenant:{number}")).release()
    await asyncio.sleep(1)
    assert {key for news in messages for (key,), _ in news} == {"tenant:1"}
    await many.aclose()
    await other.aclose()


async def test_process_that_left_is_forgotten():
    """The hub keeps nothing of it, and sends it nothing, as others go on."""
    hub = VirtualHub()
    one, other = (ApiQueue(lanes={"*": "9 in all"}, schedule=hub.schedule("crm")) for _ in range(2))
    for queue in (one, other):
        (await queue.enqueue(key="a")).release()
    gone = hub.links[1].client
    await other.aclose()
    await settled()
    gone.outbox.clear()
    (await one.enqueue(key="a")).release()
    await asyncio.sleep(1)
    assert gone.outbox == []
    await one.aclose()


async def test_figures_outlast_a_lost_hub(hub):
    """The last ones stay until a new hub, which knows what was spent, sends its own."""
    one, other = (ApiQueue("5 usd in all", schedule=hub.schedule("crm")) for _ in range(2))
    (await one.enqueue(cost=usd(1))).release()
    running = await other.enqueue(cost=usd(2))
    await asyncio.sleep(1)
    hub.down = True
    hub.kill()
    await asyncio.sleep(10)
    for queue in (one, other):
        assert figures(queue.stats) == {"5 usd in all": (1, 2, 2)}
    running.settle(usd(0.5))
    hub.down = False
    await asyncio.sleep(10)
    assert figures(other.stats) == {"5 usd in all": (1.5, 0, 3.5)}
    (await one.enqueue(cost=usd(0))).release()
    await settled()
    assert figures(one.stats) == {"5 usd in all": (1.5, 0, 3.5)}
    running.release()
    await one.aclose()
    await other.aclose()


async def test_new_hub_sends_reservations(hub):
    """It is told which calls run, and what they reserve, before anything else happens."""
    queue = ApiQueue("5 usd in all", lanes={"a": "4 usd in all"}, schedule=hub.schedule("crm"))
    running = await queue.enqueue(key="a", cost=usd(2))
    await settled()
    hub.kill()
    messages = received_by(hub)[0]
    await asyncio.sleep(5)
    (news,) = messages
    assert {(*key,): uses for key, uses in news} == {
        (): {"5 usd in all": [0, 2, 3, None]},
        ("a",): {"4 usd in all": [0, 2, 2, None]},
    }
    running.release()
    await queue.aclose()


async def test_reset_is_sent_to_all(hub):
    """A user who resets the quota sees that at once, in each process; events come again."""
    seen = Seen()
    queues = [
        ApiQueue(
            "5 usd in all",
            lanes={"a": "4 usd in all"},
            schedule=hub.schedule("crm"),
            observers=[seen],
        )
        for _ in range(2)
    ]
    for _ in range(2):
        for queue in queues:
            (await queue.enqueue(key="a", cost=usd(1.5))).release()
        await asyncio.sleep(1)
        own = [one for one in seen.events if one[0] is None]
        assert own == [(None, "5 usd in all", 0.5)] * 2
        seen.events.clear()
        hub.quotas.reset("crm")
        await settled()
    for queue in queues:
        assert figures(queue.stats) == {"5 usd in all": (0, 0, 5)}
        assert figures(queue.stats.lanes["a"]) == {"4 usd in all": (0, 0, 4)}
        await queue.aclose()


async def test_replaced_limits_have_no_figures():
    """Those of the new ones come, and of others none: of the queue, of a key and of a pattern."""
    hub = VirtualHub()
    lanes = {"a": "4 usd in all", "b*": "4 usd in all", "b": "3 usd in all"}
    one, other = (
        ApiQueue("5 usd in all", lanes=lanes, schedule=hub.schedule("crm")) for _ in range(2)
    )
    for queue in (one, other):
        (await queue.enqueue(keys=("a", "b"), cost=usd(1))).release()
    await asyncio.sleep(1)
    one.set_rate("5 usd in all", "1000/s")
    assert figures(one.stats) == {"5 usd in all": (2, 0, 3)}
    one.set_rate("6 usd in all")
    one.set_rate("10/s", key="a")
    one.set_rate("10/s", key="b*")
    assert figures(one.stats) == figures(one.stats.lanes["a"]) == {}
    await settled()
    for queue in (one, other):
        assert figures(queue.stats) == {"6 usd in all": (2, 0, 4)}
        assert figures(queue.stats.lanes["a"]) == {}
        assert figures(queue.stats.lanes["b"]) == {"3 usd in all": (2, 0, 1)}
    one.set_rate("5 usd in all")
    one.set_rate("6 usd in all")
    await settled()
    assert figures(one.stats) == {"6 usd in all": (2, 0, 4)}
    one.set_rate("10/s")
    await settled()
    for queue in (one, other):
        assert figures(queue.stats) == queue.stats.remaining == {}
        await queue.aclose()


async def test_pattern_changes_what_lanes_show():
    """Each lane that has its limits from it, without another call."""
    hub = VirtualHub()
    queue = ApiQueue(lanes={"tenant:*": "4 usd in all"}, schedule=hub.schedule("crm"))
    (messages,) = received_by(hub)
    (await queue.enqueue(key="tenant:a", cost=usd(1))).release()
    await asyncio.sleep(1)
    queue.set_rate("7 usd in all", key="tenant:*")
    await asyncio.sleep(1)
    assert messages[-1][-1] == [["tenant:a"], {"7 usd in all": [1, 0, 6, None]}]
    await queue.aclose()


async def test_limits_of_a_gone_program_disappear():
    """A budget that another program gives counts here, too, for as long as that runs."""
    hub = VirtualHub()
    one = ApiQueue("5 usd in all", schedule=hub.schedule("crm"))
    other = ApiQueue("9 usd in all", schedule=hub.schedule("crm"))
    for queue in (one, other):
        (await queue.enqueue(cost=usd(1))).release()
    await asyncio.sleep(1)
    assert one.stats.remaining == other.stats.remaining == {"usd": 3}
    await one.aclose()
    await asyncio.sleep(1)
    assert figures(other.stats) == {"9 usd in all": (2, 0, 7)}
    await other.aclose()


async def test_quota_without_budgets_sends_no_figures():
    """Also not after all budgets are gone; and none before the first comes."""
    hub = VirtualHub()
    queue = ApiQueue("10/s", lanes={"a": "5/s"}, schedule=hub.schedule("crm"))
    (messages,) = received_by(hub)
    for limits, sent in (("10/s",), 0), (("10/s", "100 in all"), 1), (("10/s",), 2):
        queue.set_rate(*limits)
        for _ in range(2):
            (await queue.enqueue(key="a")).release()
        await asyncio.sleep(1)
        (quota,) = hub.quotas
        assert quota.dispatcher.follows_ends == bool(sent)  # else nothing looks at its calls
        assert bool(messages) == bool(sent)
        if sent == 2:
            assert messages == [[[[], {}]]]
        messages.clear()
    await queue.aclose()


async def test_status_has_what_is_used():
    """The queue's own limits, and the lanes that are used at all, the most used of them first."""
    hub = VirtualHub()
    lanes = {"tenant:*": "4 usd in all", "": "4 usd in all", "unpaid": "5/s"}
    queue = ApiQueue("50 usd in each day", "10/s", lanes=lanes, schedule=hub.schedule("crm"))
    costs = {"tenant:a": 1, "tenant:b": 2.5, "tenant:c": 0, "unpaid": 0, "": 0.5}
    slots = [await queue.enqueue(key=key, cost=usd(cost)) for key, cost in costs.items()]
    slots[0].settle(usd(0.25))
    await asyncio.sleep(1)
    (quota,) = hub.quotas
    found = quota.as_json()["budgets"]
    assert found == {
        "": {"50 usd in each day": {"spent": 3.25, "reserved": 0, "left": 46.75}},
        "tenant:b": {"4 usd in all": {"spent": 0, "reserved": 2.5, "left": 1.5}},
        "tenant:a": {"4 usd in all": {"spent": 0.25, "reserved": 0, "left": 3.75}},
    }
    assert list(found) == ["", "tenant:b", "tenant:a"]
    assert list(quota.as_json(lanes=False)["budgets"]) == [""]
    hub.quotas.reset("crm")
    assert quota.as_json()["budgets"] == {
        "": {"50 usd in each day": {"spent": 0, "reserved": 0, "left": 50}}
    }
    queue.set_rate("10/s")
    await settled()
    assert quota.as_json()["budgets"] == {}
    await queue.aclose()


async def test_status_shows_some_hundred_lanes():
    """Of thousands of tenants, those that have used most."""
    hub = VirtualHub()
    queue = ApiQueue(lanes={"*": "1000 usd in all"}, schedule=hub.schedule("crm"))
    costs = range(1, 401)
    await asyncio.gather(*(queue.enqueue(key=f"{cost}", cost=usd(cost)) for cost in costs))
    (quota,) = hub.quotas
    assert list(quota.as_json()["budgets"]) == [f"{cost}" for cost in reversed(costs)][:300]
    await queue.aclose()
