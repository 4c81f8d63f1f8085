"""`Slot.again`: a call that was refused waits once more, in its old place."""

from __future__ import annotations

import asyncio
import math

import pytest

from aioapiqueue import ApiQueue, QueueClosed, QueueFull, SlotTimeout
from tests.helpers.instants import exactly, line_up, now
from tests.helpers.introspect import is_sorting, left_over, take_small_steps, waiters_of


async def call(queue, name, order, *, refused=1, seconds=0.0, **asks):
    """Call, and be refused so many times; note each start."""
    slot = await queue.enqueue(**asks)
    for left in range(refused, -1, -1):
        order.append((name, now()))
        await asyncio.sleep(seconds)
        if left:
            slot = await slot.again()
    slot.release()


# Its place.


@pytest.mark.parametrize("waited", [False, True])
async def test_goes_before_later_ones(waited):
    """Before all who came after it, whether it had to wait for its first start or not."""
    queue, order = ApiQueue("1/s"), []
    if waited:
        queue.try_slot().release()
    tasks = [
        asyncio.create_task(call(queue, name, order, refused=name == "a", seconds=0.1))
        for name in "abc"
    ]
    await asyncio.gather(*tasks)
    assert [name for name, _ in order] == ["a", "a", "b", "c"]
    assert [at for _, at in order] == exactly([waited + n for n in range(4)])


async def test_goes_behind_earlier_ones():
    """One that came before it and waits still, as it is dearer or was refused too, goes first."""
    queue, order = ApiQueue("1/s"), []
    slots = [queue.try_slot()]
    futures = [queue.enqueue() for _ in range(4)]
    slots += [await future for future in futures[:3]]
    for number in (2, 0, 3, 1):
        future = slots[number].again()
        future.add_done_callback(lambda _, number=number: order.append(number))
    futures[3].add_done_callback(lambda _: order.append("next"))
    await asyncio.sleep(10)
    assert order == [0, 1, 2, 3, "next"]


async def test_started_at_once_keep_their_order():
    """Those that never waited go in the order in which they asked again, refused twice, too."""
    queue, order = ApiQueue("2 in any 1s"), []
    slots = [queue.try_slot() for _ in range(2)]
    others = line_up(queue, [], 3)

    async def start(number, future):
        slot = await future
        order.append((number, slot.waited))
        if number == 0:
            order.append((number, (await slot.again()).waited))

    await asyncio.gather(*(start(n, slot.again()) for n, slot in enumerate(slots)), *others)
    assert order == [(0, exactly(1)), (1, exactly(1)), (0, exactly(1))]


async def test_place_of_an_enqueued_start():
    """A call that `enqueue` let start at once has a place, before who came after it."""
    queue, order = ApiQueue(concurrency=2), []
    one, other = await queue.enqueue(), await queue.enqueue()
    behind = line_up(queue, order, 3)
    await asyncio.sleep(1)
    queue.pause(1)
    futures = [other.again(), one.again()]
    await asyncio.sleep(0)
    assert [waiter.arrival for waiter in sorted(waiters_of(queue), key=lambda w: w.arrival)][
        :2
    ] == [
        1,
        2,
    ]
    slots = [await future for future in futures]
    assert [slot.waited for slot in slots] == exactly([1, 1])
    for slot in slots:
        slot.release()
    await asyncio.gather(*behind)
    assert order == exactly([2] * 3)


async def test_place_after_starting_again():
    """A call that starts again at once, and is refused once more, has the place that it had."""
    queue = ApiQueue("1/s burst 3")
    first, second = [await queue.enqueue() for _ in range(2)]
    second = await second.again()
    futures = [second.again(), first.again()]
    assert [(await future).waited for future in futures] == exactly([2, 1])


async def test_place_by_priority():
    """It has its old place among those of its priority, and no other."""
    queue, order = ApiQueue("1/s"), []
    slot = queue.try_slot(priority=5)
    names = [("normal", 0), ("low", 5), ("urgent", -1)]
    for name, priority in names:
        future = queue.enqueue(priority=priority)
        future.add_done_callback(lambda _, name=name: order.append(name))
    slot.again().add_done_callback(lambda _: order.append("again"))
    await asyncio.sleep(10)
    assert order == ["urgent", "normal", "again", "low"]


async def test_lines_keep_their_turns():
    """With order="fair", it goes first of its key; other keys have their turns all the same."""
    queue, order = ApiQueue("1/s", order="fair"), []
    slot = queue.try_slot(key="a")
    for name in ("a1", "a2", "b1", "b2"):
        future = queue.enqueue(key=name[0])
        future.add_done_callback(lambda _, name=name: order.append(name))
    slot.again().add_done_callback(lambda _: order.append("again"))
    await asyncio.sleep(10)
    assert order == ["again", "b1", "a1", "b2", "a2"]


