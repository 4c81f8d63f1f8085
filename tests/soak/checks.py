"""What must hold all the time, and from the first half to the second."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import threading
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Broken", "Flat", "RateCheck", "WindowCheck", "resources"]


class Broken(Exception):  # noqa: N818 - what it says of the queue
    """Raised where a promise does not hold; its text says which, and how."""


class RateCheck:
    """In any `W` seconds at most `burst + (W + late) * rate` start.

    A bucket that never refuses: the fullest that it was is the fullest window.

    Args:
        name: of the limit, for messages.
        rate: per second.
        burst: at once.
        late: seconds by which a start may be late.
    """

    def __init__(self, name: str, rate: float, burst: float, late: float) -> None:
        self.name = name
        self.late = late
        self._rate, self._burst = rate, burst
        self._level, self._at = 0.0, 0.0

    def start(self, at: float, cost: float) -> None:
        """Count a start; they come in order of time."""
        self._level = max(0.0, self._level - (at - self._at) * self._rate) + cost
        self._at = at
        most = self._burst + self.late * self._rate
        if self._level > most + 1e-6:
            raise Broken(f"{self.name}: {self._level:.2f} at once, {most:.2f} are allowed")

    def forget(self) -> None:
        """Begin again: the server has lost what it knew."""
        self._level = 0.0


class WindowCheck:
    """In any `per` seconds at most `most` start.

    Args:
        name: of the limit, for messages.
        most: how many.
        per: seconds.
        rounding: seconds by which an instant may be known too late.
    """

    def __init__(self, name: str, most: float, per: float, *, rounding: float = 0.0) -> None:
        self.name = name
        self._most, self._per = most, per - rounding
        self._starts: deque[tuple[float, float]] = deque()
        self._sum = 0.0

    def start(self, at: float, cost: float) -> None:
        """Count a start; they come in order of time."""
        while self._starts and self._starts[0][0] <= at - self._per:
            self._sum -= self._starts.popleft()[1]
        self._starts.append((at, cost))
        self._sum += cost
        if self._sum > self._most + 1e-6:
            raise Broken(f"{self.name}: {self._sum:g} within {self._per:g} s")

    def forget(self) -> None:
        """Begin again: the server has lost what it knew."""
        self._starts.clear()
        self._sum = 0.0


def resources() -> dict[str, float]:
    """Return what this process has: memory, objects, descriptors and threads."""
    for _ in range(3):
        gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)  # what was freed is not held against it
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "MB": pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
        "blocks": sys.getallocatedblocks(),
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
        "threads": threading.active_count(),
    }


ENOUGH = 5
"""Rounds in each half: of fewer, nothing can be said."""
ALLOWED = {"MB": (1.05, 2), "blocks": (1.02, 2000), "descriptors": (1, 2), "threads": (1, 1)}
"""For each resource, by what factor and by how much more there may be in the second half."""


@dataclass
class Flat:
    """Compares what there was at the ends of rounds: second half against first.

    The least of each: what a round leaves for a while, by how it ended, comes and goes; a leak is
    never less again. The first fifth is left out, in which all is used for the first time.
    """

    seen: list[dict[str, float]] = field(default_factory=list)

    def check(self) -> None:
        """Compare.

        Raises:
            Broken: there is more of something.
        """
        later = self.seen[len(self.seen) // 5 :]
        half = len(later) // 2
        if half < ENOUGH:
            return
        for name, (factor, more) in ALLOWED.items():
            before, after = (
                min(one[name] for one in part) for part in (later[:half], later[half:])
            )
            if after > before * factor + more:
                raise Broken(f"{name} grow: {before:g} in the first half, {after:g} in the second")
