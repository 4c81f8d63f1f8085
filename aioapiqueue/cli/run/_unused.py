"""Which limits applied to the calls of a run, and which to none of them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from aioapiqueue.registry._buckets import VariantKey, lane_key, lane_of
from aioapiqueue.registry._hosts import is_host, lanes_of
from aioapiqueue.registry._options import ADAPTIVE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from aioapiqueue.hub import CallStats
    from aioapiqueue.registry import InForce, Registry

__all__ = ["judged", "unused"]

_Name = tuple[str, str | None, str | None]
"""A limit: of a service, and of an operation of it, or of a bucket."""


def judged(figures: Sequence[CallStats], registry: Registry) -> list[CallStats]:
    """Return the hub's figures, `paced` only where some limit concerned the calls.

    A queue whose limits are all of other operations lets a call through at once.
    """
    paced = {kind: any(True for _ in _met(*kind, registry)) for kind in _kinds(figures)}
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
    met = {name for kind in _kinds(figures) for name in _met(*kind, registry)}
    return [
        entry
        for entry in registry
        if entry.share is None  # what is published, or granted
        and entry.source != ADAPTIVE
        and (entry.limits or entry.concurrency is not None or entry.adaptive is not None)
        and (entry.service, entry.operation, entry.bucket) not in met
    ]


def _kind(figure: CallStats) -> tuple[str, str, str]:
    return figure.service, figure.operation, figure.lane


def _kinds(figures: Sequence[CallStats]) -> set[tuple[str, str, str]]:
    """Return the kinds of calls that queues released: each has figures for every Region."""
    return {_kind(one) for one in figures if one.queue is not None}


def _met(service: str, operation: str, of: str, registry: Registry) -> Iterator[_Name]:
    """Yield the limits that applied to calls.

    Args:
        service: whose calls they are.
        operation: what they call.
        of: the lane in which the hub counted them; "": the operation's.
        registry: the limits.
    """
    name, limits = registry.limits_of(service)
    if limits is None:
        return
    if name not in registry.services:
        name = "default"
    if limits.rate or limits.concurrency is not None or limits.adaptive is not None:
        yield name, None, None
    if is_host(name):
        found = lanes_of(operation, limits.lanes)
        yield from ((name, lane, None) for lane in found if limits.lanes.get(lane))
        return
    key = lane_key(of or operation)
    lane = lane_of(key, limits.lanes)
    if isinstance(key, VariantKey) and lane != key:
        yield name, None, key.variant  # a bucket that each operation has for itself, not a lane
    elif lane is not None and limits.lanes[lane]:
        yield name, str(lane), None
    # A figure does not show which parameters a call had, and of several buckets that an operation
    # has for itself it names the first alone.
    any_of_each = isinstance(key, VariantKey)
    for bucket_name, bucket in limits.buckets.items():
        if bucket.takes(operation, {}) and (any_of_each or not bucket.per_operation):
            yield name, None, bucket_name
