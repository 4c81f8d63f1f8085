"""Real servers for the tests of what several processes share."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest

from tests.helpers.garbage import leave_older_alone
from tests.helpers.groups import Cluster, Sentinels
from tests.helpers.servers import Server, fresh_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def name() -> str:
    """Give a quota that no other test uses."""
    return fresh_name()


@pytest.fixture
def collect() -> Callable[[], int]:
    """Give what collects the garbage of this test, however many objects others have left."""
    leave_older_alone()
    return gc.collect


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
