"""Readers for the values in limits.toml: for limits, and for tables that become dataclasses.

`key` makes a field of such a dataclass, with a default and a reader. A reader takes a value of the
file, the report that collects problems, and the value's place in the file, and returns the value of
the field. After a problem it returns a harmless value instead of raising, so that one pass finds
all problems.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

from aioapiqueue import Concurrency, Limit, Rate, Window
from aioapiqueue.registry._names import nearest
from aioapiqueue.registry._report import Place, Report, quoted
from aioapiqueue.spi import CALLS, checks, grammar, limit_types

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Reader: TypeAlias = Callable[[object, Report, Place], Any]

EMPTY: Mapping[Any, Any] = MappingProxyType({})
_MOST = 1e12  # calls; a larger number is a mistake
NO_LIMIT = 'no limit is given: write rate = "10/s"'
LIMIT_KEYS = ("rate", "burst", "window")
_DEEPEST = 8  # levels of tables and lists: valid limits need fewer


def key(read: Reader, default: object, *, name: str | None = None) -> Any:  # noqa: ANN401 - a field
    """Return a dataclass field for a key of a table.

    Args:
        read: the reader of the key's value.
        default: the field's value if the table does not have the key.
        name: the key. Default: the field's name.
    """
    # A factory, because dataclasses refuse a default without a hash, as `EMPTY` in CPython 3.11.
    return dataclasses.field(default_factory=lambda: default, metadata={"read": read, "key": name})


def keys_of(of: type[DataclassInstance]) -> dict[str, dataclasses.Field[Any]]:
    """Return the fields of a dataclass that were made by `key`, by their keys."""
    read = (one for one in dataclasses.fields(of) if "read" in one.metadata)
    return {one.metadata["key"] or one.name: one for one in read}


def read_keys(
    of: type[DataclassInstance], table: Mapping[Any, object], report: Report, place: Place
) -> dict[str, Any]:
    """Return the values that a table sets, by the name of the field."""
    return {
        one.name: one.metadata["read"](table[name], report, (*place, name))
        for name, one in keys_of(of).items()
        if name in table
    }


def unknown_keys(
    table: Mapping[Any, object], known: Sequence[str], report: Report, place: Place
) -> bool:
    """Report the unknown keys of a table; return whether there are any."""
    unknown = [name for name in table if name not in known]
    for name in unknown:
        meant = nearest(str(name), known) if report.suggest() else ""
        remedy = f"did you mean {meant}?" if meant else f"the keys here are {', '.join(known)}"
        report.add((*place, str(name)), f"unknown key {quoted(name)}: {remedy}")
    return bool(unknown)


def expects(
    fits: Callable[[Any], bool],
    problem: str,
    fallback: object = None,
    convert: Callable[[Any], object] = lambda value: value,
) -> Reader:
    """Return a reader of values of one kind.

    Args:
        fits: returns whether a value is of that kind.
        problem: the error for any other value, with `{}` for the value.
        fallback: the result after an error.
        convert: makes the result from a value that fits.
    """

    def read(value: object, report: Report, place: Place) -> object:
        if fits(value):
            return convert(value)
        report.add(place, problem.format(quoted(value)))
        return fallback

    return read


def table_of(read: Reader, example: str, name: Callable[[Any], Hashable] = str) -> Reader:
    """Return a reader of tables whose keys the user chooses. None is read as an empty table.

    Args:
        read: the reader of each value.
        example: a correct table, for errors.
        name: makes the key of the result from the key in the file.
    """

    def read_table(value: object, report: Report, place: Place) -> Mapping[Any, Any]:
        if isinstance(value, Mapping):
            found = {}
            for one, own in value.items():
                at = (*place, str(one))
                if not _is_wrong(key := name(one), report, at):
                    found[key] = read(own, report, at)
            # Read-only, because the dataclasses that have such tables are frozen.
            return MappingProxyType(found)
        if value is not None:
            report.add(place, f"{quoted(value)} is not a table: write {example}")
        return EMPTY

    return read_table


def flag(*, fallback: bool) -> Reader:
    """Return a reader of booleans. Any other value is a problem, and read as `fallback`."""
    return expects(lambda value: isinstance(value, bool), "{} is not true or false", fallback)


def is_list(value: object) -> TypeGuard[Sequence[object]]:
    """Return whether a value is a list. A string is not."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def is_number(value: object, *, least: float) -> TypeGuard[float]:
    """Return whether a value is a number from `least` to the largest that a limit can have."""
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= _MOST
    )


def names(value: object, report: Report, place: Place) -> tuple[str, ...]:
    """Read a list of names or prefixes with a `*`."""
    if not (is_list(value) and all(isinstance(one, str) and one for one in value)):
        report.add(place, f'{quoted(value)} is not a list of names: write ["ListKeys"]')
        return ()
    ours = enumerate(map(str, value))
    return tuple(one for index, one in ours if not _is_wrong(one, report, (*place, index)))


