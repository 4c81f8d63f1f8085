"""Which call to AWS a request is: from its line, its headers and, for some protocols, its body.

A signature has the id of the access key, the Region and a name of the service in it, in the clear.
Which operation it is, each protocol says in its own way: a header (JSON), the path (CBOR), a field
of a form (EC2 and other old ones), or method, path and query together (REST).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qsl, unquote

from aioapiqueue.gateway._parameters import in_form, in_json, in_query, in_xml
from aioapiqueue.gateway._table import Service, table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["MAX_FORM", "MAX_PARSED", "UNKNOWN", "Call", "Request", "find_call", "wants_body"]

UNKNOWN = "Unknown"
"""The operation of a call to a known service, where none of the operations that we know fits."""

MAX_FORM = 1 << 20
"""Bytes. The name of a form's operation is in its body, so that it has to be kept that far."""
MAX_PARSED = 1 << 16
"""Bytes of another body that is read for its parameters: some 0.5 ms, meanwhile all others wait."""

_FORM = "application/x-www-form-urlencoded"
_CREDENTIAL = re.compile(r"Credential=([^,\s]+)")
_SIGNED_V2 = re.compile(r"AWS ([A-Z0-9]{16,128}):")
_RPC = re.compile(r"/(?:.*/)?service/([\w.]+)/operation/(\w+)")
_S3_LABEL = re.compile(r"s3(?:-|$)|s3express-")
_REGION = re.compile(r"[a-z]{2,4}(?:-[a-z]+)+-\d+")
_NAME = re.compile(r"\w{1,128}", re.ASCII)
_FORM_PROTOCOLS = frozenset({"query", "ec2"})
_S3_SIGNERS = frozenset({"s3", "s3express", "s3-outposts", "s3-object-lambda"})


