"""How times and numbers are read, and what becomes of those that cannot be."""

import itertools
import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aioapiqueue.integrations.http import Advice, Quota, read_advice
from tests.helpers import introspect
from tests.helpers.answers import JUNK, NOW, advice, hold, http_date, quotas

TIMES = [
    ("30", 30),
    ("0", 0),
    (" 30 ", 30),
    ("0.65", 0.65),
    (http_date(NOW + 30), 30),
    (http_date(NOW - 3), 0),
    ("Monday, 21-Sep-26 14:13:50 GMT", 30),
    ("Mon Sep 21 14:13:50 2026", 30),
    ("2026-09-21T14:13:50Z", 30),
    ("2026-09-21T14:13:50", 30),
    ("2026-09-21 14:13:50", 30),
    ("2026-09-21T16:13:50.500+02:00", 30.5),
    ("1790000030", 30),
    ("1790000030.25", 30.25),
    ("1790000030000", 30),
    ("1s", 1),
    ("6m0s", 360),
    ("20ms", 0.02),
    ("1h2m3.5s", 3600 + 120 + 3.5),
    ("1d", 86_400),
    ("500us", 0.0005),
    ("500µs", 0.0005),
]


def test_the_forms_of_a_time():
    """Seconds, dates of three kinds, epochs in seconds and milliseconds, and durations are read."""
    read = {text: hold(429, ("Retry-After", text), max_hold=100_000) for text, _ in TIMES}
    assert read == pytest.approx(dict(TIMES))


@pytest.mark.parametrize("name", ["retry-after-ms", "x-ms-retry-after-ms"])
def test_milliseconds_are_preferred_to_seconds(name):
    """Where both can be read; if one is malformed, it is counted, and the other one applies."""
    exact, whole = (name, "1250"), ("Retry-After", "2")
    assert hold(429, exact) == hold(429, whole, exact) == hold(503, exact, whole) == 1.25
    assert hold(403, (name.title(), "0.5")) == 0.0005
    assert advice(200, exact) == Advice()
    for junk in JUNK:
        read = advice(429, (name, junk), whole, max_hold=60)
        assert read.malformed
        assert read.hold == 2
        read = advice(429, exact, ("Retry-After", junk), max_hold=60)
        assert read.malformed
        assert read.hold == 1.25
    assert advice(429, (name, "9" * 20)) == Advice(throttled=True, hold=3600.0, malformed=True)


def test_two_names_for_milliseconds():
    """They are two fields, and the longer one applies; two values of one are malformed."""
    one, same = ("retry-after-ms", "1250"), ("x-ms-retry-after-ms", "1250")
    assert advice(429, one, same) == Advice(throttled=True, hold=1.25)
    for longer in (("x-ms-retry-after-ms", "2500"), ("retry-after-ms", "2500")):
        shorter = same if longer[0] == one[0] else one
        for fields in ((shorter, longer), (longer, shorter)):
            assert advice(429, *fields) == Advice(throttled=True, hold=2.5)
    again = ("retry-after-ms", "2500")
    assert advice(429, one, again) == Advice(throttled=True, hold=2.5, malformed=True)
    wrong = ("x-ms-retry-after-ms", "soon")
    assert advice(429, one, wrong) == Advice(throttled=True, hold=1.25, malformed=True)


def test_a_skewed_clock_does_no_harm():
    """Dates are relative to the answer's own `Date`, however wrong the local clock is."""
    for skew in (-7200, -30, 30, 7200, 40 * 365 * 86400):
        date = ("Date", http_date(NOW + skew))
        assert hold(429, date, ("Retry-After", http_date(NOW + skew + 30))) == pytest.approx(30)
        reset = ("X-RateLimit-Reset", str(int(NOW + skew + 30)))
        (quota,) = quotas(date, ("X-RateLimit-Remaining", "0"), reset)
        assert quota.reset == pytest.approx(30)