def _is_wrong(name: object, report: Report, place: Place) -> bool:
    """Report a name that looks like a pattern but matches nothing; return whether it does."""
    problem = checks.pattern_problem(name, remedy="name each one")
    report.add(place, problem)
    return problem is not None


def read_limits(value: object, report: Report, place: Place) -> tuple[Limit, ...]:
    """Read limits as they are written after `rate =` or the name of an operation."""
    if len(place) > _DEEPEST:  # long before Python raises `RecursionError`
        report.add(place[:_DEEPEST], f"nested too deeply: {grammar.REMEDY}")
        return ()
    if isinstance(value, Mapping):
        if not (unknown_keys(value, LIMIT_KEYS, report, place) or value):
            report.add(place, NO_LIMIT)
        return limit_table(value, report, place)
    if not is_list(value):
        return _limit_text(value, report, place)
    if not (value or report.in_code):  # code may compute its lists, and default to an empty one
        report.add(place, 'an empty list is not a limit: write "unlimited" for none')
    found: list[Limit] = []
    for index, one in enumerate(value):
        item = (*place, index)
        if is_list(one):
            report.add(item, "a list within a list: put all limits into one list")
        elif isinstance(one, str) and one.strip().lower() == "unlimited":
            report.add(item, '"unlimited" cannot be combined with others: remove it or the others')
        else:
            found += read_limits(one, report, item)
    return tuple(found)


def limit_table(table: Mapping[Any, object], report: Report, place: Place) -> tuple[Limit, ...]:
    """Read `rate`, `burst` and `window` in the table of a limit or of a service."""
    found: list[Limit] = []
    if "rate" in table:
        found += read_limits(table["rate"], report, (*place, "rate"))
    if "burst" in table:
        burst, at = table["burst"], (*place, "burst")
        if not is_number(burst, least=1):
            report.add(at, f"{quoted(burst)} is not a burst: write a number of at least 1")
        # 1 is the default, so the rate states no burst.
        elif len(found) == 1 and isinstance(found[0], Rate) and found[0].burst == 1:
            found[0] = dataclasses.replace(found[0], burst=burst)
        elif not report.has((*place, "rate")):  # a problem of the rate may be the reason
            report.add(
                at,
                'burst needs a single rate without a burst of its own: rate = "20/s", burst = 100',
            )
    if "window" in table:
        found += _window(table["window"], report, (*place, "window"))
    return tuple(found)


def _window(value: object, report: Report, place: Place) -> list[Window]:
    if isinstance(value, str):
        try:  # "5000/h" is also the text of a rate, whose parser knows all units of time
            rate = Rate.parse(value)
            if rate.burst == 1:
                calls: Any = rate.calls  # perhaps a fraction, which Window refuses
                return [Window(calls, rate.per, rate.unit)]
        except (TypeError, ValueError):
            pass
    report.add(
        place,
        f'{quoted(value)} is not a window: write a whole number of calls per time, as in "5000/h"',
    )
    return []


def _limit_text(value: object, report: Report, place: Place) -> tuple[Limit, ...]:
    try:
        return _parsed(value) if isinstance(value, str) else (limit_types.as_limit(value),)
    except grammar.LimitTextError as error:
        report.add(place, f"{quoted(value)} is not a limit: {error.reason or grammar.REMEDY}")
    except (TypeError, ValueError, OverflowError) as error:
        # The error for a bare number shows how to write it. For another value, it may be very long.
        bare = isinstance(value, int | float) and is_number(value, least=-checks.LARGEST)
        report.add(
            place, str(error) if bare else f"{quoted(value)} is not a limit: {grammar.REMEDY}"
        )
    return ()


# A preset has the same few limits for hundreds of operations. As they are frozen, they are shared.
_parsed = lru_cache(256)(limit_types.parse_limits)


def read_call_limits(value: object, report: Report, place: Place) -> tuple[Limit, ...]:
    """Read the limits of a service or an operation, which count calls."""
    return only_calls(read_limits(value, report, place), report, place)


def only_calls(limits: tuple[Limit, ...], report: Report, place: Place) -> tuple[Limit, ...]:
    """Return limits of calls. If one counts another unit, report it and return no limits."""
    unit = next((one for one in map(unit_of, limits) if one != CALLS), None)
    if unit is None:
        return limits
    report.add(
        place,
        f"limits of services and operations count calls, not {unit}: put this limit into a bucket "
        "with operations = [...] and cost = {...}",
    )
    return ()


def only_waiting(limits: tuple[Limit, ...], report: Report, place: Place) -> tuple[Limit, ...]:
    """Return limits for which calls wait. If one raises instead, report it; return no limits."""
    if all(getattr(one, "on_empty", "raise") == "wait" for one in limits):
        return limits
    report.add(
        place,
        'a quota that AWS grants is no budget and does not raise: write the quota without "or '
        'raise", and put a budget or a limit of your own into limits or lanes',
    )
    return ()


def unit_of(limit: Limit) -> str:
    """Return the unit that a limit counts; a `Concurrency` counts calls."""
    return CALLS if isinstance(limit, Concurrency) else limit.unit
