"""Identifies the call to AWS that a request makes, without the models of botocore.

The signature contains the id of the access key, the Region and a name of the service in clear text.
The operation is in a header (JSON), in the path (CBOR), in a form (EC2 and other old protocols), or
follows from method, path and query together (REST).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qsl, unquote

from aioapiqueue.integrations.spi import decoded
from aioapiqueue_run.gateway import aws_hosts
from aioapiqueue_run.gateway.parameters import in_form, in_json, in_query, in_xml
from aioapiqueue_run.gateway.table import AwsService, table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["HTTP", "ApiCall", "HttpRequest", "find_call", "wants_body"]

HTTP = "http"
"""The protocol of hosts that are not AWS's."""
UNKNOWN = "Unknown"
"""The operation of a call to a known service, if no known operation matches."""

MAX_FORM = 1 << 20
"""Most bytes of a form that are kept: the name of its operation is in the body."""
MAX_PARSED = 1 << 14
"""Most bytes of a body that are parsed for parameters, which takes 10 ms at worst and blocks all
other requests. From a longer body, only the name of the operation is read."""

_FORM = "application/x-www-form-urlencoded"
_CREDENTIAL = re.compile(r"(?:^|[\s&])(?:X-Amz-)?Credential=([^,&\s]{1,300})")
_ACTION = re.compile(rb"(?:^|&)Action=(\w{1,128})(?:&|$)", re.ASCII)
_KEY = re.compile(r"[\w-]{1,128}", re.ASCII)
_RPC = re.compile(r"/(?:.*/)?service/([\w.]+)/operation/(\w+)")
_CELL = re.compile(r"-cell-?\d+$")
_ALSO_CALLED = {"timestream-ingest": "ingest.timestream", "timestream-query": "query.timestream"}
_SEARCH_DOMAIN = re.compile(r"(?:search|doc)-.+\.cloudsearch\..+")
_SERVICE = re.compile(r"[a-z][\w-]{0,63}", re.ASCII)
_NO_BUCKET = "/WriteGetObjectResponse"  # its host begins with a name that is not a bucket's
_NAME = re.compile(r"\w{1,128}", re.ASCII)
_VERSION = re.compile(r"(?:^|&)Version=([\w-]{1,32})", re.ASCII)
_FORM_PROTOCOLS = frozenset({"query", "ec2"})


@dataclass
class HttpRequest:
    """The known part of a request.

    Attributes:
        method: the method, such as `"POST"`.
        host: the server's name, without a port.
        target: the path and query, as they are sent.
        headers: the headers, by name in lower case.
        body: the part of the body that has been read.
    """

    method: str
    host: str
    target: str
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def path(self) -> str:
        """The path, as it is sent."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        """The query, as it is sent."""
        return self.target.partition("?")[2]

    @property
    def content_type(self) -> str:
        """The type of the body, without parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


