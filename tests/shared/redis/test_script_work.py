"""What one call of the script does, counted: a server does nothing else meanwhile."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from aioapiqueue import ApiQueue
from aioapiqueue.integrations.redis import SharedSchedule
from aioapiqueue.spi import algorithms
from tests.helpers import introspect
from tests.helpers.virtual_client import VirtualClient

if TYPE_CHECKING:
    from tests.helpers.servers import Server


class Counted:
    """A server that notes what each call of the script is about.

    Attributes:
        commands: (kind of message, how many commands on lists the script gave), in order.
        granted: how many slots each request was granted.
        changed: how many changed costs each message named.
    """

    def __init__(self, server: Server) -> None:
        self.commands: list[tuple[str, int]] = []
        self.granted: list[int] = []
        self.changed: list[int] = []
        self._client = server.sync()

    def sync(self) -> Counted:
        """Return what runs the script."""
        return self

    def evalsha(self, sha: str, numkeys: int, *arguments: Any) -> Any:
        """Run the script that the server knows as `sha`."""
        self._client.config_resetstat()
        reply = self._client.evalsha(sha, numkeys, *arguments)
        stats = self._client.info("commandstats")
        names = ("lindex", "linsert", "lpop", "lrange", "lset", "rpop", "rpush")
        number = sum(stats[one]["calls"] for name in names if (one := f"cmdstat_{name}") in stats)
        verb, payload = arguments[numkeys], json.loads(arguments[numkeys + 2])
        self.commands.append((verb, number))
        if verb == "ask":
            self.granted.append(len(reply[7]) // 3)
        self.changed.append(len(payload.get("changes", ())))
        return reply

    def eval(self, *arguments: Any) -> Any:
        """Run the script."""
        return self._client.eval(*arguments)

    def most(self, verb: str) -> int:
        """Return how many commands a message of this kind was at most."""
        return max(number for its, number in self.commands if its == verb)


async def test_full_window_is_read_once(valkey, name):
    """Of a full window, no entry is read again for the next slot, or the next one given back.

    A request read 64 for each slot, and a message that gave 256 back all of 10 ms for each: 25 and
    140 ms.
    """
    counted = Counted(valkey)
    schedule = SharedSchedule(VirtualClient(counted, outlive=False), name)
    async with ApiQueue("1000 in any 1s", "1000/s", schedule=schedule) as queue:
        calls = [queue.enqueue() for _ in range(1600)]
        await asyncio.sleep(1.2)
        assert queue.stats.released > 1100
        for one in calls:
            one.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
    assert counted.most("ask") < 20
    assert counted.most("return") < 2.5 * max(counted.changed)


@pytest.mark.parametrize(
    ("limits", "lanes", "slots"),
    [
        (("20000/s",), None, 400),
        (("20000 in any 1s",), None, 266),
        (("20000/s",), {"*": "5000/s"}, 100),
        ((), {"*": "5000/s"}, 114),
        (("20000/s",), {"*": "5000/s, 20000 in any 1s"}, 57),
    ],
)
async def test_requests_grant_few_slots(valkey, name, limits, lanes, slots):
    """No request is granted so many slots that the server is busy for long; nothing is lost by it.

    Of all that is given back at once, no message names more than 128.
    """
    counted = Counted(valkey)
    schedule = SharedSchedule(VirtualClient(counted, outlive=False), name)
    async with ApiQueue(*limits, lanes=lanes, schedule=schedule) as queue:
        calls = [queue.enqueue(key=number % 2) for number in range(2000)]
        await asyncio.sleep(0.125 + algorithms.QUANTUM)  # the group of what is due by 0.125 s
        assert queue.stats.released >= (1240 if lanes else 2000)
        for one in calls:
            one.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
    assert max(counted.granted) == slots
    assert max(counted.changed) <= 128


async def test_lanes_of_several_limits_count(valkey, name):
    """A request names fewer lanes where each has several limits, or the log of a window."""
    client = VirtualClient(valkey)
    lanes = {"*": "10/s, 100 in any 10s"}
    async with ApiQueue(lanes=lanes, schedule=SharedSchedule(client, name)) as queue:
        sizes: list[int] = []
        introspect.before_requests(queue, sizes.append)
        await asyncio.gather(*(queue.enqueue(key=number) for number in range(100)))
        assert asyncio.get_running_loop().time() < 0.1
    assert max(sizes) == 16
