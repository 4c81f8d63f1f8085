"""Promise 11 on a shared quota: the first of those who wait in a process is not kept for long.

The histories are those of tests/properties/test_several.py, on a real server; each fault that they
have found has its instants here, too.
"""

from __future__ import annotations

import asyncio
from functools import partial

import pytest
from hypothesis import given, settings

from aioapiqueue import ApiQueue, Window
from aioapiqueue.integrations.redis import SharedSchedule
from tests.helpers import introspect
from tests.helpers.instants import now
from tests.helpers.servers import fresh_name
from tests.helpers.several import Call
from tests.helpers.shared_watch import SharedWatch
from tests.helpers.virtual_client import VirtualClient
from tests.properties.test_several import SEEDS, SIZES, Timely
from tests.shared.redis.test_histories import (
    NO_RESERVATIONS,
    agrees_with_the_crowd,
    keeps_its_promises,
    keeps_nobody_for_nothing,
    planted,
    run_virtually,
)

CLOSE = 3e-6  # seconds: an instant has been rounded up to three times


LATENCY = (0.001, 0.005)  # seconds, each way


class SharedTimely(Timely):
    """Crowds under lanes that overlap, in a process that takes nothing ahead, as a rule.

    With `latency`, its server is not reached at once, and the process has a real loop's timers.
    """

    def __init__(self, server, seed, size, ahead=0, latency=(0, 0)):
        super().__init__(seed, size, None)
        self.server = server
        self.ahead, self.latency = ahead, latency
        self.catch_up = 0.01 if any(latency) else 0

    async def play(self):
        """Return which promises are broken."""
        rng = self.rng
        self.server.sync().script_load(introspect.redis_script()[0])  # as at other times
        client = VirtualClient(self.server, latency=self.latency, seed=self.size)
        options = {"catch_up": self.catch_up, "lanes": self.named}
        options["schedule"] = SharedSchedule(client, fresh_name(), ahead=self.ahead)
        async with ApiQueue(*self.own, **options) as queue:
            if any(self.latency):
                introspect.expect_late_timers(queue)
            options = {"late": self.catch_up, "grace": 0.01, "timely": True}
            options["undisturbed"] = not any(self.latency)
            self.watch = watch = SharedWatch([queue], self.own, self.named, **options)
            watch.timing += self.ahead  # slots that others have by then are used before
            for who in range(3 * self.size):
                await asyncio.sleep(rng.random() / 16)
                keys, cost = rng.choice(self.sets), {"calls": rng.choice([1, self.most])}
                # Slots that are leased ahead stay with their scopes, urgent as another may be.
                priority = rng.choice([0] * 9 + [-1]) if not self.ahead else 0
                watch.join(Call(who, keys, cost, priority))
            await watch.all_ended()
        return watch.faults


def starts_the_first_in_time(server, seed, size, **options):
    """Play a history."""
    faults = run_virtually(SharedTimely(server, seed, size, **options).play())
    assert not faults, faults


# A test for each length, so that each is quick.
each_length = pytest.mark.parametrize("size", [4, 8, 12, 16])


@each_length
@settings(max_examples=10, derandomize=True)
@given(SEEDS)
def test_promise_11_nobody_starves(valkey, size, seed):
    """The first of all who wait in a process starts within the bound, whatever comes after it.

    It is that of a queue alone, but for what the server rounds: each instant is a whole
    microsecond. No call overtakes one of an earlier rank whose limits are all among its own (3).
    """
    starts_the_first_in_time(valkey, seed, size)


@pytest.mark.slow
@pytest.mark.parametrize(
    "play",
    [
        agrees_with_the_crowd,
        keeps_its_promises,
        keeps_nobody_for_nothing,
        starts_the_first_in_time,
        partial(starts_the_first_in_time, ahead=0.2),
        partial(starts_the_first_in_time, ahead=0.2, latency=LATENCY),
    ],
)
def test_on_other_histories(valkey, play):
    """As in the default run, on histories that are longer, and other ones each time."""

    @settings(max_examples=400, derandomize=False)
    @given(SEEDS, SIZES)
    def on(seed, size):
        play(valkey, seed, size)

    on()


@each_length
@settings(max_examples=10, derandomize=True)
@given(SEEDS)
def test_first_in_time_with_slots_ahead(valkey, size, seed):
    """So it does, but for the slots that others have by then, which are taken `ahead`."""
    starts_the_first_in_time(valkey, seed, size, ahead=0.2)


@each_length
@settings(max_examples=10, derandomize=True)
@given(SEEDS)
def test_first_in_time_from_afar(valkey, size, seed):
    """So it does where the server is some milliseconds away."""
    starts_the_first_in_time(valkey, seed, size, ahead=0.2, latency=LATENCY)


@pytest.mark.parametrize(
    ("seed", "size", "ahead"),
    [
        (3052, 40, 0),  # a further call of one that is asked for goes before one who is not
        (2093, 35, 0.2),  # as a request is looked at again, one is kept away by one behind it
        (2097, 39, 0.2),  # as above
    ],
)
def test_first_in_time_as_once_failed(valkey, seed, size, ahead):
    """So it does in longer histories that have found a fault."""
    starts_the_first_in_time(valkey, seed, size, ahead=ahead)


def test_histories_need_reservations(valkey):
    """Without reservations, somebody starts too late within 60 histories."""
    with planted(NO_RESERVATIONS), pytest.raises(AssertionError, match="promise 11"):
        for seed in range(60):
            starts_the_first_in_time(valkey, seed, 40)


# What the histories have found.


