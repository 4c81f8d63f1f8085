"""`@rate_limited`: every call of a coroutine function waits for a slot."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from aioapiqueue._callables import refuse_all_but_coroutine_functions

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Hashable

    from aioapiqueue._queue import ApiQueue

__all__ = ["rate_limited"]

P = ParamSpec("P")
R = TypeVar("R")


def rate_limited(
    queue: ApiQueue,
    *,
    key: Callable[..., Hashable] | Hashable = None,
    priority: float = 0,
    cost: float | Callable[..., float] = 1,
    timeout: float | None = None,
) -> Callable[[Callable[P, Coroutine[Any, Any, R]]], Callable[P, Coroutine[Any, Any, R]]]:
    """Make every call of a coroutine function or method wait for a slot of `queue`.

    >>> import asyncio
    >>> from aioapiqueue import ApiQueue
    >>> queue = ApiQueue("10/s")
    >>> @rate_limited(queue, key=lambda name: name)
    ... async def fetch(name):
    ...     return f"{name} at {asyncio.get_running_loop().time():.1f} s"
    >>> async def main():
    ...     return await asyncio.gather(fetch("a"), fetch("b"))
    >>> asyncio.run(main())
    ['a at 0.0 s', 'b at 0.1 s']

    A call that is cancelled while it waits never runs the function and uses no slot.

    Args:
        queue: whose slots; may be made at import time.
        key: the calls' key, or a function of a call's arguments (`self` included) that returns
            it.
        priority: lower goes first; default 0.
        cost: units, 1 by default, or a function of a call's arguments that returns them.
        timeout: seconds to wait at most, for the slot, not for the call; default: any time.

    Raises:
        TypeError: what is decorated is not a coroutine function.
    """

    def decorate(
        function: Callable[P, Coroutine[Any, Any, R]],
    ) -> Callable[P, Coroutine[Any, Any, R]]:
        refuse_all_but_coroutine_functions(function, "@rate_limited")

        @functools.wraps(function)
        async def paced(*args: P.args, **kwargs: P.kwargs) -> R:
            async with queue.slot(
                key=key(*args, **kwargs) if callable(key) else key,
                priority=priority,
                cost=cost(*args, **kwargs) if callable(cost) else cost,
                timeout=timeout,
            ):
                return await function(*args, **kwargs)

        paced.__rate_limited_by__ = queue  # type: ignore[attr-defined]  # for ApiQueue.map
        return paced

    return decorate
