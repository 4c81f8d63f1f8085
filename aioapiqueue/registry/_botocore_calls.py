"""What can be known of a call of botocore's without asking anybody: of parameters, of credentials.

The bootstrap that `aioapiqueue run` puts into other programs loads this file by its path. So it has
only the standard library, imports nothing of aioapiqueue, and keeps to the syntax of Python 3.9.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain, islice
from typing import Any

__all__ = ["AHEAD", "MAX_PARAMETERS", "parameter_counts", "role_account"]

AHEAD = float("-inf")
"""The priority of a request that a call with a slot has to wait for."""

MAX_PARAMETERS = 64
"""Numbers of one call's parameters. No operation of AWS has half as many on which limits depend."""

_LONGEST_NAME = 64
_MAX_COUNT = 1 << 53
"""The largest whole number that any JSON reader keeps exact."""


def parameter_counts(parameters: object) -> dict[str, int]:
    """Return a call's parameters as numbers that limits can count, without their values.

    >>> parameter_counts({"MaxCount": 5, "InstanceIds": ["i-1", "i-2"], "DryRun": True})
    {'MaxCount': 5, 'InstanceIds': 2, 'DryRun': 1}

    Args:
        parameters: the arguments of the client's method. Anything but a mapping counts as none.

    Returns:
        By name, the value of a whole number, the length of a list, and 1 for any other parameter.
        Members of a structure are included as `"ChangeBatch.Changes"`, one level deep. At most 64
        parameters are included, and only those whose names a limit can contain.
    """
    if not isinstance(parameters, Mapping):
        return {}
    top = parameters.items()
    deep = (
        (f"{name}.{inner}", one)
        for name, value in top
        if isinstance(value, Mapping)
        for inner, one in value.items()
    )
    # A call's own parameters first: however much its structures have, none of those is left out.
    named = ((str(name), one) for name, one in chain(top, deep))
    counts = ((name, _count(one)) for name, one in named if _can_be_named(name))
    return dict(islice(counts, MAX_PARAMETERS))


def _can_be_named(name: str) -> bool:
    plain = len(name) <= _LONGEST_NAME and name.isascii()
    return plain and name.replace(".", "_").isidentifier()


def _count(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        # Enumerations would write themselves with their names.
        return int(min(max(value, 0), _MAX_COUNT))
    return len(value) if isinstance(value, (list, tuple)) else 1


def role_account(credentials: Any) -> str | None:  # noqa: ANN401 - of botocore, which has no types
    """Return whose role credentials are of, or None if they are of none.

    Known also before they are fetched, and where their keys do not show it; so that a refresh
    changes nothing.
    """
    fetcher = getattr(getattr(credentials, "_refresh_using", None), "__self__", None)
    arn = str(getattr(fetcher, "_assume_kwargs", {}).get("RoleArn")).split(":")
    # Of a single sign-on, the account is the fetcher's.
    return arn[4] if len(arn) > 5 else getattr(fetcher, "_account_id", None)  # noqa: PLR2004
