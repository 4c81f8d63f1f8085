"""`--fail-on`: what a run must not have done to count as a success.

The names and the form are those of thresholds in load testers: a metric, and what it is compared
with. A gate is read before anything is started, and judged when the program has ended.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import operator
import re
from typing import TYPE_CHECKING

from aioapiqueue._recording import WaitTimes
from aioapiqueue.cli._console import pluralize, short

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["FailCondition", "Judged", "Measured", "judge", "read_gate"]

_WAITS: Mapping[str, float] = {"wait p50": 50, "wait p90": 90, "wait p99": 99, "wait max": 100}
_METRICS = ("throttled", "failed", "refused", *_WAITS, "unused", "unpaced")
_SHARES = ("throttled", "failed", "refused")
"""Metrics that may be compared with a share of all answers."""
_OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
}
_FORM = re.compile(r"([a-z][a-z0-9 ]*?) *(?:(>=|<=|==|>|<) *(\d+(?:\.\d+)?) *(%|s)?)?", re.ASCII)
_EXAMPLES = '"throttled", "failed > 1%", "wait p99 > 30" or "unused"'


@dataclasses.dataclass(frozen=True)
class FailCondition:
    """What must not be.

    Attributes:
        text: as it was given.
        metric: one of those above.
        sign: how it is compared.
        bound: with what.
        percent: whether that is a share of all answers, in percent.
    """

    text: str
    metric: str
    sign: str = ">"
    bound: float = 0.0
    percent: bool = False


def read_gate(text: str) -> FailCondition:
    """Read a gate: `"METRIC"` or `"METRIC OP VALUE"`.

    Raises:
        ValueError: it is invalid; the message has what to write.
    """
    match = _FORM.fullmatch(" ".join(text.split()).lower())
    if match is None:
        raise ValueError(f"{text!r} is not a gate: write one such as {_EXAMPLES}")
    metric, sign, bound, unit = match.groups()
    if metric == "wait":
        raise ValueError(f"{text!r}: which wait? Write one of {', '.join(_WAITS)}")
    if metric not in _METRICS:
        near = difflib.get_close_matches(metric, _METRICS, n=1)
        meant = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(_METRICS)}"
        raise ValueError(f"{text!r}: unknown metric {metric!r}; {meant}")
    if sign is None:
        if metric in _WAITS:
            raise ValueError(f'{text!r} needs a number of seconds, such as "{metric} > 30"')
        return FailCondition(text, metric)
    if unit == "%" and metric not in _SHARES:
        raise ValueError(f"{text!r}: % is allowed only with {', '.join(_SHARES)}: remove the %")
    if unit == "s" and metric not in _WAITS:
        raise ValueError(f"{text!r}: {metric} is a count, not a time: remove the s")
    return FailCondition(text, metric, sign, float(bound), unit == "%")


@dataclasses.dataclass
class Measured:
    """What gates are judged by.

    Attributes:
        answers: attempts that were answered, or ended with an error in place of an answer.
        throttled: those by which the other side pushed back.
        failed: those with another error.
        refused: attempts that the pacing refused.
        unpaced: attempts that came under no limit.
        not_paced: processes that were not paced, whose attempts nobody counted.
        unused: limits that no attempt came under; None: nobody knows.
        waits: of the attempts that came under a limit.
    """

    answers: int = 0
    throttled: int = 0
    failed: int = 0
    refused: int = 0
    unpaced: int = 0
    not_paced: int = 0
    unused: int | None = 0
    waits: WaitTimes = dataclasses.field(default_factory=WaitTimes)


@dataclasses.dataclass(frozen=True)
class Judged:
    """A gate, and what came of it.

    Attributes:
        gate: which.
        value: of its metric, in percent if the gate is.
        failed: whether that is what must not be.
        found: the value in words.
    """

    gate: FailCondition
    value: float
    failed: bool
    found: str


def judge(gate: FailCondition, measured: Measured) -> Judged:
    """Return what came of a gate."""
    value, found = _value(gate, measured)
    return Judged(gate, value, _OPERATORS[gate.sign](value, gate.bound), found)


def _value(gate: FailCondition, measured: Measured) -> tuple[float, str]:
    if gate.metric in _WAITS:
        seconds = measured.waits.percentile(_WAITS[gate.metric])
        return seconds, f"{short(seconds)} s"
    if gate.metric == "unused":
        if measured.unused is None:  # fail closed
            return math.inf, "unknown, because (others) may include calls that a limit applies to"
        return measured.unused, pluralize(measured.unused, "unused limit")
    if gate.metric == "unpaced":
        found = pluralize(measured.unpaced, "call")
        if measured.not_paced:
            processes = pluralize(measured.not_paced, "Python process", "Python processes")
            found += f", {processes} not paced"
        return measured.unpaced + measured.not_paced, found
    number: int = getattr(measured, gate.metric)
    answers = measured.answers + (number if gate.metric == "refused" else 0)
    share = 100 * number / answers if answers else 0.0
    if gate.percent:
        return share, f"{share:.3g}%, {number:,} of {answers:,}"
    return number, f"{number:,} of {answers:,}"
