from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aioapiqueue import Calendar, Concurrency, Rate, Window
from aioapiqueue.spi import algorithms, lane_states, windows
from tests.helpers.states import States, maker


def pace(calls, per=1.0, burst=1, catch_up=0.0):
    """Make the schedule of one rate."""
    return States([Rate(calls, per, burst)], catch_up=catch_up)


def run(schedule, *, start, calls, cost=1.0):
    """Start each call the moment it is due; return the instants."""
    starts, now = [], start
    for _ in range(calls):
        now = max(now, schedule.next_at(now, cost))
        schedule.consume(now, cost)
        starts.append(now)
    return starts


def most_in(starts, per):
    """Return how many of `starts` lie in the fullest half-open stretch of `per` seconds."""
    return max(sum(one <= other < one + per for other in starts) for one in starts)


def test_second_call_after_one_interval():
    """The first call of a pace is due at once and the next after the interval.

    A new pace owes nothing, one that has let a call through owes an interval.
    """
    schedule = pace(10)
    assert schedule.next_at(5.0, 1) <= 5.0
    schedule.on_idle(5.0)
    schedule.consume(5.0, 1)
    assert schedule.next_at(5.0, 1) == 5.1


def test_nth_call_without_running_sum():
    """The nth call is due at the start plus n intervals without a running sum.

    10,000 calls at 7 in 3 s: the last is where one multiplication puts it.
    """
    schedule = pace(7, 3)
    schedule.on_idle(1.0)
    for n, start in enumerate(run(schedule, start=1.0, calls=10_000)):
        assert start == pytest.approx(1.0 + n * 3 / 7, abs=1e-9)


def test_burst_then_the_interval():
    """A burst starts at once then at the interval.

    GCRA: `burst` calls after a rest, then one per interval.
    """
    schedule = pace(10, burst=3)
    schedule.on_idle(2.0)
    assert run(schedule, start=2.0, calls=5) == pytest.approx([2, 2, 2, 2.1, 2.2], abs=1e-9)


def test_burst_refills_by_interval():
    """A burst refills by one per interval.

    After half a rest, half a burst is there.
    """
    schedule = pace(10, burst=4)
    schedule.on_idle(0.0)
    run(schedule, start=0.0, calls=4)
    schedule.on_idle(0.2)
    assert run(schedule, start=0.2, calls=4) == pytest.approx([0.2, 0.2, 0.3, 0.4], abs=1e-9)


def test_cost_above_burst_waits_longer():
    """A cost above the burst waits for what the burst cannot hold.

    On a full bucket of 2, a cost of 5 waits three intervals; the next call five after those.
    """
    schedule = pace(10, burst=2)
    schedule.on_idle(0.0)
    assert schedule.next_at(0.0, 5) == pytest.approx(0.3)
    schedule.consume(schedule.next_at(0.0, 5), 5)
    assert schedule.next_at(0.3, 1) == pytest.approx(0.4, abs=1e-9)


def test_lateness_within_catch_up_counts():
    """Lateness is caught up within `catch_up` only.

    A call 8 ms late leaves the next on its instant; one 50 ms late loses all but catch_up.
    """
    schedule = pace(100, catch_up=0.01)
    schedule.on_idle(0.0)
    schedule.consume(0.0, 1)
    schedule.consume(0.018, 1)
    assert schedule.next_at(0.018, 1) == pytest.approx(0.02)
    schedule.consume(0.07, 1)
    assert schedule.next_at(0.07, 1) == pytest.approx(0.07, abs=1e-9)
    schedule.consume(0.07, 1)
    assert schedule.next_at(0.07, 1) == pytest.approx(0.08, abs=1e-9)


def test_without_catch_up_lateness_adds():
    """Without `catch_up` a late call delays the next.

    `catch_up=0` is a strict gap: the interval counts from the start, not from the due time.
    """
    schedule = pace(10)
    schedule.on_idle(0.0)
    schedule.consume(0.0, 1)
    schedule.consume(0.103, 1)
    assert schedule.next_at(0.103, 1) == pytest.approx(0.203, abs=1e-9)


