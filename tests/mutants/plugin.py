"""What pytest does besides: it notes which test comes to which line, or runs some tests only.

As `pytest -p tests.mutants.plugin`; the variable MUTANTS names a file that says what for: see
`Settings`.
"""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import hypothesis
import pytest

from tests.helpers.limiters import Limiter

__all__ = ["Settings"]

OF_TESTS = ("broken_scheduler", "fault_is_caught", "faults_are_found")
"""Tests with such names are of other tests, on a core that they have changed themselves."""
SLOW = ("bystander", "grows_again")
"""With such names, tests of push-back take minutes."""
MEMORY = 8 << 30
"""Bytes of addresses: a list that grows for ever fails before the machine does."""


@dataclass
class Settings:
    """What a run is for.

    Attributes:
        durations: where to write how long each test took, and have coverage note which test runs.
        tests: which to run, in this order, each with its seconds at most. None: all on one loop.
        examples: how many examples a property is tried on, where it does not say so itself.
    """

    durations: str | None = None
    tests: dict[str, float] | None = None
    examples: int = 100

    def variable(self, file: Path) -> dict[str, str]:
        """Write a file that says so, as no variable may be that long; return one that names it."""
        file.write_text(json.dumps(asdict(self)), "utf-8")
        return {"MUTANTS": str(file)}

    @classmethod
    def read(cls, file: str) -> Settings:
        """Return what such a file says."""
        return cls(**json.loads(Path(file).read_text("utf-8")))


def pytest_configure(config: pytest.Config) -> None:
    """Begin."""
    settings = Settings.read(os.environ["MUTANTS"])
    config.pluginmanager.register(_Plugin(settings), "mutants")
    # A failure counts, whatever its smallest example is.
    phases = [one for one in hypothesis.Phase if one.name in {"explicit", "generate"}]
    hypothesis.settings.register_profile(
        "mutants", hypothesis.settings(), phases=phases, max_examples=settings.examples
    )
    hypothesis.settings.load_profile("mutants")
    Limiter.examples = settings.examples


@dataclass(eq=False)  # pytest before 9 keeps plugins in a set
class _Plugin:
    settings: Settings
    took: dict[str, float] = field(default_factory=dict)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave those that are asked for."""
        wanted = self.settings.tests
        if wanted is None:
            items[:] = [item for item in items if _is_quick(item)]
        else:
            order = {name: number for number, name in enumerate(wanted)}
            items[:] = [item for item in items if item.nodeid in order]
            items.sort(key=lambda item: order[item.nodeid])

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item):
        """Run one test, within its time."""
        if self.settings.tests is not None:
            import resource  # POSIX only, as is the signal

            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, wherever it is
            signal.setitimer(signal.ITIMER_REAL, self.settings.tests[item.nodeid])
            return (yield)
        _switch(item.nodeid)
        began = time.perf_counter()
        result = yield
        self.took[item.nodeid] = time.perf_counter() - began
        _switch("")
        return result

    def pytest_sessionfinish(self) -> None:
        """Write what was measured."""
        if self.settings.tests is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
        if self.settings.durations is not None and self.took:
            path = Path(self.settings.durations) / f"{os.getpid()}.json"
            path.write_text(json.dumps(self.took))


def _is_quick(item: pytest.Item) -> bool:
    """Return whether a test of the core needs neither real time, nor a server or hub."""
    if any(name in item.name for name in (*OF_TESTS, *SLOW)):
        return False
    kind = getattr(item, "callspec", None)
    limiter = None if kind is None else kind.params.get("limiter")
    return item.get_closest_marker("real") is None and limiter in {None, "local"}


def _switch(test: str) -> None:
    from coverage import Coverage

    current = Coverage.current()
    if current is not None:
        current.switch_context(test)
