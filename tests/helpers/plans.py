"""Plans of runs that are not run: for what is said of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from aioapiqueue.registry import Registry
from aioapiqueue_run.cli.run.launch import Launch
from aioapiqueue_run.cli.run.log import Log
from aioapiqueue_run.cli.run.model import RunPlan
from aioapiqueue_run.cli.run.options import RunOptions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["other_runs", "plan_of"]


def other_runs(
    delays: Sequence[Mapping[str, Any]] = (), shared_with: Mapping[str, Sequence[str]] | None = None
) -> Any:
    """Return what the host hub has counted of other runs, as the `on_host` of a plan.

    Args:
        delays: the limits of other runs that delayed calls, as in the JSON.
        shared_with: the queues that each other run used. Default: none.
    """
    counted = {"times_lost": 0, "delays": delays}
    return SimpleNamespace(as_json=lambda: counted, shared_with=shared_with or {})


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
