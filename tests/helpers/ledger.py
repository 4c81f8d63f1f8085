"""A file to which processes append what they spend; see `tests/helpers/spender.py`."""

from __future__ import annotations

import itertools
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.helpers.modules import command_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["BUDGET", "spending", "sums"]

BUDGET = 5
"""What all processes together may spend, in USD."""


def sums(ledger: Path) -> list[float]:
    """Return the sum after each line, with a 0 in front."""
    # The last line may be half written.
    lines = ledger.read_text("ascii").split("\n")[:-1]
    return list(itertools.accumulate(map(float, lines), initial=0.0))


@contextmanager
def spending(
    where: str, ledger: Path, *, processes: int, calls: int
) -> Iterator[Callable[[], list[float]]]:
    """Have processes spend at once; give a function that waits for their end, and returns `sums`.

    Each makes two calls at once, so that little of the budget is in flight. All together reserve
    more than there is.

    Args:
        where: as of `spender`.
        ledger: the file, which is made.
        processes: number of processes.
        calls: number of calls of all of them.
    """
    ledger.touch()
    started = []
    try:
        for number in range(processes):
            arguments = where, ledger, calls // processes, 2, number, BUDGET / calls
            command = command_of("tests.helpers.spender", *arguments)
            started.append(subprocess.Popen(command, stdin=subprocess.PIPE, text=True))
        for process in started:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()

        def finish() -> list[float]:
            assert [process.wait(timeout=120) for process in started] == [0] * processes
            return sums(ledger)

        yield finish
    finally:
        for process in started:
            process.kill()
            process.communicate()
