"""While the server of a quota is away, or has forgotten it: how much is let through, and when."""

import asyncio

import pytest

from aioapiqueue import ApiQueue, Rate, SlotTimeout
from aioapiqueue.integrations.redis import SharedSchedule
from tests.helpers.members import Member, between, fleet, together
from tests.helpers.servers import keys_of
from tests.helpers.virtual_client import VirtualClient
from tests.helpers.workers import fullest

AHEAD = 0.2
CATCH_UP = 0.010
BACKOFF = 2.0  # seconds between two attempts, at most


def forget(server, name):
    """Let the server lose all that it knows of a quota, as if it had been restarted."""
    server.sync().delete(*keys_of(server, name))


async def test_outage_uses_only_held_leases(valkey, name):
    """While it is away only the leases at hand are used.

    No more than `ahead` seconds of slots; afterwards nothing is made up for.
    """
    async with fleet(2, valkey, name, "100/s") as members:
        for one in members:
            one.call()
        await asyncio.sleep(2)
        for one in members:
            one.client.down = True
        await asyncio.sleep(5)
        for one in members:
            one.client.down = False
        await asyncio.sleep(5)
        instants = together(*members)
        assert between(instants, 2, 2 + AHEAD + CATCH_UP) <= AHEAD * 100 + 1
        assert between(instants, 2 + AHEAD + CATCH_UP, 7) == 0
        assert between(instants, 7 + BACKOFF, 12) >= 99 * (5 - BACKOFF)
        assert fullest(instants, 1.0) <= 101
        for one in members:
            assert one.queue.stats.fault == ""
            (disconnected,) = one.instants("disconnected")
            (reconnected,) = one.instants("reconnected")
            assert 2 <= disconnected <= 2 + AHEAD
            assert 7 <= reconnected <= 7 + BACKOFF


@pytest.mark.parametrize("burst", [1, 50])
async def test_forgetful_server_allows_one_burst(valkey, name, burst):
    """A server that forgets lets a burst and what was leased through.

    That much more than the limit, each time.
    """
    rate, times = 100, 5
    async with fleet(2, valkey, name, Rate(rate, burst=burst)) as members:
        for one in members:
            one.call(200)
        for number in range(1, times + 1):
            await asyncio.sleep(number * 2 - asyncio.get_running_loop().time())
            forget(valkey, name)
        await asyncio.sleep(2)
        instants = together(*members)
        for number in range(1, times + 1):
            begin, end = number * 2 - 1, number * 2 + 1
            extra = burst + AHEAD * rate
            limit = burst + (end - begin + CATCH_UP) * rate
            assert (end - begin) * rate * 0.9 <= between(instants, begin, end) <= limit + extra
        for one in members:
            assert one.queue.stats.faults == 0


async def test_forgetful_server_gets_limits_again(valkey, name):
    """A server that forgets gets the limits that were set again.

    By a process that knows them, for those that come later.
    """
    async with fleet(2, valkey, name, "10/s") as (one, other):
        one.call()
        other.call()
        await asyncio.sleep(1)
        one.queue.set_rate("50/s")
        await asyncio.sleep(2)
        forget(valkey, name)
        await asyncio.sleep(2)
        late = Member(valkey, name, "10/s")
        late.call()
        await asyncio.sleep(1)
        assert late.queue.limits == (Rate(50),)
        await asyncio.sleep(2)
        assert between(together(one, other, late), 6, 8) == pytest.approx(100, abs=3)
        await late.stop()
        await late.queue.aclose(drain=False)


async def test_forgetful_server_uses_the_latest_limits(valkey, name):
    """A server that forgets uses what was set last, in any order of arrival.

    One who has not heard of it yet tells an older rate: it holds until a newer one is told.
    """
    async with fleet(2, valkey, name, "10/s") as (one, other):
        one.queue.set_rate("20/s")
        for member in (one, other):
            (await member.queue.enqueue()).release()
        assert other.queue.limits == (Rate(20),)
        one.queue.set_rate("5/s")
        (await one.queue.enqueue()).release()
        await asyncio.sleep(1)
        forget(valkey, name)
        (await other.queue.enqueue()).release()
        assert other.queue.limits == (Rate(20),)
        one.call()
        other.call()
        await asyncio.sleep(2)
        assert one.queue.limits == other.queue.limits == (Rate(5),)
        now = asyncio.get_running_loop().time()
        await asyncio.sleep(4)
        assert between(together(one, other), now, now + 4) == pytest.approx(20, abs=1)


