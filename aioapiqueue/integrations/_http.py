"""The base of all paced HTTP clients: keys, costs and slots of requests, effects of responses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict

from aioapiqueue.integrations._advice import MAX_HOLD, Advice, shortened
from aioapiqueue.integrations._apply_advice import Settling, apply_advice
from aioapiqueue.integrations._headers import read_advice, reads_body
from aioapiqueue.integrations._learning import Learner, Learning
from aioapiqueue.integrations._usage import CarefulReader, MalformedUsageError, UsageReader
from aioapiqueue.spi import CALLS, Reporter, checks, loops
from aioapiqueue.threads.spi import refuse_to_block

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from aioapiqueue import ApiQueue, Slot
    from aioapiqueue.integrations._exchange import AnySlot, Flow, Headers, Request, Response, Wire
    from aioapiqueue.spi import Cost
    from aioapiqueue.threads import Blocking, BlockingSlot

Key: TypeAlias = "Literal['host', 'route'] | Callable[[Any], Hashable]"

_UNAVAILABLE = 503
_REFUSED = frozenset({418, 429, 529})
"""Statuses that mean that the server did not execute the request."""
_IDEMPOTENT = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PUT", "TRACE"})
"""Methods that may be executed twice (RFC 9110, section 9.2.2)."""
PATIENCE = 1.0
"""Seconds to wait for the body of a refusal before its headers are applied, and the caller gets the
response. Most bodies arrive together with the headers."""
_ARGUMENTS = {
    "key": "the request",
    "cost": "the request",
    "priority": "the request",
    "settle": "the request, the response and its usage",
    "advise": "the response",
}


class PacingOptions(TypedDict, total=False):
    """Pacing options of all clients: see `HttpPacer`."""

    key: Key
    cost: Cost | Callable[[Any], Cost]
    priority: float | Callable[[Any], float]
    settle: Callable[[Any, Any, Any], Cost | None] | None
    advise: Callable[[Any], Advice | None] | None
    resend: int
    learn: bool | Learning
    max_hold: float
    timeout: float | None


class _LateBody:
    """Applies the headers of a refusal if its body does not arrive in time.

    A body can take minutes, in which the server would refuse every other call.

    Args:
        process: applies the headers.
    """

    def __init__(self, process: Callable[[Slot], None]) -> None:
        self._process = process
        self._timer: asyncio.TimerHandle | None = None
        self._is_applied = False

    def start(self, slot: Slot) -> None:
        """Start to wait for the body."""
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(PATIENCE, self.end, self._process, slot)

    def end(self, process: Callable[[Slot], None], slot: Slot) -> None:
        """Apply the whole response, unless its headers have been applied."""
        if self._timer is not None:  # None if the body was not read at all
            self._timer.cancel()
        if not self._is_applied:
            self._is_applied = True
            process(slot)


class HttpPacer:
    """Base class of the paced HTTP clients: requests wait for slots, responses slow the queue.

    Throttled responses (429; 418 and 529; 503 or 403 with a retry time; 403 with no quota left)
    are reported to `Slot.throttled`. Remaining quotas (`RateLimit`, `X-RateLimit-Remaining` and
    similar headers) limit the calls that start until the reset, as `Slot.sync` does. Permanent
    refusals, such as an exhausted budget, do not slow the queue; `stats.refused_by_server` counts
    them, and `stats.malformed` counts headers that cannot be parsed. All of this applies to the
    lane of the request's key, or to the whole queue if the key has no lane: for several hosts, give
    the queue `lanes={"*": ()}`.

    A request that is cancelled while it waits uses no slot. A request that is cancelled in flight,
    or fails, releases its slot at once. `SlotTimeout`, `QueueFull` and `QueueClosed` of the queue
    reach the caller unchanged. Errors in `settle` and `advise` go to the exception handler of the
    event loop; the caller still gets the response.

    Args:
        queue: paces the requests. Any number of clients may share a queue.
        key: the lane of a request: `"host"` (default; without the port), `"route"` (such as
            `"GET api.example.com/v1/things"`, without port and query; each id in a path makes a new
            route), or a function of the request that returns a hashable key. A tuple is one key.
        cost: cost of a request, as in `ApiQueue.slot`, or a function of the request that returns
            it. Default: one call.
        priority: priority of a request, as in `ApiQueue.slot` (lower goes first), or a function of
            the request that returns it. Default: 0.
        settle: function of request, response and usage that returns the true cost, or None to keep
            the reserved one. The usage is what a `usage_reader` found, else None. Called when the
            body has ended; it must not read the body. A cost above both a limit's burst and its
            amount per period is ignored, and counted as malformed, if the excess would close the
            lane for more than an hour (or `max_hold`, if longer).
        advise: function that receives the response as soon as its headers have arrived, and returns
            an `Advice`. By default, or if it returns None, the headers are read as described above.
        resend: number of times to retry a throttled request (418, 429, 529; 503 for idempotent
            methods), in its old place in the queue. The caller gets the last response. Bodies that
            can be sent only once are not retried. Default: 0.
        learn: whether to learn limits that you have not set from response headers: True, or a
            `Learning` with options. Until a lane has had its first response, one call runs at a
            time. Default: False.
        max_hold: longest hold in seconds. Longer holds are cut, and counted as malformed. Default:
            3600.
        timeout: seconds that a request may wait for its slot, and each retry for its own, before
            `SlotTimeout`. Default: None, no limit.

    Raises:
        TypeError: `queue` is not an `ApiQueue`, a function is a coroutine function, or an option
            has the wrong type.
        ValueError: `key` is an unknown word, `resend` is negative, or a time is negative or
            infinite.
    """

    def __init__(
        self,
        queue: ApiQueue,
        *,
        key: Key = "host",
        cost: Cost | Callable[[Any], Cost] = 1,
        priority: float | Callable[[Any], float] = 0,
        settle: Callable[[Any, Any, Any], Cost | None] | None = None,
        advise: Callable[[Any], Advice | None] | None = None,
        resend: int = 0,
        learn: bool | Learning = False,
        max_hold: float = MAX_HOLD,
        timeout: float | None = None,
    ) -> None:
        if not hasattr(queue, "enqueue"):
            raise TypeError(f"a paced client needs an ApiQueue, not {queue!r}")
        if not callable(key) and key not in ("host", "route"):
            raise ValueError(
                f'key must be "host", "route" or a function of the request, not {key!r}'
            )
        _refuse_wrong_functions(key=key, cost=cost, priority=priority, settle=settle, advise=advise)
        if not isinstance(learn, bool | Learning):
            raise TypeError(f"learn must be True, False or a Learning, not {learn!r}")
        checks.whole(resend, of="resend", least=0)
        checks.positive(max_hold, of="max_hold", least=0, most=checks.LONGEST)
        if timeout is not None:
            checks.positive(timeout, of="timeout", least=0, most=checks.LONGEST)
        self.queue = queue
        self.timeout = timeout
        self._reporter = Reporter(queue)
        self._key = key if callable(key) else {"host": self._host, "route": self._route}[key]
        self._cost = cost
        self._priority = priority
        self._settle = settle
        self._advise = advise
        self._resend = resend
        self._max_hold = max_hold
        learning = Learning() if learn is True else learn
        self._learner = Learner(learning) if isinstance(learning, Learning) else None
        # Both run on the loop of the queue: pass them to `wire.apply`.
        self._apply = partial(
            apply_advice,
            reporter=self._reporter,
            max_hold=max_hold,
            learner=self._learner,
            # A call that is settled later may be charged more than it will cost.
            reserves=settle is not None,
        )
        self._settle_to = partial(Settling(max_hold).settle, reporter=self._reporter)
        # While limits are learnt, a cost may name units that only `prepare` declares.
        if not callable(cost) and (self._learner is None or not isinstance(cost, Mapping)):
            self._reporter.check(cost=cost)  # refuses it now, not at the first request
        if not callable(priority):
            self._reporter.check(priority=priority)  # likewise
        self._reporter.watch()
        # Replaced as a whole: other threads may read it while `prepare` runs on the loop.
        self._declared: frozenset[str] | None = None
        """Units that have been declared to the queue. None: `prepare` has not been called."""

    def _host(self, request: Request) -> str:
        return self.address(request)[1]

    def _route(self, request: Request) -> str:
        method, host, path = self.address(request)
        return f"{method} {host}{path}"

    # A subclass may override these.

    def address(self, request: Request) -> tuple[str, str, str]:
        """Return the method, the host (without the port) and the path of a request."""
        return request.method, request.url.host or "", request.url.path

    def usage_reader(self, request: Request, status: int, headers: Headers) -> UsageReader | None:  # noqa: ARG002 - for subclasses
        """Return a reader for the body of a response, or None. Override this to find the usage."""
        return None

    def cost_of_failure(self, request: Request, status: int) -> Cost | None:  # noqa: ARG002 - for subclasses
        """Return the cost of a request that the server did not serve, or None for its full cost."""
        return None

    def asked_for(self, request: Request) -> tuple[Hashable, Cost]:
        """Return the key and the cost of a request."""
        cost = self._cost
        return self._key(request), cost(request) if callable(cost) else cost

    def needs_to_prepare(self, cost: Cost) -> bool:
        """Return whether `prepare` must be called before a request with this cost waits."""
        # Called before each request: cheap, unless a cost names units while limits are learnt.
        known = self._declared
        return known is None or (
            self._learner is not None and isinstance(cost, Mapping) and not known.issuperset(cost)
        )

    def prepare(self, cost: Cost) -> None:
        """Make the queue track calls in flight, and declare the units of this cost."""
        # Before the first request starts: the next `sync` must know all calls in flight.
        self._reporter.track()
        known = self._declared or frozenset()
        if self._learner is not None:
            units = (*self._learner.learning.units, *(cost if isinstance(cost, Mapping) else ()))
            self._reporter.learn(units)
            known = known.union(units)
        self._declared = known

    def exchange(self, request: Request, wire: Wire) -> Flow[tuple[Response, Any]]:
        """Yield the steps that wait for a slot, send a request and process its response.

        Cancellation during the wait uses no slot. Later cancellation releases the slot.

        Args:
            request: a request of the client's library.
            wire: executes the steps.

        Returns:
            The response and its slot. Call `finish` with them when the body has ended.
        """
        key, cost = self.asked_for(request)
        priority = self._priority(request) if callable(self._priority) else self._priority
        # Checked before the request is sent, which may use up its body.
        resends = self._resend if self._resend and wire.can_repeat(request) else 0
        slot = yield partial(wire.join, key, cost, priority=priority)
        while True:
            response = yield from self._send(request, slot, wire, cost)
            try:
                goes_again = yield from self._receive(
                    request, response, slot, wire, cost, may_resend=resends > 0
                )
                if not goes_again:
                    return response, slot
                yield partial(wire.discard, response)
            except BaseException as error:
                # Usually, the caller was cancelled while the body was read. The slot is released
                # first, because the step after it may also be cancelled.
                slot.__exit__(type(error), error, None)
                yield partial(wire.discard, response)
                raise
            resends -= 1
            # This releases the old slot, even if it fails.
            slot = yield partial(wire.again, slot, cost)

    def _send(self, request: Request, slot: AnySlot, wire: Wire, cost: Cost) -> Flow[Response]:
        try:
            response = yield partial(wire.send, request)
        except BaseException as error:
            # The request may have reached the server, although it failed or was cancelled. So the
            # call keeps its cost, unless there was no connection.
            if wire.is_malformed(error):
                wire.apply(slot, partial(self._reporter.count, "malformed"))
            elif isinstance(cost, Mapping) and not wire.was_sent(error):
                # The server has counted no tokens. Attempts to connect are paced as calls.
                nothing = dict.fromkeys(cost.keys() - {CALLS}, 0)
                wire.apply(slot, lambda slot: slot.settle(nothing))
            slot.__exit__(type(error), error, None)
            raise
        return response

    def _receive(
        self,
        request: Request,
        response: Response,
        slot: AnySlot,
        wire: Wire,
        cost: Cost,
        *,
        may_resend: bool,
    ) -> Flow[bool]:
        """Apply a response, and return whether its request must be sent again."""
        status, headers = wire.head(response)
        is_refused = may_resend and _is_refused(self.address(request)[0], status)
        failure, advice = self.cost_of_failure(request, status), self._advised(response)
        # An `advise` function replaces everything that the library would read.
        is_worth_reading = advice is None and reads_body(status, headers)
        if advice is None:
            advice = self._read_advice(status, headers, cost)
        # `start` and `end` both run on the loop of the queue, in this order, also for a thread.
        late = _LateBody(partial(self._apply, advice, failure=failure))
        try:
            # A retry needs a connection, and this one is free only after its body.
            if is_worth_reading or is_refused:
                wire.apply(slot, late.start)
                body = yield partial(wire.read_body, response)
                if is_worth_reading and body is not None:
                    advice = self._read_advice(status, headers, cost, body)
        finally:  # the headers are valid even if the body never arrives
            wire.apply(slot, partial(late.end, partial(self._apply, advice, failure=failure)))
        # A permanent refusal may have a status that is usually worth a retry.
        return is_refused and not advice.refused

    def _advised(self, response: Response) -> Advice | None:
        """Return the advice of the user's function, or None."""
        if self._advise is None:
            return None
        try:
            return self._checked(self._advise(response))
        except Exception as error:  # noqa: BLE001 - the user's: the caller gets the response
            loops.report_error(f"advise={self._advise!r} failed on {response!r}", error)
            return None

    def _read_advice(
        self, status: int, headers: Headers, cost: Cost, body: bytes | None = None
    ) -> Advice:
        # A cost that names other units is one call, unless it names calls as well.
        costs = {CALLS: 1, **cost} if isinstance(cost, Mapping) else {CALLS: cost}
        return read_advice(
            status,
            headers,
            # The wall clock, because headers contain dates.
            now=time.time(),
            max_hold=self._max_hold,
            costs=costs,
            body=body,
            # Only for learnt windows does a second matter.
            clock=None if self._learner is None else self._learner.clock,
        )

    def _checked(self, advice: object) -> Advice | None:
        """Return the result of `advise`, within the bounds that apply to headers.

        Raises:
            TypeError: the result is not an `Advice`.
            ValueError: a number is negative, infinite or NaN.
        """
        if advice is None:
            return None
        if not isinstance(advice, Advice):
            raise TypeError(f"advise must return an Advice or None, not {advice!r}")
        for quota in advice.remaining:
            checks.check_count(quota.remaining or 0, quota.reset, quota.limit)
            if quota.period is not None:
                checks.positive(quota.period, of="period", most=checks.LONGEST)
        if advice.hold is not None:
            checks.positive(advice.hold, of="hold", least=0)
        return shortened(advice, self._max_hold)

    def reader_for(self, request: Request, status: int, headers: Headers) -> CarefulReader | None:
        """Return the `usage_reader` of a response; its errors are reported, not raised."""
        try:
            reader = self.usage_reader(request, status, headers)
        except Exception as error:  # noqa: BLE001 - a subclass's: the caller gets the response
            loops.report_error(f"{type(self).__name__}.usage_reader failed", error)
            return None
        return None if reader is None else CarefulReader(reader)

    def finish(
        self,
        slot: AnySlot,
        wire: Wire,
        request: Request,
        response: Response,
        reader: UsageReader | None = None,
    ) -> None:
        """Settle a call whose response body has ended, and release its slot."""
        try:
            if self._settle is not None:
                cost = self._settle(request, response, None if reader is None else reader.usage())
                if cost is not None:
                    wire.apply(slot, partial(self._settle_to, cost=cost))
        except MalformedUsageError as error:
            wire.apply(slot, partial(self._settle_to, cost=error.cost, wrong=str(error)))
        except Exception as error:  # noqa: BLE001 - the user's: the caller gets the response
            loops.report_error(f"settle={self._settle!r} failed on {response!r}", error)
        finally:
            slot.__exit__(None, None, None)


