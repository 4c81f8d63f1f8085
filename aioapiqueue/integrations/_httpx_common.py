"""What the transports for httpx and for httpx2 share: everything but the classes of one library.

The two have the same interface, in classes without a common base. A client of one fails on objects
of the other, and an SDK may refuse a class that inherits from both. So each library has a module of
its own, with classes that inherit from these and from that library alone.
"""

from __future__ import annotations

import time
import zlib
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, Unpack
from urllib.request import (  # type: ignore[attr-defined]  # its stubs lack the second
    getproxies,
    proxy_bypass_environment,
)

from aioapiqueue.integrations._exchange import Wire
from aioapiqueue.integrations._headers import MAX_BODY
from aioapiqueue.integrations._http import HttpPacer, PacingOptions
from aioapiqueue.spi import refuse_unknown

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from types import ModuleType

    from aioapiqueue import ApiQueue
    from aioapiqueue.integrations._exchange import Headers, Request, Response
    from aioapiqueue.integrations._usage import CarefulReader

__all__ = [
    "Begun",
    "HttpxPacer",
    "HttpxWire",
    "RequestT",
    "ResponseT",
    "TransportOptions",
    "TransportT",
    "decoded",
]

_LIBRARIES = ("httpx", "httpx2")
_PATIENCE = 1.0
"""Seconds for which the body of a refusal is read, as it comes, before the caller gets it."""

TransportT = TypeVar("TransportT")
RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")


class TransportOptions(PacingOptions, total=False):
    """Options of transports: pacing options, and those of the transport that sends requests."""

    verify: Any
    cert: Any
    trust_env: bool
    http1: bool
    http2: bool
    limits: Any
    proxy: Any
    uds: str | None
    local_address: str | None
    retries: int
    socket_options: Any


class HttpxPacer(HttpPacer, Generic[TransportT]):
    """Base class of the transports: requests wait for a slot, then go to an inner transport.

    A subclass names its library and its types of transport.

    Args:
        queue: paces the requests.
        transport: sends the requests, and is closed with this one. Default: a new one of the
            library, made with the `options` for it.
        options: pacing options, and without `transport` those of the library's transport: see
            `aioapiqueue.integrations.httpx.RateLimitedTransport`.

    Raises:
        TypeError: `transport` is not one of the library, an option is unknown, or an option of the
            transport is given beside `transport`; or as for `HttpPacer`.
        ValueError: the address of a proxy is invalid; or as for `HttpPacer`.
        ImportError: `http2` needs `h2`, or a SOCKS proxy needs `socksio`.
    """

    library: ClassVar[ModuleType]
    transport_types: ClassVar[tuple[Any, Any]]
    """Base class of accepted transports, and class of the default one."""

    def __init__(
        self,
        queue: ApiQueue,
        transport: TransportT | None = None,
        **options: Unpack[TransportOptions],
    ) -> None:
        given: dict[str, Any] = dict(options)
        refuse_unknown(given, TransportOptions.__annotations__, by=type(self).__name__)
        pacing = {name: given.pop(name) for name in PacingOptions.__annotations__ if name in given}
        super().__init__(queue, **pacing)
        base, own = self.transport_types
        article = "an" if base.__name__[0] in "AEIOU" else "a"
        if transport is not None and not isinstance(transport, base):
            raise TypeError(
                f"transport must be {article} {base.__name__} of {self.library.__name__}, "
                f"not {_kind(transport)}{self.remedy(transport)}"
            )
        if transport is not None and given:
            names = ", ".join(f"{name}=" for name in given)
            raise TypeError(
                f"{names} would be ignored together with transport=: "
                f"set {'them' if len(given) > 1 else 'it'} on your {_kind(transport)} instead"
            )
        self.inner: Any = own(**given) if transport is None else transport
        self._environment: dict[str, str] = {}
        self._by_scheme: dict[str, Any] = {}
        self.transports = (self.inner,)
        """The inner transports: one, and another for each proxy in the environment."""
        if transport is None and given.get("trust_env", True) and given.get("proxy") is None:
            self._read_environment({**given, "proxy": None})

    def _read_environment(self, options: dict[str, Any]) -> None:
        environment = self._environment = getproxies()
        if "*" in map(str.strip, environment.get("no", "").split(",")):
            return
        urls = {scheme: environment.get(scheme) for scheme in ("http", "https", "all")}
        for scheme, url in urls.items():
            if url:
                options["proxy"] = url if "://" in url else f"http://{url}"
                self._by_scheme[scheme] = self.transport_types[1](**options)
        self.transports += tuple(self._by_scheme.values())

    def transport_for(self, request: Request) -> Any:  # noqa: ANN401 - of either library
        """Return the inner transport for a request: by default, or by its proxy.

        Raises:
            TypeError: the client belongs to the other library.
        """
        if not isinstance(request, self.library.Request):
            raise TypeError(
                f"this transport is for {self.library.__name__} clients, "
                f"not for {_kind(request)}{self.remedy(request)}"
            )
        if not self._by_scheme:
            return self.inner
        url: Any = request.url
        host = url.host if url.port is None else f"{url.host}:{url.port}"
        if proxy_bypass_environment(host, self._environment):
            return self.inner
        return self._by_scheme.get(url.scheme) or self._by_scheme.get("all", self.inner)

    def read_at_once(self, response: Response, reader: CarefulReader | None) -> Iterator[None]:
        """Read a body that came with the headers, as from `MockTransport`.

        Yields when the event loop may run in between.
        """
        if reader is not None and isinstance(response.stream, self.library.ByteStream):
            for chunk in response.stream:
                yield from reader.steps(chunk)

    def remedy(self, other: object) -> str:
        """Return the fix to append to an error if `other` belongs to the other library."""
        packages = {cls.__module__.partition(".")[0] for cls in type(other).__mro__}
        return "".join(
            f": {self.remedy_for(name)}"
            for name in _LIBRARIES
            if name in packages and name != self.library.__name__
        )

    def remedy_for(self, library: str) -> str:
        """Return how to pace clients of the other library."""
        return (
            f"for {library}, import {type(self).__name__} from aioapiqueue.integrations.{library}"
        )


