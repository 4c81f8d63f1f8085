"""Whatever a server sends: nothing raises, no time is too long, and to read it takes no time."""

import json
import math
import time
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aioapiqueue import Rate
from aioapiqueue.integrations.http import MAX_BODY, read_advice, reads_body
from tests.helpers.answers import NOW
from tests.helpers.yardstick import slowness

WORDS = ["remaining", "limit", "reset", "after", "tokens", "input", "day", "minute", "max", "next"]
NAMES = (
    st.sampled_from(
        [
            "Retry-After",
            "Retry-After-Ms",
            "Date",
            "Age",
            "X-Should-Retry",
            "RateLimit",
            "RateLimit-Policy",
            "RateLimit-Limit",
            "RateLimit-Remaining",
            "RateLimit-Reset",
            "X-RateLimit-Retry-After",
            "X-Shopify-Shop-Api-Call-Limit",
            "X-HubSpot-RateLimit-Interval-Milliseconds",
            "x-amzn-RateLimit-Limit",
            "anthropic-ratelimit-unified-5h-status",
            "anthropic-ratelimit-unified-5h-reset",
            "Content-Type",
            "Content-Length",
        ]
    )
    | st.lists(st.sampled_from(WORDS)).map(lambda words: "-".join(["x-ratelimit", *words]))
    | st.lists(st.sampled_from(WORDS)).map(lambda words: "-".join(["anthropic-priority", *words]))
    | st.text()
)
VALUES = (
    st.text()
    | st.from_regex(r'[-0-9a-z";=,. :?@%/]*', fullmatch=True)
    | st.integers().map(str)
    | st.floats().map(str)
    | st.sampled_from(["0", "-1", "30", "rejected", "false", '"a";r=0;t=9', '"a";q=9;w=60', "9/9"])
    | st.datetimes().map(lambda at: format_datetime(at.replace(tzinfo=UTC), usegmt=True))
    | st.datetimes().map(datetime.isoformat)
)
KEYS = st.sampled_from(
    [
        "error",
        "details",
        "errors",
        "violations",
        "quotaErrorDetails",
        "retryDelay",
        "@type",
        "code",
        "type",
        "error_code",
        "quotaId",
        "quotaMetric",
        "quotaValue",
    ]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(
        [
            "type.googleapis.com/google.rpc.RetryInfo",
            "type.googleapis.com/google.rpc.QuotaFailure",
            "type.googleapis.com/google.ads.googleads.v21.errors.GoogleAdsFailure",
            "GenerateRequestsPerMinutePerProjectPerModel",
            "30s",
            "insufficient_quota",
        ]
    )
)
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(KEYS | st.text(), inner, max_size=4)
    ),
    max_leaves=8,
)
ERRORS = st.dictionaries(KEYS, JSON, max_size=4)
BODIES = st.none() | st.binary() | JSON.map(lambda value: json.dumps(value).encode())
STATUSES = st.sampled_from([200, 403, 418, 429, 503, 529]) | st.integers()
COSTS = st.none() | st.dictionaries(
    st.sampled_from(["calls", "tokens", "input_tokens"]), st.floats(0, 1e15)
)


@given(STATUSES, st.lists(st.tuples(NAMES, VALUES)), st.floats(0, 1e10), st.floats(0, 1e6), COSTS)
def test_any_headers_are_within_bounds(status, headers, now, most, costs):
    """No headers raise anything; every time is within the maximum, and every number finite."""
    check(read_advice(status, headers, now=now, max_hold=most, costs=costs), most)
    assert reads_body(status, headers) in (True, False)


@given(STATUSES, BODIES, st.floats(0, 1e6))
def test_any_body_is_within_bounds(status, body, most):
    """No body raises anything, wherever the fields stand that are looked for."""
    check(read_advice(status, [], now=NOW, max_hold=most, body=body), most)


DETAILS = st.lists(ERRORS, max_size=3)


def check_error(error, details, most):
    """Check what is read from a body with this error."""
    body = json.dumps({"error": {**error, "details": details}}).encode()
    check(read_advice(429, [], now=NOW, max_hold=most, body=body), most)


