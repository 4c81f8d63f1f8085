"""One request and its response, written once for async and synchronous clients.

The code is a generator (a `Flow`). It yields steps, which are functions without arguments. `run`
calls each step, `run_async` awaits its result. The generator receives what the step returns, or
raises what it raises.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from aioapiqueue.threads import Blocking, blocking

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

    from aioapiqueue import ApiQueue, Slot
    from aioapiqueue.spi import Cost
    from aioapiqueue.threads import BlockingSlot

T = TypeVar("T")
Flow: TypeAlias = Generator[Callable[[], Any], Any, T]
AnySlot: TypeAlias = "Slot | BlockingSlot"
Headers: TypeAlias = "Iterable[tuple[str, str]]"
Request: TypeAlias = Any
"""A request of any library. All have a `method`, and most have a `url` with `host` and `path`."""
Response: TypeAlias = Any


class Wire(ABC):
    """Base class for the steps of one HTTP library.

    Inherit from `AsyncSteps` or `BlockingSteps` first: they implement `join`, `again` and `apply`.
    `join`, `again`, `send`, `read_body` and `discard` are coroutine functions for async clients,
    and plain functions for synchronous ones.
    """

    @abstractmethod
    def join(self, key: Hashable, cost: Cost, *, priority: float = 0) -> Any:  # noqa: ANN401 - a slot, or its awaitable
        """Wait for a slot, and return it."""

    @abstractmethod
    def again(self, slot: Any, cost: Cost) -> Any:  # noqa: ANN401 - as above
        """Wait for another slot, in the call's old place in the queue, and return it."""

    @abstractmethod
    def apply(self, slot: Any, change: Callable[[Slot], None]) -> None:  # noqa: ANN401 - a slot
        """Call `change(slot)` on the event loop of the queue."""

    @abstractmethod
    def send(self, request: Request) -> Any:  # noqa: ANN401 - a response, or its awaitable
        """Send a request, and return its response when the headers have arrived."""

    @abstractmethod
    def head(self, response: Response) -> tuple[int, Headers]:
        """Return the status and headers of a response."""

    @abstractmethod
    def read_body(self, response: Response) -> Any:  # noqa: ANN401 - bytes or None, or its awaitable
        """Return the decoded body of a response if it is small; the caller can still read it.

        Return None if the body is large or slow, has an unknown encoding, or breaks off. If the
        body breaks off, the caller sees the error on reading it.
        """

    @abstractmethod
    def discard(self, response: Response) -> Any:  # noqa: ANN401 - None, or its awaitable
        """Close a response that is not returned to the caller."""

    @abstractmethod
    def can_repeat(self, request: Request) -> bool:
        """Return whether a request can be sent again, with its whole body."""

    @abstractmethod
    def is_malformed(self, error: BaseException) -> bool:
        """Return whether an error means that the response headers could not be parsed."""

    @abstractmethod
    def was_sent(self, error: BaseException) -> bool:
        """Return whether the server may have received a request that failed with this error."""


def as_blocking(queue: ApiQueue | Blocking) -> Blocking:
    """Return the `Blocking` of a queue."""
    return queue if isinstance(queue, Blocking) else blocking(queue)


def queue_in(queue: ApiQueue | Blocking) -> ApiQueue:
    """Return the `ApiQueue` of a `Blocking`."""
    return queue.queue if isinstance(queue, Blocking) else queue


def run(flow: Flow[T]) -> T:
    """Execute the steps of a flow in this thread, and return the result of the flow."""
    try:
        step = next(flow)
        while True:
            try:
                result = step()
            # Including KeyboardInterrupt, because the flow must release its slot. The flow may
            # yield more steps, such as to discard a response, before it raises the error itself.
            except BaseException as error:  # noqa: BLE001 - raised again in the flow
                step = flow.throw(error)
            else:
                step = flow.send(result)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]  # it is what the flow returns


async def run_async(flow: Flow[T]) -> T:
    """Await the steps of a flow, and return its result. Cancellation is raised in the flow."""
    try:
        step = next(flow)
        while True:
            try:
                result = await step()
            # Including CancelledError, as above.
            except BaseException as error:  # noqa: BLE001 - raised again in the flow
                step = flow.throw(error)
            else:
                step = flow.send(result)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]  # it is what the flow returns
