"""Plays a history on a real queue in virtual time, and judges what happens."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from aioapiqueue import Adaptive, ApiQueue, LimitExceeded, WouldWait
from aioapiqueue.testing import VirtualLoop
from tests.judge.model import ROUNDING, Ledger, Model, Record
from tests.judge.plan import UNITS, CallPlan, Plan

__all__ = ["play", "reduced"]

PATIENCE = 0.02
"""Seconds in which a queue starts what it can."""
LONG = 10 * 86400
"""Seconds in which every limit has admitted every call of a history."""

Make = Callable[..., ApiQueue]


def play(plan: Plan, *, make: Make = ApiQueue, patience: float = PATIENCE) -> list[str]:
    """Play a history; return what was wrong with it.

    Args:
        plan: the history.
        make: makes the queue.
        patience: seconds in which the queue starts what it can.
    """
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(_Trial(plan, patience).play(make))


def reduced(plan: Plan, is_wrong: Callable[[Plan], Any]) -> Plan:
    """Return a history with as little as possible that is still wrong."""
    goes_on = True
    while goes_on:
        goes_on = False
        for smaller in plan.smaller():
            if is_wrong(smaller):
                plan, goes_on = smaller, True
                break
    return plan


@cache
def _as_text(spec: Any) -> str:
    """Return a limit as the library writes it."""
    return str(ApiQueue(str(spec)).limits[0])


class _Trial:
    def __init__(self, plan: Plan, patience: float) -> None:
        self.plan, self.patience = plan, patience
        self.model = Model(plan)
        self.faults: list[str] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.stops: list[tuple[float, float, str | None]] = []
        """(from, until, key) of pauses and holds; the key None: of everything."""
        self.paused_until = -math.inf
        self.is_synced = False
        self.made = 0
        """Number of calls."""
        self.moves = 0
        """Number of starts, ends and refusals so far."""
        self.stuck: dict[str, int] = {}
        """What was stuck at the last look, and the number of moves by then."""

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time()

    async def play(self, make: Make) -> list[str]:
        options = dict(self.plan.options)
        if recovery := options.pop("adaptive", None):
            options["adaptive"] = Adaptive("5/h", recovery=20 * recovery)
        lanes = {name: [str(one) for one in its] for name, its in self.plan.lanes.items()}
        # Every key is known, and every unit is counted somewhere.
        lanes |= {"*": (), "units": [f"1000000 {unit}/s burst 1000000" for unit in UNITS[1:]]}
        self.queue = make(*map(str, self.plan.own), lanes=lanes, **options)
        for pause, (kind, details) in self.plan.events:
            await self._rest(pause)
            getattr(self, f"_on_{kind}")(details)
        await self._rest(5)
        self._on_resume(None)
        while self.tasks:
            at = self.now
            await asyncio.wait(self.tasks, timeout=LONG)
            if self.now - at >= LONG:
                waiting = [one.number for one in self.model.waiting]
                self.faults.append(f"at the end, calls wait: {waiting}")
                break
        await self._end()
        self.faults += self._judged()
        return self.faults

    async def _end(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.queue.aclose(drain=False)

    async def _rest(self, seconds: float) -> None:
        """Let some time pass, and look now and then."""
        until = self.now + seconds
        while self.now < until:
            await asyncio.sleep(min(0.5, until - self.now))
            await asyncio.sleep(self.patience)
            self._look()
            await asyncio.sleep(self.patience)
            self._look()
        await asyncio.sleep(0)

    # Events.

    def _on_call(self, plan: CallPlan) -> None:
        for _ in range(plan.number):
            self._make(plan)

    def _make(self, plan: CallPlan) -> None:
        record = Record(self.made, plan, self.now)
        self.made += 1
        task = asyncio.create_task(self._call(record))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        if plan.leaves is not None:

            def leave() -> None:
                if record.waits:
                    task.cancel()

            timer = asyncio.get_running_loop().call_later(plan.leaves, leave)
            task.add_done_callback(lambda _: timer.cancel())

    def _on_pause(self, seconds: float | None) -> None:
        self.queue.pause(seconds)
        until = math.inf if seconds is None else self.now + seconds
        self.stops.append((self.now, until, None))

    def _on_resume(self, _: None) -> None:
        self.queue.resume()
        now = self.now
        # A hold of everything lasts; `_on_hold` notes it a second time, under the key "".
        self.stops = [
            (since, min(until, now) if key is None else until, key)
            for since, until, key in self.stops
        ]

    def _on_hold(self, details: tuple[float, str | None]) -> None:
        seconds, name = details
        key = "t1" if name == "t*" else name
        self.queue.hold(seconds, key=key)
        self.stops.append((self.now, self.now + seconds, key or ""))

    def _on_set_rate(self, details: tuple[str | None, Any]) -> None:
        name, specs = details
        try:
            self.queue.set_rate(*(map(str, specs) if specs else ("unlimited",)), key=name)
        except ValueError:
            if "adaptive" not in self.plan.options:  # its floor may be above the limits
                raise
        else:
            self.model.set_limits(name, specs, self.now)

    def _on_sync(self, remaining: float) -> None:
        self.queue.sync(remaining, reset=1)
        self.is_synced = True

    # Calls.

    async def _call(self, record: Record) -> None:
        plan = record.plan
        options: dict[str, Any] = {
            "keys": plan.keys,
            "cost": dict(zip(UNITS, plan.cost, strict=False)),
            "priority": plan.priority,
        }
        if plan.how not in {"try_slot", "map"}:
            options["timeout"] = plan.timeout
        record.joined = self.now
        if self.patience > PATIENCE:
            record.enters_again = lambda: self.model.changed_at
        self.model.records.append(record)
        try:
            await getattr(self, f"_by_{plan.how}")(record, options)
        except LimitExceeded as error:
            record.refused = error
        except (TimeoutError, WouldWait, asyncio.CancelledError):
            pass
        except Exception as error:  # noqa: BLE001 - none is expected
            self.faults.append(f"call {record.number}: {error!r}")
        self.moves += 1
        if record.started is None:
            record.left = self.now
        elif record.ended is None:
            record.ended = self.now

    async def _by_slot(self, record: Record, options: dict[str, Any]) -> None:
        async with self.queue.slot(**options) as slot:
            await self._run(record, slot)

    async def _by_enqueue(self, record: Record, options: dict[str, Any]) -> None:
        with await self.queue.enqueue(**options) as slot:
            await self._run(record, slot)

    async def _by_unused(self, record: Record, options: dict[str, Any]) -> None:
        future = self.queue.enqueue(**options)
        try:
            await asyncio.wait([future])
        finally:
            is_granted = future.done() and future.exception() is None
            future.cancel()
        if not is_granted:
            future.result()
        self.model.note_unused(record, self.now)

    async def _by_try_slot(self, record: Record, options: dict[str, Any]) -> None:
        others = [one for one in self.model.waiting if one is not record]
        is_due = not self._shared(record, others) and self._is_due(record, self.now)
        # On a shared quota, somebody else is asked first. And while calls come and go, the others
        # are sorted in the next step only.
        is_due &= self.patience == PATIENCE and self._is_calm(record)
        try:
            slot = self.queue.try_slot(**options)
        except WouldWait:
            if is_due:
                self.faults.append(f"call {record.number} would wait, with room")
            raise
        with slot:
            await self._run(record, slot)

    async def _by_map(self, record: Record, options: dict[str, Any]) -> None:
        async def run(_: int) -> None:
            await self._run(record, None)

        async for _ in self.queue.map(run, [0], **options):
            pass

    async def _run(self, record: Record, slot: Any) -> None:
        plan, at = record.plan, self.now
        self.moves += 1
        self.model.note_start(record, at)
        try:
            for after, cost in plan.settles if slot is not None else ():
                await asyncio.sleep(at + after - self.now)
                slot.settle(dict(zip(UNITS, cost, strict=False)))
                self.model.note_settled(record, cost, self.now)
            if plan.throttled and slot is not None:
                slot.throttled()
            await asyncio.sleep(at + plan.runs - self.now)
        finally:
            record.ended = self.now

    # Looks at those that wait.

    def _is_stopped(self, plan: CallPlan, now: float) -> bool:
        keys = {None, "", *plan.keys}
        return any(key in keys and until > now - self.patience for _, until, key in self.stops)

    def _is_due(self, record: Record, now: float) -> bool:
        """Return whether all limits of a call have room."""
        if self.is_synced or "adaptive" in self.plan.options:
            return False
        if self._is_stopped(record.plan, now):
            return False
        return all(one.has_room(record, now) for one in self.model.of(record.plan))

    def _is_calm(self, record: Record) -> bool:
        """Return whether no other call has come or gone just now."""
        instants = [
            at
            for one in self.model.records
            if one is not record
            for at in (one.joined, one.started, one.ended, one.left)
        ]
        return all(at is None or at < self.now - self.patience for at in instants)

    def _shared(self, record: Record, others: list[Record]) -> list[Record]:
        """Return those of other calls that are charged to some of the same limits."""
        mine = set(self.model.of(record.plan))
        return [one for one in others if not mine.isdisjoint(self.model.of(one.plan))]

    def _look(self) -> None:
        """Note what does not start although it could, if it was so at the last look as well."""
        now = self.now - self.patience
        waiting = [one for one in self.model.waiting if one.joined < now]
        found = dict.fromkeys(self._stuck(waiting, now), self.moves)
        for what, moves in found.items():
            if self.stuck.get(what) == moves and what not in self.faults:
                self.faults.append(what)
        self.stuck = found

    def _stuck(self, waiting: list[Record], now: float) -> Iterator[str]:
        due = {one.number for one in waiting if self._is_due(one, now)}
        is_fair = "order" in self.plan.options
        for one in waiting:
            others = self._shared(one, [other for other in self.model.waiting if other is not one])
            is_alone = not others
            if not is_fair:
                others = [other for other in others if not self._is_before(one, other)]
            if one.number in due and not others:
                yield f"call {one.number} waits, is the first, and all its limits have room"
            if is_alone:
                yield from self._not_refused(one, now)
        for group in self._groups(self.model.waiting):
            if all(one.number in due for one in group):
                numbers = [one.number for one in group]
                yield f"calls {numbers} wait, and the limits of each have room"

    @staticmethod
    def _is_before(one: Record, other: Record) -> bool:
        """Return whether a call is served before another one, in the order of arrival."""
        if one.plan.priority != other.plan.priority:
            return one.plan.priority < other.plan.priority
        # A task of `map` calls some steps later.
        joined = [one.joined, other.joined]
        return one.number < other.number and (joined[0] < joined[1] or one.plan.how != "map")

    def _groups(self, waiting: list[Record]) -> Iterator[list[Record]]:
        """Yield the calls that wait for each other, directly or not."""
        rest = list(waiting)
        while rest:
            group = [rest.pop()]
            for one in group:
                found = self._shared(one, rest)
                group += found
                rest = [other for other in rest if other not in found]
            yield sorted(group, key=lambda one: one.number)

    def _not_refused(self, record: Record, now: float) -> Iterator[str]:
        if self.is_synced or self._is_stopped(record.plan, now):
            return
        ledgers = self.model.of(record.plan)
        for ledger in ledgers:
            # It need not be refused before it is its turn at all others.
            is_turn = all(one is ledger or one.has_room(record, now) for one in ledgers)
            if is_turn and ledger.spec.kind == "budget" and not ledger.replaces:
                cost = record.plan.cost[ledger.unit]
                spent = ledger.spent(settled=ledger.unit > 0)
                if spent + cost > ledger.spec.amount + ROUNDING:
                    yield f"call {record.number} waits for {ledger}, which nothing comes back to"

    # The whole history.

    def _judged(self) -> Iterator[str]:
        for ledger in self.model.ledgers:
            yield from ledger.exceeded()
        yield from self._started_while_stopped()
        yield from self._overtaken()
        yield from self._refused_with_room()

    def _started_while_stopped(self) -> Iterator[str]:
        for one in self.model.records:
            if one.started is None:
                continue
            for since, until, key in self.stops:
                of_it = key is None or key == "" or (key in one.plan.keys and self._has_lane(key))
                if of_it and since < one.started < until - ROUNDING:
                    yield f"call {one.number} started at {one.started:g} while stopped"

    def _has_lane(self, key: str) -> bool:
        return key in self.plan.lanes or (key.startswith("t") and "t*" in self.plan.lanes)

    def _overtaken(self) -> Iterator[str]:
        for one in self.model.records:
            for other in self.model.records[one.number + 1 :]:
                same = (other.plan.keys, other.plan.cost, other.plan.priority)
                if same != (one.plan.keys, one.plan.cost, one.plan.priority):
                    continue
                if other.started is None or not self._is_before(one, other):
                    continue
                waited_until = one.started if one.started is not None else one.left
                if waited_until is not None and other.started < waited_until - ROUNDING:
                    if one.started is None and one.refused is None:
                        continue  # it left: whether its turn would have come is not known
                    yield f"call {one.number} was overtaken by {other.number}"

    def _refused_with_room(self) -> Iterator[str]:
        for one in self.model.records:
            error = one.refused
            if not isinstance(error, LimitExceeded) or one.left is None:
                continue
            for ledger in self.model.ledgers:
                is_it = ledger.key == error.key and _as_text(ledger.spec) == str(error.limit)
                is_it = is_it and one.left < ledger.until
                if is_it and not ledger.replaces and ledger.spec.kind == "budget":
                    yield from self._refused_by(one, ledger, one.left)

    def _refused_by(self, record: Record, ledger: Ledger, at: float) -> Iterator[str]:
        cost, amount = record.plan.cost[ledger.unit], ledger.spec.amount
        # What starts, settles or ends at this very instant may have come before or after it; and
        # what leaves may have had its grant.
        charged = sum(one.most(ledger.unit) for one in ledger.calls if (one.started or 0) <= at)
        charged += sum(
            one.plan.cost[ledger.unit]
            for one in self.model.records
            if one.left is not None and one.refused is None and abs(one.left - at) < self.patience
        )
        settled = ledger.spent(settled=True, now=at + ROUNDING)
        running = [
            one
            for one in ledger.calls
            if (one.started or 0) < at and not one.is_settled(at + ROUNDING)
        ]
        if charged + cost <= amount:
            yield f"call {record.number} was refused by {ledger}, with room"
        elif ledger.unit and running and settled + cost <= amount:
            yield f"call {record.number} was refused by {ledger}, to which more could come back"
