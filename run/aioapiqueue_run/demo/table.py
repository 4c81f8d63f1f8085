"""The output of the demonstration: progress while it runs, and the final table."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from rich import box
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from rich.console import Console

    from aioapiqueue_run.demo.scan import ScanFigures, ScanPlan, Strategy

__all__ = ["closing_table", "progress"]

_BAR_SECONDS = 0.2


@contextlib.asynccontextmanager
async def progress(
    console: Console, plan: ScanPlan, ways: Sequence[Strategy]
) -> AsyncIterator[None]:
    """Show bars with the progress of the strategies while the block runs, in a terminal only."""
    showing = asyncio.create_task(_show_bars(console, plan, ways))
    try:
        yield
    finally:
        showing.cancel()
        await asyncio.wait([showing])


async def _show_bars(console: Console, plan: ScanPlan, ways: Sequence[Strategy]) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f} calls"),
        TextColumn("[red]{task.fields[errors]:,} errors"),
        TimeElapsedColumn(),
    )
    with Progress(
        *columns,
        console=console,
        auto_refresh=False,
        expand=True,
        disable=not console.is_terminal,
    ) as bars:
        tasks = {
            bars.add_task(f"{way.name:8}", start=False, total=plan.calls, errors=0): way
            for way in ways
        }

        def update() -> None:
            for task, way in tasks.items():
                if way.done:
                    bars.start_task(task)
                bars.update(task, completed=way.done, errors=way.figures.errors)
                if way.figures.seconds:
                    bars.stop_task(task)
            bars.refresh()

        try:
            while True:
                await asyncio.sleep(_BAR_SECONDS)
                update()
        finally:
            update()


def closing_table(console: Console, plan: ScanPlan, found: Mapping[str, ScanFigures]) -> Table:
    """Return a table that compares the strategies, in 80 columns."""
    table = Table(
        "Strategy",
        box=box.SIMPLE_HEAD if console.is_terminal else None,
        pad_edge=False,
        header_style="bold",
    )
    for heading in (
        "Seconds",
        "Requests\nEC2 / all",
        "Throttled\nresponses",
        "Scanner\nerrors",
        "Public\nfound",
        "Bystander\nfailures",
    ):
        table.add_column(heading, justify="right")
    for name, figures in found.items():
        bad = figures.throttled or figures.errors or figures.bystander_failures
        table.add_row(
            name,
            f"{figures.seconds:,.1f}",
            f"{figures.ec2_calls:,} / {figures.calls:,}",
            f"{figures.throttled:,}",
            f"{figures.errors:,}",
            f"{figures.public_found:,} of {plan.public:,}",
            f"{figures.bystander_failures:,} of {figures.bystander_calls:,}",
            style="red" if bad else "green",
        )
    return table
