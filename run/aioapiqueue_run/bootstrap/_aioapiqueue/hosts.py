"""The AWS service of a host: the gateway and the hook in Python must agree on it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["labels_of"]


def labels_of(host: str) -> Sequence[str]:
    """Return the labels of a host that may name its service; only "s3" for a host of S3.

    Args:
        host: its name, in lower case and without a port.
    """
    labels = [label.removesuffix("-fips") for label in host.split(".")]
    # Other labels of such a host may be the name of a bucket, which may equal that of a service.
    if any(label == "s3" or label.startswith(("s3-", "s3express-")) for label in labels):
        return ("s3",)
    return labels
