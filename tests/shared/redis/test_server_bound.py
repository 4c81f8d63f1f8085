"""What a server says remains bounds all processes that share the quota (`sync`).

On virtual time and a real Valkey; instants are exact, as nothing takes time on the way.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from aioapiqueue import ApiQueue, Slot
from aioapiqueue.integrations.redis import SharedSchedule
from tests.helpers.instants import now
from tests.helpers.virtual_client import VirtualClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.helpers.servers import Server

POLL = 1.0  # seconds: so long it may take until one that waits hears of what others know
LEASE = 10.0  # seconds, the default


@asynccontextmanager
async def fleet(
    valkey: Server, name: str, number: int, *limits: str, **options: Any
) -> AsyncIterator[list[ApiQueue]]:
    """Give so many queues of one quota."""
    async with AsyncExitStack() as stack:
        queues = []
        for _ in range(number):
            schedule = SharedSchedule(VirtualClient(valkey), name)
            queues.append(
                await stack.enter_async_context(ApiQueue(*limits, schedule=schedule, **options))
            )
        yield queues


async def take(queue: ApiQueue, number: int, **details: Any) -> list[Slot]:
    """Let so many calls start, and hold them."""
    return [await queue.enqueue(**details) for _ in range(number)]


class Waiting:
    """Calls that wait, and when each of them starts.

    Args:
        queue: where.
        number: of calls.
        details: of each.
    """

    def __init__(self, queue: ApiQueue, number: int, **details: Any) -> None:
        self.starts: list[float] = []
        self.slots: list[Slot] = []
        self._calls = [queue.enqueue(**details) for _ in range(number)]
        for call in self._calls:
            call.add_done_callback(self._note)

    def _note(self, call: asyncio.Future[Slot]) -> None:
        if not call.cancelled() and call.exception() is None:
            self.starts.append(round(now(), 6))
            self.slots.append(call.result())

    def leave(self) -> None:
        """Let those go that wait yet."""
        for call in self._calls:
            if not call.done():
                call.cancel()


async def started(waiting: Waiting, after: float) -> int:
    """Return how many have started after so many seconds."""
    await asyncio.sleep(after)
    return len(waiting.starts)


@pytest.mark.parametrize("number", [2, 4])
async def test_bound_holds_for_all(valkey, name, number):
    """What remains is for all queues together; after the reset only the limits count."""
    async with fleet(valkey, name, number, "1000/s burst 100") as queues:
        (first,) = await take(queues[0], 1)
        first.sync(6, reset=30)
        begun = now()
        waiting = [Waiting(queue, 5) for queue in queues]
        await asyncio.sleep(20)
        assert sum(len(one.starts) for one in waiting) == 6
        await asyncio.sleep(20)
        starts = sorted(start for one in waiting for start in one.starts)
        assert len(starts) == 5 * number
        assert starts[6] == round(begun + 30, 6)


@pytest.mark.parametrize("number", [2, 4])
async def test_calls_out_elsewhere_are_taken_off(valkey, name, number):
    """Nobody knows whether the server had counted those that are out, in any of the queues."""
    async with fleet(valkey, name, number, "1000/s burst 100") as queues:
        out = [await take(queue, 3) for queue in queues]
        out[0][0].sync(20, reset=30)
        waiting = [Waiting(queue, 20) for queue in queues]
        await asyncio.sleep(20)
        assert sum(len(one.starts) for one in waiting) == 20 - (3 * number - 1)
        for one in waiting:
            one.leave()


async def test_ended_calls_stay_counted(valkey, name):
    """A call that ends elsewhere without an answer may have been counted, or not.

    Until a call is answered that was released after that, and its process has heard of it.
    """
    async with fleet(valkey, name, 2, "1000/s burst 100") as (one, other):
        (first,) = await take(one, 1)
        first.sync(50, reset=100)  # from now on, answers are noted
        lost = await take(other, 3)
        (early,) = await take(one, 1)
        await asyncio.sleep(1)
        for call in lost:
            call.release()
        await asyncio.sleep(0.5)
        await take(other, 1)  # so that others know
        early.sync(10, reset=100)
        waiting = Waiting(one, 20)
        assert await started(waiting, 5) == 10 - 3 - 1
        waiting.slots[0].sync(10, reset=90)
        assert await started(waiting, 5) == 6 + 10 - 3 - 1 - 5
        asking = Waiting(other, 1)
        assert await started(asking, 3) == 0  # but it has heard of that answer, and said so
        asking.leave()
        waiting.slots[6].sync(10, reset=80)
        assert await started(waiting, 5) == 7 + 10 - 1 - 5
        waiting.leave()


async def test_later_answer_replaces(valkey, name):
    """It raises the bound, or lowers it; an older answer says nothing new."""
    async with fleet(valkey, name, 2, "1000/s burst 100") as (one, other):
        (a,) = await take(one, 1)
        await asyncio.sleep(0.1)
        (b,) = await take(other, 1)
        await asyncio.sleep(0.1)
        (c,) = await take(one, 1)
        b.sync(4, reset=60)
        await asyncio.sleep(0.1)
        a.sync(50, reset=60)  # older
        waiting = Waiting(other, 10)
        assert await started(waiting, 2) == 4 - 2  # a and c were out then
        c.sync(6, reset=50)
        assert await started(waiting, 2) == 2 + 6 - 2  # those two are
        (last,) = waiting.slots[-1:]
        last.sync(0, reset=20)
        begun = now()
        assert await started(waiting, 10) == 6
        await asyncio.sleep(20)
        assert waiting.starts[6] == round(begun + 20, 6)


async def test_one_instant_lesser_holds(valkey, name):
    """Of calls that were released at one instant, nobody knows which was counted first."""
    async with fleet(valkey, name, 1, "1000/s burst 100") as (queue,):
        calls = await asyncio.gather(*(queue.enqueue() for _ in range(3)))
        for call, remaining in zip(calls, (7, 5, 9), strict=True):
            call.sync(remaining, reset=60)
            await asyncio.sleep(0.1)
        waiting = Waiting(queue, 20)
        assert await started(waiting, 5) == 5 - 1  # the third was out when the second said so
        waiting.leave()


async def test_returned_lease_comes_back(valkey, name):
    """A slot that was leased and not used is for another call, there or elsewhere."""
    async with fleet(valkey, name, 2, "10/s") as (one, other):
        (first,) = await take(one, 1)
        first.sync(3, reset=60)
        leaving = Waiting(other, 3)  # at 0.1, 0.2 and 0.3: leased ahead
        await asyncio.sleep(0.15)
        assert len(leaving.starts) == 1
        leaving.leave()
        waiting = Waiting(one, 5)
        assert await started(waiting, 10) == 2
        waiting.leave()


async def test_a_sender_that_dies(valkey, name):
    """What it had out is taken off only as long as the server may not have counted it."""
    async with fleet(valkey, name, 1, "1000/s burst 100") as (one,):
        client = VirtualClient(valkey)
        dead = ApiQueue("1000/s burst 100", schedule=SharedSchedule(client, name))
        (first,) = await take(one, 1)
        first.sync(50, reset=300)
        died_with = await take(dead, 5)
        client.down = True
        (soon,) = await take(one, 1)
        soon.sync(20, reset=300)
        waiting = Waiting(one, 30)
        assert await started(waiting, 5) == 15
        await asyncio.sleep(LEASE)
        one.sync(30, reset=300)  # of now
        assert await started(waiting, 5) == 15 + 30 - 15  # its own are out yet
        for slot in died_with:
            slot.release()
        await dead.aclose(drain=False)


async def test_slow_message_counts_what_was_out(valkey, name):
    """What an answer leaves is less by all that was out when it came, not when others hear of it.

    A call elsewhere that is answered in between had not been counted.
    """
    client = VirtualClient(valkey, latency=(0.2, 0.2))
    distant = ApiQueue("1000/s burst 100", schedule=SharedSchedule(client, name))
    async with distant, fleet(valkey, name, 1, "1000/s burst 100") as (near,):
        (first,) = await take(near, 1)
        first.sync(50, reset=100)
        (earlier,) = await take(near, 1)
        (later,) = await take(distant, 1)
        later.sync(10, reset=100)  # `earlier` is out
        await asyncio.sleep(0.1)
        earlier.sync(9, reset=100)
        await asyncio.sleep(1)
        waiting = Waiting(near, 20)
        assert await started(waiting, 5) == 10 - 1
        waiting.leave()


async def test_lost_slot_is_not_used_up(valkey, name):
    """A slot that came too late to be used leaves as much as before."""
    async with fleet(valkey, name, 1, "10/s") as (queue,):
        (first,) = await take(queue, 1)
        first.sync(4, reset=60)
        waiting = Waiting(queue, 6)
        await asyncio.sleep(0.05)  # two are leased ahead
        asyncio.get_running_loop().stall(0.5)
        assert await started(waiting, 10) == 4
        waiting.leave()


LANES = {"model:*": "1000/s burst 100"}


@pytest.mark.parametrize("number", [2, 4])
async def test_lanes_are_told_apart(valkey, name, number):
    """What remains of one lane is no matter to others, nor is what they have out."""
    async with fleet(valkey, name, number, lanes=LANES) as queues:
        (first,) = await take(queues[0], 1, key="model:a")
        first.sync(100, reset=200)  # from now on, lanes are told apart
        out = [await take(queue, 2, key="model:a") for queue in queues]
        for queue in queues:
            await take(queue, 3, key="model:b")
        out[0][0].sync(20, reset=30)
        waiting = [Waiting(queue, 20, key="model:a") for queue in queues]
        others = [Waiting(queue, 5, key="model:b") for queue in queues]
        await asyncio.sleep(20)
        assert sum(len(one.starts) for one in waiting) == 20 - (2 * number - 1)
        assert sum(len(one.starts) for one in others) == 5 * number
        for one in waiting:
            one.leave()


async def test_first_count_of_a_lane(valkey, name):
    """What others had out before anybody noted answers may be of any lane."""
    async with fleet(valkey, name, 2, lanes=LANES) as (one, other):
        (first,) = await take(one, 1, key="model:a")
        await take(other, 2, key="model:a")
        await take(other, 3, key="model:b")
        first.sync(20, reset=30)
        waiting = Waiting(one, 30, key="model:a")
        assert await started(waiting, 5) == 20 - 5
        waiting.leave()


async def test_whole_queue_beside_lanes(valkey, name):
    """Of a call whose keys have no lane, what remains bounds all calls."""
    async with fleet(valkey, name, 2, "1000/s burst 100", lanes=LANES) as (one, other):
        (plain,) = await take(one, 1, key="other")
        plain.sync(5, reset=30)
        begun = now()
        waiting = [Waiting(queue, 4, key="model:a") for queue in (one, other)]
        await asyncio.sleep(10)
        assert sum(len(each.starts) for each in waiting) == 5
        await asyncio.sleep(25)
        assert max(max(each.starts) for each in waiting) == round(begun + 30, 6)


async def test_units_are_told_apart(valkey, name):
    """What remains of one unit concerns calls that use it, by what they cost in it."""
    limits = "1000/s burst 100", "1000 tokens/s burst 1000"
    async with fleet(valkey, name, 2, *limits) as (one, other):
        (first,) = await take(one, 1, cost={"tokens": 1})
        await take(other, 1, cost={"tokens": 30})
        first.sync(100, unit="tokens", reset=30)
        begun = now()
        waiting = Waiting(other, 5, cost={"tokens": 20})
        free = Waiting(other, 5, cost={"tokens": 0})
        assert await started(waiting, 10) == 3  # of the 70 that are left
        assert len(free.starts) == 5
        await asyncio.sleep(25)
        assert waiting.starts[3:] == [round(begun + 30, 6)] * 2


async def test_two_quotas_of_one_unit(valkey, name):
    """They are told apart by their size: of a minute, and of a day."""
    async with fleet(valkey, name, 2, "1000/s burst 100") as (one, other):
        (first,) = await take(one, 1)
        first.sync(3, reset=20, limit=10)
        first.sync(5, reset=300, limit=1000)
        begun = now()
        waiting = Waiting(other, 8)
        assert await started(waiting, 10) == 3
        await asyncio.sleep(20)
        assert waiting.starts[3:] == [round(begun + 20, 6)] * 2
        assert await started(waiting, 300) == 8
        assert waiting.starts[5] == round(begun + 300, 6)


@pytest.mark.parametrize(("limit", "period"), [("6/min burst 6", 60.0), ("1000/s burst 60", 1.0)])
async def test_reset_not_said(valkey, name, limit, period):
    """Then it is the period of the limit that counts the unit."""
    async with fleet(valkey, name, 2, limit) as (one, other):
        (first,) = await take(one, 1)
        first.sync(0)
        begun = now()
        waiting = Waiting(other, 1)
        await asyncio.sleep(period + 1)
        assert waiting.starts == [round(begun + period, 6)]


async def test_estimate_knows_the_bound(valkey, name):
    """By the last reply, a call for which too little remains starts when that is full again."""
    async with fleet(valkey, name, 1, "1000/s burst 100") as (queue,):
        (first,) = await take(queue, 1)
        first.sync(2, reset=30)
        await asyncio.sleep(0.1)
        assert queue.estimate(cost=2) == 0
        assert queue.estimate(cost=3) == pytest.approx(29.9, abs=0.001)


async def test_sync_of_no_call(valkey, name):
    """`queue.sync` is of this instant, in the lane of a key or the whole queue."""
    async with fleet(valkey, name, 2, "1000/s burst 100", lanes=LANES) as (one, other):
        await take(one, 1, key="model:a")
        one.sync(1 + 2, key="model:a", reset=10)
        one.sync(1 + 4, reset=10)
        waiting = Waiting(other, 5, key="model:a"), Waiting(other, 5)
        await asyncio.sleep(5)
        assert [len(each.starts) for each in waiting] == [2, 2]
        for each in waiting:
            each.leave()


async def test_a_page_counts_what_has_ended(valkey, name):
    """What `queue.sync` says has counted the calls that ended without an answer of their own."""
    async with fleet(valkey, name, 1, "1000/s burst 100") as (queue,):
        queue.sync(100, reset=600)
        for slot in await take(queue, 60):
            slot.release()
        await asyncio.sleep(20)  # until nothing is leased any more
        queue.sync(40, reset=600)
        waiting = Waiting(queue, 41)
        assert await started(waiting, 10) == 40
        waiting.leave()


async def test_sizes_without_end_are_eight(valkey, name):
    """Of each unit, so many quotas are told apart: those that end last."""
    async with fleet(valkey, name, 1, "1000/s burst 100") as (queue,):
        for size in range(1, 50):
            queue.sync(90, limit=size + 100, reset=1000 + size)
            await asyncio.sleep(0.1)
        kept = valkey.sync().hget(f"{{aioapiqueue:{name}}}", "bounds").decode().split()
        assert sorted(one.split("|")[1] for one in kept) == [str(n) for n in range(142, 150)]


async def test_bound_outlives_other_limits(valkey, name):
    """`set_rate` replaces limits; what the server has said holds on."""
    async with fleet(valkey, name, 2, "1000/s burst 100") as (one, other):
        (first,) = await take(one, 1)
        first.sync(2, reset=30)
        other.set_rate("500/s burst 50")
        waiting = Waiting(other, 5)
        assert await started(waiting, 10) == 2
        waiting.leave()


async def test_many_answers_few_messages(valkey, name):
    """Answers that come while a message is under way are one message together."""
    client = VirtualClient(valkey, latency=(0.05, 0.05))
    async with ApiQueue("1000/s burst 200", schedule=SharedSchedule(client, name)) as queue:
        calls = await asyncio.gather(*(queue.enqueue() for _ in range(100)))
        await asyncio.sleep(1)
        before = client.calls
        for number, call in enumerate(calls):
            call.sync(200 - number, reset=60)
        await asyncio.sleep(1)
        assert client.calls - before <= 2


async def test_waiting_again_keeps_its_place(valkey, name):
    """A call that the other side has refused goes before those that came after it."""
    async with fleet(valkey, name, 2, "10/s") as (one, _):
        order: list[str] = []

        async def call(label: str, *, refused: int = 0) -> None:
            slot = await one.enqueue()
            order.append(label)
            for _ in range(refused):
                slot = await slot.again()
                order.append(f"{label} again")
            slot.release()

        await asyncio.gather(call("a", refused=1), call("b", refused=1), call("c"), call("d"))
        assert order == ["a", "a again", "b", "b again", "c", "d"]
        assert now() == pytest.approx(0.5, abs=0.001)


async def test_one_message_for_one_answer(valkey, name):
    """All that one answer says is one message; so is what many lanes' answers say, up to a number.

    A server does nothing else while it reads what all processes have out in these lanes.
    """
    client = VirtualClient(valkey, latency=(0.001, 0.001))
    limits = "1000/s burst 100", "1000 tokens/s burst 1000"
    async with ApiQueue(*limits, lanes=LANES, schedule=SharedSchedule(client, name)) as queue:
        cost = {"tokens": 1}
        calls = [await queue.enqueue(key=f"model:{number}", cost=cost) for number in range(33)]

        def sync(call: Slot) -> None:
            call.sync(500, reset=60, limit=1000)
            call.sync(10_000, reset=3600, limit=20_000)
            call.sync(50_000, unit="tokens", reset=60)

        sync(calls[0])
        await asyncio.sleep(0.1)
        assert [op for _, op in client.log].count("sync") == 1
        for call in calls[1:]:
            sync(call)
        await asyncio.sleep(0.5)
        assert [op for _, op in client.log].count("sync") == 1 + 32 * 3 // 16


@pytest.mark.parametrize("key", [None, "model:a"])
async def test_bound_is_kept_until_reset(valkey, name, key):
    """The server does not forget it while nobody calls, even if all else is as good as new."""
    client = VirtualClient(valkey, outlive=False)
    async with ApiQueue(lanes=LANES, schedule=SharedSchedule(client, name)) as queue:
        (first,) = await take(queue, 1, key=key)
        await asyncio.sleep(5)
        first.sync(3, reset=300)
        await asyncio.sleep(0.1)
    lane = "" if key is None else f':lane:"{key}"'
    assert 290_000 < valkey.sync().pttl(f"{{aioapiqueue:{name}}}{lane}") <= 310_000
