"""What is said of options and attributes that do not exist."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["Missing", "refuse_unknown"]


def refuse_unknown(
    options: Iterable[str],
    known: Iterable[str],
    *,
    by: str,
    hints: Mapping[str, str] | None = None,
) -> None:
    """Refuse options that are not known, with the one that was probably meant.

    Args:
        options: names of those that are given.
        known: names of those that exist.
        by: what takes them, for the message.
        hints: what to write instead of names that other libraries have; default: nothing.

    Raises:
        TypeError: one is not known.
    """
    known = list(known)
    for name in options:
        if name not in known:
            import difflib  # noqa: PLC0415 - only a refusal needs it

            near = difflib.get_close_matches(name, known, n=1)
            if hints is not None and name in hints:
                remedy = f": {hints[name]}"
            elif near:
                remedy = f": did you mean {near[0]}=?"
            else:
                remedy = f": its options are {', '.join(f'{one}=' for one in known)}"
            raise TypeError(f"{by} has no option {name}={remedy}")


class Missing:
    """An attribute that does not exist, and whose error says what to use instead.

    Not `__getattr__`, beside which CPython does not speed up the look-up of any other attribute.

    Args:
        remedy: what to write.
    """

    def __init__(self, remedy: str) -> None:
        self._remedy = remedy
        self._name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type) -> NoReturn:
        raise AttributeError(
            f"{owner.__name__!r} object has no attribute {self._name!r}: {self._remedy}",
            name=self._name,
            obj=owner if instance is None else instance,
        )
