"""Which call to AWS a request is: from its line, its headers and, for some protocols, its body.

A signature has the id of the access key, the Region and a name of the service in it, in the clear.
Which operation it is, each protocol says in its own way: a header (JSON), the path (CBOR), a field
of a form (EC2 and other old ones), or method, path and query together (REST).
"""

from __future__ import annotations

import contextlib
import re
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qsl

from aioapiqueue.gateway.parameters import in_form, in_json, in_query, in_xml
from aioapiqueue.gateway.s3_hosts import SIGNERS, bucket_of, is_s3, label_of, services_of
from aioapiqueue.gateway.table import AwsService, table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["HTTP", "ApiCall", "HttpRequest", "find_call", "wants_body"]

HTTP = "http"
"""The protocol of hosts that are not AWS's."""
UNKNOWN = "Unknown"
"""The operation of a call to a known service, where none of the operations that we know fits."""

MAX_FORM = 1 << 20
"""Bytes. The name of a form's operation is in its body, so that it has to be kept that far."""
MAX_PARSED = 1 << 14
"""Bytes of a body that are read for its parameters: some 10 ms at worst; meanwhile all others wait.
Of a longer one, nothing but the name of the operation is read."""

_FORM = "application/x-www-form-urlencoded"
_CREDENTIAL = re.compile(r"Credential=([^,\s]{1,300})")
_ACTION = re.compile(rb"(?:^|&)Action=(\w{1,128})(?:&|$)", re.ASCII)
_KEY = re.compile(r"[\w-]{1,128}", re.ASCII)
_SIGNED_V2 = re.compile(r"AWS ([A-Z0-9]{16,128}):")
_RPC = re.compile(r"/(?:.*/)?service/([\w.]+)/operation/(\w+)")
_LINK = "X-Amz-Credential"
_CELL = re.compile(r"-cell-?\d+$")
_ALSO_CALLED = {"timestream-ingest": "ingest.timestream", "timestream-query": "query.timestream"}
_SEARCH_DOMAIN = re.compile(r"(?:search|doc)-.+\.cloudsearch\..+")
_SERVICE = re.compile(r"[a-z][\w-]{0,63}", re.ASCII)
_NO_BUCKET = "/WriteGetObjectResponse"  # the host has another name before
_NAME = re.compile(r"\w{1,128}", re.ASCII)
_VERSION = re.compile(r"(?:^|&)Version=([\w-]{1,32})", re.ASCII)
_FORM_PROTOCOLS = frozenset({"query", "ec2"})


@dataclass
class HttpRequest:
    """A request, as far as it is known.

    Attributes:
        method: `"POST"`.
        host: where it goes to, without a port.
        target: its path and query, as they are sent.
        headers: by name in lower case.
        body: what of it is known.
    """

    method: str
    host: str
    target: str
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def path(self) -> str:
        """Its path, as it is sent."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        """Its query, as it is sent."""
        return self.target.partition("?")[2]

    @property
    def kind(self) -> str:
        """The type of its body, without parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


@dataclass
class ApiCall:
    """What the hub has to know of a request.

    Attributes:
        service: as `create_client` takes it; or a host's name.
        operation: its name; `UNKNOWN` if it is none that we know. Of a host, that of its lane.
        region: for which it is signed; None where that does not say.
        key: the id of the access key; None if it is not signed.
        parameters: numbers on which limits may depend, as `parameter_counts` has them.
        protocol: of the service, in which its errors are written.
    """

    service: str
    operation: str
    region: str | None = None
    key: str | None = None
    parameters: Mapping[str, int] = field(default_factory=dict)
    protocol: str = ""

    @property
    def of_aws(self) -> bool:
        """Whether it is a call to AWS."""
        return self.protocol != HTTP


class _Signature(NamedTuple):
    """Whose call it is, as the signature says.

    Attributes:
        key: the access key's id.
        region: for which it is signed.
        name: of the service.
    """

    key: str | None = None
    region: str | None = None
    name: str | None = None


