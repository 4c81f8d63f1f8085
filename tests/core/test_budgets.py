"""Budgets, and limits with `or raise`: which calls wait, which raise, and what is spent."""

from __future__ import annotations

import asyncio
import pickle
import re

import pytest

from aioapiqueue import (
    ApiQueue,
    Budget,
    Calendar,
    Concurrency,
    LimitExceeded,
    Rate,
    Window,
    WouldWait,
    rate_limited,
)
from aioapiqueue.testing import VirtualLoop
from tests.helpers.instants import now


def usd(amount):
    """Return a cost in money."""
    return {"usd": amount}


async def spend(queue, reserved, used=None, seconds=1.0, **call):
    """Make one call; return how long it waited, or the error."""
    try:
        async with queue.slot(cost=usd(reserved), **call) as slot:
            await asyncio.sleep(seconds)
            if used is not None:
                slot.settle(usd(used))
            return slot.waited
    except LimitExceeded as error:
        return error


async def spend_with_tokens(queue, amount):
    """Make one call that uses tokens, too; return how long it waited, or the error."""
    try:
        async with queue.slot(cost={"tokens": 1, "usd": amount}) as slot:
            return slot.waited
    except LimitExceeded as error:
        return error


async def test_call_waits_for_what_others_may_give_back(limiter):
    """Three reserve all of it; as the first settles low, the fourth starts."""
    queue = limiter.queue("5 usd in all")
    calls = [spend(queue, 2, 0.5, 1), spend(queue, 2, 2, 2), spend(queue, 1, 1, 3)]
    *others, last = await asyncio.gather(*calls, spend(queue, 1.5, 1.5))
    assert others == limiter.exactly([0, 0, 0])
    assert last == limiter.exactly(1)
    await queue.aclose()


async def test_call_raises_once_nothing_comes_back(limiter):
    """Reservations could have made room, and then have been used."""
    queue = limiter.queue("5 usd in all")
    first, second, third = await asyncio.gather(
        spend(queue, 3, 3, 1), spend(queue, 2, 2, 2), spend(queue, 2.5)
    )
    assert [first, second] == limiter.exactly([0, 0])
    assert (third.limit, third.cost, third.remaining) == (Budget(5, "usd"), 2.5, 0)
    assert third.resets_in is third.key is None
    assert queue.stats.refused == 1
    await queue.aclose()


@pytest.mark.parametrize("ends", ["without settling", "raising", "cancelled"])
async def test_end_of_a_body_ends_its_reservation(limiter, ends):
    """What it reserved is spent then, whatever ended it, and the next call raises."""
    queue = limiter.queue("5 usd in all")

    async def run():
        async with queue.slot(cost=usd(4)):
            await asyncio.sleep(1 if ends != "cancelled" else 10)
            if ends == "raising":
                raise ZeroDivisionError

    task, waiting = asyncio.create_task(run()), asyncio.create_task(spend(queue, 2))
    await asyncio.sleep(1)
    if ends == "cancelled":
        task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (await waiting).remaining == 1
    assert now() == limiter.exactly(1)
    await queue.aclose()


async def test_second_settlement_ends_no_other_reservation(limiter):
    """A call that settles twice was reserved once: the other one may still make room."""
    queue = limiter.queue("5 usd in all")
    other = await queue.enqueue(cost=usd(3))
    one = await queue.enqueue(cost=usd(2))
    waiting = asyncio.create_task(spend(queue, 2, 0, 0))
    one.settle(usd(1.9))
    one.settle(usd(2))
    one.release()
    await asyncio.sleep(1)
    assert not waiting.done()
    other.settle(usd(1))
    other.release()
    assert await waiting == limiter.exactly(1)
    await queue.aclose()


async def test_first_waiting_call_keeps_smaller_ones_waiting(limiter):
    """First come, first served: also where the call behind it would have room."""
    queue = limiter.queue("5 usd in all")
    calls = [spend(queue, 4, 1, 1), spend(queue, 3, 3, 1), spend(queue, 0.5, 0.5, 0)]
    assert await asyncio.gather(*calls) == limiter.exactly([0, 1, 1])
    await queue.aclose()


