"""Calls that come under several lanes and units, and what each of their limits may let through."""

from __future__ import annotations

import asyncio
import itertools
import math
from dataclasses import dataclass

from aioapiqueue import Rate

__all__ = ["Start", "check_limits", "run_calls", "worst_excess"]


@dataclass
class Start:
    """A call that has started.

    Attributes:
        at: when.
        number: which call.
        keys: its keys.
        calls: its cost in calls.
        tokens: its cost in tokens.
    """

    at: float
    number: int
    keys: tuple
    calls: float
    tokens: float

    def amount(self, unit):
        """Return its cost in one unit."""
        return self.calls if unit == "calls" else self.tokens


async def run_calls(queues, calls, *, body=None):
    """Make calls, each (pause before, keys, priority, tokens), on one queue after the other.

    Return the starts, in their order. `body` is called with number and slot, once started.
    """
    loop, starts = asyncio.get_running_loop(), []

    async def call(number, queue, keys, priority, tokens):
        cost = {} if tokens is None else {"tokens": tokens}
        async with queue.slot(keys=keys, priority=priority, cost=cost) as slot:
            starts.append(Start(loop.time(), number, keys, 1, tokens or 0))
            if body is not None:
                await body(number, slot)

    tasks = []
    for number, (pause, *how) in enumerate(calls):
        if pause:
            await asyncio.sleep(pause)
        tasks.append(asyncio.create_task(call(number, queues[number % len(queues)], *how)))
    await asyncio.gather(*tasks)
    return starts


def worst_excess(limit, starts, *, catch_up, rounding):
    """Return by how much more than a limit allows started, in the worst interval of time.

    Which of the calls of one instant comes first is of no meaning: they differ by what floats do.
    """
    spent = [(one.at, amount) for one in starts if (amount := one.amount(limit.unit))]
    worst = -math.inf
    sums = [0, *itertools.accumulate(amount for _, amount in spent)]
    dearest = [
        max(amount for at, amount in spent[first:] if at <= spent[first][0] + rounding)
        for first in range(len(spent))
    ]
    for first, last in itertools.combinations_with_replacement(range(len(spent)), 2):
        length = spent[last][0] - spent[first][0]
        total = sums[last + 1] - sums[first]
        if isinstance(limit, Rate):
            slack = (length + catch_up + rounding) / limit.interval
            # One that costs more than the burst has waited for the rest before.
            allowed = max(limit.burst, dearest[first]) + slack
        elif length < limit.per - rounding:
            allowed = limit.calls
        else:
            continue
        worst = max(worst, total - allowed)
    return worst


def check_limits(limits, lanes, starts, *, catch_up=0.010, rounding=2e-6):
    """Check each limit of the queue, and of each lane, against all that came under it."""
    scopes = [(None, limits), *lanes.items()]
    for key, own in scopes:
        under = [one for one in starts if key is None or key in one.keys]
        for limit in own:
            excess = worst_excess(limit, under, catch_up=catch_up, rounding=rounding)
            assert excess <= 1e-6, (key, limit, excess)
