"""`Registry`: finds the queue of a call to AWS or an HTTP host, and creates it at first use."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, Self, TypeAlias
from urllib.parse import urlsplit

from aioapiqueue import Limit
from aioapiqueue.exceptions import QueueClosed
from aioapiqueue.registry._file import read_text, read_toml
from aioapiqueue.registry._hosts import PathLanes, is_host, origin_of
from aioapiqueue.registry._in_force import entries
from aioapiqueue.registry._model import Layer, Layers, ServiceLimits
from aioapiqueue.registry._options import read_options
from aioapiqueue.registry._plan import Plans
from aioapiqueue.registry._queues import Queues
from aioapiqueue.registry._report import Report
from aioapiqueue.registry._tables import read_tables

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aioapiqueue import ApiQueue
    from aioapiqueue.registry._in_force import InForce
    from aioapiqueue.registry._plan import ServicePlan
    from aioapiqueue.registry._queues import QueueKey, Schedules
    from aioapiqueue.spi import Cost, Observers

Service: TypeAlias = (
    str | Limit | Sequence[str | Limit] | Mapping[str, object] | ServiceLimits | Layer
)


class PacedCall(NamedTuple):
    """The arguments of a call's slot: `queue.slot(keys=keys, cost=cost)`.

    Attributes:
        queue: the queue of the call's service, Region and account.
        keys: the lane of the operation, then those of the buckets that the call uses.
        cost: 1, or the units that the call uses: `{"instances": 5}`.
    """

    queue: ApiQueue
    keys: tuple[str, ...]
    cost: Cost = 1


class Registry:
    """The queues of all services: one for each service, Region and account, created at first use.

    >>> registry = Registry({"ec2": "10/s", "iam": ServiceLimits("5/s", scope=["account"])})
    >>> call = registry.find_call("ec2", "RunInstances", region="eu-west-1", account="111122223333")
    >>> call.queue
    <ApiQueue 'ec2 eu-west-1 111122223333' 10/s: open, 0 waiting, 0 running>
    >>> print(registry.find_call("s3", "GetObject"))
    None

    Pass it to `pace_session` or `paced` to pace AWS clients. To pace a call yourself, use
    `find_call` or, for an HTTP host, `find_request`.

    Queues live as long as the registry, but a hub drops its idle queues. Like any `ApiQueue`, each
    belongs to the event loop that uses it first.

    Args:
        services: the limits of each service, by its name in `create_client`, or of an HTTP host
            (`"https://api.github.com"`): limits, a `ServiceLimits`, or a mapping with the keys of a
            table in limits.toml.
        default: the limits of each service that is not listed, in queues of its own. Default: such
            services are not paced.
        observers: receive the events of all queues.
        schedules: returns the schedule of a new queue, given its name:
            `lambda name: SharedSchedule(client, name)` shares the limits among hosts. Default: the
            limits apply to this registry alone.

    Raises:
        LimitsError: a limit is invalid, or a service or operation is unknown. The error names all
            problems.
    """

    def __init__(
        self,
        services: Mapping[str, Service],
        *,
        default: Service | None = None,
        observers: Observers = (),
        schedules: Schedules | None = None,
    ) -> None:
        if isinstance(services, Layers):
            layers = services
        else:
            report = Report("Registry", in_code=True)
            tables = {**services} if default is None else {**services, "default": default}
            layers = read_tables(tables, report)
            report.finish()
        # In lists, hosts come first and the default comes last. The sort is stable.
        order = sorted(layers, key=lambda name: (name == "default", not is_host(name)))
        self._layers = Layers((name, layers[name]) for name in order)
        self._services = {name: one.limits for name, one in self._layers.items()}
        self._default = self._services.pop("default", None)
        self._plans = Plans(self._services, self._default)
        self._paths = {name: PathLanes(lanes) for name, lanes in self.hosts.items()}
        self._queues = Queues(observers, schedules)
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

        This may read many files (botocore's models), so call it before the event loop runs.

        Args:
            path: the path of the file.
            preset: replaces the file's `preset`: "aws" or "none".
            share: replaces the file's `share`: "50%".
            check: False accepts unknown names of services and operations. Default: as in the file.
            observers: receive the events of all queues.
            schedules: as in `Registry`.

        Raises:
            LimitsError: the file cannot be read or is invalid. The error names each problem with
                its line and key.
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
            text: the text of the file.
            source: the name of the file in messages.
            preset: as in `load`.
            share: as in `load`.
            check: as in `load`.
            observers: receive the events of all queues.
            schedules: as in `Registry`.

        Raises:
            LimitsError: as in `load`.
        """
        tables, lines = read_toml(text, source)
        given = {"preset": preset, "share": share}
        options = {key: value for key, value in given.items() if value is not None}
        # In place of the file's own values, and checked in the same way.
        report = Report(source, {**lines, **{(key,): f"--{key}" for key in options}})
        layers = read_tables({**tables, **options}, report, check=check)
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
        """Read limits in the form of `--limit`. Each replaces the limit that it names in `base`.

        >>> list(Registry.from_options(["ec2=100ms"]))[0].source
        '--limit ec2=100ms'

        Args:
            limits: `"ec2=100ms"`, `"ec2.DescribeSnapshots=5/s"`, `"ec2.*=20/s burst 100"`,
                `"default=5/s"`, `"https://api.github.com=10/s"`,
                `"GET https://api.github.com/search/*=30/min"`. A comma separates several limits of
                the same calls.
            base: a registry to start from; the new one has queues of its own. Default: nothing
                else is paced.
            check: False accepts unknown names. Default: as in `base`.
            adaptive: True makes every service and host back off when it throttles calls, even
                without limits. Those that are adaptive in `base` keep their settings.
            observers: receive the events of all queues, in place of those of `base`.
            schedules: as in `Registry`, in place of those of `base`.

        Raises:
            LimitsError: an option is invalid. The error names all problems.
        """
        layers = Layers() if base is None else base._layers  # noqa: SLF001 - of our own class
        layers = read_options(limits, layers, check=check, adaptive=adaptive)
        return cls(layers, observers=observers, schedules=schedules)

    def find_call(
        self,
        service: str,
        operation: str,
        *,
        region: str | None = None,
        account: str | None = None,
        parameters: Mapping[str, int] | None = None,
    ) -> PacedCall | None:
        """Return the queue, keys and cost of a call to AWS; None if no limit applies to it.

        The first call of a service, Region and account creates the queue. This method is
        thread-safe and never waits.

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
            service: the service's name in `create_client`, or botocore's service id
                ("auto-scaling"). Any other name counts as a service that is not listed.
            operation: the operation's name, "DescribeSnapshots". For a host, use `find_request`.
            region: the client's Region. None counts as a Region.
            account: anything that identifies the account. None counts as an account.
            parameters: the call's parameters, as `parameter_counts` returns them. Default: none.

        Raises:
            QueueClosed: the registry is closed.
        """
        plan = self._plans.find(service)
        found = None if plan is None else plan.call(operation, parameters or {})
        if plan is None or found is None:
            return None
        queue = self._queues.find(plan.queue, region, account)
        if self._closed:  # checked last, so that no queue is returned that `aclose` did not see
            raise QueueClosed(f"{self!r} is closed: make a new registry")
        return PacedCall(queue, *found)

    def find_request(self, method: str, url: str) -> PacedCall | None:
        """Return the queue and keys of an HTTP request; None if its host has no limits.

        >>> options = ["https://api.test=10/s", "GET https://api.test/search/*=30/min"]
        >>> registry = Registry.from_options(options)
        >>> call = registry.find_request("GET", "https://api.test/search/code?q=x")
        >>> call.queue.name, call.keys
        ('https://api.test', ('GET /search/*', 'GET'))

        Args:
            method: the HTTP method, in upper case.
            url: the full URL, as the request sends it.

        Raises:
            QueueClosed: the registry is closed.
            ValueError: `url` is not an HTTP URL.
        """
        parts = urlsplit(url)
        if parts.scheme not in {"https", "http"} or not parts.hostname:
            raise ValueError(f"{url!r} is not an HTTP URL: write a full one, https://...")
        name = origin_of(url).service
        lanes = self._paths.get(name)
        if lanes is None:
            return None
        # A client sends the path "/" for a URL without one.
        return self.find_call(name, lanes.operation_of(method, parts.path or "/"))

    @property
    def hosts(self) -> Mapping[str, Sequence[str]]:
        """The lanes of each listed host, by the host's name: `"https://api.github.com"`."""
        return {
            name: [str(lane) for lane in limits.lanes]
            for name, limits in self._services.items()
            if is_host(name)
        }

    @property
    def queues(self) -> Mapping[QueueKey, ApiQueue]:
        """The queues that exist at present, by service, Region and account."""
        return MappingProxyType(self._queues.all())

    @property
    def services(self) -> Mapping[str, ServiceLimits]:
        """The limits of each listed service."""
        return MappingProxyType(self._services)

    @property
    def default(self) -> ServiceLimits | None:
        """The limits of services that are not listed; None if those are not paced."""
        return self._default

    def __iter__(self) -> Iterator[InForce]:
        """Yield the limits in force: those of each service, its operations and its buckets."""
        return entries(self._layers)

    async def aclose(
        self,
        *,
        drain: bool = True,
        timeout: float | None = None,  # noqa: ASYNC109 - it ends draining, not the call
    ) -> None:
        """Close all queues together. When this returns, no call waits and no call is accepted.

        No queue may be in use on another event loop. If this is cancelled, all waiting calls are
        refused at once.

        Args:
            drain: True starts the waiting calls first, False refuses them. Default: True.
            timeout: longest time to drain, in seconds. Default: no limit.

        Raises:
            ValueError: `timeout` is negative, infinite or NaN.
            RuntimeError: a queue is in use on another event loop; all other queues are closed.
        """
        self._closed = True  # first: `find_call` checks it after it has added its queue
        # Dropped queues, too: a caller may still wait in one.
        closing = [
            queue.aclose(drain=drain, timeout=timeout) for queue in self._queues.all().values()
        ]
        # If this is cancelled, `gather` cancels each `aclose`: each refuses its waiters at once.
        for result in await asyncio.gather(*closing, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # After an error, start no more calls, as `ApiQueue` does.
        await self.aclose(drain=kind is None)

    def __repr__(self) -> str:
        names = ", ".join(self._layers) or "nothing"
        count = len(self._queues.in_use)
        return f"<Registry of {names}: {count} queue{'s' * (count != 1)}>"


def plan_of(registry: Registry, service: str) -> ServicePlan | None:
    """Return the limits of a service and of its queue; None if it is not paced.

    Args:
        registry: the registry.
        service: the name of the service or host.
    """
    return registry._plans.find(service)  # noqa: SLF001 - of our own class


def forget_idle(registry: Registry) -> list[ApiQueue]:
    """Drop the idle queues of a registry, and return them.

    A later call gets the old queue if any caller still holds it, otherwise a new one. Queues whose
    limits are shared with other processes are kept.

    Args:
        registry: the registry.
    """
    return registry._queues.drop_idle()  # noqa: SLF001 - of our own class
