"""Say what the tests have not run: `python -m tests.coverage_report`, after `coverage combine`.

All lines and branches of the core are, and 95 % of the package. Part of `uvx nox -s coverage`.
"""

from __future__ import annotations

import sys

from coverage import Coverage

from tests.test_architecture import CORE

LEAST = {"the core": 100.0, "the package": 95.0}


def main() -> int:
    """Print both reports; return the exit code."""
    core = [f"*/aioapiqueue/{name}.py" for name in CORE]
    missed = []
    for what, include in (("the core", core), ("the package", ["*/aioapiqueue/*"])):
        measured = Coverage()
        measured.load()
        share = measured.report(include=include)
        print(f"{what}: {share:.2f} % of lines and branches; {LEAST[what]:g} % at least\n")
        if share < LEAST[what]:
            missed.append(what)
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
