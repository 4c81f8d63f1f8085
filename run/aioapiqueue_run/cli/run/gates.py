"""`--fail-on`: conditions that make a run fail.

Their form is that of thresholds in load testers: a metric and a bound. A gate is read before the
program starts, and judged when the program has ended.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import operator
import re
from typing import TYPE_CHECKING

from aioapiqueue_run.cli.console import pluralize, short

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["WAITS", "Judged", "RunGate", "judge", "read_gate"]

WAITS: Mapping[str, float] = {"wait p50": 50, "wait p90": 90, "wait p99": 99, "wait max": 100}
"""The metrics of waits, and the percentile of each."""
_METRICS = ("throttled", "failed", "refused", *WAITS, "unused", "unpaced")
_SHARES = ("throttled", "failed", "refused")
"""Metrics that may be compared with a percentage of all responses."""
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
class RunGate:
    """A condition that makes a run fail.

    Attributes:
        text: the option's value.
        metric: the name of the metric.
        sign: the operator of the comparison.
        bound: the value to compare with.
        percent: whether the bound is a percentage of all responses.
    """

    text: str
    metric: str
    sign: str = ">"
    bound: float = 0.0
    percent: bool = False


def read_gate(text: str, *, dry_run: bool = False) -> RunGate:
    """Read a gate: `"METRIC"` or `"METRIC OP VALUE"`.

    Args:
        text: the value of the option.
        dry_run: whether it is for a dry run. Default: False.

    Raises:
        ValueError: it is invalid, or could never fail; the error says what to write.
    """
    match = _FORM.fullmatch(" ".join(text.split()).lower())
    if match is None:
        raise ValueError(f"{text!r} is not a gate: write one such as {_EXAMPLES}")
    metric, sign, bound, unit = match.groups()
    if metric == "wait":
        raise ValueError(f"{text!r}: which wait? Write one of {', '.join(WAITS)}")
    if metric not in _METRICS:
        near = difflib.get_close_matches(metric, _METRICS, n=1)
        meant = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(_METRICS)}"
        raise ValueError(f"{text!r}: unknown metric {metric!r}; {meant}")
    if sign is None:
        if metric in WAITS:
            raise ValueError(f'{text!r} needs a number of seconds, such as "{metric} > 30"')
        return RunGate(text, metric)
    if unit == "%" and metric not in _SHARES:
        raise ValueError(f"{text!r}: % is allowed only with {', '.join(_SHARES)}: remove the %")
    if unit == "s" and metric not in WAITS:
        raise ValueError(f"{text!r}: {metric} is a count, not a time: remove the s")
    if dry_run and metric in WAITS:
        raise ValueError(f"{text!r}: a dry run has no waits: remove this gate or --dry-run")
    return RunGate(text, metric, sign, float(bound), unit == "%")


@dataclasses.dataclass(frozen=True)
class Judged:
    """The result of a gate.

    Attributes:
        gate: the gate.
        value: the value of the metric, in percent if the gate is.
        failed: whether the condition is true, so that the run fails.
        found: the value in words.
    """

    gate: RunGate
    value: float
    failed: bool
    found: str


def judge(gate: RunGate, measured: Mapping[str, float]) -> Judged:
    """Return the result of a gate.

    Args:
        gate: the gate.
        measured: the value of each metric. An infinite one is unknown, so that its gate fails
            rather than passes unchecked. Also `"answers"`, the number of attempts that ended with a
            response or an error, and `"not paced"`, the number of processes that were not paced,
            whose attempts are not counted.
    """
    value, found = _value(gate, measured)
    return Judged(gate, value, _OPERATORS[gate.sign](value, gate.bound), found)


def _value(gate: RunGate, measured: Mapping[str, float]) -> tuple[float, str]:
    value = measured[gate.metric]
    if gate.metric in WAITS:
        return value, f"{short(value)} s"
    if value == math.inf:
        return value, "unknown, because (others) may include calls that a limit applies to"
    number = int(value)
    if gate.metric == "unused":
        return number, pluralize(number, "unused limit")
    if gate.metric == "unpaced":
        found, not_paced = pluralize(number, "call"), int(measured["not paced"])
        if not_paced:
            found += f", {pluralize(not_paced, 'Python process', 'Python processes')} not paced"
        return number + not_paced, found
    # Refused attempts got no response: without them, the share could exceed 100 %.
    answers = int(measured["answers"]) + (number if gate.metric == "refused" else 0)
    share = 100 * number / answers if answers else 0.0
    if gate.percent:
        return share, f"{share:.3g}%, {number:,} of {answers:,}"
    return number, f"{number:,} of {answers:,}"