async def test_refused_call_makes_way_for_the_next(limiter):
    """The first of the line raises, and a smaller one behind it starts at that instant."""
    queue = limiter.queue("5 usd in all")
    calls = [spend(queue, 4, 4, 1), spend(queue, 3), spend(queue, 0.75, 0.75, 0)]
    first, second, third = await asyncio.gather(*calls)
    assert [first, third] == limiter.exactly([0, 1])
    assert second.cost == 3
    await queue.aclose()


async def test_calls_are_refused_at_once(limiter):
    """A number of calls is known: no reservation of calls makes room."""
    queue = limiter.queue("2 in all")
    slots = [await queue.enqueue() for _ in range(2)]
    with pytest.raises(LimitExceeded, match="has 0 calls left"):
        await queue.enqueue()
    assert now() == 0
    for slot in slots:
        slot.release()
    await queue.aclose()


async def test_cost_above_the_whole_raises_at_once(limiter):
    """Whatever runs meanwhile could give back."""
    queue = limiter.queue("5 usd in all")
    running, error = await asyncio.gather(spend(queue, 5, 0), spend(queue, 5.000_000_001))
    assert running == 0
    assert "split the call" in str(error)
    assert error.cost == 5.000_000_001
    await queue.aclose()


async def test_overdraft_is_charged_in_full(limiter):
    """Nothing starts until there is room again."""
    queue = limiter.queue("5 usd in all")
    assert await spend(queue, 2, 6) == 0
    assert (await spend(queue, 0.01)).remaining == 0
    queue.set_rate("6.5 usd in all")
    await limiter.settled()
    assert (await spend(queue, 0.6)).remaining == limiter.exactly(0.5)
    assert await spend(queue, 0.5) == 0
    await queue.aclose()


@pytest.mark.contract
@pytest.mark.parametrize("text", ["5 usd in all", "5 usd in any 60s"])
async def test_call_that_cost_nothing_gets_a_late_charge_back(limiter, text):
    """It was not expected to use the unit, is settled at 4 all the same, and then at nothing."""
    queue = limiter.queue(f"{text} or raise, 100 tokens/s burst 100")
    slot = await queue.enqueue(cost={"tokens": 1, "usd": 0})
    slot.settle({"tokens": 1, "usd": 4})
    await limiter.settled()
    slot.settle({"tokens": 1, "usd": 0})
    slot.release()
    await limiter.settled()
    assert await spend_with_tokens(queue, 5) == 0
    await queue.aclose()


async def test_settlement_after_the_end_gives_back(limiter):
    """A stream's usage may be known only when its slot has ended."""
    queue = limiter.queue("5 usd in all")
    slot = await queue.enqueue(cost=usd(4))
    slot.release()
    await limiter.settled()
    assert (await spend(queue, 2)).remaining == 1
    slot.settle(usd(1))
    await limiter.settled()
    assert await spend(queue, 4) == 0
    await queue.aclose()


@pytest.mark.parametrize("when", ["waits", "has its slot"])
async def test_cancelled_call_spends_nothing(limiter, when):
    """Neither while it waits, nor once it has a slot that it never used."""
    queue = limiter.queue("5 usd in all")
    running = await queue.enqueue(cost=usd(4))
    waiting = queue.enqueue(cost=usd(3))
    await limiter.settled()
    if when == "has its slot":
        running.settle(usd(1))
        for _ in range(20):
            await asyncio.sleep(0)
        assert waiting.done()
    waiting.cancel()
    await limiter.settled()
    running.settle(usd(1))
    running.release()
    await limiter.settled()
    assert await spend(queue, 4) == 0
    await queue.aclose()


async def test_pause_keeps_calls_waiting(limiter):
    """What there is room for is looked at when it ends."""
    queue = limiter.queue("5 usd in all")
    await spend(queue, 5, seconds=0)
    queue.pause()
    waiting = asyncio.create_task(spend(queue, 1))
    await asyncio.sleep(1)
    assert not waiting.done()
    queue.resume()
    assert (await waiting).remaining == 0
    assert now() == limiter.exactly(1)
    await queue.aclose()


