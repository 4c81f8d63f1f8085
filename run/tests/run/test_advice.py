"""After throttling: what got through, and which limit to try."""

from __future__ import annotations

import dataclasses
import re
import shlex

import pytest

from aioapiqueue.recording.spi import Recording
from aioapiqueue.registry import Registry
from aioapiqueue_run.cli.console import prefixed, unbroken
from aioapiqueue_run.cli.run.advice import (
    ThrottledCalls,
    after_dry_run,
    after_throttling,
    command_to_copy,
    find_throttled,
)
from aioapiqueue_run.cli.run.estimate import PacedEstimate
from aioapiqueue_run.cli.run.launch import Launch
from aioapiqueue_run.cli.run.limits_applied import judged
from aioapiqueue_run.cli.run.model import Outcome
from aioapiqueue_run.cli.run.options import RunOptions
from aioapiqueue_run.cli.run.report import to_copy
from aioapiqueue_run.hub import CallStats, Ended, Watcher
from aioapiqueue_run.hub.calls import Calls
from aioapiqueue_run.hub.queue_records import QueueRecords
from aioapiqueue_run.hub.records import Kind, ProcessLoad
from tests.helpers.plans import plan_of

HOST = "https://api.test"


class Record:
    """Figures with their time series, as a run records them."""

    def __init__(self):
        self.recording = Recording(now=0.0, began=0.0)
        self.figures = {}

    def add(
        self, second, calls, throttled, operation="ListUsers", *, region="eu-west-1", service="iam"
    ):
        """Count calls of one second, of which some were throttled."""
        name = service, operation, region, None, None
        figure = self.figures.setdefault(name, CallStats(*name, paced=True))
        for _ in range(calls):
            self.recording.started(figure, {"calls": 1}, 0.0, second + 0.5)
        for _ in range(throttled):
            self.recording.tally(figure, "throttled", second + 0.5)
        self.recording.tally(figure, "errors", second + 0.5)

    @property
    def found(self):
        """What was throttled."""
        hosts = {HOST: ["/search/*", "POST"]}
        return find_throttled(self.figures.values(), self.recording.series.step, hosts)


def test_rate_is_that_between_push_backs():
    """A full bucket before, and an idle time after, say nothing of the rate."""
    record = Record()
    record.add(0, 100, 0)
    record.add(1, 100, 30)  # the bucket runs dry
    for second in range(2, 10):
        record.add(second, 60, 40)
    record.add(10, 5, 1)
    for second in range(11, 60):
        record.add(second, 1, 0)
    (one,) = record.found
    assert one == ThrottledCalls("iam", "iam.ListUsers", ["ListUsers"], 351, 20.0)
    assert one.limit == "iam.ListUsers=10/s"


def test_pauses_are_not_measured():
    """Two bursts, ten minutes apart: what got through within them is the rate."""
    record = Record()
    for begin in (0, 600):
        for second in range(begin, begin + 6):
            record.add(second, 60, 30)
    (one,) = record.found
    assert one.accepted == 30.0


def test_each_region_has_its_limit():
    """A limit holds for each Region: the least that got through anywhere is what it goes by."""
    record = Record()
    for second in range(10):
        record.add(second, 60, 40, region="eu-west-1")
        record.add(second, 60, 50, region="us-east-1")
        record.add(second, 500, 0, region="us-west-2")
    (one,) = record.found
    assert (one.throttled, one.accepted) == (900, 10.0)


def test_many_operations_get_one_limit():
    """Up to three have one each; more, one of their service, from what they had together."""
    record = Record()
    for number in range(3):
        for second in range(10):
            record.add(second, 10, 4 + number, operation=f"List{number}")
    assert [(one.lanes, one.accepted) for one in record.found] == [
        (["List2"], 4.0),
        (["List1"], 5.0),
        (["List0"], 6.0),
    ]
    for second in range(10):
        record.add(second, 10, 3, operation="List3")
        record.add(second, 99, 0, operation="GetUser")  # not throttled: another bucket
    (one,) = record.found
    assert one.lanes == ["List0", "List1", "List2", "List3"]
    assert (one.throttled, one.accepted) == (180, 22.0)
    assert one.limit == "iam=11/s"


