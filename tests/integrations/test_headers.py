"""What is made of a response's status and headers."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioapiqueue.integrations._headers import Advice, read_advice

NOW = 1_790_000_000.0  # Mon, 21 Sep 2026 14:13:20 GMT

WIDE = str.maketrans({str(digit): chr(0xFF10 + digit) for digit in range(10)})
"""To digits that are as wide as Chinese characters, and that `int()` reads."""

JUNK = [
    "",
    " ",
    "-1",
    "-2",
    "nan",
    "NaN",
    "inf",
    "-inf",
    "1e5",
    "0x10",
    "soon",
    "\x00\x01\x02",
    "\x1c30",
    "30\x1f",
    "\udcff\udcfe",
    "٣",
    *(
        text.translate(WIDE)
        for text in (
            "30",
            "1s",
            "Mon, 21 Sep 2026 14:13:50 GMT",
            "Mon Sep 21 14:13:50 2026",
            "2026-09-21T14:13:50Z",
        )
    ),
    "30 seconds",
    "Fri, 31 Foo 2026 99:99:99 GMT",
    "Tue Feb 16 2021 09:02:42 GMT+0100 (Central European Standard Time)",
    "2026-99-99T00:00:00Z",
    "1s2",
    "9" * 10_000_000,
]


def http_date(at):
    """Write an instant as HTTP does."""
    return format_datetime(datetime.fromtimestamp(at, UTC), usegmt=True)


def advice(status, *headers, **how):
    """Read the advice of a response to a request that was answered at `NOW`."""
    return read_advice(status, headers, now=NOW, **how)


def hold(status, *headers, **how):
    """Return the hold alone, of what is not malformed."""
    read = advice(status, *headers, **how)
    assert not read.malformed
    return read.hold


@pytest.mark.parametrize("status", [200, 204, 301, 404, 500, 503])
def test_other_headers_ask_for_nothing(status):
    """A response without such headers asks for nothing, whether it is a success or a failure."""
    assert advice(status, ("Content-Type", "text/plain"), ("Date", http_date(NOW))) == Advice()


@pytest.mark.parametrize(
    ("status", "headers", "throttled"),
    [
        (429, [], True),
        (529, [], True),
        (529, [("Retry-After", "1")], True),
        (529, [("X-RateLimit-Remaining", "14")], True),
        (503, [("Retry-After", "1")], True),
        (503, [("Retry-After", "soon")], True),
        (403, [("Retry-After", "1")], True),
        (403, [("X-RateLimit-Remaining", "0")], True),
        (403, [("X-RateLimit-Remaining", "1")], False),
        (403, [], False),
        (500, [("Retry-After", "1")], False),
        (200, [("X-RateLimit-Remaining", "0"), ("X-RateLimit-Reset", "1")], False),
    ],
)
def test_which_responses_are_push_back(status, headers, throttled):
    """429 and 529 are; 503 and 403 are if they name a time, and 403 if nothing remains."""
    assert advice(status, *headers).throttled is throttled


@pytest.mark.parametrize("status", [200, 202, 301, 404])
def test_retry_after_without_a_refusal(status):
    """On 202 it means when to ask for the result, on 301 when to follow: no hold of the queue."""
    assert advice(status, ("Retry-After", "30")) == Advice()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
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
    ],
)
def test_the_forms_of_a_time(text, seconds):
    """Seconds, dates of three kinds, epochs in seconds and milliseconds, and durations are read."""
    assert hold(429, ("Retry-After", text), max_hold=100_000) == pytest.approx(seconds)


def test_milliseconds_are_preferred_to_seconds():
    """Where both can be read; if one is malformed, it is counted, and the other one applies."""
    exact, whole = ("retry-after-ms", "1250"), ("Retry-After", "2")
    assert hold(429, exact) == hold(429, whole, exact) == hold(503, exact, whole) == 1.25
    assert hold(403, ("Retry-After-Ms", "0.5")) == 0.0005
    assert advice(200, exact) == Advice()
    for junk in JUNK:
        read = advice(429, ("retry-after-ms", junk), whole, max_hold=60)
        assert read.malformed
        assert read.hold == 2
        read = advice(429, exact, ("Retry-After", junk), max_hold=60)
        assert read.malformed
        assert read.hold == 1.25
    assert advice(429, ("retry-after-ms", "9" * 20)) == Advice(
        throttled=True, hold=3600.0, malformed=True
    )


@pytest.mark.parametrize("skew", [-7200, -30, 30, 7200, 40 * 365 * 86400])
def test_a_skewed_clock_does_no_harm(skew):
    """Dates are relative to the response's own `Date`, however wrong the local clock is."""
    date = ("Date", http_date(NOW + skew))
    assert hold(429, date, ("Retry-After", http_date(NOW + skew + 30))) == pytest.approx(30)
    reset = ("X-RateLimit-Reset", str(int(NOW + skew + 30)))
    assert hold(200, date, ("X-RateLimit-Remaining", "0"), reset) == pytest.approx(30)