async def test_larger_budget_keeps_what_was_spent(limiter):
    """And a smaller one, which is spent at once."""
    queue = limiter.queue("5 usd in all")
    await spend(queue, 4, seconds=0)
    queue.set_rate("10 usd in all")
    await limiter.settled()
    assert (await spend(queue, 7)).remaining == 6
    queue.set_rate("3 usd in all")
    await limiter.settled()
    assert (await spend(queue, 1)).remaining == 0
    await queue.aclose()


@pytest.mark.contract
@pytest.mark.parametrize("key", [None, "a", "a*"])
async def test_budget_that_comes_back_knows_what_was_spent(limiter, key):
    """Limits in between, and seconds without a call, make no difference; not even to a lane."""
    queue = limiter.queue("5 usd in all", lanes={"a": "5 usd in all", "a*": "5 usd in all"})
    queue.set_rate("unlimited")
    call = {"key": "a" if key == "a" else "a1"}
    if key is None:
        queue.set_rate("5 usd in all")
    await spend(queue, 4, **call)
    for text in ("100 tokens/s burst 100", "unlimited"):
        queue.set_rate(text, key=key)
        await limiter.settled()
        async with queue.slot(cost={"tokens": 1, "usd": 0}, **call):
            pass
        await asyncio.sleep(2)
    queue.set_rate("6 usd in all", key=key)
    await limiter.settled()
    error = await spend(queue, 3, **call)
    assert (error.limit, error.remaining) == (Budget(6, "usd"), 2)
    await queue.aclose()


async def run_since_earlier(queue, limiter, seconds):
    """Let a call of 4 usd run, and one end later; return when 3 usd are due, and the wait."""
    running = await queue.enqueue(cost=usd(4))
    await asyncio.sleep(seconds)
    assert await spend(queue, 4, seconds=0) == 0
    await limiter.settled()
    began = now()
    error = await spend(queue, 3)
    running.release()
    return error.resets_in, now() - began


@pytest.mark.contract
@pytest.mark.parametrize("text", ["5 usd in any 60s or raise", "5 usd/min burst 5 or raise"])
async def test_nothing_comes_back_of_what_has_recovered(limiter, text):
    """A call that a limit does not count any more makes no other one wait, though it still runs."""
    queue = limiter.queue(text)
    due, waited = await run_since_earlier(queue, limiter, 65)
    assert due == pytest.approx(24 if "burst" in text else 60, abs=1)
    assert waited < 1
    await queue.aclose()


@pytest.mark.no_server  # a server has no calendar
async def test_nothing_comes_back_from_an_earlier_period(limiter):
    """Nor do figures call it reserved."""
    queue = limiter.queue(Calendar(5, "hour", unit="usd", on_empty="raise"))
    _, waited = await run_since_earlier(queue, limiter, 3600)
    assert waited == 0
    await limiter.settled()
    assert str(queue.stats.budgets["5 usd in each hour or raise"]) == "4 spent, 0 reserved, 1 left"
    await queue.aclose()


async def test_rate_gives_back_what_has_not_recovered():
    """Of 4 usd, 2 have recovered: a call waits for the other 2, and for no more."""
    queue = ApiQueue("5 usd/min burst 5 or raise")
    running = await queue.enqueue(cost=usd(4))
    await asyncio.sleep(24)
    assert await spend(queue, 3, seconds=0) == 0
    assert (await spend(queue, 2.5)).remaining == 0
    waiting = queue.enqueue(cost=usd(1.9))
    await asyncio.sleep(1)
    assert not waiting.done()
    running.settle(usd(0))
    assert (await waiting).waited == 1
    await queue.aclose(drain=False)


async def test_set_budget_lets_waiting_calls_start(limiter):
    """They waited for reservations, and need these no longer."""
    queue = limiter.queue("5 usd in all")
    running = await queue.enqueue(cost=usd(4))
    waiting = queue.enqueue(cost=usd(3))
    await limiter.settled()
    assert not waiting.done()
    queue.set_rate("7 usd in all")
    (await waiting).release()
    running.release()
    await queue.aclose()


