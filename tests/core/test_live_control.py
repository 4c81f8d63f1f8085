from __future__ import annotations

import asyncio
import math
import re

import pytest

from aioapiqueue import ApiQueue, QueueClosed, Rate, Window, WouldWait
from tests.helpers.instants import exactly, line_up, now, use

# Pause and push-back.


@pytest.mark.contract
@pytest.mark.ahead
async def test_a_pause_holds_everybody_until_resume(limiter):
    """Nobody starts, newcomers neither; afterwards there is no burst to make up for it."""
    queue, starts = limiter.queue("10/s"), []
    tasks = line_up(queue, starts, 4)
    await asyncio.sleep(0.15)
    queue.pause()
    await limiter.settled()
    tasks += line_up(queue, starts, 1)
    await asyncio.sleep(10)
    assert starts == limiter.exactly([0, 0.1])
    assert queue.estimate() == float("inf")
    assert "paused" in repr(queue)
    queue.resume()
    await asyncio.wait(tasks)
    assert starts[2:] == limiter.exactly([10.15, 10.25, 10.35])


async def test_who_waited_without_limits_goes_first():
    """As the pause ends, a newcomer does not pass those who have no limit to wait for either."""
    queue = ApiQueue(order="fair")
    queue.pause()
    waiting = [queue.enqueue(key=key) for key in "ab"]
    await asyncio.sleep(1)
    queue.resume()
    with pytest.raises(WouldWait):
        queue.try_slot(key="c")
    assert [(await one).waited for one in waiting] == [1, 1]


@pytest.mark.contract
async def test_stopped_queue_says_for_how_long(limiter):
    """Whatever stops all of its calls: a pause, a hold, or a server's `Retry-After`."""
    queue = limiter.queue("10/s")
    slot = await queue.enqueue()
    await limiter.settled()
    assert ": open, " in repr(queue)
    slot.throttled(5)
    await limiter.settled()
    assert re.search(r": held for (5|4\.\d+) s, ", str(queue))
    assert (queue.stats.paused, queue.stats.held) == (0, pytest.approx(5, abs=0.6))
    queue.pause(60)
    await limiter.settled()
    assert re.search(r": paused for (60|59\.\d) s, ", str(queue))
    assert (queue.stats.paused, queue.stats.held) == (pytest.approx(60, abs=0.6), 0)
    queue.pause()
    await limiter.settled()
    assert ": paused, " in str(queue)
    assert (queue.stats.paused, queue.stats.held) == (math.inf, 0)
    queue.resume()
    await limiter.settled()
    assert queue.stats.paused == 0
    queue.hold(90)
    await limiter.settled()
    assert re.search(r": held for (90|89\.\d) s, ", str(queue))
    await queue.aclose(drain=False)
    assert ": closed, " in str(queue)


@pytest.mark.contract
@pytest.mark.ahead
async def test_timed_pause_ends_by_itself(limiter):
    """A pause of some seconds ends by itself.

    Its end is an exact instant.
    """
    queue, starts = limiter.queue("10/s"), []
    queue.pause(3)
    await asyncio.wait(line_up(queue, starts, 2))
    assert starts == limiter.exactly([3, 3.1])


@pytest.mark.contract
async def test_a_pause_is_only_extended(limiter):
    """A shorter one changes nothing, a longer one moves the end."""
    queue, starts = limiter.queue("10/s"), []
    queue.pause(3)
    await limiter.settled()
    queue.pause(1)
    await limiter.settled()
    tasks = line_up(queue, starts, 1)
    await asyncio.sleep(2)
    queue.pause(4)
    await asyncio.wait(tasks)
    assert starts == limiter.exactly([6])


async def test_running_bodies_ignore_a_pause(limiter):
    """Bodies that run go on in a pause.

    A pause holds starts, not calls.
    """
    queue = limiter.queue(concurrency=1)
    async with queue.slot():
        queue.pause()
        await asyncio.sleep(1)
    assert queue.running == 0
    queue.resume()
    await use(queue, [])


