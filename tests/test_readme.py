"""Run the examples: every Python block of the README and docs/, every docstring.

A page's block is a complete program. `asyncio.run` puts it on a VirtualLoop, so that it takes no
real time and prints the same figures every time. A ```text block right after it is what it prints.
A comment on the line above a block changes that:

    <!-- real time -->          on the stock event loop (threads, sockets, subprocesses)
    <!-- not run: needs AWS --> only compiled

Docstrings may use `asyncio` and the public names of the package without importing them.
"""

from __future__ import annotations

import asyncio
import doctest
import importlib
import pkgutil
import re
import runpy
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

import aioapiqueue
from aioapiqueue.testing import VirtualLoop

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
ELSEWHERE = {"fleet", "limits"}
"""Pages whose examples other tests run: with a server, and with their tables."""
PAGES = (
    README,
    *(
        page
        for page in sorted(DOCS.rglob("*.md"))
        if "_build" not in page.parts and page.stem not in ELSEWHERE
    ),
)
BLOCK = re.compile(
    r"^(?:<!-- *(?P<mark>[^\n]*?) *-->\n)?"
    r"```python[^\n]*\n(?P<code>.*?)^```[ ]*$"
    r"(?:\n+```text\n(?P<output>.*?)^```[ ]*$)?",
    re.MULTILINE | re.DOTALL,
)
MARKS = re.compile(r"real time|not run: .+")
BLOCKS = [block for page in PAGES for block in BLOCK.finditer(page.read_text(encoding="utf-8"))]
GLOBALS = {"asyncio": asyncio} | {name: getattr(aioapiqueue, name) for name in aioapiqueue.__all__}
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(aioapiqueue.__path__, "aioapiqueue.")
    if not module.name.endswith(".__main__")
)


SET_UP = "python3 -m venv .uv && .uv/bin/pip install -q uv && "
"""The Pythons of Debian and Ubuntu refuse to install anything outside of an environment."""


def line_of(block):
    """Name a block by the page, and the line there on which its code starts."""
    page = next(one.stem for one in PAGES if one.read_text("utf-8") == block.string)
    return f"{page}, line {block.string.count(chr(10), 0, block.start('code')) + 1}"


@pytest.fixture
def virtual_run(monkeypatch):
    """Let `asyncio.run` use a VirtualLoop, as far as the example names no loop of its own."""

    def run(main, *, debug=None, loop_factory=VirtualLoop):
        with asyncio.Runner(debug=debug, loop_factory=loop_factory) as runner:
            return runner.run(main)

    monkeypatch.setattr(asyncio, "run", run)


@pytest.fixture(autouse=True)
def own_registry():
    """Take what an example registers for Prometheus out of the process's registry again."""
    before = set(REGISTRY._collector_to_names)  # noqa: SLF001 - it has no public list
    yield
    for collector in set(REGISTRY._collector_to_names) - before:  # noqa: SLF001 - as above
        REGISTRY.unregister(collector)


def test_the_readme_has_examples():
    """All Python of all pages is found here, with marks that mean something."""
    assert {README, DOCS / "quickstart.md", DOCS / "migrate" / "aiolimiter.md"} <= set(PAGES)
    shown = [re.findall(r"^\s*```python", page.read_text("utf-8"), re.MULTILINE) for page in PAGES]
    assert len(BLOCKS) == sum(map(len, shown))
    for block in BLOCKS:
        mark = block["mark"]
        assert mark is None or MARKS.fullmatch(mark), f"{line_of(block)}: unknown mark {mark!r}"


def test_commands_need_nothing_but_python():
    """CI runs what the pages say; whatever installs uv makes an environment for it."""
    for page in (README, DOCS / "quickstart.md"):
        text = page.read_text("utf-8")
        assert f"`{SET_UP}.uv/bin/uv run --extra demo aioapiqueue demo`" in text
        assert f"`{SET_UP}.uv/bin/uvx nox -s tests`" in text
    ci = ROOT / ".ci" / "run"
    assert f"\n{SET_UP}.uv/bin/uvx nox -s tests\n" in ci.read_text("utf-8")
    workflows = (ROOT / ".github").rglob("*.*")
    for file in (*PAGES, ci, ROOT / "noxfile.py", *workflows):
        lines = [one for one in file.read_text("utf-8").splitlines() if "pip install -q uv" in one]
        assert all(SET_UP in one for one in lines), file


@pytest.mark.parametrize("block", BLOCKS, ids=line_of)
def test_readme_block(block, request, tmp_path, monkeypatch, capsys):
    """Each block runs as a program of its own, and prints what the README says."""
    mark = block["mark"] or ""
    # Blank lines in front make a traceback name the README's line.
    lines = "\n" * block.string.count("\n", 0, block.start("code"))
    program = tmp_path / "README.py"
    program.write_text(lines + block["code"], encoding="utf-8")
    compile(program.read_text("utf-8"), program, "exec")
    if mark.startswith("not run"):
        return
    if mark != "real time":
        request.getfixturevalue("virtual_run")
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(program), run_name="__main__")
    if block["output"] is not None:
        assert capsys.readouterr().out == block["output"]


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name, virtual_run, tmp_path, monkeypatch, capsys):
    """The examples in a module's docstrings run and give what they show."""
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        pytest.skip(f"needs {error.name}")
    monkeypatch.chdir(tmp_path)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for examples in doctest.DocTestFinder().find(module, name, extraglobs=GLOBALS):
        runner.run(examples)
    assert runner.failures == 0, capsys.readouterr().out
