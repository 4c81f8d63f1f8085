"""Checks of what callers pass to a queue, with errors that say what to write instead."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NoReturn, TypeAlias

from aioapiqueue._limits.checks import LONGEST, pattern_problem, positive
from aioapiqueue._limits.limit_types import Limit, Rate, Window, as_limits

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from aioapiqueue._core.orders import Order
    from aioapiqueue._core.weights import Weights

Limits: TypeAlias = (
    str
    | Limit
    | tuple[str | Limit, ...]
    | list[str]
    | list[Rate]
    | list[Window]
    | list[Limit]
    | list[str | Limit]  # to a type checker, a list of one kind is not a list of either
)

_LIMITS_FIRST = 'pass limits first, without a name: ApiQueue("10/s")'
HINTS = {
    **dict.fromkeys(("rate", "rates", "limit", "limits", "max_rate", "rps"), _LIMITS_FIRST),
    **dict.fromkeys(("burst", "capacity"), 'write it in the limit: ApiQueue("20/s burst 100")'),
    **dict.fromkeys(
        ("per", "period", "time_period"), 'write it in the limit: ApiQueue("7 per 2s")'
    ),
    "max_concurrency": "did you mean concurrency=?",
    "key": "pass it with each call: queue.slot(key=...)",
    "timeout": "pass it with each call: queue.slot(timeout=...)",
}
"""What to write instead of options of `ApiQueue` that only other libraries have."""


def check_size(maxsize: int, overflow: str | None) -> None:
    """Check `maxsize` and `overflow`, also against each other."""
    if overflow not in (None, "raise", "drop_oldest"):
        raise ValueError(f'overflow must be "raise" or "drop_oldest", not {overflow!r}')
    positive(maxsize, of="maxsize", least=0)
    if overflow is not None and maxsize == 0:
        raise ValueError(
            f"overflow={overflow!r} needs maxsize, because a queue without maxsize is never full: "
            f"write maxsize=1000, overflow={overflow!r}, or remove overflow"
        )


def check_parts(*, adaptive: object, schedule: object, strict_lanes: object) -> None:
    """Check the options of `ApiQueue` that are objects; a class instead of one is refused."""
    # A string such as "false" would count as true.
    if not isinstance(strict_lanes, bool):
        raise TypeError(f"strict_lanes must be True or False, not {strict_lanes!r}")
    if adaptive is not None and not _has(adaptive, "govern"):
        raise TypeError(f"adaptive must be an Adaptive, not {adaptive!r}: write Adaptive()")
    if schedule is not None and not _has(schedule, "make_limiter"):
        raise TypeError(
            f"schedule must be a HostSchedule or a SharedSchedule, not {schedule!r}: write "
            'HostSchedule("NAME")'
        )


def check_place(priority: float, timeout: float | None) -> None:
    """Check the priority and the timeout of a call."""
    # The wait queue compares priorities, so the test is that they can be compared. NaN is neither
    # below 0 nor at least 0, and would have no place in the order.
    try:
        if not (priority < 0 or priority >= 0):
            raise ValueError("priority must be a number, not NaN")
    except TypeError:
        raise TypeError(f"priority must be a number, not {priority!r}") from None
    if timeout is not None:
        positive(timeout, of="timeout", least=0, most=LONGEST)


def parsed_lanes(lanes: Mapping[Hashable, Limits] | None) -> dict[Hashable, Sequence[Limit]]:
    """Return the limits of each lane.

    Raises:
        TypeError: `lanes` is not a mapping, or a lane has something else than limits.
        ValueError: a limit is invalid, or a pattern can match nothing. All messages name the lane.
    """
    if lanes is None:
        return {}
    if not isinstance(lanes, Mapping):
        raise TypeError(
            f'lanes must map keys to limits, such as {{"search": "2/s"}}, not {lanes!r}'
        )
    found: dict[Hashable, Sequence[Limit]] = {}
    for key, limits in lanes.items():
        try:
            if problem := pattern_problem(key):
                raise ValueError(problem)  # noqa: TRY301 - named below, as all errors of a lane
            found[key] = as_limits(limits)
        except (TypeError, ValueError) as error:
            # Not `type(error)`: a subclass may not accept a message alone.
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"lanes[{key!r}]: {error}") from None
    return found


def checked_weights(
    weights: Mapping[Hashable, float] | None, unit: str | None, order: Order
) -> Weights | None:
    """Return the weights of a queue; None: it has none.

    Raises:
        TypeError: as of `weights_of`.
        ValueError: as of `weights_of`.
    """
    if weights is None and unit is None:
        return None
    from aioapiqueue._core.weights import weights_of  # noqa: PLC0415 - few queues have them

    return weights_of(weights, unit, order)


def _has(value: object, method: str) -> bool:
    """Return whether an object has a method; False for its class."""
    return hasattr(value, method) and not isinstance(value, type)


class Missing:
    """An attribute that does not exist, and whose error says what to use instead.

    Args:
        remedy: what to write instead.
    """

    # A `__getattr__` would do the same for any name, but a slot would take 8 to 10 % longer:
    # CPython 3.11 then no longer specializes the other attributes of the class.

    def __init__(self, remedy: str) -> None:
        self._remedy = remedy
        self._name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type) -> NoReturn:
        raise AttributeError(
            f"{owner.__name__!r} object has no attribute {self._name!r}: {self._remedy}",
            name=self._name,
            obj=owner if instance is None else instance,
        )
