"""Which functions can be paced: those whose every call is one coroutine."""

from __future__ import annotations

import inspect

__all__ = ["refuse_all_but_coroutine_functions"]


def refuse_all_but_coroutine_functions(function: object, by: str) -> None:
    """Refuse what would run before, or go on after, its slot.

    Raises:
        TypeError: with the remedy.
    """
    name = getattr(function, "__qualname__", repr(function))
    if inspect.isasyncgenfunction(function):
        raise TypeError(
            f"{by} paces calls, and {name} is an async generator, which runs between them: put "
            '"async with queue.slot():" around each request in it'
        )
    # An object with an async __call__ will do; its class, which makes objects, will not.
    call = getattr(function, "__call__", None) if not isinstance(function, type) else None  # noqa: B004
    if not (inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)):
        raise TypeError(
            f"{by} takes a coroutine function, and {name} is not one: make it async def, or call "
            'it in a thread inside "async with queue.slot():" (asyncio.to_thread)'
        )
