"""Checks the names of services, operations and parameters, in tables and in options."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioapiqueue.registry._names import (
    matches_any,
    unknown_operation,
    unknown_parameter,
    unknown_service,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aioapiqueue.registry._buckets import Bucket, LaneKey
    from aioapiqueue.registry._model import ServiceLimits
    from aioapiqueue.registry._report import Place, Report


def check_names(
    service: str,
    limits: ServiceLimits,
    named: Mapping[LaneKey, Place],
    buckets: Mapping[str, Bucket],
    report: Report,
) -> None:
    """Report unknown names: of the service, of its lanes, and in its buckets."""
    if service != "default":
        report.add((service,), unknown_service(service, report))
    for lane, where in named.items():
        check_lane(service, lane, limits, report, where)
    for name, bucket in buckets.items():
        _check_bucket(service, bucket, report, (service, "buckets", name))


def check_lane(
    service: str, lane: LaneKey, limits: ServiceLimits, report: Report, place: Place
) -> None:
    """Report an unknown operation or variant in the key of a lane."""
    operation, variant = (lane, None) if isinstance(lane, str) else lane
    report.add(place, unknown_operation(service, operation, report))
    if variant is None:
        return
    if not (variant in limits.buckets and limits.buckets[variant].per_operation):
        report.add(place, f"{service} has no bucket {variant!r} with each = true")


def _check_bucket(service: str, bucket: Bucket, report: Report, place: Place) -> None:
    """Report unknown operations and parameters of a bucket."""
    for name, operations in (("operations", bucket.operations), ("exclude", bucket.exclude)):
        for operation in operations:
            report.add((*place, name), unknown_operation(service, operation, report))
    parameters = [((*place, "unless"), bucket.operations, name) for name in bucket.unless_params]
    for operation, cost in bucket.cost.items():
        at = (*place, "cost", operation)
        if not matches_any(operation, bucket.operations):
            report.add(at, "this is not one of the bucket's operations")
            continue
        report.add(at, unknown_operation(service, operation, report))
        if cost.parameter:
            parameters.append((at, (operation,), cost.parameter))
    # Not for limits in code: this reads large files, and an event loop may be running.
    for at, operations, name in parameters if not report.in_code else ():
        report.add(at, unknown_parameter(service, operations, name, report))
