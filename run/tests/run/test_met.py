"""Which limits applied to a run's calls, as the hub's figures show."""

from __future__ import annotations

import time

import pytest

from aioapiqueue.registry import Registry, ServiceLimits
from aioapiqueue_run.cli.run.limits_applied import judged, unused
from aioapiqueue_run.cli.run.model import Outcome
from aioapiqueue_run.cli.run.report import remarks
from aioapiqueue_run.hub import CallStats, Process
from tests.helpers.figures import figure_of
from tests.helpers.models import operations_of
from tests.helpers.plans import plan_of
from tests.helpers.yardstick import slowness

FILE = """
preset = "aws"
[ec2]
preset = "none"
rate = "unlimited"
[ec2.lanes]
"Describe*" = "9/s"
DescribeVolumes = "1/s"
DescribeTags = "unlimited"
[ec2.buckets.some]
operations = ["RunInstances", "StartInstances"]
rate = "1/s"
[ec2.buckets.own]
operations = ["DescribeVolumes"]
unless = ["Filters"]
each = true
rate = "1/s"
[iam]
concurrency = 5
[kms.quotas]
Encrypt = "5/s"
[s3]
rate = "unlimited"
[default]
rate = "5/s"
"""


def figure(service, operation, queue=None, **more):
    """One of the hub's figures."""
    name = f"{service} eu-west-1" if queue is None else queue
    return figure_of(
        service, operation, "eu-west-1", None, name or None, bool(name), calls=1, **more
    )


def names(entries):
    """Name limits as --limit does."""
    return [
        entry.service + f".{entry.operation}" * bool(entry.operation) + f" {entry.bucket or ''}"
        for entry in entries
    ]


@pytest.mark.parametrize(
    ("one", "paced"),
    [
        (figure("ec2", "DescribeImages"), True),  # by a pattern
        (figure("ec2", "DescribeTags"), False),  # unlimited, whatever the pattern says
        (figure("ec2", "CreateTags"), False),
        (figure("ec2", "StartInstances"), True),  # by a bucket that is shared
        (figure("ec2", "DescribeVolumes", lane="DescribeVolumes own"), True),
        (figure("iam", "ListUsers"), True),
        (figure("sts", "GetCallerIdentity"), True),  # by a bucket of the preset
        (figure("kms", "Encrypt"), True),
        (figure("s3", "GetObject"), False),
        (figure("sqs", "SendMessage"), True),  # by the default
        (figure("sqs", "SendMessage", queue=""), False),
        (figure_of("(others)", "(others)", None, None, None, paced=True, calls=1), True),
    ],
    ids=lambda one: getattr(one, "operation", None),
)
def test_call_is_paced_by_own_limit(one, paced):
    """A queue alone is none: one of its limits has to concern the call."""
    assert [each.paced for each in judged([one], Registry.parse(FILE))] == [paced]


def test_only_written_limits_are_listed():
    """Of a preset and of quotas nothing is; of a file, each limit that no call came under."""
    registry = Registry.parse(FILE)
    assert len(list(registry)) > 200
    assert names(unused([figure("sns", "Publish", "")], registry)) == [
        "ec2.Describe* ",
        "ec2.DescribeVolumes ",
        "ec2 some",
        "ec2 own",
        "iam ",
        "default ",
    ]
    met = [
        figure("ec2", "DescribeImages"),
        figure("ec2", "DescribeVolumes", lane="DescribeVolumes own"),
        figure("iam", "ListUsers"),
    ]
    assert names(unused(met, registry)) == [
        "ec2.DescribeVolumes ",
        "ec2 some",
        "default ",
    ]
    both = [figure("ec2", "DescribeVolumes"), figure("sqs", "SendMessage")]
    assert names(unused(both, registry)) == ["ec2.Describe* ", "ec2 some", "ec2 own", "iam "]


def test_adaptive_for_all_is_no_limit():
    """`--adaptive` is for services that may be called: that some are not is no news."""
    registry = Registry.from_options(["kms=2/s"], adaptive=True)
    assert names(unused([figure("sns", "Publish")], registry)) == ["kms "]
    (one,) = judged([figure("sns", "Publish")], registry)
    assert one.paced


def test_summed_up_calls_hide_unused_limits():
    """Calls of which the hub kept no record may have come under any limit."""
    summed = figure_of("(others)", "(others)", None, None, None, paced=True, calls=1)
    assert unused([summed], Registry.parse(FILE)) == []


def test_many_unused_limits_are_cut():
    """The summary names eight, in lines of 80 columns, and counts the rest."""
    options = [f"ec2.{name}=5/s" for name in (
        "AcceptAddressTransfer", "AllocateAddress", "AttachVolume", "CopyImage", "CopySnapshot",
        "CreateTags", "DeleteTags", "DescribeImages", "DescribeTags", "RunInstances",
    )]  # fmt: skip
    plan = plan_of(Registry.from_options(options))
    process = Process(1, "python", "3.11.7", "1.43.117")
    said = remarks(plan, Outcome(figures=[figure("ec2", "RunInstances")], processes=[process]))
    only = (
        "limits that applied to no call: ec2.AcceptAddressTransfer 5/s, "
        "ec2.AllocateAddress 5/s, ec2.AttachVolume 5/s, ec2.CopyImage 5/s, "
        "ec2.CopySnapshot 5/s, ec2.CreateTags 5/s, ec2.DeleteTags 5/s, "
        "ec2.DescribeImages 5/s, and 1 more"
    )
    assert said == [only]
    assert not remarks(plan, Outcome(processes=[process]))  # no calls at all: it is said already


def test_many_regions_take_no_longer():
    """20,000 kinds of calls, as the hub keeps at most, under a limit for each of 300 operations."""
    operations = operations_of("ec2")[:300]
    registry = Registry({"ec2": ServiceLimits("unlimited", lanes=dict.fromkeys(operations, "1/s"))})
    figures = [
        CallStats(
            "ec2", operations[number % len(operations)], f"r{number}", None, "ec2", paced=True
        )
        for number in range(20_000)
    ]
    began = time.process_time()
    assert all(one.paced for one in judged(figures, registry))
    assert unused(figures, registry) == []
    assert time.process_time() - began < 2 * slowness()
