"""Which queue does a call belong to? By service, operation, account and Region: limits.toml.

The file's schema, with examples: docs/limits.md.
"""

from aioapiqueue.exceptions import LimitsError as LimitsError
from aioapiqueue.registry._buckets import Bucket, facts
from aioapiqueue.registry._model import ServiceLimits
from aioapiqueue.registry._published import Figure
from aioapiqueue.registry._registry import QueueKey, Registry, Turn
from aioapiqueue.registry._registry import forget_idle as forget_idle
from aioapiqueue.registry._tables import InForce

__all__ = [
    "Bucket",
    "Figure",
    "InForce",
    "QueueKey",
    "Registry",
    "ServiceLimits",
    "Turn",
    "facts",
]
