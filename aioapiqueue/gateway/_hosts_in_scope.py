"""What is intercepted: those of AWS's hosts that a limit concerns, and hosts with their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioapiqueue.gateway._aws_hosts import intercepted_domains, is_intercepted
from aioapiqueue.gateway._calls import HTTP, ApiCall
from aioapiqueue.hub.spi import labels_of
from aioapiqueue.registry.spi import PathLanes, origin_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aioapiqueue.gateway._calls import HttpRequest
    from aioapiqueue.registry.spi import Origin

__all__ = ["HostsInScope"]

_USUAL_PORTS = {80, 443, 8443}


class HostsInScope:
    """Knows the hosts that are intercepted.

    Args:
        lanes: of each host with limits of its own, by its name: `"https://api.github.com"`.
        not_intercepted: labels of the hosts of AWS that no limit concerns; None: of all of them.
    """

    def __init__(
        self, lanes: Mapping[str, Sequence[str]], not_intercepted: Sequence[str] | None
    ) -> None:
        self._not_intercepted = None if not_intercepted is None else frozenset(not_intercepted)
        self._lanes = {name: PathLanes(own) for name, own in lanes.items()}
        origins = map(origin_of, lanes)
        self.domains = sorted({*intercepted_domains(), *(one.host for one in origins if one.tls)})
        """Those for which the authority may certify."""

    def as_limited(self, origin: Origin) -> Origin:
        """Return where a tunnel leads: with TLS or without, as its host's limits say."""
        other = origin._replace(tls=not origin.tls)
        return other if self.is_limited(other) and not self.is_limited(origin) else origin

    def has(self, origin: Origin) -> bool:
        """Return whether requests to a server are intercepted."""
        return self.is_limited(origin) or self._is_intercepted(origin.host)

    def has_tunnel(self, origin: Origin) -> bool:
        """Return whether a tunnel to a server is: to another port of AWS's, it may be anything."""
        usual = origin.port in _USUAL_PORTS
        return self.is_limited(origin) or (usual and self._is_intercepted(origin.host))

    def find_limited(self, origin: Origin, request: HttpRequest) -> ApiCall | None:
        """Return which call a request is; None: its host has no limits of its own."""
        name = origin.service
        lanes = self._lanes.get(name)
        if lanes is None:
            return None
        return ApiCall(name, lanes.operation_of(request.method, request.path), protocol=HTTP)

    def is_limited(self, origin: Origin) -> bool:
        """Return whether a server has limits of its own."""
        return origin.service in self._lanes

    def _is_intercepted(self, host: str) -> bool:
        if self._not_intercepted is None or not is_intercepted(host):
            return False
        return self._not_intercepted.isdisjoint(labels_of(host))
