"""Many processes that share one quota, and the one observer that their calls arrive at."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from tests.helpers.worker import END, RECORD, RELEASED, START

if TYPE_CHECKING:
    from collections.abc import Iterable

WORKER = Path(__file__).parent / "worker.py"


class Arrival(NamedTuple):
    """A call that was let through: when, on the clock that all processes share, and whose."""

    at: float
    what: int
    worker: int


class Workers:
    """So many processes with a queue each, of one quota.

    Args:
        count: how many.
        url: of the server.
        name: of the quota.
        limits: of the queues.
        callers: how many wait in each process at any time.
        body: seconds that each call lasts.
        queue: further options of `ApiQueue`.
        schedule: further options of `SharedSchedule`.
        slot: options of each call.
    """

    def __init__(
        self,
        count: int,
        url: str,
        name: str,
        *limits: str,
        callers: int = 100,
        body: float = 0.0,
        queue: dict[str, Any] | None = None,
        schedule: dict[str, Any] | None = None,
        slot: dict[str, Any] | None = None,
    ) -> None:
        self._settings = {
            "url": url,
            "name": name,
            "limits": limits,
            "callers": callers,
            "body": body,
            "queue": queue or {},
            "schedule": schedule or {},
            "slot": slot or {},
        }
        self._count = count
        self._arrivals: list[Arrival] = []
        self.processes: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Self:
        """Start all, and wait until each is ready to begin."""
        reading, writing = os.pipe()
        self._observer = threading.Thread(target=self._observe, args=(reading,))
        self._observer.start()
        for number in range(self._count):
            settings = self._settings | {"number": number, "pipe": writing}
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, str(WORKER), json.dumps(settings)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    pass_fds=[writing],
                )
            )
        os.close(writing)
        for process in self.processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        return self

    def __exit__(self, *_: object) -> None:
        self.kill(range(self._count))
        for process in self.processes:
            assert process.stdin is not None
            assert process.stdout is not None
            process.wait()
            process.stdin.close()
            process.stdout.close()
        self._observer.join()

    def begin(self) -> float:
        """Let all of them call; return when that was."""
        began = time.monotonic()
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        return began

    def kill(self, numbers: Iterable[int]) -> float:
        """Let some of them die without a word; return when that was."""
        for number in numbers:
            self.processes[number].kill()
        return time.monotonic()

    def end(self) -> list[dict[str, Any]]:
        """Let all that live end in good order; return their figures, once all has arrived."""
        alive = [process for process in self.processes if process.poll() is None]
        for process in alive:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        figures = []
        for process in alive:
            assert process.stdout is not None
            figures.append(json.loads(process.stdout.readline()))
            assert process.wait(60) == 0
        self._observer.join()
        return figures

    def count(self, what: int) -> int:
        """Return how many of these there have been so far."""
        return sum(one.what == what for one in list(self._arrivals))

    @property
    def arrivals(self) -> list[Arrival]:
        """What has arrived so far, in order of the senders' instants."""
        return sorted(self._arrivals)

    def instants(self, what: int = RELEASED) -> list[float]:
        """Return when all of these were, in order."""
        return [one.at for one in self.arrivals if one.what == what]

    def _observe(self, reading: int) -> None:
        with open(reading, "rb") as pipe:
            while record := pipe.read(RECORD.size):
                what, worker, at = RECORD.unpack(record)
                self._arrivals.append(Arrival(at, what, worker))


def fullest(starts: list[float], seconds: float) -> int:
    """Return how many of these instants, which are in order, fall into any window so long."""
    most = first = 0
    for number, start in enumerate(starts):
        while starts[first] <= start - seconds + 1e-6:  # the server counts microseconds
            first += 1
        most = max(most, number - first + 1)
    return most


def most_at_once(arrivals: Iterable[Arrival], since: float = 0.0) -> int:
    """Return how many bodies ran at the same time, at most, at `since` or later."""
    most = running = 0
    for one in arrivals:
        if one.at > since:
            most = max(most, running)
        running += {RELEASED: 0, START: 1, END: -1}[one.what]
    return most
