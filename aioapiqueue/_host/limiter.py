"""The limiter of a queue that shares its limits with all processes of its host.

Every call asks the hub, which lets it start when it is due. Which call then starts is decided here:
the first of those that come under the same limits, whichever it was that asked.

- Of each line (the calls that come under the same limits) the first few have asked (`Asking`).
- What the hub has let go and nobody wants any more is given back to it, and costs nothing.
- The states of the limits that are kept here, too, count what this queue itself has used. They
  decide nothing but what `estimate` says before the hub has said more.
- A hub that is gone has forgotten who waits. They ask the next one, in their order; what runs is
  reported to it (`Session`).
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Any, ClassVar

from aioapiqueue._algorithms import TokenBucket
from aioapiqueue._fleet.clock import ROUNDING
from aioapiqueue._host.asking import Asking
from aioapiqueue._host.call import HostCall, line_of
from aioapiqueue._host.holds import Holds
from aioapiqueue._host.scopes import Scopes
from aioapiqueue._host.session import Session
from aioapiqueue._host.wire import check_key, end_text, transit
from aioapiqueue._limiter import FastAcquire, LimiterStats, LimiterTraits
from aioapiqueue._rate import LearntRate
from aioapiqueue._statements import (
    Answered,
    Hold,
    Learn,
    Learnt,
    Pause,
    Resume,
    ServerCount,
    SetLimits,
    Settled,
    Throttled,
    key_to,
)
from aioapiqueue._units import ONE_CALL, is_stated
from aioapiqueue._wait_queue import WaitQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

    from aioapiqueue._algorithms import LimitState
    from aioapiqueue._fleet.limits import LimitTable
    from aioapiqueue._host.link import Link
    from aioapiqueue._host.scopes import NameChanges
    from aioapiqueue._host.session import Delay
    from aioapiqueue._limiter import Host
    from aioapiqueue._line import Line
    from aioapiqueue._rate import Limit, Rate
    from aioapiqueue._slot import Call
    from aioapiqueue._statements import Statement
    from aioapiqueue._units import CostTotals
    from aioapiqueue.exceptions import SharedError

__all__ = ["HostLimiter"]

_SENT = 100
"""Changes of limits that may be on their way to the hub and back: more are taken for others'."""
_PUSHED_BACK = 1000
"""So many calls are remembered; for more, a slow-down is counted as one of the queue."""
_MISSES = 20
"""Times in a row that grants came too late: the loop is always late."""
_LONGEST_LATENESS = 1.0
"""Seconds: a loop that is later than that does not keep a pace anyway."""


