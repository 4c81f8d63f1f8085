"""What remains of a server's quota, beside those who wait, holds, promises and other loops."""

from __future__ import annotations

import asyncio

import pytest

from aioapiqueue import ApiQueue, SlotTimeout, WouldWait
from aioapiqueue.testing import VirtualLoop
from tests.helpers.instants import exactly, free, line_up, now, released, use
from tests.helpers.introspect import (
    lanes_of,
    left_over,
    take_small_steps,
    ticker_of,
    timer_of,
)

PLENTY = "1000/s burst 1000"


# Who waits.


async def test_waiters_are_bound_at_once(monkeypatch):
    """Who waits when a bound first appears is bound as well, in many lines, in its order."""
    take_small_steps(monkeypatch)
    queue, starts = ApiQueue("1000/s", lanes={"*": "1000/s"}), []

    async def call(number):
        async with queue.slot(keys=(number % 7, f"of {number % 3}")):
            starts.append((now(), number))

    queue.pause(1)
    tasks = [asyncio.create_task(call(number)) for number in range(42)]
    await asyncio.sleep(0.5)
    queue.sync(3, reset=10)
    queue.sync(1, reset=20, key=0)
    await asyncio.gather(*tasks)
    times = [at for at, _ in sorted(starts)]
    assert [at < 2 for at in times] == [True] * 3 + [False] * 39
    of_key = [at for at, number in sorted(starts) if number % 7 == 0]
    assert (sum(at < 20 for at in of_key), len(of_key)) == (1, 6)
    for key in range(7):
        mine = [number for _, number in starts if number % 7 == key and number % 3 == 0]
        assert mine == sorted(mine)
    assert left_over(queue) == []


async def test_bound_of_a_unit_not_stated():
    """A bound of the whole queue is not for calls that use nothing of it, of a key without lane."""
    queue, starts = ApiQueue("10/s", lanes={"a": "1000 tokens/s burst 1000"}), []
    queue.sync(5, unit="tokens", reset=60)
    spent = line_up(queue, starts, 3, key="b")
    bound = asyncio.create_task(use(queue, starts, key="a", cost={"tokens": 6}))
    await asyncio.gather(*spent)
    assert starts == exactly([0, 0.1, 0.2])
    await bound
    assert starts[3] == exactly(60)
    assert left_over(queue) == []


@pytest.mark.parametrize("order", ["fifo", "fair"])
async def test_order_is_kept_beside_a_bound(order):
    """Priorities go first, and turns are taken; what remains is used in that order."""
    queue, starts = ApiQueue(PLENTY, lanes={"*": ()}, order=order), []

    async def call(name, key, priority):
        async with queue.slot(key=key, priority=priority):
            starts.append((name, now()))

    queue.pause(1)
    calls = [("a1", "a", 0), ("a2", "a", 0), ("b1", "b", 0), ("b2", "b", 0), ("u", "c", -1)]
    tasks = [asyncio.create_task(call(*one)) for one in calls]
    await asyncio.sleep(0.5)
    queue.sync(3, reset=10)
    await asyncio.gather(*tasks)
    fair = ["u", "a1", "b1", "a2", "b2"]
    assert [name for name, _ in starts] == (
        fair if order == "fair" else ["u", "a1", "a2", "b1", "b2"]
    )
    assert [at for _, at in starts] == exactly([1, 1, 1, 10.5, 10.5])


async def test_time_out_while_all_are_sorted(monkeypatch):
    """A time-out that ends while all are sorted again, as a bound has appeared, is one."""
    take_small_steps(monkeypatch)
    queue = ApiQueue("1/s", lanes={"a": "10 tokens/s"})
    queue.try_slot()
    queue.pause()
    outcomes = asyncio.gather(
        *[asyncio.wait_for(queue.enqueue(timeout=5), None) for _ in range(20)],
        return_exceptions=True,
    )
    await asyncio.sleep(5 - 1e-10)
    queue.sync(5, unit="tokens", reset=60)
    asyncio.get_running_loop().stall(1e-9)
    assert [type(one) for one in await outcomes] == [SlotTimeout] * 20
    assert left_over(queue) == []


async def test_bound_beside_hold_and_pause():
    """Whichever ends last; push-back and a pause are not shortened by what remains."""
    queue = ApiQueue(PLENTY)
    queue.sync(5, reset=10)
    queue.hold(3)
    assert queue.estimate() == exactly(3)
    assert queue.estimate(cost=6) == exactly(10)
    queue.throttled(20)
    queue.pause(15)
    assert queue.estimate(cost=6) == exactly(20)
    queue.resume()
    assert await released(queue, 1) == exactly([20])


