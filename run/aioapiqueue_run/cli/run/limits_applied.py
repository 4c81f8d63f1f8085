"""Which limits applied to the calls of a run, and which were not used."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from aioapiqueue.registry.spi import ADAPTIVE, limits_applied

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioapiqueue.registry import InForce, Registry
    from aioapiqueue_run.hub import CallStats

__all__ = ["judged", "unused"]


def judged(figures: Sequence[CallStats], registry: Registry) -> list[CallStats]:
    """Return the hub's figures, with `paced` only if some limit applied to the calls.

    A call may have a queue all of whose limits are for other operations.
    """
    paced = {kind: any(limits_applied(registry, *kind)) for kind in _kinds(figures)}
    return [
        one if one.queue is None else dataclasses.replace(one, paced=paced[_kind(one)])
        for one in figures
    ]


def unused(figures: Sequence[CallStats], registry: Registry) -> list[InForce]:
    """Return the limits that the user wrote and that applied to no call.

    Limits of presets and quotas are left out, because they are for all calls that a program may
    make. If the hub has added up calls, it is not known which limits applied, so none is returned.

    Args:
        figures: the figures of the hub.
        registry: the limits.
    """
    if any(one.paced and one.queue is None for one in figures):
        return []
    applied = {name for kind in _kinds(figures) for name in limits_applied(registry, *kind)}
    return [
        entry
        for entry in registry
        if entry.share is None  # otherwise it is from a preset or from quotas
        and entry.source != ADAPTIVE
        and (entry.limits or entry.concurrency is not None or entry.adaptive is not None)
        and (entry.service, entry.operation, entry.bucket) not in applied
    ]


def _kind(figure: CallStats) -> tuple[str, str, str]:
    return figure.service, figure.operation, figure.lane


def _kinds(figures: Sequence[CallStats]) -> set[tuple[str, str, str]]:
    """Return the kinds of calls that had a queue. Each has figures for every Region."""
    return {_kind(one) for one in figures if one.queue is not None}
