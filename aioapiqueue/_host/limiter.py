"""The limiter of a queue that shares its limits with all processes of its host.

Every call asks the hub, which lets it start when it is due. Which call then starts is decided here:
the first of those that come under the same limits, whichever it was that asked.

- Of each line (the calls that come under the same limits) the first few have asked, so that a
  queue in which many wait is no more work to the hub than others, and takes its turn with them.
- What the hub has let go and nobody wants any more is given back to it, and costs nothing.
- The states of the limits that are kept here, too, count what this queue itself has used. They
  decide nothing but what `estimate` says before the hub has said more.
- A hub that is gone has forgotten who waits. They ask the next one, in their order; what runs is
  reported to it.
"""

from __future__ import annotations

import math
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from aioapiqueue._algorithms import Permits, TokenBucket
from aioapiqueue._fleet.clock import ROUNDING
from aioapiqueue._fleet.grants import NO_KEY
from aioapiqueue._fleet.limits import LimitTable, key_of
from aioapiqueue._fleet.messages import NO_LANES
from aioapiqueue._host.wire import (
    check_key,
    end_text,
    join_text,
    key_from,
    key_to,
    keys_to,
    limits_from,
    limits_to,
    span_from,
    span_to,
    text_of,
    transit,
)
from aioapiqueue._lanes import find_patterns, name_of
from aioapiqueue._limiter import FastAcquire, LimiterStats
from aioapiqueue._rate import LearntRate
from aioapiqueue._slot import Call, DetailedCall
from aioapiqueue._units import ONE_CALL, is_stated
from aioapiqueue._wait_queue import WaitQueue

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

    from aioapiqueue._algorithms import LimitState
    from aioapiqueue._fleet.messages import Scope
    from aioapiqueue._host.wire import Message
    from aioapiqueue._limiter import Host
    from aioapiqueue._line import Line
    from aioapiqueue._rate import Limit, Rate
    from aioapiqueue._server_bound import ServerCount
    from aioapiqueue._units import CostTotals
    from aioapiqueue.exceptions import SharedError

__all__ = ["Delay", "HostLimiter", "Link", "LinkOwner"]

_ASKING = 64
"""Calls of one line that have asked, at least, if so many wait: as many as a hub lets go together
where thousands start each second, and fewer than would keep others waiting."""


_MOST_DELAYS = 1000
"""Limits of others that calls are counted for: a person reads a few."""
_PUSHED_BACK = 1000
"""So many calls are remembered; for more, a slow-down is counted as one of the queue."""
_MISSES = 20
"""Grants in a row that came too late: the loop is always late."""
_LONGEST_LATENESS = 1.0
"""Seconds: a loop that is later than that does not keep a pace anyway."""
_SAME_CLOCK = 10.0
"""Seconds by which two readings of one clock may differ, where one came with a message."""


class Delay(NamedTuple):
    """A limit of others.

    Attributes:
        lane: the key of its lane, as text; "": it is one of the whole queue.
        limit: as text.
        whose: the program that has given it, and its process.
    """

    lane: str
    limit: str
    whose: str


class LinkOwner(Protocol):
    """What a link asks of its limiter."""

    def connected(self, lead: float) -> None:
        """Note that the hub is there: it knows nothing of this queue but its terms.

        Args:
            lead: seconds by which the hub's clock is ahead of this one, as far as is known.
        """

    def receive(self, messages: Sequence[Message]) -> None:
        """Process what the hub has sent."""

    def disconnected(self, why: str) -> None:
        """Note that the hub is not there, or not there any more."""

    def refused(self, error: SharedError) -> None:
        """Note that the hub will not serve this queue, until somebody puts something right."""

    @property
    def is_needed(self) -> bool:
        """Whether somebody waits for the hub, or runs, so that it is to know."""


class Link(Protocol):
    """The way of one queue to the hub."""

    asks: int
    """How often something was sent."""

    def attach(self, owner: LinkOwner) -> None:
        """Have somebody to report to."""

    def open(self) -> None:
        """Connect, if it is not connected; on a failure, try again for as long as it is needed."""

    def send(self, text: str, *, at_once: bool = False) -> None:
        """Send a message with all others of this pass of the loop; only while it is connected.

        Args:
            text: of the message.
            at_once: now, with what was said before, if it is the first such one of this pass:
                somebody waits for the answer.
        """

    def drop(self) -> None:
        """Forget the connection, without a word to its owner: its loop or process is another."""

    async def aclose(self) -> None:
        """Close the connection, and end all that is running for it."""


