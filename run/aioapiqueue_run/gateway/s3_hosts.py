"""Reads the hosts of S3, whose names may contain a bucket, an access point or an account.

Their forms are in AWS's endpoint rules. Alternatively, the bucket is the first part of the path.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

__all__ = ["SIGNERS", "bucket_of", "is_s3", "label_of", "services_of"]

SIGNERS = frozenset({"s3", "s3express", "s3-outposts", "s3-object-lambda"})
"""S3's names in signatures."""

_LABEL = re.compile(r"s3(?:-|$)|s3express-")
_CONTROL = re.compile(r"(?:.+\.)?(?:s3-control(?:-fips)?\.|control\.vpce-).+")


def label_of(host: str) -> int | None:
    """Return the index of the label that makes a host one of S3's; None if there is none."""
    found = [at for at, label in enumerate(host.split(".")) if _LABEL.match(label)]
    return found[-1] if found else None  # the last one: a bucket may be called "s3" as well


def is_s3(host: str) -> bool:
    """Return whether a host is one of S3's, by its name."""
    return label_of(host) is not None


def bucket_of(host: str) -> str | None:
    """Return the bucket or access point in a host's name; None if there is none."""
    at = label_of(host)
    if not at:
        return None
    labels = [unquote(label) for label in host.split(".")[:at]]
    if labels[-1].startswith("vpce-"):  # bucket.vpce-1a2b3c4d.s3, name.bucket.vpce-1a2b3c4d.s3
        labels = labels[:-2]
    return ".".join(labels) or None


def services_of(host: str, path: str) -> list[str]:
    """Return the services that a request to S3 may be for, the most likely first."""
    if _CONTROL.fullmatch(host):
        return ["s3control"]
    at = label_of(host)
    if at == 0 and host.startswith("s3-outposts"):
        # Two services share this host. The paths of one begin with the version of its API.
        return ["s3control" if path.startswith("/v2018") else "s3outposts"]
    return ["s3"]
