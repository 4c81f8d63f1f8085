"""Report what the tests have not run: `python -m tests.coverage_report`, after `coverage combine`.

The goals are all lines and branches of the core (`_limits`, `_core`, `exceptions` and their door
`spi`), and 95 % of the packages of both distributions. Part of `uvx nox -s coverage`.
"""

from __future__ import annotations

import sys
from pathlib import PurePath
from typing import TYPE_CHECKING, NamedTuple

from tests.helpers import wall

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


class Goal(NamedTuple):
    """A part of the code, and the smallest share of its lines and branches that tests must run.

    Attributes:
        least: in percent.
        places: its folders and modules, each as "package/place".
    """

    least: float
    places: Sequence[str]


GOALS = {
    "the core": Goal(100, [f"{wall.PACKAGE}/{name}" for name in (*wall.CORE, "spi")]),
    "both packages": Goal(95, wall.PACKAGES),
}


def files_of(places: Collection[str], measured: Collection[str]) -> Sequence[str]:
    """Return the measured files that are in these places.

    Raises:
        ValueError: A place has no measured file, so that the report would leave it out.
    """
    found = {
        place: [file for file in measured if f"/{place}/" in f"{_without_suffix(file)}/"]
        for place in places
    }
    if empty := [place for place, files in found.items() if not files]:
        raise ValueError(
            f"no measured file is in {', '.join(empty)}: has it moved? Change GOALS in "
            "tests/coverage_report.py, and [tool.coverage] in pyproject.toml"
        )
    return [file for files in found.values() for file in files]


def _without_suffix(file: str) -> str:
    return PurePath(file).with_suffix("").as_posix()


def main() -> int:
    """Print both reports; return the exit code."""
    from coverage import Coverage

    missed = []
    for what, goal in GOALS.items():
        measured = Coverage()
        measured.load()
        files = files_of(goal.places, measured.get_data().measured_files())
        share = measured.report(include=files)
        print(f"{what}: {share:.2f} % of lines and branches; {goal.least} % at least\n")
        if share < goal.least:
            missed.append(what)
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
