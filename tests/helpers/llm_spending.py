"""Processes that spend at a `BillingServer`, and what became of their calls."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.helpers.modules import command_of
from tests.helpers.waiting import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.helpers.llm_servers.billing import BillingServer

__all__ = ["LLMSpending", "llm_spending", "until"]


class LLMSpending:
    """Processes that spend: see `tests/helpers/llm_spender.py`."""

    def __init__(self, report: Path) -> None:
        self.processes: list[subprocess.Popen[str]] = []
        self._report = report

    def lines(self) -> list[dict[str, Any]]:
        """Return the lines of the report so far. The last one may be half written."""
        return [json.loads(line) for line in self._report.read_text().split("\n")[:-1]]

    def calls(self, kind: str) -> list[str]:
        """Return the calls of which this became."""
        return [line["call"] for line in self.lines() if line.get("kind") == kind]

    def total(self, statistic: str) -> int:
        """Return the sum of a statistic of all queues."""
        return sum(line.get(statistic, 0) for line in self.lines())

    async def begin(self) -> None:
        """Let all begin once all are there: to import the SDKs takes seconds."""
        number = len(self.processes)
        await until(lambda: sum("ready" in line for line in self.lines()) == number)
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()

    async def finish(self) -> Counter[str]:
        """Wait until all have ended; return how many calls there are of each kind."""
        await until(lambda: all(one.poll() is not None for one in self.processes))
        return Counter(line["kind"] for line in self.lines() if "kind" in line)


@contextmanager
def llm_spending(
    where: str,
    server: BillingServer,
    report: Path,
    *,
    processes: int,
    calls: int,
    budget: float,
    retries: int = 0,
) -> Iterator[LLMSpending]:
    """Start processes that spend.

    Args:
        where: as of `llm_spender`.
        server: what they call.
        report: a file, which is made.
        processes: number of processes.
        calls: number of calls of all of them.
        budget: what they may spend, in USD.
        retries: how often the SDKs try again.
    """
    report.touch()
    found = LLMSpending(report)
    try:
        for number in range(processes):
            each = calls // processes
            arguments = where, server.url, report, number, each, budget, retries
            command = command_of("tests.helpers.llm_spender", *arguments)
            found.processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, text=True))
        yield found
    finally:
        for process in found.processes:
            process.kill()
            process.communicate()


async def until(condition: Callable[[], object]) -> None:
    """Wait in real time until a condition holds, while the loop goes on."""
    async with asyncio.timeout(2 * PATIENCE):
        while not condition():  # noqa: ASYNC110 - of processes
            await asyncio.sleep(0.01)
