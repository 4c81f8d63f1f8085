"""What came of the demonstration: figures, the checks on them, and sentences for people."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from aioapiqueue._recording.verdict import verdict_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aioapiqueue.demo.scan import Figures, Plan

__all__ = ["Check", "as_document", "checks", "report", "sentences"]

_SLACK = 1.05


@dataclasses.dataclass(frozen=True)
class Check:
    """One condition of success, and the figures that meet it or do not."""

    name: str
    ok: bool
    detail: str


def checks(plan: Plan, found: Mapping[str, Figures]) -> list[Check]:
    """Return what has to hold for the demonstration to have succeeded."""
    paced = found["paced"]
    ideal = paced.ec2_calls * plan.rate.interval
    return [
        Check(
            "unpaced_was_throttled",
            found["unpaced"].throttled > 0,
            f"the gate throttled {found['unpaced'].throttled:,} requests of the unpaced scan "
            "(if none: take more --snapshots or more --workers)",
        ),
        Check(
            "paced_not_throttled",
            paced.throttled == 0,
            f"the gate throttled {paced.throttled:,} requests of the paced scan",
        ),
        Check(
            "paced_bystander_unharmed",
            paced.bystander_failures == 0 < paced.bystander_calls,
            f"{paced.bystander_failures:,} of {paced.bystander_calls:,} bystander calls failed "
            "beside the paced scan",
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
            f"{paced.ec2_seconds / ideal:.3f} of calls / rate (at most {_SLACK}; "
            "on a machine that has other work to do, it is more)",
        ),
    ]


def report(plan: Plan, found: Mapping[str, Figures], done: Sequence[Check]) -> dict[str, Any]:
    """Return all figures as JSON has them, with times in seconds."""
    return {
        "ok": all(check.ok for check in done),
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
    plan: Plan,
    found: Mapping[str, Figures],
    done: Sequence[Check],
    recorded: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what the report is made from: its verdict is that of the paced scan.

    Args:
        plan: of the scans.
        found: what came of each.
        done: what had to hold.
        recorded: of each scan over time, as JSON has it.
    """
    ok = all(check.ok for check in done)
    paced = [one for one in recorded["queues"] if one["queue"] == "paced"]
    verdict = verdict_of(
        paced,
        found["paced"].seconds,
        before="paced: " if ok else "not all checks hold; paced: ",
        good=ok,
    )
    return {
        **recorded,
        "title": f"aioapiqueue demo: one scan of {plan.snapshots:,} snapshots, in three ways",
        "verdict": verdict.text,
        "good": verdict.good,
        "notes": [f"FAILED {check.name}: {check.detail}" for check in done if not check.ok]
        + [" ".join(text.split()) for text in sentences(plan, found).split("\n\n")],
        "tables": [
            {
                "title": "The scans",
                "columns": ["scan", *(name for name, _ in _COLUMNS)],
                "rows": [
                    [name, *(getattr(figures, field) for _, field in _COLUMNS)]
                    for name, figures in found.items()
                ],
            }
        ],
    }


_COLUMNS = (
    ("seconds", "seconds"),
    ("requests", "calls"),
    ("of them EC2's", "ec2_calls"),
    ("throttled", "throttled"),
    ("errors", "errors"),
    ("public found", "public_found"),
    ("bystander's calls", "bystander_calls"),
    ("of them failed", "bystander_failures"),
)


def sentences(plan: Plan, found: Mapping[str, Figures]) -> str:
    """Return what the figures mean for each strategy, in a line or two."""
    unpaced, blanket, paced = (found[name] for name in ("unpaced", "blanket", "paced"))
    times = paced.ec2_seconds / (paced.ec2_calls * plan.rate.interval)
    return f"""\
Unpaced, it lost {_some(unpaced.lost)} of {plan.snapshots:,} snapshots \
and found {_some(unpaced.public_found)} of {plan.public:,} public ones;
{_some(unpaced.bystander_failures)} of the bystander's {unpaced.bystander_calls:,} calls failed.

Paced, it lost {_some(paced.lost)} and found {_some(paced.public_found)} of {plan.public:,};
{_some(paced.bystander_failures)} of the bystander's {paced.bystander_calls:,} calls failed.
Its {paced.ec2_calls:,} EC2 calls at {plan.rate} took {paced.ec2_seconds:,.1f} s, \
{times:.3f} of calls / rate.

The same delay on every call took {blanket.seconds / paced.seconds:.1f} times as long \
as on EC2's alone.
That depends on the mix: here one call in {paced.calls / paced.ec2_calls:.1f} is EC2's."""


def _some(number: int) -> str:
    return f"{number:,}" if number else "none"
