"""What is recorded of queues: bounded, and its shares, limits over time and sums are right."""

from __future__ import annotations

import json

import pytest

from aioapiqueue import Budget, Calendar, Concurrency, Event, Rate, Window
from aioapiqueue.recording.spi import CallTotals, Recording


def new(*limits, lanes=None, name="q", paced=True):
    """A recording that begins at 1,000, with one queue; lanes have limits by name."""
    recording = Recording(now=1000.0, began=0.0)
    lanes = lanes or {}
    record = recording.record(name, paced=paced, limits=limits)
    for lane in lanes:
        record.add(CallTotals(), (lane,), lambda lane: (lanes[lane], lane.endswith("*")))
    return recording, record


def event(kind, at, **details):
    """An event of the queue at so many seconds from the beginning."""
    return Event(kind, "q", None, 0, 0, 1000.0 + at, 0.0, **details)


def test_counts_by_queue_lane_and_unit():
    """A call under two lanes is in both, and once in the queue; units are apart."""
    recording, record = new(Rate(10, 1), lanes={"a": (Rate(5, 1),)})
    recording.started(record.counts_of(("a", "b")), {"calls": 1, "tokens": 30}, 0.5, 1000.2)
    recording.started(record.counts_of(("a",)), {"calls": 1, "tokens": 0}, 0.0, 1002.0)
    recording.tally(record.counts_of(("a",)), "throttled", 1002.5)
    recording.tally(record.counts_of(), "errors", 1002.5)
    recording.tally(record.counts_of(("b",)), "refused", 1003.0)
    recording.tally(record.counts_of(("b",)), "cancelled", 1003.0)
    found = recording.as_json(1004.0)
    (queue,) = found["queues"]
    assert (queue["calls"], queue["used"]) == (2, {"calls": 2, "tokens": 30})
    assert (queue["throttled"], queue["errors"], queue["refused"], queue["cancelled"]) == (
        *(1, 1),
        *(1, 1),
    )
    assert queue["waited"] == 0.5
    assert queue["waits"]["max"] == 0.5
    calls, tokens = queue["time_series"]
    assert calls == {
        "unit": "calls",
        "steps": [0, 2, 3],
        "used": [1, 1, 0],  # as many have started: that is not said twice
        "waited": [0.5, 0, 0],
        "throttled": [0, 1, 0],
        "errors": [0, 1, 0],
        "refused": [0, 0, 1],
        "allowed": [[0, 10]],
    }
    assert (tokens["steps"], tokens["used"], tokens["allowed"]) == ([0], [30], [[0, None]])
    a, b = queue["lanes"]
    assert (a["lane"], a["calls"], a["throttled"], a["limits"]) == ("a", 2, 1, ["5/s"])
    assert (b["lane"], b["calls"], b["refused"], b["cancelled"]) == ("b", 1, 1, 1)
    json.dumps(found, allow_nan=False)


def test_what_is_not_sent_is_taken_out():
    """A call that left before it was sent, or that cost less, is where it started."""
    recording, record = new(Rate(10, 1))
    recording.started(record.counts_of(), {"calls": 1, "tokens": 30}, 7.0, 1000.5)
    recording.started(record.counts_of(), {"calls": 1, "tokens": 30}, 0.5, 1001.5)
    recording.not_started(record.counts_of(), {"calls": 1, "tokens": 30}, 7.0, 1000.5)
    recording.used(record.counts_of(), {"tokens": -10}, 1001.5)
    (queue,) = recording.as_json(1004.0)["queues"]
    assert (queue["calls"], queue["used"]) == (1, {"calls": 1, "tokens": 20})
    assert [one["used"] for one in queue["time_series"]] == [[0, 1], [0, 20]]
    assert queue["time_series"][0]["waited"] == [0, 0.5]
    assert (queue["waited"], queue["waits"]["p99"]) == (0.5, pytest.approx(0.5, rel=0.01))