async def test_smaller_budget_refuses_what_waits(limiter):
    """`set_rate` itself succeeds: the calls for which there will never be room raise."""
    queue = limiter.queue("5 usd in all")
    running = await queue.enqueue(cost=usd(4))
    waiting = asyncio.create_task(spend(queue, 3))
    await limiter.settled()
    queue.set_rate("2 usd in all")
    assert (await waiting).limit == Budget(2, "usd")
    running.release()
    await queue.aclose()


@pytest.mark.no_server  # a server has no calendar
@pytest.mark.parametrize("other", ["5 usd in each day or raise", "5 usd in any 1h or raise"])
async def test_changed_kind_starts_with_what_was_spent(limiter, other):
    """From a budget to another kind, and back."""
    queue = limiter.queue("5 usd in all")
    await spend(queue, 3, seconds=0)
    for text in (other, "5 usd in all"):
        queue.set_rate(text)
        await limiter.settled()
        assert (await spend(queue, 2.5)).remaining == limiter.exactly(2)
    await queue.aclose()


async def test_each_key_of_a_pattern_has_its_budget(limiter):
    """The error names the key, whose lane is never evicted."""
    queue = limiter.queue(lanes={"tenant:*": "2 usd in all"})
    for tenant in ("tenant:a", "tenant:b"):
        assert await spend(queue, 2, key=tenant, seconds=0) == 0
    await asyncio.sleep(10 * 86_400)
    for number in range(100):  # each looks at some of the lanes that may be idle
        assert await spend(queue, 0, key=f"tenant:{number}", seconds=0) == 0
    for tenant in ("tenant:a", "tenant:b"):
        error = await spend(queue, 1, key=tenant)
        assert error.key == tenant
        assert f"of the lane {tenant!r} has 0 usd left" in str(error)
        assert str(error).endswith(f"set_rate(..., key={tenant!r})")
    await queue.aclose()


async def test_all_or_nothing_with_a_rate(limiter):
    """A call that raises uses nothing of the rate, and one that waits nothing of the budget."""
    queue = limiter.queue("1/s", "3 in all", lanes={"a": "1 in all"})
    assert [(await queue.enqueue(key="a")).waited, (await queue.enqueue()).waited] == [
        0,
        limiter.exactly(1),
    ]
    with pytest.raises(LimitExceeded):
        await queue.enqueue(key="a")
    assert (await queue.enqueue()).waited == limiter.exactly(1)
    with pytest.raises(LimitExceeded):
        await queue.enqueue()
    await queue.aclose()


async def test_lines_that_wait_for_one_budget(limiter):
    """Calls of several lanes: each raises or starts in its turn."""
    queue = limiter.queue("5 usd in all", lanes={"a": "10/s", "b": "10/s"})
    calls = [
        *(spend(queue, 3, 1, key="a"), spend(queue, 2, 2, key="b")),
        *(spend(queue, 2, 2, key="a"), spend(queue, 3, key="b")),
    ]
    first, second, third, fourth = await asyncio.gather(*calls)
    assert [first, second, third] == limiter.exactly([0, 0, 1])
    assert fourth.remaining == 0
    await queue.aclose()


RAISING = {
    "2/s or raise": (Rate(2, on_empty="raise"), 0.5),
    "2 in any 1h or raise": (Window(2, 3600, on_empty="raise"), 3600),
    "2 in each day or raise": (Calendar(2, "day", on_empty="raise"), 86_400),
    "2 at once or raise": (Concurrency(2, on_empty="raise"), None),
}


@pytest.mark.no_server  # a server has no calendar
@pytest.mark.parametrize("text", RAISING)
async def test_every_kind_can_raise(limiter, text):
    """At once, and the error says when it will have room."""
    limit, resets_in = RAISING[text]
    queue = limiter.queue(text)
    at_once = 1 if isinstance(limit, Rate) else 2
    slots = [await queue.enqueue() for _ in range(at_once)]
    with pytest.raises(LimitExceeded) as caught:
        await queue.enqueue()
    error = caught.value
    assert (error.limit, error.cost, error.remaining) == (limit, 1, 0)
    if resets_in is None:
        assert error.resets_in is None
    else:
        assert error.resets_in == pytest.approx(resets_in, abs=0.01)
        await asyncio.sleep(error.resets_in + 0.01)
    for slot in slots:
        slot.release()
    await limiter.settled()
    assert (await queue.enqueue()).waited == 0
    assert queue.stats.refused == 1
    await queue.aclose()


