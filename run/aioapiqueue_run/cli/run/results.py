"""Shows the results of a run, and writes the files of --json and --report."""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING, Any

from aioapiqueue_run.cli.run.gates import judge
from aioapiqueue_run.cli.run.html_report import html_report
from aioapiqueue_run.cli.run.json_report import json_report, json_text
from aioapiqueue_run.cli.run.report import (
    headline,
    measure,
    remarks,
    tables,
    to_copy,
    verdict,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioapiqueue_run.cli.run.model import Outcome, RunPlan

__all__ = ["show_results"]


def show_results(plan: RunPlan, outcome: Outcome) -> int:
    """Write all results of a run; return its exit code."""
    measured = measure(plan, outcome)
    outcome.judged = [judge(gate, measured) for gate in plan.gates]
    code = verdict(plan, outcome)  # it depends on the gates, and all below shows it
    plan.log.say(headline(plan, outcome, code))
    plan.log.show(tables(plan, outcome))
    plan.log.say("\n".join(remarks(plan, outcome)))
    plan.log.show(to_copy(plan, outcome))
    _write_files(plan, outcome, code)
    return code


def _write_files(plan: RunPlan, outcome: Outcome, code: int) -> None:
    """Write the files. An error is reported, and changes no exit code."""
    figures = cache(lambda: json_report(plan, outcome, code))
    page = partial(html_report, plan, outcome)
    makers: dict[str, Callable[[dict[str, Any]], str]] = {"--json": json_text, "--report": page}
    for option, make in makers.items():
        file = plan.files.get(option)
        if file is None:
            continue
        try:
            text = make(figures())
        except Exception as error:  # noqa: BLE001 - a bug of ours must not hide the program's exit code
            why = f"not written because of a bug, please report it: {type(error).__name__}: {error}"
            plan.log.say(f"{file} {why}")
            file.discard()
            continue
        try:
            file.write(text)
        except OSError as error:
            plan.log.say(f"{file} cannot be written: {error.strerror}")
        else:
            if option == "--report":
                plan.log.say(f"report written to {file.path}")
