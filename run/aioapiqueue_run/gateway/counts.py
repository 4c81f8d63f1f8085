"""What the gateway counts, which the run reports at its end."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

__all__ = ["GatewayCounts"]

_MOST_HOSTS = 1_000
_OTHERS = "(others)"


class HostCounts(Counter[str]):
    """Counts by host, for at most 1,000 hosts: all others are counted together."""

    def count(self, host: str) -> None:
        """Count one more event of a host."""
        self[host if host in self or len(self) < _MOST_HOSTS else _OTHERS] += 1


@dataclasses.dataclass
class GatewayCounts:
    """Counts of a run.

    Attributes:
        connections: number of TLS connections of programs, and of their requests without TLS.
        calls: number of calls that were forwarded after their turn.
        asked_before: number of calls that were forwarded at once, because the hook in the program
            had asked the hub already.
        refused: number of calls that the gateway refused, because it could not have them paced.
        unknown_hosts: calls to intercepted domains that the gateway could not identify.
        untrusted: connections that programs gave up because they do not trust the gateway: in the
            handshake, or afterwards without a byte of a request, if no other connection to the
            host had one.
        silent: the part of `untrusted` that ended without a request, which may have other reasons.
        unreachable: requests whose host could not be reached before they had their turn.
        passed_by: connections that were forwarded without interception.
        forbidden: connections that an isolated program was refused, by server and port.
    """

    connections: int = 0
    calls: int = 0
    asked_before: int = 0
    refused: int = 0
    unknown_hosts: HostCounts = dataclasses.field(default_factory=HostCounts)
    untrusted: HostCounts = dataclasses.field(default_factory=HostCounts)
    silent: HostCounts = dataclasses.field(default_factory=HostCounts)
    unreachable: HostCounts = dataclasses.field(default_factory=HostCounts)
    passed_by: HostCounts = dataclasses.field(default_factory=HostCounts)
    forbidden: HostCounts = dataclasses.field(default_factory=HostCounts)

    def __post_init__(self) -> None:
        self.asked = HostCounts()
        """Connections with a request: so a program trusts the gateway for this host."""

    def as_json(self) -> dict[str, Any]:
        """Return all counts."""
        found = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        # Clients open connections ahead, and close those that they do not need. So a silent one
        # means distrust only if no other connection to the host, by the end, had a request.
        silent = {host: n for host, n in self.silent.items() if host not in self.asked}
        if _OTHERS in self.asked:
            silent = {}  # any host may be one of these
        found |= {"silent": silent, "untrusted": self.untrusted + Counter(silent)}
        return {name: dict(one) if isinstance(one, Counter) else one for name, one in found.items()}
