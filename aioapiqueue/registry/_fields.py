"""Reads the tables of limits.toml into dataclasses, whose fields are made by `key`.

Such a field has a default and a reader, which turns the value in the file into the field's. A
reader takes the value, the report that collects problems, and the value's place in the file. After
a problem it returns a harmless value instead of raising, so that one pass finds all problems.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

from aioapiqueue.registry._names import nearest
from aioapiqueue.registry._report import Place, Report, quoted

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Reader: TypeAlias = Callable[[object, Report, Place], Any]

EMPTY: Mapping[Any, Any] = MappingProxyType({})
_MOST = 1e12  # calls: a larger number is a typing error


def key(read: Reader, default: object, *, name: str | None = None) -> Any:  # noqa: ANN401 - a field
    """Return a dataclass field for a key of a table.

    Args:
        read: the reader of the key's value.
        default: the field's value if the table does not have the key.
        name: the key. Default: the field's name.
    """
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
            return MappingProxyType(
                {name(one): read(own, report, (*place, str(one))) for one, own in value.items()}
            )
        if value is not None:
            report.add(place, f"{quoted(value)} is not a table: write {example}")
        return EMPTY

    return read_table


def flag(*, fallback: bool) -> Reader:
    """Return a reader of booleans, with a result after errors."""
    return expects(lambda value: isinstance(value, bool), "{} is not true or false", fallback)


def is_list(value: object) -> TypeGuard[Sequence[object]]:
    """Return whether a value is a list. A string is not."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def is_number(value: object, *, least: float) -> TypeGuard[float]:
    """Return whether a value is a number from `least` to the largest that a limit can have."""
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= _MOST
    )


names: Reader = expects(
    lambda value: is_list(value) and all(isinstance(one, str) and one for one in value),
    '{} is not a list of names: write ["ListKeys"]',
    (),
    tuple,
)