@pytest.mark.parametrize(
    ("limit", "calls", "share"),
    [
        (Rate(10, 1), 31, 1.0),
        (Rate(10, 1, burst=20), 25, 0.5),
        (Rate(6000, 60, unit="tokens"), 0, 0.0),
        (Window(100, 2), 100, 0.5),  # two windows, of which the second is half over
        (Window(100, 3600), 50, 0.5),
        (Calendar(100, "day"), 25, 0.25),
    ],
)
def test_share_of_what_a_limit_allows_in_that_time(limit, calls, share):
    """A share of one is all that could have been let through in these three seconds."""
    recording, record = new(limit)
    for number in range(calls):
        recording.started(record.counts_of(), {"calls": 1}, 0.0, 1000 + number / 100)
    recording.started(record.counts_of(), {"calls": 0}, 0.0, 1000.0)
    (queue,) = recording.as_json(1003.0)["queues"]
    assert queue["tightest"]["share"] == pytest.approx(share)
    assert queue["tightest"]["limit"] == str(limit)


def test_day_that_ends_meanwhile_allows_two_days():
    """From ten minutes before midnight to ten minutes after, a daily limit is there twice."""
    recording, record = new(Calendar(10, "day"))
    recording.began = 86_400 - 600.0
    for _ in range(20):
        recording.started(record.counts_of(), {"calls": 1}, 0.0, 1000.0)
    assert recording.as_json(2200.0)["queues"][0]["tightest"]["share"] == 1.0


def test_tightest_limit_may_be_a_lanes():
    """The limit of which the largest share was used is named with its lane."""
    recording, record = new(
        Rate(100, 1), Concurrency(5), lanes={"slow": (Rate(1, 1),), "any:*": (Rate(1, 10),)}
    )
    for second in range(3):
        recording.started(record.counts_of(("slow", "any:*")), {"calls": 1}, 0.0, 1000.0 + second)
    (queue,) = recording.as_json(1003.0)["queues"]
    # Of a pattern, each key has the limit: their sum has no share of it.
    assert queue["tightest"] == {"share": 0.75, "limit": "1/s", "lane": "slow"}
    assert [one["limits_of_each_key"] for one in queue["lanes"]] == [True, False]


def test_allowed_over_time():
    """New limits and what push-back leaves show from when on; a recovery ends at the limit."""
    recording, record = new(Rate(10, 1))
    recording.started(record.counts_of(), {"calls": 1}, 0.0, 1000.0)
    record.changed(event("backed_off", 2, rate=7.0), None)
    rates = iter([7.5, 9.0, float("inf")])

    class Snapshot:
        @property
        def rate(self):
            return next(rates)

    for second in (2.1, 2.2, 3.2, 4.3):  # of two in one step, only the first is asked
        record.sample(1000 + second, Snapshot)
    record.changed(event("limits_changed", 6, limits=(Rate(4, 1),), origin="user"), None)
    (queue,) = recording.as_json(1010.0)["queues"]
    assert queue["time_series"][0]["allowed"] == [
        *([0, 10], [2, 7], [2.1, 7.5]),
        *([3.2, 9], [4.3, 10], [6, 4]),
    ]
    assert queue["limits"] == ["4/s"]
    assert queue["tightest"] is None  # of two limits one after the other, no share of one


def test_changes_are_kept_from_both_ends():
    """Of thousands of changes, the first and the last are kept, and how many are not is known."""
    recording, record = new(Rate(10, 1))
    for number in range(1004):
        record.changed(event("held", 4 * number, seconds=2.0), "a")
    found = recording.as_json(5040.0)
    kept = [*range(500), *range(504, 1004)]
    assert [one["at"] for one in found["changes"]] == [4 * number for number in kept]
    assert found["changes_left_out"] == 4
    assert found["changes"][0] == {
        "at": 0.0, "queue": "q", "lane": "a", "kind": "held", "seconds": 2.0,
    }  # fmt: skip


def test_learnt_limits_are_the_latest():
    """Of what the other side stated, the latest of each lane is kept."""
    recording, record = new()
    for calls in (5, 7):
        change = event("limits_changed", calls, limits=(Rate(calls, 1),), origin="learnt")
        record.changed(change, "model")
    assert recording.as_json(1010.0)["learnt"] == [
        {"queue": "q", "lane": "model", "limits": ["7/s"]}
    ]


