"""What keeps coverage in processes that tests start, where it measures: `uvx nox -s coverage`."""

from __future__ import annotations

import os

from tests.helpers import introspect

__all__ = ["COVERAGE", "measure_hubs"]

COVERAGE = "COVERAGE_PROCESS_CONFIG"
"""The variable that has a new process measured. A test that clears the environment keeps it."""


def measure_hubs() -> None:
    """Have hubs that this process starts be measured, if it is measured itself.

    They are given no variable, and nothing runs as their Python starts.
    """
    config = os.environ.get(COVERAGE)
    if config is not None:
        introspect.begin_hubs_with(
            f"import coverage, os; os.environ[{COVERAGE!r}] = {config!r}; "
            "coverage.process_startup(); "
        )
