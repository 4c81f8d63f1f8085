"""The tests of the programs, which share helpers and fixtures with those of the library."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

# For `tests.helpers`. As the last one, so that what is tested are the installed packages.
sys.path.append(str(Path(__file__).parents[2]))

from tests.helpers.systems import POSIX

if not POSIX:
    collect_ignore_glob = ["*"]


def pytest_addoption(pluginmanager: pytest.PytestPluginManager) -> None:
    """Load what all tests share; once, although tests/ asks for it, too."""
    pluginmanager.import_plugin("tests.helpers.plugin")
