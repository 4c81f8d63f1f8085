"""The messages of the run hub's protocol (docs/hub.md), and bounds on what clients may send."""

from __future__ import annotations

import json
import re
from typing import Any

from aioapiqueue.integrations.spi import Advice, Quota
from aioapiqueue.registry.spi import MAX_PARAMETERS
from aioapiqueue.spi import CALLS, checks, printable
from aioapiqueue_run.bootstrap._aioapiqueue import VERSION as VERSION  # noqa: PLC0414 - re-exported

MAX_LINE = 8192
"""Most bytes of a line, with the line feed."""
MAX_CONNECTIONS_PER_PROCESS = 2_000
"""Most connections of a process: each waiting thread needs one, and more threads are rare."""
MAX_REQUESTS_PER_PROCESS = 65_536
"""Most requests of a process that wait or are in flight: a program may have a task for each of its
snapshots."""
MAX_REQUESTS = 262_144
"""The same for all processes together, which bounds the hub's memory."""

# Names are printed on terminals and in reports: none may contain a control sequence.
_NAME = re.compile(
    r"[\w.-]+"
    r"|https?://[a-z0-9_.:-]+"  # a host
    r"|(?:[A-Z-]+ )?/[!-~]*",  # a method and a path of it
    re.ASCII,
)
LONGEST_TEXT = 128
"""Most characters of a name, and of a text unless a message allows more."""
MOST_QUOTAS = 16
"""Most quotas that the advice of one response may have."""
_QUOTA = ("remaining", "reset", "limit", "period")
"""The numbers of a quota. Its unit is calls: the limits of hosts count nothing else."""


class Malformed(ValueError):  # noqa: N818 - names the state of the line
    """Raised for a line that breaks the protocol; the connection that sent it is closed."""


def parse(line: bytes) -> dict[str, Any]:
    """Return the message in one line.

    Raises:
        Malformed: it is too long, or not a JSON object.
    """
    if len(line) >= MAX_LINE:
        raise Malformed(f"a line is longer than {MAX_LINE:,} bytes")
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):  # the latter for "[[[[..."
        raise Malformed("a line is not JSON") from None
    if not isinstance(message, dict):
        raise Malformed("a line is not a JSON object")
    return message


def to_line(**message: object) -> bytes:
    """Return a message as a line."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def count(message: dict[str, Any], key: str) -> int:
    """Return a whole number from 1 to 2**53."""
    value = message.get(key)
    # `type`, as `True` is an int, too. Beyond 2**53, other languages have no exact integers.
    if type(value) is int and 0 < value <= 1 << 53:
        return value
    raise Malformed(f'"{key}" must be a whole number from 1 to 2^53')


def name(message: dict[str, Any], key: str) -> str:
    """Return the name of a service or an operation."""
    value = message.get(key)
    if isinstance(value, str) and len(value) <= LONGEST_TEXT and _NAME.fullmatch(value):
        return value
    raise Malformed(f'"{key}" is not a name')


def optional(message: dict[str, Any], key: str) -> str | None:
    """Return the same as `text`, or None if the key is missing or null."""
    return None if message.get(key) is None else text(message, key)


def text(message: dict[str, Any], key: str, *, longest: int = LONGEST_TEXT) -> str:
    """Return a text, with unprintable characters escaped."""
    value = message.get(key)
    if not isinstance(value, str) or len(value) > longest:
        raise Malformed(f'"{key}" must be a string of at most {longest} characters')
    return printable(value)


def advice(message: dict[str, Any]) -> Advice:
    """Return the advice of a response."""
    remaining = message.get("remaining", [])
    if not isinstance(remaining, list) or len(remaining) > MOST_QUOTAS:
        raise Malformed(f'"remaining" must be a list of at most {MOST_QUOTAS} quotas')
    return Advice(
        throttled=message.get("throttled") is True,
        hold=_number(message, "hold"),
        remaining=tuple(map(_quota, remaining)),
        refused=message.get("refused") is True,
        malformed=message.get("malformed") is True,
    )


def _quota(value: object) -> Quota:
    if not isinstance(value, dict):
        raise Malformed('"remaining" must contain only objects')
    return Quota(CALLS, *(_number(value, name) for name in _QUOTA))


def as_message(given: Advice) -> dict[str, object]:
    """Return the fields of a message that `advice` reads."""
    quotas = [one for one in given.remaining if one.unit == CALLS and one.remaining is not None]
    found: dict[str, object] = {
        "throttled": given.throttled or None,
        "hold": given.hold,
        "remaining": [_quota_message(one) for one in quotas[:MOST_QUOTAS]] or None,
        "refused": given.refused or None,
        "malformed": given.malformed or None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _quota_message(quota: Quota) -> dict[str, float]:
    numbers = {name: getattr(quota, name) for name in _QUOTA}
    # `_number` refuses one out of bounds, which ends the connection.
    return {name: min(one, checks.LONGEST) for name, one in numbers.items() if one is not None}


def _number(message: dict[str, Any], key: str) -> float | None:
    """Return a number that is not negative, or None if the key is missing or null."""
    value = message.get(key)
    if value is None:
        return None
    if type(value) in {int, float} and 0 <= value <= checks.LONGEST:  # NaN fails this, too
        return float(value)
    raise Malformed(f'"{key}" must be a number from 0 to {checks.LONGEST:,.0f}')


def parameter_counts(message: dict[str, Any]) -> dict[str, int]:
    """Return the parameters of a call, in the form of `registry.parameter_counts`."""
    value = message.get("parameters", {})
    if (
        isinstance(value, dict)
        and len(value) <= MAX_PARAMETERS
        and all(type(one) is int and 0 <= one <= 1 << 53 for one in value.values())
    ):
        return value
    raise Malformed(f'"parameters" must be an object of at most {MAX_PARAMETERS} numbers')
