"""The result of the demonstration: what failed, a table, and sentences."""

from __future__ import annotations

from textwrap import fill
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from aioapiqueue_run.demo.gate import EC2_READS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from aioapiqueue_run.demo.scan import ScanFigures, ScanPlan

__all__ = ["are_as_promised", "closing_table", "closing_text", "did_harm"]

_WIDTH = 80
_COLUMNS = (
    "Scan",
    "Seconds",
    "Requests\nEC2 / all",
    "Throttled\nrequests",
    "Scanner\nerrors",
    "Public\nfound",
    "Bystander\nfailures",
)


def did_harm(unpaced: ScanFigures) -> bool:
    """Return whether throttling made the unpaced scan lose something, or its bystander fail."""
    return unpaced.throttled > 0 and unpaced.lost + unpaced.bystander_failures > 0


def failures(plan: ScanPlan, paced: ScanFigures) -> Iterator[str]:
    """Yield what the paced scan does not keep of its promises, in sentences."""
    if paced.throttled:
        yield (
            f"{paced.throttled:,} of {paced.ec2_calls:,} EC2 calls of the paced scan were "
            "throttled."
        )
    if paced.bystander_failures or not paced.bystander_calls:
        yield (
            f"{paced.bystander_failures:,} of {paced.bystander_calls:,} bystander calls failed "
            "during the paced scan."
        )
    if paced.public_found != plan.public or paced.errors:
        yield (
            f"The paced scan found {paced.public_found:,} of {plan.public:,} public snapshots; "
            f"{_count(paced.errors)} of its {paced.calls:,} calls failed."
        )


def are_as_promised(plan: ScanPlan, found: Mapping[str, ScanFigures]) -> bool:
    """Return whether the unpaced scan did harm and the paced one keeps its promises.

    Args:
        plan: the plan of the scans.
        found: the result of each scan.
    """
    return did_harm(found["unpaced"]) and not any(failures(plan, found["paced"]))


def closing_table(plan: ScanPlan, found: Mapping[str, ScanFigures]) -> Table:
    """Return a table that compares the scans, in 80 columns."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in _COLUMNS:
        table.add_column(heading, justify="left" if heading == _COLUMNS[0] else "right")
    for name, one in found.items():
        bad = one.throttled or one.errors or one.bystander_failures
        table.add_row(
            name,
            f"{one.seconds:,.1f}",
            f"{one.ec2_calls:,} / {one.calls:,}",
            f"{one.throttled:,}",
            f"{one.errors:,}",
            f"{one.public_found:,} of {plan.public:,}",
            f"{one.bystander_failures:,} of {one.bystander_calls:,}",
            style="red" if bad else "green",
        )
    return table


def closing_text(plan: ScanPlan, found: Mapping[str, ScanFigures]) -> Text:
    """Return the final text for the terminal, in 80 columns."""
    text = Text("\n" + "\n\n".join(fill(one, _WIDTH) for one in _sentences(plan, found)))
    for one in failures(plan, found["paced"]):
        text.append("\n\nFAILED", style="red").append(f": {one}")
    if are_as_promised(plan, found):
        text.append("\n\nOK", style="green").append(": the paced scan lost nothing.")
    return text


def _sentences(plan: ScanPlan, found: Mapping[str, ScanFigures]) -> Iterator[str]:
    """Yield the comparison, or why there is none, in paragraphs."""
    unpaced, blanket, paced = (found[name] for name in ("unpaced", "blanket", "paced"))
    if not did_harm(unpaced):
        yield (
            f"The unpaced scan made {unpaced.ec2_calls / unpaced.ec2_seconds:.1f} EC2 calls a "
            f"second and lost nothing: the limit is {EC2_READS.calls:g}/s after a burst of "
            f"{int(EC2_READS.burst)} calls. There is nothing to compare."
        )
        yield "Use more --snapshots, or run the demo again when the machine is less busy."
        return
    yield (
        f"Unpaced, {unpaced.throttled:,} calls were throttled. The scan lost "
        f"{_count(unpaced.lost)} of {plan.snapshots:,} snapshots and found "
        f"{_count(unpaced.public_found)} of {plan.public:,} public ones; "
        f"{_count(unpaced.bystander_failures)} of {unpaced.bystander_calls:,} bystander calls "
        "failed."
    )
    times = paced.ec2_seconds / (paced.ec2_calls * plan.rate.interval)
    yield (
        f"Paced, it lost {_count(paced.lost)} and found {_count(paced.public_found)} of "
        f"{plan.public:,}; {_count(paced.bystander_failures)} of {paced.bystander_calls:,} "
        f"bystander calls failed. Its {paced.ec2_calls:,} EC2 calls took "
        f"{paced.ec2_seconds:,.1f} s, {times:.3f} times as long as at exactly {plan.rate}."
    )
    yield (
        f"Delaying every call took {blanket.seconds / paced.seconds:.1f} times as long as delaying "
        f"only EC2 calls, because only one call in {paced.calls / paced.ec2_calls:.1f} goes to EC2."
    )


def _count(number: int) -> str:
    return f"{number:,}" if number else "none"
