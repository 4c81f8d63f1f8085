"""Which header speaks of which quota: its name alone decides.

Names differ by service in the order of their words, and in little else: what precedes
`ratelimit-` (or `rate-limit-`) and the words that are none of the kinds below name the quota;
headers that name the same one belong together.

- Kinds: `remaining`, `reset` (`reset-after`; Akamai's `next`), `limit` (HubSpot's `max`), and
  `interval-milliseconds` (HubSpot), which is the period.
- A word of time is the period: `X-RateLimit-Remaining-Minute` (Kong),
  `x-ratelimit-limit-requests-day` (Cerebras), `X-HubSpot-RateLimit-Daily`, which is a limit.
- The others are the unit: none, `requests` and `req` are calls, `input-tokens` is `input_tokens`.
  OpenAI's `project-tokens` are tokens, too, of another quota.

Headers of other forms are ignored: `X-RateLimit-Used`, `-Resource`, `-Bucket`, `-Scope`, and
Binance's `X-MBX-USED-WEIGHT-1M`, from which nothing follows without the limit.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from aioapiqueue.spi import CALLS, NO_UNITS, check_unit

__all__ = [
    "LONGEST_NAME",
    "MILLISECONDS",
    "POLICIES",
    "PRIORITY",
    "STANDARD",
    "UNIFIED",
    "Field",
    "field_called",
    "unit_called",
]

LONGEST_NAME = 96
"""Characters. Longer names are no quota's: they are not even looked at, nor kept in the cache."""
POLICIES = "ratelimit"
"""The quotas of the structured fields, which bring their own names."""
STANDARD = "limit"
"""The quota of `RateLimit-Limit`, `-Remaining` and `-Reset`, of which the IETF draft until -06 had
the policies in `RateLimit-Policy`."""
PRIORITY = "anthropic-priority"
"""How the quotas of Anthropic's priority tier begin: beyond them, calls are served as others."""
UNIFIED = "anthropic-ratelimit-unified-"
"""How a subscription's windows of 5 hours and 7 days begin."""


class Field(NamedTuple):
    """What a header's value is.

    Attributes:
        kind: of the value.
        of: the quota; headers that name the same one belong together. Empty: none.
        unit: of the quota.
        period: of the quota, in seconds, if the name says so.
    """

    kind: str
    of: str = ""
    unit: str = CALLS
    period: float | None = None


_QUOTA = re.compile(r"(.*)rate-?limit(bysize)?-(.+)")
_PRIORITY = re.compile(r"(anthropic-)(priority)-(.+)")
_WINDOW = re.compile(r"anthropic-ratelimit-unified-(.*-)?(status|reset)")
MILLISECONDS = ("retry-after-ms", "x-ms-retry-after-ms")
"""Of OpenAI, and of Azure's services: beside `Retry-After`, and more precise."""
_LEGACY = "x-hubspot-ratelimit-secondly"
"""Still sent, of a limit that HubSpot no longer enforces (its page of usage details)."""
_FIELDS = {
    **{
        name: Field(name)
        for name in ("age", "date", "retry-after", *MILLISECONDS, "x-should-retry")
    },
    "ratelimit": Field("items", POLICIES),
    "ratelimit-policy": Field("policies", POLICIES),
    "x-ratelimit-retry-after": Field("ratelimit-retry-after"),
    "x-amzn-ratelimit-limit": Field("rate", "x-amzn-"),
    "x-shopify-shop-api-call-limit": Field("used-of", "x-shopify-"),
}
_KINDS = {
    "remaining": "remaining",
    "reset": "reset",
    "next": "next",
    "limit": "limit",
    "max": "limit",
    "interval": "interval",
}
_PERIODS = {
    "second": 1.0,
    "secondly": 1.0,
    "minute": 60.0,
    "minutely": 60.0,
    "hour": 3600.0,
    "hourly": 3600.0,
    "day": 86_400.0,
    "daily": 86_400.0,
    "month": 2_592_000.0,
    "monthly": 2_592_000.0,
}
"""In seconds; a month is 30 days."""
_REQUESTS = {"", CALLS, *NO_UNITS}
_NO_UNIT = {"per", "project"}


@lru_cache(maxsize=1024)
def field_called(name: str) -> Field | None:
    """Return what a header is, or None: nothing that is read here. Any case will do."""
    name = name.lower()
    if name in _FIELDS:
        return _FIELDS[name]
    if "limit" not in name and "priority" not in name:
        return None
    if name.startswith(UNIFIED):
        found = _WINDOW.fullmatch(name)
        return found and Field(found[2], UNIFIED + (found[1] or ""))
    found = _QUOTA.fullmatch(name) or _PRIORITY.fullmatch(name)
    if found is None or name.startswith(_LEGACY):
        return None
    return _quota_field(found[1], found[2] or "", found[3].split("-"))


def _quota_field(prefix: str, family: str, words: list[str]) -> Field | None:
    kinds = {_KINDS[word] for word in words if word in _KINDS}
    ignored = {"after"} if "reset" in kinds else {"milliseconds"} if "interval" in kinds else set()
    names = [word for word in words if word not in _KINDS and word not in ignored]
    periods = [_PERIODS[word] for word in names if word in _PERIODS]
    kind = kinds.pop() if kinds else "limit" if len(periods) == len(names) else ""
    rest = [word for word in names if word not in _PERIODS and word not in _NO_UNIT]
    if kinds or not kind or len(periods) > 1 or "" in words:
        return None
    if kind == "reset" and "after" in words:
        kind = "reset-after"
    if family:  # Mistral's tokens are `bysize`
        rest = [family, *rest] if family == "priority" else rest or ["tokens"]
    unit = unit_called("-".join(rest))
    if unit is None:
        return None
    of = "-".join([f"{prefix}{family}{STANDARD}", *names])
    return Field(kind, of, unit, periods[0] if periods else None)


def unit_called(words: str) -> str | None:
    """Return the unit of these words, or None if it can be no unit."""
    words = words.lower()
    if words in _REQUESTS:
        return CALLS
    unit = words.replace("-", "_")
    try:
        check_unit(unit)
    except ValueError:
        return None
    return unit
