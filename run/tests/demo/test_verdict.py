"""What the demonstration makes of its figures: exactly, for machines of any speed."""

from __future__ import annotations

import dataclasses
import math

import pytest

from aioapiqueue import Rate
from aioapiqueue_run.demo.calibration import plan_at, scale_for
from aioapiqueue_run.demo.gate import MockBucket, MockBuckets
from aioapiqueue_run.demo.scan import ScanFigures
from aioapiqueue_run.demo.verdict import as_document, checks, closing_text, failed, report

PLAN = plan_at(1, snapshots=320, rate=Rate(16), workers=20)
HARMED = ScanFigures(
    seconds=8.0,
    ec2_seconds=6.0,
    calls=1400,
    ec2_calls=480,
    throttled=270,
    errors=110,
    lost=110,
    public_found=21,
    bystander_calls=8,
    bystander_failures=5,
)
PACED = ScanFigures(
    seconds=20.5,
    ec2_seconds=20.1,
    calls=1283,
    ec2_calls=321,
    public_found=32,
    bystander_calls=20,
)
BLANKET = dataclasses.replace(PACED, seconds=82.0, bystander_calls=82)
FOUND = {"unpaced": HARMED, "blanket": BLANKET, "paced": PACED}
NO_HARM = dataclasses.replace(
    HARMED, throttled=0, errors=0, lost=0, public_found=32, bystander_failures=0
)
LATE = dataclasses.replace(PACED, ec2_seconds=1.051 * 321 / 16)
RECORDED = {
    "queues": [{"queue": "paced", "calls": 321, "throttled": 0, "tightest": None}],
    "seconds": 82.0,
}


def broken(**changed):
    """The names of the checks that do not hold if scans came out differently."""
    return [one.name for one in checks(PLAN, FOUND | changed) if not one.ok]


@pytest.mark.parametrize(
    ("reached", "scale"),
    [
        (math.inf, 1),
        (100, 1),
        (99.9, 1 / 2),
        (50, 1 / 2),
        (49.9, 1 / 4),
        (25, 1 / 4),
        (24.9, 1 / 8),
        (0, 1 / 8),
    ],
)
def test_scale_follows_what_machine_reaches(reached, scale):
    """The limit is a fifth of what the unpaced scan reaches, at most EC2's own, at least 1/8."""
    assert scale_for(reached) == scale


@pytest.mark.parametrize(
    ("rate", "scale", "smaller"),
    [
        ("16/s", 1, "16/s"),
        ("16/s", 1 / 8, "2/s"),
        ("12/s", 1 / 8, "1.5/s"),
        ("80ms", 1 / 2, "160ms"),
        ("600/min", 1 / 4, "150/min"),
    ],
)
def test_pace_is_reduced_as_written(rate, scale, smaller):
    """So that a person recognizes the pace that was asked for."""
    plan = plan_at(scale, snapshots=320, rate=Rate.parse(rate), workers=20)
    assert str(plan.rate) == smaller
    assert plan.rate.interval == pytest.approx(Rate.parse(rate).interval / scale)


@pytest.mark.parametrize("scale", [1, 1 / 2, 1 / 4, 1 / 8])
def test_scaled_account_takes_the_same_time(scale):
    """Account, limits and pace shrink together; a bystander leaves the limit as it is."""
    plan = plan_at(scale, snapshots=320, rate=Rate(16), workers=20)
    assert (plan.snapshots, plan.public) == (320 * scale, 32 * scale)
    assert plan.calls * plan.rate.interval == pytest.approx(80, rel=0.02)
    limit = plan.ec2_limit
    assert (limit.calls, limit.burst) == (20 * scale, 100 * scale)
    assert plan.rate.calls + plan.often <= limit.calls


@pytest.mark.parametrize("scale", [1, 1 / 2, 1 / 4, 1 / 8])
def test_paced_calls_are_never_throttled(scale):
    """Paced calls and a bystander's fit into the bucket; at five times the limit, calls do not."""
    plan = plan_at(scale, snapshots=320, rate=Rate(16), workers=20)

    def refused(per_second, bystander):
        calls = [(number / per_second, "scan") for number in range(plan.snapshots)]
        if bystander:
            end = plan.snapshots / per_second
            calls += [(n / plan.often, "by") for n in range(1, int(end * plan.often) + 1)]
        buckets = MockBuckets(scale=scale)
        place = ("account", "region", "DescribeSnapshotAttribute", ("SnapshotId",))
        return sum(not buckets.try_consume(*place, at) for at, _ in sorted(calls))

    assert refused(plan.rate.calls, bystander=True) == 0
    assert refused(100 * scale, bystander=False) > plan.snapshots / 3


def test_scaled_bucket_has_its_share():
    """An eighth of 100 calls at once is 12, and then 2.5 a second."""
    buckets = MockBuckets(scale=1 / 8)
    place = ("account", "region", "DescribeSnapshotAttribute", ("SnapshotId",))
    assert sum(buckets.try_consume(*place, 0.0) for _ in range(100)) == 12
    assert sum(buckets.try_consume(*place, 4.0) for _ in range(100)) == 10
    assert MockBucket(12.5, 2.5, now=0.0).try_consume(0.0)


