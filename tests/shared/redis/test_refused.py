"""Refused by the server, where there is a fallback rate: it is for a server that is not there."""

import asyncio

import pytest
from redis.exceptions import AuthenticationError

from aioapiqueue import ApiQueue
from aioapiqueue.exceptions import SharedError
from aioapiqueue.integrations.redis import SharedSchedule
from tests.helpers import introspect
from tests.helpers.virtual_client import VirtualClient


class Shut(VirtualClient):
    """Lets nobody in, after a while."""

    shut = False

    async def _call(self, *arguments):
        if self.shut:
            raise AuthenticationError("invalid username-password pair or user is disabled.")
        return await super()._call(*arguments)


async def test_refusals_let_nothing_through(valkey, name):
    """Nothing is let through between two refusals.

    Each caller has the error, also those who come before the next request.
    """
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


async def test_refusal_is_logged(valkey, name, caplog):
    """Calls do not wait then, nor go by the fallback: the log does not promise it."""
    client = Shut(valkey)
    client.shut = True
    async with ApiQueue("10/s", schedule=SharedSchedule(client, name, fallback="1/s")) as queue:
        with pytest.raises(SharedError) as caught:
            await queue.enqueue()
    (record,) = caplog.records
    assert record.getMessage() == (
        f"{caught.value}; calls of the queue (10/s) fail with SharedError until this is corrected "
        "(1 waiting, 0 running)"
    )


async def test_outbox_outlives_a_refusal(valkey, name):
    """What users change while the server refuses is sent once it does not.

    Nobody calls meanwhile, or is refused; the last change counts, for all of them.
    """
    client = Shut(valkey)
    queue = ApiQueue("10/s", schedule=SharedSchedule(client, name))
    other = ApiQueue("10/s", schedule=SharedSchedule(VirtualClient(valkey), name))
    loop = asyncio.get_running_loop()
    async with queue, other:
        for one in (queue, other):
            (await one.enqueue()).release()
        client.shut = True
        queue.set_rate("1/s")
        await asyncio.sleep(10)
        for number in range(1, 5001):
            queue.set_rate(f"{number}/s")
            queue.pause(20)
            queue.resume()
            queue.hold(5)
            queue.hold(5, key="nobody's")
        queue.set_rate("2/s")
        queue.set_rate("3/s", key="a")
        queue.pause(30 - 10)
        assert len(introspect.messages_of(queue)) < 10
        asks = queue.stats.asks
        await asyncio.sleep(10)
        assert 5 <= queue.stats.asks - asks <= 11  # by back-off
        client.shut = False
        await asyncio.sleep(2.1)
        for one in (queue, other):
            (await one.enqueue()).release()
            assert loop.time() >= 30  # the end of the pause, as it was said
            assert [str(limit) for limit in one.limits] == ["2/s"]
            assert [str(limit) for limit in introspect.lane_limits_of(one)["a"]] == ["3/s"]
        assert loop.time() < 32
        assert queue.stats.fault == ""


async def test_hold_during_refusal_ends_in_time(valkey, name):
    """A hold set while the server refuses ends when it should.

    That of a call pushed back, too; of one that is over, the others hear nothing.
    """
    client = Shut(valkey)
    queue = ApiQueue("10/s", schedule=SharedSchedule(client, name))
    other = ApiQueue("10/s", schedule=SharedSchedule(VirtualClient(valkey), name))
    loop = asyncio.get_running_loop()
    async with queue, other:
        slot = await queue.enqueue()
        client.shut = True
        queue.hold(2)
        await asyncio.sleep(10)
        slot.throttled(retry_after=20)
        slot.release()
        await asyncio.sleep(4)
        (await other.enqueue()).release()
        assert loop.time() < 15
        client.shut = False
        await asyncio.sleep(2.1)
        (await other.enqueue()).release()
        assert 30 - 1e-5 <= loop.time() < 30.1


async def test_aclose_during_refusal_ends_at_once(valkey, name):
    """Closed while the server refuses there is nothing to wait for.

    What could not be said is not said any more.
    """
    client = Shut(valkey)
    queue = ApiQueue("10/s", schedule=SharedSchedule(client, name))
    (await queue.enqueue()).release()
    client.shut = True
    queue.set_rate("1/s")
    await asyncio.sleep(10)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    await queue.aclose()
    assert loop.time() - begun <= 1
    assert asyncio.all_tasks() == {asyncio.current_task()}
