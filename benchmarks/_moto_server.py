"""A moto server in a process of its own, filled with snapshots, buckets and users; a way to it.

In a process of its own, the server does not compete with the measured scans for an interpreter
lock. It is filled through moto's backend objects: over HTTP, 15,000 snapshots would take more than
a minute.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
import threading
from typing import TYPE_CHECKING, NamedTuple, cast

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from aioapiqueue_run.demo.scan import REGION, new_client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from multidict import CIMultiDictProxy

    from aioapiqueue_run.demo.gate import Answer

__all__ = ["Moto", "MotoError", "forwarding_to", "moto_server", "public_among", "serve", "warm_up"]

# moto's default account. moto treats each access key that it did not make as a key of this account,
# so all strategies see the same data. The proxy distinguishes accounts by the access key itself.
_ACCOUNT_ID = "123456789012"
_PUBLIC_ONE_IN = 10
_START_SECONDS = 60.0
# Headers that concern a single hop (RFC 9110, 7.6.1), or that aiohttp sets.
_NOT_FORWARDED = {"connection", "keep-alive", "transfer-encoding", "content-length", "expect"}
# Enough to keep the server busy. With more, its threads would compete for one interpreter lock.
_CONNECTIONS = 16


class MotoError(Exception):
    """Raised when the server does not start; the message has the reason, as far as it is known."""


class Moto(NamedTuple):
    """A running server.

    Attributes:
        url: the URL of the server.
        snapshot: the id of one of its snapshots.
    """

    url: str
    snapshot: str


@contextlib.asynccontextmanager
async def moto_server(
    *, snapshots: int, buckets: int, users: int, program: Sequence[str]
) -> AsyncIterator[Moto]:
    """Yield a filled moto server on 127.0.0.1. Its process ends with the block.

    The process also ends when ours ends in any way, because it reads from a pipe to us.

    Args:
        snapshots: number of EBS snapshots, one in ten of them public.
        buckets: number of S3 buckets.
        users: number of IAM users.
        program: the arguments of Python, to which these numbers are added. The program calls
            `serve`.

    Raises:
        MotoError: the server did not start.
    """
    with tempfile.TemporaryFile() as errors:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *program, str(snapshots), str(buckets), str(users)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            # By default, moto loads images, which bring 1,300 snapshots.
            env=os.environ | {"MOTO_EC2_LOAD_DEFAULT_AMIS": "false"},
            # Ctrl-C in a terminal goes to the whole process group. We end this process ourselves.
            start_new_session=True,
        )
        output = cast("asyncio.StreamReader", process.stdout)
        try:
            try:
                async with asyncio.timeout(_START_SECONDS):
                    line = await output.readline()
                    if not line:
                        await process.wait()
            except TimeoutError:
                raise MotoError(f"moto did not start within {_START_SECONDS:g} s.") from None
            if not line:
                errors.seek(0)
                reason = errors.read().decode(errors="replace")
                raise MotoError(f"moto did not start:\n{reason}")
            yield Moto(*line.decode().split())
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()  # it keeps nothing, so it need not shut down cleanly
            await process.wait()


@contextlib.asynccontextmanager
async def forwarding_to(upstream: str) -> AsyncIterator[Answer]:
    """Yield what answers requests by forwarding them to a server, while the block runs.

    Args:
        upstream: the URL of the server, without a path.
    """
    connector = aiohttp.TCPConnector(limit=_CONNECTIONS)
    async with aiohttp.ClientSession(
        connector=connector,
        auto_decompress=False,  # bodies are forwarded as they are
        skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
        timeout=aiohttp.ClientTimeout(total=None),
    ) as session:

        async def answer(
            request: web.BaseRequest, _parameters: Mapping[str, list[str]]
        ) -> web.Response:
            try:
                async with session.request(
                    request.method,
                    # Not encoded again: the client has signed the path as it is.
                    URL(f"{upstream}{request.raw_path}", encoded=True),
                    headers=_forwarded(request.headers),
                    data=await request.read() or None,
                    allow_redirects=False,
                ) as answer:
                    return web.Response(
                        status=answer.status,
                        body=await answer.read(),
                        headers=_forwarded(answer.headers),
                    )
            except aiohttp.ClientConnectionError as error:
                return web.Response(status=502, text=f"No response from the mock server: {error!r}")

        yield answer


def _forwarded(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    return CIMultiDict(
        (name, value) for name, value in headers.items() if name.lower() not in _NOT_FORWARDED
    )


async def warm_up(url: str, snapshot: str) -> None:
    """Call each service once, because the first call of each loads code, here and in the server."""
    key = "AKIAWARMUP0000000000"
    async with new_client(url, "ec2", key) as ec2:
        await ec2.describe_snapshot_attribute(
            SnapshotId=snapshot, Attribute="createVolumePermission"
        )
    async with new_client(url, "s3", key) as s3:
        await s3.list_buckets()
    async with new_client(url, "iam", key) as iam:
        await iam.list_users(MaxItems=1)


def public_among(snapshots: int) -> int:
    """Return the number of public snapshots in an account with this number of snapshots."""
    return -(-snapshots // _PUBLIC_ONE_IN)


def _fill(snapshots: int, buckets: int, users: int) -> str:
    from moto.backends import get_backend  # noqa: PLC0415 - a second to import, in the child only

    ec2 = get_backend("ec2")[_ACCOUNT_ID][REGION]
    volume = ec2.create_volume(size=8, zone_name=f"{REGION}a")
    for number in range(snapshots):
        snapshot = ec2.create_snapshot(volume.id, description=f"backup {number}")
        if number % _PUBLIC_ONE_IN == 0:
            ec2.add_create_volume_permission(snapshot.id, user_ids=[], groups=["all"])
    s3 = get_backend("s3")[_ACCOUNT_ID]["aws"]
    for number in range(buckets):
        s3.create_bucket(f"demo-bucket-{number}", REGION)
    iam = get_backend("iam")[_ACCOUNT_ID]["aws"]
    for number in range(users):
        iam.create_user(REGION, f"demo-user-{number}")
    return str(snapshot.id)


def serve(snapshots: int, buckets: int, users: int) -> None:
    """Fill a server, print its address, and serve until the process that started this one ends."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from moto.moto_server.werkzeug_app import (  # noqa: PLC0415 - as above
        DomainDispatcherApplication,
        MotoRequestHandler,
        create_backend_app,
    )
    from werkzeug.serving import make_server  # noqa: PLC0415 - as above

    class Handler(MotoRequestHandler):
        protocol_version = "HTTP/1.1"  # keeps connections; the default opens one per request

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """Write nothing: a line for each request costs time, and is not read."""

    snapshot = _fill(snapshots, buckets, users)
    application = DomainDispatcherApplication(create_backend_app)
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Handler)
    moto = Moto(f"http://127.0.0.1:{server.server_port}", snapshot)
    print(*moto, flush=True)  # the parent reads it
    server.serve_forever()


def _end_with_parent() -> None:
    sys.stdin.read()  # ends when the parent closes the pipe, or dies
    os._exit(0)  # from a thread, `sys.exit` would not end the process
