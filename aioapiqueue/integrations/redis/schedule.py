"""`SharedSchedule`: one quota for many hosts, on a Redis or Valkey server."""

from __future__ import annotations

from typing import TYPE_CHECKING

try:
    import redis
except ImportError as error:
    raise ImportError(
        'SharedSchedule needs redis: pip install "aioapiqueue[redis]"', name=error.name
    ) from error

from aioapiqueue._shared.limit_table import LimitTable
from aioapiqueue._shared.options import as_fallback, check_unused, yielding
from aioapiqueue._shared.redis.limiter import SharedLimiter
from aioapiqueue._shared.redis.messages import SharedSettings
from aioapiqueue.integrations.redis._codec import Codec
from aioapiqueue.integrations.redis._transport import RedisTransport
from aioapiqueue.spi import checks

if TYPE_CHECKING:
    from aioapiqueue import Rate
    from aioapiqueue.integrations.redis._transport import RedisClient
    from aioapiqueue.spi import Host, seam

__all__ = ["SharedSchedule"]


class SharedSchedule:
    """Share one quota among processes on many hosts, through a Redis or Valkey server.

        from redis.asyncio import Redis

        client = Redis.from_url("rediss://user:password@quota.example:6379/0")
        queue = ApiQueue("20/s", schedule=SharedSchedule(client, "ec2 eu-west-1 111122223333"))

    All queues of one name on one server share the quota. Every limit and lane applies to all of
    these queues together, and so do `concurrency`, `adaptive`, `set_rate`, `pause` and throttling.
    Changes reach the other processes within about a second. A call is charged to all its lanes and
    units in one step, or to none. `priority` and `order` apply within each queue, and queues take
    turns. Give all of them the same limits.

    A `Calendar`, or a `Concurrency` limit of a lane, cannot be shared: the queue raises
    `ValueError`. `"5 at once"` for the whole queue can be shared.

    What was spent of a `Budget` is kept until its keys are deleted, so the server must not evict
    keys: with a `maxmemory-policy` other than `noeviction`, calls get `SharedError`. If a process
    dies, what its running calls have reserved stays spent, because they may have been billed.

    While the server is unreachable, calls wait, or continue at `fallback`, and the queue retries
    every 0.025 to 2 seconds. `stats.fault` contains the reason. If waiting cannot help, as with a
    wrong password or a process that runs another version of this library, waiting callers get
    `SharedError`; a later call tries again. A waiting caller can be cancelled at any time: a slot
    that it was granted is refunded, or lost if the server cannot be reached for 5 seconds.

    `try_slot` always raises `WouldWait`, because only the server knows whether there is room.

    Args:
        client: `redis.asyncio.Redis`, `redis.asyncio.RedisCluster`, or the client returned by a
            Sentinel's `master_for`. Close it yourself, after the queue.
        name: the quota's name: text without `}`. All its keys begin with `{aioapiqueue:NAME}` and
            expire, unless the quota has a `Budget`.
        ahead: seconds of slots to fetch in advance for callers that already wait; default 0.2. A
            larger value saves requests to the server. A process that dies loses the slots that it
            fetched, and a pause in another process does not stop them.
        timeout: seconds to wait for one response; default 1.0.
        lease: seconds until the `concurrency` permits of a dead or silent process are free again;
            default 10.0.
        fallback: the rate of this queue while the server is unreachable, such as `"2/s"`. By
            default, calls wait. Calls to which a `Budget` applies wait in any case.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if a number is out of range, or `name` is empty, contains `}` or cannot be
            encoded as UTF-8.
    """

    def __init__(
        self,
        client: RedisClient,
        name: str,
        *,
        ahead: float = 0.2,
        timeout: float = 1.0,
        lease: float = 10.0,
        fallback: str | Rate | None = None,
    ) -> None:
        if isinstance(client, redis.Redis | redis.RedisCluster) or not hasattr(client, "evalsha"):
            # Only its type: a URL that is given in its place may contain a password.
            kind = f"{type(client).__module__}.{type(client).__qualname__}"
            raise TypeError(f"client must be a redis.asyncio client, not a {kind}")
        if not isinstance(name, str):
            raise TypeError(f"name must be a string, not {name!r}")
        # A cluster ends the part of a key that it hashes at the first "}".
        if not name or "}" in name:
            raise ValueError(f'name must be non-empty text without "}}", not {name!r}')
        # Here, not at the first call: a file name decoded with "surrogateescape", for example.
        try:
            name.encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"name cannot be encoded as UTF-8: {name!r}. Decode bytes with "
                'decode("utf-8", "replace")'
            ) from None
        checks.positive(ahead, of="ahead", least=0, most=checks.LONGEST)
        checks.positive(timeout, of="timeout", most=checks.LONGEST)
        checks.positive(lease, of="lease", most=checks.LONGEST)
        self.name = name
        self._client = client
        self.ahead, self.timeout, self.lease = ahead, timeout, lease
        self.fallback = as_fallback(fallback)
        self._in_use = False

    def make_limiter(self, host: Host, settings: seam.LimitSettings) -> SharedLimiter:
        """Create the limiter of one queue; see `LimiterFactory`. `ApiQueue` calls this.

        Raises:
            RuntimeError: if another queue already uses this schedule.
            TypeError: if the `Adaptive` has its own recovery curve, or a lane's key is not text,
                a number or a tuple of these.
            ValueError: if a limit cannot be shared.
        """
        check_unused(self, in_use=self._in_use)
        policy, catch_up = yielding(settings.adaptive), settings.catch_up
        own = SharedSettings(self.name, self.ahead, self.timeout, self.lease, self.fallback)
        codec = Codec(own, catch_up=catch_up, adaptive=policy, units=host.units)
        transport = RedisTransport(self._client, codec, own)
        table = LimitTable(host, settings, shares_all=False)
        self._in_use = True  # only now: what raises above leaves the schedule free for another try
        return SharedLimiter(host, transport, table, catch_up=catch_up)

    def __repr__(self) -> str:
        return f"SharedSchedule({self.name!r})"
