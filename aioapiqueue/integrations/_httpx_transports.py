"""What the transports for httpx and httpx2 have in common.

The two libraries have the same interface, in classes without a common base. A client of one fails
on objects of the other, and an SDK may refuse a class that inherits from both. So each library has
a module of its own, whose classes inherit from these and from the classes of that library.
"""

from __future__ import annotations

from contextlib import AsyncExitStack, ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NoReturn, Self, TypeVar, Unpack
from urllib.request import (  # type: ignore[attr-defined]  # its stubs lack the second
    getproxies,
    proxy_bypass_environment,
)

from aioapiqueue.integrations._exchange import as_blocking, queue_in, run, run_async
from aioapiqueue.integrations._http import HttpPacer, PacingOptions
from aioapiqueue.integrations._httpx_wire import AsyncHttpxWire, BlockingHttpxWire, PacedBody
from aioapiqueue.spi import checks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType, TracebackType

    from aioapiqueue import ApiQueue
    from aioapiqueue.integrations._exchange import Flow, Request, Response
    from aioapiqueue.integrations._httpx_wire import HttpxWire
    from aioapiqueue.integrations._usage import CarefulReader
    from aioapiqueue.threads import Blocking

_LIBRARIES = ("httpx", "httpx2")

TransportT = TypeVar("TransportT")
RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")


