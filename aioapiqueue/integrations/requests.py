"""Pace sessions of requests, and follow the rate limit headers of their responses.

    adapter = RateLimitedAdapter(ApiQueue("10/s", lanes={"*": ()}))
    session = requests.Session()
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    session.get("https://api.example.com/v1/things")

Every request that is sent takes a slot of its own, including redirects, in any number of threads.
The retries of `max_retries=` are not paced, because urllib3 makes them within one request: leave
`max_retries` at 0, and use `resend=`. A request waits for its slot before it asks for a connection,
so its timeouts start after the wait.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, SupportsIndex, Unpack
from urllib.parse import urlsplit
from weakref import ref

from aioapiqueue.integrations._extras import needs

with needs("requests", to="pacing requests sessions", extra="requests"):
    from requests.adapters import HTTPAdapter
    from requests.exceptions import ConnectTimeout
    from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

from aioapiqueue.integrations._exchange import Wire, as_blocking, queue_in, run
from aioapiqueue.integrations._header_values import number
from aioapiqueue.integrations._http import BlockingSteps, HttpPacer
from aioapiqueue.integrations._refusal_body import most_to_read

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import requests

    from aioapiqueue import ApiQueue
    from aioapiqueue.integrations._exchange import Headers
    from aioapiqueue.integrations._http import PacingOptions
    from aioapiqueue.threads import Blocking, BlockingSlot

__all__ = ["RateLimitedAdapter"]


class RateLimitedAdapter(HttpPacer, HTTPAdapter):
    """An adapter for `requests.Session` whose requests wait for their slot in a queue.

    The slot is held until the body has been read, or the response is closed. KeyboardInterrupt
    during the wait uses no slot. The body of a throttled response is read in advance if its
    declared length is small. Use `content`, `text`, `json` or `iter_content` of such a response,
    not `raw`.

    Args:
        queue: paces the requests: an `ApiQueue`, or a `blocking(queue, portal=...)` if the queue
            lives on an event loop of yours.
        pool_connections: number of connection pools; default: 10, as for `HTTPAdapter`.
        pool_maxsize: connections kept in each pool; default: 10. Set it to your number of threads.
        max_retries: urllib3's retries, which are not paced; default: 0.
        pool_block: whether to wait for a free connection of a pool; default: False.
        options: `key`, `cost`, `priority`, `settle`, `advise`, `resend`, `learn`, `max_hold`,
            `timeout`: see `HttpPacer`.

    Raises:
        TypeError: as for `HttpPacer`.
        ValueError: as for `HttpPacer`.

    Example:
        session = requests.Session()
        session.mount("https://", RateLimitedAdapter(ApiQueue("10/s"), resend=3))
    """

    def __init__(
        self,
        queue: ApiQueue | Blocking,
        *,
        pool_connections: int = 10,
        pool_maxsize: int = 10,
        max_retries: int = 0,
        pool_block: bool = False,
        **options: Unpack[PacingOptions],
    ) -> None:
        HttpPacer.__init__(self, queue_in(queue), **options)
        HTTPAdapter.__init__(self, pool_connections, pool_maxsize, max_retries, pool_block)
        self.blocking = as_blocking(queue)

    def send(
        self,
        request: requests.PreparedRequest,
        *args: Any,  # noqa: ANN401 - passed on
        **kwargs: Any,  # noqa: ANN401 - as above
    ) -> requests.Response:
        """Send a request once its slot is granted, and return the response.

        Raises:
            ApiQueueError: as for `HttpPacer`.
        """
        wire = _RequestsWire(self, lambda request: HTTPAdapter.send(self, request, *args, **kwargs))
        response: requests.Response
        response, slot = run(self.exchange(request, wire))
        end = _ResponseEnd(response, partial(self.finish, slot, wire, request), slot)
        raw = response.raw
        if raw is None or raw.closed or getattr(raw, "length_remaining", None) == 0:
            # The whole response has arrived.
            end()
        else:
            end.attach_to(raw)
        return response

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        """Raise `TypeError`: a copy made by `HTTPAdapter` would have no queue."""
        raise TypeError(
            "a RateLimitedAdapter, or a session with one, cannot be copied or pickled: mount a new "
            'adapter on each session, session.mount("https://", RateLimitedAdapter(queue)). To '
            'share one quota among processes, use schedule=HostSchedule("NAME")'
        )

    def address(self, request: requests.PreparedRequest) -> tuple[str, str, str]:
        """Return the method, the host (without the port) and the path of a request."""
        url = urlsplit(request.url or "")
        return request.method or "", url.hostname or "", url.path


class _RequestsWire(BlockingSteps, Wire):
    """The steps of requests.

    Args:
        pacer: the adapter.
        send: sends a request.
    """

    def __init__(
        self,
        pacer: RateLimitedAdapter,
        send: Callable[[requests.PreparedRequest], requests.Response],
    ) -> None:
        super().__init__(pacer, pacer.blocking)
        self._send = send

    def send(self, request: requests.PreparedRequest) -> requests.Response:
        return self._send(request)

    def head(self, response: requests.Response) -> tuple[int, Headers]:
        return response.status_code, response.raw.headers.items()

    def read_body(self, response: requests.Response) -> bytes | None:
        # requests cannot return a body that was read in part, so only a small one is read.
        length = number(response.headers.get("content-length", ""))
        if length is None or length > most_to_read(response.headers.get("content-encoding", "")):
            return None
        return response.content  # the caller gets the same object

    def discard(self, response: requests.Response) -> None:
        response.close()

    def can_repeat(self, request: requests.PreparedRequest) -> bool:
        """Return whether the body is bytes or text. Any other body can be sent only once."""
        return request.body is None or isinstance(request.body, bytes | str)

    def is_malformed(self, error: BaseException) -> bool:
        """Return whether response headers could not be parsed: the cause is in urllib3's error."""
        found: BaseException | None = error
        while found is not None:
            # By exact name: other subclasses of HTTPException, such as IncompleteRead, concern the
            # body.
            if type(found).__name__ in {"BadStatusLine", "LineTooLong", "HTTPException"}:
                return True
            inner = [one for one in found.args if isinstance(one, BaseException)]
            found = found.__cause__ or found.__context__ or (inner[0] if inner else None)
        return False

    def was_sent(self, error: BaseException) -> bool:
        """Return whether there was a connection: the reason is in urllib3's error."""
        if isinstance(error, ConnectTimeout):
            return False
        reason = getattr(error.args[0], "reason", None) if error.args else None
        reason = getattr(reason, "original_error", reason)  # an error of a proxy wraps it
        return not isinstance(reason, NewConnectionError | ConnectTimeoutError)