@dataclass
class Request:
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
class Call:
    """What the hub has to know of a request.

    Attributes:
        service: as `create_client` takes it.
        operation: its name; `UNKNOWN` if it is none that we know.
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


def wants_body(request: Request) -> int:
    """Return how many bytes of a body are needed to know the call, and its parameters."""
    if request.kind == _FORM and "Action=" not in request.query:
        return MAX_FORM
    length = request.headers.get("content-length", "")
    small = length.isdecimal() and int(length) <= MAX_PARSED
    # Of XML, botocore does not say that it is.
    read = not request.kind or "json" in request.kind or request.kind.endswith("xml")
    return MAX_PARSED if small and read else 0


def find_call(request: Request) -> Call | None:
    """Return which call a request is; None: not even its service is known."""
    signed = _signature(request)
    services = _services(request, signed)
    if not services:
        return None
    found = (
        _json(request, services)
        or _rpc(request, services)
        or _form(request, services)
        or _rest(request, services)
    )
    if found is None:
        first = services[0]
        found = Call(first.name, UNKNOWN, protocol=first.protocols[0])
    found.key = signed.key
    region = signed.region or _region_of(request.host)
    if region is not None:
        service = next(one for one in services if one.name == found.service)
        found.region = table().region_of(service, region)
    return found


def _signature(request: Request) -> _Signature:
    authorization = request.headers.get("authorization", "")
    found = _CREDENTIAL.search(authorization)
    text = found[1] if found else ""
    if not text and "X-Amz-Credential=" in request.query:  # presigned
        text = dict(parse_qsl(request.query)).get("X-Amz-Credential", "")
    parts = text.split("/")
    if len(parts) == 5:  # noqa: PLR2004 - key/date/region/service/aws4_request
        return _Signature(parts[0], parts[2], parts[3])
    if len(parts) == 4:  # noqa: PLR2004 - for several Regions: key/date/service/aws4_request
        regions = request.headers.get("x-amz-region-set", "")
        return _Signature(parts[0], regions if _REGION.fullmatch(regions) else None, parts[2])
    if old := _SIGNED_V2.match(authorization):  # of S3 only
        return _Signature(old[1], None, "s3")
    return _Signature()


def _services(request: Request, signed: _Signature) -> Sequence[Service]:
    """Return which services it may be, the likeliest first."""
    # Of a call with a token, a password or nothing, only the host tells.
    name = signed.name or ("s3" if _s3_label(request.host) is not None else "")
    prefix = _prefix_of(request.host)
    services = table().that_sign_as(name)
    if name in _S3_SIGNERS:
        services = services or table().that_sign_as("s3")
        control = ".s3-control." in f".{request.host}"
        return [one for one in services if (one.name == "s3control") == control] or services
    # Of those that sign alike, the one whose host it is.
    return [one for one in services if one in prefix] or services or prefix


def _prefix_of(host: str) -> Sequence[Service]:
    """Return the services of a host, by what its name begins with."""
    labels = host.split(".")
    # "portal.sso" before "sso"; "123456789012.ddb" has the account before, a VPC's its own name.
    for start in range(min(len(labels), 3)):
        for length in (2, 1):
            found = table().at(".".join(labels[start : start + length]).removesuffix("-fips"))
            if found:
                return found
    return ()


def _region_of(host: str) -> str | None:
    return next((label for label in host.split(".") if _REGION.fullmatch(label)), None)


def _json(request: Request, services: Sequence[Service]) -> Call | None:
    """JSON: `X-Amz-Target: Prefix.Operation`."""
    prefix, _, operation = request.headers.get("x-amz-target", "").rpartition(".")
    if not _NAME.fullmatch(operation):
        return None
    named = [one for one in services if one.target == prefix]
    service = (named or services)[0]
    return Call(service.name, operation, parameters=in_json(request.body), protocol="json")


def _rpc(request: Request, services: Sequence[Service]) -> Call | None:
    """CBOR: `/service/Name/operation/Operation`."""
    found = _RPC.fullmatch(request.path) if "smithy-protocol" in request.headers else None
    if found is None:
        return None
    named = [one for one in services if found[1] in {one.target, one.name}]
    able = [one for one in services if "smithy-rpc-v2-cbor" in one.protocols]
    service = (named or able or services)[0]
    return Call(service.name, found[2], protocol="smithy-rpc-v2-cbor")


def _form(request: Request, services: Sequence[Service]) -> Call | None:
    """The query protocols: `Action=` in a form, or in the query."""
    text = request.body.decode("utf-8", "replace") if request.kind == _FORM else ""
    fields = dict(parse_qsl(text or request.query, keep_blank_values=True))
    operation = fields.get("Action", "")
    able = [one for one in services if _FORM_PROTOCOLS & set(one.protocols)]
    if not able or not _NAME.fullmatch(operation):
        return None
    # The same name means another service in another version: elb and elbv2. Where they speak
    # alike (docdb, neptune and rds), they are one quota, which has the name of the host.
    same = [one for one in able if one.version == fields.get("Version")] or able
    service = min(same, key=lambda one: (one.name != one.prefix, one.name))
    protocol = "ec2" if "ec2" in service.protocols else "query"
    parameters = in_form(fields, lambda sent: service.parameter(operation, sent))
    return Call(service.name, operation, parameters=parameters, protocol=protocol)


def _rest(request: Request, services: Sequence[Service]) -> Call | None:
    """REST: method, path, query and headers, by the models."""
    path = request.path
    bucket = _bucket_of(request.host)
    query = parse_qsl(request.query, keep_blank_values=True)
    has = {f"{name}:" for name in request.headers}
    has.update(name for name, _ in query)
    has.update(f"{name}={value}" for name, value in query)
    for service in services:
        in_host = bucket if service.name == "s3" else None
        whole = f"/{in_host}{path}" if in_host else path
        operation = service.operations.find(request.method, whole, has)
        if operation is not None:
            return Call(
                service.name,
                operation,
                parameters=_rest_parameters(request, service, operation, query),
                protocol=next(one for one in service.protocols if one.startswith("rest")),
            )
    return None


def _rest_parameters(
    request: Request, service: Service, operation: str, query: Sequence[tuple[str, str]]
) -> dict[str, int]:
    def name(sent: str) -> str:
        return service.parameter(operation, sent)

    found = in_query(query, name)
    if "rest-xml" in service.protocols:
        return found | in_xml(request.body, name)
    return found | in_json(request.body, name)


def _s3_label(host: str) -> int | None:
    """Return which label of a host says that it is S3: the last, as buckets are called anything."""
    labels = host.split(".")
    found = [at for at, label in enumerate(labels) if _S3_LABEL.match(label)]
    return found[-1] if found else None


def _bucket_of(host: str) -> str | None:
    """Return the bucket, or the access point, in the name of a host of S3; None: none is there."""
    at = _s3_label(host)
    if not at:
        return None
    labels = [unquote(label) for label in host.split(".")[:at]]
    if labels[-1].startswith("vpce-"):  # bucket.vpce-1a2b3c4d.s3, name.bucket.vpce-1a2b3c4d.s3
        labels = labels[:-2]
    return ".".join(labels) or None
