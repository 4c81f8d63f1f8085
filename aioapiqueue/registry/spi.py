"""The names of the registry that integrations and programs use, in addition to its public ones."""

from aioapiqueue.registry._applied import limits_applied
from aioapiqueue.registry._botocore_calls import AHEAD, MAX_PARAMETERS
from aioapiqueue.registry._buckets import bucket_of
from aioapiqueue.registry._hosts import (
    Origin,
    PathLanes,
    host_called,
    is_host,
    origin_of,
    read_target,
    target_of,
)
from aioapiqueue.registry._names import canonical, matches_any, unknown_operation, unknown_service
from aioapiqueue.registry._options import ADAPTIVE, target_called
from aioapiqueue.registry._published import (
    DEFAULT_SHARE,
    enforceable,
    parse_share,
    published,
    published_limits,
)
from aioapiqueue.registry._registry import forget_idle, plan_of

__all__ = [
    "ADAPTIVE",
    "AHEAD",
    "DEFAULT_SHARE",
    "MAX_PARAMETERS",
    "Origin",
    "PathLanes",
    "bucket_of",
    "canonical",
    "enforceable",
    "forget_idle",
    "host_called",
    "is_host",
    "limits_applied",
    "matches_any",
    "origin_of",
    "parse_share",
    "plan_of",
    "published",
    "published_limits",
    "read_target",
    "target_called",
    "target_of",
    "unknown_operation",
    "unknown_service",
]
