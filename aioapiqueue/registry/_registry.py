"""`Registry`: finds, and makes at first use, the queue that a call to AWS belongs to."""

from __future__ import annotations

import asyncio
import contextlib
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, Self, TypeAlias
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

from aioapiqueue._queue import dispatcher_of
from aioapiqueue._rate import Limit
from aioapiqueue.exceptions import QueueClosed
from aioapiqueue.registry._hosts import PathLanes, host_called, is_host, origin_of
from aioapiqueue.registry._model import Layer, ServiceLimits
from aioapiqueue.registry._names import NAMES, canonical
from aioapiqueue.registry._plan import QueuePlan, plans_for
from aioapiqueue.registry._report import Report, lines_of, read_text, read_toml
from aioapiqueue.registry._tables import all_adaptive, entries, read_options, read_tables

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aioapiqueue._limiter import LimiterFactory
    from aioapiqueue._queue import ApiQueue, Observers
    from aioapiqueue._units import Cost
    from aioapiqueue.registry._tables import InForce

Schedules: TypeAlias = "Callable[[str], LimiterFactory]"
Service: TypeAlias = (
    str | Limit | Sequence[str | Limit] | Mapping[str, object] | ServiceLimits | Layer
)


class QueueKey(NamedTuple):
    """What a queue is for; None: not known, or not in the service's scope.

    Of services that share a queue, `service` is the first by name.
    """

    service: str
    region: str | None
    account: str | None

    def __str__(self) -> str:
        return " ".join(filter(None, self))


class PacedCall(NamedTuple):
    """What a call needs before it may be sent: `queue.slot(keys=keys, cost=cost)`.

    Attributes:
        queue: of its service, in its Region, of its account.
        keys: the operation's name, or the name of its variant; then the buckets that it uses.
        cost: one call; or what else it has, by unit: `{"instances": 5}`.
    """

    queue: ApiQueue
    keys: tuple[str, ...]
    cost: Cost = 1


