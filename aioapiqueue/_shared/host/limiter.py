"""The limiter of a queue that shares its limits with all processes of its host.

Each call requests a grant from the hub, which grants it when it is due. Which call then starts is
decided here: the first of those with the same scope, whichever of them made the request.

- In each line (the calls of one scope) only the first few have requested a grant (`Requests`).
- A grant that no call needs any more is returned to the hub, and costs nothing.
- The limits also have states here, which count what this queue itself has used. They are used only
  for estimates, until the hub has reported more (`Estimates`).
- A new hub knows no calls of the previous one. Waiting calls request again, in their order, and
  running calls are reported to it (`HubSession`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

from aioapiqueue import LimitExceeded
from aioapiqueue._shared.clock import ROUNDING
from aioapiqueue._shared.decisions import Decision, Decisions, Limiting, newest_from
from aioapiqueue._shared.host.late_requests import LateRequests
from aioapiqueue._shared.host.messages import end_text, transit
from aioapiqueue._shared.host.requests import Estimates, Holds, Requests
from aioapiqueue._shared.host.scopes import HostCall, Scopes, line_of
from aioapiqueue._shared.host.session import HubSession
from aioapiqueue._shared.known_budgets import KnownBudgets
from aioapiqueue._shared.lateness import Stalls
from aioapiqueue._shared.limit_table import key_to_send, throttled_key
from aioapiqueue._shared.outage import Outage
from aioapiqueue._shared.statement_json import as_key, key_from
from aioapiqueue.spi import cost_units, limit_types, seam, statements

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence

    from aioapiqueue import Limit, Rate
    from aioapiqueue._shared.decisions import Decided
    from aioapiqueue._shared.host.connection import HubLink
    from aioapiqueue._shared.host.session import Delay
    from aioapiqueue._shared.limit_table import LimitTable
    from aioapiqueue.spi import Call, Host, Line

_MOST_THROTTLED = 1000
"""Throttled calls that are remembered. A slow-down for an older one counts for the whole queue."""
_LONGEST_LATENESS = 1.0
"""Seconds. A loop that is later keeps no pace anyway, and the hub extends the windows of all
processes by the greatest lateness."""


class HostLimiter:
    """One queue's part in a quota that the hub keeps.

    Args:
        host: the queue's dispatcher.
        link: to the hub.
        limits: of the queue and its lanes.
        fallback: the local rate while there is no hub; None: calls wait.
        catch_up: seconds by which late calls may be made up for.
        delays: counts the calls that limits of other programs delayed.
        shared_with: collects the other runs that use the quota.
    """

    traits = seam.LimiterTraits((HostCall, HostCall), alone=False)

    def __init__(
        self,
        host: Host,
        link: HubLink,
        limits: LimitTable,
        *,
        fallback: Rate | None,
        catch_up: float,
        delays: dict[Delay, tuple[int, float]],
        shared_with: dict[str, None],
    ) -> None:
        self._host = host
        self._link = link
        self._limits = limits
        self._catch_up = catch_up
        self._outage = Outage(host, fallback, catch_up=catch_up)
        self._scopes = Scopes(limits)
        self._decisions = Decisions(self._now)
        self._holds = Holds(host, limits, self._scopes, self._decisions)
        self._budgets = KnownBudgets(host)
        self._session = HubSession(
            host,
            link,
            self._decisions,
            self._outage,
            delays=delays,
            shared_with=shared_with,
            handlers={
                "grant": self._granted,
                "refuse": self._refuse,
                "backed_off": self._slow_down,
                "lanes": self._change_lanes_elsewhere,
                "due": self._note_due,
                "budgets": self._budgets.note_sent,
                "decided": self._adopt,
            },
            on_connected=self._request_again,
            on_lost=self._forget_hub,
        )
        self._requests = Requests(host, self._session, self._holds)
        self._estimates = Estimates(host, self._scopes, self._holds, self._requests)
        self._begin()

    def _now(self) -> float:
        return self._host.loop.now()  # each loop has its own `now`

    def _begin(self) -> None:
        self._running = self._session.running_calls
        self._throttled_calls: dict[int, HostCall] = {}
        """The latest throttled calls, by ticket: the hub may report a slow-down for them."""
        self._lateness = 0.0
        """Seconds after which it is too late to use a grant."""
        self._stalls = Stalls()

    def reset(self, *, clock_changed: bool) -> None:
        """Start on another event loop: calls that waited or ran on the old one have ended."""
        self._session.reset()
        self._outage.reset()
        if clock_changed:  # instants of the old clock mean nothing; otherwise holds and pauses stay
            self._limits.forget_lanes()
            self._decisions.forget_instants()
            self._holds.reset()
        self._scopes.forget_callers()
        self._requests.reset()
        ordering = self._host.waiters.ordering
        if ordering is not None and ordering.decides_late and type(self._requests) is Requests:
            # Only now is the order of the queue known: its wait queue is made after its limiter.
            self._requests = LateRequests(self._host, self._session, self._holds)
            self._estimates = Estimates(self._host, self._scopes, self._holds, self._requests)
        self._begin()

    def fast_acquire(self, totals: cost_units.CostTotals) -> seam.FastAcquire:  # noqa: ARG002 - as of `Limiter`
        """Return no step: the hub must grant every call, and learn of every end."""
        return None, None, True  # another process may add a `Concurrency` at any time

    def check(self, costs: Sequence[float]) -> None:
        """Refuse costs that the queue's limits could never admit."""
        self._limits.check_own(costs)

    # From arrival to release.

    def try_acquire(self, call: Call, now: float) -> bool:
        """Note a new call, which must at least wait for the hub."""
        limits, scopes = self._limits, self._scopes
        if scopes.is_plain and call.costs is cost_units.ONE_CALL:  # most
            # It has no scope (`call.limits` stays None), and none of its keys has a lane.
            limits.check_own(cost_units.ONE_CALL)
            if not scopes.waits_in(None):
                for state in limits.states:
                    state.on_idle(now)
            return False
        limits.check_call(call, now)
        call.limits = scopes.of(call)
        for lane, state in scopes.states_by_lane(call, now):
            if not scopes.waits_in(lane):
                state.on_idle(now)
        return False

    def joined(self, call: Call) -> None:
        """Note that a call waits now: it requests a grant, if it is among the first of its line."""
        one = HostCall.of(call)
        self._scopes.joined(one)
        if self._session.is_up:
            self._requests.joined(one)
        else:  # the next hub is sent the requests of all waiting calls (`_request_again`)
            self._link.open()

    def left(self, call: Call, line: Line[Call] | None) -> None:
        """Note that a call no longer waits."""
        one = HostCall.of(call)
        if one.ticket in self._requests.calls:
            name = None if line is None else line.name
            self._requests.withdraw(one, name)
            self._requests.forget_due(name)  # the reported time included this call
        one.ticket = 0
        self._scopes.left(one)
        self._requests.request_more(line)
        if not self._host.waiters.live:
            self._requests.cancel_timer()

    def estimate(self, call: Call | None, now: float, *, alone: bool = False) -> float:
        """Return when a newcomer may start, as far as that is known here."""
        if call is None:
            return self._estimates.all_started(now)
        if alone:  # the hub knows the rest; here, only the end of a hold is certain
            return self._holds.all_until
        self._limits.check(call.keys, call.costs, now)
        call.limits = self._scopes.of(call)
        return self._estimates.newcomer(call, now)

    def release_due(self, now: float, *, planned: float = -math.inf) -> float | None:  # noqa: ARG002 - the hub makes the groups
        """Start calls at the fallback rate; return when to look again (None: no call waits)."""
        waiters, fallback = self._host.waiters, self._outage.fallback
        if not waiters.live:
            return None
        if fallback is None:
            return math.inf
        while (call := waiters.first()) is not None:
            if self._limits.has_budget(call.keys):
                return math.inf  # only the hub knows what is left of it
            if self._host.started - self._host.ended >= self._limits.concurrency:
                return math.inf  # `ended` wakes the ticker
            due = fallback.next_at(now, call.costs)
            due = max(due, self._holds.own_until(call), self._holds.all_until)
            if due > now:
                return due
            fallback.consume(now, call.costs)
            waiters.pop(call)
            one = HostCall.of(call)
            one.ticket = self._requests.next_ticket()  # by which the next hub will know it
            self._start(one, one.ticket, now)
        return math.inf if waiters.live else None

    def _granted(self, ticket: int, at: float | None, until: float | None) -> None:
        """Start the first call of a line, as the hub has granted one of its calls.

        Args:
            ticket: of the call that made the request.
            at: when the hub granted it; None: it may start at any later instant, too.
            until: when it is too late to start; None: `at` alone decides.
        """
        call, now = self._requests.calls.get(ticket), self._host.loop.now()
        if call is None:  # it has left; or it ran already, and has ended
            if ticket not in self._running:
                self._session.send("leave", ticket)
            return
        line = line_of(call)
        assert line is not None  # noqa: S101 - it has not left
        name = line.name
        # Held, which the hub did not know yet; or so late that it would start together with others.
        held = self._holds.own_until(call)
        if held - now > ROUNDING or self._is_late(now, at, math.inf if until is None else until):
            self._requests.withdraw(call, name)
            if held - now > ROUNDING:  # not at once: the hub may not know this hold
                self._requests.request_all_at(held)
            elif call.waits:
                self._requests.request(call, name)
            return
        # A grant is for a place of the line, not for a call: a more urgent one may have come since.
        # But the hub has charged the cost of this one.
        first = line.first()
        granted = call if first is None or first.costs != call.costs else HostCall.of(first)
        if granted is not call:
            self._requests.swap(call, granted)
        elif not call.waits:  # cancelled, and about to leave
            self._requests.withdraw(call, name)
            return
        self._requests.forget(granted, name)
        waiters = self._host.waiters
        if granted is first:
            waiters.pop(granted)
        else:  # it was the first at the hub; those before it here cost something else
            waiters.remove(granted)
        self._start(granted, ticket, now)
        self._requests.request_more(line)
        if not waiters.live:
            self._requests.cancel_timer()
            self._host.wake()

    def _is_late(self, now: float, at: float | None, until: float) -> bool:
        if at is None:
            return False
        if now <= at + self._lateness + ROUNDING and now < until:
            self._stalls.used()
            return False
        self._stalls.missed(at, now)
        if not self._stalls.always:
            return True
        # Returning every grant would start no call at all. So grants may be used this late from now
        # on, and the hub extends windows by as much. Twice, so that the next one is in time.
        self._stalls.used()
        self._lateness = min(2 * (now - at), _LONGEST_LATENESS)
        self._session.send("late", self._lateness)
        return now >= until

    def _start(self, call: HostCall, ticket: int, now: float) -> None:
        self._running[ticket] = call
        self._scopes.left(call)
        for state in self._scopes.states(call, now):
            # The hub decides when to start, so nothing else asks these states for an instant. A
            # window forgets its old calls when it is asked, and would keep all of them otherwise.
            state.next_at(now, call.costs)
            state.consume(now, call.costs)
        self._host.grant(call, now)

    # Afterwards.

    def ended(self, call: Call, *, used: bool) -> None:
        """Report the end of a body; or return an unused grant."""
        if not used:
            self._refund(call)
            return
        ticket = HostCall.of(call).ticket
        if self._running.pop(ticket, None) is not None:
            self._session.send_text(end_text(ticket))
        if self._outage.fallback is not None:
            self._host.wake()  # a permit may be free

    def _refund(self, call: Call) -> None:
        """Return the grant of a call that never ran."""
        one, now = HostCall.of(call), self._host.loop.now()
        for state in self._scopes.states(call, now):
            state.refund(now, call.waited_until, call.costs)
        ticket, one.ticket = one.ticket, 0
        if self._running.pop(ticket, None) is None:
            return
        self._session.send("leave", ticket)
        self._host.wake()

    def apply(self, *given: statements.Statement) -> None:
        """Apply statements here, as far as they concern this process, and pass them on."""
        # All are checked before any takes effect: if one is refused, none has been applied.
        checked = [self._handlers[type(statement)](self, statement) for statement in given]
        if decided := [one for one in checked if one is not None]:
            self._apply_decisions(self._session.decide(*decided))

    def _checked_limits(self, given: Limiting) -> Limiting:
        self._limits.checked(given)
        return given

    def _checked_hold(self, hold: statements.Hold) -> statements.Hold:
        return hold._replace(key=key_to_send(hold.key, self._scopes.lane_of))

    def _sync(self, count: statements.ServerCount) -> None:
        """Pass on to the hub what remains of a server's quota."""
        call, key = count.call, count.key
        if call is not None and not HostCall.of(call).ticket:
            # The hub does not know this call; its key still tells which limit is meant.
            key, call = call.key, None
        key = key_to_send(key, self._scopes.lane_of)
        self._session.report(count._replace(call=call, key=key))

    def _report(self, report: statements.Answered) -> None:
        """Pass on what is reported about a call, if the hub knows the call."""
        if HostCall.of(report.call).ticket:
            self._session.report(report)

    def _settle(self, settled: statements.Settled) -> None:
        """Note the true costs of a call."""
        call, costs, now = settled.call, settled.costs, self._host.loop.now()
        for state in self._scopes.states(call, now):
            if cost_units.is_stated(costs, state.unit):
                before = call.costs[state.unit]
                state.adjust(now, call.waited_until, before, costs[state.unit])
        if HostCall.of(call).ticket:
            self._session.settle(settled)

    # What servers report, and what users decide.

    def _throttled(self, throttled: statements.Throttled) -> None:
        """Process a throttled call, or (None) some throttled call of a key."""
        call, retry_after = throttled.call, throttled.retry_after
        lane_of = self._scopes.lane_of
        key = key_to_send(throttled_key(throttled, lane_of), lane_of)
        if retry_after is not None:
            self.apply(statements.Hold(key, self._host.loop.now() + retry_after))
        if call is not None and (ticket := HostCall.of(call).ticket):
            self._throttled_calls[ticket] = HostCall.of(call)
            if len(self._throttled_calls) > _MOST_THROTTLED:
                del self._throttled_calls[next(iter(self._throttled_calls))]
        # Without the time: the hold above was sent as a decision, which outlasts this hub.
        self._session.report(statements.Throttled(call, key, None))

    def limits_of(self, key: Hashable) -> tuple[Limit, ...] | None:
        """Return the limits of a key's lane (None: of the queue); None: the key has no lane."""
        limits = self._limits.of_key(key)
        if limits is None and self._scopes.lane_of(key) is not None:
            return ()  # its limits are all given by other processes
        return limits

    def _limits_by_decisions(self, key: Hashable) -> tuple[Limit, ...]:
        """Return the limits of a key as all processes have them: set or given, and learnt since."""
        given = self._decisions.limits_of(statements.SetLimits, key)
        if given is None:
            given = self._limits.given(key)
        return (*given, *(self._decisions.limits_of(statements.Learnt, key) or ()))

    def _apply_decisions(
        self, decisions: Sequence[Decision], *, made_elsewhere: bool = False
    ) -> Iterable[Hashable]:
        """Apply decisions here; return the keys whose limits they set or change."""
        now, kinds = self._host.loop.now(), {type(one) for _, one in decisions}
        limiting = [one for _, one in decisions if isinstance(one, Limiting)]
        changed: dict[Hashable, None] = {}
        for key in dict.fromkeys(one.key for one in limiting):
            before, limits = self.limits_of(key), self._limits_by_decisions(key)
            if made_elsewhere:  # else the dispatcher has noted them
                self._host.note_remote_limits(key, limits)
            self._limits.change(key, limits, now)
            self._budgets.forget(key, before or (), limits)
            is_set = any(type(one) is statements.SetLimits and one.key == key for one in limiting)
            if is_set or limits != before:
                changed[key] = None
        if len(decisions) > len(limiting):
            self._holds.apply()
        if changed:  # a call may have another scope now, and so another line
            self._scopes.find_plain()
            self._sort_again()
        elif statements.Resume in kinds or (kinds and made_elsewhere):
            self._requests.request_all()
        return changed

    def _sort_again(self) -> None:
        """Sort the waiting calls into lines again: their scopes have changed."""
        waiters = self._host.waiters
        # `rebuild` sorts by the new scopes, and leaves out cancelled calls, whose requests would
        # then be in no line. Requests are counted by the lines that it has made.
        self._scopes.find_again(map(HostCall.of, waiters.not_left()))
        self._requests.withdraw_cancelled()
        waiters.rebuild()
        self._requests.sort_again()
        self._requests.request_all()
        self._host.wake()

    # What the session reports.

    def _request_again(self) -> None:
        """Request grants of a new hub for the calls that wait."""
        if not self._session.is_up:  # the connection was lost while that was sent
            return
        # The new hub has been told no lateness yet: `_is_late` reports it again if need be.
        self._lateness = transit(self._catch_up, on_real_time=self._host.loop.is_real)
        self._stalls.used()
        self._requests.request_all()

    def _forget_hub(self) -> None:
        self._requests.forget_hub()  # which is made after the session

    def _adopt(self, decisions: list[Any], newest: dict[str, int]) -> None:
        """Apply what other processes have decided."""
        found = [Decision.from_json(one) for one in decisions]
        effective = self._decisions.merge(found, newest_from(newest))
        changed = self._apply_decisions(effective, made_elsewhere=True)
        self._limits.changed_elsewhere({key: self.limits_of(key) or () for key in changed})

    def _refuse(self, ticket: int, text: str, exceeded: list[Any] | None) -> None:
        """Fail a call that the hub will never grant, or for which there is no room."""
        call = self._requests.calls.get(ticket)
        if call is not None:
            line = line_of(call)
            self._requests.forget(call, None if line is None else line.name)
            call.ticket = 0
            error: Exception = ValueError(text)
            if exceeded is not None:
                limit, cost, remaining, resets_in, key = exceeded
                error = LimitExceeded.of(
                    limit_types.as_limit(limit),
                    cost=cost,
                    remaining=remaining,
                    resets_in=resets_in,
                    key=key_from(key),
                )
            self._host.fail(call, "refused", error)

    def _slow_down(self, ticket: int | None, keys: list[Any], seconds: float | None) -> None:
        """Count a slow-down.

        Args:
            ticket: of the throttled call; None: it is unknown.
            keys: the throttled key, or empty.
            seconds: how long a call like it would wait if it came now.
        """
        key = key_from(keys)
        call = None if ticket is None else self._throttled_calls.pop(ticket, None)
        if call is not None and key is None:
            key = call.key
        now = self._host.loop.now()
        lane_key = key if call is None else self._limits.lanes.first_with_limits(call.keys)
        lane = None if lane_key is None else self._limits.lanes.get(lane_key, now)
        # The copies here slow down, too: estimates use them.
        for state in self._limits.states if lane is None else lane.states:
            state.back_off(now, now, self._host.started - self._host.ended)
        if call is not None and seconds is not None:
            line = self._host.waiters.name_of_line(call)
            self._requests.set_due(line, now + seconds, call.priority)
        self._host.emit("backed_off", call, key=key)

    def _change_lanes_elsewhere(self, changes: list[tuple[list[Any], list[Any] | None]]) -> None:
        """Note the keys and patterns to which other processes have given limits."""
        self._scopes.change_foreign(
            (map(as_key, added), None if removed is None else map(as_key, removed))
            for added, removed in changes
        )
        self._sort_again()

    def _note_due(self, ticket: int, seconds: float) -> None:
        """Note when a newcomer like this call would start."""
        call = self._requests.calls.get(ticket)
        line = None if call is None else line_of(call)
        if call is not None and line is not None:
            self._requests.set_due(line.name, self._host.loop.now() + seconds, call.priority)

    # Figures, and the end.

    def snapshot(self, key: Hashable = None, *, deep: bool = False) -> seam.LimiterStats:  # noqa: ARG002 - the hub knows the rest
        """Return the figures of this moment; of what remains, as the hub has last sent it."""
        figures = self._outage.stats(
            lanes=len(self._limits.lanes.by_key),
            rate=self._session.rate,
            paused_until=self._decisions.paused_until,
            held_until=self._decisions.held_until(None),
            asks=self._link.asks,
        )
        return self._budgets.with_budgets(figures, key, self.limits_of(key) or ())

    async def aclose(self) -> None:
        """Close the connection: the hub takes back unused grants, and forgets these limits."""
        # Cancelled here: see `HubLink.aclose`.
        await self._session.aclose()

    _handlers: ClassVar[
        dict[type[statements.Statement], Callable[[HostLimiter, Any], Decided | None]]
    ] = {
        statements.SetLimits: _checked_limits,
        statements.Learnt: _checked_limits,
        statements.Pause: lambda _, pause: pause,
        statements.Resume: lambda _, resume: resume,
        statements.Hold: _checked_hold,
        statements.Throttled: _throttled,
        statements.ServerCount: _sync,
        statements.Answered: _report,
        statements.Settled: _settle,
        statements.Learn: lambda self, learn: self._session.report(learn),
    }
    """Handlers of statements. Those of decisions check them, and return them as they are sent.
    Those of reports take effect at once: `apply` is given decisions or one report, never both."""
