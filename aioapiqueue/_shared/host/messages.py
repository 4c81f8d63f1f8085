"""What a queue and the hub send each other: JSON, one list of messages for each line of text.

Each message is a list that begins with its kind. A call has a number, its ticket, which its queue
gives it. A `key` is `[]` for the whole queue, and `[key]` for a key, which may be null. Amounts are
by unit; null stands for one call. Spans are seconds from now.

First each side sends what the other lacks of decisions: the hello and the welcome, too, have what
is called `newest` here (see `_shared/decisions.py`). The welcome also has `now`, the hub's clock: a
queue whose clock differs runs in another time namespace, and is refused.

From a queue                                    it
`["join", ticket, keys, amounts, priority, waited, others]`
                                                has a call that wants to start; no keys: `[null]`.
                                                `waited`: seconds that the first call of its line
                                                has waited, which is to get the grant; `others`:
                                                calls that wait and have not asked. Left out where
                                                both are 0
`["leave", ticket]`                             does not want it any more, or never used it
`["end", ticket]`                               has a call that is over
`["reported", statement]`                       has heard from a server; see `statement_json.py`
`["decided", decisions, newest, asked]`         knows of decisions, as `Decision.as_json` has them;
                                                and up to when it knows all. `asked`: true if it is
                                                the answer to the welcome or `lacks`, else left out
`["running", ticket, keys, amounts]`            has a call that another hub has let go
`["late", seconds]`                             uses what it is granted later than others

From the hub                                    what it means
`["grant", ticket, at, until or null]`          the call may start; on the hub's clock
`["delayed", lane, limit, whose, seconds]`      a limit of others has made a call wait
`["shared", whose]`                             another run uses the quota as well
`["refuse", ticket, text]`                      it never will
`["backed_off", ticket or null, key, seconds]`  the rate was lowered for that push-back; as `due`
`["decided", decisions, newest]`                 others have decided this
`["lacks", newest]`                             the hub lacks all that is newer: it was to come from
                                                a queue that is gone
`["lanes", [[added, removed], ...]]`            keys and patterns that have limits, and those that
                                                have none any more; null for `removed`: what was
                                                said before holds no longer. None are named while
                                                the queue has given all of them
`["rate", calls per second or null]`            what push-back has left; null: all of it
`["due", ticket, seconds]`                      a newcomer like that call would wait so long
`["bye", text]`                                 why the hub ends the connection
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aioapiqueue._shared.statement_json import key_from, limits_from, limits_to
from aioapiqueue.adaptive import Adaptive
from aioapiqueue.spi import Call

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence

    from aioapiqueue import Limit

__all__ = [
    "PROTOCOL",
    "Message",
    "Terms",
    "check_key",
    "decode",
    "encode",
    "end_text",
    "grant_text",
    "join_text",
    "keys_to",
    "own_version",
    "text_of",
    "transit",
]

PROTOCOL = 7
"""Another number with each change of what is sent."""


def transit(catch_up: float, *, on_real_time: bool) -> float:
    """Return how late a call may use what the hub has granted: what a message takes, and its loop.

    So much less of `catch_up` is the hub's, which makes up for its own lateness with the rest: both
    together, a call is no later than that.
    """
    return max(_LEAST_TRANSIT, catch_up / 2) if on_real_time else 0.0


def own_version() -> str:
    """Return the version of this library; there may be no file of an installer's that has it."""
    return str(getattr(sys.modules.get("aioapiqueue"), "__version__", "0"))


_A_WAIT = 0.010
"""Seconds; less is the way to the hub."""
_LEAST_TRANSIT = 0.002
"""Seconds: a timer of a loop may be late by one millisecond, and so may the one that wakes it."""

Message = list[Any]


_ENCODER = json.JSONEncoder(separators=(",", ":"))
"""Made once: `json.dumps` makes one for each call."""


def text_of(*message: Any) -> str:  # noqa: ANN401 - JSON
    """Return a message as text."""
    return _ENCODER.encode(message)


# The text of the commonest messages, in a fraction of the time.


