"""What a response's status and headers ask of its client. Pure: no clock, no client library.

How a time is read, in whatever field it stands, since no two services agree:

- a number of up to 30 years is seconds from now; a larger one is a date, in seconds or in
  milliseconds since 1970;
- durations (`"20ms"`, `"6m0s"`), HTTP dates (RFC 9110) and ISO dates (RFC 3339).

Dates are compared with the response's own `Date` (and `Age`), since the two clocks may differ.
Where the `Date` cannot be right, such as one of 1970, they are compared with the local clock.

Which fields count:

- `Retry-After`, of a response that pushes back, or by which nothing remains. On others it means
  something else: on 202, when a job may be done; on 301, when to follow. `retry-after-ms` (OpenAI,
  Azure) is the same in milliseconds, and more precise: where it is a number, it counts.
- `RateLimit` (draft-ietf-httpapi-ratelimit-headers-11: `"default";r=0;t=30`; until -07:
  `limit=100, remaining=0, reset=30`). Quotas of concurrent requests, by `RateLimit-Policy`, are
  left out: they are refilled by the end of other requests, not by time.
- Pairs of a `...-Remaining...` and a `...-Reset...` that are named alike: `X-RateLimit-Remaining`
  (GitHub), `RateLimit-Remaining` (GitLab, and the IETF draft until -06), `x-rate-limit-remaining`
  (X), `x-ratelimit-remaining-tokens` (OpenAI), `x-ratelimit-reset-after` (Discord),
  `anthropic-ratelimit-requests-remaining`. A value of -1 there is none (Azure sends it for a quota
  that a deployment does not have). `anthropic-ratelimit-unified-*` does not count: those are a
  subscription's windows of 5 hours and 7 days, whose end is not when the next call may start.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeAlias

try:
    import http_sf
except ImportError as error:
    raise ImportError(
        "reading the headers of rate limits needs http-sf, which comes with the extra of the "
        'client: pip install "aioapiqueue[aiohttp]", "aioapiqueue[httpx]" or "aioapiqueue[httpx2]"',
        name=error.name,
    ) from error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Advice", "read_advice"]

_DAY = 86_400.0
_YEARS = 1e9
"""Numbers below are seconds (30 years of them); above, a date."""
_MILLISECONDS = 1e11
"""Dates above are in milliseconds: in seconds, it would be the year 5138."""
_LONGEST_VALUE = 64
"""Characters. Any number, duration or date is shorter."""
_LONGEST_FIELD = 8192
"""Characters. A list of real quotas is far shorter; to parse this much takes milliseconds."""

_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]*)?")
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ns|us|µs|ms|s|m|h|d)")
_DURATION = re.compile(rf"(?:{_PART.pattern})+")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600, "d": _DAY}
_ISO = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T.*")
_ASCTIME = re.compile(r"[A-Z][a-z]{2} [A-Z][a-z]{2} [ 0-9][0-9] [0-9:]{8} [0-9]{4}")
_FIELDS = {"retry-after", "retry-after-ms", "ratelimit", "ratelimit-policy", "date", "age"}
_QUOTA = re.compile(r"(.*)rate-?limit-(.+)")
_NOT_GIVEN = "-1"
_OVERLOADED = 529
"""No registered status: Anthropic's API sends it, with an `overloaded_error`, and others do."""

Quota: TypeAlias = "tuple[float | None, float | None]"
"""What remains of a quota, and the seconds until its reset; None where the server sent nothing."""


@dataclass(frozen=True, slots=True)
class Advice:
    """What a response asks for.

    Attributes:
        throttled: the other side pushed back.
        hold: seconds for which nothing should be sent; None if it names no time.
        remaining: calls (or tokens) left of the quota that has least left; None if it names none.
        malformed: something in it cannot be read, or is longer than `max_hold` and was cut.
    """

    throttled: bool = False
    hold: float | None = None
    remaining: float | None = None
    malformed: bool = False


