"""What programs that call AWS are made of, and what has to arrive of them."""

from __future__ import annotations

import itertools
import math
import statistics
import time

__all__ = [
    "BOTO",
    "CURL",
    "EARLY",
    "FORM",
    "HOST",
    "SIGNED",
    "as_monotonic",
    "assert_none_early",
    "assert_paced",
    "assert_spaced",
    "calls_of",
]

HOST = "ec2.us-east-1.amazonaws.com"
FORM = "Action=DescribeVolumes&Version=2016-11-15"
CURL = (
    "curl -sS -o /dev/null -w '%{http_code}\\n' --aws-sigv4 aws:amz:us-east-1:ec2 "
    f'--user "$AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY" -d "{FORM}" https://{HOST}/'
)
BOTO = """
import boto3, sys
from concurrent.futures import ThreadPoolExecutor
ec2 = boto3.client("ec2")
number = int(sys.argv[1])
with ThreadPoolExecutor(number) as pool:
    list(pool.map(lambda _: ec2.describe_volumes(), range(number)))
"""
SIGNED = """
import botocore.session, sys
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest

def signed(url="https://ec2.us-east-1.amazonaws.com/", service="ec2"):
    credentials = botocore.session.get_session().get_credentials().get_frozen_credentials()
    form = "application/x-www-form-urlencoded; charset=utf-8"
    data = "Action=DescribeVolumes&Version=2016-11-15"
    request = AWSRequest("POST", url, data=data, headers={"Content-Type": form})
    SigV4Auth(credentials, service, "us-east-1").add_auth(request)
    return request.url, dict(request.headers), request.data
"""


EARLY = 0.012  # of an arrival, which is measured in another process


def assert_paced(aws, number, interval=0.1, *, at_once=True, begun=None, signed=True):
    """So many calls came, at the limit (see `assert_spaced`), and all signatures are right.

    Args:
        aws: to which they came.
        number: how many there have to be.
        interval: seconds between two, at the limit.
        at_once: whether all were there from the beginning, so that the limit was used up.
        begun: a time before the first call, as `time.monotonic()` counts. If it is not known,
            the first arrival counts, which a busy machine may hold up by up to 0.05 s.
        signed: whether the program signs them.
    """
    times = sorted(one.at for one in aws.arrivals)
    assert len(times) == number
    assert not (signed and aws.wrong)
    if begun is None:
        begun = times[0] - 0.05
    assert_spaced(times, interval, begun=begun, late=0.05 if at_once else math.inf)


def assert_spaced(times, interval, *, begun, late):
    """At least five calls came at a limit: none too early, and one each `interval`.

    On a busy machine, the first one may come much later than `begun`, and then the bound of
    `assert_none_early` says little. So the median pace of all pairs of calls has to be the
    interval, too: a few that are late do not change it. Calls that begin together make their
    connections together. That can delay the first ones by more than an interval, so that they
    arrive too close to the next: so the pace is too fast only if it is too fast among the last
    calls, down to three of them, as well.

    Args:
        times: when they came.
        interval: seconds between two, at the limit.
        begun: a time before the first call, as `time.monotonic()` counts.
        late: by how many seconds all of them may take longer than 5 % above the limit.
    """
    times = sorted(times)
    assert len(times) >= 5, "make five calls or more: the pace of fewer depends on the machine"
    assert_none_early(times, interval, begun=begun)
    paces = [_pace(times[first:]) for first in range(len(times) - 2)]
    longest = 1.05 * interval + late / (len(times) - 1)
    assert paces[0] <= longest, f"one each {paces[0]:.3f} s, and not {interval}"
    assert max(paces) >= 0.85 * interval, f"one each {max(paces):.3f} s, and not {interval}"


def assert_none_early(times, interval, *, begun):
    """Each call came no sooner than a limit allows if the first came at `begun`.

    Args:
        times: when they came.
        interval: seconds between two, at the limit.
        begun: a time before the first call, as `time.monotonic()` counts.
    """
    times = sorted(times)
    for position, at in enumerate(times):
        assert at >= begun + position * interval - EARLY, f"call {position} of {times}"


def _pace(times):
    """Return the median pace of all pairs of calls, in seconds."""
    pairs = itertools.combinations(enumerate(times), 2)
    return statistics.median((b - a) / (later - sooner) for (sooner, a), (later, b) in pairs)


def as_monotonic(seconds):
    """Return what `time.monotonic()` was at a time of the day, which all programs know."""
    return float(seconds) - time.time() + time.monotonic()


def calls_of(figures):
    """Return how many calls of each operation the run has counted."""
    found = {}
    for one in figures["figures"]:
        name = f"{one['service']}.{one['operation']}"
        found[name] = found.get(name, 0) + one["calls"]
    return found
