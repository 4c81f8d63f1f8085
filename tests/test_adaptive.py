from __future__ import annotations

import asyncio
import itertools
import math
from types import SimpleNamespace

import pytest

from aioapiqueue import Adaptive, ApiQueue, Rate, Window
from aioapiqueue.spi import seam
from benchmarks._shared_bucket import AWAY, BACK, END, share
from tests.helpers.instants import exactly, now


async def use(queue, calls, *, key=None):
    """Make so many calls one after the other, each as soon as it may; return their slots."""
    slots = []
    for _ in range(calls):
        async with queue.slot(key=key) as slot:
            slots.append(slot)
    return slots


async def together(queue, calls):
    """Make so many calls at once; return their slots, which are over."""
    slots = await asyncio.gather(*(queue.enqueue() for _ in range(calls)))
    for slot in slots:
        slot.release()
    return slots


async def gaps(queue, calls, *, key=None):
    """Make so many calls; return the seconds between one start and the next."""
    loop = asyncio.get_running_loop()
    starts = []
    for _ in range(calls):
        async with queue.slot(key=key):
            starts.append(loop.time())
    return [later - earlier for earlier, later in itertools.pairwise(starts)]


def calls_of(queue):
    """Return a way to call through a queue that hears of every refusal."""

    async def call(send):
        async with queue.slot() as slot:
            if not await send():
                slot.throttled()

    return call


# A neighbour who comes and goes.


def beside_a_bystander(queue, **scenario):
    """Have a queue use a server at 20/s that a bystander uses, too; return the logs of both."""
    return share(calls_of(queue), refill=20, bystander=5, **scenario)


async def settles(queue, capacity, latency):
    """Of 20/s shared with 5/s, configured at 40/s: all that is free, almost nothing refused."""
    ours, theirs = await beside_a_bystander(
        queue, capacity=capacity, latency=latency, seed=capacity
    )
    assert ours.refused(300, AWAY) < 0.002
    assert theirs.refused(300, AWAY) < 0.01
    assert ours.rate(300, AWAY) >= 0.9 * 15

    taken_up = (end for end in range(int(AWAY) + 10, int(BACK)) if ours.rate(end - 10, end) >= 18)
    assert next(taken_up) <= AWAY + 120

    assert theirs.refused(BACK, END) < 0.01
    assert ours.rate(BACK + 60, END) >= 0.9 * 15


async def refuses_none_in_step(queue, seed):
    """With latency too short to mix them, evenly spaced calls took each token just before it."""
    ours, theirs = await beside_a_bystander(queue, capacity=20, latency=0.02, seed=seed)
    assert ours.refused(300, AWAY) < 0.002
    assert theirs.refused(300, AWAY) < 0.005 > theirs.refused(BACK, END)
    assert ours.rate(300, AWAY) >= 0.95 * 15


SERVERS = [(100, 0.1), (5, 0.1), (20, 0.02), (20, 0.1), (20, 0.5)]  # capacity and latency
SEEDS = [1, 2, 3]


def mostly_slow(cases):
    """Leave all but the first case to the slow tests: each takes almost a second."""
    return [cases[0], *(pytest.param(case, marks=pytest.mark.slow) for case in cases[1:])]


@pytest.mark.parametrize("server", mostly_slow(SERVERS))
async def test_it_settles_beside_a_bystander(server):
    """It settles beside a bystander who leaves and comes back."""
    await settles(ApiQueue("40/s", adaptive=Adaptive("1/s")), *server)


@pytest.mark.parametrize("seed", mostly_slow(SEEDS))
async def test_bystander_in_step_is_not_refused(seed):
    """A bystander who calls in step does not bear all refusals."""
    await refuses_none_in_step(ApiQueue("40/s", adaptive=Adaptive("1/s")), seed)


