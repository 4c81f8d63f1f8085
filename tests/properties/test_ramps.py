"""The ceiling of a ramp, on random histories in virtual time."""

from __future__ import annotations

import asyncio
import math

from hypothesis import strategies as st

from aioapiqueue import Ramp, Rate
from tests.helpers.instants import released
from tests.helpers.limiters import holds_for

STEP = 1 / 8  # of `per`: use is known to the end of the last one
RAMPED = st.builds(
    lambda factor, per, burst, floor: Rate(12, 1, burst, ramp=Ramp(factor, per, floor)),
    st.sampled_from([1.5, 2, 4]),
    st.sampled_from([1, 2]),
    st.sampled_from([1, 1, 6]),
    st.sampled_from([None, Rate(2), Rate(6)]),
)
# (seconds of rest, calls that come at once, and how long after each other)
BOUTS = st.lists(
    st.tuples(
        st.sampled_from([0, 0.3, 0.9, 1.6, 4]), st.integers(1, 18), st.sampled_from([0, 0.2])
    ),
    min_size=1,
    max_size=3,
)


async def play(queue, bouts):
    """Let the calls come; return when they started."""
    starts = []
    for rest, calls, pause in bouts:
        await asyncio.sleep(rest)
        if pause:
            for _ in range(min(calls, 10)):
                starts += await released(queue, 1)
                await asyncio.sleep(pause)
        else:
            starts += await released(queue, calls)
    return starts


def highest_ceilings(rate, starts):
    """Return the highest ceilings that these starts permit: (instant, sum until then, ceiling).

    Written from what is promised, without a look at how it is done. The sum is of the units since
    the first start; each ceiling holds from the entry before it on.
    """
    top, ramp = rate.calls / rate.per, rate.ramp
    floor = top / 10 if ramp.floor is None else ramp.floor.calls / ramp.floor.per
    kept = ramp.per * (1 + STEP)  # the last `per`, and the step that it ended in
    steps = range(int((starts[-1] - starts[0]) / (STEP * ramp.per)) + 1)
    edges = {
        *starts,
        *(at + kept for at in starts),
        *(starts[0] + n * STEP * ramp.per for n in steps),
    }
    found, total, before, begun, first, last = [], 0.0, starts[0], starts[0], 0, 0
    for at in sorted(at for at in edges if at <= starts[-1]):
        while last < len(starts) and starts[last] <= at:
            # Without use for so long, it begins again. A call is use until the next may start.
            if last and starts[last] - starts[last - 1] > kept + STEP * ramp.per + 1 / floor:
                begun = starts[last]
            last += 1
        used = last - first + 1  # and the call that is still to come
        while starts[first] < at - kept - 1e-6:
            first += 1
        grown = floor * ramp.factor ** max(0, (at - begun) / ramp.per - 1)
        ceiling = min(top, grown, max(floor, ramp.factor * used / ramp.per))
        total += (at - before) * ceiling
        found.append((at, total, ceiling))
        before = at
    return found


@holds_for(RAMPED, BOUTS)
def test_ceiling_holds_in_any_period(limiter, run_virtual, rate, bouts):
    """Between any two starts, no more than the highest ceiling that the use before permits.

    The first `per` of use is at the floor, from there on it grows by the factor in each `per`, and
    it never exceeds the factor times the mean of the last `per`; the burst is scaled as it is.
    """

    async def scenario():
        return await play(limiter.queue(rate), bouts)

    starts = run_virtual(scenario)
    known = {at: (total, ceiling) for at, total, ceiling in highest_ceilings(rate, starts)}
    top = rate.calls / rate.per
    for index, first in enumerate(starts):
        highest = known[first][1]
        for number, last in enumerate(starts[index + 1 :], 2):
            highest = max(highest, known[last][1])
            permitted = max(1, rate.burst * highest / top) + known[last][0] - known[first][0]
            assert number <= permitted + 0.010 * top + 1e-3  # with `catch_up`


@holds_for(RAMPED, BOUTS)
def test_growth_from_period_to_period(limiter, run_virtual, rate, bouts):
    """Whatever the demand, a `per` has at most the factor times the `per` before, or the floor's.

    Some whole calls more: the one that is under way at each end, and what an eighth grows.
    """

    async def scenario():
        return await play(limiter.queue(rate), bouts)

    starts, ramp = run_virtual(scenario), rate.ramp
    floor = rate.calls / 10 if ramp.floor is None else ramp.floor.calls
    floor *= ramp.per * (ramp.factor - 1) / math.log(ramp.factor)  # it may begin to grow at once
    for at in starts:
        before = sum(at - ramp.per <= one < at for one in starts)
        after = sum(at <= one < at + ramp.per for one in starts)
        grown = ramp.factor ** (1 + STEP) * (before + 1)
        assert after <= max(floor, grown) + rate.burst + 1.1
