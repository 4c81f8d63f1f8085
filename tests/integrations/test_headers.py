"""What an answer's status and headers ask for: push-back, a hold, or a refusal for good."""

import subprocess
import sys

import pytest

from aioapiqueue.integrations.http import Advice, Quota, reads_body
from tests.helpers.answers import NOW, advice, hold, http_date, quotas


def pair(remaining, reset, words=""):
    """Make the two fields of one quota."""
    return (f"x-ratelimit-remaining{words}", remaining), (f"x-ratelimit-reset{words}", reset)


def anthropics(words, remaining, limit, seconds):
    """Make the three fields of one of Anthropic's quotas."""
    name = f"anthropic-ratelimit-{words}"
    return [
        (f"{name}-limit", str(limit)),
        (f"{name}-remaining", str(remaining)),
        (f"{name}-reset", f"2026-09-21T14:13:{20 + seconds}Z"),
    ]


@pytest.mark.parametrize("status", [200, 204, 301, 404, 500, 503])
def test_other_headers_ask_for_nothing(status):
    """An answer without such headers asks for nothing, whether it is a success or a failure."""
    assert advice(status, ("Content-Type", "text/plain"), ("Date", http_date(NOW))) == Advice()


@pytest.mark.parametrize(
    ("status", "headers", "throttled"),
    [
        (429, [], True),
        (418, [], True),
        (418, [("Retry-After", "1")], True),
        (529, [], True),
        (529, [("Retry-After", "1")], True),
        (529, [("X-RateLimit-Remaining", "14")], True),
        (503, [("Retry-After", "1")], True),
        (503, [("Retry-After", "soon")], True),
        (503, [("X-RateLimit-Remaining", "0")], False),
        (503, [("X-RateLimit-Retry-After", "1")], False),
        (403, [("Retry-After", "1")], True),
        (403, [("X-RateLimit-Remaining", "0")], True),
        (403, [("X-RateLimit-Remaining", "1")], False),
        (403, [("x-ratelimit-remaining-tokens", "0")], True),
        (403, [("anthropic-priority-input-tokens-remaining", "0")], False),
        (403, [("X-RateLimit-Retry-After", "1")], False),
        (403, [], False),
        (500, [("Retry-After", "1")], False),
        (200, [("X-RateLimit-Remaining", "0"), ("X-RateLimit-Reset", "1")], False),
    ],
)
def test_which_answers_are_push_back(status, headers, throttled):
    """429, 418 and 529 are; 503 and 403 are if they name a time, and 403 if nothing remains."""
    assert advice(status, *headers).throttled is throttled


@pytest.mark.parametrize("status", [200, 202, 301, 404])
def test_retry_after_without_a_refusal(status):
    """On 202 it means when to ask for the result, on 301 when to follow: no hold of the queue."""
    assert advice(status, ("Retry-After", "30")) == Advice()


def test_counted_quotas_hold_nothing():
    """What remains is for the queue to keep, of calls and of what the call was charged in."""
    spent = pair("0", "30", "-tokens")
    assert hold(200, *pair("0", "30")) is None
    assert hold(200, *pair("0", "30"), costs={"tokens": 9}) is None
    assert hold(200, *pair("0", "30", "-requests")) is None
    assert hold(200, *spent, costs={"tokens": 9}) is None
    assert hold(200, *spent, costs={"tokens": 0}) is None
    assert quotas(*spent, costs={"tokens": 9}) == (Quota("tokens", 0, 30),)


def test_uncounted_quotas_still_hold():
    """Any call may need what nobody counts: nothing is sent until the reset."""
    spent = pair("0", "30", "-tokens")
    assert hold(200, *spent) == 30
    assert hold(404, *spent, costs={"calls": 1, "input_tokens": 5}) == 30
    assert hold(200, *spent, *pair("0", "40", "-images")) == 40
    assert hold(200, *pair("1", "30", "-tokens")) is None
    assert hold(200, ("x-ratelimit-remaining-tokens", "0")) is None
    assert hold(200, *anthropics("input-tokens", 0, 30_000, 9)) == 9
    far = advice(200, *pair("0", "4000", "-tokens"))
    assert far == Advice(hold=3600, remaining=(Quota("tokens", 0, 3600),), malformed=True)


def test_the_priority_tier_holds_nothing():
    """Beyond it, calls are served as all others are; nor is a refusal its doing."""
    spent = [
        ("anthropic-priority-output-tokens-limit", "10000"),
        ("anthropic-priority-output-tokens-remaining", "0"),
        ("anthropic-priority-output-tokens-reset", "2026-09-21T14:13:50Z"),
    ]
    assert hold(200, *spent) is None
    assert hold(429, *spent) is None
    assert quotas(*spent) == (Quota("priority_output_tokens", 0, 30, 10_000),)


# A refusal that names no time.


