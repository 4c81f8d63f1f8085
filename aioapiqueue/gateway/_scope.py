"""Which of AWS's hosts no limit concerns, so that connections to them need not be opened.

A program that does not trust the run's authority breaks at each host that is opened, so none is
opened without need. A list of the hosts to open would leave calls unpaced whose host it lacks. So
this is a list of those not to open: hosts that are known to belong to services without a limit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioapiqueue.gateway._table import table
from aioapiqueue.hub.spi import labels_of
from aioapiqueue.registry.spi import is_host

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioapiqueue.gateway._table import AwsService
    from aioapiqueue.registry import Registry

__all__ = ["label_for", "labels_not_intercepted"]

# Services of whose hosts some have the label of another service: they are opened together.
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
    """Return the label that hosts of a service have; several services may share it.

    It is the last of the endpoint's prefix, "iot" of "data.jobs.iot": customers' own hosts have
    other labels before it.
    """
    return _TOGETHER.get(service.name) or labels_of(service.prefix)[-1]


def labels_not_intercepted(registry: Registry) -> Sequence[str] | None:
    """Return the labels of the hosts of AWS that no limit concerns; None: none concerns any.

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
    _, limits = registry.limits_of(name)
    if limits is None:
        return False
    own = limits.rate or limits.concurrency is not None or limits.adaptive is not None
    return bool(own or limits.buckets or any(limits.lanes.values()))
