"""One run: starts the hub and the program, and supervises them until the program ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio

from aioapiqueue.spi import printable
from aioapiqueue_run.cli.console import MAX_LISTED, PREFIX, WIDTH, wrapped
from aioapiqueue_run.cli.run.activation import Activation, Why
from aioapiqueue_run.cli.run.errors import ExitCode, NotStarted
from aioapiqueue_run.cli.run.estimate import PacedEstimate
from aioapiqueue_run.cli.run.gateway import Gateway
from aioapiqueue_run.cli.run.limits_applied import judged
from aioapiqueue_run.cli.run.model import Outcome
from aioapiqueue_run.cli.run.program import Program, Signals
from aioapiqueue_run.cli.run.progress import Progress
from aioapiqueue_run.cli.run.report import about
from aioapiqueue_run.cli.run.shared_server import SHARED_VARIABLE
from aioapiqueue_run.cli.run.status_line import StatusLine
from aioapiqueue_run.hub import Hub

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aioapiqueue_run.cli.run.model import RunPlan

__all__ = ["supervise"]

_SHOW_SECONDS = 0.5
_EACH_SECONDS = 60.0  # from one progress line to the next, without a terminal
_HUB_SECONDS = 0.5
_LAST_MESSAGES_SECONDS = 0.5
# Bytes of the hub's directory. A socket's path has at most 108 bytes on Linux and 104 on macOS, and
# the name of the socket is added to it.
_LONGEST_SOCKET = 90


async def supervise(plan: RunPlan) -> Outcome:
    """Run a program to its end.

    Afterwards, even if this is cancelled, the program has ended, the hub and its directory are
    gone, and the terminal is as before.

    Raises:
        NotStarted: the program could not be started.
    """

    def still_running() -> None:
        plan.log.say(
            f"interrupted: waiting for {printable(plan.launch.name)} to end. Its calls are still "
            "paced;\nanother Ctrl-C is also passed on to it"
        )

    def failed(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        text = f"{context.get('message', 'error')}: {context.get('exception')!r}"
        # An error of redis-py may contain the password.
        plan.log.say(plan.shared.address.scrubbed(text) if plan.shared else text)

    asyncio.get_running_loop().set_exception_handler(failed)
    estimate = PacedEstimate(plan.registry) if plan.dry_run else None
    line = StatusLine(2)
    # Signals are outermost: one that arrives during the clean-up must not interrupt it.
    with Signals(suspend=line.leave, still_running=still_running) as signals:
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(line.leave)
            opened = await _open(plan, estimate, stack)
            if signals.early is not None:
                raise NotStarted(
                    f"ended by a signal before {printable(plan.launch.name)} was started",
                    code=128 + signals.early,
                )
            outcome = Outcome(recording=opened.hub.recording, estimate=estimate)
            now = time.monotonic()  # the time until here is not the program's
            outcome.recording.begin(now=now, began=time.time())
            if estimate is not None:
                estimate.begin(now)
            launch, command = plan.launch, plan.command
            if opened.gateway is not None:
                launch, command = opened.gateway.command(launch, command)
            program = await Program.start(launch, command, opened.environment)
            await _Run(plan, opened, program, outcome, line).to_its_end(signals)
    return outcome


class _OpenHub(NamedTuple):
    """The hub of a run, and what the program needs to reach it.

    Attributes:
        hub: the hub.
        socket: the device and inode of the hub's socket.
        environment: the environment of the program.
        gateway: the gateway; None without one.
    """

    hub: Hub
    socket: tuple[int, int]
    environment: dict[str, str]
    gateway: Gateway | None


async def _open(
    plan: RunPlan, estimate: PacedEstimate | None, stack: contextlib.AsyncExitStack
) -> _OpenHub:
    """Open the hub and the gateway, until the stack is closed."""
    if plan.shared is not None and not plan.dry_run:
        await stack.enter_async_context(plan.shared.open(plan.registry, plan.log.say))
    if plan.on_host is not None:
        await stack.enter_async_context(plan.on_host.open(plan.log.say))
    # Closed in the opposite order: first the gateway and the hub, so that no call starts any more,
    # then the queues, and last the server that they use.
    stack.push_async_callback(plan.registry.aclose, drain=False)
    try:
        directory = stack.enter_context(_directory())
        hub = Hub(
            plan.registry,
            directory=directory,
            count_only=plan.dry_run,
            queues=plan.queues,
            watcher=estimate,
        )
        await stack.enter_async_context(hub)
        # The program must not get the password of the shared server, nor secrets of another run.
        unwanted = {SHARED_VARIABLE, "AIOAPIQUEUE_MARK", "AIOAPIQUEUE_GATEWAY"}
        kept = {name: os.environ[name] for name in os.environ if name not in unwanted}
        environment, gateway = kept | hub.environment, None
        if plan.gateway:
            gateway = await stack.enter_async_context(
                Gateway(
                    hub.path,
                    directory,
                    plan.registry,
                    isolate=plan.isolate,
                    intercepts_all=plan.counts_all,
                )
            )
            environment |= gateway.environment(kept)
        return _OpenHub(hub, _identity(hub.path), environment, gateway)
    except (OSError, RuntimeError, ValueError) as error:
        why = f"the hub, which paces calls, cannot start: {error}; nothing was started"
        raise NotStarted(wrapped(why)) from None


class _Run:
    """A running program, and the tasks that supervise it."""

    def __init__(
        self, plan: RunPlan, opened: _OpenHub, program: Program, outcome: Outcome, line: StatusLine
    ) -> None:
        self._plan = plan
        self._hub = opened.hub
        self._socket = opened.socket
        self._gateway = opened.gateway
        self._program = program
        self._outcome = outcome
        self._line = line
        self._progress = Progress(plan, self._hub)
        self._activation = Activation(
            program.pid, self._hub.processes, python=plan.launch.python, grace=plan.grace
        )

    async def to_its_end(self, signals: Signals) -> None:
        """Wait for the program's end, and note the outcome."""
        outcome = self._outcome
        try:
            # First within the `try`: a signal that arrived before may stop the program at once.
            signals.pass_to(self._program)
            async with anyio.create_task_group() as group:
                group.start_soon(self._watch_activation)
                group.start_soon(self._watch_hub)
                if self._gateway is not None:
                    group.start_soon(self._watch_gateway, self._gateway)
                if self._plan.live:
                    group.start_soon(self._show)
                if self._plan.each_minute:
                    group.start_soon(self._report_each_minute)
                await self._program.wait()
                group.cancel_scope.cancel()
            await self._last_messages()
            if outcome.stopped is None:
                outcome.inactive += self._activation.conclude()
        except Exception:  # noqa: BLE001 - a bug of ours: the program must not go on unpaced
            self._fail(f"internal error, the program is stopped:\n{traceback.format_exc()}")
        finally:
            # Also if this is cancelled: without us, nothing is paced.
            await self._stop()
        outcome.code = await self._program.wait()
        # Before the figures are read: the last requests report their outcomes as it ends.
        await self._end_gateway()
        now = time.monotonic()
        outcome.seconds = now - outcome.recording.now
        if outcome.estimate is not None:
            outcome.paced_seconds = outcome.estimate.seconds(now)
        outcome.recording.series.reach(now)  # first: it may add up points
        outcome.figures = judged(self._hub.figures, self._plan.registry)
        outcome.buckets = self._hub.buckets
        if self._plan.shared is not None and not self._plan.dry_run:
            outcome.shared = self._plan.shared.as_json()
        if self._plan.on_host is not None:
            outcome.on_host = self._plan.on_host.as_json()
            outcome.shared_with = self._plan.on_host.shared_with
        outcome.processes = list(self._hub.processes.values())

    async def _watch_activation(self) -> None:
        plan, found = self._plan, self._outcome.inactive
        while True:
            inactive = await self._activation.next()
            found.append(inactive)
            # A child may be a helper that calls no API, but what a launcher executes is the program
            # proper. A process that is late is paced by now.
            fatal = inactive.program or inactive.why is Why.EXEC
            stop = fatal and inactive.why is not Why.LATE and not plan.allow_inactive
            if self._gateway is not None:
                continue  # the gateway may pace it: its counts show that at the end
            if stop or len(found) <= MAX_LISTED:
                plan.log.say(about(inactive, printable(plan.launch.name), stopped=stop))
            if stop:
                self._outcome.stopped = ExitCode.INACTIVE
                await self._stop()
                return

    async def _watch_hub(self) -> None:
        """End the program if the hub's socket is gone or replaced."""
        # New processes could not be paced. Another socket at the path could admit their calls at
        # any rate.
        socket, why = f"the hub's socket {self._hub.path}", ""
        while not why:
            await asyncio.sleep(_HUB_SECONDS)
            try:
                if _identity(self._hub.path) != self._socket:
                    why = f"{socket} was replaced"
            except OSError:
                why = f"{socket} is gone"
        self._fail(wrapped(f"{why}; the program is stopped"))
        await self._stop()

    async def _watch_gateway(self, gateway: Gateway) -> None:
        """End the program if the gateway has ended."""
        why = await gateway.broken()
        # Another process could now listen at its port, and would get the run's password.
        self._fail(wrapped(f"{why}; the program is stopped"))
        await self._stop()

    async def _end_gateway(self) -> None:
        """End the gateway, if there is one, and note its counts."""
        gateway = self._gateway
        if gateway is None:
            return
        await gateway.end()
        self._outcome.gateway = gateway.counts
        if gateway.fault:
            self._plan.log.say(
                wrapped(f"error in the local proxy, please report it: {gateway.fault}")
            )

    async def _stop(self) -> None:
        """End the program and its children."""
        # Shielded: the program's end cancels the tasks that call this, and a cancelled `stop` would
        # kill children that are still cleaning up.
        with anyio.CancelScope(shield=True):
            await self._program.stop(self._activation.family())

    def _fail(self, why: str) -> None:
        self._outcome.stopped = ExitCode.NO_HUB
        self._plan.log.say(why)

    async def _last_messages(self) -> None:
        """Wait briefly for messages that the program's processes sent before they ended."""
        # We may notice the program's end before the hub has read its last messages, or any.
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(_LAST_MESSAGES_SECONDS):
                await self._hub.read_hellos()
                process = self._hub.processes.get(self._program.pid)
                while process is not None and process.ended is None:  # noqa: ASYNC110
                    await asyncio.sleep(_LAST_MESSAGES_SECONDS / 50)

    async def _report_each_minute(self) -> None:
        """Write a line each minute, so that a log shows the progress of the run."""
        while True:
            await asyncio.sleep(_EACH_SECONDS)
            self._plan.log.say(self._progress.line(WIDTH - len(PREFIX)))

    async def _show(self) -> None:
        """Show the status line, at intervals and after each change of the terminal's size."""

        def draw() -> None:
            self._line.show(self._progress.line)

        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGWINCH, draw)
        try:
            while True:
                draw()
                await asyncio.sleep(_SHOW_SECONDS)
        finally:
            loop.remove_signal_handler(signal.SIGWINCH)


def _identity(path: Path) -> tuple[int, int]:
    """Return the device and inode of a file."""
    found = path.lstat()
    return found.st_dev, found.st_ino  # unique as long as the hub listens on its socket


@contextlib.contextmanager
def _directory() -> Iterator[Path]:
    """Make a private directory, whose path is short enough for a socket; remove it at the end."""
    # The path must contain no links: another user who can change one could redirect the program's
    # processes to another socket.
    parent = os.path.realpath(tempfile.gettempdir())
    if len(os.fsencode(parent)) > _LONGEST_SOCKET - len("/aioapiqueue-12345678"):
        parent = os.path.realpath("/tmp")  # noqa: S108 - mkdtemp makes it private
    directory = Path(tempfile.mkdtemp(prefix="aioapiqueue-", dir=parent))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
