"""What is heard of an answer: of AWS for the hub to judge, of others here."""

from __future__ import annotations

import gzip
import json
import zlib

import h11
import pytest

from aioapiqueue_run.gateway.calls import HTTP, ApiCall
from aioapiqueue_run.gateway.response_watch import ResponseWatch
from aioapiqueue_run.hub.protocol import advice

AWS = ApiCall("ec2", "DescribeVolumes", protocol="ec2")
OTHER = ApiCall("https://api.test", "GET", protocol=HTTP)
RETRY = json.dumps(
    {
        "error": {
            "details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "7s"}]
        }
    }
).encode()
JSON = ("Content-Type", "application/json")


class Turn:
    """Notes what it is given."""

    def __init__(self):
        self.advice = []

    def advise(self, message):
        """Note it, as the hub reads it."""
        advice(json.loads(json.dumps(message)))
        self.advice.append(message)


def watched(status, headers=(), *parts, call=OTHER, whole=True):
    """Return what an answer was heard to say, and when: before its body, and at its end."""
    turn = Turn()
    watch = ResponseWatch(call, turn)
    watch.take(h11.Response(status_code=status, headers=list(headers)))
    at_once = list(turn.advice)
    for part in parts:
        watch.take(h11.Data(data=part))
    if whole:
        watch.take(h11.EndOfMessage())
    watch.end()
    watch.end()  # does nothing more
    return at_once, turn.advice, watch


def test_milliseconds_of_a_push_back():
    """Azure's header goes to the hub as its hold."""
    ((message,), _, _) = watched(429, [("Retry-After", "2"), ("x-ms-retry-after-ms", "1500")])
    assert message == {"throttled": True, "hold": 1.5}


def test_head_is_enough():
    """What remains is given at once: the body of an answer may take minutes to stream."""
    headers = [
        ("X-RateLimit-Limit", "60"),
        ("X-RateLimit-Remaining", "7"),
        ("X-RateLimit-Reset", "30"),
    ]
    at_once, in_the_end, watch = watched(200, headers, b"some", b"more")
    assert (
        at_once == in_the_end == [{"remaining": [{"remaining": 7.0, "reset": 30.0, "limit": 60.0}]}]
    )
    assert watch.outcome == {"status": 200}


def test_nothing_is_said():
    """Then the hub learns that the call is answered, as soon as it is."""
    for status, headers in ((200, [("Server", "x")]), (204, []), (500, [])):
        at_once, in_the_end, _ = watched(status, headers, b"body")
        assert at_once == in_the_end == [{}]


def test_websocket():
    """Its handshake is the answer, and there is no other."""
    turn = Turn()
    watch = ResponseWatch(OTHER, turn)
    watch.take(h11.InformationalResponse(status_code=103, headers=[("Retry-After", "9")]))
    assert not turn.advice
    assert not watch.is_over
    watch.take(h11.InformationalResponse(status_code=101, headers=[]))
    assert watch.is_over
    assert watch.has_switched
    watch.end()
    assert turn.advice == [{}]
    assert watch.outcome == {"status": 101}


def test_server_that_did_not_answer():
    """Nothing was heard, and so nothing is said."""
    assert Turn().advice == []
    turn = Turn()
    ResponseWatch(OTHER, turn).end()
    assert turn.advice == []


def test_push_back():
    """By its head alone where the body is no JSON."""
    at_once, _, watch = watched(429, [("Retry-After", "5")], b"slow")
    assert at_once == [{"throttled": True, "hold": 5.0}]
    assert watch.outcome == {"status": 429}
    assert watched(529)[0] == [{"throttled": True}]


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        (None, RETRY),
        ("identity", RETRY),
        ("gzip", gzip.compress(RETRY, mtime=0)),
        ("deflate", zlib.compress(RETRY)),
    ],
)
def test_body_of_a_refusal_is_read(encoding, body):
    """In whatever pieces it comes, and zipped."""
    headers = [JSON, *([("Content-Encoding", encoding)] if encoding else [])]
    at_once, in_the_end, _ = watched(429, headers, body[:10], body[10:])
    assert at_once == []
    assert in_the_end == [{"throttled": True, "hold": 7.0}]


@pytest.mark.parametrize(
    ("headers", "body", "whole"),
    [
        ([JSON, ("Content-Encoding", "gzip")], b"no gzip", True),
        ([JSON, ("Content-Encoding", "gzip")], gzip.compress(b" " * 70_000 + RETRY, mtime=0), True),
        ([JSON, ("Content-Encoding", "br")], RETRY, True),
        ([JSON], b" " * 70_000 + RETRY, True),
        ([JSON], RETRY, False),
    ],
    ids=["spoilt", "bomb", "unknown", "long", "broken off"],
)
def test_body_that_cannot_be_read(headers, body, whole):
    """What the head says is true all the same."""
    _, in_the_end, _ = watched(429, [*headers, ("Retry-After", "3")], body, whole=whole)
    assert in_the_end == [{"throttled": True, "hold": 3.0}]


def test_quota_that_is_gone_for_good():
    """It slows nobody down."""
    body = json.dumps({"error": {"code": "insufficient_quota"}}).encode()
    assert watched(429, [JSON], body)[1] == [{"refused": True}]


def test_quotas_of_other_units_are_left_out():
    """The limits of a host count calls: what a quota of tokens has is nothing to them."""
    headers = [
        ("x-ratelimit-remaining-tokens", "100"),
        ("x-ratelimit-reset-tokens", "6m0s"),
        ("x-ratelimit-remaining-requests", "9"),
        ("x-ratelimit-reset-requests", "1s"),
    ]
    assert watched(200, headers)[1] == [{"remaining": [{"remaining": 9.0, "reset": 1.0}]}]


def test_numbers_that_the_hub_would_refuse_are_bounded():
    """A message that is no message would end the connection, and with it the run's calls."""
    headers = [("X-RateLimit-Remaining", "9" * 15), ("X-RateLimit-Limit", "9" * 15)]
    ((message,), _, _) = watched(200, headers)
    assert message["remaining"][0]["remaining"] == 1e9
    ((message,), _, _) = watched(
        200, [("X-RateLimit-Remaining", "1"), ("X-RateLimit-Limit-Day", "9" * 15)]
    )
    assert all(value <= 1e9 for quota in message["remaining"] for value in quota.values())
    ((message,), _, _) = watched(429, [("Retry-After", "9" * 64)])
    assert message.get("hold", 0) <= 3600
    many = ", ".join(f'"q{number}";r={number};t=5' for number in range(40))
    ((message,), _, _) = watched(200, [("RateLimit", many)])
    assert len(message["remaining"]) == 16


def test_aws_is_judged_by_the_hub():
    """It gets the code and the headers."""
    body = b"<Response><Errors><Error><Code>RequestLimitExceeded</Code></Error></Errors></Response>"
    at_once, in_the_end, watch = watched(503, [("Retry-After", "1")], body, call=AWS)
    assert at_once == in_the_end == []
    assert watch.outcome == {
        "status": 503,
        "code": "RequestLimitExceeded",
        "retry_after": "1",
        "amz_retry_after": None,
    }


def test_call_that_nobody_asked_for():
    """It had its turn elsewhere: nothing of its answer is reported here."""
    watch = ResponseWatch()
    watch.take(h11.Response(status_code=429, headers=[("Retry-After", "5")]))
    watch.take(h11.EndOfMessage())
    watch.end()
    assert watch.is_over
    assert not watch.is_known
