"""What a run prints besides: that it collects, and at the very end how it went.

Pytest plugins.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from contextlib import nullcontext
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Collecting", "LastLine"]

_EVERY = 2.0  # seconds


class Collecting:
    """Says how many tests were collected so far: with xdist, no worker reports before it has all.

    In one of the workers.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._capture = config.pluginmanager.getplugin("capturemanager")  # None: `-p no:capture`
        self._found = 0
        self._next = time.monotonic() + _EVERY

    def pytest_itemcollected(self) -> None:
        """Count."""
        self._found += 1
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _EVERY
            with self._capture.global_and_fixture_disabled() if self._capture else nullcontext():
                sys.stderr.write(f"collecting: {self._found:,} tests so far\n")


class LastLine:
    """Ends with how long the run took, and what was skipped and why."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Iterator[None]:
        """Write the line after pytest's own summary."""
        result = yield
        reporter = session.config.pluginmanager.getplugin("terminalreporter")
        if reporter is not None and reporter.verbosity >= 0:
            reporter.write_line(self._line(reporter, session.config.getoption("markexpr")))
        return result

    def _line(self, reporter: pytest.TerminalReporter, marks: str) -> str:
        minutes, seconds = divmod(round(time.monotonic() - self._began), 60)
        skipped = Counter(
            report.longrepr[2].removeprefix("Skipped: ")
            for report in reporter.stats.get("skipped", [])
        )
        reasons = "; ".join(f"{count} ({reason})" for reason, count in skipped.items())
        line = f"It took {minutes} min {seconds} s. Skipped: {reasons or 'none'}."
        if "not slow" in marks:
            line += " Not run: those marked slow or browser (`nox -s slow browser`)."
        return line
