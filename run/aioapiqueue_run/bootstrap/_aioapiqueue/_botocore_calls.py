"""Reads what limits depend on from a botocore call: counts of its parameters, and its account.

The bootstrap that `aioapiqueue run` puts into other programs has a copy of this file, which a test
compares with the original in `registry/`. So this file uses only the standard library, imports
nothing of aioapiqueue, and keeps to the syntax of Python 3.9.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain, islice
from typing import Any

AHEAD = float("-inf")
"""The priority of a request that a call with a slot waits for, such as one for credentials."""

MAX_PARAMETERS = 64
"""Most parameters of a call that are counted, many more than the limits of any operation need."""

_LONGEST_NAME = 64
_MAX_COUNT = 1 << 53
"""The largest whole number that any JSON reader keeps exact."""


def parameter_counts(parameters: object) -> dict[str, int]:
    """Return a call's parameters as numbers that limits can count, without their values.

    >>> parameter_counts({"MaxCount": 5, "InstanceIds": ["i-1", "i-2"], "DryRun": True})
    {'MaxCount': 5, 'InstanceIds': 2, 'DryRun': 1}

    Args:
        parameters: the arguments of the client's method. Any value but a mapping counts as empty.

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
    # A call's own parameters come first, so that large structures cannot push them out.
    named = ((str(name), one) for name, one in chain(top, deep))
    counts = ((name, _count(one)) for name, one in named if _can_be_named(name))
    return dict(islice(counts, MAX_PARAMETERS))


def _can_be_named(name: str) -> bool:
    plain = len(name) <= _LONGEST_NAME and name.isascii()
    return plain and name.replace(".", "_").isidentifier()


def _count(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):  # bool is a subclass of int
        # `int` also turns a member of an `IntEnum` into a plain number, whose text is digits.
        return int(min(max(value, 0), _MAX_COUNT))
    return len(value) if isinstance(value, (list, tuple)) else 1


def role_account(credentials: Any) -> str | None:
    """Return the account of the role that credentials are for; None if they are for no role."""
    # botocore has no public way to the role. Its fetcher knows the account before it has fetched
    # credentials, and whatever their keys are, so a refresh does not look like another account.
    fetcher = getattr(getattr(credentials, "_refresh_using", None), "__self__", None)
    arn = str(getattr(fetcher, "_assume_kwargs", {}).get("RoleArn")).split(":")
    # An ARN is arn:aws:iam::ACCOUNT:role/NAME. A fetcher for single sign-on has no ARN, but the id.
    return arn[4] if len(arn) > 5 else getattr(fetcher, "_account_id", None)  # noqa: PLR2004
