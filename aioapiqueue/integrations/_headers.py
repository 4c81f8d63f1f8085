"""Turns the status, headers and body of a response into an `Advice`. Pure: no clock, no client.

Services write times in different formats, so every header accepts all of these:

- a number: up to 30 years, it is seconds from now; above, a date in seconds or milliseconds since
  1970;
- durations (`"20ms"`, `"6m0s"`), HTTP dates (RFC 9110) and ISO dates (RFC 3339).

Dates are compared with the `Date` (and `Age`) of the response, because the two clocks may differ.
If the `Date` is plainly wrong, such as one in 1970, they are compared with the local clock.

These headers are read:

- `Retry-After`, if the response is throttled. In other responses it means something else: with 202,
  when a job may be done; with 301, when to follow. `retry-after-ms` (OpenAI, Azure OpenAI) and
  `x-ms-retry-after-ms` (Azure: Cosmos DB and others) are in milliseconds and more precise, so they
  take precedence, and the larger of the two counts. `X-RateLimit-Retry-After` (MailerLite classic,
  API rate limits) comes with every response, so it is read only if the others are missing.
- `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers-11:
  `"default";r=0;t=30` and `"default";q=100;w=60`; until -07 `limit=100, remaining=0, reset=30` and
  `100;w=60`; until -06 `RateLimit-Limit` and so on). Quotas of concurrent requests are ignored:
  they refill when other requests end, not at a time.
- `...-Limit...`, `...-Remaining...` and `...-Reset...` whose other words are equal (see
  `_field_names.py`): GitHub, GitLab, X, OpenAI, Groq, Discord, Anthropic, Kong, Cerebras, Mistral
  (`x-ratelimit-remaining-req-minute`; `x-ratelimitbysize-...` are tokens), HubSpot (API usage
  details), Akamai (`X-RateLimit-Next`, when the next request may be made). A value of -1 means
  none: Azure sends it, with a reset of 0, for a quota that a deployment does not have.
- `anthropic-priority-...`: the remaining amount of the priority tier. The server still serves calls
  beyond it, so they do not wait.
- `anthropic-ratelimit-unified-...`: the windows of a subscription, of 5 hours and 7 days. They come
  with every response; calls wait only for the end of one whose `-status` is `rejected`.
- `X-Shopify-Shop-Api-Call-Limit: 32/40` (REST Admin API): a leaky bucket.
- `x-amzn-RateLimit-Limit: 0.0055` (Amazon's Selling Partner API): calls per second.
- `x-should-retry: false` (OpenAI, Anthropic; their SDKs read it): the call must not be retried.
- JSON bodies of refusals: see `_refusal_body.py`.

Binance's `X-MBX-USED-WEIGHT-1M` needs a limit that no response contains: use `advise=`.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING

from aioapiqueue.integrations._advice import Advice, shortened
from aioapiqueue.integrations._field_names import LONGEST_NAME, MILLISECONDS, parse_field_name
from aioapiqueue.integrations._header_values import ServerClock, Values, number
from aioapiqueue.integrations._quotas import Groups, read_quotas
from aioapiqueue.integrations._refusal_body import MAX_BODY, RefusalBody, read_body
from aioapiqueue.spi import CALLS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from aioapiqueue.integrations._quotas import ReportedQuotas

_OVERLOADED = 529
"""An unregistered status, which Anthropic's API sends with an `overloaded_error`."""
_BANNED = HTTPStatus.IM_A_TEAPOT
"""Binance sends it, with `Retry-After`, to clients that continue after a 429."""
_THROTTLED = frozenset({HTTPStatus.TOO_MANY_REQUESTS, _BANNED, _OVERLOADED})
_REFUSALS = _THROTTLED | {HTTPStatus.FORBIDDEN, HTTPStatus.SERVICE_UNAVAILABLE}
"""The last two mean that the call was throttled only if its headers or its body show it."""
_JSON = re.compile(
    r"[ \t]*(?:application|text)/(?:[a-z0-9._-]+\+)?json[ \t]*(?:;.*)?", re.IGNORECASE
)


_NOTHING = Advice()
_NO_BODY = RefusalBody()


def reads_body(status: int, headers: Iterable[tuple[str, str]]) -> bool:
    """Return whether `read_advice` needs the body of a response.

    `read_advice` needs the JSON of a refusal (403, 418, 429, 503, 529) of at most `MAX_BODY`
    bytes. If the length is not declared, stop reading after `MAX_BODY` bytes, and pass no body.

    >>> reads_body(429, [("Content-Type", "application/json"), ("Content-Length", "500")])
    True

    Args:
        status: status of the response.
        headers: headers of the response, as pairs, in any case.
    """
    if status not in _REFUSALS:
        return False
    is_json = False
    for name, value in headers:
        field = name.lower()
        if field == "content-type":
            is_json = _JSON.fullmatch(value) is not None
        elif field == "content-length":
            length = number(value)
            if length is None or length > MAX_BODY:
                return False
    return is_json