@pytest.mark.parametrize(
    ("limit", "cost", "instant", "left", "remaining"),
    [
        ("1 usd/min burst 1 or raise", usd(1), 1, "has 0.016666666 usd left", 0.016_666_667),
        ("1 usd/min burst 1 or raise", usd(1), 0.001, "has 0.000016666 usd left", 0.000_016_667),
        ("1/min or raise", 1, 1, "has 0.01 calls left", 0.016_666_667),
        ("1/min or raise", 1, 0.25, "has 0 calls left", 0.004_166_667),
    ],
)
async def test_amount_left_is_for_people(limit, cost, instant, left, remaining):
    """The message rounds it down, of calls to hundredths."""
    queue = ApiQueue(limit)
    (await queue.enqueue(cost=cost)).release()
    await asyncio.sleep(instant)
    with pytest.raises(LimitExceeded, match=f"{left}, and this call would cost 1 ") as caught:
        await queue.enqueue(cost=cost)
    assert caught.value.remaining == remaining
    await queue.aclose()


async def test_sums_leave_no_errors_of_rounding(limiter):
    """What is left is 0.2, not 0.19999999999999996."""
    queue = limiter.queue("1 usd in any 1h or raise")
    for _ in range(2):
        assert await spend(queue, 0.4, 0.4) == 0
    assert (await spend(queue, 0.4)).remaining == 0.2
    await queue.aclose()


async def test_larger_burst_is_the_remedy():
    """A rate never has more room than its burst."""
    queue = ApiQueue("5 usd/day burst 1 or raise")
    message = 'has 1 usd left, and this call would cost 2 usd: .* room for it: "burst 2"'
    assert re.search(message, str(await spend(queue, 2)))
    queue.set_rate("5 usd/day burst 2 or raise")
    assert await spend(queue, 2) == 0
    await queue.aclose()


@pytest.mark.no_server  # a server has no calendar
async def test_tokens_of_a_day_wait_for_reservations(limiter):
    """In a unit that settles, a call waits while others could give it back."""
    queue = limiter.queue("100 tokens in each day or raise")

    async def call(reserved, used, seconds):
        async with queue.slot(cost={"tokens": reserved}) as slot:
            await asyncio.sleep(seconds)
            slot.settle({"tokens": used})
            return slot.waited

    calls = [call(90, 20, 1), call(80, 75, 1), call(5, 5, 0)]
    assert await asyncio.gather(*calls) == limiter.exactly([0, 1, 2])
    with pytest.raises(LimitExceeded, match="call again in 24 h"):
        await call(1, 1, 0)
    await asyncio.sleep(86_400)
    assert await call(90, 90, 0) == 0
    await queue.aclose()


async def test_try_slot_and_estimate():
    """Where `slot` would raise, `try_slot` does, and the estimate is infinite."""
    queue = ApiQueue("5 usd in all")
    slot = queue.try_slot(cost=usd(4))
    with pytest.raises(WouldWait):
        queue.try_slot(cost=usd(2))
    slot.settle(usd(4))
    assert queue.estimate(cost=usd(2)) == float("inf")
    assert queue.estimate(cost=usd(1)) == 0
    with pytest.raises(LimitExceeded):
        queue.try_slot(cost=usd(2))
    assert queue.stats.remaining == {"usd": 1}


async def test_map_reports_it_like_an_error_of_the_body():
    """The other items go on."""
    queue = ApiQueue("2 in all")

    async def double(number):
        return 2 * number

    found = [one async for one in queue.map(double, range(3), ordered=True, return_exceptions=True)]
    assert found[:2] == [0, 2]
    assert isinstance(found[2], LimitExceeded)


async def test_decorated_function_raises_it():
    """It is not called."""
    queue, calls = ApiQueue("1 in all"), []

    @rate_limited(queue)
    async def call():
        calls.append(now())

    await call()
    with pytest.raises(LimitExceeded):
        await call()
    assert calls == [0]


