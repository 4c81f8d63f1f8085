"""Plans of runs that are not run: for what is said of them."""

from __future__ import annotations

from typing import Any

from aioapiqueue.registry import Registry
from aioapiqueue_run.cli.run.launch import Launch
from aioapiqueue_run.cli.run.log import Log
from aioapiqueue_run.cli.run.model import RunPlan
from aioapiqueue_run.cli.run.options import RunOptions

__all__ = ["plan_of"]


def plan_of(registry: Registry | None = None, **changes: Any) -> RunPlan:
    """Return a plan to run `scan`, with these limits (default: none), but for `changes`."""
    defaults: dict[str, Any] = {
        "launch": Launch("/bin/scan", "scan", python=True),
        "registry": Registry({}) if registry is None else registry,
        "log": Log(None),
        "shared": None,
        "on_host": None,
        "given": RunOptions(["scan"]),
    }
    return RunPlan(**(defaults | changes))
