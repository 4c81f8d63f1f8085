"""An endpoint of AWS behind TLS, for all of its host names, that recomputes each signature.

It listens in a thread of this process. What comes is noted: when, on which connection, whether the
signature is that of the known secret over what has arrived, and how old it is. EC2's reads are
answered here; what a test sets `answer` for is answered by that.
"""

from __future__ import annotations

import asyncio
import calendar
import hashlib
import hmac
import re
import socket
import ssl
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Self
from urllib.parse import parse_qsl, quote

import h11
import trustme

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["KEY", "SECRET", "Answered", "Arrival", "SignedAws"]

KEY = "AKIAQQQQQQQQQQQQQQQQ"
SECRET = "known-secret"  # noqa: S105 - of nobody
OLDEST = 300.0

_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^,]+), ?SignedHeaders=([^,]+), ?Signature=(\w+)"
)


class Answered(NamedTuple):
    """An answer.

    Attributes:
        status: of HTTP.
        body: the whole of it.
        headers: by name.
        closes: whether the connection is closed behind it, which no header says.
        share: how much of the bytes is sent.
    """

    status: int = 200
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    closes: bool = False
    share: float = 1.0


@dataclass
class Arrival:
    """A request.

    Attributes:
        at: `time.monotonic()`, when its head was there.
        host: whose it is, by the name in TLS, and by its header.
        method: of HTTP.
        target: its path and query.
        headers: by name in lower case.
        body: the whole of it.
        signature: "right", "wrong", or "none".
        age: seconds since it was signed.
        connection: the number of its connection.
    """

    at: float
    host: str
    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    signature: str
    age: float
    connection: int

    @property
    def form(self):
        """The fields of a form."""
        return dict(parse_qsl(self.body.decode("latin-1")))

    @property
    def action(self):
        """The name of EC2's operation."""
        return self.form.get("Action")


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def signature_of(method, target, headers, body) -> tuple[str, float]:
    """Return whether a signature is right, and how old it is.

    Args:
        method: of the request as it arrived.
        target: likewise.
        headers: likewise, as pairs.
        body: likewise.
    """
    by: dict[str, list[str]] = {}
    for name, value in headers:
        by.setdefault(name.lower(), []).append(" ".join(value.split()))
    found = _AUTHORIZATION.match(by.get("authorization", [""])[0])
    if not found:
        return "none", 0.0
    key, date, region, service, _ = found[1].split("/")
    path, _, query = target.partition("?")
    if service != "s3":
        path = quote(path, safe="/-_.~")
    pairs = sorted(
        (quote(name, safe="-_.~"), quote(value, safe="-_.~"))
        for name, value in parse_qsl(query, keep_blank_values=True)
    )
    given = by.get("x-amz-content-sha256", [None])[0]
    own = hashlib.sha256(body).hexdigest()
    if given and re.fullmatch(r"[0-9a-f]{64}", given) and given != own:
        return "wrong", 0.0
    canonical = "\n".join(
        [
            method,
            path,
            "&".join(f"{name}={value}" for name, value in pairs),
            *(f"{name}:{','.join(by.get(name, ['']))}" for name in found[2].split(";")),
            "",
            found[2],
            given or own,
        ]
    )
    stamp = by["x-amz-date"][0]
    scope = f"{date}/{region}/{service}/aws4_request"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}"
    secret = _hmac(f"AWS4{SECRET if key == KEY else '?'}".encode(), date)
    for part in (region, service, "aws4_request"):
        secret = _hmac(secret, part)
    right = _hmac(secret, text).hex()
    age = time.time() - calendar.timegm(time.strptime(stamp, "%Y%m%dT%H%M%SZ"))
    return ("right" if hmac.compare_digest(right, found[3]) else "wrong"), age


def _error(status, code) -> Answered:
    body = (
        f"<Response><Errors><Error><Code>{code}</Code><Message>m</Message></Error></Errors>"
        "<RequestID>r</RequestID></Response>"
    )
    return Answered(status, body.encode(), (("Content-Type", "text/xml"),))


def _usual(arrival: Arrival) -> Answered:
    action = arrival.action
    if action is None:
        return Answered(200, b"{}", (("Content-Type", "application/json"),))
    body = (
        f'<{action}Response xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">'
        f"<requestId>r</requestId></{action}Response>"
    )
    return Answered(200, body.encode(), (("Content-Type", "text/xml"),))


def _on_loopback(_: int) -> socket.socket:
    return socket.create_server(("127.0.0.1", 0), backlog=1024)


