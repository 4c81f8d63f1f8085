"""Refused by the server, where there is a fallback rate: it is for a server that is not there."""

import asyncio

from redis.exceptions import AuthenticationError
from virtual_client import VirtualClient

from aioapiqueue import ApiQueue
from aioapiqueue.exceptions import SharedError
from aioapiqueue.integrations.redis import SharedSchedule


class Shut(VirtualClient):
    """Lets nobody in, after a while."""

    shut = False

    async def _call(self, *arguments):
        if self.shut:
            raise AuthenticationError("invalid username-password pair or user is disabled.")
        return await super()._call(*arguments)


async def test_nothing_is_let_through_between_two_refusals(valkey, name):
    """Each caller has the error, also those who come before the next request."""
    client = Shut(valkey)
    schedule = SharedSchedule(client, name, fallback="100/s")
    async with ApiQueue("10/s", schedule=schedule) as queue:
        refused = []

        async def caller():
            while True:
                try:
                    async with queue.slot():
                        pass
                except SharedError as error:
                    refused.append(error)

        callers = [asyncio.create_task(caller()) for _ in range(5)]
        await asyncio.sleep(1)
        client.down = True
        await asyncio.sleep(3)
        assert queue.stats.released > 200  # that is the fallback
        client.down, client.shut = False, True
        await asyncio.sleep(3)  # until it has been asked again
        before = queue.stats.released
        await asyncio.sleep(20)
        assert queue.stats.released == before
        assert len(refused) >= 5 * 10
        client.shut = False
        await asyncio.sleep(3)
        assert queue.stats.released > before
        for each in callers:
            each.cancel()
        await asyncio.wait(callers)