def read_advice(
    status: int, headers: Iterable[tuple[str, str]], *, now: float, max_hold: float = 3600.0
) -> Advice:
    """Read what a response asks for. This raises nothing, whatever the server sends.

    Push-back is 429; 529 (Anthropic's API is overloaded); 503 with `Retry-After` (without, it is a
    failure like others); and 403 with `Retry-After` or with nothing remaining (GitHub's answer when
    a limit is used up).

    Of values that contradict each other, the more careful counts: the least remaining, the longest
    hold.

    >>> read_advice(429, [("Retry-After", "30")], now=0)
    Advice(throttled=True, hold=30.0, remaining=None, malformed=False)
    >>> read_advice(200, [("RateLimit", '"default";r=0;t=30')], now=0)
    Advice(throttled=False, hold=30.0, remaining=0.0, malformed=False)

    Args:
        status: of the response.
        headers: of the response, as pairs, in any case; a name may come more than once.
        now: seconds since 1970.
        max_hold: the longest hold that is believed, in seconds; longer ones are cut to it. Default:
            3600.
    """
    return _Reading(headers, now).advice(status, max_hold)


class _Reading:
    """The fields of one response, and whether any of them was malformed."""

    def __init__(self, headers: Iterable[tuple[str, str]], now: float) -> None:
        self._fields: defaultdict[str, list[str]] = defaultdict(list)
        self._quotas: dict[tuple[str, ...], defaultdict[str, list[str]]] = {}
        for name, value in headers:
            self._collect(name.lower(), value)
        self._now = now
        self._date = _date("".join(self._fields["date"][-1:]))
        self._age = _number("".join(self._fields["age"][-1:])) or 0.0
        self._malformed = False

    def _collect(self, name: str, value: str) -> None:
        if name in _FIELDS:
            self._fields[name].append(value)
        elif "limit-" in name and (quota := _QUOTA.fullmatch(name)) is not None:
            words = quota[2].split("-")
            if words[0] == "unified" or value.strip(" \t") == _NOT_GIVEN:
                return
            kinds = [kind for kind in ("remaining", "reset", "after") if kind in words]
            if kinds and kinds != ["after"]:
                kind = "remaining" if kinds[0] == "remaining" else "-".join(kinds)
                of = (quota[1], *(word for word in words if word not in kinds))
                self._quotas.setdefault(of, defaultdict(list))[kind].append(value)

    def advice(self, status: int, max_hold: float) -> Advice:
        # What a cache has kept is no longer true.
        quotas = [] if self._age > 0 else [*self._of_rate_limit(), *self._of_pairs()]
        remaining = min((left for left, _ in quotas if left is not None), default=None)
        spent = remaining is not None and remaining < 1
        retry_after, exactly = self._fields["retry-after"], self._fields["retry-after-ms"]
        named = bool(retry_after or exactly)
        throttled = (
            status in (HTTPStatus.TOO_MANY_REQUESTS, _OVERLOADED)
            or (status == HTTPStatus.SERVICE_UNAVAILABLE and named)
            or (status == HTTPStatus.FORBIDDEN and (named or spent))
        )
        hold = None
        if throttled or spent:
            hold = self._read(retry_after, self._seconds)
            if (milliseconds := self._read(exactly, _number)) is not None:
                hold = milliseconds / 1000
            if hold is None:
                # Where something remains, its reset does not matter.
                waits = [wait for of, wait in quotas if (throttled if of is None else of < 1)]
                hold = max((wait for wait in waits if wait is not None), default=None)
            hold = self._within(hold, max_hold)
        return Advice(throttled, hold, remaining, self._malformed)

    def _of_rate_limit(self) -> list[Quota]:
        field = self._fields["ratelimit"]
        try:
            try:
                items = _items(field)
            except http_sf.StructuredFieldError:
                of = {key: value for key, (value, _) in _parsed(field, "dictionary").items()}
                found = [(of.get("remaining"), of.get("reset"))]
            else:
                concurrent = self._concurrent() if items else ()
                found = [(of.get("r"), of.get("t")) for name, of in items if name not in concurrent]
        except ValueError:
            self._malformed = True
            return []
        quotas: list[Quota] = []
        for remaining, reset in found:
            left = self._read([str(remaining)], _number)
            if left is not None:
                wait = self._read([] if reset is None else [str(reset)], self._seconds)
                quotas.append((left, wait))
        return quotas

    def _concurrent(self) -> set[object]:
        """Return the names of the quotas of concurrent requests."""
        try:
            policies = _items(self._fields["ratelimit-policy"])
        except ValueError:
            self._malformed = True
            return set()
        return {name for name, of in policies if of.get("qu") == "concurrent-requests"}

    def _of_pairs(self) -> list[Quota]:
        return [
            (
                self._read(of["remaining"], _number, pick=min),
                # Seconds from now are better than a date, which depends on two clocks.
                self._read(of["reset-after"] or of["reset"], self._seconds),
            )
            for of in self._quotas.values()
        ]

    def _read(
        self,
        values: list[str],
        read: Callable[[str], float | None],
        *,
        pick: Callable[[list[float]], float] = max,
    ) -> float | None:
        """Read a field that should come once; note if it is malformed, or comes with two values."""
        distinct = dict.fromkeys(values)
        found = [number for value in distinct if (number := read(value)) is not None]
        if len(distinct) > 1 or len(found) < len(distinct):
            self._malformed = True
        return pick(found) if found else None

    def _within(self, hold: float | None, max_hold: float) -> float | None:
        if hold is None or hold < -_DAY:
            self._malformed |= hold is not None
            return None
        if hold > max_hold:
            self._malformed = True
        return min(max(hold, 0.0), max_hold)

    def _seconds(self, text: str) -> float | None:
        """Return the seconds from now to the time in `text`, or None if it is malformed."""
        number = _number(text)
        if number is not None:
            if number < _YEARS:
                return number
            return self._until(number if number < _MILLISECONDS else number / 1000)
        if len(text) > _LONGEST_VALUE:
            return None
        text = text.strip(" \t")
        if _DURATION.fullmatch(text):
            return sum(float(count) * _UNITS[unit] for count, unit in _PART.findall(text))
        date = _date(text)
        return None if date is None else self._until(date)

    def _until(self, date: float) -> float:
        """Return the seconds until `date`, by the server's clock unless that cannot be right."""
        here = date - self._now
        if self._date is None:
            return here
        there = date - self._date - self._age
        return here if abs(here) <= _DAY < abs(there) else there