def test_lanes_are_bounded():
    """More lanes than there is room for count in the queue only."""
    recording, record = new(Rate(10, 1))
    for lane in (*range(10_001), 0):
        recording.started(record.counts_of((str(lane),)), {"calls": 1}, 0.0, 1000.0)
    (queue,) = recording.as_json(1010.0)["queues"]
    assert queue["calls"] == 10_002
    calls = {one["lane"]: one["calls"] for one in queue["lanes"]}
    assert calls == {"0": 2} | {str(lane): 1 for lane in range(1, 10_000)}


def test_times_in_other_ways():
    """One delay for all calls is that of the strictest limit that any of them came under."""
    recording, record = new(
        Rate(10, 1),
        Window(1000, 3600, unit="tokens"),
        lanes={"slow": (Rate(1, 2),), "unused": (Rate(1, 60),)},
    )
    for _ in range(30):
        recording.started(record.counts_of(("slow",)), {"calls": 1}, 0.0, 1000.0)
    times = recording.as_json(1100.0)["times"]
    assert times == {"seconds": 100.0, "unpaced": 100.0, "blanket_delay": 2.0, "blanket": 100.0}
    for _ in range(30):
        recording.started(record.counts_of(("slow",)), {"calls": 1}, 0.0, 1000.0)
    assert recording.as_json(1100.0)["times"]["blanket"] == 120.0


def test_unused_queues_are_left_out_and_paced_ones_come_first():
    """A queue that nobody used is no news; those without a limit come last."""
    recording, record = new(Rate(10, 1))
    for name, paced, calls in (("free", False, 9), ("busy", True, 5), ("idle", True, 0)):
        record = recording.record(name, paced=paced)
        for _ in range(calls):
            recording.started(record.counts_of(), {"calls": 1}, 0.0, 1000.0)
    found = recording.as_json(1010.0)
    assert [one["queue"] for one in found["queues"]] == ["busy", "free"]
    assert found["times"]["blanket"] is None


def test_holds_are_noted_once_and_push_back_as_one():
    """Fifty calls that are told to wait for 30 s are one hold; what it was longer is another."""
    recording, record = new(Rate(10, 1))
    for number in range(50):
        record.changed(event("throttled", number / 100, retry_after=30.0), None)
    record.changed(event("throttled", 1.0), None)  # it has asked for no time
    record.changed(event("held", 20.0, seconds=30.0), None)
    record.changed(event("held", 20.0, seconds=5.0), "a")
    changes = recording.as_json(1060.0)["changes"]
    assert [(one["at"], one["kind"], one["seconds"], one.get("lane")) for one in changes] == [
        *((0.0, "held", 30.0, None), (20.0, "held", 30.0, None), (20.0, "held", 5.0, "a")),
    ]


def test_push_back_without_a_figure_is_followed():
    """Where an event does not say what is left, as of a quota that is shared, it is asked for."""
    recording, record = new(Rate(10, 1))
    recording.started(record.counts_of(), {"calls": 1}, 0.0, 1000.0)
    record.changed(event("backed_off", 2), None)

    class Snapshot:
        rate = 7.0

    record.sample(1003.0, Snapshot)
    (queue,) = recording.as_json(1010.0)["queues"]
    assert queue["time_series"][0]["allowed"] == [[0, 10], [3, 7]]


def test_what_was_allowed_is_thinned_out_and_the_latest_is_right():
    """Of a rate that changes all day, the first and the last are exact, and few are kept."""
    recording, record = new(Rate(10, 1))
    recording.started(record.counts_of(), {"calls": 1}, 0.0, 1000.0)
    for number in range(1, 10_000):
        limits = (Rate(number, 1),)
        record.changed(event("limits_changed", number, limits=limits, origin="user"), None)
    allowed = recording.as_json(11_000.0)["queues"][0]["time_series"][0]["allowed"]
    assert (allowed[0], allowed[-1]) == ([0, 10], [9999, 9999])
    assert 500 <= len(allowed) <= 1000


