"""The interfaces between the core and the policy for servers' reports.

Few queues ever receive a report, such as "40 calls remain". The policy that processes them
(`_server_quotas`) is attached to a queue by the first report, as a `Follower`, and to its
limiter. The core knows only the interfaces in this module. The package sets `policy.load`, which
imports the policy, so that the core imports no wing that depends on it.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Protocol, TypeAlias

from aioapiqueue._core.followers import Follower
from aioapiqueue._core.seam import CallsOut, Core, Host

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

    from aioapiqueue._core.slot import Call
    from aioapiqueue._core.statements import ServerCount, Statement
    from aioapiqueue._core.unknown_keys import UnknownKeys
    from aioapiqueue._limits.cost_units import CostTotals
    from aioapiqueue._limits.lane_states import Lane, Lanes
    from aioapiqueue._limits.limit_state import LimitState
    from aioapiqueue._limits.limit_types import Concurrency, LearntRate, Limit, Rate
    from aioapiqueue._limits.own_limits import OwnLimits
    from aioapiqueue._limits.windows import Permits

__all__ = ["BoundedLimiter", "QueueQuotas", "QuotaHost"]

States: TypeAlias = "tuple[LimitState, ...]"


class QuotaHost(Core, Protocol):
    """The part of the dispatcher that the policy of a queue may use."""

    unknown_keys: UnknownKeys
    """The rules for keys without a lane."""


class QueueQuotas(Follower, CallsOut):
    """The policy of one queue: what servers have reported about its quotas.

    Attributes:
        learnt: the limits that responses have stated, by key; None: the queue's own.
        unaccounted: number of calls whose cost did not name a unit that a learnt limit counts.
    """

    learnt: Mapping[Hashable, tuple[LearntRate, ...]]
    unaccounted: int

    @abstractmethod
    def sync(self, count: ServerCount) -> None:
        """Apply a remaining quota; the policy adds when its call was released, and its number."""

    @abstractmethod
    def answered(self, call: Call) -> None:
        """Note that a call has its response."""

    @abstractmethod
    def learn(self, units: Iterable[str]) -> None:
        """Learn limits of these units: until a lane's first response, one call of it is sent."""

    @abstractmethod
    def adopt(self, call: Call, limits: Sequence[Rate]) -> None:
        """Adopt limits that the response to a call states, for units without a configured limit."""

    @abstractmethod
    def beside(
        self, pattern: Hashable, limits: tuple[Limit, ...]
    ) -> Mapping[Hashable, tuple[Limit, ...]]:
        """Return the limits of keys with learnt limits, combined with new ones of their pattern."""

    @abstractmethod
    def note_limits(
        self, key: Hashable, limits: Iterable[Limit], *, of_pattern: bool = False
    ) -> None:
        """Note the new limits of the queue (None), or of a key or pattern.

        Args:
            key: the key or pattern.
            limits: all its limits.
            of_pattern: whether the key has them because the limits of its pattern were replaced.
        """


class BoundedLimiter(Protocol):
    """The part of a limiter that its policy may use."""

    own: OwnLimits
    lanes: Lanes
    counts_permits: bool

    def states_of(self, call: Call) -> States:
        """Return the states that a call is charged to."""

    def limits_of(self, key: Hashable) -> tuple[Limit, ...] | None:
        """Return the limits of a key's lane; None: it has none. For the key None: the queue's."""

    def apply(self, *statements: Statement) -> None:
        """Apply statements."""

    def add_state(self, lane: Lane | None, state: LimitState, now: float) -> None:
        """Add a state that belongs to no limit, to a lane or (None) for all calls."""

    def state_changed(self, state: LimitState) -> None:
        """Reconsider the calls that are charged to a state."""


class LimiterQuotas(Protocol):
    """The policy of one limiter: applies servers' reports to its states."""

    def apply(self, statement: Statement) -> None:
        """Apply a report, or the request to learn limits."""

    def refunded(self, charged: States, call: Call, now: float) -> States:
        """Return the states that get back what an unused slot was charged."""

    def settled(self, charged: States, call: Call, now: float) -> States:
        """Return the states that are adjusted to the true costs of a call."""


QuotaPolicy: TypeAlias = """tuple[
    Callable[[QuotaHost, CostTotals], QueueQuotas],
    Callable[[BoundedLimiter, Host, Callable[[Concurrency], Permits]], LimiterQuotas],
]"""
"""Functions that make the policy of a queue and the policy of a limiter."""


class _PolicyHook:
    """The policy of this process, which the first report loads."""

    # An object, because other modules import the name `policy` before `load` is set.

    load: Callable[[], QuotaPolicy]
    """Imports the policy; set by the package."""


policy = _PolicyHook()
