"""Limits that nobody has configured: learnt from answers, one call of a lane at a time before."""

from __future__ import annotations

import asyncio
import time

import pytest

from aioapiqueue import ApiQueue, Rate, Window
from aioapiqueue.spi import QueueReader, Reporter, algorithms, limit_types
from aioapiqueue.testing import VirtualLoop
from tests.helpers import introspect
from tests.helpers.instants import exactly, line_up, now, released, use
from tests.helpers.introspect import bounds_of, lanes_of, left_over
from tests.helpers.learning import answer, free_at_once, learning, learnt

# One at a time, until the first answer.


@pytest.mark.parametrize("lanes", [{"*": ()}, {"a": "100/s"}, None])
async def test_one_out_until_the_first_answer(lanes):
    """Of each lane, and of a queue without lanes; the others wait, and go when it is answered."""
    queue, starts = learning(lanes=lanes), []
    first = await queue.enqueue(key="a")
    tasks = line_up(queue, starts, 3, key="a")
    await asyncio.sleep(5)
    assert starts == []
    if lanes is not None:
        assert free_at_once(queue, key="b") == (1 if "*" in lanes else 3)
    answer(queue, first, tokens=10)
    await asyncio.gather(*tasks)
    assert starts == exactly([5, 5, 5.01] if lanes == {"a": "100/s"} else [5] * 3)
    first.release()
    assert left_over(queue) == []


@pytest.mark.parametrize("how", ["ends", "raises", "is cancelled", "is given back"])
async def test_first_without_an_answer(how):
    """If it ends without one, however, the next goes, alone again; nobody is stuck."""
    queue, starts = learning(lanes={"*": ()}), []

    async def first():
        async with queue.slot(key="a"):
            if how == "raises":
                raise ZeroDivisionError
            await asyncio.sleep(1 if how == "ends" else 1000)

    async def body():
        async with queue.slot(key="a"):
            starts.append(now())
            await asyncio.sleep(3)

    if how == "is given back":
        future = queue.enqueue(key="a")
        task = asyncio.create_task(asyncio.sleep(0))
    else:
        task = asyncio.create_task(first())
    await asyncio.sleep(0)
    tasks = [asyncio.create_task(body()) for _ in range(2)]
    await asyncio.sleep(0.5)
    if how == "is cancelled":
        task.cancel()
    if how == "is given back":
        future.cancel()
    await asyncio.gather(task, *tasks, return_exceptions=True)
    at = {"ends": 1, "raises": 0}.get(how, 0.5)
    assert starts == exactly([at, at + 3])
    assert left_over(queue) == []


async def test_answer_without_limits_opens_too():
    """An answer that says nothing of limits leaves the lane unlimited."""
    queue = learning(lanes={"*": ()})
    first = await queue.enqueue(key="a")
    assert free_at_once(queue, key="a") == 0
    Reporter(queue).answered(first)
    Reporter(queue).adopt(first, [])
    assert free_at_once(queue, key="a") == 3
    assert queue.stats.learnt == {}


async def test_no_second_gate():
    """A lane in which nobody has called for long is kept: it knows what it has learnt."""
    queue = learning(lanes={"*": ()})
    with await queue.enqueue(key="a") as first:
        answer(queue, first, tokens=5)
    for n in range(5):
        queue.try_slot(key=f"other {n}").release()
    await asyncio.sleep(1000)
    queue.try_slot(key="another").release()
    assert set(lanes_of(queue)) == {"a", "another"}
    assert free_at_once(queue, key="a", cost={"tokens": 2}) == 2
    assert learnt(queue) == {"a": "5 tokens/min burst 5"}


async def test_lane_with_nothing_learnt_is_forgotten():
    """One that was kept for what it has learnt goes once other limits have replaced that."""
    queue = learning(lanes={"*": ()})
    with await queue.enqueue(key="a") as first:
        answer(queue, first, tokens=5)
    await asyncio.sleep(1000)
    queue.try_slot(key="another").release()
    assert "a" in lanes_of(queue)
    queue.set_rate("8 tokens in any 7s", key="*")
    await asyncio.sleep(1000)
    queue.try_slot(key="another", cost={"tokens": 1}).release()
    assert set(lanes_of(queue)) == {"another"}


