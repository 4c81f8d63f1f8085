"""What the gateway counts, which the run reports at its end."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

__all__ = ["GatewayCounts"]

_MOST_HOSTS = 1_000


@dataclasses.dataclass
class GatewayCounts:
    """Counts of a run.

    Attributes:
        connections: of programs that have named themselves as the run's.
        calls: passed on after they had had their turn.
        asked_before: passed on at once, as the hook in their program had asked for them.
        refused: answered by the gateway, as nobody paced them.
        unknown_hosts: of the domains that are intercepted, whose calls were not known.
        untrusted: hosts whose connections programs gave up, as they do not trust the gateway: in
            the handshake, or after it without a byte of a request, where none came otherwise.
        silent: the part of `untrusted` that has ended without a request, which may have other
            reasons.
        unreachable: hosts to which requests could not be sent, before they had their turn.
        passed_by: hosts to which connections were passed on without interception.
        forbidden: servers, each with its port, that an isolated program was not connected to.
        on_this_host: hosts with limits that an isolated program could not reach, as far as is
            known.
    """

    connections: int = 0
    calls: int = 0
    asked_before: int = 0
    refused: int = 0
    unknown_hosts: Counter[str] = dataclasses.field(default_factory=Counter)
    untrusted: Counter[str] = dataclasses.field(default_factory=Counter)
    silent: Counter[str] = dataclasses.field(default_factory=Counter)
    unreachable: Counter[str] = dataclasses.field(default_factory=Counter)
    passed_by: Counter[str] = dataclasses.field(default_factory=Counter)
    forbidden: Counter[str] = dataclasses.field(default_factory=Counter)
    on_this_host: list[str] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        self._asked: set[str] = set()

    def count_unknown(self, host: str) -> None:
        """Count a call that is not known."""
        self._count(self.unknown_hosts, host)

    def count_untrusted(self, host: str) -> None:
        """Count a connection that its program has given up in the handshake."""
        self._count(self.untrusted, host)

    def count_silent(self, host: str) -> None:
        """Count a connection with TLS that has ended without a request.

        Only once the run has ended is it known what it means: clients open connections ahead, and
        close those that they do not need; but they also ask.
        """
        self._count(self.silent, host)

    def note_request(self, host: str) -> None:
        """Note that a program trusts the gateway for a host."""
        if len(self._asked) < _MOST_HOSTS:
            self._asked.add(host)

    def count_unreachable(self, host: str) -> None:
        """Count a request that could not be sent."""
        self._count(self.unreachable, host)

    def count_passed_by(self, host: str) -> None:
        """Count a connection that is not intercepted."""
        self._count(self.passed_by, host)

    def count_forbidden(self, server: str) -> None:
        """Count a connection that is not made, as the program is isolated."""
        self._count(self.forbidden, server)

    def as_json(self) -> dict[str, Any]:
        """Return all of them."""
        found = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        silent = {host: n for host, n in self.silent.items() if host not in self._asked}
        if len(self._asked) >= _MOST_HOSTS:  # any host may have been asked
            silent = {}
        found |= {"silent": silent, "untrusted": self.untrusted + Counter(silent)}
        return {name: dict(one) if isinstance(one, Counter) else one for name, one in found.items()}

    @staticmethod
    def _count(counter: Counter[str], host: str) -> None:
        counter[host if host in counter or len(counter) < _MOST_HOSTS else "(others)"] += 1
