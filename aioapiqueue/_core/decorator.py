"""`@rate_limited`: each call of a function waits for a slot."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeGuard, TypeVar, overload

from aioapiqueue._core.callables import (
    CallOptions,
    mark_paced_by,
    refuse_all_but_coroutine_functions,
    refuse_all_but_plain_functions,
    refuse_descriptors,
)
from aioapiqueue._core.queue import ApiQueue
from aioapiqueue._limits.checks import is_coroutine_function

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Hashable, Sequence
    from contextlib import AbstractContextManager

    from aioapiqueue._limits.cost_units import Cost

P = ParamSpec("P")
R = TypeVar("R")


class PacesThreads(Protocol):
    """A `threads.Blocking`, which the core must not import."""

    @property
    def queue(self) -> ApiQueue:
        """The queue."""

    def slot(self, *_: Any, **options: Any) -> AbstractContextManager[Any]:  # noqa: ANN401 - there
        """Wait for a slot, run the body of `with`, and end the call; see `Blocking.slot`."""


@overload
def rate_limited(
    queue: ApiQueue,
    *,
    key: Callable[..., Hashable] | Hashable = None,
    keys: Callable[..., Sequence[Hashable]] | Sequence[Hashable] | None = None,
    priority: float | Callable[..., float] = 0,
    cost: Cost | Callable[..., Cost] = 1,
    timeout: float | Callable[..., float | None] | None = None,
    settle: Callable[[Any], Cost | None] | None = None,
) -> Callable[[Callable[P, Coroutine[Any, Any, R]]], Callable[P, Coroutine[Any, Any, R]]]: ...


@overload
def rate_limited(
    # One overload for both kinds of queue: mypy rejects an untyped lambda that fits two overloads.
    queue: PacesThreads | Callable[..., ApiQueue | PacesThreads],
    *,
    key: Callable[..., Hashable] | Hashable = None,
    keys: Callable[..., Sequence[Hashable]] | Sequence[Hashable] | None = None,
    priority: float | Callable[..., float] = 0,
    cost: Cost | Callable[..., Cost] = 1,
    timeout: float | Callable[..., float | None] | None = None,
    settle: Callable[[Any], Cost | None] | None = None,
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...


def rate_limited(
    queue: ApiQueue | PacesThreads | Callable[..., ApiQueue | PacesThreads],
    *,
    key: Callable[..., Hashable] | Hashable = None,
    keys: Callable[..., Sequence[Hashable]] | Sequence[Hashable] | None = None,
    priority: float | Callable[..., float] = 0,
    cost: Cost | Callable[..., Cost] = 1,
    timeout: float | Callable[..., float | None] | None = None,
    settle: Callable[[Any], Cost | None] | None = None,
) -> Callable[[Any], Any]:
    """Make every call of a function or method wait for a slot of `queue`.

    A call that is cancelled while it waits never runs the function, and uses no slot.

    Args:
        queue: an `ApiQueue`, which may be created at import time. For a plain `def` that threads
            call, a `blocking(queue)` (`aioapiqueue.threads`). Or a function of the call's arguments
            (including `self`) that returns one of these.
        key: key of the calls, or a function of the call's arguments that returns it; the same holds
            for the options below. (Wrap a key that is callable: `lambda *_: key`.)
        keys: as in `ApiQueue.slot`.
        priority: as in `ApiQueue.slot`.
        cost: as in `ApiQueue.slot`.
        timeout: as in `ApiQueue.slot`; it limits the wait for the slot, not the call.
        settle: a function of the result that returns the true cost for `Slot.settle`, or None to
            keep the cost. It is not called if the call raises. If it fails, the error goes to the
            loop's exception handler (in threads, to the `asyncio` log), and the caller gets the
            result.

    Raises:
        TypeError: the function cannot be paced, `queue` is not a queue, or the parentheses of the
            decorator are missing. The message says what to write.

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

    The cost can depend on the arguments, and `settle` can correct it from the result:

    >>> by_tokens = ApiQueue("100 tokens/s burst 100")
    >>> @rate_limited(
    ...     by_tokens,
    ...     cost=lambda prompt: {"tokens": len(prompt) + 50},    # the most it can use
    ...     settle=lambda answer: {"tokens": answer["tokens"]},
    ... )
    ... async def ask(prompt):
    ...     return {"text": "...", "tokens": len(prompt) + 3}
    >>> async def main():
    ...     await asyncio.gather(ask("Hello"), ask("How are you?"))
    ...     return by_tokens.stats.costs
    >>> asyncio.run(main())
    {'calls': 2, 'tokens': 23}

    Each client can have its own queue:

    >>> class Client:
    ...     def __init__(self, limits):
    ...         self.queue = ApiQueue(limits)
    ...     @rate_limited(lambda self: self.queue)
    ...     async def version(self):
    ...         return f"{asyncio.get_running_loop().time():.1f} s"
    >>> async def main():
    ...     slow, fast = Client("1/s"), Client("10/s")
    ...     return await asyncio.gather(*(one.version() for one in (slow, fast) * 2))
    >>> asyncio.run(main())
    ['0.0 s', '0.0 s', '1.0 s', '0.1 s']
    """
    how = {"key": key, "keys": keys, "priority": priority, "cost": cost, "timeout": timeout}
    options = CallOptions("@rate_limited", settle=settle, **how)
    # A queue decides which kind of function it can pace. A function that finds one does not, so
    # that the decorated function decides.
    if isinstance(queue, ApiQueue):

        def decorate_coroutine_function(function: Callable[P, Coroutine[Any, Any, R]]) -> object:
            refuse_descriptors(function)
            refuse_all_but_coroutine_functions(function, "@rate_limited")
            return _paced(function, queue, options)

        return decorate_coroutine_function
    if _is_blocking(queue):

        def decorate_plain_function(function: Callable[P, R]) -> object:
            refuse_descriptors(function)
            refuse_all_but_plain_functions(function, "@rate_limited(blocking(queue))")
            return _paced_in_threads(function, queue, options)

        return decorate_plain_function
    _check_finder(queue)

    def decorate(*functions: Any, **others: Any) -> object:  # noqa: ANN401 - it may be called with anything
        for function in functions:
            refuse_descriptors(function)
        if len(functions) != 1 or others or not callable(functions[0]):
            # `@rate_limited` without a queue: the function took its place, and is being called.
            raise _without_queue(queue)
        [function] = functions
        if is_coroutine_function(function) or inspect.isasyncgenfunction(function):
            refuse_all_but_coroutine_functions(function, "@rate_limited")
            return _paced(function, queue, options)
        refuse_all_but_plain_functions(function, "@rate_limited")
        return _paced_in_threads(function, queue, options)

    return decorate


def _paced(
    function: Callable[P, Coroutine[Any, Any, R]], by: object, options: CallOptions
) -> Callable[P, Coroutine[Any, Any, R]]:
    find = _finder(by)

    @functools.wraps(function)
    async def paced(*args: P.args, **kwargs: P.kwargs) -> R:
        queue = find(*args, **kwargs)
        if not isinstance(queue, ApiQueue):
            raise TypeError(
                f"@rate_limited({by!r}): the function returned {queue!r}, but for an async def "
                "it must return an ApiQueue"
            )
        async with queue.slot(**options.of(*args, **kwargs)) as slot:
            result = await function(*args, **kwargs)
            # Within the block: a settlement is part of the call, and its end comes after it.
            options.settle(slot, result)
            return result

    # For `map`, which then leaves the pacing to the function.
    mark_paced_by(paced, function, by)
    return paced


def _paced_in_threads(function: Callable[P, R], by: object, options: CallOptions) -> Callable[P, R]:
    find = _finder(by)

    @functools.wraps(function)
    def paced(*args: P.args, **kwargs: P.kwargs) -> R:
        queue = find(*args, **kwargs)
        if not _is_blocking(queue):
            raise TypeError(
                f"@rate_limited({by!r}): the function returned {queue!r}, but for a plain def "
                "it must return a blocking(queue)"
            )
        with queue.slot(**options.of(*args, **kwargs)) as slot:
            result = function(*args, **kwargs)
            # Found only now: a plain function may return a coroutine, which nothing has awaited.
            if inspect.iscoroutine(result):
                result.close()  # else Python would also warn that it was never awaited
                raise TypeError(
                    f"{function!r} returned a coroutine, which would run without a slot: decorate "
                    "the async function with @rate_limited(queue)"
                )
            options.settle(slot, result)
            return result

    return paced


def _finder(by: Any) -> Callable[..., object]:  # noqa: ANN401 - a queue, or a function
    """Return a function that returns the queue of a call."""
    is_queue = isinstance(by, ApiQueue) or _is_blocking(by)
    return (lambda *_, **__: by) if is_queue else by


def _is_blocking(queue: object) -> TypeGuard[PacesThreads]:
    # By what it has, because the core must not import `threads`.
    return isinstance(getattr(queue, "queue", None), ApiQueue) and hasattr(queue, "slot")


def _check_finder(queue: object) -> None:
    """Refuse an argument that is neither a queue nor a function that returns one."""
    # These come here if `@rate_limited` is written without a queue, directly above a function.
    is_method = isinstance(queue, classmethod | staticmethod)
    if is_coroutine_function(queue) or inspect.isasyncgenfunction(queue) or is_method:
        raise _without_queue(queue)
    if not callable(queue) or isinstance(queue, type):
        limits = queue if isinstance(queue, str) else "10/s"
        raise TypeError(
            f'@rate_limited needs a queue, not {queue!r}: write queue = ApiQueue("{limits}") once, '
            "and @rate_limited(queue) above each function that shares it"
        )


def _without_queue(function: object) -> TypeError:
    name = getattr(function, "__qualname__", repr(function))
    return TypeError(
        f'@rate_limited got {name} instead of a queue: write queue = ApiQueue("10/s"), and '
        "@rate_limited(queue) above the function (a function that returns the queue must not "
        "be async)"
    )
