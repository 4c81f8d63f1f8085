"""Warns of keys without a lane, or refuses them: calls with a mistyped key would start unpaced.

A queue with `strict_lanes` refuses them. Any other queue warns once if a call is subject to no
limit for that reason, and once if `set_rate` makes a lane whose name looks like a typo of another.

Calls whose keys have lanes pay nothing. The limiters call `starts_unpaced` when they find no lane;
with `strict_lanes`, keys are looked up when a call is made.

A warning must be certain. So none is issued if the user has stated that such calls need no limit
(`"unlimited"`), if no lane has a limit, or if another process may have set one.
"""

from __future__ import annotations

import inspect
import itertools
import re
import warnings
from functools import partial
from typing import TYPE_CHECKING, Protocol

from aioapiqueue._core.loops import report_error
from aioapiqueue._core.seam import Core
from aioapiqueue._core.slot import NEW, NO_KEYS
from aioapiqueue.exceptions import UnknownKeyWarning

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable, Iterable, Sequence

    from aioapiqueue._core.figures import LaneFigures
    from aioapiqueue._core.slot import Call

_LONGEST = 60
"""Largest number of characters of a name that are compared, because comparing is slow."""
_MOST = 100
"""Largest number of names that are compared, which takes some milliseconds: a queue may have many
thousands of lanes. `set_rate` does not warn if there are more: a program has generated their names,
and did not mistype one."""
_SHOWN = 5
"""Number of lanes that a message names if no name is similar."""
_LONGEST_SHOWN = 100
"""Largest number of characters of a key in a message."""
_NEAR = 0.6
"""Least similarity of a name that was probably meant: difflib's default."""
_SHORTEST = 5
"""Least number of letters of a word that is checked for typos: "form" and "from" are both words."""
_WORDS = r"[^\W\d_]+|\d+"


class UnknownKeysHost(Core, Protocol):
    """The part of the dispatcher that is used here."""

    lanes: LaneFigures | None


class UnknownKeys:
    """The rules of one queue for keys that fit none of its lanes.

    Args:
        host: the queue's dispatcher.
        given: keys and patterns in the queue's `lanes=`.
        is_strict: whether keys without a lane are refused.
    """

    __slots__ = ("_given", "_host", "_is_strict", "_warns_of_lanes", "_warns_of_unpaced")

    def __init__(
        self, host: UnknownKeysHost, given: Iterable[Hashable], *, is_strict: bool
    ) -> None:
        self._host = host
        self._given = tuple(given)
        self._is_strict = is_strict
        self._warns_of_lanes = True
        """Whether to warn if a lane is added whose name looks like a typo."""
        self._warns_of_unpaced = True
        """Whether to warn if a call starts unpaced because its keys have no lane."""

    def permit(self) -> None:
        """Stop warning of unpaced calls: the user intends keys without a lane."""
        self._warns_of_unpaced = False

    def starts_unpaced(self, call: Call) -> None:
        """Warn once that a call has no limit because none of its keys has a lane."""
        lanes = self._host.lanes
        if not self._warns_of_unpaced or lanes is None or call.keys == NO_KEYS:
            return
        if not any(cost > 0 for cost in call.costs):  # an unstated cost is NaN: False
            return
        self._warns_of_unpaced = False  # before the warning, which may be raised
        if not any(map(self._host.limiter.limits_of, self._given)):
            return  # no lane has a limit, so it is intended
        which = " or ".join(map(_shown, call.keys))
        try:
            warn_user(
                f"{self._host!r} has no lane for the key {which}, and no limits of its own, so "
                f"such calls start unpaced: {_meant(call.key, lanes.names)} (To accept such keys, "
                'state that they are unlimited: ApiQueue("unlimited", lanes=...). To refuse them, '
                "set strict_lanes=True.)",
                UnknownKeyWarning,
            )
        except UnknownKeyWarning as warning:
            # The program turns warnings into errors. Only for a new call does its caller receive
            # it: the calls that wait are looked at by the ticker.
            if call.state == NEW:
                raise
            report_error("a call started unpaced", warning)

    def checked(self, new_call: Callable[..., Call]) -> Callable[..., Call]:
        """Return a maker of calls that refuses keys without a lane, if the queue is strict."""
        return partial(self._make_checked, new_call) if self._is_strict else new_call

    def _make_checked(
        self, new_call: Callable[..., Call], owner: object, keys: Sequence[Hashable], *rest: object
    ) -> Call:
        self.refuse(keys)
        return new_call(owner, keys, *rest)

    def refuse(self, keys: Iterable[Hashable]) -> None:
        """Refuse keys without a lane, if the queue is strict.

        Raises:
            ValueError: a key has no lane; the message names the most similar lane.
        """
        lanes = self._host.lanes
        if self._is_strict and lanes is not None:
            for key in keys:
                if key is not None and self._host.limiter.limits_of(key) is None:
                    raise ValueError(
                        f"{self._host!r} (strict_lanes) has no lane for the key {_shown(key)}: "
                        f"{_meant(key, lanes.names)}"
                    )

    def refuse_pattern(self, key: Hashable) -> None:
        """Refuse a pattern where a key is needed, and a key without a lane in a strict queue.

        Raises:
            ValueError: `key` is a pattern of lanes; or the queue is strict, and the key has no
                lane.
        """
        self.refuse((key,))
        lanes = self._host.lanes
        if lanes is not None and lanes.has_pattern(key):
            raise ValueError(
                f"{key!r} is a pattern of lanes, not a key: pass a key that matches it, or leave "
                "key= out for the whole queue"
            )

    def check_lane(self, key: Hashable) -> None:
        """Check a key that is about to get limits: refuse it in a strict queue, or warn of a typo.

        Raises:
            ValueError: the queue is strict, and the key has no lane.
        """
        self.refuse((key,))
        # Only names in `lanes=`, which the user has written; those of `set_rate` may be tenants.
        few = self._given if self._warns_of_lanes and len(self._given) <= _MOST else ()
        like = next((name for name in few if _is_typo(key, name)), None)
        if like is not None and self._host.limiter.limits_of(key) is None:
            self._warns_of_lanes = False
            warn_user(
                f"{self._host!r}: set_rate() creates a lane for the key {_shown(key)}: did you "
                f"mean {_shown(like)}? (strict_lanes=True refuses such keys.)",
                UnknownKeyWarning,
            )


