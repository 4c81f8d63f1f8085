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

import contextlib
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from aioapiqueue import ApiQueue, Concurrency
from aioapiqueue.registry._buckets import (
    VariantKey,
    bucket_key,
    counted_in,
    largest_cost,
    units_of,
)
from aioapiqueue.registry._hosts import host_called, is_host, lanes_of
from aioapiqueue.registry._names import canonical, is_listed
from aioapiqueue.spi import CALLS, orders

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from aioapiqueue import Limit
    from aioapiqueue.registry._buckets import Bucket
    from aioapiqueue.registry._model import ServiceLimits
    from aioapiqueue.registry._report import Report
    from aioapiqueue.spi import Cost, Observers, seam


class QueuePlan:
    """The queue of one service, or of several services that share a bucket.

    Args:
        services: the limits of the services, by name.
        shared_buckets: the names of the buckets that they share.

    Attributes:
        services: the limits of the services, by name.
        service: the first of the services, by name.
        scope: whether each account, each Region or both have a queue of their own.
        is_joint: whether several services share the queue.
    """

    def __init__(
        self, services: Mapping[str, ServiceLimits], shared_buckets: Collection[str] = ()
    ) -> None:
        # The first in the alphabet, not in the file: processes that share the queue must give it
        # the same name.
        self.service = min(services)
        self.scope = services[self.service].scope  # the same for all: see `_is_same_bucket`
        self.services = services
        self.is_joint = len(services) > 1
        self._shared_keys = {bucket_key(name) for name in shared_buckets}

    def key_of(self, service: str, lane: str) -> str:
        """Return the key of a service's lane. It names the service if others have such lanes."""
        return f"{service}.{lane}" if self.is_joint and lane not in self._shared_keys else lane

    @property
    def limits(self) -> tuple[Limit, ...]:
        """The limits of all calls, with those of calls in flight."""
        return () if self.is_joint else _own_limits(self.services[self.service])

    @cached_property
    def lanes(self) -> Mapping[str, tuple[Limit, ...]]:
        """The limits of each lane, by key."""
        lanes: dict[str, tuple[Limit, ...]] = {}
        for service, limits in self.services.items():
            if self.is_joint and (own := _own_limits(limits)):
                lanes[service] = own
            lanes |= {self.key_of(service, lane): its for lane, its in limits.queue_lanes.items()}
        return lanes

    def make_queue(
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
        several = self.services.values()
        # If services share the queue, each has its own limits in a lane.
        alone = None if self.is_joint else self.services[self.service]
        rate = () if alone is None else alone.rate
        return ApiQueue(
            # "unlimited": operations without a lane cause no `UnknownKeyWarning`.
            *(rate or ("unlimited",)),
            name=name,
            lanes=self.lanes,
            # "fair" if one of the services names it, as most of them name no order.
            order=max((limits.order for limits in several), key=orders.ORDERS.index),
            weights={key: it for limits in several for key, it in limits.weights.items()} or None,
            # Not among the limits, which `set_rate` replaces.
            concurrency=None if alone is None else alone.concurrency,
            adaptive=next(filter(None, (limits.adaptive for limits in several)), None),
            schedule=schedule,
            observers=observers,
        )


class _BucketUse(NamedTuple):
    """What a call that uses a bucket is charged: at most `largest` of `unit`, under `key`."""

    name: str
    bucket: Bucket
    key: str
    unit: str
    largest: float


class ServicePlan:
    """Maps the calls of one service, or the requests to a host, to keys and costs of its queue.

    Attributes:
        service: the name of the service or host.
        limits: its limits.
        queue: its queue, which it may share with other services.
    """

    def __init__(self, service: str, limits: ServiceLimits, queue: QueuePlan) -> None:
        self.service = service
        self.limits = limits
        self.queue = queue
        self._is_host = is_host(service)
        # A throttled call slows down its first key that has limits, which should be the most
        # specific: so the limits of the whole service come last.
        self._last = (service,) if queue.is_joint and _own_limits(limits) else ()
        self._buckets: list[_BucketUse] = []
        units = units_of(limits.buckets)
        for name, bucket in limits.buckets.items():
            unit = units.get(name, CALLS)  # a bucket per operation counts calls
            # A call that costs more than the bucket can hold would never start.
            largest = largest_cost(counted_in(bucket, unit), unit)
            key = queue.key_of(service, bucket_key(name))
            self._buckets.append(_BucketUse(name, bucket, key, unit, largest))
        # If a service has limits of shared buckets only, its other calls need no queue. If it has
        # no limits at all ("unlimited"), its calls have a queue without limits.
        self._paces_all = not limits.buckets or bool(
            limits.lanes
            or limits.adaptive
            or _own_limits(limits)
            or any(one.per_operation for one in limits.buckets.values())
        )

    def call(
        self, operation: str, parameters: Mapping[str, int]
    ) -> tuple[tuple[str, ...], Cost] | None:
        """Return the keys and the cost of a call; None if no limit applies to it.

        Args:
            operation: the operation's name.
            parameters: the call's parameters, as `parameter_counts` returns them.
        """
        if self._is_host:
            return lanes_of(operation, self.limits.lanes), 1
        variants, shared, costs = [], [], {}
        for name, bucket, key, unit, largest in self._buckets:
            if not bucket.takes(operation, parameters):
                continue
            if bucket.per_operation:
                # Its lane replaces that of the operation. It has no cost: its limits count calls.
                variants.append(str(VariantKey(operation, name)))
                continue
            shared.append(key)
            if unit != CALLS:
                costs[unit] = min(bucket.cost_of(operation, parameters), largest)
        if not (shared or self._paces_all):
            return None
        lanes = variants or [operation]
        if self.queue.is_joint:
            mine = [self.queue.key_of(self.service, lane) for lane in lanes]
            return (lanes[0], *mine, *shared, *self._last), costs or 1
        return (*lanes, *shared), costs or 1


def _own_limits(limits: ServiceLimits) -> tuple[Limit, ...]:
    """Return the limits of all calls of a service, with those of calls in flight."""
    bodies = () if limits.concurrency is None else (Concurrency(limits.concurrency),)
    return (*limits.rate, *bodies)


class Plans:
    """Finds the plan of a service or host, which may be named in any way.

    Args:
        services: the limits of services and hosts, by their canonical names.
        default: the limits of each service that is not listed; None: they are not paced.
    """

    def __init__(
        self, services: Mapping[str, ServiceLimits], default: ServiceLimits | None
    ) -> None:
        queues = queues_for(services)
        self._plans = {
            name: ServicePlan(name, limits, queues[name]) for name, limits in services.items()
        }
        # Kept apart from the services: each service that is not listed gets a queue of its own.
        self._default = default
        # For services newer than our list: their id may have hyphens that their name lacks.
        self._plain = {name.replace("-", ""): name for name in services}

    def find(self, service: str) -> ServicePlan | None:
        """Return the plan of a service or host; None: it has no limits."""
        plan = self._plans.get(service)  # before the slower search for other names
        if plan is not None:
            return plan
        if is_host(service):  # the default is for services only
            with contextlib.suppress(ValueError):
                service = host_called(service)
            return self._plans.get(service)
        service = canonical(service)
        if not is_listed(service):  # newer than our list: "new-service" may be "newservice"
            service = self._plain.get(service.replace("-", ""), service)
        plan = self._plans.get(service)
        if plan is None and self._default is not None:
            plan = ServicePlan(service, self._default, QueuePlan({service: self._default}))
        return plan


def queues_for(services: Mapping[str, ServiceLimits]) -> dict[str, QueuePlan]:
    """Return the queue of each service. Services that share a bucket share a queue."""
    queues: dict[str, QueuePlan] = {}
    for service, limits in services.items():
        if service in queues:
            continue
        members, shared_buckets = {service: limits}, []
        for name, bucket in limits.buckets.items():
            other = bucket.shared_with or ""
            if _is_same_bucket(name, limits, services.get(other)):
                members[other] = services[other]
                shared_buckets.append(name)
        queues |= dict.fromkeys(members, QueuePlan(dict(sorted(members.items())), shared_buckets))
    return queues


def check_shared_queues(
    services: Mapping[str, ServiceLimits], report: Report, names: Mapping[str, str]
) -> None:
    """Report services that share a queue, but whose limits contradict each other.

    Args:
        services: the limits of all services.
        report: gets the problems.
        names: the names of services in the file or the options.
    """
    for queue in dict.fromkeys(queues_for(services).values()):
        if not queue.is_joint:
            continue
        members = queue.services
        try:
            queue.make_queue(None)
        except ValueError as error:  # the `adaptive` of one does not suit the limits of another
            adaptive = next(name for name, limits in members.items() if limits.adaptive)
            report.add(
                (names.get(adaptive, adaptive), "adaptive"),
                f"{' and '.join(members)} share a queue: {error}",
            )


def _is_same_bucket(name: str, limits: ServiceLimits, other: ServiceLimits | None) -> bool:
    """Return whether two services share a bucket, which requires equal limits and scopes."""
    if other is None or other.scope != limits.scope or name not in other.buckets:
        return False
    return other.buckets[name].limits == limits.buckets[name].limits
