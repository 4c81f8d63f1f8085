"""Promise 1 where limits are replaced by those of another kind: what was let through counts.

A history is drawn from a seed and a size, so that a failure is repeated by its two numbers.
"""

from __future__ import annotations

import asyncio
import random

from hypothesis import strategies as st

from aioapiqueue import Calendar, Rate, Window
from tests.helpers import introspect
from tests.helpers.limiters import Shared, holds_for
from tests.helpers.several import Call, Watch

SEEDS = st.integers(0, 2**32)
SIZES = st.integers(10, 20)
MOST = 10
"""The largest cost: no limit is smaller."""


def a_limit(rng, limiter, before):
    """Return a limit of another kind than one before (None: of any)."""
    number = rng.choice([MOST, MOST, 2 * MOST, 4 * MOST])
    per = rng.choice([1.0, 4.0, 60.0])
    kinds = {
        Rate: lambda: Rate(number, per, rng.choice([1, number, number])),
        Window: lambda: Window(number, per),
    }
    if not isinstance(limiter, Shared):  # a server knows no time zones
        kinds[Calendar] = lambda: Calendar(number, "hour")
    return kinds[rng.choice([kind for kind in kinds if kind is not type(before)])]()


class Changes:
    """Calls that come, and limits of another kind by `set_rate`, or by restarts.

    Args:
        limiter: makes the queues.
        seed: of the history.
        size: number of its steps.
    """

    def __init__(self, limiter, seed, size):
        self.rng = rng = random.Random(seed)
        self.limiter = limiter
        self.size = size
        self.restarts = limiter.shared and rng.random() < 0.5
        # A server hears of a lane's new limits with its next call, and may have forgotten by then.
        in_lane = not isinstance(limiter, Shared) and rng.random() < 0.3
        self.key, self.name = ("t1", "t*") if in_lane else (None, None)
        self.limit = a_limit(rng, limiter, None)
        self.grace = 1.5 * limiter.ahead + 0.01 if getattr(limiter, "ahead", 0) else 0.0
        # A server reckons in whole microseconds, and rounds at each change.
        self.rounding = 1e-4 if isinstance(limiter, Shared) else limiter.rounding
        self.queue = None
        self.former = None

    async def play(self):
        """Return what the promise forbids and the queue did."""
        rng = self.rng
        await asyncio.sleep(rng.choice([0, 3590]))  # after the latter, the hour ends
        self.make_queue = self.limiter.quota()
        self.start()
        own, named = self.limits
        self.watch = Watch(self.queue, own, named, catch_up=0)
        self.watch.rounding = self.rounding
        for who in range(self.size):
            await asyncio.sleep(rng.random() * rng.choice([0, 0, 0, 0.02, 1, 5]))
            await rng.choice([self.join, self.join, self.change])(who)
            await self.limiter.settled()
        if self.queue is not None:
            await self.queue.aclose(drain=False)
        await asyncio.gather(*self.watch.tasks.values(), return_exceptions=True)
        return self.watch.faults

    @property
    def limits(self):
        return ([self.limit], {}) if self.name is None else ([], {self.name: [self.limit]})

    def start(self):
        own, lanes = self.limits
        self.queue = self.make_queue(*own, lanes=lanes, catch_up=0)

    async def join(self, who):
        if self.queue is None:
            self.start()
            self.watch.queues = [self.queue]
            introspect.after_starts(self.queue, self.watch.started)
            self.note()
        for number in range(self.rng.choice([1, 3, 10])):
            cost = {"calls": self.rng.choice([1, 1, 5, MOST])}
            self.watch.join(Call(100 * who + number, (self.key,), cost))

    async def change(self, _):
        """Put a limit of another kind in force, here or when the next process begins to call."""
        if self.queue is not None:
            self.former = self.limit
        self.limit = a_limit(self.rng, self.limiter, self.former)
        if self.restarts and self.queue is not None:
            await self.queue.aclose(drain=False)
            self.queue = None
        elif not self.restarts:
            self.queue.set_rate(self.limit, key=self.name)
            self.note()

    def note(self):
        """Note that a limit is in force."""
        table, now = self.watch.table, asyncio.get_running_loop().time()
        table.replace(self.name, [self.limit], now, self.rounding)
        for ledger in table.own if self.name is None else table.lane(self.key):
            ledger.since = now + self.grace  # slots at hand by then are used all the same


def holds_whatever_is_set(limiter, run_virtual, seed, size):
    """Play a history, twice as long at length."""
    size *= 2 if limiter.at_length else 1
    faults = run_virtual(Changes(limiter, seed, size).play)
    assert not faults, faults


@holds_for(SEEDS, SIZES)
def test_promise_1_changed_kinds(limiter, run_virtual, seed, size):
    """A limit that replaces one of another kind counts what that has let through."""
    holds_whatever_is_set(limiter, run_virtual, seed, size)
