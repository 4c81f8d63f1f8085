"""One run of the tests for each change, with what is known from earlier runs."""

from __future__ import annotations

import compileall
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import tomllib
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from tests.helpers import wall
from tests.mutants.mutations import Mutation, sample
from tests.mutants.plugin import Settings

__all__ = [
    "CORE_TESTS",
    "Trial",
    "copy_package",
    "core_sources",
    "core_tests",
    "load_equivalents",
    "run_changed",
]

ROOT = Path(__file__).parents[2]
PLACE = ROOT / "build" / "mutants"
EQUIVALENTS = Path(__file__).with_name("equivalents.toml")
CORE_TESTS = (
    *("test_adaptive.py", "core/test_*.py", "limits/test_*.py"),
    *("server_quotas/test_*.py", "properties/test_*.py"),
)
NOT_FAST = "test_learnt_simulation.py"
SLOWER = 20
"""A test has this many times the seconds that it took, and `LEAST`: then it has failed."""
LEAST = 15.0


def core_sources() -> dict[str, str]:
    """Return each file of the core, as seen from the package, with its text."""
    package = ROOT / "aioapiqueue"
    files = [
        file
        for name in (*wall.CORE, "_server_quotas")
        for file in (package / f"{name}.py", *sorted((package / name).glob("*.py")))
        if file.exists()
    ]
    return {str(file.relative_to(package)): file.read_text("utf-8") for file in files}


def core_tests() -> list[str]:
    """Return the files in which the core is tested, as seen from the root."""
    found = [file for pattern in CORE_TESTS for file in (ROOT / "tests").glob(pattern)]
    return sorted(str(file.relative_to(ROOT)) for file in found if file.name != NOT_FAST)


def load_equivalents() -> dict[tuple[str, str, int, str], str]:
    """Return the reason why nothing can notice it, for each change that is known to be so."""
    entries = tomllib.loads(EQUIVALENTS.read_text("utf-8"))["equivalent"]
    return {(x["file"], x["line"], x.get("nth", 1), x["change"]): x["reason"] for x in entries}


