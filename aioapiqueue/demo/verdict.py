"""What came of the demonstration: figures, the checks on them, and sentences for people."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from aioapiqueue.demo.gate import Counts
    from aioapiqueue.demo.scan import Plan, Strategy

__all__ = ["SLACK", "Check", "Result", "checks", "report", "results", "sentences"]

SLACK = 1.05


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """The figures of one strategy. Those of requests are the gate's own, retries included.

    Attributes:
        seconds: from the start of the scan to its end.
        ec2_seconds: from the start of the scan to the answer to its last EC2 call.
        calls: HTTP requests of the scan.
        ec2_calls: those among them to EC2.
        throttled: those among them answered with `RequestLimitExceeded`.
        errors: calls that failed after all their attempts.
        lost: snapshots that the scan could not look at for it.
        public_found: public snapshots found.
        bystander_calls: calls of the bystander in the same account, made once each.
        bystander_failures: those among them that failed.
    """

    seconds: float
    ec2_seconds: float
    calls: int
    ec2_calls: int
    throttled: int
    errors: int
    lost: int
    public_found: int
    bystander_calls: int
    bystander_failures: int


@dataclasses.dataclass(frozen=True)
class Check:
    """One condition of success, and the figures that meet it or do not."""

    name: str
    ok: bool
    detail: str


def results(ways: Iterable[Strategy], counts: Mapping[str, Counts]) -> dict[str, Result]:
    """Returns each finished strategy's figures by its name."""
    return {
        way.name: Result(
            seconds=way.seconds or 0.0,
            ec2_seconds=way.ec2_seconds or 0.0,
            calls=counts[way.scanner_key].calls,
            ec2_calls=counts[way.scanner_key].ec2_calls,
            throttled=counts[way.scanner_key].throttled,
            errors=way.errors,
            lost=way.lost,
            public_found=way.found,
            bystander_calls=way.bystander_calls,
            bystander_failures=way.bystander_failures,
        )
        for way in ways
    }


def checks(plan: Plan, found: Mapping[str, Result]) -> list[Check]:
    """Returns what has to hold for the demonstration to have succeeded."""
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
            paced.ec2_seconds <= SLACK * ideal,
            f"the paced scan's {paced.ec2_calls:,} EC2 calls took {paced.ec2_seconds:.2f} s, "
            f"{paced.ec2_seconds / ideal:.3f} of calls / rate (at most {SLACK})",
        ),
    ]


def report(plan: Plan, found: Mapping[str, Result], done: Iterable[Check]) -> dict[str, Any]:
    """Returns all figures as JSON has them. Times are in seconds."""
    done = list(done)
    return {
        "ok": all(check.ok for check in done),
        "plan": {
            "snapshots": plan.snapshots,
            "public": plan.public,
            "buckets": plan.buckets,
            "users": plan.users,
            "rate": str(plan.rate),
            "interval": plan.rate.interval,
            "workers": plan.workers,
        },
        "strategies": {name: dataclasses.asdict(result) for name, result in found.items()},
        "checks": [dataclasses.asdict(check) for check in done],
    }


def sentences(plan: Plan, found: Mapping[str, Result]) -> str:
    """Returns what the figures say of each strategy, a line or two each."""
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
