"""A client for virtual time: what `SharedSchedule` asks, asked of a real server by tests."""

from __future__ import annotations

import asyncio
import math
import random
from typing import TYPE_CHECKING, Any

from redis import Redis, RedisCluster
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import TimeoutError as TimedOut

if TYPE_CHECKING:
    from tests.helpers.groups import Cluster, Sentinels
    from tests.helpers.servers import Server

EPOCH = 1_700_000_000  # seconds: the server's time when a VirtualLoop's clock says 0.0
FEW_AT_ONCE, MOST_AT_ONCE = 20, 10_000
"""Requests at one instant of virtual time: after the former, others on the loop have their turn, as
they have beside a real client; more than the latter are made by who asks again and again."""
OUTLIVE = """
for _, key in ipairs(KEYS) do
  local left = redis.call('PTTL', key)
  if left >= 0 and left < 60000 then redis.call('PEXPIRE', key, left + 60000) end
end
"""
"""Keeps keys for another minute."""


class VirtualClient:
    """Runs the script on a real server, with the running loop's time as the server's.

    The call blocks, so a VirtualLoop's clock stands still meanwhile; without `latency` it does not
    even suspend, and instants are exact.

    Only the time that the script is given is virtual. Keys expire in real time, so that a busy
    machine could make the server forget what is still owed: keys are kept for a minute longer.
    An hour of virtual history, which passes in milliseconds, expires none.

    Each of the options may be changed at any time, as an attribute.

    Args:
        target: where to ask: a server, or a blocking client of one.
        latency: seconds each way, drawn evenly between both. The server's instant is in between.
        loss: share of requests that never arrive, and again of replies that never come back: the
            call raises ConnectionError or TimeoutError, before or after it was done.
        skew: seconds by which the server's clock is ahead of EPOCH and the loop's clock.
        seed: of the random numbers for `latency` and `loss`.
        outlive: keep keys for longer.

    Attributes:
        down: while true, calls fail at once, and those under way are lost.
        silent: while true, calls never end (and never arrive).
        calls: number of calls so far, failed ones included.
        log: the loop's time and the op of each call that the server has done.
    """

    def __init__(
        self,
        target: Server | Cluster | Sentinels | Redis | RedisCluster,
        *,
        latency: tuple[float, float] = (0.0, 0.0),
        loss: float = 0.0,
        skew: float = 0.0,
        seed: int = 0,
        outlive: bool = True,
    ) -> None:
        self.target = target
        self.latency = latency
        self.loss = loss
        self.skew = skew
        self.outlive = outlive
        self.down = False
        self.silent = False
        self.calls = 0
        self.log: list[tuple[float, str]] = []
        self._random = random.Random(seed)
        self._at_once: tuple[float, int] = (0.0, 0)

    async def evalsha(self, sha: str, numkeys: int, *keys_and_args: Any) -> Any:
        """Run the script that the server knows as `sha`."""
        return await self._call("evalsha", sha, numkeys, *keys_and_args)

    async def eval(self, script: str, numkeys: int, *keys_and_args: Any) -> Any:
        """Run the script."""
        return await self._call("eval", script, numkeys, *keys_and_args)

    def now(self) -> int:
        """Return the server's time at this instant, in microseconds."""
        elapsed = asyncio.get_running_loop().time() + self.skew
        # Whole microseconds that have gone by, as a server counts; 0.3 * 1e6 may be a bit less.
        return EPOCH * 1_000_000 + math.floor(elapsed * 1_000_000 + 0.001)

    async def _call(self, method: str, script: str, numkeys: int, *keys_and_args: Any) -> Any:
        self.calls += 1
        if self._count_at_once() > FEW_AT_ONCE:
            await asyncio.sleep(0)
        await self._travel()
        arguments = list(keys_and_args)
        op, now = arguments[numkeys : numkeys + 2]
        assert now == "", f"no `now` after the op, but {now!r}: production must leave it empty"
        arguments[numkeys + 1] = str(self.now())
        reply = self._run(method, script, numkeys, *arguments)
        self.log.append((asyncio.get_running_loop().time(), op))
        await self._travel()
        return reply

    async def _travel(self) -> None:
        """Go one way."""
        if self.silent:
            await asyncio.get_running_loop().create_future()
        if not self.down and (taken := self._random.uniform(*self.latency)) > 0:
            await asyncio.sleep(taken)
        if self.down:
            raise Disconnected("down")
        if self._random.random() < self.loss:
            raise self._random.choice([Disconnected, TimedOut])("lost")

    def _count_at_once(self) -> int:
        """Return the number of requests at this instant; refuse those that are far too many."""
        now, (at, count) = asyncio.get_running_loop().time(), self._at_once
        count = count + 1 if now == at else 1
        assert count <= MOST_AT_ONCE, f"{MOST_AT_ONCE} requests at {now}, and another"
        self._at_once = now, count
        return count

    def _run(self, method: str, script: str, numkeys: int, *arguments: Any) -> Any:
        """Ask the real server. conftest.py lets this function block the loop."""
        # redis-py's clients have a method `sync`, too: it makes them a replica
        is_client = isinstance(self.target, Redis | RedisCluster)
        client = self.target if is_client else self.target.sync()
        ask = getattr(client, method)
        if not self.outlive:
            return ask(script, numkeys, *arguments)
        keys = arguments[:numkeys]
        if isinstance(client, RedisCluster):  # it has no transactions
            reply = ask(script, numkeys, *arguments)
            client.eval(OUTLIVE, numkeys, *keys)
            return reply
        at_once = client.pipeline(transaction=True)  # no time passes between the two
        getattr(at_once, method)(script, numkeys, *arguments)
        at_once.eval(OUTLIVE, numkeys, *keys)
        reply, _ = at_once.execute(raise_on_error=False)
        if isinstance(reply, Exception):
            raise reply
        return reply