class Trial:
    """Runs the tests on changed copies of the package.

    Args:
        workers: how many at a time.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._sources = core_sources()
        self._hashes = {file: _hash(text) for file, text in self._sources.items()}
        tests = core_tests()
        texts = [(ROOT / file).read_text("utf-8") for file in tests]
        helpers = [ROOT / "tests" / "conftest.py", *sorted(ROOT.glob("tests/helpers/*.py"))]
        base = _hash(*self._hashes.values(), *(file.read_text("utf-8") for file in helpers))
        self._tests = {file: _hash(base, text) for file, text in zip(tests, texts, strict=True)}
        self._tests_hash = _hash(*self._tests.values())
        self._lock = threading.Lock()
        PLACE.mkdir(parents=True, exist_ok=True)
        self._results = PLACE / "results.json"
        known = json.loads(self._results.read_text()) if self._results.exists() else {}
        self._known: dict[str, dict[str, str]] = known

    def sample(self, number: int, seed: int) -> list[Mutation]:
        """Return changes drawn at random."""
        return sample(self._sources, number, seed)

    def run(self, mutations: list[Mutation]) -> list[Mutation]:
        """Return those that no test has noticed."""
        todo = [one for one in mutations if self._is_news(one)]
        print(f"{len(mutations) - len(todo)} known from earlier runs, {len(todo)} to try")
        if todo:
            self._measure()
        with tempfile.TemporaryDirectory() as folder:
            copies = [Path(folder, str(number)) for number in range(self._workers)]
            for copy in copies:
                copy_package(copy)
            with ThreadPoolExecutor(self._workers) as pool:
                tried = [pool.submit(self._try, one, copies) for one in todo]
                try:
                    for number, done in enumerate(as_completed(tried), 1):
                        print(f"{number:3} of {len(todo)} {done.result()}"[:79], flush=True)
                finally:  # an error, or Ctrl-C, is not held up by all the others
                    pool.shutdown(cancel_futures=True)
        return [one for one in mutations if self._known[_name(one)]["result"] == "survived"]

    def _is_news(self, mutation: Mutation) -> bool:
        known = self._known.get(_name(mutation))
        if known is None or known["file"] != self._hashes[mutation.file]:
            return True
        return known["result"] == "survived" and known["tests"] != self._tests_hash

    # Which test comes where.

    def _measure(self) -> None:
        """Find out which test comes to which line, a few files of tests at a time."""
        place = PLACE / "lines"
        place.mkdir(exist_ok=True)
        tests = sorted(self._tests)
        parts = {
            place / f"{n}.json": tests[n : n + _AT_ONCE] for n in range(0, len(tests), _AT_ONCE)
        }
        todo = {kept: part for kept, part in parts.items() if not self._is_measured(kept, part)}
        if todo:
            print(f"which test comes to which line: {len(todo)} parts, some minutes", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder)
            copy_package(copy)

            def measure(item: tuple[Path, list[str]]) -> str:
                kept, part = item
                found = _measured(copy, part)
                _write(kept, {"state": self._state_of(part), **found})
                return f"{len(found['took']):4} tests, {sum(found['took'].values()):.0f} s"

            with ThreadPoolExecutor(self._workers) as pool:
                for number, line in enumerate(pool.map(measure, todo.items()), 1):
                    print(f"{number:3} of {len(todo)} {line}", flush=True)
        self._lines: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        self._took: dict[str, float] = {}
        for kept in parts:
            found = json.loads(kept.read_text())
            self._took |= found["took"]
            for file, lines in found["lines"].items():
                for line, names in lines.items():
                    self._lines[file][line] += names
        print(f"{len(self._took)} tests, {sum(self._took.values()):.0f} s")

    def _is_measured(self, kept: Path, part: list[str]) -> bool:
        return kept.exists() and json.loads(kept.read_text())["state"] == self._state_of(part)

    def _state_of(self, part: list[str]) -> str:
        return _hash(*(self._tests[test] for test in part))

    def _tests_of(self, mutation: Mutation) -> dict[str, float]:
        """Return the tests that come to a line, quick ones first, with their seconds at most."""
        lines = self._lines.get(mutation.file, {})
        found = {test for line in mutation.lines for test in lines.get(str(line), ())}
        if "" in found:  # it is run by an import: any test may depend on it
            found = set(self._took)
        order = sorted(found & set(self._took), key=self._took.__getitem__)
        return {test: LEAST + SLOWER * self._took[test] for test in order}

    # One change.

    def _try(self, mutation: Mutation, copies: list[Path]) -> str:
        """Try one, and write down what came of it; return a line that says it."""
        with self._lock:
            copy = copies.pop()
        tests = self._tests_of(mutation)
        try:
            killed_by = run_changed(copy, mutation, self._sources[mutation.file], tests)
        finally:
            with self._lock:
                copies.append(copy)
        result = "survived" if killed_by is None else "killed"
        with self._lock:
            self._known[_name(mutation)] = {
                "result": result,
                "by": killed_by or "",
                "file": self._hashes[mutation.file],
                "tests": self._tests_hash,
            }
            _write(self._results, self._known)
        return f"{result:8} {mutation.file}:{mutation.line} {mutation.change}"


def run_changed(copy: Path, mutation: Mutation, source: str, tests: dict[str, float]) -> str | None:
    """Return which test has noticed a change, made in a copy of the package; None: none has."""
    if not tests:
        return None
    file = copy / "aioapiqueue" / mutation.file
    # What is compiled may be of another source: only size and second tell them apart.
    Path(importlib.util.cache_from_source(file)).unlink(missing_ok=True)
    file.write_text(mutation.apply(source), "utf-8")
    try:
        return run_tests(copy, tests)
    finally:
        file.write_text(source, "utf-8")


def run_tests(copy: Path, tests: dict[str, float]) -> str | None:
    """Return which of these tests fails first, on a copy of the package; None: none does.

    Raises:
        RuntimeError: it could not be tried.
    """
    files = list(dict.fromkeys(test.partition("::")[0] for test in tests))
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, *_PYTEST, *_temporary_in(folder), "-x", "--tb=no", *files],
            cwd=ROOT,
            env=_environment(copy) | Settings(tests=tests).variable(Path(folder, "settings")),
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode == 0:
        return None
    if done.returncode < 0:
        return "time or memory"
    if done.returncode in {1, 2, 3, 4}:
        failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        return failed[0] if failed else f"exit code {done.returncode}"
    raise RuntimeError(f"pytest ended with {done.returncode}:\n{done.stdout}{done.stderr}")


def _measured(copy: Path, tests: list[str]) -> dict[str, Any]:
    """Run files of tests on an unchanged copy; return what comes where, and how long each took.

    Raises:
        RuntimeError: a test fails without any change.
    """
    from coverage import CoverageData

    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [
                *(sys.executable, "-P", "-m", "coverage", "run", "--rcfile="),  # lines only
                *(f"--source={copy / 'aioapiqueue'}", *_PYTEST[1:], *_temporary_in(folder)),
                *("-q", *tests),
            ],
            cwd=ROOT,
            env=_environment(copy)
            | Settings(durations=folder, examples=_FEW).variable(Path(folder, "settings"))
            | {"COVERAGE_FILE": str(Path(folder, "coverage"))},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode not in {0, _NONE_WAS_ASKED_FOR}:
            raise RuntimeError(f"tests fail without a change:\n{done.stdout}{done.stderr}")
        took = {}
        for file in Path(folder).glob("*.json"):
            took |= json.loads(file.read_text())
        lines = _lines_in(CoverageData(str(Path(folder, "coverage"))), copy / "aioapiqueue")
    return {"lines": lines, "took": took}


def _lines_in(data: Any, package: Path) -> dict[str, dict[int, list[str]]]:
    data.read()
    found = {}
    for name in data.measured_files():
        file = Path(name)
        if package in file.parents:
            found[str(file.relative_to(package))] = data.contexts_by_lineno(name)
    return found


_NONE_WAS_ASKED_FOR = 5
_AT_ONCE = 4
"""So many files of tests in one run: most of a short one's time is the start."""
_FEW = 10
"""Examples of a property that are enough to say which lines it comes to."""
# Others, of libraries that the tests of integrations need, take longer to import than most tests.
_PLUGINS = ("tests.mutants.plugin", "pytest_asyncio.plugin", "_hypothesis_pytestplugin")
_PYTEST = (
    "-P",
    "-m",
    "pytest",
    "-p",
    "no:cacheprovider",
    "--budget=0",  # each mutant has a time of its own
    *(x for p in _PLUGINS for x in ("-p", p)),
)


def _temporary_in(folder: str) -> tuple[str]:
    """Return an option for pytest: elsewhere, each run would delete what older ones have left."""
    return (f"--basetemp={folder}/pytest",)


_VARIABLES = {"CI": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


def _environment(copy: Path) -> dict[str, str]:
    """Have tests take the package from there, and Hypothesis try the same examples each time."""
    path = os.pathsep.join([str(copy), str(ROOT)])
    return {**os.environ, "PYTHONPATH": path, **_VARIABLES}


def copy_package(to: Path) -> None:
    """Copy the package to a folder."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "aioapiqueue", to / "aioapiqueue", ignore=ignore)
    compileall.compile_dir(to, quiet=1)


def _write(file: Path, what: object) -> None:
    """Write a file at once: a run that is ended leaves none that is half written."""
    part = file.with_suffix(".part")
    part.write_text(json.dumps(what, indent=1))
    part.replace(file)


def _name(mutation: Mutation) -> str:
    return json.dumps(mutation.key)


def _hash(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
