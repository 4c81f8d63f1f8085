"""Figures of runs that never were: for what is made of them."""

from __future__ import annotations

from typing import Any

from aioapiqueue_run.hub import CallStats

__all__ = ["figure_of"]


def figure_of(
    *names: Any, calls: int = 0, waited: float = 0.0, longest_wait: float = 0.0, **more: Any
) -> CallStats:
    """Return a figure with these sums; the other arguments are those of `CallStats`."""
    found = CallStats(*names, **more)
    waits = found.wait_times
    waits.number, waits.total, waits.longest = calls, waited, longest_wait
    return found
