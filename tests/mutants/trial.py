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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.mutants.mutations import Mutation, sample
from tests.mutants.plugin import Settings
from tests.test_architecture import CORE

__all__ = [
    "Trial",
    "copy_package",
    "core_sources",
    "core_tests",
    "load_equivalents",
    "run_changed",
    "run_tests",
]

ROOT = Path(__file__).parents[2]
PLACE = ROOT / "build" / "mutants"
EQUIVALENTS = Path(__file__).with_name("equivalents.toml")
NOT_OF_THE_CORE = (
    *("test_architecture", "test_aws_buckets", "test_bench_targets", "test_cli", "test_exports"),
    *("test_gate", "test_imports_lazy", "test_operations", "test_presets", "test_readme"),
    *("test_registry", "test_stalls", "test_testing", "test_threads"),
)
"""Test files that begin so are of other modules, or slow."""
SLOWER = 20
"""A test has this many times the seconds that it took, and `LEAST`: then it has failed."""
LEAST = 15.0


def core_sources() -> dict[str, str]:
    """Return each file of the core, with its text."""
    files = [ROOT / "aioapiqueue" / f"{name}.py" for name in CORE]
    return {file.name: file.read_text("utf-8") for file in files}


def core_tests() -> list[str]:
    """Return the files in which the core is tested, as seen from the root."""
    found = [*ROOT.glob("tests/test_*.py"), *ROOT.glob("tests/properties/test_*.py")]
    names = sorted(str(file.relative_to(ROOT)) for file in found)
    return [one for one in names if not Path(one).name.startswith(NOT_OF_THE_CORE)]


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
        tests = sorted(ROOT.glob("tests/**/*.py"))
        self._tests_hash = _hash(*(file.read_text("utf-8") for file in tests))
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
                for _ in pool.map(lambda one: self._try(one, copies), todo):
                    pass
        return [one for one in mutations if self._known[_name(one)]["result"] == "survived"]

    def _is_news(self, mutation: Mutation) -> bool:
        known = self._known.get(_name(mutation))
        if known is None or known["file"] != self._hashes[mutation.file]:
            return True
        return known["result"] == "survived" and known["tests"] != self._tests_hash

    # Which test comes where.

    def _measure(self) -> None:
        """Find out which test comes to which line, unless that is known."""
        state = _hash(self._tests_hash, *self._hashes.values())
        file = PLACE / "lines.json"
        found = json.loads(file.read_text()) if file.exists() else {}
        if found.get("state") != state:
            print("which test comes to which line: some minutes", flush=True)
            found = {"state": state, **_measured(self._workers)}
            file.write_text(json.dumps(found))
        self._lines = found["lines"]
        self._took = found["took"]
        print(f"{len(self._took)} tests, {sum(self._took.values()):.0f} s")

    def _tests_of(self, mutation: Mutation) -> dict[str, float]:
        """Return the tests that come to a line, quick ones first, with their seconds at most."""
        lines = self._lines.get(mutation.file, {})
        found = {test for line in mutation.lines for test in lines.get(str(line), ())}
        if "" in found:  # it is run by an import: any test may depend on it
            found = set(self._took)
        order = sorted(found & set(self._took), key=self._took.__getitem__)
        return {test: LEAST + SLOWER * self._took[test] for test in order}

    # One change.

    def _try(self, mutation: Mutation, copies: list[Path]) -> None:
        with self._lock:
            copy = copies.pop()
        tests = self._tests_of(mutation)
        try:
            killed_by = run_changed(copy, mutation, self._sources[mutation.file], tests)
        finally:
            with self._lock:
                copies.append(copy)
        with self._lock:
            self._known[_name(mutation)] = {
                "result": "survived" if killed_by is None else "killed",
                "by": killed_by or "",
                "file": self._hashes[mutation.file],
                "tests": self._tests_hash,
            }
            self._results.write_text(json.dumps(self._known, indent=1))
            result = "survived" if killed_by is None else "killed"
            print(f"{result:8} {mutation.file}:{mutation.line} {mutation.change}"[:79], flush=True)


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
    done = subprocess.run(
        [sys.executable, *_PYTEST, "-x", "--tb=no", *files],
        cwd=ROOT,
        env=_environment(copy) | Settings(tests=tests).variable(),
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


def _measured(workers: int) -> dict[str, object]:
    """Run all tests of the core unchanged, and return what comes where, and how long each took."""
    from coverage import CoverageData

    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "unchanged")
        copy_package(copy)
        environment = _environment(copy) | Settings(durations=folder).variable()
        data = Path(folder, "coverage")
        coverage = [sys.executable, "-P", "-m", "coverage"]
        subprocess.run(
            [
                *(*coverage, "run", f"--data-file={data}", *_PYTEST[1:], "-q", *core_tests()),
                *("-p", "xdist.plugin", "-n", str(workers), "--dist=loadfile"),
            ],
            cwd=ROOT,
            env=environment,
            check=True,
        )
        subprocess.run([*coverage, "combine", "-q", f"--data-file={data}", folder], check=True)
        took = {}
        for file in Path(folder).glob("*.json"):
            took.update(json.loads(file.read_text()))
        shutil.copy(data, PLACE / "coverage")
        lines = _lines_in(CoverageData(str(data)), copy / "aioapiqueue")
    return {"lines": lines, "took": took}


def _lines_in(data: Any, package: Path) -> dict[str, dict[int, list[str]]]:
    data.read()
    found: dict[str, dict[int, list[str]]] = defaultdict(dict)
    for name in data.measured_files():
        file = Path(name)
        if file.parent == package:
            found[file.name] = data.contexts_by_lineno(name)
    return found


# Others, of libraries that the tests of integrations need, take longer to import than most tests.
_PLUGINS = ("tests.mutants.plugin", "pytest_asyncio.plugin", "_hypothesis_pytestplugin")
_PYTEST = (
    "-P",
    "-m",
    "pytest",
    "-p",
    "no:cacheprovider",
    *(x for p in _PLUGINS for x in ("-p", p)),
)


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


def _name(mutation: Mutation) -> str:
    return json.dumps(mutation.key)


def _hash(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