async def test_limits_agree_after_a_restart(valkey, name):
    """A server that forgets agrees with both who set a rate before and after.

    Each was the first to set one, as far as the server knew; the later one holds for both.
    """
    async with fleet(2, valkey, name, "10/s") as (one, other):
        one.queue.set_rate("20/s")
        (await one.queue.enqueue()).release()
        await asyncio.sleep(1)
        forget(valkey, name)
        other.queue.set_rate("5/s")
        (await other.queue.enqueue()).release()
        one.call()
        other.call()
        await asyncio.sleep(2)
        assert one.queue.limits == other.queue.limits == (Rate(5),)


async def test_forgetful_server_gets_permits_again(valkey, name):
    """A server that forgets learns which permits are in use.

    When their holder renews them, at the latest.
    """
    lease = 3.0
    async with fleet(2, valkey, name, concurrency=4, schedule={"lease": lease}) as (one, other):
        one.call(4, body=1000)
        await asyncio.sleep(5.5)
        forget(valkey, name)
        await asyncio.sleep(lease / 3)
        other.call(4, body=1000)
        await asyncio.sleep(10)
        assert (one.queue.running, other.queue.running) == (4, 0)


@pytest.mark.parametrize("steps", [[-30], [30], [-3600, 7200, -1]])
async def test_the_servers_clock_may_be_set(valkey, name, steps):
    """Back or forth: nobody waits for it, and nobody has more but for the leases at hand."""
    async with fleet(2, valkey, name, "50/s") as members:
        for one in members:
            one.call()
        await asyncio.sleep(2)
        for step in steps:
            for one in members:
                one.client.skew += step
            await asyncio.sleep(3)
        instants = together(*members)
        seconds = 2 + 3 * len(steps)
        # Set forth: what is leased comes on top of what is free by then.
        forth = AHEAD * sum(step > 0 for step in steps)
        assert fullest(instants, 1.0) <= 1 + (1 + CATCH_UP + forth) * 50
        assert between(instants, 0, seconds) >= 50 * (seconds - AHEAD * len(steps)) - 2
        assert all(one.queue.stats.faults == 0 for one in members)


async def test_fallback_holds_during_the_outage_only(valkey, name):
    """The fallback rate holds while the server is away and no longer.

    It is that of each queue; then the shared one holds again.
    """
    async with fleet(2, valkey, name, "50/s", schedule={"fallback": "5/s"}) as members:
        for one in members:
            one.call()
        await asyncio.sleep(2)
        for one in members:
            one.client.down = True
        await asyncio.sleep(10)
        for one in members:
            one.client.down = False
        await asyncio.sleep(6)
        for one in members:
            assert one.released(3, 12) == pytest.approx(45, abs=1)
            assert fullest([at for at in one.instants() if 3 <= at < 12], 1.0) <= 6
            assert one.queue.stats.fault == ""
            assert len(one.instants("disconnected")) == len(one.instants("reconnected")) == 1
        instants = together(*members)
        assert between(instants, 12 + BACKOFF, 18) == pytest.approx(50 * 4, abs=4)
        assert fullest([at for at in instants if at >= 12 + BACKOFF], 1.0) <= 51


async def test_fallback_holds_from_the_start(valkey, name):
    """The fallback rate holds from the start.

    Where the server has never answered.
    """
    schedule = {"fallback": "5/s"}
    async with fleet(1, valkey, name, "50/s", "80/s", schedule=schedule) as (one,):
        one.client.down = True
        one.call()
        await asyncio.sleep(4.05)
        assert one.released(0, 4) == pytest.approx(20, abs=1)
        assert one.queue.stats.fault.startswith("ConnectionError")
        one.client.down = False


async def test_fallback_holds_over_many_outages(valkey, name):
    """The fallback rate holds however often the server is lost.

    A connection that breaks again and again has no first call for free each time.
    """
    async with fleet(1, valkey, name, "1/min", schedule={"fallback": "1/min"}) as (one,):
        one.call()
        await asyncio.sleep(1)
        for _ in range(100):
            one.client.down = not one.client.down
            await asyncio.sleep(0.3)
        assert one.queue.stats.faults >= 10
        assert len(one.instants("disconnected")) >= 10
        assert one.released(1, 31) <= 1


