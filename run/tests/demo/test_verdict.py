"""What the demonstration makes of its figures: exactly, for machines of any speed."""

from __future__ import annotations

import dataclasses

import pytest

from aioapiqueue import Rate
from aioapiqueue_run.demo.gate import MockBuckets
from aioapiqueue_run.demo.scan import ScanFigures, ScanPlan
from aioapiqueue_run.demo.verdict import are_as_promised, closing_table, closing_text

PLAN = ScanPlan(snapshots=320, rate=Rate(16))
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


def test_paced_calls_are_never_throttled():
    """Paced calls and a bystander's fit into the bucket; at five times the limit, calls do not."""

    def throttled(per_second, bystander):
        calls = [(number / per_second, "scan") for number in range(PLAN.snapshots)]
        if bystander:
            calls += [(n, "by") for n in range(1, int(PLAN.snapshots / per_second) + 1)]
        buckets = MockBuckets()
        place = ("account", "region", "DescribeSnapshotAttribute", ("SnapshotId",))
        return sum(not buckets.try_consume(*place, at) for at, _ in sorted(calls))

    assert throttled(PLAN.rate.calls, bystander=True) == 0
    assert throttled(100, bystander=False) > PLAN.snapshots / 3


def test_one_call_in_four_is_to_ec2():
    """So that a delay before every call takes four times as long as one before EC2's."""
    assert (PLAN.public, PLAN.buckets, PLAN.calls) == (32, 80, 320 + 3 + 80 * 12)
    assert PLAN.calls == pytest.approx(4 * (PLAN.snapshots + 1), rel=0.01)


def text_of(found):
    """The final text for the terminal."""
    return closing_text(PLAN, found).plain


def test_good_scans_are_compared():
    """If the scans differ as promised, the harm comes first, and OK last."""
    text = text_of(FOUND)
    assert text.startswith(
        "\nUnpaced, 270 calls were throttled. The scan lost 110 of 320 snapshots and found\n"
        "21 of 32 public ones; 5 of 8 bystander calls failed.\n\n"
        "Paced, it lost none and found 32 of 32; none of 20 bystander calls failed. Its\n"
        "321 EC2 calls took 20.1 s, 1.002 times as long as at exactly 16/s.\n"
    )
    assert text.endswith("OK: the paced scan lost nothing.")
    assert are_as_promised(PLAN, FOUND)
    cells = [list(column.cells) for column in closing_table(PLAN, FOUND).columns]
    assert [column[0] for column in cells] == [
        *("unpaced", "8.0", "480 / 1,400", "270", "110", "21 of 32", "5 of 8"),
    ]
    assert cells[0] == ["unpaced", "blanket", "paced"]


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
    found = FOUND | {"unpaced": dataclasses.replace(HARMED, **unpaced)}
    assert are_as_promised(PLAN, found) is harm
    assert ("There is nothing to compare." in " ".join(text_of(found).split())) is not harm


@pytest.mark.parametrize(
    ("paced", "sentence"),
    [
        ({"throttled": 1}, "1 of 321 EC2 calls of the paced scan were throttled."),
        (
            {"bystander_failures": 1},
            "1 of 20 bystander calls failed during the paced scan.",
        ),
        ({"bystander_calls": 0}, "0 of 0 bystander calls failed during the paced scan."),
        (
            {"public_found": 31},
            "The paced scan found 31 of 32 public snapshots; none of its 1,283 calls failed.",
        ),
        (
            {"errors": 1},
            "The paced scan found 32 of 32 public snapshots; 1 of its 1,283 calls failed.",
        ),
    ],
)
def test_broken_promise_fails(paced, sentence):
    """Each promise that the paced scan breaks is named."""
    found = FOUND | {"paced": dataclasses.replace(PACED, **paced)}
    text = text_of(found)
    assert text.endswith(f"\n\nFAILED: {sentence}")
    assert "OK" not in text
    assert not are_as_promised(PLAN, found)


def test_harm_to_others_is_harm():
    """If retries saved the unpaced scan's own calls, its bystander's failures still count."""
    spared = dataclasses.replace(
        HARMED, errors=0, lost=0, throttled=20, public_found=32, bystander_failures=1
    )
    text = text_of(FOUND | {"unpaced": spared})
    assert text.startswith(
        "\nUnpaced, 20 calls were throttled. The scan lost none of 320 snapshots and found\n"
        "32 of 32 public ones; 1 of 8 bystander calls failed.\n\n"
        "Paced, it lost none and found 32 of 32;"
    )
    assert text.endswith("OK: the paced scan lost nothing.")


def test_no_harm_is_no_comparison():
    """The text never says that unpaced is as good: it says why there is nothing to see."""
    found = FOUND | {"unpaced": NO_HARM}
    text = text_of(found)
    assert text == (
        "\nThe unpaced scan made 80.0 EC2 calls a second and lost nothing: the limit is\n"
        "20/s after a burst of 100 calls. There is nothing to compare.\n\n"
        "Use more --snapshots, or run the demo again when the machine is less busy."
    )
    assert not are_as_promised(PLAN, found)
