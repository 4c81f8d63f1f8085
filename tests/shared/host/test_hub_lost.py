"""A hub that dies, or is not there: what waits goes on with the next one, in virtual time."""

from __future__ import annotations

import asyncio

import pytest

from aioapiqueue import Adaptive, ApiQueue, QueueClosed, Rate, SharedError
from aioapiqueue.spi import Reporter
from tests.helpers.virtual_hub import VirtualHub


class Events:
    """Notes the kinds of events."""

    def __init__(self):
        self.kinds = []

    def on_event(self, event):
        """Note one."""
        self.kinds.append(event.kind)


async def settled():
    """Let all queues and the hub talk; no time passes."""
    for _ in range(20):
        await asyncio.sleep(0)


def now():
    """Return the present instant."""
    return asyncio.get_running_loop().time()


async def test_those_who_wait_ask_the_next_hub():
    """In their order; a hub without a file starts with a full bucket, and no more than that."""
    hub, events, order = VirtualHub(), Events(), []
    queue = ApiQueue("10/s", schedule=hub.schedule("crm"), observers=[events])

    async def one(number):
        async with queue.slot():
            order.append((number, round(now(), 6)))

    tasks = [asyncio.create_task(one(number)) for number in range(10)]
    await asyncio.sleep(0.35)
    hub.kill()
    await asyncio.gather(*tasks)
    assert [number for number, _ in order] == list(range(10))
    assert order[4][1] == 0.35
    assert order[-1][1] == pytest.approx(0.85)
    assert [kind for kind in events.kinds if "connect" in kind] == ["disconnected", "reconnected"]
    assert queue.stats.fault == ""
    assert queue.stats.faults == 1


async def test_permits_of_running_bodies_are_known_to_the_next():
    """A body that goes on has its permit from the next hub, too."""
    hub = VirtualHub()
    one, other = (ApiQueue("2 at once", schedule=hub.schedule("crm")) for _ in range(2))
    first, second = await one.enqueue(), await one.enqueue()
    waiting = other.enqueue()
    await settled()
    hub.kill()
    await settled()
    await asyncio.sleep(1)
    assert not waiting.done()
    first.release()
    assert (await waiting).waited == 1
    second.release()


@pytest.mark.parametrize("end", ["kill", "end"])
async def test_body_that_ends_in_the_grace_frees_its_permit(open_journal, blockbuster, end):
    """A new hub lets those with permits come first; one that ends meanwhile leaves none behind."""
    blockbuster.deactivate()
    hub = VirtualHub(open_journal)
    one, other = (ApiQueue("1 at once", schedule=hub.schedule("crm")) for _ in range(2))
    held = await one.enqueue()
    waiting = other.enqueue()
    await settled()
    getattr(hub, end)()
    await asyncio.sleep(0.3)
    assert not waiting.done()
    held.release()
    assert 0.3 <= (await waiting).waited <= 1
    waiting.result().release()
    async with one.slot() as slot:
        assert slot.waited <= 1


async def test_holds_and_limits_outlast_it():
    """What users have decided is told the next hub."""
    hub = VirtualHub()
    queue = ApiQueue("10/s", schedule=hub.schedule("crm"))
    async with queue.slot():
        pass
    queue.set_rate("2/s")
    queue.pause(3)
    await settled()
    hub.kill()
    starts = []
    for _ in range(2):
        async with queue.slot():
            starts.append(now())
    assert starts == pytest.approx([3, 3.5])


async def test_calls_wait_without_a_hub():
    """Nothing goes out; the reason is in the figures, and it goes on by itself."""
    hub, events = VirtualHub(), Events()
    hub.down = True
    queue = ApiQueue("10/s", schedule=hub.schedule("crm"), observers=[events])
    waiting = queue.enqueue()
    await asyncio.sleep(5.5)
    assert (waiting.done(), queue.stats.fault) == (False, "down")
    hub.down = False
    assert (await waiting).waited == 6
    assert events.kinds[:2] == ["joined", "disconnected"]
    assert queue.stats.fault == ""


