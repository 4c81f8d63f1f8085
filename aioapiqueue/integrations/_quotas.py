"""The quotas of the server, read from the headers of a response. Pure: no clock, no client."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

try:
    import http_sf
except ImportError as error:
    raise ImportError(
        "reading rate limit headers needs http-sf, which comes with the extra of your client: pip "
        'install "aioapiqueue[aiohttp]", "aioapiqueue[httpx]" or "aioapiqueue[httpx2]"',
        name=error.name,
    ) from error

from aioapiqueue import Rate
from aioapiqueue.integrations._advice import Quota
from aioapiqueue.integrations._field_names import (
    POLICIES,
    PRIORITY,
    STANDARD,
    UNIFIED,
    Field,
    parse_unit,
)
from aioapiqueue.integrations._header_values import count, duration, number
from aioapiqueue.spi import CALLS, checks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aioapiqueue import Limit
    from aioapiqueue.integrations._header_values import Values

Groups = dict[str, list[tuple[Field, str]]]
"""The headers of each quota with their values, in the order of the response."""

_LONGEST_FIELD = 8192
"""Most characters of a structured field. Real fields are far shorter; this takes milliseconds."""
_LONGEST_CACHED = 512
"""Most characters of policies whose parsed form is cached."""
_UNKNOWN = "-1"
_USED_OF = re.compile(r"([0-9]{1,15})/([0-9]{1,15})")
_SHOPIFY_SECONDS = 20.0
"""Shopify's bucket of 40 leaks 2 calls per second, one of 80 leaks 4: both are empty in 20 s."""


@dataclass(slots=True)
class ReportedQuotas:
    """The quotas in the headers of one response.

    Attributes:
        all: every quota with a remaining amount or a limit, in the order of the headers.
        needed: those without which the server refuses a call.
        resets: resets in seconds of quotas that state nothing else.
        rejected: seconds until the exhausted windows of a subscription open. None: all are open.
        limits: limits that are stated completely, with amount and period.
    """

    all: list[Quota] = field(default_factory=list)
    needed: list[Quota] = field(default_factory=list)
    resets: list[float] = field(default_factory=list)
    rejected: float | None = None
    limits: dict[Limit, None] = field(default_factory=dict)

    def add(self, quota: Quota, *, needed: bool = True) -> None:
        """Add a quota."""
        # A quota of size 0 does not exist: the server has just served a call.
        if quota.limit == 0 or (quota.remaining is None and quota.limit is None):
            if quota.reset is not None:
                self.resets.append(quota.reset)
            return
        self.all.append(quota)
        if needed:
            self.needed.append(quota)
            self.state(quota.limit, quota.period, quota.unit)

    def state(self, limit: float | None, period: float | None, unit: str) -> None:
        """Add a limit if it is complete and valid."""
        rate = rate_of(limit, period, unit)
        if rate is not None:
            self.limits[rate] = None


class _RateLimitPolicy(NamedTuple):
    """A quota of `RateLimit-Policy`. The unit is None if unknown, or for concurrent requests."""

    name: Any
    limit: float
    period: float | None
    unit: str | None


def rate_of(limit: float | None, period: float | None, unit: str) -> Rate | None:
    """Return the rate of `limit` per `period` seconds, with all of it as burst.

    Return None if it is incomplete or invalid.
    """
    if not limit or period is None:
        return None
    whole = int(limit) if limit == int(limit) else limit
    try:
        return Rate(whole, per=period, burst=max(1, whole), unit=unit)
    except ValueError:  # such as an amount above the largest that a queue can count
        return None


def read_quotas(groups: Groups, values: Values) -> ReportedQuotas:
    """Return the quotas in these headers. Malformed ones are ignored, and noted in `values`."""
    return _QuotaReader(groups, values).quotas