def read_advice(
    status: int,
    headers: Iterable[tuple[str, str]],
    *,
    now: float,
    max_hold: float = 3600.0,
    costs: Mapping[str, float] | None = None,
    body: bytes | None = None,
    clock: ServerClock | None = None,
) -> Advice:
    """Read the rate limit headers of a response. Never raises, whatever the server sends.

    A response is throttled if its status is 429, 418 (Binance) or 529 (Anthropic, overloaded), 503
    with a retry time, or 403 with a retry time or nothing remaining (GitHub). The hold is the time
    that the response names, else the reset of the quota that the call exceeded.

    Other responses hold only if nothing remains of a quota that `costs` does not count, because any
    call may need that quota. If headers contradict each other, the smallest remaining amount and
    the longest hold count.

    >>> advice = read_advice(429, [("Retry-After", "30")], now=0)
    >>> advice.throttled, advice.hold
    (True, 30.0)
    >>> read_advice(200, [("RateLimit", '"default";r=7;t=30')], now=0).remaining
    (Quota(unit='calls', remaining=7.0, reset=30.0, limit=None, period=None),)

    Args:
        status: status of the response.
        headers: headers of the response, as pairs, in any case; names may repeat.
        now: current time in seconds since 1970.
        max_hold: longest hold in seconds; longer ones are cut. Default: 3600.
        costs: what the call was charged, by unit. Default: one call.
        body: decoded body of a refusal, if it was read (see `reads_body`). Default: None.
        clock: clock of the server, kept between responses. Default: None; times are relative to
            the `Date` of the response, and up to a second late.
    """
    fields: dict[str, list[str]] = {}
    groups: Groups = {}
    for name, value in headers:
        # Checked here: `parse_field_name` has a cache, which long names must not fill.
        if len(name) > LONGEST_NAME:
            continue
        field = parse_field_name(name)
        if field is None:
            continue
        if field.quota:
            groups.setdefault(field.quota, []).append((field, value))
        else:
            fields.setdefault(field.kind, []).append(value)
    refusing = status in _REFUSALS
    # Most responses end here, and nothing is parsed.
    if not groups and not refusing:
        return _NOTHING
    # A malformed age counts as none.
    age = number("".join(fields.get("age", ())[-1:])) or 0.0
    values = Values(now, fields.get("date", ()), age, clock)
    # The quotas in a cached response are out of date.
    quotas = read_quotas({} if age > 0 else groups, values)
    refusal = read_body(body, values) if refusing and body else _NO_BODY
    refused = refusing and (refusal.refused or _forbids_retry(fields))
    # A permanent refusal slows no other call: waiting does not help.
    throttled = refusing and not refused and _is_throttled(status, fields, quotas, refusal)
    hold = None
    if throttled:
        hold = _stated_hold(fields, refusal, values)
        if hold is None:
            hold = _hold_of_refusal(quotas, costs or {})
    elif not refused:
        hold = _hold_of_uncounted(quotas, costs or {})
    limits = tuple(dict.fromkeys([*quotas.limits, *refusal.limits]))
    advice = Advice(throttled, hold, tuple(quotas.all), limits, refused, values.malformed)
    return shortened(advice, max_hold)


def _forbids_retry(fields: dict[str, list[str]]) -> bool:
    return "false" in (value.strip(" \t").lower() for value in fields.get("x-should-retry", ()))


def _is_throttled(
    status: int, fields: dict[str, list[str]], quotas: ReportedQuotas, refusal: RefusalBody
) -> bool:
    if status in _THROTTLED:
        return True
    # The status is 403 or 503.
    if not fields.keys().isdisjoint(("retry-after", *MILLISECONDS)) or refusal.delay is not None:
        return True
    return status == HTTPStatus.FORBIDDEN and (
        refusal.limited
        or any(one.remaining is not None and one.remaining < 1 for one in quotas.needed)
    )


def _stated_hold(
    fields: dict[str, list[str]], refusal: RefusalBody, values: Values
) -> float | None:
    """Return the hold in seconds that the response states, or None."""
    # Read even if a header in milliseconds takes precedence, so that a malformed value is noted.
    hold = values.wait(fields.get("retry-after", ()))
    # Read separately: they belong to two services, so two different values are not malformed.
    found = [values.read(fields.get(name, ()), number) for name in MILLISECONDS]
    milliseconds = [one for one in found if one is not None]
    if milliseconds:
        return max(milliseconds) / 1000
    if hold is None:
        hold = refusal.delay
    if hold is None:
        hold = values.wait(fields.get("ratelimit-retry-after", ()))
    return hold


def _hold_of_refusal(quotas: ReportedQuotas, costs: Mapping[str, float]) -> float | None:
    """Return the seconds until the reset of the quota that the call exceeded, or None."""
    waits: list[float] = [] if quotas.rejected is None else [quotas.rejected]
    shares: list[tuple[float, float]] = []
    for quota in quotas.needed:
        left, reset = quota.remaining, quota.reset
        if left is None or reset is None:
            continue
        # Exceeded if less is left than the call needs, which may be thousands of tokens.
        needed = costs.get(quota.unit, 1)
        if left < needed:
            waits.append(reset)
        elif quota.unit != CALLS and quota.unit not in costs and quota.limit:
            # The reset is negative, so that `min` picks the latest one among equal shares.
            shares.append((left / quota.limit, -reset))
    if waits:
        return max(waits)
    # The cost in these units is unknown. The emptiest quota is the likeliest to be exceeded.
    share, reset = min(shares, default=(1.0, 0.0))
    if share < 1:  # an unused quota was not exceeded
        return -reset
    if any(quota.remaining is not None for quota in quotas.needed):
        return None  # another limit was exceeded, such as GitHub's secondary limits
    resets = [quota.reset for quota in quotas.needed if quota.reset is not None]
    return max([*quotas.resets, *resets], default=None)


def _hold_of_uncounted(quotas: ReportedQuotas, costs: Mapping[str, float]) -> float | None:
    """Return the seconds until the reset of an exhausted quota that the queue does not count."""
    return max(
        (
            quota.reset
            for quota in quotas.needed
            if quota.unit != CALLS and quota.unit not in costs
            if quota.remaining is not None and quota.remaining < 1 and quota.reset is not None
        ),
        default=None,
    )
