from __future__ import annotations

import asyncio
import re
from collections import defaultdict

import pytest

from aioapiqueue import ApiQueue, Window
from aioapiqueue.spi import QueueReader, Reporter
from tests.helpers import introspect
from tests.helpers.instants import exactly


async def released(queue, keys):
    """Let a task for each key queue up; return each key's starts."""
    starts = defaultdict(list)

    async def call(key):
        async with queue.slot(key=key):
            starts[key].append(asyncio.get_running_loop().time())

    await asyncio.gather(*map(call, keys))
    return starts


@pytest.mark.contract
async def test_pattern_gives_each_key_a_lane(limiter):
    """A pattern gives each key that begins so a lane of its own.

    Of exact names, patterns and the star, the nearest holds, for each key by itself.
    """
    queue = limiter.queue(
        lanes={"*": "1/s", "Describe*": "10/s", "DescribeIm*": "5/s", "DescribeImages": "2/s"}
    )
    keys = ("DescribeVpcs", "DescribeHosts", "DescribeImageUsage", "DescribeImages", "CopyImage", 7)
    starts = await released(queue, [key for key in keys for _ in range(3)])
    interval = {key: times[1] for key, times in starts.items()}
    assert interval == limiter.exactly(
        {
            "DescribeVpcs": 0.1,
            "DescribeHosts": 0.1,
            "DescribeImageUsage": 0.2,
            "DescribeImages": 0.5,
            "CopyImage": 1,
            7: 1,
        }
    )


WOULD_MATCH_NOTHING = ["*:search", "gpt-*-mini", "a**", "tenant?", "gpt-?o", "host[0-9]", "[ab]*"]


@pytest.mark.parametrize("name", WOULD_MATCH_NOTHING)
def test_pattern_that_matches_nothing_is_refused(name):
    """Only a star at the end is a wildcard; each place that takes patterns says so."""
    wrong = re.escape(
        f'[{name!r}]: this pattern matches nothing, because only a "*" at the end is a wildcard: '
        'give calls a key for each part, keys=(tenant, "search"), and name "search" here'
    )
    with pytest.raises(ValueError, match=f"^lanes{wrong}$"):
        ApiQueue(lanes={"a": "1/s", name: "1/s"})
    with pytest.raises(ValueError, match=f"^weights{wrong}$"):
        ApiQueue("1/s", order="fair", weights={"a": 2, name: 3})
    queue = ApiQueue("1/s")
    with pytest.raises(ValueError, match=re.escape(f"set_rate(key={name!r}): this pattern")):
        queue.set_rate("1/s", key=name)
    assert queue.stats.lanes == {}


@pytest.mark.parametrize(
    "name", ["", "*", "a:*", "/search?q=1&page=2", "items[0]", "[2001:db8::1]:443", ("*:a",), 7]
)
async def test_name_that_is_no_pattern_has_its_lane(name):
    """Keys with such characters that cannot be meant as wildcards are accepted."""
    queue = ApiQueue("9/s", lanes={name: "1/s"}, order="fair", weights={name: 3})
    queue.set_rate("2/s", key=name)
    assert (await released(queue, [name, name]))[name] == [0, 0.5]


@pytest.mark.contract
async def test_keys_beside_patterns_have_no_lane(limiter):
    """Keys that fit no pattern have no lane.

    Without a star, whatever begins otherwise, or is no text, keeps the queue's limits only.
    """
    queue = limiter.queue(lanes={"Describe*": "1/s"})
    with limiter.warned_of_unpaced():
        starts = await released(queue, ["Copy", "Copy", 7, 7, None, None])
    assert max(map(max, starts.values())) == 0
    assert queue.stats.lanes_in_memory == 0


@pytest.mark.contract
async def test_limits_of_a_pattern_are_replaced(limiter):
    """Lanes that have them from the pattern are re-timed; those with their own limits are not."""
    queue = limiter.queue(lanes={"Describe*": "1/s", "DescribeHosts": "1/s"})
    calls = asyncio.create_task(released(queue, ["DescribeVpcs"] * 3 + ["DescribeHosts"] * 3))
    await asyncio.sleep(0)
    queue.set_rate("10/s", key="Describe*")
    starts = await calls
    assert starts["DescribeVpcs"] == limiter.exactly([0, 0.1, 0.2])
    assert starts["DescribeHosts"] == limiter.exactly([0, 1, 2])


