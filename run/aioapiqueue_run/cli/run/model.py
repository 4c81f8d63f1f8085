"""The data of a run: its plan and its outcome."""

from __future__ import annotations

import dataclasses
import functools
import time
from typing import TYPE_CHECKING, Any

from aioapiqueue.recording.spi import Recording
from aioapiqueue_run.cli.run.limits_in_words import in_words
from aioapiqueue_run.hub import OTHERS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aioapiqueue.registry import Registry
    from aioapiqueue_run.cli.run.activation import Inactive
    from aioapiqueue_run.cli.run.estimate import PacedEstimate
    from aioapiqueue_run.cli.run.gates import Judged, RunGate
    from aioapiqueue_run.cli.run.launch import Launch
    from aioapiqueue_run.cli.run.log import Log
    from aioapiqueue_run.cli.run.on_host import OnHost
    from aioapiqueue_run.cli.run.options import RunOptions
    from aioapiqueue_run.cli.run.output_file import OutputFile
    from aioapiqueue_run.cli.run.shared_server import Shared
    from aioapiqueue_run.hub import CallStats, Process
    from aioapiqueue_run.hub.spi import QueueRecords

__all__ = ["Outcome", "RunPlan"]


@dataclasses.dataclass(frozen=True)
class RunPlan:
    """The program of a run, and its options.

    Attributes:
        launch: the file to execute, and whether that is Python.
        registry: the limits.
        log: writes our messages.
        shared: the server that shares the limits with other hosts; None in a dry run.
        on_host: the host hub that shares the limits; None: they are not shared.
        given: all options, with the address of the shared server as it may be shown.
        gates: the conditions that make the run fail.
        queues: records the calls; None: the hub makes one.
        gateway: whether to start the gateway, for programs that are not Python.
        files: the files of --json, --log and --report, by option.
    """

    launch: Launch
    registry: Registry
    log: Log
    shared: Shared | None
    on_host: OnHost | None
    given: RunOptions
    gates: Sequence[RunGate] = ()
    queues: QueueRecords | None = None
    gateway: bool = False
    files: Mapping[str, OutputFile] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def limits(self) -> dict[str, str]:
        """The limits as messages name them."""
        return in_words(self.registry)

    def limit_of(self, service: str) -> str:
        """Return the limits of all calls of a service, as messages name them; "" without any."""
        # A listed service inherits nothing from the default.
        listed = service in self.registry.services or service == OTHERS
        return self.limits.get(service if listed else "default", "")


@dataclasses.dataclass
class Outcome:
    """The outcome of a run.

    Attributes:
        code: the program's exit code as a shell has it; None if there never was a program.
        stopped: the exit code with which we ended the program; None if we did not.
        seconds: the time from the program's start to its end.
        figures: the figures of the hub, with `paced` if some limit applied to the calls.
        buckets: the figures of shared buckets, whose `operation` is their name.
        recording: the calls over time and by queue.
        estimate: the estimate of the paced run; None unless this is a dry run.
        paced_seconds: the estimated duration of the paced run; None unless this is a dry run.
        judged: the results of the gates.
        processes: the processes that sent a hello.
        outliving: number of paced processes that still ran when the program had ended.
        inactive: the processes that were found not to be paced.
        gateway: the JSON about the gateway; None without one.
    """

    code: int | None = None
    stopped: int | None = None
    seconds: float = 0.0
    figures: list[CallStats] = dataclasses.field(default_factory=list)
    buckets: list[CallStats] = dataclasses.field(default_factory=list)
    recording: Recording = dataclasses.field(
        default_factory=lambda: Recording(now=time.monotonic(), began=time.time())
    )
    estimate: PacedEstimate | None = None
    paced_seconds: float | None = None
    judged: list[Judged] = dataclasses.field(default_factory=list)
    processes: list[Process] = dataclasses.field(default_factory=list)
    outliving: int = 0
    inactive: list[Inactive] = dataclasses.field(default_factory=list)
    gateway: dict[str, Any] | None = None
