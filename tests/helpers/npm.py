"""Packages from npm."""

from __future__ import annotations

import shutil
import subprocess

__all__ = ["installed"]


def installed(folder, *packages):
    """Install packages from npm in a folder, and return it."""
    command = [shutil.which("npm"), "install", "--silent", "--no-fund", "--no-audit", *packages]
    subprocess.run(command, cwd=folder, check=True, timeout=600)
    return folder