@pytest.mark.contract
async def test_resume_without_a_pause_changes_nothing(limiter):
    """The pace goes on as it was."""
    queue, starts = limiter.queue("10/s"), []
    tasks = line_up(queue, starts, 4)
    await asyncio.sleep(0.05)
    queue.resume()
    await asyncio.wait(tasks)
    assert starts == limiter.exactly([0, 0.1, 0.2, 0.3])


@pytest.mark.contract
@pytest.mark.ahead
async def test_retry_after_is_only_extended(limiter):
    """Retry after holds and is only extended.

    Nothing starts for so many seconds; a smaller hint changes nothing.
    """
    queue, starts = limiter.queue("10/s"), []
    tasks = line_up(queue, starts, 3)
    await asyncio.sleep(0.05)
    queue.throttled(5)
    await limiter.settled()
    queue.throttled(1)
    await limiter.settled()
    queue.throttled()
    await asyncio.sleep(4)
    queue.throttled(2)
    await asyncio.wait(tasks)
    assert starts == limiter.exactly([0, 6.05, 6.15])
    assert queue.stats.throttled == 4


@pytest.mark.contract
async def test_resume_lifts_no_push_back(limiter):
    """Resume does not lift what the other side asked for.

    A pause on top of a push-back ends; the push-back stays.
    """
    queue, starts = limiter.queue("10/s"), []
    queue.throttled(5)
    await limiter.settled()
    queue.pause(60)
    await limiter.settled()
    tasks = line_up(queue, starts, 2)
    await asyncio.sleep(1)
    queue.resume()
    await asyncio.wait(tasks)
    assert starts == limiter.exactly([5, 5.1])


@pytest.mark.contract
async def test_push_back_within_longer_pause(limiter):
    """A push back within a longer pause.

    The later end of the two counts.
    """
    queue, starts = limiter.queue("10/s"), []
    queue.pause(5)
    await limiter.settled()
    queue.throttled(1)
    await asyncio.wait(line_up(queue, starts, 1))
    assert starts == limiter.exactly([5])


@pytest.mark.contract
async def test_slot_reports_push_back_by_key(limiter):
    """A slot tells of push back under its key.

    With a lane of its own only that lane is held, otherwise the queue.
    """
    queue, starts = limiter.queue("1000/s", lanes={"a": "10/s"}), []
    with await limiter.take(queue, key="a") as slot:
        slot.throttled(5)
        await limiter.settled()
    await asyncio.sleep(0.01)
    assert queue.estimate(key="a") == limiter.exactly(4.99)
    assert queue.estimate() == 0
    with await limiter.take(queue, key="b") as slot:
        slot.throttled(3)
        await limiter.settled()
    await asyncio.wait(line_up(queue, starts, 1, key="b") + line_up(queue, starts, 1, key="a"))
    assert starts == limiter.exactly([3.01, 5])


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf")])
async def test_senseless_hold_is_refused(limiter, seconds):
    """A hold of no sensible length is refused.

    Negative, NaN or infinite: ValueError, and nothing is held.
    """
    queue = limiter.queue("10/s")
    for hold in (queue.pause, queue.throttled):
        with pytest.raises(ValueError, match="finite"):
            hold(seconds)
    assert queue.estimate() == 0


# Another rate.


@pytest.mark.contract
@pytest.mark.ahead
async def test_set_rate_re_times_waiters(limiter):
    """`set_rate` re-times those who wait.

    50 queued at 2/s, set to 50/s at once, are done at 0.98 s.
    """
    queue, starts = limiter.queue("2/s"), []
    tasks = line_up(queue, starts, 50)
    await asyncio.sleep(0)
    queue.set_rate("50/s")
    await asyncio.wait(tasks)
    assert starts == limiter.exactly([n / 50 for n in range(50)])
    assert queue.limits == (Rate(50),)


@pytest.mark.contract
@pytest.mark.ahead
async def test_set_rate_re_times_a_lane(limiter):
    """`set_rate` on a lane re-times those who wait in it.

    The same for one key, or for all under "*"; others keep their pace.
    """
    for lane in ("a", "*"):
        queue, starts, other = limiter.queue(lanes={lane: "2/s", "b": "1/s"}), [], []
        began = now()
        tasks = line_up(queue, starts, 50, key="a") + line_up(queue, other, 2, key="b")
        await asyncio.sleep(0)
        queue.set_rate("50/s", key=lane)
        await asyncio.wait(tasks)
        assert [start - began for start in starts] == limiter.exactly([n / 50 for n in range(50)])
        assert [start - began for start in other] == limiter.exactly([0, 1])


