"""What a response's status and headers ask of its client. Pure: no clock, no client library.

How a time is read, wherever it stands, since no two services agree:

- a number: up to 30 years are seconds from now; what would be a date of this era is one, in seconds
  or in milliseconds since 1970;
- durations (`"20ms"`, `"6m0s"`), HTTP dates (RFC 9110) and ISO dates (RFC 3339).

Dates are compared with the response's own `Date` (and `Age`): the two clocks may differ. Where that
makes no sense, as with a `Date` of 1970, they are compared with the clock here.

Which fields count:

- `Retry-After`, of a response that pushes back, or one that says that nothing remains. On others it
  means something else: on 202, when a job may be done; on 301, when to follow. `retry-after-ms`
  (OpenAI, Azure) says it in milliseconds, more precisely: where it makes sense, it counts.
- `RateLimit` (draft-ietf-httpapi-ratelimit-headers-11: `"default";r=0;t=30`; until -07:
  `limit=100, remaining=0, reset=30`). Quotas of concurrent requests, as told by `RateLimit-Policy`,
  are left out: not time refills them, but the end of other requests.
- Pairs of a `...-Remaining...` and a `...-Reset...` that are named alike: `X-RateLimit-Remaining`
  (GitHub), `RateLimit-Remaining` (GitLab, and the IETF draft until -06), `x-rate-limit-remaining`
  (X), `x-ratelimit-remaining-tokens` (OpenAI), `x-ratelimit-reset-after` (Discord),
  `anthropic-ratelimit-requests-remaining`. What is -1 there was not given (Azure sends it for the
  quota that a deployment does not have). Of `anthropic-ratelimit-unified-*` nothing counts: those
  are a subscription's windows of 5 hours and 7 days, whose end is not when the next call may go.
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
_LONGEST_FIELD = 8192

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
"""What remains of a quota, and the seconds until it is full again; None where it was not said."""


@dataclass(frozen=True, slots=True)
class Advice:
    """What a response asks for.

    Attributes:
        throttled: the other side pushed back.
        hold: seconds for which nothing should be sent; None: it said no time.
        remaining: calls (or tokens) left, of whatever has least left; None: it did not say.
        malformed: something in it makes no sense, or is longer than `max_hold` and was cut.
    """

    throttled: bool = False
    hold: float | None = None
    remaining: float | None = None
    malformed: bool = False


def read_advice(
    status: int, headers: Iterable[tuple[str, str]], *, now: float, max_hold: float = 3600.0
) -> Advice:
    """Read what a response asks for. Whatever the other side sends, this raises nothing.

    Push-back is 429; 529, by which Anthropic's API says that it is overloaded; 503 with
    `Retry-After` (without, it is a failure like another); and 403 with `Retry-After` or with
    nothing remaining, which is how GitHub says that a limit is used up.

    Of values that contradict each other, those which keep the other side in peace count: the least
    remaining, the longest hold.

    >>> read_advice(429, [("Retry-After", "30")], now=0)
    Advice(throttled=True, hold=30.0, remaining=None, malformed=False)
    >>> read_advice(200, [("RateLimit", '"default";r=0;t=30')], now=0)
    Advice(throttled=False, hold=30.0, remaining=0.0, malformed=False)

    Args:
        status: of the response.
        headers: of the response, as pairs, in any case; a name may come more than once.
        now: seconds since 1970.
        max_hold: the longest hold that is believed, in seconds; longer ones are cut to it.
    """
    return _Reading(headers, now).advice(status, max_hold)


class _Reading:
    """The fields of one response, and whether any of them was malformed."""

    def __init__(self, headers: Iterable[tuple[str, str]], now: float) -> None:
        self._fields: defaultdict[str, list[str]] = defaultdict(list)
        self._quotas: defaultdict[tuple[str, ...], defaultdict[str, list[str]]]
        self._quotas = defaultdict(lambda: defaultdict(list))
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
                rest = (word for word in words if word not in kinds)
                self._quotas[quota[1], *rest][kind].append(value)

    def advice(self, status: int, max_hold: float) -> Advice:
        # What a cache has kept says nothing about now.
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
                # Where something remains, its reset is not what is being waited for.
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
                said = [(of.get("remaining"), of.get("reset"))]
            else:
                concurrent = self._concurrent() if items else ()
                said = [(of.get("r"), of.get("t")) for name, of in items if name not in concurrent]
        except ValueError:
            self._malformed = True
            return []
        quotas: list[Quota] = []
        for remaining, reset in said:
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
                # Seconds from now are better than a date: no clock is in it.
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
        """Read a field that should come once; note what is odd about it."""
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
        """Return the seconds from now to the time that `text` means; None: it means none."""
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
        """Return the seconds until `date`, by the other side's clock if that makes sense."""
        here = date - self._now
        if self._date is None:
            return here
        there = date - self._date - self._age
        return here if abs(here) <= _DAY < abs(there) else there


def _items(values: list[str]) -> list[tuple[Any, dict[str, Any]]]:
    """Return the members of a list that came in so many lines: names and their parameters."""
    items: list[tuple[Any, dict[str, Any]]] = _parsed(values, "list")
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
    """Return a plain number, at least 0; no other says how many, or how long."""
    if len(text) > _LONGEST_VALUE:
        return None
    # Around a value HTTP allows these two. `strip()` takes off more than `float()` bears ("\x1c").
    digits = text.strip(" \t")
    return float(digits) if _NUMBER.fullmatch(digits) else None


def _date(text: str) -> float | None:
    """Return a date of RFC 9110 or RFC 3339 as seconds since 1970."""
    if len(text) > _LONGEST_VALUE or not text.isascii():  # the parser takes digits of any script
        return None
    try:
        if _ISO.fullmatch(text):
            date = datetime.fromisoformat(text)
        else:
            date = parsedate_to_datetime(text)
            # The parser also takes dates whose zone it does not understand.
            if date.tzinfo is None and not _ASCTIME.fullmatch(text):
                return None
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
