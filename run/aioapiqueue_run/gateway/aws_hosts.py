"""Which hosts of AWS can be intercepted: all but those that are known not to be an API of AWS.

A list of the APIs would miss calls to names that it lacks: private endpoints, access points,
`ACCOUNT.ddb.REGION`. So this is a list of exceptions.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from aioapiqueue_run.gateway.s3_hosts import label_of
from aioapiqueue_run.gateway.table import table

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["intercepted_domains", "is_intercepted"]

# Customers' own servers, and other protocols. None of them uses a quota of AWS's APIs, and most
# would fail if they were intercepted, because they use certificates or passwords of their own.
_FREE = (
    r"checkip|ip-ranges",
    r"awscli",  # downloads of the CLI
    r".+\.elb(\.[a-z0-9-]+)?",  # load balancers
    r".+\.compute(-1)?|.+\.[a-z0-9-]+\.compute",  # instances
    r".+\.rds|.+\.docdb|.+\.redshift|.+\.cache|.+\.memorydb|.+\.dax-clusters",  # databases
    r".+\.es|.+\.aoss",  # search domains and collections
    r".+\.eks|oidc\.eks\.[a-z0-9-]+",  # API servers of Kubernetes clusters
    r".+\.eks-cluster\.[a-z0-9-]+|oidc-eks\.[a-z0-9-]+",
    r".+\.airflow",
    r"ssmmessages\.[a-z0-9-]+|.+\.ec2-instance-connect-endpoint\.[a-z0-9-]+",  # sessions
    r".+\.execute-api\.[a-z0-9-]+(\.vpce)?",  # customers' APIs
    r".+\.appsync-(realtime-)?api\.[a-z0-9-]+",
    r".+\.dkr[.-]ecr(-fips)?\.[a-z0-9-]+",  # docker pull and push
    r"(.+\.)?git-codecommit(-fips)?\.[a-z0-9-]+(\.vpce)?",  # git
    r".+\.d\.codeartifact\.[a-z0-9-]+",  # pip, npm and others
    r".+\.credentials\.iot\.[a-z0-9-]+",  # needs a client certificate (mutual TLS)
    r".+\.s3-website[.-][a-z0-9-]+",  # web sites
    r"aps-workspaces\.[a-z0-9-]+",  # Prometheus reads and writes
)
_IS_FREE = re.compile("|".join(_FREE))
_LONGEST_NAME = 253  # RFC 1035

# A domain where most other hosts belong to customers.
_OTHER_DOMAIN = "on.aws"
_IS_OTHER = re.compile(r"(neptune-graph\.[a-z0-9-]+|.+\.osm\.[a-z0-9-]+)\.on\.aws")


def is_intercepted(host: str) -> bool:
    """Return whether a host is an API of AWS, so that requests to it can be intercepted.

    Args:
        host: the host's name, in lower case and without a port.
    """
    if len(host) > _LONGEST_NAME:
        return False
    suffix = table().suffix_of(host)
    if suffix is None:
        return _IS_OTHER.fullmatch(host) is not None
    name = host.removesuffix(f".{suffix}")
    at = label_of(name)
    if at is not None and "s3-website" not in name:
        # A bucket may be called "x.elb", like a host of `_FREE`, and a customer's load balancer
        # "s3-x". The labels after S3's tell them apart: they must be a Region, and nothing else.
        after = name.split(".")[at + 1 :]
        if all(label in {"dualstack", "vpce"} or table().is_region(label) for label in after):
            return True
    return not _IS_FREE.fullmatch(name)


def intercepted_domains() -> Iterable[str]:
    """Return the domains of all hosts that can be intercepted."""
    return sorted({*table().suffixes, _OTHER_DOMAIN})
