"""What happened when: counts by steps of time, which grow longer as time goes on.

A run may take a minute or a day, and have one kind of call or thousands. There is one step for all
series, so that they can be shown and added up together. It is doubled, and neighbours are added
up, whenever there are too many steps, or too many points of all series together: what is kept is
bounded, and as fine as that allows. No sum changes by it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["TimeSeries"]

_Name = TypeVar("_Name")

_MAX_STEPS = 1_000
"""Of time, before they are made longer: a chart has no more columns."""
_MAX_POINTS = 50_000
"""Of all series together: some 10 MB, and 20 ms of work when they are added up in pairs."""


class TimeSeries(Generic[_Name]):
    """Counts by steps of time, of any number of series.

    Args:
        fields: what is counted, in this order.
        began: the instant at which the first step begins, in seconds on the clock of all others.
        step: seconds of a step at first; default 1.
    """

    def __init__(self, fields: Sequence[str], *, began: float, step: float = 1.0) -> None:
        self.fields = tuple(fields)
        self.began = began
        self.step = step
        """Seconds of a step, as it is now."""
        self._series: dict[_Name, dict[int, list[float]]] = {}
        self._points = 0

    @property
    def series(self) -> Mapping[_Name, Mapping[int, Sequence[float]]]:
        """Counts in the order of `fields`, by the number of the step, of each series."""
        return self._series

    def add(self, name: _Name, now: float, field: int, amount: float = 1) -> None:
        """Count something.

        Args:
            name: of the series.
            now: the instant; one before `began` counts as that.
            field: the place in `fields`.
            amount: to add; default 1.
        """
        self.point(name, now)[field] += amount

    def point(self, name: _Name, now: float) -> list[float]:
        """Return the counts of a step, in the order of `fields`, to be counted in at once.

        Args:
            name: of the series.
            now: the instant; one before `began` counts as that.
        """
        number = int((now - self.began) / self.step)
        if number >= _MAX_STEPS:
            self.reach(now)
            number = int((now - self.began) / self.step)
        number = max(number, 0)
        points = self._series.setdefault(name, {})
        point = points.get(number)
        if point is not None:
            return point
        self._points += 1
        # Of more series than that, each keeps a point or two.
        if self._points > max(_MAX_POINTS, 2 * len(self._series)):
            self._double()
            return self.point(name, now)
        point = points[number] = [0.0] * len(self.fields)
        return point

    def reach(self, now: float) -> None:
        """Make steps so long that there are not too many until now, be it in silence."""
        while now - self.began >= _MAX_STEPS * self.step:
            self._double()

    def _double(self) -> None:
        """Make steps twice as long."""
        self.step *= 2
        self._points = 0
        for name, points in self._series.items():
            merged: dict[int, list[float]] = {}
            for number, point in points.items():
                known = merged.setdefault(number // 2, point)
                if known is not point:
                    known[:] = map(sum, zip(known, point, strict=True))
            self._series[name] = merged
            self._points += len(merged)
