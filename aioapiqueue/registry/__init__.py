"""Limits of AWS services and HTTP hosts, from a limits.toml or from code: `Registry`.

`aioapiqueue docs limits` shows the format of the file.
"""

import typing as _typing

from aioapiqueue.exceptions import LimitsError as LimitsError
from aioapiqueue.registry._botocore_calls import parameter_counts
from aioapiqueue.registry._buckets import Bucket, VariantKey
from aioapiqueue.registry._model import ServiceLimits
from aioapiqueue.registry._published import PublishedLimit
from aioapiqueue.registry._registry import PacedCall, QueueKey, Registry
from aioapiqueue.registry._registry import forget_idle as forget_idle
from aioapiqueue.registry._tables import InForce

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

_RENAMED = {"Figure": PublishedLimit, "facts": parameter_counts}

if not _typing.TYPE_CHECKING:  # a type checker would take any misspelt name for one of these

    def __getattr__(name: str) -> object:
        if name not in _RENAMED:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import warnings  # noqa: PLC0415 - only now needed

        now = _RENAMED[name]
        message = f"{__name__}.{name} is now named {now.__name__}"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        return now
