"""The hub's records of its clients: their processes, and the counts of each kind of call."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from aioapiqueue.recording.spi import WaitTimes

__all__ = ["OTHERS", "CallStats", "Kind", "Process", "ProcessLoad"]

OTHERS = "(others)"
"""Service and operation of the counts that all kinds of calls beyond the limit share."""

_WAITED = 0.010  # seconds; a shorter time is only the way to the queue or to the host hub
_TICKS = 100  # per second


class Kind(NamedTuple):
    """A kind of call: everything known about a call except its parameters."""

    service: str
    operation: str
    region: str | None
    account: str | None


class _Second:
    """Finds the largest number of events in any one second, to within 10 ms."""

    # Counts by ticks of 10 ms, so at most 100 of them. The instants of all calls of a burst would
    # stay in memory until the next call of that kind.

    __slots__ = ("_count", "_recent", "peak")

    def __init__(self) -> None:
        self.peak = 0
        self._count = 0
        self._recent: deque[list[int]] = deque()
        """[tick, number of events] of the last second, the oldest first."""

    def count(self, now: float) -> int:
        """Count an event at `now`, on a clock that never goes back; return the peak."""
        tick = int(now * _TICKS)
        recent = self._recent
        if recent and recent[-1][0] == tick:
            recent[-1][1] += 1
        else:
            recent.append([tick, 1])
            while recent[0][0] <= tick - _TICKS:
                self._count -= recent.popleft()[1]
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


@dataclass(slots=True)
class CallStats:
    """Counts for one lane of a service in one Region and account, or for one bucket.

    Attributes:
        service: name of the service, as for boto3's `create_client`: `"ec2"`.
        operation: `"DescribeSnapshots"`, or the name of the bucket.
        region: the Region; None if botocore knows none.
        account: the account's id if botocore knows it or the access key contains it, otherwise the
            access key's id; None without credentials.
        queue: name of the queue that paces the calls; None without one.
        paced: whether a queue paces the calls.
        calls: number of HTTP attempts started.
        waits: number of these that waited for at least 10 ms.
        waiting: number of attempts waiting now.
        running: number of attempts in flight now.
        waited: total wait of the started attempts, in seconds.
        longest_wait: longest of these waits, in seconds.
        answers: number of attempts that ended with a response or an error.
        throttled: number of attempts that the server throttled.
        errors: number of other error responses and of attempts without a response, except
            cancelled ones.
        refused: number of attempts that were refused and not sent.
        peak: most attempts started in any one second.
        lane: first key of the slots, if it is not the operation: `"DescribeVolumes unfiltered"`.
        wait_times: distribution of the waits.
    """

    service: str
    operation: str
    region: str | None
    account: str | None
    queue: str | None
    paced: bool
    calls: int = 0
    waits: int = 0
    waiting: int = 0
    running: int = 0
    waited: float = 0.0
    longest_wait: float = 0.0
    answers: int = 0
    throttled: int = 0
    errors: int = 0
    refused: int = 0
    peak: int = 0
    lane: str = ""
    wait_times: WaitTimes = field(default_factory=WaitTimes, repr=False, compare=False)
    _second: _Second = field(default_factory=_Second, repr=False, compare=False)

    def count_start(self, now: float, waited: float) -> None:
        """Count an attempt that starts."""
        self.calls += 1
        self.waits += waited >= _WAITED
        self.waited += waited
        self.longest_wait = max(self.longest_wait, waited)
        self.wait_times.add(waited)
        self.peak = self._second.count(now)