def test_all_checks_hold():
    """Of a quiet machine: nothing is left to say but how many there are."""
    done = checks(PLAN, FOUND)
    assert failed(done, strict=True) == []
    text = closing_text(PLAN, FOUND, done, strict=True)
    assert text.startswith(
        "Unpaced, the scan lost 110 of 320 snapshots and found 21 of 32 public ones;\n"
    )
    assert "5 of 8 bystander calls failed.\n" in text
    assert text.endswith("[green]OK[/]: all 5 checks passed.")


@pytest.mark.parametrize(
    ("unpaced", "harm"),
    [
        ({"throttled": 0, "lost": 0, "bystander_failures": 0}, False),
        ({"throttled": 3, "lost": 0, "bystander_failures": 0}, False),
        ({"throttled": 3, "lost": 1, "bystander_failures": 0}, True),
        ({"throttled": 3, "lost": 0, "bystander_failures": 1}, True),
        ({"throttled": 0, "lost": 1, "bystander_failures": 0}, False),
    ],
)
def test_harm_is_throttled_and_lost(unpaced, harm):
    """Retries that make up for it are no harm, and what fails for another reason is none."""
    figures = dataclasses.replace(HARMED, **unpaced)
    assert ("unpaced_did_harm" not in broken(unpaced=figures)) is harm


@pytest.mark.parametrize(
    ("paced", "name"),
    [
        ({"throttled": 1}, "paced_not_throttled"),
        ({"bystander_failures": 1}, "paced_bystander_unharmed"),
        ({"bystander_calls": 0}, "paced_bystander_unharmed"),
        ({"public_found": 31}, "paced_found_everything"),
        ({"errors": 1}, "paced_found_everything"),
    ],
)
def test_what_paced_breaks_always_fails(paced, name):
    """No machine excuses it: with `--strict` and without."""
    found = FOUND | {"paced": dataclasses.replace(PACED, **paced)}
    done = checks(PLAN, found)
    for strict in (False, True):
        assert [check.name for check in failed(done, strict=strict)] == [name]
        text = closing_text(PLAN, found, done, strict=strict)
        assert f"[red]FAILED[/] {name}: " in text
        assert "[green]OK" not in text
        assert as_document(PLAN, found, done, RECORDED, strict=strict)["good"] is False
        assert report(PLAN, found, done, strict=strict)["ok"] is False


def test_lateness_is_a_note():
    """What a busy machine does alone fails only with `--strict`."""
    found = FOUND | {"paced": LATE}
    done = checks(PLAN, found)
    text = closing_text(PLAN, found, done, strict=False)
    assert "[yellow]Late[/]: the paced scan's 321 EC2 calls took 21.09 s, 1.051 times" in text
    assert text.endswith("[green]OK[/]: 4 of 5 checks passed.")
    document = as_document(PLAN, found, done, RECORDED, strict=False)
    assert (document["good"], document["verdict"][:7]) == (True, "paced: ")
    assert not any(note.startswith("FAILED") for note in document["notes"])
    assert report(PLAN, found, done, strict=False)["ok"] is True

    assert [check.name for check in failed(done, strict=True)] == ["paced_on_time"]
    text = closing_text(PLAN, found, done, strict=True)
    assert "[red]FAILED[/] paced_on_time: " in text
    assert "OK" not in text
    document = as_document(PLAN, found, done, RECORDED, strict=True)
    assert (document["good"], document["verdict"][:20]) == (False, "some checks failed; ")
    assert document["notes"][0].startswith("FAILED paced_on_time: ")
    assert report(PLAN, found, done, strict=True)["ok"] is False


def test_harm_to_others_comes_first():
    """Where retries saved the unpaced scan's own calls, the text is of those that failed."""
    spared = dataclasses.replace(
        HARMED, errors=0, lost=0, throttled=20, public_found=32, bystander_failures=1
    )
    found = FOUND | {"unpaced": spared}
    text = closing_text(PLAN, found, checks(PLAN, found), strict=True)
    assert text.startswith(
        "Unpaced, the scan made 1 of 8 bystander calls fail.\n"
        "20 of its own calls were throttled; retries made up for them.\n\n"
        "Paced, it lost none and found 32 of 32;\n"
    )
    assert text.endswith("[green]OK[/]: all 5 checks passed.")


@pytest.mark.parametrize("strict", [False, True])
def test_no_harm_is_no_comparison(strict):
    """The text never says that unpaced is as good: it says why there is nothing to see."""
    found = FOUND | {"unpaced": NO_HARM, "paced": LATE}
    done = checks(PLAN, found)
    assert "unpaced_did_harm" in [check.name for check in failed(done, strict=strict)]
    text = closing_text(PLAN, found, done, strict=strict)
    assert text.startswith(
        "The unpaced scan made 80.0 EC2 calls a second and lost nothing: the limit is\n"
        "20/s after a burst of 100 calls. There is nothing to compare.\n"
    )
    assert "Unpaced, the scan lost" not in text
    assert "Late" not in text
    assert "OK" not in text
    document = as_document(PLAN, found, done, RECORDED, strict=strict)
    assert document["tables"] == []
    assert document["verdict"].startswith("the unpaced scan lost nothing; paced: ")
    assert document["good"] is False
    late = ["FAILED paced_on_time"] if strict else []
    heads = [note.partition(":")[0] for note in document["notes"]]
    assert heads[:-1] == [*late, "The unpaced scan made 80.0 EC2 calls a second and lost nothing"]
    assert heads[-1].startswith(
        "Use more --workers, or run the demo again when the machine is less"
    )
