"""What came of scans: the figures of one, tables of several, and targets."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from _moto_server import public_among

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from _common import Report

    from aioapiqueue import Rate

__all__ = ["Outcome", "Plan", "check", "compare", "show"]

FASTER, THAN, MOST = "80%", None, 0.7
"""A scan with this share takes at most so much of the time of that one."""


@dataclass(frozen=True)
class Plan:
    """What the command line asks for."""

    snapshots: int
    rate: Rate
    rate_text: str
    shares: Sequence[str | None]
    often: int
    ways: Sequence[str]
    users: int
    cache: Path
    directory: Path


@dataclass(frozen=True)
class Outcome:
    """What came of one scan.

    Attributes:
        scanner: which one it was.
        way: `unpaced`, `paced`, or another of STRATEGIES.
        share: of what AWS publishes, that it was paced to; None: a fixed rate, or unpaced.
        command: as it was typed, in a shell.
        seconds: from the scanner's start to its end.
        cpu_seconds: of the scanner, and of `aioapiqueue run` if it is paced.
        ec2_calls: HTTP requests to EC2 that it sent.
        peak: the most of them in any one second.
        throttled: those among them that the gate refused.
        answered: snapshots whose permissions EC2 returned.
        reported: snapshots whose permissions its report judges.
        public_found: those among them that its report calls public.
        bystander_calls: calls of the bystander while it ran.
        bystander_failures: those among them that failed, for whatever reason.
        exit_code: of the command.
        counted: HTTP requests to EC2 as `aioapiqueue run` counted them; None if it did not run.
    """

    scanner: str
    way: str
    share: str | None
    command: str
    seconds: float
    cpu_seconds: float
    ec2_calls: int
    peak: int
    throttled: int
    answered: int
    reported: int
    public_found: int
    bystander_calls: int
    bystander_failures: int
    exit_code: int
    counted: int | None

    @property
    def name(self) -> str:
        """What the tables call it."""
        return " ".join(filter(None, (self.scanner, self.way, self.share)))

    def __str__(self) -> str:
        return (
            f"  {self.seconds:,.0f} s, {self.throttled:,} throttled, {self.public_found:,} public "
            f"found, bystander failed {self.bystander_failures:,} of {self.bystander_calls:,}"
        )


def show(report: Report, outcomes: Sequence[Outcome], plan: Plan) -> None:
    """Add the tables."""
    public = public_among(plan.snapshots)
    names = [one.name for one in outcomes]
    report.table(
        "What EC2 saw of it, and what came of the bystander's calls",
        ("", "seconds", "CPU s", "calls", "peak/s", "throttled", "bystander failed"),
        [
            (
                name,
                f"{one.seconds:.1f}",
                f"{one.cpu_seconds:.1f}",
                f"{one.ec2_calls:,}",
                f"{one.peak}",
                f"{one.throttled:,}",
                f"{one.bystander_failures} of {one.bystander_calls}",
            )
            for name, one in zip(names, outcomes, strict=True)
        ],
    )
    report.table(
        f"What the scanner made of {plan.snapshots:,} snapshots",
        ("", "answered", "reported", "public found", "exit code"),
        [
            (
                name,
                f"{one.answered:,}",
                f"{one.reported:,}",
                f"{one.public_found} of {public}",
                f"{one.exit_code}",
            )
            for name, one in zip(names, outcomes, strict=True)
        ],
    )


def check(report: Report, one: Outcome, plan: Plan) -> None:
    """Add the targets: the paced scan misses nothing and harms nobody, the unpaced does."""
    what = f"{one.name}: "
    if one.way == "unpaced":
        report.target(f"{what}throttled, or there is nothing to compare", one.throttled, least=1)
    if one.way != "paced":
        return
    all_, public = plan.snapshots, public_among(plan.snapshots)
    report.target(f"{what}throttled", one.throttled, most=0)
    report.target(f"{what}snapshots answered", one.answered, least=all_)
    report.target(f"{what}snapshots reported", one.reported, least=all_, most=all_)
    report.target(f"{what}public ones found", one.public_found, least=public, most=public)
    report.target(f"{what}bystander's calls that failed", one.bystander_failures, most=0)
    least = math.floor(0.9 * plan.often * one.seconds)  # whole ones, as some scans take seconds
    report.target(f"{what}bystander's calls", one.bystander_calls, least=least)
    if not plan.users:  # IAM as moto has it makes rules fail: ScoutSuite's exit code is 200
        report.target(f"{what}exit code", one.exit_code, most=0)
    missed = one.ec2_calls - (one.counted or 0)
    report.target(f"{what}EC2 calls that run did not count", missed, least=0, most=0)


def compare(report: Report, outcomes: Sequence[Outcome], plan: Plan) -> None:
    """Add the table of shares, and the targets of the times in it against each other."""
    seconds: dict[str, dict[str | None, float]] = {}
    for one in outcomes:
        if one.way == "paced":
            seconds.setdefault(one.scanner, {})[one.share] = one.seconds
    report.table(
        f"Seconds, beside a bystander of {plan.often} calls a second",
        (
            "",
            *(f"--share {one}" if one else f"--limit ec2={plan.rate_text}" for one in plan.shares),
        ),
        [(name, *(f"{own[one]:.0f}" for one in plan.shares)) for name, own in seconds.items()],
    )
    for name, own in seconds.items():
        if FASTER in own and THAN in own:
            what = f"{name}: time with --share {FASTER}, of that with --limit ec2={plan.rate_text}"
            report.target(what, own[FASTER] / own[THAN], most=MOST)
