"""The limits of a run as text, for messages."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING

from aioapiqueue import Rate
from aioapiqueue.registry.spi import read_target, target_of
from aioapiqueue.spi import printable

if TYPE_CHECKING:
    from aioapiqueue import Limit
    from aioapiqueue.registry import InForce, Registry

__all__ = ["in_words", "named", "service_in"]

_EXACTLY = 1e-9


def in_words(registry: Registry) -> dict[str, str]:
    """Return the limits of each service and, as `"ec2.DescribeSnapshots"`, of each operation."""
    found: dict[str, list[str]] = {}
    for entry in registry:
        if entry.limits or entry.operation or entry.concurrency is not None or entry.adaptive:
            name, limits = named(entry)
            found.setdefault(name, []).append(limits)
    return {name: " and ".join(dict.fromkeys(limits)) for name, limits in found.items()}


def service_in(name: str) -> str:
    """Return the service or host in the name of limits."""
    host = read_target(name)
    return re.split(r"[. ]", name)[0] if host is None else host[0]


def named(entry: InForce) -> tuple[str, str]:
    """Return the name of limits, and their text."""
    name = target_of(entry.service, entry.operation)
    if entry.bucket:  # several operations share it, or the parameters of a call choose it
        name = f"{entry.service} ({entry.bucket})"
    limits = list(map(_limit, entry.limits)) or ["any rate"] * (entry.operation is not None)
    if entry.concurrency is not None:
        limits.append(f"{entry.concurrency:,} in flight")
    if entry.adaptive is not None and not limits:
        limits.append("an adaptive rate")
    return printable(name), " and ".join(limits)


def _limit(limit: Limit) -> str:
    # A limit of one call in 0.1 s is written "100ms". Users who wrote "10/s" expect that again.
    if isinstance(limit, Rate) and limit.calls == 1 and limit.per < 1:
        a_second = 1 / limit.per
        if abs(a_second - round(a_second)) <= _EXACTLY:
            limit = dataclasses.replace(limit, calls=round(a_second), per=1.0)
    return str(limit)
