"""`sync`: no more starts than the server says remains, until its quota is full again."""

from __future__ import annotations

import asyncio
import math

import pytest

from aioapiqueue import ApiQueue, Calendar, Rate, Window
from aioapiqueue.spi import Reporter
from tests.helpers.instants import exactly, free, line_up, released
from tests.helpers.introspect import bounds_of

PLENTY = "1000/s burst 1000"


# What remains.


async def test_no_more_than_remain_start():
    """So many start at once, and the rest at the reset, as fast as the limit lets them."""
    queue = ApiQueue("10/s burst 10")
    with queue.try_slot() as slot:
        slot.sync(3, reset=20)
    assert await released(queue, 6) == exactly([0, 0, 0, 20, 20, 20])


async def test_window_may_end_much_earlier():
    """A response that is not late counts, although its window ends much earlier than assumed."""
    queue = ApiQueue(PLENTY)
    reporter = Reporter(queue)
    with queue.try_slot() as slot:
        reporter.sync(slot, 5, unit="calls", reset=10, limit=10, period=60)
    await asyncio.sleep(20)
    with queue.try_slot() as slot:  # begins a window, until 80 as far as is known
        pass
    await asyncio.sleep(1)
    reporter.sync(slot, 0, unit="calls", reset=9, limit=10, period=60)
    assert await released(queue, 1) == exactly([30])


@pytest.mark.parametrize("key", [None, "a"])
async def test_told_by_an_observer_as_calls_are_released(key):
    """Those who were due at the same instant, and behind that call, wait for the reset."""

    class Told:
        def on_event(self, event):
            if event.kind == "released" and event.at == 1:
                queue.sync(0, reset=30, key=key)

    queue = ApiQueue(PLENTY, lanes={"a": PLENTY}, observers=[Told()])
    queue.pause(1)
    waiting = [queue.enqueue(key="a") for _ in range(3)]
    assert [(await one).waited for one in waiting] == exactly([1, 31, 31])


async def test_the_limit_holds_beside_it():
    """The tighter of both: more may remain than the limit lets through."""
    queue = ApiQueue("10/s")
    queue.sync(3, reset=0.15)
    assert await released(queue, 5) == exactly([0, 0.1, 0.2, 0.3, 0.4])


async def test_what_is_out_is_taken_off():
    """All other calls without an answer are, from the first sync on."""
    queue = ApiQueue(PLENTY)
    queue.sync(100, reset=60)
    one, other, third = [queue.try_slot() for _ in range(3)]
    third.sync(10, reset=60)
    assert bounds_of(queue)[0].left == 8
    other.sync(10, reset=60)  # an older answer
    third.sync(10, reset=60)
    assert bounds_of(queue)[0].left == 9
    one.release()  # it never had one
    third.sync(10, reset=60)
    assert bounds_of(queue)[0].left == 9


async def test_out_before_the_first_sync():
    """Calls that were out already count as average ones, until they end."""
    queue = ApiQueue(PLENTY, "1000 tokens/s burst 1000")
    early = [queue.try_slot(cost={"tokens": 10 * n}) for n in (1, 2, 3)]
    await asyncio.sleep(1)
    queue.sync(100, unit="tokens", reset=60)
    assert bounds_of(queue)[0].left == 40
    early[2].sync(100, unit="tokens", reset=60)
    assert bounds_of(queue)[0].left == 40  # it is older than the page
    late = queue.try_slot(cost={"tokens": 1})
    late.sync(100, unit="tokens", reset=60)
    for slot in early:
        slot.release()
    late.sync(100, unit="tokens", reset=60)
    assert bounds_of(queue)[0].left == 100


async def test_early_call_is_not_its_own():
    """One that was out before the first sync is not taken off its own answer, nor another twice."""
    queue = ApiQueue(PLENTY)
    one, other = queue.try_slot(), queue.try_slot()
    one.sync(10, reset=60)
    assert bounds_of(queue)[0].left == 9
    one.release()
    one.sync(10, reset=60)  # the other is out all the same
    assert bounds_of(queue)[0].left == 9
    other.release()
    one.sync(10, reset=60)
    assert bounds_of(queue)[0].left == 10


async def test_early_call_given_back():
    """One that is given back is out no more, whatever the queue knew of it."""
    queue = ApiQueue(PLENTY)
    future = queue.enqueue()
    queue.sync(10, reset=60)
    assert bounds_of(queue)[0].left == 9
    future.cancel()
    assert bounds_of(queue)[0].left == 10
    queue.sync(5, reset=60)
    assert bounds_of(queue)[0].left == 5