@pytest.mark.parametrize(
    ("fallback", "then"),
    [
        (None, "wait"),
        ("1/min", "continue at the fallback rate of 1/min"),
    ],
)
async def test_lost_hub_is_logged(caplog, fallback, then):
    """Once: what has happened, to which queue, and what its calls do until another hub is there."""
    hub = VirtualHub()
    hub.down = True
    queue = ApiQueue("10/s", name="api", schedule=hub.schedule("crm", fallback=fallback))
    waiting = [queue.enqueue() for _ in range(2)]
    await asyncio.sleep(5.5)
    (record,) = caplog.records
    assert record.getMessage() == (
        f"down; calls of the queue 'api' (10/s) {then} until another hub has started (2 waiting, "
        "0 running)"
    )
    for one in waiting:
        one.cancel()


async def test_fallback_paces_meanwhile():
    """With `fallback=`, this queue's own rate holds until there is a hub."""
    hub, starts = VirtualHub(), []
    hub.down = True
    queue = ApiQueue("10/s", schedule=hub.schedule("crm", fallback="2/s"))

    async def one():
        async with queue.slot():
            starts.append(now())

    tasks = [asyncio.create_task(one()) for _ in range(5)]
    await asyncio.sleep(1.2)
    assert starts == pytest.approx([0, 0.5, 1])
    hub.down = False
    await asyncio.gather(*tasks)
    assert starts[3:] == pytest.approx([1.5, 2])


async def test_fallback_keeps_concurrency_and_costs():
    """What this queue knows by itself holds without a hub, too."""
    hub = VirtualHub()
    hub.down = True
    queue = ApiQueue("10/s", concurrency=1, schedule=hub.schedule("crm", fallback="2/s"))
    first = await queue.enqueue(cost=4)  # which a bucket of one has saved up by then
    assert first.waited == 1.5
    second = queue.enqueue()
    await asyncio.sleep(1)
    assert not second.done()
    first.release()
    assert (await second).waited == 1


async def test_closing_while_the_hub_is_down():
    """It ends at once, and those who wait are refused."""
    hub = VirtualHub()
    hub.down = True
    queue = ApiQueue("10/s", schedule=hub.schedule("crm"))
    waiting = queue.enqueue()
    await asyncio.sleep(0.5)
    await queue.aclose(drain=False)
    assert now() == 0.5
    with pytest.raises(QueueClosed):
        await waiting


async def test_refusal_reaches_all_who_wait(caplog):
    """Where the hub will not serve it, waiting would not help: a later call tries again."""
    hub = VirtualHub()
    queue = ApiQueue("10/s", schedule=hub.schedule("crm"))
    waiting = queue.enqueue()
    await asyncio.sleep(0)
    (link,) = hub.links
    link.owner.refused(SharedError("another version"))
    with pytest.raises(SharedError, match="another version"):
        await waiting
    assert queue.stats.fault == "another version"
    (record,) = caplog.records
    assert record.getMessage() == (
        "another version; calls of the queue (10/s) fail with SharedError until this is corrected "
        "(1 waiting, 0 running)"
    )
    async with queue.slot() as slot:
        assert slot.waited == 0


@pytest.mark.parametrize("when", [0, 1, 2, 3, 4])
async def test_cancelled_at_every_step(when):
    """A caller that is cancelled on its way to the hub and back costs nobody a slot."""
    hub = VirtualHub()
    queue = ApiQueue("10/s", schedule=hub.schedule("crm"))
    async with queue.slot():
        pass
    await asyncio.sleep(1)

    async def one():
        async with queue.slot():
            pass

    first = asyncio.create_task(one())
    for _ in range(when):
        await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    async with queue.slot() as slot:
        assert slot.waited == pytest.approx(0 if first.cancelled() else 0.1)
    await settled()
    (client,) = hub.quotas.by_name["name", "crm"].clients
    assert (client.waiting, client.running) == (0, 0)


