"""How the botocore that is installed compares with those that the package's data are of."""

from __future__ import annotations

import botocore
from botocore.loaders import create_loader

from tests.helpers.operations_file import header, listed

NAMES = frozenset({*listed(newer=False), *listed(newer=True)})
"""The services that the package knows."""


def _numbers(version: str) -> list[int]:
    return [int(number) for number in version.split(".")[:3]]


LOCKED = header().locked
"""The botocore of uv.lock, which the tests have by default."""
OLDER = _numbers(botocore.__version__) < _numbers(LOCKED)
"""Whether it may lack operations that the package knows, as in `nox -s lowest`."""
INSTALLED = frozenset(create_loader().list_available_services("service-2"))
UNLISTED = INSTALLED - NAMES
"""The services that only it has: new ones, or those of an older botocore that AWS has closed."""


def operations_of(service: str) -> list[str]:
    """Return the operations of a service, in the botocore that is installed."""
    return sorted(create_loader().load_service_model(service, "service-2")["operations"])
