"""What is given to `SharedSchedule` instead of a client of redis.asyncio."""

import pytest
import redis

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
