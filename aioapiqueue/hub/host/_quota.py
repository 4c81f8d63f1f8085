"""One quota: the limits that its clients have given, and a dispatcher that keeps them.

A call comes under all limits that any client has given for it, equal ones once, so that the
strictest decides at each instant. A client that leaves takes its limits along.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING, Any, cast

from aioapiqueue._algorithms import CalendarWindow
from aioapiqueue._dispatcher import clock_of
from aioapiqueue._fleet.options import yielding
from aioapiqueue._grammar import CALLS
from aioapiqueue._host.wire import transit
from aioapiqueue._lanes import find_patterns, name_of
from aioapiqueue._rate import Calendar, Concurrency, Window, unit_of
from aioapiqueue._recording.waits import RecentWaits
from aioapiqueue._slot import HELD
from aioapiqueue._units import ONE_CALL, is_stated
from aioapiqueue.hub.host._grant import ClientOwner, Grant
from aioapiqueue.hub.host._journal import Clocks, restart
from aioapiqueue.hub.host._limiter import LimiterFactory, QuotaDispatcher
from aioapiqueue.hub.host._order import ClientCall

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence

    from aioapiqueue._algorithms import LimitState
    from aioapiqueue._host.wire import Terms
    from aioapiqueue._lanes import Lane
    from aioapiqueue._rate import Limit
    from aioapiqueue._slot import Call
    from aioapiqueue.hub.host._journal import Journal, Record
    from aioapiqueue.hub.host._limiter import QuotaLimiter

__all__ = ["Quota"]


class _Queue:
    """Stands for the queue among the names of lanes, of which None may be one."""


_QUEUE = _Queue()
_PERCENTILES = {"p50": 50, "p99": 99}
_FEW_KEYS = 64
"""Keys of which records are never cleared away: it would cost more than they do."""


class Quota:
    """Limits that several clients share.

    Args:
        name: the kind and the name of the quota.
        first: what its first client asks for.
        journal: what limits have let through before; None: nothing is kept.
    """

    def __init__(self, name: tuple[str, str], first: Terms, journal: Journal | None) -> None:
        self.name = name
        self._journal = journal
        self._records: dict[LimitState, Record] = {}
        """What the journal has of each limit in memory."""
        self._known: dict[Hashable, tuple[LimitState, ...]] = {}
        """The states of each key, and of `_QUEUE`, that have records."""
        self._plain_of: dict[Limit, Limit] = {}
        """The limits that clients gave, by those that are in force for them."""
        self.clients: dict[ClientOwner, None] = {}
        self.overrides: dict[Hashable, tuple[Limit, ...]] = {}
        """What `set_rate` has set, for all of them; None: of the queue."""
        self.learnt: dict[Hashable, tuple[Limit, ...]] = {}
        """What clients have learnt from answers, by key; None: of the queue. It holds besides."""
        self.was_resumed = False
        """Whether somebody has ended all pauses since the last that began."""
        self._adaptive = first.adaptive
        """How its rate is lowered on push-back."""
        self._names: dict[Hashable, None] = {}
        """The keys and patterns that have, or had, limits."""
        self._terms: list[Terms] = [first]
        """Those of the clients, each once."""
        self._lateness = transit(first.catch_up, on_real_time=is_real_time())
        """Seconds after which clients give back at the latest what they were granted."""
        self._in_force = self._wanted()
        lanes = dict(self._in_force)
        own = lanes.pop(_QUEUE)
        self._waits = RecentWaits()
        self._unsent: list[ClientOwner] = []
        """The clients that there is something to be sent to."""
        self._will_flush = False
        """Whether `flush` is sure to be called."""
        self.dispatcher = QuotaDispatcher(
            (),
            name=name[1],
            lanes={},
            order="fifo",
            concurrency=math.inf,
            maxsize=0,
            drop_oldest=False,
            catch_up=self._own_catch_up(first.catch_up),
            adaptive=yielding(first.adaptive),
            factory=LimiterFactory(self, own, lanes),  # type: ignore[arg-type]  # its wait queue
        )
        self.limiter = cast("QuotaLimiter", self.dispatcher.limiter)  # as `LimiterFactory` makes it

    @staticmethod
    def _own_catch_up(catch_up: float) -> float:
        return max(0, catch_up - transit(catch_up, on_real_time=is_real_time()))

    @property
    def is_adaptive(self) -> bool:
        """Whether push-back lowers its rate."""
        return self._adaptive is not None

    # Clients.

    def join(self, client: ClientOwner) -> None:
        """Let a client have part in it."""
        self.dispatcher.bind()
        self.clients[client] = None
        self._change_terms()

    def leave(self, client: ClientOwner) -> None:
        """Note that a client is gone, and nothing of it waits or runs."""
        del self.clients[client]
        if self.clients:  # else its limits stay, for the next that comes
            self._change_terms()
        else:  # nobody is left who could end a pause, or knows of it
            self.limiter.resume()
            self.was_resumed = False

    def latest_start(self, call: Call) -> float | None:
        """Return until when a call may start that is granted now: a `Calendar`'s period ends."""
        if not self._has_calendars:
            return None
        states = self.limiter.states_of(call)
        return min((one.end for one in states if isinstance(one, CalendarWindow)), default=None)

    @property
    def has_permits(self) -> bool:
        """Whether any limit is one of bodies at once."""
        limits = (one for its in self._in_force.values() for one in its)
        return any(isinstance(one, Concurrency) for one in limits)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is lost when it is forgotten."""
        dispatcher = self.dispatcher
        if self.clients or dispatcher.waiters.live or dispatcher.running:
            return False
        return self.limiter.owes_nothing(dispatcher.now())

    def as_json(self, *, lanes: bool = True) -> dict[str, Any]:
        """Return what a person wants to know of it.

        Args:
            lanes: whether the limits of lanes are named, of which there may be thousands;
                default True.
        """
        own, *others = self._in_force.items()
        dispatcher, now = self.dispatcher, self.dispatcher.now()
        waits, snapshot = self._waits.of_late(now), self.limiter.snapshot()
        held = self.limiter.held_until - now
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
            "throttled": dispatcher.count_of("throttled"),
            "backed_off": dispatcher.count_of("backed_off"),
            "rate": None if snapshot.rate == math.inf else snapshot.rate,
            "paused": snapshot.paused,
            "held": held if 0 < held < math.inf else 0.0,
            "waits": {name: waits.percentile(percent) for name, percent in _PERCENTILES.items()},
        }

    def _as_given(self, limit: Limit) -> str:
        return str(self._plain_of.get(limit, limit))

    def tell(self, *message: Any, but: ClientOwner | None = None) -> None:  # noqa: ANN401 - JSON
        """Send a message to all clients, but for one."""
        for client in self.clients:
            if client is not but:
                client.send(*message)

    def set_paused(self, *, paused: bool) -> None:
        """Start nothing until it is resumed, or end all pauses: an operator says so."""
        self.was_resumed = not paused
        if paused:
            self.limiter.pause(None)
        else:
            self.tell("resumed")
            self.limiter.resume()
        for client in self.clients:
            client.tell_status()

    def flush_later(self, client: ClientOwner) -> None:
        """Have what a client is to be sent sent: by the end of this step, or pass of the loop."""
        self._unsent.append(client)
        if not self._will_flush:
            self._will_flush = True
            asyncio.get_running_loop().call_soon(self.flush)

    def hold_messages(self) -> None:
        """Have nothing sent before `flush`, which the caller calls at the end of its step."""
        self._will_flush = True

    def flush(self) -> None:
        """Send all clients what there is for them."""
        self._will_flush = False
        while self._unsent:
            self._unsent.pop().flush()

    # Limits.

    def set_limits(self, changes: Mapping[Hashable, tuple[Limit, ...]]) -> None:
        """Replace the limits of the queue (None), or of keys and patterns, for all clients."""
        self.overrides |= changes
        self._apply()

    def set_learnt(self, changes: Mapping[Hashable, tuple[Limit, ...]]) -> None:
        """Have learnt limits hold besides, of the queue (None) or of keys."""
        self.learnt |= changes
        self._apply()

    def _change_terms(self) -> None:
        terms: list[Terms] = []
        for client in self.clients:
            if client.terms not in terms:
                terms.append(client.terms)
        if terms == self._terms:
            return
        self._terms = terms
        for one in terms:
            self.dispatcher.units.declare(one.units)
        adaptive = next((one.adaptive for one in terms if one.adaptive is not None), None)
        if adaptive != self._adaptive:
            self._adaptive = adaptive
            self.limiter.set_adaptive(adaptive)
            self._in_force = {}  # all of them are set again
        # It never falls: windows of other lengths are others, and would exchange what they count.
        self._lateness = max([self._lateness, *(client.lateness for client in self.clients)])
        self.limiter.set_catch_up(self._own_catch_up(min(one.catch_up for one in terms)))
        self._apply()

    def note_lateness(self) -> None:
        """Have windows last so much longer as clients use late what they were granted."""
        self._lateness = max([self._lateness, *(client.lateness for client in self.clients)])
        self._apply()

    def _stretched(self, limits: Iterable[Limit]) -> Iterable[Limit]:
        """Return limits that hold for what starts late, too.

        A window counts from when the hub has let a call go. What starts later is in the window for
        so much longer.
        """
        for one in limits:
            if isinstance(one, Window) and self._lateness:
                longer = Window(one.calls, one.per + self._lateness, unit=one.unit)
                self._plain_of[longer] = one
                yield longer
            else:
                yield one

    def _wanted(self) -> dict[Hashable, tuple[Limit, ...]]:
        """Return the limits that follow from all terms, by key; `_QUEUE`: of the queue."""
        for terms in self._terms:
            self._names.update(dict.fromkeys(terms.lanes))
        set_since = (*self.overrides, *self.learnt)
        self._names.update(dict.fromkeys(key for key in set_since if key is not None))
        tables = [_Table(terms, self.overrides) for terms in self._terms]
        wanted = {
            name: tuple(
                dict.fromkeys(
                    (
                        *(one for table in tables for one in self._stretched(table.find(name))),
                        *self.learnt.get(None if name is _QUEUE else name, ()),
                    )
                )
            )
            for name in (_QUEUE, *self._names)
        }
        limits = (one for its in wanted.values() for one in its)
        self._has_calendars = any(isinstance(one, Calendar) for one in limits)
        return wanted

    def _apply(self) -> None:
        """Have the limits in force that follow from all terms."""
        wanted = self._wanted()
        changes = {
            None if name is _QUEUE else name: limits
            for name, limits in wanted.items()
            if self._in_force.get(name) != limits
        }
        self._in_force = wanted
        if not changes:
            return
        # Who waits is charged in units that may be others by now, or may never fit: each comes
        # again, in its place.
        waiting = self._withdraw_all()
        known = {unit_of(one) for limits in changes.values() for one in limits}
        self.dispatcher.units.declare(unit for unit in known if unit is not None)
        own = changes.pop(None, None)
        if own is not None:
            self.dispatcher.limiter.set_limits({None: own})
        if changes:
            self.dispatcher.limiter.set_limits(changes)
        # Now, as long as it is known what they replace; of a pattern of many, with the next call.
        keys = self.limiter.keys
        names = changes if len(keys) > _FEW_KEYS else keys
        self._prepare([name for name in names if name in keys])
        self.dispatcher.follows_ends |= self.limiter.counts_permits
        for client, *details, place, waited in waiting:
            call = self.enter(client, *details, place=place, waited=waited)
            if call is not None:
                client.entered(call)

    def _withdraw_all(self) -> list[Any]:
        waiting = sorted(self.dispatcher.waiters, key=_rank_of)
        found, now = [], self.dispatcher.now()
        for call in map(_as_client_call, waiting):
            self.dispatcher.leave(call, "cancelled")
            what = call.client, call.ticket, call.keys, self.amounts_of(call), call.priority
            found.append((*what, call.place, now - call.joined_at + call.before))
        return found

    def foreign_names(self, client: ClientOwner) -> list[Hashable]:
        """Return the keys and patterns that have limits of others than this client."""
        own = client.terms.lanes
        return [name for name in self._names if self._in_force.get(name) and name not in own]

    # Calls.

    def costs_of(self, amounts: Mapping[str, float] | None) -> tuple[float, ...]:
        """Return the costs of a call: 0 of each unit that its client does not know."""
        units = self.dispatcher.units
        if amounts is None:
            return ONE_CALL if len(units) == 1 else (1, *[0] * (len(units) - 1))
        units.declare(amounts)
        costs = units.costs_of({CALLS: 0, **amounts})
        return tuple(cost if is_stated(costs, unit) else 0 for unit, cost in enumerate(costs))

    def amounts_of(self, call: Call) -> dict[str, float]:
        """Return what a call costs, by unit."""
        return dict(zip(self.dispatcher.units.names, call.costs, strict=False))

    def enter(
        self,
        client: ClientOwner,
        ticket: int,
        keys: tuple[Hashable, ...],
        amounts: Mapping[str, float] | None,
        priority: float,
        *,
        place: int = 0,
        waited: float = 0.0,
    ) -> ClientCall | None:
        """Let a call start or wait; return it if it waits.

        Args:
            client: whose it is; called when it starts or is refused.
            ticket: its number there.
            keys: of the call.
            amounts: what it costs, by unit.
            priority: lower goes first.
            place: that which it had before; 0: it is new.
            waited: seconds that it has waited already; default: none.
        """
        dispatcher = self.dispatcher
        call = ClientCall(client, ticket, dispatcher, keys, priority)
        if amounts is not None or len(dispatcher.units) > 1:
            call.costs = self.costs_of(amounts)
        call.place, call.before = place, waited
        if self.limiter.has_lanes or self._known.get(_QUEUE) is not self.limiter.own_states:
            self._prepare(call.keys)
        try:
            if dispatcher.try_start(call):
                client.granted(call)
                return None
            loop = dispatcher.loop
            assert loop is not None  # noqa: S101 - `try_start` has bound it
            dispatcher.join(call, Grant(call, client, loop))
            if len(self._terms) > 1:
                call.delayed_by = self._foreign_limit(call, client)
        except (ValueError, TypeError) as error:
            client.refused(call, error)
            return None
        return call

    # What outlasts the hub.

    def _prepare(self, keys: Sequence[Hashable]) -> None:
        """Have limits that have changed in memory go on where the journal says that they were."""
        if self._journal is None:
            return
        limiter = self.limiter
        if self._known.get(_QUEUE) is not limiter.own_states:
            self._adopt(_QUEUE, limiter.limits, limiter.own_states)
        for key in keys if limiter.has_lanes else ():
            if key in limiter.keys:  # else `lane_made` is called when it is
                lane = limiter.lane_of(key, self.dispatcher.now())
                if lane is not None and self._known.get(key) is not lane.kept:
                    self._adopt(key, lane.limits, lane.kept)

    def lane_made(self, key: Hashable, lane: Lane) -> None:
        """Note that a lane is in memory from now on."""
        if self._journal is not None:
            self._adopt(key, lane.limits, lane.kept)

    def _adopt(
        self, key: Hashable, limits: Sequence[Limit], states: tuple[LimitState, ...]
    ) -> None:
        assert self._journal is not None  # noqa: S101 - the caller has looked
        now, place = self.dispatcher.now(), (" ".join(self.name), [] if key is _QUEUE else [key])
        in_force = [self._plain_of.get(limit, limit) for limit in limits]
        fresh = [
            (plain, state)
            for plain, state in zip(in_force, states, strict=False)
            if state not in self._records or self._records[state].row[2] != str(plain)
        ]
        rows = self._journal.rows(*place, now) if fresh else {}
        if rows is None:
            return  # nothing is written over what the file has; with the next call it is read again
        self._close(set(self._known.get(key, ())).difference(states), now, replaced=True)
        self._known[key] = states
        for _, state in fresh:
            if state in self._records:  # the file keeps what it has of the limit before
                self._journal.replaced(self._records.pop(state))
        if fresh:
            clocks = Clocks(now, self.dispatcher.to_wall)
            records = self._journal.adopt(rows, *place, fresh, in_force=in_force, clocks=clocks)
            self._records.update((record.state, record) for record in records)
        if len(self._known) > 2 * len(self.limiter.keys) + _FEW_KEYS:  # so seldom that it is linear
            there = self.limiter.keys
            gone = [one for one in self._known if one is not _QUEUE and one not in there]
            self._close([state for one in gone for state in self._known.pop(one)], now)

    def _close(self, states: Iterable[LimitState], now: float, *, replaced: bool = False) -> None:
        """Have the journal know exactly what limits have let through that are gone."""
        records = [self._records.pop(state) for state in states if state in self._records]
        if self._journal is not None:
            self._journal.close_records(records, now, replaced=replaced)

    def note(self, call: Call) -> None:
        """Note that a call has started: the journal is to know before its client."""
        waited = call.waited_until - call.joined_at + _as_client_call(call).before
        self._waits.add(call.waited_until, waited)
        if self._journal is not None:
            for state in self.limiter.states_of(call):
                record = self._records.get(state)
                if record is not None:
                    self._journal.note(record, call.costs)

    def note_settled(self, call: Call) -> None:
        """Note that a call has cost something else: of limits that it used nothing of, too."""
        if self._journal is None:
            return
        self._prepare(call.keys)
        limiter, now = self.limiter, self.dispatcher.now()
        lanes = [limiter.lane_of(key, now) for key in call.keys if key in limiter.keys]
        states = [*limiter.states_of(call), *limiter.own_states]
        states += [state for lane in lanes if lane is not None for state in lane.kept]
        for state in dict.fromkeys(states):
            record = self._records.get(state)
            if record is not None:
                self._journal.note(record, call.costs)

    def close(self) -> None:
        """Have the journal know exactly what was let through."""
        self._prepare(list(self.limiter.keys))
        self._close(list(self._records), self.dispatcher.now())
        self._known.clear()

    def reset(self) -> None:
        """Forget what was let through.

        Raises:
            OSError: the journal cannot be written to.
        """
        limiter, now = self.limiter, self.dispatcher.now()
        if self._journal is not None:
            self._journal.forget(" ".join(self.name), self._records.values())
        states = [*limiter.own_states[: len(limiter.limits)]]  # what is adaptive stays as slow
        lanes = {key: limiter.lane_of(key, now) for key in list(limiter.keys)}
        for lane in lanes.values():
            states += () if lane is None else lane.kept[: len(lane.limits)]
        for state in states:
            restart(state)
        for key in (None, *lanes):  # who waits is to look again; a pause goes on
            limiter.hold(key, 0)

    def count_running(
        self,
        client: ClientOwner,
        ticket: int,
        keys: tuple[Hashable, ...],
        amounts: dict[str, float],
    ) -> ClientCall:
        """Count a call that a hub before this one has let go."""
        dispatcher = self.dispatcher
        call = ClientCall(client, ticket, dispatcher, keys, 0)
        call.costs = self.costs_of(amounts)
        call.joined_at = call.waited_until = dispatcher.bind()
        call.state = HELD
        self.limiter.take_permits(call, call.joined_at)
        dispatcher.started += 1
        return call

    def _foreign_limit(self, call: ClientCall, client: ClientOwner) -> tuple[str, str, str] | None:
        """Return the limit that a call waits for longest, if its client has not given it."""
        limiter, now = self.limiter, self.dispatcher.now()
        found: list[tuple[float, Hashable, Limit]] = [
            (state.next_at(now, call.costs), _QUEUE, limit)
            for limit, state in zip(limiter.limits, limiter.own_states, strict=False)
            if state.concerns(call.costs)
        ]
        for key in call.keys:
            lane = limiter.lane_of(key, now)
            if lane is not None:
                found += [
                    (state.next_at(now, call.costs), key, limit)
                    for limit, state in zip(lane.limits, lane.kept, strict=False)
                    if state.concerns(call.costs)
                ]
        due, key, limit = max(found, key=lambda one: one[0], default=(-math.inf, None, None))
        if limit is None or due <= now or limit in self._given_by(client.terms, key):
            return None
        whose = next(
            (one.whose for one in self.clients if limit in self._given_by(one.terms, key)), "others"
        )
        return "" if key is _QUEUE else str(key), self._as_given(limit), whose

    def _given_by(self, terms: Terms, key: Hashable) -> Iterable[Limit]:
        return list(self._stretched(_Table(terms, self.overrides).find(key)))

    def newcomer_like(self, call: ClientCall) -> ClientCall:
        """Return a call that has not come, of the same keys and costs."""
        other = ClientCall(call.client, 0, self.dispatcher, call.keys, call.priority)
        other.costs = call.costs
        return other

    def backed_off(self, call: Call | None, key: Hashable) -> None:
        """Tell the client whose call it was, or all of them, that the rate was lowered."""
        if isinstance(call, ClientCall) and isinstance(call.client, ClientOwner):
            call.client.backed_off(call)
        else:
            self.tell("backed_off", None, [] if key is None else [key], None)

    def wait_like(self, call: ClientCall) -> float:
        """Return how long a newcomer like this call would wait; inf: it would be refused."""
        now = self.dispatcher.now()
        try:
            return max(0.0, self.limiter.estimate(self.newcomer_like(call), now) - now)
        except ValueError:  # the limits have changed since it came
            return math.inf


class _Table:
    """Which limits one client's terms give, with what was set since.

    Args:
        terms: the client's.
        overrides: what was set, by key; None: of the queue.
    """

    def __init__(self, terms: Terms, overrides: Mapping[Hashable, tuple[Limit, ...]]) -> None:
        self._own = overrides.get(None, terms.limits)
        if terms.concurrency is not None:
            self._own = (*self._own, Concurrency(terms.concurrency))
        self._lanes: dict[Hashable, Iterable[Limit]] = dict(terms.lanes)
        self._lanes |= {key: limits for key, limits in overrides.items() if key is not None}
        self._patterns = find_patterns(self._lanes)

    def find(self, name: Hashable) -> Iterable[Limit]:
        """Return the limits of a key, or of all keys that fit a pattern and no longer one."""
        if name is _QUEUE:
            return self._own
        return self._lanes.get(name_of(name, self._lanes, self._patterns), ())


def is_real_time() -> bool:
    """Return whether the running loop's clock is the machine's."""
    return clock_of(asyncio.get_running_loop()) is time.monotonic


def _as_client_call(call: Call) -> ClientCall:
    assert isinstance(call, ClientCall)  # noqa: S101 - of the quota's own making
    return call


def _rank_of(call: Call) -> tuple[float, int]:
    return call.priority, _as_client_call(call).place
