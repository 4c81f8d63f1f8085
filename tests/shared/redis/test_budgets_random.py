"""Promise 14 on a real server: a budget is never overshot, and nothing of it is lost."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aioapiqueue import ApiQueue, LimitExceeded
from aioapiqueue.integrations.redis import SharedSchedule
from tests.helpers.servers import fresh_name, keys_of
from tests.helpers.virtual_client import VirtualClient

AMOUNT = 5_000_000_000  # billionths of a dollar, which are exact
LIMITS = "5 usd in all", "20/s"

# Of each call: its process, when it comes (in tenths of a second), its cost in cents and which
# percentage of that is true, how long it runs, and when its caller gives up waiting (None: never).
CALLS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.integers(0, 40),
        st.tuples(st.integers(1, 150), st.integers(0, 100)),
        st.integers(0, 30),
        st.none() | st.integers(0, 10),
    ),
    min_size=5,
    max_size=25,
)
# When a process dies, loses its connection for a while, or the loop stands still; in tenths.
FAULTS = st.lists(
    st.tuples(st.sampled_from(["die", "down", "stall"]), st.integers(0, 2), st.integers(0, 40)),
    max_size=3,
)


class Fleet:
    """Three processes of one budget, and what their calls have cost so far, in billionths."""

    def __init__(self, valkey, seed, loss):
        self.name = fresh_name()
        self.spent = self.lost = 0
        self.started = []
        self.dead = set()
        self.clients = [
            VirtualClient(valkey, latency=(0.001, 0.02), loss=loss, seed=seed + number)
            for number in range(3)
        ]
        self.queues = [
            ApiQueue(*LIMITS, lanes={"a": "3 usd in all"}, schedule=SharedSchedule(one, self.name))
            for one in self.clients
        ]

    async def call(self, process, at, costs, runs, patience):
        """Make a call; its true cost is a share of what it was estimated at."""
        cost, share = costs
        await asyncio.sleep(at / 10)
        timeout = None if patience is None else patience / 10
        try:
            async with asyncio.timeout(timeout):
                slot = await self.queues[process].slot(cost={"usd": cost / 100}).__aenter__()
        except (LimitExceeded, TimeoutError):
            return
        if process in self.dead:
            return  # it would have started before the process died
        billionths = cost * 10**7
        self.spent += billionths
        assert self.spent <= AMOUNT, "overshot"
        await asyncio.sleep(runs / 10)
        if process in self.dead:
            return
        true = cost * share * 10**5
        self.spent += true - billionths
        slot.settle({"usd": true / 10**9})
        slot.release()

    async def fault(self, kind, process, at):
        """Have something go wrong."""
        await asyncio.sleep(at / 10)
        if kind == "stall":
            asyncio.get_running_loop().stall(0.5)
        elif kind == "die":
            self.dead.add(process)
            self.clients[process].down = True
        else:
            self.clients[process].down = True
            await asyncio.sleep(1)
            self.clients[process].down = process in self.dead

    async def left(self):
        """Return what is left by the server, once everything has been settled."""
        for client in self.clients:
            client.loss = 0
        await asyncio.sleep(15)
        alive = next((one for one in range(3) if one not in self.dead), None)
        if alive is None:
            return None
        with pytest.raises(LimitExceeded) as caught:
            await self.queues[alive].slot(cost={"usd": 1000}).__aenter__()
        return round(caught.value.remaining * 10**9)


@pytest.mark.parametrize("loss", [0, 0.1])
@pytest.mark.parametrize("examples", [15, pytest.param(200, marks=pytest.mark.slow)])
def test_promise_14_on_a_server(run_virtual, valkey, examples, loss):
    """It is never overshot, if processes die or lose replies; the others lose nothing of it."""

    @settings(max_examples=examples)
    @given(CALLS, FAULTS, st.integers(0, 1000))
    def holds(calls, faults, seed):
        run_virtual(lambda: history(valkey, calls, faults, seed, loss))

    holds()


async def history(valkey, calls, faults, seed, loss):
    """Play one history."""
    fleet = Fleet(valkey, seed, loss)
    jobs = [asyncio.ensure_future(fleet.fault(*one)) for one in faults]
    jobs += [asyncio.ensure_future(fleet.call(*one)) for one in calls]
    await asyncio.wait(jobs, timeout=60)
    for job in jobs:
        job.cancel()
    for result in await asyncio.gather(*jobs, return_exceptions=True):
        if isinstance(result, Exception):
            raise result
    left = await fleet.left()
    if left is not None:
        assert left <= AMOUNT - fleet.spent
        if not fleet.dead:
            assert left == AMOUNT - fleet.spent
    valkey.sync().delete(*keys_of(valkey, fleet.name))
    await asyncio.gather(*(queue.aclose(drain=False) for queue in fleet.queues))