class HostLimiter:
    """One queue's part in a quota that the hub keeps.

    Args:
        host: the queue's dispatcher.
        link: to the hub.
        limits: of the queue and its lanes.
        fallback: the local rate while there is no hub; None: calls wait.
        catch_up: seconds by which late calls may be made up for.
        delays: where the calls are counted that limits of others made wait.
        shared_with: where the other runs are noted that use the quota.
    """

    traits = LimiterTraits((HostCall, HostCall), WaitQueue, alone=False)

    def __init__(
        self,
        host: Host,
        link: Link,
        limits: LimitTable,
        *,
        fallback: Rate | None,
        catch_up: float,
        delays: dict[Delay, tuple[int, float]],
        shared_with: dict[str, None],
    ) -> None:
        self._host = host
        self._limits = limits
        self.fallback = fallback
        self._catch_up = catch_up
        self._spare: TokenBucket | None = None
        """The state of the fallback, while it is in force."""
        self._sent: deque[tuple[Hashable, tuple[Limit, ...]]] = deque(maxlen=_SENT)
        """Limits that this queue has set, and that have not come back from the hub."""
        self._scopes = Scopes(limits)
        self._holds = Holds(host, limits, self._scopes)
        self._session = Session(host, link, self, self._holds, delays, shared_with=shared_with)
        self._asking = Asking(host, self._session, self._holds)
        self._begin()

    def _begin(self) -> None:
        self.running_calls: dict[int, HostCall] = {}
        """Those that the hub has let go, by ticket."""
        self._pushed_back: dict[int, HostCall] = {}
        """Those that were pushed back lately, by ticket: the rate may be lowered for them."""
        self._lateness = 0.0
        """Seconds after which it is too late to start what was let go."""
        self._too_late = 0
        """How many times in a row grants came too late."""
        self._missed_at = -math.inf
        """When that was noticed last."""

    def reset(self, *, clock_changed: bool) -> None:
        """Start on another event loop: what waited or ran on the old one is gone with it."""
        self._session.reset()
        if clock_changed:
            self._limits.forget_lanes()
            self._holds.reset()
        self._scopes.forget_callers()
        self._asking.reset()
        self._begin()

    def fast_acquire(self, totals: CostTotals) -> FastAcquire:  # noqa: ARG002 - as of `Limiter`
        """Return no step: the hub has to be asked for every call, and told of every end."""
        return FastAcquire(follows_ends=True)  # others may bring a `Concurrency` at any time

    def check(self, costs: Sequence[float]) -> None:
        """Refuse costs that the queue's limits could never let through."""
        self._limits.check_own(costs)

    # From arrival to release.

    def try_acquire(self, call: Call, now: float) -> bool:
        """Note a newcomer, which has to wait at least for the hub."""
        limits, scopes = self._limits, self._scopes
        if scopes.is_plain and call.costs is ONE_CALL:  # most
            limits.check_own(ONE_CALL)
            if not scopes.waits_in(None):
                for state in limits.states:
                    state.on_idle(now)
            return False
        limits.check(call.keys, call.costs, now)
        call.limits = scopes.of(call)
        for key in call.keys:
            if limits.lane_of(key) is not None:
                check_key(key)
        for lane, state in scopes.states_by_lane(call, now):
            if not scopes.waits_in(lane):
                state.on_idle(now)
        return False

    def joined(self, call: Call) -> None:
        """Note that a call waits now: it asks, if it is among the first of its line."""
        one = HostCall.of(call)
        self._scopes.joined(one)
        if self._session.is_up:
            self._asking.joined(one)
        else:
            self._session.open()

    def left(self, call: Call, line: Line[Call] | None) -> None:
        """Note that a call waits no more."""
        one = HostCall.of(call)
        if one.ticket in self._asking.calls:
            name = None if line is None else line.name
            self._asking.withdraw(one, name)
            self._asking.forget_due(name)  # it counted in that
        one.ticket = 0
        self._scopes.left(one)
        self._asking.ask_more(line)
        if not self._host.waiters.live:
            self._asking.stop_waiting()

    def estimate(self, call: Call | None, now: float, *, alone: bool = False) -> float:
        """Return when a newcomer may start, as far as that is known here."""
        if call is None:
            return self._all_started(now)
        if alone:  # of what the hub knows, only the end of a hold is known here
            return self._holds.all_until
        self._limits.check(call.keys, call.costs, now)
        call.limits = self._scopes.of(call)
        line = self._host.waiters.name_of_line(call)
        when = max(now, self._holds.all_until, self._holds.own_until(call))
        when = max(when, self._asking.due(line, call.priority))
        for lane, state in self._scopes.states_by_lane(call, now):
            when = max(when, state.estimate(now, self._ahead(call, lane, state.unit)))
        return when

    def _all_started(self, now: float) -> float:
        """Return when the last of those who wait may have started, as far as that is known here."""
        waiters, when = self._host.waiters, max(now, self._holds.all_until)
        waiting: dict[LimitState, float] = {}
        first: dict[LimitState, float] = {}
        for name, line in waiters.lines.items():
            call = line.first()
            if call is None:
                continue
            when = max(when, self._holds.own_until(call), self._asking.due(name, math.inf))
            for lane, state in self._scopes.states_by_lane(call, now):
                unit = state.unit
                total = waiters.total(unit) if lane is None else line.total(unit)
                waiting[state] = total if lane is None else waiting.get(state, 0) + total
                first[state] = max(first.get(state, 0), call.costs[unit])
        for state, cost in waiting.items():
            when = max(when, state.all_started(now, cost, min(first[state], cost)))
        return when

    def _ahead(self, call: Call, lane: Hashable, unit: int) -> float:
        """Return what a newcomer and all before it in a lane (None: in all) cost."""
        lines = self._lines_in(lane)
        if all((first := line.first()) is None or call.priority < first.priority for line in lines):
            return call.costs[unit]  # all are less urgent
        return self._waiting_in(lane, unit) + call.costs[unit]

    def _waiting_in(self, lane: Hashable, unit: int) -> float:
        """Return what all who wait in a lane (None: in all) cost."""
        if lane is None:
            return self._host.waiters.total(unit)
        return sum(line.total(unit) for line in self._lines_in(lane))

    def _lines_in(self, lane: Hashable) -> Sequence[Line[Call]]:
        return [
            line
            for line in self._host.waiters.lines.values()
            if lane is None or (line.limits is not None and lane in line.limits.lanes)
        ]

    def release_due(self, now: float) -> float | None:
        """Grant what the fallback lets through; return when to look again (None: nobody waits)."""
        waiters = self._host.waiters
        if not waiters.live:
            return None
        spare = self._spare
        if spare is None:
            return math.inf
        while (call := waiters.first()) is not None:
            if self._host.started - self._host.ended >= self._limits.concurrency:
                return math.inf
            due = spare.next_at(now, call.costs)
            due = max(due, self._holds.own_until(call), self._holds.all_until)
            if due > now:
                return due
            spare.consume(now, call.costs)
            waiters.pop(call)
            one = HostCall.of(call)
            one.ticket = self._asking.next_ticket()  # by which the next hub will know it
            self._start(one, one.ticket, now)
        return math.inf if waiters.live else None

    def granted(self, ticket: int, at: float, until: float) -> None:
        """Let the first of a line start, as the hub has let one of it go.

        Args:
            ticket: of the one that has asked.
            at: when the hub has let it go.
            until: when it is too late to start; inf: `at` alone decides.
        """
        call, now = self._asking.calls.get(ticket), self._host.loop.now()
        if call is None:  # it has left; or it ran already, and has ended
            if ticket not in self.running_calls:
                self._session.send("leave", ticket)
            return
        line = line_of(call)
        assert line is not None  # noqa: S101 - it has not left
        name = line.name
        # Held, as the hub did not know yet; or so late that it would start together with others.
        held = self._holds.own_until(call)
        if held - now > ROUNDING or self._is_late(now, at, until):
            self._asking.withdraw(call, name)
            if held - now > ROUNDING:  # not at once: the hub may know nothing of this hold
                self._asking.ask_all_at(held)
            elif call.waits:
                self._asking.ask(call, name)
            return
        first = line.first()
        heir = call if first is None or first.costs != call.costs else HostCall.of(first)
        if heir is not call:
            self._asking.swap(call, heir)
        elif not call.waits:  # its caller has gone, and not left yet
            self._asking.withdraw(call, name)
            return
        self._asking.forget(heir, name)
        waiters = self._host.waiters
        if heir is first:
            waiters.pop(heir)
        else:  # others come first here, and cost something else: it was the first for the hub
            waiters.remove(heir)
        self._start(heir, ticket, now)
        self._asking.ask_more(line)
        if not waiters.live:
            self._host.wake()

    def _is_late(self, now: float, at: float, until: float) -> bool:
        if now <= at + self._lateness + ROUNDING and now < until:
            self._too_late = 0
            return False
        # What was let go before the last miss came late by the same stall, however many they are.
        if at > self._missed_at:
            self._too_late += 1
            self._missed_at = now
        if self._too_late <= _MISSES:
            return True
        # The loop is always as late: it is to have some all the same.
        self._too_late, self._lateness = 0, min(2 * (now - at), _LONGEST_LATENESS)
        self._session.send("late", self._lateness)
        return now >= until

    def _start(self, call: HostCall, ticket: int, now: float) -> None:
        self.running_calls[ticket] = call
        self._scopes.left(call)
        for state in self._scopes.states(call, now):
            state.look(now)  # the hub is asked when it has room, and this is not
            state.consume(now, call.costs)
        self._host.grant(call, now)

    # Afterwards.

    def ended(self, call: Call, *, used: bool) -> None:
        """Report the end of a body; or give an unused slot back."""
        if used:
            self._release(call)
        else:
            self._refund(call)

    def _refund(self, call: Call) -> None:
        """Pass the slot of a call that was granted and never used to the next, or give it back."""
        one, now = HostCall.of(call), self._host.loop.now()
        for state in self._scopes.states(call, now):
            state.refund(now, call.waited_until, call.costs)
        ticket, one.ticket = one.ticket, 0
        if self.running_calls.pop(ticket, None) is None:
            return
        self._session.send("leave", ticket)
        self._host.wake()

    def apply(self, *statements: Statement) -> None:
        """Apply statements here, as far as they concern this process, and pass them on."""
        changes = {one.key: one.limits for one in statements if isinstance(one, SetLimits)}
        if changes:
            self._set_limits(changes)
        for statement in statements:
            if not isinstance(statement, SetLimits):
                self._handlers[type(statement)](self, statement)

    def _settle(self, settled: Settled) -> None:
        """Tell the hub what a call really cost."""
        call, costs = settled.call, settled.costs
        ticket, now = HostCall.of(call).ticket, self._host.loop.now()
        for state in self._scopes.states(call, now):
            if is_stated(costs, state.unit):
                before = call.costs[state.unit]
                state.adjust(now, call.waited_until, before, costs[state.unit])
        if ticket:
            self._session.send("settle", ticket, self._session.amounts_of(costs))

    def _release(self, call: Call) -> None:
        """Note that a body has ended."""
        ticket = HostCall.of(call).ticket
        if self.running_calls.pop(ticket, None) is not None:
            self._session.send_text(end_text(ticket))
        if self._spare is not None:
            self._host.wake()  # a permit may be free

    # What the other side says, and what users want.

    def _sync(self, count: ServerCount) -> None:
        """Tell the hub what the server says is left."""
        call, key = count.call, count.key
        ticket = None if call is None else HostCall.of(call).ticket
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
        self._session.send("sync", ticket, self._key_to(key), said)

    def _answered(self, answered: Answered) -> None:
        """Note that the server has answered a call."""
        if ticket := HostCall.of(answered.call).ticket:
            self._session.send("answered", ticket)

    def _throttled(self, throttled: Throttled) -> None:
        """Report push-back: on one call, or (None) on some call of a key."""
        call, key, retry_after = throttled.call, throttled.key, throttled.retry_after
        if call is not None and key == call.key:
            key = next((one for one in call.keys if self._scopes.lane_of(one) is not None), None)
        if retry_after is not None:
            self._hold_here(key, retry_after)
        ticket = None if call is None else HostCall.of(call).ticket or None
        if call is not None and ticket:
            self._pushed_back[ticket] = HostCall.of(call)
            if len(self._pushed_back) > _PUSHED_BACK:
                del self._pushed_back[next(iter(self._pushed_back))]
        self._session.send("throttled", ticket, self._key_to(key), retry_after)

    def _hold(self, hold: Hold) -> None:
        """Start nothing of a key's lane (or nothing at all) for so long, anywhere."""
        key, seconds = hold.key, hold.until - self._host.loop.now()
        self._hold_here(key, seconds)
        self._session.send_hold(self._key_to(key), seconds)

    def _hold_here(self, key: Hashable, seconds: float) -> None:
        """Use nothing that the hub has let go before it knows of a hold."""
        self._holds.hold(None if key is None else self._scopes.lane_of(key), seconds)

    def _key_to(self, key: Hashable) -> list[Hashable]:
        # The key None is no key, also where "*" has limits: what is said of it concerns everything.
        if key is None or self._scopes.lane_of(key) is None:
            return []
        check_key(key)
        return key_to(key)

    def _pause(self, pause: Pause) -> None:
        """Start nothing before an instant (inf: before `resume`), anywhere."""
        seconds = None if pause.until == math.inf else pause.until - self._host.loop.now()
        self._holds.pause(seconds)
        self._session.send_pause(seconds)

    def _resume(self, _: Resume) -> None:
        """End a pause, everywhere."""
        self._holds.resume()
        self._session.send_resume()
        self._asking.ask_all()

    def limits_of(self, key: Hashable) -> tuple[Limit, ...] | None:
        """Return the limits of a key's lane; None: it has none. Of the key None: the queue's."""
        if key is None:
            return self._limits.limits
        limits = self._limits.lanes.limits_of(key)
        if limits is None:
            return () if self._scopes.lane_of(key) is not None else None
        return tuple(limits)

    def _set_limits(self, changes: Mapping[Hashable, tuple[Limit, ...]]) -> None:
        """Replace the limits of the queue (None), or of keys and patterns, everywhere."""
        for key, limits in changes.items():
            self._limits.check_change(key, limits, self._host.waiters)
            check_key(key)
        self._session.send_set(changes)
        self._sent.extend(changes.items())
        self._go_by(changes)

    def _learn(self, _: Learn) -> None:
        self._session.send_learn()

    def _learn_limits(self, statement: Learnt) -> None:
        """Have learnt limits hold everywhere, beside what each process has given."""
        key, learnt = statement.key, statement.limits
        limits = (*(one for one in self.limits_of(key) or () if not _is_learnt(one)), *learnt)
        self._limits.check_change(key, limits, self._host.waiters)
        check_key(key)
        self._session.send_learnt({key: learnt})
        self._go_by({key: limits})

    def _go_by(self, changes: Mapping[Hashable, tuple[Limit, ...]]) -> None:
        now = self._host.loop.now()
        for key, limits in changes.items():
            self._limits.change(key, limits, now)
        self._scopes.find_plain()
        self._sort_again()

    def _sort_again(self) -> None:
        """Sort all who wait into lines again."""
        waiters = self._host.waiters
        self._scopes.find_again(map(HostCall.of, waiters.not_left()))
        self._asking.withdraw_gone()
        waiters.rebuild()
        self._asking.sort_again()
        self._asking.ask_all()
        self._host.wake()

    # What the session says; see `SessionOwner`.

    @property
    def has_callers(self) -> bool:
        """Whether somebody waits for the hub, or runs, so that it is to know."""
        return bool(self._host.waiters.live or self.running_calls)

    def hub_is_there(self) -> None:
        """Let all ask who wait."""
        if not self._session.is_up:  # it is lost again
            return
        self._lateness = transit(self._catch_up, on_real_time=self._host.loop.is_real)
        self._too_late = 0
        self._spare = None
        self._asking.ask_all()

    def hub_is_lost(self) -> None:
        """Let those who wait go by the fallback, or wait for the next hub."""
        self._asking.forget_hub()
        if self.fallback is not None and self._spare is None:
            self._spare = TokenBucket(self.fallback, catch_up=self._catch_up)
            self._spare.on_idle(self._host.loop.now())

    def hub_refuses(self, error: SharedError) -> None:
        """Refuse all who wait."""
        self._asking.forget_hub()
        for call in list(self._host.waiters):
            self._host.fail(call, "refused", error)

    def call_refused(self, ticket: int, text: str) -> None:
        """Let a call go that never will start."""
        call = self._asking.calls.get(ticket)
        if call is not None:
            line = line_of(call)
            self._asking.forget(call, None if line is None else line.name)
            call.ticket = 0
            self._host.fail(call, "refused", ValueError(text))

    def slowed_down(self, ticket: int | None, key: Hashable, seconds: float | None) -> None:
        """Count a slow-down; a newcomer like that call would start in so long."""
        call = None if ticket is None else self._pushed_back.pop(ticket, None)
        if call is not None and key is None:
            key = call.key
        now = self._host.loop.now()
        lane_key = key if call is None else self._limits.lanes.first_with_limits(call.keys)
        lane = None if lane_key is None else self._limits.lanes.get(lane_key, now)
        for state in self._limits.states if lane is None else lane.states:
            state.push_back(now, now, self._host.started - self._host.ended)
        if call is not None and seconds is not None:
            line = self._host.waiters.name_of_line(call)
            self._asking.set_due(line, now + seconds, call.priority)
        self._host.emit("backed_off", call, key=key)

    def others_set(self, changes: Mapping[Hashable, tuple[Limit, ...]]) -> None:
        """Adopt limits that others have set."""
        # What this queue has set comes back, too, in order, perhaps when it has set others.
        news = {key: own for key, own in changes.items() if not self._comes_back(key, own)}
        for key, limits in changes.items():
            self._host.others_set(key, limits)
        self._go_by(changes)
        now = self._host.loop.now()
        for call in list(self._host.waiters):
            try:
                self._limits.check(call.keys, call.costs, now)
            except ValueError as error:
                self._host.fail(call, "refused", error)
        self._emit(news)

    def _comes_back(self, key: Hashable, limits: tuple[Limit, ...]) -> bool:
        """Return whether this is what this queue has set itself; it comes once."""
        sent = (key, limits) in self._sent
        if sent:
            self._sent.remove((key, limits))
        return sent

    def _emit(self, keys: Iterable[Hashable]) -> None:
        for key in keys:
            limits = self.limits_of(key) or ()
            self._host.emit("limits_changed", key=key, limits=limits, origin="others")

    def others_learnt(self, changes: Mapping[Hashable, tuple[Limit, ...]]) -> None:
        """Adopt limits that others have learnt, beside those that this queue has given."""
        before_all = {key: self.limits_of(key) for key in changes}
        for key, limits in changes.items():
            before = [one for one in self.limits_of(key) or () if not _is_learnt(one)]
            self._host.others_set(key, (*before, *limits))
            self._go_by({key: (*before, *limits)})
        self._emit(key for key, own in before_all.items() if self.limits_of(key) != own)

    def others_limit(self, changes: NameChanges) -> None:
        """Tell calls apart that come under different limits of others."""
        self._scopes.change_foreign(changes)
        self._sort_again()

    def held_by_hub(self, seconds: float) -> None:
        """Start nothing for so long."""
        self._holds.hold_by_hub(seconds)
        self._asking.ask_all()

    def resumed_by_others(self) -> None:
        """Pause no more; what the hub holds then, it says."""
        self._holds.end_pause()
        self._asking.ask_all()

    def newcomer_due(self, ticket: int, seconds: float) -> None:
        """Note when a newcomer like this call would start."""
        call = self._asking.calls.get(ticket)
        line = None if call is None else line_of(call)
        if call is not None and line is not None:
            self._asking.set_due(line.name, self._host.loop.now() + seconds, call.priority)

    # Figures, and the end.

    def snapshot(self, key: Hashable = None, *, deep: bool = False) -> LimiterStats:  # noqa: ARG002 - the hub knows what remains
        """Return the figures of this moment."""
        return LimiterStats(
            lanes=len(self._limits.lanes.by_key),
            remaining={},
            rate=self._session.rate,
            paused=self._holds.paused_until == math.inf,
            asks=self._session.asks,
            faults=self._session.faults,
            fault=self._session.fault,
            lost=self._session.fault,
            meanwhile=self._session.meanwhile,
        )

    async def aclose(self) -> None:
        """End the connection: the hub takes back what it has let go, and forgets these limits."""
        await self._session.aclose()

    _handlers: ClassVar[dict[type[Statement], Callable[[HostLimiter, Any], None]]] = {
        Learnt: _learn_limits,
        Pause: _pause,
        Resume: _resume,
        Hold: _hold,
        Throttled: _throttled,
        ServerCount: _sync,
        Answered: _answered,
        Settled: _settle,
        Learn: _learn,
    }


def _is_learnt(limit: Limit) -> bool:
    return isinstance(limit, LearntRate)
