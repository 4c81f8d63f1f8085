"""Limits of AWS services and HTTP hosts, from a limits.toml or from code: `Registry`.

`aioapiqueue docs limits` shows the format of the file.
"""

from aioapiqueue.exceptions import LimitsError as LimitsError
from aioapiqueue.registry._botocore_calls import parameter_counts
from aioapiqueue.registry._buckets import Bucket, VariantKey
from aioapiqueue.registry._in_force import InForce
from aioapiqueue.registry._model import ServiceLimits
from aioapiqueue.registry._published import PublishedLimit
from aioapiqueue.registry._queues import QueueKey
from aioapiqueue.registry._registry import PacedCall, Registry

__all__ = [
    "Bucket",
    "InForce",
    "PacedCall",
    "PublishedLimit",
    "QueueKey",
    "Registry",
    "ServiceLimits",
    "VariantKey",
    "parameter_counts",
]
