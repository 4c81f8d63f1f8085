"""The public API changes when somebody means it to: it is pinned in `api.txt`."""

from __future__ import annotations

import difflib
import os
import pkgutil
import re
import subprocess
import sys
from typing import NamedTuple, Self

import pytest

import aioapiqueue
from aioapiqueue import Rate
from tests.helpers import api_file

APART = {
    "aioapiqueue.docs": "a folder",
    "aioapiqueue.docs.spi": "for the command `aioapiqueue docs`",
    "aioapiqueue.integrations": "a folder",
    "aioapiqueue.integrations.redis.schedule": "its names are those of `integrations.redis`",
    "aioapiqueue.testing.pytest": "exports nothing: tests/test_testing_pytest.py has its mark",
    "aioapiqueue.integrations.llm.spi": "for the programs",
    "aioapiqueue.integrations.report.spi": "for the programs",
    "aioapiqueue.integrations.spi": "for the programs",
    "aioapiqueue.recording": "a folder",
    "aioapiqueue.recording.spi": "for the programs and reports",
    "aioapiqueue.registry.spi": "for the programs and the integrations",
    "aioapiqueue.schedules.spi": "for the programs",
    "aioapiqueue.spi": "for the other wings of this package",
    "aioapiqueue.threads.spi": "for the other wings of this package",
}
"""Modules without an underscore that are not public, and why."""


def importable():
    """Return each module whose name has no underscore."""
    names = {"aioapiqueue"} | {
        module.name for module in pkgutil.walk_packages(aioapiqueue.__path__, "aioapiqueue.")
    }
    return {name for name in names if "._" not in name}


@pytest.fixture(scope="module")
def found():
    """Describe the API, for which all SDKs are imported.

    In a process of its own: those that other tests import give classes of httpx another module.
    """
    run = subprocess.run(
        [sys.executable, "-c", "from tests.helpers import api_file; print(api_file.api(), end='')"],
        cwd=api_file.FILE.parents[1],
        env=os.environ | {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    return run.stdout


def test_api_is_the_pinned_one(found):
    """Exports, signatures, members and bases are those of `api.txt`."""
    pinned = api_file.FILE.read_text("utf-8")
    changed = difflib.unified_diff(
        pinned.splitlines(), found.splitlines(), "pinned", "found", lineterm="", n=4
    )
    if text := "\n".join(changed):
        pytest.fail(
            f"The public API is not the pinned one:\n{text}\nIf that is meant: run"
            f" `{api_file.REWRITE}`, and add a line to CHANGELOG.md.",
            pytrace=False,
        )


def test_every_module_is_decided_on():
    """A module whose name has no underscore is public, or it is said why not."""
    assert importable() == {*api_file.PUBLIC, *APART}


REFERENCE = api_file.FILE.parents[1] / "docs" / "api.md"
EXPORT = re.compile(r"(?:(?:async )?(?:class|def) (\w+)\(|(\w+)(?:: | = ))")


def pinned_exports(text):
    """Return each name of `api.txt`, with its module: that of the package itself, if it has it."""
    names = {}
    for section in text.split("\n\n"):
        module, *lines = section.splitlines()
        found = filter(None, map(EXPORT.match, lines))
        names[module.strip("[]")] = {one[1] or one[2] for one in found}
    short = names["aioapiqueue"]
    return {
        f"aioapiqueue.{name}" if name in short else f"{module}.{name}"
        for module, exports in names.items()
        for name in exports
    }


def documented(page):
    """Return what a page of the site describes, each with its module."""
    module, found = "", []
    for kind, name in re.findall(
        r"^\.\. (currentmodule|auto\w+|py:\w+):: (\S+)", page, re.MULTILINE
    ):
        if kind == "currentmodule":
            module = name
        else:
            found.append(name if name.startswith("aioapiqueue.") else f"{module}.{name}")
    return found


def test_reference_has_the_whole_api():
    """The page lists all that is public, each name once, and nothing else."""
    listed = documented(REFERENCE.read_text("utf-8"))
    assert len(listed) == len(set(listed))
    assert set(listed) == pinned_exports(api_file.FILE.read_text("utf-8"))


def test_names_are_found_with_their_modules():
    """In `api.txt`, a name of the package stands for the module's; on the page, by directives."""
    text = (
        "[aioapiqueue]\nA = aioapiqueue.a.A\n\n"
        "[aioapiqueue.a]\nclass A():\n    b: int\ndef c() -> None\n"
    )
    assert pinned_exports(text) == {"aioapiqueue.A", "aioapiqueue.a.c"}
    page = (
        ".. currentmodule:: aioapiqueue.a\n.. autofunction:: c\n.. py:data:: d\n   :no-value:\n"
        ".. autoclass:: aioapiqueue.A\n"
    )
    assert documented(page) == ["aioapiqueue.a.c", "aioapiqueue.a.d", "aioapiqueue.A"]


class Pair(NamedTuple):
    """What a NamedTuple has."""

    one: int
    other: str | None = None


class Base:
    """A base that users do not see."""

    def shared(self, first: int, *, second: str = "a, b") -> Self | None:
        """Do nothing."""


class Thing(Base):
    """What a class has."""

    given: int

    def __init__(self, given: int) -> None:
        self.given = given
        self.made: list[str] = []
        self._hidden = 3

    async def __aenter__(self) -> Self:
        return self

    @property
    def size(self) -> float:
        """Return it."""
        return 3.0

    @classmethod
    def make(cls) -> Self:
        """Return one."""
        return cls(3)

    def _inner(self) -> None:
        """Do nothing."""


def test_a_class_is_described(monkeypatch):
    """Fields, attributes, properties and methods are in, also of a private base of ours."""
    monkeypatch.setattr(api_file, "is_ours", lambda cls: cls.__module__ == __name__)
    assert api_file.class_lines("Thing", Thing) == [
        f"class Thing({__name__}.Base):",
        "    async def __aenter__(self) -> Self",
        "    def __init__(self, given: int) -> None",
        "    given: int",
        "    made: list[str]",
        "    classmethod make(cls) -> Self",
        "    def shared(self, first: int, *, second: str = 'a, b') -> Self | None",
        "    size: float (read-only)",
    ]
    assert api_file.class_lines("Pair", Pair) == [
        "class Pair(tuple):",
        "    one: int",
        "    other: str | None",
    ]


def test_long_signatures_have_lines():
    """A parameter of a long signature has a line, so that a diff shows which has changed."""

    def long(
        first: dict[str, tuple[int, ...]],
        /,
        *others: Rate,
        second: str = "nothing",
        third: list[int] | None = None,
    ) -> None:
        """Do nothing."""

    assert api_file.function_lines("def", "long", long) == [
        "def long(",
        "    first: dict[str, tuple[int, ...]],",
        "    /,",
        "    *others: Rate,",
        "    second: str = 'nothing',",
        "    third: list[int] | None = None,",
        ") -> None",
    ]
