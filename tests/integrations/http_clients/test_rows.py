"""Each form that providers send, on loopback: what the queue does. See their documentation.

Forms that hold a lane and nothing else are in test_push_back.py.
"""

import itertools
import json
import math
import random
import time

import pytest

from aioapiqueue import ApiQueue
from aioapiqueue.integrations.http import Learning
from tests.helpers.answers import JUNK

pytestmark = pytest.mark.real

HOST = "127.0.0.1"
JSON = ("Content-Type", "application/json")


def later(seconds, form="%Y-%m-%dT%H:%M:%SZ"):
    """Write an instant as RFC 3339 does."""
    return time.strftime(form, time.gmtime(math.ceil(time.time()) + seconds))


def google(*details):
    """Write an error of Google's."""
    kinds = "type.googleapis.com/google.rpc."
    given = [{"@type": kinds + kind, **more} for kind, more in details]
    return json.dumps({"error": {"code": 429, "details": given}}).encode()


def violates(quota, **more):
    """Write which quota was exceeded."""
    return ("QuotaFailure", {"violations": [{"quotaId": quota, **more}]})


def openai(code):
    """Write an error of OpenAI's."""
    return json.dumps({"error": {"message": "No.", "type": code, "code": code}}).encode()


# Each: the status, the headers, the body, and the seconds for which the lane is held.
PUSH_BACK = {
    "Anthropic": (429, lambda: [("retry-after", "30")], b"{}", 30),
    "OpenAI, no Retry-After": (
        429,
        lambda: [
            ("x-ratelimit-limit-tokens", "30000"),
            ("x-ratelimit-remaining-tokens", "200"),
            ("x-ratelimit-reset-tokens", "59.6s"),
            ("x-ratelimit-remaining-requests", "400"),
            ("x-ratelimit-reset-requests", "120ms"),
        ],
        openai("rate_limit_exceeded"),
        59.6,
    ),
    "Anthropic, no Retry-After": (
        429,
        lambda: [
            ("anthropic-ratelimit-input-tokens-limit", "40000"),
            ("anthropic-ratelimit-input-tokens-remaining", "0"),
            ("anthropic-ratelimit-input-tokens-reset", later(30)),
        ],
        b"{}",
        31,
    ),
    "a subscription that is used up": (
        429,
        lambda: [
            ("anthropic-ratelimit-unified-5h-status", "rejected"),
            ("anthropic-ratelimit-unified-5h-reset", str(int(time.time() + 1800))),
            ("anthropic-ratelimit-unified-7d-status", "allowed"),
            ("anthropic-ratelimit-unified-7d-reset", str(int(time.time() + 500_000))),
        ],
        b"{}",
        1800,
    ),
    "a subscription that is open": (
        429,
        lambda: [
            ("anthropic-ratelimit-unified-5h-status", "allowed"),
            ("anthropic-ratelimit-unified-5h-reset", str(int(time.time() + 1800))),
            ("anthropic-ratelimit-unified-7d-status", "allowed"),
            ("anthropic-ratelimit-unified-7d-reset", str(int(time.time() + 500_000))),
        ],
        b"{}",
        0,
    ),
    "529": (529, list, b"{}", 0),
    "529, Retry-After": (529, lambda: [("retry-after", "30")], b"{}", 30),
    "Gemini, per minute": (
        429,
        list,
        google(
            violates("GenerateRequestsPerMinutePerProjectPerModel"),
            ("RetryInfo", {"retryDelay": "45.83s"}),
        ),
        45.83,
    ),
    "Google Ads": (
        429,
        list,
        google(
            (
                "ignored",
                {
                    "errors": [{"details": {}}],
                    "quotaErrorDetails": {"retryDelay": "591s"},
                },
            )
        ),
        591,
    ),
    "Binance": (418, lambda: [("Retry-After", "30"), ("X-MBX-USED-WEIGHT-1M", "6001")], b"", 30),
    "MailerLite": (429, lambda: [("X-RateLimit-Retry-After", "30")], b"", 30),
    "Akamai": (
        429,
        lambda: [("X-RateLimit-Limit", "9"), ("X-RateLimit-Next", later(30))],
        b"",
        31,
    ),
    "Microsoft Graph": (429, lambda: [("Retry-After", "30")], b"", 30),
    "OpenRouter": (
        429,
        lambda: [
            ("X-RateLimit-Limit", "20"),
            ("X-RateLimit-Remaining", "0"),
            ("X-RateLimit-Reset", str(int(time.time() * 1000) + 30_000)),
        ],
        b"",
        30,
    ),
}


