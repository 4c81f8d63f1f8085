"""The events of a queue: their kinds, and `Event`, which observers receive."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, NoReturn

from aioapiqueue._core.thresholds import Thresholds

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from aioapiqueue._limits.limit_types import Limit

__all__ = ["EventKind", "Outcome", "Thresholds"]

EventKind = Literal[
    "joined",
    "released",
    "finished",
    "cancelled",
    "timed_out",
    "refused",
    "throttled",
    "backed_off",
    "refused_by_server",
    "malformed",
    "settled",
    "synced",
    "threshold",
    "limits_changed",
    "held",
    "paused",
    "resumed",
    "disconnected",
    "reconnected",
]

Outcome = Literal["ok", "error", "cancelled", "unknown"]


class Costs(dict[str, float]):
    """Costs by unit: a mapping that cannot be changed."""

    __slots__ = ()

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("the costs of an event cannot be changed")

    # All that changes a dict. One event goes to all observers, and `ONE_CALL_COST` to all events.
    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    # Unpickling a dict sets its items one by one, which this class refuses.
    def __reduce__(self) -> tuple[type[Costs], tuple[dict[str, float]]]:
        return Costs, (dict(self),)

    def __hash__(self) -> int:  # type: ignore[override]  # dict has none, but this never changes
        return hash(frozenset(self.items()))


ONE_CALL_COST = Costs({"calls": 1})
"""The costs of a call with the default cost."""


class Event(NamedTuple):
    """An event in a queue, passed to `Observer.on_event`.

    The kinds are:

    - `joined`: a call waits. A call that starts at once does not join.
    - `released`: a call got its slot.
    - `finished`: the body of a call ended. Has `duration` and `outcome`.
    - `cancelled`: a waiting call was cancelled, or one that got its slot did not start, and the
      slot was refunded.
    - `timed_out`: the `timeout` of a waiting call passed.
    - `refused`: the queue refused a call, because it is full or closed, or because a budget or a
      limit with `or raise` has no room.
    - `throttled`: the server throttled a call. Has `retry_after`.
    - `backed_off`: `Adaptive` lowered the rate. Has `rate`, if the limits are kept in this
      process.
    - `refused_by_server`: the server refused a call for good, so waiting does not help.
    - `malformed`: the server sent an invalid value.
    - `settled`: the true cost of a call was stated. `costs` are the new costs, `before` the old.
    - `synced`: the server reported a remaining quota. Has `remaining`, `unit`, `reset`, `limit`.
    - `threshold`: 50, 80 or 100 % of a budget, or of a calendar limit in its current period, is
      spent or reserved. Each process sends it once for each share, even if a call gives part of it
      back. Has `limits` (the one limit), `share`, `remaining` and `unit`.
    - `limits_changed`: limits of the queue or of `key` were replaced. Has `limits`, `origin`.
    - `held`: calls of the queue or of `key` are held. Has `seconds`.
    - `paused`: the queue was paused. Has `seconds`.
    - `resumed`: a pause was ended.
    - `disconnected`: the hub or server of a shared quota was lost; see `Stats.fault`.
    - `reconnected`: the hub or server answers again.

    Each call ends with exactly one of `finished`, `cancelled`, `timed_out` and `refused`, unless
    its event loop ends first. All its events have the same `call` number. A call that is queued
    again (`Slot.again`) repeats these events under the same number; its earlier body finishes with
    the outcome `unknown`.

    Attributes:
        kind: the kind of event.
        queue: name of the queue.
        key: first key of the call, or the key that the event is about.
        priority: priority of the call.
        cost: cost of the call, in calls.
        at: time of the event in seconds on the queue's clock (`time.monotonic` on real loops).
            For `released`, the time at which the call was charged to its limits.
        waited: seconds that the call waited for its slot.
        keys: all keys of the call; `(None,)` without a key.
        call: number of the call, by arrival in this queue and process; None if the event is not
            about a single call.
        costs: costs of the call, by unit.
        duration: seconds that the body ran.
        outcome: how the body ended: `ok`, `error` (it raised), `cancelled`, or `unknown` if the
            slot was released by hand.
        retry_after: seconds that the server asked to wait, if it did.
        rate: calls per second that are allowed after backing off.
        seconds: length of a hold or pause; None until `resume`.
        limits: the new limits; for `threshold`, the limit that is used.
        origin: origin of the new limits: `user` (`set_rate`), `learnt` (a response), or `others`
            (another process that shares the quota).
        before: costs by unit before the call was settled.
        remaining: see `Slot.sync`; for `threshold`, what is left.
        unit: see `Slot.sync`; for `threshold`, the unit of the limit.
        reset: see `Slot.sync`.
        limit: see `Slot.sync`.
        share: share of the limit that is spent or reserved: 0.5, 0.8 or 1.
    """

    # A tuple takes a quarter of the time of a frozen dataclass, and each slot has two or three
    # events.

    kind: EventKind
    queue: str | None
    key: Hashable
    priority: float
    cost: float
    at: float
    waited: float
    keys: tuple[Hashable, ...] = (None,)
    call: int | None = None
    costs: Mapping[str, float] = ONE_CALL_COST
    duration: float | None = None
    outcome: Outcome | None = None
    retry_after: float | None = None
    rate: float | None = None
    seconds: float | None = None
    limits: tuple[Limit, ...] = ()
    origin: Literal["user", "learnt", "others"] | None = None
    remaining: float | None = None
    unit: str | None = None
    reset: float | None = None
    limit: float | None = None
    before: Mapping[str, float] | None = None
    share: float | None = None
