"""All names of the core that other wings may use, beside public names.

The core is `_limits` and `_core`. A module in the list gives access to the names in its `__all__`.
tests/test_architecture.py limits the number of names, and checks that each is used.
"""

from __future__ import annotations

from aioapiqueue._core import events, loops, orders, quota_policy, seam, statements
from aioapiqueue._core.access import QueueReader, Reporter, ThreadAccess, ThreadControls
from aioapiqueue._core.dispatcher import Dispatcher
from aioapiqueue._core.followers import Follower
from aioapiqueue._core.local_limiter import LocalLimiter
from aioapiqueue._core.queue import Observers
from aioapiqueue._core.seam import Host
from aioapiqueue._core.slot import Call, DetailedCall
from aioapiqueue._core.wait_lists import Ranked
from aioapiqueue._core.wait_queue import Line
from aioapiqueue._limits import (
    algorithms,
    checks,
    cost_units,
    grammar,
    lane_states,
    limit_types,
    windows,
)
from aioapiqueue._limits.cost_units import Cost
from aioapiqueue._limits.grammar import CALLS
from aioapiqueue._limits.printable import printable
from aioapiqueue._limits.state_maker import AdaptivePolicy

__all__ = [  # noqa: RUF022 - in groups
    # Limits and costs: their types and texts, and checks of arguments.
    "CALLS",
    "Cost",
    "checks",
    "cost_units",
    "grammar",
    "limit_types",
    "printable",
    # The states of limits: for policies that add some, and for limits in another process.
    "AdaptivePolicy",
    "algorithms",
    "lane_states",
    "windows",
    # Control of a queue, and its events.
    "Follower",
    "Observers",
    "events",
    "quota_policy",
    "statements",
    # Access to a queue: for clients of APIs, for metrics and reports, and for threads.
    "QueueReader",
    "Reporter",
    "ThreadAccess",
    "ThreadControls",
    # For limiters in other wings: their interface to the core, and parts that they reuse.
    "Call",
    "DetailedCall",
    "Dispatcher",
    "Host",
    "Line",
    "LocalLimiter",
    "Ranked",
    "loops",
    "orders",
    "seam",
]
