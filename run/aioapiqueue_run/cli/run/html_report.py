"""The page of `run --report`, made from the figures of `--json`."""

from __future__ import annotations

import dataclasses
import re
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from aioapiqueue_run.cli.run.json_report import recorded_queues
from aioapiqueue_run.cli.run.report import remarks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aioapiqueue_run.cli.run.model import Outcome, RunPlan

__all__ = ["html_report"]


def html_report(plan: RunPlan, outcome: Outcome, figures: Mapping[str, Any]) -> str:
    """Return the page.

    Args:
        plan: the plan of the run.
        outcome: the outcome of the run.
        figures: the result of `json_report`.
    """
    from aioapiqueue.integrations.report import page  # noqa: PLC0415 - Jinja is slow to load
    from aioapiqueue.integrations.report.spi import Masks  # noqa: PLC0415 - as above

    title = f"aioapiqueue run: {plan.given.program}"
    recorded = recorded_queues(outcome)
    facts = _facts(figures, recorded["queues"])
    document = (
        recorded
        | {name: figures[name] for name in _FROM_JSON}
        | {
            "title": f"{title} (dry run)" if plan.given.dry_run else title,
            "facts": facts,
            "notes": _notes(plan, outcome),
            "tables": _tables(figures),
            "times": {**recorded["times"], "paced": outcome.paced_seconds},
        }
    )
    accounts = {one["account"] for one in figures["figures"] if one["account"] is not None}
    # An access key stands for an account whose id, of 12 digits, is unknown.
    keys = [one for one in accounts if not re.fullmatch("[0-9]{12}", one)]
    # A key may be any word, such as "a", which must not be masked everywhere. So it is masked only
    # at the end of the name of a queue.
    delays = (figures["on_host"] or {}).get("delays", ())
    changed = (*recorded["changes"], *recorded["learnt"])
    # The figures have the names of all queues, even of those whose calls only waited.
    named = (*figures["figures"], *recorded["queues"], *changed, *delays)
    names = {one["queue"] for one in named if one["queue"] is not None}
    prefixes = {
        name.removesuffix(key) for name in names for key in keys if name.endswith(f" {key}")
    }
    masks = Masks(show_accounts=plan.given.show_accounts, access_keys=keys, prefixes=prefixes)
    return page(masks.all(document), show_accounts=plan.given.show_accounts)


_FROM_JSON = ("verdict", "good", "version", "start", "end", "seconds")


def _facts(
    figures: Mapping[str, Any], queues: Sequence[Mapping[str, Any]]
) -> list[tuple[str, Any]]:
    counts = [(name, sum(one[name] for one in queues)) for name in _SUMMED]
    return [
        *counts,
        ("exit code", figures["exit_code"]),
        ("Python processes", len(figures["processes"])),
    ]


_SUMMED = ("calls", "throttled", "errors", "refused")


def _notes(plan: RunPlan, outcome: Outcome) -> list[str]:
    """Return the remarks, without arguments of programs, as in `RunOptions.program`."""
    short = [
        dataclasses.replace(one, command=PurePath((one.command.split() or [""])[0]).name)
        for one in outcome.inactive
    ]
    return remarks(plan, dataclasses.replace(outcome, inactive=short))


def _tables(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    delays = (figures["on_host"] or {}).get("delays", ())
    if not delays:
        return []
    names = ("queue", "lane", "limit", "whose", "calls", "seconds")
    columns = ("queue", "lane", "limit", "set by", "calls delayed", "seconds")
    return [
        {
            "title": "Waits for limits of other runs on this host",
            "columns": columns,
            "rows": [[one[name] for name in names] for one in delays],
        }
    ]
