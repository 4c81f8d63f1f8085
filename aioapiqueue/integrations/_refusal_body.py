"""What the JSON body of a refused answer says: only codes and fields decide, never a message.

- Google (Gemini; `google.rpc` details of `error.details`): `RetryInfo.retryDelay` is the time to
  wait; `QuotaFailure` names what was exceeded. A quota per day is gone for good: Google sends a
  `retryDelay` of seconds beside it, which helps nobody. A quota per minute is push-back. Its
  `quotaValue` is the limit.
- Google Ads (`quotaErrorDetails.retryDelay`).
- OpenAI (`error.code`, `error.type`): the codes of its pages of error codes and of usage and spend
  limits, of which it says that to retry does not restore access.
- Anthropic (`error.details.error_code`): the two limits on spending that its SDK has as errors of
  429. `billing_error` is sent with 402, which is no push-back.

Other services are not looked into. Scaleway, for one, words every rate limit "INSUFFICIENT QUOTA".
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aioapiqueue.integrations._compression import ENCODINGS, Inflate
from aioapiqueue.integrations._header_values import count
from aioapiqueue.integrations._quotas import rate_of
from aioapiqueue.spi import CALLS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from aioapiqueue import Limit
    from aioapiqueue.integrations._header_values import Values

__all__ = ["MAX_BODY", "RefusalBody", "decoded", "most_to_read", "read_body"]

MAX_BODY = 65_536
"""Size in bytes of the largest body that is parsed. Real bodies have a few kilobytes."""

_MAX_ENCODED = 4096
"""Bytes of a compressed body that a client library decodes itself: that is at most a thousand times
as much. Real ones have a few hundred."""

_GONE = frozenset(
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
_SECONDS = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86_400.0}
_MOST = 64
"""Entries that are read of any list."""


@dataclass(slots=True)
class RefusalBody:
    """What a body says.

    Attributes:
        refused: what was asked for is not to be had by waiting.
        limited: a rate limit was exceeded.
        delay: seconds to wait; None: not given.
        limits: those that were exceeded, as far as they are given whole.
    """

    refused: bool = False
    limited: bool = False
    delay: float | None = None
    limits: list[Limit] = field(default_factory=list)


def most_to_read(encoding: str) -> int:
    """Return how many bytes of a body may be read that its client library decodes.

    Args:
        encoding: its `Content-Encoding`.
    """
    return MAX_BODY if encoding.strip().lower() in ("", "identity") else _MAX_ENCODED


def decoded(body: bytes, encoding: str) -> bytes | None:
    """Return a body without its compression, if it has at most `MAX_BODY` bytes then, else None.

    Args:
        body: the bytes as they came.
        encoding: its `Content-Encoding`. Return None if it is unknown here.
    """
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return body if len(body) <= MAX_BODY else None
    if name not in ENCODINGS:
        return None
    inflate, content = Inflate(name), b""
    for piece in inflate.decode(body):
        content += piece
        if len(content) > MAX_BODY:
            return None
    return None if inflate.is_broken else content


def read_body(body: bytes, values: Values) -> RefusalBody:
    """Read a body; what is malformed is noted in `values`.

    Args:
        body: decoded; empty, or of more than `MAX_BODY` bytes, it says nothing.
        values: reads times.
    """
    found = RefusalBody()
    if not body or len(body) > MAX_BODY:
        return found
    try:
        parsed: object = json.loads(body)
    except (ValueError, RecursionError):  # of lists in lists in lists
        values.malformed = True
        return found
    delays: list[object] = []
    for one in _mappings(parsed if isinstance(parsed, list) else [parsed]):  # streams: a list
        error = one.get("error")
        if isinstance(error, dict):
            _read_error(error, found, delays)
    waits = [values.wait([text if isinstance(text, str) else ""]) for text in delays]
    found.delay = max((wait for wait in waits if wait is not None), default=None)
    return found


def _read_error(error: dict[str, Any], found: RefusalBody, delays: list[object]) -> None:
    details = error.get("details")
    for code in (error.get("code"), error.get("type"), *_codes(details)):
        found.refused |= isinstance(code, str) and code in _GONE
    for detail in _mappings(details):
        kind = detail.get("@type")
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
    """Read which quota was exceeded: `GenerateRequestsPerDayPerProjectPerModel-FreeTier`."""
    names = [violation.get(key) for key in ("quotaId", "quotaMetric")]
    texts = [name for name in names if isinstance(name, str)]
    period = next((match[1].lower() for text in texts if (match := _PERIOD.search(text))), None)
    if period is None:
        return
    found.limited = True
    found.refused |= period == "day"
    unit = next(filter(None, map(_unit_of, texts)), None)
    value = violation.get("quotaValue")  # JSON has 64-bit numbers of protocol buffers as strings
    limit = count(value if isinstance(value, str) else "")
    if unit is not None and limit is not None:
        rate = rate_of(limit, _SECONDS[period], unit)
        if rate is not None and rate not in found.limits:
            found.limits.append(rate)


def _unit_of(name: str) -> str | None:
    """Return what a quota counts, by its id or metric."""
    plain = name.lower().replace("_", "")
    if "inputtoken" in plain:
        return "input_tokens"
    if "outputtoken" in plain:
        return "output_tokens"
    return CALLS if "requests" in plain else None


def _read_ads(holder: object, delays: list[object]) -> None:
    """Read the delay of Google Ads, if it is there."""
    quota = holder.get("quotaErrorDetails") if isinstance(holder, dict) else None
    if isinstance(quota, dict) and "retryDelay" in quota:
        delays.append(quota["retryDelay"])


def _codes(details: object) -> Iterator[object]:
    if isinstance(details, dict):
        yield details.get("error_code")


def _mappings(values: object) -> Iterable[dict[str, Any]]:
    if not isinstance(values, list):
        return []
    return [value for value in values[:_MOST] if isinstance(value, dict)]
