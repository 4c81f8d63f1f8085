"""All that the other wings may use of the core, beside public names."""

from __future__ import annotations

from aioapiqueue._core.controls import Controls
from aioapiqueue._core.dispatcher import Dispatcher
from aioapiqueue._core.events import EventKind, Outcome, report_error
from aioapiqueue._core.followers import Follower
from aioapiqueue._core.limiter import (
    FastAcquire,
    Host,
    LimiterFactory,
    LimiterStats,
    LimiterTraits,
    PushbackRounds,
)
from aioapiqueue._core.local_limiter import LocalLimiter
from aioapiqueue._core.loop import clock_of
from aioapiqueue._core.order import ORDERS, Order, Rank, rank_of
from aioapiqueue._core.queue import (
    Observers,
)
from aioapiqueue._core.queue_reader import QueueReader
from aioapiqueue._core.reporter import Reporter
from aioapiqueue._core.slot import Call, CallOwner, DetailedCall
from aioapiqueue._core.statements import (
    Answered,
    Hold,
    Learn,
    Learnt,
    Pause,
    Resume,
    ServerCount,
    SetLimits,
    Settled,
    Statement,
    Throttled,
)
from aioapiqueue._core.thread_access import ThreadAccess
from aioapiqueue._core.wait_queue import Line, Unsorted, WaitQueue
from aioapiqueue._limits.algorithms import Charge, LimitState, TokenBucket
from aioapiqueue._limits.checks import (
    LARGEST,
    LONGEST,
    check_count,
    is_coroutine_function,
    positive,
    refuse_unknown,
)
from aioapiqueue._limits.grammar import (
    CALLS,
    EXAMPLES,
    FORMS,
    NO_UNITS,
    LimitTextError,
    check_unit,
    count_text,
    duration_text,
)
from aioapiqueue._limits.lanes import (
    AdaptivePolicy,
    Bounds,
    Lane,
    Lanes,
    StateMaker,
    bounds_of,
    check_costs,
    find_patterns,
    fits,
    name_of,
)
from aioapiqueue._limits.printable import printable
from aioapiqueue._limits.rates import (
    LearntRate,
    as_limit,
    largest_of,
    parse_limit,
    parse_limits,
    period_of,
    unit_of,
)
from aioapiqueue._limits.units import ONE_CALL, Cost, CostTotals, Units, is_stated
from aioapiqueue._limits.windows import CalendarWindow, Permits, SlidingWindow

__all__ = [
    "CALLS",
    "EXAMPLES",
    "FORMS",
    "LARGEST",
    "LONGEST",
    "NO_UNITS",
    "ONE_CALL",
    "ORDERS",
    "AdaptivePolicy",
    "Answered",
    "Bounds",
    "CalendarWindow",
    "Call",
    "CallOwner",
    "Charge",
    "Controls",
    "Cost",
    "CostTotals",
    "DetailedCall",
    "Dispatcher",
    "EventKind",
    "FastAcquire",
    "Follower",
    "Hold",
    "Host",
    "Lane",
    "Lanes",
    "Learn",
    "Learnt",
    "LearntRate",
    "LimitState",
    "LimitTextError",
    "LimiterFactory",
    "LimiterStats",
    "LimiterTraits",
    "Line",
    "LocalLimiter",
    "Observers",
    "Order",
    "Outcome",
    "Pause",
    "Permits",
    "PushbackRounds",
    "QueueReader",
    "Rank",
    "Reporter",
    "Resume",
    "ServerCount",
    "SetLimits",
    "Settled",
    "SlidingWindow",
    "StateMaker",
    "Statement",
    "ThreadAccess",
    "Throttled",
    "TokenBucket",
    "Units",
    "Unsorted",
    "WaitQueue",
    "as_limit",
    "bounds_of",
    "check_costs",
    "check_count",
    "check_unit",
    "clock_of",
    "count_text",
    "duration_text",
    "find_patterns",
    "fits",
    "is_coroutine_function",
    "is_stated",
    "largest_of",
    "name_of",
    "parse_limit",
    "parse_limits",
    "period_of",
    "positive",
    "printable",
    "rank_of",
    "refuse_unknown",
    "report_error",
    "unit_of",
]