@pytest.mark.slow  # twenty minutes at 40/s take seconds where each call is a message
@pytest.mark.parametrize(
    ("holds", "scenario"),
    [*((settles, server) for server in SERVERS), *((refuses_none_in_step, (n,)) for n in SEEDS)],
)
async def test_bystander_whatever_keeps_limits(limiter, holds, scenario):
    """Both hold wherever the limits are kept."""
    await holds(limiter.queue("40/s", adaptive=Adaptive("1/s")), *scenario)


async def test_without_it_the_bystander_starves(limiter):
    """The scenario is one: at 40/s unheeding, most of the bystander's calls are refused."""
    ours, theirs = await beside_a_bystander(
        limiter.queue("40/s"), capacity=20, latency=0.1, seed=0, end=60
    )
    assert theirs.refused(10, 60) > 0.3 < ours.refused(10, 60)


@pytest.mark.contract
async def test_calls_beyond_memory_are_uneven(limiter):
    """Beyond the remembered rate calls are unevenly spaced but at the rate.

    A hundred take as long as if they were even; below it, they are even.
    """
    queue = limiter.queue("100/s", adaptive=Adaptive("1/s", 0.5, recovery=8))
    for _ in range(100):
        await asyncio.sleep(0.04)
        slots = await use(queue, 1)
    slots[-1].throttled()
    even = await gaps(queue, 50)
    assert max(even) < 2 * min(even)
    assert all(later <= gap + 1e-5 for gap, later in itertools.pairwise(even))
    while queue.stats.rate < 26:  # remembered: 25
        await use(queue, 10)
    before = queue.stats.rate
    found = await gaps(queue, 101)
    assert max(found) > 2 * min(found)
    assert 100 / queue.stats.rate - 0.04 < sum(found) < 100 / before + 0.04


@pytest.mark.contract
async def test_second_push_back_keeps_the_memory(limiter):
    """Pushed back again at once it remembers what was measured before.

    Three calls measure nothing: the rate falls once more, and comes back to the same one.
    """
    queue, loop = limiter.queue("100/s", adaptive=Adaptive("1/s", 0.5)), asyncio.get_running_loop()
    for _ in range(100):
        await asyncio.sleep(0.04)
        slots = await use(queue, 1)
    slots[-1].throttled()
    await limiter.settled()
    fallen = queue.stats.rate
    (await use(queue, 3))[-1].throttled()
    await limiter.settled()
    assert queue.stats.rate == pytest.approx(0.5 * fallen, rel=0.03)
    again = loop.time()
    while loop.time() < again + 20:
        await use(queue, 1)
    assert queue.stats.rate == pytest.approx(25, rel=0.02)


@pytest.mark.contract
async def test_three_large_calls_measure_nothing(limiter):
    """Ten calls are needed, not ten tokens: three calls of 30 leave what was measured before."""
    queue = limiter.queue("3000 tokens/s burst 30", adaptive=Adaptive("30 tokens/s", 0.5))
    loop = asyncio.get_running_loop()

    async def call(calls, seconds):
        for _ in range(calls):
            async with queue.slot(cost={"tokens": 30}) as slot:
                start = loop.time()
                await asyncio.sleep(seconds)
        return slot, start

    async def seconds_after(slot):
        slot.throttled()
        await limiter.settled()
        _, first = await call(1, 0)
        _, second = await call(1, 0)
        return second - first

    before = await seconds_after((await call(100, 0.04))[0])
    assert await seconds_after((await call(3, 0.5))[0]) < 2.2 * before
    assert queue.stats.rate == math.inf  # of calls


# Down.


@pytest.mark.contract
@pytest.mark.ahead
async def test_push_back_lowers_the_rate(limiter):
    """A push back lowers the rate by the factor.

    At 10/s, pushed back: the next call one interval of the lower rate later, and so on.
    """
    queue = limiter.queue("10/s", adaptive=Adaptive("1/s", 0.5))
    slots = await use(queue, 5)
    slots[-1].throttled()
    await limiter.settled()
    assert (queue.stats.rate, queue.stats.backed_off, queue.stats.throttled) == (5, 1, 1)
    assert queue.estimate() == limiter.exactly(0.2)
    first, second = await gaps(queue, 3)
    assert 0.2 > first > second > 0.18  # it grows meanwhile


