"""One authority for every local process of a run: `aioapiqueue run` starts it, programs ask it.

A `Hub` listens on a Unix domain socket. The bootstrap (`bootstrap/sitecustomize.py`, injected by
`PYTHONPATH`) asks it before each HTTP attempt of botocore and aiobotocore. The protocol between
them is in docs/hub.md.
"""

import typing as _typing

from aioapiqueue.hub._records import OTHERS, CallStats, Process
from aioapiqueue.hub._request import Request
from aioapiqueue.hub._server import Hub
from aioapiqueue.hub._watcher import Ended, Watcher

__all__ = ["OTHERS", "CallStats", "Ended", "Hub", "Process", "Request", "Watcher"]

if not _typing.TYPE_CHECKING:  # a type checker would take any misspelt name for this one

    def __getattr__(name: str) -> object:
        if name != "Figure":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import warnings  # noqa: PLC0415 - only now needed

        warnings.warn(f"{__name__}.Figure is now named CallStats", DeprecationWarning, stacklevel=2)
        return CallStats