async def test_nothing_is_left_at_the_hub():
    """Every call ends there, too: those that ran, were cancelled, timed out or never started."""
    hub = VirtualHub()
    queue = ApiQueue("10/s", "2 at once", schedule=hub.schedule("crm"))

    async def one(number):
        async with queue.slot(timeout=0.55 if number % 3 else None):
            await asyncio.sleep(0.05)

    tasks = [asyncio.create_task(one(number)) for number in range(30)]
    await asyncio.sleep(0.3)
    for task in tasks[::4]:
        task.cancel()
    await asyncio.wait(tasks)
    await settled()
    quota = hub.quotas.by_name["name", "crm"]
    (client,) = quota.clients
    assert (client.waiting, client.running, quota.dispatcher.running) == (0, 0, 0)
    await queue.aclose()
    assert not quota.clients


async def test_late_return_overwrites_nothing_newer():
    """What a queue has set, or heard of, is known to the next hub, but only until others set."""
    hub = VirtualHub()
    one = ApiQueue("100/s", schedule=hub.schedule("crm"))
    other = ApiQueue("100/s", schedule=hub.schedule("crm"))
    holding = [await queue.enqueue() for queue in (one, other)]  # so that both are needed
    one.set_rate("1/s")
    await asyncio.sleep(1)
    link = hub.links[1]
    link.open, opening = (lambda: asyncio.get_running_loop().call_later(0.5, opening)), link.open
    hub.kill()
    await asyncio.sleep(0.1)
    one.set_rate("50/s")
    await asyncio.sleep(2)
    (quota,) = hub.quotas
    assert len(quota.clients) == 2
    assert quota.as_json()["limits"] == ["50/s"]
    assert [str(one) for one in other.limits] == ["50/s"]
    for slot in holding:
        slot.release()


async def test_pause_outlasts_two_hubs(open_journal, blockbuster):
    """A hub that was killed starts nothing for a second at first: that shortens no pause."""
    blockbuster.deactivate()
    hub = VirtualHub(open_journal)
    queue = ApiQueue("10/s", "2 at once", schedule=hub.schedule("crm"))
    async with queue.slot():
        queue.pause()
        for _ in range(2):
            hub.kill()
            await asyncio.sleep(5)
        waiting = queue.enqueue()
        await asyncio.sleep(60)
        assert not waiting.done()
        assert "paused" in repr(queue)
    queue.resume()
    async with asyncio.timeout(0.5):
        (await waiting).release()


async def test_resume_ends_no_grace(open_journal, blockbuster):
    """A new hub waits for those with permits, whatever was resumed while there was none."""
    blockbuster.deactivate()
    hub = VirtualHub(open_journal)
    one, other = (ApiQueue("1 at once", schedule=hub.schedule("crm")) for _ in range(2))
    held = await one.enqueue()
    await other_call(other, held)
    slow = hub.links[0]
    slow.open, opening = (lambda: asyncio.get_running_loop().call_later(0.3, opening)), slow.open
    hub.down = True
    hub.kill()
    other.resume()
    hub.down = False
    waiting = other.enqueue()
    await asyncio.sleep(5)
    assert not waiting.done()
    held.release()
    (await waiting).release()


async def other_call(queue, held):
    """Have a queue connected that may start nothing."""
    waiting = queue.enqueue()
    await settled()
    assert not waiting.done()
    assert held.cost == 1
    waiting.cancel()


async def test_pause_of_an_idle_queue_outlasts_the_hub():
    """It tells the next one, though it has no call that would need one."""
    hub = VirtualHub()
    one, other = (ApiQueue("10/s", schedule=hub.schedule("crm")) for _ in range(2))
    for queue in (one, other):
        (await queue.enqueue()).release()
    one.pause(60)
    begun = now()
    await settled()
    waiting = other.enqueue()
    await asyncio.sleep(5)
    hub.kill()
    slot = await waiting
    assert now() - begun == pytest.approx(60)
    slot.release()