def test_rest_saves_up_no_catch_up():
    """Who comes to a pace at rest starts a new row: the next is a whole interval later."""
    schedule = pace(1000, catch_up=0.01)
    schedule.on_idle(0.0)
    schedule.consume(0.0, 1)
    schedule.on_idle(5.0)
    assert run(schedule, start=5.0, calls=3) == pytest.approx([5.0, 5.001, 5.002], abs=1e-9)


def test_arrive_is_three_steps_in_one():
    """The step for a newcomer is `on_idle`, `next_at` and `consume` in one.

    It charges what is due, and leaves alone what is not.
    """
    schedule = pace(10)
    assert schedule.try_consume(1.0, 1) <= 1.0
    assert schedule.try_consume(1.0, 1) == pytest.approx(1.1)
    assert schedule.next_at(1.0, 1) == pytest.approx(1.1)


@given(
    calls=st.sampled_from([1, 3, 100, 1000]),
    burst=st.sampled_from([1, 2, 10]),
    catch_up=st.sampled_from([0.0, 0.01]),
    steps=st.lists(st.tuples(st.floats(0, 0.05), st.sampled_from([1, 1, 1, 2, 0.5])), max_size=60),
)
def test_arrive_differs_in_nothing(calls, burst, catch_up, steps):
    """Arrive differs in nothing from its parts.

    The short cut for the commonest call keeps the same books as the long way.
    """
    short, long = (pace(calls, burst=burst, catch_up=catch_up) for _ in range(2))
    now = 100.0
    for step, cost in steps:
        now += step
        due = short.try_consume(now, cost)
        long.on_idle(now)
        taken = long.next_at(now, cost) <= now
        if taken:
            long.consume(now, cost)
        assert (due <= now) is taken
        assert short.next_at(now, 1) == pytest.approx(long.next_at(now, 1), abs=1e-9)


@given(
    rate=st.sampled_from([Rate(10), Rate(10, burst=3), Rate(100, burst=10), Rate(3, burst=1000)]),
    catch_up=st.sampled_from([0.0, 0.25]),
    steps=st.lists(
        st.tuples(
            st.sampled_from([0.0, 0.0, 0.0625, 0.125, 2.0]),
            st.sampled_from(["arrive", "arrive", "queued", "queued", "hold", "settle"]),
            st.integers(0, 30),
            st.sampled_from([0, 0.5, 2]),
        ),
        max_size=80,
    ),
)
@example(  # the second finds the bucket full: the first had recovered
    rate=Rate(10, burst=3),
    catch_up=0.25,
    steps=[(0.0, "arrive", 0, 0), (2.0, "arrive", 0, 0), (0.0, "settle", 0, 0)],
)
@example(  # the second is late by less than `catch_up`, and the time of the hold is lost
    rate=Rate(10),
    catch_up=0.25,
    steps=[(0.0, "arrive", 0, 0), (0.0625, "hold", 0, 2), (0.25, "queued", 0, 0)],
)
@example(  # the same for a call that arrives
    rate=Rate(10),
    catch_up=0.25,
    steps=[(0.0, "arrive", 0, 0), (0.0, "hold", 0, 2), (0.25, "arrive", 0, 0)],
)
@example(  # the last ones come at the instant at which the bucket is full again
    rate=Rate(10),
    catch_up=0.0,
    steps=[
        *[(0.125, "queued", 3, 0), (0.0625, "settle", 20, 2), (0.0, "settle", 16, 0.5)],
        *[(0.0625, "settle", 7, 2), (0.0625, "arrive", 30, 2), (0.125, "arrive", 29, 0.5)],
    ],
)
def test_steps_of_one_keep_books(rate, catch_up, steps):
    """What charges one call in one step leaves what `consume` leaves, for settlements too."""
    short, long = (algorithms.TokenBucket(rate, catch_up=catch_up) for _ in range(2))
    now, charged, one = 100.0, [], (1.0,)
    for step, what, which, cost in steps:
        now += step
        if what == "hold":
            short.held = long.held = now + 0.1 * cost
        elif what == "settle" and charged:
            at, before = charged[which % len(charged)]
            for bucket in (short, long):
                bucket.adjust(now, at, before, cost)
            charged[which % len(charged)] = at, cost
        elif what in {"arrive", "queued"}:
            step_of_one, general = (
                (short.try_consume_one, algorithms.try_consume)
                if what == "arrive"
                else (short.consume_one_if_due, algorithms.consume_if_due)
            )
            due, true = step_of_one(now), general((long,), now, one)
            assert max(due, now) == true
            if true <= now:
                charged.append((now, 1))
        assert (short.tat, short.last, short.held) == (long.tat, long.last, long.held)


