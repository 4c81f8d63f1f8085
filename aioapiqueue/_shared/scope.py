"""Which lanes and units the limits of a call count: its scope."""

from __future__ import annotations

from collections.abc import Hashable  # noqa: TC003 - of a NamedTuple
from typing import NamedTuple

NO_KEY = object()
"""The lane of the key None, if that key has limits of its own: the lane None is the whole queue."""


class Scope(NamedTuple):
    """The limits of a call: those of its lanes, beside the queue's own.

    Calls of one scope wait in one line (with `order="fair"`: in one for each first key).

    Attributes:
        lanes: each once, in an order that does not depend on that of its keys.
        unused: the places of units that some limit counts, and the call does not use.
    """

    lanes: tuple[Hashable, ...]
    unused: tuple[int, ...]


NO_LANES = Scope((), ())
"""The scope of calls that come under all of the queue's own limits, and no others."""


def key_of(lane: Hashable) -> Hashable:
    """Return the key of a lane."""
    return None if lane is NO_KEY else lane
