"""Slow, obvious ledgers of limits: what calls were charged at least and at most, and when.

Nothing here comes from the library. What a ledger cannot know, such as how much of a refund has
recovered already, it brackets: `exceeded` counts each call at its lowest cost, `has_room` at its
highest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence  # noqa: TC003 - of dataclasses
from dataclasses import dataclass, field
from typing import Any

from tests.judge.plan import UNITS, CallPlan, Plan, Spec

__all__ = ["Ledger", "Model", "Record"]

CATCH_UP = 0.010
ROUNDING = 1e-6


@dataclass(eq=False)
class Record:
    """What has happened to a call: instants, and its costs from the start on."""

    number: int
    plan: CallPlan
    joined: float
    started: float | None = None
    ended: float | None = None
    left: float | None = None
    """When it was cancelled or refused, or gave up."""
    refused: Exception | None = None
    costs: list[tuple[float, tuple[float, ...]]] = field(default_factory=list)
    enters_again: Callable[[], float] | None = None
    """Returns when calls last entered again: a hub lets them do so when limits change."""

    @property
    def waits_since(self) -> float:
        """The instant from which it saves up for a cost above the burst."""
        return self.joined if self.enters_again is None else max(self.joined, self.enters_again())

    @property
    def waits(self) -> bool:
        """Whether it has neither started nor left."""
        return self.started is None and self.left is None

    def cost(self, unit: int, now: float = math.inf) -> float:
        """Return what it costs in a unit, as was known before an instant."""
        known = [cost for at, cost in self.costs[1:] if at < now]
        return (known[-1] if known else self.costs[0][1])[unit]

    def least_at(self, unit: int, now: float) -> float:
        """Return the same; what is settled at this very instant may count by now, or not yet."""
        at_once = [cost[unit] for at, cost in self.costs[1:] if abs(at - now) < ROUNDING]
        return min([self.cost(unit, now - ROUNDING), *at_once])

    def least(self, unit: int) -> float:
        """Return the lowest that it has cost in a unit."""
        return min(cost[unit] for _, cost in self.costs)

    def most(self, unit: int) -> float:
        """Return the highest that it has cost in a unit."""
        return max(cost[unit] for _, cost in self.costs)

    def is_settled(self, now: float) -> bool:
        """Return whether nothing of it is reserved any more."""
        ended = self.ended is not None and self.ended <= now
        return ended or any(at <= now for at, _ in self.costs[1:])


class Ledger:
    """What calls were charged to one limit.

    Args:
        spec: the limit.
        key: of its lane; None: it is the queue's own.
        since: the instant at which it was set.
        replaces: whether it was set later, so that it may count calls of others.
    """

    def __init__(self, spec: Spec, key: str | None, since: float, *, replaces: bool) -> None:
        self.spec, self.key, self.since, self.replaces = spec, key, since, replaces
        self.until = math.inf
        self.unit = UNITS.index(spec.unit)
        self.calls: list[Record] = []

    def __str__(self) -> str:
        return f'"{self.spec}"' + (f" of {self.key!r}" if self.key else "")

    def concerns(self, plan: CallPlan) -> bool:
        """Return whether a call is charged to the limit."""
        return self.spec.kind == "permits" or plan.cost[self.unit] > 0

    # How much was charged at least.

    def exceeded(self) -> Iterator[str]:
        """Yield how the limit was exceeded."""
        if self.spec.kind == "permits":
            yield from self._too_many_at_once()
            return
        if self.spec.kind == "budget":
            yield from self._overspent()
            return
        ordered = sorted(self.calls, key=lambda one: one.started or 0)
        starts = [(one.started or 0, one.least(self.unit)) for one in ordered]
        largest = max((one.most(self.unit) for one in ordered), default=0)
        for index, (first, _) in enumerate(starts):
            total = 0.0
            for at, cost in starts[index:]:
                total += cost
                if total > self._allowed(at - first, largest) + ROUNDING:
                    yield f"{self}: {total:g} from {first:g} to {at:g}"
                    return
        if self.spec.ramp is not None:
            yield from self._grown_too_fast(starts, largest)

    def _allowed(self, span: float, largest: float) -> float:
        spec = self.spec
        if spec.kind == "rate":
            rate = spec.amount / spec.per
            return max(spec.burst, largest) + (span + CATCH_UP) * rate
        if spec.kind == "window":
            return spec.amount if span < spec.per - ROUNDING else math.inf
        return 2 * spec.amount if span < 3600 else math.inf

    def _too_many_at_once(self) -> Iterator[str]:
        for one in self.calls:
            at = one.started or 0
            running = [
                other
                for other in self.calls
                if (other.started or 0) <= at and (other.ended is None or other.ended > at)
            ]
            if len(running) > self.spec.amount:
                yield f"{self}: {len(running)} at {at:g}"
                return

    def _overspent(self) -> Iterator[str]:
        for one in self.calls:
            at = one.started or 0
            before = [other for other in self.calls if (other.started or 0) <= at]
            total = sum(other.least_at(self.unit, at) for other in before)
            if one.costs[0][1][self.unit] and total > self.spec.amount + ROUNDING:
                yield f"{self}: {total:g} at {at:g}"
                return

    def _grown_too_fast(
        self, starts: Sequence[tuple[float, float]], largest: float
    ) -> Iterator[str]:
        assert self.spec.ramp is not None
        factor, per = self.spec.ramp
        floor = self.spec.amount / self.spec.per / 10
        grown = floor * per * (factor - 1) / math.log(factor)  # it may begin to grow at once
        used_for = 1.25 * per + largest / floor
        for first, _ in starts:
            after = sum(cost for at, cost in starts if first <= at < first + per)
            before = sum(
                one.most(self.unit)
                for one in self.calls
                if first - used_for <= (one.started or 0) < first
            )
            allowed = max(grown, factor ** (9 / 8) * (before + largest))
            if after > allowed + self.spec.burst + largest + 1.1:
                yield f"{self}: {after:g} in {per:g} s from {first:g} on, after {before:g}"
                return

    # How much was charged at most.

    def has_room(self, record: Record, now: float) -> bool:
        """Return whether there is room for a call, whatever is not known."""
        spec, cost = self.spec, record.plan.cost[self.unit]
        if self.replaces:
            return False
        match spec.kind:
            case "permits":
                return sum(one.ended is None for one in self.calls) < spec.amount
            case "budget":
                return self.spent() + cost <= spec.amount - ROUNDING
            case "rate":
                return self._due(record, cost) <= now
        per = spec.per if spec.kind == "window" else 3600
        recent = [one for one in self.calls if (one.started or 0) > now - per - ROUNDING]
        return sum(one.most(self.unit) for one in recent) + cost <= spec.amount

    def _due(self, record: Record, cost: float) -> float:
        spec = self.spec
        share = 1 if spec.ramp is None else 10
        interval, burst = share * spec.per / spec.amount, max(1, spec.burst / share)
        if spec.raises and cost > burst:
            return math.inf
        charges = []
        for one in self.calls:
            before = 0.0
            for at, each in one.costs:
                # What a lower cost has given back in between is not known.
                charges.append((at, max(0, each[self.unit] - before)))
                before = each[self.unit]
        full_at = -math.inf
        for at, amount in sorted(charges):
            full_at = max(full_at, at) + amount * interval
        if cost > burst:
            full_at = max(full_at, record.waits_since)
        return full_at + (cost - burst) * interval

    def spent(self, *, settled: bool = False, now: float = math.inf) -> float:
        """Return what is charged to a budget; perhaps only by calls that give nothing back."""
        return sum(
            one.cost(self.unit, now)
            for one in self.calls
            if (one.started or 0) < now and (not settled or one.is_settled(now))
        )


class Model:
    """The limits of a queue, and all of its calls.

    Args:
        plan: the history.
    """

    def __init__(self, plan: Plan) -> None:
        self.specs: dict[str | None, tuple[Spec, ...]] = {None: plan.own, **plan.lanes}
        if most := plan.options.get("concurrency"):
            self.specs[None] = (*plan.own, Spec("permits", most))
        self._concurrency = self.specs[None][len(plan.own) :]
        self._since: dict[str | None, float] = {}
        self._in_force: dict[tuple[str | None, str | None], list[Ledger]] = {}
        self._found: dict[Any, list[Ledger]] = {}
        self.ledgers: list[Ledger] = []
        self.records: list[Record] = []
        self.changed_at = -math.inf
        """The instant of the last `set_rate`."""

    def set_limits(self, name: str | None, specs: Sequence[Spec], now: float) -> None:
        """Replace limits."""
        self.specs[name] = (*specs, *(self._concurrency if name is None else ()))
        self._since[name] = self.changed_at = now
        self._found.clear()
        for found in [each for each in self._in_force if each[0] == name]:
            for ledger in self._in_force.pop(found):
                ledger.until = now

    def of(self, plan: CallPlan) -> list[Ledger]:
        """Return the ledgers of the limits that a call is charged to."""
        what = plan.keys, plan.cost
        if what not in self._found:
            keys: list[str | None] = [None, *plan.keys]
            ledgers = [one for key in keys for one in self._of_key(key)]
            self._found[what] = [one for one in ledgers if one.concerns(plan)]
        return self._found[what]

    def _of_key(self, key: str | None) -> list[Ledger]:
        name = key
        if key is not None and key not in self.specs and key.startswith("t"):
            name = "t*"
        if name not in self.specs:
            return []
        if (name, key) not in self._in_force:
            since = self._since.get(name, -math.inf)
            found = [
                Ledger(spec, key, since, replaces=name in self._since) for spec in self.specs[name]
            ]
            self._in_force[name, key] = found
            self.ledgers += found
        return self._in_force[name, key]

    def note_start(self, record: Record, now: float) -> None:
        """Charge a call."""
        record.started = now
        record.costs.append((now, record.plan.cost))
        for ledger in self.of(record.plan):
            if now > ledger.since:  # else it may have started under the limits before
                ledger.calls.append(record)

    def note_unused(self, record: Record, now: float) -> None:
        """Charge a call, and give it back at once."""
        self.note_start(record, now)
        record.costs.append((now, (0,) * len(UNITS)))
        record.ended = now

    def note_settled(self, record: Record, cost: tuple[float, ...], now: float) -> None:
        """Charge a call what it has cost; also to limits whose unit it was not to use."""
        record.costs.append((now, cost))
        keys: list[str | None] = [None, *record.plan.keys]
        for ledger in (one for key in keys for one in self._of_key(key)):
            is_new = record not in ledger.calls and ledger.spec.kind != "permits"
            if is_new and cost[ledger.unit] and (record.started or 0) > ledger.since:
                ledger.calls.append(record)

    @property
    def waiting(self) -> list[Record]:
        """The calls that wait."""
        return [one for one in self.records if one.waits]
