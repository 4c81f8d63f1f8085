"""Runs work that must not delay clients in steps: a few milliseconds in each pass of the loop."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_SECONDS = 0.005
"""Seconds of work in one pass of the loop: the time for which other clients wait."""


class Steps:
    """Runs steps in the order in which they were added.

    Hundreds of clients may connect or leave at once, such as the workers of a server that restarts.
    In a single pass of the loop, this would keep all other clients waiting.
    """

    def __init__(self) -> None:
        self._steps: deque[Callable[[], None]] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        """The loop that will run the next steps; None: there are none."""

    def add(self, step: Callable[[], None], *, first: bool = False) -> None:
        """Run a step after all others, or (`first`) before them."""
        if first:
            self._steps.appendleft(step)
        else:
            self._steps.append(step)
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop = loop
            loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        loop = self._loop = asyncio.get_running_loop()
        until = loop.time() + _SECONDS
        try:
            while self._steps:
                self._steps.popleft()()
                if loop.time() >= until:  # after a step: each pass does at least one
                    break
        finally:  # the loop reports a step that raises; the others still run
            if self._steps:
                loop.call_soon(self._go_on)
            else:
                self._loop = None
