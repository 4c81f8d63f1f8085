"""The hub of `aioapiqueue run`: one set of limits for all local processes of a run.

A `Hub` listens on a Unix domain socket. The bootstrap (`bootstrap/sitecustomize.py`), which
`PYTHONPATH` injects into programs, asks it before each HTTP attempt of botocore and aiobotocore.
docs/hub.md describes the protocol.
"""

from aioapiqueue_run.hub.records import OTHERS, CallStats, Kind, Process
from aioapiqueue_run.hub.request import Request
from aioapiqueue_run.hub.server import Hub
from aioapiqueue_run.hub.watcher import Ended, Watcher

__all__ = ["OTHERS", "CallStats", "Ended", "Hub", "Kind", "Process", "Request", "Watcher"]
