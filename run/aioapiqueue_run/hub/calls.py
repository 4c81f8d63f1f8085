"""The calls of all clients: the queue of each call, and the counts to which it is added."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from aioapiqueue.registry.spi import bucket_of, forget_idle, plan_of
from aioapiqueue_run.hub import protocol
from aioapiqueue_run.hub.records import OTHERS, TICKS, CallStats, PeakSecond
from aioapiqueue_run.hub.request import Request
from aioapiqueue_run.hub.watcher import Ended, notify

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aioapiqueue.registry import PacedCall, Registry
    from aioapiqueue_run.hub.queue_records import QueueRecords
    from aioapiqueue_run.hub.records import Kind, ProcessLoad
    from aioapiqueue_run.hub.watcher import Watcher

__all__ = ["Calls"]

_MAX_STATS = 20_000
"""Most kinds of calls with counts of their own: about 400 operations in each of 17 Regions of three
accounts. They take some 57 MB, or 130 MB if the waits of each vary widely."""
_MANY_KINDS = 1_000
"""Number of new kinds of calls after which idle queues are dropped. If each kind has a queue of its
own, these take some 8 MB; with the lanes of EC2's preset, some 80 MB."""


class Calls:
    """Finds the queue and the counts of each call.

    Args:
        registry: finds the queue of each call.
        queues: records the calls. If they are not `paced`, no call waits.
        watcher: is notified of each attempt.

    Attributes:
        requests: number of requests of all clients that wait or are in flight.
    """

    def __init__(self, registry: Registry, queues: QueueRecords, watcher: Watcher) -> None:
        self.requests = 0
        self.recording = queues.recording
        self._registry = registry
        self._queues = queues
        self._watcher = watcher
        self._kinds_until_swept = _MANY_KINDS
        self._kinds: dict[Kind, CallStats] = {}
        """The counts of calls that come under all limits of their kind."""
        self._stats: dict[tuple[Kind, tuple[str, ...]], CallStats] = {}
        """By kind and keys."""
        self._others: dict[bool, CallStats] = {}
        self._peaks: defaultdict[tuple[object, ...], PeakSecond] = defaultdict(PeakSecond)

    @property
    def figures(self) -> list[CallStats]:
        """The counts so far, by kind and lane."""
        kinds: dict[Kind, dict[str, list[CallStats]]] = {}
        for (kind, _), stats in self._stats.items():
            kinds.setdefault(kind, {}).setdefault(stats.lane, []).append(stats)
        found: list[CallStats] = []
        for lanes in kinds.values():
            own = [_sum_of(each) for each in lanes.values()]
            # Leave out the lane of calls without parameters, if all calls had other lanes.
            found += [one for one in own if len(own) == 1 or one.is_used]
        return found + list(self._others.values())

    @property
    def buckets(self) -> list[CallStats]:
        """The counts of each bucket so far."""
        found: dict[tuple[str | None, str], CallStats] = {}
        for (kind, keys), stats in self._stats.items():
            for key in keys:
                named = bucket_of(key)
                if named is None:
                    continue
                total = found.get((stats.queue, key))
                if total is None:
                    total = found[stats.queue, key] = self._new_bucket(kind, stats.queue, named[1])
                    total.peak = self._peaks[None, stats.queue, key].peak
                total.merge(stats)
        return [one for one in found.values() if one.is_used]

    def _new_bucket(self, kind: Kind, queue: str | None, name: str) -> CallStats:
        plan = plan_of(self._registry, kind.service)
        scope = () if plan is None else plan.queue.scope
        region = kind.region if "region" in scope else None
        account = kind.account if "account" in scope else None
        return CallStats(kind.service, name, region, account, queue, paced=True)

    def _has_room_for(self, client: ProcessLoad) -> bool:
        """Return whether a process may have one more request."""
        # At most as many as remain for other processes, so that a new process always finds room.
        left = protocol.MAX_REQUESTS - self.requests
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
        if needs is not None:
            stats = self._stats.get((kind, needs.keys)) or self._new_stats(kind, needs)
        return Request(client, kind, stats, needs, self._queues.paced, ahead, again)

    def _stats_of(self, kind: Kind) -> CallStats:
        """Return the counts of a kind's calls that come under all of its limits."""
        found = self._kinds.get(kind)
        if found is None:
            self._drop_idle_queues()
            # Parameters can only exempt a call from buckets, so a call without any has all limits.
            found = self._new_stats(kind, self._needs(kind, {}))
            if len(self._kinds) < _MAX_STATS:
                self._kinds[kind] = found
        return found

    def _new_stats(self, kind: Kind, needs: PacedCall | None) -> CallStats:
        paced = needs is not None
        if len(self._stats) >= _MAX_STATS:  # calls are still paced as before, only counted together
            if paced not in self._others:
                others = CallStats(OTHERS, OTHERS, None, None, None, paced)
                self._others[paced] = self._recorded(others)
            return self._others[paced]
        if needs is None:
            stats = self._stats[kind, ()] = self._recorded(CallStats(*kind, None, paced))
            return stats
        lane = "" if needs.keys[0] == kind.operation else needs.keys[0]
        stats = self._recorded(CallStats(*kind, needs.queue.name, paced, lane), needs)
        self._stats[kind, needs.keys] = stats
        return stats

    def _recorded(self, stats: CallStats, needs: PacedCall | None = None) -> CallStats:
        """Let the recording and the peaks include new counts."""
        self._queues.add(stats, needs)
        service, place, lane = stats.service, stats.place, stats.lane_name
        names: list[tuple[object, ...]] = [
            (service, stats.operation, stats.region, stats.account, stats.lane, stats.paced),
            *((service,), (service, place), (service, place, lane)),
            *((None, stats.queue, key) for key in (needs.keys if needs else ()) if bucket_of(key)),
        ]
        stats.peaks = [self._peaks[name] for name in names]
        return stats

    # Each attempt is counted by these methods, and nowhere else. `now` is of `time.monotonic`.

    def joined(self, request: Request, now: float) -> None:
        """Count a new attempt."""
        self.requests += 1
        request.client.requests += 1
        request.client.ahead += request.ahead
        request.stats.waiting += 1
        self.recording.unpaced.joined(now)

    def left(self, request: Request, now: float) -> None:
        """Stop counting a waiting attempt that will not start."""
        self._forget(request)
        request.client.ahead -= request.ahead
        request.stats.waiting -= 1
        self.recording.unpaced.left(now)

    def started(self, request: Request, now: float) -> None:
        """Count an attempt that starts."""
        request.under_way = True
        request.started_at = now
        if request.ahead:
            request.client.ahead -= 1
        else:
            request.client.calls += 1
        stats, recording = request.stats, self.recording
        stats.waiting -= 1
        stats.running += 1
        recording.started(stats, request.costs, request.waited, now)
        tick = int(now * TICKS)
        stats.peak, *_ = [one.count(tick) for one in stats.peaks]
        recording.unpaced.started(now)
        if request.needs is not None:
            self._queues.sample(request.needs.queue, now)
        notify(self._watcher.started, request, now)

    def ended(self, request: Request, now: float, outcome: Ended) -> None:
        """Count the outcome of an attempt."""
        self._forget(request)
        request.client.calls -= not request.ahead
        stats, recording = request.stats, self.recording
        stats.running -= 1
        recording.unpaced.ended(now)
        if outcome is Ended.NOT_SENT:
            recording.not_started(stats, request.costs, request.waited, request.started_at)
        elif outcome is not Ended.UNKNOWN:
            stats.answers += 1
        if outcome is Ended.THROTTLED:
            recording.tally(stats, "throttled", now)
        elif outcome is Ended.FAILED:
            recording.tally(stats, "errors", now)
        notify(self._watcher.ended, request, now, outcome)

    def refused(self, kind: Kind, now: float, request: Request | None = None) -> None:
        """Count a refused attempt, which may have no request yet."""
        # Only in existing counts: to make new ones also fails if the registry is closed.
        stats = self._kinds.get(kind) if request is None else request.stats
        stats = stats or self._others.get(True)
        if stats is not None:
            self.recording.tally(stats, "refused", now)

    def _forget(self, request: Request) -> None:
        request.client.requests -= 1
        self.requests -= 1

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


def _sum_of(each: Sequence[CallStats]) -> CallStats:
    """Return the sum of counts that have the same names; of one, the same object."""
    first, *others = each
    if not others:
        return first
    names = first.service, first.operation, first.region, first.account, first.queue
    total = CallStats(*names, first.paced, first.lane, max(one.peak for one in each), first.peaks)
    for one in each:
        total.merge(one)
    return total
