from __future__ import annotations

import asyncio
import itertools
from contextlib import aclosing
from functools import partial, wraps

import pytest

from aioapiqueue import ApiQueue, QueueClosed, SlotTimeout, rate_limited
from tests.helpers.instants import now


def nothing_is_left():
    """Look for tasks and timers that outlived the map."""
    return (
        asyncio.all_tasks() == {asyncio.current_task()}
        and not asyncio.get_running_loop().pending_timers
    )


async def double(number):
    """Take no time."""
    return 2 * number


async def slower_first(number):
    """Take the longer, the smaller the number."""
    await asyncio.sleep(10 - number)
    return number


async def test_every_item_is_called_paced(limiter):
    """Each result comes when its call ends, one interval after the other."""
    queue, seen = limiter.queue("10/s"), []
    async for result in queue.map(double, range(5)):
        seen += [(result, now())]
    assert seen == [(2 * n, limiter.exactly(n / 10)) for n in range(5)]
    assert nothing_is_left()


async def test_results_as_completed_or_in_order(limiter):
    """Results come as completed or in order.

    The default is by completion, `ordered=True` by item.
    """
    queue = limiter.queue("10/s")
    assert [n async for n in queue.map(slower_first, range(4))] == [3, 2, 1, 0]
    assert [n async for n in queue.map(slower_first, range(4), ordered=True)] == [0, 1, 2, 3]


@pytest.mark.parametrize("ordered", [False, True])
async def test_items_without_end_in_bounded_memory(limiter, ordered):
    """At most `concurrency` items are taken ahead of the results that have been fetched."""
    queue, taken, fetched, most = limiter.queue("10/s"), 0, 0, 0

    async def numbers():
        nonlocal taken
        for n in itertools.count():
            taken += 1
            yield n

    results = queue.map(double, numbers(), concurrency=7, ordered=ordered)
    async with aclosing(results):
        async for _ in results:
            fetched += 1
            await asyncio.sleep(0.25)
            most = max(most, taken - fetched)
            if fetched == 100:
                break
    assert 7 <= most <= 8  # one more is in hand, waiting for a place
    assert nothing_is_left()


async def test_endless_and_slow_iterables(limiter):
    """An iterable without end and a slow async iterable.

    Both kinds of items do, and results do not wait for further items.
    """
    queue = limiter.queue("10/s")
    results = queue.map(double, itertools.count(), concurrency=3)
    assert [await anext(results) for _ in range(5)] == [0, 2, 4, 6, 8]
    await results.aclose()

    async def slow():
        for n in range(3):
            yield n
            await asyncio.sleep(5)

    began = now()
    seen = [now() - began async for _ in queue.map(double, slow())]
    assert seen == pytest.approx([0, 5, 10], abs=0.6)
    assert nothing_is_left()


async def test_concurrency_bounds_the_calls(limiter):
    """At most so many calls at once.

    `concurrency` bounds the calls of this map, whatever the queue allows.
    """
    running = most = 0

    async def call(number):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(1)
        running -= 1

    async for _ in limiter.queue().map(call, range(50), concurrency=7):
        pass
    assert most == 7


async def uneven_ones_fail(number):
    """Take a second, and fail or not."""
    await asyncio.sleep(1)
    if number % 2:
        raise ZeroDivisionError(number)
    return number


async def test_first_exception_cancels_the_rest(limiter):
    """The first exception is raised and the rest cancelled cleanly.

    Calls that run are cancelled and awaited, no further item is called, nothing is left.
    """
    queue, ended, called = limiter.queue("10/s"), [], []

    async def call(number):
        called.append(number)
        try:
            return await uneven_ones_fail(number)
        finally:
            await asyncio.sleep(0)
            ended.append(number)

    seen = []
    with pytest.raises(ZeroDivisionError, match="1"):
        async for result in queue.map(call, itertools.count()):
            seen += [result]
    assert seen == [0]
    assert now() == limiter.exactly(1.1)
    assert sorted(ended) == called
    assert len(called) <= 12
    assert nothing_is_left()
    assert (queue.waiting, queue.running) == (0, 0)


@pytest.mark.parametrize("ordered", [False, True])
async def test_exceptions_as_results(limiter, ordered):
    """With `return_exceptions=True` they are yielded in their places, all items are called."""
    queue = limiter.queue("10/s")
    results = queue.map(uneven_ones_fail, range(5), ordered=ordered, return_exceptions=True)
    seen = [result async for result in results]
    assert [n for n in seen if isinstance(n, int)] == [0, 2, 4]
    assert [type(seen[n]) for n in (1, 3)] == [ZeroDivisionError] * 2