class _QuotaReader:
    def __init__(self, groups: Groups, values: Values) -> None:
        self._values = values
        self._policies: Sequence[_RateLimitPolicy] = ()
        self._matched: set[int] = set()
        """Indices of the policies whose quota has been read from other fields."""
        self.quotas = ReportedQuotas()
        # First: other headers find their periods in the policies.
        structured = _by_kind(groups.get(POLICIES, ()))
        if "policies" in structured:
            self._policies = self._read_policies(structured["policies"])
        for name, fields in groups.items():
            if name == POLICIES:
                if "items" in structured:
                    self._read_items(structured["items"])
            elif name.startswith(UNIFIED):
                self._read_window(name, _by_kind(fields))
            else:
                unknown = [one.kind for one, text in fields if _is_unknown(text)]
                # Usually, nothing is unknown, and nothing is copied.
                known = [one for one in fields if not _is_unknown(one[1])] if unknown else fields
                given = _by_kind(known)
                if "remaining" in unknown and "remaining" not in given:
                    # The reset belongs to a quota that does not exist.
                    given = {kind: given[kind] for kind in given if kind == "limit"}
                self._read_group(name, fields[0][0], given)
        # A policy without a remaining amount still states a limit.
        for place, policy in enumerate(self._policies):
            if policy.unit is not None and place not in self._matched:
                self.quotas.add(Quota(policy.unit, limit=policy.limit, period=policy.period))

    # Headers with one value each.

    def _read_group(self, name: str, first: Field, given: dict[str, list[str]]) -> None:
        if "rate" in given:
            self._read_rate(given["rate"])
        elif "used-of" in given:
            self._read_used_of(given["used-of"])
        else:
            needed = not name.startswith(PRIORITY)
            self.quotas.add(self._quota(name, first, given), needed=needed)

    def _quota(self, name: str, first: Field, given: dict[str, list[str]]) -> Quota:
        values = self._values
        remaining = values.read(given.get("remaining", ()), _counted, pick=min)
        limit, period = None, first.period
        if "limit" in given:
            limit, stated = self._read_limit(name, given["limit"])
            # The name of the header takes precedence over its value.
            period = period or stated
        if "interval" in given and (span := values.read(given["interval"], number)):
            period = min(span / 1000, checks.LONGEST)
        # Seconds from now are more precise than a date, which depends on two clocks.
        resets = given.get("reset-after") or given.get("reset") or given.get("next")
        reset = values.wait(resets) if resets else None
        return Quota(first.unit, remaining, reset, limit, period)

    def _read_limit(self, name: str, texts: Sequence[str]) -> tuple[float | None, float | None]:
        """Return the size and the period of a quota.

        A few services send more than a number: Docker Hub `100;w=21600`; Envoy (third IETF draft)
        `100, 100;w=60, 1000;w=3600`, the size and all policies; AspNetCoreRateLimit `1m`, which is
        the period.
        """
        plain = [text for text in texts if number(text) is not None]
        limit = self._values.read(plain, count, pick=min)
        period = None
        for text in texts:
            if text in plain:
                continue
            if (span := duration(text)) is not None:
                period = span or None  # "0s" is no period
                continue
            policies = self._read_policies([text])
            if not policies:
                continue
            # The first item of Envoy's form is the size itself.
            limit = policies[0].limit
            with_periods = [policy for policy in policies if policy.period is not None]
            period = next((one.period for one in with_periods if one.limit == limit), None)
            for policy in with_periods:
                self.quotas.state(policy.limit, policy.period, CALLS)
        if name == STANDARD and limit is not None and period is None:
            period = self._period_of(limit)
        return limit, period

    def _read_rate(self, texts: Sequence[str]) -> None:
        """Read a rate in calls per second, without its burst (Amazon's SP-API)."""
        rate = self._values.read(texts, number, pick=min)
        if not rate:
            return
        try:
            self.quotas.limits[Rate(1, per=1 / rate)] = None
        except ValueError:
            self._values.malformed = True

    def _read_used_of(self, texts: Sequence[str]) -> None:
        """Read the level and the size of a leaky bucket (Shopify)."""
        distinct = list(dict.fromkeys(texts))
        found = [match for text in distinct if (match := _USED_OF.fullmatch(text.strip(" \t")))]
        pairs = [(float(match[1]), float(match[2])) for match in found]
        # A size of 0 is malformed.
        pairs = [(used, size) for used, size in pairs if size]
        if len(distinct) > 1 or len(pairs) < len(distinct):
            self._values.malformed = True
        if pairs:
            used, size = max(pairs, key=lambda pair: pair[0] / pair[1])
            used = min(used, size)
            reset = _SHOPIFY_SECONDS * used / size
            self.quotas.add(Quota(CALLS, size - used, reset, size, _SHOPIFY_SECONDS))

    def _read_window(self, name: str, given: dict[str, list[str]]) -> None:
        """Read when an exhausted window of a subscription opens (Anthropic)."""
        # Most windows are open, so a reset alone holds nothing. The `overage` window is rejected
        # unless the user has paid for it.
        if "overage" in name or "rejected" not in map(str.strip, given.get("status", ())):
            return
        reset = self._values.wait(given.get("reset", ()))
        if reset is not None:
            self.quotas.rejected = max(reset, self.quotas.rejected or 0.0)

    # Structured fields.

    def _read_policies(self, texts: Sequence[str]) -> Sequence[_RateLimitPolicy]:
        try:
            return _policies(tuple(texts))
        except ValueError:
            self._values.malformed = True
            return ()

    def _period_of(self, limit: float) -> float | None:
        """Return the period of the policy with this size, and mark the policy as read."""
        for place, policy in enumerate(self._policies):
            if policy.limit == limit and policy.unit is not None:
                self._matched.add(place)
                return policy.period
        return None

    def _read_items(self, texts: Sequence[str]) -> None:
        try:
            try:
                items = _items(texts)
            except http_sf.StructuredFieldError:  # a dictionary until draft -07
                given = {key: value for key, (value, _) in _parsed(texts, "dictionary").items()}
                size = [str(given["limit"])] if "limit" in given else []
                limit = self._values.read(size, count)
                period = None if limit is None else self._period_of(limit)
                self._add_item(given.get("remaining"), given.get("reset"), CALLS, limit, period)
                return
        except ValueError:
            self._values.malformed = True
            return
        # An item and its policy have the same name.
        policies = {policy.name: place for place, policy in enumerate(self._policies)}
        for name, given in items:
            place = policies.get(name)
            if place is None:
                self._add_item(given.get("r"), given.get("t"), CALLS, None, None)
                continue
            self._matched.add(place)
            policy = self._policies[place]
            if policy.unit is not None:
                # The item has the remaining amount and the reset, its policy has the rest.
                parts = policy.unit, policy.limit, policy.period
                self._add_item(given.get("r"), given.get("t"), *parts)

    def _add_item(
        self, left: object, reset: object, unit: str, limit: float | None, period: float | None
    ) -> None:
        # The parsed value as text, for the bounds of `count`. A missing one is malformed.
        remaining = self._values.read([str(left)], count)
        if remaining is not None:
            wait = None if reset is None else self._values.wait([str(reset)])
            self.quotas.add(Quota(unit, remaining, wait, limit, period))


