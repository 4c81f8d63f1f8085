"""Rounds of processes: each measures one limiter in one case, and whatever it does is a result."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Case", "Outcome", "measure", "order"]

WORKER = Path(__file__).with_name("_peer_worker.py")
START_SECONDS = 60.0
"""Seconds in which a process must have imported its limiter."""


@dataclass(frozen=True)
class Case:
    """What is measured.

    Attributes:
        name: as the worker knows it.
        options: for the worker.
        rounds: how often each limiter is measured.
        seconds: after which a process is ended.
        often: limiters that decide a target, and how often they are measured at least.
        at_once: how many processes measure at one time, if they hardly use the CPU.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    rounds: int = 1
    seconds: float = 10.0
    often: Mapping[str, int] = field(default_factory=dict)
    at_once: int = 1

    def rounds_of(self, peer: str) -> int:
        """Return how often a limiter is measured."""
        return max(self.rounds, self.often.get(peer, 0))


@dataclass
class Outcome:
    """What a limiter came to in a case.

    Attributes:
        results: of each round that ended well.
        failed: how the first one ended that did not, such as `DNF 30 s`.
        detail: what the process said of it.
    """

    results: list[dict[str, Any]] = field(default_factory=list)
    failed: str | None = None
    detail: str = ""

    def values(self, key: str) -> list[Any]:
        """Return one figure of all rounds."""
        return [one[key] for one in self.results]


def order(names: Sequence[str], rounds: Mapping[str, int]) -> list[list[str]]:
    """Return who is measured in which round, each round beginning with another."""
    most = max(rounds.values(), default=0)
    turned = [[*names[begin:], *names[:begin]] for begin in range(len(names))]
    return [
        [name for name in turned[number % len(names)] if rounds[name] > number]
        for number in range(most)
    ]


async def measure(case: Case, names: Sequence[str], worker: Path = WORKER) -> dict[str, Outcome]:
    """Measure limiters in a case; one that failed in a round is not tried in the next."""
    outcomes = {name: Outcome() for name in names}
    for names_of_round in order(names, {name: case.rounds_of(name) for name in names}):
        left = [name for name in names_of_round if outcomes[name].failed is None]
        for begin in range(0, len(left), case.at_once):
            batch = left[begin : begin + case.at_once]
            barrier = asyncio.Barrier(len(batch))
            results = await asyncio.gather(*(_run(case, name, barrier, worker) for name in batch))
            for name, result in zip(batch, results, strict=True):
                _note(outcomes[name], result)
    return outcomes


def _note(outcome: Outcome, result: dict[str, Any]) -> None:
    if "failed" in result:
        outcome.failed, outcome.detail = result["failed"], result["detail"]
    else:
        outcome.results.append(result)


async def _run(case: Case, name: str, barrier: asyncio.Barrier, worker: Path) -> dict[str, Any]:
    """Run one process: those of a batch begin together, once all of them have started."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "ignore", worker, case.name, name, json.dumps(case.options)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None  # noqa: S101 - it is a pipe
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_SECONDS):
                await process.stdout.readline()
        await barrier.wait()
        async with asyncio.timeout(case.seconds):
            output, errors = await process.communicate(b"go\n")
    except TimeoutError:
        return _failed(f"DNF {case.seconds:g} s", "")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    return _read(output, errors.decode("utf-8", "replace"), process.returncode)


def _read(output: bytes, errors: str, code: int | None) -> dict[str, Any]:
    """Return what a process wrote, or how it failed."""
    lines = output.decode("utf-8", "replace").splitlines()
    try:
        result: dict[str, Any] = json.loads(lines[-1])
    except (IndexError, ValueError):
        return _failed(f"exit code {code}", (errors.strip().splitlines() or [""])[-1])
    if "error" in result:
        return _failed(result["error"].partition(":")[0], result["error"])
    return result


def _failed(how: str, detail: str) -> dict[str, Any]:
    return {"failed": how, "detail": detail}
