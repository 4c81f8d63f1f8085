"""Which queue does a call belong to? By service, operation, account and Region: limits.toml.

The file's schema, with examples: docs/limits.md.
"""

from __future__ import annotations

import asyncio
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, Self, TypeAlias

from aioapiqueue import _limits_names as _names
from aioapiqueue._limits_model import (
    Scope,
    ServiceLimits,
    check_name,
    check_operation,
    read_limits,
    read_service,
    revised,
)
from aioapiqueue._limits_report import Report, lines_of, quoted
from aioapiqueue._rate import Limit
from aioapiqueue.exceptions import LimitsError, QueueClosed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aioapiqueue._events import Observer
    from aioapiqueue._queue import ApiQueue

__all__ = ["InForce", "QueueKey", "Registry", "ServiceLimits"]

Service: TypeAlias = str | Limit | Sequence[str | Limit] | Mapping[str, object] | ServiceLimits

_OPTION = "SERVICE=LIMIT or SERVICE.Operation=LIMIT, such as ec2=100ms or ec2.DescribeSnapshots=5/s"


class QueueKey(NamedTuple):
    """What a queue is for; None: not known, or not in the service's scope."""

    service: str
    region: str | None
    account: str | None

    def __str__(self) -> str:
        return " ".join(filter(None, self))


@dataclass(frozen=True, slots=True)
class InForce:
    """Limits in force, and where they come from.

    Attributes:
        service: its name; "default" stands for each one that is not listed.
        operation: whose limits these are; None: of all of the service's together; "*": of each
            operation that has none of its own.
        limits: all of them hold at once; empty: unlimited.
        scope: what has such limits of its own.
        source: the file and line, the option, or "code".
    """

    service: str
    operation: str | None
    limits: tuple[Limit, ...]
    scope: tuple[Scope, ...]
    source: str