def _items(values: list[str]) -> list[tuple[Any, dict[str, Any]]]:
    """Parse a list, of which each value is one line; return its names and their parameters."""
    items: list[tuple[Any, dict[str, Any]]] = _parsed(values, "list") if values else []
    if any(isinstance(name, list) for name, _ in items):
        raise ValueError("no field that is read here has an inner list")
    return items


def _parsed(values: list[str], kind: str) -> Any:  # noqa: ANN401 - as the library has it
    """Parse a structured field (RFC 9651).

    Raises:
        ValueError: it is malformed, or too long to look into.
    """
    if sum(map(len, values)) > _LONGEST_FIELD:
        raise ValueError(f"a field of more than {_LONGEST_FIELD} characters")
    if not all(value.strip() for value in values):
        raise ValueError("an empty field")
    return http_sf.parse(", ".join(values).encode("ascii"), tltype=kind)


def _number(text: str) -> float | None:
    """Return a plain number of at least 0, or None: others are no counts and no times."""
    if len(text) > _LONGEST_VALUE:
        return None
    # HTTP allows these two around a value. A bare `strip()` would remove more, such as "\x1c".
    digits = text.strip(" \t")
    return float(digits) if _NUMBER.fullmatch(digits) else None


def _date(text: str) -> float | None:
    """Return a date of RFC 9110 or RFC 3339 as seconds since 1970, or None if it is malformed."""
    if len(text) > _LONGEST_VALUE or not text.isascii():  # the parser accepts digits of any script
        return None
    try:
        if _ISO.fullmatch(text):
            date = datetime.fromisoformat(text)
        else:
            date = parsedate_to_datetime(text)
            # The parser also accepts dates whose zone it does not understand.
            if date.tzinfo is None and not _ASCTIME.fullmatch(text):
                return None
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