async def test_later_released_answer_counts():
    """It replaces what was said before, up and down; the answer to an older call is ignored."""
    queue = ApiQueue(PLENTY)
    queue.sync(50, reset=60)
    first = queue.try_slot()
    await asyncio.sleep(1)
    second = queue.try_slot()
    second.sync(5, reset=60)
    assert bounds_of(queue)[0].left == 4
    first.sync(40, reset=60)
    assert bounds_of(queue)[0].left == 4
    await asyncio.sleep(1)
    queue.try_slot().sync(20, reset=60)
    assert bounds_of(queue)[0].left == 20


async def test_released_together_counts_later():
    """Of calls that start at one instant, the one that started later."""
    queue = ApiQueue(PLENTY)
    queue.sync(50, reset=60)
    await asyncio.sleep(1)
    one, other = queue.try_slot(), queue.try_slot()
    other.sync(5, reset=60)
    one.sync(40, reset=60)
    assert bounds_of(queue)[0].left == 4


async def test_only_limit_counts_after_reset():
    """What started before and after is bound by the limit alone, until the next figure."""
    queue = ApiQueue("10 in any 1s")
    queue.sync(0, reset=5)
    assert free(queue) == 0
    await asyncio.sleep(5)
    assert free(queue) == 10
    await asyncio.sleep(1)
    assert free(queue) == 10
    queue.sync(3, reset=5)
    await asyncio.sleep(1)
    assert free(queue) == 3


async def test_answer_after_the_end():
    """After `release` it counts as well, and the call is not taken off its own answer."""
    queue = ApiQueue(PLENTY)
    queue.sync(100, reset=60)
    with queue.try_slot() as slot:
        await asyncio.sleep(1)
        other = queue.try_slot()
    slot.sync(10, reset=60)
    assert bounds_of(queue)[0].left == 9
    other.release()
    other.sync(10, reset=60)
    slot.sync(50, reset=60)
    assert bounds_of(queue)[0].left == 10


async def test_ended_without_an_answer():
    """It may have been counted: the answer to a call that is released after its end says so."""
    queue = ApiQueue(PLENTY)
    queue.sync(100, reset=60)
    lost, during = queue.try_slot(), queue.try_slot()
    await asyncio.sleep(1)
    lost.release()
    during.sync(10, reset=60)
    assert bounds_of(queue)[0].left == 9
    queue.try_slot().sync(10, reset=60)  # at one instant, nobody knows what came first
    assert bounds_of(queue)[0].left == 9
    await asyncio.sleep(1)
    queue.try_slot().sync(10, reset=60)
    assert bounds_of(queue)[0].left == 10


async def test_a_page_counts_what_has_ended():
    """A figure that is of no call takes off what is out, and nothing that has ended."""
    queue = ApiQueue(PLENTY)
    queue.sync(100, reset=60)
    running = queue.try_slot()
    for _ in range(3):
        queue.try_slot().release()
    queue.sync(10, reset=60)
    assert bounds_of(queue)[0].left == 9
    running.release()


# When the quota is full again.


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [
        (Rate(10, per=2), 2),
        (Rate(10, per=1, burst=100), 10),
        (Window(10, 30), 30),
        (Calendar(10, "hour"), 3600),
        (Calendar(10, "day"), 86400),
        ("5 at once", 60),
        ("unlimited", 60),
    ],
)
async def test_period_without_a_reset(limit, seconds):
    """Without a reset: after the limit's own period, and a minute where there is none."""
    queue = ApiQueue(limit)
    queue.sync(0)
    assert queue.estimate() == exactly(seconds)


async def test_period_of_the_lane():
    """In a lane, the period is that of the lane's limit; of several, the longest."""
    queue = ApiQueue("10/s", lanes={"a": "5 in any 7s, 50 in any 300s", "b": ()})
    for key, seconds in (("a", 300), ("b", 60)):
        queue.sync(0, key=key)
        assert queue.estimate(key=key) == exactly(seconds)
    queue = ApiQueue("9 tokens in any 7s")
    queue.sync(0, unit="tokens")
    assert queue.estimate(cost={"tokens": 1}) == exactly(7)


async def test_two_quotas_of_one_unit():
    """They are told apart by their size; each has its reset."""
    queue = ApiQueue(PLENTY)
    queue.sync(5, reset=1, limit=10)
    queue.sync(7, reset=100, limit=500)
    assert await released(queue, 9) == exactly([0] * 5 + [1] * 2 + [100] * 2)
    assert len(bounds_of(queue)) == 2


