"""That changes are made, noticed, and not noticed where nothing tests them."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import PurePath

import pytest

from tests.helpers import wall
from tests.mutants import plugin
from tests.mutants.mutations import mutations_of, sample
from tests.mutants.trial import (
    CORE_TESTS,
    copy_package,
    core_sources,
    core_tests,
    load_equivalents,
    run_changed,
)

posix = pytest.mark.skipif(os.name != "posix", reason="ends tests by a signal")

SOURCE = '''"""A limit of 5."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    LIMIT = 7

__all__ = ["allow"]


def allow(number: "1", most=5) -> "2":
    """Say whether 3 is below 4."""
    if number < 0 or not number:
        raise ValueError(f"{number + 1} is " + "wrong")
    self.count += 1
    return min(number, most) if most - 1 else None
'''


def changes(source=SOURCE):
    """Return all changes of a source."""
    return {one.change for one in mutations_of("file.py", source)}


def test_all_that_matters_is_changed():
    """Each kind of change, and none in docstrings, annotations, messages or for type checkers."""
    assert changes() == {
        "5 -> (6)",
        "number < 0 or not number -> (not (number < 0 or not number))",
        "number < 0 or not number -> (number < 0 and (not number))",
        "number < 0 -> (number <= 0)",
        "number < 0 -> (number >= 0)",
        "0 -> (1)",
        "not number -> (number)",
        'raise ValueError(f"{number + 1} is " + "wrong") -> pass',
        "self.count += 1 -> pass",
        "self.count += 1 -> self.count -= 1",
        "1 -> (2)",
        "return min(number, most) if most - 1 else None -> return None",
        "min(number, most) if most - 1 else None -> (None if most - 1 else min(number, most))",
        "min(number, most) -> (max(number, most))",
        "most - 1 -> (most + 1)",
    }


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize(
    "number",
    [4, pytest.param(12, marks=pytest.mark.slow)],  # slow: three times the work
)
def test_changed_core_is_another_program(number):
    """Each change that is drawn of a file can be compiled, and does not mean the same."""
    wrong = []
    for file, source in core_sources().items():
        before = ast.dump(ast.parse(source))
        for one in sample({file: source}, number, seed=3):
            try:
                after = ast.dump(ast.parse(one.apply(source)))
            except SyntaxError as error:
                after = before
                wrong.append(str(error))
            if after == before:
                wrong.append(str(one))
    assert not wrong, "\n".join(wrong)


def test_place_counts_characters():
    """What is not ASCII before it moves no change to another place."""
    (one,) = mutations_of("file.py", "x = call('ä€😀', 1)\n")
    assert one.apply("x = call('ä€😀', 1)\n") == "x = call('ä€😀', (2))\n"


def test_key_outlasts_other_lines():
    """A change is known by its line's text, and which of several such lines it is."""
    before = {one.key for one in mutations_of("file.py", "x = 1\nx = 1\n")}
    after = {one.key for one in mutations_of("file.py", "# new\nx = 1\ny = 3\nx = 1\n")}
    assert before == {("file.py", "x = 1", 1, "1 -> (2)"), ("file.py", "x = 1", 2, "1 -> (2)")}
    assert before < after


def test_sample_goes_by_seed_and_lines():
    """One seed is one sample; a file has its share by lines; no line is drawn twice."""
    sources = {"long.py": "x = 1 + 2 + 3\n" * 90, "short.py": "x = 1\n" * 10}
    one, again, other = (sample(sources, 50, seed) for seed in (1, 1, 2))
    assert one == again != other
    assert len({(x.file, x.line) for x in one}) == 50
    assert 38 <= sum(x.file == "long.py" for x in one) <= 50


def test_each_place_has_files():
    """Each room that is changed has files, and each pattern of tests: none has moved away."""
    rooms = {PurePath(file).with_suffix("").parts[0] for file in core_sources()}
    assert rooms == {*wall.CORE, "_server_quotas"}
    tests = [PurePath(file) for file in core_tests()]
    lost = [one for one in CORE_TESTS if not any(file.match(f"tests/{one}") for file in tests)]
    assert lost == []


@pytest.mark.usefixtures("no_collector")
def test_equivalents_are_still_there():
    """Each names a change that the core has, and says why nothing can notice it."""
    there = {
        one.key for file, source in core_sources().items() for one in mutations_of(file, source)
    }
    assert [key for key in load_equivalents() if key not in there] == []
    assert all(len(reason) > 20 for reason in load_equivalents().values())


NOTICES = "tests/limits/test_units.py::test_forgotten_units_are_refused"


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """Copy the package once."""
    folder = tmp_path_factory.mktemp("package")
    copy_package(folder)
    return folder


@pytest.fixture
def units(package):
    """Give the text of a module, which is the same in the copy afterwards."""
    source = core_sources()["_limits/cost_units.py"]
    yield source
    assert (package / "aioapiqueue" / "_limits/cost_units.py").read_text() == source


def change_of(source, text, change):
    """Return one change."""
    found = mutations_of("_limits/cost_units.py", source)
    return next(one for one in found if (one.text, one.change) == (text, change))


LINE = "del self._places[unit]"


@posix
@pytest.mark.real
def test_planted_change_is_found(package, units):
    """A test fails on a change that it would notice."""
    noticed = change_of(units, LINE, f"{LINE} -> pass")
    said = run_changed(package, noticed, units, {NOTICES: 60.0})
    assert "test_forgotten_units_are_refused" in said


@posix
@pytest.mark.real
def test_change_is_not_found(package, units):
    """A test passes on a change that it does not notice, and nothing of other changes is left."""
    other = change_of(units, "if only in cost and len(cost) == 1:  # most", "1 -> (2)")
    assert run_changed(package, other, units, {NOTICES: 60.0}) is None


@posix
@pytest.mark.real
def test_endless_change_is_stopped(package, units):
    """What takes too long has failed."""
    noticed = change_of(units, LINE, f"{LINE} -> pass")
    endless = replace(noticed, new="while True:\n                pass")
    assert run_changed(package, endless, units, {NOTICES: 0.5}) == "time or memory"


@posix
@pytest.mark.real
def test_broken_change_is_found(package, units):
    """What cannot be imported has failed."""
    noticed = change_of(units, LINE, f"{LINE} -> pass")
    broken = replace(noticed, new="1 +")
    assert "exit code" in run_changed(package, broken, units, {NOTICES: 60.0})


def test_plugin_runs_what_is_asked_for(tmp_path):
    """Settings pass as they are, also of thousands of tests: more than a variable may hold."""
    settings = plugin.Settings(tests={f"tests/test_a.py::b[{n:0100}-\n]": 1.5 for n in range(2000)})
    variable = settings.variable(tmp_path / "settings")
    assert plugin.Settings.read(variable["MUTANTS"]) == settings
    assert subprocess.run([sys.executable, "-c", ""], env=os.environ | variable, check=True)
