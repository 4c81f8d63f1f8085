"""Processes that share a quota through a hub, and what they have started."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time

from tests.helpers.grants import Grants, assert_granted
from tests.helpers.modules import command_of

__all__ = ["Starts", "Workers", "most_in"]

WORKER = "tests.helpers.host_worker"


class Workers:
    """Processes that make calls of one quota, and the instants at which these have started.

    In the end, it sees that none has started before its limits let it go.
    """

    def __init__(self, count, name, limits, *, calls=0, tasks=20, body=0.0):
        self._arguments = [str(one) for one in (name, limits, calls, tasks, body)]
        self._readers = []
        self._gone = []
        self._calls = []
        self.processes = []
        self.starts = []
        for _ in range(count):
            process, starts = self._start()
            self.processes.append(process)
            self.starts.append(starts)
        for process in self.processes:
            self._begin(process)

    def _start(self):
        process = subprocess.Popen(
            command_of(WORKER, *self._arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        starts = []
        reader = threading.Thread(target=self._read, args=(process, starts))
        reader.start()
        self._readers.append(reader)
        return process, starts

    @staticmethod
    def _begin(process):
        process.stdin.write("go\n")
        process.stdin.flush()

    def replace(self, number, how):
        """End one, by its method of this name, and start another one."""
        before = self.processes[number]
        getattr(before, how)()
        self._gone.append(before)
        self.processes[number], self.starts[number] = self._start()
        self._begin(self.processes[number])

    def _read(self, process, starts):
        for line in process.stdout:
            if line.endswith("\n"):
                at, body = map(float, line.split())
                self._calls.append((at, body))
                starts.append(at)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        everybody = [*self.processes, *self._gone]
        for process in everybody:
            process.kill()
            process.wait()
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        for reader in self._readers:
            reader.join()
        for process in everybody:
            process.stdout.close()
        assert_granted(self._calls)

    @property
    def all_starts(self):
        """All instants so far at which limits have let calls go, in order."""
        return sorted(at for at, _ in list(self._calls))

    @property
    def all_bodies(self):
        """All instants so far at which calls have begun, in order."""
        return sorted(body for _, body in list(self._calls))

    def wait_for(self, number, *, each=0):
        """Wait until so many calls have started, and so many of each process."""
        deadline = time.monotonic() + 60
        while len(self.all_starts) < number or min(map(len, self.starts)) < each:
            assert time.monotonic() < deadline, f"{len(self.all_starts)} of {number} calls"
            time.sleep(0.02)


class Starts(Grants):
    """Keeps the instants at which its queues' limits let calls go, whose bodies tell it."""

    def __init__(self):
        super().__init__()
        self.instants = []

    def begin(self):
        """A body begins: it has been let go."""
        call = self.body()
        assert_granted([call])
        self.instants.append(call[0])


def most_in(starts, per):
    """The most of these that lie within so many seconds."""
    most, first = 0, 0
    for last, at in enumerate(starts):
        while at - starts[first] >= per:
            first += 1
        most = max(most, last - first + 1)
    return most