def test_openai_without_retry_after():
    """200 of 30,000 tokens remain, which is less than the call costs: until their reset."""
    fields = [
        ("x-ratelimit-limit-requests", "60"),
        ("x-ratelimit-limit-tokens", "30000"),
        ("x-ratelimit-remaining-requests", "59"),
        ("x-ratelimit-remaining-tokens", "200"),
        ("x-ratelimit-reset-requests", "1s"),
        ("x-ratelimit-reset-tokens", "59.6s"),
    ]
    assert hold(429, *fields, costs={"tokens": 900}) == 59.6
    assert hold(429, *fields) == 59.6  # nobody knows the cost: the emptiest
    assert hold(429, *fields, costs={"tokens": 200}) is None  # it would have fitted


def test_anthropic_rounds_to_thousands():
    """A call of thousands does not fit the thousand that remains, as far from 0 as that is."""
    fields = [
        *anthropics("requests", 49, 50, 1),
        *anthropics("input-tokens", 1000, 30_000, 9),
        *anthropics("output-tokens", 3000, 8000, 20),
    ]
    assert hold(429, *fields, costs={"input_tokens": 2500, "output_tokens": 500}) == 9
    assert hold(429, *fields, costs={"input_tokens": 2500, "output_tokens": 4000}) == 20
    assert hold(429, *fields, costs={"input_tokens": 10, "output_tokens": 4000}) == 20
    assert hold(429, *fields, costs={"input_tokens": 10, "output_tokens": 10}) is None


def test_the_call_itself_may_not_fit():
    """Its cost in calls is 1 unless it was charged more."""
    assert hold(429, *pair("3", "30")) is None
    assert hold(429, *pair("3", "30"), costs={"calls": 5}) == 30
    assert hold(429, *pair("0", "30"), costs={"tokens": 5}) == 30


def test_the_emptiest_has_refused():
    """Of quotas whose cost is unknown, that with the least of its size; a full one has not."""
    limit = ("x-ratelimit-limit-tokens", "100"), ("x-ratelimit-limit-images", "100")
    tokens, images = pair("50", "7", "-tokens"), pair("40", "3", "-images")
    assert hold(429, *limit, *tokens, *images) == 3
    assert hold(429, *limit, *tokens, *pair("50", "9", "-images")) == 9
    assert hold(429, *limit, *pair("100", "7", "-tokens")) is None
    assert hold(429, *tokens) is None  # of how many, is not known
    assert hold(429, limit[0], ("x-ratelimit-remaining-tokens", "50")) is None
    assert hold(429, *limit, *pair("0", "9", "-tokens"), *images) == 9


def test_a_refusal_while_something_remains():
    """GitHub's secondary limits: a quota with something left has not refused, and holds nothing."""
    fields = [("X-RateLimit-Limit", "5000"), *pair("4990", "3000")]
    assert advice(429, *fields) == Advice(
        throttled=True, remaining=(Quota("calls", 4990, 3000, 5000),)
    )
    assert hold(429, fields[2]) == 3000  # nothing else is known
    assert hold(429, *fields, ("x-ratelimit-reset-tokens", "30")) is None


def test_retry_after_takes_precedence():
    """Retry-After applies where an answer has a quota's reset, too, as the draft demands."""
    quota = ("RateLimit", '"default";r=0;t=30')
    assert hold(429, ("Retry-After", "7"), quota) == 7
    assert hold(429, quota) == 30
    assert hold(403, quota) == 30


def test_binance_bans():
    """418 with the time until the ban is over; the used weight says nothing by itself."""
    read = advice(418, ("Retry-After", "120"), ("X-MBX-USED-WEIGHT-1M", "6100"))
    assert read == Advice(throttled=True, hold=120)


def test_mailerlites_retry_after():
    """It comes with every answer, so that it counts for a refusal only, and after Retry-After."""
    own = ("X-RateLimit-Retry-After", "59")
    assert hold(429, own, *pair("0", "99")) == 59
    assert hold(429, own, ("Retry-After", "7")) == 7
    assert hold(200, own) is None
    assert hold(429, own, ("Retry-After-Ms", "500")) == 0.5


def test_akamais_next():
    """When the next request may be made, once nothing remains."""
    fields = [("X-RateLimit-Remaining", "0"), ("X-RateLimit-Next", "2026-09-21T14:13:50Z")]
    assert hold(429, *fields) == 30
    assert hold(429, fields[1]) == 30
    assert hold(403, fields[1]) is None


