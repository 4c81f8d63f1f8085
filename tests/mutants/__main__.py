"""Change the core at random, and see that tests fail: `python -m tests.mutants --sample 200`.

First it is measured which test of the core comes to which line, in a few minutes; properties are
tried on few examples for it. Then each change (see `mutations.py`) is made in a copy of the
package, and the tests that come to its line are run until one fails; one that takes too long has
failed. Those in virtual time only, on limits of a queue's own: others take longer, so that what
only they would notice survives here.

Changes that nothing could notice are in `equivalents.toml`, each with the reason. What was found is
kept in build/mutants: a run goes on where the last one ended, as long as the file is the same; what
survived is tried again when a test has changed.
"""

from __future__ import annotations

import argparse
import sys

from tests.mutants.trial import Trial, load_equivalents

TARGET = 0.92
"""Of the mutants that are not equivalent, so many are killed."""


def main() -> int:
    """Do it; return the exit code."""
    parser = argparse.ArgumentParser(prog="nox -s mutate --", description=__doc__.split("\n")[0])
    parser.add_argument("--sample", type=int, default=200, help="how many changes (200)")
    parser.add_argument("--seed", type=int, default=1, help="which ones (1)")
    parser.add_argument("--workers", type=int, default=2, help="how many at a time (2)")
    options = parser.parse_args()
    equivalents = load_equivalents()
    trial = Trial(options.workers)
    chosen = trial.sample(options.sample, options.seed)
    real = [one for one in chosen if one.key not in equivalents]
    print(f"{len(chosen)} changes with seed {options.seed}, {len(chosen) - len(real)} equivalent")
    survivors = trial.run(real)
    for one in survivors:
        print(f"survived: {one.file}:{one.line} ({one.nth}.)\n    {one.text}\n    {one.change}")
    killed = len(real) - len(survivors)
    share = killed / len(real) if real else 1.0
    print(f"{killed} of {len(real)} killed: {share:.1%}; at least {TARGET:.0%} is the target")
    return int(share < TARGET)


if __name__ == "__main__":
    sys.exit(main())
