"""The arithmetic of gcra.lua, asked directly on a real server, beside the local schedule's."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aioapiqueue import Rate, Window
from aioapiqueue.spi import algorithms, cost_units, lane_states
from tests.helpers.script import SECOND, Script


def test_of_10000_slots_none_drifts(each_server):
    """At 7 per 3 s the n-th slot is where one multiplication puts it, to the microsecond."""
    script = Script(each_server, [Rate(7, 3)], ahead=60 * SECOND)
    slots = []
    while len(slots) < 10_000:
        now = max(0, slots[-1] - script.ahead // 2) if slots else 0
        slots += script.ask(now, count=1000)
    for n, slot in enumerate(slots):
        assert 0 <= slot - n * 3e6 / 7 < 1, n


def test_huge_window_is_counted_exactly(valkey):
    """A huge window has no whole call too many.

    Whatever sums of fractions may be off by.
    """
    script = Script(valkey, [Window(10**12, 10)])
    assert script.ask(0, cost=10**12) == [0]
    assert script.ask(0) == []
    assert script.position == 10 * SECOND


RATES = st.builds(
    Rate, st.sampled_from([1, 7, 30, 1000]), st.sampled_from([1.0, 3.0]), st.sampled_from([1, 2, 5])
)
WINDOWS = st.builds(Window, st.sampled_from([4, 7]), st.sampled_from([0.5, 1.0, 3.0]))
LIMITS = [
    st.tuples(RATES),
    st.tuples(WINDOWS),
    st.tuples(RATES, WINDOWS),
    st.tuples(RATES, RATES),
    st.tuples(WINDOWS, WINDOWS),
    st.tuples(RATES, WINDOWS, RATES),
]


VERBS = st.lists(
    st.sampled_from(["ask", "ask", "ask", "ask", "run", "adjust", "hold", "set"]), max_size=25
)
PAUSES = st.one_of(st.just(0), st.integers(1, 3 * SECOND), st.integers(1, 20_000))
COSTS = st.sampled_from([1, 1, 2, 0.5, 4])


@st.composite
def histories(draw, *, any_kinds=False):
    """Return limits, and what happens: after how many microseconds, and with how much of it."""
    limits = draw(st.sampled_from(LIMITS))
    first = draw(limits)
    others = st.one_of(LIMITS if any_kinds else [limits, st.permutations(first).map(tuple)])
    return first, [
        (verb, draw(PAUSES), draw(COSTS), draw(others) if verb == "set" else first)
        for verb in draw(VERBS)
    ]


class Local:
    """The local states of these limits, which count in microseconds, too."""

    def __init__(self, limits, catch_up):
        self.maker = lane_states.StateMaker(cost_units.Units(), catch_up=max(1, catch_up))
        self.states = self.maker.states_of(list(map(self.micro, limits)))

    @staticmethod
    def micro(limit):
        """Return a limit of the same calls in as many microseconds."""
        return dataclasses.replace(limit, per=limit.per * SECOND)

    def on_idle(self, now):
        """Note a caller who comes while nobody waits."""
        for state in self.states:
            state.on_idle(now)

    def next_at(self, now, cost):
        """Return when all have room."""
        return max([-math.inf, *(state.next_at(now, (cost,)) for state in self.states)])

    def consume(self, now, cost):
        """Charge all."""
        for state in self.states:
            state.consume(now, (cost,))

    def adjust(self, now, at, charged, cost):
        """Charge more for a call, or give back: as much as leaves room for slots used late.

        A call that the server has granted may start `catch_up` after its slot, by what was owed
        as it was granted. A call here starts at its slot, and so leaves that much more.
        """
        for state in self.states:
            if isinstance(state, algorithms.TokenBucket):
                caught_up, state.catch_up = state.catch_up, state.catch_up if cost > charged else 0
                state.adjust(now, at, charged, cost)
                state.catch_up = caught_up
            else:
                state.adjust(now, at, charged, cost)

    def hold(self, until):
        """Start nothing before."""
        for state in self.states:
            state.held = max(state.held, until)

    def change(self, limits, now):
        """Replace the limits."""
        self.states = self.maker.changed(self.states, list(map(self.micro, limits)), now, {})


def kinds(limits):
    """Return how many rates, and the lengths of the windows.

    Where these stay, both take over the same. Else the server is the stricter one: it forgets no
    rate that is gone for a while, and what a window holds leaves it when it was to leave.
    """
    return sorted(limit.per if isinstance(limit, Window) else 0 for limit in limits)


def has_just_left(limits, passed, catch_up):
    """Return whether a call has left one of the windows, but not if it started `catch_up` late."""
    windows = [one for one in limits if isinstance(one, Window)]
    return any(0 <= passed - one.per * SECOND < catch_up for one in windows)


def slower(before, after):
    """Return by how much a rate may become slower."""
    rates = [
        [one.interval for one in limits if isinstance(one, Rate)] for limits in (before, after)
    ]
    return max(rates[1]) / min(rates[0]) if all(rates) else 0


def check_both(server, limits, history, *, catch_up, ahead, in_lane):  # noqa: C901 - a verb each
    """Put both through the same history: each slot is at the same microsecond.

    Once the kinds of limits have changed, the server's slots may be later, but never earlier.
    """
    own = {"lane": limits, "limits": []} if in_lane else {"limits": limits}
    script = Script(server, catch_up=catch_up, ahead=ahead, **own)
    local = Local(limits, catch_up)
    now, last, slots, rounding, may_be_later = 0, 0, [], 2.0, False

    def ask(cost, since):
        nonlocal last
        had_room_at = local.next_at(max(now, last), cost)
        if since == now:
            local.on_idle(now)
        due = max(now, last, local.next_at(max(now, last), cost))
        slot = script.slot(now, cost, waited=now - since)
        # At an instant that both round in their own way, either may be right.
        if had_room_at < now - rounding or abs(due - ahead - now) > rounding:
            assert (slot is not None) == (due <= now + ahead) or may_be_later, (slot, due)
        if slot is None:
            assert script.ask_at <= max(now + SECOND, due - ahead + rounding) or may_be_later
            return False
        assert slot >= due - rounding
        assert slot <= due + rounding or may_be_later
        local.consume(slot, cost)
        last = slot
        slots.append([slot, cost, cost])
        return True

    for verb, pause, cost, other in history:
        now += pause
        if verb == "ask":
            ask(cost, now)
        elif verb == "run":  # until there is one
            since = now
            for _ in range(5):
                if ask(cost, since):
                    break
                now = script.ask_at
            else:
                assert may_be_later, f"nothing at the time that was named: {now}"
        elif verb == "adjust" and slots:
            call = slots[-1 - int(cost) % len(slots)]
            change = cost if pause % 2 else -min(cost, call[1])
            if change > 0 and has_just_left(script.lane or script.limits, now - call[0], catch_up):
                continue  # the server counts what it costs more, in case that it started so late
            charged, call[1] = call[1], call[1] + change
            script.adjust(now, call[0], change, charged=charged, started=call[2])
            local.adjust(now, call[0], charged, call[1])
        elif verb == "hold":
            until = now + round(cost * SECOND)
            script.decide(now, hold=until)
            local.hold(until)
        elif verb == "set" and not in_lane:
            may_be_later = may_be_later or kinds(other) != kinds(script.limits)
            rounding += 0.25 * slower(script.limits, other)  # of what is owed, in calls
            script.limits = other
            script.decide(now, "set", "[]")
            script.position = 0
            local.change(other, now)
            slots = []


ANY = (Rate(1),)
"""Limits of no meaning, for all verbs but "set"."""
RAISED = [("run", 0, 2, ANY), ("set", 0, 1, (Rate(1, 1, 2), Window(7, 1))), ("ask", 0, 1, ANY)]
REORDERED = [
    ("ask", 0, 1, ANY),
    ("set", 1_100_000, 1, (Rate(1, 1, 2), Rate(1))),
    ("ask", 0, 1, ANY),
]
REPLACED = [  # by limits that come in the order of those that were reordered
    ("ask", 0, 1, ANY),
    ("adjust", 1, 4, ANY),  # 5 each, one of which recovers more slowly
    ("set", 3 * SECOND, 1, (Rate(1, 3, 2), Rate(1))),
    ("set", 0, 1, (Rate(7), Rate(30))),
    ("ask", 300_000, 1, ANY),
]
FEWER = [
    ("ask", 0, 1, ANY),
    ("adjust", 1, 4, ANY),  # 5 each, one of which recovers faster
    ("set", SECOND, 1, (Rate(1),)),
    ("run", 2 * SECOND, 1, ANY),
]


@settings(max_examples=150)
@given(histories(), st.sampled_from([0, 10_000]), st.booleans())
@example(((Rate(1), Window(4, 1)), RAISED), 0, False)  # noqa: FBT003 - drawn
@example(((Rate(1), Rate(1, 3)), REORDERED), 0, False)  # noqa: FBT003 - drawn
@example(((Rate(1), Rate(1, 3)), REPLACED), 0, False)  # noqa: FBT003 - drawn
def test_slots_match_the_local_limits(each_server, history, catch_up, in_lane):
    """Every slot is at the instant of the local schedule.

    Of any limits, costs, corrections, holds and other limits, nothing taken ahead.
    """
    check_both(each_server, *history, catch_up=catch_up, ahead=0, in_lane=in_lane)


@example(((Rate(7), Rate(1)), FEWER), 0)
@given(histories(any_kinds=True), st.sampled_from([0, 10_000]))
def test_no_slot_is_earlier_than_local(valkey, history, catch_up):
    """Whatever limits replace others, the server counts all that the local limits count."""
    check_both(valkey, *history, catch_up=catch_up, ahead=0, in_lane=False)


def test_limits_may_come_reordered(each_server):
    """Each limit keeps its own state, in whichever order a process names the limits."""
    script = Script(each_server, [Rate(10), Rate(20, 10, 20)])
    for now in range(0, 2 * SECOND, SECOND // 10):
        assert script.slot(now) == now
        script.limits.reverse()


def test_server_gives_back_what_slots_used_late_leave(each_server):
    """A call granted 3 microseconds later may start so much later: so much is not given back."""
    asks = [("ask", 0, 1, ANY)] * 2
    history = [*asks, ("adjust", 0, 1, ANY), ("ask", 3, 1, ANY), ("adjust", 0, 1, ANY), *asks]
    limits = (Rate(1, 1, 2), Rate(1, 3, 2))
    check_both(each_server, limits, history, catch_up=10_000, ahead=0, in_lane=False)


@pytest.mark.slow
@settings(max_examples=5000)
@given(histories(), st.sampled_from([0, 10_000]), st.booleans())
def test_slots_match_local_limits_at_length(valkey, history, catch_up, in_lane):
    """Every slot is at the instant of the local schedule at length.

    The same for longer.
    """
    check_both(valkey, *history, catch_up=catch_up, ahead=0, in_lane=in_lane)


@settings(max_examples=150)
@given(
    RATES,
    st.lists(
        st.tuples(
            st.one_of(st.none(), st.just(0), st.integers(1, 3 * SECOND), st.integers(1, 20_000)),
            st.integers(0, 3 * SECOND),
            st.sampled_from([0, 2_000, 10_000, 50_000]),
        ),
        max_size=25,
    ),
    st.sampled_from([0, 10_000]),
    st.sampled_from([0, 200_000]),
    st.booleans(),
)
def test_limit_holds_for_late_use(  # noqa: PLR0917 - drawn
    valkey, rate, history, catch_up, ahead, in_lane
):
    """Asked for and used as late as may be the limit holds.

    In any window, at most burst + (W + catch_up) / interval calls start, both together.
    """
    own = {"lane": [rate], "limits": []} if in_lane else {"limits": [rate]}
    script = Script(valkey, catch_up=catch_up, ahead=ahead, **own)
    now, slots, latest = 0, [], []
    for pause, waited, late in history:
        now = max(now, script.ask_at) if pause is None else now + pause
        found = script.ask(now, count=3, waited=waited, lateness=late)
        for slot, until in zip(found, script.until, strict=True):
            assert until >= slot + min(late, catch_up) - 1  # rounded
        slots, latest = slots + found, latest + script.until
    for first, last in itertools.combinations(range(len(slots)), 2):
        window = max(0, slots[last] - latest[first])
        allowed = rate.burst + (window + catch_up + 2) / (rate.interval * SECOND)
        assert last - first + 1 <= allowed + 1e-6


def test_no_refund_lets_late_calls_meet(valkey):
    """What is given back leaves room for a later call to be as late as it may.

    It has a slot that may be used `catch_up` late, and so may start together with those that the
    refund makes possible.
    """
    catch_up = SECOND // 4
    script = Script(valkey, [Rate(2, 1, 3)], catch_up=catch_up)
    first = script.slot(0)
    second = script.slot(SECOND // 4)
    latest = script.until[0]
    assert latest == 2 * catch_up
    script.adjust(SECOND // 4, first, -1, charged=1, started=1)
    together = 1 + script.ask(latest, count=5).count(latest)
    assert second < latest
    assert together <= 3 + 2 * catch_up / SECOND


def test_return_takes_back_what_a_dear_call_had_waited_for(each_server):
    """A call that cost more than the burst, and never started, leaves nobody more than there was.

    It had waited for what the burst cannot hold. Others had started since, at the same instant: so
    that wait was left to those that came next, who were one too many.
    """
    catch_up = SECOND // 4
    script = Script(each_server, [Rate(2)], catch_up=catch_up)
    now = 10 * SECOND
    dear = script.slot(now, 2, waited=now)
    assert dear == script.slot(now, 0.3, waited=now) == now
    script.adjust(now, dear, -2, charged=2, started=2, verb="return")
    assert script.slot(now, 1, waited=now) == now  # since `catch_up` ago
    assert script.slot(now, 1, waited=now) is None
    assert script.ask_at == now + (0.3 + 1) * SECOND / 2 - catch_up


@pytest.mark.parametrize("costs", [(5,), (5, 5), (5, 5, 5), (4, 6, 10), (10, 2, 2), (2, 10, 2)])
def test_returns_of_dear_calls_leave_one_call_at_most(each_server, costs):
    """Calls that cost more than the burst, and never started, might never have been.

    But for one call in all, where there are several: the instant of the one before is not known.
    """
    script = Script(each_server, [Rate(1)], ahead=100 * SECOND)
    now = 100 * SECOND
    slots = [(script.slot(now, cost, waited=now), cost) for cost in costs]
    for at, cost in reversed(slots):
        script.adjust(now, at, -cost, charged=cost, started=cost, verb="return")
    assert script.slot(now, 1, waited=now) <= now + (len(costs) > 1) * SECOND


def test_lane_makes_no_slot_twice_late(valkey):
    """A slot that a lane moves on leaves `lateness` of `catch_up` to the call that uses it."""
    script, lateness = Script(valkey, [Rate(20)], lane=[Rate(10)], catch_up=10_000), 4000
    assert script.slot(0, lateness=lateness) == 0
    moved = script.slot(95_000, lateness=lateness, waited=60_000)
    assert 99_990 <= moved <= 100_000
    assert script.until[0] >= moved + lateness
