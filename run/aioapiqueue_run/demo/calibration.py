"""Chooses the limits of the mock account so that an unpaced scan on this machine exceeds them.

On an idle machine, an unpaced scan is several times faster than EC2's limits. On a busy machine it
may be slower, and nothing would be throttled. The account, its limits and the pace are then reduced
by one factor: the demonstration shows the same and takes as long.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from aioapiqueue import Rate
from aioapiqueue_run.demo.gate import EC2_READS, ThrottlingProxy
from aioapiqueue_run.demo.moto_server import public_among
from aioapiqueue_run.demo.scan import ScanPlan, Strategy

if TYPE_CHECKING:
    from aioapiqueue_run.demo.moto_server import Moto

__all__ = ["plan_at", "reached_rate", "scale_for"]

_SECONDS = 3.0
_SCALES = (1.0, 1 / 2, 1 / 4)
_LEAST_SCALE = 1 / 8
# 320 calls at 1.45 times the limit just empty the bucket: in 11 s, it serves 100 and 20/s, which is
# 320. The rest is for a machine that gets busier meanwhile, and makes the losses obvious.
_TIMES_THE_LIMIT = 5
_UNLIMITED = 1e9


def scale_for(reached: float) -> float:
    """Return the share of EC2's limits that the account gets: 1, 1/2, 1/4 or 1/8.

    Args:
        reached: the EC2 calls a second of an unpaced scan that is never throttled.
    """
    needed = _TIMES_THE_LIMIT * EC2_READS.calls / EC2_READS.per
    return next((scale for scale in _SCALES if reached >= needed * scale), _LEAST_SCALE)


def plan_at(scale: float, *, snapshots: int, rate: Rate, workers: int) -> ScanPlan:
    """Return the plan of the scans.

    Args:
        scale: the factor by which everything but `workers` is reduced.
        snapshots: number of snapshots in the account at a scale of 1.
        rate: the pace at a scale of 1.
        workers: number of concurrent EC2 calls in each scan.
    """
    fewer = round(snapshots * scale)
    calls = rate.calls * scale
    return ScanPlan(
        snapshots=fewer,
        public=public_among(fewer),
        # "80ms" is shown as "160ms", not as "0.5 per 80ms".
        rate=Rate(calls, rate.per) if calls >= 1 else Rate(1, rate.interval / scale),
        workers=workers,
        scale=scale,
    )


async def reached_rate(moto: Moto, plan: ScanPlan) -> float:
    """Return the EC2 calls a second that an unpaced scan makes now if none is throttled.

    Takes three seconds, or less if the scan ends sooner.
    """
    way = Strategy("unpaced", {})
    gate = ThrottlingProxy(moto.url, {}, scale=_UNLIMITED)
    async with gate.serve() as url, contextlib.AsyncExitStack() as stack:
        await way.open(stack, url, plan.workers)
        began = time.monotonic()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SECONDS):
                await way.run(plan, moto.snapshot)
        # EC2's calls end before those of the other services.
        seconds = way.figures.ec2_seconds or time.monotonic() - began
    return sum(one.is_ec2 for one in gate.of_key(way.scanner_key)) / seconds