async def test_a_changed_size_is_the_same():
    """A quota that is full again may come back with another size: there is no third one."""
    queue = ApiQueue(PLENTY)
    for limit in (10, 20, 40):
        queue.sync(2, reset=1, limit=limit)
        assert free(queue) == 2
        await asyncio.sleep(1)
    assert len(bounds_of(queue)) == 1


# Which calls.


async def test_in_the_call_s_own_lane():
    """It concerns the lane of the first key that has one; other lanes are free."""
    queue = ApiQueue(lanes={"a": (), "b*": ()})
    with queue.try_slot(keys=("none", "a", "b1")) as slot:
        slot.sync(2, reset=30)
    assert free(queue, key="a") == 2
    assert free(queue, key="b1") == free(queue) == 100
    queue.sync(1, reset=30, key="b2")
    assert (free(queue, key="b2"), free(queue, key="b3")) == (1, 100)
    queue.sync(3, reset=30, key="none")  # a key without a lane: all of them
    assert free(queue, key="b3") == 3


async def test_lane_takes_off_its_own():
    """What is out in other lanes is not taken off."""
    queue = ApiQueue(lanes={"*": ()})
    queue.sync(100, key="a")
    for key in ("b", "b", "a"):
        queue.try_slot(key=key)
    slot = queue.try_slot(key="a")
    slot.sync(10, reset=30)
    assert bounds_of(queue, "a")[0].left == 9


async def test_only_who_uses_the_unit():
    """A call that uses nothing of it starts, and is not counted."""
    queue = ApiQueue(PLENTY, "1000 tokens/s burst 1000")
    queue.sync(100, unit="tokens", reset=30)
    assert free(queue, cost={"tokens": 0}) == 100
    assert free(queue, cost={"tokens": 30}) == 3
    queue.sync(0, reset=20)
    assert queue.estimate(cost={"calls": 0, "tokens": 10}) == 0
    assert queue.estimate(cost={"calls": 0, "tokens": 11}) == exactly(30)
    assert queue.estimate(cost={"tokens": 1}) == exactly(20)


async def test_settling_moves_what_remains():
    """Up and down, at once, for those who wait, too."""
    queue, starts = ApiQueue(PLENTY), []
    queue.sync(10, reset=60)
    slot = queue.try_slot(cost=8)
    waiting = asyncio.gather(*line_up(queue, starts, 2, cost=4))
    await asyncio.sleep(1)
    slot.settle(6)
    await asyncio.sleep(1)
    slot.settle(9)
    slot.settle(2)
    await waiting
    assert starts == exactly([1, 2])


@pytest.mark.parametrize("key", [None, "a"])
async def test_settled_after_its_answer(key):
    """What remains by a call's own answer has its true cost in it: nothing is given back twice."""
    queue = ApiQueue("9999 tokens/s burst 9999", lanes={"a": ()})
    calls = [queue.try_slot(key=key, cost={"tokens": 80}) for _ in range(3)]
    answered, unanswered, told_nothing = calls
    answered.sync(100 + 2 * 80, unit="tokens", reset=60)
    await asyncio.sleep(1)
    Reporter(queue).answered(told_nothing)
    for call in calls:
        call.settle({"tokens": 5})
    ask = {"key": key, "cost": {"tokens": 100 + 2 * 75}}
    assert queue.estimate(**ask) == 0
    assert queue.estimate(**ask | {"cost": {"tokens": 100 + 2 * 75 + 1}}) == exactly(59)
    unanswered.sync(100, unit="tokens", reset=60)
    unanswered.settle({"tokens": 1})
    assert queue.estimate(**ask | {"cost": {"tokens": 100}}) == 0
    assert queue.estimate(**ask | {"cost": {"tokens": 101}}) == exactly(60)


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize("key", [None, "a"])
async def test_settled_without_an_answer(key, ended):
    """The answer to another call leaves less by what this one truly costs, after its end, too."""
    queue = ApiQueue("9999 tokens/s burst 9999", lanes={"a": ()})
    queue.sync(500, unit="tokens", reset=60, key=key)
    slot, other = (queue.try_slot(key=key, cost={"tokens": cost}) for cost in (10, 1))
    if ended:
        slot.release()
    slot.settle({"tokens": 50})
    other.sync(200, unit="tokens", reset=60)
    assert free_tokens(queue, key) == 150


