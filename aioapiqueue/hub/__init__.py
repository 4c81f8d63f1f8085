"""One authority for every local process of a run: `aioapiqueue run` starts it, programs ask it.

A `Hub` listens on a Unix domain socket. The bootstrap (`bootstrap/sitecustomize.py`, injected by
`PYTHONPATH`) asks it before each HTTP attempt of botocore and aiobotocore. The protocol between
them is in docs/hub.md.
"""

from aioapiqueue.hub._records import OTHERS, CallStats, Process
from aioapiqueue.hub._server import Hub

__all__ = ["OTHERS", "CallStats", "Figure", "Hub", "Process"]

Figure = CallStats
"""The former name of `CallStats`, for one more release."""