@pytest.mark.contract
async def test_a_push_back_forgives_no_debt(limiter):
    """What a call has cost beyond its charge still has to be paid off before the next one."""
    queue = limiter.queue("10/s", adaptive=Adaptive("0.1/s", 0.5))
    slots = await use(queue, 20)
    slots[-1].throttled()
    (slot,) = await use(queue, 1)
    slot.settle(50)
    await limiter.settled()
    before = queue.estimate()
    assert before > 9
    slot.throttled()
    await limiter.settled()
    assert queue.estimate() >= before - 1e-6


@pytest.mark.contract
@pytest.mark.parametrize("charged", [1, 0])
async def test_late_costs_leave_the_measurement(limiter, charged):
    """What got through in 20 s is the same, whether each cost is known at once or a while later.

    Two calls a second were used: push-back lowers the rate from there, not from what is configured.
    """
    queue = limiter.queue(Rate(100, burst=50), adaptive=Adaptive("0.1/s", 0.5))
    for _ in range(20):
        async with queue.slot(cost=1 + charged) as slot:
            await asyncio.sleep(0.5)
            slot.settle(2)
            await asyncio.sleep(0.5)
    slot.throttled()
    await limiter.settled()
    assert queue.stats.rate == pytest.approx(0.5**0.5 * 2, rel=0.1)


@pytest.mark.contract
async def test_earlier_calls_leave_the_measurement(limiter):
    """Costs of calls from before a slow-down do not count among those after it.

    At 50/s it was throttled; at 10/s it is throttled again, and the rate falls from there.
    """
    queue = limiter.queue("100/s", adaptive=Adaptive("0.1/s", 0.5))
    earlier = []
    for _ in range(50):
        earlier += await use(queue, 1)
        await asyncio.sleep(0.02)
    earlier[-1].throttled()
    await limiter.settled()
    for _ in range(30):
        (slot,) = await use(queue, 1)
        await asyncio.sleep(0.1)
    for one in earlier:
        one.settle(0)
    await limiter.settled()
    slot.throttled()
    await limiter.settled()
    assert queue.stats.rate == pytest.approx(0.5**0.5 * 10, rel=0.2)


@pytest.mark.contract
async def test_refusals_in_flight_slow_once(limiter):
    """50 calls in flight that are refused slow down once.

    Fifty refusals of calls that were released before the first of them count once.
    """
    queue = limiter.queue(Rate(100, burst=50), adaptive=Adaptive("1/s", 0.5))

    async def call():
        async with queue.slot() as slot:
            await asyncio.sleep(0.3)
            slot.throttled()
            await limiter.settled()

    await asyncio.gather(*(call() for _ in range(50)))
    assert (queue.stats.throttled, queue.stats.backed_off, queue.stats.rate) == (50, 1, 50)
    await call()
    assert queue.stats.backed_off == 2


@pytest.mark.contract
@pytest.mark.parametrize(("inside", "heard"), [(True, 1), (False, 2)])
async def test_queue_refusals_slow_down_once(limiter, inside, heard):
    """50 refusals that the queue is given slow down once.

    So does `queue.throttled()`, which does not know the call; told in the body, or after it.
    """
    queue = limiter.queue(Rate(100, burst=50), adaptive=Adaptive("1/s", 0.5))

    async def call(delay):
        async with queue.slot():
            await asyncio.sleep(0.3 + delay)
            if inside:
                queue.throttled()
                await limiter.settled()
        if not inside:
            queue.throttled()
            await limiter.settled()

    await asyncio.gather(*(call(n / 1000) for n in range(50)))
    assert (queue.stats.throttled, queue.stats.backed_off, queue.stats.rate) == (50, 1, 50)
    await call(0)
    await call(0)
    assert queue.stats.backed_off == 1 + heard


