"""The only place where tests see or change what has no public name.

Each function is called by what a test needs; where the library keeps it stands here and nowhere
else. What the library's inside calls itself may so change, and its tests stay. Each function
imports for itself, so that one name which is gone fails the tests that need it, and no others.

Hooks are set on one object, not on its class, and stay for the object's life.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import weakref
from collections import deque
from datetime import UTC, datetime
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from aioapiqueue import ApiQueue

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import (
        Awaitable,
        Callable,
        Collection,
        Hashable,
        Iterator,
        Mapping,
        Sequence,
    )
    from pathlib import Path

    import boto3
    import botocore.session
    import pytest
    from botocore.credentials import AssumeRoleCredentialFetcher

    from aioapiqueue import LimiterView, Slot
    from aioapiqueue.schedules.spi import HubLocation
    from aioapiqueue_run.hub import Hub

# A queue: what runs for it.


def _dispatcher_of(queue: ApiQueue) -> Any:
    """Return what is under a queue; its attributes are looked at here only."""
    from aioapiqueue._core.queue import dispatcher_of

    return dispatcher_of(queue)


def attributes_of(part: object) -> set[str]:
    """Return the names of the attributes that an object has of its own, in slots or not."""
    slots = [name for base in type(part).__mro__ for name in getattr(base, "__slots__", ())]
    return {*getattr(part, "__dict__", ()), *(name for name in slots if hasattr(part, name))}


def attributes_of_dispatcher(queue: ApiQueue) -> set[str]:
    """Return the names of all that is kept of a queue, but for its public object."""
    return attributes_of(_dispatcher_of(queue))


def attributes_of_limiter(queue: ApiQueue) -> set[str]:
    """Return the names of all that its limiter keeps."""
    return attributes_of(_dispatcher_of(queue).limiter)


def attributes_of_waiters(queue: ApiQueue) -> set[str]:
    """Return the names of all that its wait queue keeps."""
    return attributes_of(waiters_of(queue))


def reference_to(queue: ApiQueue) -> weakref.ref[Any]:
    """Return a reference to what is under a queue, which does not keep that."""
    return weakref.ref(_dispatcher_of(queue))


def spawn(queue: ApiQueue, task: Callable[[], Awaitable[None]]) -> asyncio.Task[None] | None:
    """Start a task of the queue's own on its loop; None: no loop runs."""
    return _dispatcher_of(queue).loop.spawn(task, name="task", on_end=lambda _: None)


def start_unpaced(queue: ApiQueue, slot: Slot) -> None:
    """Note that a call starts under no limit, as a limiter does that finds it out then."""
    _dispatcher_of(queue).starts_unpaced(slot)


def ticker_of(queue: ApiQueue) -> asyncio.Task[None] | None:
    """Return the task that releases waiters; None: nobody waits."""
    return _dispatcher_of(queue)._ticker.task


def timer_of(queue: ApiQueue) -> asyncio.TimerHandle | None:
    """Return the timer that wakes the ticker next."""
    return _dispatcher_of(queue)._ticker._timer


def timeouts_of(queue: ApiQueue) -> Collection[object]:
    """Return the timers of waiters that gave a `timeout`."""
    return _dispatcher_of(queue)._timeouts


def wrap_posts_of_threads(
    monkeypatch: pytest.MonkeyPatch, wrapper: Callable[[Callable[[], None]], None]
) -> None:
    """Have `wrapper` called with what would post, whenever a thread posts to a loop."""
    from aioapiqueue.threads import _loop, _slot

    post = _loop.post

    def posting(loop: asyncio.AbstractEventLoop, what: Callable[[], object]) -> None:
        wrapper(lambda: post(loop, what))

    monkeypatch.setattr(_loop, "post", posting)
    monkeypatch.setattr(_slot, "post", posting)


