"""A process that starts hundreds of calls per second on a server's quota starts them in groups."""

from __future__ import annotations

import asyncio

import pytest

from aioapiqueue import ApiQueue
from aioapiqueue.integrations.redis import SharedSchedule
from tests.helpers import introspect
from tests.helpers.members import between, fleet, together
from tests.helpers.virtual_client import VirtualClient
from tests.helpers.workers import fullest


@pytest.fixture
def quota(valkey, name):
    """Return a function that makes queues of one quota."""
    return lambda *limits, **options: ApiQueue(
        *limits, schedule=SharedSchedule(VirtualClient(valkey), name), **options
    )


def call_of(queue, starts):
    """Return a function that makes a call, and notes when it starts."""

    async def call(**options):
        async with queue.slot(**options):
            starts.append(round(asyncio.get_running_loop().time(), 6))

    return call


async def starts_of(queue, number, **options):
    """Return when each of so many calls starts, which are made at once."""
    starts = []
    call = call_of(queue, starts)
    await asyncio.gather(*(call(**options) for _ in range(number)))
    return starts


def noting(looks):
    """Return a wrapper of a queue's looks that notes when they happen."""
    return lambda look: lambda now, **how: looks.append(now) or look(now, **how)


async def test_fast_calls_start_in_groups(quota):
    """A group starts 5 ms after the one before, with all calls that are due by then."""
    starts = await starts_of(quota("1000/s"), 15)
    # At 9 ms, it looks because the next slots must be requested by then.
    assert starts == pytest.approx([0, 0.001, *[0.006] * 5, *[0.009] * 3, *[0.014] * 5])


async def test_slow_calls_start_when_due(quota):
    """Up to 200 calls per second, each one starts at its own instant."""
    starts = await starts_of(quota("200/s"), 5)
    assert starts == pytest.approx([0, 0.005, 0.010, 0.015, 0.020])


@pytest.mark.parametrize(
    ("catch_up", "expected"),
    [
        (0, [0, 0.001, 0.002, 0.003]),
        (0.004, [0, 0.001, 0.003, 0.003]),
        (3, [0, 0.001, 0.006, 0.006]),
    ],
)
async def test_groups_are_within_catch_up(quota, catch_up, expected):
    """Groups are closer together if `catch_up` is small; with 0, no call starts late."""
    assert await starts_of(quota("1000/s", catch_up=catch_up), 4) == pytest.approx(expected)


@pytest.mark.parametrize("limits", [["1000 in any 1s", "1000/s"], ["1000/s", "500 at once"]])
async def test_windows_and_permits_lose_no_time(quota, limits):
    """Beside a window or a number of permits, which make up for nothing, calls start when due."""
    starts = await starts_of(quota(*limits), 8)
    assert starts == pytest.approx([n / 1000 for n in range(8)], abs=2e-6)


async def test_lane_with_window_beside_rate(quota):
    """Calls of a lane with a window start when they are due, beside groups of another lane."""
    starts = {"window": [], "rate": []}
    queue = quota(lanes={"window": "3 in any 6ms", "rate": "1000/s"})
    await asyncio.gather(
        *(call_of(queue, starts[key])(key=key) for _ in range(9) for key in starts)
    )
    assert starts["window"] == pytest.approx([*[0] * 3, *[0.006] * 3, *[0.012] * 3])
    assert len(set(starts["rate"])) < 9


async def test_lanes_join_one_group(quota):
    """Once each of several lanes has started calls, they all start them at the same instants."""
    starts = []
    queue = quota("1000/s", lanes={"*": "500/s burst 20"})
    call = call_of(queue, starts)
    await asyncio.gather(*(call(key=key) for _ in range(7) for key in "abc"))
    assert starts[:12] == pytest.approx([0, 0.001, 0.002, 0.003, *[0.006] * 3, *[0.011] * 5])


async def test_urgent_call_waits_for_no_group(quota):
    """A call that goes before those that wait starts when it is due itself."""
    starts, urgent = [], []
    queue = quota("1000/s")
    call = call_of(queue, starts)
    tasks = [asyncio.create_task(call()) for _ in range(10)]
    await asyncio.sleep(0.0015)
    await call_of(queue, urgent)(priority=-1)
    assert urgent == pytest.approx([0.002])
    await asyncio.gather(*tasks)


