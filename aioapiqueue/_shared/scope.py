"""Which lanes and units the limits of a call count: its scope."""

from __future__ import annotations

from collections.abc import Hashable  # noqa: TC003 - of a NamedTuple
from typing import NamedTuple

__all__ = ["NO_KEY", "NO_LANES", "Scope", "key_of"]

NO_KEY = object()
"""The lane of the key None, if that key has limits of its own: the lane None is the whole queue."""


class Scope(NamedTuple):
    """What a call comes under, besides the queue's limits: those of its lanes.

    Calls of one scope wait in one line (with `order="fair"`: in one for each first key).

    Attributes:
        lanes: each once, in an order that does not depend on that of its keys.
        unused: the places of units that some limit counts, and of which it uses nothing.
    """

    lanes: tuple[Hashable, ...]
    unused: tuple[int, ...]


NO_LANES = Scope((), ())
"""That of calls that come under the queue's limits only, and all of them."""


def key_of(lane: Hashable) -> Hashable:
    """Return the key of a lane."""
    return None if lane is NO_KEY else lane