def test_full_bucket_keeps_what_is_late():
    """If the server says no more than is known to be left, late calls may make up as before."""
    bucket = algorithms.LearntBucket(limit_types.LearntRate(10), catch_up=1)
    bucket.on_idle(0.0)
    bucket.consume(0.0, (1,))
    bucket.follow(1, 0.55)
    bucket.consume(0.55, (1,))
    assert bucket.next_at(0.55, (1,)) == exactly(0.2)


async def test_window_after_rest():
    """In a lane at rest, no more start than the window has, however late the first answer is."""
    queue, starts = learning(units=("calls",), lanes={"*": ()}), []
    with await queue.enqueue(key="a") as first:
        answer(queue, first, calls=60)
    await asyncio.sleep(1000)
    queue.try_slot(key="another").release()
    tasks = line_up(queue, starts, 100, key="a")
    await asyncio.sleep(30)
    assert len(starts) == 60
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_learning_after_calls_started():
    """Begun while calls run, one more of a lane goes, and the answer of any opens it."""
    queue = ApiQueue(lanes={"*": ()})
    early = [queue.try_slot(key="a") for _ in range(3)]
    Reporter(queue).learn(["tokens"])
    assert free_at_once(queue, key="a") == 1
    early[0].release()
    assert free_at_once(queue, key="a") == 1
    answer(queue, early[1], tokens=500)
    assert free_at_once(queue, key="a") == 3
    queue = ApiQueue("100/s burst 100")
    early = queue.try_slot()
    Reporter(queue).learn(["tokens"])
    assert free_at_once(queue) == 0  # without lanes, all that run are counted
    answer(queue, early, tokens=500)
    assert free_at_once(queue) == 3


async def test_learning_twice_is_once():
    """Two transports of one queue may say so both; what was answered before needs no gate."""
    queue = learning(lanes={"*": ()})
    first = queue.try_slot(key="a")
    Reporter(queue).learn(["pages"])
    answer(queue, first, tokens=50)
    assert free_at_once(queue, key="a", cost={"tokens": 1, "pages": 7}) == 3
    queue = ApiQueue("10/s burst 10")
    queue.try_slot().sync(5, reset=60)
    Reporter(queue).learn(["tokens"])
    assert free_at_once(queue) == 3
    queue = ApiQueue(lanes={"*": ()})
    queue.try_slot(key="a").sync(5, reset=60)
    queue.try_slot(key="b").release()
    Reporter(queue).learn(["tokens"])
    assert [free_at_once(queue, key=key) for key in "ab"] == [3, 1]


# What is learnt.


async def test_learnt_limit_paces():
    """A bucket of that size and pace, beside what remains; a call that is settled gives back."""
    queue = learning(units=("calls",))
    first = await queue.enqueue()
    answer(queue, first, calls=60)
    assert learnt(queue) == {None: "60/min burst 60"}
    starts = await released(queue, 130)
    assert starts[:60] == exactly([0] * 60)
    assert starts[60] > 1
    assert all(sum(at < t for at in starts) <= 60 + 60 + t for t in range(150))


async def test_only_units_that_are_free():
    """A unit that the queue or the lane has a limit of is left to it; others are learnt."""
    queue = learning("10/s", lanes={"a*": "500 pages/s burst 9"}, units=("tokens",))
    first = await queue.enqueue(key="a1", cost={"pages": 0})
    answer(queue, first, calls=7, pages=8, tokens=9)
    assert learnt(queue) == {"a1": "9 tokens/min burst 9"}
    assert queue.limits == (Rate(10),)
    assert QueueReader(queue).limits_of("a1") == (
        Rate(500, burst=9, unit="pages"),
        *queue.stats.learnt["a1"],
    )
    assert QueueReader(queue).limits_of("a2") == (Rate(500, burst=9, unit="pages"),)


