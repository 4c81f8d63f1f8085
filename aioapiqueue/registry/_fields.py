"""How the tables of limits.toml are read: their keys are fields of dataclasses, made by `key`.

Such a field has a reader for the value in the file, and a default; its name, its type and its
documentation stand where they do in any dataclass. A reader is called with the value, the report
that collects problems, and the place of the value in the file. It returns the result, or a harmless
one after a problem, so that one pass finds all problems of a file.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard, TypeVar

from aioapiqueue.registry._names import nearest
from aioapiqueue.registry._report import Place, Report, quoted

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_T = TypeVar("_T")
Reader: TypeAlias = Callable[[object, Report, Place], Any]

EMPTY: Mapping[Any, Any] = MappingProxyType({})
_MOST = 1e12  # calls: more is a slip of the keyboard


def key(read: Reader, default: object, *, name: str | None = None) -> Any:  # noqa: ANN401 - a field
    """Return a dataclass field that a key of a table sets.

    Args:
        read: the reader of its value.
        default: the value where the table does not have the key.
        name: of the key; default: the field's.
    """
    return dataclasses.field(default_factory=lambda: default, metadata={"read": read, "key": name})


def keys_of(of: type[DataclassInstance]) -> dict[str, dataclasses.Field[Any]]:
    """Return the fields that keys set, by key."""
    read = (one for one in dataclasses.fields(of) if "read" in one.metadata)
    return {one.metadata["key"] or one.name: one for one in read}


def renamed(now: str) -> Any:  # noqa: ANN401 - as the attribute
    """Return a property for the old name of an attribute, which is deprecated.

    Args:
        now: its name.
    """

    def get(self: object) -> Any:  # noqa: ANN401 - as the attribute
        text = f"this attribute is now {type(self).__name__}.{now}"
        warnings.warn(text, DeprecationWarning, stacklevel=2)
        return getattr(self, now)

    return property(get)


def accepts_old_names(**names: str) -> Callable[[type[_T]], type[_T]]:
    """Have a class take arguments by their old names, too, which are deprecated.

    Args:
        names: the new name of each old one.
    """

    def accept(cls: type[_T]) -> type[_T]:
        init = cls.__init__

        @functools.wraps(init)
        def __init__(self: _T, *args: object, **kwargs: object) -> None:  # noqa: N807 - it is one
            for old in [name for name in kwargs if name in names]:
                now = names[old]
                text = f"{cls.__name__}({old}=...) is now {now}="
                warnings.warn(text, DeprecationWarning, stacklevel=2)
                kwargs[now] = kwargs.pop(old)
            init(self, *args, **kwargs)

        cls.__init__ = __init__  # type: ignore[assignment]  # it takes more
        return cls

    return accept


def read_keys(
    of: type[DataclassInstance], table: Mapping[Any, object], report: Report, place: Place
) -> dict[str, Any]:
    """Return the values of those fields of a dataclass whose keys a table has, by field."""
    return {
        one.name: one.metadata["read"](table[name], report, (*place, name))
        for name, one in keys_of(of).items()
        if name in table
    }


def unknown_keys(
    table: Mapping[Any, object], known: Sequence[str], report: Report, place: Place
) -> bool:
    """Report which keys of a table are not known; return whether there are any."""
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
        fits: whether a value is of that kind.
        problem: what is wrong with any other, with `{}` for the value.
        fallback: what such a value is read as.
        convert: makes the result of a value that fits.
    """

    def read(value: object, report: Report, place: Place) -> object:
        if fits(value):
            return convert(value)
        report.add(place, problem.format(quoted(value)))
        return fallback

    return read


def table_of(read: Reader, example: str, name: Callable[[Any], Hashable] = str) -> Reader:
    """Return a reader of tables whose keys the user chooses; None is an empty one.

    Args:
        read: reads each value.
        example: what to write.
        name: makes the key of the result.
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
    """Return a reader of true and false."""
    return expects(lambda value: isinstance(value, bool), "{} is not true or false", fallback)


def is_list(value: object) -> TypeGuard[Sequence[object]]:
    """Return whether a value is a list, which a string is not."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def is_number(value: object, *, least: float) -> TypeGuard[float]:
    """Return whether a value is a number that limits can have, at least `least`."""
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= _MOST
    )


names: Reader = expects(
    lambda value: is_list(value) and all(isinstance(one, str) and one for one in value),
    '{} is not a list of names: write ["ListKeys"]',
    (),
    tuple,
)
