"""What the JSON body of a refused answer says."""

import json

import pytest

from aioapiqueue import Rate
from aioapiqueue.integrations.http import MAX_BODY, Advice
from tests.helpers.answers import advice, body, hold

RETRY = "type.googleapis.com/google.rpc.RetryInfo"
QUOTA = "type.googleapis.com/google.rpc.QuotaFailure"
METRIC = "generativelanguage.googleapis.com/generate_content_free_tier_"
A_DAY = "GenerateRequestsPerDayPerProjectPerModel-FreeTier"
A_MINUTE = "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"
TOKENS = "GenerateContentInputTokensPerModelPerMinute-FreeTier"


def google(*violations, delay=None, code=429):
    """Make Gemini's error, with what was exceeded and how long to wait."""
    details = [{"@type": "type.googleapis.com/google.rpc.Help", "links": [{"url": "https://a"}]}]
    if violations:
        details.append({"@type": QUOTA, "violations": list(violations)})
    if delay is not None:
        details.append({"@type": RETRY, "retryDelay": delay})
    message = "You exceeded your current quota, please check your plan and billing details."
    error = {"code": code, "message": message, "status": "RESOURCE_EXHAUSTED", "details": details}
    return {"error": error}


def violation(quota_id, metric="requests", **more):
    """Make one exceeded quota."""
    dimensions = {"model": "gemini-2.5-flash", "location": "global"}
    return {
        "quotaMetric": METRIC + metric,
        "quotaId": quota_id,
        "quotaDimensions": dimensions,
        **more,
    }


def refused(value, status=429, *headers, **how):
    """Read the advice of a refusal with this body."""
    return advice(status, *headers, body=body(value), **how)


@pytest.mark.parametrize("status", [403, 429, 503])
def test_geminis_retry_delay(status):
    """The time is in the body, and there is no header."""
    value = google(violation(A_MINUTE, quotaValue="15"), delay="45.83s")
    minute = Rate(15, per=60, burst=15)
    assert refused(value, status) == Advice(throttled=True, hold=45.83, limits=(minute,))
    assert refused([value], status) == refused(value, status)  # as streams have it
    assert refused(value, status, ("Retry-After", "7")).hold == 7


def test_geminis_quota_per_minute():
    """It is push-back, with its limit; without a delay, it names no time."""
    value = google(violation(A_MINUTE), violation(TOKENS, "input_token_count", quotaValue="250000"))
    tokens = Rate(250_000, per=60, burst=250_000, unit="input_tokens")
    expected = Advice(throttled=True, limits=(tokens,))
    assert refused(value) == refused(value, 403) == expected
    assert refused(value, 503) == Advice(limits=(tokens,))


def test_geminis_quota_per_day():
    """It is gone for good, whatever delay Google sends: nobody is slowed, and nothing held."""
    value = google(violation(A_MINUTE), violation(A_DAY, quotaValue="20"), delay="59s")
    limits = (Rate(20, per=86_400, burst=20),)
    assert refused(value) == refused(value, 403) == Advice(refused=True, limits=limits)
    metric = {"quotaMetric": "a.googleapis.com/generate_requests_per_model_per_day"}
    assert refused(google(metric)) == Advice(refused=True)


def test_other_violations_say_nothing():
    """Without a period, a quota may be of anything; 0 in a minute can be no limit."""
    other = {"subject": "project:1", "description": "Daily Limit for reads exceeded"}
    assert refused(google(other), 403) == Advice()
    assert refused(google(other)) == Advice(throttled=True)
    zero = google(violation(A_MINUTE, quotaValue="0"), violation(A_MINUTE, quotaValue=15))
    assert refused(zero) == Advice(throttled=True)
    unit = google(violation("EmbedPagesPerMinute", "pages", quotaValue="5"))
    assert refused(unit) == Advice(throttled=True)
    output = google(violation("OutputTokensPerHour", "x", quotaValue="5"))
    assert refused(output).limits == (Rate(5, per=3600, burst=5, unit="output_tokens"),)


def ads(delay):
    """Make the error of Google Ads."""
    details = {"quotaErrorDetails": {"rateScope": "DEVELOPER", "retryDelay": delay}}
    failure = {
        "@type": "type.googleapis.com/google.ads.googleads.v21.errors.GoogleAdsFailure",
        "errors": [{"errorCode": {"quotaError": "RESOURCE_EXHAUSTED"}, "details": details}],
        "requestId": "xN_KaZRHZuU6Rlgt3cM2uQ",
    }
    return {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "details": [failure]}}


def test_google_ads_retry_delay():
    """It is nested, and cut as any hold is."""
    assert hold(429, body=body(ads("30s"))) == 30
    assert hold(429, body=body(ads("40591s")), max_hold=90_000) == 40_591
    assert refused(ads("40591s")) == Advice(throttled=True, hold=3600, malformed=True)
    flat = {"quotaErrorDetails": {"retryDelay": "9s"}}
    assert hold(429, body=body({"error": flat})) == 9
    assert hold(429, body=body({"error": {"details": [flat, {"@type": 3}]}})) == 9