def test_a_wrong_date_is_not_used():
    """Where the answer's `Date` cannot be right, dates are relative to the local clock."""
    retry_after = ("Retry-After", http_date(NOW + 30))
    for date in ("Thu, 01 Jan 1970 00:00:00 GMT", "yesterday", ""):
        assert hold(429, ("Date", date), retry_after) == pytest.approx(30)


def test_a_cached_answer_has_no_quotas():
    """With an `Age`, quotas are left out, as they are out of date; dates are as old as it is."""
    quota = [("RateLimit", '"default";r=0;t=30'), ("X-RateLimit-Remaining", "0")]
    assert advice(200, ("Age", "7"), *quota) == Advice()
    assert advice(200, ("Age", "7"), ("RateLimit-Policy", "a;q=9;w=60")) == Advice()
    dates = [("Date", http_date(NOW - 7)), ("Retry-After", http_date(NOW + 30))]
    assert hold(503, ("Age", "7"), *dates) == pytest.approx(30)


# Each: a field, and the others that belong to it.
FIELDS = [
    ("Retry-After", []),
    ("X-RateLimit-Remaining", [("X-RateLimit-Reset", "30")]),
    ("X-RateLimit-Limit", []),
    ("X-HubSpot-RateLimit-Interval-Milliseconds", []),
    ("X-Shopify-Shop-Api-Call-Limit", []),
    ("x-amzn-RateLimit-Limit", []),
    ("RateLimit", []),
    ("RateLimit-Policy", []),
]


def test_malformed_fields_hold_nothing():
    """What cannot be read is noted, and otherwise the answer is as without it."""
    wrong = []
    for junk, (name, rest) in itertools.product(JUNK, FIELDS):
        if name in ("X-RateLimit-Remaining", "X-RateLimit-Limit") and junk == "-1":
            junk = "-1.5"  # noqa: PLW2901 - that is unknown, and not malformed
        read = advice(503, ("Retry-After", "-9"), (name, junk), *rest)
        if read != Advice(throttled=True, hold=30.0 if rest else None, malformed=True):
            wrong.append(f"{name}: {junk[:20]!a}: {read}")
    assert not wrong, "\n".join(wrong)


def test_a_malformed_reset_is_none():
    """Nothing remains, but until when is not known."""
    wrong = []
    for junk in JUNK:
        read = advice(200, ("X-RateLimit-Remaining", "0"), ("X-RateLimit-Reset", junk))
        # -1 is unknown.
        if (read.remaining, read.malformed) != ((Quota(remaining=0.0),), junk != "-1"):
            wrong.append(f"{junk[:20]!a}: {read}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "far",
    [
        "4000",
        "999999999",
        "1799999999",
        "1799999999999",
        "99999999999999999999",
        "10000h",
        http_date(NOW + 90_000),
        "Fri, 31 Dec 9999 23:59:59 GMT",
        "9999-12-31T23:59:59Z",
    ],
)
def test_longer_times_are_cut(far):
    """No time is longer than `max_hold`; a hold that was cut is noted, a far reset is usual."""
    assert advice(429, ("Retry-After", far)) == Advice(throttled=True, hold=3600.0, malformed=True)
    short = advice(429, ("Retry-After", far), max_hold=5)
    assert short == Advice(throttled=True, hold=5, malformed=True)
    pair = ("X-RateLimit-Remaining", "0"), ("X-RateLimit-Reset", far)
    assert quotas(*pair) == (Quota(remaining=0.0, reset=3600.0),)
    cut = advice(429, *pair, max_hold=5)
    assert cut == Advice(
        throttled=True, hold=5, remaining=(Quota(remaining=0.0, reset=5),), malformed=True
    )


@pytest.mark.parametrize("past", ["1000000000", "253402300799", "Thu, 01 Jan 1970 00:00:00 GMT"])
def test_a_time_long_past_is_malformed(past):
    """More than a day ago (the year 9999 in seconds is 1978 in milliseconds)."""
    assert advice(429, ("Retry-After", past)) == Advice(throttled=True, malformed=True)
    read = advice(200, ("X-RateLimit-Remaining", "0"), ("X-RateLimit-Reset", past))
    assert read == Advice(remaining=(Quota(remaining=0.0),), malformed=True)


