"""Random histories of several queues beside a server that counts: it never has to refuse a call.

The server counts a call when it arrives, and says in each answer what remains by then. The queues
know nothing of its quota but that; their own limits would let far more through.
"""

from __future__ import annotations

import asyncio
import random
import statistics
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aioapiqueue import ApiQueue
from aioapiqueue.integrations.redis import SharedSchedule
from tests.helpers.servers import fresh_name
from tests.helpers.virtual_client import VirtualClient
from tests.shared.redis.test_histories import planted

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from aioapiqueue import Slot
    from tests.helpers.servers import Server

RESET = 60.0  # seconds: longer than what is watched
WATCHED = 30.0
SETTLE = 11.0  # longer than a lease: until then, what others have out may be of any lane
LONGEST = 2.0  # seconds of a call
LANES: list[Hashable] = ["a", "b"]
UNITS = ("calls", "tokens")


class Quota:
    """What a server counts of one lane, and never admits more of.

    Args:
        limit: what it admits, by unit.
        used: what it has counted of others before.
    """

    def __init__(self, limit: dict[str, float], used: dict[str, float]) -> None:
        self.limit, self.used = limit, used
        self.refused = 0

    def arrive(self, costs: dict[str, float]) -> bool:
        """Count a call, if there is room for it."""
        if any(self.used[unit] + cost > self.limit[unit] for unit, cost in costs.items()):
            self.refused += 1
            return False
        for unit, cost in costs.items():
            self.used[unit] += cost
        return True


class History:
    """Queues, their callers and a server, on virtual time.

    Args:
        valkey: keeps the queues' limits.
        seed: of all that is random.
        queues: how many.
    """

    def __init__(self, valkey: Server, seed: int, queues: int) -> None:
        self.random = random.Random(seed)
        self.quotas = {}
        for lane in LANES:
            limit = {"calls": self.random.randint(40, 70), "tokens": self.random.randint(120, 250)}
            used = {unit: self.random.randint(0, 10) for unit in UNITS}
            self.quotas[lane] = Quota(limit, used)
        name, latency = fresh_name(), self.random.choice([(0.0, 0.0), (0.001, 0.05)])
        self.answered = 0
        self.settled = self.random.random() < 0.5
        self.queues = [
            ApiQueue(
                lanes={"*": "50/s burst 5, 10000 tokens/s burst 1000"},
                schedule=SharedSchedule(
                    VirtualClient(valkey, latency=latency, seed=seed + number), name
                ),
            )
            for number in range(queues)
        ]

    async def call(self, queue: ApiQueue) -> None:
        """Make one call, which may be cancelled, lose its answer, or cost less in the end."""
        draw, key = self.random.random, self.random.choice(LANES)
        costs = {"calls": 1.0, "tokens": float(self.random.randint(1, 6))}
        try:
            async with queue.slot(key=key, cost=costs) as slot:
                await asyncio.sleep(0.05 * draw())
                assert self.quotas[key].arrive(costs), "the server has to refuse a call"
                await asyncio.sleep(LONGEST * draw() ** 3)
                if draw() < 0.1:
                    return  # without an answer
                self._answer(slot, self.quotas[key], costs)
        except asyncio.CancelledError:
            pass

    def _answer(self, slot: Slot, quota: Quota, costs: dict[str, float]) -> None:
        if self.random.random() < 0.3:  # what the bill says
            less = self.random.randint(0, int(costs["tokens"]))
            quota.used["tokens"] -= costs["tokens"] - less
            slot.settle({"tokens": less})
        for unit in UNITS:
            remaining = quota.limit[unit] - quota.used[unit]
            slot.sync(remaining, unit=unit, reset=RESET, limit=quota.limit[unit])
        self.answered += 1

    async def caller(self, queue: ApiQueue) -> None:
        """Make calls, at random instants; some of them are cancelled."""
        while True:
            task = asyncio.create_task(self.call(queue))
            patience = self.random.choice([0.05, 0.5, None, None, None])
            try:
                async with asyncio.timeout(patience):
                    await asyncio.shield(task)
            except TimeoutError:
                pass
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            await asyncio.sleep(self.random.choice([0.0, 0.1, 1.0]) * self.random.random())

    async def run(self) -> None:
        """Run it; in half of them, lanes are told apart for long when the crowd comes."""
        if self.settled:
            for key, quota in self.quotas.items():
                async with self.queues[0].slot(key=key, cost={"tokens": 0.0}) as slot:
                    self._answer(slot, quota, {"calls": 0.0, "tokens": 0.0})
            await asyncio.sleep(SETTLE)
        callers = [
            asyncio.create_task(self.caller(queue)) for queue in self.queues for _ in range(6)
        ]
        await asyncio.sleep(WATCHED)
        for one in callers:
            one.cancel()
        outcomes = await asyncio.gather(*callers, return_exceptions=True)
        for queue in self.queues:
            await queue.aclose(drain=False)
        errors = [one for one in outcomes if not isinstance(one, asyncio.CancelledError)]
        assert not errors, errors


def check(run_virtual: Callable[..., Any], valkey: Server, seed: int, queues: int) -> History:
    """Let a history run; the server has refused nothing."""

    async def scenario() -> History:
        history = History(valkey, seed, queues)
        await history.run()
        return history

    history: History = run_virtual(scenario)
    assert history.answered
    assert not any(quota.refused for quota in history.quotas.values())
    return history


FAULTS = {
    "what others have out is forgotten": (
        "    if is_known(process) and out.at > silent_since then",
        "    if false then",
    ),
    "slots are not charged to the bound": (
        "    bound.left = bound.left - cost\n  end\n  return",
        "  end\n  return",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_caught(run_virtual, valkey, fault):
    """A broken script lets a server refuse something within 60 histories."""
    with planted(FAULTS[fault]), pytest.raises(AssertionError, match="has to refuse a call"):
        for seed in range(60):
            check(run_virtual, valkey, seed, 2)


@pytest.mark.parametrize("queues", [2, 3, 4])
@settings(max_examples=4)
@given(seed=st.integers(0, 2**32))
def test_server_refuses_nothing(run_virtual, valkey, seed, queues):
    """Never more starts than what the server's answers have left, in all queues together."""
    check(run_virtual, valkey, seed, queues)


@pytest.mark.slow
@settings(max_examples=500)
@given(seed=st.integers(0, 2**32), queues=st.sampled_from([2, 3, 4]))
def test_server_refuses_nothing_at_length(run_virtual, valkey, seed, queues):
    """The same, with more histories."""
    check(run_virtual, valkey, seed, queues)


@pytest.mark.parametrize("seeds", [range(16), pytest.param(range(60), marks=pytest.mark.slow)])
def test_most_of_a_quota_is_used(run_virtual, valkey, seeds):
    """Beside the bound, as a rule: nobody knows whether a call without an answer was counted.

    So it is taken off, and of those that end when little is left, some count twice. If all that
    are out end so, no call fits until the reset: that is rare, and no random history may rule it
    out.
    """
    shares = []
    for seed in seeds:
        if not History(valkey, seed, queues=0).settled:
            continue
        history = check(run_virtual, valkey, seed, 2 + seed % 3)
        shares += [
            max(quota.used[unit] / quota.limit[unit] for unit in UNITS)
            for quota in history.quotas.values()
        ]
    assert statistics.median(shares) > 0.9, shares
    assert statistics.quantiles(shares, n=10)[0] > 0.8, shares