@pytest.mark.parametrize("key", [None, "lane"])
@pytest.mark.parametrize("ends", [0.003, 0.006, 0.0095, 0.011])
async def test_timeout_ends_in_no_group(quota, key, ends):
    """Of calls with a timeout, as many start as are due by then."""
    starts, queue = [], quota("1000/s", lanes={"lane": "1000/s"})
    call = call_of(queue, starts)
    others = [asyncio.create_task(call(key=key)) for _ in range(3)]
    await asyncio.sleep(0)
    calls = [call(key=key, timeout=ends) for _ in range(20)]
    ended = await asyncio.gather(*calls, return_exceptions=True)
    due = int(ends * 1000 + 1e-9)
    assert ended.count(None) == due - 2
    assert starts[-1] == pytest.approx(due / 1000)
    await asyncio.gather(*others)


@pytest.mark.parametrize("key", [None, "lane"])
@pytest.mark.parametrize("within", [0.002, 0.0045, 0.0065])
async def test_timeout_beside_a_group(valkey, name, key, within):
    """A call that joins calls of a group, with a timeout, starts when it is due."""
    client, starts, others = VirtualClient(valkey), [], []
    schedule = SharedSchedule(client, name)
    queue = ApiQueue("1000/s", lanes={"lane": "2000/s"}, schedule=schedule)
    call = call_of(queue, others)
    tasks = [asyncio.create_task(call(key=key, priority=number // 3)) for number in range(13)]
    await asyncio.sleep(0.0015)
    client.latency = (0.02, 0.02)  # no reply has the calls looked at again
    await call_of(queue, starts)(key=key, timeout=within)
    assert starts == pytest.approx([0.003])
    await asyncio.gather(*tasks)
    assert len(others) == 13


async def test_newcomer_takes_no_due_slot(quota):
    """A call that is the first of its line does not start before those that wait for a group."""
    starts, queue = [], quota("1000/s", order="fair")

    async def call(key):
        async with queue.slot(key=key):
            starts.append((key, round(asyncio.get_running_loop().time(), 6)))

    tasks = [asyncio.create_task(call(key)) for key in "abcde"]
    await asyncio.sleep(0.0035)
    await call("new")
    await asyncio.gather(*tasks)
    late = [("c", 0.0035), ("d", 0.0035)]
    assert starts == [("a", 0), ("b", 0.001), *late, ("e", 0.004), ("new", 0.009)]


@pytest.mark.parametrize("rate", [1000, 20_000])
async def test_ticker_wakes_once_for_a_group(quota, rate):
    """Callers that call again at once, behind others, cause no look of their own."""
    queue, looks, loop = quota(f"{rate}/s"), [], asyncio.get_running_loop()
    introspect.wrap_looks(queue, noting(looks))
    starts = []
    call = call_of(queue, starts)

    async def caller():
        while loop.time() < 0.5:
            await call()

    await asyncio.gather(*(caller() for _ in range(rate // 4)))
    assert len(starts) == pytest.approx(rate * 0.5 + rate // 4, rel=0.02)
    # A reply causes up to three more: at once, for the next call that is due, and for its group.
    assert len(looks) <= 205 * loop.time() + 3 * queue.stats.asks


@pytest.mark.parametrize(
    ("late", "expected"),
    [
        (0.005, [1, 1.001, 1.002, *[1.007] * 5]),  # at 1.002 s, it requests slots
        (0.0075, [1, 1.001, 1.002, *[1.0055] * 3, *[1.0085] * 2]),
        (0.020, [1 + n / 1000 for n in range(8)]),
    ],
)
async def test_late_loop_starts_smaller_groups(quota, late, expected):
    """What a loop is usually late is left of the time until a lease ends."""
    queue = quota("1000/s")
    await starts_of(queue, 1)
    introspect.expect_late_timers(queue, late)
    await asyncio.sleep(1)
    assert await starts_of(queue, 8) == pytest.approx(expected)


async def test_groups_make_no_window_longer(quota):
    """The server counts windows as longer by the lateness of a loop, not by that of its groups."""
    windows, others = [], []
    queue = quota(lanes={"window": "3 in any 100ms", "rate": "1000/s"})
    await asyncio.gather(
        *(call_of(queue, windows)(key="window") for _ in range(30)),
        *(call_of(queue, others)(key="rate") for _ in range(1000)),
    )
    assert len(set(others)) < 300
    assert windows == pytest.approx([n // 3 / 10 for n in range(30)], abs=2e-5)


async def test_fleet_of_groups_keeps_the_rate(valkey, name):
    """Processes whose clocks are uncertain, and that are late, lose no slot by groups."""
    async with fleet(8, valkey, name, "1000/s", client={"latency": (0.0002, 0.002)}) as members:
        for one in members:
            await starts_of(one.queue, 1)
            introspect.expect_late_timers(one.queue)
            one.call(100)
        await asyncio.sleep(3.1)
        starts = together(*members)
        assert between(starts, 1, 3) == pytest.approx(2000, abs=6)
        assert fullest(starts, 1.0) <= 1 + 1010


async def test_last_lease_before_fallback(valkey, name):
    """After the last lease, which was used in a group, calls start at the fallback rate."""
    client, starts = VirtualClient(valkey), []
    schedule = SharedSchedule(client, name, fallback="500/s")
    async with ApiQueue("1000/s", schedule=schedule) as queue:
        call = call_of(queue, starts)
        tasks = [asyncio.create_task(call()) for _ in range(300)]
        await asyncio.sleep(0.05)
        client.down = True
        await asyncio.gather(*tasks)
    assert starts[99] == pytest.approx(0.101)
    assert starts[-50:] == pytest.approx([starts[-50] + n * 0.002 for n in range(50)])


async def test_look_that_starts_none_plans_no_group(quota):
    """Where a look at a scope starts none of its calls, something else has changed there."""
    queue = quota("199/s")
    calls = [queue.enqueue() for _ in range(4)]
    await asyncio.sleep(0.008)
    urgent = queue.enqueue(priority=-1)
    introspect.release_due(queue, planned=0.008)  # before that of the task, which is exact
    await urgent
    assert asyncio.get_running_loop().time() == pytest.approx(2 / 199, abs=2e-6)
    await asyncio.gather(*calls)


async def test_window_of_late_loop_has_no_groups(quota):
    """After a stall, slots of a window may be used later, but no call waits for a group."""
    loop, queue = asyncio.get_running_loop(), quota("1000 in any 1s", "1000/s")
    loop.call_at(0.0105, loop.stall, 0.03)
    await starts_of(queue, 14)
    await asyncio.sleep(2)
    starts = await starts_of(queue, 10)
    assert starts == pytest.approx([starts[0] + n / 1000 for n in range(10)], abs=2e-6)


async def test_missed_slot_ends_groups(quota):
    """A loop that has missed slots needs the time itself: for a second, calls start when due."""
    loop, queue = asyncio.get_running_loop(), quota("1000/s")
    loop.call_at(0.0105, loop.stall, 0.03)
    starts = await starts_of(queue, 1500)
    exact = [at for at in starts if 0.06 < at < 1]
    assert exact == pytest.approx([exact[0] + n / 1000 for n in range(len(exact))], abs=2e-6)
    assert len({at for at in starts if at > 1.1}) < 100


async def test_lost_group_was_late_by_the_stall(quota):
    """Where a stall loses a group, the wait for it does not count as lateness."""
    loop, windows = asyncio.get_running_loop(), []
    queue = quota(lanes={"window": "3 in any 100ms", "rate": "1000/s"})
    loop.call_at(0.0055, loop.stall, 0.008)
    assert max(await starts_of(queue, 4, key="rate")) > 0.013
    await asyncio.gather(*(call_of(queue, windows)(key="window") for _ in range(4)))
    assert 0.1 < windows[3] - windows[0] < 0.1 + 2 * (0.0135 - 0.006)
