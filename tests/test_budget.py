"""The limit of two seconds for each test, and the last line of a run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.real

CONFTEST = """
import pytest
from tests.helpers import budget, stalls, yardstick
from tests.helpers.progress import LastLine

def pytest_configure(config):
    config.addinivalue_line("markers", "slow: as here")
    config.pluginmanager.register(budget.Budget(2))
    config.pluginmanager.register(LastLine())

@pytest.fixture(scope="module")
def shared():
    Clock.sleep(3)

@pytest.fixture
def clock():
    return Clock

@pytest.fixture
def own():
    Clock.sleep(1.5)

# Whatever else this machine does, time passes in `sleep` only.
class Clock:
    now = 0.0

    @classmethod
    def perf_counter(cls):
        return cls.now

    @classmethod
    def sleep(cls, seconds):
        cls.now += seconds

budget.time = Clock
yardstick.delay = lambda: 1
stalls.waited_for_a_core = lambda: 0

@pytest.fixture
def slow_machine(monkeypatch):
    monkeypatch.setattr(yardstick, "delay", lambda: 10)

@pytest.fixture
def busy_machine(monkeypatch):
    monkeypatch.setattr(stalls, "waited_for_a_core", lambda: Clock.now)
"""
TESTS = """
import pytest

def test_quick(): pass
def test_long(clock): clock.sleep(3)
ran = []
def test_long_once(clock):
    clock.sleep(0 if ran else 3)
    ran.append(1)
def test_long_with_its_own_fixture(own, clock): clock.sleep(1.5)
def test_quick_with_a_shared_fixture(shared): pass
@pytest.mark.slow
def test_marked(clock): clock.sleep(3)
def test_long_on_a_slow_machine(slow_machine, clock): clock.sleep(3)
def test_long_on_a_busy_machine(busy_machine, clock): clock.sleep(3)
def test_far_too_long_on_a_busy_machine(busy_machine, clock): clock.sleep(7)
def test_wrong_too(clock):
    clock.sleep(3)
    assert not "its own fault"
def test_wrong(clock):
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
        [
            *(sys.executable, "-m", "pytest", "-raR", "-p", "no:cacheprovider", "-m", ""),
            *("-p", "pytest_rerunfailures"),
            f"--basetemp={folder / 'pytest'}",  # elsewhere, it would delete what older runs left
        ],
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
        "test_far_too_long_on_a_busy_machine",
        "test_wrong_too",
        "test_wrong",
    }
    assert run.count("The test passed, but took 3.0 s. Allowed are 2.0 s") == 4  # each told twice
    assert "its own fault" in run


def test_what_took_too_long_runs_again(run):
    """It passes if it took too long once only. What fails for another reason runs once."""
    again = {line for line in run.splitlines() if line.startswith("RERUN")}
    assert {line.split("::")[1].split()[0] for line in again} == {
        "test_long",
        "test_long_once",
        "test_long_with_its_own_fixture",
        "test_far_too_long_on_a_busy_machine",
    }


def test_last_line_names_what_was_skipped(run):
    """It says how long the run took, what was skipped and why."""
    *_, last = run.splitlines()
    assert last.startswith("It took 0 min ")
    assert last.endswith(" s. Skipped: 1 (no such thing).")