class _ResponseEnd:
    """Ends the call of a response, once, when its body is read, closed or garbage collected.

    Args:
        response: the response.
        finish: ends the call of a response.
        slot: the slot of the call.
    """

    def __init__(
        self,
        response: requests.Response,
        finish: Callable[[requests.Response], None],
        slot: BlockingSlot,
    ) -> None:
        self._response = ref(response)
        self._finish = finish
        self._slot = slot
        self._raw: ref[Any] | None = None
        self._over = False

    def __call__(self) -> None:
        if self._over:
            return
        # First, as `_finish` runs a function of the user, which may close the response again.
        self._over = True
        raw = None if self._raw is None else self._raw()
        if raw is not None:  # restore the methods of the class: see `attach_to`
            del raw.stream, raw.close, raw.release_conn
        response = self._response()
        if response is None:  # called by the garbage collector
            self._slot.release()  # posts to the thread of the loop, and waits for nothing
        else:
            self._finish(response)

    def attach_to(self, raw: Any) -> None:  # noqa: ANN401 - of urllib3, or of a mock
        """Arrange for this to be called when urllib3's response returns its connection or ends."""
        # Three methods of the response are replaced, because a wrapper would have to support every
        # way to read it. The reference is weak, so that the new methods do not keep the response
        # alive: its connection is closed when it is garbage collected.
        own = self._raw = ref(raw)

        def ending(method: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - passed on
                raw = own()
                try:
                    return None if raw is None else method(raw, *args, **kwargs)
                finally:
                    self()

            return call

        def stream(*args: Any, **kwargs: Any) -> Iterator[bytes]:  # noqa: ANN401 - passed on
            try:  # needed for a mock's response, which never returns a connection
                yield from chunks(own(), *args, **kwargs)
            finally:
                self()

        kind = type(raw)
        chunks, raw.stream = kind.stream, stream
        # urllib3 returns the connection at the end of the body; requests closes what is not read.
        raw.close, raw.release_conn = ending(kind.close), ending(kind.release_conn)
