"""All quotas that a hub keeps, and who may have part in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aioapiqueue._shared.decisions import newest_from
from aioapiqueue._shared.host.messages import Terms
from aioapiqueue._shared.host_hub.client import HubClient
from aioapiqueue._shared.host_hub.quota import HubQuota
from aioapiqueue._shared.host_hub.steps import Steps
from aioapiqueue.spi import statements

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from aioapiqueue._shared.host_hub.journal import Journal

__all__ = ["HubQuotas"]

KINDS = ("name", "run")
"""Of quotas: those of `HostSchedule`, and those of `aioapiqueue run`."""
_GRACE = 1.0
"""Seconds in which clients of a hub that was killed come back: they notice at once."""


class HubQuotas:
    """HubQuotas by name, made when the first client asks for them.

    Args:
        journal: what limits have let through before; None: nothing outlasts this. Default: None.
        problem: why there is none. Default: None.
    """

    def __init__(self, journal: Journal | None = None, *, problem: str | None = None) -> None:
        self._journal = journal
        self._problem = problem
        self._began: float | None = None
        self.by_name: dict[tuple[str, str], HubQuota] = {}
        self.steps = Steps()
        """Does what must not delay other clients."""

    def welcome(self, hello: Mapping[str, Any], flush: Callable[[HubClient], None]) -> HubClient:
        """Return a new client.

        Args:
            hello: the first that a queue sends.
            flush: called with the client when there is something to be sent to it.

        Raises:
            KeyError: something is missing in `hello`.
            TypeError: something in it is of another type.
            ValueError: something in it is invalid.
        """
        whose = f"{hello.get('program', '?')}, process {hello.get('pid', '?')}"
        name, terms = (str(hello["kind"]), str(hello["quota"])), Terms.from_json(hello["terms"])
        quota = self.by_name.get(name)
        if quota is None:
            quota = self.by_name[name] = HubQuota(name, terms, self._journal, self.steps)
        newest = newest_from(hello.get("newest", {}))
        quota.dispatcher.bind()
        client = HubClient(quota, terms, newest, flush, whose=whose)
        self._let_others_come(quota)
        return client

    def _let_others_come(self, quota: HubQuota) -> None:
        """Let nothing start for a moment in a quota of bodies at once, if clients may come back.

        Those who have permits have to say so first.
        """
        now = quota.dispatcher.bind()
        if self._began is None:
            self._began = now
        rest = self._began + _GRACE - now
        came_back = self._journal is not None and self._journal.was_in_use
        if came_back and rest > 0 and quota.has_permits:
            quota.limiter.apply(
                statements.Hold(None, now + rest)
            )  # no pause, which somebody could end

    def commit(self, now: float) -> None:
        """Have the journal know of all that was let through: before anybody is told."""
        if self._journal is not None:
            self._journal.commit(now)

    def close(self, now: float) -> None:
        """Have the journal know exactly what was let through, and that this is the end."""
        if self._journal is not None:
            in_use = any(quota.clients for quota in self.by_name.values())
            for quota in self.by_name.values():
                quota.close()
            self._journal.close(now, in_use=in_use)

    @property
    def problem(self) -> str | None:
        """What is wrong with the journal; None: nothing."""
        return self._problem if self._journal is None else self._journal.problem

    def forget_idle(self) -> None:
        """Drop idle quotas whose limits are fully recovered."""
        for name, quota in list(self.by_name.items()):
            if quota.is_idle:
                quota.close()
                del self.by_name[name]

    @property
    def may_be_forgotten(self) -> bool:
        """Whether nothing is lost when the hub ends."""
        return self._journal is not None or not self.by_name

    def reset(self, name: str) -> bool:
        """Forget what a quota has let through; return whether there is one of that name.

        Raises:
            OSError: the journal cannot be written to.
        """
        known = False
        for kind in KINDS:
            quota = self.by_name.get((kind, name))
            if quota is not None:
                quota.reset()
                known = True
            elif self._journal is not None:
                known |= self._journal.forget(f"{kind} {name}", ())
        return known

    def set_paused(self, name: str, kind: str | None, *, paused: bool) -> bool:
        """Pause a quota for all its clients, or resume it; return whether it is in use.

        Args:
            name: of the quota.
            kind: of it; None: those of each kind.
            paused: whether to pause it.
        """
        kinds = KINDS if kind is None else (kind,)
        found = [self.by_name.get((one, name)) for one in kinds]
        used = [quota for quota in found if quota is not None and quota.clients]
        for quota in used:
            quota.set_paused(paused=paused)
        return bool(used)

    def __iter__(self) -> Iterator[HubQuota]:
        return iter(self.by_name.values())
