"""What a queue with limits of its own does otherwise, and what only one with shared limits does.

The tests of behaviour run on both: see tests/helpers/limiters.py. Those that cannot hold on a
shared limiter have their like here.
"""

from __future__ import annotations

import asyncio
from functools import partial
from itertools import pairwise

import pytest

from aioapiqueue import Adaptive, ApiQueue, Rate, SlotTimeout, Window, WouldWait
from aioapiqueue.integrations.redis import SharedSchedule
from tests.helpers.instants import now, released, use
from tests.helpers.servers import fresh_name
from tests.helpers.virtual_client import VirtualClient

pytestmark = pytest.mark.parametrize("ahead", [0.0, 0.2])


def exactly(expected):
    """Compare instants that have been rounded up to three times."""
    return pytest.approx(expected, abs=3e-6)


async def heard():
    """Let the queue and the server talk; no time passes."""
    for _ in range(20):
        await asyncio.sleep(0)


def make_on(valkey, ahead, *limits, name=None, **options):
    """Make a queue whose quota is on a real server."""
    schedule = SharedSchedule(VirtualClient(valkey), name or fresh_name(), ahead=ahead)
    return ApiQueue(*limits, schedule=schedule, **options)


@pytest.fixture
def make(valkey, ahead):
    """Give `make_on` without its first arguments."""
    return partial(make_on, valkey, ahead)


# Adaptive.


async def test_own_curve_is_refused(make):
    """A curve of one's own is refused.

    The server has the curve of a plain `Adaptive`, and only that.
    """

    class Own(Adaptive):
        def regrow(self, **_):
            return 7.0

    with pytest.raises(TypeError, match="has its own recovery curve"):
        make("10/s", adaptive=Own("1/s"))


async def test_limit_that_others_set_below_the_floor_holds(make):
    """A floor gives way to limits of others; one's own below it are refused."""
    name = fresh_name()
    one = make("10/s", name=name, adaptive=Adaptive("5/s", concurrency=3), concurrency=4)
    other = make("10/s", name=name, adaptive=Adaptive("1/s"), concurrency=4)
    for queue in (one, other):
        (await queue.enqueue()).release()
    other.set_rate("2/s", "1 at once")
    await heard()
    await asyncio.sleep(5)
    (await one.enqueue()).release()  # it hears of it now
    starts = await released(one, 3)
    assert one.limits == other.limits
    assert [b - a for a, b in pairwise(starts)] == exactly([0.5, 0.5])
    assert one.stats.faults == 0
    with pytest.raises(ValueError, match="floor"):
        one.set_rate("2/s")


# At once, or not.


async def test_timeout_ends_in_time(make):
    """A timeout ends when it is up and at once in a hold.

    Only the server knows when the next slot is due; a hold that it has told of is known.
    """
    queue, loop = make("1/s"), asyncio.get_running_loop()
    (await queue.enqueue()).release()
    with pytest.raises(SlotTimeout, match=r"no slot within 0\.9 s"):
        await queue.slot(timeout=0.9).__aenter__()
    assert now() == exactly(0.9)
    await use(queue, starts := [])
    assert starts == exactly([1])
    queue.throttled(5)
    await heard()
    with pytest.raises(SlotTimeout, match="next is due in 5 s"):
        queue.enqueue(timeout=4.9)
    assert (now(), queue.stats.timed_out, queue.waiting) == (exactly(1), 2, 0)
    assert loop.pending_timers == 0


async def test_try_slot_says_when_to_come(make):
    """`try_slot` never gives a slot but says when to come again.

    `WouldWait` has the seconds by the last answer, and they are right.
    """
    queue = make("10/s", lanes={"a": "1/s"})
    with pytest.raises(WouldWait) as caught:
        queue.try_slot()
    assert caught.value.retry_in == 0.1  # until there is an answer, nobody knows
    (await queue.enqueue(key="a")).release()
    await asyncio.sleep(0.04)
    for key, retry_in in ((None, 0.06), ("a", 0.96)):
        with pytest.raises(WouldWait) as caught:
            queue.try_slot(key=key)
        assert caught.value.retry_in == exactly(retry_in)
    assert (queue.stats.released, queue.running, queue.waiting) == (1, 0, 0)


# Estimates.


async def test_estimate_counts_all_limits(make):
    """An estimate counts who waits by every limit.

    Those ahead cost a window its rounds, a lane its intervals, and push-back more of them.
    """
    queue = make(Window(10, 1), lanes={"a": Rate(2, burst=3)}, adaptive=Adaptive("1/s", 0.5))
    slots = [await queue.enqueue(key="a") for _ in range(3)]
    waiting = [queue.enqueue(key="a") for _ in range(4)]
    assert queue.estimate(key="a") == exactly(2.5)
    await heard()
    assert queue.estimate(key="a") == exactly(2.5)
    slots[-1].throttled()
    await heard()
    assert queue.estimate(key="a") == exactly(5)
    waiting += [queue.enqueue() for _ in range(40)]
    await heard()
    assert 3 <= queue.estimate() <= 5
    for future in waiting:
        future.cancel()
    await queue.aclose()


async def test_estimate_knows_holds_at_once(make):
    """An estimate knows of a hold at once.

    Also while the server has not been told, and of a lane that nobody has called with.
    """
    queue = make("10/s", lanes={"a": "5/s", "b": "5/s"})
    queue.throttled(30, key="a")
    queue.hold(5)
    assert [queue.estimate(key=key) for key in ("a", "b")] == exactly([30, 5])
    await heard()
    assert [queue.estimate(key=key) for key in ("a", "b")] == exactly([30, 5])
    await asyncio.sleep(4)
    assert [queue.estimate(key=key) for key in ("a", "b")] == exactly([26, 1])


# Costs and keys.


async def test_settling_reaches_a_forgotten_lane(make):
    """A call whose lane has been forgotten is settled there.

    What it costs less is given back to the window of its lane.
    """
    queue = make(lanes={"a": Window(6, 60), "*": "10/s"})
    slot = await queue.enqueue(key="a", cost=6)
    for key in "bc":
        await asyncio.sleep(1)
        await use(queue, [], key=key)
    slot.settle(2)
    await heard()
    await use(queue, starts := [], key="a", cost=4)
    assert starts == exactly([2])


async def test_settling_reaches_lane_and_window(make):
    """The difference is given back wherever the cost was charged."""
    queue, starts = make(Window(10, 1), lanes={"a": Window(6, 1)}), []
    with await queue.enqueue(key="a", cost=6) as slot:
        assert queue.estimate(key="a") == exactly(1.0)
        slot.settle(2)
    await heard()
    await use(queue, starts, key="a", cost=4)  # all of the lane's
    await use(queue, starts, cost=4)  # all of the queue's
    assert starts == [0.0, 0.0]
    await use(queue, starts, key="a", cost=1)
    assert starts[2] == exactly(1.0)


async def test_key_without_text_is_refused(make):
    """A key without text is refused to who speaks of it.

    To nobody else: the queue goes on.
    """
    queue = make("10/s", lanes={"*": "5/s"})
    with pytest.raises(TypeError, match="key must be text"):
        queue.hold(5, key=object())
    with pytest.raises(TypeError, match="key must be text"):
        queue.throttled(5, key=object())
    with pytest.raises(TypeError, match="key must be text"):
        queue.set_rate("1/s", key=object())
    await use(queue, starts := [], key="a")
    assert starts == [0.0]