@pytest.mark.parametrize("key", [None, "lane"])
@pytest.mark.parametrize("say", ["pause", "hold", "throttled"])
@pytest.mark.parametrize("before", [False, True])
async def test_fallback_keeps_pauses_and_holds(valkey, name, before, say, key):
    """Pauses and push back hold under the fallback rate.

    In any process, before or meanwhile: it is the other side that is to be spared.
    """
    says = {
        "pause": lambda queue: queue.pause(4),
        "hold": lambda queue: queue.hold(4, key=key),
        "throttled": lambda queue: queue.throttled(4, key=key),
    }
    options = {"schedule": {"fallback": "20/s"}, "lanes": {"lane": "50/s"}}
    async with fleet(2, valkey, name, "80/s", **options) as (one, other):
        other.call(key=key)
        await asyncio.sleep(1)
        if not before:
            other.client.down = True
            await asyncio.sleep(1)
        said = asyncio.get_running_loop().time()
        says[say](one.queue if before else other.queue)
        if before:
            await asyncio.sleep(1)
            other.client.down = True
        await asyncio.sleep(said + 7 - asyncio.get_running_loop().time())
        assert other.released(said + before + 1e-6, said + 4) == 0
        assert other.released(said + 4, said + 7) == pytest.approx(60, abs=3)
        other.client.down = False


@pytest.mark.parametrize("before", [False, True])
async def test_resume_ends_pause_under_fallback(valkey, name, before):
    """A pause is ended by resume under the fallback rate.

    Although the server cannot be reached; whether it knew of the pause or not.
    """
    async with fleet(1, valkey, name, "80/s", schedule={"fallback": "20/s"}) as (one,):
        one.queue.pause()
        if before:
            await asyncio.sleep(1)
        one.client.down = True
        one.call()
        await asyncio.sleep(3 - asyncio.get_running_loop().time())
        assert one.released(0, 3) == 0
        one.queue.resume()
        await asyncio.sleep(3)
        assert one.released(3, 6) == pytest.approx(60, abs=3)
        one.client.down = False


async def test_fallback_outlives_changed_limits(valkey, name, collect):
    """A lane's limits change as the fallback lets a caller go: no step fails."""
    errors, client = [], VirtualClient(valkey)
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    schedule = SharedSchedule(client, name, fallback="100/s")
    async with ApiQueue("100/s", lanes={"a": "50/s"}, schedule=schedule) as queue:
        client.down = True
        (await queue.enqueue(key="a")).release()
        await asyncio.sleep(0.1)
        calls = [queue.enqueue(key="a", cost=cost) for cost in (1, 2)]
        queue.set_rate("20/s", key="a")
        for call in calls:
            (await call).release()
        client.down = False
    collect()  # so that what no task has heard of is reported
    assert not errors


async def test_fallback_keeps_concurrency(valkey, name):
    """Concurrency is kept under the fallback rate.

    As many as each queue may have alone.
    """
    options = {"concurrency": 3, "schedule": {"fallback": "100/s"}}
    async with fleet(2, valkey, name, **options) as members:
        for one in members:
            one.call(body=0.5)
            one.client.down = True
        for _ in range(100):
            await asyncio.sleep(0.05)
            assert all(one.queue.running <= 3 for one in members)
        assert all(one.released(0, 5) == pytest.approx(30, abs=3) for one in members)


async def test_attempts_back_off_to_seconds(valkey, name):
    """It is asked again after seconds at most and not all the time.

    With jitter: two queues do not go on asking at the same instants.
    """
    async with fleet(2, valkey, name, "50/s") as members:
        for one in members:
            one.client.down = True
            one.call()
        await asyncio.sleep(100)
        for one in members:
            assert 100 / BACKOFF <= one.queue.stats.faults <= 100 / (BACKOFF / 2) + 10
            assert one.queue.stats.faults == one.queue.stats.asks == one.client.calls
            assert len(one.instants("disconnected")) == 1
        assert abs(members[0].client.calls - members[1].client.calls) <= 30
        assert members[0].queue.stats.fault == "ConnectionError: down"


