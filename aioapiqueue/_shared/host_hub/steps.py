"""Work that must not delay others: done piece by piece, for a few milliseconds in each pass."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Steps"]

_SECONDS = 0.005
"""In one pass of the loop, but for the last step's rest: the most that others wait for it."""


class Steps:
    """Steps that are done in the order in which they were added.

    Hundreds of clients may come or leave at one instant, as the workers of a server that restarts.
    In a single pass of the loop, that would keep all other clients waiting.
    """

    def __init__(self) -> None:
        self._steps: deque[Callable[[], None]] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        """On which the next ones are about to be done."""

    def add(self, step: Callable[[], None], *, first: bool = False) -> None:
        """Do this after what was added before; or before that."""
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
                if loop.time() >= until:
                    break
        finally:  # what one step raises, the loop reports; the others are done all the same
            if self._steps:
                loop.call_soon(self._go_on)
            else:
                self._loop = None
