"""The only place where tests see or change what has no public name.

Each function is called by what a test needs; where the library keeps it stands here and nowhere
else. What the library's inside calls itself may so change, and its tests stay. Each function
imports for itself, so that one name which is gone fails the tests that need it, and no others.

Hooks are set on one object, not on its class, and stay for the object's life.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Collection, Hashable, Mapping

    import boto3
    import botocore.session
    import pytest
    from botocore.credentials import AssumeRoleCredentialFetcher

    from aioapiqueue import ApiQueue, Slot
    from aioapiqueue._wait_queue import WaitQueue
    from aioapiqueue.hub import Hub
    from aioapiqueue.testing import VirtualLoop

# A queue: what runs for it.


def dispatcher_of(queue: ApiQueue) -> Any:
    """Return what is under a queue; its attributes are looked at here only."""
    from aioapiqueue._queue import dispatcher_of

    return dispatcher_of(queue)


def ticker_of(queue: ApiQueue) -> asyncio.Task[None] | None:
    """Return the task that releases waiters; None: nobody waits."""
    return dispatcher_of(queue)._ticker


def timer_of(queue: ApiQueue) -> asyncio.TimerHandle | None:
    """Return the timer that wakes the ticker next."""
    return dispatcher_of(queue)._timer


def timeouts_of(queue: ApiQueue) -> Collection[object]:
    """Return the timers of waiters that gave a `timeout`."""
    return dispatcher_of(queue)._timeouts


def wrap_posts_of_threads(
    monkeypatch: pytest.MonkeyPatch, wrapper: Callable[[Callable[[], None]], None]
) -> None:
    """Have `wrapper` called with what would post, whenever a thread posts to a loop."""
    from aioapiqueue import threads

    post = threads._post
    monkeypatch.setattr(threads, "_post", lambda loop, what: wrapper(lambda: post(loop, what)))


def clock_for(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    """Return the clock by which a queue on this loop goes."""
    from aioapiqueue._dispatcher import _clock_of

    return _clock_of(loop)


# A queue: what it knows.


def waiters_of(queue: ApiQueue) -> WaitQueue[Any]:
    """Return the wait queue."""
    return dispatcher_of(queue).waiters


def heap_entries(waiters: WaitQueue[Any]) -> int:
    """Return how many entries the heaps of key queues have: those ready, and those parked."""
    return len(waiters._ready) + len(waiters._parked)


def lanes_of(queue: ApiQueue) -> Collection[Hashable]:
    """Return the keys whose own limits are kept in memory now."""
    return _lane_table_of(queue).states


def lane_limits_of(queue: ApiQueue) -> Mapping[Hashable, Any]:
    """Return the limits of each key or pattern, as they were set."""
    return _lane_table_of(queue).limits


def _lane_table_of(queue: ApiQueue) -> Any:
    limiter = dispatcher_of(queue).limiter
    return limiter._lanes if hasattr(limiter, "_lanes") else limiter._limits.lanes


def concurrency_of(queue: ApiQueue) -> float:
    """Return how many bodies may run at once."""
    return dispatcher_of(queue).limiter._concurrency


def allowed_rate(queue: ApiQueue, key: Hashable = None) -> float:
    """Return the calls per second that adaptive lets through in a lane; None: in the queue."""
    limiter = dispatcher_of(queue).limiter
    state = limiter._state if key is None else limiter._lanes.states[key]
    return state.allowed()


# A queue: hooks.


def release_due(queue: ApiQueue) -> float | None:
    """Look for whom to release now, as the ticker does; return when it would look again."""
    dispatcher = dispatcher_of(queue)
    return dispatcher.limiter.release_due(dispatcher.now())


def wrap_looks(queue: ApiQueue, wrap: Callable[[Any], Callable[[float], float | None]]) -> None:
    """Replace what looks for whom to release, given the time, by what `wrap` makes of it."""
    limiter = dispatcher_of(queue).limiter
    limiter.release_due = wrap(limiter.release_due)


def wrap_grants(queue: ApiQueue, wrap: Callable[[Any], Callable[[Slot, float], None]]) -> None:
    """Replace what grants a slot to a waiter, at a time, by what `wrap` makes of it."""
    dispatcher = dispatcher_of(queue)
    dispatcher.grant = wrap(dispatcher.grant)


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
    dispatcher = dispatcher_of(queue)
    try_start = dispatcher.try_start

    def starting(slot: Slot) -> bool:
        at_once = try_start(slot)
        if at_once:
            releases.append((dispatcher.now(), slot))
        return at_once

    dispatcher.try_start = starting
    after_grants(queue, lambda slot, now: releases.append((now, slot)))
    return releases


# A queue: faults, which its model has to find.


def lose_refunds(queue: ApiQueue) -> None:
    """Let nothing be given back for a slot whose caller was cancelled before it resumed."""
    dispatcher_of(queue).limiter.refund = lambda _slot: None


def ignore_priorities(queue: ApiQueue) -> None:
    """Let every caller wait with the same priority."""
    dispatcher = dispatcher_of(queue)
    join = dispatcher.join

    def joining(slot: Slot, future: asyncio.Future[Slot]) -> None:
        if slot.priority:
            slot.priority = 0
        join(slot, future)

    dispatcher.join = joining


def ignore_lane_limits(queue: ApiQueue) -> None:
    """Ask only the queue's own limits whether a waiter is due."""

    def wrap(release_due: Callable[[float], float | None]) -> Callable[[float], float | None]:
        def releasing(now: float) -> float | None:
            known = dispatcher_of(queue).limiter._lanes
            states, known.states = known.states, {}
            try:
                return release_due(now)
            finally:
                known.states = states

        return releasing

    wrap_looks(queue, wrap)


