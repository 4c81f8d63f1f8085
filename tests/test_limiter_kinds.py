"""Which tests run where a server keeps the limits: see `tests/helpers/limiters.py`."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import strategies as st

from tests.helpers.limiters import holds_for

TESTS = Path(__file__).parent
MARKS = {"contract", "ahead"}
LEAST = {
    "test_adaptive.py": 23,
    "core/test_cancellation.py": 10,
    "core/test_eta.py": 3,
    "core/test_event_details.py": 2,
    "core/test_lane_patterns.py": 5,
    "core/test_lanes.py": 20,
    "core/test_live_control.py": 19,
    "core/test_queue.py": 17,
    "core/test_slot.py": 8,
    "core/test_view.py": 2,
    "core/test_waiting.py": 7,
    "limits/test_changed_kinds.py": 4,
}
"""The functions of each file that run on a server by default, at least."""


def decorators(function):
    """Return the names of what a test is decorated with, without their arguments."""
    return {ast.unparse(one).partition("(")[0] for one in function.decorator_list}


def marks(function):
    """Return which of the two marks a test has; `holds_for` gives both."""
    names = decorators(function)
    return (
        MARKS if "holds_for" in names else {n.removeprefix("pytest.mark.") for n in names} & MARKS
    )


def takes_limiter(function):
    """Return whether a test runs once for each kind of limiter."""
    return "limiter" in (one.arg for one in function.args.args)


@pytest.fixture(scope="module")
def functions():
    """Give the test functions of all files that have to do with limiters, by file and name."""
    texts = {file: file.read_text(encoding="utf-8") for file in TESTS.rglob("test_*.py")}
    return {
        f"{file.relative_to(TESTS).as_posix()}::{node.name}": node
        for file, text in texts.items()
        if "limiter" in text and file != Path(__file__)
        for node in ast.parse(text).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if node.name.startswith("test_")
    }


def test_server_keeps_enough_limits(functions):
    """As many functions of each file as `LEAST` says run on a server by default.

    So do the properties, and 20 functions beside them ahead of time. Without them only the slow
    tests would notice a fault in what runs on the server.
    """
    marked = {name: marks(each) for name, each in functions.items() if takes_limiter(each)}
    on_server = Counter(name.partition("::")[0] for name in marked if "contract" in marked[name])
    too_few = {file: on_server[file] for file, least in LEAST.items() if on_server[file] < least}
    assert not too_few
    properties = sum("holds_for" in decorators(function) for function in functions.values())
    assert sum("ahead" in each for each in marked.values()) >= properties + 20
    assert properties >= 19


def test_marks_say_something(functions):
    """Only a test that takes a `limiter` is marked, and one that is `ahead` is `contract`, too."""
    wrong = [
        name
        for name, function in functions.items()
        if (marks(function) and not takes_limiter(function)) or marks(function) == {"ahead"}
    ]
    assert not wrong, "\n".join(wrong)


def test_properties_have_both_marks():
    """What `holds_for` makes a property is marked, which its source does not show."""

    @holds_for(st.integers())
    def holds(limiter, number):
        """Hold."""

    assert {mark.name for mark in holds.pytestmark} == MARKS


def test_default_run_goes_by_marks(request, functions):
    """By itself and through a hub each test runs; on a server those that are marked."""
    file = "test_adaptive.py"
    module = pytest.Module.from_parent(
        request.node.getparent(pytest.Package), path=request.path.with_name(file)
    )
    kinds = {}
    for item in module.collect():
        if "limiter" in item.fixturenames and not item.get_closest_marker("slow"):
            kinds.setdefault(item.originalname, set()).add(item.callspec.params["limiter"])
    assert len(kinds) >= 10
    for name, ran in kinds.items():
        marked = marks(functions[f"{file}::{name}"])
        on_server = {"shared": "contract", "shared ahead": "ahead"}
        assert ran == {"local", "host", *(kind for kind in on_server if on_server[kind] in marked)}
