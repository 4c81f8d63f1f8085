"""One quota: the limits that its clients have given, and a dispatcher that enforces them.

A call is subject to all limits that any client has given for it (equal ones once), so at each
instant the strictest decides. The limits of a client end when it leaves.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from operator import attrgetter
from typing import TYPE_CHECKING, Any, cast

from aioapiqueue import Budget, Concurrency, LimitExceeded
from aioapiqueue._shared.decisions import Decisions, Limiting
from aioapiqueue._shared.host.messages import transit
from aioapiqueue._shared.host_hub.budget_news import BudgetNews, budgets_as_json
from aioapiqueue._shared.host_hub.client_turns import ClientCall
from aioapiqueue._shared.host_hub.exchange import PendingGrant, QuotaClient, broadcast
from aioapiqueue._shared.host_hub.limiter import QuotaLimiter, SlowDowns
from aioapiqueue._shared.host_hub.limits_in_force import QUEUE, LimitsInForce
from aioapiqueue._shared.host_hub.quota_records import QuotaRecords
from aioapiqueue._shared.options import yielding
from aioapiqueue._shared.statement_json import key_to, plain_costs
from aioapiqueue.recording.spi import RecentWaits
from aioapiqueue.spi import (
    CALLS,
    Dispatcher,
    LocalLimiter,
    cost_units,
    limit_types,
    loops,
    seam,
    statements,
    windows,
)

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence

    from aioapiqueue import Limit
    from aioapiqueue._shared.decisions import Decision
    from aioapiqueue._shared.host.messages import Terms
    from aioapiqueue._shared.host_hub.exchange import QuotaClient
    from aioapiqueue._shared.host_hub.journal import Journal
    from aioapiqueue._shared.host_hub.steps import Steps
    from aioapiqueue.spi import Call, Host


class HubQuota:
    """Limits that several clients share.

    Args:
        name: the kind and the name of the quota.
        first: the terms of its first client.
        journal: keeps how much of each limit is used over restarts; None: nothing is kept.
        steps: runs work that must not delay other clients.
    """

    def __init__(
        self, name: tuple[str, str], first: Terms, journal: Journal | None, steps: Steps
    ) -> None:
        self.name = name
        self.clients: dict[QuotaClient, None] = {}
        self._clients_of: dict[Terms, dict[QuotaClient, None]] = {first: {}}
        """The clients by their terms: all of one program have the same."""
        self._steps = steps
        self._without_names: OrderedDict[QuotaClient, None] = OrderedDict()
        """The clients to which the names that have limits must still be sent, in this order."""
        self.decisions = Decisions(self._now)
        """The decisions of users, for all clients."""
        self._adaptive = first.adaptive
        """How to lower the rate when calls are throttled; None: not at all."""
        self._lateness = transit(first.catch_up, on_real_time=is_real_time())
        """The longest time after which a client returns an unused grant, in seconds."""
        self.limits = LimitsInForce(first, self._lateness, self.decisions)
        self._waits = RecentWaits()
        self._unsent: list[QuotaClient] = []
        """The clients with queued messages."""
        self._will_flush = False
        """Whether `flush` is certain to be called."""
        self.dispatcher = Dispatcher(
            # Without limits here: `make_limiter` adds those in force.
            seam.LimitSettings(
                limits=(),
                lanes={},
                concurrency=math.inf,
                catch_up=self._own_catch_up(first.catch_up),
                adaptive=yielding(first.adaptive),
            ),
            name=name[1],
            order="fifo",
            maxsize=0,
            drop_oldest=False,
            factory=self,
        )
        self.dispatcher.follow(SlowDowns(self.backed_off))
        self.limiter = cast("QuotaLimiter", self.dispatcher.limiter)  # as `make_limiter` makes it
        self.records = QuotaRecords(self.name, self.limiter, self.limits, journal, self.dispatcher)
        self._budgets: BudgetNews | None = None
        """Sends clients how much of budgets and calendar limits is used; None: there were none."""
        self._note_budgets()

    def make_limiter(self, host: Host, settings: seam.LimitSettings) -> QuotaLimiter:
        """Return the limiter, with the limits in force; see `LimiterFactory`."""
        lanes = dict(self.limits.by_name)
        own = lanes.pop(QUEUE)
        settings = settings._replace(limits=own, lanes=lanes)
        return QuotaLimiter(
            LocalLimiter(host, settings),
            hold_messages=self.hold_messages,
            flush=self.flush,
        )

    @staticmethod
    def _own_catch_up(catch_up: float) -> float:
        """Return how many seconds of lateness the hub makes up for; clients use the rest of it."""
        return max(0, catch_up - transit(catch_up, on_real_time=is_real_time()))

    @property
    def is_adaptive(self) -> bool:
        """Whether throttled calls lower its rate."""
        return self._adaptive is not None

    # Clients.

    def join(self, client: QuotaClient) -> None:
        """Add a client."""
        self.dispatcher.bind()
        client.terms = self.limits.add(client.terms)
        known, stale = self._clients_of.get(client.terms), []
        if not self.clients:  # the terms of the last clients stayed in force, with what was used
            stale = [one for one in self._clients_of if one is not client.terms]
        self.clients[client] = None
        if self._budgets is not None:
            self._budgets.add(client)
        self._clients_of.setdefault(client.terms, {})[client] = None
        for terms in stale:
            self._forget(terms)
        if known is None:
            self.dispatcher.units.declare(client.terms.units)
            self._lateness = max(self._lateness, client.lateness)
        if known is None or stale:
            self._change_terms()

    def leave(self, client: QuotaClient) -> None:
        """Remove a client that has no waiting or running calls."""
        del self.clients[client]
        if self._budgets is not None:
            self._budgets.forget(client)
        of_its_terms = self._clients_of[client.terms]
        del of_its_terms[client]
        if not self.clients:  # a pause ends: no process is left that could end it
            self.limiter.apply(statements.Resume())
            self.decisions.end_pauses()
        elif not of_its_terms:  # else its limits stay, for clients with the same terms
            self._forget(client.terms)
            self._change_terms()

    def _forget(self, terms: Terms) -> None:
        del self._clients_of[terms]
        self.limits.remove(terms)

    def latest_start(self, call: Call) -> float | None:
        """Return when a grant expires because the period of a `Calendar` ends; None: never."""
        # Used later, it would be a call of the next period, to which it has not been charged.
        if not self.limits.has_calendars:
            return None
        states = self.limiter.states_of(call)
        return min(
            (one.end for one in states if isinstance(one, windows.CalendarWindow)), default=None
        )

    def is_timeless(self, call: Call) -> bool:
        """Return whether a call may start late: all its limits are permits or budgets."""
        # A grant that a process returns while the hub is killed stays charged: rates recover from
        # that, and budgets do not.
        if not self.limits.has_budgets:
            return False
        states = self.limiter.states_of(call)
        return all(one.lasts or isinstance(one, windows.Permits) for one in states)

    @property
    def depends_on_running(self) -> bool:
        """Whether any limit depends on which calls run: on their permits or reservations."""
        limits = (one for its in self.limits.by_name.values() for one in its)
        return any(isinstance(one, Concurrency | Budget) for one in limits)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is lost if the quota is dropped."""
        dispatcher = self.dispatcher
        if self.clients or dispatcher.waiters.live or dispatcher.running:
            return False
        now = dispatcher.loop.now()
        return self.limiter.idle_at(now) < now

    def as_json(self, *, lanes: bool = True) -> dict[str, Any]:
        """Return its figures, for `hub status`.

        Args:
            lanes: whether to include the limits of lanes, which may be thousands; default True.
        """
        own, *others = self.limits.by_name.items()
        dispatcher, now = self.dispatcher, self.dispatcher.loop.now()
        waits, snapshot = self._waits.recent(now), self.limiter.snapshot()
        held = self.limiter.own.held - now
        return {
            "kind": self.name[0],
            "name": self.name[1],
            "limits": [self._as_given(one) for one in own[1]],
            "lanes": {str(key): [*map(self._as_given, limits)] for key, limits in others}
            if lanes
            else {},
            "waiting": sum(client.waiting for client in self.clients),
            "running": dispatcher.running,
            "started": dispatcher.started,
            "throttled": dispatcher.figures.counts["throttled"],
            "backed_off": dispatcher.figures.counts["backed_off"],
            "rate": None if snapshot.rate == math.inf else snapshot.rate,
            "paused": snapshot.paused_until == math.inf,
            "held": held if 0 < held < math.inf else 0.0,
            "waits": {f"p{one}": waits.percentile(one) for one in (50, 99)},
            "budgets": budgets_as_json(self.limiter, now, lanes=lanes),
        }

    def _as_given(self, limit: Limit) -> str:
        return str(self.limits.as_given(limit))

    def send_rate(self) -> None:
        """Send all clients the rate after slow-downs, if it has changed."""
        for client in self.clients:
            client.send_rate()

    # Decisions.

    def set_paused(self, *, paused: bool) -> None:
        """Pause or resume the quota, on behalf of an operator."""
        # A decision of the hub, so that clients keep it for the next one.
        made = self.decisions.make(statements.Pause(math.inf) if paused else statements.Resume())
        self._apply_decisions(made)
        broadcast(self.clients, made, {one.stamp.maker: one.stamp.at for one in made})

    def decide(
        self,
        client: QuotaClient,
        decisions: Iterable[Decision],
        newest: Mapping[str, int],
    ) -> None:
        """Apply decisions of a client, for all clients.

        Args:
            client: the client that sent them.
            decisions: those that are unknown here.
            newest: by maker, the instant up to which it knows all.
        """
        before = self.decisions.newest()
        effective = self.decisions.merge(decisions, newest)
        self._apply_decisions(effective)
        known = self.decisions.newest().items()
        # Only the makers that changed: hundreds of clients may each know hundreds of makers.
        fresh = {maker: at for maker, at in known if at > before.get(maker, -1)}
        broadcast(self.clients, effective, fresh, by=client)

    def _apply_decisions(self, decisions: Sequence[Decision]) -> None:
        if limiting := [one for _, one in decisions if isinstance(one, Limiting)]:
            self.limits.note(limiting)
            self._apply()
        if len(decisions) > len(limiting):
            # The resume first: if a pause is in force after both, it is the later decision.
            if any(isinstance(one, statements.Resume) for _, one in decisions):
                self.limiter.apply(statements.Resume())
            if self.decisions.paused_until > self._now():
                self.limiter.apply(statements.Pause(self.decisions.paused_until))
            self._hold()
        if decisions:
            self.send_rate()

    def _hold(self) -> None:
        """Apply all holds of the queue and of keys with lanes; those of other keys wait for one."""
        for key, until in self.decisions.holds().items():
            if key is None or self.limiter.limits_of(key) is not None:
                self.limiter.apply(statements.Hold(key, until))

    def _now(self) -> float:
        return self.dispatcher.loop.now()

    def flush_later(self, client: QuotaClient) -> None:
        """Send a client's messages at the end of this step, or of this pass of the loop."""
        self._unsent.append(client)
        if not self._will_flush:
            self._will_flush = True
            asyncio.get_running_loop().call_soon(self.flush)

    def hold_messages(self) -> None:
        """Send nothing before `flush`, which the caller calls at the end of its step."""
        self._will_flush = True

    def flush(self) -> None:
        """Write to the journal how much calls have used, then send all queued messages."""
        self._will_flush = False
        self.records.commit()  # before clients learn of their grants
        while self._unsent:
            self._unsent.pop().flush()

    # Limits.

    def _change_terms(self) -> None:
        terms = self._clients_of
        adaptive = next((one.adaptive for one in terms if one.adaptive is not None), None)
        set_again = adaptive != self._adaptive
        if set_again:  # states of `adaptive` are made as limits are set
            self._adaptive = adaptive
            self.limiter.set_adaptive(adaptive)
        self.limiter.set_catch_up(self._own_catch_up(min(one.catch_up for one in terms)))
        self._apply(set_again=set_again)

    def note_lateness(self, client: QuotaClient) -> None:
        """Extend windows if this client uses its grants later than all others."""
        # Never shortened: a window of another length is another limit, with a count of its own.
        if client.lateness > self._lateness:
            self._lateness = client.lateness
            self._apply()

    def _apply(self, *, set_again: bool = False) -> None:
        """Apply the limits that result from all terms.

        Args:
            set_again: whether to set all limits again, not only those that differ.
        """
        self.limits.set_lateness(self._lateness)
        found = self.limits.update()
        if self.limits.names_changed:
            self._send_names_later()
        by_name = self.limits.by_name if set_again else found
        changes = {None if name is QUEUE else name: limits for name, limits in by_name.items()}
        if not changes:
            return
        # Waiting calls may count in new units, or never fit the new limits. So each enters again,
        # and keeps its place.
        waiting = self._withdraw_all()
        known = {limit_types.unit_of(one) for limits in changes.values() for one in limits}
        self.dispatcher.units.declare(unit for unit in known if unit is not None)
        # The queue's own first. No call waits now, so each can be checked and applied separately.
        for name in sorted(changes, key=lambda name: name is not None):
            self.limiter.apply(statements.SetLimits(name, changes[name]))
        if self.limits.names_changed:  # a key may have been held before it had a lane
            self._hold()
        # Before calls enter: a limit that is set again must not start unused.
        self.records.prepare_changed(changes)
        self.dispatcher.find_fast_acquire()
        self._note_budgets()
        for client, *details, place, waited, after in waiting:
            call = self.enter(client, *details, place=place, waited=waited, after=after)
            if call is not None:
                client.entered(call)

    def _note_budgets(self) -> None:
        """Send clients how much is used under other limits, if any of them has a budget."""
        if self._budgets is not None:
            self._budgets.note_all()
        elif self.limits.has_budgets or self.limits.has_calendars:
            self._budgets = BudgetNews(self.dispatcher, self.limiter, self.clients)
            self.dispatcher.follow(self._budgets)

    def _withdraw_all(self) -> list[Any]:
        calls = map(_as_client_call, self.dispatcher.waiters)
        found, now = [], self.dispatcher.loop.now()
        for call in sorted(calls, key=attrgetter("priority", "place")):
            self.dispatcher.leave(call, "cancelled")
            amounts = dict(zip(self.dispatcher.units.names, call.costs, strict=False))
            what = call.client, call.ticket, call.keys, amounts, call.priority
            found.append((*what, call.place, now - call.joined_at + call.before, call.after))
        return found

    def _send_names_later(self) -> None:
        """Send all clients the names that have limits: soon, and to one client at a time."""
        if self.clients and not self._without_names:  # else a step is due already
            self._steps.add(self._send_names_to_one)
        self._without_names.update(self.clients)

    def _send_names_to_one(self) -> None:
        client, _ = self._without_names.popitem(last=False)
        if self._without_names:
            self._steps.add(self._send_names_to_one)
        if client in self.clients:  # it may have left meanwhile
            self.hold_messages()
            try:
                client.send_names()
            finally:
                self.flush()

    # Calls.

    def costs_of(self, amounts: Mapping[str, float] | None) -> tuple[float, ...]:
        """Return the costs of a call: 0 in each unit that its client does not state."""
        # Other clients may count units that this one does not know.
        units = self.dispatcher.units
        if amounts is None:
            return cost_units.ONE_CALL if len(units) == 1 else (1, *[0] * (len(units) - 1))
        units.declare(amounts)
        return plain_costs(units.costs_of({CALLS: 0, **amounts}))

    def enter(
        self,
        client: QuotaClient,
        ticket: int,
        keys: tuple[Hashable, ...],
        amounts: Mapping[str, float] | None,
        priority: float,
        *,
        place: int = 0,
        waited: float = 0.0,
        after: int | None = None,
    ) -> ClientCall | None:
        """Start a call, or let it wait; return it if it waits.

        Args:
            client: the client that made it, which learns when it starts or is refused.
            ticket: its number at the client.
            keys: of the call.
            amounts: its cost by unit.
            priority: lower goes first.
            place: its place in the wait queue before; 0: it is new.
            waited: seconds that it has waited already; default 0.
            after: see `ClientCall`; default None.
        """
        dispatcher = self.dispatcher
        call = ClientCall.of_client(client, ticket, dispatcher, keys, priority)
        if amounts is not None or len(dispatcher.units) > 1:
            call.costs = self.costs_of(amounts)
        call.place, call.before, call.after = place, waited, after
        # Looked at here, not in `prepare`, as most calls of most quotas need nothing.
        if self.limiter.lanes.limits or self.records.own_states is not self.limiter.own.states:
            self.records.prepare(call.keys)
        try:
            if dispatcher.try_start(call):
                client.granted(call)
                return None
            loop = dispatcher.loop.current
            assert loop is not None  # noqa: S101 - `try_start` has bound it
            dispatcher.join(call, PendingGrant(call, client, loop))
            if len(self._clients_of) > 1:  # else all limits are its client's own
                call.delayed_by = self._foreign_limit(call, client)
        except (LimitExceeded, ValueError, TypeError) as error:
            client.refused(call, error)
            return None
        return call

    # What outlasts the hub.

    def note(self, call: ClientCall) -> None:
        """Note that a call has started, in figures and for the journal."""
        self._waits.add(call.waited_until, call.waited_until - call.joined_at + call.before)
        self.records.note(call)

    def reset(self) -> None:
        """Forget how much calls have used.

        Raises:
            OSError: the journal cannot be written to.
        """
        self.records.reset()
        now = self._now()
        # A hold that ends now makes waiting calls look at their limits again. A pause continues.
        for key in (None, *self.limiter.lanes.by_key):
            self.limiter.apply(statements.Hold(key, now))
        if self._budgets is not None:
            self._budgets.note_all(were_reset=True)

    # Reports about calls.

    def count_running(
        self,
        client: QuotaClient,
        ticket: int,
        keys: tuple[Hashable, ...],
        amounts: Mapping[str, float] | None,
    ) -> ClientCall:
        """Count a call that an earlier hub has granted, and that still runs."""
        dispatcher = self.dispatcher
        call = ClientCall.of_client(client, ticket, dispatcher, keys, 0)
        call.costs = self.costs_of(amounts)
        call.joined_at = call.waited_until = dispatcher.bind()
        call.claim()
        self.records.prepare(call.keys)  # what it settles must change what the journal has counted
        self.limiter.count_running(call, call.joined_at)
        dispatcher.started += 1
        if self._budgets is not None:
            self._budgets.note(call)
        return call

    def _foreign_limit(self, call: ClientCall, client: QuotaClient) -> tuple[str, str, str] | None:
        """Return the limit for which a call waits longest, if only other clients have given it."""
        limiter, now = self.limiter, self.dispatcher.loop.now()
        lanes = ((key, limiter.lanes.get(key, now)) for key in call.keys)
        in_lanes = [(key, one.limits, one.kept) for key, one in lanes if one is not None]
        tables = [(QUEUE, limiter.own.limits, limiter.own.states), *in_lanes]
        found = [
            (state.next_at(now, call.costs), key, limit)
            for key, limits, states in tables
            for limit, state in zip(limits, states, strict=False)
            if state.concerns(call.costs)
        ]
        due, key, limit = max(found, key=lambda one: one[0], default=(-math.inf, None, None))
        given_by = self.limits.are_given_by
        if limit is None or due <= now or given_by(limit, client.terms, key):
            return None
        givers = (its for terms, its in self._clients_of.items() if given_by(limit, terms, key))
        whose = next((one.whose for its in givers for one in its), "others")
        return "" if key is QUEUE else str(key), self._as_given(limit), whose

    def backed_off(self, call: Call | None, key: Hashable) -> None:
        """Report a lowered rate: to the client of the throttled call or, if unknown, to all."""
        if call is not None:
            one = _as_client_call(call)
            cast("QuotaClient", one.client).backed_off(one)  # as `enter` was given it
        else:
            for client in self.clients:
                client.send("backed_off", None, key_to(key), None)

    def wait_like(self, call: ClientCall) -> float:
        """Return how long a newcomer like this call would wait; inf: it would be refused."""
        now = self.dispatcher.loop.now()
        # A copy of the call, as `estimate` sets the limits of the call that it gets.
        newcomer = ClientCall.of_client(call.client, 0, self.dispatcher, call.keys, call.priority)
        newcomer.costs = call.costs
        try:
            return max(0.0, self.limiter.estimate(newcomer, now) - now)
        except ValueError:  # the limits have changed since it joined
            return math.inf


def is_real_time() -> bool:
    """Return whether the running loop's clock is the machine's."""
    return loops.clock_of(asyncio.get_running_loop()) is time.monotonic


def _as_client_call(call: Call) -> ClientCall:
    assert isinstance(call, ClientCall)  # noqa: S101 - of the quota's own making
    return call
