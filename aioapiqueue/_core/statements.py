"""What users decide and what servers report: values that every limiter accepts in `apply`.

A user pauses a queue, a server reports what remains of a quota: each is a *statement*. Whatever
lies between its maker and the place where it takes effect (the proxy for threads, the connection
to the hub, the server of a fleet) passes it on without knowing its contents. A new statement needs
a class here, a method for users, and a handler where it takes effect; one that is sent to another
process also needs a JSON form (`_shared/statement_json.py`).

Each is a tuple with a `kind`, so that statements of two kinds are never equal. Frozen dataclasses
would work as well, but Python takes longer to create them, at every import of this package.

Users make *decisions*, which last (`_shared/decisions.py`). Servers make *reports*, which describe
one moment. Times are on the clock of the queue's loop.
"""

# Without `from __future__ import annotations`: a NamedTuple would compile each text again.
import math
from collections.abc import Hashable, Sequence
from typing import Literal, NamedTuple, TypeAlias

from aioapiqueue._core.slot import Call
from aioapiqueue._limits.limit_types import Limit

__all__ = [
    "Answered",
    "Hold",
    "Learn",
    "Learnt",
    "Pause",
    "Resume",
    "ServerCount",
    "SetLimits",
    "Settled",
    "Statement",
    "Throttled",
]


class SetLimits(NamedTuple):
    """The limits of the queue (None), or of a key or pattern, from now on."""

    key: Hashable
    limits: tuple[Limit, ...]
    kind: Literal["set"] = "set"


class Learnt(NamedTuple):
    """Limits that responses state, for the queue (None) or a key, beside configured ones."""

    key: Hashable
    limits: tuple[Limit, ...]
    kind: Literal["learnt"] = "learnt"


class Pause(NamedTuple):
    """No call starts before an instant; inf: before a `Resume`."""

    # An instant: with a number of seconds, a statement that is applied late would last longer.
    until: float
    kind: Literal["pause"] = "pause"


class Resume(NamedTuple):
    """All pauses end."""

    kind: Literal["resume"] = "resume"


class Hold(NamedTuple):
    """No call of a key's lane starts before an instant; without such a lane, no call at all."""

    key: Hashable
    until: float
    kind: Literal["hold"] = "hold"


class Throttled(NamedTuple):
    """The server throttled a call, or (None) a call that is not named.

    Attributes:
        call: the call.
        key: the key whose lane slows down.
        retry_after: seconds that the server asks to wait; None: not stated.
    """

    call: Call | None
    key: Hashable
    retry_after: float | None
    kind: Literal["throttled"] = "throttled"


class ServerCount(NamedTuple):
    """The server reports what remains of one of its quotas.

    Attributes:
        unit: place of the quota's unit in costs.
        remaining: remaining amount.
        reset: seconds until the quota is full again; None: not stated.
        limit: size of the quota, which tells quotas of the same unit apart.
        number: number of the call in order of release; 0: unknown, and then a call that was
            released at the same instant does not count as later.
        released_at: instant at which the call was released.
        period: seconds in which the server allows `limit`, if the limit was learnt.
        refills: whether the quota is known to be a token bucket, which refills gradually.
        period_is_minimum: whether only the reset is known: the period may be longer, and for how
            long the quota has been in use is unknown.
        call: the call with this response; None: no call.
        key: key of the lane, if no call is given.
    """

    unit: int
    remaining: float
    reset: float | None = None
    limit: float | None = None
    # The next two are filled in by the policy of the queue to which the report belongs. They are
    # not sent to another process, which has numbers and a clock of its own.
    number: int = 0
    released_at: float = -math.inf
    period: float | None = None
    refills: bool = False
    period_is_minimum: bool = False
    call: Call | None = None
    key: Hashable = None
    kind: Literal["count"] = "count"


class Answered(NamedTuple):
    """A call has its response."""

    call: Call
    kind: Literal["answered"] = "answered"


class Settled(NamedTuple):
    """The true costs of a call, all units by place."""

    call: Call
    costs: Sequence[float]
    kind: Literal["settled"] = "settled"


class Learn(NamedTuple):
    """Learn limits from responses: until a lane's first response, one call of it is sent."""

    kind: Literal["learn"] = "learn"


Statement: TypeAlias = (
    "SetLimits | Learnt | Pause | Resume | Hold"
    " | Throttled | ServerCount | Answered | Settled | Learn"
)