async def test_hold_of_a_lane_then_bound():
    """A lane that is held when its first bound appears stays so."""
    queue = ApiQueue(lanes={"*": ()})
    queue.hold(30, key="a")
    queue.sync(5, reset=10, key="a")
    assert queue.estimate(key="a") == exactly(30)
    queue.pause(40)
    queue.sync(5, reset=10)
    assert queue.estimate(key="b") == exactly(40)


async def test_estimate_try_and_time_out():
    """All know when the bound ends."""
    queue = ApiQueue(PLENTY)
    queue.sync(1, reset=10)
    with queue.try_slot():
        assert queue.estimate() == exactly(10)
        with pytest.raises(WouldWait) as would_wait:
            queue.try_slot()
        assert would_wait.value.retry_in == exactly(10)
        with pytest.raises(SlotTimeout, match="the next is due in 10 s"):
            queue.enqueue(timeout=9.9)
        slot = await queue.enqueue(timeout=10)  # to the instant
        assert slot.waited == exactly(10)


# Promises beside a bound.


async def test_promise_4_cancelled_beside_a_bound():
    """Who is cancelled while waiting uses nothing of what remains."""
    queue, starts = ApiQueue(PLENTY), []
    queue.pause(1)
    queue.sync(3, reset=60)
    tasks = line_up(queue, starts, 9)
    await asyncio.sleep(0.5)
    for task in tasks[::3] + tasks[1::3]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert starts == exactly([1, 1, 1])


async def test_promise_6_idle_beside_a_bound():
    """A bound that nobody waits for has no task and no timer; a lane is forgotten after it."""
    queue = ApiQueue(lanes={"*": ()})
    queue.sync(0, reset=50, key="a")
    queue.sync(5, reset=50)
    assert (ticker_of(queue), timer_of(queue)) == (None, None)
    await asyncio.sleep(49)
    queue.try_slot(key="b")
    assert "a" in lanes_of(queue)
    await asyncio.sleep(2)
    for _ in range(3):
        queue.try_slot(key="c")
    assert "a" not in lanes_of(queue)
    assert free(queue, key="a") == 100


async def test_promise_11_dear_call_beside_bound():
    """A dear call waits for the reset; cheaper ones behind it do not use up what remains."""
    queue, starts = ApiQueue(PLENTY), []
    queue.sync(5, reset=10)
    dear = asyncio.create_task(use(queue, starts, cost=9))
    await asyncio.sleep(1)
    await asyncio.gather(dear, *line_up(queue, starts, 3))
    assert starts == exactly([10] * 4)


async def test_promise_11_two_bounds():
    """A call under two quotas starts when both have room, beside crowds at either."""
    queue, crowd, starts = ApiQueue(lanes={"*": "10/s"}), [], []
    queue.sync(0, reset=3, key="a")
    queue.sync(0, reset=5, key="b")
    tasks = [
        *line_up(queue, crowd, 100, key="a"),
        *line_up(queue, crowd, 100, key="b"),
        asyncio.create_task(use(queue, starts, keys=("a", "b"))),
        *line_up(queue, crowd, 100, key="a"),
        *line_up(queue, crowd, 100, key="b"),
    ]
    await asyncio.gather(*tasks)
    # 100 before it at b, from second 5 on.
    assert starts[0] <= 5 + 10 + 0.1 + 1e-9


# Other loops.


def test_bound_on_another_loop():
    """What remains still counts there, if its clock is the same; who was out is gone."""
    times = []
    queue = ApiQueue(PLENTY)

    async def first():
        queue.sync(10, reset=60)
        for _ in range(3):
            queue.try_slot()

    async def second():
        times.append(queue.estimate(cost=8))
        queue.try_slot().sync(20, reset=60)
        times.append(queue.estimate(cost=20))
        times.append(queue.estimate(cost=21))

    for scenario in (first, second):
        asyncio.run(scenario())
    assert times == [pytest.approx(60, abs=1), 0, pytest.approx(60, abs=1)]


def test_bound_whose_waiters_are_gone():
    """On the next loop, nobody who waited for it on the last one is ahead of those who call."""
    queue = ApiQueue(lanes={"*": ()})

    async def leave_behind():
        queue.sync(5, reset=60, key="a")
        queue.enqueue(key="a", cost=6)
        assert queue.estimate(key="a") == pytest.approx(60, abs=1)

    async def go_on():
        assert queue.estimate(key="a", cost=5) == 0
        assert free(queue, key="a") == 5

    for scenario in (leave_behind, go_on):
        asyncio.run(scenario())


def test_bound_on_another_clock():
    """By another clock nothing that was said holds, as no instant can be told by it."""
    queue = ApiQueue(PLENTY, lanes={"*": ()})

    async def first():
        queue.sync(0, reset=60)
        queue.sync(0, reset=60, key="a")

    async def second():
        assert queue.estimate(key="a") == 0
        with queue.try_slot() as slot:
            slot.sync(3, reset=60)
        assert free(queue) == 3

    for scenario in (first, second):
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(scenario())
