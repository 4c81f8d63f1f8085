"""What `tests/helpers/count_code.py` counts, and what it does not."""

from tests.helpers.count_code import count

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
