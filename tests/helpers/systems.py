"""What systems the tests run on: all of them on POSIX, those of the library on Windows, too."""

from __future__ import annotations

import os
import socket

__all__ = ["NEED_POSIX", "POSIX"]

POSIX: bool = os.name == "posix" and hasattr(socket, "AF_UNIX")

NEED_POSIX = (
    *("browser", "fleet", "gateway", "host", "hub", "mutants", "run", "scanners", "soak"),
    *("test_bounds.py", "test_cli*.py", "test_operations.py"),
)
"""Folders and files that are not even imported elsewhere; single tests are marked `posix`."""
