"""Limits that are replaced by those of another kind: what was let through counts."""

from __future__ import annotations

import asyncio

import pytest

from aioapiqueue import ApiQueue
from tests.helpers.instants import exactly, free, now, released
from tests.helpers.limiters import Shared

FLIPS = [  # one limit, which lets 10 start at once, the other, and how many that does
    ("10/s burst 10", "10 in any 1s", 10),
    ("10/s burst 10", "20 in any 1s", 20),
    ("10 in any 1h", "10/h burst 10", 10),
    ("10 tokens/s burst 10", "10 tokens in any 1s", 10),
]
SWAPS = [  # limits that let 20 start, and others after which none of them has been forgotten
    (["20/s burst 20", "20 in any 1h"], ["20 in any 1s", "20/h burst 20"]),
    (["20/s burst 20", "20 in any 1h"], ["20/h burst 20", "20 in any 1s"]),
    (["20 in any 1s", "20 in any 1h"], ["20 in any 1h"]),
    (["20 in any 1s", "20 in any 1h"], ["20/s burst 20", "20 in any 1h"]),
    (["20/s burst 20", "20/h burst 20"], ["20/h burst 20"]),
]
WITH_CALENDARS = [("10 in each day", "10 in any 24h", 10), ("10 in each day", "10/h burst 10", 10)]


async def take(limiter, queue, **call):
    """Return how many calls start at once now; they end at once."""
    calls = [queue.enqueue(**call) for _ in range(30)]
    for _ in range(3):
        await limiter.settled()
    started = [one for one in calls if one.done()]
    for one in calls:
        (one.result().release if one.done() else one.cancel)()
    await limiter.settled()
    return len(started)


async def flip(limiter, one, other, key, **call):
    """Use up one limit, replace it by the other, and back; return how many calls started."""
    lanes = {} if key is None else {key: one}
    queue = limiter.queue(*([one] if key is None else []), lanes=lanes)
    started = await take(limiter, queue, key=key, **call)
    for limit in (other, one, other, one, other):
        queue.set_rate(limit, key=key)
        await limiter.settled()
        started += await take(limiter, queue, key=key, **call)
    return started


@pytest.mark.contract
@pytest.mark.parametrize("key", [None, "tenant"])
@pytest.mark.parametrize(("one", "other", "most"), FLIPS)
async def test_flips_give_no_fresh_quota(limiter, one, other, most, key):
    """Back and forth at one instant, no more start than the larger of both lets through."""
    cost = {"cost": {"tokens": 1}} if "tokens" in one else {}
    expected = 10 if getattr(limiter, "ahead", 0) else most  # later instants are taken ahead there
    assert expected <= await flip(limiter, one, other, key, **cost) <= most


@pytest.mark.contract
@pytest.mark.parametrize(("one", "other", "most"), WITH_CALENDARS)
async def test_flips_of_calendars(limiter, one, other, most):
    """The same with a day, which a server does not know."""
    if isinstance(limiter, Shared):
        with pytest.raises(ValueError, match="cannot be shared"):
            limiter.queue(one)
        return
    assert await flip(limiter, one, other, None) == most


@pytest.mark.contract
@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize(("one", "other"), SWAPS)
async def test_several_change_at_once(limiter, one, other, restarts):
    """Whatever changes its kind, its numbers or its place: nothing starts afresh.

    After two seconds, only the limit of the hour still counts the calls.
    """
    make = limiter.quota()
    queue = make(*one)
    assert await take(limiter, queue) == 20
    await asyncio.sleep(2)
    if restarts and limiter.shared:
        await queue.aclose()
        queue = make(*other)
    else:
        queue.set_rate(*other)
    await limiter.settled()
    assert await take(limiter, queue) == 0


@pytest.mark.contract
@pytest.mark.parametrize(("one", "other", "most"), FLIPS)
async def test_restarts_give_no_fresh_quota(limiter, one, other, most):
    """A process that is started with another kind of limit goes on with the quota as it is.

    Each queue of a process by itself has its own.
    """
    make, started = limiter.quota(), 0
    cost = {"cost": {"tokens": 1}} if "tokens" in one else {}
    for limit in (one, other, one, other):
        queue = make(limit)
        started += await take(limiter, queue, **cost)
        await queue.aclose()
        await limiter.settled()
    if limiter.shared:
        assert 10 <= started <= most
    else:
        assert started == 2 * (10 + most)


async def test_bucket_goes_by_the_windows_instants():
    """A rate in place of a window is as it would be if it had been in force before."""
    queue = ApiQueue("10 in any 4s", catch_up=0)
    assert free(queue) == 10
    await asyncio.sleep(1)
    queue.set_rate("5/s burst 10")
    assert free(queue) == 5  # the others come back within the second that follows
    assert queue.estimate() == exactly(0.2)