async def test_call_cancelled_from_within(limiter):
    """A call that is cancelled from within.

    As `gather` does: a CancelledError as a result, or raised.
    """

    async def cancelled(number):
        raise asyncio.CancelledError

    queue = limiter.queue()
    seen = [r async for r in queue.map(cancelled, [1], return_exceptions=True)]
    assert [type(result) for result in seen] == [asyncio.CancelledError]
    with pytest.raises(asyncio.CancelledError):
        await anext(queue.map(cancelled, [1]))


@pytest.mark.parametrize("return_exceptions", [False, True])
async def test_exception_of_items_is_raised(limiter, return_exceptions):
    """An exception of the items is raised.

    It is no result of a call, whatever `return_exceptions`; calls under way are cancelled.
    """

    async def items():
        yield 0
        await asyncio.sleep(0.5)
        raise KeyError("items")

    queue = limiter.queue("10/s")
    with pytest.raises(KeyError, match="items"):
        async for _ in queue.map(slower_first, items(), return_exceptions=return_exceptions):
            pytest.fail("no call ends so soon")
    assert now() == limiter.exactly(0.5)
    assert nothing_is_left()


async def test_break_leaves_no_task(limiter):
    """Left by `break`, the generator is closed, and so are the items."""
    queue, closed = limiter.queue("10/s"), []

    async def items():
        try:
            for n in itertools.count():
                yield n
        finally:
            closed.append(True)

    async def use():
        async for result in queue.map(double, items()):
            if result == 6:
                break

    await use()
    await asyncio.sleep(0.01)  # the event loop closes what was left
    assert closed == [True]
    assert nothing_is_left()
    assert (queue.waiting, queue.running) == (0, 0)


@pytest.mark.parametrize("when", [0.05, 0.35, 1.0])
async def test_cancel_of_the_consumer(limiter, when):
    """Waiting for a result or busy with one: calls, items and waiters go with it."""
    queue = limiter.queue("10/s")

    async def consume():
        async with aclosing(queue.map(slower_first, itertools.count(7))) as results:
            async for _ in results:
                await asyncio.sleep(0.3)

    task = asyncio.create_task(consume())
    await asyncio.sleep(when)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert now() == limiter.exactly(when)
    assert nothing_is_left()
    assert (queue.waiting, queue.running) == (0, 0)


async def test_own_rate_limited_function_paces_once(limiter):
    """A function rate limited by the same queue is not paced twice.

    One slot a call; one limited by another queue needs a slot of each.
    """
    queue, other = limiter.queue("10/s"), limiter.queue("5/s")
    by_same = rate_limited(queue)(double)
    by_other = rate_limited(other)(double)
    assert [r async for r in queue.map(by_same, range(3), ordered=True)] == [0, 2, 4]
    assert (now(), queue.stats.released) == (limiter.exactly(0.2), 3)
    assert len([r async for r in queue.map(by_other, range(3))]) == 3
    assert (queue.stats.released, other.stats.released) == (6, 3)


@pytest.mark.parametrize(
    ("fn", "items", "options", "error"),
    [
        (len, [], {}, TypeError),
        (double, 3, {}, TypeError),
        (double, [], {"concurrency": 0}, ValueError),
        (double, [], {"concurrency": "3"}, TypeError),
    ],
)
async def test_arguments_are_checked_at_the_call(limiter, fn, items, options, error):
    """Not at the first result."""
    with pytest.raises(error):
        limiter.queue().map(fn, items, **options)


async def test_no_items(limiter):
    """The map ends at once, and binds nothing."""
    assert [r async for r in limiter.queue("1/s").map(double, [])] == []
    assert nothing_is_left()


async def test_of_a_closed_queue(limiter):
    """QueueClosed is raised like any exception of a call."""
    queue = limiter.queue("10/s")
    await queue.aclose()
    with pytest.raises(QueueClosed):
        await anext(queue.map(double, range(3)))
    await asyncio.sleep(0)
    assert nothing_is_left()


