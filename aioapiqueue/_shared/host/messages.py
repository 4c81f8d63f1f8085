"""The protocol between a queue and the host hub: JSON, one list of messages in each line of text.

Each message is a list that begins with its kind. A call has a number, its ticket, which its queue
chooses. A `key` is `[]` for the whole queue, and `[key]` for a key, which may be null. Amounts are
by unit; null means one call. Durations are in seconds.

The queue's hello and the hub's welcome both have `newest`: by maker, the instant up to which the
sender knows all decisions (see `_shared/decisions.py`). Each side then sends what the other one
lacks. The welcome also has `now`, the hub's clock: a queue whose clock differs runs in another time
namespace, and refuses to go on.

From a queue                                    meaning
`["join", ticket, keys, amounts, priority, waited, others, after]`
                                                A call requests a grant. `keys` is `[]` for a call
                                                without a key. `waited`: seconds that the first call
                                                of its line has waited, which will get the grant;
                                                `others`: number of waiting calls without a request.
                                                Both are left out if they are 0. `after`: number of
                                                calls of the queue that are to start before it; only
                                                where keys have weights and wait in several lines.
`["leave", ticket]`                             The request is withdrawn, or its grant is unused.
`["end", ticket]`                               The call has ended.
`["reported", statement]`                       A server reports something; see `to_json`.
`["decided", decisions, newest]`                Decisions, see `Decision.as_json`, and the instants
                                                up to which the queue now knows all.
`["running", ticket, keys, amounts]`            The call was granted by another hub, and runs.
`["late", seconds]`                             The queue uses its grants this late.

From the hub                                    meaning
`["grant", ticket, at or null, until or null]`  The call may start, from `at` until `until`; null:
                                                none of its limits recovers with time, so that it
                                                may start at any later instant, too.
`["delayed", lane, limit, whose, seconds]`      A limit of another program made a call wait.
`["shared", whose]`                             Another run uses the quota.
`["refuse", ticket, text, exceeded]`            The call can never start; or there is no room for
                                                it: then `exceeded` is [limit, cost, remaining,
                                                resets_in, key], and else null.
`["backed_off", ticket or null, key, seconds]`  The rate was lowered for that call; `seconds` as in
                                                `due`.
`["decided", decisions, newest]`                Other processes have decided something.
`["lanes", [[added, removed], ...]]`            Keys and patterns that have limits now, and those
                                                that no longer have any; null for `removed`: all
                                                that were named before. No names are sent while
                                                the queue itself has given limits to all of them.
`["rate", calls per second or null]`            The rate after slow-downs; null: they are over.
`["due", ticket, seconds]`                      A newcomer like that call would wait this long.
`["budgets", [[key, uses], ...], was_reset]`    How much is used of the budgets and calendar limits
                                                of the queue, or of a lane that it calls under:
                                                `uses` has [spent, reserved, left, resets_at] of
                                                each by its text, and is empty if there are no such
                                                limits any more. `was_reset` is true after a user
                                                has reset the quota, and else left out.
`{"refused": text}`, not in a list              Why the hub closes the connection.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aioapiqueue._shared.statement_json import as_key, is_sendable, limits_from, limits_to
from aioapiqueue.adaptive import Adaptive
from aioapiqueue.spi import Call

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence

    from aioapiqueue import Limit

PROTOCOL = 9
"""Raise it with each change of what is sent."""


def transit(catch_up: float, *, on_real_time: bool) -> float:
    """Return how many seconds late a queue may use a grant."""
    # The hub makes up for its own lateness with the rest of `catch_up`, so that both together never
    # exceed it. In virtual time, messages and passes of the loop take no time.
    return max(_LEAST_TRANSIT, catch_up / 2) if on_real_time else 0.0


def own_version() -> str:
    """Return the version of this library."""
    # Not from installers' metadata, which may be missing.
    return str(getattr(sys.modules.get("aioapiqueue"), "__version__", "0"))


_A_WAIT = 0.010
"""Seconds; a shorter wait is only the time to reach the hub, and is not sent."""
_LEAST_TRANSIT = 0.002
"""Seconds: a timer may be a millisecond late in the hub's loop, and again in the queue's."""

FARTHEST = 10**6
"""Largest `after`; keys with smaller shares get about one call in so many."""

Message = list[Any]


_ENCODER = json.JSONEncoder(separators=(",", ":"))
"""Made once, as `json.dumps` makes one for each call."""


def text_of(*message: Any) -> str:  # noqa: ANN401 - JSON
    """Return a message as text."""
    return _ENCODER.encode(message)


# The texts of the commonest messages, made in a fraction of the encoder's time.


def join_text(
    ticket: int,
    keys: Sequence[Hashable],
    amounts: Mapping[str, float] | None,
    priority: float,
    *,
    waited: float,
    others: int,
    after: int | None = None,
) -> str:
    """Return the text of `join`."""
    if after is not None:
        return text_of("join", ticket, keys, amounts, priority, round(waited, 3), others, after)
    if others or waited >= _A_WAIT:
        return text_of("join", ticket, keys, amounts, priority, round(waited, 3), others)
    if not keys and amounts is None and type(priority) is int:  # a float may be inf
        return f'["join",{ticket},[],null,{priority}]'
    return text_of("join", ticket, keys, amounts, priority)


def end_text(ticket: int) -> str:
    """Return the text of `end`."""
    return f'["end",{ticket}]'


def grant_text(ticket: int, at: str, until: float | None) -> str:
    """Return the text of `grant`; `at` is the text of the instant."""
    return f'["grant",{ticket},{at},{"null" if until is None else repr(until)}]'


def encode(texts: Iterable[str]) -> bytes:
    """Return a line of messages with these texts."""
    return f"[{','.join(texts)}]\n".encode("ascii")


def decode(line: bytes) -> list[Message]:
    """Return the messages of a line, without checking their parts.

    Raises:
        ValueError: the line is not JSON, or not ASCII.
    """
    # Of bytes, `json.loads` would guess the encoding first.
    messages: list[Message] = json.loads(str(line, "ascii"))
    return messages


def keys_to(keys: Iterable[Hashable]) -> list[Hashable]:
    """Return a call's keys that can be sent: other keys can have no lane in another process."""
    if keys is Call.keys:  # most: a call without a key
        return []
    return [key for key in keys if is_sendable(key)]


@dataclass(frozen=True)
class Terms:
    """The limits that one queue gives to all calls of its quota.

    Attributes:
        limits: of all calls together.
        lanes: of keys and patterns.
        concurrency: number of bodies that may run at once, whatever is set; None: any number.
        catch_up: seconds by which late calls may be made up for.
        adaptive: how to slow down when a call is throttled.
        units: the units of costs.
    """

    limits: tuple[Limit, ...]
    lanes: Mapping[Hashable, tuple[Limit, ...]]
    concurrency: int | None
    catch_up: float
    adaptive: Adaptive | None
    units: tuple[str, ...]

    def __hash__(self) -> int:
        # Without the limits of lanes, which may be thousands: their names differ often enough.
        return hash((self.limits, frozenset(self.lanes), self.concurrency, self.units))

    def as_json(self) -> dict[str, Any]:
        """Return the terms in the form that is sent."""
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
            {as_key(key): limits_from(own) for key, own in given["lanes"]},
            None if given["concurrency"] is None else int(given["concurrency"]),
            float(given["catch_up"]),
            None if adaptive is None else Adaptive(**adaptive),
            tuple(map(str, given["units"])),
        )