@dataclass
class SignedAws:
    """The endpoint; a context manager, which listens inside.

    Attributes:
        answer: returns the answer to a request, None for the usual one; a test may set it.
        delay: seconds from a request to its answer.
        authority: which certifies it.
        listen: returns a socket that listens at a port; default: at any, on loopback.
    """

    answer: Callable[[Arrival], Answered | None] = lambda _: None
    delay: float = 0.0
    authority: trustme.CA = field(default_factory=trustme.CA)
    listen: Callable[[int], socket.socket] = _on_loopback
    arrivals: list[Arrival] = field(default_factory=list)
    cut: int = 0
    """Requests whose connection was closed before they were whole."""
    connections: int = 0

    def __enter__(self) -> Self:
        self.thread = threading.Thread(target=self._run, name="signed-aws")
        self._ready = threading.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._contexts: dict[str, ssl.SSLContext] = {}
        self.thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._done.set)
        self.thread.join()

    @property
    def wrong(self) -> list[Arrival]:
        """Those with a signature that is not right."""
        return [one for one in self.arrivals if one.signature != "right"]

    def actions(self) -> list[str]:
        """Return what has arrived, sorted."""
        return sorted(str(one.action) for one in self.arrivals)

    def context_for(self, name: str) -> ssl.SSLContext:
        """Return what proves to be a host."""
        if name not in self._contexts:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            self.authority.issue_cert(name).configure_cert(context)
            context.set_alpn_protocols(["http/1.1"])
            self._contexts[name] = context
        return self._contexts[name]

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._done = asyncio.get_running_loop(), asyncio.Event()
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.authority.issue_cert("localhost").configure_cert(context)
        context.set_alpn_protocols(["http/1.1"])

        def by_name(sock, name, _):
            sock.context = self.context_for(name or "localhost")

        context.sni_callback = by_name
        listener, plain_listener = self.listen(443), self.listen(80)
        self.port = listener.getsockname()[1]
        self.plain_port = plain_listener.getsockname()[1]
        server = await asyncio.start_server(self._take, sock=listener, ssl=context)
        plain = await asyncio.start_server(self._take, sock=plain_listener)
        self._ready.set()
        await self._done.wait()
        server.close()
        plain.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _take(self, reader, writer) -> None:
        task = asyncio.ensure_future(self._connection(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connection(self, reader, writer) -> None:
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
        self.connections += 1
        number = self.connections

        async def event():
            while (found := http.next_event()) is h11.NEED_DATA:
                if http.they_are_waiting_for_100_continue:
                    # With the reason, as AWS does: botocore before 1.40.20 needs it.
                    interim = h11.InformationalResponse(
                        status_code=100, reason=b"Continue", headers=[]
                    )
                    writer.write(http.send(interim))
                http.receive_data(await reader.read(1 << 18))
            return found

        try:
            while isinstance(request := await event(), h11.Request):
                at, parts = time.monotonic(), []
                while isinstance(part := await event(), h11.Data):
                    parts.append(bytes(part.data))
                if not isinstance(part, h11.EndOfMessage):
                    self.cut += 1
                    return
                arrival = self._arrival(at, number, request, b"".join(parts))
                await asyncio.sleep(self.delay)
                answer = self._answer_to(arrival)
                self._send(http, writer, request, answer)
                await writer.drain()
                if answer.closes:
                    writer.close()
                    await writer.wait_closed()
                    return
                if http.our_state is h11.MUST_CLOSE:
                    return
                http.start_next_cycle()
        except (OSError, h11.ProtocolError):
            pass
        finally:
            writer.transport.abort()

    def _arrival(self, at, number, request, body) -> Arrival:
        pairs = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in request.headers.raw_items()
        ]
        by = {name.lower(): value for name, value in pairs}
        method, target = request.method.decode(), request.target.decode()
        signature, age = signature_of(method, target, pairs, body)
        host = by.get("host", "")
        arrival = Arrival(at, host, method, target, by, body, signature, age, number)
        self.arrivals.append(arrival)
        return arrival

    def _answer_to(self, arrival: Arrival) -> Answered:
        given = self.answer(arrival)
        if given is not None:
            return given
        if arrival.signature == "wrong":
            return _error(403, "SignatureDoesNotMatch")
        if arrival.age > OLDEST:
            return _error(403, "RequestExpired")
        return _usual(arrival)

    @staticmethod
    def _send(http, writer, request, answer: Answered) -> None:
        length = [("Content-Length", str(len(answer.body)))]
        if any(name.lower() == "transfer-encoding" for name, _ in answer.headers):
            length = []
        response = h11.Response(status_code=answer.status, headers=[*answer.headers, *length])
        parts = [response, h11.Data(data=answer.body), h11.EndOfMessage()]
        if request.method == b"HEAD":
            del parts[1]
        sent = b"".join(http.send(part) for part in parts)
        writer.write(sent[: round(answer.share * len(sent))])
