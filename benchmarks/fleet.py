"""What a quota shared by many processes costs its server, and how well the limit is used.

`simulated` is on virtual time: 100 processes whose requests and replies take 1 to 50 ms each way,
1 % of either lost, on clocks up to 30 s apart; the script runs on a real Valkey. `script` and
`memory` are measured there, in real time.
"""

from __future__ import annotations

import asyncio
import json
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from _common import Report, main, run, spread
from _simulated_fleet import Fleet, most_in, watch
from _valkey import EPOCH, VirtualConnection, serving

from aioapiqueue import ApiQueue, Window
from aioapiqueue.integrations.redis import SharedSchedule
from aioapiqueue.testing import VirtualLoop

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Sequence

    from redis import Redis

SLOTS, FIELDS = 7, 3  # of a reply: where its grants are, and how many fields each of them has
ROUND_TRIP = 100  # requests in flight: the connection is not what is measured
FLEETS = [
    Fleet(10, processes=8, seconds=60),
    Fleet(10, seconds=60),
    Fleet(100, seconds=30),
    Fleet(1_000, processes=8, seconds=30),
    Fleet(1_000, seconds=30),
    Fleet(10_000, seconds=10),
    Fleet(100_000, seconds=4),
    Fleet(10_000, seconds=10, latency=(0.0005, 0.0005), loss=0),
]


def simulated(report: Report, *, quick: bool) -> None:
    """Simulate fleets that call at once, 10 to 100,000 slots per second together."""
    rows = []
    with serving() as server:
        for number, fleet in enumerate([Fleet(1000, seconds=2), FLEETS[-1]] if quick else FLEETS):
            connect = partial(VirtualConnection, server)
            seen = run(watch(fleet, connect, f"fleet {number}"), VirtualLoop)
            calls = len(seen.starts)
            share = calls / fleet.rate / fleet.seconds
            fair = calls / fleet.processes
            rows.append(
                (
                    f"{fleet.rate:,.0f}",
                    f"{fleet.processes}",
                    "-".join(f"{1000 * one:g}" for one in dict.fromkeys(fleet.latency)),
                    f"{fleet.loss:.0%}",
                    f"{share:.1%}",
                    f"{seen.round_trips / fleet.seconds:,.0f}",
                    f"{seen.round_trips / calls:.2g}",
                    f"{most_in(seen.starts, 1.0):,}",
                    f"{1000 * max(seen.late):.0f}",
                    f"{min(seen.each) / fair - 1:+.0%} {max(seen.each) / fair - 1:+.0%}",
                )
            )
            where = f"{fleet.rate:,.0f}/s, {fleet.processes} processes"
            report.target(f"share of the rate used, {where}", share, least=0.98)
            report.target(f"earliest start, {where} (s)", min(seen.late), least=-1e-6)
    report.table(
        "Simulated. Latency is ms each way, loss that of either way; late: ms after the instant",
        ("slots/s", "n", "latency", "loss", "used", "ops/s", "/slot", "in 1 s", "late", "fair"),
        rows,
    )


class _Recorder(VirtualConnection):
    """A connection that notes the first request for slots."""

    sha = ""
    request: tuple[Any, ...] = ()

    async def evalsha(self, sha: str, numkeys: int, *arguments: Any) -> Any:  # noqa: ANN401 - as redis-py has it
        """Run the script that the server knows as `sha`."""
        if arguments[numkeys] == "ask" and not self.request:
            self.sha, self.request = sha, (numkeys, *arguments)
        return await super().evalsha(sha, numkeys, *arguments)


class Requests:
    """One process's requests, each as the process would send it, at its instant.

    One of a process that has just begun is recorded on the server, which then forgets all that it
    holds. Such a process asks for few slots at most; `count` takes their place.

    Args:
        server: a client of it.
        name: of the quota.
        limits: of the queue.
        lane: that all are of, and its limit; None: they are of none.
        count: how many slots each asks for.
        rate: at which slots are asked for: the requests' instants are so far apart.
        concurrency: of the queue.
        begin: requests that have passed before the first.
    """

    def __init__(
        self,
        server: Redis,
        name: str,
        *,
        limits: Sequence[str | Window],
        count: int,
        rate: float,
        lane: tuple[str, str] | None = None,
        concurrency: int | None = None,
        begin: int = 0,
    ) -> None:
        recorder = _Recorder(server)

        async def call() -> None:
            schedule = SharedSchedule(recorder, name)
            lanes: dict[Hashable, str] = dict([lane] if lane else [])
            queue = ApiQueue(*limits, lanes=lanes, schedule=schedule, concurrency=concurrency)
            queue.enqueue(key=lane and lane[0])
            await asyncio.sleep(0.001)
            await queue.aclose(drain=False)

        run(call(), VirtualLoop)
        server.flushdb()
        *self._head, _, payload = recorder.sha, *recorder.request
        fields = json.loads(payload)
        fields["requests"][0][2] = fields["most"] = count
        self._payload = json.dumps(fields)
        self._count = count
        self._step = 1e6 * count / rate
        self._now = EPOCH + begin * self._step

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        """The arguments of EVALSHA, request by request, without end."""
        while True:
            self._now += self._step
            yield *self._head, f"{self._now:.0f}", self._payload

    def check(self, reply: Sequence[Any]) -> None:
        """Check that a reply grants all slots.

        Raises:
            RuntimeError: it does not.
        """
        if len(reply[SLOTS]) != FIELDS * self._count:
            raise RuntimeError(f"not {self._count} slots: {reply}")


