"""Promise 14: a budget is never overshot, and what calls give back can be used again.

A history is drawn from a seed and a size, so that a failure is repeated by its two numbers.
"""

from __future__ import annotations

import asyncio
import random

from hypothesis import strategies as st

from aioapiqueue import LimitExceeded
from tests.helpers.instants import now
from tests.helpers.limiters import holds_for

SEEDS = st.integers(0, 2**32)
SIZES = st.integers(5, 30)
AMOUNT = 100
"""Of the budget, in 1000ths of USD, or in calls."""


class Spending:
    """Calls that reserve too much, too little or just enough, that are cancelled, or that settle.

    What they have reserved and spent is added up here, too: it grows before a body begins, and
    falls before the queue learns of it.

    Args:
        limiter: makes the queues.
        seed: of the history.
        size: number of its steps.
    """

    def __init__(self, limiter, seed, size):
        self.rng = rng = random.Random(seed)
        self.limiter = limiter
        self.size = size
        self.unit = rng.choice(["usd", "usd", "calls", "credits"])
        self.scale = 1000 if self.unit == "usd" else 1
        self.amount = AMOUNT
        self.changed = 0, 0
        self.overdraws = self.unit != "calls" and rng.random() < 0.2
        self.in_lane = rng.random() < 0.3
        self.spent = self.reserved = 0
        self.running = {}
        """What each running call was charged."""
        self.settled = set()
        self.tasks = []
        self.faults = []

    @property
    def limit(self):
        return f"{self.amount / self.scale} {self.unit} in all".replace(" calls", "")

    @property
    def most(self):
        """The budget; in the instant of its change, also what it was before."""
        at, before = self.changed
        return max(self.amount, before) if at == now() else self.amount

    def cost(self, amount):
        return {self.unit: amount / self.scale}

    async def play(self):
        """Return what the promise forbids and the queues did."""
        rng, make = self.rng, self.limiter.quota()
        self.others = ("50/s burst 5",) if rng.random() < 0.3 else ()
        own, lanes = ((), {"t*": self.limit}) if self.in_lane else ((self.limit,), {})
        number = rng.choice([1, 1, 2, 3]) if self.limiter.shared else 1
        self.queues = [make(*own, *self.others, lanes=lanes) for _ in range(number)]
        steps = [self.join, self.join, self.join, self.settle, self.end, self.cancel, self.change]
        for _ in range(self.size):
            if rng.random() < 0.5:
                await asyncio.sleep(rng.choice([0, 0.013, 0.2, 1]))
            rng.choice(steps)()
            await self.limiter.settled()
        await asyncio.sleep(2)
        while self.running:  # as these end, others start
            for slot in list(self.running):
                self.settle_one(slot)
                self.running.pop(slot)
                slot.release()
            await asyncio.sleep(2)
        if any(not task.done() for task in self.tasks):
            self.faults.append("a call waits although no other runs")
        await self.use_the_rest()
        for queue in self.queues:
            await queue.aclose()
        return self.faults

    # Steps.

    def join(self):
        if self.unit == "calls":
            amount = self.rng.choice([1, 1, 1, 7, 50])
        else:
            amount = self.rng.choice([0, 1, 7, 20, 50, 100, 101])
        self.tasks.append(asyncio.create_task(self.call(amount)))

    async def call(self, amount):
        queue = self.rng.choice(self.queues)
        try:
            slot = await queue.enqueue(key="t1", cost=self.cost(amount))
        except LimitExceeded as error:
            self.refused(amount, error)
            return
        self.spent += amount
        self.running[slot] = amount
        self.reserved += amount
        # Where the budget is kept elsewhere, it may not know yet what has just been settled above.
        if amount and self.spent > self.most and not (self.overdraws and self.limiter.shared):
            self.faults.append(f"{self.spent} of {self.amount} are spent")

    def refused(self, amount, error):
        # By what it says: within one instant, a call may settle after this one was refused.
        if amount <= round(error.remaining * self.scale):
            self.faults.append(f"{amount} refused: {error}")

    def a_running(self):
        return self.rng.choice(list(self.running)) if self.running else None

    def settle(self):
        if (slot := self.a_running()) is not None and self.unit != "calls":
            self.settle_one(slot)

    def settle_one(self, slot):
        charged = self.running[slot]
        shares = [0, 0.5, 1, 1, *([1.7] if self.overdraws else [])]
        used = round(charged * self.rng.choice(shares)) if self.unit != "calls" else charged
        self.spent += used - charged
        self.end_reservation(slot)
        self.running[slot] = used
        slot.settle(self.cost(used))

    def end_reservation(self, slot):
        if slot not in self.settled:
            self.reserved -= self.running[slot]
            self.settled.add(slot)

    def end(self):
        if (slot := self.a_running()) is not None:
            self.end_reservation(slot)
            self.running.pop(slot)
            slot.release()

    def cancel(self):
        if self.tasks:
            self.rng.choice(self.tasks).cancel()

    def change(self):
        if self.rng.random() < 0.3:
            self.changed = now(), max(self.amount, self.most)
            self.amount = self.rng.choice([60, AMOUNT, AMOUNT, 150])
            if self.in_lane:
                self.queues[0].set_rate(self.limit, key="t*")
            else:
                self.queues[0].set_rate(self.limit, *self.others)

    async def use_the_rest(self):
        """Spend what is left to the last part, and no more than that."""
        left = self.amount - self.spent
        queue = self.queues[0]
        if left > 0:
            try:
                slot = await asyncio.wait_for(queue.enqueue(key="t1", cost=self.cost(left)), 60)
                slot.release()
            except (LimitExceeded, TimeoutError) as error:
                self.faults.append(f"{left} cannot be used: {error!r}")
        try:
            slot = await asyncio.wait_for(queue.enqueue(key="t1", cost=self.cost(1)), 60)
            slot.release()
            self.faults.append("more than the budget was spent")
        except LimitExceeded:
            pass
        except TimeoutError:
            self.faults.append("a call waits although no other runs")


@holds_for(SEEDS, SIZES)
def test_promise_14_budgets_hold(limiter, run_virtual, seed, size):
    """Whatever is reserved, settled, cancelled or changed."""
    size *= 3 if limiter.at_length else 1
    faults = run_virtual(Spending(limiter, seed, size).play)
    assert not faults, faults