def test_host_gets_a_limit_for_what_has_no_lane():
    """Its quota is of the host; a lane has its own."""
    record = Record()
    for second in range(10):
        for operation in ("GET", "PUT", "/search/*"):
            record.add(second, 10, 6, operation=operation, region=None, service=HOST)
    whole, lane = sorted(record.found, key=lambda one: len(one.target))
    assert (whole.limit, whole.throttled, whole.lanes) == (f"{HOST}=4/s", 120, ["GET", "PUT"])
    assert (lane.limit, lane.throttled) == (f"{HOST}/search/*=2/s", 60)


@pytest.mark.parametrize(
    ("seconds", "calls", "throttled"),
    [
        ([0], 100, 50),  # within one second
        ([0, 1], 100, 50),
        ([0, 5, 10], 1, 1),  # nothing got through
        ([0, 2, 4], 3, 2),  # one did
        ([0, 10, 20], 100, 50),  # the bucket is full each time
    ],
)
def test_too_few_calls_give_no_rate(seconds, calls, throttled):
    """A limit that nobody measured is not offered."""
    record = Record()
    for second in seconds:
        record.add(second, calls, throttled)
    (one,) = record.found
    assert (one.accepted, one.limit) == (None, None)


@pytest.mark.parametrize(
    ("accepted", "limit"),
    [
        (20.0, "10/s"),
        (19.7, "9.8/s"),
        (1999.0, "990/s"),
        (0.5, "0.25/s"),
        (0.04, "0.02/s"),
        (2.0, "1/s"),
        (0.01, "18/h"),
    ],
)
def test_limits_to_try_are_round(accepted, limit):
    """Half of what got through, rounded down to two digits; slow ones by the hour."""
    one = ThrottledCalls("ec2", "ec2.DescribeVolumes unfiltered", [], 5, accepted)
    assert one.limit == f"ec2.DescribeVolumes unfiltered={limit}"
    Registry.from_options([one.limit], base=Registry.parse('preset = "aws"'))


def test_nothing_throttled_no_advice():
    """Errors of other kinds are none."""
    record = Record()
    for second in range(100):
        record.add(second, 60, 0)
    assert record.found == []


def plan(*limits, dry_run=True):
    """What was to be run."""
    command = ["scout", "aws", "--name", "a b"]
    return plan_of(
        Registry.from_options(limits) if limits else Registry.parse('preset = "aws"'),
        launch=Launch("/bin/scout", "scout", python=True),
        given=RunOptions(command, limit=[*limits] or None, dry_run=dry_run),
    )


def outcome_of(of, *lanes, service="iam", throttled=20, calls=30, seconds=10):
    """What came of a dry run of ten seconds in which calls of some lanes were throttled."""
    estimate = PacedEstimate(of.registry) if of.given.dry_run else None
    if estimate is not None:
        estimate.begin(1_000.0)
    hub = Calls(of.registry, QueueRecords(paced=False), estimate or Watcher())
    hub.recording.begin(now=1_000.0, began=0.0)
    for operation in lanes:
        kind = Kind(service, operation, "eu-west-1", None)
        for second in range(seconds):
            for number in range(calls):
                now = 1_000.0 + second + number / calls
                request = hub.request(ProcessLoad(), kind, {}, ahead=False)
                hub.joined(request, now)
                hub.started(request, now)
                hub.ended(request, now, Ended.THROTTLED if number < throttled else Ended.ANSWERED)
    return Outcome(
        code=0,
        figures=hub.figures,
        recording=hub.recording,
        estimate=estimate,
        seconds=float(seconds),
        paced_seconds=None if estimate is None else estimate.seconds(1_000.0 + seconds),
    )


