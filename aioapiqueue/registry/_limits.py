"""Reads the limits in a limits.toml."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from aioapiqueue import Concurrency, Limit, Rate, Window
from aioapiqueue.registry._fields import is_list, is_number, unknown_keys
from aioapiqueue.registry._report import quoted
from aioapiqueue.spi import CALLS, checks, grammar, limit_types

if TYPE_CHECKING:
    from aioapiqueue.registry._report import Place, Report

_EXAMPLES = f"{grammar.EXAMPLES} ({grammar.FORMS})"
NO_LIMIT = 'no limit is given: write rate = "10/s"'
LIMIT_KEYS = ("rate", "burst", "window")
_DEEPEST = 8  # levels of tables and lists: valid limits need fewer


def read_limits(value: object, report: Report, place: Place) -> tuple[Limit, ...]:
    """Read limits as they are written after `rate =` or the name of an operation."""
    if len(place) > _DEEPEST:
        report.add(place[:_DEEPEST], f"nested too deeply: {_EXAMPLES}")
        return ()
    if isinstance(value, Mapping):
        if not (unknown_keys(value, LIMIT_KEYS, report, place) or value):
            report.add(place, NO_LIMIT)
        return limit_table(value, report, place)
    if not is_list(value):
        return _limit_text(value, report, place)
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
        elif len(found) == 1 and isinstance(found[0], Rate) and found[0].burst == 1:
            found[0] = dataclasses.replace(found[0], burst=burst)
        elif not report.has((*place, "rate")):  # whose problem may be the reason
            report.add(at, 'burst needs one rate that states no burst: rate = "20/s", burst = 100')
    if "window" in table:
        found += _window(table["window"], report, (*place, "window"))
    return tuple(found)


def _window(value: object, report: Report, place: Place) -> list[Window]:
    if isinstance(value, str):
        try:
            rate = Rate.parse(value)
            if rate.burst == 1:
                calls: Any = rate.calls  # perhaps no whole number, which Window refuses
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
        report.add(place, f"{quoted(value)} is not a limit: {error.reason or _EXAMPLES}")
    except (TypeError, ValueError, OverflowError) as error:
        bare = isinstance(value, int | float) and is_number(value, least=-checks.LARGEST)
        report.add(place, str(error) if bare else f"{quoted(value)} is not a limit: {_EXAMPLES}")
    return ()


# A preset has the same few limits for hundreds of operations.
_parsed = lru_cache(256)(limit_types.parse_limits)


def read_call_limits(value: object, report: Report, place: Place) -> tuple[Limit, ...]:
    """Read the limits of a service or an operation, which count calls."""
    return of_calls(read_limits(value, report, place), report, place)


def of_calls(limits: tuple[Limit, ...], report: Report, place: Place) -> tuple[Limit, ...]:
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


def unit_of(limit: Limit) -> str:
    """Return the unit that a limit counts; a `Concurrency` counts calls."""
    return CALLS if isinstance(limit, Concurrency) else limit.unit
