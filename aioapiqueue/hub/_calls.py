"""Which slots the calls of all clients need, and where each of them is counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioapiqueue.hub import _protocol as protocol
from aioapiqueue.hub._records import OTHERS, CallStats
from aioapiqueue.hub._request import Request
from aioapiqueue.registry import forget_idle

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from aioapiqueue import ApiQueue
    from aioapiqueue.hub._records import Client, Kind
    from aioapiqueue.registry import Registry, Turn

__all__ = ["Calls"]

_MAX_STATS = 20_000
"""Some 25 MB. Three accounts of 17 Regions, scanned for 400 operations each, are as many."""
_MANY_KINDS = 1_000
"""New kinds of calls after which queues at rest are given up: at 6 kB a queue, some 6 MB."""


class Calls:
    """Finds the queues and the counts of calls, and keeps the requests that are not over yet.

    Args:
        registry: knows the queues of each call.
        count_only: whether no call waits.
        on_start: called with the counts of each attempt as it starts, or None.
    """

    def __init__(
        self, registry: Registry, *, count_only: bool, on_start: Callable[[CallStats], None] | None
    ) -> None:
        self.requests: set[Request] = set()
        """Waiting or under way, of all clients."""
        self.of_queues: dict[ApiQueue, CallStats] = {}
        self.on_start = on_start
        self._registry = registry
        self._count_only = count_only
        self._kinds_until_swept = _MANY_KINDS
        self._stats: dict[tuple[Kind, str], CallStats] = {}
        """By kind and lane; the lane is "" where it is the operation's."""
        self._others: dict[bool, CallStats] = {}

    @property
    def figures(self) -> list[CallStats]:
        """The counts of all kinds of calls so far."""
        with_lanes = {kind for kind, lane in self._stats if lane}
        own = [
            stats
            for (kind, lane), stats in self._stats.items()
            # All calls of such an operation so far may have gone into lanes of their own.
            if lane or kind not in with_lanes or stats.calls or stats.waiting
        ]
        return own + list(self._others.values())

    def has_room_for(self, client: Client) -> bool:
        """Return whether a process may have one more request.

        It may have as many as it leaves to the others, so that there is always room for a new one.
        """
        left = protocol.MAX_REQUESTS - len(self.requests)
        return client.requests < min(protocol.MAX_REQUESTS_PER_PROCESS, left)

    def request(
        self, client: Client, kind: Kind, counts: Mapping[str, int], *, ahead: bool
    ) -> Request:
        """Return a request for a call, which has not joined any queue yet.

        Args:
            client: the process that calls.
            kind: what is called.
            counts: numbers of its parameters, on which limits may depend.
            ahead: whether it goes ahead of all waiters.

        Raises:
            Exception: whatever the registry raises.
        """
        stats = self._stats_of(kind)
        turns = () if self._count_only or not stats.paced else self._turns(kind, counts)
        lane = turns[-1].key if turns else kind.operation
        if lane != kind.operation:
            stats = self._stats.get((kind, lane)) or self._new_stats(kind, lane, turns[-1].queue)
        queue_stats = [self._of_queue(turn.queue, kind.service) for turn in turns]
        return Request(client, kind, stats, queue_stats, turns, ahead)

    def forget(self, request: Request) -> None:
        """Forget a request that is over."""
        self.requests.discard(request)
        if not self.requests:
            self.requests = set()  # an emptied one keeps the memory of all that were in it

    def _stats_of(self, kind: Kind) -> CallStats:
        """Return the counts of a kind's calls that have no lane of their own."""
        found = self._stats.get((kind, ""))
        if found is None:
            self._give_up_queues()
            # With parameters, a call of this kind needs some of these slots, and no others.
            turns = self._turns(kind, {})
            found = self._new_stats(kind, "", turns[-1].queue if turns else None)
        return found

    def _new_stats(self, kind: Kind, lane: str, queue: ApiQueue | None) -> CallStats:
        paced = queue is not None
        if len(self._stats) >= _MAX_STATS:
            others = CallStats(OTHERS, OTHERS, None, None, None, paced)
            return self._others.setdefault(paced, others)
        stats = CallStats(*kind, queue.name if queue else None, paced, lane=lane)
        self._stats[kind, lane] = stats
        return stats

    def _of_queue(self, queue: ApiQueue, service: str) -> CallStats:
        """Return the counts of a queue, which a call of `service` uses first."""
        found = self.of_queues.get(queue)
        if found is None:
            found = CallStats(service, "", None, None, queue.name, paced=True)
            self.of_queues[queue] = found
        return found

    def _turns(self, kind: Kind, counts: Mapping[str, int]) -> Sequence[Turn]:
        return self._registry.turns(
            kind.service,
            kind.operation,
            region=kind.region,
            account=kind.account,
            parameters=counts,
        )

    def _give_up_queues(self) -> None:
        """Give up queues at rest now and then, as each new kind of call may bring another queue."""
        self._kinds_until_swept -= 1
        if self._kinds_until_swept > 0:
            return
        # A call that waits may have joined only the first of its queues.
        keep = {turn.queue for request in self.requests for turn in request.needs}
        for queue in forget_idle(self._registry, keep=keep):
            self.of_queues.pop(queue, None)
        # So that looking at all queues costs each call in between a constant share.
        self._kinds_until_swept = max(_MANY_KINDS, len(self.of_queues))
