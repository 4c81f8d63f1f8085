"""The schedule of a quota that is kept on a Redis or Valkey server."""

from __future__ import annotations

from typing import TYPE_CHECKING

try:
    import redis
except ImportError as error:
    raise ImportError(
        'SharedSchedule needs redis: pip install "aioapiqueue[redis]"', name=error.name
    ) from error

from aioapiqueue._fleet.limiter import SharedLimiter
from aioapiqueue._fleet.limits import LimitTable
from aioapiqueue._fleet.options import as_fallback, yielding
from aioapiqueue._rate import LONGEST, positive
from aioapiqueue.integrations.redis._codec import Codec, Settings
from aioapiqueue.integrations.redis._transport import RedisTransport

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from aioapiqueue._lanes import AdaptivePolicy
    from aioapiqueue._limiter import Host
    from aioapiqueue._rate import Limit, Rate
    from aioapiqueue.integrations.redis._transport import Client

__all__ = ["SharedSchedule"]


class SharedSchedule:
    """Keeps the limits of a queue together with all others of this name on the same server.

        from redis.asyncio import Redis

        client = Redis.from_url("rediss://user:password@quota.example:6379/0")
        queue = ApiQueue("20/s", schedule=SharedSchedule(client, "ec2 eu-west-1 111122223333"))

    Every limit and lane holds for all of them, in every unit, and so do `concurrency`, `adaptive`,
    `set_rate`, `pause` and push-back, which reach the others within a second. A call is charged to
    all its lanes and units at one instant, or to none. The order of callers (`priority`, `order`)
    is decided in each queue, for its own; queues take turns. Give all of them the same limits.

    A `Calendar`, and a `Concurrency` of a lane, are not shared: the queue refuses them with a
    `ValueError` that says what to write instead. `"5 at once"` of the queue itself is shared.

    While the server cannot be reached, calls wait, and the queue tries again (after 0.025 to 2
    seconds, at random); `stats.fault` names the reason. Where it refuses (a wrong password),
    callers get `SharedError`; so they do while another version of this library uses the name.

    `try_slot` of such a queue always raises `WouldWait`, as the server has to be asked.

    Args:
        client: of redis-py: `redis.asyncio.Redis`, `redis.asyncio.RedisCluster`, or what a
            Sentinel's `master_for` returns. It stays yours to close, after the queue.
        name: of the quota. Its keys all begin with `{aioapiqueue:NAME}`, lie in one slot of a
            cluster, and expire.
        ahead: seconds by which a queue takes slots ahead of their time, for callers that wait
            already; 0.2 by default. A longer time saves round trips; what is taken is lost if
            the process dies, and a pause elsewhere does not reach it.
        timeout: seconds for one answer, 1.0 by default.
        lease: seconds after which the permits (`concurrency`) of a process that died or went
            silent are free again, 10 by default.
        fallback: the rate of this queue alone while the server cannot be reached; default: its
            calls wait.

    Raises:
        TypeError: a value of another type.
        ValueError: a number that is out of range, or a name that is empty or has no UTF-8 form.
    """

    def __init__(
        self,
        client: Client,
        name: str,
        *,
        ahead: float = 0.2,
        timeout: float = 1.0,
        lease: float = 10.0,
        fallback: str | Rate | None = None,
    ) -> None:
        if isinstance(client, redis.Redis | redis.RedisCluster) or not hasattr(client, "evalsha"):
            # Its type only: where a URL is given instead, there is a password in it.
            kind = f"{type(client).__module__}.{type(client).__qualname__}"
            raise TypeError(f"client takes a client of redis.asyncio, not a {kind}")
        if not isinstance(name, str):
            raise TypeError(f"name takes a string, not {name!r}")
        if not name or "}" in name:
            raise ValueError(f"name must be some text without a brace, not {name!r}")
        try:
            name.encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"name must be text that has a UTF-8 form, not {name!r}: convert bytes with "
                'decode("utf-8", "replace")'
            ) from None
        positive(ahead, of="ahead", least=0, most=LONGEST)
        positive(timeout, of="timeout", most=LONGEST)
        positive(lease, of="lease", most=LONGEST)
        self.name = name
        self._client = client
        self.ahead, self.timeout, self.lease = ahead, timeout, lease
        self.fallback = as_fallback(fallback)
        self._in_use = False

    def make_limiter(
        self,
        host: Host,
        limits: Sequence[Limit],
        lanes: Mapping[Hashable, Sequence[Limit]],
        *,
        concurrency: float,
        catch_up: float,
        adaptive: AdaptivePolicy | None,
    ) -> SharedLimiter:
        """Return the part of one queue in the quota; called by `ApiQueue`.

        Args:
            host: the queue's dispatcher.
            limits: of all calls together.
            lanes: limits of single keys and patterns.
            concurrency: how many bodies may run at once, of all processes; inf: any number.
            catch_up: seconds by which late calls may be made up for.
            adaptive: how to slow down on push-back.

        Raises:
            RuntimeError: another queue has it already.
            TypeError: an `Adaptive` with a curve of its own, which the server does not know.
        """
        if self._in_use:
            raise RuntimeError(f"{self!r} is in use: make one for each queue, of the same name")
        policy = yielding(adaptive)
        settings = Settings(self.name, self.ahead, self.timeout, self.lease, self.fallback)
        codec = Codec(settings, catch_up=catch_up, adaptive=policy, units=host.units)
        transport = RedisTransport(self._client, codec, settings)
        table = LimitTable(
            limits,
            lanes,
            concurrency=concurrency,
            catch_up=catch_up,
            adaptive=adaptive,
            report=host.report,
            units=host.units,
        )
        self._in_use = True
        return SharedLimiter(host, transport, table, catch_up=catch_up)

    def __repr__(self) -> str:
        return f"SharedSchedule({self.name!r})"
