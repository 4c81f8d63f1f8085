"""Attacks on limits that change, lanes that are forgotten, and costs that are settled."""

from __future__ import annotations

import asyncio
import time

import pytest

from aioapiqueue import Adaptive, ApiQueue, Rate, WouldWait
from aioapiqueue.spi import QueueReader
from tests.helpers import introspect
from tests.helpers.work import work


def take_all(queue, most=1000, **how):
    """Take slots until one would have to wait; return how many there were."""
    for number in range(most):
        try:
            queue.try_slot(**how)
        except WouldWait:
            return number
    return most


class Reacts:
    """An observer that does something at the n-th release (of a key)."""

    def __init__(self, number, action, key=None):
        self.number, self.action, self.key = number, action, key

    def on_event(self, event):
        """Count releases."""
        if event.kind == "released" and event.key == self.key:
            self.number -= 1
            if self.number == 0:
                self.action()


# 1. A limit is broken.


async def test_sorting_again_keeps_lanes_one():
    """A lane that callers wait in is not forgotten while they are sorted again by `set_rate`."""
    queue, starts = ApiQueue(lanes={"*": "1/s"}), []
    queue.pause()
    for number in range(100):
        queue.estimate(key=number)

    async def call():
        async with queue.slot(key="a"):
            starts.append(asyncio.get_running_loop().time())

    calls = [asyncio.create_task(call()) for _ in range(6)]
    await asyncio.sleep(5)
    queue.set_rate("5/s", key="another")
    queue.resume()
    await asyncio.gather(*calls)
    assert starts == pytest.approx([5, 6, 7, 8, 9, 10], abs=0.011)  # `catch_up`


async def test_sorting_again_keeps_lane_permits():
    """As above, of a `Concurrency`: two bodies run in a lane of one."""
    queue, running, most = ApiQueue("1/h", lanes={"*": "1 at once"}), 0, 0
    await queue.enqueue()
    for number in range(100):
        queue.estimate(key=number)

    async def call():
        nonlocal running, most
        async with queue.slot(key="a"):
            running += 1
            most = max(most, running)
            await asyncio.sleep(10)
            running -= 1

    calls = [asyncio.create_task(call()) for _ in range(6)]
    await asyncio.sleep(5)
    queue.set_rate("5/s", key="another")
    queue.set_rate("10/s burst 10")
    await asyncio.gather(*calls)
    assert most == 1


@pytest.mark.parametrize(
    ("first", "second"), [("10 in any 1s", "100 in any 1h"), ("10/s", "100/h burst 100")]
)
async def test_limits_in_another_order_hold(first, second):
    """The same limits, given to `set_rate` in another order, know what was let through."""
    queue = ApiQueue(first, second)
    for _ in range(100):
        async with queue.slot():
            pass
    await asyncio.sleep(2)
    before = queue.estimate()
    queue.set_rate(second, first)
    assert queue.estimate() == pytest.approx(before)


async def test_window_charges_settled_unused_unit():
    """A true cost in a unit of which the estimate was 0 is charged to a window, too."""
    queue = ApiQueue("100 tokens in any 60s")
    async with queue.slot(cost={"tokens": 0}) as slot:
        slot.settle({"tokens": 100})
    assert queue.estimate(cost={"tokens": 100}) == pytest.approx(60)


async def test_old_body_frees_no_permit():
    """A body of a loop that is gone gives back no permit of the next loop's."""
    queue, left = ApiQueue(concurrency=1), []

    async def first():
        left.append(await queue.enqueue())

    async def second():
        queue.try_slot()
        left[0].release()
        return take_all(queue), queue.running

    assert await asyncio.to_thread(lambda: _in_thread(first, second)) == (0, 1)


def _in_thread(*mains):
    return [asyncio.run(main()) for main in mains][-1]


async def test_old_grant_frees_no_permit():
    """Nor does one granted on a loop that is gone, and not taken up, if it is cancelled."""
    queue, left = ApiQueue(concurrency=1), []

    async def first():
        left.append(queue.enqueue())

    async def second():
        queue.try_slot()
        left[0].cancel()
        return take_all(queue), queue.running

    assert await asyncio.to_thread(lambda: _in_thread(first, second)) == (0, 1)


async def test_refund_knows_replaced_limits():
    """A limit that replaced the one charged, at the same instant, gives nothing back.

    It counts the three calls, and not whose they were.
    """
    queue = ApiQueue("1000/s burst 1000")
    queue.pause()
    calls = [queue.enqueue() for _ in range(3)]
    queue.resume()
    for _ in range(3):  # passes of the loop: granted, and not resumed
        await asyncio.sleep(0)
        if queue.stats.released == 3:
            break
    queue.set_rate("5 in each day")
    number = take_all(queue)
    for call in calls:
        call.cancel()
    assert (number, take_all(queue)) == (2, 0)