async def test_place_under_lanes():
    """Among those who come under the same lanes, and beside others that share one with it."""
    queue, order = ApiQueue("1/s", lanes={"a": "10/s", "b": "10/s"}), []
    slot = queue.try_slot(keys=("a", "b"))
    for name, keys in (("a", ("a",)), ("ab", ("a", "b")), ("b", ("b",)), ("none", ("c",))):
        future = queue.enqueue(keys=keys)
        future.add_done_callback(lambda _, name=name: order.append(name))
    slot.again().add_done_callback(lambda _: order.append("again"))
    await asyncio.sleep(10)
    assert order == ["again", "a", "ab", "b", "none"]
    assert left_over(queue) == []


@pytest.mark.parametrize("key_of", [int, lambda _: "one"], ids=["each a lane", "one lane"])
@pytest.mark.parametrize("first_waits", [False, True])
async def test_place_while_all_are_sorted(monkeypatch, first_waits, key_of):
    """While all are sorted again, as limits have changed, it gets its place as well.

    Also those that `enqueue` let start at once.
    """
    take_small_steps(monkeypatch)
    queue, order = ApiQueue("1000 in any 1s", lanes={"z": "1/s"}), []
    if first_waits:
        queue.hold(1)
    early = [asyncio.ensure_future(queue.enqueue(key=key_of(n))) for n in range(5)]
    await asyncio.sleep(1.5)
    slots = [task.result() for task in early]
    queue.pause(2)

    def note(future, name):
        future.add_done_callback(lambda _: order.append(name))

    for n in range(40):
        note(queue.enqueue(key=key_of(100 + n)), n)
    queue.set_rate("10/s", key="*")
    assert is_sorting(queue)
    for n in (3, 1):
        note(slots[n].again(), f"again {n}")
    await asyncio.sleep(0)
    assert is_sorting(queue)
    for n in (0, 4):
        note(slots[n].again(), f"again {n}")
    await asyncio.sleep(10)
    assert order == [*(f"again {n}" for n in (0, 1, 3, 4)), *range(40)]
    assert left_over(queue) == []


async def test_never_waited_while_all_are_sorted(monkeypatch):
    """Two that never waited have no place by arrival; sorted again, each goes all the same."""
    take_small_steps(monkeypatch)
    queue, order = ApiQueue("1000 in any 1s", lanes={"z": "1/s"}), []
    slots = [queue.try_slot(key=n) for n in range(3)]
    queue.pause(2)
    for n in range(20):
        queue.enqueue(key=100 + n).add_done_callback(lambda _, n=n: order.append(n))
    for slot in slots:
        slot.again().add_done_callback(lambda done: order.append(f"again {done.result().key}"))
    queue.set_rate("10/s", key="*")
    await asyncio.sleep(10)
    assert order[:3] == ["again 0", "again 1", "again 2"]
    assert order[3:] == [*range(20)]


# What it is charged.


async def test_charged_again_permit_free():
    """Its permit is free while it waits, and it is charged again when it starts."""
    queue = ApiQueue("10 in any 10s", concurrency=1)
    slot = queue.try_slot(cost=6)
    future = slot.again()
    with await queue.enqueue(cost=4, priority=-1):
        assert queue.running == 1
        await asyncio.sleep(20)
        assert not future.done()  # the permit is taken
    with await future as slot:
        assert (slot.cost, slot.waited, queue.running) == (6, 20, 1)
    assert queue.estimate(cost=4) == 0
    assert queue.estimate(cost=5) == exactly(10)
    assert queue.stats.costs == {"calls": 16}
    assert queue.stats.released == 3


async def test_starts_at_once_where_free():
    """Where its limits have room, it starts at once, with what it was."""
    queue = ApiQueue("10 in any 1s", "100 tokens in any 1s", lanes={"a": "5/s burst 5"})
    slot = queue.try_slot(keys=("a", "b"), priority=3, cost={"tokens": 30})
    future = slot.again()
    assert future.done()
    with await future as another:
        assert (another.key, another.priority, another.cost) == ("a", 3, 1)
        assert queue.estimate(cost={"tokens": 40}) == 0
        assert queue.estimate(cost={"tokens": 41}) == exactly(1)
    assert "over" in repr(slot)
    assert (queue.running, queue.waiting) == (0, 0)


async def test_asks_for_what_it_is_charged():
    """It costs what the call costs by now: what is settled afterwards is of the one before."""
    queue = ApiQueue("100 tokens in any 10s")
    slot = queue.try_slot(cost={"tokens": 60})
    future = slot.again()
    slot.settle({"tokens": 0})
    assert (await future).waited == 0
    assert queue.estimate(cost={"tokens": 41}) == exactly(10)


async def test_again_beside_a_bound():
    """The answer that refused it says what remains: it waits for the reset, its place is kept."""
    queue, order = ApiQueue(lanes={"*": ()}), []

    async def one(number):
        slot = await queue.enqueue(key="a")
        order.append((number, now()))
        if slot.waited == 0:
            slot.sync(0, reset=30)
            future = slot.again()
            with await future as slot:
                order.append((number, now()))
        slot.release()

    await asyncio.gather(*map(one, range(3)))
    assert order[0] == (0, 0)
    assert [number for number, at in order if at > 0] == [0, 1, 2]


