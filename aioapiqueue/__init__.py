"""An asyncio rate limiter: stay under an API's limits, however many tasks you start."""

import typing as _typing

from aioapiqueue._core import interrupt as _interrupt  # noqa: F401 - must come first
from aioapiqueue._core.decorator import rate_limited
from aioapiqueue._core.queue import ApiQueue
from aioapiqueue._core.quota_policy import policy as _quota_policy
from aioapiqueue._core.slot import Slot
from aioapiqueue._limits.limit_types import Budget, Calendar, Concurrency, Limit, Rate, Window
from aioapiqueue.exceptions import (
    ApiQueueError,
    LimitsError,
    NestedSlotWarning,
    QueueClosed,
    QueueFull,
    SharedError,
    SlotTimeout,
    UnknownKeyWarning,
    WouldWait,
)

if _typing.TYPE_CHECKING:
    from aioapiqueue._core.events import Event
    from aioapiqueue._core.observers import Observer
    from aioapiqueue._core.quota_policy import QuotaPolicy as _QuotaPolicy
    from aioapiqueue._core.refusals import LimitExceeded
    from aioapiqueue._core.stats import LaneStats, Stats
    from aioapiqueue._core.view import LimiterView
    from aioapiqueue._limits.budget_use import BudgetUse
    from aioapiqueue._limits.ramp import Ramp
    from aioapiqueue.adaptive import Adaptive
    from aioapiqueue.registry import Registry, ServiceLimits
    from aioapiqueue.schedules import HostSchedule

__all__ = [
    "Adaptive",
    "ApiQueue",
    "ApiQueueError",
    "Budget",
    "BudgetUse",
    "Calendar",
    "Concurrency",
    "Event",
    "HostSchedule",
    "LaneStats",
    "Limit",
    "LimitExceeded",
    "LimiterView",
    "LimitsError",
    "NestedSlotWarning",
    "Observer",
    "QueueClosed",
    "QueueFull",
    "Ramp",
    "Rate",
    "Registry",
    "ServiceLimits",
    "SharedError",
    "Slot",
    "SlotTimeout",
    "Stats",
    "UnknownKeyWarning",
    "Window",
    "WouldWait",
    "rate_limited",
]

__version__: str = "1.0.0rc1"

_LAZY = {
    **dict.fromkeys(("Registry", "ServiceLimits", "registry"), "registry"),
    **dict.fromkeys(("Adaptive", "adaptive"), "adaptive"),
    **dict.fromkeys(("LaneStats", "Stats"), "_core.stats"),
    "BudgetUse": "_limits.budget_use",
    "Event": "_core.events",
    "LimitExceeded": "_core.refusals",
    "Observer": "_core.observers",
    "LimiterView": "_core.view",
    "Ramp": "_limits.ramp",
    **dict.fromkeys(("HostSchedule", "schedules"), "schedules"),
}
"""Public names that are imported at their first use, and the module that defines each.

So `import aioapiqueue` reads no AWS table, and takes little longer than `import anyio, asyncio`.
"""


def _load_quota_policy() -> "_QuotaPolicy":
    from aioapiqueue import _server_quotas  # noqa: PLC0415 - few queues receive a report

    return _server_quotas.ServerQuotas, _server_quotas.LocalQuotas


# Set here, because the core must not import packages that depend on it.
_quota_policy.load = _load_quota_policy

if not _typing.TYPE_CHECKING:  # with it, a type checker would accept any misspelt name

    def __getattr__(name: str) -> object:
        if name not in _LAZY:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module  # noqa: PLC0415 - needed only here

        module = import_module(f"{__name__}.{_LAZY[name]}")
        return module if name == _LAZY[name] else getattr(module, name)

    def __dir__() -> list[str]:  # so that completion offers names that are not loaded yet
        return sorted({*globals(), *_LAZY})