def test_the_more_careful_value_counts():
    """The least remaining and the longest time; that values contradict each other is noted."""
    assert advice(429, ("Retry-After", "7"), ("Retry-After", "30")) == Advice(
        throttled=True, hold=30.0, malformed=True
    )
    said = [("X-RateLimit-Remaining", "5"), ("X-RateLimit-Reset", "30"), ("X-Ratelimit-Reset", "7")]
    more = [("X-RateLimit-Limit", "9"), ("X-RateLimit-Limit", "8")]
    assert advice(200, *said, *more, ("x-ratelimit-remaining", "0")) == Advice(
        remaining=(Quota(remaining=0.0, reset=30.0, limit=8.0),), malformed=True
    )
    assert hold(429, ("Retry-After", "7"), ("Retry-After", "7")) == 7


def test_huge_counts_are_cut():
    """No count is larger than one that limits can have."""
    assert quotas(("X-RateLimit-Remaining", "9" * 60)) == (Quota(remaining=1e15),)


@given(
    st.floats(-3e8, 3e8),
    st.integers(0, 3600),
    st.sampled_from(["http", "iso", "seconds", "milliseconds"]),
)
def test_dates_within_the_hour_are_exact(skew, seconds, form):
    """The hold is exact, whatever the two clocks show, and however the date is written."""
    server = int(NOW + skew)
    at = datetime.fromtimestamp(server, UTC) + timedelta(seconds=seconds)
    text = {
        "http": http_date(server + seconds),
        "iso": at.isoformat(),
        "seconds": str(server + seconds),
        "milliseconds": str((server + seconds) * 1000),
    }[form]
    assert hold(429, ("Date", http_date(server)), ("Retry-After", text)) == seconds


# The server's clock.


def test_clock_learns_the_fraction():
    """The answer that came soonest after its second shows how far ahead the server is."""
    clock = introspect.clock_of_headers()
    ahead = 100.25
    found = []
    for now in (0.5, 0.8, 1.1, 1.6):  # its clock shows 100.75, 101.05, 101.35, 101.85
        date = math.floor(now + ahead)
        found.append(clock.now(date, now))
    assert found == pytest.approx([100, 101, 101.3, 101.8])


@given(
    st.floats(-1e6, 1e6),
    st.lists(st.tuples(st.floats(0, 100), st.floats(0, 2)), min_size=1, max_size=30),
)
@example(-1.0, [(0.0, 1.3811785224524635)])  # rounded, it was less than the date
def test_clock_is_never_ahead(ahead, answers):
    """Whenever answers come, and however late: it shows no time that the server's does not."""
    clock, now = introspect.clock_of_headers(), 0.0
    for pause, late in answers:
        now += pause + late
        date = math.floor(now - late + ahead)
        assert date <= clock.now(date, now) <= max(date, now + ahead) + 1e-6


def test_clock_that_is_set_back():
    """What an old answer showed counts for two minutes at most; and never for over a second."""
    clock = introspect.clock_of_headers()
    assert clock.now(1000, 0) == 1000
    assert clock.now(940, 0.5) == 941
    assert clock.now(1000, 61) == 1001
    assert clock.now(1061, 122) == 1061


def test_resets_are_exact_with_a_clock():
    """An answer's reset is up to a second late by its own date; with earlier answers it is not."""
    reset = ("X-RateLimit-Reset", str(int(NOW) + 30))
    clock = introspect.clock_of_headers()
    for at, with_clock in ((NOW, 30), (NOW + 0.9, 29.1)):
        headers = [("Date", http_date(NOW)), ("X-RateLimit-Remaining", "0"), reset]
        (quota,) = read_advice(200, headers, now=at, clock=clock).remaining
        assert quota.reset == pytest.approx(with_clock)
        (quota,) = read_advice(200, headers, now=at).remaining
        assert quota.reset == pytest.approx(30)