async def test_resume_that_a_dying_hub_has_not_read():
    """It is said to the next one, like limits, which are newer than what others bring along."""
    hub = VirtualHub()
    one, other = (ApiQueue("10/s", schedule=hub.schedule("crm")) for _ in range(2))
    async with one.slot(), other.slot():
        one.pause()
        one.set_rate("5/s")
        await settled()
        other.resume()
        other.set_rate("20/s")
        hub.kill()  # before that has come there
        await settled()
        await asyncio.sleep(0.2)
        (quota,) = hub.quotas
        assert quota.as_json()["limits"] == ["20/s"]
        for queue in (one, other):
            assert [str(limit) for limit in queue.limits] == ["20/s"]
            async with asyncio.timeout(1), queue.slot():
                pass


async def test_later_pause_counts_after_a_resume():
    """A queue that connects again tells of a pause that is newer than the last resume."""
    hub = VirtualHub()
    queue = ApiQueue("10/s", schedule=hub.schedule("crm"))
    async with queue.slot():
        queue.pause()
        queue.resume()
        queue.pause(60)
        begun = now()
        await settled()
        (link,) = hub.links
        link.lose("lost")
        await settled()
    async with queue.slot():
        assert now() - begun == pytest.approx(60)


async def test_pause_ends_with_the_last_queue():
    """Nobody is left who could end it; a quota that owes nothing is forgotten then."""
    hub = VirtualHub()
    one = ApiQueue("100/s", schedule=hub.schedule("crm"))
    async with one.slot():
        one.set_rate("1/s")
        one.pause()
    await one.aclose()
    await settled()
    async with ApiQueue("100/s", schedule=hub.schedule("crm")) as other, other.slot() as slot:
        assert slot.waited == pytest.approx(1)
    await asyncio.sleep(10)
    hub.quotas.forget_idle()
    assert not list(hub.quotas)


async def test_push_back_on_a_call_that_fits_no_more():
    """Its limits have become smaller than its cost: the queue stays connected."""
    hub = VirtualHub()
    limit, smaller = "1000 tokens in any 60s", "500 tokens in any 60s"
    queue = ApiQueue(limit, adaptive=Adaptive(), schedule=hub.schedule("crm"))
    async with queue.slot(cost={"tokens": 800}) as slot:
        queue.set_rate(smaller)
        await settled()
        slot.throttled()
        await settled()
        assert queue.stats.backed_off == 1
        assert not queue.stats.faults


async def test_loop_that_is_always_late_starts_some():
    """What comes too late is asked for again, but not for ever: the loop will never be in time."""
    hub = VirtualHub()
    queue = ApiQueue("10/s", schedule=hub.schedule("crm"))
    async with queue.slot():
        pass
    hub.delay = 1.2
    async with asyncio.timeout(60), queue.slot():
        pass
    assert now() > 20  # twenty were too late
    hub.delay = 0.9  # less late than what is known to be usual
    async with asyncio.timeout(2), queue.slot():
        pass


async def test_one_stall_is_not_always_late():
    """Thirty slots that come too late together are one stall: the next are to be in time again."""
    hub = VirtualHub()
    queue = ApiQueue("100/s", schedule=hub.schedule("crm"))
    waiting = [queue.enqueue() for _ in range(60)]
    await asyncio.sleep(0.1)
    hub.delay = 0.3
    await asyncio.sleep(0.3)
    hub.delay = 0
    await asyncio.gather(*waiting)
    assert len({str(message) for message in hub.log if message[0] == "leave"}) >= 20
    assert not [message for message in hub.log if message[0] == "late"]


async def test_status_counts_no_returned_grant():
    """A client has started what it has used; under the next hub, what runs there."""
    hub = VirtualHub()
    queue = ApiQueue("100/s", schedule=hub.schedule("crm"))
    waiting = [queue.enqueue() for _ in range(20)]
    hub.delay = 0.3
    await asyncio.sleep(0.3)
    hub.delay = 0
    await asyncio.gather(*waiting)
    await settled()
    assert "leave" in [message[0] for message in hub.log]
    for _ in range(2):
        (quota,) = hub.quotas
        (client,) = quota.clients
        assert client.started == quota.as_json()["started"] == 20
        hub.kill()
        await settled()