class TransportOptions(PacingOptions, total=False):
    """Pacing options, and the options of the inner transport."""

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
        transport: sends the requests, and is closed with this one. Default: a new transport of the
            library, made with its `options`.
        options: pacing options, and without `transport` those of the library's transport: see
            `aioapiqueue.integrations.httpx.RateLimitedTransport`.

    Raises:
        TypeError: `transport` is not a transport of the library, an option is unknown, or an option
            of the transport is given together with `transport`; or as for `HttpPacer`.
        ValueError: the address of a proxy is invalid; or as for `HttpPacer`.
        ImportError: `http2` needs `h2`, or a SOCKS proxy needs `socksio`.
    """

    library: ClassVar[ModuleType]
    transport_types: ClassVar[tuple[Any, Any]]
    """Base class of accepted transports, and class of the default one."""
    body_type: ClassVar[type[PacedBody]]
    """A `PacedBody` that the library accepts as a stream."""

    def __init__(
        self,
        queue: ApiQueue,
        transport: TransportT | None = None,
        **options: Unpack[TransportOptions],
    ) -> None:
        given: dict[str, Any] = dict(options)
        checks.refuse_unknown(given, TransportOptions.__annotations__, by=type(self).__name__)
        pacing = {name: given.pop(name) for name in PacingOptions.__annotations__ if name in given}
        # What is left in `given` are the options of an inner transport.
        super().__init__(queue, **pacing)
        base, own = self.transport_types
        article = "an" if base.__name__[0] in "AEIOU" else "a"
        if transport is not None and not isinstance(transport, base):
            raise TypeError(
                f"transport must be {article} {base.__name__} of {self.library.__name__}, "
                f"not {_class_name(transport)}{self.remedy(transport)}"
            )
        if transport is not None and given:
            names = ", ".join(f"{name}=" for name in given)
            raise TypeError(
                f"{names} would be ignored together with transport=: "
                f"set {'them' if len(given) > 1 else 'it'} on your {_class_name(transport)} instead"
            )
        self.inner: Any = own(**given) if transport is None else transport
        self._environment: dict[str, str] = {}
        self._by_scheme: dict[str, Any] = {}
        self.transports = (self.inner,)
        """The inner transports: the default one, and one for each proxy in the environment."""
        # A client that is given a transport, as it is here, ignores the proxies of the environment.
        if transport is None and given.get("trust_env", True) and given.get("proxy") is None:
            self._read_environment({**given, "proxy": None})

    def _read_environment(self, options: dict[str, Any]) -> None:
        environment = self._environment = getproxies()
        # "*" means no proxy for any host. `proxy_bypass_environment` knows it only if it is alone.
        if "*" in map(str.strip, environment.get("no", "").split(",")):
            return
        urls = {scheme: environment.get(scheme) for scheme in ("http", "https", "all")}
        for scheme, url in urls.items():
            if url:
                # The scheme of a proxy is often left out.
                options["proxy"] = url if "://" in url else f"http://{url}"
                # A transport of these libraries has at most one proxy.
                self._by_scheme[scheme] = self.transport_types[1](**options)
        self.transports += tuple(self._by_scheme.values())

    def transport_for(self, request: Request) -> Any:  # noqa: ANN401 - of either library
        """Return the inner transport of a request, which depends on its proxy.

        Raises:
            TypeError: the client belongs to the other library.
        """
        if not isinstance(request, self.library.Request):
            raise TypeError(
                f"this transport is for {self.library.__name__} clients, "
                f"not for {_class_name(request)}{self.remedy(request)}"
            )
        if not self._by_scheme:
            return self.inner
        url: Any = request.url
        # With the port, as NO_PROXY may name one.
        host = url.host if url.port is None else f"{url.host}:{url.port}"
        if proxy_bypass_environment(host, self._environment):
            return self.inner
        # ALL_PROXY is for schemes that have no proxy of their own.
        return self._by_scheme.get(url.scheme) or self._by_scheme.get("all", self.inner)

    def handle(self, request: Request, wire: HttpxWire) -> Flow[Response]:
        """Yield the steps of one request, and return its response, whose body ends the call."""
        response, slot = yield from self.exchange(request, wire)
        reader = self.reader_for(request, *wire.head(response))
        end = partial(self.finish, slot, wire, request, response, reader)
        if response.is_closed:  # its body came with the headers, so no close follows
            try:
                for _ in self._read_at_once(response, reader):
                    yield wire.yield_to_loop
            finally:  # even if the caller is cancelled there
                end()
        else:
            response.stream = self.body_type(response.stream, end, wire.abandon(slot), reader)
        return response

    def _read_at_once(self, response: Response, reader: CarefulReader | None) -> Iterator[None]:
        """Read a body that came with the headers, as from `MockTransport`.

        Yield where the event loop may run other tasks.
        """
        if reader is not None and isinstance(response.stream, self.library.ByteStream):
            for chunk in response.stream:
                yield from reader.steps(chunk)

    def remedy(self, other: object) -> str:
        """Return the remedy for an error if `other` belongs to the other library, else ""."""
        # By name, as the other library may not be installed.
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


class PacedTransport(HttpxPacer[TransportT], Generic[TransportT, RequestT, ResponseT]):
    """Base class of the async transports of httpx and httpx2.

    The slot is held until the response is closed: with `client.stream(...)`, until the end of the
    block. A response that is never closed releases its slot when it is garbage collected.
    `HttpPacer` describes throttling, errors and cancellation.

    A subclass names its library, and inherits from its `AsyncBaseTransport`.
    """

    async def handle_async_request(self, request: RequestT) -> ResponseT:
        """Send a request once its slot is granted, and return the response.

        Cancellation during the wait uses no slot; cancellation in flight releases it.

        Raises:
            TypeError: the client belongs to the other library.
            ApiQueueError: as for `HttpPacer`.
        """
        # Found before the wait, so that a client of the other library uses no slot.
        inner = self.transport_for(request)
        wire = AsyncHttpxWire(self, self.library, inner)
        response: ResponseT = await run_async(self.handle(request, wire))
        return response

    def handle_request(self, *_: object) -> NoReturn:
        """Refuse a synchronous client.

        Raises:
            TypeError: always; the message names the class to use.
        """
        raise TypeError(
            f"this transport is for {self.library.__name__}.AsyncClient: for a Client, use "
            "SyncRateLimitedTransport"
        )

    # `with` enters the transport of a synchronous client before the first request.
    __enter__ = handle_request

    async def __aenter__(self) -> Self:
        # If one transport cannot be opened, those before it are closed.
        async with AsyncExitStack() as entered:
            for transport in self.transports:
                await entered.enter_async_context(transport)
            self._entered = entered.pop_all()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self._entered.__aexit__(exc_type, exc, traceback)

    async def aclose(self) -> None:
        """Close all inner transports, even if one of them raises."""
        async with AsyncExitStack() as closing:
            for transport in self.transports:
                closing.push_async_callback(transport.aclose)


class PacedSyncTransport(HttpxPacer[TransportT], Generic[TransportT, RequestT, ResponseT]):
    """Base class of the synchronous transports of httpx and httpx2.

    The slot is held until the response is closed: with `client.stream(...)`, until the end of the
    block. A response that is never closed releases its slot when it is garbage collected.
    `HttpPacer` describes throttling and errors. KeyboardInterrupt during the wait uses no slot.

    A subclass names its library, and inherits from its `BaseTransport`.

    Args:
        queue: paces the requests: an `ApiQueue`, or a `blocking(queue, portal=...)` if the queue
            lives on an event loop of yours.
        transport: as for `HttpxPacer`.
        options: as for `HttpxPacer`.

    Raises:
        TypeError: as for `HttpxPacer`.
        ValueError: as for `HttpxPacer`.
    """

    def __init__(
        self,
        queue: ApiQueue | Blocking,
        transport: TransportT | None = None,
        **options: Unpack[TransportOptions],
    ) -> None:
        super().__init__(queue_in(queue), transport, **options)
        self.blocking = as_blocking(queue)

    def handle_request(self, request: RequestT) -> ResponseT:
        """Send a request once its slot is granted, and return the response.

        Raises:
            TypeError: the client belongs to the other library.
            ApiQueueError: as for `HttpPacer`.
        """
        inner = self.transport_for(request)  # first, as in `PacedTransport`
        wire = BlockingHttpxWire(self, self.blocking, self.library, inner)
        response: ResponseT = run(self.handle(request, wire))
        return response

    def handle_async_request(self, *_: object) -> NoReturn:
        """Refuse an async client.

        Raises:
            TypeError: always; the message names the class to use.
        """
        raise TypeError(
            f"this transport is for {self.library.__name__}.Client: for an AsyncClient, use "
            "RateLimitedTransport"
        )

    # As for `__enter__` of `PacedTransport`.
    __aenter__ = handle_async_request

    def __enter__(self) -> Self:
        # If one transport cannot be opened, those before it are closed.
        with ExitStack() as entered:
            for transport in self.transports:
                entered.enter_context(transport)
            self._entered = entered.pop_all()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self._entered.__exit__(exc_type, exc, traceback)

    def close(self) -> None:
        """Close all inner transports, even if one of them raises."""
        with ExitStack() as closing:
            for transport in self.transports:
                closing.callback(transport.close)


def _class_name(thing: object) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"
