"""All figures of a run as JSON has them: `--json`. Times are in seconds."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from aioapiqueue.cli.run._figures import lane_of, rows
from aioapiqueue.cli.run._limits_in_words import named
from aioapiqueue.cli.run._unused import unused

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aioapiqueue.cli.run._model import Outcome, Plan
    from aioapiqueue.hub import CallStats

__all__ = ["figures_as_json", "json_report"]

_FIGURE = (
    "service", "operation", "lane", "region", "account", "queue", "paced", "calls", "waits",
    "waited", "longest_wait", "throttled", "errors", "peak",
)  # fmt: skip


def json_report(plan: Plan, outcome: Outcome, code: int) -> dict[str, Any]:
    """Return all figures.

    Args:
        plan: what was to be run.
        outcome: what came of it.
        code: the exit code of `run`.
    """
    none = unused(outcome.figures, plan.registry, dry_run=plan.dry_run)
    return {
        "command": list(plan.command),
        "dry_run": plan.dry_run,
        "seconds": outcome.seconds,
        "program_exit_code": outcome.code,
        "exit_code": code,
        "limits": plan.limits,
        "shared": outcome.shared,
        "on_host": outcome.on_host,
        "services": [
            _picked(row.total, "service", "paced", "calls", "peak")
            | {"paced_calls": row.paced_calls}
            for row in rows(outcome.figures, outcome.peaks)
        ],
        "figures": figures_as_json(outcome.figures),
        "buckets": [
            {("bucket" if key == "operation" else key): one[key] for key in one if key != "lane"}
            for one in figures_as_json(outcome.buckets)
        ],
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


def figures_as_json(figures: Iterable[CallStats]) -> list[dict[str, Any]]:
    """Return the hub's figures."""
    return [_picked(figure, *_FIGURE) | {"lane": lane_of(figure)} for figure in figures]


def _picked(thing: object, *names: str) -> dict[str, Any]:
    return {name: getattr(thing, name) for name in names}
