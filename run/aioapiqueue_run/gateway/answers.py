"""Responses of the gateway itself, each in the form of the service's own errors.

So clients treat them like any error of the service: they do not retry a refusal, and retry a
throttled call with a new signature. For plain text, botocore would raise `ResponseParserError`.
Hosts other than AWS get JSON, which most of them use.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, NamedTuple
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aioapiqueue_run.gateway.calls import ApiCall

__all__ = ["Answer", "code_of", "refusal", "throttling", "unreachable"]

_S3 = "<Error><Code>{code}</Code><Message>{text}</Message></Error>"
_EC2 = (
    "<Response><Errors><Error><Code>{code}</Code><Message>{text}</Message></Error></Errors>"
    "<RequestID>aioapiqueue</RequestID></Response>"
)
_QUERY = (
    "<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{text}</Message></Error>"
    "<RequestId>aioapiqueue</RequestId></ErrorResponse>"
)
_XML_CODE = re.compile(rb"<Code>\s*([\w.]{1,128})\s*</Code>")
_JSON_CODE = re.compile(rb'"(?:__type|code|Code)"\s*:\s*"(?:[^"#]{0,256}#)?([\w.]{1,128})')
_NAME = re.compile(r"[\w.]{1,128}", re.ASCII)


class Answer(NamedTuple):
    """A response.

    Attributes:
        status: the HTTP status.
        body: the whole body.
        headers: the headers, without the length.
    """

    status: int
    body: bytes
    headers: Sequence[tuple[str, str]] = ()


def refusal(call: ApiCall | None, why: str) -> Answer:
    """Return a response to a request that is not sent, after which clients do not retry."""
    return _error(call, 403, "AioapiqueuePacingError", f"aioapiqueue: not sent: {why}")


def unreachable(call: ApiCall | None, why: str) -> Answer:
    """Return a response for a server that cannot be reached or verified."""
    return _error(call, 502, "AioapiqueueUnreachable", f"aioapiqueue: {why}")


def throttling(call: ApiCall) -> Answer:
    """Return a response after which a client signs the request again and retries."""
    text = "aioapiqueue: this request is still waiting for its rate limit: sign it again and retry"
    if not call.of_aws:
        return _error(call, 429, "AioapiqueueWaits", text)
    # SDKs retry by either of them, of every service. A response to HEAD has a status only.
    return _error(call, 503, "ThrottlingException", text)


def code_of(headers: Mapping[str, str], body: bytes) -> str | None:
    """Return the error code of a response of AWS.

    Args:
        headers: the headers, by their names in lower case.
        body: the beginning of the body.
    """
    named = headers.get("x-amzn-errortype") or headers.get("x-amzn-query-error", "")
    if named:  # com.amazonaws.ec2#Throttling:http://...
        return named.split(";")[0].split(":")[0].rpartition("#")[2].strip()[:128] or None
    # Searched for, not parsed: only the beginning of the body is known.
    for pattern in (_XML_CODE, _JSON_CODE):
        if found := pattern.search(body):
            return found[1].decode("ascii", "replace")
    return _cbor_code(body)


def _cbor_code(body: bytes) -> str | None:
    """Return the text after `__type` in CBOR, whose length takes one to three bytes."""
    _, found, rest = body.partition(b"__type")
    if not found or not rest:
        return None
    more = {0x78: 1, 0x79: 2}.get(rest[0], 0)
    length = int.from_bytes(rest[1 : 1 + more]) if more else rest[0] - 0x60
    text = rest[1 + more : 1 + more + max(0, length)].decode("latin-1").rpartition("#")[2]
    return text if _NAME.fullmatch(text) else None


def _error(call: ApiCall | None, status: int, code: str, text: str) -> Answer:
    protocol = "" if call is None else call.protocol
    if protocol == "smithy-rpc-v2-cbor":
        headers = [("Content-Type", "application/cbor"), ("smithy-protocol", "rpc-v2-cbor")]
        return Answer(status, _cbor({"__type": code, "message": text}), headers)
    if protocol in {"ec2", "query", "rest-xml"}:
        template = _EC2 if protocol == "ec2" else _QUERY
        if call is not None and call.service in {"s3", "s3control"}:
            template = _S3
        body = template.format(code=code, text=escape(text))
        return Answer(status, body.encode(), [("Content-Type", "text/xml")])
    if call is not None and not call.of_aws:
        body = json.dumps({"error": code, "message": text})
        return Answer(status, f"{body}\n".encode(), [("Content-Type", "application/json")])
    body = json.dumps({"__type": code, "message": text, "Message": text})
    headers = [("Content-Type", "application/json"), ("x-amzn-ErrorType", code)]
    return Answer(status, f"{body}\n".encode(), headers)


def _cbor(texts: Mapping[str, str]) -> bytes:
    """Return a map of fewer than 24 texts, each cut to 64 kB, in CBOR (RFC 8949)."""
    parts = [bytes([0xA0 | len(texts)])]
    for text in (one for pair in texts.items() for one in pair):
        encoded = text.encode()[: (1 << 16) - 1]
        parts += [b"\x79", len(encoded).to_bytes(2, "big"), encoded]
    return b"".join(parts)
