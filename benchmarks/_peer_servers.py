"""pyrate-limiter, throttled-py, limits and token-throttle: made for servers and for LLMs.

The last two know whole seconds only, and start with a second's burst.
"""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import TYPE_CHECKING

from _peer_limiters import Entered, Peer, per

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from _peer_limiters import Acquire, Block, Lane, Two
    from limits.aio.storage import Storage
    from pyrate_limiter import Limiter as PyrateLimiter
    from throttled.rate_limiter import Quota
    from token_throttle import RateLimiterBackendBuilderInterface

__all__ = ["Limits", "Pyrate", "ThrottledPy", "TokenThrottle"]

LONG = 1e6
"""Seconds that a call may wait, where a limiter wants to know."""


class Pyrate(Peer):
    """GCRA on a clock of milliseconds."""

    distribution = "pyrate-limiter"
    modules = ("pyrate_limiter",)
    mode = "StateBucket (GCRA), burst b, buffer_ms=0, try_acquire_async()"

    def limiter(self, rate: float, burst: int) -> PyrateLimiter:
        """Return a limiter."""
        from pyrate_limiter import GCRA, Limiter, Rate, SingleBucketFactory, StateBucket

        calls, seconds = per(rate)
        bucket = StateBucket([Rate(calls, 1000 * seconds, burst=burst)], GCRA())
        factory = SingleBucketFactory(bucket, schedule_leak=False)  # or a thread for each limiter
        return Limiter(factory, buffer_ms=0)

    def acquire(self, rate: float, burst: int) -> Acquire:
        """Acquire from it."""
        return self.limiter(rate, burst).try_acquire_async

    def block(self, rate: float, burst: int) -> Block:
        """Acquire from it in a thread."""
        return self.limiter(rate, burst).try_acquire

    def shared(self, url: str, rate: float, burst: int) -> Acquire:
        """Acquire from one whose state is on a server."""
        from pyrate_limiter import GCRA, Limiter, Rate, SingleBucketFactory, StateBucket
        from pyrate_limiter.buckets.redis_state import RedisStateStore
        from redis.asyncio import Redis

        calls, seconds = per(rate)
        store = RedisStateStore(Redis.from_url(url), "peers")
        bucket = StateBucket([Rate(calls, 1000 * seconds, burst=burst)], GCRA(), store=store)
        factory = SingleBucketFactory(bucket, schedule_leak=False)
        return Limiter(factory, buffer_ms=0).try_acquire_async

    def two(self, requests: int, tokens: int, *, burst: int = 1) -> Two:
        """Acquire from one, then from the other."""
        calls, amounts = self.limiter(requests, burst), self.limiter(tokens, tokens)

        async def acquire(cost: int) -> None:
            await calls.try_acquire_async()
            await amounts.try_acquire_async(weight=cost)

        return acquire


class ThrottledPy(Entered):
    """GCRA that waits 0.2 s at least."""

    distribution = "throttled-py"
    modules = ("throttled", "throttled.asyncio")
    mode = "Throttled(using='gcra'), burst b, a timeout, async with; it has keys"

    @staticmethod
    def quota(rate: float, burst: int) -> Quota:
        """Return a quota."""
        from throttled.rate_limiter import per_duration

        calls, seconds = per(rate)
        return per_duration(timedelta(seconds=seconds), calls, burst)

    def manager(self, rate: float, burst: int) -> AbstractAsyncContextManager[object]:
        """Make one, with a store of its own."""
        from throttled.asyncio import MemoryStore, Throttled

        quota = self.quota(rate, burst)
        return Throttled("key", LONG, using="gcra", quota=quota, store=MemoryStore())

    def shared(self, url: str, rate: float, burst: int) -> Acquire:
        """Ask one whose store is a server."""
        from throttled.asyncio import RedisStore, Throttled

        quota = self.quota(rate, burst)
        limiter = Throttled("key", LONG, using="gcra", quota=quota, store=RedisStore(url))
        return limiter.limit

    def block(self, rate: float, burst: int) -> Block:
        """Enter it in a thread."""
        from throttled import MemoryStore, Throttled

        limiter = Throttled(
            "key", LONG, using="gcra", quota=self.quota(rate, burst), store=MemoryStore()
        )

        def acquire() -> None:
            with limiter:
                pass

        return acquire

    def two(self, requests: int, tokens: int, *, burst: int = 1) -> Two:
        """Ask one, then the other."""
        from throttled.asyncio import MemoryStore, Throttled

        calls, amounts = (
            Throttled("key", LONG, using="gcra", quota=quota, store=MemoryStore())
            for quota in (self.quota(requests, burst), self.quota(tokens, tokens))
        )

        async def acquire(cost: int) -> None:
            await calls.limit()
            await amounts.limit(cost=cost)

        return acquire

    def lane(self, rate: int) -> Lane:
        """Name a key, of a store that is large enough to forget none."""
        from throttled.asyncio import MemoryStore, Throttled

        store = MemoryStore(options={"MAX_SIZE": 10_000})
        limiter = Throttled(None, LONG, using="gcra", quota=self.quota(rate, 1), store=store)

        async def acquire(key: str) -> None:
            await limiter.limit(key)

        return acquire


