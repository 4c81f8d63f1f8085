"""What remains of a server's quotas, and which limits it states, in the form of each service."""

import pytest

from aioapiqueue import Rate
from aioapiqueue.integrations.http import Advice, Quota
from tests.helpers.answers import NOW, advice, hold, http_date, limits, quotas

DAY = 86_400.0
MONTH = 30 * DAY

# Each: the fields, and the quotas that they give.
FORMS = {
    "GitHub": (
        [
            ("X-RateLimit-Limit", "5000"),
            ("X-RateLimit-Remaining", "4999"),
            ("X-RateLimit-Reset", "1790000030"),
            ("X-RateLimit-Used", "1"),
            ("X-RateLimit-Resource", "core"),
        ],
        [Quota("calls", 4999, 30, 5000)],
    ),
    "GitLab": (
        [
            ("RateLimit-Limit", "600"),
            ("RateLimit-Observed", "1"),
            ("RateLimit-ResetTime", http_date(NOW + 30)),
            ("RateLimit-Remaining", "599"),
            ("RateLimit-Reset", "1790000030"),
        ],
        [Quota("calls", 599, 30, 600)],
    ),
    "X": (
        [("x-rate-limit-remaining", "0"), ("x-rate-limit-reset", "1790000030")],
        [Quota("calls", 0, 30)],
    ),
    "OpenRouter": (
        [("X-RateLimit-Remaining", "0"), ("X-RateLimit-Reset", "1790000030000")],
        [Quota("calls", 0, 30)],
    ),
    "Discord": (
        [
            ("X-RateLimit-Bucket", "abcd1234"),
            ("X-RateLimit-Remaining", "0"),
            ("X-RateLimit-Reset", "1790000099"),
            ("X-RateLimit-Reset-After", "29.5"),
        ],
        [Quota("calls", 0, 29.5)],
    ),
    "OpenAI": (
        [
            ("x-ratelimit-limit-requests", "60"),
            ("x-ratelimit-limit-tokens", "150000"),
            ("x-ratelimit-remaining-requests", "59"),
            ("x-ratelimit-remaining-tokens", "149984"),
            ("x-ratelimit-reset-requests", "1s"),
            ("x-ratelimit-reset-tokens", "6m0s"),
            ("x-ratelimit-remaining-project-tokens", "7"),
        ],
        [
            Quota("calls", 59, 1, 60),
            Quota("tokens", 149_984, 360, 150_000),
            Quota("tokens", 7),
        ],
    ),
    "Anthropic": (
        [
            ("anthropic-ratelimit-requests-limit", "50"),
            ("anthropic-ratelimit-requests-remaining", "49"),
            ("anthropic-ratelimit-requests-reset", "2026-09-21T14:13:50Z"),
            ("anthropic-ratelimit-input-tokens-limit", "30000"),
            ("anthropic-ratelimit-input-tokens-remaining", "29000"),
            ("anthropic-ratelimit-input-tokens-reset", "2026-09-21T14:13:22Z"),
            ("anthropic-ratelimit-output-tokens-limit", "8000"),
            ("anthropic-ratelimit-output-tokens-remaining", "8000"),
            ("anthropic-ratelimit-output-tokens-reset", "2026-09-21T14:13:20Z"),
        ],
        [
            Quota("calls", 49, 30, 50),
            Quota("input_tokens", 29_000, 2, 30_000),
            Quota("output_tokens", 8000, 0, 8000),
        ],
    ),
    "Anthropic's priority tier": (
        [
            ("anthropic-priority-input-tokens-limit", "10000"),
            ("anthropic-priority-input-tokens-remaining", "0"),
            ("anthropic-priority-input-tokens-reset", "2026-09-21T14:13:50Z"),
            ("anthropic-priority-output-tokens-remaining", "6000"),
        ],
        [
            Quota("priority_input_tokens", 0, 30, 10_000),
            Quota("priority_output_tokens", 6000),
        ],
    ),
    "Kong": (
        [
            ("X-RateLimit-Limit-Minute", "60"),
            ("X-RateLimit-Remaining-Minute", "0"),
            ("X-RateLimit-Remaining-Hour", "900"),
            ("X-RateLimit-Remaining-Second", "9"),
            ("X-RateLimit-Remaining-Day", "9000"),
            ("X-RateLimit-Remaining-Month", "90000"),
            ("RateLimit-Remaining", "0"),
            ("RateLimit-Reset", "47"),
        ],
        [
            Quota("calls", 0, None, 60, 60),
            Quota("calls", 900, None, None, 3600),
            Quota("calls", 9, None, None, 1),
            Quota("calls", 9000, None, None, DAY),
            Quota("calls", 90_000, None, None, MONTH),
            Quota("calls", 0, 47),
        ],
    ),
    "Cerebras": (
        [
            ("x-ratelimit-limit-requests-day", "14400"),
            ("x-ratelimit-limit-tokens-minute", "60000"),
            ("x-ratelimit-remaining-requests-day", "14399"),
            ("x-ratelimit-remaining-tokens-minute", "59000"),
            ("x-ratelimit-reset-requests-day", "33011.382867"),
            ("x-ratelimit-reset-tokens-minute", "11.382867"),
        ],
        [
            Quota("calls", 14_399, 3600, 14_400, DAY),
            Quota("tokens", 59_000, 11.382867, 60_000, 60),
        ],
    ),
    "Mistral": (
        [
            ("x-ratelimit-limit-req-minute", "720"),
            ("x-ratelimit-remaining-req-minute", "717"),
            ("x-ratelimit-limit-tokens-minute", "5000000"),
            ("x-ratelimit-remaining-tokens-minute", "4999911"),
            ("x-ratelimit-tokens-query-cost", "52"),
        ],
        [
            Quota("calls", 717, None, 720, 60),
            Quota("tokens", 4_999_911, None, 5_000_000, 60),
        ],
    ),
    "Mistral, by size": (
        [
            ("ratelimitbysize-limit", "500000"),
            ("ratelimitbysize-remaining", "499000"),
            ("ratelimitbysize-reset", "33"),
            ("ratelimitbysize-query-cost", "1000"),
            ("x-ratelimitbysize-limit-month", "1000000000"),
            ("x-ratelimitbysize-remaining-month", "999000000"),
        ],
        [
            Quota("tokens", 499_000, 33, 500_000),
            Quota("tokens", 999_000_000, None, 1_000_000_000, MONTH),
        ],
    ),
    "HubSpot": (
        [
            ("X-HubSpot-RateLimit-Daily", "250000"),
            ("X-HubSpot-RateLimit-Daily-Remaining", "249999"),
            ("X-HubSpot-RateLimit-Interval-Milliseconds", "10000"),
            ("X-HubSpot-RateLimit-Max", "100"),
            ("X-HubSpot-RateLimit-Remaining", "99"),
            ("X-HubSpot-RateLimit-Secondly", "10"),
            ("X-HubSpot-RateLimit-Secondly-Remaining", "0"),
        ],
        [
            Quota("calls", 249_999, None, 250_000, DAY),
            Quota("calls", 99, None, 100, 10),
        ],
    ),
    "Shopify": (
        [("X-Shopify-Shop-Api-Call-Limit", "32/40")],
        [Quota("calls", 8, 16, 40, 20)],
    ),
    "Shopify, full": (
        [("X-Shopify-Shop-Api-Call-Limit", "81/80")],
        [Quota("calls", 0, 20, 80, 20)],
    ),
    "Akamai": (
        [
            ("X-RateLimit-Limit", "60"),
            ("X-RateLimit-Remaining", "0"),
            ("X-RateLimit-Next", "2026-09-21T14:13:50.000Z"),
        ],
        [Quota("calls", 0, 30, 60)],
    ),
    "Akamai's purge": (
        [
            ("X-Ratelimit-Remaining", "0"),
            ("X-Ratelimit-Limit", "100"),
            ("X-Ratelimit-Limit-Per-Second", "50.00"),
            ("X-Ratelimit-Remaining-Objects", "9904"),
        ],
        [
            Quota("calls", 0, None, 100),
            Quota("calls", None, None, 50, 1),
            Quota("objects", 9904),
        ],
    ),
    "Docker Hub": (
        [("ratelimit-limit", "100;w=21600"), ("ratelimit-remaining", "76;w=21600")],
        [Quota("calls", 76, None, 100, 21_600)],
    ),
    "AspNetCoreRateLimit": (
        [
            ("X-Rate-Limit-Limit", "1m"),
            ("X-Rate-Limit-Remaining", "9"),
            ("X-Rate-Limit-Reset", "2026-09-21T14:13:50.1234567Z"),
        ],
        [Quota("calls", 9, pytest.approx(30.123456), None, 60)],
    ),
    "IETF": (
        [
            ("RateLimit", '"burst";r=0;t=30,"daily";r=83;t=70000'),
            ("RateLimit-Policy", '"burst";q=100;w=60,"daily";q=1000;w=86400'),
        ],
        [Quota("calls", 0, 30, 100, 60), Quota("calls", 83, 3600, 1000, DAY)],
    ),
    "IETF, partitions and tokens as names": (
        [
            ("RateLimit-Policy", "peruser;q=100;w=60;pk=:cHsdsRa894==:"),
            ("RateLimit", '"peruser";r=7;t=9;pk=:cHsdsRa894==:'),
            ("RateLimit", '"other";r=5'),
        ],
        [Quota("calls", 7, 9, 100, 60), Quota("calls", 5)],
    ),
    "IETF, units": (
        [
            ("RateLimit-Policy", '"up";q=65535;qu="content-bytes";w=10, "all";q=5;qu="requests"'),
            ("RateLimit", '"up";r=300;t=4'),
        ],
        [Quota("content_bytes", 300, 4, 65_535, 10), Quota("calls", None, None, 5)],
    ),
    "IETF until draft 7": (
        [
            ("RateLimit-Policy", "100;w=60, 10000;w=86400"),
            ("RateLimit", "limit=100, remaining=50, reset=30"),
        ],
        [Quota("calls", 50, 30, 100, 60), Quota("calls", None, None, 10_000, DAY)],
    ),
    "IETF until draft 6": (
        [
            ("RateLimit-Limit", "100"),
            ("RateLimit-Remaining", "50"),
            ("RateLimit-Reset", "30"),
            ("RateLimit-Policy", '100;w=60;comment="fixed window"'),
        ],
        [Quota("calls", 50, 30, 100, 60)],
    ),
    "Envoy": (
        [
            ("x-ratelimit-limit", "10, 10;w=60;name=a, 20;w=3600"),
            ("x-ratelimit-remaining", "0"),
            ("x-ratelimit-reset", "23"),
        ],
        [Quota("calls", 0, 23, 10, 60)],
    ),
    "IETF until draft 4": (
        [
            ("RateLimit-Limit", "100, 100;w=60, 1000;w=3600"),
            ("RateLimit-Remaining", "50"),
            ("RateLimit-Reset", "30"),
        ],
        [Quota("calls", 50, 30, 100, 60)],
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_quotas_of_each_service(form):
    """Each quota has its unit, what remains, the time to its reset, its size and its period."""
    fields, expected = FORMS[form]
    assert list(quotas(*fields)) == expected
    assert not advice(200, *fields).throttled


# Each: the form, and its limits as text.
WHOLE = {
    "GitHub": [],
    "OpenAI": [],
    "Anthropic's priority tier": [],
    "Kong": ["60/min burst 60"],
    "Cerebras": ["14400/day burst 14400", "60000 tokens/min burst 60000"],
    "HubSpot": ["250000/day burst 250000", "100 per 10s burst 100"],
    "Shopify": ["40 per 20s burst 40"],
    "Docker Hub": ["100 per 6h burst 100"],
    "AspNetCoreRateLimit": [],
    "Envoy": ["10/min burst 10", "20/h burst 20"],
    "IETF": ["100/min burst 100", "1000/day burst 1000"],
    "IETF, units": ["65535 content_bytes per 10s burst 65535"],
    "IETF until draft 7": ["100/min burst 100", "10000/day burst 10000"],
    "IETF until draft 6": ["100/min burst 100"],
    "IETF until draft 4": ["100/min burst 100", "1000/h burst 1000"],
}


@pytest.mark.parametrize("form", WHOLE)
def test_limits_that_are_stated_whole(form):
    """A size and its seconds are a limit; a size alone is none."""
    assert limits(*FORMS[form][0]) == WHOLE[form]


@pytest.mark.parametrize(
    ("rate", "expected"), [("0.0055", Rate(1, per=1 / 0.0055)), ("10.0", Rate(1, per=0.1))]
)
def test_live_rate_of_sp_api(rate, expected):
    """Amazon's Selling Partner API sends the calls per second, and not how many at once."""
    assert advice(200, ("x-amzn-RateLimit-Limit", rate)) == Advice(limits=(expected,))


@pytest.mark.parametrize(
    "field",
    [
        ("RateLimit-Policy", '"a";q=0;w=60'),
        ("RateLimit-Policy", '"a";q=5;w=0'),
        ("RateLimit-Policy", '"a";q=5;w=999999999999999'),
        ("RateLimit-Policy", '"a";q=5;w=60;qu="min"'),
        ("x-amzn-RateLimit-Limit", "0"),
        ("X-RateLimit-Limit-Minute", "0"),
    ],
)
def test_what_can_be_no_limit(field):
    """No call in a minute, no time, and a unit that is none: no limit, but nothing malformed."""
    assert limits(field) == []
    assert not [quota for quota in quotas(field) if quota.limit and quota.period]


@pytest.mark.parametrize(
    "name",
    [
        "X-RateLimit-Used",
        "X-RateLimit-Limit-Reset",
        "X-RateLimit-Remaining-5h",
        "X-RateLimit-Remaining-Per-Minute-Hour",
        "X-RateLimit-Remaining-Any",
        "X-RateLimit--Remaining",
        "X-RateLimit-Remaining-é",
        "X-RateLimit-Remaining-" + "a" * 200,
        "X-Foo-RateLimit-Retry-After",
        "X-MBX-USED-WEIGHT-1M",
        "X-Priority",
        "X-Limit-Remaining",
    ],
)
def test_other_names_are_ignored(name):
    """Words that are no unit, two periods, or no quota at all."""
    assert advice(200, (name, "0")) == Advice()


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
    read = advice(status, *AZURES)
    assert read == Advice(throttled=status == 429, remaining=(Quota("calls", 9, None, 10),))


def test_minus_one_elsewhere_is_malformed():
    """Only a quota's field may be -1; elsewhere it is malformed, as are other negative numbers."""
    pair = ("X-RateLimit-Remaining", " -1 "), ("X-RateLimit-Reset", "30")
    assert advice(200, *pair) == Advice()
    assert hold(429, *pair) is None
    for field in (
        ("X-RateLimit-Remaining", "-1.0"),
        ("RateLimit", "limit=9, remaining=-1, reset=3"),
    ):
        assert advice(200, field) == Advice(malformed=True)
    assert advice(429, ("Retry-After", "-1")) == Advice(throttled=True, malformed=True)
