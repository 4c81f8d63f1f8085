"""Promises of the design about shared quotas only; those of every queue are in tests/properties."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aioapiqueue import ApiQueue
from aioapiqueue.integrations.redis import SharedSchedule
from tests.helpers.members import between
from tests.helpers.servers import fresh_name
from tests.helpers.virtual_client import VirtualClient

CATCH_UP = 0.010  # seconds, a queue's default
BACKOFF = 2.0  # seconds between two attempts, at most

# (seconds after the outage before, how long it lasts, whether the server is silent or refuses)
OUTAGES = st.lists(
    st.tuples(st.floats(0.1, 5), st.floats(0.05, 10), st.sampled_from(["down", "silent"])),
    min_size=1,
    max_size=3,
)
RATES = st.sampled_from([2, 10, 20])
FALLBACKS = st.sampled_from([None, 1, 5])


@pytest.mark.parametrize("ahead", [0.0, 0.2])
@pytest.mark.parametrize(
    ("examples", "most"), [(25, 2), pytest.param(100, 3, marks=pytest.mark.slow)]
)
def test_promise_9_unreachable_means_closed(run_virtual, valkey, examples, most, ahead):
    """While the server is away only slots at hand start, or the fallback's; then it goes on."""

    @settings(max_examples=examples)
    @given(OUTAGES.map(lambda outages: outages[:most]), RATES, FALLBACKS)
    def holds(outages, rate, fallback):
        unreachable_means_closed(run_virtual, valkey, ahead, outages, rate, fallback)

    holds()


def unreachable_means_closed(  # noqa: PLR0917 - drawn
    run_virtual, valkey, ahead, outages, rate, fallback
):
    """Play one history of outages."""

    async def scenario():
        client, starts, away = VirtualClient(valkey), [], []
        loop = asyncio.get_running_loop()
        schedule = SharedSchedule(
            client, fresh_name(), ahead=ahead, fallback=fallback and f"{fallback}/s"
        )

        async def caller():
            while True:
                async with queue.slot():
                    starts.append(loop.time())

        async with ApiQueue(f"{rate}/s", schedule=schedule) as queue:
            callers = [asyncio.create_task(caller()) for _ in range(20)]
            for pause, seconds, how in outages:
                await asyncio.sleep(pause)
                setattr(client, how, True)
                begun = loop.time()
                await asyncio.sleep(seconds)
                setattr(client, how, False)
                away.append((begun, loop.time()))
            before = len(starts)
            await asyncio.sleep(schedule.timeout + BACKOFF + 3 / rate)
            assert len(starts) > before  # nobody is stuck
            for one in callers:
                one.cancel()
            await asyncio.gather(*callers, return_exceptions=True)
        return starts, away

    starts, away = run_virtual(scenario)
    for begun, ended in away:
        reach = begun + ahead + CATCH_UP
        assert between(starts, begun, reach) <= (ahead + CATCH_UP) * max(rate, fallback or 0) + 2
        most = 0 if fallback is None else fallback * max(0, ended - reach) + 2
        assert between(starts, reach, ended) <= most
