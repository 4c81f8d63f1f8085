"""The closing tables, from the hub's figures."""

from __future__ import annotations

import time

from aioapiqueue.recording.spi import as_clock
from aioapiqueue.registry import Registry
from aioapiqueue_run.cli.run.figures import dry_run_table, rows, table
from aioapiqueue_run.cli.run.json_report import figure_as_json
from aioapiqueue_run.cli.run.model import Outcome
from aioapiqueue_run.cli.run.options import RunOptions
from aioapiqueue_run.cli.run.report import remarks
from aioapiqueue_run.hub import OTHERS, Kind, Watcher
from aioapiqueue_run.hub.calls import Calls
from aioapiqueue_run.hub.queue_records import QueueRecords
from aioapiqueue_run.hub.records import ProcessLoad
from tests.helpers.figures import figure_of
from tests.helpers.plans import plan_of
from tests.helpers.yardstick import slowness


def figure(operation, region, queue="ec2", calls=1, **more):
    """One of the hub's figures."""
    paced = queue is not None
    return figure_of("ec2", operation, region, "111122223333", queue, paced, calls=calls, **more)


def cells(text, name):
    """The cells of the only line that begins with a name."""
    (line,) = [line for line in text.splitlines() if line.split()[: len(name)] == name]
    return line.split()[len(name) :]


def test_queue_of_several_regions_is_one():
    """Figures of two Regions that share a queue are added up, and have no line for each."""
    found = rows(
        [
            figure("DescribeImages", "eu-west-1", calls=3, waits=2, waited=1.0, longest_wait=0.5),
            figure("DescribeImages", "us-east-1", calls=4, waits=3, waited=2.0, longest_wait=1.5),
        ],
    )
    text = table(found, plan_of(Registry.from_options(["ec2=10/s"])))
    assert cells(text, ["ec2", "10/s"]) == ["7", "5", "3.0", "1.5", "0", "0"]
    assert cells(text, ["DescribeImages"]) == ["7", "5", "3.0", "1.5", "0", "0"]
    assert len(text.splitlines()) == 3


def test_queues_are_named_by_their_differences():
    """Two Regions of one account have a line each, named for the Region; the account is no news."""
    found = rows(
        [
            figure("DescribeImages", "eu-west-1", "ec2 eu-west-1 111122223333", throttled=2),
            figure("DescribeImages", "us-east-1", "ec2 us-east-1 111122223333", calls=4),
        ],
    )
    text = table(found, plan_of())
    assert cells(text, ["in", "us-east-1"])[0] == "4"
    assert cells(text, ["in", "eu-west-1"]) == ["1", "0", "0.0", "0.0", "2", "0"]
    assert "111122223333" not in text


def test_each_queue_has_its_own_lanes():
    """What is throttled in one Region only is seen there, not in a sum over all Regions."""
    names = {region: f"ec2 {region}" for region in ("eu-west-1", "us-east-1")}
    found = rows(
        [
            figure(operation, region, names[region], calls=calls, throttled=throttled)
            for region, operation, calls, throttled in (
                ("eu-west-1", "DescribeImages", 5, 3),
                ("eu-west-1", "DescribeSnapshotAttribute", 4, 0),
                ("us-east-1", "DescribeImages", 2, 0),
                ("us-east-1", "DescribeRegions", 1, 0),
            )
        ],
    )
    told = [
        (line.split()[:-6], line.split()[-2]) for line in table(found, plan_of()).splitlines()[1:]
    ]
    assert told == [
        (["ec2"], "3"),
        (["in", "eu-west-1"], "3"),
        (["DescribeImages"], "3"),
        (["DescribeSnapshotAttribute"], "0"),
        (["in", "us-east-1"], "0"),
        (["DescribeImages"], "0"),
        (["DescribeRegions"], "0"),
    ]


def test_variants_and_shared_buckets_have_lines():
    """A lane of its own has its own name; a shared bucket has what all its operations used."""
    found = rows(
        [
            figure("DescribeSnapshots", "eu-west-1", calls=3, lane="DescribeSnapshots unfiltered"),
            figure("CopySnapshot", "eu-west-1", calls=2),
        ],
        [figure("copies", "eu-west-1", calls=2, waits=1)],
    )
    text = table(found, plan_of())
    assert {len(line) for line in text.splitlines()} == {80}
    assert cells(text, ["DescribeSnapshots", "unfiltered"])[0] == "3"
    assert cells(text, ["shared", "copies"])[:2] == ["2", "1"]
    assert len(text.splitlines()) == 5


def test_service_of_shared_buckets_only():
    """Operations that come under nothing but buckets are listed, and then the buckets."""
    found = rows(
        [
            figure("CopySnapshot", "eu-west-1", calls=2),
            figure("CopyImage", "eu-west-1", calls=3),
        ],
        [
            figure("a", None, calls=5),  # CopyImage uses it as well
            figure("b", None, calls=3),
        ],
    )
    text = table(found, plan_of())
    assert cells(text, ["shared", "a"])[0] == "5"
    assert cells(text, ["shared", "b"])[0] == "3"
    assert cells(text, ["CopySnapshot"])[0] == "2"
    assert len(text.splitlines()) == 6


