"""`run --report`: the page of a run, from what its JSON has."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from aioapiqueue.cli.run._launch import is_python_name
from aioapiqueue.cli.run._report import remarks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aioapiqueue.cli.run._model import Outcome, Plan

__all__ = ["html_report", "program_name"]


def html_report(
    plan: Plan, outcome: Outcome, figures: Mapping[str, Any], *, show_accounts: bool
) -> str:
    """Return the page.

    Args:
        plan: what was to be run.
        outcome: what came of it.
        figures: the same as JSON has them.
        show_accounts: leave the numbers of accounts as they are.
    """
    from aioapiqueue.integrations.report import page  # noqa: PLC0415 - needs Jinja

    title = f"aioapiqueue run: {program_name(plan.command)}"
    document = {name: figures[name] for name in _FROM_JSON} | {
        "title": f"{title} (dry run)" if plan.dry_run else title,
        "facts": _facts(figures),
        "notes": _notes(plan, outcome),
        "tables": _tables(figures),
        "times": {**figures["times"], "paced": outcome.paced_seconds},
    }
    return page(document, show_accounts=show_accounts)


_FROM_JSON = (
    *("verdict", "good", "version", "start", "end", "seconds", "queues", "step_seconds"),
    *("changes", "changes_left_out", "learnt"),
)


def program_name(command: Sequence[str]) -> str:
    """Return what ran, without arguments: there may be a password among them."""
    name = PurePath(command[0]).name
    if not is_python_name(name):
        return name
    arguments = iter(command[1:])
    for argument in arguments:
        if argument == "-m":
            return f"{name} -m {next(arguments, '')}".rstrip()
        if argument in _WITH_VALUE:
            next(arguments, None)
        elif argument == "-c":
            break
        elif not argument.startswith("-"):
            return f"{name} {PurePath(argument).name}"
    return name


_WITH_VALUE = ("-W", "-X", "--check-hash-based-pycs")
"""Options of Python's own that are followed by a value."""


def _facts(figures: Mapping[str, Any]) -> list[tuple[str, Any]]:
    counts = [(name, sum(one[name] for one in figures["queues"])) for name in _SUMMED]
    return [
        *counts,
        ("exit code", figures["exit_code"]),
        ("Python processes", len(figures["processes"])),
    ]


_SUMMED = ("calls", "throttled", "errors", "refused")


def _notes(plan: Plan, outcome: Outcome) -> list[str]:
    """Return the remarks, without the arguments of any program."""
    notes = remarks(plan, outcome)
    for one in outcome.inactive:
        if one.command:
            short = PurePath(one.command.split()[0]).name
            notes = [note.replace(one.command, short) for note in notes]
    return notes


def _tables(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    delays = (figures["on_host"] or {}).get("delays", ())
    if not delays:
        return []
    names = ("queue", "lane", "limit", "whose", "calls", "seconds")
    return [
        {
            "title": "Made to wait by limits of other runs on this host",
            "columns": names,
            "rows": [[one[name] for name in names] for one in delays],
        }
    ]
