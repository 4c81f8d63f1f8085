"""How push-back is followed, beside botocore's adaptive mode: a shared bucket, on virtual time.

A server bucket of 20 per second is shared with a bystander who sends 5 per second and never
retries. It leaves after 10 minutes and comes back after 15. The queue is configured at 40 per
second: twice what there is. botocore's mode runs on its own classes (aiobotocore's, which are
those of botocore without the threads) with the same virtual clock; it has no ceiling to configure.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

from _common import Report, main, run
from _shared_bucket import AWAY, BACK, END, Log, adaptive_queue, share
from aiobotocore.retries.adaptive import (  # type: ignore[import-untyped]  # ships no types
    AsyncClientRateLimiter,
)
from aiobotocore.retries.bucket import AsyncTokenBucket  # type: ignore[import-untyped]  # as above
from botocore.retries.adaptive import RateClocker  # type: ignore[import-untyped]  # as above
from botocore.retries.throttling import CubicCalculator  # type: ignore[import-untyped]  # as above

from aioapiqueue import Adaptive
from aioapiqueue.testing import VirtualLoop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Send = Callable[[], Awaitable[bool]]
    Call = Callable[[Send], Awaitable[object]]

REFILL, BYSTANDER = 20.0, 5.0
FREE = REFILL - BYSTANDER
BESIDE = 20.0
"""The bucket that the other strategies get, too: botocore's mode takes twenty times as long as
ours, and 40/s has the same results with each bucket."""
SEEDS, SEEDS_BESIDE = 5, 3
"""Runs of ours, and of the others."""


class _LoopClock:
    """The loop's time, and a nanosecond more each time that it is read.

    The bucket sleeps for what is missing of a token, and by rounding that may be less than a float
    near the present can tell: a clock that stood still meanwhile would have it loop without end.
    """

    def __init__(self) -> None:
        self._read = 0

    def current_time(self) -> float:
        self._read += 1
        return asyncio.get_running_loop().time() + self._read * 1e-9


class _Detector:
    def is_throttling_error(self, *, served: bool) -> bool:
        return not served


def botocore_adaptive(clients: int) -> Call:
    """Return a way to call through botocore's adaptive mode, by so many clients in turn."""
    limiters: list[Any] = []
    for _ in range(clients):
        clock = _LoopClock()
        limiters.append(
            AsyncClientRateLimiter(
                CubicCalculator(starting_max_rate=0, start_time=clock.current_time()),
                RateClocker(clock),
                AsyncTokenBucket(max_rate=1, clock=clock),
                _Detector(),
                clock,
            )
        )
    in_turn = itertools.cycle(limiters)

    async def call(send: Send) -> None:
        limiter = next(in_turn)
        await limiter.on_sending_request(None)
        served = await send()
        await limiter.on_receiving_response(served=served)

    return call


STRATEGIES: dict[str, Callable[[], Call]] = {
    "adaptive": lambda: adaptive_queue("40/s", Adaptive("1/s")),
    "not adaptive, 40/s": lambda: adaptive_queue("40/s", None),
    "botocore, 1 client": lambda: botocore_adaptive(1),
    "botocore, 4 clients": lambda: botocore_adaptive(4),
}


def play(capacity: float, strategy: str, seed: int) -> tuple[Log, Log]:
    """Run the scenario once."""

    async def scenario() -> tuple[Log, Log]:
        return await share(
            STRATEGIES[strategy](),
            capacity=capacity,
            refill=REFILL,
            bystander=BYSTANDER,
            latency=0.1,
            seed=seed,
        )

    return run(scenario(), VirtualLoop)


def until_taken_up(ours: Log) -> float:
    """Return how long after the bystander left nine tenths of all are used, over 10 seconds."""
    ends = range(int(AWAY) + 10, int(BACK))
    found = (end - AWAY for end in ends if ours.rate(end - 10, end) >= 0.9 * REFILL)
    return next(found, float("inf"))


def shared(report: Report, *, quick: bool) -> None:
    """Share one bucket (20/s) with a bystander (5/s) who leaves and comes back."""
    seeds, beside = (1, 1) if quick else (SEEDS, SEEDS_BESIDE)
    capacities = (20.0,) if quick else (5.0, 20.0, 100.0)
    every = [
        (capacity, strategy)
        for capacity in capacities
        for strategy in STRATEGIES
        if capacity == BESIDE or strategy == "adaptive"
    ]
    with ProcessPoolExecutor() as pool:  # on virtual time, plays do not disturb each other
        played = {
            (capacity, strategy): pool.map(
                partial(play, capacity, strategy),
                range(seeds if strategy == "adaptive" else beside),
            )
            for capacity, strategy in every
        }
    for capacity in capacities:
        rows = []
        for strategy in (strategy for size, strategy in every if size == capacity):
            plays = list(played[capacity, strategy])
            settled = [ours.refused(300, AWAY) for ours, _ in plays]
            used = [ours.rate(300, AWAY) / FREE for ours, _ in plays]
            bystander = [theirs.refused(300, AWAY) for _, theirs in plays]
            alone = [ours.rate(AWAY + 120, BACK) / REFILL for ours, _ in plays]
            back = [theirs.refused(BACK, END) for _, theirs in plays]
            rows.append(
                (
                    strategy,
                    f"{max(settled):.2%}",
                    f"{statistics.median(used):.2f}",
                    f"{max(bystander):.2%}",
                    f"{statistics.median(alone):.2f}",
                    f"{max(back):.2%}",
                )
            )
            if strategy == "adaptive":
                where = f"(bucket of {capacity:g})"
                report.target(f"throttled share {where}", max(settled), most=0.002)
                report.target(f"share of the free rate used {where}", min(used), least=0.9)
                taken_up = max(until_taken_up(ours) for ours, _ in plays)
                report.target(f"seconds until it has what is left {where}", taken_up, most=120)
                report.target(f"bystander's failures, back again {where}", max(back), most=0.01)
        report.table(
            f"Server bucket of {capacity:g}, 20/s; minutes 5-10, 12-15 (alone), 15-20 (back); "
            f"{seeds} runs of ours, {beside} of others; worst of shares refused, median of rates",
            ("", "throttled", "used", "bystander", "alone", "back"),
            rows,
        )


if __name__ == "__main__":
    main(str(__doc__).partition("\n")[0], shared)
