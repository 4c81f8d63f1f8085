"""Which hosts a run can pace: `host_problems`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioapiqueue.registry.spi import is_host, origin_of
from aioapiqueue_run.gateway.environment import DIRECT, METADATA
from aioapiqueue_run.gateway.spi import is_intercepted

if TYPE_CHECKING:
    from aioapiqueue.registry import Registry

__all__ = ["host_problems"]


def host_problems(registry: Registry) -> list[str]:
    """Return the problem of each host that a run cannot pace, with the source of its limits."""
    hosts = [entry for entry in registry if is_host(entry.service)]
    found = ((entry, _problem(origin_of(entry.service).host)) for entry in hosts)
    return [f"{entry.source}: {entry.service} {problem}" for entry, problem in found if problem]


def _problem(host: str) -> str | None:
    if is_intercepted(host):
        return 'belongs to AWS: limit the service instead, such as ec2 = "10/s"'
    if host in DIRECT or host.endswith(".localhost") or host.startswith(("127.", "0.")):
        if host in METADATA:
            return "cannot be paced: programs fetch credentials from it without a proxy"
        return (
            "cannot be paced: programs do not use a proxy for it. Use this host's network name "
            "instead, both in the limit and in the program"
        )
    return None
