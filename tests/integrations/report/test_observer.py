"""`ReportObserver`: what it records is what callers saw, and it is no burden."""

from __future__ import annotations

import asyncio
import json
import threading

import pytest

from aioapiqueue import Adaptive, ApiQueue, LimitExceeded, Rate, SlotTimeout
from aioapiqueue.integrations.report import ReportObserver
from aioapiqueue.testing import VirtualLoop
from aioapiqueue.threads import blocking
from tests.helpers.learning import answer, learning
from tests.helpers.metered_run import play


def test_sums_are_what_the_callers_saw():
    """Cancelled, refunded, timed out, refused, throttled, failed and settled: all sums agree."""
    report = ReportObserver()
    queue, seen = play(
        lambda: ApiQueue(
            "40/s burst 3",
            "2000 tokens/s burst 100",
            name="metered",
            lanes={"search": "10/s", "tenant:*": "20/s"},
            maxsize=20,
            observers=[report],
        )
    )
    found = report.as_json()
    (one,) = found["queues"]
    stats = queue.stats
    refunded = stats.refunded
    assert one["calls"] == seen.results["released"] - refunded == stats.released
    assert one["used"]["calls"] == one["calls"]
    assert one["used"]["tokens"] == seen.tokens == stats.costs["tokens"]
    assert one["throttled"] == seen.throttled > 0
    # Two bodies, numbers 0 and 221, are pushed back and then raise: these are no other errors.
    assert one["errors"] == seen.ends["error"] - 2 > 0
    assert one["refused"] == seen.results["refused"] > 0
    assert one["cancelled"] == stats.cancelled + stats.timed_out > stats.timed_out > 0
    assert one["waited"] == pytest.approx(stats.waited)
    lanes = {lane["lane"]: lane["calls"] for lane in one["lanes"]}
    assert lanes == {name: lane.released for name, lane in stats.lanes.items()}
    for series in one["time_series"]:
        assert sum(series["used"]) == pytest.approx(one["used"][series["unit"]])
    assert found["verdict"].startswith(f"throttled {seen.throttled} times; {one['calls']} calls in")
    assert found["good"] is False
    json.dumps(found, allow_nan=False)


async def test_unpaced_time_of_calls_one_after_another():
    """Of a program that makes one call after another, it leaves out exactly the waits."""
    report = ReportObserver()
    queue = ApiQueue("1/s", observers=[report])
    for _ in range(10):
        async with queue.slot():
            await asyncio.sleep(0.25)
    times = report.as_json()["times"]
    assert times["seconds"] == pytest.approx(9.25)
    assert times["unpaced"] == pytest.approx(2.5)
    assert (times["blanket_delay"], times["blanket"]) == (1.0, pytest.approx(10.0))


async def test_calls_that_leave_count_as_no_work():
    """A waiter that is cancelled, or whose time is over, is no work."""
    report = ReportObserver()
    queue = ApiQueue("1/s", observers=[report])
    async with queue.slot():
        waiter = asyncio.create_task(use(queue))
        await asyncio.sleep(0.5)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        queue.hold(5)
        with pytest.raises(SlotTimeout):
            await use(queue, timeout=4.6)
    # Half of the first half second: one of two runs.
    assert report.as_json()["times"]["unpaced"] == pytest.approx(0.25)
    assert report.as_json()["queues"][0]["cancelled"] == 2


async def use(queue, **options):
    """Takes a slot, and gives it back at once."""
    async with queue.slot(**options):
        pass


async def test_backing_off_shows_what_is_left():
    """A push-back lowers what is allowed, and the recovery shows; the table says to what."""
    report = ReportObserver()
    queue = ApiQueue("10/s", adaptive=Adaptive(recovery=5), observers=[report])
    for number in range(400):
        async with queue.slot() as slot:
            if number == 50:
                slot.throttled()
    found = report.as_json()
    (change,) = found["changes"]
    assert (change["kind"], change["rate"]) == ("backed_off", pytest.approx(7, rel=0.02))
    allowed = [rate for _, rate in found["queues"][0]["time_series"][0]["allowed"]]
    assert allowed[0] == allowed[-1] == 10
    assert min(allowed) == pytest.approx(7, rel=0.02)
    assert allowed[1:] == sorted(allowed[1:])
    assert len(allowed) > 5


