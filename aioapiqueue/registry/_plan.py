"""Which keys and costs a call has in its queue, and what that queue is made of.

A service has one queue (for each Region and account). All limits of a call are limits or lanes of
it, so that the call is charged to all of them at one instant, or to none:

    the service's own          the queue's own limits
    an operation's             the lane of the operation's name; that is the call's first key
    a variant's                the lane of the variant, which is the first key instead; of two that
                               a call comes under, both are keys
    a bucket that is shared    a lane of the bucket, and a key of each call that uses it
    a host's, by path          a lane; of a request's method, another one: both are its keys

AWS counts the calls of some services in one bucket (both versions of API Gateway). As a call can be
charged at one instant in one queue only, these services share a queue. Operations of the same name
are different ones there: so each service's limits are lanes with its name before theirs, its own
limits are one more lane, and a call's first key is the operation's name all the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioapiqueue import ApiQueue, Concurrency
from aioapiqueue.exceptions import LimitsError
from aioapiqueue.registry._buckets import (
    VariantKey,
    bucket_key,
    counted_in,
    largest_cost,
    units_of,
)
from aioapiqueue.registry._hosts import is_host, lanes_of
from aioapiqueue.spi import CALLS, orders

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aioapiqueue import Limit
    from aioapiqueue.registry._model import ServiceLimits
    from aioapiqueue.spi import Cost, Observers, seam

__all__ = ["QueuePlan", "plans_for"]


class QueuePlan:
    """Of one service, or of several that share a bucket: what their queue is made of.

    Args:
        services: their limits, by name.
        joint: the names of the buckets that they share.
    """

    def __init__(self, services: Mapping[str, ServiceLimits], joint: Sequence[str] = ()) -> None:
        self.service = min(services)
        self.scope = services[self.service].scope
        self._services = services
        self._joint = joint
        self._units = {name: units_of(limits.buckets) for name, limits in services.items()}
        self._largest = {
            (name, bucket): largest_cost(counted_in(limits.buckets[bucket], unit), unit)
            for name, limits in services.items()
            for bucket, unit in self._units[name].items()
            if unit != CALLS
        }

    def call(
        self, service: str, operation: str, parameters: Mapping[str, int]
    ) -> tuple[tuple[str, ...], Cost] | None:
        """Return the keys and the cost of a call; None: it comes under no limit.

        Args:
            service: whose call it is.
            operation: its name.
            parameters: the numbers of its parameters.
        """
        limits = self._services[service]
        if is_host(service):
            return lanes_of(operation, limits.lanes), 1
        variants, buckets, costs = [], [], {}
        for name, bucket in limits.buckets.items():
            if not bucket.takes(operation, parameters):
                continue
            if bucket.per_operation:
                variants.append(str(VariantKey(operation, name)))
                continue
            buckets.append(name)
            unit = self._units[service][name]
            if unit != CALLS:
                cost = bucket.cost_of(operation, parameters)
                costs[unit] = min(cost, self._largest[service, name])
        if not (buckets or limits.own or not limits.buckets):
            return None
        shared = [
            self._key(service, bucket_key(name), joint=name in self._joint) for name in buckets
        ]
        lanes = variants or [operation]
        if len(self._services) > 1:
            # Push-back slows down the first that has limits: the service's own are the last.
            own = [service] if _own_limits(limits) else []
            mine = [self._key(service, lane) for lane in lanes]
            return (lanes[0], *mine, *shared, *own), costs or 1
        return (*lanes, *shared), costs or 1

    def _key(self, service: str, key: str, *, joint: bool = False) -> str:
        """Return a key of one service in the queue: a service's own, where several share it."""
        return key if joint or len(self._services) == 1 else f"{service}.{key}"

    def limits(self) -> tuple[tuple[Limit, ...], dict[str, tuple[Limit, ...]]]:
        """Return the limits of all calls of the queue, and those of its lanes, by their keys."""
        if len(self._services) == 1:
            only = self._services[self.service]
            return only.rate, only.queue_lanes
        lanes: dict[str, tuple[Limit, ...]] = {}
        joint = set(map(bucket_key, self._joint))
        for service, limits in self._services.items():
            if own_limits := _own_limits(limits):
                lanes[service] = own_limits
            for key, own in limits.queue_lanes.items():
                lanes[self._key(service, key, joint=key in joint)] = own
        return (), lanes

    def queue(
        self,
        name: str | None,
        observers: Observers = (),
        *,
        schedule: seam.LimiterFactory | None = None,
    ) -> ApiQueue:
        """Return a new queue.

        Raises:
            ValueError: `adaptive` of one of the services does not fit the limits of another.
        """
        if len(self._services) == 1:
            return self._services[self.service].queue(name, observers, schedule=schedule)
        _, lanes = self.limits()
        several = self._services.values()
        return ApiQueue(
            "unlimited",  # so that operations without a lane cause no `UnknownKeyWarning`
            name=name,
            lanes=lanes,
            order=max((limits.order for limits in several), key=orders.ORDERS.index),
            adaptive=next(filter(None, (limits.adaptive for limits in several)), None),
            schedule=schedule,
            observers=observers,
        )


def _own_limits(limits: ServiceLimits) -> tuple[Limit, ...]:
    """Return a service's own limits, as those of a lane."""
    bodies = () if limits.concurrency is None else (Concurrency(limits.concurrency),)
    return (*limits.rate, *bodies)


def plans_for(services: Mapping[str, ServiceLimits]) -> dict[str, QueuePlan]:
    """Return the plan of each service's queue: those that share a bucket have the same.

    Raises:
        LimitsError: what two services with one bucket say does not go together.
    """
    plans: dict[str, QueuePlan] = {}
    for service, limits in services.items():
        if service in plans:
            continue
        members, joint = {service: limits}, []
        for name, bucket in limits.buckets.items():
            other = bucket.shared_with or ""
            if _is_same_bucket(name, limits, services.get(other)):
                members[other] = services[other]
                joint.append(name)
        plan = QueuePlan(dict(sorted(members.items())), joint)
        plans.update(dict.fromkeys(members, plan))
        if len(members) > 1:
            try:
                plan.queue(None)
            except ValueError as error:
                raise LimitsError(
                    f"{' and '.join(sorted(members))} share a queue: {error}"
                ) from error
    return plans


def _is_same_bucket(name: str, limits: ServiceLimits, other: ServiceLimits | None) -> bool:
    """Return whether a bucket is also the other service's: of what differs, each has its own."""
    if other is None or other.scope != limits.scope or name not in other.buckets:
        return False
    return other.buckets[name].limits == limits.buckets[name].limits