class Starts:
    """Makes calls of a queue of its own; notes when each started.

    Args:
        server: where the quota is.
        lanes: of the queue.
        limits: of the queue.
    """

    def __init__(self, server, lanes, *limits):
        schedule = SharedSchedule(VirtualClient(server), fresh_name(), ahead=0)
        self.queue = ApiQueue(*limits, lanes=lanes, catch_up=0, schedule=schedule)
        self.at = {}
        self.tasks = []

    async def join(self, who, keys, **options):
        """Let a call come: its lanes are the letters of `keys`."""

        async def call():
            async with self.queue.slot(keys=tuple(keys), **options):
                self.at[who] = now()

        self.tasks.append(asyncio.create_task(call()))
        await asyncio.sleep(0)

    async def end(self):
        """Return who started when, once all have."""
        await asyncio.gather(*self.tasks)
        await self.queue.aclose()
        return {who: pytest.approx(at, abs=CLOSE) for who, at in self.at.items()}


async def test_lines_keep_their_turn(valkey):
    """A call of two lanes keeps its place at one until it has room, though the other is slower.

    It went over to the other as soon as that had been used; so it had no turn, reserved nothing,
    and others used the first.
    """
    starts = Starts(valkey, {"a": "2/s", "b": "1/s"})
    await starts.join("a1", "a")
    await asyncio.sleep(0.1)
    await starts.join("both", "ab")
    await starts.join("a2", "a")
    await starts.join("a3", "a")
    await asyncio.sleep(0.1)
    await starts.join("b1", "b")
    await asyncio.sleep(0.1)
    await starts.join("b2", "b")
    assert await starts.end() == {
        "a1": 0, "b1": 0.2, "a2": 0.5, "both": 1.2, "a3": 1.7, "b2": 2.2,
    }  # fmt: skip


async def test_nobody_earlier_is_kept_away(valkey):
    """What a call has reserved is no matter to one before it in its process.

    Each waited for the other, until the reservation had lapsed.
    """
    starts = Starts(valkey, {"a": "10/s", "b": "2/s"})
    await starts.join("b1", "b")
    await asyncio.sleep(0.05)
    await starts.join("a1", "a")
    await starts.join("both", "ab")
    for number in range(2, 8):
        await starts.join(f"a{number}", "a")
    await asyncio.sleep(0.47)
    await starts.join("urgent", "a", priority=-1)
    assert await starts.end() == {
        "b1": 0, "a1": 0.05, "a2": 0.15, "a3": 0.25, "a4": 0.35, "a5": 0.45, "urgent": 0.55,
        "both": 0.65, "a6": 0.75, "a7": 0.85,
    }  # fmt: skip


async def test_calls_have_ranks_of_their_own(valkey):
    """Of calls that are asked for together, some may be before one that has reserved, and some not.

    The urgent one starts at once, and delays what has reserved by what it costs. The other waits.
    """
    starts = Starts(valkey, {"a": "10/s burst 3", "b": "2/s burst 3"})
    await starts.join("b1", "b", cost=3)
    await asyncio.sleep(0.01)
    await starts.join("both", "ab", cost=3)
    await asyncio.sleep(1.44)
    await starts.join("a1", "a", cost=3)
    await asyncio.sleep(0.1)
    await starts.join("a2", "a")
    await asyncio.sleep(0.11)
    await starts.join("urgent", "a", priority=-1)
    assert await starts.end() == {
        "b1": 0, "a1": 1.45, "urgent": 1.66, "both": 1.85, "a2": 1.95,
    }  # fmt: skip


async def test_those_before_are_all_seen(valkey):
    """Who is asked for early goes before nobody, however many calls are between the two.

    The last one to come asked for itself, one before it, and one before that, but not for the
    first: the second started on what that one waited for.
    """
    starts = Starts(valkey, {"b": "10/s burst 3", "c": "100/s", "d": "100/s", "e": "1/s"})
    await starts.join("e1", "e")
    await starts.join("b3", "b", cost=3)
    await asyncio.sleep(0.01)
    await starts.join("first", "b", cost=3)
    await starts.join("second", "bc")
    await starts.join("third", "cde")
    await asyncio.sleep(0.19)
    await starts.join("last", "d")
    assert await starts.end() == {
        "e1": 0, "b3": 0, "last": 0.2, "first": 0.3, "second": 0.4, "third": 1.0,
    }  # fmt: skip


async def test_further_calls_overtake_nobody(valkey):
    """A scope is asked for by its first call; those behind a neighbour that is not, are not either.

    The second call of both lanes had a slot with the first, though one waited between them.
    """
    starts = Starts(valkey, {"a": "10/s burst 3", "b": Window(2, 0.2)})
    await starts.join("a1", "a", cost=3)
    await starts.join("b1", "b", cost=2)
    await asyncio.sleep(0.01)
    await starts.join("first", "ab")
    await starts.join("between", "a", cost=3)
    await starts.join("second", "ab")
    assert await starts.end() == {
        "a1": 0, "b1": 0, "first": 0.2, "between": 0.4, "second": 0.5,
    }  # fmt: skip


async def test_lines_stand_behind_earlier_ones(valkey):
    """A call waits where one before it does, and not where one behind it does.

    It was to ask again when that one was due.
    """
    starts = Starts(valkey, {"b": "10/s", "c": "5/s"})
    await starts.join("b1", "b")
    await starts.join("c1", "c")
    await asyncio.sleep(0.01)
    await starts.join("b2", "b")
    await starts.join("both", "bc")
    await starts.join("c3", "c", cost=3)
    assert await starts.end() == {"b1": 0, "c1": 0, "b2": 0.1, "both": 0.2, "c3": 0.8}