# Its end.


async def test_only_a_running_call():
    """New, waiting, over, or not claimed: it is refused, and stays what it is."""
    queue = ApiQueue("1/s")
    slot = queue.try_slot()
    waiting = queue.slot()
    task = asyncio.ensure_future(waiting.__aenter__())
    await asyncio.sleep(0)
    for one in (queue.slot(), waiting):
        with pytest.raises(RuntimeError, match=r"again\(\) works only while the call is running"):
            one.again()
    slot.release()
    with pytest.raises(RuntimeError, match=r"again\(\) works only while the call is running"):
        slot.again()
    await task
    waiting.release()
    await asyncio.sleep(5)
    slot = queue.try_slot()
    for timeout in (-1, math.nan, math.inf):
        with pytest.raises(ValueError, match="timeout"):
            slot.again(timeout=timeout)


async def test_cancelled_while_it_waits_again():
    """It leaves, and uses nothing; cancelled when its slot has come, that is given back."""
    queue, starts = ApiQueue("1/s"), []
    slot = queue.try_slot()
    future = slot.again()
    others = line_up(queue, starts, 2)
    await asyncio.sleep(0.5)
    future.cancel()
    await asyncio.gather(*others)
    assert starts == exactly([1, 2])
    await asyncio.sleep(5)
    slot = queue.try_slot()
    future = slot.again()
    await asyncio.sleep(1)
    assert future.done()
    future.cancel()
    with queue.try_slot():  # as if it had never been
        assert queue.stats.cancelled == 2
    assert (queue.running, queue.waiting) == (0, 0)


async def test_time_outs_of_again():
    """At once where the next is later, at the end if others go first; one due then is in time."""
    queue = ApiQueue("1/s")
    with pytest.raises(SlotTimeout, match="the next is due in 1 s"):
        queue.try_slot().again(timeout=0.5)
    assert (queue.running, queue.waiting) == (0, 0)
    await asyncio.sleep(5)
    slot = queue.try_slot()
    urgent = queue.enqueue(priority=-1)
    late, in_time = slot.again(timeout=1.5), queue.enqueue()
    with pytest.raises(SlotTimeout, match=r"no slot within 1\.5 s"):
        await late
    assert now() == exactly(6.5)
    assert (await urgent).waited == exactly(1)
    assert (await in_time).waited == exactly(2)
    await asyncio.sleep(5)
    slot = await queue.try_slot().again(timeout=1)
    assert slot.waited == exactly(1)


async def test_time_out_is_not_inherited():
    """The time-out of the first wait is over: the second one waits as long as it says."""
    queue = ApiQueue("10s")
    slot = queue.try_slot()
    slot.release()
    await asyncio.sleep(9)
    slot = await queue.enqueue(timeout=2)
    slot = await slot.again()
    assert slot.waited == exactly(10)


async def test_closed_queue_refuses_again():
    """A closed queue takes it no more; closed while it waits, it is refused like all."""
    queue = ApiQueue("1/s")
    slot = queue.try_slot()
    waits = slot.again()
    await queue.aclose(drain=False)
    with pytest.raises(QueueClosed):
        await waits
    queue = ApiQueue("1/s")
    slot = queue.try_slot()
    await queue.aclose()
    with pytest.raises(QueueClosed):
        slot.again()
    assert (queue.running, queue.waiting) == (0, 0)


async def test_full_queue_refuses_again():
    """With `maxsize`, too many waiting refuse it: its permit is free all the same."""
    queue = ApiQueue("1/s", maxsize=1)
    slot = queue.try_slot()
    queue.enqueue()
    with pytest.raises(QueueFull):
        slot.again()
    assert (queue.running, queue.waiting) == (0, 1)
    await asyncio.sleep(2)


async def test_oldest_is_dropped_for_again():
    """With `drop_oldest`, it takes the place of the oldest, and is not itself the next to go."""
    queue = ApiQueue("1/s", maxsize=2, overflow="drop_oldest")
    slot = queue.try_slot()
    first, second = queue.enqueue(), queue.enqueue()
    again = slot.again()
    with pytest.raises(QueueFull):
        await first
    third = queue.enqueue()
    with pytest.raises(QueueFull):
        await second
    assert (await again).waited == exactly(1)
    assert (await third).waited == exactly(2)


async def test_promise_5_refused_for_ever():
    """Who is refused again and again leaves nothing behind; figures count each start."""
    queue, order = ApiQueue("100/s", concurrency=3), []
    tasks = [call(queue, n, order, refused=n, seconds=0.05) for n in range(10)]
    await asyncio.gather(*tasks)
    assert len(order) == 10 + sum(range(10)) == queue.stats.released
    assert (queue.running, queue.waiting) == (0, 0)
    assert left_over(queue) == []
