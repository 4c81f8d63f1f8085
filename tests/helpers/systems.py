"""What systems the tests run on: all of them on POSIX, those of the library on Windows, too."""

from __future__ import annotations

import os
import socket

__all__ = ["NEED_POSIX", "POSIX"]

POSIX: bool = os.name == "posix" and hasattr(socket, "AF_UNIX")

NEED_POSIX = ("browser", "mutants", "shared", "soak", "core/test_bounds.py")
"""Folders and files of tests/ that are not imported on other systems, as all of run/tests is not.
Single tests are marked `posix`."""
