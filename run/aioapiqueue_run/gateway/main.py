"""The gateway's process, which `aioapiqueue run` starts. It ends with the run or with its hub.

It reads its settings from stdin (one line of JSON), and runs until stdin is closed. It writes one
line to stdout when it listens, and one with its counts at its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import anyio
from anyio import to_thread
from anyio.abc import SocketAttribute

from aioapiqueue.schedules.spi import raise_file_limit
from aioapiqueue_run.gateway.authority import Authority
from aioapiqueue_run.gateway.confinement import Confinement, on_this_host
from aioapiqueue_run.gateway.counts import GatewayCounts
from aioapiqueue_run.gateway.exchange import Exchanges
from aioapiqueue_run.gateway.hub_client import NotPacedError, RunHubClient
from aioapiqueue_run.gateway.isolate import BUNDLE
from aioapiqueue_run.gateway.namespace import listen, serve_namespace
from aioapiqueue_run.gateway.scope import HostsInScope
from aioapiqueue_run.gateway.server import Server
from aioapiqueue_run.gateway.trust import context_for, trusted_by_user
from aioapiqueue_run.gateway.upstream import Upstream, connect_tcp
from aioapiqueue_run.gateway.upstream_proxies import UpstreamProxies

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from anyio.abc import SocketListener

    from aioapiqueue_run.gateway.upstream import Dial

__all__ = ["main"]

_BACKLOG = 1024
_LOOK_UPS = 64
"""Most host names that are looked up at once, each in a thread."""
_LONGEST_SETTINGS = 1 << 26
"""Most bytes of the settings, which include all lanes of hosts."""
_LAST_SECONDS = 0.5
"""Time at the end in which requests are still answered."""
_HANG_UP_SECONDS = 0.05
"""Time at the end in which closed connections are still noticed: a few passes of the loop."""


class GatewaySettings(NamedTuple):
    """The settings of a gateway.

    Attributes:
        hub: the path of the hub's socket.
        folder: a private folder, for the certificates that the programs trust.
        token: the password of the run's programs.
        mark: the secret that the hook in Python adds to requests that had their turn.
        isolated: the path of the socket on which an isolated program sends its sockets; "" without
            isolation.
        hosts: the lanes of each host with limits, by its name. Default: no host has limits.
        not_intercepted: the labels of AWS's hosts that are not intercepted, because no limit
            applies to them. None: no host of AWS is intercepted. Default: all of them are.
    """

    hub: str
    folder: str
    token: str
    mark: str
    isolated: str = ""
    hosts: Mapping[str, Sequence[str]] = MappingProxyType({})
    not_intercepted: Sequence[str] | None = ()


def main() -> None:
    """Run the process, until its stdin is closed or its hub has ended."""
    os.umask(0o077)  # whatever it writes is for this user only
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM, signal.SIGTSTP):
        # Such a signal may be for all processes of the run (systemd sends SIGTERM to each), and the
        # program may need the gateway until it has ended. Then the run closes stdin.
        signal.signal(number, signal.SIG_IGN)
    raise_file_limit()
    try:
        asyncio.run(_main())
    except (NotPacedError, OSError, ValueError) as error:
        sys.exit(str(error))
    except ExceptionGroup as group:  # the run shows our last line, so write one line
        first: Exception = group
        while isinstance(first, ExceptionGroup):
            first = first.exceptions[0]
        sys.exit(f"{type(first).__name__}: {first}")


async def _main() -> None:
    reader = asyncio.StreamReader(limit=_LONGEST_SETTINGS)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    settings = GatewaySettings(**json.loads(await reader.readline()))
    ended = asyncio.create_task(reader.read())
    # asyncio looks names up in its default executor, which has six threads on two cores: a few
    # names whose DNS server does not answer would delay all other hosts.
    loop.set_default_executor(ThreadPoolExecutor(_LOOK_UPS))
    try:
        await serve(settings, os.environ, _report, ended)
    finally:
        transport.close()
    os._exit(0)  # a normal exit would wait for threads that still look up names


def _report(**message: object) -> None:
    with contextlib.suppress(OSError):  # the run was killed, so no process reads it
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()


async def serve(
    settings: GatewaySettings,
    environ: Mapping[str, str],
    report: Callable[..., None],
    ended: asyncio.Future[Any],
    *,
    dial: Dial = connect_tcp,
) -> None:
    """Serve until the run has ended or its hub is lost. Then waiting requests are refused.

    Args:
        settings: the settings.
        environ: the user's environment, for proxies and trusted certificates.
        report: a function that sends a message to the run.
        ended: a future that is done when the run has ended.
        dial: connects to servers and proxies.

    Raises:
        NotPacedError: the hub is unreachable, or was lost.
        ValueError: the environment contains an invalid proxy or no usable certificate.
    """
    # The gateway verifies servers by the user's own certificates, never by the file that contains
    # ours: a host with a certificate of this run is then refused, like any forged one.
    trusted = await to_thread.run_sync(trusted_by_user, environ)
    confinement = Confinement(settings.hosts) if settings.isolated else None
    upstream = Upstream(
        context_for(trusted), UpstreamProxies(environ), dial=dial, confinement=confinement
    )
    scope = await to_thread.run_sync(HostsInScope, settings.hosts, settings.not_intercepted)
    authority = Authority(scope.domains)
    bundle = Path(settings.folder) / BUNDLE
    await to_thread.run_sync(bundle.write_text, trusted + authority.pem)
    # `isolate.py` mounts it over the system's file, which every user can read: a program of root's
    # may change its user. It contains certificates only, no key.
    bundle.chmod(0o644)
    counts = GatewayCounts()
    if settings.isolated and (found := await on_this_host(settings.hosts)):
        report(forbidden=found)
        return
    hub = RunHubClient(settings.hub)
    await hub.open()
    try:
        exchanges = Exchanges(hub, upstream, counts, scope, mark=settings.mark)
        server = Server(authority, exchanges, upstream, counts, scope, token=settings.token)
        # On loopback only, and at a port of the system's choice. `reuse_port` would let another
        # process of this user listen at the same port, and receive programs' passwords.
        listeners = await anyio.create_tcp_listener(
            local_host="127.0.0.1", backlog=_BACKLOG, reuse_port=False
        )
        listener = cast("SocketListener", listeners.listeners[0])
        port = listener.extra(SocketAttribute.local_port)  # noqa: S610 - not Django's
        async with anyio.create_task_group() as group:
            group.start_soon(server.proxy, listener)
            group.start_soon(server.clean_up)
            if settings.isolated:
                sender = listen(Path(settings.isolated))
                group.start_soon(serve_namespace, server, sender, group)
            report(port=port, bundle=str(bundle))
            lost = asyncio.create_task(hub.lost.wait())
            await asyncio.wait({lost, ended}, return_when=asyncio.FIRST_COMPLETED)
            lost.cancel()
            # From here on, no waiting request is sent. Those in flight may still end and report.
            hub.refuse_all("the run has ended")
            with anyio.move_on_after(_LAST_SECONDS):
                await exchanges.all_answered()
            # The program's end closed its connections. Some of these closings are counted as
            # distrust of our certificate, so notice them before the tasks are cancelled.
            await asyncio.sleep(_HANG_UP_SECONDS)
            group.cancel_scope.cancel()
    finally:
        await hub.aclose()
        await upstream.aclose()
        report(counts=counts.as_json())
    if not ended.done():
        raise NotPacedError(hub.why)
