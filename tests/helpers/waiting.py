"""Waiting in real time for what other threads and processes do."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["PATIENCE", "wait_until"]

PATIENCE = 60.0  # seconds: far more than anything here takes, for busy machines


def wait_until(
    condition: Callable[[], object],
    what: str = "it did not happen",
    *,
    within: float = PATIENCE,
    every: float = 0.005,
    despite: type[Exception] | tuple[()] = (),
) -> None:
    """Wait until a condition holds.

    Args:
        condition: returns whether it does.
        what: is said if it never holds.
        within: seconds after which TimeoutError is raised.
        every: seconds between two looks.
        despite: an exception by which the condition says that it cannot tell yet.
    """
    deadline = time.monotonic() + within
    while True:
        error = None
        try:
            if condition():
                return
        except despite as failed:
            error = failed
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {within:g} s: {what}" + (f" ({error})" if error else ""))
        time.sleep(every)
