"""A server that denies what it is asked for: callers hear why, as waiting would not help."""

import asyncio

import pytest

from aioapiqueue import ApiQueue, ApiQueueError, Rate
from aioapiqueue.exceptions import SharedError
from aioapiqueue.integrations.redis import SharedSchedule
from tests.helpers.servers import Server

PASSWORD = "sesame-open"  # noqa: S105 - of servers that live for a second
WRONG = "sesame-shut"
ON = ("on", f">{PASSWORD}")
ENOUGH = "~{aioapiqueue:* +@all"

pytestmark = pytest.mark.real


async def refused(queue):
    """Return the error that callers have, in full: each the same."""
    calls = [queue.enqueue() for _ in range(3)]
    async with asyncio.timeout(60):
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(one, SharedError) for one in outcomes), outcomes
    assert isinstance(outcomes[0], ApiQueueError)
    (text,) = {str(one) for one in outcomes}
    stats = queue.stats
    assert stats.refused == 3
    assert stats.faults > 0
    assert stats.fault == text
    assert queue.waiting == 0
    chain = [outcomes[0], outcomes[0].__cause__, outcomes[0].__context__]
    shown = " ".join(map(repr, chain if not outcomes[0].__suppress_context__ else chain[:2]))
    for secret in (PASSWORD, WRONG):
        assert secret not in text + shown + repr(queue)
    return text


async def served(queue):
    """Make sure that a later call is served, and the fault forgotten."""
    async with asyncio.timeout(60), queue.slot():
        pass
    assert queue.stats.fault == ""


async def test_a_wrong_password(name):
    """A later call tries again, as somebody may have put it right."""
    with Server(password=PASSWORD) as server:
        async with server.client(password=WRONG) as client:
            queue = ApiQueue("10/s", schedule=SharedSchedule(client, name, timeout=0.3))
            assert "Check the name, the password" in await refused(queue)
            server.sync().config_set("requirepass", WRONG)
            await served(queue)
            await queue.aclose()


async def test_no_password_where_one_is_needed(name):
    """As a wrong one."""
    with Server(password=PASSWORD) as server, pytest.raises(SharedError, match="password"):
        async with (
            server.client(password=None) as client,
            ApiQueue("10/s", schedule=SharedSchedule(client, name, timeout=0.3)) as queue,
            asyncio.timeout(60),
            queue.slot(),
        ):
            pass


@pytest.mark.parametrize(
    ("rules", "missing"),
    [
        ("~* -@all +eval +hgetall", "evalsha"),
        ("~other:* +@all", "key"),
        ("~{aioapiqueue:* +@all -hset", "HSET"),
    ],
)
async def test_user_with_too_few_rights(name, rules, missing):
    """A user who may not do enough.

    A permission may be missing for the script itself, its keys, or what it does with them.
    """
    with Server(users={"app": (PASSWORD, rules)}) as server:
        async with server.client(username="app", password=PASSWORD) as client:
            queue = ApiQueue("10/s", schedule=SharedSchedule(client, name, timeout=0.3))
            text = await refused(queue)
            assert "permission" in text
            assert missing.lower() in text.lower()
            server.sync().execute_command("ACL", "SETUSER", "app", "reset", *ON, *ENOUGH.split())
            await served(queue)
            await queue.aclose()


async def test_user_with_just_enough_rights(name):
    """A user who may do just enough.

    The rules that the documentation names: one prefix, and the commands of the script.
    """
    with Server(users={"app": (PASSWORD, ENOUGH)}) as server:
        async with (
            server.client(username="app", password=PASSWORD) as client,
            ApiQueue("10/s", schedule=SharedSchedule(client, name, timeout=0.3)) as queue,
        ):
            await served(queue)


async def test_key_that_holds_something_else(server, name):
    """A key of the quota that holds something else.

    Somebody else uses the name for other things: that is told, and no key is overwritten.
    """
    key = f"{{aioapiqueue:{name}}}"
    server.sync().set(key, "mine")
    async with server.client() as client:
        queue = ApiQueue("10/s", schedule=SharedSchedule(client, name, timeout=0.3))
        assert "WRONGTYPE" in await refused(queue)
        assert server.sync().get(key) == b"mine"
        server.sync().delete(key)
        await served(queue)
        await queue.aclose()


async def test_wrong_password_ignores_the_fallback(name):
    """A fallback rate is no help against a wrong password.

    It is for a server that cannot be reached.
    """
    with Server(password=PASSWORD) as server:
        async with server.client(password=WRONG) as client:
            schedule = SharedSchedule(client, name, timeout=0.3, fallback=Rate(100))
            queue = ApiQueue("10/s", schedule=schedule)
            await refused(queue)
            await queue.aclose()
