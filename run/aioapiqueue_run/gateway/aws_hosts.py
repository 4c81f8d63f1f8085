"""Reads the names of AWS's hosts: which of them are intercepted, and which are S3's.

All are intercepted but those that are known not to be an API of AWS. A list of the APIs would miss
calls to names that it lacks: private endpoints, access points, `ACCOUNT.ddb.REGION`.

A program that does not trust the run's authority fails at each intercepted host, so no host is
intercepted without need: not those that are known to belong to services without a limit.

The names of S3's hosts may contain a bucket, an access point or an account. Their forms are in
AWS's endpoint rules. Alternatively, the bucket is the first part of the path.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote

from aioapiqueue.registry.spi import is_host, plan_of
from aioapiqueue_run.gateway.table import table
from aioapiqueue_run.hub.spi import labels_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from aioapiqueue.registry import Registry
    from aioapiqueue_run.gateway.table import AwsService

__all__ = [
    "S3_SIGNERS",
    "bucket_of",
    "intercepted_domains",
    "is_intercepted",
    "label_of_s3",
    "labels_not_intercepted",
    "s3_services_of",
]

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

# Services that have hosts with the label of another service: they are intercepted together.
_TOGETHER = {
    "cloudsearchdomain": "cloudsearch",
    "geo-maps": "geo",
    "geo-places": "geo",
    "geo-routes": "geo",
    "greengrass": "iot",
    "greengrassv2": "iot",
    "pinpoint-sms-voice-v2": "pinpoint",
}

S3_SIGNERS = frozenset({"s3", "s3express", "s3-outposts", "s3-object-lambda"})
"""S3's names in signatures."""

_S3_LABEL = re.compile(r"s3(?:-|$)|s3express-")
_S3_CONTROL = re.compile(r"(?:.+\.)?(?:s3-control(?:-fips)?\.|control\.vpce-).+")


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
    at = label_of_s3(name)
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


def label_for(service: AwsService) -> str:
    """Return the label in the names of a service's hosts. Several services may share it.

    It is the last label of the endpoint's prefix, "iot" in "data.jobs.iot": before it, hosts of a
    single customer have other labels.
    """
    return _TOGETHER.get(service.name) or labels_of(service.prefix)[-1]


def labels_not_intercepted(registry: Registry) -> Sequence[str] | None:
    """Return the labels of AWS's hosts that are not intercepted; None if no host of AWS is.

    Args:
        registry: the limits.
    """
    services = table().by_name
    names = [name for name in {*services, *registry.services} if not is_host(name)]
    concerned = {name for name in names if _has_limits(registry, name)}
    if not concerned:
        return None
    intercepted = {label_for(service) for name, service in services.items() if name in concerned}
    return sorted({label_for(service) for service in services.values()} - intercepted)


def _has_limits(registry: Registry, name: str) -> bool:
    plan = plan_of(registry, name)
    if plan is None:
        return False
    limits = plan.limits
    own = limits.rate or limits.concurrency is not None or limits.adaptive is not None
    return bool(own or limits.buckets or any(limits.lanes.values()))


# S3.


def label_of_s3(host: str) -> int | None:
    """Return the index of the label that makes a host one of S3's; None if there is none."""
    found = [at for at, label in enumerate(host.split(".")) if _S3_LABEL.match(label)]
    return found[-1] if found else None  # the last one: a bucket may be called "s3" as well


def bucket_of(host: str) -> str | None:
    """Return the bucket or access point in a host's name; None if there is none."""
    at = label_of_s3(host)
    if not at:
        return None
    labels = [unquote(label) for label in host.split(".")[:at]]
    if labels[-1].startswith("vpce-"):  # bucket.vpce-1a2b3c4d.s3, name.bucket.vpce-1a2b3c4d.s3
        labels = labels[:-2]
    return ".".join(labels) or None


def s3_services_of(host: str, path: str) -> list[str]:
    """Return the services that a request to S3 may be for, the most likely first."""
    if _S3_CONTROL.fullmatch(host):
        return ["s3control"]
    at = label_of_s3(host)
    if at == 0 and host.startswith("s3-outposts"):
        # Two services share this host. The paths of one begin with the version of its API.
        return ["s3control" if path.startswith("/v2018") else "s3outposts"]
    return ["s3"]