async def test_window_counts_what_is_not_recovered():
    """As of now, as a bucket does not know when its calls have started."""
    queue = ApiQueue("5/s burst 10", catch_up=0)
    assert free(queue) == 10
    await asyncio.sleep(1)
    queue.set_rate("10 in any 4s")
    assert free(queue) == 5
    await asyncio.sleep(3.9)
    assert free(queue) == 0
    await asyncio.sleep(0.1)
    assert free(queue) == 10


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (["3 in any 20s"], ["3 in any 20s", "2 in any 40s"]),  # a second window beside the first
        (["5 in any 60s", "3 in any 10s"], ["2 in any 40s"]),  # one in place of two
    ],
)
async def test_window_counts_calls_when_they_started(before, after):
    """Of the limits that it follows, the one that remembers more says which calls it counts."""
    queue, began = ApiQueue(*before), now()
    queue.try_slot().release()
    await asyncio.sleep(15)
    queue.try_slot().release()
    queue.set_rate(*after)
    assert [at - began for at in await released(queue, 3)] == exactly([40, 55, 80])


async def test_rate_after_a_calendar_starts_used_up():
    """As a calendar does not know when its calls started: a day of them is no debt of hours."""
    queue = ApiQueue("10000 in each day", catch_up=0)
    queue.try_slot(cost=9000)
    queue.set_rate("60/min burst 60")
    assert queue.estimate() == exactly(1)
    queue.set_rate("10000 in each day")
    assert free(queue, 9999) == 9940


async def test_raised_numbers_owe_no_more():
    """Of two limits that are raised, each goes on with what it has itself."""
    queue = ApiQueue("60/min burst 60", "10000 in each day", catch_up=0)
    for _ in range(10):
        queue.try_slot(cost=60)
        await asyncio.sleep(60)
    queue.set_rate("100/min burst 60", "20000 in each day")
    assert free(queue) == 60


async def test_raised_window_leaves_the_rate_alone():
    """A window of the same length forgets no call, so that a full bucket beside it stays full."""
    queue = ApiQueue("60/min burst 60", "600 in any 1h", catch_up=0)
    queue.try_slot(cost=60)
    await asyncio.sleep(60)
    queue.set_rate("30/min burst 60", "1200 in any 1h")
    assert free(queue) == 60


async def test_raised_window_counts_its_own_calls():
    """What a bucket beside it has not recovered left the window long ago."""
    queue = ApiQueue("1/min burst 10", "10 in any 1s", catch_up=0)
    queue.try_slot(cost=10)
    await asyncio.sleep(1.5)
    queue.set_rate("1000/s burst 10", "12 in any 1s")
    await asyncio.sleep(0.1)
    assert free(queue) == 10


async def test_added_limit_owes_nothing():
    """A pace that is added beside a spent day does not wait for all of that to be recovered."""
    queue = ApiQueue("5000 in each day", "3000/h burst 3000", catch_up=0)
    queue.try_slot(cost=3000)
    queue.set_rate("5000 in each day", "6000/h burst 3000", "10/s")
    assert queue.estimate() == exactly(0.6)  # of the hour's rate, half of which would be 0.1 s
    queue.set_rate("5000 in each day", "10/s")
    await asyncio.sleep(0.1)
    assert free(queue) == 1


@pytest.mark.parametrize("key", ["t1", "t*"])
async def test_lane_goes_through_each_change(key):
    """Also if nobody called it between two of them."""
    queue = ApiQueue(lanes={"t*": "10 in any 1s"}, catch_up=0)
    assert free(queue, key="t1") == 10
    for limit in ("10/h burst 10", "10 in any 1h"):
        await asyncio.sleep(0.5)
        queue.set_rate(limit, key=key)
    await asyncio.sleep(5)
    assert free(queue, key="t1") == 0


@pytest.mark.parametrize("others", [0, 50])
async def test_idle_lane_counts_as_of_the_change(others):
    """A lane that is looked at long after its limits have changed is not forgotten meanwhile."""
    queue = ApiQueue(lanes={"t*": "10 in any 1s"}, catch_up=0)
    assert free(queue, key="t1") == 10
    await asyncio.sleep(0.5)
    queue.set_rate("10/min burst 10", key="t*")
    await asyncio.sleep(5)
    for number in range(others):
        queue.estimate(key=f"t{2 + number}")
    assert queue.estimate(key="t1") == exactly(0.5)  # the first of the ten is back 6 s after it