def wants_body(request: HttpRequest) -> int:
    """Return how many bytes of a body are needed to know the call, and its parameters."""
    if request.kind == _FORM and "Action=" not in request.query:
        return MAX_FORM
    length = request.headers.get("content-length", "")
    small = length.isdecimal() and int(length) <= MAX_PARSED
    if "expect" in request.headers:  # the server is to say first whether it wants it
        return 0
    # Of XML, botocore does not say that it is.
    read = not request.kind or "json" in request.kind or request.kind.endswith("xml")
    return MAX_PARSED if small and read else 0


def find_call(request: HttpRequest) -> ApiCall | None:
    """Return which call a request is; None: not even its service is known."""
    signed = _signature(request)
    services = _services(request, signed)
    if not services:
        # Of a service that is too new, all but the operation is in the signature.
        new = signed.key and signed.name and _SERVICE.fullmatch(signed.name)
        return ApiCall(signed.name or "", UNKNOWN, signed.region, signed.key) if new else None
    found = (
        _json(request, services)
        or _rpc(request, services)
        or _form(request, services)
        or _rest(request, services)
    )
    if found is None:
        first = services[0]
        found = ApiCall(first.name, UNKNOWN, protocol=first.protocols[0])
    found.key = signed.key
    region = signed.region or _region_of(request.host)
    if region is not None:
        service = next(one for one in services if one.name == found.service)
        found.region = table().region_of(service, region)
    return found


def _signature(request: HttpRequest) -> _Signature:
    authorization = request.headers.get("authorization", "")
    query = (
        dict(parse_qsl(request.query)) if "Id=" in request.query or _LINK in request.query else {}
    )
    found = _CREDENTIAL.search(authorization)
    parts = (found[1] if found else query.get(_LINK, "")).split("/")
    if len(parts) == 5:  # noqa: PLR2004 - key/date/region/service/aws4_request
        return _Signature(_plain(parts[0]), _plain(parts[2]), parts[3])
    if len(parts) == 4:  # noqa: PLR2004 - for several Regions: key/date/service/aws4_request
        region = request.headers.get("x-amz-region-set", "")
        return _Signature(_plain(parts[0]), region if table().is_region(region) else None, parts[2])
    if old := _SIGNED_V2.match(authorization):  # of S3 only
        return _Signature(old[1], None, "s3")
    return _Signature(_plain(query.get("AWSAccessKeyId", "")))


def _plain(text: str) -> str | None:
    """Return a key or a Region; None for what is none, and would break the hub's protocol."""
    return text if _KEY.fullmatch(text) else None


def _services(request: HttpRequest, signed: _Signature) -> Sequence[AwsService]:
    """Return which services it may be, the likeliest first."""
    # Of a call with a token, a password or nothing, only the host tells.
    name = signed.name or ("s3" if is_s3(request.host) else "")
    if name in SIGNERS:
        found = [table().service(one) for one in services_of(request.host, request.path)]
        return [one for one in found if one is not None]
    services = table().by_signing_name(name)
    prefix = _prefix_of(request.host)
    # Of those that sign alike, the one whose host it is.
    return [one for one in services if one in prefix] or services or prefix


def _prefix_of(host: str) -> Sequence[AwsService]:
    """Return the services of a host, by what its name begins with."""
    if _SEARCH_DOMAIN.fullmatch(host):
        return table().at("cloudsearchdomain")
    labels = [_CELL.sub("", label) for label in host.split(".")]
    # "portal.sso" before "sso"; "123456789012.ddb" has the account before, a VPC's its own name.
    for start in range(min(len(labels), 3)):
        for length in (2, 1):
            prefix = ".".join(labels[start : start + length]).removesuffix("-fips")
            if found := table().at(_ALSO_CALLED.get(prefix, prefix)):
                return found
    return ()


def _region_of(host: str) -> str | None:
    labels = host.split(".")[label_of(host) or 0 :]
    return next((label for label in labels if table().is_region(label)), None)


