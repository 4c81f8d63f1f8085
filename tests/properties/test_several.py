"""Calls under several limits at one instant, on random histories, against a naive model.

A history is drawn from a seed and a size, so that a failure is repeated by its two numbers.
"""

from __future__ import annotations

import asyncio
import functools
import math
import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aioapiqueue import ApiQueue, Calendar, Concurrency, Rate, Window
from aioapiqueue.testing import VirtualLoop
from tests.helpers import introspect
from tests.helpers.instants import free
from tests.helpers.several import Call, Crowd, Player, Watch

SEEDS = st.integers(0, 2**32)
SIZES = st.integers(1, 80)
SMALL = st.integers(1, 20)
"""Of the default run: who waits for whom is nearly as intricate, in a fifth of the time."""
NAMES = ["A", "B", "C", "t*"]
KEYS = ["A", "B", "C", "t1", "t2", "none"]


def run_virtually(main):
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


def some_keys(rng):
    return tuple(rng.sample(KEYS, rng.choice([0, 1, 1, 2, 2, 3]))) or ("none",)


def a_setting(rng, a_limit, a_limit_of_lanes):
    """Return the units that are counted, the queue's own limits, and those of its lanes."""
    units = rng.choice([["calls"], ["calls", "tokens"], ["calls", "tokens", "pages"]])
    own = [a_limit(rng, units) for _ in range(rng.choice([0, 1, 1, 2]))]
    named = {
        name: [a_limit_of_lanes(rng, units) for _ in range(rng.choice([1, 1, 2]))] for name in NAMES
    }
    every = [limit for limits in (own, *named.values()) for limit in limits]
    counted = {limit.unit for limit in every if not isinstance(limit, Concurrency)}
    return sorted(counted | {"calls"}), own, named


# Who has room goes, by rank.

GRAIN = 1 / 16
"""All figures are multiples of it, so that both sides reckon without rounding."""


def a_plain_limit(rng, units):
    unit = rng.choice(units)
    kind = rng.random()
    if kind < 0.6:
        return Rate(1, rng.choice([0.125, 0.25, 0.5, 1]), rng.choice([1, 1, 2, 3]), unit)
    if kind < 0.8:
        return Window(rng.choice([1, 2, 4]), rng.choice([0.5, 1, 2]), unit)
    return Concurrency(rng.choice([1, 2, 4]))


