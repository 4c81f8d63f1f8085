"""Answers of the gateway, read by botocore's own parsers; and AWS's errors, read by the gateway."""

from __future__ import annotations

import json

import pytest
from botocore.parsers import PROTOCOL_PARSERS, create_parser
from botocore.session import get_session

from aioapiqueue.integrations.spi import is_throttle
from aioapiqueue_run.gateway.answers import code_of, refusal, throttling, unreachable
from aioapiqueue_run.gateway.calls import HTTP, ApiCall

CALLS = {
    ("ec2", "DescribeVolumes"): "ec2",
    ("iam", "ListUsers"): "query",
    ("dynamodb", "ListTables"): "json",
    ("lambda", "ListFunctions"): "rest-json",
    ("s3", "ListBuckets"): "rest-xml",
    ("s3control", "GetPublicAccessBlock"): "rest-xml",
    ("route53", "ListHostedZones"): "rest-xml",
    ("cloudwatch", "ListMetrics"): "smithy-rpc-v2-cbor",
}
SPOKEN = [one for one in CALLS.items() if one[1] in PROTOCOL_PARSERS]  # botocore 1.37: not CBOR


def read(call, answer):
    """Return the error as botocore has it."""
    model = get_session().get_service_model(call.service).operation_model(call.operation)
    response = {
        "status_code": answer.status,
        "headers": {name.lower(): value for name, value in answer.headers},
        "body": answer.body,
    }
    return create_parser(call.protocol).parse(response, model.output_shape)["Error"]


@pytest.mark.parametrize(("name", "protocol"), SPOKEN)
def test_answers_are_in_the_services_form(name, protocol):
    """The parser of botocore for each protocol finds code and message, those with markup too."""
    call = ApiCall(*name, protocol=protocol)
    error = read(call, refusal(call, 'queue "a<b>&c" is closed'))
    assert error["Code"] == "AioapiqueuePacingError"
    assert error["Message"] == 'aioapiqueue: not sent: queue "a<b>&c" is closed'
    error = read(call, unreachable(call, "no route"))
    assert (error["Code"], error["Message"]) == ("AioapiqueueUnreachable", "aioapiqueue: no route")
    answer = throttling(call)
    error = read(call, answer)
    assert is_throttle(error["Code"], answer.status, service=name[0], operation=name[1])
    headers = {key.lower(): value for key, value in answer.headers}
    assert code_of(headers, answer.body) == error["Code"]


def test_answer_to_nobody_knows_what():
    """A person may read it."""
    answer = refusal(None, "why")
    assert answer.status == 403
    assert b"aioapiqueue: not sent: why" in answer.body


@pytest.mark.parametrize(
    ("headers", "body", "expected"),
    [
        ({}, b"<Error>\n <Code>SlowDown</Code></Error>", "SlowDown"),
        (
            {},
            b'{"__type":"com.amazonaws.x#ThrottlingException","message":"m"}',
            "ThrottlingException",
        ),
        ({}, b'{ "__type" : "ThrottlingException" }', "ThrottlingException"),
        ({}, b'{"code":"TooManyRequestsException"}', "TooManyRequestsException"),
        ({"x-amzn-errortype": "aws.x#Throttled:http://x"}, b"", "Throttled"),
        ({"x-amzn-query-error": "Throttling;Sender"}, b"", "Throttling"),
        ({}, b"\xa2f__type\x73ThrottlingExceptiongmessageam", "ThrottlingException"),
        ({}, b"\xa2f__type", None),
        ({}, b"\xa2f__type\x05", None),
        ({}, b"\xa1f__type\x73ThrottlingException", "ThrottlingException"),
        ({}, b"\xa1f__type\x78\x1ccom.amazonaws#Throttled.Too", "Throttled.Too"),
        ({}, b"<html>Bad gateway</html>", None),
        ({}, b"", None),
        ({"x-amzn-errortype": ""}, b"\xff\xfe", None),
    ],
)
def test_error_codes_are_found(headers, body, expected):
    """In headers and bodies, as each protocol has them."""
    assert code_of(headers, body) == expected


def test_answers_of_a_host():
    """In JSON, as most APIs have it: refused for good, not reached, or to come again."""
    call = ApiCall("https://api.test", "GET", protocol=HTTP)
    found = {
        one.status: one for one in (refusal(call, "w"), unreachable(call, "w"), throttling(call))
    }
    assert sorted(found) == [403, 429, 502]
    for one in found.values():
        assert one.headers == [("Content-Type", "application/json")]
        assert "aioapiqueue: " in json.loads(one.body)["message"]
