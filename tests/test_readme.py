"""Run the examples: every Python block of the README and docs/, every docstring.

A page's block is a complete program. `asyncio.run` puts it on a VirtualLoop, so that it takes no
real time and prints the same figures every time. A ```text block right after it is what it prints.
A comment on the line above a block changes that:

    <!-- real time -->               on the stock event loop (threads, sockets, subprocesses)
    <!-- local server: anthropic --> the same, with that provider's SDK set to a server of the tests
    <!-- not run: needs AWS -->      only compiled
    <!-- cell -->                    a notebook cell, after the other cells of its page

Docstrings may use `asyncio` and the public names of the package without importing them.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import doctest
import importlib
import io
import itertools
import pkgutil
import re
import runpy
import traceback
from pathlib import Path

import pytest
from anyio.from_thread import start_blocking_portal
from prometheus_client import REGISTRY

import aioapiqueue
from aioapiqueue.testing import VirtualLoop
from tests.helpers.llm_servers import AnthropicServer

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
MARKS = re.compile(r"real time|cell|local server: anthropic|not run: .+")
BLOCKS = {page: list(BLOCK.finditer(page.read_text(encoding="utf-8"))) for page in PAGES}
GLOBALS = {"asyncio": asyncio} | {name: getattr(aioapiqueue, name) for name in aioapiqueue.__all__}
WINGS = {}
"""The names of all modules, by their package; of those that are in none, by `core`."""
for _module in pkgutil.walk_packages(aioapiqueue.__path__, "aioapiqueue."):
    if not _module.name.endswith(".__main__"):
        _, _name, *_inner = _module.name.split(".")
        _wing = _name if _inner or _module.ispkg else "core"
        WINGS.setdefault(_wing, []).append(_module.name)


SET_UP = "python3 -m venv .uv && .uv/bin/pip install -q uv && "
"""The Pythons of Debian and Ubuntu refuse to install anything outside of an environment."""


def line_of(page, block):
    """Name a block by the page, and the line there on which its code starts."""
    line = block.string.count("\n", 0, block.start("code")) + 1
    return f"{page.relative_to(ROOT)}, line {line}"


def run_virtually(main, *, debug=None, loop_factory=VirtualLoop):
    """Run as `asyncio.run` does, on a VirtualLoop as far as the example names no loop."""
    with asyncio.Runner(debug=debug, loop_factory=loop_factory) as runner:
        return runner.run(main)


@contextlib.contextmanager
def apart(folder, *, virtual):
    """Keep what an example does to itself: its directory, and what it registers for Prometheus.

    Yields what it prints.
    """
    register, registered = REGISTRY.register, []
    folder.mkdir()
    printed = io.StringIO()
    try:
        with (
            pytest.MonkeyPatch.context() as patch,
            contextlib.chdir(folder),
            contextlib.redirect_stdout(printed),
        ):
            patch.setattr(REGISTRY, "register", lambda one: registered.append(one) or register(one))
            if virtual:
                patch.setattr(asyncio, "run", run_virtually)
            yield printed
    finally:
        for collector in registered:
            REGISTRY.unregister(collector)


def test_the_readme_has_examples():
    """All Python of all pages is found here, with marks that mean something."""
    assert {README, DOCS / "quickstart.md", DOCS / "migrate" / "aiolimiter.md"} <= set(PAGES)
    for page, blocks in BLOCKS.items():
        shown = re.findall(r"^\s*```python", page.read_text("utf-8"), re.MULTILINE)
        assert len(blocks) == len(shown), page
        for block in blocks:
            mark = block["mark"]
            known = mark is None or MARKS.fullmatch(mark)
            assert known, f"{line_of(page, block)}: unknown mark {mark!r}"


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


@pytest.fixture(scope="module")
def _imported():
    """Import what examples import, which takes seconds the first time, and is no page's own."""
    for block in itertools.chain(*BLOCKS.values()):
        if (block["mark"] or "").startswith("not run"):
            continue
        for node in ast.walk(ast.parse(block["code"])):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                names = [node.module] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                importlib.import_module(name)


@contextlib.contextmanager
def notebook():
    """Yield what runs cells: one after the other, on one loop, which goes on between them."""
    names = {"__name__": "__main__"}
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:

        def run_cell(cell):
            awaits = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
            code = compile(cell.read_text("utf-8"), cell, "exec", flags=awaits)
            coroutine = eval(code, names)  # noqa: S307 - as IPython runs a cell
            if coroutine is not None:
                runner.run(coroutine)

        yield run_cell


@contextlib.contextmanager
def local_server():
    """Serve Anthropic's API on this machine, and set the provider's SDK to it."""
    ample = {"calls": 1000, "input_tokens": 100_000, "output_tokens": 100_000}
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(AnthropicServer(ample)) as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("ANTHROPIC_BASE_URL", server.base_url)
        patch.setenv("ANTHROPIC_API_KEY", "a-key")
        yield


def run_block(block, folder, run_cell):
    """Run a block as a program of its own, or as a cell of the page's notebook."""
    mark = block["mark"] or ""
    served = local_server() if mark.startswith("local server") else contextlib.nullcontext()
    with served, apart(folder, virtual=not mark.startswith(("real time", "local"))) as printed:
        # Blank lines in front make a traceback name the page's line.
        lines = "\n" * block.string.count("\n", 0, block.start("code"))
        program = folder / "README.py"
        program.write_text(lines + block["code"], encoding="utf-8")
        if mark == "cell":
            run_cell(program)
        else:
            compile(program.read_text("utf-8"), program, "exec")
            if mark.startswith("not run"):
                return
            runpy.run_path(str(program), run_name="__main__")
    if block["output"] is not None:
        assert printed.getvalue() == block["output"]


@pytest.mark.parametrize(
    "page", [page for page in PAGES if BLOCKS[page]], ids=lambda page: page.stem
)
@pytest.mark.usefixtures("_imported")
def test_examples_of_page(page, tmp_path):
    """Each block runs as a program of its own, and prints what the page says."""
    wrong = []
    with notebook() as run_cell:
        for number, block in enumerate(BLOCKS[page]):
            try:
                run_block(block, tmp_path / str(number), run_cell)
            except (Exception, SystemExit):  # noqa: BLE001 - an example may raise anything
                wrong.append(f"{line_of(page, block)}\n{traceback.format_exc()}")
    assert not wrong, "\n".join(wrong)


@pytest.fixture(scope="module")
def modules():
    """Import all modules that can be: each by its name, or the error of one that needs more."""
    found = {}
    for name in itertools.chain(*WINGS.values()):
        try:
            found[name] = importlib.import_module(name)
        except ModuleNotFoundError as error:
            found[name] = error
    return found


def wrong_examples(module, folder):
    """Run the examples in a module's docstrings; return what is said of those that are wrong."""
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    with apart(folder, virtual=True) as printed:
        for examples in doctest.DocTestFinder().find(module, module.__name__, extraglobs=GLOBALS):
            runner.run(examples)
    return printed.getvalue() if runner.failures else ""


@pytest.mark.parametrize("wing", WINGS)
def test_docstrings(wing, modules, tmp_path):
    """The examples in the docstrings of a wing run, and give what they show."""
    wrong, missing = [], []
    for name in WINGS[wing]:
        module = modules[name]
        if isinstance(module, ModuleNotFoundError):
            missing.append(f"{name} needs {module.name}")
        elif said := wrong_examples(module, tmp_path / name):
            wrong.append(said)
    assert not wrong, "\n".join(wrong)
    if missing:
        pytest.skip("; ".join(missing))
