"""The result of the demonstration: checks of its figures, JSON, and sentences for people."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from aioapiqueue.recording.spi import verdict_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aioapiqueue_run.demo.scan import ScanFigures, ScanPlan

__all__ = ["as_document", "checks", "closing_text", "failed", "is_shown", "report"]

_SLACK = 1.05
_HARM = "unpaced_did_harm"


@dataclasses.dataclass(frozen=True)
class Check:
    """One condition of success.

    Attributes:
        name: its name in JSON.
        ok: whether it is met.
        detail: the figures, in a sentence.
        strict: whether it counts only with `--strict`, because a busy machine may break it.
    """

    name: str
    ok: bool
    detail: str
    strict: bool = False


def checks(plan: ScanPlan, found: Mapping[str, ScanFigures]) -> list[Check]:
    """Return the conditions for the demonstration to succeed, and whether each is met."""
    unpaced, paced = found["unpaced"], found["paced"]
    ideal = paced.ec2_calls * plan.rate.interval
    return [
        Check(
            _HARM,
            unpaced.throttled > 0 and unpaced.lost + unpaced.bystander_failures > 0,
            f"{unpaced.throttled:,} requests of the unpaced scan were throttled; it lost "
            f"{_count(unpaced.lost)} of {plan.snapshots:,} snapshots, and "
            f"{_count(unpaced.bystander_failures)} of {unpaced.bystander_calls:,} bystander calls "
            "failed",
        ),
        Check(
            "paced_not_throttled",
            paced.throttled == 0,
            f"{paced.throttled:,} requests of the paced scan were throttled",
        ),
        Check(
            "paced_bystander_unharmed",
            paced.bystander_failures == 0 < paced.bystander_calls,
            f"{paced.bystander_failures:,} of {paced.bystander_calls:,} bystander calls failed "
            "during the paced scan",
        ),
        Check(
            "paced_found_everything",
            paced.public_found == plan.public and not paced.errors,
            f"the paced scan found {paced.public_found:,} of {plan.public:,} public snapshots, "
            f"with {paced.errors:,} errors",
        ),
        Check(
            "paced_on_time",
            paced.ec2_seconds <= _SLACK * ideal,
            f"the paced scan's {paced.ec2_calls:,} EC2 calls took {paced.ec2_seconds:.2f} s, "
            f"{paced.ec2_seconds / ideal:.3f} times the ideal (calls / rate). At most {_SLACK} "
            "times is expected, but a busy machine takes longer",
            strict=True,
        ),
    ]


def failed(done: Sequence[Check], *, strict: bool) -> list[Check]:
    """Return the checks that make the demonstration fail.

    Args:
        done: all checks.
        strict: whether checks count that a busy machine may break.
    """
    return [check for check in done if not check.ok and (strict or not check.strict)]


def report(
    plan: ScanPlan, found: Mapping[str, ScanFigures], done: Sequence[Check], *, strict: bool
) -> dict[str, Any]:
    """Return all figures for JSON, with times in seconds."""
    return {
        "ok": not failed(done, strict=strict),
        "plan": dataclasses.asdict(plan)
        | {
            "buckets": plan.buckets,
            "users": plan.users,
            "rate": str(plan.rate),
            "interval": plan.rate.interval,
        },
        "strategies": {name: dataclasses.asdict(figures) for name, figures in found.items()},
        "checks": [dataclasses.asdict(check) for check in done],
    }


def as_document(
    plan: ScanPlan,
    found: Mapping[str, ScanFigures],
    done: Sequence[Check],
    recorded: Mapping[str, Any],
    *,
    strict: bool,
) -> dict[str, Any]:
    """Return the contents of the report, with the verdict on the paced scan.

    If the unpaced scan did no harm, the report says so and compares nothing.

    Args:
        plan: the plan of the scans.
        found: the result of each scan.
        done: all checks.
        recorded: the figures of each scan over time, as JSON.
        strict: whether checks count that a busy machine may break.
    """
    failures = failed(done, strict=strict)
    shown = is_shown(done)
    before = "" if not failures else "some checks failed; "
    if not shown:
        before = "the unpaced scan lost nothing; "
    verdict = verdict_of(
        [one for one in recorded["queues"] if one["queue"] == "paced"],
        found["paced"].seconds,
        before=f"{before}paced: ",
        good=not failures,
    )
    text = _comparison_text(plan, found) if shown else _no_harm_text(plan, found)
    return {
        **recorded,
        "title": f"aioapiqueue demo: a scan of {plan.snapshots:,} snapshots, three ways",
        "verdict": verdict.text,
        "good": verdict.good,
        "notes": [f"FAILED {one.name}: {one.detail}" for one in failures if one.name != _HARM]
        + [" ".join(part.split()) for part in text.split("\n\n")],
        "tables": [
            {
                "title": "The scans",
                "columns": ["scan", *(name for name, _ in _COLUMNS)],
                "rows": [
                    [name, *(getattr(figures, field) for _, field in _COLUMNS)]
                    for name, figures in found.items()
                ],
            }
        ]
        if shown
        else [],
    }


_COLUMNS = (
    ("seconds", "seconds"),
    ("requests", "calls"),
    ("to EC2", "ec2_calls"),
    ("throttled", "throttled"),
    ("errors", "errors"),
    ("public found", "public_found"),
    ("bystander calls", "bystander_calls"),
    ("bystander failures", "bystander_failures"),
)


def closing_text(
    plan: ScanPlan, found: Mapping[str, ScanFigures], done: Sequence[Check], *, strict: bool
) -> str:
    """Return the final text for the terminal, with the markup of rich.

    Args:
        plan: the plan of the scans.
        found: the result of each scan.
        done: all checks.
        strict: whether checks count that a busy machine may break.
    """
    failures = failed(done, strict=strict)
    parts = [_comparison_text(plan, found) if is_shown(done) else _no_harm_text(plan, found)]
    for check in done:
        # The first part of the text already says that the unpaced scan did no harm.
        if check.ok or check.name == _HARM:
            continue
        if check in failures:
            parts.append(f"[red]FAILED[/] {check.name}: {check.detail}.")
        elif is_shown(done):
            parts.append(f"[yellow]Late[/]: {check.detail}. This fails only with --strict.")
    if not failures:
        good = sum(check.ok for check in done)
        how_many = "all" if good == len(done) else f"{good} of"
        parts.append(f"[green]OK[/]: {how_many} {len(done)} checks passed.")
    return "\n\n".join(parts)


def is_shown(done: Sequence[Check]) -> bool:
    """Return whether the scans are compared: only if the unpaced one did harm."""
    return next(check.ok for check in done if check.name == _HARM)


def _no_harm_text(plan: ScanPlan, found: Mapping[str, ScanFigures]) -> str:
    """Return the text that replaces the comparison if the unpaced scan did no harm."""
    unpaced, limit = found["unpaced"], plan.ec2_limit
    rate = unpaced.ec2_calls / unpaced.ec2_seconds if unpaced.ec2_seconds else 0
    return f"""\
