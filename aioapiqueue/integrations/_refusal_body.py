"""Reads the JSON body of a refusal. Only codes and fields count, never the text of a message.

- Google (Gemini; `google.rpc` details in `error.details`): `RetryInfo.retryDelay` is the time to
  wait, and `QuotaFailure` names the exceeded quota. A quota per day is a permanent refusal: the
  `retryDelay` of seconds that Google sends with it does not help. A quota per minute is throttling,
  and its `quotaValue` is the limit.
- Google Ads (`quotaErrorDetails.retryDelay`).
- OpenAI (`error.code`, `error.type`): the codes on its pages about error codes and about usage and
  spend limits. According to these pages, a retry does not restore access.
- Anthropic (`error.details.error_code`): the two spend limits that its SDK knows as errors of
  status 429. A `billing_error` has status 402, which is not throttling.

Bodies of other services are ignored. Scaleway, for example, calls every rate limit "INSUFFICIENT
QUOTA".
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aioapiqueue.integrations._field_names import PERIODS
from aioapiqueue.integrations._header_values import count
from aioapiqueue.integrations._quotas import rate_of
from aioapiqueue.spi import CALLS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aioapiqueue import Limit
    from aioapiqueue.integrations._header_values import Values

MAX_BODY = 65_536
"""Size in bytes of the largest body that is parsed. Real bodies have a few kilobytes."""

_MAX_ENCODED = 4096
"""Most bytes of a compressed body, because the client library may decode them to 1,000 times as
many. Real bodies have a few hundred bytes."""

_PERMANENT = frozenset(
    {
        # OpenAI
        "insufficient_quota",
        "billing_hard_limit_reached",
        "billing_not_active",
        "credit_balance_exhausted",
        "organization_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
        "project_spend_limit_exceeded",
        # Anthropic
        "contract_spend_limit_reached",
        "enforced_spend_limit_reached",
    }
)
_PERIOD = re.compile(r"per_?(second|minute|hour|day)", re.IGNORECASE)
_MAX_ENTRIES = 64
"""Most entries that are read of a list."""


@dataclass(slots=True)
class RefusalBody:
    """The contents of the body of a refusal.

    Attributes:
        refused: whether the refusal is permanent.
        limited: whether a rate limit was exceeded.
        delay: seconds to wait. None: not stated.
        limits: exceeded limits that are stated completely.
    """

    refused: bool = False
    limited: bool = False
    delay: float | None = None
    limits: list[Limit] = field(default_factory=list)


def most_to_read(encoding: str) -> int:
    """Return the most bytes of a body to read if the client library decodes it.

    Args:
        encoding: value of `Content-Encoding`.
    """
    return MAX_BODY if encoding.strip().lower() in ("", "identity") else _MAX_ENCODED


def read_body(body: bytes, values: Values) -> RefusalBody:
    """Read the body of a refusal. Malformed parts are noted in `values`.

    Args:
        body: the decoded body. One of more than `MAX_BODY` bytes is ignored.
        values: reads times.
    """
    found = RefusalBody()
    if not body or len(body) > MAX_BODY:
        return found
    try:
        parsed: object = json.loads(body)
    except (ValueError, RecursionError):  # the latter from deeply nested lists
        values.malformed = True
        return found
    delays: list[object] = []
    for one in _mappings(parsed if isinstance(parsed, list) else [parsed]):  # a list if streamed
        error = one.get("error")
        if isinstance(error, dict):
            _read_error(error, found, delays)
    # A delay that is not a text is malformed: an empty text, which `wait` refuses, stands for it.
    waits = [values.wait([text if isinstance(text, str) else ""]) for text in delays]
    found.delay = max((wait for wait in waits if wait is not None), default=None)
    return found


def _read_error(error: dict[str, Any], found: RefusalBody, delays: list[object]) -> None:
    details = error.get("details")
    own = details.get("error_code") if isinstance(details, dict) else None
    # OpenAI sends the code in the first two, Anthropic in the last.
    for code in (error.get("code"), error.get("type"), own):
        found.refused |= isinstance(code, str) and code in _PERMANENT
    for detail in _mappings(details):
        kind = detail.get("@type")
        # Such as "type.googleapis.com/google.rpc.RetryInfo".
        name = kind.rpartition(".")[2] if isinstance(kind, str) else ""
        if name == "RetryInfo" and "retryDelay" in detail:
            delays.append(detail["retryDelay"])
        elif name == "QuotaFailure":
            for violation in _mappings(detail.get("violations")):
                _read_violation(violation, found)
        elif name == "GoogleAdsFailure":
            for one in _mappings(detail.get("errors")):
                _read_ads(one.get("details"), delays)
        _read_ads(detail, delays)
    _read_ads(error, delays)


def _read_violation(violation: dict[str, Any], found: RefusalBody) -> None:
    """Read an exceeded quota, such as `GenerateRequestsPerDayPerProjectPerModel-FreeTier`."""
    names = [violation.get(key) for key in ("quotaId", "quotaMetric")]
    texts = [name for name in names if isinstance(name, str)]
    period = next((match[1].lower() for text in texts if (match := _PERIOD.search(text))), None)
    if period is None:
        return
    found.limited = True
    found.refused |= period == "day"
    unit = next(filter(None, map(_unit_of, texts)), None)
    value = violation.get("quotaValue")  # protocol buffers have 64-bit numbers as JSON strings
    limit = count(value if isinstance(value, str) else "")
    if unit is not None and limit is not None:
        rate = rate_of(limit, PERIODS[period], unit)
        if rate is not None and rate not in found.limits:
            found.limits.append(rate)


def _unit_of(name: str) -> str | None:
    """Return the unit of a quota by its id or metric, or None."""
    plain = name.lower().replace("_", "")
    if "inputtoken" in plain:
        return "input_tokens"
    if "outputtoken" in plain:
        return "output_tokens"
    return CALLS if "requests" in plain else None


def _read_ads(holder: object, delays: list[object]) -> None:
    """Read the delay of Google Ads, if there is one."""
    quota = holder.get("quotaErrorDetails") if isinstance(holder, dict) else None
    if isinstance(quota, dict) and "retryDelay" in quota:
        delays.append(quota["retryDelay"])


def _mappings(values: object) -> Iterable[dict[str, Any]]:
    if not isinstance(values, list):
        return []
    return [value for value in values[:_MAX_ENTRIES] if isinstance(value, dict)]
