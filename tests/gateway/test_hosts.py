from __future__ import annotations

import re

import pytest
from botocore.exceptions import UnknownServiceError
from botocore.loaders import Loader

from aioapiqueue.gateway.aws_hosts import intercepted_domains, is_intercepted
from aioapiqueue.gateway.table import table

LOADER = Loader()
GIVEN = {"Region": "us-east-1", "bucketArn#region": "us-east-1"}


def templates(node):
    """Yield all URLs in the rules for the endpoints of a service."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name == "url" and isinstance(value, str):
                yield value
            else:
                yield from templates(value)
    elif isinstance(node, list):
        for value in node:
            yield from templates(value)


def hosts():
    """Yield every form of a host's name that botocore's rules have, in each partition."""
    for service in LOADER.list_available_services("service-2"):
        try:
            rules = LOADER.load_service_model(service, "endpoint-rule-set-1")
        except UnknownServiceError:
            continue
        for url in set(templates(rules)):
            name = url.partition("://")[2].partition("/")[0]
            if "url#" in name or name in {"", "localhost:8000"}:
                continue  # what the user has given
            for partition in table().partitions:
                for suffix in partition.suffixes:
                    whole = re.sub(r"\{\w*[pP]artition\w*#(dns|dualStackDns)Suffix\}", suffix, name)
                    whole = re.sub(r"\{([^}]*)\}", lambda found: GIVEN.get(found[1], "x"), whole)
                    yield service, whole.lower()


def test_every_endpoint_of_aws_is_opened():
    """Whatever name the rules give: with FIPS, dual stack, an account, a bucket, a partition."""
    found = set(hosts())
    closed = sorted(one for one in found if not is_intercepted(one[1]))
    assert closed == []
    assert len(found) > 3_000


@pytest.mark.parametrize(
    "host",
    [
        "ec2.eu-west-1.amazonaws.com",
        "vpce-1a2b-3c4d.ec2.eu-west-1.vpce.amazonaws.com",
        "vpce-1a2b-3c4d-eu-west-1a.sts.eu-west-1.vpce.amazonaws.com",
        "123456789012.ddb.eu-west-1.amazonaws.com",
        "some.bucket.s3.amazonaws.com",
        "foo.elb.s3.amazonaws.com",
        "foo.elb.s3.dualstack.us-east-1.amazonaws.com",
        "foo.eks.bucket.vpce-1a-2b.s3.us-east-1.vpce.amazonaws.com",
        "s3-us-west-2.amazonaws.com",
        "eu-west-1.queue.amazonaws.com",
        "rds.eu-west-1.amazonaws.com",
        "es.eu-west-1.amazonaws.com",
        "eks.eu-west-1.amazonaws.com",
        "api.ecr.eu-west-1.amazonaws.com",
        "novelties.eu-west-1.amazonaws.com",
        "novelties.eu-west-1.api.aws",
    ],
)
def test_names_that_rules_lack_are_opened(host):
    """Private endpoints, old names, and services that nobody knows yet."""
    assert is_intercepted(host)


@pytest.mark.parametrize(
    "host",
    [
        "example.com",
        "amazonaws.com.example.com",
        "notamazonaws.com",
        "api.github.com",
        "d111111abcdef8.cloudfront.net",
        "abc.lambda-url.eu-west-1.on.aws",
        "docs.aws.amazon.com",
        "checkip.amazonaws.com",
        "mydb.abc123.eu-west-1.rds.amazonaws.com",
        "0123456789ABCDEF.gr7.eu-west-1.eks.amazonaws.com",
        "123456789012.dkr.ecr.eu-west-1.amazonaws.com",
        "abc123.execute-api.eu-west-1.amazonaws.com",
        "my-lb-123.eu-west-1.elb.amazonaws.com",
        "ec2-1-2-3-4.eu-west-1.compute.amazonaws.com",
        "search-x-y.eu-west-1.es.amazonaws.com",
        "git-codecommit.eu-west-1.amazonaws.com",
        "some-bucket.s3-website-eu-west-1.amazonaws.com",
        "abc.credentials.iot.eu-west-1.amazonaws.com",
        "s3-gw-123.us-east-1.elb.amazonaws.com",
        "s3.abc123.us-east-1.rds.amazonaws.com",
        "s3-dom-123456789012.d.codeartifact.us-east-1.amazonaws.com",
        "ip-ranges.amazonaws.com",
        "abc.eks-cluster.us-east-1.api.aws",
    ],
)
def test_servers_of_others_are_not(host):
    """Hosts of others, and those in AWS's domains that are servers of customers."""
    assert not is_intercepted(host.lower())


def test_certificates_are_for_opened_domains_only():
    """The authority may certify the domains of all that is opened, and no others."""
    domains = set(intercepted_domains())
    assert {"amazonaws.com", "amazonaws.com.cn", "api.aws"} <= domains
    assert not domains & {"amazon.com", "aws", "com", "cn"}
    for _, host in set(hosts()):
        assert any(host.endswith(f".{domain}") for domain in domains)