def test_tables_keep_to_80_columns():
    """A name too long for its column has a line of its own; figures of millions fit theirs."""
    name = "GetTransitGatewayMulticastDomainAssociationsForEverybody"
    limited = plan_of(Registry.from_options(["ec2=10/s, 5000 in any 3600s"]))
    many = {"calls": 12_345_678, "throttled": 1_234_567, "errors": 123_456, "waited": 1e6}
    for queue in ("ec2", None):
        found = rows([figure(name, "eu-west-1", queue, **many)])
        for text in (
            table(found, limited),
            dry_run_table(found, 9, lambda *_: "20/s burst 100"),
        ):
            assert max(map(len, text.splitlines())) <= 80
            assert text.split()[-2:] == ["1,234,567", "123,456"]


def test_busiest_rows_are_listed():
    """Of a scan of many Regions, as many as are read; the last line has the number of the rest."""
    figures = [
        figure(operation, f"r{number}", f"ec2 r{number}", calls=number + 1)
        for number in range(1_000)
        for operation in ("DescribeImages", "DescribeTags")
    ]
    sts = figure_of("sts", "GetCallerIdentity", None, None, "sts", paced=True)
    found = rows([*figures, sts])
    for text in (table(found, plan_of()), dry_run_table(found, 9, lambda *_: "")):
        lines = text.splitlines()
        assert len(lines) == 1 + 30 + 1 + 2
        assert lines[2].split()[:3] == ["in", "r999", "2,000"]
        assert lines[31] == "  and 2,971 more: --json FILE has all of them"
        assert lines[32].startswith("sts ")


def test_table_of_many_regions_takes_no_longer():
    """10,000 figures, half of what the hub keeps at most, in 2,500 queues."""
    figures = [
        figure(f"Describe{number % 4}", f"r{number // 4}", f"ec2 r{number // 4}")
        for number in range(10_000)
    ]
    began = time.process_time()
    assert table(rows(figures), plan_of()).splitlines()[1].split()[:2] == ["ec2", "10,000"]
    assert time.process_time() - began < slowness()


def test_peaks_of_services_queues_and_lanes():
    """Attempts of two Regions in one second add up for the service, not for each Region."""
    calls = Calls(Registry({}), QueueRecords(paced=False), Watcher())
    for region in ("eu-west-1", "us-east-1"):
        for _ in range(10):
            kind = Kind("ec2", "DescribeImages", region, "111122223333")
            request = calls.request(ProcessLoad(), kind, {}, ahead=False)
            calls.joined(request, 100.0)
            calls.started(request, 100.0)
    found = rows(calls.figures)
    assert found[0].total.peak == 20
    assert [part.total.peak for part in found[0].parts] == [10, 10]
    assert [part.parts[0].total.peak for part in found[0].parts] == [10, 10]


def test_durations_look_like_a_clock():
    """Minutes and seconds, hours where there are any."""
    assert [as_clock(s) for s in (0.9, 61, 3599, 3600, 36_123)] == [
        "0:00", "1:01", "59:59", "1:00:00", "10:02:03",
    ]  # fmt: skip


def test_what_is_summed_has_a_row():
    """What the hub has summed up is a row of each table, without a limit, and is explained."""
    figures = [
        figure("DescribeImages", "eu-west-1", calls=3),
        figure_of(OTHERS, OTHERS, None, None, None, paced=True, calls=5),
        figure_of(OTHERS, OTHERS, None, None, None, paced=False, calls=7),
    ]
    found = rows(figures)
    text = table(found, plan_of(Registry.from_options(["ec2=10/s", "default=20/s"])))
    assert cells(text, [OTHERS])[0] == "5"
    assert cells(text, [f"{OTHERS},", "not", "paced"])[0] == "7"
    assert [one["calls"] for one in map(figure_as_json, figures[1:])] == [5, 7]
    plan = plan_of(given=RunOptions(["scan"], dry_run=True))
    said = " ".join(remarks(plan, Outcome(figures=figures)))
    assert "(others) adds up calls of further kinds" in said


def test_listed_service_shows_no_default_limit():
    """A service with limits of its own inherits nothing from the default; another one does."""
    limits = """
        [ec2]
        rate = "unlimited"
        [ec2.buckets.copies]
        operations = ["CopySnapshot", "CopyImage"]
        rate = "5/s"
        [default]
        rate = "20/s"
    """
    sqs = figure_of("sqs", "SendMessage", None, None, "sqs", paced=True, calls=7)
    plan = plan_of(Registry.parse(limits))
    text = table(rows([figure("CopyImage", "eu-west-1"), sqs]), plan)
    assert cells(text, ["ec2"])[0] == "1"
    assert cells(text, ["sqs", "20/s"])[0] == "7"
