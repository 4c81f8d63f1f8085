"""How the botocore that is installed compares with the one that the package's data are of."""

from __future__ import annotations

import botocore
from botocore.loaders import create_loader

from aioapiqueue.registry._names import NAMES
from aioapiqueue.registry.presets.services import BOTOCORE


def _numbers(version: str) -> list[int]:
    return [int(number) for number in version.split(".")[:3]]


OLDER = _numbers(botocore.__version__) < _numbers(BOTOCORE)
"""Whether it may lack operations that the package knows, as in `nox -s lowest`."""
INSTALLED = frozenset(create_loader().list_available_services("service-2"))
UNLISTED = INSTALLED - NAMES
"""The services that only it has: new ones, or those of an older botocore that AWS has closed."""