@pytest.mark.parametrize("rate", ["8/s burst 82", "4/s burst 90", "16/s burst 100"])
async def test_set_rate_gives_nothing_back(rate):
    """What was paid off before it is not given back after it, on top of what has started since."""
    queue = ApiQueue("8/s burst 80")
    early = queue.try_slot(cost=80)
    await asyncio.sleep(9.875)
    queue.try_slot(cost=79)  # of the first 80, one is not yet paid off
    queue.set_rate(rate)
    started = 79 + take_all(queue)
    early.settle(0)
    burst = int(rate.split()[-1])
    assert started + take_all(queue) <= burst + 1


async def test_two_refunds_give_back_what_is_not_paid_off():
    """Of three calls' cost, 20 s later, one is left to pay off: only that comes back."""
    queue = ApiQueue(Rate(1, per=10, burst=3), catch_up=0)
    two, one = queue.try_slot(cost=2), queue.try_slot()
    await asyncio.sleep(20)
    queue.try_slot(cost=2)
    one.settle(0)
    two.settle(0)
    assert queue.estimate(cost=3) == pytest.approx(20)


async def test_adaptive_permits_survive_set_rate():
    """Push-back has lowered the permits; the same limits, set again, do not raise them."""
    queue = ApiQueue("1000/s", "10 at once", adaptive=Adaptive(concurrency=1))
    slots = [await queue.enqueue() for _ in range(10)]
    waiting = [queue.enqueue() for _ in range(20)]
    slots[-1].throttled()
    permits = QueueReader(queue).snapshot().permits
    queue.set_rate("1000/s", "10 at once")
    assert QueueReader(queue).snapshot().permits == permits < 10
    del waiting


@pytest.mark.parametrize("lanes", [{}, {"*": "1000/s burst 1000"}])
async def test_pause_in_observer_holds(lanes):
    """An observer that pauses the queue stops the step that is under way."""
    observer = Reacts(3, lambda: queue.pause(60))
    queue = ApiQueue(lanes=lanes, observers=[observer])
    queue.pause()
    calls = [queue.enqueue() for _ in range(100)]
    queue.resume()
    await asyncio.sleep(1)
    assert queue.stats.released == 3
    del calls


async def test_set_rate_in_observer_holds():
    """An observer that sets a limit of another kind breaks no ticker and no limit."""
    errors = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    observer = Reacts(3, lambda: queue.set_rate("1 in any 1h"))
    queue = ApiQueue("1000/s burst 1000", observers=[observer])
    queue.pause()
    calls = [queue.enqueue() for _ in range(100)]
    queue.resume()
    await asyncio.sleep(3599)
    assert (queue.stats.released, errors) == (3, [])  # more than the window holds
    await asyncio.sleep(2)
    assert (queue.stats.released, errors) == (4, [])
    del calls


async def test_calendar_lane_outlives_clock_change():
    """A lane with a `Calendar` is kept while its day lasts, if the clock is set back meanwhile."""
    shift = [23 * 3600.0]
    with pytest.MonkeyPatch.context() as patch:
        introspect.set_time_of_day(patch, lambda _, at: at + shift[0])
        queue = ApiQueue(lanes={"*": "2 in each day"})
        assert take_all(queue, key="a") == 2
        shift[0] -= 7200
        await asyncio.sleep(3700)  # 22:01 of the same day
        queue.estimate(key="b")
        assert take_all(queue, key="a") == 0


# 2. A waiter is stuck.


async def test_permits_removed_and_set_again():
    """Bodies that end while their lane has no `Concurrency` are known to have ended."""
    queue = ApiQueue(lanes={"a": "1 at once"})
    slot = await queue.enqueue(key="a")
    queue.set_rate("10/s", key="a")
    slot.release()
    queue.set_rate("1 at once", key="a")
    async with asyncio.timeout(100), queue.slot(key="a"):
        pass


async def test_nesting_forgets_removed_permits():
    """Nor does the count for nested slots keep them, and their calls, for ever."""
    queue = ApiQueue(lanes={"a": "1 at once"})
    slot = await queue.enqueue(key="a")
    queue.set_rate("10/s", key="a")
    slot.release()
    await asyncio.sleep(10)
    queue.set_rate("1 at once", key="a")
    queue.try_slot(key="a").release()
    assert queue.limiter(key="a").has_capacity()


