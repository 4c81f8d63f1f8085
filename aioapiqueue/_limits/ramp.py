"""`Ramp`: how the ceiling on a rate grows from call to call; `_limits/ramped.py` applies it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from aioapiqueue._limits.checks import LONGEST, positive
from aioapiqueue._limits.grammar import CALLS, count_text, number_text, per_text, time_text

if TYPE_CHECKING:
    from typing import Any

__all__ = ["Ramp"]

_TENTH = 10
"""The default floor is the rate divided by this."""


class _Pace(Protocol):
    """What a ramp uses of a `Rate`. That class has ramps, so this module cannot import it."""

    @property
    def calls(self) -> float: ...
    @property
    def per(self) -> float: ...
    @property
    def unit(self) -> str: ...
    @property
    def interval(self) -> float: ...


@dataclass(frozen=True, slots=True)
class Ramp:
    """How a rate begins, for servers that refuse a sharp rise although it is below their limits.

    The rate has a ceiling. It starts at `floor` and stays there for `per` seconds of use, then
    grows continuously by `factor` in each `per`, up to the rate. It falls back while it is not
    used, an eighth of `per` later at most: what is charged in any `per` is at most
    `factor ** (9/8)` times what was charged in the `per` before, or a call more than the floor and
    its growth admit. After `per` without use it starts at the floor again. Waiting is use: while
    calls wait, the ceiling grows, however few can start. A burst is scaled as the ceiling is, but
    never below 1.

    Args:
        factor: growth in `per`; above 1.
        per: seconds, above 0.
        floor: a `Rate` of the same unit, without a burst; default: a tenth of the rate.

    Raises:
        ValueError: `factor` is not above 1, a value is infinite or NaN, or `per` is not above 0 or
            is above 1e9; or the floor has a burst, a ramp or `or raise`. From `Rate`: the floor is
            above the rate, counts another unit, or admits less than 1 in `per`.
        TypeError: a value is not a number, or the floor is not a `Rate`.

    >>> str(Rate(1000, 60, ramp=Ramp(2, per=120)))
    '1000/min ramp 2x per 2min'
    >>> Rate.parse("1000/min ramp 2x per 2min from 50/min").ramp
    Ramp(factor=2, per=120.0, floor=Rate(calls=50, per=60.0, burst=1))
    """

    factor: float
    per: float
    floor: _Pace | None = None

    def __post_init__(self) -> None:
        positive(self.factor, of="factor")
        if self.factor <= 1:
            raise ValueError(
                f"factor must be above 1, not {self.factor!r}: 2 doubles the ceiling in each period"
            )
        positive(self.per, of="per", most=LONGEST)
        if self.floor is not None:
            _check_floor(self.floor)

    def __str__(self) -> str:
        text = f"ramp {number_text(self.factor)}x{per_text(self.per)}"
        return text if self.floor is None else f"{text} from {_text_of(self.floor)}"

    @property
    def growth(self) -> float:
        """Growth of the logarithm of a ceiling in each second of use."""
        # Slower than the factor by a 25th, because calls are whole: a server that compares periods
        # sees one call more or less in each.
        return 24 / 25 * math.log(self.factor) / self.per

    @property
    def reach(self) -> float:
        """The highest ceiling, as a multiple of the mean of what started in the last `per`."""
        # As of a rate that grows by the factor in each `per`, and of its own mean.
        return math.log(self.factor) / (1 - 1 / self.factor)

    def floor_of(self, rate: _Pace) -> float:
        """Return the interval of a rate at its floor."""
        return rate.interval * _TENTH if self.floor is None else self.floor.interval

    def check_for(self, rate: _Pace) -> None:
        """Refuse a floor that does not fit a rate.

        Raises:
            ValueError: it counts another unit, is above the rate, or would never be left.
        """
        floor = self.floor
        if floor is not None and floor.unit != rate.unit:
            remedy = count_text(floor.calls, rate.unit) + per_text(floor.per)
            raise ValueError(
                f"the floor of the ramp, {_text_of(floor)}, counts {floor.unit}, but the rate "
                f'counts {rate.unit}: write "from {remedy}", or leave it out'
            )
        interval = self.floor_of(rate)
        if interval < rate.interval:
            raise ValueError(
                f"the floor of the ramp, {_text_of(rate if floor is None else floor)}, is above "
                f"the rate, {_text_of(rate)}: lower it, or leave it out for a tenth of the rate"
            )
        if self.per < interval:  # the ceiling would grow by more than the factor between two calls
            one = "one call" if rate.unit == CALLS else f"one of its {rate.unit}"
            raise ValueError(
                f"at the floor of the ramp, less than {one} starts in {time_text(self.per)}, so "
                f'the rate would grow between two: write "ramp {number_text(self.factor)}x'
                f'{per_text(float(-(-10 * interval // 1)))}", or a higher floor'
            )


def _text_of(pace: _Pace) -> str:
    # Not `str`, which writes some paces as intervals ("100ms"), and bursts.
    return count_text(pace.calls, pace.unit) + per_text(pace.per)


def _check_floor(floor: Any) -> None:  # noqa: ANN401 - whatever the user has passed
    if not hasattr(floor, "interval") or not hasattr(floor, "burst"):
        raise TypeError(f"floor must be a Rate such as Rate(50, 60), not {floor!r}")
    if floor.burst != 1 or floor.ramp is not None or floor.on_empty != "wait":
        raise ValueError(
            f'floor must be a plain rate, not {floor}: write "{_text_of(floor)}", without a burst, '
            'a ramp and "or raise"'
        )
