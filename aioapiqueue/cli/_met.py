"""Which limits the calls of a run came under, and which of them none did."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from aioapiqueue.registry._buckets import VariantKey, lane_key, lane_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from aioapiqueue.hub import Figure
    from aioapiqueue.registry import InForce, Registry

__all__ = ["judged", "unused"]

_Name = tuple[str, str | None, str | None]
"""A limit: of a service, and of an operation of it, or of a bucket."""


def judged(figures: Sequence[Figure], registry: Registry) -> list[Figure]:
    """Return the hub's figures, `paced` only where some limit concerned the calls.

    A queue that has limits of other operations only lets a call through as if there were none.
    """
    paced = {kind: any(True for _ in _met(*kind, registry)) for kind in _kinds(figures)}
    return [
        one if one.queue is None else dataclasses.replace(one, paced=paced[_kind(one)])
        for one in figures
    ]


def unused(figures: Sequence[Figure], registry: Registry, *, dry_run: bool) -> list[InForce]:
    """Return the limits that somebody wrote and no call came under.

    Not those of presets and their quotas, which are there for whatever may be called; and none at
    all where the hub has summed up calls that came under limits of which it kept no record.

    Args:
        figures: the hub's.
        registry: the limits.
        dry_run: nothing was paced, so that figures do not tell which bucket parameters chose.
    """
    if any(one.paced and one.queue is None for one in figures):
        return []
    met = {name for kind in _kinds(figures) for name in _met(*kind, registry, dry_run=dry_run)}
    return [
        entry
        for entry in registry
        if entry.share is None  # what is published, or granted
        and (entry.limits or entry.concurrency is not None or entry.adaptive is not None)
        and (entry.service, entry.operation, entry.bucket) not in met
    ]


def _kind(figure: Figure) -> tuple[str, str, str]:
    return figure.service, figure.operation, figure.lane


def _kinds(figures: Sequence[Figure]) -> set[tuple[str, str, str]]:
    """Return which calls a queue let go: few, as each has figures for every Region and account."""
    return {_kind(one) for one in figures if one.queue is not None}


def _met(
    service: str, operation: str, of: str, registry: Registry, *, dry_run: bool = False
) -> Iterator[_Name]:
    """Yield the limits that calls came under.

    Args:
        service: whose calls they are.
        operation: which ones.
        of: the lane in which the hub counted them; "" where it paced nothing.
        registry: the limits.
        dry_run: as for `unused`.
    """
    name, limits = registry.limits_of(service)
    if limits is None:
        return
    if name not in registry.services:
        name = "default"
    if limits.rate or limits.concurrency is not None or limits.adaptive is not None:
        yield name, None, None
    key = lane_key(of or operation)
    lane = lane_of(key, limits.lanes)
    if isinstance(key, VariantKey) and lane != key:
        yield name, None, key.variant  # a bucket that each operation has for itself, not a lane
    elif lane is not None and limits.lanes[lane]:
        yield name, str(lane), None
    for key, bucket in limits.buckets.items():
        # What parameters it takes to be none of a bucket, a figure does not tell.
        if bucket.takes(operation, {}) and (dry_run or not bucket.per_operation):
            yield name, None, key
