"""Refuse blocking waits in threads that run an event loop.

Waiting there would stop everything on the loop. It is refused on asyncio's loops (also uvloop) and
on trio's; anyio runs on one of these. Worker threads of a loop, such as those of
`asyncio.to_thread`, may wait.
"""

from __future__ import annotations

import asyncio
import sys

from aioapiqueue.threads import _gevent

_ON_ASYNCIO = (
    "waiting here would block the event loop that runs in this thread: in a coroutine or a Jupyter "
    'cell, write "async with queue.slot():" or use an async client; call blocking code with "await '
    'asyncio.to_thread(...)"'
)
_UNDER_GEVENT = (
    "no greenlet can wait here while an event loop runs in this thread (asyncio.run): run the loop "
    "in a thread with gevent.get_hub().threadpool.apply(asyncio.run, [main()]); in a coroutine, "
    'write "async with queue.slot():"'
)
_ON_TRIO = (
    "waiting here would block trio, which runs in this thread: call blocking code with "
    '"await trio.to_thread.run_sync(...)" (with anyio: anyio.to_thread.run_sync)'
)


def refuse_to_block() -> None:
    """Refuse to wait in a thread in which an event loop runs.

    Raises:
        RuntimeError: an event loop runs here; the message says what to write instead.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        raise RuntimeError(_UNDER_GEVENT if _gevent.patched() else _ON_ASYNCIO)
    # trio is not imported here: if the program has not (fully) imported it, it does not run.
    runs = getattr(getattr(sys.modules.get("trio"), "lowlevel", None), "in_trio_run", None)
    if runs is not None and runs():
        raise RuntimeError(_ON_TRIO)