@given(
    st.lists(st.floats(0, 0.3), min_size=1, max_size=60),
    st.integers(1, 5),
    st.sampled_from([0.1, 0.5, 1.0]),
)
def test_window_is_neither_exceeded_nor_idle(gaps, calls, per):
    """A window is never exceeded and never idle.

    At most `calls` in any `per` seconds, and no call waits while the window has room.
    """
    schedule = States([Window(calls, per)], catch_up=0)
    starts, now = [], 0.0
    for gap in gaps:
        now += gap
        due = schedule.next_at(now, 1)
        if due > now:
            assert sum(due - start < per + 1e-9 for start in starts) >= calls
            now = due
        schedule.consume(now, 1)
        starts.append(now)
    assert most_in(starts, per) <= calls


def test_call_as_old_as_window_left():
    """A call as old as the window no longer counts.

    The window is half open: the call of 0.0 has left [0.0, 1.0) by 1.0.
    """
    schedule = States([Window(2, 1)], catch_up=0)
    assert run(schedule, start=0.0, calls=5) == [0.0, 0.0, 1.0, 1.0, 2.0]


@given(st.floats(0, 1e6), st.floats(1e-3, 1e4))
def test_window_lets_no_float_early(start, per):
    """A window lets go no float too early.

    The instant it names is at least `per` later as floats subtract, too.
    """
    schedule = States([Window(1, per)], catch_up=0)
    schedule.consume(start, 1)
    assert schedule.next_at(start, 1) - start >= per


def test_empty_window_has_no_remainder():
    """Once it is empty, nothing is left of what adding up fractions has rounded."""
    schedule = States([Window(10**15, 1)], catch_up=0)
    schedule.consume(0.0, 10**15 - 1)
    schedule.consume(0.5, 0.1)  # floats of that size have eighths: as if it were 0.125
    assert schedule.next_at(2.0, 10**15) <= 2.0
    schedule.change([Window(10, 1)], 2.0)
    assert run(schedule, start=2.0, calls=11) == [2.0] * 10 + [3.0]


def test_window_refuses_costs_too_large():
    """A window holds costs and refuses one that can never fit.

    Costs add up to `calls`; a larger one is a ValueError with the remedy.
    """
    schedule = States([Window(10, 1)], catch_up=0)
    schedule.consume(0.0, 8)
    assert schedule.next_at(0.5, 2) <= 0.5
    assert schedule.next_at(0.5, 3) == 1.0
    with pytest.raises(ValueError, match="split the call"):
        States([Rate(1), Window(10, 1)], catch_up=0).check(11)


def test_strictest_of_several_limits_decides():
    """Of several limits the strictest says when.

    Three in any second, 0.1 s apart: the window bites on the fourth call.
    """
    schedule = States([Rate(10), Window(3, 1)], catch_up=0)
    starts = run(schedule, start=0.0, calls=7)
    assert starts == pytest.approx([0, 0.1, 0.2, 1.0, 1.1, 1.2, 2.0], abs=1e-9)


