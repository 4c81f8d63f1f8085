"""Paces the clients of botocore and aiobotocore.

A request waits in botocore's event `request-created.<service>`. botocore emits this event once for
each attempt (first attempts, retries, pages of a paginator, polls of a waiter), and before it signs
the request, so that no signature expires during the wait. Presigning does not emit it.

The slot is held until `response-received`, which has the response of each attempt; there, the slot
reports throttling. A call that is cancelled or interrupted emits no further event, so events alone
would leak its slot. Therefore the client's `_make_api_call`, which every call goes through, is
wrapped in a `finally` that releases the slot. In a paced session, each new client gets all this.

Signing may need a request of its own: to refresh credentials, or to create the session of an S3
directory bucket. That request is paced as well, but ahead of all waiters. The call that needs it
releases its slot first: with a `concurrency`, the queue could otherwise wait for itself.
"""

from __future__ import annotations

import difflib
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextvars import ContextVar
from functools import partial
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias
from weakref import WeakKeyDictionary

from botocore.eventstream import EventStream  # type: ignore[import-untyped]  # ships no types
from botocore.session import Session  # type: ignore[import-untyped]  # ships no types
from botocore.utils import EVENT_ALIASES  # type: ignore[import-untyped]  # ships no types

from aioapiqueue.integrations._apply_advice import Settling
from aioapiqueue.integrations._aws import account_of, hold_of, is_throttle
from aioapiqueue.integrations._usage import MalformedUsageError, UsageStream
from aioapiqueue.registry import PacedCall, Registry, parameter_counts
from aioapiqueue.registry.spi import AHEAD
from aioapiqueue.spi import Reporter, checks, loops

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine

    from aioapiqueue import ApiQueue, Slot
    from aioapiqueue.integrations.llm._bedrock import BedrockProfile
    from aioapiqueue.spi import Cost
    from aioapiqueue.threads import Blocking, BlockingSlot

# botocore makes client classes at run time, from data: there are no types to name.
AnyClient: TypeAlias = Any
AnySession: TypeAlias = Any
Source: TypeAlias = "ApiQueue | Blocking | Registry"


class AwsClientCall:
    """One API call, with the slot of its current attempt.

    Args:
        outer: the call whose signing needs this one, or None.
        operation: name of the operation.
        parameters: parameters of the operation.
    """

    def __init__(self, outer: AwsClientCall | None, operation: str, parameters: object) -> None:
        self.outer = outer
        self.operation = operation
        self.parameters = parameters
        self.reporter: Reporter | None = None
        """Reports to the queue of the last slot. None: there has been no slot."""
        self.slot: Slot | BlockingSlot | None = None
        self.request: Any = None
        """The request as the profile has read it. None: there is no profile for it."""
        self.unparsed: Mapping[str, Any] | None = None
        """The response before botocore has parsed it."""

    def joined(self) -> None:
        """Release the slot of the outer call, after this call has joined the queue."""
        if self.outer is not None:
            # After it has joined, so that the freed permit goes to this call, ahead of all waiters.
            self.outer.release()

    def release(self, *, failed: bool | None = None) -> None:
        """End the current attempt.

        Args:
            failed: whether its response is an error. Default: unknown.
        """
        if self.slot is not None:
            if failed is None:
                self.slot.release()
            else:
                # The type alone decides the outcome that observers see.
                self.slot.__exit__(Exception if failed else None, None, None)
        self.slot = None
        self.unparsed = None


current: ContextVar[AwsClientCall | None] = ContextVar("aioapiqueue_call", default=None)
"""The call that the current task or thread makes."""

_pacing = threading.Lock()
"""Held while the pacing of a client or a session is changed."""

_Pacing: TypeAlias = "tuple[Source, float, BedrockProfile | None]"
_sessions: WeakKeyDictionary[object, dict[str, _Pacing]] = WeakKeyDictionary()
"""By the event emitter of a session: how each service is paced."""