@pytest.mark.contract
async def test_slower_rate_keeps_the_debt(limiter):
    """`set_rate` to a slower one counts the debt in calls.

    Of half an old interval still to wait, half a new one is left.
    """
    queue, starts = limiter.queue("10/s"), []
    tasks = line_up(queue, starts, 3)
    await asyncio.sleep(0.05)
    queue.set_rate("1/s")
    await asyncio.wait(tasks)
    assert starts == limiter.exactly([0, 0.55, 1.55])


@pytest.mark.contract
@pytest.mark.ahead
async def test_changing_back_and_forth_gains_nothing(limiter):
    """`set_rate` back and forth is no way around the limit.

    A hundred changes within one interval let nobody through early.
    """
    queue, starts = limiter.queue("1/s"), []
    tasks = line_up(queue, starts, 3)
    for _ in range(100):
        await asyncio.sleep(0.001)
        queue.set_rate("1/s", Window(100, 1))
        await limiter.settled()
        queue.set_rate("1/s")
        await limiter.settled()
    await asyncio.wait(tasks)
    assert starts == limiter.exactly([0, 1, 2])


@pytest.mark.contract
async def test_new_lane_holds_for_waiters(limiter):
    """A new lane for those who wait already.

    A key that had no limits of its own gets some: its waiters are held to them, in order.
    """
    queue, starts, other = limiter.queue("100/s", catch_up=0), [], []
    tasks = line_up(queue, starts, 3, key="a") + line_up(queue, other, 2)
    await asyncio.sleep(0.005)
    queue.set_rate("1/s", key="a")
    await asyncio.wait(tasks)
    assert starts == limiter.exactly([0, 0.01, 1.01])
    assert other == limiter.exactly([0.02, 0.03])


async def test_new_lane_holds_for_waiters_of_several(limiter):
    """A call that waits comes under limits that any of its keys is given."""
    queue, starts = limiter.queue(lanes={"a": "1/s"}, catch_up=0), []
    tasks = line_up(queue, starts, 4, keys=("a", "b"))
    await asyncio.sleep(0.5)
    queue.set_rate("0.25/s", key="b")
    await asyncio.wait(tasks)
    assert starts == limiter.exactly([0, 1, 5, 9])


@pytest.mark.contract
async def test_set_rate_keeps_a_hold(limiter):
    """The other side's push-back outlives a change of limits."""
    queue, starts = limiter.queue("10/s"), []
    queue.throttled(5)
    await limiter.settled()
    queue.set_rate("100/s", Window(50, 1))
    await asyncio.wait(line_up(queue, starts, 2))
    assert starts == limiter.exactly([5, 5.01])


@pytest.mark.contract
@pytest.mark.parametrize("limits", [["10/s"], ["10/s", "20/s burst 5"], ["10 in any 1s"]])
@pytest.mark.parametrize("paused", [True, False])
async def test_first_limits_within_a_hold(limiter, limits, paused):
    """Of a queue that had none: nothing starts before it ends."""
    queue, starts = limiter.queue("unlimited"), []
    queue.pause(5) if paused else queue.throttled(5)
    await limiter.settled()
    queue.set_rate(*limits)
    await asyncio.wait(line_up(queue, starts, 1))
    assert starts == limiter.exactly([5])


@pytest.mark.contract
async def test_set_rate_strands_no_waiter(limiter):
    """`set_rate` refuses what would strand a waiter.

    A window too small for a cost that waits is refused, and nothing has changed.
    """
    queue = limiter.queue("10/s")
    await limiter.take(queue)
    waiting = queue.enqueue(cost=5, key="a")
    await limiter.settled()
    for key in (None, "a", "*"):
        with pytest.raises(ValueError, match="never fits"):
            queue.set_rate(Window(4, 1), key=key)
    with pytest.raises(TypeError, match='"5ms"'):
        queue.set_rate(5)
    assert queue.limits == (Rate(10),)
    await waiting
    assert now() == limiter.exactly(0.5)