@pytest.mark.parametrize("form", PUSH_BACK)
async def test_push_back(httpx_client, server, reply, form):
    """It is counted, and the lane holds for the time that it names."""
    status, headers, body, seconds = PUSH_BACK[form]
    server.answer = lambda _: reply.of(status, [JSON, *headers()], body)
    async with ApiQueue(lanes={"*": ()}) as queue, httpx_client(queue) as paced:
        assert await paced.fetch(server.url()) == (status, body)
        assert seconds - 1.5 < queue.estimate(key=HOST) <= seconds
        assert (queue.stats.throttled, queue.stats.malformed) == (1, 0)
        assert queue.stats.refused_by_server == 0


REFUSED = {
    "OpenAI": ([], openai("insufficient_quota")),
    "OpenAI, spent": ([], openai("project_spend_limit_exceeded")),
    "not to be sent again": ([("x-should-retry", "false"), ("Retry-After", "30")], b"{}"),
    "Gemini, per day": (
        [],
        google(
            violates("GenerateRequestsPerDayPerProjectPerModel-FreeTier", quotaValue="50"),
            ("RetryInfo", {"retryDelay": "22s"}),
        ),
    ),
}


@pytest.mark.parametrize("form", REFUSED)
async def test_refused_for_good(httpx_client, server, reply, form):
    """Nobody is slowed down."""
    headers, body = REFUSED[form]
    server.answer = lambda _: reply.of(429, [JSON, *headers], body)
    async with ApiQueue(lanes={"*": ()}) as queue, httpx_client(queue) as paced:
        assert await paced.fetch(server.url()) == (429, body)
        assert queue.estimate(key=HOST) == 0
        assert (queue.stats.throttled, queue.stats.refused_by_server) == (0, 1)


# Each: the headers, the limits of the queue, a cost that starts at once, and one that waits.
BOUND = {
    "rounded to thousands": (
        lambda: [
            ("anthropic-ratelimit-input-tokens-remaining", "1000"),
            ("anthropic-ratelimit-input-tokens-reset", later(30)),
        ],
        "1000000 input_tokens/s",
        {"input_tokens": 1000},
        {"input_tokens": 1001},
    ),
    "none of its unit": (
        lambda: [
            ("anthropic-ratelimit-input-tokens-remaining", "0"),
            ("anthropic-ratelimit-input-tokens-reset", later(30)),
        ],
        "1000000 input_tokens/s",
        {"input_tokens": 0},
        {"input_tokens": 1},
    ),
    "HubSpot": (
        lambda: [
            ("X-HubSpot-RateLimit-Max", "100"),
            ("X-HubSpot-RateLimit-Remaining", "2"),
            ("X-HubSpot-RateLimit-Interval-Milliseconds", "30000"),
        ],
        "1000/s",
        2,
        3,
    ),
    "Shopify": (
        lambda: [("X-Shopify-Shop-Api-Call-Limit", "38/40")],
        "1000/s",
        2,
        3,
    ),
    "Mistral": (
        lambda: [
            ("x-ratelimitbysize-limit-minute", "500000"),
            ("x-ratelimitbysize-remaining-minute", "700"),
        ],
        "1000000 tokens/s",
        {"tokens": 700},
        {"tokens": 701},
    ),
    "GitLab": (
        lambda: [("RateLimit-Remaining", "2"), ("RateLimit-Reset", str(int(time.time() + 30)))],
        "1000/s",
        2,
        3,
    ),
}


@pytest.mark.parametrize("form", BOUND)
async def test_what_remains_is_a_bound(httpx_client, server, reply, form):
    """So much starts at once, and no more of it."""
    headers, limit, fits, waits = BOUND[form]
    server.answer = lambda _: reply.of(200, headers())
    cost = dict.fromkeys(fits, 0) if isinstance(fits, dict) else 1
    async with ApiQueue(limit) as queue, httpx_client(queue, cost=cost) as paced:
        assert await paced.get(server.url()) == 200
        assert queue.estimate(cost=fits) < 0.02
        assert queue.estimate(cost=waits) > 0.5
        assert (queue.stats.throttled, queue.stats.malformed) == (0, 0)


# Each: the headers, and what is learnt.
LEARNT = {
    "OpenAI": (
        [("x-ratelimit-limit-requests", "500"), ("x-ratelimit-limit-tokens", "30000")],
        ["500/min burst 500", "30000 tokens/min burst 30000"],
    ),
    "Anthropic": (
        [
            ("anthropic-ratelimit-requests-limit", "50"),
            ("anthropic-ratelimit-output-tokens-limit", "8000"),
        ],
        ["50/min burst 50", "8000 output_tokens/min burst 8000"],
    ),
    "IETF": ([("RateLimit-Policy", '"default";q=100;w=3600')], ["100/h burst 100"]),
    "Cerebras": (
        [("x-ratelimit-limit-requests-day", "14400"), ("x-ratelimit-limit-tokens-minute", "60000")],
        ["14400/day burst 14400", "60000 tokens/min burst 60000"],
    ),
    "SP-API": ([("x-amzn-RateLimit-Limit", "0.5")], ["1 per 2s"]),
}


