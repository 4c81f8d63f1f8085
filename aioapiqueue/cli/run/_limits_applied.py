"""Which limits applied to the calls of a run, and which to none of them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from aioapiqueue.registry.spi import ADAPTIVE, limits_applied

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioapiqueue.hub import CallStats
    from aioapiqueue.registry import InForce, Registry

__all__ = ["judged", "unused"]


def judged(figures: Sequence[CallStats], registry: Registry) -> list[CallStats]:
    """Return the hub's figures, `paced` only where some limit concerned the calls.

    A queue whose limits are all of other operations lets a call through at once.
    """
    paced = {kind: any(limits_applied(registry, *kind)) for kind in _kinds(figures)}
    return [
        one if one.queue is None else dataclasses.replace(one, paced=paced[_kind(one)])
        for one in figures
    ]


def unused(figures: Sequence[CallStats], registry: Registry) -> list[InForce]:
    """Return the limits that the user wrote and that applied to no call.

    Limits of presets and of their quotas are left out: they are there for all that may be called.
    Where the hub has summed up calls, it is not known which limits applied to them: none is
    returned.

    Args:
        figures: the hub's.
        registry: the limits.
    """
    if any(one.paced and one.queue is None for one in figures):
        return []
    applied = {name for kind in _kinds(figures) for name in limits_applied(registry, *kind)}
    return [
        entry
        for entry in registry
        if entry.share is None  # what is published, or granted
        and entry.source != ADAPTIVE
        and (entry.limits or entry.concurrency is not None or entry.adaptive is not None)
        and (entry.service, entry.operation, entry.bucket) not in applied
    ]


def _kind(figure: CallStats) -> tuple[str, str, str]:
    return figure.service, figure.operation, figure.lane


def _kinds(figures: Sequence[CallStats]) -> set[tuple[str, str, str]]:
    """Return the kinds of calls that queues released: each has figures for every Region."""
    return {_kind(one) for one in figures if one.queue is not None}