async def test_new_limit_makes_up_for_nothing():
    """A limit of another kind begins when it is set, also for calls that have waited for long."""
    queue, starts = ApiQueue("1 at once", catch_up=1), []
    slot = queue.try_slot()
    tasks = line_up(queue, starts, 3)
    await asyncio.sleep(5)
    queue.set_rate("10/s")
    slot.release()
    await asyncio.wait(tasks)
    assert starts == exactly([5, 5.1, 5.2])


async def test_set_rate_checks_every_waiter():
    """A cost that is too large is found behind costs that fit, before anything changes."""
    queue = ApiQueue("10/s")
    queue.pause()
    waiting = [queue.enqueue(cost=cost) for cost in (1, 1, 5)]
    with pytest.raises(ValueError, match="never fits"):
        queue.set_rate(Window(4, 1))
    assert queue.limits == (Rate(10),)
    waiting.pop().cancel()
    queue.set_rate(Window(4, 1))
    queue.resume()
    await asyncio.gather(*waiting)


# The end.


@pytest.mark.contract
@pytest.mark.ahead
async def test_aclose_drains(limiter):
    """Callers that wait start on time, newcomers are refused, and nothing outlives it."""
    queue, starts = limiter.queue("10/s", name="ec2"), []
    line_up(queue, starts, 5)
    await asyncio.sleep(0.05)
    closing = asyncio.create_task(queue.aclose())
    await asyncio.sleep(0)
    for enter in (queue.enqueue, queue.try_slot, queue.slot().__aenter__):
        with pytest.raises(QueueClosed, match="ec2"):
            enter()
    await closing
    assert starts == limiter.exactly([0, 0.1, 0.2, 0.3, 0.4])
    assert queue.closed
    assert (queue.stats.refused, queue.waiting) == (3, 0)
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert asyncio.get_running_loop().pending_timers == 0


@pytest.mark.parametrize(("options", "served"), [({"timeout": 0.25}, 3), ({"drain": False}, 1)])
async def test_aclose_refuses_those_still_waiting(limiter, options, served):
    """After draining for `timeout`, or at once, the rest get QueueClosed."""
    queue, loop = (
        limiter.queue("10/s", lanes={"a": "1/s"}, order="fair"),
        asyncio.get_running_loop(),
    )
    futures = [queue.enqueue(timeout=99) for _ in range(5)]
    await limiter.settled()
    slow = [queue.enqueue(key="a") for _ in range(2)]
    await queue.aclose(**options)
    assert now() == limiter.exactly(options.get("timeout", 0))
    results = await asyncio.gather(*futures, *slow, return_exceptions=True)
    refused = [result for result in results if isinstance(result, QueueClosed)]
    assert len(results) - len(refused) == queue.stats.released == served
    assert queue.stats.refused == len(refused)
    assert loop.pending_timers == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_async_with_drains(limiter):
    """Leaving it normally waits for those who wait."""
    starts = []
    async with limiter.queue("10/s") as queue:
        tasks = line_up(queue, starts, 3)
        await asyncio.sleep(0)
    assert starts == limiter.exactly([0, 0.1, 0.2])
    await asyncio.wait(tasks)


async def test_async_with_exception_does_not_drain(limiter):
    """`async with` left by an exception does not drain.

    The exception goes on at once; callers that wait get QueueClosed.
    """
    starts = []
    with pytest.raises(ZeroDivisionError):
        async with limiter.queue("10/s") as queue:
            tasks = line_up(queue, starts, 3)
            await asyncio.sleep(0.05)
            raise ZeroDivisionError
    assert now() == limiter.exactly(0.05)
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [type(None), QueueClosed, QueueClosed]


@pytest.mark.contract
async def test_paused_queue_drains_when_resumed(limiter):
    """A paused queue drains when it is resumed.

    `aclose` waits for the end of a pause, unless it has a timeout.
    """
    queue, starts = limiter.queue("10/s"), []
    queue.pause()
    await limiter.settled()
    line_up(queue, starts, 2)
    asyncio.get_running_loop().call_later(5, queue.resume)
    await asyncio.sleep(0)
    await queue.aclose()
    assert starts == limiter.exactly([5, 5.1])


