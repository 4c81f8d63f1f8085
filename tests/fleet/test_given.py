"""The client that a `SharedSchedule` is given: what is none, and what `--shared` makes."""

import pytest
import redis

from aioapiqueue.integrations._redis_url import connected, read_address
from aioapiqueue.integrations.redis import SharedSchedule


@pytest.mark.parametrize(
    "client",
    [
        "redis://pacer:sesame@quota.example:6379/0",
        redis.Redis.from_url("redis://pacer:sesame@quota.example:6379/0"),
    ],
    ids=["a URL", "a blocking client"],
)
def test_what_is_no_client_of_redis_asyncio_is_refused_without_its_secrets(client):
    """A blocking client would hold the loop up, and never work."""
    with pytest.raises(TypeError, match=r"a client of redis\.asyncio, not a ") as refusal:
        SharedSchedule(client, "quota")
    assert "sesame" not in str(refusal.value)


@pytest.mark.parametrize("url", ["redis://h", "unix:///run/r.sock", "redis+sentinel://h/main"])
async def test_any_number_of_queues_may_ask_at_once(url):
    """Each has a connection meanwhile; one too many would look like a server that is lost."""
    async with connected(read_address(url)) as client:
        assert client.connection_pool.max_connections > 100_000
