"""A run that names no file tests both wheels, in this process and in those that tests start."""

from __future__ import annotations

import pytest

from tests.helpers.whole_run import SOURCES, names_files, places


@pytest.mark.real
@pytest.mark.parametrize("package", ["aioapiqueue", "aioapiqueue_run"])
def test_whole_run_uses_the_wheels(package, request):
    """The programs have data files, which only their wheel shows to be there."""
    if names_files(request.config):
        pytest.skip("a file of tests was named: it is for the checkout")
    for where, folder in places(package).items():
        assert folder != SOURCES[package], f"in {where}: run `uvx nox -s tests`"