@pytest.mark.parametrize("date", ["Thu, 01 Jan 1970 00:00:00 GMT", "yesterday", ""])
def test_a_wrong_date_is_not_used(date):
    """Where the response's `Date` cannot be right, dates are relative to the local clock."""
    retry_after = ("Retry-After", http_date(NOW + 30))
    assert hold(429, ("Date", date), retry_after) == pytest.approx(30)


def test_a_cached_response_has_no_quotas():
    """With an `Age`, quotas are left out, as they are out of date; dates are as old as it is."""
    quota = [("RateLimit", '"default";r=0;t=30'), ("X-RateLimit-Remaining", "0")]
    assert advice(200, ("Age", "7"), *quota) == Advice()
    dates = [("Date", http_date(NOW - 7)), ("Retry-After", http_date(NOW + 30))]
    assert hold(503, ("Age", "7"), *dates) == pytest.approx(30)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([("RateLimit", '"default";r=0;t=30')], 30),
        ([("RateLimit", "default;r=0;t=30")], 30),
        ([("RateLimit", '"a";r=5;t=9, "b";r=0;t=30;pk=:cHsdsRa894==:, "c";r=0;t=7')], 30),
        ([("RateLimit", '"a";r=5;t=9'), ("RateLimit", '"b";r=0;t=30')], 30),
        ([("RateLimit", "limit=100, remaining=0, reset=30")], 30),
        ([("RateLimit", '"hard";r=0')], None),
        ([("RateLimit", '"default";r=1;t=30')], None),
        ([("RateLimit-Limit", "100, 100;w=60"), ("RateLimit-Remaining", "0")], None),
        ([("RateLimit-Remaining", "0"), ("RateLimit-Reset", "30")], 30),
        ([("RateLimit-Remaining", "0"), ("RateLimit-Reset", "1790000030")], 30),
        ([("X-RateLimit-Remaining", "0"), ("X-RateLimit-Reset", "1790000030")], 30),
        ([("x-rate-limit-remaining", "0"), ("x-rate-limit-reset", "1790000030")], 30),
        ([("X-RateLimit-Remaining", "0"), ("X-RateLimit-Reset", "1790000030000")], 30),
        ([("X-RateLimit-Remaining", "0.0"), ("X-RateLimit-Reset", "30")], 30),
        (
            [
                ("x-ratelimit-remaining-requests", "59"),
                ("x-ratelimit-remaining-tokens", "0"),
                ("x-ratelimit-reset-requests", "6m0s"),
                ("x-ratelimit-reset-tokens", "1s"),
            ],
            1,
        ),
        (
            [
                ("X-RateLimit-Remaining", "0"),
                ("X-RateLimit-Reset", "1790000099"),
                ("X-RateLimit-Reset-After", "29.5"),
            ],
            29.5,
        ),
        (
            [
                ("anthropic-ratelimit-requests-remaining", "0"),
                ("anthropic-ratelimit-requests-reset", "2026-09-21T14:13:50Z"),
            ],
            30,
        ),
        ([("X-RateLimit-Remaining", "0"), ("X-RateLimit-Limit-Reset", "30")], None),
        ([("X-RateLimit-Reset", "30")], None),
        ([("X-RateLimit-Remaining", "1"), ("X-RateLimit-Reset", "30")], None),
    ],
)
def test_nothing_remaining_is_a_hold(headers, seconds):
    """Each form of "0 left until then" is a hold, and no push-back; "1 left" is no hold."""
    read = advice(200, *headers)
    assert read.hold == (None if seconds is None else pytest.approx(seconds))
    assert not read.throttled
    assert not read.malformed


