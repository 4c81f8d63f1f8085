"""What every test can rely on: virtual time, no blocking calls, reproducible properties."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import os
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import hypothesis
import pytest
import pytest_asyncio

from aioapiqueue.testing import VirtualLoop
from tests.helpers.blocking import BlockingCalls
from tests.helpers.budget import Budget
from tests.helpers.hubs import hub_in_use
from tests.helpers.limiters import AtLength, Limiter, OnHost, Shared
from tests.helpers.measured import measure_hubs
from tests.helpers.progress import Collecting, LastLine
from tests.helpers.servers import Server
from tests.helpers.stalls import Stalls
from tests.helpers.systems import POSIX

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

T = TypeVar("T")

hypothesis.settings.register_profile(
    "default",
    deadline=None,
    max_examples=100,
    print_blob=True,
    derandomize="CI" in os.environ,
)
hypothesis.settings.load_profile("default")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let runs that are slow by what they do, such as coverage, do without the limit."""
    parser.addoption(
        "--budget",
        type=float,
        default=2.0,
        help="seconds that a test outside `slow` may take (2); 0: any number",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Let what tests start hear Ctrl-C, although a shell's `&` or nohup made pytest ignore it.

    Programs inherit that a signal is ignored, but not that it is heard and nothing is done.

    And let the hubs of tests be measured, where tests are.
    """
    for name in ("SIGINT", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
    measure_hubs()
    if seconds := config.getoption("budget"):
        config.pluginmanager.register(Budget(seconds))
    worker = getattr(config, "workerinput", None)
    if worker is None:
        config.pluginmanager.register(LastLine())
    elif worker["workerid"] == "gw0":
        config.pluginmanager.register(Collecting(config))


def pytest_collection_finish() -> None:
    """Have the garbage collector leave alone what was imported, which all tests keep."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what Windows does not have."""
    if not POSIX and item.get_closest_marker("posix"):
        pytest.skip("needs POSIX")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run async tests on a VirtualLoop; those marked `real` on the stock loop."""
    if item.get_closest_marker("real"):
        return {"real": asyncio.new_event_loop}
    return {"virtual": VirtualLoop}


@pytest.fixture(scope="session")
def _blocking_calls() -> Iterator[BlockingCalls]:
    calls = BlockingCalls()
    calls.install()
    yield calls
    calls.remove()


@pytest.fixture(autouse=True)
def blockbuster(
    request: pytest.FixtureRequest, _blocking_calls: BlockingCalls
) -> Iterator[BlockingCalls]:
    """Fail async tests in which `aioapiqueue` blocks the event loop.

    A test that must block asks for this fixture and calls its `deactivate()`.
    """
    if pytest_asyncio.is_async_test(request.node):
        _blocking_calls.activate()
    yield _blocking_calls
    _blocking_calls.deactivate()


# For each kind, the server, the seconds by which slots are taken ahead, and how many histories a
# property is tried on: 20 to 50 take a second. Without a server only the latter.
LIMITERS = {
    "local": 100,
    "local at length": 1000,
    "host": 100,
    "host at length": 1000,
    "shared": ("valkey", 0.0, 50),
    "shared ahead": ("valkey", 0.2, 50),
    "redis": ("debian_redis", 0.0, 50),
    "redis ahead": ("debian_redis", 0.2, 50),
    "at length": ("valkey", 0.0, 500),
    "ahead at length": ("valkey", 0.2, 500),
}
BY_DEFAULT = {"local", "host"}  # kinds on which all tests run outside `slow`,
BY_MARK = {"shared": "contract", "shared ahead": "ahead"}  # and those that are marked so


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests that take a `limiter` once for each kind, properties at length besides.

    Where a server keeps the limits most tests are slow ones: see `tests/helpers/limiters.py`.
    """
    if "limiter" not in metafunc.fixturenames:
        return
    marked = metafunc.definition.get_closest_marker
    by_default = BY_DEFAULT | {kind for kind, mark in BY_MARK.items() if marked(mark)}
    kinds = [
        pytest.param(kind, marks=[] if kind in by_default else [pytest.mark.slow])
        for kind in LIMITERS
        if "length" not in kind or hasattr(metafunc.function, "is_property")
        if kind in BY_DEFAULT or not marked("no_server")
    ]
    metafunc.parametrize("limiter", kinds, indirect=True, scope="module")


@pytest.fixture(scope="module")
def limiter(request: pytest.FixtureRequest) -> Limiter:
    """Give what makes queues whose limits are kept in one way or another: see `Limiter`."""
    where = LIMITERS[request.param]
    if request.param == "local":
        return Limiter()  # which says itself how many, as `tests/mutants` sets that
    if request.param == "local at length":
        return AtLength(examples=where)
    if not POSIX:
        pytest.skip("neither a hub nor Valkey runs on this system")
    if isinstance(where, int):
        return OnHost(examples=where)
    server, ahead, examples = where
    return Shared(request.getfixturevalue(server), ahead=ahead, examples=examples)


@pytest.fixture(scope="session")
def valkey() -> Iterator[Server]:
    """Give the Valkey that all tests share: use a name of its own, leave its settings alone."""
    if not POSIX:
        pytest.skip("there is no Valkey for this system")
    with Server() as server:
        yield server


@pytest.fixture(scope="session")
def debian_redis() -> Iterator[Server]:
    """Give the Redis that is installed on this machine, shared by all tests."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed: apt-get install redis-server")
    with Server(program=program) as server:
        yield server


@pytest.fixture
def stalls() -> Iterator[Stalls]:
    """Give `stalls.seconds`, by which this machine has held up the test so far: see `Stalls`."""
    with Stalls() as stalls:
        yield stalls


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Leave out what Python's garbage collector takes, which goes by the number of all objects."""
    gc.disable()
    yield
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _away_from_checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Leave the checkout: `python -c` and `python -m` take a package from the current folder first.

    What tests start would use the checkout's library, although another one is installed.
    """
    with contextlib.chdir(tmp_path_factory.mktemp("elsewhere")):
        yield


@pytest.fixture(scope="session", autouse=True)
def hub_dir(_away_from_checkout: None) -> Iterator[Path]:
    """Have all tests of this process use a hub of their own; none is left behind."""
    if not POSIX:  # nor are there hubs
        yield Path()
        return
    with hub_in_use() as directory:
        yield directory


@pytest.fixture(scope="session")
def run_virtual() -> Callable[..., Any]:
    """Give sync tests, such as Hypothesis properties, `run_virtual(coro_fn, **loop_kwargs)`."""
    return _run_virtual


def _run_virtual(coro_fn: Callable[[], Awaitable[T]], **loop_kwargs: Any) -> T:
    """Run one coroutine function on a fresh VirtualLoop and return its result.

    Fails if it leaves a task or a timer behind, or if the loop had to report an error that nobody
    awaited. `loop_kwargs` go to `VirtualLoop`: `grain=0.001`.
    """
    reported: list[str] = []

    async def main() -> T:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.set_exception_handler(lambda _, context: reported.append(repr(context)))
        result = await coro_fn()
        await asyncio.sleep(0)  # the task that was cancelled last ends in its next step
        assert asyncio.all_tasks() == {asyncio.current_task()}, "tasks are left over"
        assert loop.pending_timers == 0, "timers are left over"
        return result

    with asyncio.Runner(loop_factory=functools.partial(VirtualLoop, **loop_kwargs)) as runner:
        result = runner.run(main())
    assert not reported, reported
    return result
