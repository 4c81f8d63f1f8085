"""What `run --shared` tries before it starts anything: all that the queues will do."""

import re

import pytest

from aioapiqueue import Registry
from aioapiqueue_run.cli.run.errors import NotStarted
from aioapiqueue_run.cli.run.shared_address import read_address
from aioapiqueue_run.cli.run.shared_server import Shared
from tests.helpers import introspect
from tests.helpers.servers import Server
from tests.helpers.shared_client import open_without_server

CALLS = re.compile(r"redis\.call\('(\w+)'")
PASSWORD = "sesame-open"  # noqa: S105 - of servers that live for a second


async def test_check_tries_each_script_command():
    """It tries every command of the script.

    One that is forbidden would be found by the first call of the program.
    """
    script, _ = introspect.redis_script()
    (check,) = await open_without_server(Shared(read_address("redis://localhost")), Registry({}))
    assert set(CALLS.findall(check)) == set(CALLS.findall(script))


@pytest.mark.real
@pytest.mark.parametrize("missing", ["zadd", "hgetall", "lset"])
async def test_user_lacking_a_command_is_found(missing):
    """A user who lacks one of them is found out.

    Whichever it is; nothing is left there by who may do it all.
    """
    with Server(users={"app": (PASSWORD, f"~{{aioapiqueue:* +@all -{missing}")}) as server:
        address = read_address(f"redis://app:{PASSWORD}@127.0.0.1:{server.port}/0")
        shared = Shared(address)
        with pytest.raises(NotStarted, match=missing):
            async with shared.open(Registry({}), print):
                pass
        server.sync().execute_command("ACL", "SETUSER", "app", f"+{missing}")
        async with shared.open(Registry({}), print):
            pass
        (key,) = server.sync().keys()
        assert 0 < server.sync().pttl(key) <= 1000