def _meant(key: Hashable, names: Collection[Hashable]) -> str:
    if not names:
        return "this queue has no lanes"
    near = _nearest(key, names)
    if near is not None:
        return f"did you mean {_shown(near)}?"
    shown = ", ".join(map(_shown, itertools.islice(names, _SHOWN)))
    return f"its lanes are {shown}{' ...' * (len(names) > _SHOWN)}"


def _shown(key: Hashable) -> str:
    text = repr(key)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def _nearest(key: Hashable, names: Iterable[Hashable]) -> str | None:
    """Return the name that was probably meant, if any; patterns are compared by their prefix."""
    if not isinstance(key, str):
        return None
    found: tuple[float, str | None] = (_NEAR, None)
    for name in itertools.islice(names, _MOST):
        if isinstance(name, str) and name != "*":  # "*" is like every key
            start = name.removesuffix("*")
            given = key[: len(start)] if name.endswith("*") else key
            score = _likeness(given[:_LONGEST], start[:_LONGEST])
            found = max(found, (score, name), key=lambda one: one[0])
    return found[1]


def _likeness(one: str, other: str) -> float:
    """Return the similarity of two names; 0 if it is below `_NEAR`."""
    import difflib  # noqa: PLC0415 - only a warning or a refusal needs it

    matcher = difflib.SequenceMatcher(None, one, other)
    return matcher.ratio() if matcher.quick_ratio() > _NEAR else 0.0


def _is_typo(key: Hashable, name: Hashable) -> bool:
    """Return whether a name looks like another one with a typo.

    The names are compared word by word, because "tenant:a" and "tenant:b", or "host1" and "host2",
    are different on purpose.
    """
    if not (isinstance(key, str) and isinstance(name, str)):
        return False
    words, others = (re.findall(_WORDS, text[:_LONGEST]) for text in (key, name))
    together = "".join(words)
    if together.casefold() == "".join(others).casefold():  # "list_keys" and "ListKeys"
        return together.isalpha() and len(together) >= _SHORTEST  # numbers differ on purpose
    return len(words) == len(others) and all(
        one == other or _is_slip(one, other) for one, other in zip(words, others, strict=True)
    )


def _is_slip(word: str, meant: str) -> bool:
    """Return whether a word is another one with a letter missing or doubled, or two swapped.

    The first and last letters must be the same, because "order" and "orders", or "martin" and
    "martinez", are different on purpose.
    """
    if not word.isalpha() or min(len(word), len(meant)) < _SHORTEST:
        return False
    if (word[0], word[-1]) != (meant[0], meant[-1]) or abs(len(word) - len(meant)) > 1:
        return False  # most words
    inside = range(1, len(meant) - 1)
    return word in itertools.chain(
        (meant[:i] + meant[i + 1 :] for i in inside),
        (meant[: i + 1] + meant[i:] for i in inside),
        (meant[:i] + meant[i + 1] + meant[i] + meant[i + 2 :] for i in inside[:-1]),
    )


def warn_user(message: str, category: type[Warning]) -> None:
    """Issue a warning that names the user's line, outside of this package and paced clients."""
    frame, level = inspect.currentframe(), 1
    # The dot ends the name, so that "aioapiqueue_tests" does not count as "aioapiqueue".
    while frame is not None and f"{frame.f_globals.get('__name__')}.".startswith(_INNER):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


_INNER = (
    *("aioapiqueue.", "asyncio."),
    *("httpx.", "httpx2.", "httpcore.", "requests.", "urllib3.", "aiohttp."),
    *("boto3.", "botocore.", "aiobotocore.", "openai.", "anthropic.", "google.genai."),
)
"""Prefixes of modules whose lines do not help a user: this package, and clients that it paces."""