def suggested(of, outcome):
    """The options that are suggested, as words of a command line."""
    said = "\n".join(after_throttling(of, outcome)).replace(unbroken(" "), " ")
    return [shlex.split(f"{one} ") for one in re.findall(r"for other callers: (.*)", said)]


def test_suggestion_keeps_the_preset():
    """A limit beside what AWS publishes does not take its place: EC2 stays paced."""
    of = plan()
    options = ["--preset", "aws", "--limit", "iam.ListUsers=5/s"]
    assert suggested(of, outcome_of(of, "ListUsers")) == [options]
    outcome = outcome_of(of, "DescribeVolumes", service="ec2", throttled=29)
    options[-1] = "ec2.DescribeVolumes unfiltered=0.5/s"
    assert suggested(of, outcome) == [options]


def test_suggestion_for_a_limit_that_is_too_high():
    """A lower one is suggested in its place; the command stays as it was."""
    of = plan("iam.ListUsers=100/s", "ec2=5/s")
    assert suggested(of, outcome_of(of, "ListUsers")) == [["--limit", "iam.ListUsers=5/s"]]
    assert command_to_copy(of) == (
        "aioapiqueue run --limit iam.ListUsers=100/s --limit ec2=5/s -- scout aws --name 'a b'"
    )


def test_no_suggestion_where_limits_hold():
    """Where the limits would have let through less, there is nothing to add."""
    of = plan("iam=2/s")
    assert suggested(of, outcome_of(of, "ListUsers")) == []


def test_one_strict_lane_hides_no_other():
    """Of several operations, one that has a low limit says nothing of the others."""
    of = plan("iam.GetUser=1/s")
    lanes = ("GetUser", "ListUsers", "ListRoles", "ListGroups", "GetRole")
    outcome = outcome_of(of, *lanes)
    assert suggested(of, outcome) == [["--limit", "iam=25/s"]]
    (text,) = after_throttling(of, outcome)
    assert text.startswith("iam: 5 operations were throttled 1,000 times, while 50 calls")


def test_limits_of_calls_at_once_are_not_judged():
    """A dry run cannot know how long calls would take: it says so."""
    of = plan("iam=2 at once")
    found = [*after_dry_run(outcome_of(of, "ListUsers", throttled=0))]
    assert found == [
        "no limit would have delayed a call: a paced run would take as long as this one",
        "the estimate ignores limits on calls in flight, because the calls' duration is unknown",
    ]


def test_dry_run_of_unlimited_calls():
    """The same command would pace nothing, so it is not shown: a limit has to be set first."""
    of = plan("ec2=5/s")
    outcome = outcome_of(of, "ListUsers", throttled=0)
    outcome.figures = judged(outcome.figures, of.registry)
    assert [*after_dry_run(outcome)] == [
        "no limit applies to these calls: set one with --limit SERVICE=RATE"
    ]
    assert to_copy(of, outcome) == ""


def test_advice_after_a_paced_run():
    """The option stays in one line, and goes beside the preset where that was the default."""
    of = plan(dry_run=False)
    outcome = outcome_of(of, "DescribeVolumes", service="ec2", throttled=29)
    text = prefixed("\n".join(after_throttling(of, outcome)))
    option = "--preset aws --limit 'ec2.DescribeVolumes unfiltered=0.5/s'"
    assert any(option in line for line in text.splitlines()), text
    assert "with --adaptive" in text
    of = plan("iam=5/s", dry_run=False)
    of = dataclasses.replace(of, registry=Registry.from_options(["iam=5/s"], adaptive=True))
    (text,) = after_throttling(of, outcome_of(of, "ListUsers"))
    assert text == (
        "iam ListUsers: throttled 200 times, while 10 calls a second were accepted. Use half of "
        "that, to leave room for other callers: " + unbroken("--limit iam.ListUsers=5/s")
    )
    found = [*after_throttling(of, outcome_of(of, "ListUsers", throttled=1, seconds=1))]
    assert found == ["iam ListUsers: throttled 1 time"]