@pytest.mark.contract
async def test_push_back_is_by_lane(limiter):
    """Push-back on one lane counts, whatever another lane has had.

    A round of calls is its lane's: what "a" is told is no reason not to hear of "b".
    """
    queue = limiter.queue("100/s", lanes={"*": "10/s"}, adaptive=Adaptive("1/s"))
    running = [queue.enqueue(key=key) for key in ("a", "b", "a", "b")]
    await asyncio.gather(*running)
    for key, slowed in (("a", 1), ("a", 1), ("b", 2), ("b", 2), ("a", 2)):
        queue.throttled(key=key)
        await limiter.settled()
        assert queue.stats.backed_off == slowed


@pytest.mark.contract
async def test_what_got_through_counts(limiter):
    """What got through counts where it is less than the limit.

    A throttle at 5/s under a limit of 100/s says that 5/s is too much, not that 70/s is not.
    """
    queue = limiter.queue("100/s", adaptive=Adaptive("1/s"))
    for _ in range(30):
        async with queue.slot() as slot:
            await asyncio.sleep(0.2)
    slot.throttled()
    await limiter.settled()
    assert 3 < queue.stats.rate < 5


@pytest.mark.contract
async def test_queue_without_limit_finds_one(limiter):
    """A queue without a limit finds one.

    What it sent is measured, over a second at least, and the rest is as with a limit.
    """
    queue = limiter.queue(adaptive=Adaptive("1/s", 0.5))
    assert queue.stats.rate == math.inf
    slots = await use(queue, 41)
    slots[-1].throttled()
    await limiter.settled()
    assert queue.stats.rate == 20
    queue = limiter.queue(adaptive=Adaptive("1/s"))
    (slot,) = await use(queue, 1)
    slot.throttled()
    await limiter.settled()
    assert queue.stats.rate == 1


@pytest.mark.contract
async def test_rate_stays_above_the_floor(limiter):
    """It never falls below the floor and comes back from it.

    Push-back without end leaves the floor; once it ends, the rate grows again.
    """
    queue = limiter.queue("10/s", adaptive=Adaptive("2/s"))
    for _ in range(30):
        (slot,) = await use(queue, 1)
        slot.throttled()
        await limiter.settled()
    assert queue.stats.rate == 2
    await use(queue, 400)
    assert queue.stats.rate > 4


@pytest.mark.contract
@pytest.mark.ahead
async def test_a_hold_is_obeyed_besides(limiter):
    """Retry-After holds, and the lower rate follows."""
    queue = limiter.queue("10/s", adaptive=Adaptive("1/s", 0.5))
    loop = asyncio.get_running_loop()
    (slot,) = await use(queue, 1)
    slot.throttled(retry_after=7)
    await limiter.settled()
    began = loop.time()
    await use(queue, 1)
    assert loop.time() - began == limiter.exactly(7)
    assert queue.stats.rate == pytest.approx(5, rel=0.1)


async def test_hold_alone_slows_nothing_down(limiter):
    """What the other side asks for in good time is no push-back."""
    queue = limiter.queue("10/s", adaptive=Adaptive("1/s"))
    queue.hold(3)
    await limiter.settled()
    queue.hold(1)
    await limiter.settled()
    assert queue.estimate() == limiter.exactly(3)
    assert (queue.stats.throttled, queue.stats.backed_off, queue.stats.rate) == (0, 0, math.inf)
    with pytest.raises(ValueError, match="seconds must be finite"):
        queue.hold(-1)


async def test_malformed_is_counted_and_reported(limiter):
    """What is malformed is counted and reported.

    `malformed` shows in the figures and to observers.
    """
    events = []

    class Ear:
        def on_event(self, event):
            events.append((event.kind, event.key))

    queue = limiter.queue("10/s", observers=[Ear()])
    queue.malformed(key="host")
    assert queue.stats.malformed == 1
    assert events == [("malformed", "host")]


# Up.


