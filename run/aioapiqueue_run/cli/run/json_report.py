"""The JSON of a run: `--json`. Times are in seconds."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from typing import TYPE_CHECKING, Any

from aioapiqueue import __version__
from aioapiqueue.recording.spi import FIELDS, added_up, as_iso, verdict_of
from aioapiqueue.spi import CALLS
from aioapiqueue_run.cli.run.advice import command_to_copy, published_of
from aioapiqueue_run.cli.run.limits_applied import unused
from aioapiqueue_run.cli.run.limits_in_words import named
from aioapiqueue_run.cli.run.report import not_paced

if TYPE_CHECKING:
    from collections import Counter

    from aioapiqueue.recording.spi import WaitTimes
    from aioapiqueue_run.cli.run.model import Outcome, RunPlan
    from aioapiqueue_run.hub import CallStats

__all__ = ["json_report", "json_text", "recorded_queues"]

FORMAT = 2
"""The format of the file: raised with each change that breaks a reader."""

_FIGURE = (
    "service", "operation", "lane", "region", "account", "queue", "paced", "calls", "waited",
    "answers", "throttled", "errors", "refused", "peak",
)  # fmt: skip


def json_report(plan: RunPlan, outcome: Outcome, code: int) -> dict[str, Any]:
    """Return all figures, each once.

    Args:
        plan: the plan of the run.
        outcome: the outcome.
        code: the exit code of `run`.
    """
    unused_limits = unused(outcome.figures, plan.registry)
    waits = added_up([one for one in outcome.figures if one.paced]).wait_times
    recorded = recorded_queues(outcome)
    before, good = _worst(plan, outcome)
    before = f"{before}; " if before else ""
    verdict = verdict_of(recorded["queues"], outcome.seconds, before=before, good=good)
    return {
        "format": FORMAT,
        "version": __version__,
        "verdict": verdict.text,
        "good": verdict.good,
        "command": list(plan.given.command),
        "start": as_iso(outcome.recording.began),
        "end": as_iso(outcome.recording.began + outcome.seconds),
        "seconds": _plain(outcome.seconds),
        "dry_run": plan.given.dry_run,
        "program_exit_code": outcome.code,
        "exit_code": code,
        "gates": [
            {
                "gate": one.gate.text,
                # It is infinite if the value is unknown, and JSON has no infinity.
                "value": _plain(one.value) if math.isfinite(one.value) else None,
                "failed": one.failed,
            }
            for one in outcome.judged
        ],
        "limits": plan.limits,
        "unused": [
            _picked(entry, "service", "operation", "bucket", "source") | {"limit": limit}
            for entry, (_, limit) in zip(unused_limits, map(named, unused_limits), strict=True)
        ],
        "waits": _percentiles(waits),
        "peaks": {one.service: one.service_peak for one in outcome.figures},
        "step_seconds": outcome.recording.series.step,
        "figures": [
            figure_as_json(one) | {"time_series": _time_series(one)} for one in outcome.figures
        ],
        "buckets": [
            {("bucket" if key == "operation" else key): one[key] for key in one if key != "lane"}
            for one in map(figure_as_json, outcome.buckets)
        ],
        "queues": [
            _queue(one)
            for one in recorded["queues"]
            if one["paced"] or _limited([one, *one["lanes"]])
        ],
        **{name: recorded[name] for name in ("changes", "changes_left_out", "learnt")},
        "lanes_left_out": recorded["lanes_left_out"],
        "times": {
            name: None if seconds is None else _plain(seconds)
            for name, seconds in recorded["times"].items()
            if name != "seconds"
        },
        "if_paced": _if_paced(plan, outcome),
        "processes": [
            _picked(process, "pid", "executable", "python", "botocore")
            for process in outcome.processes
        ],
        "inactive": [dataclasses.asdict(one) | {"why": one.why.value} for one in outcome.inactive],
        "on_host": None if plan.on_host is None else plan.on_host.as_json(),
        "shared": None if plan.shared is None else plan.shared.as_json(),
        "gateway": outcome.gateway,
    }


def json_text(report: dict[str, Any]) -> str:
    """Return a report as text, with lists and objects of numbers on one line each."""
    text = json.dumps(report, indent=2)
    # A string in JSON contains no newline, so that this matches between values only.
    return re.sub(r"([\[{])\n\s+([^\[\]{}]*?)\n\s+([\]}])", _on_one_line, text) + "\n"


def _on_one_line(found: re.Match[str]) -> str:
    items = re.split(r",\n\s*", found[2])
    if all(map(_NUMBER.fullmatch, items)):
        return f"{found[1]}{', '.join(items)}{found[3]}"
    return found[0]


_NUMBER = re.compile(r'(?:"[\w ]*": )?(?:-?\d[\d.e+-]*|null)')


def recorded_queues(outcome: Outcome) -> dict[str, Any]:
    """Return the recording of the queues, which the report shows."""
    return outcome.recording.as_json(outcome.recording.now + outcome.seconds)


def _worst(plan: RunPlan, outcome: Outcome) -> tuple[str, bool | None]:
    """Return the most important fault for the verdict, and whether the run is good."""
    if outcome.stopped is not None:
        return "the program was stopped", False
    number = not_paced(plan, outcome)
    if number and not (outcome.inactive and outcome.processes):
        return "no program was paced", False
    if number:
        return f"{number:,} program{'s were' if number > 1 else ' was'} not paced", False
    if failed := sum(one.failed for one in outcome.judged):
        return f"{failed:,} gate{'s' * (failed > 1)} failed", False
    return ("dry run, nothing was paced", None) if plan.given.dry_run else ("", True)


def figure_as_json(figure: CallStats) -> dict[str, Any]:
    """Return the figures of one kind of call."""
    return _picked(figure, *_FIGURE) | {
        "lane": figure.lane_name,
        "delayed": figure.waits,
        "waited": _plain(figure.waited),
        "waits": _percentiles(figure.wait_times),
    }


def _percentiles(waits: WaitTimes) -> dict[str, float]:
    return {name: _plain(value) for name, value in waits.as_json().items()}


def _time_series(figure: CallStats) -> dict[str, Any]:
    """Return a time series.

    `steps` are the numbers of the steps that have counts, and each list of counts has one number
    for each of them. Counts that are always 0 are left out.
    """
    points = figure.over_time.get(CALLS, {})
    steps = sorted(points)
    counts = {
        "calls" if field == "started" else field: [_plain(points[step][place]) for step in steps]
        for place, field in enumerate(FIELDS)
        if field != "used"
    }
    return {"steps": steps} | {field: found for field, found in counts.items() if any(found)}


def _queue(queue: dict[str, Any]) -> dict[str, Any]:
    """Return the limits of a queue and their effect; `figures` has its calls."""
    waits = {name: _plain(value) for name, value in queue["waits"].items()}
    lanes = [{"lane": one["lane"], **_limits(one)} for one in queue["lanes"] if _limited([one])]
    tightest = queue["tightest"]
    if tightest is not None:
        tightest = tightest | {"share": _plain(tightest["share"])}
    return {
        "queue": queue["queue"],
        "paced": queue["paced"],
        **_limits(queue),
        "tightest": tightest,
        "waits": waits,
        "lanes": lanes,
    }


def _limited(counts: list[dict[str, Any]]) -> bool:
    return any(one["limits"] for one in counts)


def _limits(counts: dict[str, Any]) -> dict[str, Any]:
    """Return the limits of a queue or a lane, with the amounts allowed and used."""
    series = counts["time_series"]
    budgets = counts.get("budgets")
    return {
        "limits": counts["limits"],
        # Calls are left out if each has used one of its limit: `figures` has their number.
        "used": {
            unit: used
            for unit, used in counts["used"].items()
            if unit != CALLS or used != counts["calls"]
        },
        "allowed": {one["unit"]: one["allowed"] for one in series if "allowed" in one},
        **({"budgets": budgets} if budgets else {}),
    }


def _plain(number: float) -> float:
    return int(number) if number == int(number) else round(number, 6)


def _if_paced(plan: RunPlan, outcome: Outcome) -> dict[str, Any] | None:
    """Return the estimate of the paced run; None unless this is a dry run."""
    estimate = outcome.estimate
    if estimate is None:
        return None
    published = {
        (one.service, one.lane_name): figure
        for one in outcome.figures
        if (figure := published_of(one.service, one.lane_name)) is not None
    }
    return {
        "seconds": None if outcome.paced_seconds is None else _plain(outcome.paced_seconds),
        "held": _counted(estimate.held),
        **({"refused": _counted(estimate.refused)} if estimate.refused else {}),
        "published": [
            {
                "service": service,
                "lane": lane,
                "limit": str(figure.rate),
                "page": figure.source,
                "read": figure.read,
            }
            for (service, lane), figure in published.items()
        ],
        "command": command_to_copy(plan),
    }


def _counted(calls: Counter[tuple[str, str]]) -> list[dict[str, Any]]:
    """Return numbers of calls by the name and text of a limit."""
    return [
        {"name": name, "limit": limit, "calls": count}
        for (name, limit), count in calls.most_common()
    ]


def _picked(thing: object, *names: str) -> dict[str, Any]:
    return {name: getattr(thing, name) for name in names}