CASES: dict[str, dict[str, Any]] = {
    "1 slot": {"limits": ["10000/s"], "count": 1, "rate": 10_000},
    "10 slots": {"limits": ["10000/s"], "count": 10, "rate": 10_000},
    "100 slots": {"limits": ["10000/s"], "count": 100, "rate": 10_000},
    "1 slot of a lane": {
        "limits": ["10000/s"],
        "lane": ("lane", "5000/s"),
        "count": 1,
        "rate": 5000,
    },
    "10 slots of a lane": {
        "limits": ["10000/s"],
        "lane": ("lane", "5000/s"),
        "count": 10,
        "rate": 5000,
    },
    "1 slot, Window(1000, 1)": {"limits": [Window(1000, 1)], "count": 1, "rate": 990},
    "10 slots, Window(1000, 1)": {"limits": [Window(1000, 1)], "count": 10, "rate": 990},
    "1 slot, concurrency": {
        "limits": ["10000/s"],
        "concurrency": 10**6,
        "count": 1,
        "rate": 10_000,
    },
}


def script(report: Report, *, quick: bool) -> None:
    """Measure what a request costs the server, in seconds of its CPU."""
    rounds, requests = (1, 1000) if quick else (5, 10_000)
    taken: dict[str, list[float]] = {case: [] for case in CASES}
    with serving() as server:
        requests_of = {case: Requests(server, case, **options) for case, options in CASES.items()}
        feeds = {case: iter(one) for case, one in requests_of.items()}
        for _ in range(rounds):
            for case, feed in feeds.items():
                before = _cpu(server)
                for _ in range(requests // ROUND_TRIP):
                    pipeline = server.pipeline(transaction=False)
                    for _ in range(ROUND_TRIP):
                        pipeline.evalsha(*next(feed))
                    *_, last = pipeline.execute()
                    requests_of[case].check(last)
                taken[case].append((_cpu(server) - before) / requests * 1e6)
        version = server.info("server")["valkey_version"]
    rows = [
        (
            case,
            spread(each, ".0f"),
            f"{1e6 / max(each):,.0f}",
            f"{CASES[case]['count'] * 1e6 / max(each):,.0f}",
        )
        for case, each in taken.items()
    ]
    report.table(
        f"The script on Valkey {version}, one core; {rounds} rounds of {requests} requests",
        ("one request for", "us of CPU", "requests/s", "slots/s"),
        rows,
    )


def _cpu(server: Redis) -> float:
    figures = server.info("cpu")
    return float(figures["used_cpu_user"] + figures["used_cpu_sys"])


QUOTAS: dict[str, list[dict[str, Any]]] = {
    "a rate, 1 process": [{"limits": ["10/s"]}],
    "a rate, 100 processes": [{"limits": ["10000/s"]}] * 100,
    "a rate, 20 lanes": [
        {"limits": ["10000/s"], "lane": (f"lane {number}", "5/s")} for number in range(20)
    ],
    "concurrency, 100 holders": [{"limits": ["10000/s"], "concurrency": 1000}] * 100,
    "Window(1000, 1), full": [{"limits": [Window(1000, 1)]}],
    "Window(100000, 60), full": [{"limits": [Window(100_000, 60)]}],
}
CALLS = {"Window(1000, 1), full": 1000, "Window(100000, 60), full": 100_000}
"""How many each process makes; of other quotas, one."""


def memory(report: Report, *, quick: bool) -> None:  # noqa: ARG001 - it takes seconds
    """Measure what a quota takes of the server's memory."""
    rows = []
    with serving() as server:
        for quota, processes in QUOTAS.items():
            each = [
                Requests(server, quota, **one, count=1, rate=2000, begin=number)
                for number, one in enumerate(processes)
            ]
            for own in each:
                pipeline = server.pipeline(transaction=False)
                for arguments in islice(own, CALLS.get(quota, 1)):
                    pipeline.evalsha(*arguments)
                for reply in pipeline.execute():
                    own.check(reply)
            keys = list(server.scan_iter(count=1000))
            size = sum(server.memory_usage(key, samples=0) or 0 for key in keys)
            rows.append((quota, f"{len(keys)}", f"{size:,}"))
    report.table("Memory of the server", ("quota", "keys", "bytes"), rows)


if __name__ == "__main__":
    main(str(__doc__).partition("\n")[0], simulated, script, memory)
