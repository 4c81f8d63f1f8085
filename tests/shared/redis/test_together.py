"""What one queue of a quota does is heard by the others: two of them, in virtual time."""

import asyncio
import math

import pytest

from aioapiqueue import Adaptive, Rate, Window
from aioapiqueue.spi import algorithms
from tests.helpers.members import Member, between, fleet, together
from tests.helpers.servers import keys_of
from tests.helpers.workers import fullest

HEARD = 1.0  # seconds within which what one says acts on all
AHEAD = 0.2
CATCH_UP = 0.010


@pytest.mark.parametrize(("rate", "seconds"), [(10, 20), (1000, 4)])
async def test_queues_share_the_rate_equally(valkey, name, rate, seconds):
    """None of it is lost, whatever the number of callers in each."""
    async with fleet(3, valkey, name, f"{rate}/s") as members:
        for member, callers in zip(members, [rate, 2 * rate, rate // 2], strict=True):
            member.call(callers)
        late = algorithms.QUANTUM if rate > 200 else 0  # of calls that start in groups
        await asyncio.sleep(seconds + late)
        instants = together(*members)
        most = seconds * rate + 1
        assert between(instants, 0, seconds) <= most
        assert seconds * rate <= between(instants, 0, seconds + late) <= most + late * rate
        assert fullest(instants, 1.0) <= rate + 1 + late * rate
        for member in members:
            assert member.released(0, seconds) == pytest.approx(seconds * rate / 3, rel=0.2)


async def test_idle_queue_leaves_the_rate(valkey, name):
    """A queue that has no callers leaves the rate to the others.

    From one second to the next, and gets its share again as soon as it has some.
    """
    async with fleet(2, valkey, name, "100/s") as (one, other):
        one.call()
        other.call()
        await asyncio.sleep(5)
        await other.stop()
        await asyncio.sleep(5)
        assert one.released(7, 10) == pytest.approx(300, abs=3)
        other.call()
        await asyncio.sleep(5)
        for member in (one, other):
            assert member.released(12, 15) == pytest.approx(150, rel=0.1)
        assert between(together(one, other), 0, 15) >= 0.99 * 1500


async def test_cancelled_slots_go_elsewhere(valkey, name):
    """What cancelled callers leave goes to the other queue.

    Slots that were leased ahead for them are given back, or lost: no more than those.
    """
    async with fleet(2, valkey, name, "100/s") as (one, other):
        one.call()
        await asyncio.sleep(2.005)
        await one.stop()
        other.call()
        await asyncio.sleep(2)
        assert between(together(one, other), 0, 4) >= 400 - AHEAD * 100


@pytest.mark.parametrize(("before", "after"), [("10/s", "50/s"), ("50/s", "10/s")])
async def test_set_rate_holds_in_other_queues(valkey, name, before, after):
    """A rate set in one queue holds in the other.

    Within a second, and for queues that join later with the old one.
    """
    async with fleet(2, valkey, name, before) as (one, other):
        one.call()
        other.call()
        await asyncio.sleep(5)
        one.queue.set_rate(after)
        await asyncio.sleep(7)
        assert other.queue.limits == one.queue.limits == (Rate.parse(after),)
        leased, rate = AHEAD * Rate.parse(before).calls, Rate.parse(after).calls
        instants = together(one, other)
        assert between(instants, 5, 12) <= 1 + leased + 7 * rate
        # at the latest, when the leased ones have been made up for
        assert between(instants, 9, 12) == pytest.approx(3 * rate, abs=2)
        late = Member(valkey, name, before)
        late.call()
        await asyncio.sleep(3)
        assert late.queue.limits == one.queue.limits
        assert between(together(one, other, late), 12, 15) == pytest.approx(3 * rate, abs=2)
        assert late.released(12, 15) > 0
        await late.stop()
        await late.queue.aclose(drain=False)


async def test_set_lane_holds_in_other_queues(valkey, name):
    """A lane set in one queue holds in the other.

    Where it had no limits of its own before.
    """
    async with fleet(2, valkey, name, "100/s") as (one, other):
        for member in (one, other):
            member.call(20, key="slow")
            member.call(20, key="quick")
        await asyncio.sleep(3)
        one.queue.set_rate("5/s", key="slow")
        await asyncio.sleep(7)
        slow = together(one, other, key="slow")
        assert fullest([at for at in slow if at >= 3 + HEARD], 1.0) <= 6
        assert between(slow, 3 + HEARD, 9 + HEARD) >= 27
        assert between(together(one, other), 3 + HEARD, 9 + HEARD) == pytest.approx(600, abs=6)


async def test_too_small_rate_refuses_waiter_elsewhere(valkey, name):
    """A rate that is too small for a waiter elsewhere is refused to it.

    As where it is set: a window holds no call that is larger than itself.
    """
    async with fleet(2, valkey, name, Window(10, 1)) as (one, other):
        held = await other.queue.enqueue(cost=10)
        large = other.queue.enqueue(cost=8)
        await asyncio.sleep(0.2)
        one.queue.set_rate(Window(5, 1))
        with pytest.raises(ValueError, match="8"):
            await large
        held.release()
        assert asyncio.get_running_loop().time() <= 0.2 + HEARD


async def test_pause_holds_the_other_queue(valkey, name):
    """A pause in one queue holds the other until it ends.

    What was leased may still be used; then nothing, until somebody else says `resume`.
    """
    async with fleet(2, valkey, name, "100/s") as (one, other):
        one.call()
        other.call()
        await asyncio.sleep(3)
        one.queue.pause()
        await asyncio.sleep(7)
        assert one.released(3.01, 10) == 0
        assert other.released(3 + AHEAD + CATCH_UP, 10) == 0
        assert other.queue.estimate() == math.inf
        other.queue.resume()
        await asyncio.sleep(5)
        instants = together(one, other)
        assert between(instants, 10 + HEARD, 14 + HEARD) == pytest.approx(400, abs=4)
        assert fullest(instants, 1.0) <= 101
        for member in (one, other):
            assert member.released(10, 10 + HEARD + AHEAD) > 0


@pytest.mark.parametrize("key", [None, "lane"])
@pytest.mark.parametrize("say", ["pause", "hold", "throttled", "set_rate"])
async def test_own_changes_hold_at_once(valkey, name, say, key):
    """What users change here holds at once, whatever is under way.

    Slots in an answer to what was asked before are given back, not used.
    """
    says = {
        "pause": lambda queue: queue.pause(),
        "hold": lambda queue: queue.hold(0.6, key=key),
        "throttled": lambda queue: queue.throttled(0.6, key=key),
        "set_rate": lambda queue: queue.set_rate("0.1/s", key=key),
    }
    options = {"client": {"latency": (0.02, 0.02)}, "lanes": {"lane": "300/s"}}
    async with fleet(1, valkey, name, "300/s", **options) as (one,):
        one.call(100, key=key)
        for number in range(6):
            await asyncio.sleep(0.5 + 0.037 * number)
            says[say](one.queue)
            begin = asyncio.get_running_loop().time()
            await asyncio.sleep(0.5)
            # one call: its slot may be due at once where the limits are others
            assert one.released(begin + 1e-6, begin + 0.5) <= (say == "set_rate")
            one.queue.resume()
            if say == "set_rate":
                one.queue.set_rate("300/s", key=key)
            await asyncio.sleep(0.5)
            assert one.released(begin + 0.7, begin + 1) > 30


async def test_timed_pause_ends_for_all(valkey, name):
    """A pause for a while ends by itself for all.

    A shorter one does not shorten it.
    """
    async with fleet(2, valkey, name, "10/s") as (one, other):
        one.call()
        other.call()
        await asyncio.sleep(1)
        one.queue.pause(5)
        other.queue.pause(2)
        await asyncio.sleep(9)
        instants = together(one, other)
        assert between(instants, 1 + AHEAD + CATCH_UP, 6) == 0
        assert between(instants, 6, 10) == pytest.approx(40, abs=1)


@pytest.mark.parametrize("key", [None, "lane"])
async def test_push_back_holds_other_queues(valkey, name, key):
    """Push back in one queue holds the other.

    And only the lane that it is about, where that has limits of its own.
    """
    async with fleet(2, valkey, name, "20/s", lanes={"lane": "10/s"}) as (one, other):
        for member in (one, other):
            member.call(key="lane")
            member.call(key="else")
        await asyncio.sleep(2)
        one.queue.throttled(retry_after=4, key=key)
        await asyncio.sleep(6)
        instants = {each: together(one, other, key=each) for each in ("lane", "else")}
        assert between(instants["lane"], 2 + AHEAD + CATCH_UP, 6) == 0
        assert between(instants["lane"], 6, 6 + HEARD) > 0
        if key is None:
            assert between(instants["else"], 2 + AHEAD + CATCH_UP, 6) == 0
        else:
            assert between(instants["else"], 2 + HEARD, 6) == pytest.approx(60, abs=2)


async def test_hold_holds_other_queues(valkey, name):
    """A hold in one queue holds the other.

    As push-back does, though nothing is counted as such.
    """
    async with fleet(2, valkey, name, "20/s", adaptive=Adaptive()) as (one, other):
        for member in (one, other):
            member.call()
        await asyncio.sleep(2)
        one.queue.hold(4)
        await asyncio.sleep(6)
        assert between(together(one, other), 2 + AHEAD + CATCH_UP, 6) == 0
        assert between(together(one, other), 6, 8) == pytest.approx(40, abs=2)
        assert (one.queue.stats.throttled, one.queue.stats.rate) == (0, math.inf)


async def test_settled_cost_is_paid_by_all(valkey, name):
    """A cost settled in one queue is paid by all.

    What a call has cost in the end is missing from what is left for the others.
    """
    async with fleet(2, valkey, name, Rate(10, burst=10)) as (one, other):
        slot = await one.queue.enqueue()
        slot.settle(41)
        slot.release()
        await asyncio.sleep(0.1)
        other.call()
        await asyncio.sleep(10.9)
        assert other.released(0, 11) == pytest.approx(10 + 110 - 41, abs=2)


async def test_simultaneous_limits_agree_in_the_end(valkey, name):
    """Two processes that set limits at once agree in the end.

    On one of both where it is about the same; on both where it is not.
    """
    async with fleet(2, valkey, name, "10/s") as (one, other):
        one.call(key="lane")
        other.call(key="lane")
        await asyncio.sleep(2)
        one.queue.set_rate("20/s")
        other.queue.set_rate("40/s")
        one.queue.set_rate("5/s", key="one's")
        other.queue.set_rate("6/s", key="lane")
        await asyncio.sleep(3)
        assert one.queue.limits == other.queue.limits
        assert one.queue.limits in {(Rate(20),), (Rate(40),)}
        assert between(together(one, other), 4, 5) <= 7
        for member in (one, other):
            member.call(key="one's")
        await asyncio.sleep(4)
        assert between(together(one, other, key="one's"), 5, 9) == pytest.approx(20, abs=2)


async def test_push_back_slows_all_queues(valkey, name):
    """Adaptive slows all queues on the push back of one.

    Once for each round, and all see the rate that is left.
    """
    options = {"adaptive": Adaptive(backoff=0.5, recovery=1000)}
    async with fleet(2, valkey, name, "100/s", **options) as (one, other):
        one.call()
        other.call()
        await asyncio.sleep(2)
        one.queue.throttled()
        await asyncio.sleep(3)
        assert one.queue.stats.backed_off == 1
        assert one.queue.stats.rate == pytest.approx(50, rel=0.1)
        assert other.queue.stats.rate == pytest.approx(one.queue.stats.rate, rel=0.05)
        left = one.queue.stats.rate
        assert between(together(one, other), 2 + HEARD, 4 + HEARD) == pytest.approx(
            2 * left, rel=0.1
        )
        slot = await other.queue.enqueue()
        one.queue.throttled()
        await asyncio.sleep(0.5)
        slot.throttled()  # of a call that was let through before the last slow-down
        slot.release()
        await asyncio.sleep(1)
        assert (one.queue.stats.backed_off, other.queue.stats.backed_off) == (2, 0)


async def test_window_and_lane_hold_together(valkey, name):
    """A window and a lane hold for all queues together.

    At every instant.
    """
    limits = [Window(30, 1), "50/s"]
    lanes = {"lane": [Window(5, 1)]}
    async with fleet(2, valkey, name, *limits, lanes=lanes) as (one, other):
        for member in (one, other):
            member.call(key="lane")
            member.call(key="else")
        await asyncio.sleep(10)
        instants = together(one, other)
        assert fullest(instants, 1.0) <= 30
        assert between(instants, 0, 10) >= 290
        lane = together(one, other, key="lane")
        assert fullest(lane, 1.0) <= 5
        assert between(lane, 0, 10) >= 45


# Places.


def running(*members):
    """Return how many bodies run in all of them."""
    return sum(member.queue.running for member in members)


async def watch(seconds, *members):
    """Return how many bodies ran at once in each and together, at most, in steps of 10 ms."""
    most, each = 0, [0] * len(members)
    for _ in range(round(seconds * 100)):
        await asyncio.sleep(0.01)
        most = max(most, running(*members))
        each = [max(old, one.queue.running) for old, one in zip(each, members, strict=True)]
    return most, each


async def test_places_are_shared_by_all_queues(valkey, name):
    """Never more bodies than places; all of them used; half of them each."""
    async with fleet(2, valkey, name, concurrency=6) as (one, other):
        one.call(20, body=0.3)
        other.call(20, body=0.3)
        await asyncio.sleep(2)
        most, each = await watch(8, one, other)
        assert most == 6
        assert max(each) <= 4
        for member in (one, other):
            assert member.released(2, 10) == pytest.approx(80, rel=0.25)


async def test_permits_outlive_the_lease_when_renewed(valkey, name):
    """Permits of a process that lives are kept for longer than the lease.

    They are renewed, even where there is nothing else to say.
    """
    options = {"schedule": {"lease": 3.0}, "concurrency": 4}
    async with fleet(2, valkey, name, **options) as (one, other):
        one.call(2, body=60)
        await asyncio.sleep(1)
        other.call(10, body=0.1)
        assert await watch(20, one, other) == (4, [2, 2])


@pytest.mark.parametrize("word", ["down", "silent"])
async def test_silent_process_loses_its_permits(valkey, name, word):
    """Permits of a process that has gone silent are free after the lease.

    And not before; nobody else loses any.
    """
    lease = 6.0
    options = {"schedule": {"lease": lease}, "concurrency": 4}
    async with fleet(2, valkey, name, **options) as (one, other):
        one.call(3, body=1000)
        await asyncio.sleep(1)
        other.call(10, body=0.1)
        await asyncio.sleep(10)
        setattr(one.client, word, True)
        assert await watch(lease * 2 / 3 - 0.1, other) == (1, [1])
        await asyncio.sleep(lease / 3 + 0.2)
        assert other.queue.running == 4
        assert await one.stop() == []
        setattr(one.client, word, False)


async def test_shorter_leases_elsewhere_free_nothing(valkey, name):
    """Permits are kept beside a process that asks for shorter leases.

    The key that has them lives as long as the longest of them, in real time.
    """
    options = {"concurrency": 4, "client": {"outlive": False}}
    patient, hasty = (
        Member(valkey, name, schedule={"lease": lease}, **options) for lease in (30.0, 0.2)
    )
    held = [await patient.queue.enqueue() for _ in range(2)]
    (await hasty.queue.enqueue()).release()
    await asyncio.sleep(0)
    left = keys_of(valkey, name)[f"{{aioapiqueue:{name}}}:places"]
    assert left == pytest.approx(30 + 2, abs=5)
    for slot in held:
        slot.release()
    for member in (patient, hasty):
        await member.queue.aclose()


async def test_late_return_gets_free_permits_only(valkey, name):
    """A process that comes back too late has no more permits than are free.

    Its bodies ran on: until they end, there are too many of them, but none is added.
    """
    options = {"schedule": {"lease": 3.0}, "concurrency": 4}
    async with fleet(2, valkey, name, **options) as (one, other):
        one.call(2, body=12)
        other.call(10, body=0.1)
        await asyncio.sleep(1)
        one.client.down = True
        await asyncio.sleep(4)
        assert await watch(2, one, other) == (6, [2, 4])
        one.client.down = False
        await asyncio.sleep(3)
        assert await watch(1, one, other) == (4, [2, 2])
        most, _ = await watch(10, one, other)
        assert most == 4


async def test_leaving_frees_permits_at_once(valkey, name):
    """A process that leaves in good order leaves its permits at once.

    Within the tenth of a second in which others look.
    """
    async with fleet(2, valkey, name, concurrency=4) as (one, other):
        one.call(4, body=1000)
        await asyncio.sleep(1)
        other.call(10, body=0.1)
        await asyncio.sleep(2)
        assert other.queue.running == 0
        assert await one.stop() == []
        await one.queue.aclose()
        await asyncio.sleep(0.2)
        assert other.queue.running == 4


async def test_freed_permit_is_not_forgotten(valkey, name):
    """A permit that is free while something else is sent is not forgotten.

    What is under way to the server knows nothing of it yet.
    """
    options = {"concurrency": 2, "client": {"latency": (0.02, 0.02)}}
    async with fleet(2, valkey, name, **options) as (one, other):
        first, second = [await one.queue.enqueue() for _ in range(2)]
        first.release()
        await asyncio.sleep(0.01)
        second.release()
        await asyncio.sleep(0.2)
        other.call(2, body=1000)
        await asyncio.sleep(0.5)
        assert other.queue.running == 2


@pytest.mark.parametrize("ended", ["before", "after"])
async def test_permits_are_freed_without_waiters(valkey, name, ended):
    """Permits are free although the caller that waited for one has left.

    There is no next request that could say it.
    """
    async with fleet(2, valkey, name, concurrency=2) as (one, other):
        slots = [await one.queue.enqueue() for _ in range(2)]
        waiting = one.queue.enqueue()
        await asyncio.sleep(1)
        if ended == "before":
            one.client.latency = (0.05, 0.05)
            await asyncio.sleep(0.2)
            slots.pop().release()
        waiting.cancel()
        await asyncio.sleep(1)
        for slot in slots:
            slot.release()
        await asyncio.sleep(1)
        other.call(2, body=1000)
        await asyncio.sleep(0.5)
        assert other.queue.running == 2


async def test_all_keys_expire(valkey, name):
    """Whatever is used: rates, windows, lanes, places, push-back, pauses, limits that were set."""
    options = {
        "lanes": {"lane": ["5/s", Window(20, 10)], "*": "20/s"},
        "concurrency": 5,
        "adaptive": Adaptive(),
    }
    async with fleet(2, valkey, name, "50/s", Window(100, 5), **options) as (one, other):
        for member in (one, other):
            for key in ("lane", "else", None):
                member.call(10, key=key, body=0.05)
        await asyncio.sleep(2)
        one.queue.throttled(retry_after=0.5, key="lane")
        one.queue.set_rate("40/s")
        other.queue.pause()
        await asyncio.sleep(1)
        one.queue.resume()
        await asyncio.sleep(2)
        left = keys_of(valkey, name)
        assert len(left) >= 7
        assert None not in left.values()


@pytest.mark.parametrize("say", ["throttled", "hold", "pause", "settle", "set_rate", "cost"])
async def test_all_keys_expire_with_any_option(valkey, name, say):
    """All keys expire whatever figure is given.

    Also the largest that there is; it wedges nobody but those whom it holds.
    """
    async with fleet(2, valkey, name, "50/s") as (one, other):
        slot = await one.queue.enqueue()
        await asyncio.sleep(1)
        valkey.sync().delete(*keys_of(valkey, name))  # as after an idle while
        says = {
            "throttled": lambda: slot.throttled(1e9),
            "hold": lambda: one.queue.hold(1e9),
            "pause": lambda: one.queue.pause(1e9),
            "settle": lambda: slot.settle(1e15),
            "set_rate": lambda: one.queue.set_rate(Rate(1, per=1e9)),
            "cost": lambda: one.queue.enqueue(cost=1e15),
        }
        said = says[say]()
        await asyncio.sleep(0.5)
        waiting = [member.queue.enqueue() for member in (one, other)]
        await asyncio.sleep(3)
        for member in (one, other):
            assert member.queue.stats.faults == 0
            assert member.queue.stats.asks < 30
        left = keys_of(valkey, name)
        assert left
        assert None not in left.values()
        for turn in (*waiting, said):
            if turn is not None:
                turn.cancel()
