"""A gateway on the loop of the test."""

from __future__ import annotations

import pytest

from tests.helpers import introspect
from tests.helpers.gateway_bench import open_bench


@pytest.fixture
def hosts():
    """The limits of hosts that are not AWS's; tests may have others."""
    return {}


@pytest.fixture
async def bench(tmp_path, monkeypatch, hosts):
    """Give a gateway, its hub and a server."""
    introspect.replace(monkeypatch, "last seconds of a gateway", 0.1)
    async with open_bench(tmp_path, hosts) as bench:
        yield bench


@pytest.fixture
async def confined(tmp_path, monkeypatch, hosts):
    """Give the same, for a program that is isolated."""
    introspect.replace(monkeypatch, "last seconds of a gateway", 0.1)
    async with open_bench(tmp_path, hosts, isolated=True) as bench:
        yield bench
