"""One request and its answer, written once for clients that await and for those that block.

What is done is a generator (a `Flow`): it yields steps, functions without arguments, and is sent
what they return, or thrown what they raise. `run_async` awaits each step, `run` calls it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

    from aioapiqueue import Slot
    from aioapiqueue._units import Cost
    from aioapiqueue.threads import BlockingSlot

__all__ = ["AnySlot", "Flow", "Headers", "Request", "Response", "Wire", "run", "run_async"]

T = TypeVar("T")
Flow: TypeAlias = Generator[Callable[[], Any], Any, T]
AnySlot: TypeAlias = "Slot | BlockingSlot"
Headers: TypeAlias = "Iterable[tuple[str, str]]"
Request: TypeAlias = Any
"""Of any library. All have a `method`, and a `url` with `host` and `path`."""
Response: TypeAlias = Any


class Wire(ABC):
    """What can be done with the requests and answers of one library.

    `join`, `again`, `send`, `read_body` and `discard` are steps: coroutine functions for clients
    that await, plain ones for those that block.
    """

    @abstractmethod
    def join(self, key: Hashable, cost: Cost, *, priority: float = 0) -> Any:  # noqa: ANN401 - a slot, or its awaitable
        """Wait for a slot, and return it."""

    @abstractmethod
    def again(self, slot: Any, cost: Cost) -> Any:  # noqa: ANN401 - as above
        """Let the call of a slot wait once more, in its old place; return the new slot."""

    @abstractmethod
    def apply(self, slot: Any, change: Callable[[Slot], None]) -> None:  # noqa: ANN401 - a slot
        """Change something by a slot, on the loop of its queue."""

    @abstractmethod
    def send(self, request: Request) -> Any:  # noqa: ANN401 - a response, or its awaitable
        """Send a request; return the response once its head has arrived."""

    @abstractmethod
    def head(self, response: Response) -> tuple[int, Headers]:
        """Return a response's status and headers."""

    @abstractmethod
    def read_body(self, response: Response) -> Any:  # noqa: ANN401 - bytes or None, or its awaitable
        """Return a response's body, decoded, if it is small; the caller can still read it.

        None: it is not small, or slow, or not to be decoded, or it broke off. What broke off is
        the caller's to see.
        """

    @abstractmethod
    def discard(self, response: Response) -> Any:  # noqa: ANN401 - None, or its awaitable
        """Close a response that nobody will see."""

    @abstractmethod
    def can_repeat(self, request: Request) -> bool:
        """Return whether a request can be sent again: its body is not used up."""

    @abstractmethod
    def is_malformed(self, error: BaseException) -> bool:
        """Return whether an error means that the library could not read a response's head."""

    @abstractmethod
    def was_sent(self, error: BaseException) -> bool:
        """Return whether the server may have seen a request that ended with an error."""


def run(flow: Flow[T]) -> T:
    """Do what a flow says, blocking."""
    step, error = next(flow), None
    while True:
        try:
            result = step()
        except BaseException as raised:  # noqa: BLE001 - the flow's, which raises it again
            result, error = None, raised
        try:
            step = flow.send(result) if error is None else flow.throw(error)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]  # it is what the flow returns
        error = None


async def run_async(flow: Flow[T]) -> T:
    """Do what a flow says, awaiting each step; cancelled in one, the flow ends as it says."""
    step, error = next(flow), None
    while True:
        try:
            result = await step()
        except BaseException as raised:  # noqa: BLE001 - the flow's, which raises it again
            result, error = None, raised
        try:
            step = flow.send(result) if error is None else flow.throw(error)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]  # it is what the flow returns
        error = None
