"""Responses of AWS: whether a call was throttled, how long to wait, and which account it counts in.

This module needs no client, so that responses to botocore's clients and to other programs of
`aioapiqueue run` are judged by the same rules.
"""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

AWS_MAX_HOLD = 300.0
"""Longest hold in seconds, by default. AWS's buckets refill within minutes, so it is shorter than
that of other APIs (`_advice.MAX_HOLD`), whose windows may last an hour."""

THROTTLE_CODES = frozenset(
    {
        # botocore 1.43.117, retries/standard.py, ThrottledRetryableChecker.
        "BandwidthLimitExceeded",
        "EC2ThrottledException",
        "LimitExceededException",  # with exceptions, below
        "PriorRequestNotComplete",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "SlowDown",
        "ThrottledException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
        "TransactionInProgressException",
        # Amazon EC2 Auto Scaling, API reference, "Common errors"; not in botocore's list.
        "RateExceeded",
    }
)

# The following is from the documentation of error shapes in the service models of botocore 1.43.117
# (data/*/*/service-2.json.gz). The tests compare it with the models of the installed botocore. Each
# service is listed by its name in `create_client` and by its service id.

# In these services, LimitExceededException means a rate: "The request exceeded the rate limit",
# "you made too many calls in a short period of time", "the limit on the number of requests per
# second". Lex's runtime ("exceeded a limit", 429) creates no resources that could be limited.
_LIMIT_IS_A_RATE = frozenset(
    {"apigateway", "api-gateway", "apigatewaymanagementapi", "ce", "cost-explorer"}
    | {"forecastquery", "lex-runtime", "lex-runtime-service", "personalize"}
)

# In these services, a code means either too many requests or too many resources: "the requested
# resource exceeds the maximum number allowed, or the number of concurrent stream requests exceeds
# the maximum number allowed" (Kinesis). A call that only reads creates no resource, so it gets the
# code for too many requests. In all other services, LimitExceededException is a quota of resources,
# or undocumented.
_RATE_OR_QUOTA = {
    "LimitExceededException": frozenset(
        {"appsync", "dynamodb", "dynamodbstreams", "dynamodb-streams", "kinesis"}
        | {"lex-models", "lex-model-building-service", "machinelearning", "machine-learning"}
        | {"securityhub", "transcribe"}
    ),
    "ThrottlingException": frozenset({"managedblockchain", "managedblockchain-query"}),
    "TooManyRequestsException": frozenset({"kafkaconnect", "mediapackage", "mediapackage-vod"}),
}
_READS = ("BatchGet", "Describe", "Get", "List")

# Codes that a service sends with status 429 although they are not about a rate of requests.
# `_QUOTA` matches further codes, which name the exceeded quota.
_OTHER_429 = frozenset(
    {
        "ConcurrentModificationException",
        "ModelNotReadyException",
        "ServiceUnavailableException",
        "TooManyLabelsException",
        "TooManyRequests",  # EFS: the throughput mode may be changed once in 24 hours
        "TooManySubscriptionsException",
        "VolumeModificationRateExceededException",
    }
)
_QUOTA = re.compile(r"(?<!Rate)(?<!Request)(Limit|Quota)Exceeded")


def is_throttle(
    code: str | None,
    status: int | None,
    *,
    operation: str | None = None,
    service: str | None = None,
) -> bool:
    """Return whether a response means that the server throttled the call.

    Throttling is: the codes that botocore counts as such, `RateExceeded`, and status 429 unless its
    code is known to mean something else. An exceeded quota of resources is not throttling:
    `LimitExceededException` counts only if the service documents it as a rate.

    Args:
        code: the error code, or None.
        status: the HTTP status, or None if unknown.
        operation: name of the operation, such as `"DescribeSnapshots"`.
        service: name in `create_client` (`"autoscaling"`), or the hyphenised service id.
    """
    if code is None or code == str(status):  # botocore's code for a response without one
        return status == 429  # noqa: PLR2004 - Too Many Requests
    if code == "LimitExceededException" and service in _LIMIT_IS_A_RATE:
        return True
    if code == "LimitExceededException" or service in _RATE_OR_QUOTA.get(code, ()):
        return service in _RATE_OR_QUOTA[code] and (operation or "").startswith(_READS)
    if code in THROTTLE_CODES:
        return True
    return status == 429 and code not in _OTHER_429 and not _QUOTA.search(code)  # noqa: PLR2004


def hold_of(
    headers: Mapping[str, str], *, max_hold: float = AWS_MAX_HOLD
) -> tuple[float | None, bool]:
    """Return the hold in seconds that a response asks for, or None, and whether it is malformed.

    Args:
        headers: headers of the response, in any case. `x-amz-retry-after` is in milliseconds and
            takes precedence, `Retry-After` is in seconds. A value that is not a plain number is
            malformed and ignored.
        max_hold: longest hold in seconds. A longer one is malformed and cut. Default: 300.
    """
    asked = [
        _number(value) / unit
        for wanted, unit in (("x-amz-retry-after", 1000), ("retry-after", 1))
        for name, value in headers.items()
        if name.lower() == wanted
    ]
    holds = [seconds for seconds in asked if seconds >= 0]  # False for NaN
    malformed = len(holds) < len(asked) or any(seconds > max_hold for seconds in holds)
    # The first is that of `x-amz-retry-after`, if it is valid.
    return (min(holds[0], max_hold) if holds else None), malformed


def _number(text: str) -> float:
    """Return a plain number of at most 64 characters, or NaN if the text is anything else."""
    digits = re.fullmatch(r"[ \t]*([0-9]{1,15}(\.[0-9]{1,15})?)[ \t]*", text[:64], re.ASCII)
    return float(digits[1]) if digits and len(text) <= 64 else float("nan")  # noqa: PLR2004


def account_of(access_key_id: str, account_id: str | None = None) -> str:
    """Return an id of the account whose quotas a call counts against.

    This is the account id if it is known, or encoded in the access key id, as in newer ones and in
    those of temporary credentials. So refreshed credentials stay in one account. Otherwise, it is
    the access key id itself.

    >>> account_of("ASIAQNZGKIQY56JQ7WML")
    '029608264753'
    >>> account_of("AKIAIOSFODNN7EXAMPLE")                  # an older one
    'AKIAIOSFODNN7EXAMPLE'

    Args:
        access_key_id: access key id of the credentials that sign the call.
        account_id: account id, if known.
    """
    if account_id:
        return account_id
    # The base32 part has 1 bit for the newer form, then 40 bits for the account. AWS does not
    # document this; see awsteele.com/blog/2020/09/26/aws-access-key-format.html and, for the bits,
    # labs.withsecure.com/publications/a-bitwise-analysis-of-aws-access-key-identifiers.html
    if re.fullmatch(r"A[KS]IA[Q-Z2-7][A-Z2-7]{15}", access_key_id):
        bits = int.from_bytes(base64.b32decode(access_key_id[4:])[:6])
        account = (bits & 0x7FFFFFFFFF80) >> 7
        if account < 10**12:
            return f"{account:012}"
    return access_key_id
