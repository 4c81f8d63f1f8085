"""Which service of AWS a host belongs to: the gateway and the hook in Python must agree on it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["labels_of"]


def labels_of(host: str) -> Sequence[str]:
    """Return the labels of a host that may name its service; "s3" alone for any of S3's hosts.

    Args:
        host: its name, in lower case and without a port.
    """
    labels = [label.removesuffix("-fips") for label in host.split(".")]
    # The other labels of such a host may be a bucket, whose name may be that of a service.
    if any(label == "s3" or label.startswith(("s3-", "s3express-")) for label in labels):
        return ("s3",)
    return labels
