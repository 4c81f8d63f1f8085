"""A gateway on the loop of the test."""

from __future__ import annotations

import pytest

from aioapiqueue.gateway import main
from tests.helpers.gateway_bench import open_bench


@pytest.fixture
def hosts():
    """The limits of hosts that are not AWS's; tests may have others."""
    return {}


@pytest.fixture
async def bench(tmp_path, monkeypatch, hosts):
    """Give a gateway, its hub and a server."""
    monkeypatch.setattr(main, "_LAST_SECONDS", 0.1)
    async with open_bench(tmp_path, hosts) as bench:
        yield bench


@pytest.fixture
async def confined(tmp_path, monkeypatch, hosts):
    """Give the same, for a program that is isolated."""
    monkeypatch.setattr(main, "_LAST_SECONDS", 0.1)
    async with open_bench(tmp_path, hosts, isolated=True) as bench:
        yield bench
