"""Processes that share a quota through a hub, and what they have started."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from pathlib import Path

__all__ = ["ROOT", "Starts", "Workers", "most_in"]

WORKER = [sys.executable, "-m", "tests.helpers.host_worker"]
ROOT = Path(__file__).parents[2]
"""Of the tree."""


class Workers:
    """Processes that make calls of one quota, and the instants at which these have started."""

    def __init__(self, count, name, limits, *, calls=0, tasks=20, body=0.0):
        self._arguments = [str(one) for one in (name, limits, calls, tasks, body)]
        self._readers = []
        self._gone = []
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
            [*WORKER, *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
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
        self._gone.append((before, self.starts[number]))
        self.processes[number], self.starts[number] = self._start()
        self._begin(self.processes[number])

    @staticmethod
    def _read(process, starts):
        for line in process.stdout:
            if line.endswith("\n"):
                starts.append(float(line))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        everybody = [*self.processes, *(process for process, _ in self._gone)]
        for process in everybody:
            process.kill()
            process.wait()
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        for reader in self._readers:
            reader.join()
        for process in everybody:
            process.stdout.close()

    @property
    def all_starts(self):
        """All instants so far, in order."""
        several = [*self.starts, *(starts for _, starts in self._gone)]
        return sorted(at for starts in several for at in list(starts))

    def wait_for(self, number, *, each=0):
        """Wait until so many calls have started, and so many of each process."""
        deadline = time.monotonic() + 60
        while len(self.all_starts) < number or min(map(len, self.starts)) < each:
            assert time.monotonic() < deadline, f"{len(self.all_starts)} of {number} calls"
            time.sleep(0.02)


class Starts:
    """An observer that keeps the instants at which its queues' limits let calls go."""

    def __init__(self):
        self.instants = []

    def on_event(self, event):
        """Hear of one."""
        if event.kind == "released":
            self.instants.append(event.at)


def most_in(starts, per):
    """The most of these that lie within so many seconds."""
    most, first = 0, 0
    for last, at in enumerate(starts):
        while at - starts[first] >= per:
            first += 1
        most = max(most, last - first + 1)
    return most
