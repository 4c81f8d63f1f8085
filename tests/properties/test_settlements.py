"""Promise 1 where true costs are learnt late: settlements from nothing, beside old reservations.

A history is drawn from a seed and a size, so that a failure is repeated by its two numbers.
"""

from __future__ import annotations

import asyncio
import random

from hypothesis import strategies as st

from aioapiqueue import Calendar, Rate, Window
from tests.helpers.limiters import Shared, holds_for
from tests.helpers.several import Call, Watch
from tests.helpers.shared_watch import SharedWatch

SEEDS = st.integers(0, 2**32)
SIZES = st.integers(10, 30)
SIZE = 400
"""Tokens that may start at once, so that all limits are about as tight."""
PERIOD = 4.0
"""Seconds in which so many come back."""


def a_limit(rng, limiter):
    """Return a limit that counts tokens."""
    kind = rng.random()
    if kind < 0.6:
        burst = rng.choice([SIZE, SIZE, SIZE / 4])
        return Rate(SIZE, PERIOD, burst, "tokens")
    if kind < 0.8 or limiter.shared:
        return Window(SIZE, PERIOD, unit="tokens")
    return Calendar(SIZE, "hour", unit="tokens")


class Settlements:
    """Calls that reserve, and run on, beside calls whose cost is known afterwards only.

    Args:
        limiter: makes the queue.
        seed: of the history.
        size: number of its steps.
    """

    def __init__(self, limiter, seed, size):
        self.rng = rng = random.Random(seed)
        self.limiter = limiter
        self.size = size
        limits = [a_limit(rng, limiter) for _ in range(rng.choice([1, 1, 1, 2]))]
        in_lane = rng.random() < 0.4
        self.own, self.named = ([], {"t*": limits}) if in_lane else (limits, {})
        self.keys = [("t1",), ("t1",), ("t2",)] if in_lane else [(None,)]
        self.catch_up = rng.choice([0, 0, 0.01, 0.25])
        self.least = min(getattr(limit, "burst", limit.calls) for limit in limits)

    async def play(self):
        """Return what the promise forbids and the queue did."""
        rng, limiter = self.rng, self.limiter
        queue = limiter.queue(*self.own, lanes=self.named, catch_up=self.catch_up)
        limits = self.own, self.named
        if isinstance(limiter, Shared) and limiter.ahead:
            # Slots that the queue has at hand by then are used all the same.
            grace = 1.5 * limiter.ahead + 2 * self.catch_up + 0.01
            options = {"late": self.catch_up, "grace": grace, "at_once": True}
            self.watch = SharedWatch([queue], *limits, **options)
        else:
            self.watch = Watch(queue, *limits, catch_up=self.catch_up)
            self.watch.rounding = limiter.rounding
        for who in range(self.size):
            # None of these is an instant at which a limit has room: what happens at one and the
            # same instant has an order in one process only.
            pause = rng.random() * rng.choice([0, 0, 0, 0.02, 1, 1.5 * PERIOD, 1.5 * PERIOD])
            await asyncio.sleep(pause)
            rng.choice([self.join, self.join, self.settle, self.settle])(who)
            await limiter.settled()
        for task in self.watch.tasks.values():
            task.cancel()
        said = getattr(self.watch, "said", [])
        await asyncio.gather(*self.watch.tasks.values(), *said, return_exceptions=True)
        await queue.aclose()
        return self.watch.faults

    def join(self, who):
        amount = self.rng.choice([0, 0, 1, self.least / 2, self.least, self.least])
        call = Call(who, self.rng.choice(self.keys), {"tokens": amount})
        call.length = 10 * PERIOD  # it runs on while others come
        self.watch.join(call)

    def settle(self, _):
        """Settle a call that has started: mostly one of nothing to much, or of much to nothing."""
        started = [who for who in self.watch.charged if self.watch.ends.get(who) == "ran"]
        if started:
            who = self.rng.choice(started)
            charged = self.watch.calls[self.watch.slots[who]].cost["tokens"]
            least = self.least
            amounts = [0, 0, 0, 1, least / 2] if charged else [least, least, 1, 1.5 * least]
            self.watch.settle_now(who, {"tokens": self.rng.choice(amounts)})


def holds_whatever_is_settled(limiter, run_virtual, seed, size):
    """Play a history, twice as long at length."""
    size *= 2 if limiter.at_length else 1
    faults = run_virtual(Settlements(limiter, seed, size).play)
    assert not faults, faults


@holds_for(SEEDS, SIZES)
def test_promise_1_settlements_from_nothing(limiter, run_virtual, seed, size):
    """No limit breaks in any window, one that begins with an upward settlement included."""
    holds_whatever_is_settled(limiter, run_virtual, seed, size)
