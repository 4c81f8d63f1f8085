"""Maps the limits of a service to one queue, and its calls to keys and costs of that queue.

A service has one queue for each Region and account. All limits of a call are limits or lanes of
this queue, so that the call is charged to all of them at one instant, or to none:

    limits of the service      limits of the queue
    limits of an operation     a lane named after the operation, which is the call's first key
    limits of a variant        a lane of the variant, which is the first key instead; a call that
                               uses two variants has both keys
    limits of a shared bucket  a lane of the bucket, which is a further key of each call in it
    lanes of a host            a request has two keys: the lane of its path, and of its method

AWS counts the calls of some services in one bucket (both versions of API Gateway). A call can be
charged at one instant in one queue only, so these services share a queue. They may have operations
of the same name, so the name of each lane begins with that of its service, and the limits of a
service form one more lane. The first key of a call is still the operation's plain name, for figures
and messages.
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


class QueuePlan:
    """The queue of one service, or of several services that share a bucket.

    Args:
        services: the limits of the services, by name.
        shared_buckets: the names of the buckets that they share.
    """

    def __init__(
        self, services: Mapping[str, ServiceLimits], shared_buckets: Sequence[str] = ()
    ) -> None:
        # The first in the alphabet, not in the file: processes that share the queue must give it
        # the same name.
        self.service = min(services)
        self.scope = services[self.service].scope  # the same for all: see `_is_same_bucket`
        self._services = services
        self._shared_buckets = shared_buckets
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
        """Return the keys and the cost of a call; None if no limit applies to it.

        Args:
            service: the service's name.
            operation: the operation's name.
            parameters: the call's parameters, as `parameter_counts` returns them.
        """
        limits = self._services[service]
        if is_host(service):
            return lanes_of(operation, limits.lanes), 1
        variants, buckets, costs = [], [], {}
        for name, bucket in limits.buckets.items():
            if not bucket.takes(operation, parameters):
                continue
            if bucket.per_operation:
                # Its lane replaces that of the operation. It has no cost: its limits count calls.
                variants.append(str(VariantKey(operation, name)))
                continue
            buckets.append(name)
            unit = self._units[service][name]
            if unit != CALLS:
                # At most what the bucket can hold: a call that costs more would never start.
                cost = bucket.cost_of(operation, parameters)
                costs[unit] = min(cost, self._largest[service, name])
        # If a service has limits of shared buckets only, its other calls need no queue. If it has
        # no limits at all ("unlimited"), its calls have a queue without limits.
        if not (buckets or limits.own or not limits.buckets):
            return None
        shared = [
            self._key(service, bucket_key(name), shared=name in self._shared_buckets)
            for name in buckets
        ]
        lanes = variants or [operation]
        if len(self._services) > 1:
            # A throttled call slows down its first key that has limits, which should be the most
            # specific: so the limits of the whole service come last.
            own = [service] if _own_limits(limits) else []
            mine = [self._key(service, lane) for lane in lanes]
            return (lanes[0], *mine, *shared, *own), costs or 1
        return (*lanes, *shared), costs or 1

    def _key(self, service: str, key: str, *, shared: bool = False) -> str:
        """Return the key of a lane, prefixed with its service if services share the queue."""
        return key if shared or len(self._services) == 1 else f"{service}.{key}"

    def limits(self) -> tuple[tuple[Limit, ...], dict[str, tuple[Limit, ...]]]:
        """Return the limits of the queue, and those of its lanes by key."""
        if len(self._services) == 1:
            only = self._services[self.service]
            return only.rate, only.queue_lanes
        lanes: dict[str, tuple[Limit, ...]] = {}
        shared = set(map(bucket_key, self._shared_buckets))
        for service, limits in self._services.items():
            if own_limits := _own_limits(limits):
                lanes[service] = own_limits
            for key, own in limits.queue_lanes.items():
                lanes[self._key(service, key, shared=key in shared)] = own
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
            ValueError: the `adaptive` of one service does not suit the limits of another.
        """
        if len(self._services) == 1:
            return self._services[self.service].queue(name, observers, schedule=schedule)
        _, lanes = self.limits()
        several = self._services.values()
        return ApiQueue(
            "unlimited",  # so that operations without a lane cause no `UnknownKeyWarning`
            name=name,
            lanes=lanes,
            # "fair" if one of the services names it, as most of them name no order.
            order=max((limits.order for limits in several), key=orders.ORDERS.index),
            adaptive=next(filter(None, (limits.adaptive for limits in several)), None),
            schedule=schedule,
            observers=observers,
        )


def _own_limits(limits: ServiceLimits) -> tuple[Limit, ...]:
    """Return the limits of a whole service, for a lane of a shared queue."""
    bodies = () if limits.concurrency is None else (Concurrency(limits.concurrency),)
    return (*limits.rate, *bodies)


def plans_for(services: Mapping[str, ServiceLimits]) -> dict[str, QueuePlan]:
    """Return the plan of each service. Services that share a bucket share a plan.

    Raises:
        LimitsError: the limits of such services contradict each other.
    """
    plans: dict[str, QueuePlan] = {}
    for service, limits in services.items():
        if service in plans:
            continue
        members, shared_buckets = {service: limits}, []
        for name, bucket in limits.buckets.items():
            other = bucket.shared_with or ""
            if _is_same_bucket(name, limits, services.get(other)):
                members[other] = services[other]
                shared_buckets.append(name)
        plan = QueuePlan(dict(sorted(members.items())), shared_buckets)
        plans.update(dict.fromkeys(members, plan))
        if len(members) > 1:
            # Create a queue now, to find errors before the first call.
            try:
                plan.queue(None)
            except ValueError as error:
                raise LimitsError(
                    f"{' and '.join(sorted(members))} share a queue: {error}"
                ) from error
    return plans


def _is_same_bucket(name: str, limits: ServiceLimits, other: ServiceLimits | None) -> bool:
    """Return whether two services share a bucket, which requires equal limits and scopes."""
    if other is None or other.scope != limits.scope or name not in other.buckets:
        return False
    return other.buckets[name].limits == limits.buckets[name].limits
