"""The parts that `map` and `@rate_limited` share: checks of functions, and options of calls."""

from __future__ import annotations

import inspect
from functools import partial
from typing import TYPE_CHECKING, Any

from aioapiqueue._core.loops import report_error
from aioapiqueue._core.slot import keys_of
from aioapiqueue._limits.checks import is_coroutine_function

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioapiqueue._limits.cost_units import Cost

_PACED_BY = "__rate_limited_by__"
"""Attribute of a decorated function: the queues that pace it, or the functions that find them."""


def refuse_all_but_coroutine_functions(function: object, by: str) -> None:
    """Refuse an object whose calls would run outside of their slot.

    Raises:
        TypeError: it is not a coroutine function; the message says what to write.
    """
    if inspect.iscoroutine(function):
        if inspect.getcoroutinestate(function) == inspect.CORO_CREATED:
            function.close()  # else Python would also warn that it was never awaited
        called = function.__name__
        raise TypeError(
            f"{by} needs an async function, but {called}(...) is a coroutine, the result of a "
            f"call: pass {called}, not {called}(...)"
        )
    name = _name_of(function)
    if not callable(function):
        raise TypeError(f"{by} needs an async function, but {name} is not a function")
    if inspect.isasyncgenfunction(function):
        raise TypeError(
            f"{by} cannot pace the async generator {name}: put "
            '"async with queue.slot():" around each request in it'
        )
    if not is_coroutine_function(function):
        raise TypeError(
            f"{by} needs an async function, but {name} is not async: call {name} in an async "
            "function with asyncio.to_thread, or pace it for threads with "
            "@rate_limited(blocking(queue)) (aioapiqueue.threads)"
        )


def refuse_descriptors(function: object) -> None:
    """Refuse class methods, static methods and properties: the decorators are in the wrong order.

    Raises:
        TypeError: it is one; the message shows the right order.
    """
    if isinstance(function, classmethod | staticmethod | property):
        kind = type(function).__name__
        name = _name_of(function.fget if isinstance(function, property) else function)
        raise TypeError(
            f"@rate_limited cannot decorate the @{kind} {name}: write @{kind} first, and "
            "@rate_limited(...) below it, next to the def"
        )


def refuse_all_but_plain_functions(function: object, by: str) -> None:
    """Refuse an object whose calls would continue after a thread's slot has ended.

    Raises:
        TypeError: it is not a plain function; the message says what to write.
    """
    name = _name_of(function)
    if is_coroutine_function(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"{by} is for a plain def, but {name} is async: leave out blocking(...)")
    if inspect.isgeneratorfunction(function):
        raise TypeError(
            f"{by} cannot pace the generator {name}: put "
            '"with blocking(queue).slot():" around each request in it'
        )
    if not callable(function) or isinstance(function, type):
        raise TypeError(f"{by} decorates functions, but {name} is not a function")


def _name_of(function: object) -> str:
    name: str = getattr(function, "__qualname__", repr(function))
    return name


def mark_paced_by(paced: object, function: object, queue: object) -> None:
    """Note on a decorated function that a queue paces it, in addition to earlier ones."""
    setattr(paced, _PACED_BY, (*getattr(function, _PACED_BY, ()), queue))


def is_paced_by(queue: object, fn: Callable[..., Any], *items: object) -> bool:
    """Return whether `fn(item)` waits for a slot of `queue` by itself.

    Without an item: whether every call does, because the function was decorated with the queue.
    """
    args: tuple[Any, ...] = items
    kwargs: dict[str, Any] = {}
    inner: Any = fn
    # Go in through partials, bound methods and callable objects to the function that may be
    # decorated, and collect the arguments that it will receive: its queue may depend on them.
    while True:
        if isinstance(inner, partial):
            args, kwargs = (*inner.args, *args), {**inner.keywords, **kwargs}
            inner = inner.func
        elif inspect.ismethod(inner):
            args, inner = (inner.__self__, *args), inner.__func__
        else:
            call = getattr(inner, "__call__", None)  # noqa: B004 - the method of an object is wanted
            is_method = inspect.ismethod(call) or inspect.isfunction(call)
            # The `__call__` of a plain function is neither, so the loop ends at one.
            if hasattr(inner, _PACED_BY) or not is_method:
                break
            inner = call
    # Without an item, the arguments are unknown, so a function that finds the queue is not called.
    return any(
        by is queue or (items and callable(by) and by(*args, **kwargs) is queue)
        for by in getattr(inner, _PACED_BY, ())
    )


class CallOptions:
    """Options of paced calls: values, or functions of the arguments of each call.

    Args:
        by: name of the function that takes the options, for messages.
        settle: a function of the result that returns the true cost, or None to keep the cost.
        options: the arguments of `ApiQueue.slot`, or functions that return them.

    Raises:
        TypeError: `key` and `keys` are both given, a function is async, or `settle` is not a
            function.
    """

    __slots__ = ("_by", "_functions", "_settle", "_values", "given")

    def __init__(self, by: str, *, settle: object, **options: object) -> None:
        if options["key"] is not None and options["keys"] is not None:
            raise TypeError(f"{by}: pass key= or keys=, not both")
        self._by = by
        self._functions: dict[str, Callable[..., Any]] = {}
        self._values: dict[str, Any] = {}
        for name, value in options.items():
            if callable(value):
                self._functions[name] = value
            elif value is not None:  # None is the default of `slot`, too
                self._values[name] = value
        if settle is not None and not callable(settle):
            raise TypeError(f"{by}: settle must be a function of the result, not {settle!r}")
        self._settle: Callable[[Any], Cost | None] | None = settle
        for name, function in [*self._functions.items(), ("settle", settle)]:
            if is_coroutine_function(function):
                raise TypeError(f"{by}: {name} must be a plain function, but {function!r} is async")
        # Checked and copied once, not for each call; a list may be changed later.
        if "key" in self._values or "keys" in self._values:
            several = keys_of(self._values.pop("key", None), self._values.pop("keys", None))
            self._values["keys"] = several
        self.given = bool(self._functions or settle) or self._values != {"priority": 0, "cost": 1}
        """Whether any option differs from the default."""

    def of(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # noqa: ANN401 - the user's arguments
        """Return the options of one call, by the names that `ApiQueue.slot` has."""
        if not self._functions:  # the caller passes it on as **options, which copies it
            return self._values
        options = {name: function(*args, **kwargs) for name, function in self._functions.items()}
        return self._values | options

    def settle(self, slot: Any, result: object) -> None:  # noqa: ANN401 - `Slot` or `BlockingSlot`
        """State the true cost of a call, which the user's function reads from the result.

        An error in that function is reported, and the result is kept: the call was made, and may
        have cost money.
        """
        if self._settle is None:
            return
        try:
            cost = self._settle(result)
            if cost is not None:
                slot.settle(cost)
        except Exception as error:  # noqa: BLE001 - as above
            report_error(
                f"{self._by}: settle={self._settle!r} failed; the caller gets the result, and the "
                "call keeps its estimated cost",
                error,
            )
