"""What AWS's answers mean: throttled or not, for how long, and in which account.

There is no client here, and only the standard library is used, so that answers from botocore's
handlers and from the hub's clients are judged by the same policy.
"""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["AWS_MAX_HOLD", "THROTTLE_CODES", "account_of", "hold_of", "is_throttle"]

AWS_MAX_HOLD = 300.0
"""Longest hold in seconds, by default. AWS's buckets refill within minutes, so it is shorter than
that of other APIs (`_advice.MAX_HOLD`), whose windows may have an hour."""

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
        # Amazon EC2 Auto Scaling, API reference, "Common errors"; botocore does not have it.
        "RateExceeded",
    }
)

# What follows was read in the documentation of the error shapes in botocore 1.43.117's service
# models (data/*/*/service-2.json.gz), which the tests compare with the models of the botocore that
# is installed. A service goes by the name that `create_client` takes, and by its service id.

# "The request exceeded the rate limit", "you made too many calls in a short period of time", "the
# limit on the number of requests per second": here LimitExceededException is a rate. Lex's runtime
# ("exceeded a limit", 429) has nothing that could be created, and so nothing else to exceed.
_LIMIT_IS_A_RATE = frozenset(
    {"apigateway", "api-gateway", "apigatewaymanagementapi", "ce", "cost-explorer"}
    | {"forecastquery", "lex-runtime", "lex-runtime-service", "personalize"}
)

# Here a code says either that too many requests came or that too much exists: "the requested
# resource exceeds the maximum number allowed, or the number of concurrent stream requests exceeds
# the maximum number allowed" (Kinesis). A call that only reads makes nothing that could be too
# much, so that to it the code says the former. Everywhere else, LimitExceededException is a quota
# of resources, or no documentation says what it is.
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

# Codes that some service sends with status 429, and that are about something else than a rate of
# requests. Those that say what was exceeded are known by their form.
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
    """Return whether an answer means that too many requests came.

    So do the codes that botocore takes for throttling, `RateExceeded`, and status 429 with a code
    not known to mean something else. A quota of resources does not: `LimitExceededException` counts
    only where the service documents it as a rate.

    Args:
        code: the error code of the answer, if it has one.
        status: the HTTP status, if known.
        operation: the operation's name: `"DescribeSnapshots"`.
        service: as `create_client` takes it (`"autoscaling"`), or the hyphenised service id.
    """
    if code is None or code == str(status):  # botocore's code for an answer without one
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
    """Return how many seconds an answer asks to wait, or None, and whether that is malformed.

    Args:
        headers: of the answer, in upper or lower case. `x-amz-retry-after` has milliseconds,
            `Retry-After` seconds; the former comes first.
        max_hold: seconds, 300 by default. More than that is malformed, and cut to it. A value
            that is not a plain number is malformed, too, and ignored.
    """
    asked = [
        _number(value) / unit
        for wanted, unit in (("x-amz-retry-after", 1000), ("retry-after", 1))
        for name, value in headers.items()
        if name.lower() == wanted
    ]
    holds = [seconds for seconds in asked if seconds >= 0]  # NaN is not
    malformed = len(holds) < len(asked) or any(seconds > max_hold for seconds in holds)
    return (min(holds[0], max_hold) if holds else None), malformed


def _number(text: str) -> float:
    """Return a plain number of at most 64 characters, or NaN if the text is anything else."""
    digits = re.fullmatch(r"[ \t]*([0-9]{1,15}(\.[0-9]{1,15})?)[ \t]*", text[:64], re.ASCII)
    return float(digits[1]) if digits and len(text) <= 64 else float("nan")  # noqa: PLR2004


def account_of(access_key_id: str, account_id: str | None = None) -> str:
    """Return an id of the account that a call counts against.

    It is the account's own id, if known. AWS's newer access key ids encode it, also those of
    temporary credentials, so that refreshed ones do not look like another account. Otherwise it is
    the access key id.

    >>> account_of("ASIAQNZGKIQY56JQ7WML")
    '029608264753'
    >>> account_of("AKIAIOSFODNN7EXAMPLE")                  # an old one
    'AKIAIOSFODNN7EXAMPLE'

    Args:
        access_key_id: of the credentials that sign the call.
        account_id: the account's id, if known.
    """
    if account_id:
        return account_id
    # Bits of the base32 part: 1 for the newer form, 40 for the account, and others. Not documented
    # by AWS; see awsteele.com/blog/2020/09/26/aws-access-key-format.html and, for the exact bits,
    # labs.withsecure.com/publications/a-bitwise-analysis-of-aws-access-key-identifiers.html
    if re.fullmatch(r"A[KS]IA[Q-Z2-7][A-Z2-7]{15}", access_key_id):
        bits = int.from_bytes(base64.b32decode(access_key_id[4:])[:6])
        account = (bits & 0x7FFFFFFFFF80) >> 7
        if account < 10**12:
            return f"{account:012}"
    return access_key_id