@pytest.mark.parametrize("key", [None, "a"])
@pytest.mark.parametrize("others", [False, True])
async def test_settled_after_its_end(key, others):
    """Of pages alone: what was off the last one is given back, also if nobody else runs."""
    queue = ApiQueue("9999 tokens/s burst 9999", lanes={"a": ()})
    one = {"key": key, "cost": {"tokens": 400}}
    page = {"key": key, "unit": "tokens", "reset": 60}
    queue.sync(500, **page)
    if others:
        queue.try_slot(key=key, cost={"tokens": 0})
    await asyncio.sleep(1)
    slot = queue.try_slot(**one)
    slot.release()
    await asyncio.sleep(1)
    slot.settle({"tokens": 10})
    assert free_tokens(queue, key) == 490
    slot = queue.try_slot(**one)
    slot.release()
    await asyncio.sleep(1)
    queue.sync(490, **page)  # it has the call in it
    slot.settle({"tokens": 10})
    assert free_tokens(queue, key) == 490


async def test_a_page_of_its_end_had_it():
    """What is read elsewhere counts what has ended in that instant: settled, it gives none back."""
    queue = ApiQueue(PLENTY, lanes={"*": ()})
    queue.sync(100, reset=60, key="a")
    with queue.try_slot(key="a"):  # or else those that ended are forgotten
        with queue.try_slot(key="a", cost=5) as ended:
            pass
        queue.sync(10, reset=60, key="a")
        assert bounds_of(queue, "a")[0].left == 9  # the one that is out is taken off
        ended.settle(1)
        assert bounds_of(queue, "a")[0].left == 9


async def test_ended_before_all_who_run():
    """What starts once nobody runs, starts after those that ended, be it in one instant."""
    queue = ApiQueue(PLENTY)
    queue.sync(100, reset=60)
    queue.try_slot(cost=5).release()
    queue.try_slot().sync(10, reset=60)
    assert bounds_of(queue)[0].left == 10


def free_tokens(queue, key):
    """Return how many could start now."""
    most = range(1, 10_000)
    return next(n for n in most if queue.estimate(key=key, cost={"tokens": n + 1}) > 0)


async def test_given_back_remains():
    """A caller that is cancelled when its slot has come gives back what it would have used."""
    queue = ApiQueue(PLENTY)
    queue.sync(2, reset=60)
    future = queue.enqueue(cost=2)
    queue.sync(2, reset=60)  # the slot may be out by now
    assert free(queue) == 0
    future.cancel()
    assert free(queue) == 2


async def test_given_back_of_another_unit():
    """What says nothing of the unit, or uses none, gives nothing back; nor is it in the way."""
    queue = ApiQueue(PLENTY, lanes={"a": "10 tokens/s burst 10"})
    future = queue.enqueue()
    queue.sync(5, unit="tokens", reset=60)
    future.cancel()
    assert bounds_of(queue)[0].left == 5


# Wrong figures, and calls.


@pytest.mark.parametrize("name", ["remaining", "reset", "limit"])
@pytest.mark.parametrize("number", [-1, math.nan, math.inf, "1", True])
async def test_no_figure_is_refused(name, number):
    """What no server can mean is refused by name, and changes nothing."""
    queue = ApiQueue("10/s burst 10")
    slot = queue.try_slot()
    for sync in (queue.sync, slot.sync):
        with pytest.raises((ValueError, TypeError), match=name):
            sync(**{"remaining": 0, name: number})
    assert queue.estimate() == 0


async def test_unknown_unit_is_refused():
    """With the nearest that is known."""
    queue = ApiQueue("10/s", "10 tokens/s")
    slot = queue.try_slot(cost={"tokens": 1})
    for sync in (queue.sync, slot.sync):
        with pytest.raises(ValueError, match=r"'token' is a unit .* did you mean 'tokens'"):
            sync(1, unit="token")


async def test_no_answer_before_the_start():
    """Only a call that has started has an answer; a pattern is no key."""
    queue = ApiQueue("1/s", lanes={"a*": ()})
    queue.try_slot()
    future, new = queue.enqueue(), queue.slot()
    waiting = asyncio.ensure_future(new.__aenter__())
    await asyncio.sleep(0.5)
    with pytest.raises(RuntimeError, match=r"sync\(\) works only after the call has started"):
        new.sync(1)
    future.cancel()
    waiting.cancel()
    await asyncio.wait([waiting])
    with pytest.raises(RuntimeError, match=r"sync\(\) works only after the call has started"):
        new.sync(1)
    with pytest.raises(ValueError, match="is a pattern"):
        queue.sync(1, key="a*")
