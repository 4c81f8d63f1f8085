"""The client that a `SharedSchedule` is given, and what is none."""

from typing import ClassVar

import pytest
import redis
import redis.asyncio
from redis.exceptions import AskError, MovedError

from aioapiqueue import ApiQueue
from aioapiqueue.integrations.redis import SharedSchedule
from tests.helpers.virtual_client import VirtualClient


@pytest.mark.parametrize(
    "client",
    [
        "redis://pacer:sesame@quota.example:6379/0",
        redis.Redis.from_url("redis://pacer:sesame@quota.example:6379/0"),
    ],
    ids=["a URL", "a blocking client"],
)
def test_wrong_client_is_refused_without_secrets(client):
    """What is no client of redis asyncio is refused without its secrets.

    A blocking client would hold the loop up, and never work.
    """
    with pytest.raises(TypeError, match=r"a redis\.asyncio client, not a ") as refusal:
        SharedSchedule(client, "quota")
    assert "sesame" not in str(refusal.value)


def test_unsendable_name_is_refused_at_once():
    """A name that cannot be sent is refused at once.

    Not at the first call, hours later: half of a surrogate pair has no UTF-8 form.
    """
    client = redis.asyncio.Redis(host="quota.example")
    with pytest.raises(ValueError, match=r"encoded as UTF-8: .*decode\("):
        SharedSchedule(client, "quota \ud83d")
    SharedSchedule(client, "quota \U0001f600")


async def test_redirected_plain_client_is_no_refusal(valkey, name):
    """A cluster's node that sends a plain client elsewhere is no refusal.

    While a slot migrates (ASK) and once it has (MOVED): callers wait.
    """

    class Migrating(VirtualClient):
        answers: ClassVar = [AskError("1 127.0.0.1:1"), MovedError("1 127.0.0.1:1")]

        async def _call(self, *arguments):
            if self.answers:
                raise self.answers.pop(0)
            return await super()._call(*arguments)

    schedule = SharedSchedule(Migrating(valkey), name)
    async with ApiQueue("10/s", schedule=schedule) as queue, queue.slot():
        assert queue.stats.faults == 2
