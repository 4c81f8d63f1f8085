"""The process of the gateway, which paces the calls that our hook in Python does not reach."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib.util
import json
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from aioapiqueue.registry.spi import origin_of
from aioapiqueue_run import gateway
from aioapiqueue_run.cli.run.errors import NotStarted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from aioapiqueue.registry import Registry
    from aioapiqueue_run.cli.run.launch import Launch

__all__ = ["Gateway", "is_installed", "reachable_ports"]

_READY_SECONDS = 30.0  # it takes half a second, unless the machine is busy
_END_SECONDS = 5.0
_OUT_OF_REACH = (
    "--isolate would block {hosts}: an isolated program reaches neither this host nor link-local "
    "addresses; nothing was started. Use --any instead: it paces programs that use HTTP_PROXY"
)
# -I: it needs only the standard library, and must not import modules that the environment names.
_ISOLATE = (sys.executable, "-I", str(Path(gateway.__file__).with_name("isolate.py")))


def reachable_ports(registry: Registry) -> list[int]:
    """Return the ports of other hosts that an isolated program can reach."""
    return sorted({80, 443, *(origin_of(name).port for name in registry.hosts)})


def is_installed() -> bool:
    """Return whether the extra `gateway` is installed."""
    return all(importlib.util.find_spec(name) for name in ("cryptography", "h11", "http_sf"))


async def _check_isolation() -> None:
    """Raise `NotStarted` if this system does not allow isolation."""
    process = await asyncio.create_subprocess_exec(
        *_ISOLATE, "--check", stderr=asyncio.subprocess.PIPE
    )
    _, why = await process.communicate()
    if process.returncode:
        raise NotStarted(f"--isolate: {why.decode().strip()}; nothing was started")


class Gateway:
    """The process of a gateway.

    Args:
        hub: the path of the hub's socket.
        folder: a private directory.
        registry: the limits.
        isolate: whether the program is isolated.
        intercepts_all: whether to intercept all hosts of AWS, not only those with a limit.
    """

    def __init__(
        self, hub: Path, folder: Path, registry: Registry, *, isolate: bool, intercepts_all: bool
    ) -> None:
        from aioapiqueue_run.gateway.spi import labels_not_intercepted  # noqa: PLC0415 - its table

        self._folder = folder
        origins = map(origin_of, registry.hosts)
        self._ports = reachable_ports(registry)
        self._addresses = sorted({one.host for one in origins if one.is_address})
        self._isolate = isolate
        # They are sent by stdin: other users can read the command line of a process.
        self._settings: dict[str, Any] = {
            "hub": str(hub),
            "folder": str(folder),
            "token": secrets.token_urlsafe(24),
            "mark": secrets.token_urlsafe(24),
            "isolated": str(folder / "isolated.sock") if isolate else "",
            "hosts": registry.hosts,
            "not_intercepted": () if intercepts_all else labels_not_intercepted(registry),
        }
        self._log = folder / "gateway.log"
        self._ready: dict[str, Any] = {}
        self.counts: dict[str, Any] | None = None
        """The counts of the gateway, after it has ended normally."""

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[Self]:
        """Start the gateway, and end it afterwards.

        Raises:
            NotStarted: it does not start; the error says why.
        """
        if self._isolate:
            await _check_isolation()
        # -P: without the current directory, where a module may have the name of one of ours. In a
        # new session: Ctrl-C is for the program, and must not end the gateway before it.
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "aioapiqueue_run.gateway"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        self._stdin = cast("asyncio.StreamWriter", self._process.stdin)
        self._stdout = cast("asyncio.StreamReader", self._process.stdout)
        try:
            await self._start()
            yield self
        finally:
            await self.end()

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return the environment variables to add to `environ`, or to replace there."""
        from aioapiqueue_run.gateway import environment  # noqa: PLC0415 - the extra

        environment.write_marked(self._folder, self._settings["not_intercepted"])
        return environment.environment_of(
            environ,
            port=self._ready["port"],
            token=self._settings["token"],
            mark=self._settings["mark"],
            bundle=self._ready["bundle"],
        )

    def command(self, launch: Launch, command: list[str]) -> tuple[Launch, list[str]]:
        """Return the command to start: the program itself, or the one that isolates it."""
        if not self._isolate:
            return launch, command
        port, ports = str(self._ready["port"]), ",".join(map(str, self._ports))
        addresses = ",".join(self._addresses)
        words = [self._settings["isolated"], str(self._folder), port, ports, addresses]
        isolates = [*_ISOLATE, *words, launch.path, *command]
        return dataclasses.replace(launch, path=sys.executable), isolates

    async def broken(self) -> str:
        """Wait until the gateway ends unexpectedly; return why."""
        # Another process could then listen at its port, and would get the run's password.
        await self._process.wait()
        return f"the local proxy has ended: {self._why()}"

    @property
    def fault(self) -> str:
        """The last error that the gateway survived; "" if there was none."""
        return self._last_words() if self.counts is not None else ""

    async def end(self) -> None:
        """End the gateway, and note its counts. Cancelling this kills it."""
        process = self._process
        self._stdin.close()  # which tells it to end; so does our own death
        try:
            async with asyncio.timeout(_END_SECONDS):
                while self.counts is None and (line := await self._stdout.readline()):
                    self.counts = json.loads(line).get("counts")
                await process.wait()
        except (TimeoutError, ValueError):
            pass  # there are no counts
        finally:
            if process.returncode is None:
                process.kill()
        await process.wait()

    async def _start(self) -> None:
        with contextlib.suppress(ConnectionError):  # it has ended, and its log says why
            self._stdin.write(json.dumps(self._settings).encode() + b"\n")
            await self._stdin.drain()
        line = b""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_READY_SECONDS):
                line = await self._stdout.readline()
        ready = json.loads(line or b"{}")
        if hosts := ready.get("forbidden"):
            raise NotStarted(_OUT_OF_REACH.format(hosts=" and ".join(hosts)))
        if "port" not in ready:
            await self.end()
            raise NotStarted(
                f"the local proxy cannot start: {self._why()}; nothing was started. To run "
                "without it: --no-any"
            )
        self._ready = ready

    def _why(self) -> str:
        """Return why it has ended."""
        return self._last_words() or f"exit code {self._process.returncode}"

    def _last_words(self) -> str:
        """Return the last line of its log: a message, or the end of a traceback."""
        try:
            return self._log.read_text("utf-8", "replace").strip().rpartition("\n")[2]
        except OSError:  # a clean-up of /tmp has removed the folder
            return ""
