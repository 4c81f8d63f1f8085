"""Finds the hosts of AWS that are not intercepted, because no limit applies to their services.

A program that does not trust the run's authority fails at each intercepted host, so no host is
intercepted without need. A list of hosts to intercept would leave the others unpaced. So this is a
list of exceptions: hosts that are known to belong to services without a limit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioapiqueue.registry.spi import is_host, plan_of
from aioapiqueue_run.gateway.table import table
from aioapiqueue_run.hub.spi import labels_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioapiqueue.registry import Registry
    from aioapiqueue_run.gateway.table import AwsService

__all__ = ["labels_not_intercepted"]

# Services that have hosts with the label of another service: they are intercepted together.
_TOGETHER = {
    "cloudsearchdomain": "cloudsearch",
    "geo-maps": "geo",
    "geo-places": "geo",
    "geo-routes": "geo",
    "greengrass": "iot",
    "greengrassv2": "iot",
    "pinpoint-sms-voice-v2": "pinpoint",
}


def label_for(service: AwsService) -> str:
    """Return the label in the names of a service's hosts. Several services may share it.

    It is the last label of the endpoint's prefix, "iot" in "data.jobs.iot": before it, hosts of a
    single customer have other labels.
    """
    return _TOGETHER.get(service.name) or labels_of(service.prefix)[-1]


def labels_not_intercepted(registry: Registry) -> Sequence[str] | None:
    """Return the labels of AWS's hosts that are not intercepted; None if no host of AWS is.

    Args:
        registry: the limits.
    """
    services = {service.name: service for service in table().services}
    names = [name for name in {*services, *registry.services} if not is_host(name)]
    concerned = {name for name in names if _has_limits(registry, name)}
    if not concerned:
        return None
    intercepted = {label_for(service) for name, service in services.items() if name in concerned}
    return sorted({label_for(service) for service in services.values()} - intercepted)


def _has_limits(registry: Registry, name: str) -> bool:
    plan = plan_of(registry, name)
    if plan is None:
        return False
    limits = plan.limits
    own = limits.rate or limits.concurrency is not None or limits.adaptive is not None
    return bool(own or limits.buckets or any(limits.lanes.values()))