@pytest.mark.contract
async def test_new_pattern_holds_for_waiters(limiter):
    """A new pattern holds for those who wait.

    Keys that had no limit of their own get lanes when a pattern that fits is set.
    """
    queue = limiter.queue("100/s", lanes={"x": "1/s"})
    calls = asyncio.create_task(released(queue, ["DescribeVpcs"] * 4))
    await asyncio.sleep(0)
    queue.set_rate("10/s", key="Describe*")
    await limiter.settled()
    assert max((await calls)["DescribeVpcs"]) >= 0.2


@pytest.mark.contract
async def test_too_small_pattern_is_refused(limiter):
    """A pattern too small for one who waits is refused.

    A window that could never fit the cost of a waiter whose lane it would be is an error.
    """
    queue = limiter.queue("1/s", lanes={"Describe*": "1/s"})
    queue.enqueue(key="DescribeVpcs")
    await limiter.settled()
    waiting = queue.enqueue(key="DescribeVpcs", cost=5)
    await limiter.settled()
    with pytest.raises(ValueError, match="never fits"):
        queue.set_rate(Window(3, 60), key="Describe*")
    queue.set_rate(Window(3, 60), key="Copy*")
    await limiter.settled()
    waiting.cancel()
    await queue.aclose(drain=False)


async def test_too_small_pattern_beside_a_longer_one(limiter):
    """It is refused also where another pattern, which begins like it, has the same limits."""
    queue = limiter.queue(lanes={"ac*": "5 tokens in any 1s", "*": "9 tokens in any 1s"})
    queue.pause()
    waiting = queue.enqueue(key="ab", cost={"tokens": 8})
    with pytest.raises(
        ValueError, match='cost of 8 tokens never fits the limit "5 tokens in any 1s"'
    ):
        queue.set_rate("5 tokens in any 1s", key="a*")
    queue.resume()
    async with asyncio.timeout(1):
        (await waiting).release()


async def test_lane_is_forgotten_before_its_change(monkeypatch):
    """Limits of a pattern go lane by lane; one that is idle, and forgotten first, holds up none."""
    introspect.take_small_steps(monkeypatch)
    queue = ApiQueue(lanes={"*": "10/s"})
    for number in range(5):
        queue.try_slot(key=number).release()
    queue.try_slot(key="busy").settle(51)
    waiting = queue.enqueue(key="busy")
    await asyncio.sleep(5)
    queue.set_rate("1000/s", key="*")
    assert queue.estimate(key="new") == 0
    assert queue.stats.lanes_in_memory == 4  # these two, and the two that were changed first
    assert (await waiting).waited == exactly(5.001)


async def test_call_may_have_a_pattern_for_a_key():
    """A key that reads as a pattern is held as any other by the answer to its call."""
    queue = ApiQueue(lanes={"a*": "10/s"})
    with queue.try_slot(key="a*") as slot:
        Reporter(queue).hold(slot, 5)
    assert [queue.estimate(key=key) for key in ("a*", "ab")] == [5, 0]
    with pytest.raises(ValueError, match="is a pattern of lanes, not a key"):
        queue.hold(5, key="a*")


def test_name_of_the_figures_of_a_call():
    """It is that of the first key that has figures, by its name or a pattern; or none."""
    lane_of = QueueReader(ApiQueue(lanes={"a*": "1/s", "b": "1/s"})).lane_of
    assert [lane_of(keys) for keys in (("x", "b"), ("ab", "b"), ("x",))] == ["b", "a*", None]
    assert QueueReader(ApiQueue()).lane_of(("b",)) is None


async def test_ramped_lane_that_idles_is_evicted_after_a_change_elsewhere():
    """What has changed is another name's limits, which say nothing about this lane."""
    queue = ApiQueue(lanes={"a*": "10/s ramp 2x per 4s", "b*": "10/s"})
    queue.try_slot(key="a1").release()
    queue.set_rate("5/s", key="b*")
    await asyncio.sleep(60)
    queue.try_slot(key="b1").release()
    assert queue.stats.lanes_in_memory == 1
    await queue.aclose()
