"""The kinds of events, and reports of errors that no caller can receive."""

from __future__ import annotations

import asyncio
from asyncio.log import logger
from typing import Literal

__all__ = ["EventKind", "Outcome", "report_error"]

EventKind = Literal[
    "joined",
    "released",
    "finished",
    "cancelled",
    "timed_out",
    "refused",
    "throttled",
    "backed_off",
    "refused_by_server",
    "malformed",
    "settled",
    "synced",
    "limits_changed",
    "held",
    "paused",
    "resumed",
    "disconnected",
    "reconnected",
]

Outcome = Literal["ok", "error", "cancelled", "unknown"]


def report_error(message: str, error: BaseException) -> None:
    """Report an error that no caller can receive to the running loop's exception handler."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:  # no loop runs: log it, as a loop's own handler does
        logger.error(message, exc_info=error)
    else:
        loop.call_exception_handler({"message": message, "exception": error})
