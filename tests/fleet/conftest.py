"""Real servers for the tests of what several processes share."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tests.helpers.groups import Cluster, Sentinels
from tests.helpers.servers import Server, fresh_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from blockbuster import BlockBuster


@pytest.fixture(autouse=True)
def blockbuster(blockbuster: BlockBuster | None) -> BlockBuster | None:
    """Let a VirtualClient, which `aioapiqueue` awaits, block the loop: its time stands still."""
    if blockbuster is not None:
        for function in blockbuster.functions.values():
            function.can_block_in("helpers/virtual_client.py", "_run")
            # what redis-py calls itself to the server: it looks at its own files, once a pool
            function.can_block_in("redis/utils.py", "get_lib_version")
    return blockbuster


@pytest.fixture
def name() -> str:
    """Give a quota that no other test uses."""
    return fresh_name()


@pytest.fixture(scope="session")
def valkey() -> Iterator[Server]:
    """Give the Valkey that all tests share: use `name`, and leave its settings alone."""
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


@pytest.fixture(scope="session", params=["valkey", "debian_redis"])
def each_server(request: pytest.FixtureRequest) -> Server:
    """Run the test on both, where both are there."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def server() -> Iterator[Server]:
    """Give a Valkey of its own to a test that kills or freezes it."""
    with Server() as server:
        yield server


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Give the cluster that all tests share: do not stop its nodes. It takes 2 s to start."""
    with Cluster() as cluster:
        yield cluster


@pytest.fixture
def sentinels() -> Iterator[Sentinels]:
    """Give a master, a replica and a sentinel of its own to a test that lets the master die."""
    with Sentinels() as sentinels:
        yield sentinels
