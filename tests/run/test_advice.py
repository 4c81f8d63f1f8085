"""After throttling: what got through, and which limit to try."""

from __future__ import annotations

import pytest

from aioapiqueue._recording.series import TimeSeries
from aioapiqueue.cli.run._advice import Throttled, find_throttled
from aioapiqueue.cli.run._recorder import CALLS, ERRORS, THROTTLED, SeriesName

FIELDS = ("calls", "waited", "throttled", "errors", "refused")


class Record:
    """A time series of calls, as a run records them."""

    def __init__(self):
        self.series = TimeSeries(FIELDS, began=0.0)

    def add(self, second, calls, throttled, operation="ListUsers", region="eu-west-1"):
        """Count calls of one second, of which some were throttled."""
        name = SeriesName("iam", operation, operation, region, None, None)
        self.series.add(name, second + 0.5, CALLS, calls)
        self.series.add(name, second + 0.5, ERRORS, 1)
        if throttled:
            self.series.add(name, second + 0.5, THROTTLED, throttled)

    @property
    def found(self):
        """What was throttled."""
        return find_throttled(self.series)


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
    assert one == Throttled("iam", "ListUsers", 30 + 8 * 40 + 1, 20.0)
    assert one.option == "iam.ListUsers=10/s"


def test_each_region_has_its_limit():
    """A limit holds for each Region: the least that got through anywhere is what it goes by."""
    record = Record()
    for second in range(10):
        record.add(second, 60, 40, region="eu-west-1")
        record.add(second, 60, 50, region="us-east-1")
        record.add(second, 500, 0, region="us-west-2")
    (one,) = record.found
    assert (one.throttled, one.got_through) == (900, 10.0)


def test_many_operations_get_one_limit():
    """Up to three have one each; more, one of their service, from what they had together."""
    record = Record()
    for number in range(3):
        for second in range(10):
            record.add(second, 10, 4 + number, operation=f"List{number}")
    assert [(one.lane, one.got_through) for one in record.found] == [
        ("List2", 4.0),
        ("List1", 5.0),
        ("List0", 6.0),
    ]
    for second in range(10):
        record.add(second, 10, 3, operation="List3")
    (one,) = record.found
    assert (one.lane, one.throttled, one.got_through) == (None, 180, 22.0)
    assert one.option == "iam=11/s"


@pytest.mark.parametrize(
    ("seconds", "calls", "throttled"),
    [
        ([0], 100, 50),  # within one second
        ([0, 1], 100, 50),
        ([0, 5, 10], 1, 1),  # nothing got through
        ([0, 5, 10], 3, 1),  # two did
    ],
)
def test_too_few_calls_give_no_rate(seconds, calls, throttled):
    """A limit that nobody measured is not offered."""
    record = Record()
    for second in seconds:
        record.add(second, calls, throttled)
    (one,) = record.found
    assert (one.got_through, one.limit, one.option) == (None, None, None)


@pytest.mark.parametrize(
    ("got_through", "limit"),
    [(20.0, 10.0), (19.7, 9.8), (1999.0, 990.0), (0.5, 0.25), (0.333, 0.16), (2.0, 1.0)],
)
def test_limits_to_try_are_round(got_through, limit):
    """Half of what got through, rounded down to two digits."""
    one = Throttled("ec2", "DescribeVolumes unfiltered", 5, got_through)
    assert one.limit == pytest.approx(limit)
    assert one.option == f"ec2.DescribeVolumes unfiltered={limit:g}/s"


def test_nothing_throttled_no_advice():
    """Errors of other kinds are none."""
    record = Record()
    for second in range(100):
        record.add(second, 60, 0)
    assert record.found == []
