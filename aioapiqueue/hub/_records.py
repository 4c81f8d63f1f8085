"""What the hub keeps of its clients: their processes, and the counts of each kind of call."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from aioapiqueue._recording.waits import WaitTimes

__all__ = ["OTHERS", "CallStats", "Client", "Kind", "Process"]

OTHERS = "(others)"
"""The service and the operation under which all further kinds of calls are counted together."""

_WAITED = 0.010  # seconds; less is the way to the queue and back, and to the hub of the host
_TICKS = 100  # in a second


class Kind(NamedTuple):
    """What is known of a call, but for its parameters."""

    service: str
    operation: str
    region: str | None
    account: str | None


class _Second:
    """The most events in any one second, which begins at a multiple of 10 ms.

    It keeps 100 counts at most, however many events there are.
    """

    __slots__ = ("_count", "_recent", "peak")

    def __init__(self) -> None:
        self.peak = 0
        self._count = 0
        self._recent: deque[list[int]] = deque()
        """[tick, events], of the last second; oldest first."""

    def count(self, now: float) -> int:
        """Count one event, at `now` seconds on a clock that never goes back; return the peak."""
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
class Client:
    """What the connections of one process have together.

    Attributes:
        connections: how many there are.
        requests: waiting or under way.
        calls: under way, without those that went ahead of others.
        ahead: waiting ahead of others, each for one of `calls` that needs it.
    """

    connections: int = 0
    requests: int = 0
    calls: int = 0
    ahead: int = 0


@dataclass(slots=True)
class Process:
    """A Python interpreter that has said hello.

    Attributes:
        pid: its process id.
        executable: the interpreter, as `sys.executable` has it.
        python: its version, `"3.11.7"`.
        botocore: the version of the botocore that is paced in it; None until that is imported.
        late: it had made clients before its botocore was paced; these may have called unpaced.
        unhooked: why a botocore in it is not paced, or None.
        forked: whether it is the fork of an interpreter, and has not been started as one.
        started: when it said hello, as `time.time()`.
        ended: when its connection closed, as `time.time()`; None while it lives. (A process that
            has closed all its files, as daemons do, says hello again at its next call.)
        exited: whether the interpreter came to its orderly end. Of killed processes, forked
            children that end by `os._exit` (those of `multiprocessing`), and those that `exec`
            another program, it is not known.
    """

    pid: int
    executable: str
    python: str
    botocore: str | None = None
    late: bool = False
    unhooked: str | None = None
    forked: bool = False
    started: float = field(default_factory=time.time)
    ended: float | None = None
    exited: bool = False


@dataclass(slots=True)
class CallStats:
    """What was counted of one lane of one service, in one Region, of one account; or of a bucket.

    Attributes:
        service: as `create_client` takes it: `"ec2"`.
        operation: `"DescribeSnapshots"`; of a bucket: its name.
        region: None where botocore knows none.
        account: the account's id, where botocore knows it or the access key contains it; otherwise
            the access key's id; None where there are no credentials, or none yet.
        queue: the name of the queue that paces it; None without one.
        paced: whether a queue paces it.
        calls: HTTP attempts let go.
        waits: those among them that waited for ten milliseconds or more.
        waiting: attempts that wait now.
        running: attempts under way now.
        waited: seconds that the attempts let go have waited, added up.
        longest_wait: the longest of these, in seconds.
        answers: attempts that have ended with an answer, or with an error in place of one.
        throttled: answers by which the other side pushed back.
        errors: other answers that are errors, and attempts without an answer, but for cancelled
            ones.
        refused: attempts that were not let go, as the pacing refused them: nothing was sent.
        peak: the most attempts let go in any one second.
        lane: the first key of its slots, where that is not the operation:
            `"DescribeVolumes unfiltered"`.
        wait_times: how long the attempts let go have waited.
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

    def let_go(self, now: float, waited: float) -> None:
        """Count an attempt that may start."""
        self.calls += 1
        self.waits += waited >= _WAITED
        self.waited += waited
        self.longest_wait = max(self.longest_wait, waited)
        self.wait_times.add(waited)
        self.peak = self._second.count(now)