def subscription(status, five="allowed", seven="allowed"):
    """Make the headers of Anthropic's subscriptions, as they come with every answer."""
    return [
        ("anthropic-ratelimit-unified-status", status),
        ("anthropic-ratelimit-unified-reset", str(int(NOW + 1200))),
        ("anthropic-ratelimit-unified-5h-status", five),
        ("anthropic-ratelimit-unified-5h-utilization", "1.08"),
        ("anthropic-ratelimit-unified-5h-reset", str(int(NOW + 1200))),
        ("anthropic-ratelimit-unified-7d-status", seven),
        ("anthropic-ratelimit-unified-7d-utilization", "0.51"),
        ("anthropic-ratelimit-unified-7d-reset", str(int(NOW + 500_000))),
        ("anthropic-ratelimit-unified-representative-claim", "five_hour"),
        ("anthropic-ratelimit-unified-fallback-percentage", "0.5"),
        ("anthropic-ratelimit-unified-overage-status", "rejected"),
        ("anthropic-ratelimit-unified-overage-reset", str(int(NOW + 900_000))),
    ]


def test_a_subscriptions_windows():
    """A reset alone is no reason to wait; the window that is rejected opens again at its end."""
    assert advice(200, *subscription("allowed")) == Advice()
    assert advice(200, *subscription("rejected", "rejected")) == Advice()
    assert advice(429, *subscription("allowed")) == Advice(throttled=True)
    assert hold(429, *subscription("rejected", "rejected")) == 1200
    far = advice(429, *subscription("rejected", "allowed", "rejected"))
    assert far == Advice(throttled=True, hold=3600, malformed=True)
    both = reversed(subscription("rejected", "rejected", "rejected"))
    assert hold(429, *both, max_hold=900_000) == 500_000
    assert hold(429, *subscription("allowed_warning", "allowed_warning")) is None
    assert hold(429, *subscription("rejected", "rejected"), ("Retry-After", "30")) == 30
    quota = anthropics("requests", 0, 50, 9)
    assert hold(429, *subscription("allowed"), *quota) == 9
    no_reset = [("anthropic-ratelimit-unified-status", "rejected")]
    assert advice(429, *no_reset) == Advice(throttled=True)


@pytest.mark.parametrize("status", [403, 418, 429, 503, 529])
def test_not_to_be_sent_again(status):
    """`x-should-retry: false` refuses for good: nobody is slowed, and nothing held."""
    fields = [("Retry-After", "30"), *pair("0", "30"), *pair("0", "30", "-tokens")]
    read = advice(status, ("x-should-retry", "false"), *fields)
    assert read == Advice(refused=True, remaining=(Quota("calls", 0, 30), Quota("tokens", 0, 30)))
    for other in ("true", "", "no"):
        assert advice(status, ("x-should-retry", other), *fields) == advice(status, *fields)


@pytest.mark.parametrize("status", [200, 400, 401, 404, 500])
def test_other_failures_are_no_refusals(status):
    """They are about the request itself."""
    assert advice(status, ("X-Should-Retry", "false")) == Advice()
    left = ("X-RateLimit-Remaining", "5")
    assert advice(status, ("X-Should-Retry", "false"), left) == advice(status, left)


JSON = ("Content-Type", "application/json; charset=utf-8")


@pytest.mark.parametrize(
    ("status", "headers", "worth"),
    [
        *((status, [JSON], True) for status in (403, 418, 429, 503, 529)),
        *((status, [JSON], False) for status in (200, 400, 401, 404, 500, 502)),
        (429, [("content-type", "application/problem+json")], True),
        (429, [("content-type", "APPLICATION/JSON")], True),
        (429, [("content-type", "text/json")], True),
        (429, [("content-type", "application/jsonlines")], False),
        (429, [("content-type", "text/html")], False),
        (429, [], False),
        (429, [JSON, ("Content-Length", "65536")], True),
        (429, [JSON, ("Content-Length", "65537")], False),
        (429, [("Content-Length", "9" * 99), JSON], False),
        (429, [JSON, ("Content-Length", "-1")], False),
        (429, [JSON, ("Transfer-Encoding", "chunked")], True),
    ],
)
def test_which_bodies_are_read(status, headers, worth):
    """JSON of refusals, if it is not declared to be long."""
    assert reads_body(status, headers) is worth


@pytest.mark.real
@pytest.mark.parametrize("client", ["aiohttp", "httpx", "httpx2"])
def test_missing_http_sf_is_named(client):
    """The error names the extra, where a client's library was installed without it."""
    done = without_http_sf(f"import aioapiqueue.integrations.{client}")
    assert done.returncode == 1
    assert "ImportError: reading rate limit headers needs http-sf" in done.stderr
    assert f'"aioapiqueue[{client}]"' in done.stderr


@pytest.mark.real
def test_only_http_clients_need_http_sf():
    """The other integrations do not import it."""
    names = [f"aioapiqueue.integrations.{one}" for one in ("aiobotocore", "botocore", "redis")]
    done = without_http_sf(f"import {', '.join(names)}")
    assert done.returncode == 0, done.stderr


def without_http_sf(program):
    """Run a program on a Python that has no http-sf."""
    hidden = f"import sys; sys.modules['http_sf'] = None; {program}"
    return subprocess.run(
        [sys.executable, "-c", hidden], capture_output=True, text=True, check=False
    )