@pytest.mark.contract
async def test_rate_grows_to_the_ceiling(limiter):
    """It grows to the ceiling and no further.

    In use, it comes back to the limit, where the burst is whole again.
    """
    queue = limiter.queue(Rate(10, burst=5), adaptive=Adaptive("1/s"))
    slots = await use(queue, 20)
    slots[-1].throttled()
    await limiter.settled()
    before = queue.stats.rate
    rates = []
    while queue.stats.rate < math.inf:
        await use(queue, 10)
        rates.append(queue.stats.rate)
    assert rates == sorted(rates)
    assert before < rates[0] < 10
    await asyncio.sleep(10)
    assert await gaps(queue, 6) == pytest.approx([0, 0, 0, 0, 0.1], abs=1e-6)


async def test_fast_rate_grows_as_a_slow_one(limiter):
    """Calls that start in groups leave no idle time between them."""
    shares = []
    for rate in (100, 2000):
        queue = limiter.queue(f"{rate}/s", adaptive=Adaptive(recovery=2))
        slots = await together(queue, rate)  # a second's worth
        slots[-1].throttled()
        await limiter.settled()
        await together(queue, round(0.7 * rate))
        shares.append(queue.stats.rate / rate)
    assert 0.75 < shares[0] < 1
    assert shares[1] == pytest.approx(shares[0], rel=0.03)


@pytest.mark.contract
async def test_unused_rate_does_not_grow(limiter):
    """A rate that nobody uses does not grow.

    A call every ten seconds is no proof that ten per second are borne.
    """
    queue = limiter.queue("10/s", adaptive=Adaptive("1/s"))
    slots = await use(queue, 20)
    slots[-1].throttled()
    await limiter.settled()
    rate = queue.stats.rate
    for _ in range(60):
        await asyncio.sleep(10)
        await use(queue, 1)
    assert queue.stats.rate < 10
    assert rate < queue.stats.rate


@pytest.mark.contract
async def test_hour_without_calls_forgets(limiter):
    """After an hour without a call it starts again.

    What was learnt is forgotten, and the limit is due another try.
    """
    queue = limiter.queue("10/s", adaptive=Adaptive("1/s"), lanes={"*": "5/s"})
    for key in (None, "a"):
        slots = await use(queue, 20, key=key)
        slots[-1].throttled()
        await limiter.settled()
    assert queue.stats.backed_off == 2
    await asyncio.sleep(3500)
    assert queue.estimate() == 0
    await use(queue, 1, key="b")
    if limiter.shared:  # which lanes are kept, the server knows; how fast they are, all do
        assert (await gaps(queue, 3, key="a"))[1] > 0.21
    else:
        assert queue.stats.lanes_in_memory == 3  # "a" is not as new yet
    await asyncio.sleep(3700)
    await use(queue, 1, key="b")
    if limiter.shared:
        assert (await gaps(queue, 3, key="a"))[1] == limiter.exactly(0.2)
    else:
        assert queue.stats.lanes_in_memory == 1
    assert queue.stats.rate == math.inf


@pytest.mark.contract
async def test_set_rate_keeps_what_was_learnt(limiter):
    """A higher limit is a higher ceiling, not a licence; a lower one is in force at once."""
    queue = limiter.queue("10/s", adaptive=Adaptive("1/s", 0.5))
    slots = await use(queue, 20)
    slots[-1].throttled()
    await limiter.settled()
    queue.set_rate("100/s")
    await limiter.settled()
    assert queue.stats.rate == 5
    queue.set_rate("2/s")
    await limiter.settled()
    assert queue.stats.rate == math.inf
    assert (await gaps(queue, 3))[1:] == limiter.exactly([0.5])
    queue.set_rate("5/s")
    await limiter.settled()
    assert queue.stats.rate == math.inf
    queue.set_rate("10/s")
    await limiter.settled()
    assert queue.stats.rate == 5
    assert (await gaps(queue, 3))[1:] == pytest.approx([0.2], rel=0.1)
    await asyncio.sleep(3700)
    assert queue.estimate() == 0
    await use(queue, 1)
    assert queue.stats.rate == math.inf


