"""The pytest plugin, as a project of somebody else has it: pytest runs there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.real

PLUGINS = ("asyncio", "anyio")
USUAL = ("--strict-markers", "-W", "error")
SCOPE = ("-o", "asyncio_default_fixture_loop_scope=function")
DOCS = Path(__file__).parents[1] / "docs" / "testing.md"
CONFTEST = 'pytest_plugins = ["aioapiqueue.testing.pytest"]\n'
BEGINNING = """
import asyncio, pytest, time
from aioapiqueue.testing import VirtualLoop

def is_virtual():
    return isinstance(asyncio.get_running_loop(), VirtualLoop)
"""


@pytest.fixture
def project(pytester, monkeypatch):
    """Return what runs pytest in a project whose only test module has this text."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    def run(source, *plugins, conftest="", options=()):
        pytester.makeconftest(CONFTEST + conftest)
        pytester.makepyfile(BEGINNING + source)
        loaded = [part for plugin in plugins or PLUGINS for part in ("-p", plugin)]
        if "asyncio" in loaded:
            loaded += SCOPE
        return pytester.runpytest_subprocess(*USUAL, *loaded, *options, timeout=100)

    return run


def run_modules(folder, modules):
    """Run pytest once on test modules with these texts, with both plugins; return what it says."""
    (folder / "conftest.py").write_text(CONFTEST)
    for name, source in modules.items():
        (folder / f"test_{name}.py").write_text(BEGINNING + source)
    loaded = [part for plugin in PLUGINS for part in ("-p", plugin)]
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-v", *USUAL, *SCOPE, *loaded),
            f"--basetemp={folder / 'pytest'}",  # elsewhere, it would delete what older runs left
        ],
        cwd=folder,
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
        check=False,
    )
    return ended.stdout


VIRTUAL = """
queue_seen = []

@pytest.mark.parametrize("hours", [1, 2])
@pytest.mark.virtual_time
@pytest.mark.asyncio
async def test_asyncio(hours):
    began = time.monotonic()
    await asyncio.sleep(3600 * hours)
    assert asyncio.get_running_loop().time() == 3600 * hours
    assert time.monotonic() - began < 60

@pytest.mark.virtual_time
@pytest.mark.anyio
async def test_anyio():
    await asyncio.sleep(3600)
    assert asyncio.get_running_loop().time() == 3600

@pytest.mark.asyncio
async def test_real_asyncio():
    assert not is_virtual()

@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_real_anyio():
    assert not is_virtual()

@pytest.mark.virtual_time
def test_plain():
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()
"""
CLOSEST = """
pytestmark = [pytest.mark.virtual_time, pytest.mark.asyncio]

async def test_of_the_module():
    assert is_virtual()

@pytest.mark.virtual_time(enabled=False)
async def test_but_this():
    assert not is_virtual()

@pytest.mark.virtual_time(grain=0.001)
async def test_grain():
    await asyncio.sleep(0.0005)
    assert asyncio.get_running_loop().time() == 0.001
"""


def sharing(fixture, mark):
    """Return a module whose async fixture and tests share a loop."""
    return f"""
import pytest_asyncio
pytestmark = [pytest.mark.virtual_time, pytest.mark.{mark}]

@{fixture}
async def shared():
    await asyncio.sleep(100)
    yield asyncio.get_running_loop().time()

async def test_first(shared):
    assert shared == 100

async def test_second(shared):
    await asyncio.sleep(1)
    assert asyncio.get_running_loop().time() == 101
"""


