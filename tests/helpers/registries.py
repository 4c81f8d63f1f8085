"""Queues of a registry, for tests that ask for a service and not for a call."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aioapiqueue import ApiQueue, Registry

__all__ = ["queue_of"]


def queue_of(
    registry: Registry, service: str, *, region: str | None = None, account: str | None = None
) -> ApiQueue | None:
    """Return the queue of a call that no lane is named after; None: it is not paced."""
    call = registry.find_call(service, "X", region=region, account=account)
    return None if call is None else call.queue
