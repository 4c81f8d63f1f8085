"""Budgets in USD at a provider that bills: the SDKs, in processes that share one budget.

The provider's bill never falls, so it was never above what it is at the end.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from contextlib import asynccontextmanager

import pytest

from aioapiqueue import ApiQueue, HostSchedule
from tests.helpers.hubs import hub_in_use, processes_of
from tests.helpers.llm_servers.billing import FAILURES, BillingServer
from tests.helpers.llm_spender import LLMUser, Wish, wishes
from tests.helpers.llm_spending import llm_spending, until
from tests.helpers.servers import fresh_name

pytestmark = pytest.mark.posix

EACH = 0.0033
"""USD of the budget for each call: about 0.6 of what it costs."""
FATES = dict.fromkeys(["dropped", "cut", "failed", "failed and billed", "throttled", "lies"], 0.1)
"""What happens to requests, and how often."""


def budget_of(calls):
    """Return a budget for some calls, which is used up before all of them are made."""
    return round(calls * EACH, 6)


async def kill_hub(directory, server, at):
    """Kill the hub once so much is billed."""
    await until(lambda: server.bill >= at and processes_of(directory))
    os.kill(processes_of(directory)[0], signal.SIGKILL)


async def spend_by_processes(where, report, *, processes, calls, kills=(), directory=None):
    """Spend; return the server, how many calls there are of each kind, and those refused."""
    budget = budget_of(calls)
    how = {"processes": processes, "calls": calls, "budget": budget}
    async with BillingServer(seconds=2) as server:
        with llm_spending(where, server, report, **how) as spending:
            await spending.begin()
            for part in kills:
                await kill_hub(directory, server, part * budget)
            kinds = await spending.finish()
            await server.idle()
    assert spending.total("overdrawn") == spending.total("malformed") == 0
    return server, kinds, spending.calls("refused")


async def bill_without_reservations(folder, *, processes, calls):
    """Return the bill for the same calls, made as many programs make them."""
    ledger = folder / "spent"
    ledger.touch()
    how = {"processes": processes, "calls": calls}
    server, _, _ = await spend_by_processes(f"naive:{ledger}", folder / "naive", **how)
    return server.bill


def check_kept(server, kinds, refused, *, calls, least):
    """Check the bill, and that no refused call was sent."""
    budget = budget_of(calls)
    assert least * budget <= server.bill <= budget
    assert sum(kinds.values()) == calls
    assert kinds["failed"] == 0
    assert kinds["refused"] == len(refused) > calls / 10
    assert not server.seen.keys() & set(refused)


def check_refused_after_failures(server, refused):
    """Check that each refused call was sent only in attempts that failed, if at all."""
    assert refused
    for call in refused:
        assert set(server.seen.get(call, [])) <= set(FAILURES)


@pytest.mark.real
@pytest.mark.slow
async def test_host_budget_outlasts_kills(tmp_path, blockbuster):
    """1,000 calls of 8 processes: the bill is never above the budget, and 0.9 of it is used.

    Beside it, the same calls as many programs make them: read what was spent, call, add the cost.
    """
    blockbuster.deactivate()
    how = {"processes": 8, "calls": 1000}
    with hub_in_use() as directory:
        server, kinds, refused = await spend_by_processes(
            "host:crm", tmp_path / "kept", kills=(0.5, 0.8), directory=directory, **how
        )
    check_kept(server, kinds, refused, calls=1000, least=0.9)
    assert kinds["cancelled"] >= 50
    assert await bill_without_reservations(tmp_path, **how) > budget_of(1000)


@pytest.mark.real
@pytest.mark.slow
async def test_redis_budget_of_processes(valkey, tmp_path, blockbuster):
    """1,000 calls of 4 processes, as on a host."""
    blockbuster.deactivate()
    how = {"processes": 4, "calls": 1000}
    where = f"{valkey.url}#{fresh_name()}"
    server, kinds, refused = await spend_by_processes(where, tmp_path / "kept", **how)
    check_kept(server, kinds, refused, calls=1000, least=0.9)
    assert kinds["cancelled"] >= 50
    assert await bill_without_reservations(tmp_path, **how) > budget_of(1000)


@pytest.mark.real
@pytest.mark.slow
async def test_vanished_clients_keep_budget(tmp_path, blockbuster):
    """Two of four processes are killed, and much of what the server sends is cut or wrong."""
    blockbuster.deactivate()
    budget = budget_of(600)
    how = {"processes": 4, "calls": 600, "budget": budget, "retries": 2}
    with hub_in_use():
        async with BillingServer(seconds=0.5, fates=FATES) as server:
            with llm_spending("host:crm", server, tmp_path / "report", **how) as spending:
                await spending.begin()
                for process, part in zip(spending.processes, (0.2, 0.4), strict=False):
                    await until(lambda part=part: server.bill >= part * budget)
                    process.kill()
                await spending.finish()
                await server.idle()
    assert [one.returncode for one in spending.processes] == [-signal.SIGKILL] * 2 + [0] * 2
    assert 0.5 * budget <= server.bill <= budget
    assert spending.total("overdrawn") == 0
    assert spending.total("malformed") > 0
    check_refused_after_failures(server, spending.calls("refused"))


@asynccontextmanager
async def llm_user(server, queue, **options):
    """Give the SDKs with a queue, and close all in the end."""
    user = LLMUser(server.url, queue, transport=server.transport, **options)
    try:
        yield user
    finally:
        await user.aclose()
        await queue.aclose()


@pytest.fixture(params=["host", "redis"])
async def shared(request, blockbuster):
    """Give what makes a queue with a shared budget, and the folder of the hub, if there is one."""
    blockbuster.deactivate()
    name = fresh_name()
    if request.param == "host":
        with hub_in_use() as directory:
            yield lambda limit: ApiQueue(limit, schedule=HostSchedule(name)), directory
        return
    from redis.asyncio import Redis

    from aioapiqueue.integrations.redis import SharedSchedule

    async with Redis.from_url(request.getfixturevalue("valkey").url) as client:
        yield lambda limit: ApiQueue(limit, schedule=SharedSchedule(client, name)), None


def names_of(outcomes, kind):
    """Return the calls of which this became."""
    return [outcome.call for outcome in outcomes if outcome.kind == kind]


def kinds_of(outcomes):
    """Return how many calls there are of each kind."""
    return Counter(outcome.kind for outcome in outcomes)


@pytest.mark.real
@pytest.mark.usefixtures("sdks", "prices")
async def test_queues_share_one_budget(shared):
    """Two queues of this process, as in the tests of many processes; the hub is killed once."""
    make, directory = shared
    calls = 40
    queues = [make(f"{budget_of(calls)} usd in all") for _ in range(2)]
    async with (
        BillingServer(seconds=0.03) as server,
        llm_user(server, queues[0]) as one,
        llm_user(server, queues[1]) as other,
    ):
        spending = asyncio.gather(
            *map(one.spend, wishes(calls // 2)),
            *map(other.spend, wishes(calls // 2, first=calls // 2)),
        )
        if directory is not None:
            await kill_hub(directory, server, 0.5 * budget_of(calls))
        outcomes = await spending
        await server.idle()
    assert [queue.stats.overdrawn for queue in queues] == [0, 0]
    # A grant that a killed hub has written and not sent counts as spent: a twentieth of so little.
    least = 0.85 if directory is None else 0.5
    check_kept(server, kinds_of(outcomes), names_of(outcomes, "refused"), calls=calls, least=least)


@pytest.mark.usefixtures("sdks", "prices")
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # of impossible usage
@pytest.mark.parametrize(
    "seed", [*range(3), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 40))]
)
async def test_bill_within_budget_whatever_fails(seed):
    """At each instant, all that is billed was reserved before; the SDKs retry what failed."""
    budget = budget_of(100)
    queue = ApiQueue(f"{budget} usd in all")
    used, ahead = [], []

    def look():
        (use,) = queue.stats.budgets.values()
        used.append(use.spent + use.reserved)
        ahead.append(used[-1] - float(server.bill))

    async with (
        BillingServer(seed=seed, fates=FATES) as server,
        llm_user(server, queue, retries=2) as user,
    ):
        server.when_billed = look
        outcomes = await asyncio.gather(*map(user.spend, wishes(100, first=100 * seed)))
        await server.idle()
    assert max(used) <= budget + 1e-9
    assert min(ahead) > -1e-9
    assert server.bill >= 0.5 * budget
    assert queue.stats.overdrawn == 0
    assert {fate for fates in server.seen.values() for fate in fates} == {"", *FATES}
    check_refused_after_failures(server, names_of(outcomes, "refused"))


@pytest.mark.usefixtures("sdks", "prices")
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # of impossible usage
@pytest.mark.parametrize("fate", ["", *FATES])
async def test_no_call_settles_below_bill(fate):
    """One call after the other: each is charged at least what the provider bills for it."""
    queue = ApiQueue("10 usd in all")
    async with BillingServer(fates={fate: 1}) as server, llm_user(server, queue) as user:
        for wish in wishes(120):
            before = queue.stats.budgets["10 usd in all"].spent - float(server.bill)
            await user.spend(wish)
            await server.idle()
            ahead = queue.stats.budgets["10 usd in all"].spent - float(server.bill) - before
            assert ahead > -1e-9, wish
            if not fate and wish.leaves is None and wish.asks_usage:
                assert ahead < 2e-9, wish


PRICES = {"openai": 10e-6, "anthropic": 5e-6}
"""USD of a token of output."""


def calls_beyond(sdk, number):
    """Return a budget for five calls with some to spare, but less than a tenth; and calls."""
    most = 4000
    calls = [
        Wish(f"call-{one}", sdk, f"[call-{one}]", most, streams=one % 2 == 0)
        for one in range(number)
    ]
    return round(5 * 1.06 * most * PRICES[sdk], 6), calls


@pytest.mark.usefixtures("sdks", "prices")
@pytest.mark.parametrize("sdk", PRICES)
async def test_overdrawn_calls_stop_the_next(sdk):
    """Five responses cost a tenth more than their maximum, and are counted.

    A sixth call waits for them, and is not sent until the budget has room again.
    """
    budget, calls = calls_beyond(sdk, 7)
    queue = ApiQueue(f"{budget} usd in all")
    async with BillingServer(fates={"exceeds": 1}) as server, llm_user(server, queue) as user:
        outcomes = await asyncio.gather(*map(user.spend, calls[:6]))
        assert [outcome.kind for outcome in outcomes] == [*["answered"] * 5, "refused"]
        assert queue.stats.overdrawn == 5
        assert server.bill > budget
        assert (await user.spend(calls[6])).kind == "refused"
        assert list(server.seen) == [f"call-{n}" for n in range(5)]
        queue.set_rate("1 usd in all")
        assert (await user.spend(calls[6])).kind == "answered"
        assert queue.stats.overdrawn == 6
        (use,) = queue.stats.budgets.values()
        assert 0 <= use.spent - float(server.bill) < 10e-9


@pytest.mark.real
@pytest.mark.usefixtures("sdks", "prices")
@pytest.mark.parametrize("sdk", PRICES)
async def test_overdrawn_calls_stop_other_queues(shared, sdk):
    """A queue that shares the budget sends nothing either."""
    make, _ = shared
    budget, calls = calls_beyond(sdk, 6)
    queues = [make(f"{budget} usd in all") for _ in range(2)]
    async with (
        BillingServer(seconds=0.05, fates={"exceeds": 1}) as server,
        llm_user(server, queues[0]) as one,
        llm_user(server, queues[1]) as other,
    ):
        outcomes = await asyncio.gather(*map(one.spend, calls[:5]))
        assert {outcome.kind for outcome in outcomes} == {"answered"}
        assert queues[0].stats.overdrawn == 5
        assert (await other.spend(calls[5])).kind == "refused"
        assert sorted(server.seen) == [f"call-{n}" for n in range(5)]
        assert server.bill > budget