async def test_change_is_followed():
    """Up and down, also where the server stops stating one of two; what was used still counts."""
    queue = learning(units=("tokens", "pages"), lanes={"*": ()})
    slot = await queue.enqueue(key="a", cost={"tokens": 10})
    answer(queue, slot, tokens=10, pages=5, remaining=0)
    assert queue.estimate(key="a", cost={"tokens": 10}) > 50
    await asyncio.sleep(1)
    answer(queue, await queue.enqueue(key="a"), tokens=1000, remaining=900)
    assert learnt(queue) == {"a": "5 pages/min burst 5, 1000 tokens/min burst 1000"}
    assert len(bounds_of(queue, "a")) == 2
    assert free_at_once(queue, key="a", cost={"tokens": 300}) == 3
    await asyncio.sleep(1)
    answer(queue, await queue.enqueue(key="a"), tokens=20, remaining=20)
    assert free_at_once(queue, key="a", cost={"tokens": 10}) == 2


async def test_same_answer_changes_nothing():
    """Limits that are known already are not set again."""
    queue = learning(lanes={"*": ()})
    slot = await queue.enqueue(key="a")
    answer(queue, slot, tokens=10)
    before = QueueReader(queue).limits_of("a")
    answer(queue, slot, tokens=10)
    assert QueueReader(queue).limits_of("a") == before == queue.stats.learnt["a"]


async def test_unstated_cost_is_no_error():
    """A call that says nothing of a learnt unit is charged 0 and counted as unaccounted."""
    queue = learning(lanes={"*": ()})
    first = await queue.enqueue(key="a")
    answer(queue, first, tokens=5)
    assert queue.stats.unaccounted == 0
    assert len(await released(queue, 10, key="a")) == 10
    assert queue.stats.unaccounted == 10
    assert free_at_once(queue, key="a", cost={"tokens": 2}) == 2
    assert free_at_once(queue, key="a", cost={"tokens": 0}) == 3
    assert queue.stats.unaccounted == 10


async def test_unstated_cost_counts_at_start():
    """A call that waits is not unaccounted yet: it may never start."""
    queue = learning(lanes={"*": ()})
    first = await queue.enqueue(key="a")
    answer(queue, first, tokens=5)
    queue.pause(7)
    waiting, left = queue.enqueue(key="a"), queue.enqueue(key="a")
    left.cancel()
    assert queue.stats.unaccounted == 0
    with await waiting:
        assert (now(), queue.stats.unaccounted) == (7, 1)


async def test_waiters_meet_what_is_learnt():
    """Those who wait for the first answer come under the limits that it states."""
    queue, starts = learning(lanes={"*": ()}), []
    first = await queue.enqueue(key="a", cost={"tokens": 1})
    tasks = line_up(queue, starts, 6, key="a", cost={"tokens": 2})
    silent = line_up(queue, starts, 1, key="a")
    await asyncio.sleep(5)
    answer(queue, first, tokens=6)
    await asyncio.gather(*tasks, *silent)
    assert starts[:4] == exactly([5, 5, 5, 5])  # three of them, and who uses none
    assert starts[4:] == exactly([65] * 3)


async def test_user_s_limits_replace_learnt():
    """`set_rate` afterwards replaces them for good; what the server says remains still bounds."""
    queue = learning(units=("calls",), lanes={"*": ()})
    slot = await queue.enqueue(key="a", cost=8)
    answer(queue, slot, calls=10, remaining=2)
    queue.set_rate(Window(4, 1), key="a")
    assert learnt(queue) == {}
    assert free_at_once(queue, key="a") == 2
    answer(queue, await queue.enqueue(key="a"), calls=10, remaining=10)
    assert learnt(queue) == {}
    assert QueueReader(queue).limits_of("a") == (Window(4, 1),)


async def test_several_keys_learn_the_first():
    """Of a call with several keys, the lane of the first that has one learns."""
    queue = learning(lanes={"b": (), "c": ()})
    slot = await queue.enqueue(keys=("a", "b", "c"))
    answer(queue, slot, tokens=5)
    assert learnt(queue) == {"b": "5 tokens/min burst 5"}
    assert free_at_once(queue, key="c") == 3  # it was answered, too