async def test_money_adds_up_without_rounding_errors(limiter):
    """Ten times 0.1 is 1, a thousand times 0.005 is 5, and a third is rounded up."""
    for amount, cost, number in (("1", 0.1, 10), ("0.3", 0.1, 3), ("1", 1 / 3, 2)):
        queue = limiter.queue(f"{amount} usd in all")
        for _ in range(number):
            assert await spend(queue, cost, seconds=0) == 0
        assert isinstance(await spend(queue, cost), LimitExceeded)
        await queue.aclose()


def test_costs_of_money_are_rounded_up():
    """To whole billionths; so the sums in figures are those that were charged."""

    async def main():
        queue = ApiQueue("5 usd in all")
        for cost in (1e-10, 0.1, 2e-9, 1 / 3):
            async with queue.slot(cost=usd(cost)):
                pass
        return queue.stats

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        stats = runner.run(main())
    assert stats.costs["usd"] == pytest.approx(0.433333337, abs=1e-15)
    assert stats.remaining["usd"] == pytest.approx(5 - 0.433333337, abs=1e-12)


def test_budget_outlasts_its_loop():
    """Also one whose clock begins again: what was spent has no instant."""
    queue = ApiQueue("5 usd in all", lanes={"a": "2 usd in all"})

    async def main():
        return [await spend(queue, 2, key=key, seconds=0) for key in ("a", "a", None, None)]

    kinds = []
    for _ in range(2):
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            kinds.append([type(one) is LimitExceeded for one in runner.run(main())])
    assert kinds == [[False, True, False, True], [True, True, True, True]]


def test_holds_end_with_their_clock():
    """A new loop, whose clock begins again, knows no hold of the one before."""
    queue = ApiQueue("5 usd in all", lanes={"a": "5 usd in all"})

    async def hold():
        await spend(queue, 1, key="a", seconds=0)
        queue.hold(1000)
        queue.hold(1000, key="a")

    async def call():
        return await spend(queue, 1, key="a", seconds=0)

    for main in (hold, call):
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            waited = runner.run(main())
    assert waited == 0


async def test_large_budget_admits_no_call_more():
    """Sums of fractions may be off by a rounding error, but never by a call."""
    queue = ApiQueue("5000000000 in all")
    queue.try_slot(cost=5_000_000_000)
    with pytest.raises(LimitExceeded):
        queue.try_slot()


async def test_reservation_ends_at_the_instant_of_a_change():
    """A call that starts as the budget is set waits for no reservation that never ends."""
    queue = ApiQueue("10/s")
    (await queue.enqueue()).release()
    queue.set_rate("5 usd in all")
    assert await spend(queue, 4, 1, seconds=0) == 0
    assert isinstance(await spend(queue, 2), LimitExceeded)


async def test_thousands_of_refusals_delay_nobody(blockbuster):
    """A step refuses a few calls; other tasks run before the next ones are refused."""
    blockbuster.deactivate()
    queue = ApiQueue("5 usd in all")
    running = await queue.enqueue(cost=usd(4))
    waiting = [queue.enqueue(cost=usd(2)) for _ in range(3000)]
    running.release()
    passes = 0
    while queue.waiting:
        before = queue.waiting
        await asyncio.sleep(0)
        assert before - queue.waiting <= 500
        passes += 1
    assert passes > 5
    assert all(isinstance(one.exception(), LimitExceeded) for one in waiting)


async def test_error_can_be_pickled():
    """A pool of processes sends errors so."""
    queue = ApiQueue("1 in each day or raise", lanes={"a": "1/s"})
    queue.try_slot(key="a")
    with pytest.raises(LimitExceeded) as caught:
        queue.try_slot(key="a")
    again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - our own
    assert vars(again) == vars(caught.value)
    assert str(again) == str(caught.value)


async def test_unit_must_be_stated():
    """A call that says nothing of it would not be counted."""
    queue = ApiQueue("5 usd in all")
    with pytest.raises(ValueError, match=r'write cost={"usd": amount}'):
        await queue.enqueue()
