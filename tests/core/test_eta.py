"""`queue.eta`: until all who wait now have started; on each kind of limiter."""

from __future__ import annotations

import asyncio
import math
import random
import time

import pytest

from aioapiqueue import ApiQueue
from aioapiqueue.threads import blocking
from tests.helpers import introspect
from tests.helpers.instants import now, use
from tests.helpers.yardstick import slowness

# Where the limits are kept elsewhere, what is known is what the last answer said: to a slot or so.
CLOSE = 0.15


async def starts(queue, *calls):
    """Enqueues calls, and returns a task that says when the last of them had started."""
    loop = asyncio.get_running_loop()
    futures = [queue.enqueue(**call) for call in calls]

    async def wait():
        for future in asyncio.as_completed(futures):
            (await future).release()
        return loop.time()

    return asyncio.create_task(wait())


async def test_nobody_waits_nothing_to_wait_for(limiter):
    """Without a waiter it is 0, even where a newcomer would have to wait."""
    queue = limiter.queue("1/s")
    assert queue.eta == 0
    (await limiter.take(queue)).release()
    assert queue.eta == 0


@pytest.mark.contract
async def test_falls_as_time_passes(limiter):
    """Of one limit it is exact; it falls by a second in each, and ends at 0."""
    queue, loop = limiter.queue("10/s"), asyncio.get_running_loop()
    last = await starts(queue, *[{}] * 41)
    await limiter.settled()
    seen = []
    while queue.eta:
        seen.append(loop.time() + queue.eta)
        await asyncio.sleep(0.37)
    end = await last
    assert len(seen) > 9
    assert seen == pytest.approx([end] * len(seen), abs=CLOSE if limiter.shared else 1e-9)


@pytest.mark.parametrize(
    ("limits", "calls"),
    [
        (("5/s burst 8",), [{}] * 30),
        (("7 per 2s",), [{}] * 30),
        (("6 in any 1s",), [{}] * 31),
        (("20/s", "100 tokens/s burst 10"), [{"cost": {"tokens": 25}}] * 12),
        (("4 in each hour",), [{}] * 9),
    ],
)
async def test_each_kind_of_limit(limits, calls):
    """At the beginning it is when the last one starts, for each kind of limit."""
    queue, loop = ApiQueue(*limits), asyncio.get_running_loop()
    last = await starts(queue, *calls)
    await asyncio.sleep(0)
    said = loop.time() + queue.eta
    assert await last == pytest.approx(said, abs=1e-6)


@pytest.mark.contract
async def test_slowest_lane_decides(limiter):
    """The lane that takes longest is what all wait for; one that nobody waits in is not."""
    lanes = {"slow": "1/s", "tenant:*": "2/s", "unused": "1/h"}
    queue = limiter.queue("100/s", lanes=lanes)
    calls = [{"key": "slow"}] * 4 + [{"key": "tenant:a"}] * 5 + [{"key": "tenant:b"}] * 5
    last = await starts(queue, *calls, {})
    await limiter.settled()
    within = 1.1 if limiter.shared else 1e-9  # a newcomer's turn is all that is known
    assert queue.eta == pytest.approx(3.0, abs=within)
    assert await last == pytest.approx(3.0, abs=0.01)
    assert queue.eta == 0


@pytest.mark.contract
async def test_holds_and_pauses_count(limiter):
    """A hold is waited for; a pause without end is infinite."""
    queue = limiter.queue("10/s")
    last = await starts(queue, *[{}] * 11)
    await limiter.settled()
    queue.hold(5)
    await limiter.settled()
    assert queue.eta >= 5
    queue.pause()
    await limiter.settled()
    assert queue.eta == math.inf
    queue.resume()
    await limiter.settled()
    assert queue.eta < math.inf
    last.cancel()


async def test_calls_behind_a_pause_are_paced():
    """A bucket that is full when a pause ends lets its burst start, and the others one by one."""
    queue = ApiQueue("1/s burst 2")
    queue.pause(10)
    waiting = [queue.enqueue() for _ in range(5)]
    assert queue.eta == 13
    await asyncio.wait(waiting)
    assert now() == 13


async def test_who_leaves_is_not_waited_for():
    """A waiter that is cancelled is taken out at once; a changed rate counts at once."""
    queue = ApiQueue("1/s")
    futures = [queue.enqueue() for _ in range(11)]
    assert queue.eta == pytest.approx(10)
    futures[3].cancel()
    assert queue.eta == pytest.approx(9)
    queue.set_rate("10/s")
    assert queue.eta == pytest.approx(0.9)
    queue.set_rate("unlimited")
    assert queue.eta == 0
    await asyncio.sleep(0.01)
    assert (queue.waiting, queue.eta) == (0, 0)


async def test_gone_before_they_left():
    """The lane of one that was cancelled, and whose task has not resumed yet, is no reason."""
    queue = ApiQueue("1/s", lanes={"a": "0.01/s"})
    queue.try_slot(key="a")
    task = asyncio.create_task(use(queue, [], key="a"))
    queue.enqueue()
    await asyncio.sleep(0)
    assert queue.eta == pytest.approx(100)
    task.cancel()
    assert queue.eta <= 2