def test_no_limit_means_always_due():
    """The schedule of no limits holds nobody back."""
    schedule = States([], catch_up=0)
    assert schedule.next_at(3.0, 1e9) == 3.0
    assert schedule.estimate(3.0, 1e9) == 3.0


@pytest.mark.parametrize("limits", [[Rate(10)], [Window(3, 1)], [Rate(10), Window(3, 1)]])
def test_hold_moves_every_due_time(limits):
    """A hold moves every due time and is not made up for.

    Nothing is due before its end, and calls come no closer after it than usual.
    """
    schedule = States(limits, catch_up=0.01)
    schedule.on_idle(0.0)
    schedule.hold(7.0)
    assert schedule.next_at(0.0, 1) == 7.0
    starts = run(schedule, start=7.0, calls=3)
    assert starts[0] == 7.0
    if Rate(10) in limits:
        assert starts == pytest.approx([7.0, 7.1, 7.2], abs=1e-9)


@pytest.mark.parametrize("limits", [[Rate(10, burst=3)], [Rate(10)], [Window(3, 1)]])
def test_ahead_names_the_last_start(limits):
    """Ahead is when the last of a queue starts.

    What `estimate` says for n calls is when the n-th one starts.
    """
    for calls in range(1, 12):
        schedule = States(limits, catch_up=0.01)
        run(schedule, start=3.8, calls=2)
        expected = schedule.estimate(4.0, calls)
        schedule.on_idle(4.0)
        assert run(schedule, start=4.0, calls=calls)[-1] == pytest.approx(expected, abs=1e-9)


def test_settling_moves_the_next_due():
    """More cost is charged and less is given back.

    The last call's true cost moves the next due time both ways.
    """
    schedule = pace(10, burst=10)
    schedule.on_idle(0.0)
    schedule.consume(0.0, 8)
    schedule.adjust(0.0, 8, 12)
    assert schedule.next_at(0.0, 1) == pytest.approx(0.3, abs=1e-9)
    schedule.adjust(0.0, 12, 2)
    assert schedule.next_at(0.0, 8) <= 0.0
    assert schedule.next_at(0.0, 9) == pytest.approx(0.1, abs=1e-9)


def test_late_refund_makes_no_burst():
    """What is given back late lets no burst through.

    A bucket that was full again by the next call does not get fuller by an old refund.
    """
    schedule = pace(10, burst=2)
    schedule.on_idle(0.0)
    schedule.consume(0.0, 2)
    schedule.on_idle(5.0)
    schedule.consume(5.0, 2)
    schedule.adjust(0.0, 2, 0)
    assert schedule.next_at(5.0, 1) == pytest.approx(5.1, abs=1e-9)


def test_upward_settlement_is_a_charge():
    """What a call turns out to cost counts from then on; no refund of an older call undoes it.

    The bucket had been full again since 4 s.
    """
    schedule = pace(100, burst=400)
    schedule.consume(0.0, 400)
    schedule.adjust(5.0, 0, 400)
    schedule.adjust(0.0, 400, 0, now=5.0)
    assert schedule.next_at(5.0, 400) == pytest.approx(9.0, abs=1e-9)


def test_refund_undoes_what_a_settlement_found():
    """A bucket that was half full at an upward settlement may be given the other half back."""
    schedule = pace(100, burst=400)
    schedule.consume(0.0, 400)
    schedule.adjust(2.0, 0, 100)
    schedule.adjust(0.0, 400, 0, now=3.0)
    assert schedule.next_at(3.0, 400) == pytest.approx(3.0, abs=1e-9)  # 100, at 2 s, are paid off
    schedule.consume(3.0, 400)
    assert schedule.next_at(3.0, 1) == pytest.approx(3.01, abs=1e-9)