@pytest.mark.parametrize("form", LEARNT)
async def test_limits_are_learnt(httpx_client, server, reply, form):
    """Those that nobody has configured."""
    headers, limits = LEARNT[form]
    server.answer = lambda _: reply.of(200, headers)
    learn = Learning(units=("tokens", "output_tokens"))
    async with ApiQueue(lanes={"*": ()}) as queue, httpx_client(queue, learn=learn) as paced:
        assert await paced.get(server.url()) == 200
        assert sorted(map(str, queue.stats.learnt[HOST])) == sorted(limits)
        assert queue.stats.malformed == 0


IGNORED = {
    "Azure": [
        ("x-ratelimit-limit-tokens", "-1"),
        ("x-ratelimit-remaining-tokens", "-1"),
        ("x-ratelimit-reset-tokens", "0"),
    ],
    "Anthropic, the priority tier": [
        ("anthropic-priority-input-tokens-limit", "10000"),
        ("anthropic-priority-input-tokens-remaining", "0"),
        ("anthropic-priority-input-tokens-reset", "2099-01-01T00:00:00Z"),
    ],
    "a subscription": [
        ("anthropic-ratelimit-unified-status", "allowed"),
        ("anthropic-ratelimit-unified-7d-reset", "4000000000"),
        ("anthropic-ratelimit-unified-7d-utilization", "0.9"),
    ],
}


@pytest.mark.parametrize("form", IGNORED)
async def test_no_reason_to_wait(httpx_client, server, reply, form):
    """Nothing is held, and nothing is malformed."""
    server.answer = lambda _: reply.of(200, IGNORED[form])
    async with ApiQueue(lanes={"*": ()}) as queue, httpx_client(queue) as paced:
        assert await paced.get(server.url()) == 200
        assert queue.estimate(key=HOST) == 0
        assert queue.stats.malformed == 0


NAMES = [
    "Retry-After",
    "retry-after-ms",
    "x-ms-retry-after-ms",
    "Date",
    "Age",
    "RateLimit",
    "RateLimit-Policy",
    "X-RateLimit-Limit",
    "X-RateLimit-Remaining",
    "X-RateLimit-Reset",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-tokens",
    "x-amzn-RateLimit-Limit",
    "X-Shopify-Shop-Api-Call-Limit",
    "anthropic-ratelimit-unified-5h-status",
    "anthropic-ratelimit-unified-5h-reset",
]
VALUES = [
    *(text[:500] for text in JUNK if text.isprintable() and text.strip()),
    *("0", "1", "30", "99999999", "-1", "rejected", '"a";r=0;t=9', '"a";q=9;w=60', "9/9", "9/0"),
    *("4102444800", "4102444800000", "2099-01-01T00:00:00Z", "Fri, 31 Dec 9999 23:59:59 GMT"),
]
BODIES = [
    b"",
    b"{",
    b"[" * 20_000,
    b'{"error": null}',
    b"\xff\xfe",
    openai("insufficient_quota"),
    google(("RetryInfo", {"retryDelay": "1e9s"}), ("RetryInfo", {"retryDelay": 7})),
    google(violates("PerMinute", quotaValue="x")),
]


@pytest.mark.parametrize("client", ["httpx", "aiohttp"], indirect=True)
@pytest.mark.parametrize("seed", range(3))
async def test_anything_may_be_sent(client, server, reply, seed):
    """The client gets every answer, and nothing is held beyond `max_hold`."""
    chance = random.Random(seed)

    def answer(_):
        names = chance.sample(NAMES, chance.randrange(5))
        headers = [(name, chance.choice(VALUES).encode()) for name in names]
        status = chance.choice([200, 403, 418, 429, 503, 529])
        return reply.of(status, [JSON, *headers], chance.choice(BODIES))

    server.answer = answer
    lane, units = itertools.count(), Learning(units=("tokens",))
    async with client(
        ApiQueue(lanes={"*": ()}), max_hold=20, key=lambda _: next(lane), learn=units
    ) as paced:
        for _ in range(100):
            await paced.fetch(server.url())
    for _ in range(30):
        queue = ApiQueue(lanes={"*": ()})
        async with client(queue, max_hold=20) as paced:
            await paced.fetch(server.url())
            assert queue.estimate(key=HOST) <= 20