async def test_fetched_results_are_not_kept(limiter):
    """Results that were fetched are not kept.

    What has been fetched is let go: the calls kept are those in flight.
    """
    seen, calls = 0, 2000
    async for _ in limiter.queue().map(double, range(calls), concurrency=10):
        seen += 1
        if seen % (calls // 20) == 0:
            assert len(asyncio.all_tasks()) <= 13
    assert seen == calls


async def test_options_as_functions_of_items(limiter):
    """Key, priority and cost of each call, by its item."""
    queue, starts = limiter.queue("100/s burst 4", lanes={"slow": "1/s"}), {}

    async def call(item):
        starts[item] = now()

    items = [("slow", 1), ("slow", 1), ("fast", 2), ("fast", 50)]
    async for _ in queue.map(call, items, key=lambda item: item[0], cost=lambda item: item[1]):
        pass
    assert starts["slow", 1] == limiter.exactly(1)
    assert starts["fast", 2] == limiter.exactly(0)
    assert starts["fast", 50] == limiter.exactly(0.49)


async def test_options_as_values(limiter):
    """The same of each call; `keys` too."""
    queue = limiter.queue("10/s", lanes={"slow": "2/s"})
    results = queue.map(double, range(3), keys=("slow",), cost=2, priority=-1, ordered=True)
    assert [result async for result in results] == [0, 2, 4]
    assert now() == limiter.exactly(2.5)  # of the lane, the last waits for five calls
    assert queue.stats.lanes["slow"].released == 3


async def test_keys_by_item():
    """Each call comes under several lanes, that its item says."""
    queue = ApiQueue(lanes={"tenant:*": "1/s", "search": "2/s"})
    by_item = queue.map(double, range(4), keys=lambda n: (f"tenant:{n % 2}", "search"))
    assert sorted([result async for result in by_item]) == [0, 2, 4, 6]
    assert now() == pytest.approx(1.5)
    assert queue.stats.lanes["tenant:*"].released == 4


async def test_timeout_of_each_slot(limiter):
    """For the slot, not for the call; by the item, None is any time."""
    queue = limiter.queue("1/s")
    results = queue.map(
        slower_first,
        [7, 8, 9],
        timeout=lambda n: None if n == 9 else 1.5,
        return_exceptions=True,
        ordered=True,
    )
    seen = [result async for result in results]
    assert seen == [7, 8, 9]
    seen = [
        result async for result in queue.map(double, range(4), timeout=1.5, return_exceptions=True)
    ]
    assert [type(result) for result in seen].count(SlotTimeout) == 2


async def test_settle_by_result():
    """The true cost of each call is what its result says; None leaves it."""
    queue = ApiQueue("100 tokens/s burst 100")

    async def ask(prompt):
        return {"tokens": len(prompt)} if prompt else None

    asked = queue.map(ask, ["", "hello", "hi"], cost={"tokens": 50}, settle=lambda answer: answer)
    assert len([answer async for answer in asked]) == 3
    assert queue.stats.costs == {"calls": 3, "tokens": 57}


async def test_settle_that_fails(limiter):
    """The call has been made: its result comes, and the error is reported.

    A call that fails is not settled.
    """
    queue, errors, settled = limiter.queue(concurrency=1), [], []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    for settle, error in (
        (lambda result: 1 / result, ZeroDivisionError),
        (lambda _: {"tokens": 3}, ValueError),
        (lambda _: "much", TypeError),
    ):
        assert await anext(queue.map(double, [0], settle=settle)) == 0
        reported = errors.pop()
        assert type(reported["exception"]) is error
        assert "map: settle=<function" in reported["message"]
    assert queue.stats.costs == {"calls": 3}
    results = queue.map(uneven_ones_fail, [1], settle=settled.append, return_exceptions=True)
    assert [type(result) async for result in results] == [ZeroDivisionError]
    assert (settled, errors, queue.running) == ([], [], 0)


class Api:
    """Has a paced method, of a queue of its own."""

    def __init__(self, queue):
        self.queue = queue

    @rate_limited(lambda self, *_, **__: self.queue)
    async def double(self, number, times=2):
        """Take no time."""
        return times * number


async def test_own_functions_in_other_shapes(limiter):
    """One turn for each call of a method, a partial, or a function wrapped by others."""
    queue, other = limiter.queue("10/s"), limiter.queue()

    def logged(function):
        @wraps(function)
        async def wrapper(*args):
            return await function(*args)

        return wrapper

    by_both = rate_limited(other)(rate_limited(queue)(double))
    api = Api(queue)
    shapes = (
        by_both,
        api.double,
        partial(api.double, times=3),
        logged(rate_limited(queue)(double)),
    )
    for fn in shapes:
        assert len([result async for result in queue.map(fn, range(2))]) == 2
    assert queue.stats.released == 8
    assert len([result async for result in other.map(api.double, range(2))]) == 2
    assert (queue.stats.released, other.stats.released) == (10, 4)


async def test_own_objects_that_are_called():
    """One turn for each call of an object whose `__call__` the queue decorates."""
    queue, unpaced = ApiQueue("10/s"), ApiQueue("1/min")

    class Fetch:
        def __init__(self, queue):
            self.queue = queue

        @rate_limited(queue)
        async def __call__(self, number, times=2):
            return times * number

    class Found(Fetch):
        @rate_limited(lambda self, *_, **__: self.queue)
        async def __call__(self, number, times=2):
            return times * number

    class Static:
        @staticmethod
        @rate_limited(queue)
        async def __call__(number):
            return 2 * number

    class Inherits(Fetch):
        async def __call__(self, number):
            return await super().__call__(number)

    shapes = [Fetch(None), Found(queue), partial(Found(queue), times=3), Static()]
    shapes += [Fetch(None).__call__, partial(Fetch(None).__call__, times=3)]
    for count, fn in enumerate(shapes, 1):
        results = [result async for result in queue.map(fn, [1, 2], ordered=True)]
        assert results in ([2, 4], [3, 6])
        assert queue.stats.released == 2 * count
    # One whose method calls a decorated one, or that another queue paces, takes a turn besides.
    start = queue.stats.released
    for fn in (Inherits(None), Found(unpaced)):
        assert [result async for result in queue.map(fn, [1])] == [2]
    assert queue.stats.released - start == 2 + 1
    with pytest.raises(TypeError, match="is already @rate_limited by this queue"):
        queue.map(Fetch(None), [1], cost=2)


async def test_options_of_own_function_are_refused(limiter):
    """It is already @rate_limited by this queue; nothing is ignored in silence."""
    queue = limiter.queue("10/s")
    with pytest.raises(TypeError, match="is already @rate_limited by this queue: pass key="):
        queue.map(rate_limited(queue)(double), [1], key="a")
    with pytest.raises(TypeError, match="is already @rate_limited by this queue"):
        await anext(queue.map(Api(queue).double, [1], cost=2))


async def test_swapped_arguments_are_named(limiter):
    """The items first: the message shows the right order, and nothing about threads."""
    words = r"^map takes the function first, then the items: queue\.map\(%s, items\)$"
    for items in ([1, 2], "ab", iter([1])):
        with pytest.raises(TypeError, match=words % "double"):
            limiter.queue().map(items, double)
    with pytest.raises(TypeError, match=words % "f"):
        limiter.queue().map([1], partial(double))


async def test_called_function_is_named(limiter):
    """The function was called, not passed: its coroutine is closed, so that it warns of nothing."""
    words = r"double\(\.\.\.\) is a coroutine, .*: pass double, not double\(\.\.\.\)$"
    with pytest.raises(TypeError, match=f"^map needs an async function, but {words}"):
        limiter.queue().map(double(1), [1, 2])
    with pytest.raises(TypeError, match=f"^@rate_limited needs an async function, but {words}"):
        rate_limited(limiter.queue())(double(1))


async def test_coroutine_of_a_task_is_left_alone(limiter):
    """One that has started belongs to its task, which goes on."""

    async def sleeps():
        await asyncio.sleep(1)
        return 1

    coroutine = sleeps()
    task = asyncio.create_task(coroutine)
    await asyncio.sleep(0.5)
    with pytest.raises(TypeError, match=r"pass sleeps, not sleeps\(\.\.\.\)"):
        limiter.queue().map(coroutine, [1])
    assert await task == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"key": "a", "keys": ("b",)}, "not both"),
        ({"key": len, "keys": len}, "not both"),
        ({"key": ["a"]}, "hashable"),
        ({"keys": "abc"}, "a tuple or list of keys"),
        ({"key": double}, "key must be a plain function"),
        ({"settle": double}, "settle must be a plain function"),
        ({"settle": 3}, "settle must be a function of the result"),
    ],
)
async def test_options_are_checked_at_the_call(limiter, options, words):
    """What can be known before the first item is known then."""
    with pytest.raises(TypeError, match=words):
        limiter.queue().map(double, [1], **options)
