"""The hosts that are intercepted: hosts with limits, and hosts of AWS services with limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioapiqueue.registry.spi import PathLanes, origin_of
from aioapiqueue_run.gateway.aws_hosts import intercepted_domains, is_intercepted
from aioapiqueue_run.gateway.calls import HTTP, ApiCall
from aioapiqueue_run.hub.spi import labels_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aioapiqueue.registry.spi import Origin
    from aioapiqueue_run.gateway.calls import HttpRequest

__all__ = ["HostsInScope"]

_USUAL_PORTS = {80, 443, 8443}


class HostsInScope:
    """Knows the hosts that are intercepted.

    Args:
        lanes: the lanes of each host with limits, by its name: `"https://api.github.com"`.
        not_intercepted: the labels of AWS's hosts that are not; None: no host of AWS is.
    """

    def __init__(
        self, lanes: Mapping[str, Sequence[str]], not_intercepted: Sequence[str] | None
    ) -> None:
        self._not_intercepted = None if not_intercepted is None else frozenset(not_intercepted)
        self._lanes = {name: PathLanes(own) for name, own in lanes.items()}
        origins = map(origin_of, lanes)
        # All domains of AWS, even if few of its hosts are intercepted: a constraint is for a whole
        # domain, and the label of a service comes before that.
        self.domains = sorted({*intercepted_domains(), *(one.host for one in origins if one.tls)})
        """The domains that the certificate authority may certify."""

    def as_limited(self, origin: Origin) -> Origin:
        """Return the origin of a tunnel, with or without TLS as the limits of its host say."""
        # CONNECT names a host and a port only, so TLS is a guess from the port. A limit such as
        # http://intranet:443 is better evidence.
        other = origin._replace(tls=not origin.tls)
        return other if self.is_limited(other) and not self.is_limited(origin) else origin

    def has(self, origin: Origin) -> bool:
        """Return whether a request to an origin is intercepted."""
        return self.is_limited(origin) or self.is_aws(origin)

    def has_tunnel(self, origin: Origin) -> bool:
        """Return whether a tunnel is intercepted: on unusual ports, it may carry any protocol."""
        usual = origin.port in _USUAL_PORTS
        return self.is_limited(origin) or (usual and self.is_aws(origin))

    def find_limited(self, origin: Origin, request: HttpRequest) -> ApiCall | None:
        """Return the call that a request makes; None if its host has no limits."""
        name = origin.service
        lanes = self._lanes.get(name)
        if lanes is None:
            return None
        return ApiCall(name, lanes.operation_of(request.method, request.path), protocol=HTTP)

    def is_limited(self, origin: Origin) -> bool:
        """Return whether an origin has limits."""
        return origin.service in self._lanes

    def is_aws(self, origin: Origin) -> bool:
        """Return whether requests to an origin are intercepted as calls to AWS."""
        if self._not_intercepted is None or self.is_limited(origin):
            return False
        return is_intercepted(origin.host) and self._not_intercepted.isdisjoint(
            labels_of(origin.host)
        )