class HttpxWire(Wire):
    """What can be done with requests and answers of httpx or httpx2.

    Args:
        pacer: whose.
    """

    def __init__(self, pacer: HttpxPacer[Any]) -> None:
        self.pacer = pacer
        self.library = pacer.library

    def head(self, response: Response) -> tuple[int, Headers]:
        """Return a response's status and headers."""
        return response.status_code, response.headers.multi_items()

    def can_repeat(self, request: Request) -> bool:
        """Return whether the body is bytes: others are used up as they are sent."""
        return isinstance(request.stream, self.library.ByteStream)

    def is_malformed(self, error: BaseException) -> bool:
        """Return whether the library could not read a response's head.

        A connection that the server has closed is a protocol error of the library, too. Its cause
        has a text for a reason, or (GOAWAY of HTTP/2) an event of h2; here, it has an exception.
        """
        reasons = () if error.__cause__ is None else error.__cause__.args
        return isinstance(error, self.library.RemoteProtocolError) and any(
            isinstance(reason, Exception) for reason in reasons
        )

    def was_sent(self, error: BaseException) -> bool:
        """Return whether there was a connection."""
        errors = self.library
        return not isinstance(
            error,
            errors.ConnectError
            | errors.ConnectTimeout
            | errors.PoolTimeout
            | errors.ProxyError
            | errors.UnsupportedProtocol,
        )

    def keep(self, response: Response, begun: Begun) -> bytes | None:
        """Have a response whose body has been read whole; return it decoded."""
        body = b"".join(begun.chunks)
        response.stream = self.library.ByteStream(body)
        return decoded(body, response.headers.get("content-encoding", ""))

    @abstractmethod
    def read_body(self, response: Response) -> Any:  # noqa: ANN401 - as of `Wire`
        """Read a body of up to `MAX_BODY` bytes."""


class Begun:
    """A body of which some has been read already: it goes to the caller with the rest.

    Args:
        stream: the body itself.
        rest: iterates over it.
    """

    def __init__(self, stream: Any, rest: Any) -> None:  # noqa: ANN401 - of either library
        self.chunks: list[bytes] = []
        self.error: Exception | None = None
        """By which it broke off."""
        self._stream = stream
        self._rest = rest
        self._size = 0
        self._until = time.monotonic() + _PATIENCE

    def add(self, chunk: bytes) -> bool:
        """Add what was read; return whether that was enough."""
        self.chunks.append(chunk)
        self._size += len(chunk)
        return self._size > MAX_BODY or time.monotonic() > self._until

    def __iter__(self) -> Iterator[bytes]:
        yield from self.chunks
        if self.error is not None:
            raise self.error
        yield from self._rest

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self.chunks:
            yield chunk
        if self.error is not None:
            raise self.error
        async for chunk in self._rest:
            yield chunk

    def close(self) -> None:
        """Close the body."""
        self._stream.close()

    async def aclose(self) -> None:
        """Close the body."""
        await self._stream.aclose()


def decoded(body: bytes, encoding: str) -> bytes | None:
    """Decode a body of up to `MAX_BODY` bytes; None: it is longer, or encoded in another way."""
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return body
    if name not in ("gzip", "x-gzip", "deflate"):
        return None
    decoder = zlib.decompressobj(zlib.MAX_WBITS | 32)  # finds out which of the two it is
    try:
        found = decoder.decompress(body, MAX_BODY)
    except zlib.error:
        return None
    return None if decoder.unconsumed_tail else found


def _kind(thing: object) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"