class HostCall(DetailedCall):
    """A call that asks the hub.

    Args:
        details: as of `DetailedCall`.
    """

    __slots__ = ("counted", "ticket")

    def __init__(self, *details: Any) -> None:  # noqa: ANN401 - as `Args` says
        super().__init__(*details)
        self.ticket = 0
        """By which the hub knows it; 0: it has not asked."""
        self.counted = False
        """Whether it is known to wait, or have waited."""


def _line_of(call: Call) -> Line[Call] | None:
    """Return the line in which a call waits, if it does."""
    return call.line


def _of_host(call: Call) -> HostCall:
    """Return a call as what `call_types` has made it.

    Raises:
        TypeError: it was made by another queue.
    """
    if not isinstance(call, HostCall):
        raise TypeError(f"{call!r} was made by a queue of another kind")
    return call


class HostLimiter:
    """One queue's part in a quota that the hub keeps.

    Args:
        host: the queue's dispatcher.
        link: to the hub.
        limits: of the queue and its lanes.
        fallback: the local rate while there is no hub; None: calls wait.
        catch_up: seconds by which late calls may be made up for.
        delays: where the calls are counted that limits of others made wait.
    """

    call_types: tuple[Callable[..., Call], Callable[..., Call]] = (HostCall, HostCall)
    wait_queue_type: type[WaitQueue[Call]] = WaitQueue
    alone = False
    counts_permits = True
    """Others may bring a `Concurrency` along at any moment: the ends of bodies matter always."""

    def __init__(
        self,
        host: Host,
        link: Link,
        limits: LimitTable,
        *,
        fallback: Rate | None,
        catch_up: float,
        delays: dict[Delay, tuple[int, float]],
    ) -> None:
        self._host = host
        self._delays = delays
        self._link = link
        self._limits = limits
        self._fallback = fallback
        self._catch_up = catch_up
        self._spare: TokenBucket | None = None
        """The state of the fallback, while it is in force."""
        self._tickets = 0
        self._unaccounted = 0
        self._faults = 0
        self._fault = ""
        self._rate = math.inf
        self._foreign: dict[Hashable, None] = {}
        """Keys and patterns that have limits of others."""
        self._foreign_patterns: list[str] = []
        self._set: dict[Hashable, tuple[Limit, ...]] = {}
        """What this queue has set: the next hub has to know."""
        self._learnt: dict[Hashable, tuple[Limit, ...]] = {}
        """What this queue, or another one, has learnt from answers."""
        self._learnt_units: list[str] | None = None
        self._paused = self._held = self._hub_held = -math.inf
        """Until when users, the other side, and the hub hold all."""
        self._lanes_held: dict[Hashable, float] = {}
        self._closed = False
        link.attach(self)
        self._begin()

    def _begin(self) -> None:
        self._asking: dict[int, HostCall] = {}
        """Those that wait and have asked, by ticket."""
        self._running: dict[int, HostCall] = {}
        """Those that the hub has let go, by ticket."""
        self._asked_in: dict[Hashable, int] = {}
        """How many of each line have asked."""
        self._pushed_back: dict[int, HostCall] = {}
        """Those that were pushed back lately, by ticket: the rate may be lowered for them."""
        self._due: dict[Hashable, tuple[float, float]] = {}
        """Of each line, when a newcomer of a priority would start, as the hub has last said."""
        self._is_up = False
        self._find_plain()
        self._waiting_in: dict[Hashable, int] = {}
        """How many wait in each lane."""
        self._clock_lead = self._lateness = 0.0
        self._hold_timer: asyncio.TimerHandle | None = None
        self._hold_ends = math.inf
        self._too_late = 0
        """How many grants in a row came too late."""

    def reset(self, *, clock_changed: bool) -> None:
        """Start on another event loop: what waited or ran on the old one is gone with it."""
        self._link.drop()
        if clock_changed:
            self._limits.forget_lanes()
            self._paused = self._held = self._hub_held = -math.inf
            self._lanes_held.clear()
        self._limits.in_use = lambda key, _: self._limits.lane_of(key) in self._waiting_in
        self._begin()

    # What a call comes under.

    @property
    def limits(self) -> tuple[Limit, ...]:
        """Those of the queue as a whole that it has given itself."""
        return self._limits.limits

    def _has_foreign(self, key: Hashable) -> bool:
        return name_of(key, self._foreign, self._foreign_patterns) in self._foreign

    def _scope_of(self, call: Call) -> Scope | None:
        """Return what tells calls apart that need not start in one order; None: nothing."""
        scope = self._limits.scope_of(call.keys, call.costs)
        if self._foreign:
            foreign = [key for key in call.keys if self._has_foreign(key)]
            lanes = dict.fromkeys((*scope.lanes, *foreign))
            scope = scope._replace(lanes=tuple(sorted(lanes, key=repr)))
        return None if scope == NO_LANES else scope

    def _find_plain(self) -> None:
        states = self._limits.states
        self._is_plain = not (self._limits.lanes.limits or self._foreign) and not any(
            state.unit or state.optional for state in states
        )
        """Whether all that a call comes under which says nothing of its cost are these states."""

    def fast_acquire(self, totals: CostTotals) -> FastAcquire:  # noqa: ARG002 - as of `Limiter`
        """Return nothing: the hub has to be asked for every call."""
        return FastAcquire()

    def check(self, costs: Sequence[float]) -> None:
        """Refuse costs that the queue's limits could never let through."""
        self._limits.check_own(costs)

    # From arrival to release.

    def try_acquire(self, call: Call, now: float) -> bool:
        """Note a newcomer, which has to wait at least for the hub."""
        limits = self._limits
        if self._is_plain and call.costs is ONE_CALL:  # most
            limits.check_own(ONE_CALL)
            if None not in self._waiting_in:
                for state in limits.states:
                    state.on_idle(now)
            return False
        limits.check(call.keys, call.costs, now)
        call.limits = self._scope_of(call)
        for key in call.keys:
            if limits.lane_of(key) is not None:
                check_key(key)
        lanes = () if call.limits is None else call.limits.lanes
        if limits.unstated_of((None, *lanes), call.costs):
            self._unaccounted += 1
        for lane, state in self._states_by_lane(call, now):
            if lane not in self._waiting_in:
                state.on_idle(now)
        return False

    def joined(self, call: Call) -> None:
        """Note that a call waits now: it asks, if it is among the first of its line."""
        one = _of_host(call)
        if not one.counted:
            one.counted = True
            self._count_waiting(one, 1)
        if not self._is_up:
            self._link.open()
        elif not one.ticket:
            line = _line_of(call)
            assert line is not None  # noqa: S101 - it waits
            asked = self._asked_in.get(line.name, 0)
            if asked < self._most_asking or _overtakes(one, line):
                self._ask(one, line.name)

    def _count_waiting(self, call: Call, more: int) -> None:
        lanes = () if call.limits is None else call.limits.lanes
        for lane in (None, *lanes):
            waiting = self._waiting_in.get(lane, 0) + more
            if waiting:
                self._waiting_in[lane] = waiting
            else:
                del self._waiting_in[lane]

    def _ask(self, call: HostCall, line: Hashable) -> None:
        if not self._is_up:  # lost while those before it have asked
            return
        self._tickets += 1
        priority = call.priority if type(call.priority) is int else float(call.priority)
        keys, amounts = keys_to(call.keys), self._amounts(call)
        text = join_text(self._tickets, keys, amounts, priority)
        call.ticket = self._tickets
        self._asking[call.ticket] = call
        before = self._asked_in.get(line, 0)
        self._asked_in[line] = before + 1
        self._link.send(text, at_once=not before)  # else it waits anyway, behind those before it

    def _ask_more(self, line: Line[Call] | None) -> None:
        """Let more of a line ask, if few of it still do."""
        if line is not None and self._is_up and self._host.waiters.lines.get(line.name) is line:
            for call in self._next_to_ask(line):
                self._ask(call, line.name)

    def _ask_all(self) -> None:
        """Let the first of each line ask, in the order in which they came."""
        lines = list(self._host.waiters.lines.values())
        asking = [(call, line.name) for line in lines for call in self._next_to_ask(line)]
        for call, name in sorted(asking, key=lambda one: (one[0].priority, one[0].arrival)):
            self._ask(call, name)

    def _next_to_ask(self, line: Line[Call]) -> list[HostCall]:
        """Return those of a line that are to ask, too, if few of it still do."""
        asked, most = self._asked_in.get(line.name, 0), self._most_asking
        if asked > most // 2 or line.live <= asked:
            return []
        first = line.first()  # forgets those before it who have left
        held = -math.inf if first is None else self._held_until(first)
        if held - self._host.now() > ROUNDING:
            self._ask_all_at(held)
            return []
        silent = (call for call in map(_of_host, line) if not call.ticket)
        return list(islice(silent, most - asked))

    @property
    def _most_asking(self) -> int:
        # In turns by key: the hub serves a process as it asks.
        return 1 if self._host.waiters.fair else _ASKING

    def _forget_ticket(self, call: HostCall, line: Hashable) -> None:
        """Note that a call asks no more."""
        del self._asking[call.ticket]
        left = self._asked_in.get(line, 0) - 1
        if left > 0:
            self._asked_in[line] = left
        else:
            self._asked_in.pop(line, None)
            self._due.pop(line, None)

    def _amounts(self, call: Call) -> dict[str, float] | None:
        costs = call.costs
        if costs is ONE_CALL:
            return None
        names = self._host.units.names
        return {names[unit]: cost for unit, cost in enumerate(costs) if is_stated(costs, unit)}

    def left(self, call: Call, line: Line[Call] | None) -> None:
        """Note that a call waits no more."""
        one = _of_host(call)
        if one.ticket in self._asking:
            name = None if line is None else line.name
            self._forget_ticket(one, name)
            self._due.pop(name, None)  # it counted in that
            self._send("leave", one.ticket)
        one.ticket = 0
        self._count_waiting(one, -1)
        self._ask_more(line)
        if not self._host.waiters.live and self._hold_timer is not None:
            self._hold_timer.cancel()
            self._hold_timer = None

    def earliest(self, call: Call, now: float) -> float:  # noqa: ARG002 - as of all calls
        """Return the end of a hold: of what the hub knows, only that is known here."""
        return max(self._paused, self._held, self._hub_held)

    def estimate(self, call: Call, now: float) -> float:
        """Return when a newcomer may start, as far as that is known here."""
        self._limits.check(call.keys, call.costs, now)
        call.limits = self._scope_of(call)
        name = self._host.waiters.name_of_line(call)
        due, priority = self._due.get(name, (-math.inf, -math.inf))
        when = max(now, self.earliest(call, now))
        if call.priority >= priority:
            when = max(when, due)
        for key in call.keys:
            when = max(when, self._lanes_held.get(self._limits.lane_of(key), -math.inf))
        for lane, state in self._states_by_lane(call, now):
            when = max(when, state.estimate(now, self._ahead(call, lane, state.unit)))
        return when

    def _ahead(self, call: Call, lane: Hashable, unit: int) -> float:
        """Return what a newcomer and all before it in a lane (None: in all) cost."""
        waiters = self._host.waiters
        lines = [
            line
            for line in waiters.lines.values()
            if lane is None or (line.limits is not None and lane in line.limits.lanes)
        ]
        if all((first := line.first()) is None or call.priority < first.priority for line in lines):
            return call.costs[unit]  # all are less urgent
        waiting = waiters.total(unit) if lane is None else sum(line.total(unit) for line in lines)
        return waiting + call.costs[unit]

    def release_due(self, now: float) -> float | None:
        """Grant what the fallback lets through; return when to look again (None: nobody waits)."""
        waiters = self._host.waiters
        if not waiters.live:
            return None
        spare = self._spare
        if spare is None:
            return math.inf
        while (call := waiters.first()) is not None:
            if self._host.running >= self._limits.concurrency:
                return math.inf
            due = max(spare.next_at(now, call.costs), self._held_until(call), self._hub_held)
            if due > now:
                return due
            spare.consume(now, call.costs)
            waiters.pop(call)
            self._tickets += 1  # by which the next hub will know it
            one = _of_host(call)
            one.ticket = self._tickets
            self._start(one, one.ticket, now)
        return math.inf if waiters.live else None

    def _granted(self, ticket: int, at: float, until: float) -> None:
        """Let the first of a line start, as the hub has let one of it go."""
        call, now = self._asking.get(ticket), self._host.now()
        if call is None:  # it has left; or it ran already, and has ended
            if ticket not in self._running:
                self._send("leave", ticket)
            return
        line = _line_of(call)
        assert line is not None  # noqa: S101 - it has not left
        name = line.name
        # Held, as the hub did not know yet; or so late that it would start together with others.
        held = self._held_until(call)
        if held - now > ROUNDING or self._is_late(now, at, until):
            self._forget_ticket(call, name)
            self._send("leave", ticket)
            call.ticket = 0
            if held - now > ROUNDING:  # not at once: the hub may know nothing of this hold
                self._ask_all_at(held)
            elif call.waits:
                self._ask(call, name)
            return
        first = line.first()
        heir = call if first is None or first.costs != call.costs else _of_host(first)
        if heir is not call:
            self._swap(call, heir)
        elif not call.waits:  # its caller has gone, and not left yet
            self._forget_ticket(call, name)
            self._send("leave", ticket)
            call.ticket = 0
            return
        self._forget_ticket(heir, name)
        waiters = self._host.waiters
        if heir is first:
            waiters.pop(heir)
        else:  # others come first here, and cost something else: it was the first for the hub
            waiters.leave(heir)
        self._start(heir, ticket, now)
        self._ask_more(line)
        if not waiters.live:
            self._host.wake()

    def _is_late(self, now: float, at: float, until: float) -> bool:
        if now > at + self._lateness + ROUNDING or now >= until:
            self._too_late += 1
            if self._too_late > _MISSES:
                # The loop is always as late: it is to have some all the same.
                self._too_late, self._lateness = 0, min(2 * (now - at), _LONGEST_LATENESS)
                self._send("late", self._lateness)
            return True
        self._too_late = 0
        return False

    def _swap(self, call: HostCall, heir: HostCall) -> None:
        """Let `heir` have the ticket of `call`, and the other way round."""
        call.ticket, heir.ticket = heir.ticket, call.ticket
        self._asking[heir.ticket] = heir
        if call.ticket:
            self._asking[call.ticket] = call

    def _start(self, call: HostCall, ticket: int, now: float) -> None:
        self._running[ticket] = call
        self._count_waiting(call, -1)
        for state in self._states(call, now):
            state.consume(now, call.costs)
        self._host.grant(call, now)

    def _held_until(self, call: Call) -> float:
        until = max(self._paused, self._held)
        if self._lanes_held:
            lanes = [self._lane_of(key) for key in call.keys]
            until = max([until, *(self._lanes_held.get(lane, -math.inf) for lane in lanes)])
        return until

    def _lane_of(self, key: Hashable) -> Hashable:
        """Return the lane of a key, of this queue or of others; None: it has none."""
        lane = self._limits.lane_of(key)
        if lane is None and self._has_foreign(key):
            return NO_KEY if key is None else key
        return lane

    def _ask_all_at(self, when: float) -> None:
        """Let those ask again who wait for the end of a hold."""
        if self._hold_timer is not None:
            if when >= self._hold_ends:
                return
            self._hold_timer.cancel()
            self._hold_timer = None
        if when < math.inf:
            self._hold_ends = when
            delay = max(0.0, when - self._host.now())
            self._hold_timer = self._host.call_later(delay, self._hold_is_over)

    def _hold_is_over(self) -> None:
        self._hold_timer = None
        if self._is_up:
            self._ask_all()

    def _states(self, call: Call, now: float) -> Iterator[LimitState]:
        return (state for _, state in self._states_by_lane(call, now))

    def _states_by_lane(self, call: Call, now: float) -> Iterator[tuple[Hashable, LimitState]]:
        """Yield the states of what a call comes under, as far as this queue has given it."""
        costs = call.costs
        if self._is_plain and costs is ONE_CALL:
            for state in self._limits.states:
                if not isinstance(state, Permits):
                    yield None, state
            return
        found: list[tuple[Hashable, LimitState]] = [(None, one) for one in self._limits.states]
        for key in call.keys:
            lane = self._limits.lanes.get(key, now)
            if lane is not None:
                found += [(self._limits.lane_of(key), state) for state in lane.states]
        for lane_of_state, state in found:
            used = is_stated(costs, state.unit) and costs[state.unit]
            if used and not isinstance(state, Permits):
                yield lane_of_state, state

    # Afterwards.

    def refund(self, call: Call) -> None:
        """Pass the slot of a call that was granted and never used to the next, or give it back."""
        one, now = _of_host(call), self._host.now()
        for state in self._states(call, now):
            state.refund(now, call.waited_until, call.costs)
        ticket, one.ticket = one.ticket, 0
        if self._running.pop(ticket, None) is None:
            return
        self._send("leave", ticket)
        self._host.wake()

    def settle(self, call: Call, costs: Sequence[float]) -> None:
        """Tell the hub what a call really cost."""
        ticket, now = _of_host(call).ticket, self._host.now()
        for state in self._states(call, now):
            if is_stated(costs, state.unit):
                before = call.costs[state.unit]
                state.adjust(now, call.waited_until, before, costs[state.unit])
        if ticket:
            names = self._host.units.names
            amounts = {
                names[unit]: cost for unit, cost in enumerate(costs) if is_stated(costs, unit)
            }
            self._send("settle", ticket, amounts)

    def released(self, call: Call) -> None:
        """Note that a body has ended."""
        if self._running.pop(_of_host(call).ticket, None) is not None and self._is_up:
            self._link.send(end_text(_of_host(call).ticket))
        if self._spare is not None:
            self._host.wake()  # a permit may be free

    # What the other side says, and what users want.

    def sync(self, call: Call | None, key: Hashable, count: ServerCount) -> None:
        """Tell the hub what the server says is left."""
        ticket = None if call is None else _of_host(call).ticket
        if ticket == 0:
            ticket, key = None, call.key if call is not None else key
        said = {
            "remaining": count.remaining,
            "unit": self._host.units.names[count.unit],
            "reset": count.reset,
            "limit": count.limit,
            "period": count.period,
            "refills": count.refills,
            "period_is_minimum": count.period_is_minimum,
        }
        self._send("sync", ticket, key_to(self._checked(key), of_queue=True), said)

    def learn(self) -> None:
        """Let one call of a lane out at a time until it has its first answer, from now on."""
        self._learnt_units = list(self._host.units.names)
        self._send("learn", self._learnt_units)

    def answered(self, call: Call) -> None:
        """Note that the server has answered a call."""
        if ticket := _of_host(call).ticket:
            self._send("answered", ticket)

    def throttled(self, call: Call | None, key: Hashable, retry_after: float | None) -> None:
        """Report push-back: on one call, or (None) on some call of a key."""
        if call is not None and key == call.key:
            key = next((one for one in call.keys if self._lane_of(one) is not None), None)
        if retry_after is not None:
            self._hold_here(key, retry_after)
        ticket = None if call is None else _of_host(call).ticket or None
        if call is not None and ticket:
            self._pushed_back[ticket] = _of_host(call)
            if len(self._pushed_back) > _PUSHED_BACK:
                del self._pushed_back[next(iter(self._pushed_back))]
        self._send("throttled", ticket, self._key_to(key), retry_after)

    def hold(self, key: Hashable, seconds: float) -> None:
        """Start nothing of a key's lane (or nothing at all) for so long, anywhere."""
        self._hold_here(key, seconds)
        self._send("hold", self._key_to(key), seconds)

    def _key_to(self, key: Hashable) -> list[Hashable]:
        # The key None is no key, also where "*" has limits: what is said of it concerns everything.
        return key_to(self._checked(key), of_queue=True)

    def _checked(self, key: Hashable) -> Hashable:
        if key is None or self._lane_of(key) is None:
            return None
        check_key(key)
        return key

    def _hold_here(self, key: Hashable, seconds: float) -> None:
        """Use nothing that the hub has let go before it knows of a hold."""
        until = self._host.now() + seconds
        lane = None if key is None else self._lane_of(key)
        if lane is None:
            self._held = max(self._held, until)
        else:
            now = self._host.now()
            self._lanes_held = {one: at for one, at in self._lanes_held.items() if at > now}
            self._lanes_held[lane] = max(until, self._lanes_held.get(lane, until))
        self._note_holds()

    def pause(self, seconds: float | None) -> None:
        """Start nothing for so long (None: until `resume`), anywhere."""
        until = math.inf if seconds is None else self._host.now() + seconds
        self._paused = max(self._paused, until)
        self._send("pause", seconds)
        self._note_holds()

    def resume(self) -> None:
        """End a pause, everywhere."""
        self._paused = min(self._paused, self._host.now())
        self._hub_held = max(-math.inf, min(self._hub_held, self._held))
        self._send("resume")
        self._note_holds()
        if self._is_up:
            self._ask_all()

    def _note_holds(self) -> None:
        until = max(self._paused, self._held, self._hub_held)
        for state in self._limits.states:
            state.held = until
        for lane, held in self._lanes_held.items():
            its = self._limits.lanes.get(key_of(lane), self._host.now())
            if its is not None:
                its.hold(held)
        self._host.wake()

    def limits_of(self, key: Hashable) -> tuple[Limit, ...] | None:
        """Return the limits of a key's lane; None: it has none. Of the key None: the queue's."""
        if key is None:
            return self._limits.limits
        limits = self._limits.lanes.limits_of(key)
        return None if limits is None else tuple(limits)

    def set_limits(self, changes: Mapping[Hashable, tuple[Limit, ...]]) -> None:
        """Replace the limits of the queue (None), or of keys and patterns, everywhere."""
        for key, limits in changes.items():
            self._limits.check_change(key, limits, self._host.waiters)
            check_key(key)
        learnt = {key: tuple(filter(_is_learnt, limits)) for key, limits in changes.items()}
        if any(learnt.values()):  # they hold beside what each process has given
            self._learnt.update(learnt)
            self._send("learnt", _changes_to(learnt))
        else:
            self._set.update(changes)
            self._send("set", _changes_to(changes))
        self._go_by(changes)

    def _go_by(self, changes: Mapping[Hashable, tuple[Limit, ...]]) -> None:
        now = self._host.now()
        for key, limits in changes.items():
            self._limits.change(key, limits, now)
        self._find_plain()
        self._sort_again()

    def _sort_again(self) -> None:
        """Sort all who wait into lines again."""
        waiters = self._host.waiters
        self._asked_in, self._due, self._waiting_in = {}, {}, {}
        for one in waiters.not_left():
            one.limits = self._scope_of(one)
            self._count_waiting(one, 1)
        for call in list(self._asking.values()):
            if not call.waits:  # its caller has gone, and it stays in a line of before
                del self._asking[call.ticket]
                self._send("leave", call.ticket)
                call.ticket = 0
        waiters.rebuild()
        for call in self._asking.values():
            line = _line_of(call)
            name = None if line is None else line.name
            self._asked_in[name] = self._asked_in.get(name, 0) + 1
        if self._is_up:
            self._ask_all()
        self._host.wake()

    # The exchange.

    def _send(self, *message: Any) -> None:  # noqa: ANN401 - JSON
        """Send a message."""
        if self._is_up:
            self._link.send(text_of(*message))

    def connected(self, lead: float) -> None:
        """Tell a new hub what runs, what holds, and who waits."""
        host, now = self._host, self._host.now()
        # All processes have one clock, but in a time namespace of their own.
        self._clock_lead = lead if abs(lead) > _SAME_CLOCK else 0.0
        self._is_up = True
        self._lateness, self._too_late = transit(self._catch_up, on_real_time=host.on_real_time), 0
        self._spare = None
        if self._fault:
            self._fault = ""
            host.emit("reconnected")
        self._hub_held = -math.inf
        if self._set:
            self._send("set", _changes_to(self._set))
        if self._learnt:
            self._send("learnt", _changes_to(self._learnt))
        if self._learnt_units is not None:
            self._send("learn", self._learnt_units)
        if self._paused > now:
            self._send("pause", span_to(self._paused - now))
        if self._held > now:
            self._send("hold", [], self._held - now)
        for lane, until in self._lanes_held.items():
            if until > now:
                self._send("hold", [key_of(lane)], until - now)
        for ticket, call in self._running.items():
            self._send("running", ticket, keys_to(call.keys), self._amounts(call))
        self._ask_all()

    def disconnected(self, why: str) -> None:
        """Let those who wait go by the fallback, or wait for the next hub."""
        self._forget_hub()
        host, first = self._host, not self._fault
        self._faults += 1
        self._fault = why
        if self._fallback is not None and self._spare is None:
            self._spare = TokenBucket(self._fallback, catch_up=self._catch_up)
            self._spare.on_idle(host.now())
        if first:
            host.emit("disconnected")
        host.wake()

    def refused(self, error: SharedError) -> None:
        """Refuse all who wait."""
        self._forget_hub()
        self._faults += 1
        self._fault = str(error)
        for call in list(self._host.waiters):
            self._host.fail(call, "refused", error)

    def _forget_hub(self) -> None:
        self._is_up = False
        for call in self._asking.values():
            call.ticket = 0
        self._asking, self._asked_in, self._due = {}, {}, {}

    @property
    def is_needed(self) -> bool:
        """Whether somebody waits for the hub, or runs, so that it is to know."""
        return bool(self._host.waiters.live or self._running)

    def receive(self, messages: Sequence[Message]) -> None:
        """Process what the hub has sent."""
        for kind, *parts in messages:
            handler = getattr(self, f"on_{kind}", None)
            if handler is not None:  # else a newer hub of the same protocol says more
                handler(*parts)

    def on_grant(self, ticket: int, at: float, until: float | None) -> None:
        """Let a call start."""
        at -= self._clock_lead
        self._granted(ticket, at, math.inf if until is None else until - self._clock_lead)

    def on_delayed(self, lane: str, limit: str, whose: str, seconds: float) -> None:
        """Count a call that a limit of others has made wait."""
        delay = Delay(lane, limit, whose)
        calls, before = self._delays.get(delay, (0, 0.0))
        if calls or len(self._delays) < _MOST_DELAYS:
            self._delays[delay] = calls + 1, before + seconds

    def on_refuse(self, ticket: int, text: str) -> None:
        """Let a call go that never will start."""
        call = self._asking.get(ticket)
        if call is not None:
            line = _line_of(call)
            self._forget_ticket(call, None if line is None else line.name)
            call.ticket = 0
            self._host.fail(call, "refused", ValueError(text))

    def on_backed_off(self, ticket: int | None, key: list[Any], seconds: float | None) -> None:
        """Count a slow-down; a newcomer like that call would start in so long."""
        call = None if ticket is None else self._pushed_back.pop(ticket, None)
        name = key_from(key[0]) if key else None if call is None else call.key
        now = self._host.now()
        lane_key = name if call is None else self._limits.lanes.first_with_limits(call.keys)
        lane = None if lane_key is None else self._limits.lanes.get(lane_key, now)
        for state in self._limits.states if lane is None else lane.states:
            state.push_back(now, now, self._host.running)
        if call is not None and seconds is not None:
            self._due[self._host.waiters.name_of_line(call)] = now + seconds, call.priority
        self._host.count("backed_off", call, key=name)

    def on_set(self, changes: list[Any]) -> None:
        """Adopt limits that others have set."""
        adopted = {key_from(key[0]) if key else None: limits_from(own) for key, own in changes}
        for key, limits in adopted.items():
            self._host.others_set(key, limits)
        self._set.update(adopted)  # who has set them may be gone when the next hub asks
        self._go_by(adopted)
        now = self._host.now()
        for call in list(self._host.waiters):
            try:
                self._limits.check(call.keys, call.costs, now)
            except ValueError as error:
                self._host.fail(call, "refused", error)

    def on_learnt(self, changes: list[Any]) -> None:
        """Adopt limits that others have learnt, beside those that this queue has given."""
        learnt = {key_from(key[0]) if key else None: limits_from(own) for key, own in changes}
        self._learnt.update(learnt)
        for key, limits in learnt.items():
            before = [one for one in self.limits_of(key) or () if not _is_learnt(one)]
            self._host.others_set(key, (*before, *limits))
            self._go_by({key: (*before, *limits)})

    def on_lanes(self, names: list[Any]) -> None:
        """Tell calls apart that come under different limits of others."""
        self._foreign = dict.fromkeys(map(key_from, names))
        self._foreign_patterns = find_patterns(self._foreign)
        self._find_plain()
        self._sort_again()

    def on_held(self, seconds: float | None) -> None:
        """Note until when the hub holds all."""
        self._hub_held = self._host.now() + span_from(seconds)
        # Another process may have ended the pause that this one has begun.
        self._paused = min(self._paused, self._hub_held)
        self._note_holds()
        if self._is_up:
            self._ask_all()

    def on_rate(self, rate: float | None) -> None:
        """Note what push-back has left."""
        self._rate = span_from(rate)

    def on_due(self, ticket: int, seconds: float) -> None:
        """Note when a newcomer like this call would start."""
        call = self._asking.get(ticket)
        line = None if call is None else _line_of(call)
        if call is not None and line is not None:
            self._due[line.name] = self._host.now() + seconds, call.priority

    def on_bye(self, text: str) -> None:
        """Do nothing: the connection ends, and that is what counts."""

    # Figures, and the end.

    def idle(self, now: float) -> bool:  # noqa: ARG002 - whatever the instant
        """Return False: what others have used is known to the hub only."""
        return False

    def snapshot(self) -> LimiterStats:
        """Return the figures of this moment."""
        held = max(self._paused, self._hub_held)
        return LimiterStats(
            lanes=len(self._limits.lanes.by_key),
            rate=self._rate,
            paused=held == math.inf,
            unaccounted=self._unaccounted,
            asks=self._link.asks,
            faults=self._faults,
            fault=self._fault,
        )

    async def aclose(self) -> None:
        """End the connection: the hub takes back what it has let go, and forgets these limits."""
        self._is_up = False
        await self._link.aclose()


def _overtakes(call: Call, line: Line[Call]) -> bool:
    """Return whether a newcomer goes before some of its line."""
    levels = line.levels
    return levels is not None and any(priority > call.priority for priority in line.priorities)


def _is_learnt(limit: Limit) -> bool:
    return isinstance(limit, LearntRate)


def _changes_to(changes: Mapping[Hashable, tuple[Limit, ...]]) -> list[Any]:
    return [[key_to(key, of_queue=True), limits_to(own)] for key, own in changes.items()]
