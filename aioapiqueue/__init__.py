"""An asyncio rate limiter: stay under an API's limits, however many tasks you start."""

import typing as _typing

from aioapiqueue import _interrupt as _interrupt  # the first: see there
from aioapiqueue._decorator import rate_limited
from aioapiqueue._events import Event, Observer
from aioapiqueue._queue import ApiQueue
from aioapiqueue._rate import Calendar, Concurrency, Limit, Rate, Window
from aioapiqueue._slot import Slot
from aioapiqueue._view import LimiterView
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
    from aioapiqueue._stats import LaneStats, Stats
    from aioapiqueue.adaptive import Adaptive
    from aioapiqueue.registry import Registry, ServiceLimits
    from aioapiqueue.schedules import HostSchedule

__all__ = [
    "Adaptive",
    "ApiQueue",
    "ApiQueueError",
    "Calendar",
    "Concurrency",
    "Event",
    "HostSchedule",
    "LaneStats",
    "Limit",
    "LimiterView",
    "LimitsError",
    "NestedSlotWarning",
    "Observer",
    "QueueClosed",
    "QueueFull",
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

__version__: str = "0.1.0"

_LAZY = {
    **dict.fromkeys(("Registry", "ServiceLimits", "registry"), "registry"),
    **dict.fromkeys(("Adaptive", "adaptive"), "adaptive"),
    **dict.fromkeys(("LaneStats", "Stats"), "_stats"),
    **dict.fromkeys(("HostSchedule", "schedules"), "schedules"),
}
"""What only some programs need, and the module that has it, which is loaded at its first use.

`import aioapiqueue` reads no table of AWS, and takes little longer than `import anyio, asyncio`.
"""

if not _typing.TYPE_CHECKING:  # a type checker would take any misspelt name for one of these

    def __getattr__(name: str) -> object:
        if name not in _LAZY:
            raise _missing(name)
        from importlib import import_module  # noqa: PLC0415 - only now needed

        module = import_module(f"{__name__}.{_LAZY[name]}")
        return module if name == _LAZY[name] else getattr(module, name)

    _ELSEWHERE = {
        "RateLimitedTransport": ("integrations.httpx", "integrations.httpx2"),
        "SharedSchedule": ("integrations.redis",),
        "VirtualLoop": ("testing",),
        "blocking": ("threads",),
        "llm": ("integrations",),
        "pace_session": ("integrations.botocore", "integrations.aiobotocore"),
    }
    # Names that users try to import from here, and the modules that have them.

    def _missing(name: str) -> Exception:
        import sys  # noqa: PLC0415 - only now needed

        if name not in _ELSEWHERE:
            return AttributeError(f"module {__name__!r} has no attribute {name!r}")
        lines = [f'"from {__name__}.{module} import {name}"' for module in _ELSEWHERE[name]]
        remedy = f"write {' or '.join(lines)}"
        # `from aioapiqueue import NAME` asks with hasattr, and would replace an AttributeError by
        # an error without the remedy. To all others that ask with hasattr, the answer is no.
        if sys._getframe(2).f_code.co_name == "_handle_fromlist":  # noqa: SLF001 - no other way
            text = f"cannot import name {name!r} from {__name__!r}: {remedy}"
            return ImportError(text, name=__name__, path=__file__)
        return AttributeError(f"module {__name__!r} has no attribute {name!r}: {remedy}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *_LAZY})