async def test_aclose_twice_and_at_once(limiter):
    """Both wait for the end of the same drain; a third has nothing to do."""
    queue, starts = limiter.queue("10/s"), []
    line_up(queue, starts, 3)
    await asyncio.sleep(0)
    await asyncio.gather(queue.aclose(), queue.aclose())
    assert (now(), len(starts)) == (limiter.exactly(0.2), 3)
    await queue.aclose()
    assert now() == limiter.exactly(0.2)


async def test_bodies_outlive_aclose(limiter):
    """They are their callers': the queue neither waits for them nor ends them."""
    queue = limiter.queue("10/s", concurrency=1)
    slot = await limiter.take(queue)
    await queue.aclose()
    assert queue.running == 1
    slot.release()
    assert queue.running == 0


# Habits of other libraries.


async def test_queue_entered_for_each_call(limiter):
    """`async with queue:` is no slot: the second task that writes it gets what to write."""
    queue, errors = limiter.queue("10/s"), []

    async def call():
        try:
            async with queue:
                await asyncio.sleep(0.01)
        except (RuntimeError, QueueClosed) as error:
            errors.append(error)

    await asyncio.gather(*(call() for _ in range(3)))
    await call()
    assert [type(error) for error in errors] == [RuntimeError, RuntimeError, QueueClosed]
    for error in errors:
        assert '"async with queue.slot():"' in str(error)
        assert "queue.limiter()" in str(error)


async def test_closed_queue_is_not_entered(limiter):
    """Nor is one that was closed by hand."""
    queue = limiter.queue("10/s")
    await queue.aclose()
    with pytest.raises(QueueClosed, match=r"is closed: aclose\(\) closed it"):
        async with queue:
            pytest.fail("it is closed")


@pytest.mark.contract
async def test_no_limits_must_be_said(limiter):
    """`set_rate()` lifts nothing, "unlimited" does."""
    queue = limiter.queue("1/s", lanes={"a": "1/s"})
    for key in (None, "a"):
        with pytest.raises(TypeError, match=r'write set_rate\("unlimited"\)'):
            queue.set_rate(key=key)
        queue.set_rate("unlimited", key=key)
    assert queue.limits == ()
    for _ in range(5):
        (await limiter.take(queue, key="a")).release()
    assert now() == 0


async def test_keys_that_are_none(limiter):
    """A key that is not hashable is refused with what it is, wherever it stands."""
    queue = limiter.queue("1/s")
    for ask in (
        lambda: queue.slot(key=["a"]),
        lambda: queue.slot(keys=("b", ["a"])),
        lambda: queue.estimate(key=["a"]),
        lambda: queue.set_rate("1/s", key=["a"]),
    ):
        with pytest.raises(TypeError, match=r"hashable.*\['a'\]"):
            ask()


@pytest.mark.parametrize(
    ("lanes", "words"),
    [
        ({"a": "5/s", "b": 5}, r"lanes\['b'\]: a bare 5 is ambiguous"),
        ({"b": "fast"}, r"lanes\['b'\]: "),
        ({"b": ("5/s", None)}, r"lanes\['b'\]: a limit must be a string"),
        ({"b": Rate}, r"lanes\['b'\]: a limit must be a string"),
        (["b"], "lanes must map keys to limits"),
        ("b", "lanes must map keys to limits"),
    ],
)
def test_wrong_lane_is_named(lanes, words):
    """Of many lanes, the message says which."""
    with pytest.raises((TypeError, ValueError), match=words):
        ApiQueue("10/s", lanes=lanes)


async def test_equal_limit_keeps_its_count():
    """Of several that a lane gets, the one that it had knows who runs; others count from now on."""
    queue = ApiQueue(lanes={"a": "5 at once"})
    held = [queue.try_slot(key="a") for _ in range(3)]
    queue.set_rate("4 at once", "5 at once", key="a")
    held += [queue.try_slot(key="a") for _ in range(2)]
    with pytest.raises(WouldWait):
        queue.try_slot(key="a")
    for slot in held:
        slot.release()