@pytest.mark.contract
async def test_slow_limit_needs_ten_calls(limiter):
    """A slow limit comes back by ten calls at least.

    One call of a minute proves as little as one of a tenth of a second.
    """
    queue = limiter.queue("1/min", adaptive=Adaptive("0.1/min", 0.5, recovery=20))
    slots = await use(queue, 1)
    slots[-1].throttled()
    await limiter.settled()
    rates = []
    for _ in range(12):
        await use(queue, 1)
        rates.append(queue.stats.rate)
    assert rates[0] < 0.7 / 60
    assert rates[:9] == sorted(rates[:9])
    assert rates[8] < 1 / 60


# Lanes and places.


@pytest.mark.contract
async def test_push_back_slows_its_own_lane(limiter):
    """Push back slows down the lane that was pushed back.

    A key with limits of its own slows down alone; one without slows down the queue.
    """
    queue = limiter.queue("100/s", lanes={"slow": "10/s"}, adaptive=Adaptive("1/s", 0.5))
    slots = await use(queue, 12, key="slow")
    slots[-1].throttled()
    await limiter.settled()
    assert (queue.stats.backed_off, queue.stats.rate) == (1, math.inf)
    assert queue.estimate(key="slow") == limiter.exactly(0.2)
    assert queue.estimate(key="other") == 0
    slots = await use(queue, 1, key="other")
    slots[-1].throttled()
    await limiter.settled()
    assert (queue.stats.backed_off, queue.stats.rate < 100) == (2, True)


async def test_lanes_waiter_hears_push_back():
    """After push-back on its lane, a call that waits there starts when `estimate` says."""
    queue = ApiQueue(lanes={"a": "10/s", "b": "1/s"}, adaptive=Adaptive("0.1/s"))
    (*_, pushed_back) = await use(queue, 20, key="a")
    pushed_back.throttled()
    slot, _ = await queue.enqueue(key="a"), await queue.enqueue(key="b")
    small, _ = queue.enqueue(key="a", cost=0.5), queue.enqueue(key="b")
    slot.settle(50)
    await asyncio.sleep(2)
    slot.throttled()
    due = now() + queue.estimate(key="a", cost=0.5, priority=-1)
    await small
    assert now() == exactly(due)


@pytest.mark.contract
async def test_evicted_lane_hears_push_back_once(limiter):
    """A lane that was evicted meanwhile hears push back once.

    At rest while its calls run, a lane is forgotten; push-back makes it again, and is kept.
    """
    queue = limiter.queue(lanes={"a": "10/s"}, adaptive=Adaptive("0.5/s"))

    async def call():
        async with queue.slot(key="a") as slot:
            await asyncio.sleep(5)
            slot.throttled()
            await limiter.settled()

    await asyncio.gather(*(call() for _ in range(5)))
    assert (queue.stats.backed_off, queue.stats.lanes_in_memory) == (1, 1)


class Bodies:
    """Calls of a queue with so many places, and two at least after push-back."""

    def __init__(self, limiter, places, seconds):
        self.limiter = limiter
        self.seconds = seconds
        self.queue = limiter.queue(concurrency=places, adaptive=Adaptive("1/s", 0.5, concurrency=2))

    async def call(self, *, refused=False):
        """Make one, which a server may refuse."""
        async with self.queue.slot() as slot:
            self.most = max(self.most, self.queue.running)
            await asyncio.sleep(self.seconds)
            if refused:
                slot.throttled()
                await self.limiter.settled()

    async def many(self, calls):
        """Return how many of so many run at once."""
        self.most = 0
        await asyncio.gather(*(self.call() for _ in range(calls)))
        return self.most