def shorten_holds(queue: ApiQueue) -> None:
    """Take the latest push-back for the one that counts."""
    throttled = queue.throttled

    def replacing(retry_after: float | None = None, *, key: Hashable = None) -> None:
        dispatcher_of(queue).limiter._held = -math.inf
        throttled(retry_after, key=key)

    queue.throttled = replacing


# A queue that shares its quota.


def let_all_wait(queue: ApiQueue) -> None:
    """Refuse no time-out at once because of a hold that is known, but let the caller wait."""
    dispatcher_of(queue).limiter.earliest = lambda _call, now: now


def planner_sizes(queue: ApiQueue) -> dict[str, int]:
    """Return how many entries each of the planner's tables has; those by lane."""
    planner = dispatcher_of(queue).limiter._planner
    return {
        "grants": len(planner.grants),
        "hungry": len(planner._hungry),
        "later": len(planner._later),
        "by rank": len(planner._by_rank),
        "surplus": len(planner._surplus),
    }


def leases_of(queue: ApiQueue) -> int:
    """Return how many slots the queue has been granted and not used yet."""
    return dispatcher_of(queue).limiter._planner.leased


def messages_of(queue: ApiQueue) -> Collection[object]:
    """Return what is to be sent to the server and has not been."""
    return dispatcher_of(queue).limiter._session._outbox


def own_timers_of(queue: ApiQueue) -> Collection[object]:
    """Return the timers by which permits in use are kept, among others of its session."""
    return dispatcher_of(queue).limiter._session._timers


def before_requests(queue: ApiQueue, heard: Callable[[int], object]) -> None:
    """Call `heard(lanes)` before each request, with the number of lanes that it names."""
    transport = dispatcher_of(queue).limiter._transport
    send: Callable[[Any], Awaitable[Any]] = transport.send

    async def sending(envelope: Any) -> Any:
        heard(len(envelope.message.lanes))
        return await send(envelope)

    transport.send = sending


def redis_script() -> tuple[str, str]:
    """Return the script that the server runs, and its SHA-1."""
    from aioapiqueue.integrations.redis._transport import SCRIPT, SHA

    return SCRIPT, SHA


def replace_script(monkeypatch: pytest.MonkeyPatch, script: str, sha: str) -> None:
    """Let all schedules run another script, for the time of a test."""
    from aioapiqueue.integrations.redis import _transport

    monkeypatch.setattr(_transport, "SCRIPT", script)
    monkeypatch.setattr(_transport, "SHA", sha)


# Slots.


def begin_to_wait(slot: Slot, future: asyncio.Future[Slot]) -> None:
    """Make of a new slot one that waits."""
    from aioapiqueue._slot import WAITING

    slot.state = WAITING
    slot.future = future


def stop_waiting(slot: Slot) -> None:
    """Make of a slot that waits one whose caller has gone."""
    from aioapiqueue._slot import LEFT

    slot.state = LEFT
    slot.future.cancel()


# Threads.


def thread_loop() -> asyncio.AbstractEventLoop:
    """Return the loop, in a thread of its own, of all queues that threads use."""
    from aioapiqueue.threads import _home

    return _home.loop()


def interrupt_waits(monkeypatch: pytest.MonkeyPatch, spared: Callable[[ApiQueue], bool]) -> None:
    """Raise KeyboardInterrupt in threads that begin to wait, but for `spared` queues."""
    from aioapiqueue.threads import BlockingSlot

    wait = BlockingSlot._wait

    def waiting(slot: BlockingSlot) -> None:
        if not spared(slot._queue):
            raise KeyboardInterrupt
        wait(slot)

    monkeypatch.setattr(BlockingSlot, "_wait", waiting)


# The registry.


def known_operations(service: str) -> Mapping[str, Collection[str]]:
    """Return the parameters of each operation of a service, as the botocore installed has them."""
    from aioapiqueue.registry import _names as names

    return names._operations(service)


def lookups() -> object:
    """Return a figure that changes when operations are looked up in botocore's files."""
    from aioapiqueue.registry import _names as names

    return names._operations.cache_info()


# The hub.


def clients_of(hub: Hub) -> Mapping[Any, Any]:
    """Return the processes that a hub knows."""
    return hub._clients


def connections_of(hub: Hub) -> Collection[Any]:
    """Return the connections that are open."""
    return hub._connections


def unsent_bytes(connection: Any) -> int:
    """Return how much a connection still has to send."""
    return connection._transport.get_write_buffer_size()


# `run --shared`.


def server_check() -> str:
    """Return the script by which `run --shared` tries what a server allows."""
    from aioapiqueue.cli.run._shared_server import _CHECK

    return _CHECK


async def check_server(shared: Any, client: Any) -> None:
    """Try on a server all that queues of `run --shared` will do."""
    shared._client = client
    await shared._check()


# Other libraries, where they have no public name for it either.


def scheduled_on(loop: asyncio.AbstractEventLoop) -> Collection[asyncio.TimerHandle]:
    """Return the timers of one of asyncio's own loops."""
    return loop._scheduled


def timers_kept(loop: VirtualLoop) -> Collection[object]:
    """Return all timers that a VirtualLoop remembers, also those that were cancelled."""
    return loop._clock._timers


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