class WholeSeconds(Peer):
    """A limiter that knows whole seconds only, the first of which is its burst."""

    settles = 1.0

    def bursts(self, rate: float, burst: int) -> int:
        """Return what it lets through in one second, or in whatever is its shortest time."""
        return per(rate)[0]


class Limits(WholeSeconds):
    """A moving window, which never waits."""

    distribution = "limits"
    modules = ("limits.strategies", "limits.aio.strategies", "limits.aio.storage")
    mode = "moving window of a second; if hit() says no, sleep until its reset; it has keys"

    def acquire(self, rate: float, burst: int) -> Acquire:
        """Hit one key."""
        lane = self.lane(rate)

        async def acquire() -> None:
            await lane("key")

        return acquire

    def block(self, rate: float, burst: int) -> Block:
        """Hit it in a thread."""
        from limits import RateLimitItemPerSecond
        from limits.storage import MemoryStorage
        from limits.strategies import MovingWindowRateLimiter

        item, limiter = RateLimitItemPerSecond(*per(rate)), MovingWindowRateLimiter(MemoryStorage())

        def acquire() -> None:
            while not limiter.hit(item, "key"):
                time.sleep(
                    max(0.001, limiter.get_window_stats(item, "key").reset_time - time.time())
                )

        return acquire

    def shared(self, url: str, rate: float, burst: int) -> Acquire:
        """Hit a key on a server."""
        from limits.aio.storage import RedisStorage

        lane = self.hit(rate, RedisStorage(f"async+{url}", implementation="redispy"))

        async def acquire() -> None:
            await lane("key")

        return acquire

    def lane(self, rate: float) -> Lane:
        """Hit a key."""
        from limits.aio.storage import MemoryStorage

        return self.hit(rate, MemoryStorage())

    def hit(self, rate: float, storage: Storage) -> Lane:
        """Return what hits a key until it is let through."""
        from limits import RateLimitItemPerSecond
        from limits.aio.strategies import MovingWindowRateLimiter

        item, limiter = RateLimitItemPerSecond(*per(rate)), MovingWindowRateLimiter(storage)

        async def acquire(key: str) -> None:
            while not await limiter.hit(item, key):
                stats = await limiter.get_window_stats(item, key)
                await asyncio.sleep(max(0.001, stats.reset_time - time.time()))

        return acquire

    def two(self, requests: int, tokens: int, *, burst: int = 1) -> Two:
        """Hit both as soon as both would say yes: nothing runs between, if nobody holds a lock."""
        from limits import RateLimitItemPerSecond
        from limits.aio.storage import MemoryStorage
        from limits.aio.strategies import MovingWindowRateLimiter

        limiter = MovingWindowRateLimiter(MemoryStorage())
        calls, amounts = RateLimitItemPerSecond(requests), RateLimitItemPerSecond(tokens)

        async def acquire(cost: int) -> None:
            asked = ((calls, "requests", 1), (amounts, "tokens", cost))
            while True:
                for item, key, amount in asked:
                    if not await limiter.test(item, key, cost=amount):
                        stats = await limiter.get_window_stats(item, key)
                        await asyncio.sleep(max(0.001, stats.reset_time - time.time()))
                        break
                else:
                    for item, key, amount in asked:
                        await limiter.hit(item, key, cost=amount)
                    return

        return acquire


