"""The pytest plugin, as a project of somebody else has it: each test runs pytest there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.real

PLUGINS = ("asyncio", "anyio")
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
            loaded += ["-o", "asyncio_default_fixture_loop_scope=function"]
        usual = ("--strict-markers", "-W", "error")
        return pytester.runpytest_subprocess(*usual, *loaded, *options, timeout=100)

    return run


def test_marked_tests_take_virtual_time(project):
    """With both plugins, an hour passes at once, to the instant; the rest stays on real loops."""
    result = project("""
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
""")
    result.assert_outcomes(passed=6)


def test_the_closest_mark_holds(project):
    """A module is marked, but for a test; another one has a clock of milliseconds."""
    result = project("""
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
""")
    result.assert_outcomes(passed=3)


@pytest.mark.parametrize("plugin", ["asyncio", "anyio"])
def test_fixtures_share_the_loop(project, plugin):
    """Async fixtures run in virtual time as well, and those of a module keep to their loop."""
    fixture = "pytest_asyncio.fixture(loop_scope='{0}', scope='{0}')"
    if plugin == "anyio":
        fixture = "pytest.fixture(scope='{0}')"
    mark = "asyncio(loop_scope='module')" if plugin == "asyncio" else "anyio"
    result = project(f"""
import pytest_asyncio
pytestmark = [pytest.mark.virtual_time, pytest.mark.{mark}]

@{fixture.format("module")}
async def shared():
    await asyncio.sleep(100)
    yield asyncio.get_running_loop().time()

async def test_first(shared):
    assert shared == 100

async def test_second(shared):
    await asyncio.sleep(1)
    assert asyncio.get_running_loop().time() == 101
""")
    result.assert_outcomes(passed=2)


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
    result.stdout.fnmatch_lines(["it has the mark virtual_time, but runs on <*mark.anyio*"])


KEYWORDS = "*takes `grain=` (seconds, a number) and `enabled=`*nothing else*"


@pytest.mark.parametrize(
    ("mark", "plugin", "said"),
    [
        ("virtual_time(0.001)", "asyncio", KEYWORDS),
        ("virtual_time(speed=2)", "anyio", KEYWORDS),
        ("virtual_time(enabled='no')", "usefixtures('tmp_path')", KEYWORDS),
        ("virtual_time(grain=-1)", "asyncio", "*grain must be finite and not negative*"),
        ("virtual_time(grain='1ms')", "anyio", KEYWORDS),
    ],
)
def test_wrong_marks_are_refused(project, mark, plugin, said):
    """While tests are collected, with the test's name."""
    result = project(f"""
@pytest.mark.{mark}
@pytest.mark.{plugin}
async def test_it():
    pass
""")
    assert result.ret != 0
    output = result.stdout.str() + result.stderr.str()
    assert "INTERNALERROR" not in output
    assert "::test_it: mark.virtual_time" in output
    pytest.LineMatcher(output.splitlines()).fnmatch_lines([said])


def test_two_backends_are_refused(project):
    """A test cannot choose trio, and virtual time, which is asyncio's."""
    result = project("""
@pytest.mark.virtual_time
@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_it():
    pass
""")
    assert result.ret != 0
    result.stdout.fnmatch_lines(["*test_it: it chooses a backend of anyio itself*drop one*"])


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
    options = ("-p", "asyncio", "-o", "asyncio_default_fixture_loop_scope=function")
    pytester.runpytest_subprocess(*options, timeout=100).assert_outcomes(passed=1)
