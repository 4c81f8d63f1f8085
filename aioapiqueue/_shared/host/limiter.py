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
from typing import TYPE_CHECKING

from aioapiqueue._shared.clock import ROUNDING
from aioapiqueue._shared.decisions import Decided, Decisions
from aioapiqueue._shared.host.call import HostCall, line_of
from aioapiqueue._shared.host.holds import Holds
from aioapiqueue._shared.host.messages import check_key, end_text, transit
from aioapiqueue._shared.host.requests import Asking
from aioapiqueue._shared.host.scopes import Scopes
from aioapiqueue._shared.host.session import Session
from aioapiqueue.spi import (
    ONE_CALL,
    Answered,
    FastAcquire,
    Hold,
    Learnt,
    LearntRate,
    LimiterStats,
    LimiterTraits,
    Pause,
    Resume,
    ServerCount,
    SetLimits,
    Settled,
    Throttled,
    TokenBucket,
    is_stated,
)

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence

    from aioapiqueue import Limit, Rate
    from aioapiqueue._shared.decisions import Decision
    from aioapiqueue._shared.host.link import Link
    from aioapiqueue._shared.host.scopes import NameChanges
    from aioapiqueue._shared.host.session import Delay
    from aioapiqueue._shared.limit_table import LimitTable
    from aioapiqueue.exceptions import SharedError
    from aioapiqueue.spi import Call, CostTotals, Host, LimitState, Line, Statement

