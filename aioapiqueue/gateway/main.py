"""The gateway's process: `aioapiqueue run` starts it, and it ends with the run or with its hub.

It reads its settings, one JSON object a line, from stdin, and goes on until that is closed. To
stdout it writes a line once it listens, and one with what it has counted at its end.
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

from aioapiqueue._shared import raise_file_limit
from aioapiqueue.gateway.authority import Authority
from aioapiqueue.gateway.confinement import Confinement, on_this_host
from aioapiqueue.gateway.counts import GatewayCounts
from aioapiqueue.gateway.exchange import Exchanges
from aioapiqueue.gateway.hosts_in_scope import HostsInScope
from aioapiqueue.gateway.hub_client import NotPacedError, RunHubClient
from aioapiqueue.gateway.isolate import BUNDLE
from aioapiqueue.gateway.namespace import Inside
from aioapiqueue.gateway.server import Server
from aioapiqueue.gateway.trust import context_for, trusted_by_user
from aioapiqueue.gateway.upstream import Upstream, connect_tcp
from aioapiqueue.gateway.upstream_proxies import UpstreamProxies

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from anyio.abc import SocketListener

    from aioapiqueue.gateway.upstream import Dial

__all__ = ["main"]

_BACKLOG = 1024
_LOOK_UPS = 64
_LONGEST_SETTINGS = 1 << 26
"""Bytes. The lanes of hosts are among them."""
_LAST_SECONDS = 0.5
"""In which requests are still answered at the end."""
_HANG_UP_SECONDS = 0.05
"""In which ends of connections are still seen: they take a few passes of the loop."""


class GatewaySettings(NamedTuple):
    """What a gateway is to do.

    Attributes:
        hub: the path of the hub's socket.
        folder: a private one, where it writes what programs are to trust.
        token: the password of the run's programs.
        mark: what the hook in Python adds to requests that have had their turn.
        isolated: the path of a socket on which an isolated program sends its own; "": none does.
        hosts: the lanes of each host with limits of its own, by its name; default: there is none.
        not_intercepted: labels of the hosts of AWS that no limit concerns, so that they are not
            intercepted; None: no host of AWS is; default: all are.
    """

    hub: str
    folder: str
    token: str
    mark: str
    isolated: str = ""
    hosts: Mapping[str, Sequence[str]] = MappingProxyType({})
    not_intercepted: Sequence[str] | None = ()


def main() -> None:
    """Run the process, until its stdin is closed or its hub is gone."""
    os.umask(0o077)
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM, signal.SIGTSTP):
        # It ends with the run, which may have its program go on for a while.
        signal.signal(number, signal.SIG_IGN)
    raise_file_limit()
    try:
        asyncio.run(_main())
    except (NotPacedError, OSError, ValueError) as error:
        sys.exit(str(error))
    except ExceptionGroup as group:
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
    # Of looking names up. The usual number is six on two cores: a server of names that does not
    # answer would hold up all hosts.
    loop.set_default_executor(ThreadPoolExecutor(_LOOK_UPS))
    try:
        await serve(settings, os.environ, _report, ended)
    finally:
        transport.close()
    os._exit(0)  # and does not wait for those that still look up


def _report(**message: object) -> None:
    with contextlib.suppress(OSError):  # of a run that was killed
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
    """Serve until the run has ended, or its hub is lost; requests that wait are refused then.

    Args:
        settings: what to do.
        environ: the user's environment: proxies, and which certificates are trusted.
        report: is called with what the run has to know.
        ended: is done once the run has ended.
        dial: connects to servers and proxies.

    Raises:
        NotPacedError: the hub cannot be asked, or not any more.
        ValueError: something in the environment is not understood.
    """
    trusted = await to_thread.run_sync(trusted_by_user, environ)
    confinement = Confinement(settings.hosts) if settings.isolated else None
    upstream = Upstream(
        context_for(trusted), UpstreamProxies(environ), dial=dial, confinement=confinement
    )
    scope = await to_thread.run_sync(HostsInScope, settings.hosts, settings.not_intercepted)
    authority = Authority(scope.domains)
    bundle = Path(settings.folder) / BUNDLE
    await to_thread.run_sync(bundle.write_text, trusted + authority.pem)
    bundle.chmod(0o644)  # `isolate.py` puts it in place of the system's, which every user reads
    counts = GatewayCounts()
    here = asyncio.create_task(on_this_host(settings.hosts))
    if settings.isolated and (found := await here):
        report(forbidden=found)
        return
    hub = RunHubClient(settings.hub)
    await hub.open()
    try:
        exchanges = Exchanges(hub, upstream, counts, scope, mark=settings.mark)
        server = Server(authority, exchanges, upstream, counts, scope, token=settings.token)
        listeners = await anyio.create_tcp_listener(
            local_host="127.0.0.1", backlog=_BACKLOG, reuse_port=False
        )
        listener = cast("SocketListener", listeners.listeners[0])
        port = listener.extra(SocketAttribute.local_port)  # noqa: S610 - not Django's
        async with anyio.create_task_group() as group:
            group.start_soon(server.proxy, listener)
            group.start_soon(server.clean_up)
            if settings.isolated:
                inside = Inside(server, Path(settings.isolated))
                group.start_soon(inside.serve, group)
            report(port=port, bundle=str(bundle))
            lost = asyncio.create_task(hub.lost.wait())
            await asyncio.wait({lost, ended}, return_when=asyncio.FIRST_COMPLETED)
            lost.cancel()
            hub.refuse_all("the run has ended")
            with anyio.move_on_after(_LAST_SECONDS):
                await exchanges.all_answered()
            # The program has hung up as it ended: what that shows is still counted.
            await asyncio.sleep(_HANG_UP_SECONDS)
            group.cancel_scope.cancel()
    finally:
        await hub.aclose()
        await upstream.aclose()
        if here.done():
            counts.on_this_host = here.result()
        here.cancel()
        report(counts=counts.as_json())
    if not ended.done():
        raise NotPacedError(hub.why)
