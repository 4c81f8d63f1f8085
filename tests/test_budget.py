"""The limit of two seconds for each test, and the last line of a run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.real

CONFTEST = """
import time
import pytest
from tests.helpers import budget, stalls, yardstick
from tests.helpers.progress import LastLine

def pytest_configure(config):
    config.addinivalue_line("markers", "slow: as here")
    config.pluginmanager.register(budget.Budget(0.2))
    config.pluginmanager.register(LastLine())

@pytest.fixture(scope="module")
def shared():
    time.sleep(0.3)

@pytest.fixture
def own():
    time.sleep(0.15)

# Whatever else this machine does.
yardstick.delay = lambda: 1
stalls.waited_for_a_core = lambda: 0

@pytest.fixture
def slow_machine(monkeypatch):
    monkeypatch.setattr(yardstick, "delay", lambda: 10)

@pytest.fixture
def busy_machine(monkeypatch):
    monkeypatch.setattr(stalls, "waited_for_a_core", time.monotonic)
"""
TESTS = """
import time
import pytest

def test_quick(): pass
def test_long(): time.sleep(0.3)
def test_long_with_its_own_fixture(own): time.sleep(0.15)
def test_quick_with_a_shared_fixture(shared): pass
@pytest.mark.slow
def test_marked(): time.sleep(0.3)
def test_long_on_a_slow_machine(slow_machine): time.sleep(0.3)
def test_long_on_a_busy_machine(busy_machine): time.sleep(0.3)
def test_wrong_too():
    time.sleep(0.3)
    assert not "its own fault"
@pytest.mark.skip("no such thing")
def test_skipped(): pass
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Give what a run of these tests prints."""
    folder = tmp_path_factory.mktemp("budget")
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_it.py").write_text(TESTS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-ra", "-p", "no:cacheprovider", "-m", ""],
        cwd=folder,
        env=os.environ
        | {
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTHONPATH": str(Path(__file__).parents[1]),
            "COLUMNS": "200",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout


def test_what_takes_too_long_fails(run):
    """Its own fixtures count; those it shares, a mark and a busy machine do not."""
    failed = {line for line in run.splitlines() if line.startswith("FAILED")}
    assert {line.split("::")[1].split()[0] for line in failed} == {
        "test_long",
        "test_long_with_its_own_fixture",
        "test_wrong_too",
    }
    assert run.count("The test passed, but took 0.3 s. Allowed are 0.2 s") == 4  # each told twice
    assert "its own fault" in run


def test_last_line_names_what_was_skipped(run):
    """It says how long the run took, what was skipped and why."""
    *_, last = run.splitlines()
    assert last.startswith("It took 0 min ")
    assert last.endswith(" s. Skipped: 1 (no such thing).")