class Pacer(ABC):
    """The pacing of one client, which any number of `paced` blocks may share.

    Args:
        client: the client.
        source: the queue or registry that paces it.
        max_hold: longest hold in seconds.
        profile: keys and costs of the calls, or None.
    """

    library: ClassVar[str]
    """The library of the clients: "aiobotocore" or "botocore"."""
    client_class: ClassVar[Any]
    sources: ClassVar[tuple[type, ...]]
    """Classes of objects that can pace these clients."""

    def __init__(
        self,
        client: AnyClient,
        source: Any,  # noqa: ANN401 - one of `sources`
        max_hold: float,
        profile: BedrockProfile | None,
    ) -> None:
        self.source = source
        self.profile = profile
        self.users = 0
        """Number of blocks."""
        self._max_hold = max_hold
        self._settling = Settling(max_hold)
        self._client = client
        self._make_api_call = client._make_api_call  # noqa: SLF001 - see the module's docstring
        self._service = client.meta.service_model.service_name
        # Events use the service id, such as "auto-scaling"; `create_client` and presets do not.
        service_id = client.meta.service_model.service_id.hyphenize()
        self._handlers = {
            f"request-created.{service_id}": self._start,
            f"before-parse.{service_id}": self._keep_unparsed,
            f"response-received.{service_id}": self._finish,
        }
        # An attribute of the client object hides the method of its class.
        client._make_api_call = self._paced_api_call  # noqa: SLF001
        for event, handler in self._handlers.items():
            # First, because the signer of the client is a handler of the same event.
            client.meta.events.register_first(event, handler)

    @classmethod
    def pace(
        cls,
        client: AnyClient,
        source: Source,
        max_hold: float,
        profile: BedrockProfile | None = None,
    ) -> Callable[[], None]:
        """Let `source` pace `client`, and return the function that ends the pacing."""
        # The class is not enough: clients of aiobotocore inherit from those of botocore.
        if not isinstance(client, cls.client_class) or _library(client) != cls.library:
            raise cls.refusal("client", client)
        cls.check(source, client.meta.service_model.service_name, max_hold, profile)
        with _pacing:
            # Not `getattr`: a client emits an event for each attribute that it does not have.
            pacer: Pacer | None = vars(client).get("_aioapiqueue")
            if pacer is None:
                pacer = client._aioapiqueue = cls(client, source, max_hold, profile)  # noqa: SLF001 - ours
            elif pacer.source is not source or pacer.profile is not profile:
                raise RuntimeError(
                    f"another queue already paces this {pacer._service} client: give one queue "
                    "several limits or lanes instead"
                )
            pacer.users += 1
        return pacer.leave

    def leave(self) -> None:
        """End one block; the last one ends the pacing."""
        with _pacing:
            self.users -= 1
            if self.users:
                return
            for event, handler in self._handlers.items():
                self._client.meta.events.unregister(event, handler)
            # If another library has wrapped our method, ours stays, but no longer paces anything.
            if self._client._make_api_call == self._paced_api_call:  # noqa: SLF001
                self._client._make_api_call = self._make_api_call  # noqa: SLF001
            del self._client._aioapiqueue  # noqa: SLF001 - ours

    @classmethod
    def check_source(cls, source: object, what: str) -> None:
        """Raise an error if `source` is not a queue or a registry."""
        if not isinstance(source, cls.sources):
            raise TypeError(f"{what} can be paced by an ApiQueue or a Registry, not by {source!r}")

    @classmethod
    def check(
        cls, source: object, service: str, max_hold: float, profile: BedrockProfile | None
    ) -> None:
        """Raise an error if `source` cannot pace a service."""
        cls.check_source(source, service)
        checks.positive(max_hold, of="max_hold", least=0, most=checks.LONGEST)
        # Not `isinstance`: only users of Bedrock need to import the modules of `llm`.
        if profile is not None and not hasattr(profile, "stream_reader"):
            raise TypeError(
                f"{profile!r} is not a profile for AWS clients: write profile=llm.bedrock; "
                "other profiles are for llm.client"
            )
        if isinstance(source, Registry):
            if profile is not None:
                raise TypeError(
                    f"profile= needs an ApiQueue for {service}, not a Registry, which has costs "
                    "of its own"
                )
            return
        queue = _queue_in(source)
        if profile is not None:
            # The costs of a profile name these units, even if no limit counts them.
            Reporter(queue).declare(profile.units)
            if "usd" in Reporter(queue).units:
                profile.load_prices()  # now, as it takes long at the first call
            return
        try:
            Reporter(queue).check_limits(1)
        except ValueError as error:
            raise ValueError(
                f"{queue!r} cannot pace {service}: a request costs one call, but a limit of the "
                "queue counts something else. To count parameters, use a Registry with a bucket"
            ) from error

    @classmethod
    def refusal(cls, what: str, thing: object) -> TypeError:
        """Return the error for an object that is not a client or session of this library."""
        article = "an" if cls.library.startswith("a") else "a"
        remedy, library = "", _library(thing)
        if library not in (None, cls.library):
            remedy = f": use aioapiqueue.integrations.{library}"
        elif hasattr(getattr(thing, "meta", None), "client"):
            remedy = ": pace the meta.client of a resource"
        return TypeError(f"{thing!r} is not {article} {cls.library} {what}{remedy}")

    # Async and synchronous clients differ in these.

    def drive(self, coroutine: Coroutine[Any, Any, object]) -> object:
        """Return what a handler of botocore must return for a coroutine."""
        return coroutine

    @abstractmethod
    async def take(self, needs: PacedCall, call: AwsClientCall, priority: float) -> None:
        """Wait for the slot of a call. Calls `call.joined()` before the wait."""

    @abstractmethod
    def apply(self, slot: Any, change: Callable[[Any], None]) -> None:  # noqa: ANN401 - a slot
        """Call `change(slot)` on the loop of the slot's queue."""

    # A call, in the task or thread of the client.

    def _paced_api_call(self, operation_name: str, api_params: object) -> object:
        if not self.users:
            return self._make_api_call(operation_name, api_params)
        if self.profile is not None:
            api_params = self.profile.with_maximum_set(self._service, operation_name, api_params)
        return self.drive(self._call(operation_name, api_params))

    async def _call(self, operation: str, parameters: object) -> object:
        call = AwsClientCall(current.get(), operation, parameters)
        token = current.set(call)
        try:
            return await _result(self._make_api_call(operation, parameters))
        finally:
            self._end(call)
            current.reset(token)

    def _start(self, operation_name: str, **_: object) -> object:
        return self.drive(self._take_slot(operation_name))

    async def _take_slot(self, operation: str) -> None:
        known = current.get()
        call = known or AwsClientCall(None, operation, None)
        needs = await self._find_call(operation, call)
        call.release()
        if needs is not None:
            call.reporter = Reporter(_queue_in(needs.queue))
            call.reporter.watch()
            # A call that is needed to sign another one goes first: the other has already waited.
            await self.take(needs, call, 0 if call.outer is None else AHEAD)
        if known is None:
            # Sent without `_make_api_call`, whose `finally` would release the slot later.
            call.release()

    @property
    def _credentials(self) -> Any:  # noqa: ANN401 - of botocore
        """The credentials that sign the requests of this client, or None."""
        return self._client._request_signer._credentials  # noqa: SLF001 - asks no network

    async def _find_call(self, operation: str, call: AwsClientCall) -> PacedCall | None:
        """Return the queue, keys and cost of an attempt. None: the attempt is not paced."""
        registry = self.source
        if not isinstance(registry, Registry):
            if self.profile is None:
                return PacedCall(registry, (operation,))
            return self._profiled_call(self.profile, registry, operation, call)
        account = None
        if self._credentials is not None:
            # This refreshes expired credentials, as signing would.
            frozen = await _result(self._credentials.get_frozen_credentials())
            if frozen.access_key:
                account = account_of(frozen.access_key, getattr(frozen, "account_id", None))
        return registry.find_call(
            self._service,
            operation,
            region=self._client.meta.region_name,
            account=account,
            parameters=parameter_counts(call.parameters),
        )

    def _profiled_call(
        self,
        profile: BedrockProfile,
        source: ApiQueue,
        operation: str,
        call: AwsClientCall,
    ) -> PacedCall:
        """Return the queue, key and cost of an attempt, as the profile has them."""
        region = self._client.meta.region_name
        reporter = Reporter(_queue_in(source))
        asked = profile.asked_for(self._service, operation, region, call.parameters)
        if asked is None:
            cost: Cost = 1
            if reporter.counts("usd", (operation,)):
                cost = {"usd": profile.cost_outside(self._service, operation, region)}
            return PacedCall(source, (operation,), cost)
        key, cost, call.request = asked
        if reporter.counts("usd", (key,)):
            call.request, cost = profile.priced(call.request, cost, time.time())
            if call.request.price.source:
                reporter.price_from(call.request.price.source)
        return PacedCall(source, (key,), cost)

    def _finish(
        self,
        response_dict: Mapping[str, Any] | None = None,
        parsed_response: Mapping[str, Any] | None = None,
        **_: object,
    ) -> None:
        call = current.get()
        if call is not None:
            self._report_throttling(call, response_dict, parsed_response or {})
            failed = None
            if response_dict is not None:
                self._settle(call, response_dict, parsed_response)
                failed = response_dict["status_code"] >= 400  # noqa: PLR2004 - HTTP's
            call.release(failed=failed)

    def _settle(self, call: AwsClientCall, response: Mapping[str, Any], parsed: object) -> None:
        """Settle a call to the usage in its response, now or at the end of its stream."""
        # The request is None if the profile does not cover the call.
        profile, slot, request, reporter = self.profile, call.slot, call.request, call.reporter
        if profile is None or slot is None or reporter is None or request is None:
            return
        if not isinstance(parsed, dict):
            return
        if (failure := profile.failed(request, response["status_code"])) is not None:
            slot.settle(failure)
        if response["status_code"] >= 400:  # noqa: PLR2004 - a failure
            return

        def settle(usage: Mapping[str, Any]) -> None:
            cost: Cost | None
            try:
                cost, wrong = profile.settled(request, usage, now=time.time()), ""
            except MalformedUsageError as error:
                cost, wrong = error.cost, str(error)
            self.apply(slot, lambda one: self._settling.settle(one, reporter, cost, wrong=wrong))

        usage = profile.usage_of(parsed, response["headers"])
        if usage is not None:
            _settle_carefully(settle, usage, operation=call.operation)
            return
        # A stream ends after its slot, which ends with the headers, but `settle` still works then.
        # Only values are replaced, so the iteration is safe.
        for name, value in parsed.items():
            if isinstance(value, EventStream):
                parsed[name] = UsageStream(value, profile.stream_reader(request), settle)

    def _keep_unparsed(self, response_dict: Mapping[str, Any], **_: object) -> None:
        call = current.get()
        if call is not None:
            call.unparsed = response_dict

    def _end(self, call: AwsClientCall) -> None:
        """End a call, however it ends."""
        # If botocore cannot parse a response, such as a bare 429 instead of XML, it raises an error
        # and does not emit `response-received`.
        self._report_throttling(call, call.unparsed, {})
        call.release()

    def _report_throttling(
        self, call: AwsClientCall, response: Mapping[str, Any] | None, parsed: Mapping[str, Any]
    ) -> None:
        slot, reporter = call.slot, call.reporter
        if slot is None or reporter is None or response is None:
            return
        status = response["status_code"]
        if status < 400:  # noqa: PLR2004 - a success; its output may also have an "Error"
            return
        code = parsed.get("Error", {}).get("Code")
        if not is_throttle(code, status, operation=call.operation, service=self._service):
            return
        seconds, malformed = hold_of(response["headers"], max_hold=self._max_hold)
        # AWS does not name the limit that was exceeded. This applies to the lane of the operation,
        # or to the queue if there is no lane.
        slot.throttled(seconds)
        if malformed:
            self.apply(slot, partial(reporter.count, "malformed"))


