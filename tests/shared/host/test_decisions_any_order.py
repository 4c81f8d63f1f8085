"""Two processes decide while there is no hub: who is back first does not decide what holds then."""

from __future__ import annotations

import asyncio

import pytest

from aioapiqueue import ApiQueue
from tests.helpers.introspect import decisions_of
from tests.helpers.virtual_hub import VirtualHub

pytestmark = pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["in order", "reversed"])


async def settled():
    """Let all queues and the hub talk; no time passes."""
    for _ in range(30):
        await asyncio.sleep(0)


class Outage:
    """Two queues that have had a hub, which is gone."""

    async def begin(self):
        """Let the hub die, and both be on their own."""
        self.hub = VirtualHub()
        self.queues = [ApiQueue("10/s", schedule=self.hub.schedule("crm")) for _ in range(2)]
        for queue in self.queues:
            async with queue.slot():
                pass
        await asyncio.sleep(5)
        for link in self.hub.links:
            link.blocked = True
        self.hub.kill()
        await asyncio.sleep(5)
        return self.queues

    async def end(self, order):
        """Let both connect to the next hub, three seconds apart; return its quota."""
        waiting = [queue.enqueue() for queue in self.queues]
        for number in order:
            self.hub.links[number].blocked = False
            await asyncio.sleep(3)
        for one in waiting:
            one.cancel()
        await settled()
        (quota,) = self.hub.quotas
        for queue in self.queues:
            assert list(decisions_of(queue)) == list(decisions_of(quota))
        return quota.as_json()


async def test_later_limits_hold(order):
    """Both have set the rate: the later one counts for all."""
    outage = Outage()
    one, other = await outage.begin()
    one.set_rate("5/s")
    await asyncio.sleep(20)
    other.set_rate("1/s")
    assert (await outage.end(order))["limits"] == ["1/s"]
    assert [str(limit) for queue in (one, other) for limit in queue.limits] == ["1/s", "1/s"]


async def test_pause_after_a_resume_holds(order):
    """The safety stop is not lost if its process comes first."""
    outage = Outage()
    one, other = await outage.begin()
    other.resume()
    await asyncio.sleep(20)
    one.pause()
    assert (await outage.end(order))["paused"]
    for queue in (one, other):
        assert "paused" in repr(queue)
        assert queue.estimate() == float("inf")


async def test_pause_before_a_resume_is_over(order):
    """It is ended, though its process may come last, and had never heard of that."""
    outage = Outage()
    one, other = await outage.begin()
    one.pause()
    await asyncio.sleep(20)
    other.resume()
    assert not (await outage.end(order))["paused"]
    for queue in (one, other):
        async with asyncio.timeout(1), queue.slot():
            pass