@pytest.mark.parametrize("delay", ["soon", "", "-3s", 30, None, {}, [[]], "9" * 99])
def test_malformed_delays_hold_nothing(delay):
    """They are noted; JSON has durations of protocol buffers as text."""
    value = {"error": {"details": [{"@type": RETRY, "retryDelay": delay}]}}
    assert refused(value) == Advice(throttled=True, malformed=True)
    assert refused(ads(delay)) == Advice(throttled=True, malformed=True)


GONE = [
    "insufficient_quota",
    "billing_hard_limit_reached",
    "billing_not_active",
    "credit_balance_exhausted",
    "organization_spend_limit_exceeded",
    "organization_usage_limit_exceeded",
    "project_spend_limit_exceeded",
]


@pytest.mark.parametrize("code", GONE)
def test_openais_exhausted_quotas(code):
    """They come as 429, and no wait helps: nobody is slowed, and nothing held."""
    message = "You exceeded your current quota, please check your plan and billing details."
    for error in (
        {"message": message, "type": "insufficient_quota", "param": None, "code": code},
        {"message": message, "type": "error", "code": code},
        {"message": message, "type": code, "code": None},
    ):
        assert refused({"error": error}) == Advice(refused=True)
        assert refused({"error": error}, 429, ("Retry-After", "30")) == Advice(refused=True)
        assert refused({"error": error}, 400) == Advice()


@pytest.mark.parametrize("code", ["enforced_spend_limit_reached", "contract_spend_limit_reached"])
def test_anthropics_spend_limits(code):
    """Its SDK has them as errors of 429; a ramp limit is push-back."""
    error = {"type": "rate_limit_error", "message": "...", "details": {"error_code": code}}
    assert refused({"type": "error", "error": error, "request_id": "a"}) == Advice(refused=True)
    error["details"]["error_code"] = "ramp_limit_exceeded"
    assert refused({"error": error}, 429, ("retry-after", "9")) == Advice(throttled=True, hold=9)


@pytest.mark.parametrize(
    "value",
    [
        {"error": "INSUFFICIENT QUOTA"},
        {"error": {"message": "INSUFFICIENT QUOTA: insufficient_quota", "type": "rate_limit"}},
        {"error": {"code": "rate_limit_exceeded", "type": "insufficient_quota_maybe"}},
        {"error": {"code": "INSUFFICIENT_QUOTA"}},
        {"error": {"code": 429, "type": ["insufficient_quota"]}},
        {"error": {"code": "429", "message": "have exceeded token rate limit (Azure)"}},
        {"status_code": 429, "error": "INSUFFICIENT QUOTA", "message": "You exceeded your quota"},
        {"code": "insufficient_quota"},
        {"error": {"param": {"code": "insufficient_quota"}}},
        {"object": "error", "type": "rate_limited", "code": "1300"},
        ["insufficient_quota"],
        "insufficient_quota",
        None,
        3,
    ],
)
def test_words_in_messages_decide_nothing(value):
    """Scaleway words every rate limit "INSUFFICIENT QUOTA": only codes count."""
    assert refused(value) == Advice(throttled=True)


@pytest.mark.parametrize(
    "text",
    [
        b"{",
        b"\xff\xfe\x00",
        b"<html>",
        b"\x1f\x8b\x08\x00",
        b'{"error": NotANumber}',
        b"9" * 5000,
        b"[" * MAX_BODY,
        b'{"a":' * 10_000,
    ],
    ids=lambda text: ascii(text[:9]),
)
def test_what_is_no_json(text):
    """It is noted, and the status decides."""
    assert advice(429, ("Retry-After", "3"), body=text) == Advice(
        throttled=True, hold=3, malformed=True
    )


@pytest.mark.parametrize(("opening", "closing"), [(b'{"error":', b"}"), (b"[", b"]")])
def test_json_as_deep_as_fits(opening, closing):
    """Pythons differ in how deep they parse: what is deeper is noted, the rest says nothing."""
    levels = (MAX_BODY - 1) // len(opening + closing)
    text = opening * levels + b"1" + closing * levels
    try:
        json.loads(text)
    except RecursionError:
        too_deep = True
    else:
        too_deep = False
    assert advice(429, ("Retry-After", "3"), body=text) == Advice(
        throttled=True, hold=3, malformed=too_deep
    )


def test_bodies_that_say_nothing():
    """None, an empty one (the answer to HEAD), a long one, and one of an answer that succeeded."""
    value = body({"error": {"code": "insufficient_quota"}})
    longest = value + b" " * (MAX_BODY - len(value))
    assert advice(429, body=longest).refused
    for text in (None, b"", longest + b" "):
        assert advice(429, body=text) == Advice(throttled=True)
    for status in (200, 400):
        assert advice(status, body=value) == Advice()
        left = ("X-RateLimit-Remaining", "5")
        for text in (value, b"{"):
            assert advice(status, left, body=text) == advice(status, left)


def test_deep_values_are_not_followed():
    """What is nested as deep as JSON is parsed does not count, wherever it stands."""
    deep = json.loads("[" * 900 + "]" * 900)
    for error in (
        deep,
        {"code": deep, "type": deep, "details": deep},
        {"details": [deep, {"@type": deep, "quotaErrorDetails": deep}]},
        {"details": [{"@type": QUOTA, "violations": [deep, {"quotaId": deep}]}]},
        {"details": {"error_code": deep}},
    ):
        assert refused({"error": error}) == Advice(throttled=True)
