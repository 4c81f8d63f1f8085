"""Keys that fit no lane: a mistyped one names no limit, so that its calls may start unpaced.

A queue with `strict_lanes` refuses them. Any other warns once, where a call comes under no limit at
all for that reason, and where `set_rate` makes a lane whose name looks like another one's.

Nothing here is done for calls whose keys have lanes. The limiters come here from where they have
found no lane; with `strict_lanes`, keys are looked up when a call is made.
"""

from __future__ import annotations

import inspect
import re
import warnings
from itertools import islice
from typing import TYPE_CHECKING

from aioapiqueue.exceptions import UnknownKeyWarning

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Iterable

__all__ = ["unknown_key", "warn_of_lane", "warn_of_unpaced", "warn_user"]

_LONGEST = 60
"""Characters of a name: comparing longer ones takes long."""
_MOST = 1000
"""Names that are compared with a key that is refused: a queue may have many thousands of lanes."""
_FEW = 100
"""Lanes of a queue up to which `set_rate` compares names, in some tenths of a millisecond. Somebody
has written these; more are made by a program, which mistypes nothing."""
_SHOWN = 5
"""Names of lanes in a message, where none is near."""
_TYPO = 0.8
"""Similarity of a word and the same with a typo: "serach" and "search" have 0.83; of two operations
such as "DescribeImages" and "DescribeInstances" it is 0.77."""
_WORDS = re.compile(r"[^\W\d_]+|\d+")


def unknown_key(queue: object, key: Hashable, names: Collection[Hashable]) -> ValueError:
    """Return the error for a key that fits none of the lanes of these names."""
    return ValueError(
        f"{queue!r} (strict_lanes) has no lane for the key {key!r}: {_meant(key, names)}"
    )


def warn_of_unpaced(queue: object, keys: Collection[Hashable], names: Collection[Hashable]) -> None:
    """Warn that none of a call's keys fits a lane, and that no limit paces it."""
    which = " or ".join(map(repr, keys))
    warn_user(
        f"{queue!r} has no lane for the key {which}, and no limits of its own, so that such calls "
        f"start unpaced: {_meant(next(iter(keys)), names)} (Give all other keys a lane by "
        'lanes={..., "*": "10/s"}, or "unlimited"; or have them refused: strict_lanes=True)',
        UnknownKeyWarning,
    )


def warn_of_lane(queue: object, key: Hashable, names: Collection[Hashable]) -> bool:
    """Warn that a lane is about to be made that looks like another one; return whether it does."""
    few = names if len(names) <= _FEW else ()
    like = next((name for name in few if _is_typo(key, name)), None)
    if like is None:
        return False
    warn_user(
        f"{queue!r}: set_rate() makes a lane for the key {key!r}, which had none: did you mean "
        f"{like!r}? (To have such keys refused, make the queue with strict_lanes=True)",
        UnknownKeyWarning,
    )
    return True


def _meant(key: Hashable, names: Collection[Hashable]) -> str:
    if not names:
        return "no key has one"
    near = _nearest(key, names)
    if near is not None:
        return f"did you mean {near!r}?"
    shown = ", ".join(map(repr, islice(names, _SHOWN)))
    return f"its lanes are {shown}{' ...' * (len(names) > _SHOWN)}"


def _nearest(key: Hashable, names: Iterable[Hashable]) -> str | None:
    """Return the name that was probably meant; of a pattern, its beginning counts."""
    if not isinstance(key, str):
        return None
    found: tuple[float, str | None] = (0.6, None)  # difflib's own default
    for name in islice(names, _MOST):
        if isinstance(name, str) and name != "*":
            start = name.removesuffix("*")
            given = key[: len(start)] if name.endswith("*") else key
            score = _likeness(given[:_LONGEST], start[:_LONGEST])
            found = max(found, (score, name), key=lambda one: one[0])
    return found[1]


def _is_typo(key: Hashable, name: Hashable) -> bool:
    """Return whether a name looks like another one with a typo.

    Word by word: "tenant:a" and "tenant:b", or "host1" and "host2", are different on purpose.
    """
    if not (isinstance(key, str) and isinstance(name, str)):
        return False
    words, others = _WORDS.findall(key[:_LONGEST]), _WORDS.findall(name[:_LONGEST])
    if "".join(words).casefold() == "".join(others).casefold():
        return bool(words)  # "list_keys" and "ListKeys"
    if len(words) != len(others):
        return False
    return all(
        one == other or (one.isalpha() and _likeness(one, other) >= _TYPO)
        for one, other in zip(words, others, strict=True)
    )


def _likeness(one: str, other: str) -> float:
    import difflib  # noqa: PLC0415 - only a warning or a refusal needs it

    return difflib.SequenceMatcher(None, one, other).ratio()


def warn_user(message: str, category: type[Warning]) -> None:
    """Warn as of the line of the program that called this package."""
    frame, level = inspect.currentframe(), 1
    while frame is not None and str(frame.f_globals.get("__name__")).split(".")[0] in _INNER:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


_INNER = ("aioapiqueue", "asyncio")
