"""The report of `nox -s coverage` counts what its goals name."""

from __future__ import annotations

import pytest

from tests import coverage_report
from tests.helpers import wall

FILES = [
    "/x/aioapiqueue/_core/queue.py",
    "/x/aioapiqueue/_core/__init__.py",
    "/x/aioapiqueue/_corelike/queue.py",
    "/x/aioapiqueue/spi.py",
    "/x/aioapiqueue/threads/spi.py",
]


def test_places_are_folders_or_modules():
    """A place is a folder with all that is in it, or one module."""
    assert coverage_report.files_of(["aioapiqueue/_core"], FILES) == FILES[:2]
    assert coverage_report.files_of(["aioapiqueue/spi"], FILES) == [FILES[3]]
    assert coverage_report.files_of(["aioapiqueue"], FILES) == FILES


def test_place_without_files_is_refused():
    """A room that has moved does not silently leave the report."""
    places = ["aioapiqueue/_core", "aioapiqueue/_queue", "aioapiqueue/spi"]
    with pytest.raises(ValueError, match="no measured file is in aioapiqueue/_queue: has it moved"):
        coverage_report.files_of(places, FILES)


def test_goals_name_existing_places():
    """Each goal counts files that exist. The core is what lies behind its wall, with its door."""
    roots = (wall.ROOT, wall.ROOT_OF_PROGRAMS)
    tree = [file.as_posix() for root in roots for file in root.rglob("*.py")]
    goals = coverage_report.GOALS
    core = coverage_report.files_of(goals["the core"].places, tree)
    behind = {name for name in wall.library() if wall.wing(name) == "core"}
    assert len(core) == len(behind | {"spi"})
    assert set(coverage_report.files_of(goals["both packages"].places, tree)) == set(tree)
