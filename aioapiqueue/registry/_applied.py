"""`limits_applied`: the limits that apply to a call, found from its operation and its lane."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from aioapiqueue.registry._buckets import VariantKey, lane_key, lane_of
from aioapiqueue.registry._hosts import is_host, lanes_of
from aioapiqueue.registry._registry import plan_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aioapiqueue.registry._registry import Registry

LimitName: TypeAlias = tuple[str, str | None, str | None]
"""The `service`, `operation` and `bucket` of an `InForce`."""


def limits_applied(
    registry: Registry, service: str, operation: str, lane: str = ""
) -> Iterator[LimitName]:
    """Yield the names of the limits that apply to a call.

    Args:
        registry: the limits.
        service: the call's service or host.
        operation: the call's operation.
        lane: the first key of its slot, if that is not the operation.
    """
    plan = plan_of(registry, service)
    if plan is None:
        return
    limits = plan.limits
    # The name in `InForce` of the limits that apply.
    name = plan.service if plan.service in registry.services else "default"
    if limits.rate or limits.concurrency is not None or limits.adaptive is not None:
        yield name, None, None
    if is_host(name):
        lanes = lanes_of(operation, limits.lanes)
        # The method may have no lane, and the lane's limits are empty if it is "unlimited".
        yield from ((name, one, None) for one in lanes if limits.lanes.get(one))
        return
    key = lane_key(lane or operation)
    found = lane_of(key, limits.lanes)
    if isinstance(key, VariantKey) and found != key:
        # A bucket with `per_operation` made this lane. A prefix that matches does not apply to it.
        yield name, None, key.variant
    elif found is not None and limits.lanes[found]:
        yield name, str(found), None
    # The lane does not show which parameters the call had. If the call uses several buckets with
    # `per_operation`, its lane names only the first of them, so all that may apply are included.
    any_of_each = isinstance(key, VariantKey)
    for bucket_name, bucket in limits.buckets.items():
        if bucket.takes(operation, {}) and (any_of_each or not bucket.per_operation):
            yield name, None, bucket_name
