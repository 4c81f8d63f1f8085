"""What people see of budgets and calendar limits: figures, and events as they are used up."""

from __future__ import annotations

import asyncio

from aioapiqueue import ApiQueue, Budget, Calendar, Rate

HOUR = 3600


def usd(amount):
    """Return a cost in money."""
    return {"usd": amount}


class Crossed:
    """An observer of thresholds alone."""

    event_kinds = ("threshold",)

    def __init__(self):
        self.events = []

    def on_event(self, event):
        """Keep it."""
        self.events.append(event)

    @property
    def shares(self):
        """The shares, by key."""
        return [(event.key, event.share) for event in self.events]


def uses(stats):
    """Return what is spent, reserved and left of each limit."""
    return {limit: use[:3] for limit, use in stats.budgets.items()}


async def test_reserved_becomes_spent_by_settling():
    """And by ending, if a call never settles."""
    queue = ApiQueue("5 usd in all")
    assert uses(queue.stats) == {"5 usd in all": (0, 0, 5)}
    async with queue.slot(cost=usd(2)) as slot, queue.slot(cost=usd(1)):
        assert uses(queue.stats) == {"5 usd in all": (0, 3, 2)}
        slot.settle(usd(0.5))
        assert uses(queue.stats) == {"5 usd in all": (0.5, 1, 3.5)}
        slot.settle(usd(0.7))
        assert uses(queue.stats) == {"5 usd in all": (0.7, 1, 3.3)}
    assert uses(queue.stats) == {"5 usd in all": (1.7, 0, 3.3)}
    assert queue.stats.remaining == {"usd": 3.3}


async def test_only_sums_have_figures():
    """A rate, a window and permits recover; of calls, none is reserved."""
    limits = "100/s, 50 in any 1h, 9 at once, 20 in each hour, 30 in all"
    queue = ApiQueue(limits, lanes={"a": "10 tokens/s", "t:*": "2 in all"})
    async with queue.slot(cost={"tokens": 0}), queue.slot(key="a", cost={"tokens": 3}):
        assert uses(queue.stats) == {"20 in each hour": (2, 0, 18), "30 in all": (2, 0, 28)}
    assert queue.stats.lanes["a"].budgets == queue.stats.lanes["t:*"].budgets == {}


async def test_lane_has_figures_of_its_own():
    """The queue's own are not among them."""
    queue = ApiQueue("9 usd in all", lanes={"a": ["4 usd in all", "3 usd in each day or raise"]})
    async with queue.slot(key="a", cost=usd(1)):
        assert uses(queue.stats) == {"9 usd in all": (0, 1, 8)}
        assert uses(queue.stats.lanes["a"]) == {
            "4 usd in all": (0, 1, 3),
            "3 usd in each day or raise": (0, 1, 2),
        }
        assert queue.stats.lanes["a"].remaining == {"usd": 2}


async def test_new_period_has_nothing_spent():
    """Also while no call has asked yet, and with a call that runs since the last one."""
    queue = ApiQueue("4 usd in each hour or raise")
    async with queue.slot(cost=usd(0)):
        (text, before), *_ = queue.stats.budgets.items()
    async with queue.slot(cost=usd(3)):
        assert queue.stats.budgets[text] == (0, 3, 1, before.resets_at)
        await asyncio.sleep(HOUR)
        assert queue.stats.budgets[text] == (0, 0, 4, before.resets_at + HOUR)
        async with queue.slot(cost=usd(1)):
            assert queue.stats.budgets[text][2] == 3


async def test_figures_are_for_people():
    """In a notebook, and without the errors of sums."""
    queue = ApiQueue("2000 usd in all", lanes={"a": "3 usd in all"})
    for _ in range(3):
        async with queue.slot(key="a", cost=usd(0.1)):
            pass
    async with queue.slot(cost=usd(1200)):
        text = "0.3 spent, 1,200 reserved, 799.7 left"
        assert str(queue.stats.budgets["2000 usd in all"]) == text
        assert text in queue._repr_html_()
        assert "0.3 spent, 0 reserved, 2.7 left" in queue._repr_html_()


async def test_calls_above_their_reservation_are_counted():
    """Each call once, however often it settles; not what no budget counts.

    What it has given back may be another call's, so that to settle up again counts, too.
    """
    queue = ApiQueue("7 usd in all", "90 tokens/s burst 90", lanes={"a": "9 in all"})
    for settled in ([1], [0.9, 0.2], [2], [0.5, 2], [1.5, 1.7]):
        async with queue.slot(cost={"usd": 1, "tokens": 1}) as slot:
            for amount in settled:
                slot.settle({"usd": amount, "tokens": 5})
    assert queue.stats.overdrawn == 3
    assert uses(queue.stats) == {"7 usd in all": (6.9, 0, 0.1)}
    queue.set_rate("9 usd in all, 90 tokens in each day or raise")
    async with queue.slot(key="a", cost={"usd": 0, "tokens": 1}) as slot:
        slot.settle({"tokens": 2})
    assert queue.stats.overdrawn == 4