def test_quotas_of_concurrent_requests_are_ignored():
    """They are refilled as requests end, so that a hold would only stop everything."""
    limits = ("RateLimit", '"slots";r=0;t=30, "default";r=0;t=7')
    policy = ("RateLimit-Policy", '"slots";q=5;qu="concurrent-requests", "default";q=9;w=60')
    assert hold(200, limits) == 30
    assert hold(200, limits, policy) == 7
    assert (
        advice(200, ("RateLimit-Policy", '"slots;q')) == Advice()
    )  # there is nothing to leave out
    assert advice(200, limits, ("RateLimit-Policy", '"slots;q')) == Advice(
        hold=30.0, remaining=0.0, malformed=True
    )


AZURES = [  # of a deployment without a quota of tokens
    ("x-ratelimit-limit-requests", "10"),
    ("x-ratelimit-limit-tokens", "-1"),
    ("x-ratelimit-remaining-requests", "9"),
    ("x-ratelimit-remaining-tokens", "-1"),
    ("x-ratelimit-reset-tokens", "0"),
]


@pytest.mark.parametrize("status", [200, 429])
def test_minus_one_was_not_given(status):
    """Azure sends -1 for what it does not count; the quota that it counts is read."""
    assert advice(status, *AZURES) == Advice(
        throttled=status == 429, hold=0.0 if status == 429 else None, remaining=9.0
    )


def test_minus_one_elsewhere_is_malformed():
    """Only a quota's field may be -1; elsewhere it is malformed, as are other negative numbers."""
    reset = ("X-RateLimit-Reset", "-1")
    assert advice(200, ("X-RateLimit-Remaining", " -1 "), ("X-RateLimit-Reset", "30")) == Advice()
    assert advice(200, ("X-RateLimit-Remaining", "0"), reset) == Advice(remaining=0.0)
    for field in (
        ("X-RateLimit-Remaining", "-1.0"),
        ("RateLimit", "limit=9, remaining=-1, reset=3"),
    ):
        assert advice(200, field) == Advice(malformed=True)
    assert advice(429, ("Retry-After", "-1")) == Advice(throttled=True, malformed=True)


def subscription(status):
    """Make the headers of Anthropic's subscriptions, as they come with every answer."""
    return [
        ("anthropic-ratelimit-unified-status", status),
        ("anthropic-ratelimit-unified-reset", str(int(NOW + 7200))),
        ("anthropic-ratelimit-unified-5h-status", status),
        ("anthropic-ratelimit-unified-5h-utilization", "1.08"),
        ("anthropic-ratelimit-unified-5h-reset", str(int(NOW + 7200))),
        ("anthropic-ratelimit-unified-7d-status", "allowed"),
        ("anthropic-ratelimit-unified-7d-utilization", "0.51"),
        ("anthropic-ratelimit-unified-7d-reset", str(int(NOW + 500_000))),
        ("anthropic-ratelimit-unified-representative-claim", "five_hour"),
        ("anthropic-ratelimit-unified-fallback-percentage", "0.5"),
        ("anthropic-ratelimit-unified-overage-status", "rejected"),
    ]


def test_a_subscriptions_windows_hold_nothing():
    """Their end is not when the next call may start; Retry-After and other quotas are read."""
    assert advice(200, *subscription("allowed")) == Advice()
    assert advice(429, *subscription("rejected")) == Advice(throttled=True)
    assert hold(429, *subscription("rejected"), ("Retry-After", "30")) == 30
    quota = [
        ("anthropic-ratelimit-requests-remaining", "0"),
        ("anthropic-ratelimit-requests-reset", "2026-09-21T14:13:50Z"),
    ]
    assert hold(429, *subscription("allowed"), *quota) == 30


