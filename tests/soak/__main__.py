"""Use queues of all kinds in real time, with all that can go wrong: `nox -s soak`.

Round after round, each on a new event loop: callers come in crowds, are cancelled, time out, fail
and settle; the loop stands still, the wall clock steps, limits change, queues pause; observers
raise; hub and Valkey are killed. A round ends when all have what they want, or with all callers
cancelled, or with a loop that is closed although they wait. Between rounds the process forks, and
the child uses the same queues. Threads use one queue all the time.

What is checked: each limit, by the instants at which calls have started; how many bodies run; that
each caller ends in one way, which is the one that the queue has counted; that no error reaches the
loop's handler; and that memory, descriptors and threads are no more in the second half.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

# As the last one, so that what is used is the installed package and not the tree's.
sys.path.append(str(Path(__file__).parents[2]))

from tests.soak.soak import Soak


def main() -> int:
    """Do it; return the exit code."""
    parser = argparse.ArgumentParser(prog="nox -s soak --", description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=30, help="how long (30)")
    parser.add_argument("--seed", type=int, default=1, help="of all that is random (1)")
    options = parser.parse_args()
    broken = Soak(options.seed).run(options.minutes * 60)
    for line in dict.fromkeys(broken):
        print(f"broken, with seed {options.seed}: {line}")
    if not broken:
        print(f"nothing broken in {options.minutes:g} minutes with seed {options.seed}")
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