@pytest.mark.parametrize("lanes", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
async def test_thousands_of_lanes(monkeypatch, lanes):
    """Up to 10,000 lanes learn, each in the time of one; beyond, what remains is obeyed."""
    if lanes != 10_000:
        introspect.replace(monkeypatch, "lanes that learn", lanes)
    queue = learning(lanes={"*": ()})
    for number in range(lanes + 100):
        with queue.try_slot(key=number, cost={"tokens": 4}) as slot:
            answer(queue, slot, tokens=5, remaining=1)
    assert len(queue.stats.learnt) == lanes
    assert free_at_once(queue, key=lanes + 50, cost={"tokens": 1}) == 1
    assert free_at_once(queue, key=lanes + 51) == 3


async def test_oldest_answers_are_forgotten():
    """Of more than 10,000 keys that were answered, the oldest begin with one call at a time again.

    That is once their lanes, at rest, have been forgotten, too.
    """
    queue = learning(lanes={"*": ()})
    for number in range(10_009):
        with queue.try_slot(key=number) as slot:
            Reporter(queue).answered(slot)
    await asyncio.sleep(10)
    for _ in range(10_009):  # a few are forgotten at each call
        queue.try_slot(key=10_008).release()
    assert queue.stats.lanes_in_memory == 1
    assert [free_at_once(queue, key=number) for number in (0, 9, 10, 10_008)] == [1, 1, 3, 3]


async def test_time_per_lane_does_not_grow():
    """To learn what a thousandth lane has takes about as long as of the first."""
    queue = learning(lanes={"*": ()})

    def seconds(keys):
        best = float("inf")
        for start in range(0, len(keys), 100):
            began = time.process_time()
            for key in keys[start : start + 100]:
                with queue.try_slot(key=key) as slot:
                    answer(queue, slot, tokens=5)
            best = min(best, time.process_time() - began)
        return best

    few = seconds(range(300))
    seconds(range(300, 3000))
    assert seconds(range(3000, 3300)) < 4 * few


async def test_figures_say_what_is_learnt():
    """`stats.learnt` has the limits by key, None for the queue's own; configured ones are not."""
    queue = learning("10/s", lanes={"a": "5/s"}, units=("tokens", "pages"))
    assert queue.stats.learnt == {}
    answer(queue, await queue.enqueue(key="none"), tokens=5)
    answer(queue, await queue.enqueue(key="a"), tokens=7, pages=3)
    assert learnt(queue) == {
        None: "5 tokens/min burst 5",
        "a": "7 tokens/min burst 7, 3 pages/min burst 3",
    }


# What an answer says, of a learnt limit.


async def test_one_goes_first_into_a_window():
    """When callers wait for the next window, one goes first, and the rest with its answer."""
    queue, starts = learning(units=("calls",), lanes={"*": ()}), []
    slot = await queue.enqueue(key="a", cost=100)
    answer(queue, slot, calls=100, remaining=0)
    slot.release()

    async def call(cost):
        async with queue.slot(key="a", cost=cost) as slot:
            starts.append(now())
            await asyncio.sleep(0.5)
            if len(starts) == 1:
                answer(queue, slot, calls=100, remaining=2)
            await asyncio.sleep(0.5)

    await asyncio.gather(*map(call, (98, 1, 1)))
    assert starts == exactly([60, 60.5, 60.5])


@pytest.mark.parametrize("how", ["is given back", "ends", "is cancelled"])
async def test_first_into_a_window_is_lost(how):
    """If that one has no answer, the rest go when it is out no more: nobody is stuck."""
    queue, starts = learning(units=("calls",), lanes={"*": ()}), []
    slot = await queue.enqueue(key="a", cost=100)
    answer(queue, slot, calls=100, remaining=0)
    slot.release()
    if how == "is given back":
        future = queue.enqueue(key="a")
    else:

        async def first():
            async with queue.slot(key="a"):
                await asyncio.sleep(1 if how == "ends" else 1000)

        task = asyncio.create_task(first())
        await asyncio.sleep(0)
    tasks = line_up(queue, starts, 3, key="a")
    await asyncio.sleep(61 if how != "ends" else 60.5)
    assert starts == []
    if how == "is given back":
        future.cancel()
    elif how == "is cancelled":
        task.cancel()
    await asyncio.gather(*tasks)
    assert starts == exactly([61] * 3)
    assert left_over(queue) == []


async def test_first_into_a_window_learns_nothing():
    """If its answer says nothing of the quota, the rest go with it, not with its body's end."""
    queue, starts = learning(units=("calls",), lanes={"*": ()}), []
    slot = await queue.enqueue(key="a", cost=100)
    answer(queue, slot, calls=100, remaining=0)
    slot.release()
    first = queue.enqueue(key="a")
    tasks = line_up(queue, starts, 3, key="a")
    await asyncio.sleep(61)
    Reporter(queue).answered(first.result())
    await asyncio.gather(*tasks)
    assert starts == exactly([61] * 3)
    first.result().release()
    assert left_over(queue) == []


@pytest.mark.parametrize("lanes", [None, {"*": ()}])
async def test_one_goes_first_after_a_hold(lanes):
    """Of those who are held until the next window, too: with lanes, or the whole queue."""
    queue, starts = learning(units=("calls",), lanes=lanes), []
    slot = await queue.enqueue(key="a", cost=100)
    answer(queue, slot, calls=100, remaining=0)
    slot.throttled(60)
    slot.release()

    async def call():
        async with queue.slot(key="a"):
            starts.append(now())
            await asyncio.sleep(0.5)

    await asyncio.gather(*(call() for _ in range(9)))
    assert starts == exactly([60] + [60.5] * 8)


@pytest.mark.parametrize("lanes", [None, {"*": ()}])
async def test_under_way_as_a_window_begins(lanes):
    """The server may count a call in the window that begins while it runs: so do we."""
    queue = learning(units=("calls",), lanes=lanes)
    with await queue.enqueue(key="a") as slot:
        answer(queue, slot, calls=10)
    running = await queue.enqueue(key="a", cost=2)
    await asyncio.sleep(61)
    queue.try_slot(key="a", cost=8).release()
    assert free_at_once(queue, key="a") == 0
    running.release()


async def test_other_answer_does_not_open_a_window():
    """Of a call that uses nothing of it: the first that does is waited for all the same."""
    queue, starts = learning(units=("tokens",)), []
    with await queue.enqueue(cost={"tokens": 100}) as slot:
        answer(queue, slot, tokens=100, remaining=0)
    first = queue.enqueue(cost={"tokens": 1})
    tasks = line_up(queue, starts, 3, cost={"tokens": 1})
    await asyncio.sleep(61)
    with queue.try_slot() as other:
        Reporter(queue).answered(other)
    await asyncio.sleep(1)
    assert starts == []
    Reporter(queue).answered(first.result())
    await asyncio.gather(*tasks)
    assert starts == exactly([62] * 3)
    first.result().release()


async def test_learnt_beside_a_key_without_lane():
    """A limit of a unit that was learnt for the queue is not for calls that do not state it."""
    queue, starts = learning("10/s", lanes={"batch": "1/s"}), []
    with await queue.enqueue(key="chat", cost={"tokens": 5}) as slot:
        answer(queue, slot, tokens=100)
    await asyncio.gather(*line_up(queue, starts, 3, key="health"))
    assert starts == exactly([0.1, 0.2, 0.3])
    assert left_over(queue) == []


async def test_older_end_does_not_open_a_window():
    """A call from before the reset that ends meanwhile is not the one that is waited for."""
    queue, starts = learning(units=("calls",), lanes={"*": ()}), []
    old = await queue.enqueue(key="a", cost=100)
    answer(queue, old, calls=100, remaining=0)
    first = queue.enqueue(key="a")
    task = asyncio.create_task(use(queue, starts, key="a"))
    await asyncio.sleep(61)
    old.release()
    await asyncio.sleep(1)
    assert starts == []
    (await first).release()
    await task
    assert starts == exactly([62])


# Other loops.


@pytest.mark.parametrize("lanes", [None, {"*": ()}])
@pytest.mark.parametrize("virtual", [False, True])
def test_learnt_on_another_loop(lanes, virtual):
    """What was learnt stays, and needs no second gate; on another clock, nothing is used of it."""
    queue = learning(units=("calls",), lanes=lanes)

    async def first():
        slot = await queue.enqueue(key="a", cost=2)
        assert free_at_once(queue, key="a") == 0
        answer(queue, slot, calls=3, remaining=1)
        assert free_at_once(queue, key="a") == 1

    async def second():
        assert free_at_once(queue, key="a") == (3 if virtual else 1)
        assert [*learnt(queue).values()] == ["3/min burst 3"]

    for scenario in (first, second):
        with asyncio.Runner(loop_factory=VirtualLoop if virtual else None) as runner:
            runner.run(scenario())


@pytest.mark.parametrize("lanes", [None, {"*": ()}])
def test_gate_on_another_loop(lanes):
    """One that was out on a loop that is gone holds nobody up on the next."""
    queue = learning(lanes=lanes)

    async def scenario():
        await queue.enqueue(key="a")
        assert free_at_once(queue, key="a") == 0

    for _ in range(3):
        with asyncio.Runner() as runner:
            runner.run(scenario())


def test_window_s_first_on_another_loop():
    """Nor does one that was to go first into a window."""
    queue = learning(units=("calls",), lanes={"*": ()})

    async def first():
        slot = await queue.enqueue(key="a", cost=9)
        Reporter(queue).sync(slot, 0, unit="calls", reset=0.3, limit=9, period=60.0)
        await queue.enqueue(key="a")
        assert free_at_once(queue, key="a") == 0

    async def second():
        assert free_at_once(queue, key="a") == 3

    for scenario in (first, second):
        with asyncio.Runner() as runner:
            runner.run(scenario())


async def test_pattern_set_after_learning():
    """New limits of a pattern are those of its keys, too, beside what these have learnt."""
    queue = learning(lanes={"m*": "100/s"})
    async with queue.slot(key="m", cost={"tokens": 1}) as slot:
        answer(queue, slot, tokens=600)
    queue.set_rate("1/s", key="m*")
    starts = [await queue.enqueue(key="m", cost={"tokens": 1}) for _ in range(2)]
    assert [slot.waited for slot in starts] == exactly([1, 1])
    assert learnt(queue) == {"m": "600 tokens/min burst 600"}


async def test_pattern_set_replaces_what_was_learnt():
    """Of each key under it: what it counts is learnt no more. One too small for a waiter is not."""
    queue = learning(lanes={"*": ()})
    for key in "ab":
        with await queue.enqueue(key=key) as slot:
            answer(queue, slot, tokens=50, calls=9)
    queue.pause()
    waiting = queue.enqueue(key="b", cost={"tokens": 7})
    with pytest.raises(ValueError, match="tokens"):
        queue.set_rate("5 tokens in any 7s", key="*")
    assert learnt(queue) == dict.fromkeys("ab", "50 tokens/min burst 50, 9/min burst 9")
    queue.set_rate("8 tokens in any 7s", key="*")
    assert learnt(queue) == dict.fromkeys("ab", "9/min burst 9")
    queue.set_rate("100/s", key="*")
    assert learnt(queue) == {}
    waiting.cancel()
    queue.resume()
    queue.set_rate("1/s", key="*")  # they go on as their pattern does
    await asyncio.sleep(10)
    starts = [(await queue.enqueue(key="a")).waited for _ in range(2)]
    assert starts == exactly([0, 1])
    queue.set_rate("1/s", key="a")
    queue.set_rate("100/s", key="*")  # but for one that has limits of its own from then on
    await asyncio.sleep(10)
    starts = [(await queue.enqueue(key="a")).waited for _ in range(2)]
    assert starts == exactly([0, 1])


async def test_new_pattern_reaches_who_has_learnt():
    """One that was not there before, and is more special than the key's own."""
    queue = learning(lanes={"*": ()})
    for key in ("api.a", "b"):
        with await queue.enqueue(key=key) as slot:
            answer(queue, slot, calls=90)
    queue.set_rate("60 tokens/min", key="api.*")
    await asyncio.sleep(10)
    slots = [await queue.enqueue(key="api.a", cost={"tokens": 1}) for _ in range(2)]
    assert [slot.waited for slot in slots] == exactly([0, 1])
    assert free_at_once(queue, key="b", cost={"tokens": 1}) == 3
    assert learnt(queue) == dict.fromkeys(("api.a", "b"), "90/min burst 90")


async def test_figure_without_a_size_later():
    """After a bucket's reset a figure without a size, or a period, bounds as any other."""
    queue = learning(units=("calls",))
    quotas, slot = Reporter(queue), await queue.enqueue()
    how = {"unit": "calls", "limit": 60, "period": 60, "refills": True}
    quotas.sync(slot, 60, reset=1, **how)
    slot.release()
    await asyncio.sleep(2)
    queue.sync(5, reset=1)
    starts = []
    await asyncio.gather(*line_up(queue, starts, 7))
    assert starts == exactly([2] * 5 + [3] * 2)


async def test_bucket_nobody_speaks_of():
    """If answers say nothing more, a bucket is full when it would be if only we used it.

    That is a period after the last answer, and later by what has started since; not more than full.
    """
    queue, starts = learning(units=("calls",)), []
    slot = await queue.enqueue()
    how = {"unit": "calls", "limit": 60, "period": 60, "refills": True}
    Reporter(queue).sync(slot, 0, reset=60.5, **how)
    slot.release()
    await asyncio.gather(*line_up(queue, starts, 120))
    # Half of what comes back is for us, and a twentieth is left in it: one each two seconds from 8
    # on, 53 until 112. It is full after 60.5 seconds and those in which 53 come back.
    assert [sum(at < 113 for at in starts), starts.count(113.5)] == [53, 60 - 3]
    assert starts[-1] == pytest.approx(113.5 + 10 * 2)


async def test_two_sizes_in_one_answer():
    """Two quotas of one unit and period, in one answer, are two; sizes without end are eight."""
    queue = learning(units=("calls",), lanes={"*": ()})
    quotas, slot = Reporter(queue), await queue.enqueue(key="a")
    for limit, remaining in ((7, 0), (100, 90)):
        quotas.sync(slot, remaining, unit="calls", reset=60, limit=limit, period=60)
    slot.release()
    assert free_at_once(queue, key="a") == 0
    for limit in range(50):
        queue.sync(100, reset=60, limit=1000 + limit, key="a")
    assert len(bounds_of(queue, "a")) == 8


async def test_size_that_answers_name_no_more():
    """If a later answer names another size, the first is over with its reset, and paces nobody."""
    queue, starts = learning(units=("calls",)), []
    slot = await queue.enqueue()
    Reporter(queue).sync(slot, 0, unit="calls", reset=10, limit=2, period=10)
    slot.release()
    await asyncio.sleep(5)
    queue.sync(50, reset=100, limit=100)
    await asyncio.gather(*line_up(queue, starts, 6))
    assert starts == exactly([10] * 6)


async def test_turns_while_lanes_change():
    """With `fair`, a key keeps its turns while a lane of its calls gets other limits."""
    queue, starts = ApiQueue("10/s", lanes={"b": "100/s", "x": "100/s"}, order="fair"), []

    async def call(*keys):
        async with queue.slot(keys=keys):
            starts.append(keys[0])

    keys = [("a",), ("b",), ("b", "x")] * 30
    tasks = [asyncio.create_task(call(*one)) for one in keys]
    for turn in range(50):
        await asyncio.sleep(0.051)
        queue.set_rate("100/s" if turn % 2 else "100/s, 50 at once", key="b")
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert abs(starts.count("a") - starts.count("b")) <= 2


async def test_repr_counts_lanes_that_learnt():
    """It says of how many lanes the limits are learnt, beside the queue's own."""
    queue = ApiQueue(lanes={"a": "100/s", "b": "100/s"})
    Reporter(queue).learn(["tokens"])
    for key, lanes in (("a", "1 lane"), ("b", "2 lanes")):
        async with queue.slot(key=key, cost={"tokens": 1}) as slot:
            Reporter(queue).adopt(slot, [Rate.parse("50 tokens/s burst 50")])
        assert f"unlimited (learnt limits: {lanes}): open" in repr(queue)
