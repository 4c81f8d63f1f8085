"""One run: starts the hub and the program, and supervises them until the program ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

from aioapiqueue.spi import printable
from aioapiqueue_run.cli.console import MAX_LISTED, PREFIX, WIDTH
from aioapiqueue_run.cli.run.activation import Activation, Why
from aioapiqueue_run.cli.run.errors import ExitCode, NotStarted
from aioapiqueue_run.cli.run.estimate import PacedEstimate
from aioapiqueue_run.cli.run.gateway import Gateway
from aioapiqueue_run.cli.run.limits_applied import judged
from aioapiqueue_run.cli.run.model import Outcome
from aioapiqueue_run.cli.run.opening import opening
from aioapiqueue_run.cli.run.processes import look
from aioapiqueue_run.cli.run.program import Program, Signals
from aioapiqueue_run.cli.run.progress import Progress
from aioapiqueue_run.cli.run.report import about
from aioapiqueue_run.cli.run.shared_server import SHARED_VARIABLE
from aioapiqueue_run.cli.run.status_line import StatusLine
from aioapiqueue_run.hub import Hub

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

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

    def failed(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        text = f"{context.get('message', 'error')}: {context.get('exception')!r}"
        # An error of redis-py may contain the password.
        plan.log.say(plan.shared.address.scrubbed(text) if plan.shared else text)

    asyncio.get_running_loop().set_exception_handler(failed)
    line = StatusLine(2)
    run = _Run(plan, line)
    # Signals are outermost: one that arrives during the clean-up must not interrupt it.
    with Signals(suspend=line.leave, still_running=run.say_still_running) as signals:
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(line.leave)
            try:
                async with signals.opening:
                    await run.open(stack)
            finally:
                if signals.early is not None:
                    raise NotStarted(
                        f"ended by a signal before {printable(plan.launch.name)} was started",
                        code=128 + signals.early,
                    )
            plan.log.say(opening(plan))
            await run.to_its_end(signals)
    return run.outcome


class _Run:
    """One run: its run hub, its gateway and its program, and the tasks that supervise them."""

    _hub: Hub
    _socket: tuple[int, int]
    """The device and inode of the hub's socket."""
    _environment: dict[str, str]
    """The environment of the program."""
    _program: Program
    _activation: Activation

    def __init__(self, plan: RunPlan, line: StatusLine) -> None:
        self._plan = plan
        self._line = line
        self._gateway: Gateway | None = None
        self.outcome = Outcome(
            estimate=PacedEstimate(plan.registry) if plan.given.dry_run else None
        )

    def say_still_running(self) -> None:
        """Explain why the program has not ended after Ctrl-C."""
        self._plan.log.say(
            f"interrupted: waiting for {printable(self._plan.launch.name)} to end. Its calls are "
            "still paced. To interrupt it again, press Ctrl-C again"
        )

    async def open(self, stack: contextlib.AsyncExitStack) -> None:
        """Open the hub and the gateway, until the stack is closed."""
        plan = self._plan
        if plan.shared is not None:
            await stack.enter_async_context(plan.shared.open(plan.registry, plan.log.say))
        if plan.on_host is not None:
            await plan.on_host.start(plan.log.say)
        # Closed in the opposite order: first the gateway and the hub, so that no call starts any
        # more, then the queues, and last the server that they use.
        stack.push_async_callback(plan.registry.aclose, drain=False)
        try:
            directory = Path(stack.enter_context(_directory()))
            hub = Hub(
                plan.registry,
                directory=directory,
                queues=plan.queues,
                watcher=self.outcome.estimate,
            )
            self._hub = await stack.enter_async_context(hub)
            self.outcome.recording = hub.recording
            self._socket = _identity(hub.path)
            # The program must not get the password of the shared server, nor secrets of another
            # run.
            unwanted = {SHARED_VARIABLE, "AIOAPIQUEUE_MARK", "AIOAPIQUEUE_GATEWAY"}
            kept = {name: os.environ[name] for name in os.environ if name not in unwanted}
            self._environment = kept | hub.environment
            if plan.gateway:
                unpaced = any(gate.metric == "unpaced" for gate in plan.gates)
                gateway = Gateway(
                    hub.path,
                    directory,
                    plan.registry,
                    isolate=plan.given.isolate,
                    intercepts_all=plan.given.dry_run or unpaced,
                )
                self._gateway = await stack.enter_async_context(gateway.open())
                self._environment |= gateway.environment(kept)
        except (OSError, RuntimeError, ValueError) as error:
            why = f"the hub, which paces calls, cannot start: {error}; nothing was started"
            raise NotStarted(why) from None

    async def to_its_end(self, signals: Signals) -> None:
        """Start the program, wait for its end, and note the outcome.

        Raises:
            NotStarted: the program could not be started.
        """
        plan, outcome = self._plan, self.outcome
        now = time.monotonic()  # the time until here is not the program's
        outcome.recording.begin(now=now, began=time.time())
        if outcome.estimate is not None:
            outcome.estimate.begin(now)
        launch, command = plan.launch, plan.given.command
        if self._gateway is not None:
            launch, command = self._gateway.command(launch, command)
        self._program = await Program.start(launch, command, self._environment)
        self._activation = Activation(
            self._program.pid,
            self._hub.processes,
            python=plan.launch.python,
            grace=plan.given.grace,
        )
        try:
            # First within the `try`: a signal that arrived before may stop the program at once.
            signals.pass_to(self._program)
            await self._watch()
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
        outcome.figures = judged(self._hub.figures, plan.registry)
        outcome.buckets = self._hub.buckets
        outcome.processes = list(self._hub.processes.values())
        # Not by its connection, which daemons close. Another program has another image.
        running = [(look(one.pid), one) for one in outcome.processes if one.botocore]
        outcome.outliving = sum(now is not None and now.image == one.image for now, one in running)

    async def _watch(self) -> None:
        """Wait for the program's end; show its progress, and end it if it is not paced."""
        progress = Progress(self._plan, self._hub)
        async with anyio.create_task_group() as group:
            group.start_soon(self._watch_activation)
            group.start_soon(self._stop_after, self._hub_lost)
            if self._gateway is not None:
                group.start_soon(self._stop_after, self._gateway.broken)
            if not self._plan.given.no_live:
                group.start_soon(self._show, progress)
            await self._program.wait()
            group.cancel_scope.cancel()

    async def _watch_activation(self) -> None:
        plan, found = self._plan, self.outcome.inactive
        while True:
            inactive = await self._activation.next()
            found.append(inactive)
            # A child may be a helper that calls no API, but what a launcher executes is the program
            # proper. A process that is late is paced by now.
            fatal = inactive.program or inactive.why is Why.EXEC
            stop = fatal and inactive.why is not Why.LATE and not plan.given.allow_inactive
            if self._gateway is not None:
                continue  # the gateway may pace it: its counts show that at the end
            if stop or len(found) <= MAX_LISTED:
                plan.log.say(about(inactive, printable(plan.launch.name), stopped=stop))
            if stop:
                self.outcome.stopped = ExitCode.INACTIVE
                await self._stop()
                return

    async def _stop_after(self, lost: Callable[[], Awaitable[str]]) -> None:
        """End the program after the loss of what paces it."""
        self._fail(f"{await lost()}; the program is stopped")
        await self._stop()

    async def _hub_lost(self) -> str:
        """Wait until the hub's socket is gone or replaced; return that."""
        # New processes could not be paced. Another socket at the path could admit their calls at
        # any rate.
        socket = f"the hub's socket {self._hub.path}"
        while True:
            await asyncio.sleep(_HUB_SECONDS)
            try:
                if _identity(self._hub.path) != self._socket:
                    return f"{socket} was replaced"
            except OSError:
                return f"{socket} is gone"

    async def _end_gateway(self) -> None:
        """End the gateway, if there is one, and note its counts."""
        gateway = self._gateway
        if gateway is None:
            return
        await gateway.end()
        self.outcome.gateway = gateway.counts
        if gateway.fault:
            self._plan.log.say(f"error in the local proxy, please report it: {gateway.fault}")

    async def _stop(self) -> None:
        """End the program and its children."""
        # Shielded: the program's end cancels the tasks that call this, and a cancelled `stop` would
        # kill children that are still cleaning up.
        with anyio.CancelScope(shield=True):
            await self._program.stop(self._activation.family())

    def _fail(self, why: str) -> None:
        self.outcome.stopped = ExitCode.NO_HUB
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

    async def _show(self, progress: Progress) -> None:
        """Show the status line; without a terminal, write a message each minute for the log."""
        while self._plan.given.log is None and StatusLine.possible(2):
            self._line.show(progress.line)
            await asyncio.sleep(_SHOW_SECONDS)
        while True:
            await asyncio.sleep(_EACH_SECONDS)
            self._plan.log.say(progress.line(WIDTH - len(PREFIX)))


def _identity(path: Path) -> tuple[int, int]:
    """Return the device and inode of a file."""
    found = path.lstat()
    return found.st_dev, found.st_ino  # unique as long as the hub listens on its socket


def _directory() -> tempfile.TemporaryDirectory[str]:
    """Make a private directory, whose path is short enough for a socket."""
    # The path must contain no links: another user who can change one could redirect the program's
    # processes to another socket.
    parent = os.path.realpath(tempfile.gettempdir())
    if len(os.fsencode(parent)) > _LONGEST_SOCKET - len("/aioapiqueue-12345678"):
        parent = os.path.realpath("/tmp")  # noqa: S108 - the directory is private
    return tempfile.TemporaryDirectory(
        prefix="aioapiqueue-", dir=parent, ignore_cleanup_errors=True
    )