__all__ = ["HostLimiter"]

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

    traits = LimiterTraits((HostCall, HostCall), alone=False)

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
        self._scopes = Scopes(limits)
        self._decisions = Decisions(self._now)
        self._holds = Holds(host, limits, self._scopes, self._decisions)
        self._session = Session(host, link, self, self._decisions, delays, shared_with=shared_with)
        self._asking = Asking(host, self._session, self._holds)
        self._begin()

    def _now(self) -> float:
        return self._host.loop.now()

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
            self._decisions.forget_instants()
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
            self._asking.stop_waiting()
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
        for one in statements:
            if isinstance(one, SetLimits | Learnt):
                limits = one.limits if isinstance(one, SetLimits) else self._with_learnt(one)
                self._limits.check_change(one.key, limits, self._host.waiters)
                check_key(one.key)
        decided = [
            one._replace(key=self._key_of(one.key)) if isinstance(one, Hold) else one
            for one in statements
            if isinstance(one, Decided)
        ]
        if decided:
            self._go_by(self._session.decide(*decided))
        for one in statements:
            if isinstance(one, Throttled):
                self._throttled(one)
            elif isinstance(one, Settled):
                self._settle(one)
            elif not isinstance(one, Decided):
                self._report(one)

    def _report(self, statement: Statement) -> None:
        """Tell the hub what the server has said."""
        match statement:
            case ServerCount(call=call) if call is not None and not HostCall.of(call).ticket:
                statement = statement._replace(call=None, key=self._key_of(call.key))
            case ServerCount(key=key):
                statement = statement._replace(key=self._key_of(key))
            case Answered(call) | Settled(call) if not HostCall.of(call).ticket:
                return
        self._session.report(statement)

    def _settle(self, settled: Settled) -> None:
        """Note what a call really cost."""
        call, costs, now = settled.call, settled.costs, self._host.loop.now()
        for state in self._scopes.states(call, now):
            if is_stated(costs, state.unit):
                before = call.costs[state.unit]
                state.adjust(now, call.waited_until, before, costs[state.unit])
        self._report(settled)

    def _release(self, call: Call) -> None:
        """Note that a body has ended."""
        ticket = HostCall.of(call).ticket
        if self.running_calls.pop(ticket, None) is not None:
            self._session.send_text(end_text(ticket))
        if self._spare is not None:
            self._host.wake()  # a permit may be free

    # What the other side says, and what users want.

    def _throttled(self, throttled: Throttled) -> None:
        """Process push-back: on one call, or (None) on some call of a key."""
        call, key, retry_after = throttled.call, throttled.key, throttled.retry_after
        if call is not None and key == call.key:
            key = next((one for one in call.keys if self._scopes.lane_of(one) is not None), None)
        key = self._key_of(key)
        if retry_after is not None:
            self.apply(Hold(key, self._host.loop.now() + retry_after))
        if call is not None and (ticket := HostCall.of(call).ticket):
            self._pushed_back[ticket] = HostCall.of(call)
            if len(self._pushed_back) > _PUSHED_BACK:
                del self._pushed_back[next(iter(self._pushed_back))]
        self._report(Throttled(call, key, None))  # what is held, the hub knows

    def _key_of(self, key: Hashable) -> Hashable:
        """Return a key that has a lane; None: what is said of it concerns everything."""
        # The key None is no key, also where "*" has limits.
        if key is None or self._scopes.lane_of(key) is None:
            return None
        check_key(key)
        return key

    def limits_of(self, key: Hashable) -> tuple[Limit, ...] | None:
        """Return the limits of a key's lane; None: it has none. Of the key None: the queue's."""
        if key is None:
            return self._limits.limits
        limits = self._limits.lanes.limits_of(key)
        if limits is None:
            return () if self._scopes.lane_of(key) is not None else None
        return tuple(limits)

    def _with_learnt(self, learnt: Learnt) -> tuple[Limit, ...]:
        """Return the limits of a key that has learnt some, beside those that it has been given."""
        given = (one for one in self.limits_of(learnt.key) or () if not _is_learnt(one))
        return (*given, *learnt.limits)

    def _limits_by_decisions(self, key: Hashable) -> tuple[Limit, ...]:
        """Return the limits of a key as all processes have them: set or given, and learnt since."""
        given = self._decisions.limits_of(SetLimits, key)
        if given is None:
            given = tuple(one for one in self.limits_of(key) or () if not _is_learnt(one))
        return (*given, *(self._decisions.limits_of(Learnt, key) or ()))

    def _go_by(self, news: Sequence[Decision], *, of_others: bool = False) -> Iterable[Hashable]:
        """Have decisions take effect here; return the keys whose limits they set or change."""
        now, kinds = self._host.loop.now(), {type(one) for _, one in news}
        changed: dict[Hashable, None] = {}
        for key in dict.fromkeys(one.key for _, one in news if isinstance(one, SetLimits | Learnt)):
            before, limits = self.limits_of(key), self._limits_by_decisions(key)
            if of_others:
                self._host.others_set(key, limits)
            self._limits.change(key, limits, now)
            is_set = any(isinstance(one, SetLimits) and one.key == key for _, one in news)
            if is_set or limits != before:
                changed[key] = None
        if kinds & {Pause, Resume, Hold}:
            self._holds.apply()
        if changed:
            self._scopes.find_plain()
            self._sort_again()
        elif Resume in kinds or (kinds and of_others):
            self._asking.ask_all()
        return changed

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

    def others_decided(self, news: Sequence[Decision]) -> None:
        """Go by what others have decided."""
        changed = self._go_by(news, of_others=True)
        if changed:
            self._refuse_too_large()
        for key in changed:
            limits = self.limits_of(key) or ()
            self._host.emit("limits_changed", key=key, limits=limits, origin="others")

    def _refuse_too_large(self) -> None:
        """Refuse those who wait and never fit the limits that others have set."""
        now = self._host.loop.now()
        for call in list(self._host.waiters):
            try:
                self._limits.check(call.keys, call.costs, now)
            except ValueError as error:
                self._host.fail(call, "refused", error)

    def others_limit(self, changes: NameChanges) -> None:
        """Tell calls apart that come under different limits of others."""
        self._scopes.change_foreign(changes)
        self._sort_again()

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
            paused=self._decisions.paused_until == math.inf,
            asks=self._session.asks,
            faults=self._session.faults,
            fault=self._session.fault,
            lost=self._session.fault,
            meanwhile=self._session.meanwhile,
        )

    async def aclose(self) -> None:
        """End the connection: the hub takes back what it has let go, and forgets these limits."""
        await self._session.aclose()


def _is_learnt(limit: Limit) -> bool:
    return isinstance(limit, LearntRate)
