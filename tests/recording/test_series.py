"""Time series: no sum changes, and memory is bounded."""

from __future__ import annotations

import random

from aioapiqueue.recording.spi import TimeSeries
from tests.helpers import introspect


class Named(TimeSeries):
    """A time series whose series have names."""

    def __init__(self, fields, *, began=0.0):
        super().__init__(fields, began=began)
        self.series = {}

    def add(self, name, now, field, amount=1):
        """Add to a count of a series."""
        if name not in self.series:
            self.series[name] = self.new()
        self.point(self.series[name], now)[field] += amount


def total(series, field):
    """What was counted of all series in all steps."""
    return sum(point[field] for one in series.series.values() for point in one.values())


def test_counts_by_second():
    """Each event is in the step that its instant falls into."""
    series = Named(2, began=100.0)
    series.add("a", 100.0, 0)
    series.add("a", 100.99, 0)
    series.add("a", 101.0, 1, 2.5)
    series.add("b", 99.0, 0)  # before the beginning
    assert series.step == 1.0
    assert series.series == {"a": {0: [2, 0], 1: [0, 2.5]}, "b": {0: [1, 0]}}


def test_steps_double_and_sums_stay():
    """An hour and a half in steps of a second would be 5,400: they become 8 s long."""
    series = Named(1)
    for second in range(5_400):
        for _ in range(3):
            series.add("a", second + 0.5, 0)
    assert series.step == 8.0
    assert total(series, 0) == 16_200
    assert series.series["a"][0] == [24]
    assert max(series.series["a"]) == 5_399 // 8


def test_long_silence_is_one_step():
    """An event after a month comes at once, however many steps that was."""
    series = Named(1)
    series.add("a", 1.0, 0)
    series.add("a", 30 * 86_400.0, 0)
    assert total(series, 0) == 2
    assert max(series.series["a"]) < 1_000


def test_points_of_all_series_are_bounded(monkeypatch):
    """Many series for long have longer steps; more series than points still count all."""
    introspect.replace(monkeypatch, "points of series", 500)
    chance = random.Random(1)
    series = Named(1)
    for number in range(20_000):
        series.add(chance.randrange(100), number / 50, 0)
        assert sum(map(len, series.series.values())) <= 500
    assert total(series, 0) == 20_000
    assert series.step > 1

    many = Named(1)
    for number in range(2_000):
        many.add(number, number / 1_000, 0)
    assert total(many, 0) == 2_000
    assert len(many.series) == 2_000
