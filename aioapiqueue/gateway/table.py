"""How requests to AWS look: the table that is made of botocore's models, which are not needed here.

`uvx nox -s names` writes the file, tests/helpers/calls_file.py says what of the models is in it.
"""

from __future__ import annotations

import gzip
import json
import re
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from typing import TYPE_CHECKING

from aioapiqueue.gateway.routes import Routes

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

__all__ = ["AwsService", "table"]


@dataclass(frozen=True)
class AwsService:
    """What tells the requests to one service.

    Attributes:
        name: as `create_client` takes it.
        signing: its name in signatures, which several services may share.
        prefix: what the names of its hosts begin with.
        version: of its API, which query protocols send.
        target: what `X-Amz-Target` begins with, for JSON.
        protocols: that it speaks: `"ec2"`, `"query"`, `"json"`, `"rest-json"`, `"rest-xml"`,
            `"smithy-rpc-v2-cbor"`.
        routes: method, path, what else the request has, and the operation's name.
        names: of parameters, by what they are sent as, where that differs; for one operation, of
            several that differ, by `"Operation.Sent"`.
        payloads: the operations whose bodies are data, or the value of one parameter.
    """

    name: str
    signing: str
    prefix: str
    version: str
    target: str | None
    protocols: Sequence[str]
    routes: Sequence[tuple[str, str, Sequence[str], str]]
    names: Mapping[str, str]
    payloads: Collection[str] = ()

    @cached_property
    def operations(self) -> Routes:
        """Which operation a method and a path stand for."""
        return Routes(self.routes)

    def parameter(self, operation: str, sent: str) -> str:
        """Return the name of a parameter that is sent under another one."""
        return self.names.get(f"{operation}.{sent}") or self.names.get(sent, sent)


@dataclass(frozen=True)
class Partition:
    """A part of AWS with accounts of its own.

    Attributes:
        suffixes: that the names of its hosts end with: `"amazonaws.com"`.
        regions: a pattern of its Regions' names.
        one_endpoint: of services with a single endpoint, what botocore calls their Region:
            `"aws-global"`; by the prefix of their hosts.
    """

    suffixes: Sequence[str]
    regions: re.Pattern[str]
    one_endpoint: Mapping[str, str]


class AwsTable:
    """All services and partitions.

    Args:
        services: all of them.
        partitions: all of them.
    """

    def __init__(self, services: Iterable[AwsService], partitions: Iterable[Partition]) -> None:
        self.partitions = list(partitions)
        self.suffixes = frozenset(one for each in self.partitions for one in each.suffixes)
        self._by_signing: dict[str, list[AwsService]] = {}
        self._by_prefix: dict[str, list[AwsService]] = {}
        self._by_name: dict[str, AwsService] = {}
        for service in services:
            self._by_signing.setdefault(service.signing, []).append(service)
            self._by_name[service.name] = service
            self._by_prefix.setdefault(service.prefix, []).append(service)

    @property
    def services(self) -> Iterable[AwsService]:
        """All services."""
        return self._by_name.values()

    def service(self, name: str) -> AwsService | None:
        """Return the service of a name."""
        return self._by_name.get(name)

    def by_signing_name(self, name: str) -> Sequence[AwsService]:
        """Return the services whose signatures have a name in them."""
        return self._by_signing.get(name, ())

    def at(self, prefix: str) -> Sequence[AwsService]:
        """Return the services whose hosts' names begin with a prefix."""
        return self._by_prefix.get(prefix, ())

    def suffix_of(self, host: str) -> str | None:
        """Return what a host's name ends with, if it is AWS's."""
        labels = host.split(".")
        endings = (".".join(labels[at:]) for at in range(1, len(labels)))
        # The longest first: of "api.aws.ic.gov", nothing else is meant.
        return next((one for one in endings if one in self.suffixes), None)

    def is_region(self, text: str) -> bool:
        """Return whether a text is the name of a Region, be it a new one."""
        return any(partition.regions.fullmatch(text) for partition in self.partitions)

    def region_of(self, service: AwsService, region: str) -> str:
        """Return the Region of a call as botocore has it: one name where there is one endpoint.

        Args:
            service: that is called.
            region: for which the call is signed.
        """
        for partition in self.partitions:
            if partition.regions.fullmatch(region):
                return partition.one_endpoint.get(service.prefix, region)
        return region


@cache
def table() -> AwsTable:
    """Return the table, which takes 20 ms at the first time."""
    packed = (files("aioapiqueue.gateway") / "aws_calls.json.gz").read_bytes()
    found = json.loads(gzip.decompress(packed))
    return AwsTable(
        (AwsService(**one) for one in found["services"]),
        (
            Partition(one["suffixes"], re.compile(one["regions"]), one["global"])
            for one in found["partitions"]
        ),
    )
