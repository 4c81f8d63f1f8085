"""The kinds of queue that are used, how they are called, and what must hold of each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aioapiqueue import Adaptive, ApiQueue, HostSchedule, Window
from tests.soak.checks import RateCheck, WindowCheck

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

__all__ = ["Kind", "Limit", "local_kinds", "shared_kind"]

ROUNDING = 0.002
"""Seconds that pass at most from a start to the event that says so."""
LATE = 0.010 + ROUNDING
"""Seconds: `catch_up`, and that."""


@dataclass
class Limit:
    """One limit, and the calls that it concerns.

    Attributes:
        check: counts them.
        prefix: what one of their keys begins with; "": all calls.
        unit: that it counts.
    """

    check: RateCheck | WindowCheck
    prefix: str = ""
    unit: str = "calls"

    def concerns(self, keys: tuple[Any, ...]) -> bool:
        """Return whether calls with these keys come under it."""
        return not self.prefix or any(str(key).startswith(self.prefix) for key in keys)


@dataclass
class Kind:
    """One kind of queue.

    Attributes:
        name: for messages.
        make: makes the queue.
        call: says how a call is made: the arguments of `slot`.
        each_second: how many calls there are, on average.
        checks: its limits.
        at_once: how many bodies may run; 0: any number.
        shared: where its limits are kept: "", "hub" or "server".
        bodies: how many run.
        unsure_until: until when more may run, as the server has lost its data.
    """

    name: str
    make: Callable[..., ApiQueue]
    call: Callable[[random.Random], dict[str, Any]]
    each_second: float
    checks: list[Limit] = field(default_factory=list)
    at_once: int = 0
    shared: str = ""
    bodies: int = 0
    unsure_until: float = 0.0


def _rate(name: str, rate: float, burst: float = 1, **of: Any) -> Limit:
    return Limit(RateCheck(name, rate, burst, LATE), **of)


def _window(name: str, most: float, per: float, **of: Any) -> Limit:
    return Limit(WindowCheck(name, most, per, rounding=ROUNDING), **of)


def local_kinds() -> list[Kind]:
    """Return those whose queues live through all event loops."""
    return [
        Kind(
            "paced",
            lambda **more: ApiQueue("200/s burst 20", **more),
            lambda rng: {"priority": rng.choice([0, 0, 0, -1, 5])},
            260,
            [_rate("200/s burst 20", 200, 20)],
        ),
        Kind(
            "windows",
            lambda **more: ApiQueue(Window(60, 1), concurrency=5, order="fair", **more),
            lambda rng: {"key": rng.choice("abcde")},
            80,
            [_window("60 in any 1s", 60, 1)],
            at_once=5,
        ),
        Kind(
            "lanes",
            lambda **more: ApiQueue(
                "300/s",
                "4000 tokens/s burst 800",
                lanes={"tenant:*": "60/s burst 5", "search": Window(30, 1), "slow": "2 at once"},
                order="fair",
                **more,
            ),
            _call_of_lanes,
            200,
            [
                _rate("300/s", 300),
                _rate("4000 tokens/s burst 800", 4000, 800, unit="tokens"),
                *(_rate(f"tenant {x}", 60, 5, prefix=f"tenant:{x}") for x in "abcd"),
                _window("search", 30, 1, prefix="search"),
            ],
        ),
        Kind(
            "full",
            lambda **more: ApiQueue("100/s", maxsize=20, overflow="drop_oldest", **more),
            lambda rng: {"priority": rng.randrange(3)},
            150,
            [_rate("100/s", 100)],
        ),
        Kind(
            "adaptive",
            lambda **more: ApiQueue("150/s", adaptive=Adaptive("20/s"), **more),
            lambda _: {},
            160,
            [_rate("150/s", 150)],
        ),
        Kind(
            "calendar",
            lambda **more: ApiQueue("200 in each hour", "100/s", **more),
            lambda _: {"timeout": 0.5},
            40,
            [_rate("100/s", 100)],
        ),
        Kind(
            "hub",
            lambda **more: ApiQueue(
                *("80/s burst 10", Window(250, 5), "8 at once"),
                lanes={"a": "30/s"},
                schedule=HostSchedule("soak"),
                **more,
            ),
            lambda rng: {"key": rng.choice([None, "a", "b"])},
            90,
            [
                _rate("80/s burst 10", 80, 10),
                _window("250 in any 5s", 250, 5),
                _rate("lane a", 30, prefix="a"),
            ],
            at_once=8,
            shared="hub",
        ),
    ]


def shared_kind(schedule: Callable[[], Any]) -> Kind:
    """Return that whose limits are kept on a server: a queue for each event loop."""
    return Kind(
        "server",
        lambda **more: ApiQueue(
            "100/s burst 10", concurrency=6, lanes={"a": "40/s"}, schedule=schedule(), **more
        ),
        lambda rng: {"key": rng.choice([None, "a", "b"])},
        110,
        [_rate("100/s burst 10", 100, 10), _rate("lane a", 40, prefix="a")],
        at_once=6,
        shared="server",
    )


def _call_of_lanes(rng: random.Random) -> dict[str, Any]:
    keys = [f"tenant:{rng.choice('abcd')}"]
    if rng.random() < 0.3:
        keys.append(rng.choice(["search", "slow"]))
    return {"keys": keys, "cost": {"tokens": rng.randrange(0, 60)}}
