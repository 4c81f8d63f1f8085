"""The data of a run: what is to be run, and what came of it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from aioapiqueue.cli.run._recorder import RunRecorder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aioapiqueue.cli.run._activation import Inactive
    from aioapiqueue.cli.run._gates import FailCondition, Judged
    from aioapiqueue.cli.run._launch import Launch
    from aioapiqueue.cli.run._log import Log
    from aioapiqueue.cli.run._on_host import OnHost
    from aioapiqueue.cli.run._queue_feed import Changes
    from aioapiqueue.cli.run._shared_server import Shared
    from aioapiqueue.hub import CallStats, Process
    from aioapiqueue.registry import Registry

__all__ = ["Outcome", "RunPlan"]


@dataclasses.dataclass(frozen=True)
class RunPlan:
    """What is to be run, and how.

    Attributes:
        command: the program and its arguments.
        launch: the file to execute, and whether that is Python.
        registry: the limits.
        limits: the limits of each service, as messages name them.
        log: where our messages go.
        dry_run: only count.
        shared: what the limits are shared through; of a dry run, not used.
        on_host: the hub of this host that they are shared through; None: they are not.
        live: show a status line in the terminal.
        grace: seconds that a Python may take to say hello.
        allow_inactive: only warn of what is not paced.
        each_minute: write a line each minute, where there is no status line.
        gates: what must not be, for the run to count as a success.
        options: ours, of limits and how they are kept, for a run that is to do the same.
        by_default: whether the limits are those without an option.
        changes: observes what makes the queues of the registry faster or slower; None: nothing.
        gateway: pace what is not Python, too.
        isolate: have the program reach nothing but the gateway.
    """

    command: Sequence[str]
    launch: Launch
    registry: Registry
    limits: dict[str, str]
    log: Log
    dry_run: bool
    shared: Shared | None
    on_host: OnHost | None
    live: bool
    grace: float
    allow_inactive: bool
    each_minute: bool = False
    gates: Sequence[FailCondition] = ()
    options: Sequence[str] = ()
    by_default: bool = False
    changes: Changes | None = None
    gateway: bool = False
    isolate: bool = False

    @property
    def counts_all(self) -> bool:
        """Whether calls to AWS are counted, too, that no limit concerns."""
        return self.dry_run or any(gate.metric == "unpaced" for gate in self.gates)


@dataclasses.dataclass
class Outcome:
    """What came of it.

    Attributes:
        code: the program's exit code as a shell has it; None if there never was a program.
        stopped: the exit code with which we ended the program; None if we did not.
        seconds: from the program's start to its end.
        figures: the hub's, `paced` where some limit concerned the calls.
        buckets: those of the buckets that operations share, whose names are their operations.
        recorder: what was recorded while it went on.
        paced_seconds: of a dry run: how long a paced one would take; None: this is none.
        judged: what came of the gates.
        processes: those that said hello.
        inactive: those that were found not to be paced.
        shared: what there was with the shared server, as JSON has it; None without one.
        on_host: what there was with others of this host, as JSON has it; None: nothing is shared.
        shared_with: the queues that other runs of this host used, too, by whose they are.
        gateway: what the gateway has counted, as JSON has it; None: there was none.
    """

    code: int | None = None
    stopped: int | None = None
    seconds: float = 0.0
    figures: list[CallStats] = dataclasses.field(default_factory=list)
    buckets: list[CallStats] = dataclasses.field(default_factory=list)
    recorder: RunRecorder = dataclasses.field(default_factory=RunRecorder)
    paced_seconds: float | None = None
    judged: list[Judged] = dataclasses.field(default_factory=list)
    processes: list[Process] = dataclasses.field(default_factory=list)
    inactive: list[Inactive] = dataclasses.field(default_factory=list)
    shared: dict[str, Any] | None = None
    on_host: dict[str, Any] | None = None
    shared_with: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    gateway: dict[str, Any] | None = None
