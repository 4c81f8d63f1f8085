"""Rates with a ramp: when calls start, on each kind of limiter."""

from __future__ import annotations

import asyncio
import itertools
import math

import pytest

from aioapiqueue import ApiQueue, LimitExceeded, Rate, WouldWait
from aioapiqueue.spi import Reporter
from tests.helpers.instants import line_up, now, released
from tests.helpers.introspect import own_states

SLOWER = 24 / 25  # growth leaves room for whole calls
RAMP = "10/s ramp 2x per 4s"  # from 1/s


def growing(number, floor, factor, per):
    """Return the instant of a call, from 0 on, if calls wait all the time; below the full rate."""
    growth = SLOWER * math.log(factor) / per
    if number <= floor * per:
        return number / floor
    return per + math.log1p((number - floor * per) * growth / floor) / growth


def full_after(rate, floor, factor, per):
    """Return the seconds until the full rate that are promised."""
    return per * (1 + math.log(rate / floor, factor))


def counted(starts, per):
    """Return how many starts are in each period; the first period begins with the first start."""
    counts = [0] * (int((starts[-1] - starts[0]) // per) + 1)
    for at in starts:
        counts[int((at - starts[0]) // per)] += 1
    return counts


def refused_by(counts, most, factor):
    """Return how many calls a server refuses that compares each period with the one before."""
    refused, before = 0, 0
    for count in counts:
        served = min(count, math.floor(max(most, factor * before)))
        refused += count - served
        before = served
    return refused


@pytest.mark.contract
@pytest.mark.ahead
async def test_ceiling_grows_with_use(limiter):
    """It stays at the floor for the first `per`, then grows continuously."""
    starts = await released(limiter.queue(RAMP), 30)
    expected = [growing(number, 1, 2, 4) for number in range(30)]
    assert [at - starts[0] for at in starts] == limiter.exactly(expected)


@pytest.mark.contract
async def test_full_rate_comes_in_time(limiter):
    """After `per` times 1 + log(rate / floor), within 1.05, the rate is evenly spaced."""
    full = full_after(10, 2, 3, 3)
    starts = await released(limiter.queue("10/s ramp 3x per 3s from 2/s"), 100)
    first = next(n for n in range(1, 90) if starts[n + 5] - starts[n] < 0.5 + 1e-5)
    assert full <= starts[first] - starts[0] <= 1.05 * full
    steps = [after - before for before, after in itertools.pairwise(starts[first:])]
    assert steps == limiter.exactly([0.1] * len(steps))


async def test_every_factor_comes_in_time():
    """So does it for small and large factors, rates and periods."""
    for rate, floor, factor, per in [
        (1000 / 60, 100 / 60, 1.5, 60),
        (1000 / 60, 100 / 60, 1.1, 10),
        (60 / 60, 6 / 60, 2, 60),
        (10 / 60, 1 / 60, 2, 120),
        (100, 1, 10, 2),
    ]:
        queue = ApiQueue(Rate.parse(f"{rate!r}/s ramp {factor}x per {per}s from {floor!r}/s"))
        full = full_after(rate, floor, factor, per)
        starts = await released(queue, int(floor * per + rate * (full - per)))
        spans = zip(starts[1:], starts[3:], strict=False)
        at = next(first for first, last in spans if last - first < 2.001 / rate) - starts[0]
        assert at <= 1.05 * full + 2 / rate, (rate, floor, factor, per)


@pytest.mark.contract
async def test_idle_ceiling_is_the_floor(limiter):
    """Who has started nothing for `per` starts at the floor again."""
    queue = limiter.queue(RAMP)
    starts = await released(queue, 40)
    assert starts[-1] - starts[-2] < 0.3
    await asyncio.sleep(4.6)  # and the eighth of it that has just begun
    starts = await released(queue, 6)
    assert [at - starts[0] for at in starts] == limiter.exactly(
        [0, 1, 2, 3, 4, growing(5, 1, 2, 4)]
    )


@pytest.mark.contract
async def test_less_use_lowers_the_ceiling(limiter):
    """After some use at 2/s, the ceiling is at most twice that, and less than at full use."""
    queue = limiter.queue(RAMP)
    await released(queue, 100)
    for _ in range(12):
        await asyncio.sleep(0.5)
        async with queue.slot():
            pass
    starts = await released(queue, 5)
    pace = (starts[-1] - starts[0]) / 4
    assert 0.25 < pace < 0.5  # else 0.1


@pytest.mark.contract
async def test_other_units_have_ramps(limiter):
    """The ceiling is one of the unit; a burst is scaled, so it is never below 1."""
    queue = limiter.queue("100 tokens/s burst 40 ramp 2x per 10s")
    starts = await released(queue, 7, cost={"tokens": 4})
    first = starts[0]  # the burst is 4 at the floor, which is 10/s
    assert [at - first for at in starts] == limiter.exactly([0, 0.4, 0.8, 1.2, 1.6, 2, 2.4])


@pytest.mark.contract
async def test_lanes_ramp_by_themselves(limiter):
    """Each key under a pattern has its own ceiling."""
    queue = limiter.queue(lanes={"tenant:*": RAMP})
    await released(queue, 30, key="tenant:busy")
    starts = await released(queue, 3, key="tenant:new")
    assert [at - starts[0] for at in starts] == limiter.exactly([0, 1, 2])


@pytest.mark.contract
@pytest.mark.ahead
async def test_processes_share_one_ceiling(limiter):
    """What one process starts is use for the other, too."""
    quota, starts = limiter.quota(), []
    one = quota(RAMP)
    other = quota(RAMP) if limiter.shared else one
    await asyncio.gather(*line_up(one, starts, 20), *line_up(other, starts, 20))
    starts.sort()
    steps = [growing(number, 1, 2, 4) - at + starts[0] for number, at in enumerate(starts)]
    assert max(steps) <= limiter.rounding  # late, never early
    assert min(steps) >= -0.5


@pytest.mark.contract
async def test_set_rate_to_and_fro(limiter):
    """A ramp that is set begins at the floor, and what was charged is not forgotten."""
    queue = limiter.queue("10/s")
    await released(queue, 20)
    queue.set_rate(RAMP)
    await limiter.settled()
    begun = now()
    starts = await released(queue, 4)
    gaps = [after - before for before, after in itertools.pairwise([begun, *starts])]
    assert gaps[0] >= 0.1 - limiter.rounding
    assert gaps[1:] == limiter.exactly([1, 1, 1])
    queue.set_rate("10/s")
    await limiter.settled()
    starts = await released(queue, 3)
    assert [at - starts[0] for at in starts] == limiter.exactly([0, 0.1, 0.2])


@pytest.mark.contract
async def test_learnt_limit_may_ramp(limiter):
    """The first answer's limit is begun slowly; the burst is the floor's share of it."""
    queue = limiter.queue(lanes={"*": ()})
    Reporter(queue).learn(())
    slot = await limiter.take(queue, key="m")
    Reporter(queue).answered(slot)
    Reporter(queue).adopt(slot, [Rate.parse("10/s burst 20 ramp 2x per 4s")])
    slot.release()
    await limiter.settled()
    assert [str(one) for one in queue.stats.learnt["m"]] == ["10/s burst 20 ramp 2x per 4s"]
    starts = await released(queue, 5, key="m")
    assert [at - starts[0] for at in starts] == limiter.exactly([0, 0, 1, 2, 3])


async def test_recovered_window_owes_nothing():
    """What the full rate has recovered by now does not count, although the floor would not have."""
    queue = ApiQueue("10 in any 10s")
    await released(queue, 10)
    await asyncio.sleep(5)
    queue.set_rate("10/s burst 10 ramp 2x per 4s")
    begun = now()
    assert await released(queue, 2) == pytest.approx([begun, begun + 1])


async def test_busy_lane_keeps_its_ceiling():
    """It stays in memory for as long as its ceiling is above the floor."""
    queue = ApiQueue(lanes={"tenant:*": RAMP})
    await released(queue, 80, key="tenant:a")
    for number in range(10):
        await asyncio.sleep(0.1)
        await released(queue, 1, key=f"tenant:{number}")
    starts = await released(queue, 5, key="tenant:a")
    assert 4 / (starts[-1] - starts[0]) > 5


async def test_reserved_room_grows_with_ceiling():
    """A call leaves room for another one only as late as the ceiling will have it."""
    (state,) = own_states(ApiQueue(RAMP))
    assert not state.leaves_room(0, (1,), (1,), 0.9)
    assert state.leaves_room(0, (1,), (1,), 1)


async def test_changed_ramp_keeps_its_ceiling():
    """Another rate with a ramp goes on from the ceiling that was reached."""
    queue = ApiQueue(RAMP)
    await released(queue, 60)
    queue.set_rate("20/s ramp 2x per 4s")
    starts = await released(queue, 5)
    assert 5 < 4 / (starts[-1] - starts[0]) < 11


async def test_estimate_knows_of_growth():
    """It is what the last of the waiting calls gets if calls wait all the time."""
    queue = ApiQueue(RAMP)
    waiting = line_up(queue, [], 30)
    await asyncio.sleep(0)
    assert queue.estimate() == pytest.approx(growing(30, 1, 2, 4))
    await asyncio.gather(*waiting)
    assert now() == pytest.approx(growing(29, 1, 2, 4))
    await asyncio.sleep(10)
    assert queue.estimate(cost=5) == pytest.approx(4)


async def test_cancelled_slots_grow_no_ceiling():
    """What is given back has not been used."""
    queue = ApiQueue("10/s burst 10 ramp 2x per 4s")
    for _ in range(200):
        call = queue.enqueue()
        await asyncio.wait([call])  # granted, and not taken up
        call.cancel()
        await asyncio.sleep(0.1)
    starts = await released(queue, 3)
    assert [at - starts[0] for at in starts] == pytest.approx([0, 1, 2])


async def test_cancelled_large_calls_are_unused():
    """Nor has what costs more than the burst, although the bucket is put back in another way."""
    queue = ApiQueue(RAMP)
    for call in [queue.enqueue(cost=3) for _ in range(30)]:
        await asyncio.wait([call])
        call.cancel()
    await asyncio.sleep(4.4)  # growth would have begun after 4
    starts = await released(queue, 2)
    assert starts[1] - starts[0] == pytest.approx(1)


async def test_settlements_lower_the_ceiling():
    """A cost that was settled at a tenth counts as a tenth of the use."""
    queue = ApiQueue("100 tokens/s burst 100 ramp 2x per 4s")
    for _ in range(100):
        async with queue.slot(cost={"tokens": 10}) as slot:
            slot.settle({"tokens": 1})
        await asyncio.sleep(0.1)  # 10 tokens per second are used: as much as the floor has
    await asyncio.sleep(0.6)
    # The burst is scaled as the ceiling is; the use counts one call more than there was.
    assert 10 <= queue.stats.remaining["tokens"] < 20  # 100 if the whole costs counted


async def test_late_refund_gives_no_more():
    """What others found missing when they started is all that comes back, at any later ceiling."""
    queue = ApiQueue("10 tokens/s burst 40 ramp 2x per 4s", catch_up=0)
    first = await queue.enqueue(cost={"tokens": 4})
    starts = await released(queue, 16, cost={"tokens": 1})
    assert starts[-1] - starts[-2] < 0.6, "the ceiling has grown"
    assert queue.stats.remaining["tokens"] == pytest.approx(0)
    first.settle({"tokens": 0})
    assert queue.stats.remaining["tokens"] == pytest.approx(3)  # one had come back by then


@pytest.mark.contract
async def test_ramped_rate_may_raise(limiter):
    """With `or raise`, calls beyond the ceiling raise, and say when there is room."""
    queue, started = limiter.queue("10/s ramp 2x per 4s or raise"), []
    while len(started) < 20:
        try:
            (await limiter.take(queue)).release()
        except LimitExceeded as refused:
            await asyncio.sleep(refused.resets_in)
        else:
            started.append(now())
    expected = [growing(number, 1, 2, 4) for number in range(20)]
    assert [at - started[0] for at in started] == pytest.approx(expected, abs=1e-4)
    await queue.aclose()


@pytest.mark.parametrize("rate", [1000, 600, 6000])
async def test_strict_server_refuses_nothing(rate):
    """A server that lets each minute have 1.5 times the one before, or a tenth of the rate."""
    floor, full = rate / 10, full_after(rate, rate / 10, 1.5, 60)
    calls = int(rate * full / 120)
    starts = await released(ApiQueue(f"{rate}/min ramp 1.5x per 60s"), calls)
    assert refused_by(counted(starts, 60), floor, 1.5) == 0
    pairs = itertools.pairwise(starts)
    at = next(before for before, after in pairs if after - before < 60.001 / rate) - starts[0]
    assert full <= at <= 1.05 * full
    plain = await released(ApiQueue(f"{rate}/min"), calls)
    assert refused_by(counted(plain, 60), floor, 1.5) > calls / 5


async def test_sudden_demand_is_not_refused():
    """Nor after some minutes at a third of the rate, and a pause."""
    queue, starts = ApiQueue("1000/min ramp 1.5x per 60s"), []
    for _ in range(6 * 333):
        await asyncio.sleep(0.18)
        starts += await released(queue, 1)
    starts += await released(queue, 3000)
    await asyncio.sleep(20)
    starts += await released(queue, 3000)
    # Periods that begin at any instant are more than such a server looks at: one eighth of `per`
    # may pass before less use is seen.
    assert refused_by(counted(starts, 60), 100, 1.5 ** (9 / 8)) <= 1


async def calling(queue, seconds, cost, settled):
    """Let twenty callers call all the time, for 5 s each; return when the calls started."""
    starts = []

    async def call():
        async with queue.slot(cost={"tokens": cost}) as slot:
            starts.append(now())
            await asyncio.sleep(5)
            slot.settle({"tokens": settled})

    async def caller():
        while True:
            await call()

    callers = [asyncio.create_task(caller()) for _ in range(20)]
    await asyncio.sleep(seconds)
    for one in callers:
        one.cancel()
    await asyncio.wait(callers)
    await queue.aclose(drain=False)
    return starts


@pytest.mark.contract
@pytest.mark.parametrize("settled", [5000, 600, 1])
async def test_low_settlements_do_not_stop_growth(limiter, settled):
    """What a reservation above the burst has taken stays taken: it is use, as the bucket has it."""
    per, full = 90, full_after(10, 1, 1.5, 90)
    queue = limiter.queue("10000 tokens/s ramp 1.5x per 90s")
    starts = await calling(queue, 1.1 * full + per, 5000, settled)
    counts = counted(starts, per)
    assert counts[0] == pytest.approx(18, abs=1)  # at the floor, 1,000 tokens per second
    assert counts[3] > 1.5 * counts[1]
    last = [at for at in starts if at >= starts[0] + 1.1 * full]
    assert len(last) == pytest.approx(2 * (last[-1] - last[0]), abs=2)


@pytest.mark.contract
@pytest.mark.parametrize("settled", [4000, 300])
@pytest.mark.parametrize("burst", ["", "burst 8000 "])
async def test_floor_may_admit_less_than_a_call(limiter, settled, burst):
    """One call in 5 minutes at first, which is longer than `per`: but calls wait all the time."""
    queue = limiter.queue(f"8000 tokens/min {burst}ramp 2x per 120s")
    starts = await calling(queue, 1600, 4000, settled)
    full = starts[0] + 1.1 * full_after(8000, 800, 2, 120)
    last = [at for at in starts if at >= full]
    assert len(last) >= 2 * (last[-1] - last[0]) / 60 - 1


@pytest.mark.parametrize("text", [RAMP, "10/s ramp 2x per 4s, 5 at once"])
async def test_estimate_during_a_pause_without_an_end(text):
    """Nothing tells when a call would start: infinite, and the ramp is not followed until then."""
    queue = ApiQueue(text)
    async with queue.slot():
        queue.pause()
        assert queue.estimate() == math.inf
        with pytest.raises(WouldWait):
            queue.try_slot()
    queue.resume()
    assert await asyncio.wait_for(queue.enqueue(), 5)
    await queue.aclose(drain=False)
