"""Which limits the calls of a run waited for, as its first line says."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from aioapiqueue import Event
from aioapiqueue.registry import Registry
from aioapiqueue_run.cli.console import PREFIX, prefixed
from aioapiqueue_run.cli.run.held import held_by
from aioapiqueue_run.cli.run.model import Outcome
from aioapiqueue_run.cli.run.options import RunOptions
from aioapiqueue_run.cli.run.report import headline
from aioapiqueue_run.hub import Watcher
from aioapiqueue_run.hub.calls import Calls
from aioapiqueue_run.hub.queue_records import QueueRecords
from aioapiqueue_run.hub.records import CallStats, Kind, ProcessLoad
from tests.helpers.plans import other_runs, plan_of

LIMITS = """
[ec2]
rate = "30/s"
[ec2.lanes]
DescribeSnapshots = "10/s"
DescribeImages = "10/s"
[ec2.buckets.copies]
operations = ["CopySnapshot", "CopyImage"]
rate = "5/s"
"""


def held_of(outcome, delays=()):
    """The limits that held calls, and what the host hub has counted of other runs."""
    return held_by(plan_of(on_host=other_runs(delays)), outcome)


def outcome_of(calls, limits=LIMITS):
    """What came of a run of ten seconds.

    Args:
        calls: of each operation, the calls of each second, and how long each of them waited.
        limits: as in limits.toml.
    """
    registry = Registry.parse(limits)
    hub = Calls(registry, QueueRecords(paced=True), Watcher())
    hub.recording.begin(now=1_000.0, began=0.0)
    for operation, (rates, waited) in calls.items():
        kind = Kind("ec2", operation, "eu-west-1", None)
        for second, rate in enumerate(rates):
            for number in range(rate):
                now = 1_000.0 + second + number / rate
                request = hub.request(ProcessLoad(), kind, {}, ahead=False)
                request.slot = SimpleNamespace(waited=waited)
                hub.joined(request, now)
                hub.started(request, now)
    return Outcome(code=0, figures=hub.figures, recording=hub.recording, seconds=10)


@pytest.mark.parametrize(
    ("calls", "held"),
    [
        ({"DescribeSnapshots": ([10] * 10, 0.5)}, {"ec2.DescribeSnapshots 10/s": 50}),
        # Both lanes are far from their limits: that of all calls is used up.
        (
            {"DescribeSnapshots": ([4] * 10, 0.5), "RunInstances": ([26] * 10, 0.5)},
            {"ec2 30/s": 150},
        ),
        # One waits for its lane, the other for all.
        (
            {"DescribeSnapshots": ([10] * 10, 0.5), "RunInstances": ([19] * 10, 0.1)},
            {"ec2.DescribeSnapshots 10/s": 50, "ec2 30/s": 19},
        ),
        # A burst at the beginning, and then hardly a call: what was used up then is what counts.
        (
            {"DescribeSnapshots": ([10], 0.5), "RunInstances": ([12] * 10, 0)},
            {"ec2.DescribeSnapshots 10/s": 5},
        ),
        # Two operations that share a bucket.
        (
            {"CopySnapshot": ([3] * 10, 0.5), "CopyImage": ([2] * 10, 0.5)},
            {"ec2 (copies) 5/s": 25},
        ),
        ({"RunInstances": ([10] * 10, 0)}, {}),
    ],
    ids=["lane", "all", "both", "burst", "bucket", "none"],
)
def test_fullest_limit_held_the_calls(calls, held):
    """Of the limits of a call, the one that was used up while calls waited."""
    assert held_of(outcome_of(calls)) == pytest.approx(held)


def test_limit_on_calls_in_flight_is_named():
    """Where no rate was nearly used up."""
    limits = '[ec2]\nrate = "100/s"\nconcurrency = 2\n'
    outcome = outcome_of({"DescribeTags": ([10] * 10, 0.5)}, limits)
    assert held_of(outcome) == pytest.approx({"ec2 2 at once": 50})


@pytest.mark.parametrize(
    ("rates", "held"),
    [
        ([10] * 10, "10/s"),
        ([2, 10, 10, 2], "10/s"),  # it began and ended within a second
        ([8] * 10, "2 at once and 10/s"),
        ([3] * 10, "2 at once"),
    ],
)
def test_calls_in_flight_or_a_rate(rates, held):
    """A rate that was nearly used up may have held the calls, and so may the other limit."""
    limits = '[ec2]\nrate = "10/s"\nconcurrency = 2\n'
    outcome = outcome_of({"DescribeTags": (rates, 0.5)}, limits)
    assert held_of(outcome) == pytest.approx({f"ec2 {held}": sum(rates) / 2})


def test_share_of_a_short_run():
    """A run that ends within a step cannot use the rate of the whole step."""
    outcome = outcome_of({"DescribeTags": ([5], 0.5)}, '[ec2]\nrate = "10/s"\nconcurrency = 2\n')
    outcome.seconds = 0.5
    assert held_of(outcome) == pytest.approx({"ec2 10/s": 2.5})


def test_limit_of_another_run_held_the_calls():
    """As the host hub has counted; the rest is attributed to the own limits."""
    calls = {"DescribeSnapshots": ([10] * 10, 0.5)}
    queue = outcome_of(calls).figures[0].queue
    delay = {"queue": queue, "lane": "", "limit": "9/s", "whose": "b, process 7", "seconds": 20.0}
    assert held_of(outcome_of(calls), [delay]) == pytest.approx(
        {"ec2 9/s of b, process 7": 20, "ec2.DescribeSnapshots 10/s": 30}
    )


def test_shared_bucket_of_another_run_is_named():
    """The host hub has the key of its lane, which is no name of a limit."""
    calls = {"CopyImage": ([2] * 10, 0.5)}
    queue = outcome_of(calls).figures[0].queue
    delay = {"queue": queue, "lane": "bucket: copies", "limit": "2/s", "whose": "b", "seconds": 10}
    assert held_of(outcome_of(calls), [delay]) == {"ec2 (copies) 2/s of b": 10}


def test_lowered_rate_held_the_calls():
    """After throttling, the rate that `adaptive` allows is below all limits."""
    outcome = outcome_of({"DescribeSnapshots": ([1] * 10, 0.5)})
    queue = outcome.figures[0].queue
    event = Event("backed_off", queue, None, 0, 1, at=1_001.0, waited=0.0, rate=1.0)
    outcome.recording.queues[queue].changed(event, None)
    assert held_of(outcome) == pytest.approx({"ec2 (rate lowered after throttling)": 5})


def test_limit_that_was_hardly_used_held_none():
    """Calls also wait for the host hub, or a busy machine."""
    assert not held_of(outcome_of({"RunInstances": ([1] * 10, 0.5)}))


@pytest.mark.parametrize(
    ("calls", "said"),
    [
        (
            {"DescribeSnapshots": ([10] * 10, 0.5)},
            (
                "100 AWS calls, 100 paced: 100 waited 50.0 s in total for\n"
                "ec2.DescribeSnapshots 10/s\n"
            ),
        ),
        (
            {"DescribeSnapshots": ([10] * 10, 0.5), "RunInstances": ([19] * 10, 0.1)},
            (
                "290 AWS calls, 290 paced: 290 waited 69.0 s in total for\n"
                "ec2.DescribeSnapshots 10/s (50.0 s), ec2 30/s (19.0 s)\n"
            ),
        ),
        (
            {"DescribeSnapshots": ([10] * 10, 0.1), "RunInstances": ([19] * 10, 0.4)},
            (
                "290 AWS calls, 290 paced: 290 waited 86.0 s in total for\n"
                "ec2 30/s (76.0 s), ec2.DescribeSnapshots 10/s (10.0 s)\n"
            ),
        ),
        # A limit whose waits would be "0.0 s" is left out, unless it is the only one.
        (
            {"DescribeSnapshots": ([10], 0.09), "CopyImage": ([2], 0.02)},
            "12 AWS calls, 12 paced: 12 waited 0.9 s in total for\nec2.DescribeSnapshots 10/s\n",
        ),
        (
            {"DescribeSnapshots": ([2], 0.02)},
            "2 AWS calls, 2 paced: 2 waited 0.0 s in total for\nec2.DescribeSnapshots 10/s\n",
        ),
        ({"RunInstances": ([10] * 10, 0)}, "100 AWS calls, 100 paced: none waited\n"),
    ],
)
def test_first_line_has_waits_and_limits(calls, said):
    """First what was paced, by how much and by which limit; then how the program ended."""
    plan = plan_of(Registry.parse(LIMITS))
    shown = prefixed(headline(plan, outcome_of(calls), 0)).replace(PREFIX, "")
    assert shown == f"{said}0 throttled, 0 other errors; scan ended after 0:10, exit code 0\n"


def test_first_line_names_the_script():
    """Not only the Python that executes it."""
    plan = plan_of(given=RunOptions(["/usr/bin/python3", "-u", "/srv/scan.py", "secret"]))
    assert "; python3 scan.py ended after 0:10" in headline(plan, outcome_of({"X": ([1], 0)}), 0)


def test_refused_calls_are_counted():
    """Of a program none of whose calls could be sent, too."""
    outcome = outcome_of({"RunInstances": ([], 0)})
    refused = CallStats("ec2", "RunInstances", None, None, None, paced=True)
    outcome.recording.tally(refused, "refused", 1_001.0)
    outcome.figures = [refused]
    assert headline(plan_of(Registry.parse(LIMITS)), outcome, 0) == (
        "no AWS calls counted; 1 refused (not sent), scan ended after 0:10, exit code 0"
    )


@pytest.mark.parametrize("limit", ["30 in each day or raise", "30 in all"])
def test_limit_that_raises_holds_no_call(limit):
    """A call for which it has no room raises: those that waited did so for something else."""
    calls = {"DescribeTags": ([3] * 10, 0.5)}
    assert held_of(outcome_of(calls, f'ec2 = "{limit}"\n')) == {}
    outcome = outcome_of(calls, f'ec2 = "{limit}, 4/s"\n')
    assert held_of(outcome) == pytest.approx({"ec2 4/s": 15})