class TokenThrottle(WholeSeconds):
    """Token buckets that are charged together."""

    distribution = "token-throttle"
    modules = ("token_throttle",)
    mode = "Quota(limit=r, per_seconds=1), in memory, async with reserve(); models are keys"
    python = (3, 12)

    def acquire(self, rate: float, burst: int) -> Acquire:
        """Reserve one request."""
        from token_throttle import MemoryBackendBuilder

        return self.reserve(rate, MemoryBackendBuilder())

    def shared(self, url: str, rate: float, burst: int) -> Acquire:
        """Reserve one request on a server."""
        from redis.asyncio import Redis
        from token_throttle import RedisBackendBuilder

        backend = RedisBackendBuilder(
            Redis.from_url(url), key_prefix="peers", lock_blocking_timeout_seconds=60
        )
        return self.reserve(rate, backend)

    def reserve(self, rate: float, backend: RateLimiterBackendBuilderInterface) -> Acquire:
        """Return what reserves one request."""
        from token_throttle import PerModelConfig, Quota, RateLimiter, UsageQuotas

        calls, seconds = per(rate)
        quotas = UsageQuotas([Quota(metric="requests", limit=calls, per_seconds=seconds)])
        limiter = RateLimiter(PerModelConfig(quotas=quotas), backend=backend)
        usage = {"requests": 1}

        async def acquire() -> None:
            async with limiter.reserve(usage, model="model") as handle:
                handle.set_actual_usage(usage)

        return acquire

    def block(self, rate: float, burst: int) -> Block:
        """Reserve one in a thread."""
        from token_throttle import (
            PerModelConfig,
            Quota,
            SyncMemoryBackendBuilder,
            SyncRateLimiter,
            UsageQuotas,
        )

        calls, seconds = per(rate)
        quotas = UsageQuotas([Quota(metric="requests", limit=calls, per_seconds=seconds)])
        limiter = SyncRateLimiter(PerModelConfig(quotas=quotas), backend=SyncMemoryBackendBuilder())
        usage = {"requests": 1}

        def acquire() -> None:
            with limiter.reserve(usage, model="model") as handle:
                handle.set_actual_usage(usage)

        return acquire

    def two(self, requests: int, tokens: int, *, burst: int = 1) -> Two:
        """Reserve both."""
        from token_throttle import (
            MemoryBackendBuilder,
            PerModelConfig,
            Quota,
            RateLimiter,
            UsageQuotas,
        )

        amounts = {"requests": requests, "tokens": tokens}
        quotas = UsageQuotas(
            [Quota(metric=unit, limit=limit, per_seconds=1) for unit, limit in amounts.items()]
        )
        limiter = RateLimiter(PerModelConfig(quotas=quotas), backend=MemoryBackendBuilder())

        async def acquire(cost: int) -> None:
            usage = {"requests": 1, "tokens": cost}
            async with limiter.reserve(usage, model="model") as handle:
                handle.set_actual_usage(usage)

        return acquire

    def lane(self, rate: int) -> Lane:
        """Take a model for a key."""
        from token_throttle import (
            MemoryBackendBuilder,
            PerModelConfig,
            Quota,
            RateLimiter,
            UsageQuotas,
        )

        quotas = UsageQuotas([Quota(metric="requests", limit=rate, per_seconds=1)])

        def configuration(model: str) -> PerModelConfig:
            return PerModelConfig(quotas=quotas, model_family=model)

        limiter = RateLimiter(configuration, backend=MemoryBackendBuilder())
        usage = {"requests": 1}

        async def acquire(key: str) -> None:
            async with limiter.reserve(usage, model=key) as handle:
                handle.set_actual_usage(usage)

        return acquire