@settings(max_examples=50)
@given(ERRORS, DETAILS, st.floats(0, 1e6))
def test_any_error_is_within_bounds(error, details, most):
    """Nor does an error of the right shape, with anything in its fields."""
    check_error(error, details, most)


@pytest.mark.slow  # twice as many
@given(ERRORS, DETAILS, st.floats(0, 1e6))
def test_more_errors_are_within_bounds(error, details, most):
    """The same of as many examples as other properties have."""
    check_error(error, details, most)


def check(read, most):
    """Check the bounds that hold for any advice."""
    assert read.hold is None or 0 <= read.hold <= most
    assert not (read.throttled and read.refused)
    assert read.hold is None or not read.refused
    for quota in read.remaining:
        assert quota.reset is None or 0 <= quota.reset <= most
        assert quota.period is None or 0 < quota.period < math.inf
        for number in (quota.remaining, quota.limit):
            assert number is None or 0 <= number <= 1e15
        assert Rate(1, unit=quota.unit).unit == quota.unit  # which is one that limits can have
    for limit in read.limits:
        assert Rate.parse(str(limit)) == limit


def within(took, stalls):
    """Whether it took under 0.1 s, more in proportion on a slow machine."""
    late = stalls.seconds
    return took < 0.1 + late or took < 0.1 * slowness() + late


LONG = 65_536
FIELDS = {
    "RateLimit": [("RateLimit", '"a";r=0;t=9,' * (LONG // 12))],
    "many lines": [("RateLimit", '"a";r=0;t=9')] * (LONG // 20),
    "many quotas": [(f"x-ratelimit-remaining-u{number}", "0") for number in range(LONG // 30)],
    "one quota": [("x-ratelimit-remaining", str(number)) for number in range(LONG // 28)],
    "Retry-After": [("Retry-After", "1" * LONG)],
    "policies": [("RateLimit-Limit", "100;w=60," * (LONG // 9))],
    "names": [("x-ratelimit-" + "limit-" * (LONG // 6), "1")],
    "short names": [("rate-limit-" * 8, "1")] * (LONG // 90),
    "durations": [("Retry-After", "1s" * 30)] * (LONG // 74),
}


@pytest.mark.real
@pytest.mark.parametrize("kind", FIELDS)
def test_long_fields_take_milliseconds(kind, stalls):
    """64 KiB of fields, the most that clients accept, do not use up the time of others."""
    start = time.perf_counter()
    read_advice(429, FIELDS[kind], now=NOW)
    took = time.perf_counter() - start
    assert within(took, stalls)


BODIES_OF_64_KIB = {
    "lists": b"[" * MAX_BODY,
    "mappings": (b'{"error":' * MAX_BODY)[:MAX_BODY],
    "numbers": b"[" + b"9," * (MAX_BODY // 2 - 2) + b"9]",
    "long numbers": b"[" + (b"9" * 4000 + b",") * 16 + b"9]",
    "details": b'{"error":{"details":[' + b"{}," * (MAX_BODY // 3 - 10) + b"{}]}}",
    "violations": json.dumps(
        {
            "error": {
                "details": [
                    {
                        "@type": "type.googleapis.com/google.rpc.QuotaFailure",
                        "violations": [{"quotaId": "PerMinute" * 9, "quotaValue": "1"}] * 500,
                    }
                ]
            }
        }
    ).encode(),
}


@pytest.mark.real
@pytest.mark.parametrize("kind", BODIES_OF_64_KIB)
def test_long_bodies_take_milliseconds(kind, stalls):
    """Nor do 64 KiB of a body, however deep it is nested."""
    assert MAX_BODY - 16_000 < len(BODIES_OF_64_KIB[kind]) <= MAX_BODY
    start = time.perf_counter()
    read_advice(429, [], now=NOW, body=BODIES_OF_64_KIB[kind])
    took = time.perf_counter() - start
    assert within(took, stalls)
