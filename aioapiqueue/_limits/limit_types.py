"""The kinds of limits: immutable, validated, and read from text."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass, fields
from functools import wraps
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, TypeVar

from aioapiqueue._limits.checks import LONGEST, positive, whole
from aioapiqueue._limits.grammar import (
    CALLS,
    EXAMPLES,
    MONEY,
    PERIODS,
    UNLIMITED,
    LimitTextError,
    check_unit,
    count_text,
    needs_burst,
    number_text,
    per_text,
    read,
    split,
    time_text,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from aioapiqueue._limits.grammar import Kind
    from aioapiqueue._limits.ramp import Ramp

__all__ = [
    "LearntRate",
    "as_limit",
    "parse_limits",
    "period_of",
    "rate_of",
    "unit_of",
]

L = TypeVar("L")
OnEmpty: TypeAlias = Literal["wait", "raise"]
"""What a call does for which a limit has no room."""


class _Validated:
    """Base class of limits: refuses invalid values, and compares and shows valid ones."""

    __slots__ = ()

    __dataclass_fields__: ClassVar[dict[str, Any]]
    """All values by name; set by `dataclass`."""

    # Written once here: a dataclass would make both for each class, at every import. A `LearntRate`
    # is not equal to a `Rate`, as it is optional for calls that do not name its unit.
    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())

    def _values(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in self.__dataclass_fields__)

    def __post_init__(self) -> None:
        try:
            self._check()
        except (TypeError, ValueError, OverflowError) as problem:
            kind = TypeError if isinstance(problem, TypeError) else ValueError
            # `_parse` finds `problem` in `__context__`, which `from None` only hides.
            raise kind(f"{self!r}: {problem}{self._remedy()}") from None

    def _check(self) -> None:
        """Refuse invalid values."""
        raise NotImplementedError

    def _remedy(self) -> str:
        """Return what to write instead of a type that is given a text, such as `Rate("10/s")`."""
        first = self._values()[0]
        return _remedy_for(first) if isinstance(first, str) else ""

    def __repr__(self) -> str:
        """Return what a dataclass would, without what few limits state."""
        values = dict(zip(self.__dataclass_fields__, self._values(), strict=True))
        for name, default in (("unit", CALLS), ("ramp", None), ("on_empty", "wait")):
            if name in values and values[name] == default:
                del values[name]
        shown = ", ".join(f"{name}={value!r}" for name, value in values.items())
        return f"{type(self).__qualname__}({shown})"

    def _or_raise(self, text: str) -> str:
        """Return the text of this limit with its last clause, from the text without that."""
        return f"{text} or raise" if raises(self) else text


def _remedy_for(text: str) -> str:
    try:
        limit = parse_limit(text)
    except ValueError:
        return ""
    return f': write ApiQueue("{text}") or {_call_of(limit)}'


def _call_of(limit: Limit) -> str:
    """Return the call that makes a limit, without arguments that are the defaults."""
    first, *rest = fields(limit)
    named = [(one.name, getattr(limit, one.name), one.default) for one in rest]
    shown = [f"{name}={value!r}" for name, value, default in named if value != default]
    return f"{type(limit).__name__}({', '.join([repr(getattr(limit, first.name)), *shown])})"


def _refuses_text(cls: type[L]) -> type[L]:
    """Have a type that needs several values refuse a single text, and name what to write."""
    # Python itself would only report that an argument is missing.
    plain: Callable[..., None] = cls.__init__

    @wraps(plain)
    def init(self: L, *args: object, **kwargs: object) -> None:
        if len(args) == 1 and isinstance(args[0], str) and not kwargs:
            made, first = f"{cls.__name__}({args[0]!r})", next(iter(cls.__annotations__))
            raise TypeError(f"{made}: {first} must be a number, not a string{_remedy_for(args[0])}")
        plain(self, *args, **kwargs)

    cls.__init__ = init  # type: ignore[assignment]  # it takes the same
    return cls


_UNSTATED = float("1")
"""The default of a burst: this very object, and no other 1, is a burst that nobody has written."""


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Rate(_Validated):
    """A rate: one call every `per / calls` seconds, or a token bucket of `burst` calls.

    Args:
        calls: number of calls (or of `unit`) in `per` seconds; above 0; may be a fraction.
        per: seconds, above 0; default 1.
        burst: calls that may start at once after an idle period. With 1, the default, calls are
            evenly spaced; more is a token bucket of that capacity (GCRA). A rate in `usd` needs it.
        unit: what the rate counts: `"calls"`, the default, or a name of lower-case letters, digits
            and `_`, which the `cost` of a call uses.
        ramp: a `Ramp`: the rate begins slowly, as in `"1000/min ramp 2x per 2min"`; default: None.
        on_empty: what a call does for which there is no room: `"wait"`, the default, or `"raise"`
            `LimitExceeded`, as in the text `"10/s or raise"`.

    Raises:
        ValueError: a value is zero, negative, infinite or NaN, `burst` is below 1, a number is
            above 1e15, or `per` or the interval is above 1e9 seconds; or `unit` is not such a
            name, or has another meaning in limits, such as `"min"`; or the floor of the ramp does
            not fit; or a rate in `usd` has no burst.
        TypeError: a value is not a number, `unit` is not a string, or `ramp` is not a `Ramp`.

    >>> Rate(10)                        # one call every 100 ms
    Rate(calls=10, per=1.0, burst=1)
    >>> Rate.parse("500/min").interval
    0.12
    >>> Rate.parse("30000 tokens/min burst 5000")
    Rate(calls=30000, per=60.0, burst=5000, unit='tokens')

    `str` returns a text that parses to an equal rate.
    """

    calls: float
    per: float = 1.0
    burst: float = _UNSTATED
    unit: str = CALLS
    _: KW_ONLY
    ramp: Ramp | None = None
    on_empty: OnEmpty = "wait"

    def _check(self) -> None:
        positive(self.calls, of="calls")
        positive(self.per, of="per", most=LONGEST)
        positive(self.burst, of="burst", least=1)
        # Of two valid values, the quotient may still be 0 or too large.
        positive(self.interval, of="the interval", most=LONGEST)
        check_unit(self.unit)
        if self.ramp is not None:
            _check_ramp(self.ramp, self)
        _check_on_empty(self.on_empty)
        if self.burst is _UNSTATED:
            if self.unit == MONEY:
                raise ValueError(needs_burst(self.calls, self.per, self._or_raise("")))
            object.__setattr__(self, "burst", 1)  # the only way in a frozen dataclass

    @property
    def interval(self) -> float:
        """Seconds from one call to the next."""
        return self.per / self.calls

    @classmethod
    def parse(cls, text: str) -> Rate:
        """Parse a rate such as `"10/s"`, `"7 per 2s"`, `"100ms"` or `"20/s burst 100"`.

        Args:
            text: calls per time, or the time from one call to the next.

        Raises:
            ValueError: the text is not a rate; the message quotes it.
        """
        try:
            limit = parse_limit(text)
        except LimitTextError as error:
            raise LimitTextError.of(text, error.reason, kind="rate") from None
        if not isinstance(limit, Rate):
            raise LimitTextError.of(text, f"it is {limit!r}", kind="rate")
        return limit

    def __str__(self) -> str:
        text = count_text(self.calls, self.unit) + per_text(self.per)
        if self.calls == 1 and self.per < 1 and (self.burst, self.unit) == (1, CALLS):
            text = time_text(self.per)  # "100ms", as one would write it
        if self.burst != 1 or self.unit == MONEY:
            text += f" burst {number_text(self.burst)}"
        if self.ramp is not None:
            text += f" {self.ramp}"
        return self._or_raise(text)


class LearntRate(Rate):
    """A rate that a server has stated, and no user has configured.

    It is as strict as a `Rate`, unless the server reports that more remains. A call whose cost does
    not name its unit is charged 0 instead of being refused (`Stats.unaccounted`), because its
    caller could not know that the unit counts.

    Args:
        details: as in `Rate`.
    """

    __slots__ = ()


@_refuses_text
@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Window(_Validated):
    """An exact sliding window: at most `calls` in any `per` seconds.

    All `calls` may start at once. If the server does not tolerate bursts, combine the window with a
    `Rate`. The window remembers each call within it.

    Args:
        calls: largest number of calls (or of `unit`), above 0; whole, unless the unit is `usd`.
        per: seconds, above 0. A call that started exactly `per` seconds ago no longer counts.
        unit: what the window counts, as in `Rate`; default `"calls"`.
        on_empty: what a call does for which there is no room: `"wait"`, the default, or `"raise"`
            `LimitExceeded`, as in the text `"5000 in any 1h or raise"`.

    Raises:
        ValueError: a value is zero, negative, infinite or NaN, `calls` is above 1e15, or `per` is
            above 1e9; or `unit` is invalid.
        TypeError: `calls` is not a whole number, `per` is not a number, or `unit` is not a string.

    >>> str(Window(5000, 3600))         # a text that parses to an equal window
    '5000 in any 1h'
    """

    calls: float
    per: float
    unit: str = CALLS
    _: KW_ONLY
    on_empty: OnEmpty = "wait"

    def _check(self) -> None:
        _check_amount(self.calls, self.unit, of="calls")
        positive(self.per, of="per", most=LONGEST)
        check_unit(self.unit)
        _check_on_empty(self.on_empty)

    def __str__(self) -> str:
        return self._or_raise(f"{count_text(self.calls, self.unit)} in any {time_text(self.per)}")


@_refuses_text
@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Calendar(_Validated):
    """A calendar quota: at most `calls` in each hour, day or month of a time zone.

    All of a day's calls may start at midnight. Setting the clock back never reopens a period.

    Args:
        calls: largest number of calls (or of `unit`), above 0; whole, unless the unit is `usd`.
        each: `"hour"`, `"day"` or `"month"`.
        zone: name of a time zone in the IANA database; default `"UTC"`.
        unit: what the calendar counts, as in `Rate`; default `"calls"`.
        on_empty: what a call does for which there is no room: `"wait"`, the default, or `"raise"`
            `LimitExceeded`, as in the text `"1500 in each day or raise"`.

    Raises:
        ValueError: `calls` is zero, negative or above 1e15, `each` or `unit` is invalid, the zone
            does not exist, or there is no time zone database (`pip install tzdata`).
        TypeError: `calls` is not a whole number, or another value is not a string.

    >>> str(Calendar(1500, "day", "America/Los_Angeles"))
    '1500 in each day of America/Los_Angeles'
    """

    calls: float
    each: Literal["hour", "day", "month"]
    zone: str = "UTC"
    unit: str = CALLS
    _: KW_ONLY
    on_empty: OnEmpty = "wait"

    def _check(self) -> None:
        _check_amount(self.calls, self.unit, of="calls")
        each: object = self.each
        if each not in PERIODS:
            kind = ValueError if isinstance(each, str) else TypeError
            raise kind(f'each must be "hour", "day" or "month", not {each!r}')
        if not isinstance(self.zone, str):
            raise TypeError(f'zone must be a name such as "Europe/Paris", not {self.zone!r}')
        check_unit(self.unit)
        _check_on_empty(self.on_empty)
        from aioapiqueue._limits import zones  # noqa: PLC0415 - see there

        zones.zone_called(self.zone)  # refuses an unknown zone now, and not at the first call

    def period(self, wall: float) -> tuple[float, float]:
        """Return the start and end of the hour, day or month that contains a time.

        The end is the start of the next period. A day on which the clocks change has 23 or 25
        hours.

        Args:
            wall: seconds since 1970-01-01 in UTC, as returned by `time.time()`.

        Raises:
            ValueError: the time is NaN, or not in the years 1 to 9999.
            OverflowError: the time is not in the years 1 to 9999.

        >>> Calendar(1500, "day").period(1_800_000_000.5)
        (1799971200.0, 1800057600.0)
        """
        from aioapiqueue._limits import zones  # noqa: PLC0415 - see there

        return zones.period(wall, self.each, self.zone)

    def __str__(self) -> str:
        text = f"{count_text(self.calls, self.unit)} in each {self.each}"
        return self._or_raise(text if self.zone == "UTC" else f"{text} of {self.zone}")


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Concurrency(_Validated):
    """The largest number of calls that run at once, however long each takes.

    Args:
        number: a whole number above 0. A call counts as one, whatever it costs.
        on_empty: what a call does for which there is no room: `"wait"`, the default, or `"raise"`
            `LimitExceeded`, as in the text `"5 at once or raise"`.

    Raises:
        ValueError: `number` is zero, negative or above 1e15.
        TypeError: `number` is not a whole number.

    >>> str(Concurrency(5))
    '5 at once'
    """

    number: int
    _: KW_ONLY
    on_empty: OnEmpty = "wait"

    def _check(self) -> None:
        whole(self.number, of="number")
        _check_on_empty(self.on_empty)

    def __str__(self) -> str:
        return self._or_raise(f"{number_text(self.number)} at once")


@_refuses_text
@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Budget(_Validated):
    """A limit that never recovers: at most `amount` in all, such as 5 USD for one run.

    What a call is charged stays charged, except for what it settles below its cost, for the life of
    the queue; with `schedule=`, until the quota is reset. A call for which the budget has no room
    raises `LimitExceeded`, before it starts; while other calls run that may settle at a lower cost,
    it waits for them (not in the unit `calls`). `set_rate` can change the amount: what was spent
    stays.

    Args:
        amount: the largest sum of the costs of all calls; above 0. Of `usd`, the queue counts whole
            billionths, and rounds each cost up.
        unit: what the budget counts, as in `Rate`; default `"calls"`.

    Raises:
        ValueError: `amount` is zero, negative, infinite, NaN or above 1e15; or `unit` is invalid.
        TypeError: `amount` is not a number, or `unit` is not a string.

    >>> str(Budget(5, "usd"))           # a text that parses to an equal budget
    '5 usd in all'
    """

    amount: float
    unit: str = CALLS

    def _check(self) -> None:
        positive(self.amount, of="amount")
        check_unit(self.unit)
        if self.unit == MONEY and self.amount < 1e-9:  # noqa: PLR2004 - a billionth
            raise ValueError("amount must be at least a billionth, the smallest part that counts")

    def __str__(self) -> str:
        return f"{count_text(self.amount, self.unit)} in all"


def _check_ramp(ramp: object, rate: Rate) -> None:
    from aioapiqueue._limits.ramp import Ramp  # noqa: PLC0415 - few rates have one

    if not isinstance(ramp, Ramp):
        raise TypeError(f"ramp must be a Ramp such as Ramp(2, per=120), not {ramp!r}")
    ramp.check_for(rate)


def _ramp_of(factor: float, per: float, floor: dict[str, Any] | None) -> Ramp:
    """Return the ramp with these values of a text."""
    from aioapiqueue._limits.ramp import Ramp  # noqa: PLC0415 - as above

    return Ramp(factor, per, None if floor is None else Rate(**floor, burst=1))


def _check_on_empty(on_empty: object) -> None:
    if on_empty not in ("wait", "raise"):
        raise ValueError(f'on_empty must be "wait" or "raise", not {on_empty!r}')


def _check_amount(amount: float, unit: str, *, of: str) -> None:
    """Refuse an amount that is not whole, unless it is of money."""
    positive(amount, of=of, least=None if unit == MONEY else 1)
    if unit != MONEY and not isinstance(amount, int):
        raise TypeError(f"{of} must be a whole number, not {amount!r}")


Limit: TypeAlias = Rate | Window | Calendar | Concurrency | Budget
_TYPES: Mapping[Kind, Callable[..., Limit]] = {
    "rate": Rate,
    "window": Window,
    "calendar": Calendar,
    "concurrency": Concurrency,
    "budget": Budget,
}


def raises(limit: object) -> bool:
    """Return whether a call for which a limit has no room raises `LimitExceeded`."""
    return isinstance(limit, Budget) or getattr(limit, "on_empty", "wait") == "raise"


def unit_of(limit: Limit) -> str | None:
    """Return what a limit counts; None: permits."""
    return None if isinstance(limit, Concurrency) else limit.unit


PERMITS = "permits"
"""The key of free permits in figures by unit."""
# A month counts as its longest: no rate and no instant of recovery is then too optimistic.
_LENGTHS = {"hour": 3600.0, "day": 86_400.0, "month": 31 * 86_400.0}


def period_of(limit: Limit) -> float:
    """Return the seconds in which an exhausted limit recovers fully; permits: 0; never: inf."""
    match limit:
        case Rate():
            return max(limit.per, limit.burst * limit.interval)
        case Window():
            return limit.per
        case Calendar():
            return _LENGTHS[limit.each]
        case Budget():
            return math.inf
        case _:
            return 0.0


def rate_of(limit: Limit) -> float:
    """Return the units per second that a limit admits in the long run.

    Permits and a budget, whose room does not depend on time: inf.
    """
    match limit:
        case Concurrency() | Budget():
            return math.inf
        case Calendar():
            return limit.calls / _LENGTHS[limit.each]
        case _:
            return limit.calls / limit.per


def parse_limits(text: str) -> tuple[Limit, ...]:
    """Read limits that are separated by commas; "unlimited" means no limit.

    >>> parse_limits("10/s, 5 at once")
    (Rate(calls=10, per=1.0, burst=1), Concurrency(number=5))

    Args:
        text: in the forms of the grammar (see `_limits/grammar.py`).

    Raises:
        ValueError: a limit has no such form, or invalid values; the message quotes it.
    """
    return tuple(map(_parse, split(text)))


def parse_limit(text: str) -> Limit:
    """Read one limit.

    Raises:
        ValueError: the text is not a single limit; the message quotes it.
    """
    limits = parse_limits(text)
    if not limits:
        raise LimitTextError.of(text, "one limit is expected here; leave it out for no limit")
    if len(limits) > 1:
        raise LimitTextError.of(text, f"one limit is expected here, not {len(limits)}")
    return limits[0]


def _parse(text: str) -> Limit:
    kind, arguments = read(text)
    try:
        if "ramp" in arguments:
            arguments["ramp"] = _ramp_of(**arguments["ramp"])
        return _TYPES[kind](**arguments)
    except (TypeError, ValueError) as error:
        # Without the repr and the forms that a limit adds to it; a ramp adds none.
        problem = error.__context__ or error
        raise LimitTextError.of(text, str(problem)) from None


def as_limit(value: object) -> Limit:
    """Return `value` as one limit: a string is parsed, a limit is itself.

    Raises:
        TypeError: a bare number, which could be milliseconds, seconds or a rate.
        ValueError: a string that is not one limit.
    """
    if isinstance(value, Limit):
        return value
    if isinstance(value, str):
        return parse_limit(value)
    raise _no_limit(value)


def as_limits(value: object) -> list[Limit]:
    """Return one limit, or several in a tuple or list, as a list of limits.

    A string may have several, separated by commas; "unlimited" alone means no limit.

    Raises:
        TypeError: a value is a bare number, or anything else that is not a limit.
        ValueError: a string is not a limit, or "unlimited" stands beside others.
    """
    several = value if isinstance(value, tuple | list) else (value,)
    found: list[Limit] = []
    for one in several:
        if isinstance(one, str):
            limits = parse_limits(one)
            if not limits and len(several) > 1:
                raise LimitTextError.of(
                    one, f'"{UNLIMITED}" cannot be combined with others: remove it or the others'
                )
            found += limits
        else:
            found.append(as_limit(one))
    _refuse_plurals(found)
    return found


def _refuse_plurals(limits: list[Limit]) -> None:
    """Refuse two names for one unit: each call would have to state both."""
    units = {one.unit for one in limits if not isinstance(one, Concurrency)}
    for unit in sorted(units):  # in a fixed order, for the message
        if f"{unit}s" in units:
            raise ValueError(f"the units {unit!r} and '{unit}s' differ: use one name in all limits")


def _no_limit(value: object) -> TypeError:
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not value > 0:  # also NaN
            return TypeError(f"a limit must be above 0, not {value!r}: {EXAMPLES}")
        return TypeError(
            f'a bare {value!r} is ambiguous: write "{value:g}/s" for {value:g} calls per second, '
            f'"{value:g}s" for one call every {value:g} seconds, or "{value:g}ms" for one every '
            f"{value:g} milliseconds"
        )
    remedy = EXAMPLES
    if isinstance(value, list | tuple) and value:
        remedy = f"write {', '.join(map(repr, value))} without the brackets"
    return TypeError(
        "a limit must be a string, Rate, Window, Calendar, Concurrency or Budget, not "
        f"{value!r}: {remedy}"
    )
