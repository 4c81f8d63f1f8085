"""How long this machine takes, just now, for a piece of work that does not change.

A bound on a computation is a multiple of it: on a machine of half the speed both take twice as
long, so that only the code can break the bound.
"""

from __future__ import annotations

import heapq
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["delay", "slowness", "yards"]

_ITEMS = 100_000
_ORDINARY = 0.12
"""Seconds that they take on a machine as fast as the one of docs/measured.md. A slower one took
0.23 to 0.36 s, and for a slot with priorities and 100 lanes, 2.8 to 3.4 times as long as there."""
_ATTEMPTS = 3


def _yardstick() -> float:
    """Return the CPU seconds that 100,000 items take through a heap and a table.

    It is like what a queue does: objects come and go, and are compared.
    """
    began = time.process_time()
    heap: list[tuple[int, object]] = []
    table = {}
    for number in range(_ITEMS):
        item = (number * 7919 % 1_000_003, object())
        heapq.heappush(heap, item)
        table[item[0]] = item
    while heap:
        del table[heapq.heappop(heap)[0]]
    return time.process_time() - began


def yards(
    work: Callable[[], object], *, enough: float, than: Callable[[], object] | None = None
) -> float:
    """Return how many times the yardstick a piece of work takes, in CPU seconds.

    Another piece of work may be the yardstick: what is like it varies like it, as on a machine
    whose memory others use, too.

    The least of three attempts, or the first within what is `enough`: what else a machine does can
    make one longer for as long as it takes, and none shorter.
    """
    least = float("inf")
    for _ in range(_ATTEMPTS):
        before = _yardstick() if than is None else _seconds(than)
        took = _seconds(work)
        least = min(least, took / max(before, _yardstick() if than is None else _seconds(than)))
        if least < enough:
            break
    return least


def _seconds(work: Callable[[], object]) -> float:
    """Return how many CPU seconds a piece of work takes."""
    began = time.process_time()
    work()
    return time.process_time() - began


def slowness() -> float:
    """Return by how much what is computed takes longer than on an ordinary machine; at least 1."""
    return max(1, _yardstick() / _ORDINARY)


def delay() -> float:
    """Return by how much everything takes longer than on an ordinary machine that is idle.

    Unlike `slowness`, it goes by how long this process waits for a core, too.
    """
    began = time.perf_counter()
    computed = _yardstick()
    return max(1, computed / _ORDINARY) * (time.perf_counter() - began) / computed
