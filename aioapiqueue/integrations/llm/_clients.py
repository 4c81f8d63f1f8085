"""Paced clients of httpx2 or httpx, for the SDKs of LLM providers."""

from __future__ import annotations

import socket
from importlib import import_module
from importlib.util import find_spec
from inspect import signature
from typing import TYPE_CHECKING, Any, Literal, overload

if TYPE_CHECKING:
    from types import ModuleType

    import httpx
    import httpx2

    from aioapiqueue import ApiQueue
    from aioapiqueue.integrations.llm._profile import Profile
    from aioapiqueue.threads import Blocking

Library = Literal["httpx", "httpx2"]

_CONNECTIONS = 1000
_KEPT_ALIVE = 100
_TIMEOUT = 600.0
_CONNECT_TIMEOUT = 5.0
"""The four defaults above are those of the SDKs of OpenAI and Anthropic."""
_KEEP_ALIVE = 60
"""Seconds without data, as while a model thinks, after which TCP tests a connection."""
_ENCODINGS = "gzip, deflate"
"""Encodings that can be decoded on the way to the caller, to find the usage."""

_BYPASSING = ("app", "mounts")
_SET_BY_PROFILE = ("key", "cost", "settle")


@overload
def client(
    queue: ApiQueue,
    profile: Profile,
    *,
    library: Literal["httpx2"] | None = None,
    **options: Any,  # noqa: ANN401 - see below
) -> httpx2.AsyncClient: ...
@overload
def client(
    queue: ApiQueue,
    profile: Profile,
    *,
    library: Literal["httpx"],
    **options: Any,  # noqa: ANN401 - see below
) -> httpx.AsyncClient: ...
def client(
    queue: ApiQueue, profile: Profile, *, library: Library | None = None, **options: Any
) -> Any:
    """Return an HTTP client for an async SDK whose requests wait for their slot in a queue.

    Each request waits with the key and cost that the profile reads from it, and is settled to the
    usage in its response. Remaining quotas in headers are followed, and limits that you have not
    set are learnt from them. Timeouts and connection limits default to those of the SDKs: 600 s,
    1,000 connections.

    A request that is cancelled while it waits uses nothing. A request that is cancelled in flight
    keeps its reserved cost; once its response has begun, it is settled to what has arrived. A
    request that never gets a connection costs one call and no tokens.

    A request that costs more than a bucket's burst waits until the bucket has refilled enough. With
    `"10000 tokens/min burst 10000"`, a request of 20,000 tokens waits for one minute if the bucket
    is full. A request that costs more than a window allows raises `ValueError`.

    google-genai does not close a client that you pass to it, so close the client yourself.

    Args:
        queue: paces the requests. Any number of clients may share a queue.
        profile: what the provider counts, such as `llm.anthropic`.
        library: `"httpx2"` or `"httpx"`. Default: httpx2, which all current SDKs accept, if it is
            installed.
        options: options of the library's client (`timeout`, `headers`, `event_hooks`, ...) and of
            its transport (`limits`, `verify`, `proxy`, `http2`, ..., or a `transport`); and of
            `HttpPacer`: `priority`, `resend`, `advise`, `max_hold`, and `learn` (True or False;
            default: True). `wait_timeout` limits the seconds that a request may wait for its slot
            (default: no limit).

    Raises:
        ImportError: the library or its extra is not installed.
        TypeError: `profile` is not a `Profile`; an option is unknown; `key`, `cost` or `settle` is
            given, which the profile sets; `mounts` or `app` is given, which would bypass the queue;
            or as for `HttpPacer`.
        ValueError: `library` is unknown; a limit of the queue itself has a unit that the profile
            does not count; or as for `HttpPacer`.

    Example:
        queue = ApiQueue(name="claude", lanes={"*": ()})
        client = AsyncAnthropic(http_client=llm.client(queue, llm.anthropic))
    """
    module, paced = _modules(library)
    transport = _transport(paced.RateLimitedTransport, queue, profile, options)
    return module.AsyncClient(transport=transport, **_client_options(module, options))


