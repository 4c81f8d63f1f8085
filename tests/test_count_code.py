"""What `tests/helpers/count_code.py` counts, and what it does not."""

import re
from pathlib import Path

import pytest

from tests.helpers.count_code import PACKAGES, code_lines, count

ROOT = Path(__file__).parents[1]

SOURCE = '''"""A module
of two lines."""

import os  # a comment


class Slot:
    """A slot."""

    priority = 0
    """Lower goes first."""

    # Why it is one.
    def is_one(self):
        return bool(  # noqa: FBT003
            self,
        )
'''


def test_only_code_is_counted(tmp_path):
    """Neither blanks, nor comments, nor strings that document what is before them."""
    (tmp_path / "_core").mkdir()
    (tmp_path / "_core" / "slot.py").write_text(SOURCE)
    (tmp_path / "__init__.py").write_text("VERSION = 1\n")
    (tmp_path / "_core" / "script.lua").write_text("-- why\nlocal one = 1\n\n")
    rooms = count(tmp_path)
    assert {name: room.code for name, room in rooms.items()} == {
        "_core": 7,
        "(root)": 1,
        "(Lua)": 1,
    }
    assert (rooms["_core"].lines, rooms["_core"].comments) == (17, 2)
    assert rooms["_core"].lengths == [4]


@pytest.mark.parametrize(
    ("name", "package"), [("aioapiqueue", "the library"), ("aioapiqueue-run", "the programs")]
)
def test_architecture_has_the_lines(name, package):
    """The page for contributors has the number of lines of code of each distribution."""
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    given = re.search(rf"`{name}` \(([\d,]+) lines of code", page)
    files = (ROOT / PACKAGES[package]).rglob("*.py")
    counted = sum(len(code_lines(file.read_text("utf-8"))) for file in files)
    assert int(given[1].replace(",", "")) == pytest.approx(counted, rel=0.02)
