"""How long a program would have taken without waits: exact where calls follow each other."""

from __future__ import annotations

import pytest

from aioapiqueue.recording.spi import UnpacedTime


def test_waits_of_one_after_another_are_left_out():
    """A program that makes one call after another would take what it takes, less its waits."""
    time, now = UnpacedTime(now=100.0), 100.0
    for _ in range(10):
        now += 0.5  # its own work
        time.joined(now)
        now += 2.0  # the wait
        time.started(now)
        now += 0.25  # the call
        time.ended(now)
    assert time.seconds(now + 1.0) == pytest.approx(10 * 0.75 + 1.0)


def test_threads_that_wait_would_all_run():
    """Twenty calls of a second, of which one runs at a time, would take one second together."""
    time = UnpacedTime(now=0.0)
    for _ in range(20):
        time.joined(0.0)
    for second in range(20):
        time.started(second)
        time.ended(second + 1)
    # While n are there, 1/n of the second counts: what is left is the harmonic number.
    assert time.seconds(20.0) == pytest.approx(sum(1 / n for n in range(1, 21)))


def test_who_leaves_is_not_waited_for():
    """A call that is cancelled while it waits counts as no time."""
    time = UnpacedTime(now=0.0)
    time.joined(0.0)
    time.left(5.0)
    assert time.seconds(6.0) == 1.0


def test_a_clock_that_steps_back_counts_nothing_twice():
    """An instant before the last one is taken for that."""
    time = UnpacedTime(now=10.0)
    time.joined(9.0)
    time.started(9.5)
    time.ended(11.0)
    assert time.seconds(10.5) == 1.0