@pytest.mark.contract
async def test_concurrency_falls(limiter):
    """Where `concurrency=` names a least, fewer bodies run after push-back."""
    bodies = Bodies(limiter, places=10, seconds=0.5)
    assert await bodies.many(30) == 10
    await asyncio.gather(*(bodies.call(refused=True) for _ in range(10)))
    assert bodies.queue.stats.backed_off == 1
    assert 5 <= await bodies.many(30) <= 6
    for _ in range(9):
        await bodies.call(refused=True)
    assert await bodies.many(30) <= 3


async def test_concurrency_grows_again(limiter):
    """By the same curve as limits, to as many as before."""
    bodies = Bodies(limiter, places=6, seconds=5)
    assert await bodies.many(12) == 6
    for _ in range(9):
        await bodies.call(refused=True)
    assert await bodies.many(12) <= 3
    most = 0
    while most < 6:
        before, most = most, await bodies.many(12)
        assert most >= before - 1


@pytest.mark.contract
async def test_hour_without_calls_frees_places(limiter):
    """After an hour without a call all places are there at once.

    The first callers need not wait for a body to end.
    """
    queue = limiter.queue(concurrency=8, adaptive=Adaptive("1/s", 0.5, concurrency=2))
    held = [await queue.enqueue() for _ in range(8)]
    held[0].throttled()
    await limiter.settled()
    for slot in held:
        slot.release()
    await asyncio.sleep(2)
    held = [queue.enqueue() for _ in range(8)]
    await asyncio.sleep(60)
    assert queue.running == 4
    for future in held:
        (await future).release()
    await asyncio.sleep(3700)
    held = [queue.enqueue() for _ in range(9)]
    await asyncio.sleep(1)
    assert queue.running == 8
    for future in held:
        (await future).release()


async def test_concurrency_without_least_stays(limiter):
    """Without a least concurrency is left alone.

    By default only the rate falls.
    """
    queue = limiter.queue("100/s", concurrency=4, adaptive=Adaptive("1/s"))
    (slot,) = await use(queue, 1)
    slot.throttled()
    await limiter.settled()
    held = [await queue.enqueue() for _ in range(4)]
    assert queue.running == 4
    for slot in held:
        slot.release()


async def test_a_queue_without_concurrency_gets_none(limiter):
    """The end of a body is not followed there: callers would wait for ever."""
    queue = limiter.queue("100/s", lanes={"a": ()}, adaptive=Adaptive("1/s", 0.5, concurrency=2))

    async def call(key, *, refused=False):
        async with queue.slot(key=key) as slot:
            await asyncio.sleep(1)
            if refused:
                slot.throttled()
                await limiter.settled()

    for key in (None, "a"):
        await asyncio.gather(*(call(key, refused=True) for _ in range(6)))
        async with asyncio.timeout(60):
            await asyncio.gather(*(call(key) for _ in range(20)))
    assert queue.stats.backed_off == 2


# What goes wrong.


@pytest.mark.parametrize("broken", [RuntimeError("bug"), -1, math.nan, "fast"])
async def test_failing_controller_costs_no_slot(broken):
    """A controller that fails costs no slot.

    One that raises or returns nonsense leaves the rate; the loop's handler is told.
    """
    told = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))

    class Broken(Adaptive):
        def regrow(self, **_):
            if isinstance(broken, Exception):
                raise broken
            return broken

    queue = ApiQueue("10/s", adaptive=Broken("1/s", 0.5))
    slots = await use(queue, 5)
    slots[-1].throttled()
    assert await gaps(queue, 4) == exactly([0.2] * 3)
    assert queue.stats.released == 9
    assert len(told) == 4
    assert "failed; the rate stays as it is" in told[0]["message"]


