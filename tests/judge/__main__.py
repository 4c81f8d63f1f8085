"""Repeats histories: `python -m tests.judge SEED [SIZE [COUNT]]`."""

from __future__ import annotations

import sys

from tests.judge.plan import draw
from tests.judge.trial import play, reduced


def main(seed: int, size: int = 20, count: int = 1) -> None:
    """Play histories from a seed on; print what is wrong, and reduce it."""
    for number in range(seed, seed + count):
        plan = draw(number, size)
        if faults := play(plan):
            print(f"seed {number}:", *faults, sep="\n  ")  # noqa: T201 - a program
            plan = reduced(plan, play)
            print(plan, *plan.events, *play(plan), sep="\n  ")  # noqa: T201 - as above


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