The unpaced scan made {rate:.1f} EC2 calls a second and lost nothing: the limit is
{limit.calls:g}/s after a burst of {int(limit.burst)} calls. There is nothing to compare.

Use more --workers, or run the demo again when the machine is less busy. Each
run measures how fast this machine scans, and sets a lower limit: down to one
eighth of EC2's."""


def _comparison_text(plan: ScanPlan, found: Mapping[str, ScanFigures]) -> str:
    """Return the comparison: the result of each strategy in a line or two."""
    unpaced, blanket, paced = (found[name] for name in ("unpaced", "blanket", "paced"))
    times = paced.ec2_seconds / (paced.ec2_calls * plan.rate.interval)
    harm = f"""\
Unpaced, the scan lost {unpaced.lost:,} of {plan.snapshots:,} snapshots \
and found {_count(unpaced.public_found)} of {plan.public:,} public ones;
{_count(unpaced.bystander_failures)} of {unpaced.bystander_calls:,} bystander calls failed."""
    if not unpaced.lost:
        harm = f"""\
Unpaced, the scan made {unpaced.bystander_failures:,} of {unpaced.bystander_calls:,} bystander \
calls fail.
{unpaced.throttled:,} of its own calls were throttled; retries made up for them."""
    return f"""\
{harm}

Paced, it lost {_count(paced.lost)} and found {_count(paced.public_found)} of {plan.public:,};
{_count(paced.bystander_failures)} of {paced.bystander_calls:,} bystander calls failed.
Its {paced.ec2_calls:,} EC2 calls at {plan.rate} took {paced.ec2_seconds:,.1f} s, \
{times:.3f} times the ideal (calls / rate).

Delaying every call took {blanket.seconds / paced.seconds:.1f} times as long \
as delaying only EC2 calls.
The factor depends on the mix: here one call in {paced.calls / paced.ec2_calls:.1f} goes to EC2."""


def _count(number: int) -> str:
    return f"{number:,}" if number else "none"
