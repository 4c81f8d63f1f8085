"""S3's hosts, whose names have a bucket, an access point or an account in them, or none.

What they are is in AWS's endpoint rules; the bucket may also come first in the path instead.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

__all__ = ["SIGNERS", "bucket_of", "is_s3", "label_of", "services_of"]

SIGNERS = frozenset({"s3", "s3express", "s3-outposts", "s3-object-lambda"})
"""The names in signatures for it."""

_LABEL = re.compile(r"s3(?:-|$)|s3express-")
_CONTROL = re.compile(r"(?:.+\.)?(?:s3-control(?:-fips)?\.|control\.vpce-).+")


def label_of(host: str) -> int | None:
    """Return which label says that a host is S3's: the last, as buckets are called anything."""
    found = [at for at, label in enumerate(host.split(".")) if _LABEL.match(label)]
    return found[-1] if found else None


def is_s3(host: str) -> bool:
    """Return whether a host is one of S3's, by its name."""
    return label_of(host) is not None


def bucket_of(host: str) -> str | None:
    """Return the bucket, or the access point, in a host's name; None: none is there."""
    at = label_of(host)
    if not at:
        return None
    labels = [unquote(label) for label in host.split(".")[:at]]
    if labels[-1].startswith("vpce-"):  # bucket.vpce-1a2b3c4d.s3, name.bucket.vpce-1a2b3c4d.s3
        labels = labels[:-2]
    return ".".join(labels) or None


def services_of(host: str, path: str) -> list[str]:
    """Return which services a request to S3 may be for, the likeliest first."""
    if _CONTROL.fullmatch(host):
        return ["s3control"]
    at = label_of(host)
    if at == 0 and host.startswith("s3-outposts"):
        return ["s3control" if path.startswith("/v2018") else "s3outposts"]
    return ["s3"]