@pytest.mark.contract
async def test_a_cancelled_call_slows_nothing_down(limiter):
    """A slot that is refunded is not counted as one that got through."""
    queue = limiter.queue("10/s", adaptive=Adaptive("1/s"))
    waiting = [queue.enqueue() for _ in range(5)]
    await limiter.settled()
    for future in waiting:
        future.cancel()
    (slot,) = await use(queue, 1)
    slot.throttled()
    await limiter.settled()
    assert queue.stats.rate == limiter.exactly(7)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"floor": 5}, TypeError, "a bare 5 is ambiguous"),
        ({"floor": Window(5, 60)}, TypeError, "floor must be a rate, not 5 in any 1min"),
        ({"floor": "0/s"}, ValueError, "above 0"),
        ({"backoff": 1}, ValueError, "below 1"),
        ({"backoff": 0}, ValueError, "above 0"),
        ({"recovery": 0}, ValueError, "recovery"),
        ({"concurrency": 0}, ValueError, "at least 1"),
        ({"concurrency": "all"}, TypeError, "must be a number"),
    ],
)
def test_bad_adaptive_options_are_refused(arguments, error, words):
    """What is invalid is refused at once.

    Floors, factors and times that cannot be are refused by name.
    """
    with pytest.raises(error, match=words):
        Adaptive(**arguments)


def test_least_above_concurrency_is_refused(limiter):
    """A least concurrency above the queue's is refused.

    It would never fall; the same number is allowed, and none where the queue has none.
    """
    with pytest.raises(ValueError, match=r"concurrency, 5, is above the queue's \(4\).*lower it"):
        limiter.queue("10/s", concurrency=4, adaptive=Adaptive(concurrency=5))
    limiter.queue("10/s", concurrency=4, lanes={"a": "1/s"}, adaptive=Adaptive(concurrency=4))
    limiter.queue("10/s", adaptive=Adaptive(concurrency=5))


@pytest.mark.contract
async def test_slow_limit_has_lower_floor(limiter):
    """A slow limit has a floor below it by default.

    A tenth of the limits, of each lane's too, and of those that `set_rate` gives.
    """
    queue = limiter.queue("1/min", lanes={"a": "3/min"}, adaptive=Adaptive(backoff=0.01))
    (slot,) = await use(queue, 1)
    slot.throttled()
    await limiter.settled()
    assert queue.stats.rate == pytest.approx(0.1 / 60)
    queue = limiter.queue("10/s", adaptive=Adaptive(backoff=0.001))
    (slot,) = await use(queue, 1)
    slot.throttled()
    await limiter.settled()
    assert queue.stats.rate == pytest.approx(0.1)
    queue.set_rate("3/min")
    await limiter.settled()


def test_floor_above_limits_is_refused(limiter):
    """A floor above the limits is refused.

    Of the queue's limits and of a lane's alike, when the queue is made.
    """
    with pytest.raises(ValueError, match=r"floor, 20/s, is above the limits \(10/s\): lower"):
        limiter.queue("10/s", Window(5000, 60), adaptive=Adaptive("20/s"))
    with pytest.raises(ValueError, match="above the limits"):
        limiter.queue("100/s", lanes={"a": "5/s"}, adaptive=Adaptive("20/s"))
    with pytest.raises(TypeError, match=r"must be an Adaptive, not 0.7: write Adaptive\(\)"):
        limiter.queue("10/s", adaptive=0.7)


@pytest.mark.parametrize(
    ("limit", "remedy"),
    [("100 input_tokens/s", '"600 input_tokens/min"'), ("100/s", '"600/min"')],
)
def test_floor_of_another_unit_keeps_period(limit, remedy):
    """The error about a floor in the wrong unit suggests the same amount per the same time."""
    with pytest.raises(ValueError, match=f"counts tokens.*write floor={remedy}, or leave it out"):
        ApiQueue(limit, adaptive=Adaptive("600 tokens/min"))


def test_rounds_that_are_not_over_are_kept():
    """However many lanes slow down, each does so once for the calls that had started by then."""
    host = SimpleNamespace(started=5, ended=5)
    rounds = seam.SlowDownRounds(host)
    for lane in range(100):
        rounds.begin(lane)
    assert not any(rounds.is_new(lane) for lane in range(100))
    host.ended = 6
    assert all(rounds.is_new(lane) for lane in range(100))
