"""Virtual time for pytest: tests with the mark `virtual_time` run on a `VirtualLoop`.

Add one line to the top-level `conftest.py` (the plugin is not loaded automatically):

    pytest_plugins = ["aioapiqueue.testing.pytest"]

Then an hour of pacing takes no time, and times are exact:

    @pytest.mark.asyncio
    @pytest.mark.virtual_time
    async def test_an_hour():
        await asyncio.sleep(3600)
        assert asyncio.get_running_loop().time() == 3600

It works with pytest-asyncio 1.4 or later, and with anyio's plugin (`@pytest.mark.anyio`, on asyncio
only). Mark a test, a class, or a module with `pytestmark = pytest.mark.virtual_time`; the closest
mark applies:

- `virtual_time(grain=0.001)`: timers are as late as on Linux; see `VirtualLoop`.
- `virtual_time(enabled=False)`: real time, for a test that needs sockets or threads.

The mark has no effect on tests that are not coroutines. A marked test that runs on another event
loop fails.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import re
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import pytest

from aioapiqueue.testing import VirtualLoop

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    LoopFactory = Callable[[], asyncio.AbstractEventLoop]

__all__: list[str] = []

_MARK = "virtual_time"
_LEAST = (1, 4)
"""The first pytest-asyncio that asks plugins for loops."""


def _loop_factory(item: pytest.Item) -> LoopFactory | None:
    """Return a function that makes the loop of a test, or None if the test is not marked."""
    mark = item.get_closest_marker(_MARK)
    if mark is None:
        return None
    options = dict(mark.kwargs)
    enabled, grain = options.pop("enabled", True), options.pop("grain", 0.0)
    if mark.args or options or not isinstance(enabled, bool) or not isinstance(grain, int | float):
        raise pytest.UsageError(
            f"{item.nodeid}: mark.{_MARK} accepts only `grain=` (a number of seconds) and "
            "`enabled=` (True or False)"
        )
    if not enabled:
        return None
    try:  # checked here, where the error can name the test
        VirtualLoop(grain=grain).close()
    except ValueError as error:
        raise pytest.UsageError(f"{item.nodeid}: mark.{_MARK}: {error}") from None
    return functools.partial(VirtualLoop, grain=grain)


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark; refuse a pytest-asyncio that would run marked tests in real time."""
    config.addinivalue_line(
        "markers",
        f"{_MARK}(grain=0.0, enabled=True): run the coroutine on aioapiqueue's VirtualLoop, "
        "where time jumps to the next timer.",
    )
    if config.pluginmanager.has_plugin("asyncio"):
        found = version("pytest-asyncio")
        if tuple(map(int, found.split(".")[:2])) < _LEAST:
            raise pytest.UsageError(
                f"aioapiqueue.testing.pytest needs pytest-asyncio 1.4 or later, not {found}: "
                'pip install "pytest-asyncio>=1.4"'
            )


@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_asyncio_loop_factories(
    config: pytest.Config,  # noqa: ARG001 - the hook's signature
    item: pytest.Item,
) -> Generator[None, Mapping[str, LoopFactory] | None, Mapping[str, LoopFactory]]:
    """Give pytest-asyncio the loop of a marked test; the project decides for other tests."""
    # A wrapper, so that a hook of the project is called too, and applies to unmarked tests.
    theirs = yield
    factory = _loop_factory(item)
    if factory is not None:
        return {"virtual": factory}
    return theirs or {"asyncio": asyncio.new_event_loop}


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give anyio's plugin the loop of a marked test."""
    if "anyio_backend" not in metafunc.fixturenames:
        return
    factory = _loop_factory(metafunc.definition)
    if factory is None:
        return
    for mark in metafunc.definition.iter_markers("parametrize"):
        names = mark.args[0] if mark.args else mark.kwargs["argnames"]
        if "anyio_backend" in (re.findall(r"\w+", names) if isinstance(names, str) else names):
            raise pytest.UsageError(
                f"{metafunc.definition.nodeid}: parametrize chooses an anyio backend, and so does "
                f"mark.{_MARK}: remove one of the two"
            )
    # The scope is that of anyio's fixture `anyio_backend`, which this replaces for one test.
    backend = ("asyncio", {"loop_factory": factory})
    metafunc.parametrize("anyio_backend", [pytest.param(backend, id="virtual")], scope="module")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Make each marked test check its loop: in real time, it would pass for the wrong reason."""
    for item in items:
        if (
            isinstance(item, pytest.Function)
            and inspect.iscoroutinefunction(item.obj)
            and _loop_factory(item) is not None
        ):
            item.obj = _on_virtual_loop(item.obj)


def _on_virtual_loop(test: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(test)
    async def checked(*args: object, **kwargs: object) -> None:
        loop = asyncio.get_running_loop()
        if not isinstance(loop, VirtualLoop):
            pytest.fail(
                f"this test has mark.{_MARK}, but runs on {loop!r}: mark it for pytest-asyncio "
                "(mark.asyncio) or anyio (mark.anyio, on the test itself)",
                pytrace=False,
            )
        await test(*args, **kwargs)

    return checked
