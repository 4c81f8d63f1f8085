"""Random histories of a queue: its options, and what happens to it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence  # noqa: TC003 - of dataclasses
from dataclasses import dataclass, field, replace
from typing import Any

__all__ = ["CallPlan", "Plan", "Spec", "draw"]

LARGEST = 5
"""The largest cost of a call. Windows and calendars admit twice as much: no call is refused for its
size alone."""
KEYS = ("a", "b", "t1", "t2", "z")
NAMES = ("a", "b", "t*")
UNITS = ("calls", "tokens", "usd")


@dataclass(frozen=True)
class Spec:
    """A limit, in the judge's own words.

    Args:
        kind: "rate", "window", "calendar", "permits" or "budget".
        amount: in `per` seconds, if it is a rate or a window.
        unit: what it counts.
        per: seconds.
        burst: of a rate.
        ramp: factor and period of a ramp, which starts at a tenth.
        raises: whether calls raise instead of waiting.
    """

    kind: str
    amount: int
    unit: str = "calls"
    per: float = 1
    burst: int = 1
    ramp: tuple[float, float] | None = None
    raises: bool = False

    def __str__(self) -> str:
        unit = "" if self.unit == "calls" else f" {self.unit}"
        match self.kind:
            case "rate":
                text = f"{self.amount}{unit} per {self.per}s burst {self.burst}"
                if self.ramp is not None:
                    text += f" ramp {self.ramp[0]}x per {self.ramp[1]}s"
            case "window":
                text = f"{self.amount}{unit} in any {self.per}s"
            case "calendar":
                text = f"{self.amount} {self.unit} in each hour"
            case "permits":
                text = f"{self.amount} at once"
            case _:
                return f"{self.amount} {self.unit} in all"
        return f"{text} or raise" if self.raises else text


@dataclass(frozen=True)
class CallPlan:
    """A call.

    Args:
        keys: its keys.
        cost: in each unit.
        priority: lower goes first.
        how: the method that makes it; "unused": its slot is given back as it is granted.
        number: so many calls come at once.
        runs: seconds that it runs.
        settles: (seconds after its start, cost) of each settlement.
        leaves: seconds after which it is cancelled, if it has not started by then; None: never.
        timeout: as of `slot`.
        throttled: whether the server refuses it.
    """

    keys: tuple[str, ...]
    cost: tuple[float, ...]
    priority: int = 0
    how: str = "slot"
    number: int = 1
    runs: float = 0
    settles: tuple[tuple[float, tuple[float, ...]], ...] = ()
    leaves: float | None = None
    timeout: float | None = None
    throttled: bool = False


Event = tuple[str, Any]


@dataclass(frozen=True)
class Plan:
    """A history.

    Args:
        own: the queue's limits.
        lanes: those of keys and patterns.
        options: other options of the queue.
        events: seconds after the event before, and the event.
    """

    own: tuple[Spec, ...]
    lanes: dict[str, tuple[Spec, ...]]
    options: dict[str, Any]
    events: tuple[tuple[float, Event], ...] = field(repr=False)

    def smaller(self) -> Sequence[Plan]:
        """Return what is left of it without each of its parts."""
        found = [
            replace(self, events=(*self.events[:index], *self.events[index + 1 :]))
            for index in range(len(self.events))
        ]
        found += [
            replace(self, own=(*self.own[:index], *self.own[index + 1 :]))
            for index in range(len(self.own))
        ]
        for name, specs in self.lanes.items():
            rest = {key: its for key, its in self.lanes.items() if key != name}
            found.append(replace(self, lanes=rest))
            found += [
                replace(self, lanes={**self.lanes, name: (*specs[:index], *specs[index + 1 :])})
                for index in range(len(specs))
                if len(specs) > 1
            ]
        for name in self.options:
            if name != "order" or "weights" not in self.options:
                rest = {key: its for key, its in self.options.items() if key != name}
                found.append(replace(self, options=rest))
        return found


def draw(seed: int, size: int, *, without: frozenset[str] = frozenset()) -> Plan:
    """Draw a history.

    Args:
        seed: of the random numbers.
        size: number of its events.
        without: names of what is not drawn: "calendar", "adaptive", "weights", "ramp", "sync",
            "order", "concurrency".
    """
    return _Drawing(seed, without).plan(size)


class _Drawing:
    def __init__(self, seed: int, without: frozenset[str]) -> None:
        self.rng = random.Random(seed)
        self.without = without
        # Most histories have few features: several at once hide each other's faults.
        self.units = self.rng.choice([UNITS[:1], UNITS[:1], UNITS[:2], UNITS])
        self.is_crowded = self.rng.random() < 0.5
        """Whether many calls come at once, and meet in few lanes."""
        self.keys = self.rng.sample(KEYS, 2) if self.is_crowded else KEYS
        self.grows = self.rng.random() < 0.1
        """Whether many calls come at once under a ramp, and then none for a while."""
        if self.is_crowded and self.rng.random() < 0.5:
            self.without = without | {"window", "calendar", "permits", "budget", "ramp", "sync"}

    def plan(self, size: int) -> Plan:
        rng = self.rng
        own = self.specs(rng.choice([0, 0, 1] if self.is_crowded else [0, 1, 1, 2]))
        names: list[str] = rng.sample(NAMES, rng.choice([0, 1, 2, 2, 3]))
        if self.is_crowded:
            names = sorted({"t*" if key.startswith("t") else key for key in self.keys} - {"z"})
        if self.grows and "ramp" not in self.without:
            own = (Spec("rate", 20, ramp=(2, 1)), *own[:1])
        lanes = {name: self.specs(rng.choice([1, 1, 2])) for name in names}
        options: dict[str, Any] = {}
        if self.may("order", 0.5):
            options["order"] = "fair"
            if self.may("weights", 0.6):
                options["weights"] = {rng.choice(KEYS): rng.choice([0.5, 2, 3, 100])}
        if self.may("concurrency", 0.1):
            options["concurrency"] = rng.choice([1, 2, 5])
        if self.may("adaptive", 0.1) and not {"rate"}.isdisjoint(one.kind for one in own):
            options["adaptive"] = rng.choice([0.5, 1])
        events = tuple((self.pause(), self.event(names)) for _ in range(size))
        return Plan(own, lanes, options, events)

    def may(self, what: str, chance: float) -> bool:
        drawn = self.rng.random() < chance
        return drawn and what not in self.without

    def pause(self) -> float:
        if self.is_crowded and self.rng.random() < 0.8:
            return 0
        return self.rng.choice([0, 0, 0, 0, 0.1, 0.25, 0.5, 1, 2, 5])

    def specs(self, count: int) -> tuple[Spec, ...]:
        return tuple(self.spec() for _ in range(count))

    def spec(self) -> Spec:
        rng = self.rng
        kinds = ["rate", "rate", "rate", "window", "calendar", "permits", "budget"]
        kind = rng.choice([one for one in kinds if one not in self.without])
        unit, raises = rng.choice(self.units), rng.random() < 0.2
        match kind:
            case "rate":
                amount, per = rng.choice([1, 2, 5, 20]), rng.choice([1, 4])
                ramp = rng.choice([(2, 4), (3, 10)]) if self.may("ramp", 0.2) else None
                if ramp is not None and ramp[1] < 10 * per / amount:
                    ramp = None  # its floor would admit less than one in a period
                burst = rng.choice([1, 1, amount])
                return Spec(kind, amount, unit, per, burst, ramp, raises)
            case "window":
                per = rng.choice([2, 10])
                return Spec(kind, rng.choice([2, 4]) * LARGEST, unit, per, raises=raises)
            case "calendar":
                return Spec(kind, rng.choice([2, 4, 20]) * LARGEST, unit, raises=raises)
            case "permits":
                return Spec(kind, rng.choice([1, 2, 5]), raises=raises)
            case _:
                return Spec(kind, rng.choice([10, 40]), unit, raises=True)

    def cost(self) -> tuple[float, ...]:
        rng = self.rng
        calls = 1 if self.is_crowded else rng.choice([1, 1, 1, 2])
        return (calls, *(rng.choice([0, 1, 1, 2, LARGEST]) for _ in self.units[1:]))

    def event(self, names: Sequence[str]) -> Event:
        rng = self.rng
        if self.grows and rng.random() < 0.2:
            return "call", CallPlan((), (1, *[0 for _ in self.units[1:]]), number=30)
        if rng.random() < 0.8:
            return "call", self.call()
        others: list[Callable[[], Event]] = [
            lambda: ("pause", rng.choice([None, 0.5, 3])),
            lambda: ("resume", None),
            lambda: ("resume", None),
            lambda: ("hold", (rng.choice([0.5, 3]), rng.choice([None, *names]))),
            lambda: ("set_rate", (rng.choice([None, *names]), self.specs(rng.choice([0, 1, 2])))),
        ]
        if "sync" not in self.without:
            others.append(lambda: ("sync", rng.choice([0, 1, 5])))
        return rng.choice(others)()

    def call(self) -> CallPlan:
        rng = self.rng
        keys = tuple(rng.sample(self.keys, rng.choice([0, 1, 1, 2, 2])))
        how = rng.choice(["slot", "slot", "slot", "enqueue", "unused", "try_slot", "map"])
        settles = [
            (rng.choice([0, 0.1, 1, 4]), (1, *self.cost()[1:]))
            for _ in range(rng.choice([0, 0, 1, 1, 2]) if len(self.units) > 1 else 0)
        ]
        runs = rng.choice([0, 0, 0.2, 1, 4])
        may_leave = how not in {"try_slot", "map"}
        return CallPlan(
            keys,
            self.cost(),
            priority=rng.choice([0, 0, 0, 0, 1, -1]),
            how=how,
            runs=runs,
            settles=tuple(sorted(one for one in settles if one[0] <= runs)),
            leaves=rng.choice([None, None, None, 0, 0.3, 2]) if may_leave else None,
            timeout=rng.choice([None, None, None, 0.5, 3]) if may_leave else None,
            throttled=rng.random() < 0.05,
        )
