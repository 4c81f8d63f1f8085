"""The table of AWS's services and the requests that they accept, made from botocore's models.

`uvx nox -s names` writes the file; tests/helpers/calls_file.py lists the parts of the models in it.
"""

from __future__ import annotations

import gzip
import json
import re
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

__all__ = ["AwsService", "table"]


class Route(NamedTuple):
    """The form of the requests of one operation.

    Attributes:
        before: the parts of the path, up to a greedy one.
        after: the parts after the greedy one, which matches any number: `["policy"]` for
            `/{Name+}/policy`. None: there is no greedy part.
        has: other required parts of the request: `"acl"`, `"list-type=2"`, `"x-amz-copy-source:"`.
        name: the name of the operation.
    """

    before: Sequence[str]
    after: Sequence[str] | None
    has: frozenset[str]
    name: str

    @property
    def rank(self) -> tuple[int, int, int, str]:
        """The order of specificity, the most specific first. Equal ones are ordered by name."""
        parts = [*self.before, *(("{greedy+}", *self.after) if self.after is not None else ())]
        literal = sum(not part.startswith("{") for part in parts)
        return -literal, -len(parts), -len(self.has), self.name

    def matches(self, parts: Sequence[str]) -> bool:
        """Return whether a path matches."""
        number = len(self.before)
        if self.after is None:
            return len(parts) == number and all(map(_fits, self.before, parts))
        end = len(parts) - len(self.after)
        return (
            end > number
            and all(map(_fits, self.before, parts))
            and all(map(_fits, self.after, parts[end:]))
        )


@dataclass(frozen=True)
class AwsService:
    """The facts by which requests to one service are recognized.

    Attributes:
        name: the name, as `create_client` takes it.
        signing: its name in signatures, which several services may share.
        prefix: the beginning of its hosts' names.
        version: the version of its API, which query protocols send.
        target: the beginning of `X-Amz-Target`, for JSON.
        protocols: the protocols: `"ec2"`, `"query"`, `"json"`, `"rest-json"`, `"rest-xml"`,
            `"smithy-rpc-v2-cbor"`.
        routes: method, path, other required parts of the request, and name of each operation.
        names: the names of parameters that are sent under another name, by that name. If that
            differs between operations, by `"Operation.Sent"`.
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
    def _routes(self) -> Mapping[str, Sequence[Route]]:
        """The operations by method, the most specific first."""
        # Made at the first request to the service, since for all services it takes 50 ms.
        found: dict[str, list[Route]] = {}
        for method, path, has, name in self.routes:
            parts = _parts(path)
            greedy = next((at for at, part in enumerate(parts) if part.endswith("+}")), len(parts))
            after = parts[greedy + 1 :] if greedy < len(parts) else None
            route = Route(parts[:greedy], after, frozenset(has), name)
            found.setdefault(method, []).append(route)
        return {
            method: sorted(routes, key=lambda one: one.rank) for method, routes in found.items()
        }

    def operation_of(self, method: str, path: str, has: Collection[str]) -> str | None:
        """Return the operation of a REST request, which does not name it; None if none matches.

        Several may match: `GET /bucket?acl` matches `GET /{Bucket}` and `GET /{Bucket}?acl`, and
        `/functions/list` matches `/functions/{name}`. The most specific one wins.

        Args:
            method: the method, such as `"GET"`.
            path: the path as it is sent, without the query.
            has: the names in the query, the pairs `"name=value"`, and the names of headers in
                lower case with a colon.
        """
        present, parts = frozenset(has), _parts(path)
        routes = self._routes.get(method, ())
        return next((one.name for one in routes if one.has <= present and one.matches(parts)), None)

    def parameter(self, operation: str, sent: str) -> str:
        """Return the name of a parameter that is sent under another one."""
        return self.names.get(f"{operation}.{sent}") or self.names.get(sent, sent)


@dataclass(frozen=True)
class Partition:
    """A part of AWS with separate accounts.

    Attributes:
        suffixes: the endings of its hosts' names, such as `"amazonaws.com"`.
        regions: a pattern of its Regions' names.
        one_endpoint: botocore's names of the Region, such as `"aws-global"`, of services with a
            single endpoint, by the prefix of their hosts.
    """

    suffixes: Sequence[str]
    regions: re.Pattern[str]
    one_endpoint: Mapping[str, str]


class AwsTable:
    """All services and partitions.

    Args:
        services: all of them.
        partitions: all of them.

    Attributes:
        suffixes: the suffixes of all partitions.
        by_name: the services by their names.
        by_signing: the services by their names in signatures.
        by_prefix: the services by the beginning of their hosts' names.
    """

    def __init__(self, services: Iterable[AwsService], partitions: Iterable[Partition]) -> None:
        self.partitions = list(partitions)
        self.suffixes = frozenset(one for each in self.partitions for one in each.suffixes)
        self.by_name = {service.name: service for service in services}
        self.by_signing: dict[str, list[AwsService]] = {}
        self.by_prefix: dict[str, list[AwsService]] = {}
        for service in self.by_name.values():
            self.by_signing.setdefault(service.signing, []).append(service)
            self.by_prefix.setdefault(service.prefix, []).append(service)

    def suffix_of(self, host: str) -> str | None:
        """Return the suffix of a partition that a host's name ends with; None if it is not AWS's.

        If several suffixes match, the longest is returned.
        """
        labels = host.split(".")
        endings = (".".join(labels[at:]) for at in range(1, len(labels)))
        return next((one for one in endings if one in self.suffixes), None)

    def is_region(self, text: str) -> bool:
        """Return whether a text has the form of a Region's name, which includes new Regions."""
        return any(partition.regions.fullmatch(text) for partition in self.partitions)

    def region_of(self, service: AwsService, region: str) -> str:
        """Return the Region of a call as botocore names it.

        For a service with a single endpoint, that is one name for all Regions.

        Args:
            service: the service.
            region: the Region that the call is signed for.
        """
        for partition in self.partitions:
            if partition.regions.fullmatch(region):
                return partition.one_endpoint.get(service.prefix, region)
        return region


@cache
def table() -> AwsTable:
    """Return the table. The first call takes 20 ms."""
    packed = (files("aioapiqueue_run.gateway") / "aws_calls.json.gz").read_bytes()
    found = json.loads(gzip.decompress(packed))
    return AwsTable(
        (AwsService(**one) for one in found["services"]),
        (
            Partition(one["suffixes"], re.compile(one["regions"]), one["global"])
            for one in found["partitions"]
        ),
    )


def _parts(path: str) -> list[str]:
    """Return the parts of a path. A slash at its end makes no difference."""
    return path.rstrip("/").split("/")[1:]


def _fits(template: str, part: str) -> bool:
    return template == part or (part != "" and template.startswith("{"))