async def test_learnt_limits_and_settings_are_recorded():
    """What the user sets and what the other side states have their line; holds their length."""
    report = ReportObserver()
    queue = ApiQueue("10/s", observers=[report])
    async with queue.slot(key="a"):
        queue.set_rate("5/s", key="a")
        queue.set_rate("20/s")
        queue.hold(1.5, key="a")
    async with queue.slot(key="a"):
        pass
    found = report.as_json()
    assert [(one["kind"], one.get("lane")) for one in found["changes"]] == [
        *(("limits_changed", "a"), ("limits_changed", None), ("held", "a")),
    ]
    assert found["changes"][2]["seconds"] == 1.5
    assert found["queues"][0]["time_series"][0]["allowed"] == [[0, 10], [0.0, 20]]


async def test_budgets_and_their_lanes_at_the_end():
    """What is spent, reserved and left; of keys that share a pattern, only their thresholds."""
    report = ReportObserver()
    lanes = {"a": "2 usd in each day or raise", "t:*": "1 usd in all", "free": "5/s"}
    queue = ApiQueue("10/s", "5 usd in all", lanes=lanes, observers=[report])
    for key, cost in (("a", 1), ("t:x", 1), ("free", 0)):
        async with queue.slot(key=key, cost={"usd": cost}) as slot:
            slot.settle({"usd": cost * 0.75})
    async with queue.slot(key="a", cost={"usd": 0.5}):
        found = report.as_json()
    (one,) = found["queues"]
    assert one["budgets"] == {"5 usd in all": {"spent": 1.5, "reserved": 0.5, "left": 3.0}}
    uses = {lane["lane"]: lane["budgets"] for lane in one["lanes"] if "budgets" in lane}
    left = {"spent": 0.75, "reserved": 0.5, "left": 0.75}
    assert uses == {"a": {"2 usd in each day or raise": left}}
    changes = [(it["lane"], it["limits"], it["share"]) for it in found["changes"]]
    assert changes == [
        ("a", ["2 usd in each day or raise"], 0.5),
        ("t:x", ["1 usd in all"], 0.5),
        ("t:x", ["1 usd in all"], 0.8),
        ("t:x", ["1 usd in all"], 1),
    ]
    assert {it["kind"] for it in found["changes"]} == {"threshold"}


async def test_budget_of_refused_calls_is_shown():
    """It explains them, though no call has started."""
    report = ReportObserver()
    queue = ApiQueue("5 usd in all", observers=[report])
    with pytest.raises(LimitExceeded):
        await use(queue, cost={"usd": 6})
    (one,) = report.as_json()["queues"]
    left = {"5 usd in all": {"spent": 0, "reserved": 0, "left": 5}}
    assert (one["refused"], one["budgets"]) == (1, left)


async def test_budget_of_a_lane_alone():
    """The queue itself then has no such field."""
    report = ReportObserver()
    queue = ApiQueue("10/s", lanes={"a": "2 in all"}, observers=[report])
    await use(queue, key="a")
    (one,) = report.as_json()["queues"]
    assert "budgets" not in one
    assert one["lanes"][0]["budgets"] == {"2 in all": {"spent": 1, "reserved": 0, "left": 1}}


@pytest.mark.parametrize("key", [None, "a"])
async def test_budget_that_is_set_later(key):
    """A limit that `set_rate` adds has its use; without one, a queue has no such field."""
    report = ReportObserver()
    queue = ApiQueue("10/s", lanes={"a": "10/s"}, observers=[report])
    await use(queue, key="a")
    (one,) = report.as_json()["queues"]
    assert "budgets" not in one
    assert "budgets" not in one["lanes"][0]
    queue.set_rate("4 in all", key=key)
    await use(queue, key="a")
    (one,) = report.as_json()["queues"]
    shown = one if key is None else one["lanes"][0]
    assert shown["budgets"]["4 in all"]["left"] <= 3
    assert ("budgets" in one) is (key is None)


async def test_concurrency_outlasts_a_new_rate():
    """`set_rate` does not change the limit of `concurrency=`, so the report still has it."""
    report = ReportObserver()
    async with ApiQueue("10/s", concurrency=2, observers=[report]) as queue:
        queue.set_rate("20/s")
        async with queue.slot():
            pass
    assert report.as_json()["queues"][0]["limits"] == ["20/s", "2 at once"]


