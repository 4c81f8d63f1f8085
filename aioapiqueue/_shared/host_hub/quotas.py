"""All quotas that a hub keeps."""

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

KINDS = ("name", "run")
"""The kinds of quotas: those of `HostSchedule`, and those of `aioapiqueue run`."""
_GRACE = 1.0
"""Seconds in which clients of a killed hub connect to the next one: they notice its end at once."""


class HubQuotas:
    """The quotas by name, each made for its first client.

    Args:
        journal: keeps how much of each limit is used over restarts; None: nothing is kept. Default:
            None.
        problem: why there is no journal. Default: None.
    """

    def __init__(self, journal: Journal | None = None, *, problem: str | None = None) -> None:
        self._journal = journal
        self._problem = problem
        self._began: float | None = None
        self.by_name: dict[tuple[str, str], HubQuota] = {}
        self.steps = Steps()
        """Runs work that must not delay other clients."""

    def welcome(self, hello: Mapping[str, Any], flush: Callable[[HubClient], None]) -> HubClient:
        """Return a new client.

        Args:
            hello: the first message of a queue.
            flush: called with the client to send its queued messages.

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
        client = HubClient(quota, terms, newest, flush, whose=whose)
        self._wait_for_clients(quota)
        return client

    def _wait_for_clients(self, quota: HubQuota) -> None:
        """Hold a quota for a moment, if clients of a killed hub may connect again."""
        # They have to report first which of their calls hold permits, or reserve a budget.
        now = quota.dispatcher.bind()
        if self._began is None:
            self._began = now
        rest = self._began + _GRACE - now
        came_back = self._journal is not None and self._journal.was_in_use
        if came_back and rest > 0 and quota.depends_on_running:
            # Not a pause, which a resume of any client would end.
            quota.limiter.apply(statements.Hold(None, now + rest))

    def commit(self, now: float) -> None:
        """Write to the journal what could not be written before."""
        if self._journal is not None:
            self._journal.commit(now)

    def close(self, now: float) -> None:
        """Write to the journal exactly how much calls have used, and that this hub ends."""
        if self._journal is not None:
            in_use = any(quota.clients for quota in self.by_name.values())
            for quota in self.by_name.values():
                quota.records.close()
            self._journal.close(now, in_use=in_use)

    @property
    def problem(self) -> str | None:
        """What is wrong with the journal; None: nothing."""
        return self._problem if self._journal is None else self._journal.problem

    def forget_idle(self) -> None:
        """Drop idle quotas whose limits are fully recovered."""
        for name, quota in list(self.by_name.items()):
            if quota.is_idle:
                quota.records.close()  # a journal then has its exact state, not one written ahead
                del self.by_name[name]

    @property
    def may_be_forgotten(self) -> bool:
        """Whether nothing is lost when the hub ends."""
        # With a journal, even quotas that have not recovered can go.
        return self._journal is not None or not self.by_name

    def reset(self, name: str) -> bool:
        """Forget how much of a quota is used; return whether there is one of that name.

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
            kind: its kind; None: the quotas of all kinds.
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