def test_retry_after_takes_precedence():
    """Retry-After applies where a response has a quota's reset, too, as the draft demands."""
    quota = ("RateLimit", '"default";r=0;t=30')
    assert hold(429, ("Retry-After", "7"), quota) == 7
    assert hold(200, ("Retry-After", "7"), quota) == 7


def test_a_refusal_while_something_remains():
    """GitHub's secondary limits: a quota with something left has not refused, and holds nothing."""
    quota = [("X-RateLimit-Remaining", "14"), ("X-RateLimit-Reset", "3000")]
    assert advice(429, *quota) == Advice(throttled=True, remaining=14.0)
    assert hold(429, quota[1]) == 3000


@pytest.mark.parametrize(
    ("name", "rest"),
    [
        ("Retry-After", []),
        ("X-RateLimit-Remaining", [("X-RateLimit-Reset", "30")]),
        ("RateLimit", []),
    ],
)
@pytest.mark.parametrize("junk", JUNK, ids=lambda junk: ascii(junk[:20]))
def test_malformed_fields_hold_nothing(junk, name, rest):
    """What cannot be read is noted, and otherwise the response is as without it."""
    if name == "X-RateLimit-Remaining" and junk == "-1":
        junk = "-1.5"  # that is unknown, and no nonsense
    read = advice(503, (name, junk), *rest)
    assert read.malformed
    assert read.hold is None
    assert read.remaining is None


@pytest.mark.parametrize("junk", JUNK, ids=lambda junk: ascii(junk[:20]))
def test_a_malformed_reset_holds_nothing(junk):
    """Nothing remains, but until when is not known."""
    read = advice(200, ("X-RateLimit-Remaining", "0"), ("X-RateLimit-Reset", junk))
    assert read == Advice(remaining=0.0, malformed=junk != "-1")  # which is unknown


@pytest.mark.parametrize(
    "field",
    ['"default"', '"default";t=30', '"default";r=-1;t=30', '"default";r=?0;t=30', "(a b);r=0;t=3"],
)
def test_rate_limit_needs_what_remains(field):
    """Without `r`, or where it is no number of at least 0, the field is malformed."""
    assert advice(200, ("RateLimit", field)) == Advice(malformed=True)


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
def test_longer_holds_are_cut(far):
    """No hold is longer than `max_hold`, and one that was cut is noted."""
    assert advice(429, ("Retry-After", far)) == Advice(throttled=True, hold=3600.0, malformed=True)
    short = advice(429, ("Retry-After", far), max_hold=5)
    assert short == Advice(throttled=True, hold=5, malformed=True)


@pytest.mark.parametrize("past", ["1000000000", "253402300799", "Thu, 01 Jan 1970 00:00:00 GMT"])
def test_a_time_long_past_is_malformed(past):
    """More than a day ago (the year 9999 in seconds is 1978 in milliseconds)."""
    assert advice(429, ("Retry-After", past)) == Advice(throttled=True, malformed=True)


def test_the_more_careful_value_counts():
    """The least remaining and the longest hold; that values contradict each other is noted."""
    assert advice(429, ("Retry-After", "7"), ("Retry-After", "30")) == Advice(
        throttled=True, hold=30.0, malformed=True
    )
    said = [("X-RateLimit-Remaining", "5"), ("X-RateLimit-Reset", "30"), ("X-Ratelimit-Reset", "7")]
    assert advice(200, *said, ("x-ratelimit-remaining", "0")) == Advice(
        hold=30.0, remaining=0.0, malformed=True
    )
    assert hold(429, ("Retry-After", "7"), ("Retry-After", "7")) == 7


NAMES = (
    st.sampled_from(
        [
            "Retry-After",
            "Date",
            "Age",
            "RateLimit",
            "RateLimit-Policy",
            "RateLimit-Remaining",
            "RateLimit-Reset",
            "X-RateLimit-Remaining",
            "X-RateLimit-Reset",
            "X-RateLimit-Reset-After",
            "x-ratelimit-remaining-tokens",
        ]
    )
    | st.text()
)
VALUES = (
    st.text()
    | st.from_regex(r'[-0-9a-z";=,. :?@%]*', fullmatch=True)
    | st.integers().map(str)
    | st.floats().map(str)
    | st.datetimes().map(lambda at: format_datetime(at.replace(tzinfo=UTC), usegmt=True))
    | st.datetimes().map(datetime.isoformat)
)