def test_settlement_is_not_late():
    """An upward settlement is charged `catch_up` ago at the earliest, as a call is."""
    schedule = States([Rate(100, burst=400)], catch_up=0.05)
    schedule.consume(10.0, 1)  # as of 9.95: the last one is late by as much as may be made up for
    schedule.adjust(10.0, 0, 400, now=10.05)
    assert schedule.next_at(10.05, 400) == pytest.approx(14.0, abs=1e-9)


@given(
    cost=st.lists(st.sampled_from([1, 2, 3]), min_size=2, max_size=15),
    refunds=st.lists(st.tuples(st.integers(0, 14), st.integers(0, 14)), max_size=8),
    burst=st.sampled_from([1, 3]),
)
@example(cost=[1, 1, 2, 1, 1], refunds=[(3, 0), (3, 1)], burst=3)
def test_refunds_never_break_the_limit(cost, refunds, burst):
    """However late costs are given back, what has really been used keeps within the bucket."""
    schedule = pace(10, burst=burst)
    now, true = 0.0, []
    schedule.on_idle(now)
    for n, one in enumerate(cost):
        for after, which in refunds:
            if after == n and which < len(true) and true[which][1]:
                schedule.adjust(true[which][0], true[which][1], 0)
                true[which][1] = 0
        now = max(now, schedule.next_at(now, one))
        schedule.consume(now, one)
        true.append([now, one])
    for first, (began, one) in enumerate(true):
        if not one:  # it cost nothing: the one after it had waited in its place
            continue
        used = min(one, burst)
        for start, other in true[first + 1 :]:
            used += other
            assert used <= burst + (start - began) * 10 + 1e-6


def test_refunds_know_the_fullest_of_many():
    """Also where a refund has made a later one the fullest, and more have started than are kept."""
    bucket = pace(1, burst=1000)
    for at, cost in ((100, 400), (101, 1), (102, 390)):
        bucket.consume(at, cost)
    for number in range(200):
        bucket.consume(150 + number / 256, 1)
        if number == 50:
            bucket.adjust(102, 390, 0)  # else the bucket had been fuller by 150 than at 101
    bucket.adjust(100, 400, 0)
    # All but 351 was paid off by 150: as if 200 of 1000 had started since then.
    assert bucket.next_at(151, 801) == 151


def test_calls_of_one_instant_are_one():
    """They take none of the room for what later refunds need, however many they are."""
    bucket = pace(1, burst=2000)
    bucket.consume(100, 400)
    bucket.consume(101, 500)
    for _ in range(200):
        bucket.consume(102, 1)
    bucket.adjust(101, 500, 0)  # at 102, the bucket was 898 from full
    assert bucket.next_at(102, 1402) == 102


def test_a_window_gives_back_too():
    """The refund leaves the log where the call started."""
    schedule = States([Window(10, 1)], catch_up=0)
    schedule.consume(0.0, 6)
    schedule.consume(0.5, 4)
    schedule.adjust(0.0, 6, 1)
    assert schedule.next_at(0.6, 5) <= 0.6
    assert schedule.next_at(0.6, 6) == 1.0


def test_new_rate_inherits_the_debt():
    """A new rate inherits the debt in calls.

    Of half an old interval still to wait, half a new one is left.
    """
    state = pace(2)
    state.on_idle(0.0)
    state.consume(0.0, 1)
    state.change([Rate(50)], 0.25)
    assert state.next_at(0.25, 1) == pytest.approx(0.25 + 0.5 / 50)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([Rate(1)], [Rate(1), Window(5, 1)]),
        ([Rate(1), Window(5, 1)], [Rate(1)]),
        ([Window(5, 1), Rate(1)], [Rate(1), Window(5, 1)]),
    ],
)
def test_limits_succeed_kind_by_kind(before, after):
    """Limits succeed one another kind by kind.

    Adding or dropping a limit of another kind forgives no debt.
    """
    state = States(before, catch_up=0)
    state.on_idle(0.0)
    state.consume(0.0, 1)
    state.change(after, 0.4)
    assert state.next_at(0.4, 1) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("limits", [[Rate(10)], [Rate(10, burst=5)], [Window(3, 1)], []])
