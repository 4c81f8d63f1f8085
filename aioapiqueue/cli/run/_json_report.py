"""All figures of a run as JSON has them: `--json`. Times are in seconds."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from aioapiqueue import __version__
from aioapiqueue._recording.queues import percentiles
from aioapiqueue._recording.text import as_iso
from aioapiqueue._recording.verdict import verdict_of
from aioapiqueue._recording.waits import WaitTimes
from aioapiqueue.cli.run._advice import command_to_copy, published_of
from aioapiqueue.cli.run._figures import lane_of, rows
from aioapiqueue.cli.run._limits_in_words import named
from aioapiqueue.cli.run._report import not_paced
from aioapiqueue.cli.run._unused import unused

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aioapiqueue.cli.run._model import Outcome, Plan
    from aioapiqueue.hub import CallStats

__all__ = ["figures_as_json", "json_report"]

_FIGURE = (
    "service", "operation", "lane", "region", "account", "queue", "paced", "calls", "waits",
    "waited", "longest_wait", "answers", "throttled", "errors", "refused", "peak",
)  # fmt: skip


def json_report(plan: Plan, outcome: Outcome, code: int) -> dict[str, Any]:
    """Return all figures.

    Args:
        plan: what was to be run.
        outcome: what came of it.
        code: the exit code of `run`.
    """
    none = unused(outcome.figures, plan.registry)
    waits = WaitTimes()
    for figure in outcome.figures:
        if figure.paced:
            waits.merge(figure.wait_times)
    recording = outcome.recorder.recording
    queues = recording.as_json(recording.now + outcome.seconds)
    before, good = _worst(plan, outcome)
    before = f"{before}; " if before else ""
    verdict = verdict_of(queues["queues"], outcome.seconds, before=before, good=good)
    return {
        "version": __version__,
        "verdict": verdict.text,
        "good": verdict.good,
        "command": list(plan.command),
        "start": as_iso(outcome.recorder.began),
        "end": as_iso(outcome.recorder.began + outcome.seconds),
        "dry_run": plan.dry_run,
        "seconds": outcome.seconds,
        "program_exit_code": outcome.code,
        "exit_code": code,
        "gates": [
            {"gate": one.gate.text, "value": one.value, "failed": one.failed}
            for one in outcome.judged
        ],
        "limits": plan.limits,
        "shared": outcome.shared,
        "on_host": outcome.on_host,
        "gateway": outcome.gateway,
        "waits": percentiles(waits),
        "services": [
            _picked(row.total, "service", "paced", "calls", "peak")
            | {"paced_calls": row.paced_calls}
            for row in rows(outcome.figures, outcome.recorder.peaks)
        ],
        "figures": figures_as_json(outcome.figures),
        "buckets": [
            {("bucket" if key == "operation" else key): one[key] for key in one if key != "lane"}
            for one in figures_as_json(outcome.buckets)
        ],
        "time_series": _time_series(outcome),
        **queues,
        "if_paced": _if_paced(plan, outcome),
        "unused": [
            _picked(entry, "service", "operation", "bucket", "source") | {"limit": limit}
            for entry, (_, limit) in zip(none, map(named, none), strict=True)
        ],
        "processes": [
            _picked(process, "pid", "executable", "python", "botocore")
            for process in outcome.processes
        ],
        "inactive": [dataclasses.asdict(one) | {"why": one.why.value} for one in outcome.inactive],
    }


def _worst(plan: Plan, outcome: Outcome) -> tuple[str, bool | None]:
    """Return what a verdict says before all else, and whether that is good."""
    if outcome.stopped is not None:
        return "the program was stopped", False
    number = not_paced(plan, outcome)
    if number and not (outcome.inactive and outcome.processes):
        return "no program was paced", False
    if number:
        return f"{number:,} program{'s were' if number > 1 else ' was'} not paced", False
    if failed := sum(one.failed for one in outcome.judged):
        return f"{failed:,} gate{'s' * (failed > 1)} failed", False
    return ("dry run, nothing was paced", None) if plan.dry_run else ("", True)


def figures_as_json(figures: Iterable[CallStats]) -> list[dict[str, Any]]:
    """Return the hub's figures."""
    return [
        _picked(figure, *_FIGURE)
        | {"lane": lane_of(figure)}
        | {f"wait_{name}": value for name, value in percentiles(figure.wait_times).items()}
        for figure in figures
    ]


def _time_series(outcome: Outcome) -> dict[str, Any]:
    """Return what was counted in each step of time, of each kind of call.

    `steps` are the numbers of the steps in which anything was, and each list of counts has one
    number for each of them.
    """
    series = outcome.recorder.series
    found = []
    for name, points in series.series.items():
        steps = sorted(points)
        counts = {
            field: [_plain(points[step][place]) for step in steps]
            for place, field in enumerate(series.fields)
        }
        found.append({**name._asdict(), "steps": steps, **counts})
    return {"step_seconds": series.step, "series": found}


def _plain(number: float) -> float:
    return int(number) if number == int(number) else round(number, 6)


def _if_paced(plan: Plan, outcome: Outcome) -> dict[str, Any] | None:
    """Return what would become of a dry run at its limits; None: this is none."""
    estimate = outcome.recorder.estimate
    if estimate is None:
        return None
    published = {
        (one.service, lane_of(one)): str(figure.rate)
        for one in outcome.figures
        if (figure := published_of(one.service, lane_of(one))) is not None
    }
    return {
        "seconds": outcome.paced_seconds,
        "held": [
            {"name": one.name, "limit": one.limit, "calls": count}
            for one, count in estimate.held.most_common()
        ],
        "published": [
            {"service": service, "lane": lane, "limit": limit}
            for (service, lane), limit in published.items()
        ],
        "command": command_to_copy(plan, outcome),
    }


def _picked(thing: object, *names: str) -> dict[str, Any]:
    return {name: getattr(thing, name) for name in names}
