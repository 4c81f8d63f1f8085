"""Time series of counts, whose step grows with the duration: `TimeSeries`.

A run may take a minute or a day, and have one kind of call or thousands. All series have the same
step, so that they can be shown and added up together. When there are too many steps, or too many
points in all series together, the step is doubled and neighbouring points are added up. So memory
is bounded, the resolution is the finest that fits, and no sum changes.
"""

from __future__ import annotations

from typing import TypeAlias

Points: TypeAlias = "dict[int, list[float]]"
"""The points of a series, by the number of their step."""

_MAX_STEPS = 1_000
"""Number of steps at which the step is doubled: a chart has no more columns."""
_MAX_POINTS = 50_000
"""Number of points in all series together: some 10 MB, added up in pairs in 20 ms."""


class TimeSeries:
    """Counts by steps of time, in any number of series.

    Args:
        fields: number of counts in a point.
        began: the instant at which the first step begins, on the clock of all other instants.
    """

    def __init__(self, fields: int, *, began: float) -> None:
        self.began = began
        self.step = 1.0
        """The present step, in seconds."""
        self._fields = fields
        self._series: list[Points] = []
        self._points = 0

    def new(self) -> Points:
        """Return a new series."""
        series: Points = {}
        self._series.append(series)
        return series

    def point(self, series: Points, now: float) -> list[float]:
        """Return the counts of the step of an instant, for the caller to change at once.

        Do not keep the list: the step may be doubled at the next call.

        Args:
            series: one of the series.
            now: the instant; an instant before `began` counts as `began`.
        """
        number = int((now - self.began) / self.step)
        if number >= _MAX_STEPS:
            self.reach(now)  # the step is longer now
            number = int((now - self.began) / self.step)
        number = max(number, 0)
        point = series.get(number)
        if point is not None:
            return point
        self._points += 1
        # Doubling never merges two series, so however many there are, each may have two points.
        if self._points > max(_MAX_POINTS, 2 * len(self._series)):
            self._double()
            return self.point(series, now)  # again, because the instant is in another step now
        point = series[number] = [0.0] * self._fields
        return point

    def reach(self, now: float) -> None:
        """Double the step until `now` is in one of the steps, even if no call was counted."""
        while now - self.began >= _MAX_STEPS * self.step:
            self._double()

    def _double(self) -> None:
        """Double the step: add up the points of each pair of steps."""
        self.step *= 2
        self._points = 0
        for series in self._series:
            before = dict(series)
            series.clear()  # not replaced, as its owner has it
            for number, point in before.items():
                # The first list of a pair is kept: no point is copied.
                known = series.setdefault(number // 2, point)
                if known is not point:
                    known[:] = map(sum, zip(known, point, strict=True))
            self._points += len(series)


def add_points(total: Points, series: Points) -> None:
    """Add the points of a series to others of the same step."""
    for number, point in series.items():
        known = total.get(number)
        total[number] = [*point] if known is None else [*map(sum, zip(known, point, strict=True))]