async def test_observer_that_enqueues_is_heard():
    """A call that an observer adds during the ticker's own step starts when it is due."""
    calls = []
    observer = Reacts(2, lambda: calls.append(queue.enqueue(key="b")), "a")
    queue = ApiQueue(lanes={"a": "1 at once", "b": "1/s"}, observers=[observer])
    slot = await queue.enqueue(key="a")
    waiting = [queue.enqueue(key="a") for _ in range(2)]
    await asyncio.sleep(0.1)
    slot.release()
    await asyncio.sleep(100)
    assert calls[0].done()
    del waiting


# 3. Holds that hold less than they say.


@pytest.mark.parametrize("method", ["hold", "throttled"])
async def test_hold_without_key_holds_all(method):
    """Without a key it is "the whole queue", also where `"*"` has limits."""
    queue = ApiQueue("10/s", lanes={"*": "10/s"})
    getattr(queue, method)(30)
    assert queue.estimate(key="a") == pytest.approx(30)


async def test_hold_of_pattern_holds_lanes():
    """A hold on a pattern concerns the keys under it, or is refused; it is not ignored."""
    queue = ApiQueue(lanes={"tenant:*": "10/s"})
    try:
        queue.hold(30, key="tenant:*")
    except ValueError:
        return
    assert queue.estimate(key="tenant:a") == pytest.approx(30)


# 4. Costs that are settled, turns that are given back.


async def test_fair_turn_survives_cancellation():
    """With `order="fair"`, a key whose callers left before their turn has lost no turn."""
    queue = ApiQueue("1/s", order="fair")
    await queue.enqueue(key="first")
    others = [queue.enqueue(key="other") for _ in range(100)]
    for _ in range(50):
        queue.enqueue(key="a").cancel()
    slot = await queue.enqueue(key="a")
    assert slot.waited <= 2
    del others


async def test_adaptive_measures_true_tokens():
    """What followed a push-back's measure is settled in every unit, not in calls only."""
    queue = ApiQueue("1000/s", "10000 tokens/s burst 10000", adaptive=Adaptive())
    async with queue.slot(cost={"tokens": 100}) as slot:
        slot.settle({"tokens": 10})
    states = introspect.own_states(queue)[2:]
    assert [state.accepted for state in states] == [1, 10]


# 5. set_rate refuses what is right, or changes what it says it has not changed.


async def test_refused_set_rate_changes_nothing():
    """A unit of limits that are refused is not known afterwards."""
    queue = ApiQueue("10/s")
    slot, waiting = await queue.enqueue(), queue.enqueue()
    with pytest.raises(ValueError, match="tokens"):
        queue.set_rate("5 tokens/min")
    slot.settle(2)
    del waiting


async def test_pattern_checks_its_own_waiters():
    """Waiters whose key has limits by another name do not stand in the way of a pattern's."""
    queue = ApiQueue(lanes={"*": "100 in any 1s", "a": "1000 in any 1s"})
    await queue.enqueue(key="a", cost=600)
    waiting = queue.enqueue(key="a", cost=500)
    queue.set_rate("200 in any 1s", key="*")
    del waiting


async def test_lane_permits_below_adaptive_concurrency():
    """What the constructor takes, `set_rate` takes."""
    adaptive = Adaptive(concurrency=3)
    queue = ApiQueue(lanes={"a": "2 at once"}, concurrency=10, adaptive=adaptive)
    queue.set_rate("2 at once", key="a")


async def test_lane_figures_after_set_rate():
    """A call that is leaving when its lane is named is not taken off what was never counted."""
    queue = ApiQueue("1/s", lanes={"b": "5/s"})
    await queue.enqueue()

    async def call():
        async with queue.slot(key="a"):
            pass

    task = asyncio.create_task(call())
    await asyncio.sleep(0.1)
    task.cancel()
    queue.set_rate("3/s", key="a")
    await asyncio.sleep(0.1)
    assert queue.stats.lanes["a"].waiting == 0


# 6. Memory and work that grow.


async def test_scheduler_keeps_no_old_rooms():
    """Lanes that are used one after the other leave nothing behind."""
    queue = ApiQueue(lanes={"*": "1 at once"})
    for number in range(500):
        slot, following = await queue.enqueue(key=number), queue.enqueue(key=number)
        await asyncio.sleep(0.01)
        slot.release()
        (await following).release()
        await asyncio.sleep(0.01)
    assert len(introspect.limits_to_look_at(queue)) < 50


