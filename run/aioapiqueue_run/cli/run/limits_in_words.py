"""The limits of a run as text, for messages."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from aioapiqueue import Concurrency
from aioapiqueue.registry.spi import bucket_of, read_target, target_of
from aioapiqueue.spi import printable

if TYPE_CHECKING:
    from aioapiqueue.registry import InForce, Registry

__all__ = ["in_words", "limit_name", "limits_of", "named", "service_in"]


def in_words(registry: Registry) -> dict[str, str]:
    """Return the limits of each service and, as `"ec2.DescribeSnapshots"`, of each operation."""
    found: dict[str, list[str]] = {}
    for entry in registry:
        if entry.limits or entry.operation or entry.concurrency is not None or entry.adaptive:
            name, limits = named(entry)
            found.setdefault(name, []).append(limits)
    return {name: " and ".join(dict.fromkeys(limits)) for name, limits in found.items()}


def limit_name(queue: str, service: str, lane: str) -> str:
    """Return the name of the limits of a lane, as `--limit` takes it.

    Args:
        queue: the name of the queue. If services share a bucket, it names the first of them.
        service: the service or host of the calls.
        lane: the key of the lane, or its name in a recording; "" for all calls of the queue.
    """
    if bucket := bucket_of(lane):
        return f"{bucket[0] or queue.partition(' ')[0]} ({bucket[1]})"
    if lane.startswith("shared "):  # as a recording names it
        return f"{service} ({lane.removeprefix('shared ').partition(' of ')[0]})"
    # If several services share a queue, a lane may have the name of its service.
    return target_of(service, None if lane in {"", service} else lane.removeprefix(f"{service}."))


def service_in(name: str) -> str:
    """Return the service or host in the name of limits."""
    host = read_target(name)
    return re.split(r"[. ]", name)[0] if host is None else host[0]


def named(entry: InForce) -> tuple[str, str]:
    """Return the name of limits, and their text."""
    name = target_of(entry.service, entry.operation)
    if entry.bucket:  # several operations share it, or the parameters of a call choose it
        name = f"{entry.service} ({entry.bucket})"
    limits = limits_of(entry) or ["unlimited"] * (entry.operation is not None)
    if entry.adaptive is not None and not limits:
        limits.append("adaptive")
    return printable(name), " and ".join(limits)


def limits_of(entry: InForce) -> list[str]:
    """Return the text of each limit, as one writes it."""
    at_once = () if entry.concurrency is None else (Concurrency(entry.concurrency),)
    return list(map(str, (*entry.limits, *at_once)))
