"""Two seconds for each test outside `slow`, so that the whole suite stays quick to run.

A pytest plugin. What fixtures of a wider scope than the function take, such as the start of a
server, is not a test's own time.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.helpers import stalls, yardstick

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Budget"]

UNLIMITED = ("slow", "browser")
"""Marks of tests outside the default run."""
_TOO_LONG = "The test passed, but took"


class Budget:
    """Fails tests that take longer than `seconds`, set-up included.

    A slow or busy machine fails none. A test may take longer in proportion (see `delay`), and by
    the time for which some process had to wait for a core (on Linux), up to three times the limit.
    Beside nothing else, as in a run of one file on an idle machine, a test has just the limit.

    A test that took too long runs once more: what is slow is slow twice, but a virtual machine that
    got no core for a second, which nothing within it can see, gets one the next time.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._took = 0.0  # by the set-up and the call of the test that runs
        self._shared = 0.0  # by fixtures of wider scope within it
        self._waited = 0.0  # before the test began

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        """Have pytest-rerunfailures try a test again for this reason, and for no other."""
        if item.get_closest_marker("flaky") is None:
            item.add_marker(pytest.mark.flaky(reruns=1, only_rerun=_TOO_LONG))

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Iterator[None]:
        """Leave out what a fixture takes that several tests share."""
        if fixturedef.scope == "function":
            return (yield)
        began, before = time.perf_counter(), self._shared
        try:
            return (yield)
        finally:  # what this one needs was counted within it
            self._shared = before + time.perf_counter() - began

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self) -> Iterator[None]:
        """Measure the set-up."""
        self._waited = stalls.waited_for_a_core()
        began, self._shared = time.perf_counter(), 0.0
        try:
            return (yield)
        finally:
            self._took = time.perf_counter() - began - self._shared

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        """Measure the call, and fail the test if both took too long."""
        began, self._shared = time.perf_counter(), 0.0
        result = yield
        took = self._took + time.perf_counter() - began - self._shared
        if took > self._seconds and not any(map(item.get_closest_marker, UNLIMITED)):
            waited = stalls.waited_for_a_core() - self._waited
            allowed = self._seconds * yardstick.delay()
            if took > max(allowed, self._seconds + min(waited, 2 * self._seconds)):
                message = (
                    f"{_TOO_LONG} {took:.1f} s. Allowed are {allowed:.1f} s on this "
                    f"machine just now, or {self._seconds:g} s beside {waited:.1f} s without a "
                    "core. Make it shorter, or mark it `slow`."
                )
                raise pytest.fail.Exception(message, pytrace=False) from None
        return result