class AsyncSteps:
    """The steps of a `Wire` that use the queue, for async clients.

    Args:
        pacer: the client's `HttpPacer`.
    """

    def __init__(self, pacer: HttpPacer) -> None:
        self._pacer = pacer

    async def join(self, key: Hashable, cost: Cost, *, priority: float = 0) -> Slot:
        """Wait for a slot, and return it. Cancelling the wait uses no slot."""
        pacer = self._pacer
        if pacer.needs_to_prepare(cost):
            pacer.prepare(cost)
        return await Reporter.request(
            pacer.queue.enqueue,
            key=key,
            cost=cost,
            priority=priority,
            timeout=pacer.timeout,
        )

    async def again(self, slot: Slot, cost: Cost) -> Slot:
        """Wait for another slot in the call's old place, and return it; cancelling uses no slot."""
        return await slot.again(cost=cost, timeout=self._pacer.timeout)

    def apply(self, slot: Slot, change: Callable[[Slot], None]) -> None:
        """Call `change(slot)`."""
        # Directly: the client runs on the loop of its queue, or `enqueue` would have failed.
        change(slot)


class BlockingSteps:
    """The steps of a `Wire` that use the queue, for synchronous clients in any number of threads.

    Args:
        pacer: the client's `HttpPacer`.
        through: the result of `blocking(queue)` for the queue of the pacer.
    """

    def __init__(self, pacer: HttpPacer, through: Blocking) -> None:
        self._pacer = pacer
        self._through = through

    def join(self, key: Hashable, cost: Cost, *, priority: float = 0) -> BlockingSlot:
        """Wait for a slot, and return it. KeyboardInterrupt during the wait uses no slot."""
        pacer, through = self._pacer, self._through
        if pacer.needs_to_prepare(cost):
            refuse_to_block()  # before `call`, which waits for the thread of the loop
            through.call(pacer.prepare, cost)
        return Reporter.request(
            through.slot,
            key=key,
            cost=cost,
            priority=priority,
            timeout=pacer.timeout,
        ).__enter__()

    def again(self, slot: BlockingSlot, cost: Cost) -> BlockingSlot:
        """Wait for another slot in the call's old place, and return it.

        KeyboardInterrupt during the wait uses no slot.
        """
        return slot.again(cost=cost, timeout=self._pacer.timeout).__enter__()

    def apply(self, slot: BlockingSlot, change: Callable[[Slot], None]) -> None:
        """Schedule `change(slot)` in the thread of the event loop."""
        slot.apply(change)


def _refuse_wrong_functions(**values: object) -> None:
    for name, value in values.items():
        # As a key, for example, each coroutine object would get a lane of its own.
        if callable(value) and checks.is_coroutine_function(value):
            raise TypeError(
                f"{name} must be a plain function of {_ARGUMENTS[name]}, not the coroutine "
                f"function {value!r}"
            )
        if name in ("settle", "advise") and value is not None and not callable(value):
            raise TypeError(f"{name} must be a function of {_ARGUMENTS[name]}, not {value!r}")


def _is_refused(method: str, status: int) -> bool:
    # A server may send 503 after it has executed a part of the request.
    return status in _REFUSED or (status == _UNAVAILABLE and method.upper() in _IDEMPOTENT)


def release_soon(slot: AnySlot, loop: asyncio.AbstractEventLoop) -> None:
    """Release a slot from a finalizer, on the loop of its queue."""
    # The garbage collector may run in another thread, or while the queue is being changed.
    with suppress(RuntimeError):  # the loop is closed: on the next loop, no slot is in use
        loop.call_soon_threadsafe(slot.release)
