"""The hub's records of its clients: their processes, and the counts of each kind of call."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from aioapiqueue.recording.spi import CallTotals

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["OTHERS", "TICKS", "CallStats", "Kind", "PeakSecond", "Process", "ProcessLoad"]

OTHERS = "(others)"
"""Service and operation of the counts that all kinds of calls beyond the limit share."""

TICKS = 100  # per second


class Kind(NamedTuple):
    """A kind of call: everything known about a call except its parameters."""

    service: str
    operation: str
    region: str | None
    account: str | None


class PeakSecond:
    """Finds the largest number of attempts that started in any one second, to within 10 ms."""

    # Counts by ticks of 10 ms, so at most 100 of them. The instants of all calls of a burst would
    # stay in memory until the next call of that kind.

    __slots__ = ("_count", "_counts", "_ticks", "peak")

    def __init__(self) -> None:
        self.peak = 0
        self._count = 0
        self._ticks: list[int] = []
        """The ticks of the last second in which attempts started, the oldest first."""
        self._counts: list[int] = []
        """The number of attempts in each of them."""

    def count(self, tick: int) -> int:
        """Count an attempt that starts in a tick, which never decreases; return the peak."""
        ticks, counts = self._ticks, self._counts
        if ticks and ticks[-1] == tick:
            counts[-1] += 1
        else:
            ticks.append(tick)
            counts.append(1)
            while ticks[0] <= tick - TICKS:
                del ticks[0]
                self._count -= counts.pop(0)
        self._count += 1
        self.peak = max(self.peak, self._count)
        return self.peak


@dataclass(slots=True)
class ProcessLoad:
    """The connections and requests of one process.

    Attributes:
        connections: number of connections.
        requests: number of requests waiting or in flight.
        calls: number of calls in flight, without those that overtook others.
        ahead: number of waiting requests that overtake others because a call in flight needs them.
    """

    connections: int = 0
    requests: int = 0
    calls: int = 0
    ahead: int = 0


@dataclass(slots=True)
class Process:
    """A Python interpreter that has connected to the hub.

    Attributes:
        pid: process id.
        executable: path of the interpreter (`sys.executable`).
        python: its version, such as `"3.11.7"`.
        botocore: version of the paced botocore; None until the process imports it.
        late: whether clients existed before botocore was paced; their calls may have been unpaced.
        unhooked: why a botocore in this process is not paced, or None.
        forked: whether the process is a fork of an interpreter.
        image: the addresses of its code and stack, which differ after each `exec`, but not after a
            fork; "" if the system does not show them.
        started: when it connected, as `time.time()`.
        ended: when its connection closed, as `time.time()`; None while it runs. (A process that
            closes all its files, as daemons do, connects again at its next call.)
        exited: whether the interpreter exited normally. False for processes that were killed,
            forked children that end with `os._exit` (such as those of `multiprocessing`), and
            processes that `exec` another program.
    """

    pid: int
    executable: str
    python: str
    botocore: str | None = None
    late: bool = False
    unhooked: str | None = None
    forked: bool = False
    image: str = ""
    started: float = field(default_factory=time.time)
    ended: float | None = None
    exited: bool = False


@dataclass(slots=True, eq=False)
class CallStats(CallTotals):
    """Counts of one kind of call, or of all calls that use a bucket.

    Attributes:
        service: name of the service, as for boto3's `create_client`: `"ec2"`.
        operation: `"DescribeSnapshots"`, or the name of the bucket.
        region: the Region; None if botocore knows none.
        account: the account's id if botocore knows it or the access key contains it, otherwise the
            access key's id; None without credentials.
        queue: name of the queue that paces the calls; None without one.
        paced: whether a queue paces the calls.
        lane: first key of the slots, if it is not the operation: `"DescribeVolumes unfiltered"`.
        peak: most attempts started in any one second.
        peaks: what counts each attempt that starts: for `peak`, for the peaks of the service, of
            its queue, and of the lane in that queue, and then for the peaks of its buckets.
    """

    service: str
    operation: str
    region: str | None
    account: str | None
    queue: str | None
    paced: bool
    lane: str = ""
    peak: int = 0
    peaks: Sequence[PeakSecond] = field(default=(), repr=False)

    @property
    def service_peak(self) -> int:
        """Most attempts of the service started in any one second."""
        return self.peaks[1].peak if self.peaks else 0

    @property
    def place_peak(self) -> int:
        """Most attempts of this service in the same place started in any one second."""
        return self.peaks[2].peak if self.peaks else 0

    @property
    def lane_peak(self) -> int:
        """Most attempts of this service, place and lane started in any one second."""
        return self.peaks[3].peak if self.peaks else 0

    @property
    def is_used(self) -> bool:
        """Whether there was any attempt."""
        return bool(self.calls or self.waiting or self.refused)

    @property
    def lane_name(self) -> str:
        """The lane, which is mostly the operation."""
        return self.lane or self.operation

    @property
    def place(self) -> object:
        """The queue. Without one, each account in a Region counts as a queue."""
        return self.queue or (self.region, self.account)