def a_script(rng, units, size):
    """Return (instant, what, argument), with calls that cost 0 or 1 of each unit."""
    script, calls = [], []
    instants = sorted(rng.choice([0, 0, 1, rng.randrange(48)]) for _ in range(size))
    for who, at in enumerate(instants):
        cost = {unit: rng.choice([0, 1, 1, 1]) for unit in units}
        call = Call(who, some_keys(rng), cost, rng.choice([0, 0, 0, -1, 1]))
        call.length = rng.randrange(12) * GRAIN
        if rng.random() < 0.1:
            call.timeout = (rng.randrange(20) + 0.5) * GRAIN
        calls.append(call)
        script.append((at * GRAIN, "join", call))
    for _ in range(rng.choice([0, 0, size // 2, size])):
        at = rng.randrange(60) * GRAIN
        what = rng.choice(["cancel", "doom", "doom", "pause", "resume"])
        argument = rng.randrange(12) * GRAIN if what == "pause" else rng.choice(calls)
        script.append((at, what, argument))
    return sorted(script, key=lambda one: one[0])


def agrees_with_the_crowd(seed, size, fault=introspect.reserve_nothing):
    """Play a history on a queue and on the model; compare who started when."""
    rng = random.Random(seed)
    units, own, named = a_setting(rng, a_plain_limit, a_plain_limit)
    crowd = Crowd(own, named, a_script(rng, units, size), GRAIN)
    expected = crowd.play()

    async def main():
        queue = ApiQueue(*own or ("unlimited",), lanes=named, catch_up=0)
        introspect.reserve_nothing(queue)
        fault(queue)
        player = Player(queue)
        return await player.play(crowd.replay), await player.left_over()

    starts, left = run_virtually(main())
    assert sorted(starts) == sorted(expected)
    assert not left, left


@given(SEEDS, SMALL)
def test_promise_10_room_goes_by_rank(seed, size):
    """With costs of 0 or 1, who starts when is exactly: all that have room, by rank."""
    agrees_with_the_crowd(seed, size)


# Whatever calls cost, and whatever is done to the queue meanwhile.


def a_limit(rng, units, bursts=(1, 1, 3, 8)):
    unit = rng.choice(units)
    kind = rng.random()
    if kind < 0.5:
        return Rate(rng.choice([1, 2, 5, 10]), rng.choice([0.5, 1.0]), rng.choice(bursts), unit)
    if kind < 0.75:
        return Window(rng.choice([6, 9, 20]), rng.choice([0.5, 1.0, 3.0]), unit)
    if kind < 0.85:
        return Calendar(rng.choice([20, 50]), "hour", unit=unit)
    return Concurrency(rng.choice([1, 2, 4]))


class History:
    """Lets anything happen to a queue. `play` returns what its promises forbid and it did."""

    ACTIONS = (*["join"] * 12, "cancel", "doom", "settle", "set_rate", "pause", "hold", "stall")
    limit = limit_of_lanes = staticmethod(a_limit)

    def __init__(self, seed, size, fault):
        self.rng = rng = random.Random(seed)
        self.size = size
        self.fault = fault
        self.gives_back = rng.random() < 0.7
        self.units, self.own, self.named = a_setting(rng, self.limit, self.limit_of_lanes)
        self.order = rng.choice(["fifo", "fifo", "fifo", "fair"])
        self.catch_up = rng.choice([0, 0.01, 0.25])

    async def play(self):
        rng = self.rng
        await asyncio.sleep(rng.choice([0, 3599]))  # in the latter, the hour ends
        options = {"lanes": self.named, "catch_up": self.catch_up, "order": self.order}
        self.queue = ApiQueue(*self.own or ("unlimited",), **options)
        self.fault(self.queue)
        fifo = self.order == "fifo"
        self.watch = Watch(self.queue, self.own, self.named, catch_up=self.catch_up, fifo=fifo)
        for who in range(self.size):
            await asyncio.sleep(rng.choice([0, 0, 0, 0.01, rng.random() / 2]))
            getattr(self, rng.choice(self.ACTIONS))(who)
            await self.settled()
        await self.watch.all_ended()
        return self.watch.faults

    async def settled(self):
        pass

    def cost(self):
        return {unit: self.rng.choice([0, 0.3, 1, 1, 1, 2, 4.5, 6]) for unit in self.units}

    def join(self, who):
        rng = self.rng
        call = Call(who, some_keys(rng), self.cost(), rng.choice([0, 0, 0, -1, 1]))
        call.length = rng.choice([0, 0, 0.1, rng.random()])
        call.timeout = rng.choice([None, None, None, rng.random()])
        times = rng.choice([0, 0, 1, 2]) * self.gives_back
        self.watch.join(call, [(rng.random() / 2, self.cost()) for _ in range(times)])

    def cancel(self, _):
        if self.watch.waiting:
            self.watch.cancel(self.rng.choice(list(self.watch.waiting.values())))

    def doom(self, _):
        if self.watch.waiting and self.gives_back:
            self.rng.choice(list(self.watch.waiting.values())).doomed = True

    def settle(self, _):
        ran = [who for who in self.watch.charged if self.watch.ends.get(who) == "ran"]
        if ran and self.gives_back:
            self.watch.settle_now(self.rng.choice(ran), self.cost())

    def set_rate(self, _):
        limits = [self.limit(self.rng, self.units) for _ in range(self.rng.choice([1, 1, 2]))]
        self.watch.replace(self.rng.choice([None, *NAMES, "t1"]), limits)

    def pause(self, _):
        self.queue.pause(self.rng.random() / 2)
        if self.rng.random() < 0.3:
            self.queue.resume()

    def hold(self, _):
        self.watch.hold(self.rng.choice([None, *KEYS[:5]]), self.rng.random() / 2)

    def stall(self, _):
        asyncio.get_running_loop().stall(self.rng.random() / 2)


def no_fault(queue):
    pass


def keeps_its_promises(seed, size, fault=no_fault):
    faults = run_virtually(History(seed, size, fault).play())
    assert not faults, faults


@settings(max_examples=5 * settings.default.max_examples)
@given(SEEDS, SMALL)
def test_promises_1_3_4_5_whatever_happens(seed, size):
    """No limit breaks in any window, nobody is overtaken within nested limits, all end once."""
    keeps_its_promises(seed, size)


@given(SEEDS, SMALL)
@example(41, 33)
@example(196, 51)
@example(679, 51)
@example(305287655, 52)
def test_promises_1_3_4_5_while_sorting(seed, size):
    """The same where it takes many steps to sort who waits, once limits have changed."""
    with pytest.MonkeyPatch.context() as patch:
        introspect.take_small_steps(patch)
        keeps_its_promises(seed, size)


def test_promise_1_refund_of_a_dear_call():
    """Three calls start at one instant. The first, above the burst, is given back; two count."""
    keeps_its_promises(579, 55)


@pytest.mark.parametrize("costs", [(6, 2, 1, 1, 1), (6, 1, 1, 1, 1, 1)])
def test_dear_call_that_is_cancelled_at_once(costs):
    """After a stall, calls of these costs start at once, and the 6 are given back.

    That leaves room for two more at most within `catch_up`, as if the first had never come.
    """

    async def main():
        queue = ApiQueue("20/s", catch_up=0.25)
        loop, tasks = asyncio.get_running_loop(), []

        async def call(cost):
            async with queue.slot(cost=cost):
                pass

        queue.try_slot().release()
        tasks += [loop.create_task(call(cost)) for cost in costs]
        await asyncio.sleep(0)
        introspect.after_grants(queue, lambda *_: tasks[0].cancel())
        loop.stall(0.8)
        await asyncio.wait(tasks)
        assert [task.cancelled() for task in tasks] == [True, *(len(costs) - 1) * [False]]
        return free(queue)

    assert run_virtually(main()) <= 2


class Settling(History):
    """One token bucket with a burst, and calls whose true cost turns out to be less, or more."""

    ACTIONS = (*["join"] * 4, "settle")

    def __init__(self, seed, size, fault):
        super().__init__(seed, size, fault)
        self.gives_back = True
        self.units = ["calls"]
        self.burst = self.rng.choice([1, 6, 9])
        self.own = [Rate(self.rng.choice([1, 4]), 1, self.burst)]
        self.named = {}

    def cost(self):
        most = self.burst if self.rng.random() < 0.5 else math.inf
        return {"calls": min(super().cost()["calls"], most)}


def gives_back_within_the_limit(seed, size, fault=no_fault):
    faults = run_virtually(Settling(seed, size, fault).play())
    assert not faults, faults


@settings(max_examples=3 * settings.default.max_examples)
@given(SEEDS, SMALL)
def test_promise_1_give_back_keeps_bursts(seed, size):
    """What is given back never lets a limit break in a window, by the costs known at each start."""
    gives_back_within_the_limit(seed, size)


class Busy(History):
    """Nothing but calls that come and go, under limits that they share."""

    ACTIONS = (*["join"] * 6, "cancel", "cancel", "doom")
    limit = limit_of_lanes = staticmethod(functools.partial(a_limit, bursts=(6, 8, 20)))

    def __init__(self, seed, size, fault):
        super().__init__(seed, size, fault)
        self.gives_back = False
        self.order, self.catch_up = "fifo", 0

    async def settled(self):
        for _ in range(8 + 2 * self.queue.waiting):
            await asyncio.sleep(0)
        self.watch.check_waiting()


def keeps_nobody_for_nothing(seed, size, fault=introspect.reserve_nothing):
    faults = run_virtually(Busy(seed, size, fault).play())
    assert not faults, faults


@given(SEEDS, SMALL)
def test_promise_5_nobody_waits_for_nothing(seed, size):
    """One of a waiter's limits has no room for it, or for one of an earlier rank."""
    keeps_nobody_for_nothing(seed, size)


# Nobody starves.


class Timely(History):
    """Crowds under lanes that overlap, with nothing that may delay the first of them."""

    def __init__(self, seed, size, fault):
        super().__init__(seed, size, fault)
        rng = self.rng
        self.most = rng.choice([1, 1, 3])
        self.own = rng.choice([[], [], [Rate(25)], [Rate(25), Window(9, 0.5)]])
        self.named = {name: [self.a_timely_limit()] for name in "ABCD"}
        self.units = ["calls"]
        self.order, self.catch_up = "fifo", 0
        self.sets = [tuple(rng.sample("ABCD", rng.choice([1, 1, 2, 3]))) for _ in range(6)]

    def a_timely_limit(self):
        rng = self.rng
        if rng.random() < 0.3:
            return Window(self.most * rng.choice([1, 2, 4]), rng.choice([0.2, 0.5]))
        return Rate(rng.choice([3, 7, 10, 20]), 1.0, rng.choice([1, 1, 3]))

    async def play(self):
        rng = self.rng
        queue = ApiQueue(*self.own or ("unlimited",), lanes=self.named, catch_up=0)
        self.fault(queue)
        self.watch = watch = Watch(queue, self.own, self.named, catch_up=0, timely=True)
        for who in range(3 * self.size):
            await asyncio.sleep(rng.random() / 16)
            keys, cost = rng.choice(self.sets), {"calls": rng.choice([1, self.most])}
            call = Call(who, keys, cost, rng.choice([0] * 9 + [-1]))
            watch.join(call)
        await watch.all_ended()
        return watch.faults


def starts_the_first_in_time(seed, size, fault=no_fault):
    faults = run_virtually(Timely(seed, size, fault).play())
    assert not faults, faults


@given(SEEDS, SMALL)
def test_promise_11_nobody_starves(seed, size):
    """The first of all who wait starts within the bound, whatever comes after it."""
    starts_the_first_in_time(seed, size)


@pytest.mark.slow
@pytest.mark.parametrize(
    "play",
    [
        agrees_with_the_crowd,
        keeps_its_promises,
        gives_back_within_the_limit,
        keeps_nobody_for_nothing,
        starts_the_first_in_time,
    ],
)
def test_on_longer_histories(play):
    """As in the default run, on histories of up to four times as many calls."""

    @settings(max_examples=500)
    @given(SEEDS, SIZES)
    def on(seed, size):
        play(seed, size)

    on()


# Each fault is told from the queue as it is.


@pytest.mark.parametrize(
    ("holds", "fault"),
    [
        (agrees_with_the_crowd, introspect.charge_one_limit_only),
        (keeps_its_promises, introspect.charge_one_limit_only),
        (agrees_with_the_crowd, introspect.charge_twice_on_regrant),
        (agrees_with_the_crowd, introspect.forget_refund_of_last_unit),
        (starts_the_first_in_time, introspect.overtake_reservations),
        (starts_the_first_in_time, introspect.reserve_nothing),
        (gives_back_within_the_limit, introspect.forget_who_met_full_buckets),
    ],
)
def test_a_fault_is_caught(holds, fault):
    """Each of six broken queues breaks what holds for the others, within 300 histories."""
    with pytest.raises(AssertionError):
        for seed in range(300):
            holds(seed, 60, fault)