async def test_bucket_memory_is_bounded():
    """A bucket that drains slowly does not keep an entry for each call."""
    queue = ApiQueue("1000/s burst 30000")
    for _ in range(5000):
        async with queue.slot():
            pass
        await asyncio.sleep(1 / 1010)
    assert len(introspect.own_states(queue)[0].peaks) < 500


async def settle_after(calls):
    """Return the work of giving back, in a bucket that has drained for so many calls."""
    queue = ApiQueue("1000/s burst 30000")
    for _ in range(calls):
        async with queue.slot(cost=1.01) as slot:
            pass
        await asyncio.sleep(1 / 1000)
    async with queue.slot():
        pass
    return work(lambda: slot.settle(0.5)) + len(introspect.own_states(queue)[0].peaks)


async def test_settlement_is_not_linear():
    """Giving back costs the same after 200 calls and after 4,000."""
    assert await settle_after(4000) < 2 * await settle_after(200)


async def test_fair_cancellations_are_not_linear():
    """Keys whose callers have left cost the next ones nothing, and are forgotten."""
    queue = ApiQueue("1/h", order="fair")
    await queue.enqueue(key="first")
    waiting = queue.enqueue(key="first")
    for number in range(2000):
        queue.enqueue(key=number).cancel()
    assert len(introspect.turns_of(queue)) < 200
    del waiting


async def overflow_cost(maxsize):
    """Return the time of a newcomer that pushes out the oldest, after a third were pushed out."""
    queue = ApiQueue("1/h", maxsize=maxsize, overflow="drop_oldest")
    await queue.enqueue()
    calls = [queue.enqueue() for _ in range(maxsize + maxsize // 3)]
    begin = time.process_time()
    calls += [queue.enqueue() for _ in range(200)]
    spent = time.process_time() - begin
    for call in calls:
        if call.done():
            call.exception()
    return spent


async def test_drop_oldest_is_not_linear():
    """It does not walk past all who were pushed out before."""
    few = min([await overflow_cost(250) for _ in range(3)])
    many = min([await overflow_cost(8000) for _ in range(3)])
    assert many < 4 * few


async def try_slot_cost(waiting):
    """Return the CPU time of `try_slot` that fails, behind so many in a lane."""
    queue = ApiQueue(lanes={"a": "1/s"})
    calls = [queue.enqueue(key="a") for _ in range(waiting)]
    begin = time.process_time()
    for _ in range(20):
        with pytest.raises(WouldWait):
            queue.try_slot(key="a")
    del calls
    return time.process_time() - begin


async def test_estimate_in_lane_is_not_linear():
    """An estimate does not add up all who wait in a lane, as it does not in a queue."""
    few = min([await try_slot_cost(200) for _ in range(3)])
    many = min([await try_slot_cost(8000) for _ in range(3)])
    assert many < 4 * few


# 7. Order and adaptive, as the first edition had them.


async def test_fair_worker_takes_every_turn():
    """With `order="fair"`, a key that asks for one slot after the other has every second one."""
    queue, order = ApiQueue("10/s", order="fair"), []

    async def call(key):
        async with queue.slot(key=key):
            order.append(key)

    async def work_on():
        for _ in range(20):
            await call("a")

    await queue.enqueue(key="first")
    crowd = [asyncio.create_task(call("b")) for _ in range(60)]
    await asyncio.sleep(0.05)
    await asyncio.gather(work_on(), *crowd)
    assert "".join(order[:40]) == "ba" * 20


async def test_adaptive_measures_its_own_round():
    """True costs of calls from before a push-back do not lessen what is measured after it."""
    queue = ApiQueue("1000 tokens/s burst 1000", adaptive=Adaptive())
    slots = [await queue.enqueue(cost={"tokens": 100}) for _ in range(9)]
    slots[0].throttled()
    await queue.enqueue(cost={"tokens": 100})
    measured = introspect.own_states(queue)[1]
    before = measured.accepted
    for slot in slots:
        slot.settle({"tokens": 10})
    assert measured.accepted == before == 100


@pytest.mark.parametrize("limit", ["1000/s burst 100"])
async def test_patterns_cost_no_call(limit):
    """A slot under `"*"` costs the same beside 500 other patterns."""
    spent = []
    for number in (1, 500):
        queue = ApiQueue(lanes={**{f"{n}-*": "1/s" for n in range(number)}, "*": limit})
        queue.try_slot(key="a").release()
        spent.append(work(lambda queue=queue: queue.try_slot(key="a").release()))
    assert spent[1] < 2 * spent[0]
