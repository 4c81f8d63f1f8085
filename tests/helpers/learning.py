"""Queues that learn limits, and answers that state them, as the transports report them."""

from __future__ import annotations

from aioapiqueue import ApiQueue, Rate
from aioapiqueue.spi import Reporter

__all__ = ["answer", "free_at_once", "learning", "learnt"]

PERIOD = 60.0


def learning(*limits, units=("tokens",), **options):
    """Return a queue that learns limits, as the transports have it do."""
    queue = ApiQueue(*limits, **options)
    Reporter(queue).learn(units)
    return queue


def answer(queue, slot, *, remaining=None, **limits):
    """Report an answer that states limits by unit, and what remains of them."""
    quotas = Reporter(queue)
    for unit, limit in limits.items():
        left = limit if remaining is None else remaining
        quotas.sync(slot, left, unit=unit, reset=PERIOD, limit=limit, period=PERIOD)
    stated = [Rate(limit, per=PERIOD, burst=limit, unit=unit) for unit, limit in limits.items()]
    quotas.adopt(slot, stated)


def learnt(queue):
    """Return the limits that were learnt, as text, by key."""
    return {
        key: ", ".join(str(limit) for limit in limits) for key, limits in queue.stats.learnt.items()
    }


def free_at_once(queue, **call):
    """Return how many of three calls start at once; they are ended."""
    futures = [queue.enqueue(**call) for _ in range(3)]
    found = sum(future.done() for future in futures)
    for future in futures:
        future.cancel()
    return found