class Registry:
    """Finds, and makes at first use, the queue that a call to AWS belongs to.

    >>> registry = Registry({"ec2": "10/s", "iam": ServiceLimits("5/s", scope=["account"])})
    >>> registry.find("ec2", region="eu-west-1", account="111122223333")
    <ApiQueue 'ec2 eu-west-1 111122223333' 10/s: open, 0 waiting, 0 running>
    >>> print(registry.find("s3"))
    None

    What a call needs besides (the keys of buckets that it shares with others, a cost in instances)
    is what `find_call` returns.

    Queues live as long as the registry, but for those that a hub gives up, as nobody uses them. As
    any `ApiQueue`, each belongs to the loop that uses it first.

    Args:
        services: the limits of each service, by the name that `create_client` takes, or of an
            HTTP host (`"https://api.github.com"`): limits alone, a `ServiceLimits`, or a mapping
            as a table of limits.toml would be.
        default: the limits of each service that is not listed, each in queues of its own;
            default: those are not paced.
        observers: get the events of all queues.
        schedules: called with each new queue's name, returns the `SharedSchedule` of its own:
            `lambda name: SharedSchedule(client, name)`. The same limits on several hosts give
            their queues the same names. Default: the limits hold for this registry alone.

    Raises:
        LimitsError: a limit is invalid, or there is no such service or operation; all problems
            in one error.
    """

    def __init__(
        self,
        services: Mapping[str, Service],
        *,
        default: Service | None = None,
        observers: Observers = (),
        schedules: Schedules | None = None,
    ) -> None:
        report = Report("Registry", in_code=True)
        tables = {**services} if default is None else {**services, "default": default}
        layers = read_tables(tables, report)
        report.finish()
        self._layers = dict(sorted(layers.items(), key=lambda one: one[0] == "default"))
        self._services = {name: one.limits for name, one in layers.items()}
        self._default = self._services.pop("default", None)
        self._observers = tuple(observers)
        self._schedules = schedules
        self._plans = plans_for(self._services)
        self._paths = {name: PathLanes(lanes) for name, lanes in self.hosts.items()}
        self._plain = {name.replace("-", ""): name for name in self._services}
        self._queues: dict[QueueKey, ApiQueue] = {}
        self._given_up: WeakValueDictionary[QueueKey, ApiQueue] = WeakValueDictionary()
        """Those that somebody else may still have."""
        self._closed = False

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        preset: str | None = None,
        share: str | None = None,
        check: bool = True,
        observers: Observers = (),
        schedules: Schedules | None = None,
    ) -> Self:
        """Read a limits.toml.

        It reads files, perhaps botocore's models among them: call it before the loop runs.

        Args:
            path: of the file.
            preset: replaces that of the file, such as "aws"; default: the file's.
            share: replaces that of the file, such as "50%"; default: the file's.
            check: whether names are looked up; default: where the file does not switch it off.
            observers: get the events of all queues.
            schedules: as for `Registry`.

        Raises:
            LimitsError: the file cannot be read, or something in it is invalid: each problem
                with its line and key.
        """
        text = read_text(path)
        return cls.parse(
            text,
            source=os.fspath(path),
            preset=preset,
            share=share,
            check=check,
            observers=observers,
            schedules=schedules,
        )

    @classmethod
    def parse(
        cls,
        text: str,
        *,
        source: str = "limits.toml",
        preset: str | None = None,
        share: str | None = None,
        check: bool = True,
        observers: Observers = (),
        schedules: Schedules | None = None,
    ) -> Self:
        """Read the text of a limits.toml.

        >>> registry = Registry.parse('preset = "aws"', share="50%")
        >>> registry.services["ec2"].lanes["Describe*"]
        (Rate(calls=10, per=1.0, burst=50),)

        Args:
            text: the file's.
            source: the file's name, for messages.
            preset: replaces that of the file, such as "aws"; default: the file's.
            share: replaces that of the file, such as "50%"; default: the file's.
            check: as for `load`.
            observers: get the events of all queues.
            schedules: as for `Registry`.

        Raises:
            LimitsError: as for `load`.
        """
        tables = read_toml(text, source)
        given = {"preset": preset, "share": share}
        tables.update({key: value for key, value in given.items() if value is not None})
        report = Report(source, lines_of(text))
        layers = read_tables(tables, report, check=check)
        report.finish()
        return cls(layers, observers=observers, schedules=schedules)

    @classmethod
    def from_options(
        cls,
        limits: Sequence[str],
        *,
        base: Registry | None = None,
        check: bool = True,
        adaptive: bool = False,
        observers: Observers = (),
        schedules: Schedules | None = None,
    ) -> Self:
        """Read limits as `--limit` gives them; each replaces those of `base` for the same calls.

        >>> list(Registry.from_options(["ec2=100ms"]))[0].source
        '--limit ec2=100ms'

        Args:
            limits: `"ec2=100ms"`, `"ec2.DescribeSnapshots=5/s"`, `"ec2.*=20/s burst 100"`,
                `"default=5/s"`, `"https://api.github.com=10/s"`,
                `"GET https://api.github.com/search/*=30/min"`; several limits at once with a comma
                between them.
            base: of a limits.toml; its queues are not shared. Default: nothing else is paced.
            check: whether names are looked up; default: where the base does not switch it off.
            adaptive: every service slows down when AWS throttles, those without limits too;
                where the base says how, as it says. Default: those of the base that do.
            observers: get the events of all queues; those of the base get none.
            schedules: as for `Registry`; the base's are not used.

        Raises:
            LimitsError: an option is invalid; all problems in one error.
        """
        layers = {} if base is None else base._layers  # noqa: SLF001 - of our own class
        layers = read_options(limits, layers, check=check)
        if adaptive:
            layers = all_adaptive(layers)
        return cls(layers, observers=observers, schedules=schedules)

    def find(
        self,
        service: str,
        operation: str | None = None,
        *,
        region: str | None = None,
        account: str | None = None,
    ) -> ApiQueue | None:
        """Return the service's queue, which is made at the first call; None: there is none.

        Give its slots the operation's name as their key: operations are lanes. This may be called
        from any thread, never waits, and refuses no name. Limits that several operations share, or
        that depend on parameters, need more keys: see `find_call`. So do all limits of services
        that share a queue (both versions of API Gateway): there, an operation's name alone comes
        under none of them.

        Args:
            service: as `create_client` takes it, or botocore's service id ("auto-scaling"); or a
                host: `"https://api.github.com"`.
            operation: deprecated, as all of a service's operations share this queue.
            region: of the client. None counts as a Region of its own.
            account: whatever stands for the account. None counts as one of its own.

        Raises:
            QueueClosed: the registry is closed.
        """
        if operation is not None:
            warnings.warn(
                "the operation of Registry.find() is deprecated: leave it out, as all operations "
                "of a service share its queue",
                DeprecationWarning,
                stacklevel=2,
            )
        name, limits = self.limits_of(service)
        return None if limits is None else self._queue(self._plan(name, limits), region, account)

    def find_call(
        self,
        service: str,
        operation: str,
        *,
        region: str | None = None,
        account: str | None = None,
        parameters: Mapping[str, int] | None = None,
    ) -> PacedCall | None:
        """Return the queue of a call, with its keys and its cost there; None: nothing paces it.

        >>> from aioapiqueue.registry import parameter_counts
        >>> registry = Registry.parse('preset = "aws"')
        >>> how = parameter_counts({"MinCount": 5, "MaxCount": 5})
        >>> call = registry.find_call("ec2", "RunInstances", parameters=how)
        >>> call.keys
        ('RunInstances', 'bucket: RunInstances resources')
        >>> call.cost
        {'instances': 5}
        >>> async def main():
        ...     async with call.queue.slot(keys=call.keys, cost=call.cost):
        ...         print("sent")
        >>> asyncio.run(main())
        sent

        Args:
            service: as for `find`.
            operation: its name, "DescribeSnapshots". For requests to a host, see `find_request`.
            region: as for `find`.
            account: as for `find`.
            parameters: what `parameter_counts` returns of the call's; default: the call has none.

        Raises:
            QueueClosed: the registry is closed.
        """
        name, limits = self.limits_of(service)
        if limits is None:
            return None
        plan = self._plan(name, limits)
        found = plan.call(name, operation, parameters or {})
        return None if found is None else PacedCall(self._queue(plan, region, account), *found)

    def find_request(self, method: str, url: str) -> PacedCall | None:
        """Return the queue of an HTTP request, with its keys there; None: its host has no limit.

        >>> options = ["https://api.test=10/s", "GET https://api.test/search/*=30/min"]
        >>> registry = Registry.from_options(options)
        >>> call = registry.find_request("GET", "https://api.test/search/code?q=x")
        >>> call.queue.name, call.keys
        ('https://api.test', ('GET /search/*', 'GET'))

        Args:
            method: of HTTP, in capitals.
            url: a whole one, as it is sent.

        Raises:
            QueueClosed: the registry is closed.
            ValueError: this is no URL.
        """
        parts = urlsplit(url)
        if parts.scheme not in {"https", "http"} or not parts.hostname:
            raise ValueError(f"{url!r} is not an HTTP URL: write a full one, https://...")
        name = origin_of(parts)
        lanes = self._paths.get(name)
        if lanes is None:
            return None
        return self.find_call(name, lanes.operation_of(method, parts.path or "/"))

    def limits_of(self, service: str) -> tuple[str, ServiceLimits | None]:
        """Return a service's one name, and its limits: its own, or the default; None: none.

        Args:
            service: as for `find`.
        """
        limits = self._services.get(service)
        if limits is None and is_host(service):  # which takes nothing from the default
            with contextlib.suppress(ValueError):
                service = host_called(service)
            return service, self._services.get(service)
        if limits is None:
            service = canonical(service)
            if service not in NAMES:  # newer than the list: "new-service" is "newservice"
                service = self._plain.get(service.replace("-", ""), service)
            limits = self._services.get(service, self._default)
        return service, limits

    @property
    def hosts(self) -> Mapping[str, Sequence[str]]:
        """The lanes of each host that is listed, by its name: `"https://api.github.com"`."""
        return {
            name: [str(lane) for lane in limits.lanes]
            for name, limits in self._services.items()
            if is_host(name)
        }

    def limits_of_queue(
        self, service: str
    ) -> tuple[tuple[Limit, ...], Mapping[str, tuple[Limit, ...]]]:
        """Return the limits of a service's queue: those of all calls, and those of its lanes.

        Calls at once are not among them.

        Args:
            service: as for `find`.
        """
        name, limits = self.limits_of(service)
        return ((), {}) if limits is None else self._plan(name, limits).limits()

    def _plan(self, service: str, limits: ServiceLimits) -> QueuePlan:
        """Return the plan of a service's queue; of one that is not listed, by the default."""
        return self._plans.get(service) or QueuePlan({service: limits})

    def _queue(self, plan: QueuePlan, region: str | None, account: str | None) -> ApiQueue:
        key = QueueKey(
            plan.service,
            region if "region" in plan.scope else None,
            account if "account" in plan.scope else None,
        )
        queue = self._queues.get(key)
        if queue is None:
            new = self._given_up.get(key)
            if new is None:
                schedule = None if self._schedules is None else self._schedules(str(key))
                new = plan.queue(str(key), self._observers, schedule=schedule)
            # Of two threads that come here at once, both get the queue of the first.
            queue = self._queues.setdefault(key, new)
        if self._closed:  # asked last: what aclose does not find is not handed out
            raise QueueClosed(f"{self!r} is closed: make a new registry")
        return queue

    @property
    def queues(self) -> Mapping[QueueKey, ApiQueue]:
        """The queues in being, as things stand, by service, Region and account."""
        return MappingProxyType({**self._given_up, **self._queues})

    @property
    def services(self) -> Mapping[str, ServiceLimits]:
        """The limits of each service that is listed."""
        return MappingProxyType(self._services)

    @property
    def default(self) -> ServiceLimits | None:
        """The limits of each other service; None: those are not paced."""
        return self._default

    def __iter__(self) -> Iterator[InForce]:
        """Yield what is in force: each service's own limits, its operations', its buckets'."""
        return entries(self._layers)

    async def aclose(
        self,
        *,
        drain: bool = True,
        timeout: float | None = None,  # noqa: ASYNC109 - it ends draining, not the call
    ) -> None:
        """Close all queues at the same time: no call waits when this returns, none is accepted.

        Every queue must be in use on this loop, or on none. Cancelled, it refuses all calls that
        still wait, at once.

        Args:
            drain: let the calls that wait have their turn first; default True.
            timeout: seconds for draining, at most; default: any time.

        Raises:
            ValueError: `timeout` is negative, infinite or NaN.
            RuntimeError: a queue is in use on another loop; the others are closed.
        """
        self._closed = True
        closing = [queue.aclose(drain=drain, timeout=timeout) for queue in self.queues.values()]
        # Cancelled here, gather cancels each of them and waits for all to end.
        for result in await asyncio.gather(*closing, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        await self.aclose(drain=kind is None)

    def __repr__(self) -> str:
        names = ", ".join(self._layers) or "nothing"
        count = len(self._queues)
        return f"<Registry of {names}: {count} queue{'s' * (count != 1)}>"


def forget_idle(registry: Registry) -> list[ApiQueue]:
    """Give up the queues that are at rest, all of their lanes too; return them: for the hub.

    A later call makes a new one, unless somebody still has the old one: then it gets that. Queues
    with a schedule that others share stay.

    Args:
        registry: whose they are.
    """
    queues, given_up = registry._queues, registry._given_up  # noqa: SLF001 - of our own class
    idle = {key: queue for key, queue in queues.items() if dispatcher_of(queue).idle()}
    given_up.update(idle)  # first: other threads find each queue in one of them
    for key in idle:
        del queues[key]
    return list(idle.values())