def test_rested_schedule_acts_as_new(limits):
    """From `fresh_at` on a schedule acts as a new one.

    An idle lane may be forgotten then: both let the same calls through.
    """
    used = States(limits, catch_up=0.01)
    used.on_idle(0.0)
    run(used, start=0.0, calls=7)
    later = math.nextafter(max(used.idle_at(1.0), 1.0), math.inf)
    fresh = States(limits, catch_up=0.01)
    used.on_idle(later)
    fresh.on_idle(later)
    assert run(used, start=later, calls=9) == pytest.approx(run(fresh, start=later, calls=9))


def test_lanes_are_made_on_demand():
    """Lanes are made on demand and kept while they matter.

    A key without limits has no lane; "*" gives one to every other; fresh ones are evicted.
    """
    assert lane_states.Lanes({"a": [Rate(1)]}, maker()).find("b", 0.0) is None
    used = set()
    lanes = lane_states.Lanes(
        {"a": [Rate(1)], "*": [Rate(10)]}, maker(), in_use=lambda key, _: key in used
    )
    for key, now in zip("abc", itertools.count(0.0, 0.001), strict=False):
        algorithms.try_consume(lanes.find(key, now).states, now, (1,))
    assert set(lanes.by_key) == set("abc")
    lanes.find("a", 0.5)
    assert set(lanes.by_key) == {"a"}
    used.add("a")
    lanes.find("d", 50.0)
    assert set(lanes.by_key) == {"a", "d"}
    used.clear()
    assert lanes.find("d", 60.0) is not None
    assert set(lanes.by_key) == {"d"}


def test_lanes_of_one_call_stay():
    """Looking up a call's second key evicts nothing that was made for its first."""
    lanes = lane_states.Lanes({"*": [Rate(10)]}, maker())
    lanes.find("idle", 0.0)
    first, second = lanes.find_all(["a", "b"], 100.0)
    assert (lanes.by_key["a"], lanes.by_key["b"]) == (first, second)


# Calendars and permits.


def test_calendar_counts_each_day():
    """At most so many start in a day; the next day all of them may."""
    state = States([Calendar(3, "day")], catch_up=0)
    day = 86_400.0
    assert run(state, start=day - 10, calls=7) == [day - 10] * 3 + [day] * 3 + [2 * day]
    assert state.estimate(2 * day, 2) == 2 * day
    assert state.estimate(2 * day, 3) == 3 * day
    assert state.idle_at(2 * day) == 3 * day


def test_calendar_gives_back_the_same_day():
    """What a call of yesterday did not use is of no use today."""
    state = States([Calendar(3, "day")], catch_up=0)
    state.consume(86_000.0, 3)
    state.adjust(86_000.0, 3, 1, now=86_100.0)
    assert state.next_at(86_100.0, 2) <= 86_100.0
    state.consume(86_500.0, 3)
    state.adjust(86_000.0, 1, 0, now=86_600.0)
    assert state.next_at(86_600.0, 1) == 2 * 86_400.0


def test_calendar_ignores_clocks_set_back():
    """A wall clock that is set back into yesterday does not open yesterday again."""
    ahead = [0.0]
    state = windows.CalendarWindow(Calendar(1, "day"), to_wall=lambda now: now + ahead[0])
    state.consume(86_400.0, (1,))
    ahead[0] = -3600.0
    assert state.next_at(86_401.0, (1,)) == 2 * 86_400.0 + 3600.0
    state.change(Calendar(1, "hour"), 86_401.0)
    assert state.next_at(86_401.0, (1,)) > 86_401.0


