"""The tests of the library; what every test can rely on is in tests/helpers/plugin.py."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

# For `tests.helpers`, and for `benchmarks`, two of whose simulations are tests, too. As the last
# one, so that the package that is tested is the installed one and not the tree's.
sys.path.append(str(Path(__file__).parents[1]))

from tests.helpers.systems import NEED_POSIX, POSIX

if not POSIX:
    collect_ignore_glob = list(NEED_POSIX)


def pytest_addoption(pluginmanager: pytest.PytestPluginManager) -> None:
    """Load what all tests share; once, although run/tests asks for it, too."""
    pluginmanager.import_plugin("tests.helpers.plugin")