def join_text(
    ticket: int,
    keys: Sequence[Hashable],
    amounts: Mapping[str, float] | None,
    priority: float,
    *,
    waited: float,
    others: int,
) -> str:
    """Return the text of `join`."""
    if others or waited >= _A_WAIT:
        return text_of("join", ticket, keys, amounts, priority, round(waited, 3), others)
    if not keys and amounts is None and type(priority) is int:
        return f'["join",{ticket},[],null,{priority}]'
    return text_of("join", ticket, keys, amounts, priority)


def end_text(ticket: int) -> str:
    """Return the text of `end`."""
    return f'["end",{ticket}]'


def grant_text(ticket: int, at: str, until: float | None) -> str:
    """Return the text of `grant`; `at` is that of an instant."""
    return f'["grant",{ticket},{at},{"null" if until is None else repr(until)}]'


def encode(texts: Iterable[str]) -> bytes:
    """Return a line of messages, of which these are the texts."""
    return f"[{','.join(texts)}]\n".encode("ascii")


def decode(line: bytes) -> list[Message]:
    """Return the messages of a line; not checked any further.

    Raises:
        ValueError: it is no JSON, or has other characters than ASCII.
    """
    messages: list[Message] = json.loads(str(line, "ascii"))  # of bytes, it looks for an encoding
    return messages


def is_sendable(key: Hashable) -> bool:
    """Return whether a key is the same for all processes."""
    if isinstance(key, tuple):
        return all(map(is_sendable, key))
    return key is None or isinstance(key, str | int | float)


def check_key(key: Hashable) -> None:
    """Refuse the key of a lane that cannot be sent.

    Raises:
        TypeError: it is neither text nor a number nor a tuple of them.
    """
    if not is_sendable(key):
        raise TypeError(
            f"a shared lane's key must be text, a number or a tuple of these, not {key!r}"
        )


def keys_to(keys: Iterable[Hashable]) -> list[Hashable]:
    """Return those of a call's keys that can be sent: no lane of others has another one."""
    if keys is Call.keys:  # most: a call without a key
        return []
    return [key for key in keys if is_sendable(key)]


@dataclass(frozen=True)
class Terms:
    """What one queue asks of all calls of its quota.

    Attributes:
        limits: of all of them together.
        lanes: of keys and patterns.
        concurrency: how many bodies may run at once, whatever limits are set; None: any number.
        catch_up: seconds by which late calls may be made up for.
        adaptive: how to slow down on push-back.
        units: what costs are counted in.
    """

    limits: tuple[Limit, ...]
    lanes: Mapping[Hashable, tuple[Limit, ...]]
    concurrency: int | None
    catch_up: float
    adaptive: Adaptive | None
    units: tuple[str, ...]

    def __hash__(self) -> int:
        # Without the limits of lanes, of which there may be thousands: the names tell enough apart.
        return hash((self.limits, frozenset(self.lanes), self.concurrency, self.units))

    def as_json(self) -> dict[str, Any]:
        """Return them as they are sent."""
        adaptive = None
        if self.adaptive is not None:
            floor = self.adaptive.floor
            adaptive = {
                "floor": None if floor is None else str(floor),
                "backoff": self.adaptive.backoff,
                "recovery": self.adaptive.recovery,
                "concurrency": self.adaptive.concurrency,
            }
        return {
            "limits": limits_to(self.limits),
            "lanes": [[key, limits_to(own)] for key, own in self.lanes.items()],
            "concurrency": self.concurrency,
            "catch_up": self.catch_up,
            "adaptive": adaptive,
            "units": list(self.units),
        }

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Terms:
        """Return terms that were sent.

        Raises:
            KeyError: something is missing.
            ValueError: something is invalid.
            TypeError: something is of another type.
        """
        adaptive = given["adaptive"]
        return cls(
            limits_from(given["limits"]),
            {key_from(key): limits_from(own) for key, own in given["lanes"]},
            None if given["concurrency"] is None else int(given["concurrency"]),
            float(given["catch_up"]),
            None if adaptive is None else Adaptive(**adaptive),
            tuple(map(str, given["units"])),
        )
