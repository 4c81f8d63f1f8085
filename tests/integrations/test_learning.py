"""Which period a quota has, by what answers say of it, where nobody says it."""

from __future__ import annotations

import pytest

from aioapiqueue.integrations.http import Learning, Quota
from tests.helpers import introspect


def periods(answers, *, limit=5000, learner=None):
    """Return the period that is believed after each answer: (instant, remaining, reset)."""
    learner = learner or introspect.learner(Learning())
    found = []
    for at, remaining, reset in answers:
        quota = Quota("calls", remaining, reset, limit)
        found.append(learner.with_periods("k", [quota], at)[0].period)
    return found


def test_a_minute_where_nothing_is_known():
    """One answer of a quota that is full again within a minute."""
    assert periods([(0, 4999, 30)]) == [60]


@pytest.mark.parametrize("used", [1, 1000, 4000])
def test_window_is_no_bucket(used):
    """Answers within one window show nothing: it is no shorter than the first reset."""
    remaining = 5000 - used
    answers = [(at, remaining - at, 1800 - at) for at in range(100)]
    assert periods(answers) == [1800] * 100


def test_next_window_shows_the_period():
    """When the next one has begun, so much lies between the two resets."""
    assert periods([(0, 100, 1800), (1000, 10, 800), (1801, 4990, 3599)])[-1] == 3600
    assert periods([(0, 100, 300), (290, 10, 10), (302, 4990, 299)])[-1] == pytest.approx(301)


@pytest.mark.parametrize("period", [60, 3600, 86_400])
def test_bucket_shows_its_period(period):
    """Of a bucket, the reset is what has been used of it: it moves with each call."""
    answers = []
    for at, used in ((0, 500), (5, 520), (10, 600)):
        answers.append((at, 5000 - used, used / 5000 * period))
    assert periods(answers)[-1] == period


def test_period_by_the_reset_is_minimum():
    """It may be longer, until the next window shows it; one that is stated or usual is not."""
    learner = introspect.learner(Learning(periods={"tokens": 10.0}))

    def is_minimum(unit, at, remaining, reset):
        quota = Quota(unit, remaining, reset, 5000)
        learner.with_periods("k", [quota], at)
        return learner.period_is_minimum("k", quota)

    assert is_minimum("calls", 0, 100, 1800)
    assert is_minimum("calls", 10, 90, 1790)
    assert not is_minimum("calls", 1801, 4990, 3599)
    assert not is_minimum("pages", 0, 100, 59)
    assert not is_minimum("tokens", 0, 100, 10.4)  # it is rounded up


def test_bucket_in_steady_use():
    """What is used stays the same, and so does the reset: all of it would be back ever later."""
    answers = [(at, 500, 54) for at in range(10)]
    assert periods(answers)[-1] == 60


def test_known_periods_are_not_guessed():
    """What the server says counts before what a profile says, and that before all else."""
    learner = introspect.learner(Learning(periods={"calls": 10.0}))
    assert periods([(0, 10, 5), (1, 9, 4)], learner=learner) == [10, 10]
    quota = Quota("calls", 5, 3600, 10, period=86_400.0)
    assert learner.with_periods("k", [quota], 0)[0].period == 86_400


def test_quotas_that_state_all_are_not_remembered():
    """They would push out those whose period responses have shown."""
    learner = introspect.learner(Learning(refills=True))
    silent = Quota("calls", limit=100)
    for at, quota in enumerate((Quota("calls", 50, 30.0, 100), Quota("calls", 40, 300.0, 100))):
        learner.with_periods("k", [quota], at)
    assert learner.with_periods("k", [silent], 2)[0].period == 300
    stated = Quota("calls", 5, 57.0, 100, period=60.0)
    for number in range(10_001):
        learner.with_periods(number, [stated], 2)
        assert not learner.period_is_minimum(number, stated)
        assert learner.is_bucket(number, stated, 2)
    assert learner.with_periods("k", [silent], 3)[0].period == 300


def test_many_quotas_are_remembered_in_turn():
    """Of more quotas than are remembered, the newest count: their answers contradict a bucket."""
    learner = introspect.learner(Learning(refills=True))
    quotas = [Quota("calls", size, 60, size, period=60.0) for size in range(1, 10_002)]
    assert not any(learner.is_bucket("k", quota, 0) for quota in quotas)
    silent = Quota("calls", limit=quotas[-1].limit, period=60.0)
    assert not learner.is_bucket("k", silent, 1)
