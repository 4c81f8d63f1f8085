"""Names of headers: which quota a header belongs to, and what its value is.

The names of different services differ mostly in the order of their words. The part before
`ratelimit-` (or `rate-limit-`) and the words that are not a kind name the quota. Headers with the
same quota belong together. The words after `ratelimit-` are:

- The kind of the value: `remaining`, `reset` (`reset-after`; Akamai: `next`), `limit` (HubSpot:
  `max`), or `interval-milliseconds` (HubSpot), which is the period.
- A period: `X-RateLimit-Remaining-Minute` (Kong), `x-ratelimit-limit-requests-day` (Cerebras),
  `X-HubSpot-RateLimit-Daily`, which is a limit.
- The unit, from all other words: none, `requests` and `req` mean calls, `input-tokens` means
  `input_tokens`. OpenAI's `project-tokens` are tokens, but of another quota.

Headers of other forms are ignored: `X-RateLimit-Used`, `-Resource`, `-Bucket`, `-Scope`, and
Binance's `X-MBX-USED-WEIGHT-1M`, which is useless without its limit.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from aioapiqueue.spi import CALLS, grammar

LONGEST_NAME = 96
"""Most characters of a name. Longer names are ignored before they can fill the cache."""
POLICIES = "ratelimit"
"""The quota of the structured fields `RateLimit` and `RateLimit-Policy`, which contain names."""
STANDARD = "limit"
"""The quota of `RateLimit-Limit`, `-Remaining` and `-Reset`, which the IETF draft had until -06,
with policies in `RateLimit-Policy`."""
PRIORITY = "anthropic-priority"
"""Prefix of the quotas of Anthropic's priority tier. The server still serves calls beyond them."""
UNIFIED = "anthropic-ratelimit-unified-"
"""Prefix of the windows of a subscription, of 5 hours and 7 days."""


class Field(NamedTuple):
    """What a header contains, by its name.

    Attributes:
        kind: kind of the value.
        quota: name of the quota, the same for all headers of the quota. Empty: no quota.
        unit: unit of the quota.
        period: period of the quota in seconds, if the name contains it.
    """

    kind: str
    quota: str = ""
    unit: str = CALLS
    period: float | None = None


_QUOTA = re.compile(r"(.*)rate-?limit(bysize)?-(.+)")
_PRIORITY = re.compile(r"(anthropic-)(priority)-(.+)")
_WINDOW = re.compile(r"anthropic-ratelimit-unified-(.*-)?(status|reset)")
MILLISECONDS = ("retry-after-ms", "x-ms-retry-after-ms")
"""Headers of OpenAI and of Azure, more precise than the `Retry-After` that accompanies them."""
_LEGACY = "x-hubspot-ratelimit-secondly"
"""HubSpot still sends this limit but no longer enforces it (its page of usage details)."""
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
PERIODS = {
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
"""Periods in seconds. A month is 30 days."""
_REQUESTS = {"", CALLS, "call", "req", "reqs", "request", "requests", "rq", "rqs"}
_NO_UNIT = {"per", "project"}


@lru_cache(maxsize=1024)
def parse_field_name(name: str) -> Field | None:
    """Return what a header contains, by its name in any case; None if the header is ignored."""
    name = name.lower()
    if name in _FIELDS:
        return _FIELDS[name]
    # Most names end here, before the slower expressions.
    if "limit" not in name and "priority" not in name:
        return None
    # Before `_QUOTA`, which would match these names and mistake the windows for quotas.
    if name.startswith(UNIFIED):
        found = _WINDOW.fullmatch(name)
        return found and Field(found[2], UNIFIED + (found[1] or ""))
    found = _QUOTA.fullmatch(name) or _PRIORITY.fullmatch(name)
    if found is None or name.startswith(_LEGACY):
        return None
    return _quota_field(found[1], found[2] or "", found[3].split("-"))


def _quota_field(prefix: str, family: str, words: list[str]) -> Field | None:
    kinds = {_KINDS[word] for word in words if word in _KINDS}
    # With any other kind, these words are part of the name of the quota.
    ignored = {"after"} if "reset" in kinds else {"milliseconds"} if "interval" in kinds else set()
    names = [word for word in words if word not in _KINDS and word not in ignored]
    periods = [PERIODS[word] for word in names if word in PERIODS]
    # A name that has only a period states the limit, as HubSpot's `-Daily` does.
    kind = kinds.pop() if kinds else "limit" if len(periods) == len(names) else ""
    rest = [word for word in names if word not in PERIODS and word not in _NO_UNIT]
    # Refused: two kinds, no kind, two periods, and two hyphens in a row.
    if kinds or not kind or len(periods) > 1 or "" in words:
        return None
    if kind == "reset" and "after" in words:
        kind = "reset-after"
    if family:  # Mistral's tokens are `bysize`
        rest = [family, *rest] if family == "priority" else rest or ["tokens"]
    unit = parse_unit("-".join(rest))
    if unit is None:
        return None
    # All words except the kind, so that `-limit-tokens` and `-remaining-tokens` are one quota.
    quota = "-".join([f"{prefix}{family}{STANDARD}", *names])
    return Field(kind, quota, unit, periods[0] if periods else None)


def parse_unit(words: str) -> str | None:
    """Return the unit that these words name, or None if they cannot be a unit."""
    words = words.lower()
    if words in _REQUESTS:
        return CALLS
    unit = words.replace("-", "_")
    try:
        grammar.check_unit(unit)
    except ValueError:
        return None
    return unit