async def test_changes_of_a_queue_have_no_lane():
    """A change of all calls is one of the queue, even if every key has a lane."""
    report = ReportObserver()
    async with ApiQueue("10/s", lanes={"*": "5/s"}, observers=[report], name="crm") as queue:
        queue.set_rate("20/s")
        queue.hold(1)
        queue.set_rate("8/s", key="*")
    changes = report.as_json()["changes"]
    assert [(one["kind"], one.get("lane")) for one in changes] == [
        ("limits_changed", None),
        ("held", None),
        ("limits_changed", "*"),
    ]


async def test_several_queues_in_one_report():
    """Queues without a name are numbered; the verdict names the tightest."""
    report = ReportObserver(title="both")
    fast, slow = (ApiQueue(rate, observers=[report]) for rate in ("100/s", "2/s"))
    for _ in range(5):
        await use(fast)
        await use(slow)
    found = report.as_json()
    assert [one["queue"] for one in found["queues"]] == ["queue 1", "queue 2"]
    assert found["verdict"] == (
        "no call was throttled; 10 calls in 0:02, using 100 % of the limit in queue 2"
    )
    assert found["title"] == "both"


async def test_given_to_a_queue_that_nobody_has_used():
    """`ReportObserver(queue)` joins the queue's observers, and takes none of them away."""
    seen = []

    class Other:
        event_kinds = ("released",)

        def on_event(self, event):
            seen.append(event.kind)

    queue = ApiQueue("10/s", name="crm", observers=[Other()])
    report = ReportObserver(queue)
    async with queue.slot():
        pass
    assert seen == ["released"]
    assert report.as_json()["queues"][0]["calls"] == 1
    with pytest.raises(
        RuntimeError, match="has been used already: create the report before the queue's first"
    ):
        ReportObserver(queue)


async def test_nothing_recorded_is_no_error():
    """A report of queues that nobody used says so."""
    report = ReportObserver(ApiQueue("10/s"))
    found = report.as_json()
    assert (found["verdict"], found["queues"], found["seconds"]) == ("no calls", [], 0.0)
    assert (found["good"], found["start"]) == (None, None)
    assert "no calls" in await asyncio.to_thread(report.html)


async def test_late_settlement_is_counted():
    """A call may be settled after its end."""
    report = ReportObserver()
    queue = ApiQueue("1000 tokens/min burst 1000", observers=[report])
    async with queue.slot(cost={"tokens": 100}) as slot:
        pass
    slot.settle({"tokens": 40})
    assert report.as_json()["queues"][0]["used"]["tokens"] == 40


async def test_throttled_call_that_raises_is_one():
    """A push-back after which the body raises is no other error."""
    report = ReportObserver()
    queue = ApiQueue("10/s", observers=[report])
    for status in (429, 500):
        with pytest.raises(ValueError, match=str(status)):
            async with queue.slot() as slot:
                if status == 429:
                    slot.throttled(retry_after=1)
                raise ValueError(status)
    found = report.as_json()
    (one,) = found["queues"]
    assert (one["throttled"], one["errors"]) == (1, 1)
    assert [(it["kind"], it["seconds"]) for it in found["changes"]] == [("held", 1)]


async def test_settled_after_again_counts_once():
    """An attempt that is settled after the next one has begun changes its own costs only."""
    report = ReportObserver()
    queue = ApiQueue("60000 tokens/min burst 60000", observers=[report])
    async with queue.slot(cost={"tokens": 100}) as slot:
        again = await slot.again(cost={"tokens": 300})
        slot.settle({"tokens": 10})
        again.release()
    assert report.as_json()["queues"][0]["used"]["tokens"] == 310 == queue.stats.costs["tokens"]


async def test_many_calls_after_the_start_of_a_long_one():
    """What a call has cost is counted, however many came after it."""
    report = ReportObserver()
    queue = ApiQueue("unlimited", lanes={"x": "1000000 tokens/s burst 1000000"}, observers=[report])
    async with queue.slot(cost={"tokens": 5000}) as slot:
        for _ in range(10_001):
            async with queue.slot(cost={"tokens": 1}):
                pass
        slot.settle({"tokens": 10})
    assert report.as_json()["queues"][0]["used"]["tokens"] == 10_011


