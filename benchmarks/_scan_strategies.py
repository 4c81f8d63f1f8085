"""What people do against throttling, beside pacing: how each is started, and a picture of it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from _peer_picture import Panel, picture

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from _scan_tables import Outcome
    from _scanner_programs import Scanner

    from aioapiqueue import Rate

__all__ = ["MORE_SERVICES", "STRATEGIES", "Start", "draw", "start"]

STRATEGIES = ("unpaced", "blanket", "adaptive", "own", "paced")
"""Nothing; one delay before all calls; botocore's adaptive retries; the scanner's own throttle."""
MORE_SERVICES = ("iam",)
"""What a scan reads beside EC2, if the account has users."""
_SHOWN = {
    "unpaced": "unpaced",
    "blanket": "one delay for all calls",
    "adaptive": "adaptive retries",
    "own": "its own throttle",
}
"""What the picture calls those that are not ours."""
_BLANKET = Path(__file__).with_name("_blanket_delay.py")


@dataclass(frozen=True)
class Start:
    """How a strategy is started, if it is not `aioapiqueue run`.

    Attributes:
        options: of the scanner.
        variables: of its environment.
    """

    options: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def shown(self) -> list[str]:
        """What is shown of the variables: not where a file of ours is."""
        return [f"{key}={text}" for key, text in self.variables.items() if key != "PYTHONPATH"]


def start(way: str, scanner: Scanner, rate: Rate, directory: Path) -> Start:
    """Return how a strategy is started with a scanner, in a directory."""
    if way == "blanket":
        shutil.copy(_BLANKET, directory / "sitecustomize.py")  # Python imports it from PYTHONPATH
        delay = {"PYTHONPATH": str(directory), "BLANKET_SECONDS": repr(rate.interval)}
        return Start(variables=delay)
    if way == "adaptive":
        return Start(variables={"AWS_RETRY_MODE": "adaptive"})
    if way == "own" and scanner.throttle:
        return Start((scanner.throttle, str(max(1, round(1 / rate.interval)))))
    return Start()


def draw(
    outcomes: Sequence[Outcome], *, snapshots: int, public: int, rate: str, machine: str
) -> str:
    """Return a picture of several scans: what each found, whom it harmed, how long it took."""
    scanners = sorted({one.scanner for one in outcomes})

    def shown(one: Outcome) -> str:
        limit = f"--share {one.share}" if one.share else f"--limit ec2={rate}"
        name = _SHOWN.get(one.way, limit)
        return name if len(scanners) == 1 else f"{one.scanner}, {name}"

    names = [shown(one) for one in outcomes]
    ours = {name for name, one in zip(names, outcomes, strict=True) if one.way == "paced"}

    def panel(title: str, values: Sequence[float], form: str, *, more: bool) -> Panel:
        bars = [(name, value, "") for name, value in zip(names, values, strict=True)]
        return Panel(title, bars, form, more_is_better=more)

    failed = [100 * one.bystander_failures / max(1, one.bystander_calls) for one in outcomes]
    panels = [
        panel(
            f"Public snapshots found, of {public:,}",
            [one.public_found for one in outcomes],
            ",.0f",
            more=True,
        ),
        panel("Bystander's calls that failed, in %", failed, ".1f", more=False),
        panel("Seconds", [one.seconds for one in outcomes], ",.0f", more=False),
        panel("Throttled answers", [one.throttled for one in outcomes], ",.0f", more=False),
        panel("CPU seconds", [one.cpu_seconds for one in outcomes], ",.0f", more=False),
        panel("Most EC2 calls in a second", [one.peak for one in outcomes], ",.0f", more=False),
    ]
    title = f"{' and '.join(scanners)} on {snapshots:,} snapshots"
    return picture(panels, ours=ours, title=title, subtitle=machine)