async def test_call_overdraws_a_lane():
    """A budget of its key counts as well; one of another key does not."""
    queue = ApiQueue("90/s", lanes={"a": "1 usd in all", "b": "9 tokens/s"})
    for key, counted in (("b", 0), ("a", 1)):
        async with queue.slot(key=key, cost={"usd": 0.5, "tokens": 1}) as slot:
            slot.settle(usd(0.6))
        assert queue.stats.overdrawn == counted


async def test_each_share_is_crossed_once():
    """What is given back takes nothing back, and a call may cross two shares."""
    crossed = Crossed()
    queue = ApiQueue("10 usd in all", name="llm", observers=[crossed])
    steps = [(4.9, []), (6, [0.5]), (2, []), (8.5, [0.8]), (1, []), (10, [1]), (11, [])]
    async with queue.slot(cost=usd(1)) as slot:
        for amount, shares in steps:
            crossed.events.clear()
            slot.settle(usd(amount))
            assert crossed.shares == [(None, share) for share in shares]
    queue.set_rate("20 usd in all")
    async with queue.slot(cost=usd(6)):
        assert crossed.shares == [(None, 0.5), (None, 0.8)]
    event = crossed.events[1]
    assert (event.limits, event.remaining, event.unit) == ((Budget(20, "usd"),), 3, "usd")
    assert (event.queue, event.call) == ("llm", None)


async def test_each_period_has_its_own_shares():
    """A limit of the hour begins again; one of a budget does not."""
    crossed = Crossed()
    queue = ApiQueue("4 in each hour", "6 in all", observers=[crossed])
    for shares in ([], [0.5], [0.5], [0.8, 1]):
        crossed.events.clear()
        async with queue.slot():
            assert [event.share for event in crossed.events] == shares
    await asyncio.sleep(HOUR)
    crossed.events.clear()
    for _ in range(2):
        async with queue.slot():
            pass
    kinds = [(type(event.limits[0]), event.share) for event in crossed.events]
    assert kinds == [(Budget, 0.8), (Calendar, 0.5), (Budget, 1)]


async def test_each_tenant_crosses_its_own():
    """Of a pattern, under the key of the call; also as it waits, and after `set_rate`."""
    crossed = Crossed()
    queue = ApiQueue(Rate(10), lanes={"t:*": "2 in each day"}, observers=[crossed])

    async def call(key):
        async with queue.slot(key=key):
            pass

    await asyncio.gather(call("t:a"), call("t:b"), call("t:a"), call("other"))
    assert sorted(crossed.shares) == [("t:a", 0.5), ("t:a", 0.8), ("t:a", 1), ("t:b", 0.5)]
    await asyncio.sleep(1)
    queue.set_rate("2 in all")
    await call("other")
    assert crossed.shares[4:] == [(None, 0.5)]


async def test_budget_set_later_is_followed():
    """Of a queue that had none, or a lane that had none, and only then."""
    crossed = Crossed()
    queue = ApiQueue(Rate(10), observers=[crossed])
    for limits, key, found in (
        ("2 in all", "a", [("a", 0.5)]),
        ("10/s", "a", []),
        ("2 in each day", None, [(None, 0.5)]),
    ):
        await asyncio.sleep(10)  # the rate has recovered, and hands over nothing
        queue.set_rate(limits, key=key)
        crossed.events.clear()
        async with queue.slot(key="a"):
            assert crossed.shares == found


async def test_observer_may_make_a_call():
    """The event of a share does not come again for the call that it makes."""

    class Calls(Crossed):
        def on_event(self, event):
            super().on_event(event)
            queue.try_slot().release()

    calls = Calls()
    queue = ApiQueue("10 in all", observers=[calls])
    async with queue.slot(cost=5):
        assert calls.shares == [(None, 0.5)]
    async with queue.slot(cost=2):
        assert calls.shares == [(None, 0.5), (None, 0.8)]


async def test_call_overdraws_once():
    """Whatever the number of units."""
    queue = ApiQueue("7 usd in all", "90 tokens in all")
    async with queue.slot(cost={"usd": 1, "tokens": 1}) as slot:
        slot.settle({"usd": 2})
        slot.settle({"tokens": 3})
    assert queue.stats.overdrawn == 1