async def test_gone_hide_nobody_else():
    """While the task of a cancelled call has not resumed yet, those in other lanes still count."""
    queue = ApiQueue(lanes={"a": "1 per 100s", "b": "1 per 10s"})
    for key in "ab":
        queue.try_slot(key=key)
    tasks = [asyncio.create_task(use(queue, [], key=key)) for key in "ab"]
    await asyncio.sleep(0)
    assert queue.eta == pytest.approx(100)
    tasks[0].cancel()
    assert queue.eta == pytest.approx(10)


async def test_costs_leave_with_their_call():
    """What a cancelled call was to cost in its lane is not waited for."""
    queue = ApiQueue(lanes={"a": "1 tokens/s"})
    queue.try_slot(key="a", cost={"tokens": 1})
    futures = [queue.enqueue(key="a", cost={"tokens": tokens}) for tokens in (4, 5, 6)]
    assert queue.eta == pytest.approx(15)
    futures[1].cancel()
    assert queue.eta == pytest.approx(10)
    assert queue.estimate(key="a", cost={"tokens": 1}) == pytest.approx(11)


async def test_while_all_are_sorted_again():
    """New limits have all who wait sorted again, over some passes of the loop: they still wait."""
    queue = ApiQueue("1000/s")
    for _ in range(5_000):
        queue.enqueue()
    await asyncio.sleep(0)
    queue.set_rate("1/s", "100 in any 1s")
    seen = []
    for _ in range(50):
        seen.append(queue.eta)
        await asyncio.sleep(0)
    assert min(seen) >= 4_900


async def test_estimate_counts_calls_being_sorted(monkeypatch):
    """A newcomer waits for them, too, though they are in no line as yet."""
    introspect.take_small_steps(monkeypatch)
    queue = ApiQueue("10/s", lanes={"a": "1000/s"})
    calls = [queue.enqueue(key="ab"[n % 2]) for n in range(100)]
    await asyncio.sleep(0.05)
    before = queue.estimate(key="c")
    queue.set_rate("10/s", "900/s")
    assert introspect.is_sorting(queue)
    assert queue.estimate(key="c") == pytest.approx(before, abs=CLOSE)
    assert before > 9
    for call in calls:
        call.cancel()


async def test_call_that_is_larger_than_the_burst():
    """It waits for what the burst cannot hold while its bucket is idle: that counts."""
    queue, loop = ApiQueue("1/s", lanes={"chat": "600 tokens/min"}), asyncio.get_running_loop()
    calls = [{"cost": {"tokens": 0}}] * 120
    last = await starts(queue, *calls, {"key": "chat", "cost": {"tokens": 500}})
    said = []
    while queue.waiting:
        said.append(loop.time() + queue.eta)
        await asyncio.sleep(9.7)
    assert said == pytest.approx([await last] * len(said))


@pytest.mark.real
@pytest.mark.full_speed
async def test_many_keys_take_no_longer_than_a_moment(limiter):
    """It is linear in the keys, whatever keeps the limits: in CPU time, by a yardstick."""
    queue = limiter.queue("1/min", lanes={"t:*": "1/min"})
    for number in range(2_000):
        queue.enqueue(key=f"t:{number}")
    await limiter.settled()
    began = time.process_time()
    assert queue.eta > 60
    took = time.process_time() - began
    assert took < 0.5 or took < 0.5 * slowness()


@pytest.mark.parametrize("seed", range(60))
async def test_never_too_late_whatever_the_lanes(seed):
    """It is never more than what it takes, whatever lanes, keys, costs and priorities there are."""
    chance, loop = random.Random(seed), asyncio.get_running_loop()
    queue = ApiQueue(
        f"{chance.choice([2, 5, 20])}/s burst {chance.choice([1, 4])}",
        f"60 tokens/s burst {chance.choice([1, 30])}",
        lanes={"a": "1/s", "b*": "3/s burst 3", "c": "50 tokens/s"},
        order=chance.choice(["fifo", "fair"]),
    )
    calls = [
        {
            "keys": tuple(chance.sample(["a", "b1", "b2", "c", "d"], chance.choice([1, 2]))),
            "cost": {"tokens": chance.choice([0, 5, 20])},
            "priority": chance.choice([0, 0, 1]),
        }
        for _ in range(40)
    ]
    last = await starts(queue, *calls)
    said = []
    while queue.waiting:
        said.append(loop.time() + queue.eta)
        await asyncio.sleep(0.5)
    end = await last
    assert max(said) <= end + 1e-6
    # And not far less: with limits that calls use by turns, it is a lower bound.
    assert said[0] >= 0.6 * end


@pytest.mark.real
def test_from_threads():
    """`blocking(queue).eta` asks in the loop's thread."""
    paced = blocking(ApiQueue("1/min"))
    assert paced.eta == 0
    first = paced.slot()
    with first:
        assert paced.eta == 0
