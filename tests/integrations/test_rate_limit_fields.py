"""What is made of the structured fields `RateLimit` and `RateLimit-Policy`.

http-sf has tests of its own of how they are parsed.
"""

import pytest

from aioapiqueue.integrations.http import Advice, Quota
from tests.helpers.answers import advice, limits, quotas


def test_quotas_of_concurrent_requests_are_ignored():
    """They are refilled as requests end, so that a hold would only stop everything."""
    fields = ("RateLimit", '"slots";r=0;t=30, "default";r=3;t=7')
    policy = ("RateLimit-Policy", '"slots";q=5;qu="concurrent-requests", "default";q=9;w=60')
    assert quotas(fields) == (Quota("calls", 0, 30), Quota("calls", 3, 7))
    assert quotas(fields, policy) == (Quota("calls", 3, 7, 9, 60),)
    assert limits(fields, policy) == ["9/min burst 9"]
    assert advice(200, ("RateLimit-Policy", '"slots;q')) == Advice(malformed=True)
    read = advice(200, fields, ("RateLimit-Policy", '"slots;q'))
    assert read.malformed
    assert read.remaining == quotas(fields)


def test_policies_are_of_standard_fields():
    """The size of another quota may be the same, and its period is its own."""
    policy = ("RateLimit-Policy", "100;w=60")
    assert quotas(policy, ("RateLimit-Limit", "100")) == (Quota(limit=100, period=60),)
    tokens = quotas(policy, ("x-ratelimit-limit-tokens", "100"))
    assert tokens == (Quota("tokens", limit=100), Quota(limit=100, period=60))


@pytest.mark.parametrize(
    "field",
    ['"default"', '"default";t=30', '"default";r=-1;t=30', '"default";r=?0;t=30', "(a b);r=0;t=3"],
)
def test_rate_limit_needs_what_remains(field):
    """Without `r`, or where it is no number of at least 0, the field is malformed."""
    assert advice(200, ("RateLimit", field)) == Advice(malformed=True)


@pytest.mark.parametrize("field", ['"default"', '"default";w=60', '"default";q=-1', "(a b);q=1"])
def test_a_policy_needs_its_size(field):
    """Without `q`, or where it is no number of at least 0, the field is malformed."""
    assert advice(200, ("RateLimit-Policy", field)) == Advice(malformed=True)


@pytest.mark.parametrize(
    "kind", [":cHsdsRa894==:", "@1659578233", '%"f%c3%bc"', "*foo:bar/baz", "-1.5", "?1", '"\\""']
)
def test_other_kinds_of_items(kind):
    """They are ignored beside what counts, as a parameter or as a quota's name."""
    fields = f'"a";r=0;t=30;x={kind}, {kind};r=5;t=9, "b";x;r=3'
    policy = ("RateLimit-Policy", f'{kind};q=5;qu={kind}, "a";q=9;w=60')
    read = quotas(("RateLimit", fields), policy)
    assert Quota("calls", 0, 30, 9, 60) in read
    assert Quota("calls", 3) in read
    older = ("RateLimit", f"limit=9;x, remaining=0;x={kind},\treset=30, other={kind}")
    assert quotas(older) == (Quota("calls", 0, 30, 9),)


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
    assert advice(200, *fields) == Advice(remaining=(Quota("calls", 0, 30),), malformed=True)


def test_too_long_a_field_is_malformed():
    """More than 8 KiB, in however many lines, are not parsed: that could use up our time."""
    field = '"a";r=0;t=30'
    longest = ("RateLimit", field + ";x" * ((8192 - len(field)) // 2))
    assert len(longest[1]) == 8192
    assert quotas(longest) == (Quota("calls", 0, 30),)
    assert advice(200, ("RateLimit", "b;r=1"), longest) == Advice(malformed=True)