class Registry:
    """Finds, and makes at first use, the queue that a call to AWS belongs to.

    >>> registry = Registry({"ec2": "10/s", "iam": ServiceLimits("5/s", scope=["account"])})
    >>> registry.find("ec2", "DescribeSnapshots", region="eu-west-1", account="111122223333")
    <ApiQueue 'ec2 eu-west-1 111122223333' 10/s: open, 0 waiting, 0 running>
    >>> print(registry.find("s3", "ListBuckets"))
    None

    Queues live as long as the registry. As any `ApiQueue`, each belongs to the loop that uses it
    first.

    Args:
        services: the limits of each service, by the name that `create_client` takes: limits
            alone, a `ServiceLimits`, or a mapping as a table of limits.toml would be.
        default: the limits of each service that is not listed, each in queues of its own;
            default: those are not paced.
        observers: who hears of the events of all queues.

    Raises:
        LimitsError: a limit or a service's name makes no sense; all problems in one error.
    """

    def __init__(
        self,
        services: Mapping[str, Service],
        *,
        default: Service | None = None,
        observers: Sequence[Observer] = (),
    ) -> None:
        report = Report("Registry")
        read = _read(services, report, ask_models=False)
        rest = _read({} if default is None else {"default": default}, report, ask_models=False)
        report.finish()
        self._set_up({**read, **rest}, {}, observers)

    def _set_up(
        self,
        tables: Mapping[str, ServiceLimits],
        sources: Mapping[tuple[str, str | None], str],
        observers: Sequence[Observer],
    ) -> None:
        self._services = dict(tables)
        self._default = self._services.pop("default", None)
        self._sources = dict(sources)
        self._observers = tuple(observers)
        self._plain = {name.replace("-", ""): name for name in self._services}
        self._queues: dict[QueueKey, ApiQueue] = {}
        self._closed = False

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, observers: Sequence[Observer] = ()) -> Self:
        """Read a limits.toml.

        It reads files, botocore's models among them: call it before the loop runs.

        Args:
            path: of the file.
            observers: who hears of the events of all queues.

        Raises:
            LimitsError: the file cannot be read, or something in it makes no sense: each problem
                with its line and key.
        """
        try:
            text = Path(path).read_text("utf-8-sig")
        except UnicodeDecodeError as error:
            raise LimitsError(f"{path}: cannot be read: write it in UTF-8 ({error})") from None
        except (OSError, ValueError) as error:  # ValueError: a path that cannot be one
            raise LimitsError(
                f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}; "
                "give the path of a limits.toml"
            ) from None
        return cls.parse(text, source=os.fspath(path), observers=observers)

    @classmethod
    def parse(
        cls, text: str, *, source: str = "limits.toml", observers: Sequence[Observer] = ()
    ) -> Self:
        """Read the text of a limits.toml.

        Args:
            text: the file's.
            source: the file's name, for messages.
            observers: who hears of the events of all queues.

        Raises:
            LimitsError: as for `load`.
        """
        try:
            tables = tomllib.loads(text)
        except (ValueError, RecursionError) as error:
            why = "nested too deeply" if isinstance(error, RecursionError) else error
            raise LimitsError(f"{source}: this is not TOML: {why}") from None
        report = Report(source, lines_of(text))
        read = _read(tables, report, ask_models=True)
        report.finish()
        sources = {
            (name, operation): report.where(
                (name, "lanes", operation) if operation else (name, "rate")
            )
            for name, limits in read.items()
            for operation in (None, *limits.lanes)
        }
        self = cls.__new__(cls)
        self._set_up(read, sources, observers)
        return self

    @classmethod
    def from_options(
        cls,
        limits: Sequence[str],
        *,
        base: Registry | None = None,
        observers: Sequence[Observer] = (),
    ) -> Self:
        """Read limits as `--limit` gives them; each replaces what `base` says of the same calls.

        >>> list(Registry.from_options(["ec2=100ms"]))[0].source
        '--limit ec2=100ms'

        Args:
            limits: `"ec2=100ms"`, `"ec2.DescribeSnapshots=5/s"`, `"ec2.*=20/s burst 100"`,
                `"default=5/s"`; several limits at once with a comma between them.
            base: of a limits.toml; its queues are not shared. Default: nothing else is paced.
            observers: who hears of the events of all queues; the base's do not.

        Raises:
            LimitsError: an option makes no sense; all problems in one error.
        """
        tables: dict[str, ServiceLimits] = {}
        sources: dict[tuple[str, str | None], str] = {}
        if base is not None:
            tables.update(base.services)
            if base.default is not None:
                tables["default"] = base.default
            sources.update(((one.service, one.operation), one.source) for one in base)
        problems: list[str] = []
        given: dict[tuple[str, str | None], str] = {}
        for option in limits:
            report = Report(f"--limit {quoted(option)[1:-1]}")
            _read_option(option, tables, sources, given, report)
            problems += report.problems
        if problems:
            raise LimitsError(*problems)
        self = cls.__new__(cls)
        self._set_up(tables, sources, observers)
        return self

    def find(
        self,
        service: str,
        operation: str,
        *,
        region: str | None = None,
        account: str | None = None,
    ) -> ApiQueue | None:
        """Return the queue of a call, made at its first; None: the call is not paced.

        The slot's key is to be the operation's name: operations are lanes. It may be called from
        any thread; it never waits, and refuses no name.

        Args:
            service: as `create_client` takes it, or botocore's service id ("auto-scaling").
            operation: its name, "DescribeSnapshots".
            region: of the client. None counts as a Region of its own.
            account: whatever stands for the account. None counts as one of its own.

        Raises:
            QueueClosed: the registry is closed.
        """
        del operation  # all of a service's share one queue so far
        limits = self._services.get(service)
        if limits is None:
            service = _names.canonical(service)
            if service not in _names.NAMES:  # newer than the list: "new-service" is "newservice"
                service = self._plain.get(service.replace("-", ""), service)
            limits = self._services.get(service, self._default)
            if limits is None:
                return None
        key = QueueKey(
            service,
            region if "region" in limits.scope else None,
            account if "account" in limits.scope else None,
        )
        queue = self._queues.get(key)
        if queue is None:
            # Of two threads that come here at once, both get the queue of the first.
            queue = self._queues.setdefault(key, limits.queue(str(key), self._observers))
        if self._closed:  # asked last: what aclose does not find is not handed out
            raise QueueClosed(f"{self!r} is closed and takes no more calls: make a new registry")
        return queue

    @property
    def queues(self) -> Mapping[QueueKey, ApiQueue]:
        """The queues in being, as things stand, by service, Region and account."""
        return MappingProxyType(self._queues.copy())

    @property
    def services(self) -> Mapping[str, ServiceLimits]:
        """The limits of each service that is listed."""
        return MappingProxyType(self._services)

    @property
    def default(self) -> ServiceLimits | None:
        """The limits of each other service; None: those are not paced."""
        return self._default

    def __iter__(self) -> Iterator[InForce]:
        """Yield what is in force: each service's own limits, then its operations'."""
        for name, limits in self._tables.items():
            for operation, own in ((None, limits.rate), *limits.lanes.items()):
                source = self._sources.get((name, operation))
                if source is None:  # an option may have made it from the default
                    source = self._sources.get(("default", operation), "code")
                yield InForce(name, operation, own, limits.scope, source)

    @property
    def _tables(self) -> dict[str, ServiceLimits]:
        rest = {} if self._default is None else {"default": self._default}
        return {**self._services, **rest}

    async def aclose(
        self,
        *,
        drain: bool = True,
        timeout: float | None = None,  # noqa: ASYNC109 - it ends draining, not the call
    ) -> None:
        """Close every queue at once: nobody waits when this returns, and no new queue is made.

        Every queue must be in use on this loop, or on none. Cancelled, it refuses at once whoever
        still waits.

        Args:
            drain: let those who wait have their turn first; default True.
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
        names = ", ".join(self._tables) or "nothing"
        count = len(self._queues)
        return f"<Registry of {names}: {count} queue{'s' * (count != 1)}>"


def _read(
    tables: Mapping[str, object], report: Report, *, ask_models: bool
) -> dict[str, ServiceLimits]:
    """Read all tables, each under its service's one name."""
    read: dict[str, ServiceLimits] = {}
    first: dict[str, str] = {}
    for name, value in tables.items():
        limits = read_service(name, value, report)
        if limits.check:
            check_name(name, report, (name,))
        for operation in limits.lanes if limits.check and (ask_models or name == "default") else ():
            check_operation(name, operation, report, (name, "lanes", operation))
        service = _names.canonical(name)
        if service in read:
            report.add((name,), f"{first[service]!r} is the same service: leave one of them")
        read[service] = limits
        first[service] = name
    return read


def _read_option(
    option: str,
    tables: dict[str, ServiceLimits],
    sources: dict[tuple[str, str | None], str],
    given: dict[tuple[str, str | None], str],
    report: Report,
) -> None:
    """Put one `--limit` into `tables` and `sources`."""
    target, found, text = option.partition("=")
    name, dot, operation = target.strip().partition(".")
    if not (found and name and bool(dot) == bool(operation)):
        report.add((), f"write {_OPTION}")
        return
    service = _names.canonical(name)
    place = (service, operation or None)
    if place in given:
        report.add((), f"{given[place]} says it already: put a comma between several limits")
    given[place] = report.source
    own = read_limits(text.strip(), report, ())
    old = tables.get(service) or tables.get("default") or ServiceLimits()
    if old.check:
        check_name(name, report, ())
        if operation:
            check_operation(name, operation, report, ())
    tables[service] = revised(old, report, operation=operation or None, limits=own)
    sources[place] = report.source
    if "default" not in tables:
        sources.setdefault((service, None), report.source)
