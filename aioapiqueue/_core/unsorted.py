"""Waiting calls while all of them are sorted into lines again, because limits have changed."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Any, Generic

from aioapiqueue._core.orders import W

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from aioapiqueue._core.orders import Ordering


class Unsorted(Generic[W]):
    """Waiting calls that are in no line in use.

    Args:
        former: the lines (`Line`) in which they were.
        newcomers: a line for calls that join.
        ordering: the order of the wait queue; None: by arrival.
    """

    __slots__ = ("_heap", "_newcomers", "_ordering", "former")

    def __init__(
        self,
        former: Sequence[Any],
        newcomers: Any,  # noqa: ANN401 - `Line`
        ordering: Ordering[W] | None,
    ) -> None:
        self.former = former
        self._newcomers = newcomers
        self._ordering = ordering
        self._heap: list[tuple[int, W]] = []
        """Calls to sort, by number."""

    @property
    def lines(self) -> Sequence[Any]:
        """The lines in which they are meanwhile; some of their calls may have been sorted."""
        return (*self.former, self._newcomers)

    def put(self, waiter: W) -> None:
        """Add a call that joins."""
        if self._ordering is not None:
            self._ordering.added(waiter, None)
        waiter.line = self._newcomers
        self._newcomers.put(waiter)
        heappush(self._heap, (waiter.arrival, waiter))

    def order_again(self) -> None:
        """Note that a call has another number."""
        self._heap = [(one.arrival, one) for _, one in self._heap]
        heapify(self._heap)

    def take_out(self, line: Any) -> Iterator[W]:  # noqa: ANN401 - as above
        """Add the calls of a former line, one at each step of the iterator."""
        for waiter in [*line.all_calls()]:  # a copy: calls may leave between two steps
            if waiter.line is line:
                heappush(self._heap, (waiter.arrival, waiter))
                yield waiter

    def next(self) -> W | None:
        """Remove and return the next call to sort, by number; None: all are sorted."""
        while self._heap:
            waiter = heappop(self._heap)[1]
            if waiter.waits:  # else it was cancelled, and stays in its former line until it leaves
                return waiter
        return None
