"""One run: the hub, the program, and whatever watches over them, until the program ends."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

from aioapiqueue.cli._console import MAX_LISTED, pluralize, wrapped
from aioapiqueue.cli.run._activation import Activation, Why
from aioapiqueue.cli.run._errors import ExitCode, NotStarted
from aioapiqueue.cli.run._figures import duration, rows
from aioapiqueue.cli.run._model import Outcome
from aioapiqueue.cli.run._program import Program, Signals
from aioapiqueue.cli.run._report import about
from aioapiqueue.cli.run._shared_server import SHARED_VARIABLE
from aioapiqueue.cli.run._status_line import Foot, fit
from aioapiqueue.cli.run._unused import judged
from aioapiqueue.hub import Hub

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from aioapiqueue.cli.run._model import Plan
    from aioapiqueue.hub import Figure

__all__ = ["supervise"]

_SHOW_SECONDS = 0.5
_RATE_SECONDS = 5.0  # over which the live line's rate is taken
_HUB_SECONDS = 0.5
_BYE_SECONDS = 0.5
_LONGEST_SOCKET = 90  # bytes, the name in the directory not counted


async def supervise(plan: Plan) -> Outcome:
    """Run a program to its end.

    However it ends, and if this is cancelled: the program has ended, the hub is gone and so is its
    directory, and the terminal is as it was.

    Raises:
        NotStarted: the program could not be started.
    """
    return await _Run(plan).run()


class _Run:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._outcome = Outcome()
        self._foot = Foot(sys.stderr.fileno()) if plan.live else None
        self._began = time.monotonic()
        self._samples: list[tuple[float, dict[tuple[str, bool], int]]] = []
        self._hub: Hub
        self._socket: tuple[int, int]
        """The device and the inode of the hub's own socket."""
        self._program: Program
        self._activation: Activation

    async def run(self) -> Outcome:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._odd)
        leave = self._foot.leave if self._foot else lambda: None
        # Signals are outermost: one that comes while we clean up must not end us before we have.
        with Signals(suspend=leave, resize=self._draw, goes_on=self._goes_on) as signals:
            async with contextlib.AsyncExitStack() as stack:
                stack.callback(leave)
                environment = await self._open(stack)
                # The program has no use for the server's password.
                own = {name: os.environ[name] for name in os.environ if name != SHARED_VARIABLE}
                await self._with_hub(signals, own | environment)
        return self._outcome

    async def _open(self, stack: contextlib.AsyncExitStack) -> dict[str, str]:
        """Open the hub, and return what the program's environment needs."""
        plan = self._plan
        if plan.shared is not None and not plan.dry_run:
            await stack.enter_async_context(plan.shared.open(plan.registry, plan.log.say))
        stack.push_async_callback(plan.registry.aclose, drain=False)
        try:
            directory = stack.enter_context(_directory())
            hub = Hub(
                plan.registry,
                directory=directory,
                count_only=plan.dry_run,
                on_start=self._outcome.peaks.count,
            )
            self._hub = await stack.enter_async_context(hub)
            self._socket = _identity(hub.path)
            environment = hub.environment
        except (OSError, RuntimeError, ValueError) as error:
            why = f"the hub cannot be opened, nothing was started: {error}"
            raise NotStarted(wrapped(why)) from None
        return environment

    async def _with_hub(self, signals: Signals, environment: Mapping[str, str]) -> None:
        if signals.early is not None:
            raise NotStarted(
                f"ended by a signal before {self._plan.launch.name} was started",
                code=128 + signals.early,
            )
        self._program = await Program.start(self._plan.launch, self._plan.command, environment)
        self._began = time.monotonic()
        self._activation = Activation(
            self._program.pid,
            self._hub.processes,
            python=self._plan.launch.python,
            grace=self._plan.grace,
        )
        try:
            signals.hand_to(self._program)
            async with anyio.create_task_group() as group:
                group.start_soon(self._watch_activation)
                group.start_soon(self._watch_hub)
                group.start_soon(self._show)
                code = await self._program.wait()
                group.cancel_scope.cancel()
            self._outcome.code = code
            await self._last_words()
            if self._outcome.stopped is None:
                self._outcome.inactive += self._activation.conclude()
        except Exception:  # noqa: BLE001 - ours; the program must not go on without the hub
            self._fail(f"internal error, the program is ended:\n{traceback.format_exc()}")
        finally:
            # Cancelled here as well: without us, nothing is paced.
            await self._stop()
        self._outcome.code = await self._program.wait()
        self._outcome.seconds = time.monotonic() - self._began
        self._outcome.figures = judged(self._hub.figures, self._plan.registry)
        self._outcome.buckets = list(self._buckets())
        if self._plan.shared is not None and not self._plan.dry_run:
            self._outcome.shared = self._plan.shared.as_json()
        self._outcome.processes = list(self._hub.processes.values())

    def _buckets(self) -> Iterator[Figure]:
        """Yield the figures of the queues that operations share, as the registry names them."""
        for key, queue in self._plan.registry.queues.items():
            figure = self._hub.of_queues.get(queue)
            if key.bucket is not None and figure is not None:
                yield dataclasses.replace(
                    figure, operation=key.bucket, region=key.region, account=key.account
                )

    async def _watch_activation(self) -> None:
        plan = self._plan
        while True:
            inactive = await self._activation.next()
            self._outcome.inactive.append(inactive)
            # A child may be a helper that calls nobody; a launcher is there for the program.
            # One that is late is paced by now.
            fatal = inactive.program or inactive.why is Why.EXEC
            stop = fatal and inactive.why is not Why.LATE and not plan.allow_inactive
            if stop or len(self._outcome.inactive) <= MAX_LISTED:
                plan.log.say(about(inactive, plan.launch.name, stopped=stop))
            if stop:
                self._outcome.stopped = ExitCode.INACTIVE
                await self._stop()
                return

    async def _watch_hub(self) -> None:
        """End the program if its way to the hub is gone: no new process could be paced."""
        while True:
            await asyncio.sleep(_HUB_SECONDS)
            try:
                replaced = _identity(self._hub.path) != self._socket
            except OSError:
                self._fail(f"the hub's socket {self._hub.path} is gone; the program is stopped")
            else:
                if not replaced:
                    continue
                why = f"something else has taken the place of the hub's socket {self._hub.path}; "
                self._fail(wrapped(f"{why}the program is stopped"))
            await self._stop()
            return

    async def _stop(self) -> None:
        """End the program and its children, who may need longer than the program to clean up."""
        # The program's end cancels whoever watches it, and a stop that is cancelled kills at once.
        with anyio.CancelScope(shield=True):
            await self._program.stop(self._activation.family())

    def _goes_on(self) -> None:
        name = self._plan.launch.name
        self._plan.log.say(
            f"interrupted; waiting for {name} to end, whose calls are paced\n"
            "as before (again Ctrl-C: what it does about that is its own)"
        )

    def _fail(self, why: str) -> None:
        self._outcome.stopped = ExitCode.NO_HUB
        self._plan.log.say(why)

    async def _last_words(self) -> None:
        """Wait a moment for what the program's processes have sent before they ended."""
        process = self._hub.processes.get(self._program.pid)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_BYE_SECONDS):
                while process is not None and process.ended is None:  # noqa: ASYNC110
                    await asyncio.sleep(_BYE_SECONDS / 50)

    def _odd(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Say what the event loop would log."""
        text = f"{context.get('message', 'error')}: {context.get('exception')!r}"
        if self._plan.shared is not None:
            text = self._plan.shared.address.scrubbed(text)
        self._plan.log.say(text)

    # The live line.

    async def _show(self) -> None:
        while self._foot is not None:
            self._draw()
            await asyncio.sleep(_SHOW_SECONDS)

    def _draw(self) -> None:
        if self._foot is None or not hasattr(self, "_program"):
            return
        now = time.monotonic()
        found = rows(self._hub.figures, self._outcome.peaks)
        self._samples.append((now, {(row.name, row.paced): row.calls for row in found}))
        while self._samples[0][0] < now - _RATE_SECONDS:
            del self._samples[0]
        then, before = self._samples[0]
        parts = []
        for row in sorted(found, key=lambda row: (-row.waiting, not row.paced, -row.calls)):
            rate = (row.calls - before.get((row.name, row.paced), 0)) / max(
                now - then, _SHOW_SECONDS
            )
            limit = "" if self._plan.dry_run else self._plan.limits.get(row.name, "")
            part = f"{row.name} {limit}".strip() + f": {pluralize(row.calls, 'call')}, {rate:.1f}/s"
            if row.paced and not self._plan.dry_run:
                part += f", {row.waiting:,} waiting, {row.throttled:,} throttled"
            elif row.throttled:
                part += f", {row.throttled:,} throttled"
            parts.append(part)
        if self._plan.shared is not None and self._plan.shared.lost:
            parts.insert(0, f"SHARED SERVER LOST, {self._plan.shared.meanwhile}")
        clock = duration(now - self._began)
        self._foot.show(fit(parts or ["no AWS calls yet"], clock, self._foot.columns))


def _identity(path: Path) -> tuple[int, int]:
    """Return which file is there. While the hub listens, no other has its socket's inode."""
    found = path.lstat()
    return found.st_dev, found.st_ino


@contextlib.contextmanager
def _directory() -> Iterator[Path]:
    """Make a private directory, with a path short enough for a socket; remove it at the end."""
    # Without links: who may change one could choose where the socket is looked for.
    parent = os.path.realpath(tempfile.gettempdir())
    if len(os.fsencode(parent)) > _LONGEST_SOCKET - len("/aioapiqueue-12345678"):
        parent = os.path.realpath("/tmp")  # noqa: S108 - mkdtemp makes it private
    directory = Path(tempfile.mkdtemp(prefix="aioapiqueue-", dir=parent))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
