"""Percentiles of waits, against exact ones."""

from __future__ import annotations

import math
import pickle
import random

import pytest

from aioapiqueue.recording.spi import RecentWaits, WaitTimes

PERCENTS = (1, 10, 50, 90, 99, 99.9, 100)


def exact(times, percent):
    """The nearest rank of all times."""
    return sorted(times)[max(0, math.ceil(len(times) * percent / 100 - 1e-9) - 1)]


@pytest.mark.parametrize("seed", range(20))
def test_percentiles_are_within_one_percent(seed):
    """Of times from a millisecond to a day, and some that did not wait at all."""
    chance = random.Random(seed)
    times = [
        0.0 if chance.random() < 0.3 else 10 ** chance.uniform(-3, 5)
        for _ in range(chance.randint(1, 2_000))
    ]
    waits = WaitTimes()
    for time in times:
        waits.add(time)
    for percent in PERCENTS:
        assert waits.percentile(percent) == pytest.approx(exact(times, percent), rel=0.01)
    assert waits.percentile(100) == waits.longest == max(times)
    assert waits.number == len(times)
    assert waits.total == pytest.approx(sum(times))


def test_merged_waits_are_as_one():
    """Two histograms that are added up have the percentiles of all times."""
    one, other, both = WaitTimes(), WaitTimes(), WaitTimes()
    for number in range(1_000):
        (one if number % 3 else other).add(number / 100)
        both.add(number / 100)
    one.merge(other)
    assert [one.percentile(p) for p in PERCENTS] == [both.percentile(p) for p in PERCENTS]
    assert (one.number, one.longest) == (1_000, 9.99)


def test_no_waits_at_all():
    """Without a call, and with calls that did not wait, each percentile is 0."""
    waits = WaitTimes()
    assert waits.percentile(50) == waits.percentile(100) == 0
    for _ in range(10):
        waits.add(0.0004)
    assert waits.percentile(50) == waits.percentile(100) == 0


def test_memory_does_not_grow_with_calls():
    """A million times have no more buckets than there are percents between them."""
    waits = WaitTimes()
    for number in range(1_000_000):
        waits.add(0.001 + number / 1_000)
    assert len(pickle.dumps(waits)) < 8_000


def test_recent_waits_are_of_half_to_a_whole_minute():
    """What is half a minute old is there, what is a minute old is not, however seldom one asks."""
    for looks in ((), (29.0, 31.0, 45.0), tuple(map(float, range(60)))):
        recent = RecentWaits()
        recent.add(0.0, 5.0)
        for at in looks:
            assert recent.recent(at).longest == (5.0 if at < 60 else 0.0)
        assert recent.recent(60.0).number == 0
    recent = RecentWaits()
    for at in range(0, 1000, 10):
        recent.add(float(at), 1.0)
        assert 1 <= recent.recent(float(at)).number <= 6
    assert recent.recent(5000.0).number == 0


def test_removed_waits_leave_no_rounding_error():
    """A table would show it as -0.0."""
    waits = WaitTimes()
    for change in (waits.add, waits.remove):
        for seconds in (0.7, 0.2, 0.1):
            change(seconds)
    assert waits.total >= 0


def test_removed_wait_is_as_if_it_had_not_been():
    """Of the longest that is taken out, the next is known to within 1 %."""
    waits = WaitTimes()
    for seconds in (0.0, 0.5, 30.0):
        waits.add(seconds)
    waits.remove(30.0)
    assert (waits.number, waits.longest) == (2, pytest.approx(0.5, rel=0.01))
    waits.remove(0.5)
    waits.remove(0.0)
    assert (waits.number, waits.longest, waits.percentile(50)) == (0, 0.0, 0.0)