async def test_callers_may_leave_during_an_outage(valkey, name):
    """A waiter may leave while the server is away.

    By a time-out, a cancellation or the end of the queue, each in its time.
    """
    async with fleet(1, valkey, name, "50/s") as (one,):
        one.client.silent = True
        with pytest.raises(SlotTimeout):
            async with one.queue.slot(timeout=3):
                pass
        assert asyncio.get_running_loop().time() == 3
        one.call(5)
        await asyncio.sleep(1)
        await one.stop()
        assert one.queue.waiting == 0
        one.queue.enqueue()
        began = asyncio.get_running_loop().time()
        await one.queue.aclose(drain=False)
        assert asyncio.get_running_loop().time() - began <= 1.0


async def test_outbox_is_sent_after_the_outage(valkey, name):
    """What users changed while it was away is sent afterwards.

    A rate, a pause: the others hear of it late, but hear of it.
    """
    async with fleet(2, valkey, name, "50/s") as (one, other):
        other.call()
        await asyncio.sleep(1)
        one.client.down = True
        one.queue.set_rate("10/s")
        await asyncio.sleep(5)
        assert other.released(5, 6) == pytest.approx(50, abs=1)
        one.client.down = False
        await asyncio.sleep(BACKOFF + 4)
        assert other.queue.limits == (Rate(10),)
        assert other.released(10, 12) == pytest.approx(20, abs=1)


async def test_outbox_is_sent_without_waiters(valkey, name):
    """What users change between two attempts is sent although nobody waits.

    The next attempt is for that, then.
    """
    async with fleet(2, valkey, name, "50/s") as (one, other):
        other.call()
        async with one.queue.slot():
            one.client.down = True
            for _ in range(3):
                waiting = one.queue.enqueue()
                await asyncio.sleep(1)
                waiting.cancel()
            assert one.queue.stats.fault
            one.client.down = False
            one.queue.pause()
        await asyncio.sleep(BACKOFF + 1.5)
        now = asyncio.get_running_loop().time()
        await asyncio.sleep(2)
        assert other.released(now, now + 2) == 0
        one.queue.resume()


LOST = (
    "the server of a shared quota cannot be reached (ConnectionError: down); calls of the {queue} "
    "{then} until the server can be reached (1 waiting, 0 running)"
)


class Watches:
    """An observer of disconnections."""

    def __init__(self):
        self.seen = []

    def on_event(self, event):
        """Keep its kind."""
        self.seen.append(event.kind)


@pytest.mark.parametrize("observed", [False, True])
async def test_lost_server_is_logged(valkey, name, caplog, observed):
    """Once, with why and what follows, unless an observer is informed; and the queue shows it."""
    client, watches = VirtualClient(valkey), Watches()
    client.down = True
    observers = [watches] if observed else []
    queue = ApiQueue("10/s", schedule=SharedSchedule(client, name), observers=observers)
    waiting = queue.enqueue()
    await asyncio.sleep(10)
    assert f"open, disconnected ({queue.stats.fault}), 1 waiting" in repr(queue)
    line = LOST.format(queue="queue (10/s)", then="wait")
    assert [record.getMessage() for record in caplog.records] == [line] * (not observed)
    assert watches.seen.count("disconnected") == observed
    client.down = False
    with await waiting:
        assert "disconnected" not in repr(queue)


async def test_fallback_is_logged(valkey, name, caplog):
    """A queue with a fallback says that its calls continue, and how fast."""
    client = VirtualClient(valkey)
    client.down = True
    schedule = SharedSchedule(client, name, fallback="1/min")
    async with ApiQueue("10/s", name="crm", schedule=schedule) as queue, queue.slot():
        await asyncio.sleep(10)
    then = "continue at the fallback rate of 1/min"
    (record,) = caplog.records
    assert record.getMessage() == LOST.format(queue="queue 'crm' (10/s)", then=then)


async def test_one_stall_is_not_always_late(valkey, name):
    """Slots that came too late in one stall do not let those of the next be used as late."""
    client = VirtualClient(valkey, latency=(0.0001, 0.0001))
    queue = ApiQueue("1000/s", schedule=SharedSchedule(client, name))
    loop, starts = asyncio.get_running_loop(), []

    async def call():
        async with queue.slot():
            starts.append(loop.time())

    calls = [asyncio.create_task(call()) for _ in range(2000)]
    await asyncio.sleep(0.5)
    loop.stall(0.25)
    await asyncio.sleep(0.0005)  # it has asked for more, and used none
    loop.stall(0.25)
    await asyncio.sleep(1)
    assert fullest(starts, 0.1) <= (0.1 + CATCH_UP) * 1000 + 1
    for one in calls:
        one.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