@given(
    st.sampled_from([200, 403, 429, 503]) | st.integers(),
    st.lists(st.tuples(NAMES, VALUES)),
    st.floats(0, 1e10),
    st.floats(0, 1e6),
)
def test_any_hold_is_within_bounds(status, headers, now, most):
    """No headers raise anything, and no hold is negative or above the maximum."""
    read = read_advice(status, headers, now=now, max_hold=most)
    assert read.hold is None or 0 <= read.hold <= most
    assert read.remaining is None or read.remaining >= 0


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


# Structured fields: http-sf has tests of its own; these are of what is made of its results.


@pytest.mark.parametrize(
    "kind", [":cHsdsRa894==:", "@1659578233", '%"f%c3%bc"', "*foo:bar/baz", "-1.5", "?1", '"\\""']
)
def test_other_kinds_of_items(kind):
    """They are ignored beside what counts, as a parameter or as a quota's name."""
    fields = f'"a";r=0;t=30;x={kind}, {kind};r=5;t=9, "b";x;r=3'
    policy = ("RateLimit-Policy", f'{kind};q=5;qu={kind}, "a";q=9;w=60')
    assert advice(200, ("RateLimit", fields), policy) == Advice(hold=30.0, remaining=0.0)
    older = ("RateLimit", f"limit=9;x, remaining=0;x={kind},\treset=30, other={kind}")
    assert hold(200, older) == 30


@pytest.mark.parametrize(
    "text",
    [
        "a,",
        ",a",
        "a b",
        "a;",
        "a;B",
        "a;b=",
        '"a',
        '"a\\b"',
        "1.",
        "1.2345",
        "1234567890123456",
        "?2",
        "(a b)",
        "(a b);r=0",
        ":a",
        "é",
        "a\n",
    ],
)
def test_malformed_fields_are_ignored_whole(text):
    """As the RFC demands: what can be read of them does not count either."""
    assert advice(200, ("RateLimit", '"a";r=0;t=30'), ("RateLimit", text)) == Advice(malformed=True)
    fields = [("RateLimit", '"a";r=0;t=30'), ("RateLimit-Policy", text)]
    assert advice(200, *fields) == Advice(hold=30.0, remaining=0.0, malformed=True)


def test_quota_names_may_be_tokens():
    """Without quotation marks in one field, it is the same quota as with them in the other."""
    limits, policy = ("RateLimit", "slots;r=0;t=30"), '"slots";q=5;qu=concurrent-requests'
    assert advice(200, limits, ("RateLimit-Policy", policy)) == Advice()


def test_too_long_a_field_is_malformed():
    """More than 8 KiB, in however many lines, are not parsed: that could use up our time."""
    field = '"a";r=0;t=30'
    longest = ("RateLimit", field + ";x" * ((8192 - len(field)) // 2))
    assert len(longest[1]) == 8192
    assert hold(200, longest) == 30
    assert advice(200, ("RateLimit", "b;r=1"), longest) == Advice(malformed=True)


@pytest.mark.real
@pytest.mark.parametrize("client", ["aiohttp", "httpx", "httpx2"])
def test_missing_http_sf_is_named(client):
    """The error names the extra, where a client's library was installed without it."""
    done = without_http_sf(f"import aioapiqueue.integrations.{client}")
    assert done.returncode == 1
    assert "ImportError: reading the headers of rate limits needs http-sf" in done.stderr
    assert f'"aioapiqueue[{client}]"' in done.stderr


@pytest.mark.real
def test_only_http_clients_need_http_sf():
    """The other integrations and the programs do not import it."""
    names = ("integrations.aiobotocore", "integrations.botocore", "integrations.redis", "cli.run")
    done = without_http_sf("; ".join(f"import aioapiqueue.{name}" for name in names))
    assert done.returncode == 0, done.stderr


def without_http_sf(program):
    """Run a program on a Python that has no http-sf."""
    hidden = f"import sys; sys.modules['http_sf'] = None; {program}"
    return subprocess.run(
        [sys.executable, "-c", hidden], capture_output=True, text=True, check=False
    )