def test_idle_calendar_follows_its_clock():
    """It is as new when its day is over, by the wall clock as it is set now."""
    ahead = [0.0]
    state = windows.CalendarWindow(Calendar(1, "day"), to_wall=lambda now: now + ahead[0])
    state.consume(86_400.0, (1,))
    assert state.idle_at(86_401.0) == 2 * 86_400.0
    ahead[0] = -3600.0
    assert state.idle_at(86_401.0) == 2 * 86_400.0 + 3600.0
    ahead[0] = 86_400.0
    assert state.idle_at(86_401.0) == -math.inf


def test_calendar_ends_later_than_now():
    """Also where less is left of a period than a float can tell at this instant."""
    now = 2.0**40
    state = windows.CalendarWindow(Calendar(1, "hour"), to_wall=lambda _: 3600 - 2**-20)
    assert algorithms.consume_if_due((state,), now, (1,)) <= now
    assert algorithms.consume_if_due((state,), now, (1,)) == math.nextafter(now, math.inf)


def test_calendar_of_many_periods_ahead():
    """Beyond those that are looked up, all are taken to be as long as the ones before."""
    state = windows.CalendarWindow(Calendar(2, "hour"), to_wall=lambda now: now)
    assert state.estimate(0.0, 120) == 59 * 3600
    assert state.estimate(0.0, 2000) == pytest.approx(999 * 3600)


def test_calendar_refuses_costs_too_large():
    """What no day has room for is a ValueError with the remedy."""
    with pytest.raises(
        ValueError,
        match='cost of 4 calls never fits the limit "3 in each day" of the queue: split',
    ):
        States([Calendar(3, "day")], catch_up=0).check(4)


def test_permits_come_back():
    """Who holds a permit keeps the others waiting until nobody knows when."""
    state = windows.Permits(Concurrency(2))
    for _ in range(2):
        assert algorithms.consume_if_due((state,), 0.0, (5,)) <= 0.0
    assert state.next_at(0.0, (5,)) == math.inf
    assert state.idle_at(0.0) == math.inf
    assert state.release(0.0)
    assert state.next_at(0.0, (5,)) <= 0.0
    state.change(Concurrency(1), 0.0)
    assert state.next_at(0.0, (5,)) == math.inf


@given(
    limit=st.sampled_from([Rate(4), Rate(4, burst=3), Window(3, 1), Calendar(9, "hour")]),
    before=st.lists(st.tuples(st.floats(0, 1), st.sampled_from([1, 2, 0.5])), max_size=8),
    charge=st.sampled_from([1, 2, 0.5]),
    cost=st.sampled_from([1, 2, 3]),
    wait=st.floats(0, 2),
)
@example(Window(3, 1), [], 1, 2, 0.5)  # both fit, and fill it
@example(Window(100_000, 1), [(0, 0.3)], 99999.9, 0.1, 0.5)  # both, with a float's rounding
def test_room_that_is_left(limit, before, charge, cost, wait):
    """`leaves_room` says what `next_at` would say after the charge."""
    states = States([limit], catch_up=0.01)
    now = 3600.0
    states.on_idle(now)
    for gap, one in before:
        now = max(now + gap, states.next_at(now + gap, one))
        states.consume(now, one)
    now = max(now, states.next_at(now, charge))
    (state,) = states.states
    left = state.leaves_room(now, (charge,), (cost,), now + wait)
    states.consume(now, charge)
    assert left == (states.next_at(now, cost) <= now + wait + 1e-9)


def test_waiting_beyond_the_burst_is_lost():
    """The time that a call has waited for what the burst cannot hold is of use to no other.

    Four units of a pace start after three intervals; with a true cost of one, the next unit is due
    one interval later all the same. A call that never used its slot leaves it as it was.
    """
    schedule = pace(1)
    schedule.on_idle(0.0)
    schedule.consume(3.0, 4)
    schedule.adjust(3.0, 4, 1)
    assert schedule.next_at(3.0, 1) == 4.0
    schedule = pace(1)
    schedule.on_idle(0.0)
    schedule.consume(3.0, 4)
    schedule.states[0].refund(3.0, 3.0, (4,))
    assert schedule.next_at(3.0, 4) == 3.0