@overload
def sync_client(
    queue: ApiQueue | Blocking,
    profile: Profile,
    *,
    library: Literal["httpx2"] | None = None,
    **options: Any,  # noqa: ANN401 - see below
) -> httpx2.Client: ...
@overload
def sync_client(
    queue: ApiQueue | Blocking,
    profile: Profile,
    *,
    library: Literal["httpx"],
    **options: Any,  # noqa: ANN401 - see below
) -> httpx.Client: ...
def sync_client(
    queue: ApiQueue | Blocking, profile: Profile, *, library: Library | None = None, **options: Any
) -> Any:
    """Return an HTTP client for a synchronous SDK, for any number of threads: see `client`.

    KeyboardInterrupt while a request waits uses nothing.

    Args:
        queue: paces the requests: an `ApiQueue`, or a `blocking(queue, portal=...)` if the queue
            lives on an event loop of yours.
        profile: as for `client`.
        library: as for `client`.
        options: as for `client`.

    Raises:
        ImportError: as for `client`.
        TypeError: as for `client`.
        ValueError: as for `client`.

    Example:
        client = Anthropic(http_client=llm.sync_client(queue, llm.anthropic))
    """
    module, paced = _modules(library)
    transport = _transport(paced.SyncRateLimitedTransport, queue, profile, options)
    return module.Client(transport=transport, **_client_options(module, options))


def _modules(library: str | None) -> tuple[ModuleType, ModuleType]:
    """Return a library, and the module that has its transports."""
    if library not in (None, "httpx", "httpx2"):
        raise ValueError(f'library must be "httpx2" or "httpx", not {library!r}')
    if library is None and find_spec("httpx2") is None and find_spec("httpx") is not None:
        library = "httpx"
    # Only the wanted library is imported: most programs have one of them.
    chosen = library or "httpx2"
    try:
        paced = import_module(f"aioapiqueue.integrations.{chosen}")
    except ImportError as error:
        if error.name != "http_sf":
            raise
        # The message of that module names the extras of all libraries, as it cannot know this one.
        raise ImportError(
            f'reading rate limit headers needs http-sf: pip install "aioapiqueue[{chosen}]"',
            name=error.name,
        ) from error.__cause__
    return paced.RateLimitedTransport.library, paced


def _transport(
    base: Any,  # noqa: ANN401 - a transport class of one of the libraries
    queue: ApiQueue | Blocking,
    profile: Profile,
    options: dict[str, Any],
) -> Any:  # noqa: ANN401 - an instance of a subclass
    """Return a transport, and remove its options from `options`."""
    for name in _SET_BY_PROFILE:
        if name in options:
            change = "key=..." if name == "key" else "..."
            raise TypeError(
                f"{name}= is set by the profile: change it with profile.with_({change})"
            )
    for name in _BYPASSING:
        if name in options:
            raise TypeError(f"{name}= would bypass the queue: pass transport= instead")
    # Imported late: to pace Bedrock, no HTTP client needs to be installed.
    from aioapiqueue.integrations._httpx_transports import TransportOptions  # noqa: PLC0415
    from aioapiqueue.integrations.llm._pacer import llm_transport  # noqa: PLC0415
    from aioapiqueue.spi import checks  # noqa: PLC0415

    module = base.library
    # Checked here, as the error of the library's client would name none of our options.
    of_client = signature(module.AsyncClient).parameters  # Client has the same
    known = {"wait_timeout", *TransportOptions.__annotations__, *of_client}
    known.difference_update(_BYPASSING, _SET_BY_PROFILE)
    checks.refuse_unknown(options, sorted(known), by="an LLM client")
    # The client has a `timeout` of its own, and `trust_env` is for both.
    names = TransportOptions.__annotations__.keys() - {"timeout", "trust_env"}
    given = {name: options.pop(name) for name in names if name in options}
    if "wait_timeout" in options:
        given["timeout"] = options.pop("wait_timeout")
    inner = options.pop("transport", None)
    if inner is None:
        # A client that is given a transport ignores its own limits, so they go to the transport.
        limits = module.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=_KEPT_ALIVE)
        own = {"limits": limits, "trust_env": options.get("trust_env", True)}
        # TCP keep-alive has no meaning for a Unix socket.
        if "uds" not in given:
            own["socket_options"] = _socket_options()
        given = {**own, **given}
    return llm_transport(base)(queue, inner, profile=profile, **given)


def _client_options(module: ModuleType, options: dict[str, Any]) -> dict[str, Any]:
    timeout = module.Timeout(_TIMEOUT, connect=_CONNECT_TIMEOUT)
    # The SDKs' own clients also follow redirects.
    found = {"timeout": timeout, "follow_redirects": True, **options}
    headers = module.Headers(found.pop("headers", None))
    # The defaults of the libraries may include encodings that cannot be decoded here.
    headers.setdefault("accept-encoding", _ENCODINGS)
    return {**found, "headers": headers}


def _socket_options() -> list[tuple[int, int, int]]:
    """Return the options that keep a connection open while no data arrives."""
    found = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    idle = getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", None))
    options = {idle: _KEEP_ALIVE, getattr(socket, "TCP_KEEPINTVL", None): _KEEP_ALIVE}
    options[getattr(socket, "TCP_KEEPCNT", None)] = 5
    found += [(socket.IPPROTO_TCP, name, one) for name, one in options.items() if name is not None]
    return found
