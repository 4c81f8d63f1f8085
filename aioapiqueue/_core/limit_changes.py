"""Limits that are replaced while a queue is in use: by its user, or by another process.

The limiter applies the new limits. The functions here update everything else that depends on them:
units, permits, figures of lanes, and warnings of keys without a lane.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from aioapiqueue._core.figures import LaneFigures
from aioapiqueue._core.quota_policy import QuotaHost
from aioapiqueue._core.statements import SetLimits
from aioapiqueue._limits.limit_types import Concurrency, LearntRate

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Sequence

    from aioapiqueue._core.followers import Follower
    from aioapiqueue._core.nesting import Nesting
    from aioapiqueue._core.quota_policy import QueueQuotas
    from aioapiqueue._core.slot import Call
    from aioapiqueue._limits.cost_units import Units
    from aioapiqueue._limits.limit_types import Limit


class LimitsHost(QuotaHost, Protocol):
    """The part of the dispatcher that is used here."""

    lanes: LaneFigures | None
    nesting: Nesting
    server_quotas: QueueQuotas | None
    """What servers have reported; None: nothing so far."""

    def find_server_quotas(self, *, begins: bool = True) -> QueueQuotas:
        """Return the policy for servers' reports, attached by the first call."""

    def follow(self, follower: Follower) -> None:
        """Call a follower as well from now on."""


def set_limits(host: LimitsHost, key: Hashable, limits: tuple[Limit, ...]) -> None:
    """Replace the limits of the queue (None), or of a key or pattern.

    Raises:
        ValueError: limits are too small for a waiting call.
    """
    quotas = host.server_quotas
    # Keys under this pattern keep the limits that they have learnt, beside the new ones.
    beside = {} if quotas is None else quotas.beside(key, limits)
    known, waiting = len(host.units), host.waiters.not_left()
    declare_units(host.units, limits)  # first: the states of limits are made with their units
    try:
        # All in one step, because the limiter refuses all of them if one is too small.
        changes = {key: limits, **beside}
        host.limiter.apply(*(SetLimits(one, its) for one, its in changes.items()))
    except BaseException:
        host.units.forget(known)  # refused limits must leave no unit behind
        raise
    _note_limits(host, key, limits, waiting)
    if quotas is not None:
        for name, its in beside.items():
            quotas.note_limits(name, its, of_pattern=True)
    host.find_fast_acquire()  # the former steps are bound to states that may be out of force
    host.emit("limits_changed", key=key, limits=limits, origin="user")


def note_remote_limits(host: LimitsHost, key: Hashable, limits: Sequence[Limit]) -> None:
    """Note limits of the queue (None), or of a key or pattern, that another process set."""
    declare_units(host.units, limits)
    if any(isinstance(one, LearntRate) for one in limits):
        # Learnt by another process: the policy is attached here too, so that `Stats.learnt` has
        # them.
        host.find_server_quotas().note_limits(key, limits)
    else:
        _note_limits(host, key, limits, host.waiters.not_left())


def declare_units(units: Units, limits: Sequence[Limit]) -> None:
    """Declare the units that limits count."""
    units.declare(one.unit for one in limits if not isinstance(one, Concurrency))


def _note_limits(
    host: LimitsHost, key: Hashable, limits: Sequence[Limit], waiting: Collection[Call]
) -> None:
    """Note new limits everywhere but in the limiter.

    Args:
        host: the queue's dispatcher.
        key: key or pattern of the lane; None: the queue.
        limits: its new limits.
        waiting: the calls that waited before.
    """
    host.nesting.set_limits(key, limits)
    if host.nesting.of_lanes:  # `follow` ignores a follower that it has
        host.follow(host.nesting)
    if host.server_quotas is not None:
        host.server_quotas.note_limits(key, limits)
    if key is None:
        host.unknown_keys.permit()  # the user has decided which limits calls without a lane have
        return
    if host.lanes is None:
        host.lanes = LaneFigures(host, ())
        if host.started:
            # Calls that run already started before there were any entries, and count in none.
            host.lanes.begin(host.loop.now())
        host.follow(host.lanes)
    host.lanes.add(key, waiting)