def _json(request: HttpRequest, services: Sequence[AwsService]) -> ApiCall | None:
    """JSON: `X-Amz-Target: Prefix.Operation`."""
    prefix, _, operation = request.headers.get("x-amz-target", "").rpartition(".")
    if not _NAME.fullmatch(operation):
        return None
    named = [one for one in services if one.target == prefix]
    service = (named or services)[0]
    return ApiCall(service.name, operation, parameters=in_json(request.body), protocol="json")


def _rpc(request: HttpRequest, services: Sequence[AwsService]) -> ApiCall | None:
    """CBOR: `/service/Name/operation/Operation`."""
    found = _RPC.fullmatch(request.path) if "smithy-protocol" in request.headers else None
    if found is None:
        return None
    named = [one for one in services if found[1] in {one.target, one.name}]
    able = [one for one in services if "smithy-rpc-v2-cbor" in one.protocols]
    service = (named or able or services)[0]
    return ApiCall(service.name, found[2], protocol="smithy-rpc-v2-cbor")


def _form(request: HttpRequest, services: Sequence[AwsService]) -> ApiCall | None:
    """The query protocols: `Action=` in a form, or in the query."""
    body = _unzipped(request) if request.kind == _FORM else b""
    named = _ACTION.search(body) or _ACTION.search(request.query.encode())
    if named is None:
        return None
    operation = named[1].decode()
    text = body.decode("utf-8", "replace") if body else request.query
    fields = dict(parse_qsl(text, keep_blank_values=True)) if len(text) <= MAX_PARSED else {}
    version = _VERSION.search(text)
    # A model may have lost the protocol, which older SDKs speak all the same: SQS.
    able = [one for one in services if _FORM_PROTOCOLS & set(one.protocols)] or services
    # The same name means another service in another version: elb and elbv2. Where they speak
    # alike (docdb, neptune and rds), they are one quota, which has the name of the host.
    same = [one for one in able if version and one.version == version[1]] or able
    service = min(same, key=lambda one: (one.name != one.prefix, one.name))
    protocol = "ec2" if "ec2" in service.protocols else "query"
    parameters = in_form(fields, lambda sent: service.parameter(operation, sent))
    return ApiCall(service.name, operation, parameters=parameters, protocol=protocol)


def _unzipped(request: HttpRequest) -> bytes:
    """Return the body of a form, which SDKs compress where it is long."""
    if request.headers.get("content-encoding", "").strip().lower() != "gzip":
        return request.body
    with contextlib.suppress(zlib.error):
        return zlib.decompressobj(31).decompress(request.body, MAX_FORM)
    return b""


def _rest(request: HttpRequest, services: Sequence[AwsService]) -> ApiCall | None:
    """REST: method, path, query and headers, by the models."""
    path = request.path
    bucket = None if path == _NO_BUCKET else bucket_of(request.host)
    query = parse_qsl(request.query, keep_blank_values=True)
    has = {f"{name}:" for name in request.headers}
    has.update(name for name, _ in query)
    has.update(f"{name}={value}" for name, value in query)
    for service in services:
        whole = f"/{bucket}{path}" if bucket and service.name == "s3" else path
        operation = service.operations.find(request.method, whole, has)
        if operation == "ListBuckets" and "s3express-control" in request.host:
            operation = "ListDirectoryBuckets"  # the same request
        if operation is not None:
            return ApiCall(
                service.name,
                operation,
                parameters=_rest_parameters(request, service, operation, query),
                protocol=next(one for one in service.protocols if one.startswith("rest")),
            )
    return None


def _rest_parameters(
    request: HttpRequest, service: AwsService, operation: str, query: Sequence[tuple[str, str]]
) -> dict[str, int]:
    def name(sent: str) -> str:
        return service.parameter(operation, sent)

    found = in_query(query, name)
    if operation in service.payloads:  # the body is somebody's data
        return found
    if "rest-xml" in service.protocols:
        return found | in_xml(request.body, name)
    return found | in_json(request.body, name)
