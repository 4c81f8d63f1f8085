"""A run that names no file tests the library as users get it. run/tests has the same test."""

from __future__ import annotations

import pytest

from tests.helpers.whole_run import SOURCES, names_files, places


@pytest.mark.real
def test_whole_run_uses_the_wheel(request):
    """What the checkout has and the wheel lacks would be found by users."""
    if names_files(request.config):
        pytest.skip("a file of tests was named: it is for the checkout")
    for where, folder in places("aioapiqueue").items():
        assert folder != SOURCES["aioapiqueue"], f"in {where}: run `uvx nox -s tests`"
