"""Budgets that processes of one host share: through kills of the hub, restarts and reboots."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
from contextlib import closing

import pytest

from aioapiqueue import ApiQueue, LimitExceeded
from tests.helpers import introspect
from tests.helpers.hubs import hub_in_use, processes_of
from tests.helpers.ledger import BUDGET, spending, sums
from tests.helpers.virtual_hub import VirtualHub
from tests.helpers.waiting import wait_until


def usd(amount):
    """Return a cost in money."""
    return {"usd": amount}


@pytest.fixture
def hub(open_journal, blockbuster):
    """A hub with a file that outlasts it."""
    blockbuster.deactivate()
    return VirtualHub(open_journal)


async def settled():
    """Let all queues and the hub talk; no time passes."""
    for _ in range(20):
        await asyncio.sleep(0)


async def left_of(queue):
    """Return what a budget of 5 USD has left, from the error of a call for all of it."""
    with pytest.raises(LimitExceeded) as caught:
        (await queue.enqueue(cost=usd(5))).release()
    return caught.value.remaining


@pytest.mark.parametrize("end", ["kill", "end"])
async def test_spent_outlasts_the_hub(hub, end):
    """To the last billionth: a thousandth of 5 USD is written for each call."""
    queue = ApiQueue("5 usd in all", schedule=hub.schedule("crm"))
    for cost in (1, 0.1, 0.000_000_001):
        (await queue.enqueue(cost=usd(cost))).release()
    await settled()
    getattr(hub, end)()
    await asyncio.sleep(2)
    assert await left_of(queue) == pytest.approx(3.899_999_999, abs=1e-12)
    await queue.aclose()


async def test_large_budget_is_written_a_thousandth_ahead(hub):
    """A killed hub costs at most that, and one that ends costs nothing."""
    queue = ApiQueue("5000 in all", schedule=hub.schedule("crm"))
    for number in range(1, 4):
        slots = await asyncio.gather(*(queue.enqueue() for _ in range(7)))
        for slot in slots:
            slot.release()
        await settled()
        hub.kill()
        await asyncio.sleep(2)
        with pytest.raises(LimitExceeded) as caught:
            await queue.enqueue(cost=5000)
        left = 5000 - 7 * number - caught.value.remaining
        assert 0 <= left <= 5 * number
    await queue.aclose()


@pytest.mark.parametrize("used", [1, 4, 4.5])
@pytest.mark.parametrize("ends", ["before", "after"])
async def test_settlement_without_a_hub_counts(hub, used, ends):
    """It is sent to the next hub, which gives the difference back once, or charges it."""
    queue = ApiQueue("5 usd in all", schedule=hub.schedule("crm"))
    running = await queue.enqueue(cost=usd(4))
    hub.down = True
    hub.kill()
    await settled()
    if ends == "before":
        running.release()
    running.settle(usd(2))
    running.settle(usd(used))
    await asyncio.sleep(1)
    hub.down = False
    await asyncio.sleep(20)
    if ends == "after":
        running.release()
        await settled()
    assert await left_of(queue) == 5 - used
    await queue.aclose()


@pytest.mark.parametrize("used", [1, 4])
async def test_reservation_outlasts_the_hub(hub, used):
    """A running call may still make room at the next hub, and is charged there only once."""
    one, other = (ApiQueue("5 usd in all", schedule=hub.schedule("crm")) for _ in range(2))
    running = await one.enqueue(cost=usd(4))
    waiting = asyncio.gather(other.enqueue(cost=usd(2)), return_exceptions=True)
    await settled()
    hub.kill()
    await asyncio.sleep(3)
    assert not waiting.done()
    running.settle(usd(used))
    running.release()
    (found,) = await waiting
    if used == 1:
        found.release()
        assert await left_of(one) == 2
    else:
        assert (type(found), found.remaining) == (LimitExceeded, 1)
    await one.aclose()
    await other.aclose()


async def test_reservation_of_a_gone_process_is_spent(hub):
    """Its call may have been billed; what waited for it raises."""
    one, other = (ApiQueue("5 usd in all", schedule=hub.schedule("crm")) for _ in range(2))
    await one.enqueue(cost=usd(4))
    waiting = asyncio.gather(other.enqueue(cost=usd(2)), return_exceptions=True)
    await settled()
    hub.links[0].lose("gone")
    await one.aclose()
    (found,) = await waiting
    assert found.remaining == 1
    await other.aclose()


async def test_budget_is_kept_for_years_and_boots(hub, open_journal, monkeypatch):
    """Rows of other limits go once these have recovered; there is no such day for a budget."""
    limits = "5 usd in all", "1000/min"
    queue = ApiQueue(*limits, schedule=hub.schedule("crm"))
    (await queue.enqueue(cost=usd(2))).release()
    await queue.aclose()
    hub.end()
    file = open_journal().path
    with closing(sqlite3.connect(file)) as database:
        rows = dict(database.execute("SELECT rule, over FROM used"))
    assert rows["5 usd in all"] == float("inf") > rows["1000/min"]
    introspect.replace(monkeypatch, "name of a boot", lambda: "another")
    hub.kill()
    queue = ApiQueue(*limits, schedule=hub.schedule("crm"))
    assert await left_of(queue) == 3
    await queue.aclose()


async def test_reset_gives_all_of_it_back(hub):
    """Waiting calls start, and a call that runs meanwhile gives nothing more back."""
    queue = ApiQueue("5 usd in all", schedule=hub.schedule("crm"))
    running = await queue.enqueue(cost=usd(4))
    waiting = queue.enqueue(cost=usd(3))
    await settled()
    assert not waiting.done()
    hub.quotas.reset("crm")
    (await waiting).release()
    running.settle(usd(1))  # of what was charged before, nothing comes back
    running.release()
    await settled()
    assert await left_of(queue) == 2
    await queue.aclose()


@pytest.mark.parametrize("how", ["settle", "leave"])
async def test_what_comes_back_outlasts_the_hub(hub, how):
    """A settlement is written, and so is a slot that was never used."""
    queue = ApiQueue("5 usd in all", schedule=hub.schedule("crm"))
    task = asyncio.ensure_future(queue.enqueue(cost=usd(4)))
    await settled()
    if how == "settle":
        task.result().settle(usd(0))
        task.result().release()
    else:
        task.cancel()
    await settled()
    hub.kill()
    await asyncio.sleep(2)
    (await queue.enqueue(cost=usd(5))).release()
    await queue.aclose()


async def test_budgets_of_two_programs_both_hold(hub):
    """A call comes under the limits of all clients, and the error names the one without room."""
    small, large = (
        ApiQueue(f"{amount} usd in all", schedule=hub.schedule("crm")) for amount in (2, 5)
    )
    (await large.enqueue(cost=usd(1.5))).release()
    for queue in (small, large):
        with pytest.raises(LimitExceeded, match=r'"2 usd in all" has 0\.5 usd left'):
            await queue.enqueue(cost=usd(1))
    await small.aclose()
    assert await left_of(large) == 3.5
    await large.aclose()


async def test_no_call_of_a_budget_at_the_fallback_rate(hub):
    """Without a hub, what is left is not known; other calls start."""
    schedule = hub.schedule("crm", fallback="10/s")
    queue = ApiQueue(schedule=schedule, lanes={"paid": "5 usd in all"})
    hub.down = True
    free = queue.enqueue()
    await asyncio.sleep(1)
    assert free.done()
    paid = queue.enqueue(key="paid", cost=usd(1))
    await asyncio.sleep(10)
    assert not paid.done()
    hub.down = False
    await asyncio.sleep(10)
    assert paid.done()
    await queue.aclose()


async def test_window_that_raises_is_named_as_given(hub):
    """The hub counts windows a little longer; the error has the user's limit."""
    queue = ApiQueue("1 in any 1h or raise", schedule=hub.schedule("crm"), catch_up=0.5)
    (await queue.enqueue()).release()
    with pytest.raises(LimitExceeded) as caught:
        await queue.enqueue()
    assert str(caught.value.limit) == "1 in any 1h or raise"
    await queue.aclose()


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize(("processes", "calls", "kills"), [(3, 240, [0.5]), (8, 1000, [0.3, 0.6])])
def test_processes_keep_one_budget_through_kills(tmp_path, processes, calls, kills):
    """Never above, and nearly all is used, however often the hub is killed.

    A grant that is written to the file, and not sent, counts as spent. Beside it, the same calls by
    what many programs do: read the total, call, add the cost.
    """
    how = {"processes": processes, "calls": calls}
    with hub_in_use() as directory:
        ledger = tmp_path / "kept"
        with spending("host:crm", ledger, **how) as finish:
            for part in kills:
                wait_until(lambda part=part: sums(ledger)[-1] > part * BUDGET, within=60)
                wait_until(lambda: processes_of(directory))
                os.kill(processes_of(directory)[0], signal.SIGKILL)
            kept = finish()
    with spending("unsafe", tmp_path / "unsafe", **how) as finish:
        unsafe = finish()
    assert max(kept) <= BUDGET + 1e-9
    assert kept[-1] >= 0.95 * BUDGET
    assert unsafe[-1] > BUDGET