async def test_queues_of_one_name_are_added_up(capsys):
    """One after the other, as jobs make them, with lanes of their own: none is lost."""
    report = ReportObserver()
    for lanes in ({"x": "5/s"}, {"y": "5/s"}):
        queue = ApiQueue("10/s", name="crm", lanes=lanes, observers=[report])
        for key in "xy":
            await use(queue, key=key)
        await queue.aclose()
    (one,) = report.as_json()["queues"]
    assert (one["calls"], one["used"]) == (4, {"calls": 4})
    assert {lane["lane"]: lane["calls"] for lane in one["lanes"]} == {"x": 1, "y": 1}
    queue = ApiQueue("10/s")
    with pytest.raises(RuntimeError, match="listed twice"):
        ReportObserver(queue, queue)


async def test_learnt_limits_of_a_key_are_not_its_patterns():
    """What one key of a pattern has learnt is noted under its own name."""
    report = ReportObserver()
    queue = learning("100/s", lanes={"tenant:*": "8/s"}, observers=[report])
    for key, limit in (("tenant:a", 100), ("tenant:b", 7)):
        async with queue.slot(key=key, cost={"tokens": 1}) as slot:
            answer(queue, slot, tokens=limit)
    found = report.as_json()
    assert [one["lane"] for one in found["changes"]] == ["tenant:a", "tenant:b"]
    assert {one["lane"]: one["limits"] for one in found["learnt"]} == {
        "tenant:a": ["8/s", "100 tokens/min burst 100"],
        "tenant:b": ["8/s", "7 tokens/min burst 7"],
    }
    (lane,) = found["queues"][0]["lanes"]
    assert (lane["lane"], lane["limits"]) == ("tenant:*", ["8/s"])


async def test_push_back_of_tokens_is_no_rate_of_calls():
    """Of a queue that counts no calls, no calls a second are left."""
    report = ReportObserver()
    queue = ApiQueue("3000 tokens/s burst 10", adaptive=Adaptive(), observers=[report])
    for _ in range(30):
        async with queue.slot(cost={"tokens": 10}) as slot:
            await asyncio.sleep(0)
    slot.throttled()
    (change,) = report.as_json()["changes"]
    assert change["kind"] == "backed_off"
    assert "rate" not in change


def test_another_loop_forgets_who_waited():
    """Who waited on a loop that is gone is no longer there."""
    report = ReportObserver()
    queue = ApiQueue("1/s", observers=[report])

    async def leave_waiters():
        for _ in range(10):
            queue.enqueue()
        await asyncio.sleep(0.5)

    async def work():
        await use(queue)
        async with queue.slot():
            await asyncio.sleep(3)

    for main in (leave_waiters, work):
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(main())
    times = report.as_json()["times"]
    assert times["unpaced"] > 2  # of the second loop's time nothing is shared with those ten


def test_name_that_is_no_text_can_be_written(tmp_path):
    """A name may come from a file's name, which may be any bytes."""
    report = ReportObserver(title="t\udcff")
    file = tmp_path / "report.html"
    report.write(file)
    assert "t\\udcff" in file.read_text("utf-8")


@pytest.mark.real
def test_read_from_another_thread(tmp_path):
    """Queues for threads are recorded on their own loop, and read from any thread meanwhile."""
    report = ReportObserver()
    queue = ApiQueue(Rate(1000, 1, burst=1000), lanes={"*": "unlimited"}, observers=[report])
    paced = blocking(queue)

    def calls(name):
        for number in range(100):
            with paced.slot(key=f"{name} {number}"):
                pass

    threads = [threading.Thread(target=calls, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        report.as_json()
    for thread in threads:
        thread.join()
    file = tmp_path / "report.html"
    report.write(file)
    assert report.as_json()["queues"][0]["calls"] == 400
    assert "400 calls in" in file.read_text("utf-8")


async def test_queues_of_one_name_have_budgets():
    """One that has had no call of a lane says nothing of it."""
    report = ReportObserver()
    for key in ("search", None):
        queue = ApiQueue(
            "5 in all", name="crm", lanes={"search": "2 in each day"}, observers=[report]
        )
        async with queue.slot(key=key):
            pass
    (found,) = report.as_json()["queues"]
    assert found["budgets"] == {"5 in all": {"spent": 1, "reserved": 0, "left": 4}}