async def test_fallback_holds_over_many_outages():
    """A connection that is lost again and again gives no first call for free each time."""
    hub = VirtualHub()
    queue = ApiQueue("1/min", schedule=hub.schedule("crm", fallback="1/min"))
    other = ApiQueue("1/min", schedule=hub.schedule("crm"))  # so that the hub keeps the quota
    (await other.enqueue()).release()
    waiting = [queue.enqueue() for _ in range(5)]
    for _ in range(20):
        hub.down = True
        hub.links[0].lose("lost")
        await asyncio.sleep(0.3)
        hub.down = False
        await asyncio.sleep(1.2)
    assert queue.stats.faults >= 20
    assert sum(one.done() for one in waiting) == 1
    await queue.aclose(drain=False)


@pytest.mark.parametrize("key", [None, "search"])
@pytest.mark.parametrize("passes", range(8))
async def test_hold_counts_before_the_hub_knows(key, passes):
    """What the hub lets go meanwhile does not start: neither of the queue nor of the lane."""
    hub = VirtualHub()
    queue = ApiQueue("10/s", lanes={"search": "10/s"}, schedule=hub.schedule("crm"))
    (await queue.enqueue(key="search")).release()
    await asyncio.sleep(1)
    waiting = queue.enqueue(key="search")
    for _ in range(passes):
        await asyncio.sleep(0)
    was_done = waiting.done()
    queue.hold(5, key=key)
    slot = await waiting
    assert now() == (1 if was_done else 6)
    slot.release()


@pytest.mark.parametrize("passes", range(6))
async def test_idle_after_a_resume(passes):
    """No timer is left of a pause that has ended, whatever was on its way when it began."""
    hub = VirtualHub()
    queue = ApiQueue("10/s", schedule=hub.schedule("crm"))
    (await queue.enqueue()).release()
    await asyncio.sleep(1)
    waiting = queue.enqueue()
    for _ in range(passes):
        await asyncio.sleep(0)
    queue.pause(60)
    await settled()
    queue.resume()
    (await waiting).release()
    await settled()
    assert asyncio.get_running_loop().pending_timers == 0


async def test_pause_of_an_operator_outlasts_the_hub():
    """It is a decision of the hub, and all clients know it; it ends as any other."""
    hub = VirtualHub()
    one, other = (ApiQueue("10/s", schedule=hub.schedule("crm")) for _ in range(2))
    async with one.slot(), other.slot():
        hub.quotas.set_paused("crm", None, paused=True)
        await settled()
        hub.kill()
        await asyncio.sleep(1)
        waiting = other.enqueue()
        await asyncio.sleep(5)
        assert not waiting.done()
        assert "paused" in repr(one)
        hub.quotas.set_paused("crm", None, paused=False)
        async with asyncio.timeout(0.2):
            (await waiting).release()
        assert "paused" not in repr(one)


async def test_set_rate_replaces_learnt_limits():
    """In all processes, those that come later, too; what is learnt afterwards holds beside it."""
    hub = VirtualHub()
    queues = [ApiQueue("100/s", schedule=hub.schedule("crm")) for _ in range(2)]
    first, second = queues
    Reporter(first).learn(["tokens"])
    slot = await first.enqueue()
    waiting = [second.enqueue()]  # for the first answer, so that they need a hub
    for set_first in (True, False):
        Reporter(first).adopt(slot, [Rate.parse("600 tokens/min burst 600")])
        await asyncio.sleep(1)
        if set_first:
            assert len(second.limits) == 2
            second.set_rate("50/s")
        hub.kill()
        await asyncio.sleep(3)
        newcomer = ApiQueue("100/s", schedule=hub.schedule("crm"))
        waiting.append(newcomer.enqueue())
        queues.append(newcomer)
        await asyncio.sleep(1)
        (quota,) = hub.quotas
        expected = ["50/s"] if set_first else ["50/s", "600 tokens/min burst 600"]
        assert quota.as_json()["limits"] == expected
        assert [[str(one) for one in queue.limits] for queue in queues] == [expected] * len(queues)
    slot.release()
    for queue in queues:
        await queue.aclose(drain=False)
    await asyncio.gather(*waiting, return_exceptions=True)