@dataclass
class ApiCall:
    """The facts about a request that the hub needs to pace it.

    Attributes:
        service: the name of the service, as `create_client` takes it, or of a host.
        operation: the name of the operation, or `UNKNOWN`. For a host, the name of the lane.
        region: the Region that the request is signed for; None if the signature contains none.
        key: the id of the access key; None if the request is not signed.
        parameters: the counts on which limits may depend, as from `parameter_counts`.
        protocol: the protocol of the service, for the form of its errors.
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
    """The clear text of a signature.

    Attributes:
        key: the id of the access key.
        region: the Region.
        name: the service's name in signatures, which several services may share.
    """

    key: str | None = None
    region: str | None = None
    name: str | None = None


def wants_body(request: HttpRequest) -> int:
    """Return how many bytes of the body are needed to identify the call and its parameters."""
    kind = request.content_type
    if kind == _FORM and "Action=" not in request.query:
        return MAX_FORM
    length = request.headers.get("content-length", "")
    small = length.isdecimal() and int(length) <= MAX_PARSED
    if "expect" in request.headers:
        # The client sends the body only after `100 Continue`, which the server may deny. With our
        # own, it would upload a body that the server does not want.
        return 0
    # botocore sends XML without a content type.
    read = not kind or "json" in kind or kind.endswith("xml")
    return MAX_PARSED if small and read else 0


def find_call(request: HttpRequest) -> ApiCall | None:
    """Return the call that a request makes; None if not even its service is known."""
    signed = _signature(request)
    services = _services(request, signed)
    if not services:
        # A service that is newer than our table: all but the operation is in the signature.
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
    # In a header, or in the query of a presigned URL.
    found = _CREDENTIAL.search(request.headers.get("authorization") or unquote(request.query))
    parts = found[1].split("/") if found else []
    if len(parts) == 5:  # noqa: PLR2004 - key/date/region/service/aws4_request
        return _Signature(_valid(parts[0]), _valid(parts[2]), parts[3])
    if len(parts) == 4:  # noqa: PLR2004 - for several Regions: key/date/service/aws4_request
        region = request.headers.get("x-amz-region-set", "")
        return _Signature(_valid(parts[0]), region if table().is_region(region) else None, parts[2])
    return _Signature()


def _valid(text: str) -> str | None:
    """Return a key or a Region; None if it is malformed."""
    # The hub would refuse a call with a malformed one.
    return text if _KEY.fullmatch(text) else None


def _services(request: HttpRequest, signed: _Signature) -> Sequence[AwsService]:
    """Return the services that a request may be for, the most likely first."""
    # If a request has a token, a password or no authentication, only its host is known.
    name = signed.name or ("s3" if aws_hosts.label_of_s3(request.host) is not None else "")
    if name in aws_hosts.S3_SIGNERS:
        found = aws_hosts.s3_services_of(request.host, request.path)
        return [table().by_name[one] for one in found]
    services = table().by_signing.get(name, ())
    at_host = _services_at(request.host)
    # Several services share a name in signatures: prefer those that the host belongs to.
    return [one for one in services if one in at_host] or services or at_host


def _services_at(host: str) -> Sequence[AwsService]:
    """Return the services that a host belongs to, by the beginning of its name."""
    if _SEARCH_DOMAIN.fullmatch(host):
        return table().by_prefix["cloudsearchdomain"]
    labels = [_CELL.sub("", label) for label in host.split(".")]
    # Two labels first, because "portal.sso" and "sso" are different services. The prefix may come
    # later: after the account in "123456789012.ddb", or after the id of a private endpoint.
    for start in range(min(len(labels), 3)):
        for length in (2, 1):
            prefix = ".".join(labels[start : start + length]).removesuffix("-fips")
            if found := table().by_prefix.get(_ALSO_CALLED.get(prefix, prefix)):
                return found
    return ()


def _region_of(host: str) -> str | None:
    # From S3's own label on: a bucket before it may have the name of a Region.
    labels = host.split(".")[aws_hosts.label_of_s3(host) or 0 :]
    return next((label for label in labels if table().is_region(label)), None)


def _json(request: HttpRequest, services: Sequence[AwsService]) -> ApiCall | None:
    """JSON: `X-Amz-Target: Prefix.Operation`."""
    prefix, _, operation = request.headers.get("x-amz-target", "").rpartition(".")
    if not _NAME.fullmatch(operation):
        return None
    named = [one for one in services if one.target == prefix]
    service = (named or services)[0]
    return ApiCall(service.name, operation, parameters=in_json(request.body, str), protocol="json")


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
    body = None
    if request.content_type == _FORM:
        # SDKs compress long ones. Of twice the size, because a little more may have been read.
        encoding = request.headers.get("content-encoding", "")
        body = decoded(request.body, encoding, 2 * MAX_FORM)
    named = _ACTION.search(body or b"") or _ACTION.search(request.query.encode())
    if named is None:
        return None
    operation = named[1].decode()
    text = body.decode("utf-8", "replace") if body else request.query
    fields = dict(parse_qsl(text, keep_blank_values=True)) if len(text) <= MAX_PARSED else {}
    version = _VERSION.search(text)
    # If no model has these protocols, the service has replaced them, but older SDKs use them: SQS.
    able = [one for one in services if _FORM_PROTOCOLS & set(one.protocols)] or services
    # The version tells elb from elbv2. docdb, neptune and rds cannot be told apart, and share one
    # quota: take the service that the host is named after, rds.
    same = [one for one in able if version and one.version == version[1]] or able
    service = min(same, key=lambda one: (one.name != one.prefix, one.name))
    protocol = "ec2" if "ec2" in service.protocols else "query"
    parameters = in_form(fields, lambda sent: service.parameter(operation, sent))
    return ApiCall(service.name, operation, parameters=parameters, protocol=protocol)


def _rest(request: HttpRequest, services: Sequence[AwsService]) -> ApiCall | None:
    """REST: method, path, query and headers."""
    path = request.path
    bucket = None if path == _NO_BUCKET else aws_hosts.bucket_of(request.host)
    query = parse_qsl(request.query, keep_blank_values=True)
    has = {f"{name}:" for name in request.headers}
    has.update(name for name, _ in query)
    has.update(f"{name}={value}" for name, value in query)
    for service in services:
        whole = f"/{bucket}{path}" if bucket and service.name == "s3" else path
        operation = service.operation_of(request.method, whole, has)
        if operation == "ListBuckets" and "s3express-control" in request.host:
            operation = "ListDirectoryBuckets"  # the two requests differ in their hosts only
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
    if operation in service.payloads:  # the body is data, such as an object of S3
        return found
    if "rest-xml" in service.protocols:
        return found | in_xml(request.body, name)
    return found | in_json(request.body, name)
