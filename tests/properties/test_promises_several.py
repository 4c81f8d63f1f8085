"""The promises for calls that come under several lanes, and count several units, at one instant."""

from __future__ import annotations

import asyncio

from hypothesis import strategies as st

from aioapiqueue import Rate, Window
from tests.helpers import introspect
from tests.helpers.lane_calls import check_limits, run_calls
from tests.helpers.limiters import holds_for

RATES = st.builds(
    Rate, st.sampled_from([5, 10, 100]), st.sampled_from([1.0, 3.0]), st.sampled_from([1, 1, 3])
)
TOKENS = st.builds(
    Rate,
    st.sampled_from([100, 1000]),
    st.just(1.0),
    st.sampled_from([1, 100, 400]),
    st.just("tokens"),
)
WINDOWS = st.builds(Window, st.integers(3, 6), st.sampled_from([0.5, 2.0]))
TOKEN_WINDOWS = st.builds(Window, st.sampled_from([400, 1000]), st.just(2.0), st.just("tokens"))
OWN = st.lists(st.one_of(RATES, TOKENS, WINDOWS, TOKEN_WINDOWS), max_size=3)
LANES = st.fixed_dictionaries({"a": OWN, "b": OWN, "c": OWN})
KEYS = st.sampled_from([("a",), ("b",), ("a", "b"), ("b", "a"), ("a", "b", "c"), ("x", "b"), ()])
CALLS = st.lists(
    st.tuples(
        st.sampled_from([0, 0, 0, 0.0101, 0.3037]),
        KEYS,
        st.sampled_from([0, 0, 1]),
        st.sampled_from([0, 1, 50, 200, 350]),
    ),
    min_size=1,
    max_size=25,
)
DECLARED = Rate(1e12, 1, 1e12, "tokens")  # so that the unit is known


def queue_of(limiter, limits, lanes, **options):
    """Make a queue."""
    return limiter.queue(DECLARED, *limits, lanes=dict(lanes), **options)


@holds_for(OWN, LANES, CALLS, st.sampled_from(["fifo", "fair"]))
def test_promise_1_each_of_several_holds(limiter, run_virtual, limits, lanes, calls, order):
    """Each limit of each lane, in its unit, for all that come under it; and everybody starts."""

    async def scenario():
        queue = queue_of(limiter, limits, lanes, order=order)
        starts = await run_calls([queue], calls)
        await queue.aclose()
        return starts

    starts = run_virtual(scenario)
    assert len(starts) == len(calls)
    check_limits(limits, lanes, starts)


@holds_for(OWN, LANES, CALLS)
def test_promise_3_fifo_among_several(limiter, run_virtual, limits, lanes, calls):
    """Calls of one set of keys, priority and cost start in the order in which they came."""

    async def scenario():
        return await run_calls([queue_of(limiter, limits, lanes)], calls)

    last = {}
    for start in run_virtual(scenario):
        _, keys, priority, tokens = calls[start.number]
        assert last.get((keys, priority, tokens), -1) < start.number
        last[keys, priority, tokens] = start.number


@holds_for(
    st.lists(st.sampled_from(["stays", "leaves", "leaves when granted"]), max_size=20),
    st.sampled_from([1, 2]),
)
def test_promise_4_of_several_limits(limiter, run_virtual, callers, burst):
    """The others start as if the cancelled had never been: of both lanes, and of both units."""
    lanes = {"a": [Rate(10, 1, burst)], "b": [Rate(10, 1, burst), Rate(1000, 1, 100, "tokens")]}

    async def scenario():
        loop, times, tasks, marked = asyncio.get_running_loop(), [], [], set()
        queue = queue_of(limiter, [], lanes, catch_up=0)
        introspect.after_grants(
            queue, lambda slot, _: tasks[slot.key].cancel() if slot.key in marked else None
        )

        async def call(index):
            async with queue.slot(keys=(index, "a", "b"), cost={"tokens": 100}):
                times.append(loop.time())

        queue.pause(1)
        await limiter.settled()
        tasks += [loop.create_task(call(index)) for index in range(len(callers))]
        marked |= {i for i, kind in enumerate(callers) if kind == "leaves when granted"}
        await asyncio.sleep(0.5)
        for task, kind in zip(tasks, callers, strict=True):
            if kind == "leaves":
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await queue.aclose()
        return times

    times = run_virtual(scenario)
    assert len(times) == callers.count("stays")
    # A slot that is refunded after its instant has been passed on within the same one.
    assert times == limiter.exactly([1 + n * 0.1 for n in range(len(times))])


@holds_for(st.integers(1, 6), st.sampled_from(["a", "b"]))
def test_promise_10_all_or_nothing(limiter, run_virtual, count, free):
    """Who waits for one lane is charged to no other: those start as if it did not wait."""
    lanes = {"a": [Rate(10)], "b": [Rate(10)]}
    closed = "a" if free == "b" else "b"

    async def scenario():
        queue = queue_of(limiter, [], lanes)
        queue.hold(5, key=closed)
        await limiter.settled()
        calls = [(0, ("a", "b"), 0, 0)] * 3 + [(0, (free,), 0, 0)] * count
        starts = await run_calls([queue], calls)
        await queue.aclose()
        return starts

    starts = run_virtual(scenario)
    alone = [one.at for one in starts if one.keys == (free,)]
    assert alone == limiter.exactly([n * 0.1 for n in range(count)])
    together = [one.at for one in starts if one.keys == ("a", "b")]
    assert together == limiter.exactly([5, 5.1, 5.2])