def _by_kind(fields: Sequence[tuple[Field, str]]) -> dict[str, list[str]]:
    given: dict[str, list[str]] = {}
    for one, value in fields:
        given.setdefault(one.kind, []).append(value)
    return given


def _is_unknown(text: str) -> bool:
    return "-1" in text and text.strip(" \t") == _UNKNOWN


def _counted(text: str) -> float | None:
    """Return an amount, which may have parameters (Docker Hub: `76;w=21600`), or None."""
    if (value := count(text)) is not None or ";" not in text:
        return value
    try:
        items = _items([text])
    except ValueError:
        return None
    return count(str(items[0][0])) if len(items) == 1 else None


def _policies(texts: tuple[str, ...]) -> Sequence[_RateLimitPolicy]:
    """Parse policies.

    Raises:
        ValueError: they are malformed.
    """
    # A server repeats its policies in each response, so they are parsed once, unless they are long.
    return (_cached_policies if sum(map(len, texts)) <= _LONGEST_CACHED else _parse_policies)(texts)


def _parse_policies(texts: tuple[str, ...]) -> Sequence[_RateLimitPolicy]:
    return tuple(_policy(name, given) for name, given in _items(texts))


_cached_policies = lru_cache(maxsize=64)(_parse_policies)


def _policy(name: Any, given: Mapping[str, Any]) -> _RateLimitPolicy:  # noqa: ANN401 - as the library has it
    """Return one policy. Until draft -07, its size stands in the place of its name.

    Raises:
        ValueError: the policy has no size.
    """
    size = count(str(given.get("q", name)))
    if size is None:
        raise ValueError(f"the policy has no quota size: {name!r:.40}")
    period = number(str(given["w"])) if "w" in given else None
    unit = str(given.get("qu", "requests"))
    known = None if unit == "concurrent-requests" else parse_unit(unit)
    seconds = period if period and period <= checks.LONGEST else None
    return _RateLimitPolicy(name, size, seconds, known)


def _items(values: Sequence[str]) -> list[tuple[Any, dict[str, Any]]]:
    """Return the names in a list and their parameters. Each value is one header line."""
    items: list[tuple[Any, dict[str, Any]]] = _parsed(values, "list") if values else []
    if any(isinstance(name, list) for name, _ in items):
        raise ValueError("unexpected inner list")
    return items


def _parsed(values: Sequence[str], kind: str) -> Any:  # noqa: ANN401 - as the library has it
    """Parse a structured field (RFC 9651).

    Raises:
        ValueError: it is malformed or too long.
    """
    if sum(map(len, values)) > _LONGEST_FIELD:
        raise ValueError(f"field longer than {_LONGEST_FIELD} characters")
    if not all(value.strip() for value in values):
        raise ValueError("empty field")
    # Errors of the parser and of `encode` are ValueErrors.
    return http_sf.parse(", ".join(values).encode("ascii"), tltype=kind)
