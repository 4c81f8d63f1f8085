"""The calls of all clients: the queue of each call, and the counts to which it is added."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioapiqueue.registry.spi import bucket_of, forget_idle, plan_of
from aioapiqueue_run.hub import protocol
from aioapiqueue_run.hub.records import OTHERS, CallStats
from aioapiqueue_run.hub.request import Request
from aioapiqueue_run.hub.watcher import Watcher, notify

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aioapiqueue.registry import PacedCall, Registry
    from aioapiqueue_run.hub.records import Kind, ProcessLoad

__all__ = ["Calls"]

_MAX_STATS = 20_000
"""Most kinds of calls with counts of their own: about 400 operations in each of 17 Regions of three
accounts. They take some 25 MB, or 65 MB if the waits of each vary widely."""
_MANY_KINDS = 1_000
"""Number of new kinds of calls after which idle queues are dropped. If each kind has a queue of its
own, these take some 8 MB; with the lanes of EC2's preset, some 80 MB."""


class Calls:
    """Finds the queue and the counts of each call, and keeps the requests that have not ended.

    Args:
        registry: finds the queue of each call.
        count_only: whether calls are only counted, and none waits.
        watcher: is notified of each attempt. Default: none.
    """

    def __init__(
        self, registry: Registry, *, count_only: bool, watcher: Watcher | None = None
    ) -> None:
        self.requests: set[Request] = set()
        """The requests of all clients that wait or are in flight."""
        self.watcher = Watcher() if watcher is None else watcher
        self._registry = registry
        self._count_only = count_only
        self._kinds_until_swept = _MANY_KINDS
        self._stats: dict[tuple[Kind, str], CallStats] = {}
        """By kind and lane; "" is the lane of the operation."""
        self._bucket_stats: dict[tuple[str | None, str], CallStats] = {}
        """By the names of the queue (which may be dropped and made again) and the bucket."""
        self._others: dict[bool, CallStats] = {}

    @property
    def figures(self) -> list[CallStats]:
        """The counts of all kinds of calls so far."""
        with_lanes = {kind for kind, lane in self._stats if lane}
        own = [
            stats
            for (kind, lane), stats in self._stats.items()
            # Leave out an operation whose calls all had other lanes.
            if lane or kind not in with_lanes or stats.calls or stats.waiting or stats.refused
        ]
        return own + list(self._others.values())

    @property
    def buckets(self) -> list[CallStats]:
        """The counts of each bucket so far."""
        return list(self._bucket_stats.values())

    def _has_room_for(self, client: ProcessLoad) -> bool:
        """Return whether a process may have one more request."""
        # At most as many as remain for other processes, so that a new process always finds room.
        left = protocol.MAX_REQUESTS - len(self.requests)
        return client.requests < min(protocol.MAX_REQUESTS_PER_PROCESS, left)

    def request(
        self,
        client: ProcessLoad,
        kind: Kind,
        counts: Mapping[str, int],
        *,
        ahead: bool,
        again: bool = False,
    ) -> Request:
        """Return a new request, which has not joined its queue yet.

        Args:
            client: the process that calls.
            kind: the kind of call.
            counts: the parameters of the call, as `parameter_counts` returns them.
            ahead: whether it overtakes all waiters.
            again: whether it had a turn that it could not use. Default: False.

        Raises:
            RuntimeError: this process, or all together, have too many requests.
            Exception: an exception of the registry.
        """
        stats = self._stats_of(kind)
        if not self._has_room_for(client):
            raise RuntimeError(
                "too many calls are waiting or in flight: a process may have at most "
                f"{protocol.MAX_REQUESTS_PER_PROCESS:,}, and fewer if other processes have many"
            )
        needs = self._needs(kind, counts) if stats.paced else None
        paced = not self._count_only
        if needs is None:
            return Request(client, kind, stats, (), None, paced, ahead, again)
        lane = needs.keys[0]
        if lane != kind.operation:  # other limits by its parameters: "DescribeVolumes unfiltered"
            stats = self._stats.get((kind, lane)) or self._new_stats(kind, lane, needs)
        named = [(key, bucket) for key in needs.keys if (bucket := bucket_of(key))]
        of_buckets = [self._of_bucket(needs, key, name, kind) for key, (_, name) in named]
        buckets = list(filter(None, of_buckets))
        return Request(client, kind, stats, buckets, needs, paced, ahead, again)

    def refused(self, kind: Kind, now: float, request: Request | None = None) -> None:
        """Count a refused attempt, which may have no request yet."""
        # Only in existing counts: to make new ones also fails if the registry is closed.
        stats = None if request is None else request.stats
        stats = stats or self._stats.get((kind, "")) or self._others.get(True)
        if stats is None:
            return
        for one in (stats,) if request is None else request.all_stats:
            one.refused += 1
        notify(self.watcher.refused, stats, now)

    def forget(self, request: Request) -> None:
        """Drop a request that has ended."""
        self.requests.discard(request)
        if not self.requests:
            self.requests = set()  # an emptied set keeps the memory of its largest size

    def _stats_of(self, kind: Kind) -> CallStats:
        """Return the counts of a kind, for calls in the operation's own lane."""
        found = self._stats.get((kind, ""))
        if found is None:
            self._drop_idle_queues()
            # Parameters can only exempt a call from buckets, so a call without any has all limits.
            found = self._new_stats(kind, "", self._needs(kind, {}))
        return found

    def _new_stats(self, kind: Kind, lane: str, needs: PacedCall | None) -> CallStats:
        paced = needs is not None
        if len(self._stats) >= _MAX_STATS:  # calls are still paced as before, only counted together
            others = CallStats(OTHERS, OTHERS, None, None, None, paced)
            return self._others.setdefault(paced, others)
        name = None if needs is None else needs.queue.name
        stats = CallStats(*kind, name, paced, lane=lane)
        self._stats[kind, lane] = stats
        return stats

    def _of_bucket(self, needs: PacedCall, key: str, name: str, kind: Kind) -> CallStats | None:
        """Return the counts of a bucket; None if there are too many buckets."""
        queue = needs.queue.name
        found = self._bucket_stats.get((queue, key))
        if found is None and len(self._bucket_stats) < _MAX_STATS:
            plan = plan_of(self._registry, kind.service)
            scope = () if plan is None else plan.queue.scope
            found = CallStats(
                kind.service,
                name,
                kind.region if "region" in scope else None,
                kind.account if "account" in scope else None,
                queue,
                paced=True,
            )
            self._bucket_stats[queue, key] = found
        return found

    def _needs(self, kind: Kind, counts: Mapping[str, int]) -> PacedCall | None:
        return self._registry.find_call(
            kind.service,
            kind.operation,
            region=kind.region,
            account=kind.account,
            parameters=counts,
        )

    def _drop_idle_queues(self) -> None:
        """Drop idle queues periodically, so that many distinct keys do not accumulate."""
        self._kinds_until_swept -= 1
        if self._kinds_until_swept > 0:
            return
        forget_idle(self._registry)
        # In proportion to the queues, so that a sweep costs each new kind a constant share.
        self._kinds_until_swept = max(_MANY_KINDS, len(self._registry.queues))
