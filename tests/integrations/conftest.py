"""A small HTTP endpoint on loopback that notes when each request arrives, and by whom."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Self, TypeAlias
from urllib.parse import parse_qs

import pytest

from tests.helpers.garbage import leave_older_alone

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

CATCH_UP = 0.010  # seconds, a queue's default
PATIENCE = 60.0  # seconds: far more than anything here takes, for busy machines

Answer: TypeAlias = tuple[int, str] | tuple[int, str, dict[str, str]]


@dataclass(frozen=True)
class Arrival:
    """One request, complete with its body."""

    at: float  # time.monotonic()
    action: str
    service: str
    region: str
    signature_age: float  # seconds, from X-Amz-Date, which counts whole ones
    parameters: dict[str, list[str]]


class Endpoint:
    """Answers what `answer(arrival)` returns: a status, a body and perhaps headers; or `HANG`."""

    HANG = None
    THROTTLED = (
        503,
        (
            "<Response><Errors><Error><Code>RequestLimitExceeded</Code><Message>Slow down</Message>"
            "</Error></Errors><RequestID>r</RequestID></Response>"
        ),
    )

    @classmethod
    def refuses(cls, count: int, **headers: str) -> Callable[[Arrival], Answer]:
        """Throttle so many requests, with these headers; answer the others."""
        left = iter(range(count))
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return lambda arrival: (
            (*cls.THROTTLED, named) if next(left, None) is not None else _empty(arrival)
        )

    def __init__(self) -> None:
        self.arrivals: list[Arrival] = []
        self.answer: Callable[[Arrival], Answer | None] = _empty
        self.begun: float | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._arrived = asyncio.Condition()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()

    def watch(self, session: Any) -> None:
        """Note when a session's clients begin their first call, before it waits for a slot."""

        def note(**_: object) -> None:
            self.begun = time.monotonic() if self.begun is None else self.begun

        session.get_component("event_emitter").register_first("provide-client-params", note)

    @property
    def gaps(self) -> list[float]:
        """Seconds between one arrival and the next."""
        return [later.at - earlier.at for earlier, later in pairwise(self.arrivals)]

    def assert_paced(self, interval: float) -> None:
        """Check that no request came sooner than the rate allows, the first call's being the first.

        Gaps say less: a late request comes close to the next, which is on time.
        """
        assert self.begun is not None, "nobody has called"
        for number, arrival in enumerate(self.arrivals):
            assert arrival.at - self.begun >= number * interval - CATCH_UP, self.gaps

    def assert_signed_late(self, interval: float) -> None:
        """Check that each request was signed when the rate allowed it, and not before its wait.

        Of the signature's date, which is in whole seconds, the fraction is in its favour.
        """
        assert self.begun is not None, "nobody has called"
        for number, arrival in enumerate(self.arrivals):
            signed = arrival.at - arrival.signature_age
            assert signed + 1 >= self.begun + number * interval - CATCH_UP

    async def arrived(self, count: int) -> None:
        """Wait until so many requests have arrived since the start."""
        async with asyncio.timeout(PATIENCE), self._arrived:
            await self._arrived.wait_for(lambda: len(self.arrivals) >= count)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._connections.add(task)
        try:
            # A cancelled client, or the end of the test, ends a connection wherever it is.
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    await self._exchange(reader, writer)
        finally:
            self._connections.discard(task)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = re.search(r"(?im)^content-length: *(\d+)", head)
        body = await reader.readexactly(int(length[1])) if length else b""
        arrival = _arrival(head, body.decode())
        async with self._arrived:
            self.arrivals.append(arrival)
            self._arrived.notify_all()
        answer = self.answer(arrival)
        if answer is None:
            await reader.read()  # until the other side hangs up
            raise ConnectionResetError
        status, text, *others = answer
        headers = "".join(f"{k}: {v}\r\n" for more in others for k, v in more.items())
        content = text.encode()
        writer.write(
            f"HTTP/1.1 {status} x\r\nContent-Type: text/xml\r\n{headers}"
            f"Content-Length: {len(content)}\r\n\r\n".encode()
            + content
        )
        await writer.drain()


def _empty(arrival: Arrival) -> tuple[int, str]:
    return 200, f"<Response><{arrival.action}Result/></Response>"


def _arrival(head: str, body: str) -> Arrival:
    at, now = time.monotonic(), datetime.now(UTC)
    parameters = parse_qs(body)
    signed = re.search(r"(?im)^x-amz-date: *(\w+)", head)
    date = datetime.strptime(signed[1], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC) if signed else now
    scope = re.search(r"Credential=[^/]+/\d+/([^/]+)/([^/]+)/", head)
    return Arrival(
        at=at,
        action=parameters.get("Action", [head.split(maxsplit=1)[0]])[0],
        service=scope[2] if scope else "",
        region=scope[1] if scope else "",
        signature_age=(now - date).total_seconds(),
        parameters=parameters,
    )


@pytest.fixture
async def endpoint():
    """Serve on a free port of loopback."""
    async with Endpoint() as serving:
        yield serving


@pytest.fixture(scope="session")
def endpoint_class():
    """Let tests serve in a way of their own."""
    return Endpoint


@pytest.fixture
def no_machine_configuration(monkeypatch):
    """Keep the AWS settings of the user who runs the tests out of them."""
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_RETRY_MODE", "AWS_MAX_ATTEMPTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def young_garbage() -> None:
    """Keep the garbage collector from what other tests have left: see the helper."""
    leave_older_alone()