def clock_for(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    """Return the clock by which a queue on this loop goes."""
    from aioapiqueue.spi import loops

    return loops.clock_of(loop)


# A queue: what it knows.


def waiters_of(queue: ApiQueue) -> Any:
    """Return the wait queue."""
    return _dispatcher_of(queue).waiters


def waiting_scopes_of(queue: ApiQueue) -> Any:
    """Return the lines of calls that wait for a server, by scope."""
    return _dispatcher_of(queue).limiter._waiting


def heap_entries(waiting: Any) -> int:
    """Return the number of entries in the heaps of a shared quota's lines: ready, and parked."""
    heaps = waiting._ready, waiting._dues, waiting._looks
    return sum(len(heap.rest or ()) for heap in heaps)


def lanes_of(queue: ApiQueue) -> Collection[Hashable]:
    """Return the keys whose own limits are kept in memory now."""
    return _lane_table_of(queue).by_key


LOOKS_AT_IDLE_LANE = ("lane_states.py", "Lanes._evict")
"""The file and the function that find out whether a lane that was idle may be forgotten."""


def lane_limits_of(queue: ApiQueue) -> Mapping[Hashable, Any]:
    """Return the limits of each key or pattern, as they were set."""
    return _lane_table_of(queue).limits


def _lane_table_of(queue: ApiQueue) -> Any:
    limiter = _dispatcher_of(queue).limiter
    return limiter.lanes if hasattr(limiter, "lanes") else limiter._limits.lanes


def own_states(queue: ApiQueue, key: Hashable = None) -> Sequence[Any]:
    """Return the states of a lane's limits, or (None) of the queue's own."""
    limiter = _dispatcher_of(queue).limiter
    return limiter.own.states if key is None else limiter.lanes.by_key[key].states


def limits_to_look_at(queue: ApiQueue) -> Collection[object]:
    """Return the limits of which something has changed since they were looked at."""
    return _dispatcher_of(queue).limiter._scheduler._touched


def is_sorting(queue: ApiQueue) -> bool:
    """Return whether those who wait are being sorted into lines, as their limits have changed."""
    return _dispatcher_of(queue).limiter._sorter.steps is not None


def take_small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a step of what follows from changed limits be two looks, and not hundreds."""
    from aioapiqueue._core import resorting

    monkeypatch.setattr(resorting, "BUDGET", 2)
    monkeypatch.setattr(resorting, "_QUICK", 1)


def turns_of(queue: ApiQueue) -> Mapping[Hashable, int]:
    """Return the last turn that each key was given."""
    return _dispatcher_of(queue).waiters.ordering.last_of


def allowed_rate(queue: ApiQueue, key: Hashable = None) -> float:
    """Return the calls per second that adaptive lets through in a lane; None: in the queue."""
    return min(state.allowed() for state in own_states(queue, key))


def nesting_sizes(queue: ApiQueue) -> list[int]:
    """Return how many entries each table has by which nested calls are found."""
    nesting = _dispatcher_of(queue).nesting
    return [len(table) for table in (nesting.held, nesting._in_use, nesting._counted)]


def entered(view: LimiterView) -> int:
    """Return how many tasks are inside of a view."""
    return len(view._entered)


def followed_keys(answers: Any) -> Collection[Hashable]:
    """Return the keys of which calls run, or may not have been counted; None: of any."""
    return {*answers._scopes}


def _server_quotas_of(queue: ApiQueue) -> Any:
    """Return what servers have said of a queue's quotas, noted from now on, as integrations do."""
    return _dispatcher_of(queue).find_server_quotas()


def bounds_of(queue: ApiQueue, key: Hashable = None) -> Sequence[Any]:
    """Return the states of what the server has said remains, of a lane or (None) of the queue."""
    from aioapiqueue._server_quotas.server_bound import ServerBound

    limiter = _dispatcher_of(queue).limiter
    states = limiter.own.states if key is None else limiter.lanes.by_key[key].extra
    return [state for state in states if isinstance(state, ServerBound)]


def followers_of(queue: ApiQueue) -> object:
    """Return those who are told of the turns in a call's life; None: there are none."""
    return _dispatcher_of(queue)._followers


# A queue: hooks.


def follow(queue: ApiQueue, follower: Any) -> None:
    """Have a `Follower` told of the turns in each call's life, from now on."""
    _dispatcher_of(queue).follow(follower)


def release_due(queue: ApiQueue, **how: float) -> float | None:
    """Look for whom to release now, as the ticker does; return when it would look again."""
    dispatcher = _dispatcher_of(queue)
    return dispatcher.limiter.release_due(dispatcher.loop.now(), **how)


def wrap_looks(queue: ApiQueue, wrap: Callable[[Any], Callable[..., float | None]]) -> None:
    """Replace what looks for whom to release, given the time, by what `wrap` makes of it."""
    limiter = _dispatcher_of(queue).limiter
    limiter.release_due = wrap(limiter.release_due)


def wrap_replies(queue: ApiQueue, wrap: Callable[[Any], Callable[..., None]]) -> None:
    """Replace what applies the authority's replies by what `wrap` makes of it."""
    limiter = _dispatcher_of(queue).limiter
    limiter.processed = wrap(limiter.processed)


def wrap_grants(queue: ApiQueue, wrap: Callable[[Any], Callable[[Slot, float], None]]) -> None:
    """Replace what grants a slot to a waiter, at a time, by what `wrap` makes of it."""
    dispatcher = _dispatcher_of(queue)
    dispatcher.grant = wrap(dispatcher.grant)
    scheduler = getattr(dispatcher.limiter, "_scheduler", None)
    if scheduler is not None:  # of the loop that it is bound to; one made later asks again
        scheduler._grant = dispatcher.grant


def after_grants(queue: ApiQueue, heard: Callable[[Slot, float], object]) -> None:
    """Call `heard(slot, now)` after each grant, before the caller resumes."""

    def wrap(grant: Callable[[Slot, float], None]) -> Callable[[Slot, float], None]:
        def granting(slot: Slot, now: float) -> None:
            grant(slot, now)
            heard(slot, now)

        return granting

    wrap_grants(queue, wrap)


def after_next_grant(queue: ApiQueue, do: Callable[[], object]) -> None:
    """Call `do` in the tick of the next grant: the future is resolved, its task not resumed."""
    pending = [do]
    after_grants(queue, lambda *_: pending.pop()() if pending else None)


def record_releases(queue: ApiQueue) -> list[tuple[float, Slot]]:
    """Return a list to which each release from now on is added, in order, as the queue has it.

    When a body starts after its release is the loop's affair: it may stall in between.
    """
    releases: list[tuple[float, Slot]] = []
    after_starts(queue, lambda slot, now: releases.append((now, slot)))
    return releases


def after_starts(queue: ApiQueue, heard: Callable[[Slot, float], object]) -> None:
    """Call `heard(slot, now)` after each start: at once, or by a grant to a waiter."""
    dispatcher = _dispatcher_of(queue)
    try_start = dispatcher.try_start

    def starting(slot: Slot) -> bool:
        at_once: bool = try_start(slot)
        if at_once:
            heard(slot, dispatcher.loop.now())
        return at_once

    dispatcher.try_start = starting
    after_grants(queue, heard)


def count_looks(queue: ApiQueue) -> Callable[[], int]:
    """Return how often, from now on, a waiter is looked at: starts, or goes over to another limit.

    The queue must run on its loop already, as a queue that begins on another loop starts over.
    """
    scheduler: Any = _dispatcher_of(queue).limiter._scheduler
    look_at, looks = scheduler._look_at, 0

    def looking(*args: object) -> object:
        nonlocal looks
        looks += 1
        return look_at(*args)

    scheduler._look_at = looking
    return lambda: looks


def work_of_steps(
    queue: ApiQueue, measure: Callable[[Callable[[], object]], int]
) -> Collection[int]:
    """Return a list that gets how much work each look at the queue was, by `measure`."""
    steps: list[int] = []

    def wrap(release_due: Callable[..., float | None]) -> Callable[..., float | None]:
        def looking(now: float, **how: float) -> float | None:
            wake: list[float | None] = []
            steps.append(measure(lambda: wake.append(release_due(now, **how))))
            return wake[0]

        return looking

    wrap_looks(queue, wrap)
    return steps


def left_over(queue: ApiQueue) -> list[str]:
    """Return what is still there of those who waited, where nobody does any more."""
    limiter, waiters = _dispatcher_of(queue).limiter, waiters_of(queue)
    found = [f"line {name!r}" for name in waiters.lines]
    found += ["a timeout"] * len(timeouts_of(queue))
    found += ["a ticker"] * (ticker_of(queue) is not None)
    return found + (_left_in_fleet if hasattr(limiter, "_planner") else _left_in_scheduler)(limiter)


def _left_in_fleet(limiter: Any) -> list[str]:
    planner, session = limiter._planner, limiter._session
    found = [f"{planner.leases.number} leases"] * (planner.leases.number > 0)
    found += [
        f"to be sent: {one.message}"
        for one in session.outbox.waiting
        if not session.outbox.is_closed
    ]
    return found + ["an exchange"] * session.busy


def _left_in_scheduler(limiter: Any) -> list[str]:
    scheduler = limiter._scheduler
    found = [f"group of {len(group.wait_lists)}" for group in scheduler._groups.values()]
    for key, states in _states_by_key(limiter).items():
        for state in states:
            waits = state.wait_list
            if waits is not None and (waits.lines or waits.reservation or waits.size):
                found.append(f"a wait list of {key!r}")
            if getattr(state, "used", 0) and hasattr(state, "most") and key is not None:
                found.append(f"{state.used} permits of {key!r}")
    return found


def _states_by_key(limiter: Any) -> dict[Hashable, Any]:
    lanes = {key: lane.all_states() for key, lane in limiter.lanes.by_key.items()}
    return {None: limiter.own.states, **lanes}


# A queue: faults, which its model has to find.


def charge_one_limit_only(queue: ApiQueue) -> None:
    """Charge a call that has waited to the first of its limits, and give the others back."""
    limiter = _dispatcher_of(queue).limiter

    def give_back(call: Any, now: float) -> None:
        for limit in limiter.states_of(call)[1:]:
            limit.refund(now, now, call.costs)

    after_grants(queue, give_back)


def charge_twice_on_regrant(queue: ApiQueue) -> None:
    """Charge the call that gets the place of one that was given back once more."""
    limiter = _dispatcher_of(queue).limiter
    refund, pending = limiter._refund, []

    def refunding(call: Any) -> None:
        pending.append(call)
        refund(call)

    def charge_again(call: Any, now: float) -> None:
        if pending:
            pending.clear()
            for limit in limiter.states_of(call):
                limit.consume(now, call.costs)

    limiter._refund = refunding
    after_grants(queue, charge_again)


def forget_refund_of_last_unit(queue: ApiQueue) -> None:
    """Give back all that a call was charged but for the last unit that the queue knows."""
    dispatcher = _dispatcher_of(queue)
    limiter, refund = dispatcher.limiter, dispatcher.limiter._refund

    def refunding(call: Any) -> None:
        at, costs = call.waited_until, call.costs
        refund(call)
        for limit in limiter.states_of(call):
            if limit.unit == len(dispatcher.units) - 1 and not hasattr(limit, "most"):
                limit.consume(at, costs)

    limiter._refund = refunding


def forget_who_met_full_buckets(queue: ApiQueue) -> None:
    """Give back what calls turn out not to need, whatever has started on top of it."""
    limiter = _dispatcher_of(queue).limiter
    apply = limiter.apply

    def applying(*statements: Any) -> None:
        for limit in limiter.own.states:
            # Nobody met it with less than nothing owed.
            limit.peaks = deque([(math.inf, -math.inf)])
        apply(*statements)

    limiter.apply = applying


def count_nothing_as_out(queue: ApiQueue) -> None:
    """Take what a server says remains for what is left, whatever is under way."""
    _server_quotas_of(queue).costs_uncounted = lambda *_: (0, 0)


def forget_unanswered_ends(queue: ApiQueue) -> None:
    """Take calls that ended without an answer for counted."""
    quotas = _server_quotas_of(queue)
    cost_out = quotas.cost_out
    quotas.costs_uncounted = lambda _, key, count: (
        cost_out(key, count.unit, with_ended=False),
        0,
    )


def charge_no_bound(queue: ApiQueue) -> None:
    """Take nothing of what starts off what remains."""
    limiter = _dispatcher_of(queue).limiter

    def give_back(call: Any, now: float) -> None:
        for limit in limiter.states_of(call):
            if hasattr(limit, "until"):
                limit.left += call.costs[limit.unit]

    after_starts(queue, give_back)


def overtake_reservations(queue: ApiQueue) -> None:
    """Let anybody start who has room, whatever an earlier call has reserved."""
    _dispatcher_of(queue).bind()
    scheduler = _dispatcher_of(queue).limiter._scheduler
    scheduler._is_reserved = lambda *_: False


def reserve_nothing(queue: ApiQueue) -> None:
    """Let nobody reserve a limit."""
    _dispatcher_of(queue).bind()
    scheduler = _dispatcher_of(queue).limiter._scheduler
    scheduler._reserve = lambda *_: None


def lose_refunds(queue: ApiQueue) -> None:
    """Let nothing be given back for a slot whose caller was cancelled before it resumed."""
    _dispatcher_of(queue).limiter._refund = lambda _slot: None


def ignore_priorities(queue: ApiQueue) -> None:
    """Let every caller wait with the same priority."""
    dispatcher = _dispatcher_of(queue)
    join = dispatcher.join

    def joining(slot: Slot, future: asyncio.Future[Slot]) -> None:
        if slot.priority:
            slot.priority = 0
        join(slot, future)

    dispatcher.join = joining


def ignore_lane_limits(queue: ApiQueue) -> None:
    """Let all calls come under the queue's own limits only."""
    limiter = _dispatcher_of(queue).limiter
    limiter.find_limits = lambda *_, **__: limiter.own.states


def shorten_holds(queue: ApiQueue) -> None:
    """Take the latest push-back for the one that counts."""
    throttled = queue.throttled

    def replacing(retry_after: float | None = None, *, key: Hashable = None) -> None:
        _dispatcher_of(queue).limiter._held = -math.inf
        throttled(retry_after, key=key)

    queue.throttled = replacing


# A queue that shares its quota.


def decisions_of(part: Any) -> Any:
    """Return what users have decided, as a queue or a hub's quota knows it."""
    found = getattr(part, "decisions", None)
    return _dispatcher_of(part).limiter._decisions if found is None else found


def let_all_wait(queue: ApiQueue) -> None:
    """Refuse no time-out at once because of a hold that is known, but let the caller wait."""
    limiter = _dispatcher_of(queue).limiter
    estimate = limiter.estimate

    def estimating(call: Any, now: float, *, alone: bool = False) -> float:
        return now if alone else estimate(call, now)

    limiter.estimate = estimating


def planner_sizes(queue: ApiQueue) -> dict[str, int]:
    """Return how many entries each of the planner's tables has; those by lane."""
    planner = _dispatcher_of(queue).limiter._planner
    scopes = planner._scopes
    return {
        "grants": len(planner.leases.by_scope),
        "requesting": len(scopes._requesting.keys),
        "later": len(scopes._later.keys),
        "by rank": sum(map(len, scopes._requesting.heaps.values())),
        "by time": sum(map(len, scopes._later.heaps.values())),
        "surplus": len(planner.leases._surplus),
    }


def leases_of(queue: ApiQueue) -> int:
    """Return how many slots the queue has been granted and not used yet."""
    return _dispatcher_of(queue).limiter._planner.leases.number


def expect_late_timers(queue: ApiQueue, late: float = 0.005) -> None:
    """Let a queue on virtual time ask for slots as on a real loop, whose timers may be late."""
    lateness = _dispatcher_of(queue).limiter._planner.leases.lateness
    usual = lateness.usual
    lateness.usual = lambda least: usual(max(least, late))


def messages_of(queue: ApiQueue) -> Collection[object]:
    """Return what is to be sent to the server and has not been."""
    return _dispatcher_of(queue).limiter._session.outbox.waiting


def own_timers_of(queue: ApiQueue) -> Collection[object]:
    """Return the timers by which permits in use are kept, among others of its session."""
    return _dispatcher_of(queue).limiter._session._timers


def before_requests(queue: ApiQueue, heard: Callable[[int], object]) -> None:
    """Call `heard(lanes)` before each request, with the number of lanes that it names."""
    transport = _dispatcher_of(queue).limiter._transport
    send: Callable[[Any], Awaitable[Any]] = transport.send

    async def sending(envelope: Any) -> Any:
        heard(len(envelope.message.lanes))
        return await send(envelope)

    transport.send = sending


def redis_script() -> tuple[str, str]:
    """Return the script that the server runs, and its SHA-1."""
    from aioapiqueue.integrations.redis import _transport

    return _transport.SCRIPT, _transport.SHA


def replace_script(monkeypatch: pytest.MonkeyPatch, script: str, sha: str) -> None:
    """Let all schedules run another script, for the time of a test."""
    from aioapiqueue.integrations.redis import _transport

    monkeypatch.setattr(_transport, "SCRIPT", script)
    monkeypatch.setattr(_transport, "SHA", sha)


# Slots.


def slots_around() -> Sequence[int]:
    """Return the numbers of the slots that were noted around the present context."""
    from aioapiqueue._core import double_pacing

    return double_pacing._numbers.get()


def slots_noted(queue: ApiQueue) -> Collection[object]:
    """Return the slots that a queue notes as possible outer ones."""
    return queue._double_pacing._noted


def begin_to_wait(slot: Slot, future: asyncio.Future[Slot]) -> None:
    """Make of a new slot one that waits."""
    from aioapiqueue._core import slot as states

    slot.state = states.WAITING
    slot.future = future


def stop_waiting(slot: Slot) -> None:
    """Make of a slot that waits one whose caller has gone."""
    from aioapiqueue._core import slot as states

    slot.state = states.LEFT
    slot.future.cancel()


# Threads.


def let_threads_look(monkeypatch: pytest.MonkeyPatch, *, every: float) -> None:
    """Let threads that wait look every so many seconds whether their loop still runs."""
    from aioapiqueue.threads import _loop, _slot

    monkeypatch.setattr(_loop, "PATIENCE", every)
    monkeypatch.setattr(_slot, "PATIENCE", every)


def interrupt_new_priority(monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise KeyboardInterrupt once, after a line has noted the priority of its first such call."""
    from aioapiqueue._core import wait_queue

    heappush = wait_queue.heappush

    def interrupted(heap: list[float], priority: float) -> None:
        heappush(heap, priority)
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(wait_queue, "heappush", interrupted)


def interrupt_end_of_priority(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Ctrl-C come once, just after the priority of an empty level has left its heap."""
    from aioapiqueue._core import wait_queue

    heappop = wait_queue.heappop

    def interrupted(heap: list[float]) -> float:
        heappop(heap)
        monkeypatch.setattr(wait_queue, "heappop", heappop)
        raise KeyboardInterrupt

    monkeypatch.setattr(wait_queue, "heappop", interrupted)


def interrupt_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise KeyboardInterrupt in threads that begin to wait."""
    from aioapiqueue.threads import BlockingSlot

    def waiting(_: BlockingSlot) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(BlockingSlot, "_wait", waiting)


# What tests make by themselves: the parts of a queue.


def wait_queue(wake: Callable[[], object], **options: Any) -> Any:
    """Make a wait queue, which calls `wake` when there is somebody to release."""
    from aioapiqueue._core.wait_queue import WaitQueue

    return WaitQueue(wake, **options)


def calls_in_flight(**options: Any) -> Any:
    """Make the list of calls whose costs a server may not have counted."""
    from aioapiqueue._server_quotas.calls_in_flight import CallsInFlight

    return CallsInFlight(**options)


def external_usage(began: float) -> Any:
    """Make the estimate of what others use of a server's quota."""
    from aioapiqueue._server_quotas.external_usage import ExternalUsage

    return ExternalUsage(began)


def server_bound(unit: int, limit: float | None) -> Any:
    """Make the state of what a server says remains."""
    from aioapiqueue._server_quotas.server_bound import ServerBound

    return ServerBound(unit, limit)


# What tests make by themselves: the parts of a limiter that shares a quota.


def decisions() -> Any:
    """Return what users of a quota decide: stamps, and how they are merged."""
    from aioapiqueue._shared.decisions import Decision, Decisions, Stamp, newest_from

    return SimpleNamespace(
        Decision=Decision, Decisions=Decisions, Stamp=Stamp, newest_from=newest_from
    )


def scopes() -> Any:
    """Return what is said of scopes: the lanes and units that a call's limits count."""
    from aioapiqueue._shared.limit_table import NO_KEY, NO_LANES, Scope

    return SimpleNamespace(NO_KEY=NO_KEY, NO_LANES=NO_LANES, Scope=Scope)


def waiting_scopes(host: object) -> Any:
    """Make the lines of calls that wait for a server."""
    from aioapiqueue._shared.redis.waiting_scopes import WaitingScopes

    return WaitingScopes(host)


def clock_of_server() -> Any:
    """Make what converts a server's timestamps to the loop's clock."""
    from aioapiqueue._shared.clock import Clock

    return Clock()


def redis_messages() -> Any:
    """Return messages to a Redis server, and the settings of what sends them."""
    from aioapiqueue._shared.redis.messages import Adjust, CostChange, Return, SharedSettings

    return SimpleNamespace(
        Adjust=Adjust, CostChange=CostChange, Return=Return, SharedSettings=SharedSettings
    )


def redis_codec(*parts: Any, **options: Any) -> Any:
    """Make what writes what the script on a Redis server reads."""
    from aioapiqueue.integrations.redis._codec import Codec

    return Codec(*parts, **options)


# The registry.


def lines_of_keys(text: str) -> Mapping[tuple[str, ...], int]:
    """Return the line of each key of a limits.toml."""
    from aioapiqueue.registry._file import lines_of

    return lines_of(text)


def presets() -> Any:
    """Return what reads published limits."""
    from aioapiqueue.registry._published import scaled

    return SimpleNamespace(scaled=scaled)


# The hub.


def clients_of(hub: Hub) -> Mapping[Any, Any]:
    """Return the processes that a hub knows."""
    return hub._clients


def requests_of(hub: Hub) -> int:
    """Return the number of attempts that wait or are in flight."""
    return hub._calls.requests


def connections_of(hub: Hub) -> Collection[Any]:
    """Return the connections that are open."""
    return [] if hub._server is None else hub._server.handlers


def unsent_bytes(connection: Any) -> int:
    """Return how much a connection still has to send."""
    return connection._connection.unsent


def send_raw(connection: Any, data: bytes) -> None:
    """Have a hub send something on a connection."""
    connection._connection.send(data)


def open_journal(path: Path) -> Any:
    """Open the file of a hub."""
    from aioapiqueue._shared.host_hub.journal import Journal

    return Journal(path)


def close_file_of(journal: Any) -> None:
    """Close the file of a hub, as the system does when that is killed: nothing more is written."""
    journal._file.close()


# The host hub.

HUB_PROGRAM = b"aioapiqueue._shared.host_hub.main"
"""The module that a hub's process runs."""
START_HUB = """
from aioapiqueue.schedules.spi import HubLocation
from aioapiqueue._shared.host import reach
assert reach.start_hub(HubLocation()) is None
"""
"""A program that starts the user's hub."""
SERVICE = "import aioapiqueue._shared.host_hub.service as _service"
"""What gives code of a hub the module that has its times."""


def start_hub(place: HubLocation) -> str | None:
    """Start a hub; return why that failed, or None."""
    from aioapiqueue._shared.host import reach

    return reach.start_hub(place)


def make_private(directory: Path) -> None:
    """Make a directory that only its user may use."""
    from aioapiqueue._shared.local_sockets import make_private

    make_private(directory, variable="AIOAPIQUEUE_HUB_DIR")


def connect_to_hub(place: HubLocation) -> socket.socket | None:
    """Connect to a hub; None: none runs."""
    from aioapiqueue._shared.host import reach

    return reach.connect(place)


def hub_messages() -> Any:
    """Return what queues and a hub send each other."""
    from aioapiqueue._shared.host.messages import PROTOCOL, Terms, decode, encode, own_version

    return SimpleNamespace(
        PROTOCOL=PROTOCOL, Terms=Terms, decode=decode, encode=encode, own_version=own_version
    )


def local_sockets() -> Any:
    """Return what makes and checks the local sockets of hubs."""
    from aioapiqueue._shared import local_sockets

    return local_sockets


def hub_quotas(journal: object = None) -> Any:
    """Make the quotas of a hub, kept in a file that `open_journal` has opened, or in none."""
    from aioapiqueue._shared.host_hub.quotas import HubQuotas

    return HubQuotas(journal)


def host_hub(*parts: Any, **options: Any) -> Any:
    """Make a host hub."""
    from aioapiqueue._shared.host_hub import service

    return service.HostHub(*parts, **options)


def hub_steps() -> Any:
    """Make what does long work of a hub in steps."""
    from aioapiqueue._shared.host_hub.steps import Steps

    return Steps()


def limits_in_force() -> Any:
    """Return what finds the limits in force from the terms of a quota's queues."""
    from aioapiqueue._shared.host_hub.limits_in_force import QUEUE, LimitsInForce

    return SimpleNamespace(QUEUE=QUEUE, LimitsInForce=LimitsInForce)


def host_call(slot: Slot) -> Any:
    """Make of a slot a call of a queue that shares its limits on a host."""
    from aioapiqueue._shared.host.scopes import HostCall

    return HostCall.of(slot)


@contextlib.contextmanager
def hubs_begun_with(code: str) -> Iterator[None]:
    """Have the hubs that this process starts meanwhile run some code first."""
    restore = begin_hubs_with(code)
    try:
        yield
    finally:
        restore()


def begin_hubs_with(code: str) -> Callable[[], None]:
    """Have the hubs that this process starts run some code first, once they find packages.

    Returns:
        What has the next ones begin as before.
    """
    from aioapiqueue._shared.host import reach

    before = reach._MAIN
    paths, own = before.split("from aioapiqueue", maxsplit=1)
    reach._MAIN = f"{paths}{code}from aioapiqueue{own}"
    return partial(setattr, reach, "_MAIN", before)


# The gateway.


async def connect_to_first(addresses: Sequence[Any], port: int, dial: Callable[..., Any]) -> Any:
    """Connect to the first of some addresses that answers, as a confined gateway does."""
    from aioapiqueue_run.gateway import confinement

    return await confinement._connect_to_first(addresses, port, dial)


# Integrations.


def clock_of_headers() -> Any:
    """Make what finds a server's clock in its headers."""
    from aioapiqueue.integrations._header_values import ServerClock

    return ServerClock()


def learner(learning: object) -> Any:
    """Make what finds the limits of one server."""
    from aioapiqueue.integrations._learning import Learner

    return Learner(learning)


def decoded_body(body: bytes, encoding: str) -> bytes | None:
    """Return the body of a refused call without its encoding; None: it is unknown, or too long."""
    from aioapiqueue.integrations._compression import decoded
    from aioapiqueue.integrations.http import MAX_BODY

    return decoded(body, encoding, MAX_BODY)


def metrics() -> Sequence[Any]:
    """Return the metrics of a queue."""
    from aioapiqueue.integrations import _metrics

    return _metrics.METRICS


def metric_boundaries() -> Sequence[float]:
    """Return the boundaries of a histogram's buckets."""
    from aioapiqueue.integrations import _metrics

    return _metrics.BOUNDARIES


def aws_throttle_codes() -> Collection[str]:
    """Return the error codes of AWS that are taken for a throttle."""
    from aioapiqueue.integrations import _aws

    return _aws.THROTTLE_CODES


def malformed_usage() -> type[ValueError]:
    """Return the error of a response that reports an impossible usage."""
    from aioapiqueue.integrations._usage import MalformedUsageError

    return MalformedUsageError


def llm_usage() -> Any:
    """Return what reads the usage in the response of a language model."""
    from aioapiqueue.integrations.llm._stated_usage import read_usage
    from aioapiqueue.integrations.llm._usage import BodyUsageReader

    return SimpleNamespace(BodyUsageReader=BodyUsageReader, read_usage=read_usage)


def token_counter(model: str) -> Callable[[str], float]:
    """Return what counts the tokens of a text for a model."""
    from aioapiqueue.integrations.llm._tokens import counter_for

    return counter_for(model)


# The package, and its modules' own figures.


def import_again() -> None:
    """Do what the import of the package does to Ctrl-C."""
    importlib.reload(importlib.import_module("aioapiqueue._core.interrupt"))


def set_time_of_day(
    monkeypatch: pytest.MonkeyPatch, to_wall: Callable[[Any, float], float]
) -> None:
    """Let all queues find the time of day of an instant by `to_wall`, a method of their loop."""
    from aioapiqueue import ApiQueue

    monkeypatch.setattr(type(_dispatcher_of(ApiQueue()).loop), "to_wall", to_wall)


def forget_zones() -> None:
    """Have time zones looked up again."""
    from aioapiqueue._limits.zones import zone_called

    zone_called.cache_clear()


_PLACES = {
    "connections without a password": "aioapiqueue_run.gateway.server._UNAUTHENTICATED",
    "folder of presets": "aioapiqueue.registry._published._FOLDER",
    "hook of Node.js": "aioapiqueue_run.gateway.environment._NODE_HOOK",
    "keys cached for figures": "aioapiqueue._core.figures._KEYS",
    "kinds of calls counted": "aioapiqueue_run.hub.calls._MAX_STATS",
    "kinds of calls until queues are dropped": "aioapiqueue_run.hub.calls._MANY_KINDS",
    "lanes that learn": "aioapiqueue._server_quotas.queue_quotas._MANY_LANES",
    "last seconds of a gateway": "aioapiqueue_run.gateway.main._LAST_SECONDS",
    "look-up of a name": "aioapiqueue_run.gateway.confinement._look_up",
    "makers of decisions": "aioapiqueue._shared.decisions._MOST_MAKERS",
    "name of a boot": "aioapiqueue._shared.host_hub.saved_states._boot",
    "names in a log": "aioapiqueue._shared.host_hub.limits_in_force._FEW",
    "points of series": "aioapiqueue.recording._series._MAX_POINTS",
    "reads of a journal": "aioapiqueue._shared.host_hub.journal.Journal.rows",
    "seconds after an interruption": "aioapiqueue_run.cli.run.program._STILL_RUNNING_SECONDS",
    "seconds for a locked file": "aioapiqueue._shared.host_hub.journal._LOCKED_AT_FIRST",
    "seconds of a check of a server": "aioapiqueue_run.cli.run.shared_server._CHECK_SECONDS",
    "seconds of a silent client": "aioapiqueue_run.gateway.server._SILENT_SECONDS",
    "seconds of each look": "aioapiqueue_run.cli.run.supervisor._EACH_SECONDS",
    "seconds of idle connections": "aioapiqueue_run.gateway.upstream._IDLE_SECONDS_OF_OTHERS",
    "seconds until a password": "aioapiqueue_run.gateway.server._PASSWORD_SECONDS",
    "snapshots of a demo": "aioapiqueue_run.cli.demo._MIN_SNAPSHOTS",
}
"""Where the library keeps what `replace` replaces."""


def replace(monkeypatch: pytest.MonkeyPatch, what: str, value: object) -> None:
    """Replace a bound, a time or a function of the library for the time of a test.

    Args:
        monkeypatch: what restores it.
        what: a key of `_PLACES`.
        value: what it is meanwhile.
    """
    monkeypatch.setattr(_PLACES[what], value)


def code_to_replace(what: str, value: object) -> str:
    """Return a line of Python that replaces one of `_PLACES`, for a program that a test runs."""
    module, _, name = _PLACES[what].rpartition(".")
    assert hasattr(importlib.import_module(module), name), _PLACES[what]
    return f"import {module} as module; module.{name} = {value!r}"


# Other libraries, where they have no public name for it either.


def scheduled_on(loop: asyncio.AbstractEventLoop) -> Collection[asyncio.TimerHandle]:
    """Return the timers of one of asyncio's own loops."""
    return loop._scheduled


def core_session(session: boto3.Session) -> botocore.session.Session:
    """Return botocore's part of a session of boto3."""
    return session._session


def set_credentials(session: botocore.session.Session, credentials: object) -> None:
    """Let clients that a session makes from now on sign with these."""
    session._credentials = credentials


def expire_credentials(session: botocore.session.Session) -> None:
    """Let a session's credentials be refreshed by the next call."""
    session._credentials._expiry_time = datetime.now(UTC)


def forget_roles(fetcher: AssumeRoleCredentialFetcher) -> None:
    """Let the next refresh assume the role again."""
    fetcher._cache.clear()


def api_call_of(client: object) -> Callable[..., Any]:
    """Return what each operation of a client of botocore or aiobotocore goes through."""
    return client._make_api_call


def set_api_call(client: object, function: Callable[..., Any]) -> None:
    """Let each operation of a client go through `function`, as tracers do."""
    client._make_api_call = function


def throttle_codes() -> set[str]:
    """Return the error codes that botocore's own retries take for push-back."""
    from botocore.retries.standard import ThrottledRetryableChecker

    return set(ThrottledRetryableChecker._THROTTLED_ERROR_CODES)


def known_states(queue: ApiQueue, key: Hashable = None) -> Sequence[Any]:
    """Return what a queue whose limits a hub keeps knows of them: its own, or those of a lane."""
    limits = _dispatcher_of(queue).limiter._limits
    return limits.states if key is None else limits.lanes.by_key[key].states


def host_lateness(queue: ApiQueue) -> float:
    """Return how many seconds late a queue may use what the hub has let go."""
    return _dispatcher_of(queue).limiter._lateness


# What is decided of a quota that a server keeps.


def set_clock_apart(queue: ApiQueue, epoch: float, drift: float) -> None:
    """Let a queue's machine have another clock: its time of day, and how fast that goes.

    Args:
        queue: whose.
        epoch: seconds since 1970 at the loop's zero.
        drift: seconds by which it goes ahead of the loop's in each, since the last reply.
    """
    dispatcher = _dispatcher_of(queue)

    class Apart(type(dispatcher.loop)):
        def to_wall(self, at: float) -> float:
            return epoch + at

    dispatcher.loop = Apart()
    known = dispatcher.limiter._known
    exactly = known._timestamp

    def drifting(at: float) -> int:
        heard_at = known._clock._last_reply_at
        return int(exactly(at)) + round(1e6 * drift * (at - heard_at))

    known._timestamp = drifting


def decided_by(queue: ApiQueue) -> tuple[dict[Hashable, Any], float, dict[Hashable, float]]:
    """Return what a queue knows: limits by key, the end of pauses, and of holds by key."""
    from aioapiqueue.spi import statements

    known = _dispatcher_of(queue).limiter._known
    decisions = known._decisions
    holds = {key: known._to_local(until) for key, until in decisions.holds().items()}
    return decisions.limits(statements.SetLimits), known._to_local(decisions.paused_until), holds


def held_by(queue: ApiQueue, key: Hashable) -> float:
    """Return until when a queue starts nothing of a key; None: nothing at all."""
    planner = _dispatcher_of(queue).limiter._planner
    statuses = planner.statuses
    return float(statuses.lane(key).held_until)


# Faults for the judge of histories to find.


def _keep_reservations(monkeypatch: pytest.MonkeyPatch) -> None:
    (state,) = own_states(ApiQueue("5 usd in all"))
    monkeypatch.setattr(type(state), "end_reservation", lambda *_: None)


def _refund_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    (state,) = own_states(ApiQueue("10 in any 1s"))
    *_, base, _ = type(state).__mro__  # of all limits

    def refund(state: Any, now: float, at: float, costs: Sequence[float]) -> None:
        for _ in range(2):
            state.adjust(now, at, costs[state.unit], 0)

    monkeypatch.setattr(base, "refund", refund)


def _evict_used_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    lanes_of_one = _dispatcher_of(ApiQueue("10/s")).limiter.lanes

    def evict(lanes: Any, _: float, kept: Sequence[Hashable] = ()) -> None:
        for key, lane in list(lanes.by_key.items()):
            if key not in kept and not lanes.in_use(key, lane):
                del lanes.by_key[key]

    monkeypatch.setattr(type(lanes_of_one), "evict_idle", evict)


def _never_lower_a_ramp(monkeypatch: pytest.MonkeyPatch) -> None:
    (state,) = own_states(ApiQueue("10/s ramp 2x per 4s"))
    ceiling = type(state.ceiling)

    def next_step(before: Any) -> Any:
        new = ceiling(before.limit)
        new.begin_step(before.end, [*before.sums[1:], 1.0], before, before.unused)
        new.value, new.cap = before.at(before.end), new.top
        return new

    monkeypatch.setattr(ceiling, "next", next_step)


def _lose_wake_ups(monkeypatch: pytest.MonkeyPatch) -> None:
    its: Any = type(_dispatcher_of(ApiQueue("10/s")))
    leave, wake, leaving = its.leave, its.wake, [False]

    def leave_quietly(dispatcher: Any, call: Any, kind: Any) -> None:
        leaving[0] = True
        try:
            leave(dispatcher, call, kind)
        finally:
            leaving[0] = False

    def wake_else(dispatcher: Any) -> None:
        if not leaving[0]:
            wake(dispatcher)

    monkeypatch.setattr(its, "leave", leave_quietly)
    monkeypatch.setattr(its, "wake", wake_else)


JUDGED_FAULTS: Mapping[str, Callable[[pytest.MonkeyPatch], None]] = {
    "a reservation is kept": _keep_reservations,
    "a refund comes twice": _refund_twice,
    "a lane is evicted with its state": _evict_used_lanes,
    "a ramp never falls": _never_lower_a_ramp,
    "a wake-up is lost at a cancellation": _lose_wake_ups,
}


def plant(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """Make the library wrong in one way, for the time of a test."""
    JUDGED_FAULTS[fault](monkeypatch)