def _settle_carefully(
    settle: Callable[[Mapping[str, Any]], None], usage: Mapping[str, Any], *, operation: str
) -> None:
    """Settle a call; an error, as of a function of the user, does not take away the response."""
    try:
        settle(usage)
    except Exception as error:  # noqa: BLE001 - the user's
        loops.report_error(f"{operation} could not be settled to {usage!r}", error)


def _queue_in(source: Any) -> ApiQueue:  # noqa: ANN401 - a queue or a `Blocking`
    """Return the `ApiQueue` of a source, without importing the threads package."""
    return getattr(source, "queue", source)  # type: ignore[no-any-return]  # as above


async def _result(value: Any) -> Any:  # noqa: ANN401 - of botocore
    """Return the result of botocore, or await the coroutine of aiobotocore."""
    return await value if isawaitable(value) else value


def pace_clients(
    pacer: type[Pacer],
    session: AnySession,
    sources: Source | Mapping[str, Source],
    max_hold: float,
    profile: BedrockProfile | None,
) -> None:
    """Pace every client that a session creates from now on: see `pace_session`."""
    core = getattr(session, "_session", session)  # boto3 and aioboto3 wrap a session
    if not isinstance(core, Session) or _library(core) != pacer.library:
        raise pacer.refusal("session", session)
    services = core.get_available_services()
    if not isinstance(sources, Mapping):
        pacer.check_source(sources, "a session")
        sources = dict.fromkeys(services, sources)
    for name, source in sources.items():
        if name not in services:
            raise ValueError(f"there is no AWS service {name!r}{_nearest(name, services)}")
        pacer.check(source, name, max_hold, profile)
    events = core.get_component("event_emitter")
    with _pacing:
        # All services are checked before any is added.
        paced = _sessions.setdefault(events, {})
        for name, source in sources.items():
            if name in paced and paced[name][0] is not source:
                raise RuntimeError(
                    f"another queue already paces {name} in this session: give one "
                    "queue several limits or lanes instead"
                )
        paced.update({name: (source, max_hold, profile) for name, source in sources.items()})

    class PacedClient:
        """The first base class of the clients of the session."""

        def __init__(self, *args: object, **kwargs: object) -> None:
            # First: it sets `meta`, which names the service.
            super().__init__(*args, **kwargs)
            client: AnyClient = self
            pacing = paced.get(client.meta.service_model.service_name)
            if pacing is not None:
                pacer.pace(client, *pacing)

    def add_base(base_classes: list[type], **_: object) -> None:
        # First, so that the client is complete when `PacedClient.__init__` paces it.
        base_classes.insert(0, PacedClient)

    # botocore ignores a second handler with this id. The first one reads the same `paced`.
    events.register("creating-client-class", add_base, unique_id="aioapiqueue")


def _library(thing: object) -> str | None:
    """Return the library of a client or session, "aiobotocore" or "botocore", or None."""
    # By name: aiobotocore may not be installed.
    modules = [base.__module__.partition(".")[0] for base in type(thing).__mro__]
    # In this order: clients and sessions of aiobotocore inherit from those of botocore.
    for library, makers in (
        ("aiobotocore", {"aiobotocore", "aioboto3"}),
        ("botocore", {"botocore", "boto3"}),
    ):
        if not makers.isdisjoint(modules):
            return library
    return None


def _nearest(name: str, services: Collection[str]) -> str:
    """Return a hint that names the most similar service."""
    wanted = name.lower().replace(" ", "-")
    # Names of events have service ids: "auto-scaling" for the "autoscaling" of `create_client`.
    by_id = [service for service in services if EVENT_ALIASES.get(service) == wanted]
    near = by_id or difflib.get_close_matches(wanted, services, n=1)
    return f": did you mean {near[0]!r}?" if near else ": see session.get_available_services()"
