"""`ReportObserver`: what it records is what callers saw, and it is no burden."""

from __future__ import annotations

import asyncio
import json
import threading

import pytest

from aioapiqueue import Adaptive, ApiQueue, Rate, SlotTimeout
from aioapiqueue.integrations.report import ReportObserver
from aioapiqueue.threads import blocking
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
    assert one["errors"] == seen.ends["error"] > 0
    assert one["refused"] == seen.results["refused"] > 0
    assert one["cancelled"] == stats.cancelled + stats.timed_out > stats.timed_out > 0
    # Those that were refunded have waited as well, and that is not known to their callers.
    assert one["waited"] == pytest.approx(stats.waited, abs=0.5)
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
        "nobody was throttled; 10 calls in 0:02, 1.00 of the limit of queue 2"
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
    with pytest.raises(RuntimeError, match="in use already: make the report before its first"):
        ReportObserver(queue)


async def test_nothing_recorded_is_no_error():
    """A report of queues that nobody used says so."""
    report = ReportObserver(ApiQueue("10/s"))
    found = report.as_json()
    assert (found["verdict"], found["queues"], found["seconds"]) == ("no calls", [], 0.0)
    assert "no calls" in await asyncio.to_thread(report.html)


async def test_late_settlement_is_counted():
    """A call may be settled after its end."""
    report = ReportObserver()
    queue = ApiQueue("1000 tokens/min burst 1000", observers=[report])
    async with queue.slot(cost={"tokens": 100}) as slot:
        pass
    slot.settle({"tokens": 40})
    assert report.as_json()["queues"][0]["used"]["tokens"] == 40


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