MODULES = {
    "virtual": VIRTUAL,
    "closest": CLOSEST,
    "shared_asyncio": sharing(
        "pytest_asyncio.fixture(loop_scope='module', scope='module')",
        "asyncio(loop_scope='module')",
    ),
    "shared_anyio": sharing("pytest.fixture(scope='module')", "anyio"),
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Return what came of the tests of each module, all in one run."""
    said = run_modules(tmp_path_factory.mktemp("project"), MODULES)
    ends = re.findall(r"^test_(\w+)\.py::\S+ (\w+)", said, re.MULTILINE)
    found = {name: Counter(end for module, end in ends if module == name) for name in MODULES}
    return found, said


def test_marked_tests_take_virtual_time(outcomes):
    """With both plugins, an hour passes at once, to the instant; the rest stays on real loops."""
    found, said = outcomes
    assert found["virtual"] == {"PASSED": 6}, said


def test_the_closest_mark_holds(outcomes):
    """A module is marked, but for a test; another one has a clock of milliseconds."""
    found, said = outcomes
    assert found["closest"] == {"PASSED": 3}, said


@pytest.mark.parametrize("plugin", ["asyncio", "anyio"])
def test_fixtures_share_the_loop(outcomes, plugin):
    """Async fixtures run in virtual time as well, and those of a module keep to their loop."""
    found, said = outcomes
    assert found[f"shared_{plugin}"] == {"PASSED": 2}, said


def test_hook_of_the_project_stays(project):
    """A project that gives loops of its own to pytest-asyncio does so for other tests."""
    result = project(
        """
pytestmark = pytest.mark.asyncio

async def test_theirs():
    assert type(asyncio.get_running_loop()).__name__ == "Theirs"

@pytest.mark.virtual_time
async def test_ours():
    assert is_virtual()
""",
        conftest="""
import asyncio
class Theirs(asyncio.SelectorEventLoop): ...
def pytest_asyncio_loop_factories(config, item):
    return {"theirs": Theirs}
""",
    )
    result.assert_outcomes(passed=2)


def test_marked_test_on_real_loop_fails(project):
    """Where something else runs it, a test in real time would show nothing: it says what to do."""
    result = project(
        """
@pytest.mark.virtual_time
async def test_by_something_else():
    pass
""",
        "anyio",
        conftest="""
import asyncio, inspect, pytest
@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    asyncio.run(pyfuncitem.obj())
    return True
""",
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["this test has mark.virtual_time, but runs on <*mark.anyio*"])


KEYWORDS = r"mark.virtual_time accepts only `grain=` \(a number of seconds\) and `enabled=` \(True"
REFUSED = {
    "positional": ("virtual_time(0.001)", "asyncio", KEYWORDS),
    "unknown": ("virtual_time(speed=2)", "anyio", KEYWORDS),
    "negative": (
        "virtual_time(grain=-1)",
        "asyncio",
        "mark.virtual_time: .*grain must be finite and at least 0",
    ),
    "text": ("virtual_time(grain='1ms')", "anyio", KEYWORDS),
    "trio": (
        "virtual_time",
        'anyio\n@pytest.mark.parametrize("anyio_backend", ["trio"])',
        "parametrize chooses an anyio backend.*remove one",
    ),
}
MARKED = """
@pytest.mark.{}
@pytest.mark.{}
async def test_it():
    pass
"""


@pytest.fixture(scope="module")
def refusals(tmp_path_factory):
    """Return what is said of modules with wrong marks, all in one run."""
    modules = {name: MARKED.format(mark, plugin) for name, (mark, plugin, _) in REFUSED.items()}
    return run_modules(tmp_path_factory.mktemp("refused"), modules)


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_marks_are_refused(refusals, name):
    """While tests are collected, with the test's name; one asks for anyio's trio backend."""
    assert "INTERNALERROR" not in refusals
    assert f"{len(REFUSED)} errors during collection" in refusals
    assert re.search(f"test_{name}.py::test_it: {REFUSED[name][2]}", refusals), refusals


def test_wrong_mark_of_others_is_refused(project):
    """Also where neither plugin runs the test."""
    result = project(MARKED.format("virtual_time(enabled='no')", "usefixtures('tmp_path')"))
    assert result.ret != 0
    output = result.stdout.str() + result.stderr.str()
    assert "INTERNALERROR" not in output
    assert re.search(f"::test_it: {KEYWORDS}", output)


def test_old_pytest_asyncio_is_refused(project):
    """One that does not ask for loops would run marked tests in real time."""
    result = project(
        "",
        conftest="""
import importlib.metadata
importlib.metadata.version = lambda name: "1.3.0"
""",
    )
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*needs pytest-asyncio 1.4 or later, not 1.3.0: pip install*"])


def test_mark_is_listed(project):
    """`pytest --markers` says what it takes."""
    result = project("", options=["--markers"])
    result.stdout.fnmatch_lines(["@pytest.mark.virtual_time(grain=0.0, enabled=True): run *"])


def test_example_of_the_documentation(pytester, monkeypatch):
    """What the page says, in two files: with the line that it gives for conftest.py."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    section = DOCS.read_text("utf-8").partition("## With pytest")[2].partition("\n## ")[0]
    conftest, test = re.findall(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    pytester.makeconftest(conftest)
    pytester.makepyfile(test)
    pytester.runpytest_subprocess("-p", "asyncio", *SCOPE, timeout=100).assert_outcomes(passed=1)