def test_silence_makes_steps_longer_too():
    """Ten days of which one minute had calls have no more than a thousand steps."""
    recording, record = new(Rate(10, 1))
    for second in range(60):
        recording.started(record.counts_of(), {"calls": 1}, 0.0, 1000.0 + second)
    found = recording.as_json(1000.0 + 10 * 86_400)
    assert 10 * 86_400 / found["step_seconds"] <= 1000
    assert sum(found["queues"][0]["time_series"][0]["used"]) == 60


def test_queues_are_bounded():
    """Of more queues than there is room for, the rest is one."""
    recording = Recording(now=1000.0, began=0.0)
    for name in (*range(2002), 0):
        record = recording.record(str(name), paced=True)
        recording.started(record.counts_of(), {"calls": 1}, 0.0, 1000.0)
    found = {one["queue"]: one["calls"] for one in recording.as_json(1001.0)["queues"]}
    one_each = {str(name): 1 for name in range(1, 2000)}
    assert found == {"0": 2, "all other queues": 2} | one_each


def test_costs_are_no_calls():
    """Of calls that cost more than one, their number is said besides."""
    recording, record = new(Rate(10, 1))
    recording.started(record.counts_of(), {"calls": 10}, 5.0, 1000.0)
    series = recording.as_json(1001.0)["queues"][0]["time_series"][0]
    assert (series["used"], series["started"], series["waited"]) == ([10], [1], [5])


def test_unpaced_is_never_longer_than_it_took():
    """What ends after the end of what is told is left out."""
    recording, _ = new(Rate(10, 1))
    recording.unpaced.joined(1000.0)
    recording.unpaced.started(1000.0)
    recording.unpaced.ended(1012.0)
    assert recording.as_json(1010.0)["times"]["unpaced"] == 10.0


def test_common_record_of_queues_has_no_limits():
    """Calls of many queues are no share of the limits of one of them."""
    recording = Recording(now=1000.0, began=0.0)
    for name in range(2001):
        recording.record(str(name), paced=True, limits=(Rate(2, 1),))
    for _ in range(2):
        record = recording.record("another", paced=True, limits=(Rate(1, 1),))
        counts = record.counts_of(("a",), lambda _: ((Rate(2, 1),), False))
        recording.started(counts, {"calls": 1}, 0.0, 1000.0)
    for lane in None, "a":
        record.changed(event("limits_changed", 0.0, limits=(Rate(1, 1),), origin="user"), lane)
    (queue,) = recording.as_json(1001.0)["queues"]
    assert queue["queue"] == "all other queues"
    assert (queue["limits"], queue["lanes"][0]["limits"], queue["tightest"]) == ([], [], None)


def test_budget_asks_for_no_delay():
    """No pause between calls stays under a budget, so none is estimated."""
    recording, record = new(Budget(5))
    recording.started(record.counts_of(), {"calls": 1}, 0.0, 1000.5)
    times = recording.as_json(1010.0)["times"]
    assert (times["blanket_delay"], times["blanket"]) == (None, None)


def test_crossed_threshold_is_a_change():
    """The line has the limit and the share, and no field that it does not use."""
    recording, record = new(Budget(5, "usd"))
    record.changed(event("threshold", 2.0, limits=(Budget(5, "usd"),), share=0.8), "a")
    recording.started(record.counts_of(), {"calls": 1}, 0.0, 1002.5)
    assert recording.as_json(1010.0)["changes"] == [
        {
            "at": 2.0,
            "queue": "q",
            "lane": "a",
            "kind": "threshold",
            "limits": ["5 usd in all"],
            "share": 0.8,
        }
    ]


def test_common_record_has_no_budgets():
    """It would show those of one of its queues as those of all."""
    recording = Recording(now=1000.0, began=0.0)
    for number in range(2_001):
        record = recording.record(f"job {number}", paced=True)
    record.find_budgets([Budget(5)], pytest.fail)
    recording.started(record.counts_of(), {"calls": 1}, 0.0, 1000.5)
    (queue,) = recording.as_json(1010.0)["queues"]
    assert queue["queue"] == "all other queues"
    assert "budgets" not in queue
