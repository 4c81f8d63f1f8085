"""Weights of keys: the options of a queue, and what informs its order of settlements."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from aioapiqueue._core.followers import Follower
from aioapiqueue._core.key_shares import KeyShares
from aioapiqueue._core.slot import HELD, Call
from aioapiqueue._core.weighted_turns import WeightedQueue, WeightedTurns
from aioapiqueue._limits.checks import pattern_problem, positive
from aioapiqueue._limits.grammar import CALLS
from aioapiqueue._limits.limit_types import Concurrency

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

    from aioapiqueue._core.orders import Order
    from aioapiqueue._core.seam import Core
    from aioapiqueue._core.wait_queue import WaitQueue
    from aioapiqueue._limits.cost_units import Units
    from aioapiqueue._limits.limit_types import Limit

_HEAVIEST = 1e6
"""Largest weight; the smallest is as far below 1. Only their ratios count."""


class Weights(NamedTuple):
    """The weights of a queue, as its user gave them; see `weights_of`.

    Attributes:
        by_name: the weights of keys and patterns.
        unit: the unit in which a turn is charged; None: that of the queue's first limit.
    """

    by_name: Mapping[Hashable, float]
    unit: str | None

    def queue_type(self, units: Units, limits: Iterable[Limit]) -> Callable[..., WaitQueue[Call]]:
        """Return what makes the wait queue of a queue.

        Args:
            units: the units that the queue knows.
            limits: its own limits.

        Raises:
            ValueError: the unit is unknown.
        """
        unit = self.unit
        if unit is None:
            counted = (one.unit for one in limits if not isinstance(one, Concurrency))
            unit = next(counted, CALLS)
        try:
            place = units.known_place_of(unit)
        except ValueError as error:
            raise ValueError(f"weights_unit: {error}") from None
        order = WeightedTurns[Call](KeyShares(self.by_name, place))
        return partial(WeightedQueue, order=order.empty_copy)

    def follower(self, host: Core) -> Follower:
        """Return what informs the order of a queue of settlements."""
        return WeightFollower(host)


def weights_of(weights: object, unit: object, order: Order) -> Weights:
    """Return the weights of a queue for which at least one of the options is given.

    Raises:
        TypeError: `weights` is not a mapping of keys to numbers, or `unit` is not a string.
        ValueError: a weight is not above 0 or too large, a pattern can match nothing, or the
            options do not fit together.
    """
    if weights is None:
        raise ValueError(
            f'weights_unit={unit!r} needs weights: write weights={{"KEY": 3}}, '
            f"weights_unit={unit!r}, or remove weights_unit"
        )
    if not isinstance(weights, Mapping):
        raise TypeError(f'weights must map keys to numbers, such as {{"a": 3}}, not {weights!r}')
    if order != "fair":
        raise ValueError(
            f'weights need order="fair", because they are shares of turns: write order="fair", '
            f"weights={weights!r}, or remove weights"
        )
    if not weights:
        raise ValueError(
            "weights is empty, so all keys would have the same share: name at least one key, such "
            'as {"a": 3}, or remove weights'
        )
    for key, weight in weights.items():
        if problem := pattern_problem(key):
            raise ValueError(f"weights[{key!r}]: {problem}")
        positive(weight, of=f"weights[{key!r}]", least=None, most=_HEAVIEST)
        if weight < 1 / _HEAVIEST:
            raise ValueError(
                f"weights[{key!r}] must be at least {1 / _HEAVIEST:g}, not {weight!r}: multiply "
                "all weights by the same number, as only their ratios count"
            )
    if unit is not None and not isinstance(unit, str):
        raise TypeError(f'weights_unit must be the name of a unit, such as "tokens", not {unit!r}')
    return Weights(dict(weights), unit)


class WeightFollower(Follower):
    """Informs an order of starts, settlements and refunds that the wait queue does not see.

    Args:
        host: the dispatcher.
    """

    __slots__ = ("_busy_since", "_host")

    def __init__(self, host: Core) -> None:
        self._host = host
        self._busy_since = -math.inf
        """The instant since which calls have always been waiting."""

    def joining(self, call: Call) -> None:
        """Note when calls begin to wait."""
        if self._host.waiters.live == 1:
            self._busy_since = call.joined_at

    def started(self, call: Call, waited: float) -> None:  # noqa: ARG002 - as of `Follower`
        """Charge a call that did not wait, although others do."""
        # HELD: a call that has waited is GRANTED. It could otherwise overtake calls of other keys,
        # which wait for more room, again and again.
        if call.state == HELD and self._host.waiters.live:
            self._waiters.started_at_once(call)
            call.line = None  # type: ignore[assignment]  # as of a call that has left its line

    def refunded(self, call: Call) -> None:
        """Give its key back the turn of a call that was not made."""
        self._correct(call, None)

    def settled(self, call: Call, costs: tuple[float, ...]) -> None:
        """Correct the turn of a key by the true costs of a call."""
        self._correct(call, costs)

    @property
    def _waiters(self) -> WeightedQueue[Call]:
        waiters = self._host.waiters  # those of the present loop
        assert isinstance(waiters, WeightedQueue)  # noqa: S101 - of a queue with weights
        return waiters

    def _correct(self, call: Call, costs: tuple[float, ...] | None) -> None:
        host = self._host
        # Only a call that was charged: one that started while no call waited has no line, and the
        # turns from before are forgotten.
        was_charged = hasattr(call, "line") and call.waited_until >= self._busy_since
        if not host.waiters.live or not was_charged:
            return
        for line in self._waiters.correct(call, costs):
            if (first := line.first()) is not None:
                host.limiter.joined(first)
        host.wake()
