"""When a queue's limits let calls go, and when these begin: never sooner."""

from __future__ import annotations

import math
import time
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aioapiqueue import Event

__all__ = ["Grants", "assert_granted"]

_STEP = 1e-3
"""Seconds by which a clock may lag behind another one."""


class Grants:
    """An observer that knows of each body the instant at which its queue's limits let it go."""

    def __init__(self) -> None:
        self._unused: deque[float] = deque()

    def on_event(self, event: Event) -> None:
        """Hear of one."""
        if event.kind == "released":
            self._unused.append(event.at)

    def body(self) -> tuple[float, float]:
        """Return, at the beginning of a body, when it was let go, and when it is.

        The grants are used in their order. A body that runs without one takes that of another,
        and the last of them has none: it would be let go at the end of all time.
        """
        try:
            granted = self._unused.popleft()
        except IndexError:
            granted = math.inf
        return granted, time.monotonic()


def assert_granted(calls: Iterable[tuple[float, float]]) -> None:
    """No body has begun before its limits let it go."""
    early = [(at, body) for at, body in calls if body < at - _STEP]
    assert not early, f"{len(early)} bodies began before their grants: {early[:5]}"
